"""Step plan: what the data and the machine decide, in one readable file per model."""
