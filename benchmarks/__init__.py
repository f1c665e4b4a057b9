"""Measurements of speed and memory, one module each: ``python -m benchmarks`` lists them."""
