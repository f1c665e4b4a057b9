"""Annotation formats, a module for each way to read them, all with the same two functions.

`unet_core.config.formats` says which formats there are, and which module reads each.

``find(path, images)``
    From names alone: which files annotate which image. `images` are (stem, time point) pairs; returns the files by
    position in that list, and the names of annotations that belong to no image.
``read(files, image, shape, source)``
    The annotation of one image, as an iterator of `Layer`, and of `Told` where the check should warn of something.

Formats with the annotations of many images in one file have a third:

``content(files, image)``
    What of the files concerns one image, as values for its digest, so that other images' annotations do not touch it.
"""
