"""What looks wrong in annotations, found before any GPU is used."""
