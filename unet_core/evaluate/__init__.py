"""Step evaluate: scores of objects against annotations."""
