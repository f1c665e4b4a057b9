"""Masks of classes, by colour or gray value: each connected part (over faces) of one colour is an object of its class.

The key ``classes`` of the source is the table of colours, as in ``{"#ff0000": nucleus, "#808080": ignore}``; gray
values stand there as numbers, ``{"1": nucleus}``. Black and 0 are background unless the table says otherwise, as in
``{"0": ignore}`` where only some pixels were painted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cc3d
import numpy as np

from unet_core.annotations.layer import Image, Layer, as_labels, layer_of, read_volume
from unet_core.annotations.matching import one_file_each as find
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.images.readers import open_image, split_internal

__all__ = ["find", "read"]

# Background, classes and what is to be ignored.
MAX_COLOURS = 256


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer for each class; see `unet_core.annotations`."""
    keys = {key.lower(): key for key in source.classes}
    by_colour = any(key.startswith("#") for key in keys)
    for file in files:
        values, is_rgb = _values(file, image, shape, by_colour)
        for layer in classes_of(values, set(keys), str(file), "#{:06x}" if is_rgb else "{}", source.connectivity):
            # The class as the table writes it, which may be in capitals.
            yield layer._replace(class_name=keys.get(layer.class_name or "", layer.class_name))


def classes_of(
    values: np.ndarray, named: set[str], where: str, form: str = "{}", connectivity: int = 4
) -> Iterator[Layer]:
    """A layer of connected parts for each value, whose class is the value as text.

    Parameters
    ----------
    values : ndarray of uint32, shape (z, y, x)
        Classes.
    named : set of str
        Values that mean something; 0 is background unless it is among them.
    where : str
        Names the file in errors.
    form : str
        How a value is written.
    connectivity : {4, 6, 8, 26}
        4 or 6: parts are connected over faces; else over corners too.

    Raises
    ------
    ValueError
        If there are more values than a data set may have classes.
    """
    present = np.unique(values).tolist()
    if len(present) > MAX_COLOURS:
        raise ValueError(
            f"{where}: has {len(present)} colours or values, but a mask of classes has few; was it smoothed or scaled?"
        )
    for value in present:
        name = form.format(value)
        if value or name in named:
            parts = cc3d.connected_components(values == value, connectivity=6 if connectivity < 8 else 26)
            yield layer_of(np.asarray(parts, np.uint32))._replace(class_name=name)


def _values(file: Path, image: Image, shape: ZYX, by_colour: bool) -> tuple[np.ndarray, bool]:
    """Value of each pixel, and whether it is a colour.

    Of images with a palette, colours where the table has colours, else the numbers in the palette.
    """
    with open_image(*split_internal(str(file)), stored=not by_colour) as opened:
        is_rgb = (
            image.time is None
            and shape[0] == 1
            and len(opened.shape) == 3
            and opened.shape[2] in (3, 4)
            and opened.shape != shape
        )
        if not is_rgb:
            return as_labels(read_volume(file, image, shape), file)[0], False
        if opened.shape[:2] != shape[1:] or opened.dtype != np.uint8:
            raise ValueError(
                f"{file}: mask has shape {opened.shape} of {opened.dtype}, but its image has {shape[1:]}; "
                "colours are uint8"
            )
        rgb = opened[...].astype(np.uint32)
    return ((rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]).reshape(shape), True
