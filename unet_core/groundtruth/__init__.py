"""Step groundtruth: images and annotations of a data set become one store."""
