"""Kaggle's run-length table: one row ``ImageId,EncodedPixels`` per object.

Runs go down the columns, and positions count from 1.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations import raster
from unet_core.annotations.layer import Found, Images, Layer, matched, modified, object_of, one_image_each, stem_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

COLUMNS = ("ImageId", "EncodedPixels")


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    table = Path(path)
    one_image_each("rle", images)
    return matched(table, images, set(_rows(table, modified(table))))


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for table in files:
        for line, runs in _rows(table, modified(table))[image[0]]:
            yield object_of(decode(runs, shape, f"{table}, line {line}"), name=f"line {line}")


def content(files: tuple[Path, ...], image: tuple[str, int | None]) -> list[str]:
    """The rows of one image: what its digest is made of, so that other rows of the table do not touch it."""
    return [runs for table in files for _, runs in _rows(table, modified(table))[image[0]]]


def decode(runs: str, shape: ZYX, where: str) -> np.ndarray:
    """Flat C-order positions of a run-length string, which counts from 1 down the columns.

    Examples
    --------
    >>> decode("1 2 6 1", (1, 3, 2), "example")
    array([0, 2, 5])

    Raises
    ------
    ValueError
        If the runs are no pairs of whole numbers or leave the image.
    """
    try:
        numbers = np.array([int(word) for word in runs.split()], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{where}: EncodedPixels must be whole numbers, as in '1 3 10 2' (is: {runs[:50]!r})"
        ) from None
    if numbers.size % 2:
        raise ValueError(f"{where}: EncodedPixels must be pairs of start and length; there are {numbers.size} numbers")
    if shape[0] != 1:
        raise ValueError(f"{where}: run-lengths are for 2D images, but the image has {shape[0]} planes")
    _, height, width = shape
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    outside = (starts < 0) | (starts >= height * width) | (lengths < 1) | (lengths > height * width - starts)
    if outside.any():
        start, length = numbers.reshape(-1, 2)[outside.argmax()]
        raise ValueError(
            f"{where}: the run '{start} {length}' leaves the image of {height} x {width} pixels (runs count from 1, "
            "down the columns)"
        )
    return raster.transpose_positions(raster.expand_runs(starts, lengths), (height, width))


@functools.lru_cache(maxsize=4)
def _rows(table: Path, mtime_ns: int) -> dict[str, list[tuple[int, str]]]:
    """Line number and runs of each object, by image; an empty cell makes an image annotated and empty."""
    rows: dict[str, list[tuple[int, str]]] = {}
    csv.field_size_limit(2**31 - 1)  # one large object is more than Python's limit of 128 KiB
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            if set(COLUMNS) <= set(columns):
                for row in reader:
                    objects = rows.setdefault(stem_of((row["ImageId"] or "").strip()), [])
                    if (row["EncodedPixels"] or "").strip():
                        objects.append((reader.line_num, row["EncodedPixels"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: cannot be read as a table in UTF-8 ({error})") from None
    if not set(COLUMNS) <= set(columns):
        raise ValueError(f"{table}: needs the columns {', '.join(COLUMNS)}; it has {', '.join(columns) or 'none'}")
    return rows
