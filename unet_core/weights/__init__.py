"""Step weights: labels become targets and the border term of the weight map."""
