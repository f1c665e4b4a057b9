"""Look at results: images, annotations, objects, probabilities and errors as layers of napari."""
