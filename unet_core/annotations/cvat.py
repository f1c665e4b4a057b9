"""CVAT for images 1.1: one XML file for all images, with polygons, boxes, ellipses and masks; labels are the classes.

Images are found by their ``name``, whatever folder stands in it. Shapes of one label with the same ``group_id`` are
parts of one object; shapes are painted in the order of ``z_order``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

import numpy as np

from unet_core.annotations import raster
from unet_core.annotations.layer import (
    Found,
    Images,
    Layer,
    matched,
    modified,
    object_of,
    one_image_each,
    one_plane,
    stem_of,
)
from unet_core.annotations.parsed import number, read_xml
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("cvat", images)
    file = Path(path)
    return matched(file, images, set(_images(file, modified(file))))


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("cvat", file, shape)
        annotated = _images(file, modified(file))[image[0]]
        name = f"{file}: {annotated.get('name')}"
        said = tuple(
            int(number(annotated, key, name, pixels)) for key, pixels in zip(("height", "width"), size, strict=True)
        )
        if said != size:
            raise ValueError(f"{name} has {said[0]} x {said[1]} pixels there, but the image has {size[0]} x {size[1]}")
        # Tags describe the image as a whole.
        shapes = [(place, drawn) for place, drawn in enumerate(annotated, start=1) if drawn.tag != "tag"]
        shapes.sort(key=lambda item: number(item[1], "z_order", f"{name}, shape {item[0]}", 0))
        objects: dict[tuple[str, str], list[np.ndarray]] = {}
        for place, drawn in shapes:
            label, group = drawn.get("label", ""), drawn.get("group_id", "0")
            position = _pixels(drawn, size, f"{name}, shape {place} ({drawn.tag} {label})")
            objects.setdefault((label, f"group {group}" if group != "0" else f"shape {place}"), []).append(position)
        for (label, group), parts in objects.items():
            yield object_of(np.unique(np.concatenate(parts)), label or None, group)


def content(files: tuple[Path, ...], image: tuple[str, int | None]) -> list[str]:
    """What of the files concerns one image: what its digest is made of."""
    found = [_images(file, modified(file))[image[0]] for file in files]
    # The number of the image moves with the others.
    return [
        "".join(
            [*(f"{key}={one.get(key)} " for key in ("width", "height")), *(tostring(drawn, "unicode") for drawn in one)]
        )
        for one in found
    ]


def _pixels(drawn: Element, size: tuple[int, int], where: str) -> np.ndarray:
    value = functools.partial(number, drawn, where=where)
    if drawn.tag == "polygon":
        try:
            points = [[float(part) for part in pair.split(",")] for pair in drawn.get("points", "").split(";")]
        except ValueError:
            raise ValueError(f"{where}: points must be written as x,y;x,y;...") from None
        return raster.polygon([points], size, where)
    if drawn.tag == "box":
        ring = raster.box((value("xtl"), value("ytl")), (value("xbr"), value("ybr")))
        return raster.polygon([raster.rotate(ring, value("rotation", default=0))], size, where)
    if drawn.tag == "ellipse":
        return raster.ellipse(
            (value("cx"), value("cy")), (value("rx"), value("ry")), value("rotation", default=0), size, where
        )
    if drawn.tag == "mask":
        return _mask(drawn, size, where)
    raise ValueError(f"{where}: no area; supported are polygon, box, ellipse and mask")


def _mask(drawn: Element, size: tuple[int, int], where: str) -> np.ndarray:
    """Positions of a mask, which CVAT stores as run-lengths along the rows of a part of the image.

    The first run lies outside of the object.
    """
    left, top, width, height = (int(number(drawn, key, where)) for key in ("left", "top", "width", "height"))
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"{where}: leaves the image of {size[0]} x {size[1]} pixels")
    try:
        counts = np.array([int(part) for part in drawn.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: rle must be whole numbers, as in 3, 10, 2") from None
    inside = raster.decode_alternating(counts, (height, width), where)
    return (inside // width + top) * size[1] + inside % width + left


@functools.lru_cache(maxsize=4)
def _images(file: Path, mtime_ns: int) -> dict[str, Element]:
    """Elements of the images by their file name without its ending."""
    root = read_xml(file, "CVAT")
    if root.tag != "annotations":
        raise ValueError(f"{file}: is no CVAT file (its root is {root.tag}, and not annotations)")
    if root.find("track") is not None:
        raise ValueError(f"{file}: holds tracks of a video; export it from CVAT as 'CVAT for images 1.1'")
    found: dict[str, Element] = {}
    for element in root.iter("image"):
        stem = stem_of(element.get("name", ""))
        if not stem:
            raise ValueError(f"{file}: an image has no name")
        if stem in found:
            raise ValueError(f"{file}: two images have the name {stem!r}; make each folder a data set of its own")
        found[stem] = element
    return found
