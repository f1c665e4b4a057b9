"""Ultralytics YOLO: a text file per image, a line ``class x1 y1 x2 y2 ...`` per object.

Coordinates are fractions of the image's width and height. The number of the class is what the annotation calls the
class, so that the key ``classes`` of the source gives it a name, as in ``{"0": cell}``. A file without lines says that
the image has no objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations import labels, raster
from unet_core.annotations.drawn import Drawn
from unet_core.annotations.layer import Found, Image, Images, Layer, Told, object_of, one_image_each, one_plane
from unet_core.annotations.parsed import read_bytes
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

# Numbers of the line of a box: its class, centre, width and height.
BOX = 5
# Points may lie a little beyond the image; in pixels they would lie far beyond.
FAR = 2
# Fractions are written with some digits: points are moved to the nearest of so many steps in a pixel, so that those
# which were whole pixels are so again.
STEPS = 256
# Names of classes, which some tools write beside the files of the images.
CLASSES = "classes.txt"


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("yolo", images)
    found, strangers = labels.find(path, images)
    return found, [file for file in strangers if Path(file).name != CLASSES]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("yolo", file, shape)
        try:
            lines = read_bytes(file).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: is no text in UTF-8 ({error})") from None
        drawn = Drawn(source, size, str(file))
        for number, line in enumerate(lines, start=1):
            if line.strip():
                with drawn.object():
                    name, points = _object(line, f"{file}: line {number}")
                    pixels = np.rint(points * (size[1], size[0]) * STEPS) / STEPS
                    position = raster.polygon([pixels], size, f"{file}: line {number}")
                    yield object_of(position, name, f"line {number}")
        yield from drawn.told()


def _object(line: str, where: str) -> tuple[str, np.ndarray]:
    """Class and points of an object, these as fractions."""
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        raise ValueError(f"{where}: must hold numbers, as in '0 0.1 0.1 0.3 0.1 0.2 0.4' (is: {line[:50]!r})") from None
    if len(numbers) == BOX:
        raise ValueError(f"{where}: is a box, which says nothing about pixels; polygons are needed (YOLO segmentation)")
    if len(numbers) % 2 == 0 or len(numbers) < 7:
        raise ValueError(f"{where}: must be a class and at least three points x y; there are {len(numbers)} numbers")
    if not (np.abs(numbers) < 2**31).all() or numbers[0] % 1 or numbers[0] < 0:
        raise ValueError(f"{where}: must begin with the number of a class, and its coordinates must be finite")
    points = np.array(numbers[1:]).reshape(-1, 2)
    if points.min() < -FAR or points.max() > FAR:
        raise ValueError(
            f"{where}: has coordinates from {points.min():g} to {points.max():g}, but they must be fractions of the "
            "image's width and height; divide pixels by these"
        )
    return str(int(numbers[0])), points
