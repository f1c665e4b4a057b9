"""Step train: a model from plan, images, targets and border terms."""
