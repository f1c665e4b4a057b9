"""Step instances: probabilities become objects, unique in each sample whatever its blocks."""
