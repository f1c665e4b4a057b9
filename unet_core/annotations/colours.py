"""Masks of classes, by colour or gray value: each connected part (over faces) of one colour is an object of its class.

The key ``classes`` of the source is the table of colours, as in ``{"#ff0000": nucleus, "#808080": ignore}``; gray
values stand there as numbers, ``{"1": nucleus}``. Black and 0 are background unless the table says otherwise, as in
``{"0": ignore}`` where only some pixels were painted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Image, Layer, as_labels, gray_of, layer_of, opened_view
from unet_core.annotations.matching import one_file_each as find
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

__all__ = ["find", "read"]

# Background, classes and what is to be ignored.
MAX_COLOURS = 256


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer for each class; see `unet_core.annotations`."""
    for file in files:
        values, called = _values(file, image, shape, set(source.classes))
        yield from classes_of(values, set(source.classes), str(file), called, source.connectivity)


def classes_of(
    values: np.ndarray, named: set[str], where: str, called: Callable[[int], str] = str, connectivity: int = 4
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
    called : callable
        How a value is written.
    connectivity : {4, 6, 8, 26}
        4 or 6: parts are connected over faces; else over corners too.

    Raises
    ------
    ValueError
        If there are more values than a data set may have classes.
    """
    import cc3d

    present = np.unique(values).tolist()
    if len(present) > MAX_COLOURS:
        raise ValueError(
            f"{where}: has {len(present)} colours or values, but a mask of classes has few; was it smoothed or scaled?"
        )
    for value in present:
        name = called(value)
        if value or name in named:
            parts = cc3d.connected_components(values == value, connectivity=6 if connectivity < 8 else 26)
            yield layer_of(np.asarray(parts, np.uint32))._replace(class_name=name)


def _values(file: Path, image: Image, shape: ZYX, named: set[str]) -> tuple[np.ndarray, Callable[[int], str]]:
    """Value of each pixel, and how it is written in the table of colours.

    Of images with a palette, colours where the table has colours, else the numbers in the palette.
    """
    by_colour = any(name.startswith("#") for name in named)
    with opened_view(file, image, shape, stored=not by_colour) as opened:
        z, y, x = (slice(0, n) for n in shape)
        values = opened[z, y, x]
        # Gray saved as RGB is gray where the table has numbers; where it has colours, gray is a colour.
        if len(values) < 3 or not (by_colour or (values[:1] != values[:3]).any()):
            gray = gray_of(values, opened, file)
            is_colour = by_colour and gray.dtype == np.uint8
            return as_labels(gray, file)[0], lambda value: _gray(value, named) if is_colour else str(value)
    if values.dtype != np.uint8:
        raise ValueError(f"{file}: its colours are {values.dtype}; colours are uint8: save it with 8 bits per channel")
    red, green, blue = values[:3].astype(np.uint32)
    return (red << 16) + (green << 8) + blue, "#{:06x}".format


def _gray(value: int, named: set[str]) -> str:
    """A gray value as a colour, unless the table has its number."""
    return str(value) if str(value) in named else f"#{value:02x}{value:02x}{value:02x}"
