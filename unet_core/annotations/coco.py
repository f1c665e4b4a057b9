"""COCO: one JSON file for all images, with polygons or run-lengths; ``iscrowd`` marks areas to ignore.

Images are found by their ``file_name``, whatever folder stands in it; the names of the categories are the classes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.annotations import raster
from unet_core.annotations.layer import (
    Found,
    Images,
    Layer,
    as_ignored,
    matched,
    modified,
    object_of,
    one_image_each,
    one_plane,
    stem_of,
)
from unet_core.annotations.parsed import Record, read_json
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation


class _Runs(Record):
    size: tuple[int, int]
    counts: list[int] | str


class _Object(Record):
    id: int | str = ""
    image_id: int | str
    category_id: int | str | None = None
    segmentation: list[list[float]] | _Runs | None = None
    iscrowd: int = 0


class _Image(Record):
    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class _Category(Record):
    id: int | str
    name: str


class _Document(Record):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category] = []


class _Annotated(NamedTuple):
    """An image with its objects and the names of their classes."""

    image: _Image
    objects: list[tuple[_Object, str | None]]


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("coco", images)
    file = Path(path)
    return matched(file, images, set(_images(file, modified(file))))


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("coco", file, shape)
        known, objects = _images(file, modified(file))[image[0]]
        if (known.height or size[0], known.width or size[1]) != size:
            raise ValueError(
                f"{file}: {known.file_name} has {known.height} x {known.width} pixels there, but the image has {size}"
            )
        for drawn, name in objects:
            position = _pixels(drawn.segmentation, size, f"{file}: annotation {drawn.id}")
            yield as_ignored(position) if drawn.iscrowd else object_of(position, name, f"annotation {drawn.id}")


def content(files: tuple[Path, ...], image: tuple[str, int | None]) -> list[object]:
    """What of the files concerns one image: what its digest is made of."""
    parts = [_images(file, modified(file))[image[0]] for file in files]
    return [
        [known.height, known.width, [(drawn.model_dump_json(), name) for drawn, name in objects]]
        for known, objects in parts
    ]


def counts_of(text: str, where: str) -> list[int]:
    """Run-lengths of COCO's compressed form: five bits to a character.

    From the third on, a run-length is stored as its difference to the last but one.

    Examples
    --------
    >>> counts_of("52203", "example")
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{where}: {character!r} in the compressed run-lengths has no meaning")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError(f"{where}: the compressed run-lengths are cut short")
    return counts


def _pixels(segmentation: list[list[float]] | _Runs | None, size: tuple[int, int], where: str) -> np.ndarray:
    """Positions of an object: the union of its polygons, or its run-lengths, which go down the columns."""
    if isinstance(segmentation, _Runs):
        if segmentation.size != size:
            raise ValueError(f"{where}: run-lengths for {segmentation.size} pixels, but the image has {size}")
        counts = segmentation.counts if isinstance(segmentation.counts, list) else counts_of(segmentation.counts, where)
        return raster.transpose_positions(raster.decode_alternating(counts, size, where), size)
    if not segmentation:
        raise ValueError(f"{where}: has no segmentation (a bounding box alone says nothing about pixels)")
    if any(len(ring) % 2 for ring in segmentation):
        raise ValueError(f"{where}: a polygon must be a list x, y, x, y, ...")
    return raster.polygons([[np.reshape(ring, (-1, 2))] for ring in segmentation], size, where)


@functools.lru_cache(maxsize=4)
def _images(file: Path, mtime_ns: int) -> dict[str, _Annotated]:
    """Objects by the image's file name without its ending."""
    document = read_json(file, _Document, "COCO")
    names = {category.id: category.name for category in document.categories}
    by_id: dict[int | str, _Annotated] = {}
    by_stem: dict[str, _Annotated] = {}
    for image in document.images:
        stem = stem_of(image.file_name)
        if image.id in by_id or stem in by_stem:
            raise ValueError(
                f"{file}: two images have the name {stem!r} or the id {image.id}; "
                "make each folder a data set of its own"
            )
        by_id[image.id] = by_stem[stem] = _Annotated(image, [])
    for drawn in document.annotations:
        if drawn.image_id not in by_id:
            raise ValueError(
                f"{file}: annotation {drawn.id} is of image {drawn.image_id}, which is not among the images"
            )
        if drawn.category_id is not None and drawn.category_id not in names:
            raise ValueError(
                f"{file}: annotation {drawn.id} is of category {drawn.category_id}, which is not among the categories"
            )
        by_id[drawn.image_id].objects.append(
            (drawn, names.get(drawn.category_id) if drawn.category_id is not None else None)
        )
    return by_stem
