"""Step predict: class probabilities, block by block, with the overlap-tile strategy."""
