"""CVAT for images 1.1: one XML file for all images, with polygons, boxes, ellipses and masks; labels are the classes.

Images are found by their ``name``, and by its folders where several have the same. Shapes of one label with the
same ``group_id`` are parts of one object; shapes are painted in the order of ``z_order``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, tostring

import numpy as np

from unet_core.annotations import raster
from unet_core.annotations.drawn import Drawn, complete
from unet_core.annotations.layer import (
    Found,
    Image,
    Images,
    Layer,
    Told,
    modified,
    object_of,
    one_image_each,
    one_plane,
)
from unet_core.annotations.names import Names
from unet_core.annotations.parsed import number, read_xml
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation


class _File(NamedTuple):
    """Elements of the images of a file, and their names."""

    images: list[Element]
    names: Names


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("cvat", images)
    file = Path(path)
    return _images(file, modified(file)).names.match(images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("cvat", file, shape)
        annotated = _image(file, image)
        name = f"{file}: {annotated.get('name')}"
        said = tuple(
            int(number(annotated, key, name, pixels)) for key, pixels in zip(("height", "width"), size, strict=True)
        )
        if said != size:
            raise ValueError(f"{name} has {said[0]} x {said[1]} pixels there, but the image has {size[0]} x {size[1]}")
        drawn = Drawn(source, size, name)
        objects: dict[tuple[str, str], list[np.ndarray | None]] = {}
        for place, element in _shapes(annotated):
            label, group = element.get("label", ""), element.get("group_id", "0")
            with drawn.object():
                parts = objects.setdefault((label, f"group {group}" if group != "0" else f"shape {place}"), [])
                parts.append(None)  # an object of which a part cannot be read is left out as a whole
                number(element, "z_order", f"{name}, shape {place}", 0)
                parts[-1] = _pixels(element, size, f"{name}, shape {place} ({element.tag} {label})", drawn)
        for (label, group), parts in objects.items():
            if whole := complete(parts):
                yield object_of(np.unique(np.concatenate(whole)), label or None, group)
        yield from drawn.told()


def _shapes(annotated: Element) -> list[tuple[int, Element]]:
    """The shapes of an image by their place in the file, from 1, in the order in which they are painted."""
    # Tags describe the image as a whole.
    shapes = [(place, element) for place, element in enumerate(annotated, start=1) if element.tag != "tag"]

    def order(item: tuple[int, Element]) -> float:
        try:
            return number(item[1], "z_order", "", 0)
        except ValueError:  # told when it is read
            return 0.0

    return sorted(shapes, key=order)


def content(files: tuple[Path, ...], image: Image) -> list[str]:
    """What of the files concerns one image: what its digest is made of."""
    found = [_image(file, image) for file in files]
    # The number of the image moves with the others.
    return [
        "".join(
            [*(f"{key}={one.get(key)} " for key in ("width", "height")), *(tostring(drawn, "unicode") for drawn in one)]
        )
        for one in found
    ]


def _pixels(element: Element, size: tuple[int, int], where: str, drawn: Drawn) -> np.ndarray:
    value = functools.partial(number, element, where=where)
    if element.tag == "polygon":
        try:
            points = [[float(part) for part in pair.split(",")] for pair in element.get("points", "").split(";")]
        except ValueError:
            raise ValueError(f"{where}: points must be written as x,y;x,y;...") from None
        if all(len(point) == 2 for point in points):
            drawn.saw(points)
        return raster.polygon([points], size, where)
    if element.tag == "box":
        ring = raster.box((value("xtl"), value("ytl")), (value("xbr"), value("ybr")))
        drawn.saw(ring)
        return raster.polygon([raster.rotate(ring, value("rotation", default=0))], size, where)
    if element.tag == "ellipse":
        centre, radii = (value("cx"), value("cy")), (value("rx"), value("ry"))
        drawn.saw([centre, radii])
        return raster.ellipse(centre, radii, value("rotation", default=0), size, where)
    if element.tag == "mask":
        return _mask(element, size, where)
    raise ValueError(f"{where}: no area; supported are polygon, box, ellipse and mask")


def _mask(element: Element, size: tuple[int, int], where: str) -> np.ndarray:
    """Positions of a mask, which CVAT stores as run-lengths along the rows of a part of the image.

    The first run lies outside of the object.
    """
    left, top, width, height = (int(number(element, key, where)) for key in ("left", "top", "width", "height"))
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"{where}: leaves the image of {size[0]} x {size[1]} pixels")
    try:
        counts = np.array([int(part) for part in element.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: rle must be whole numbers, as in 3, 10, 2") from None
    inside = raster.decode_alternating(counts, (height, width), where)
    return (inside // width + top) * size[1] + inside % width + left


def _image(file: Path, image: Image) -> Element:
    """Element of an image."""
    known = _images(file, modified(file))
    return known.images[known.names.of(image)]


@functools.lru_cache(maxsize=4)
def _images(file: Path, mtime_ns: int) -> _File:
    """Elements of the images, and their names."""
    root = read_xml(file, "CVAT")
    if root.tag != "annotations":
        raise ValueError(f"{file}: is no CVAT file (its root is {root.tag}, and not annotations)")
    if root.find("track") is not None:
        raise ValueError(f"{file}: holds tracks of a video; export it from CVAT as 'CVAT for images 1.1'")
    images = [*root.iter("image")]
    if not all(element.get("name") for element in images):
        raise ValueError(f"{file}: an image has no name")
    return _File(images, Names((element.get("name", "") for element in images), file))
