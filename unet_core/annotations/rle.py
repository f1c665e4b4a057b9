"""Kaggle's run-length table: one row ``ImageId,EncodedPixels`` per object; runs go down the columns and count from 1."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import NOTHING, Found, Images, Layer
from unet_core.blocks import ZYX
from unet_core.config import Annotation

COLUMNS = ("ImageId", "EncodedPixels")


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    table = Path(path)
    if not table.is_file():
        raise ValueError(f"no table {table}")
    rows = _rows(table, table.stat().st_mtime_ns)
    stems = {stem for stem, _ in images}
    found = {position: (table,) for position, (stem, _) in enumerate(images) if stem in rows}
    return found, sorted(set(rows) - stems)


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for table in files:
        for line, runs in _rows(table, table.stat().st_mtime_ns)[image[0]]:
            position = decode(runs, shape, f"{table}, line {line}")
            yield Layer(position, np.ones(position.size, np.uint32), NOTHING)


def content(files: tuple[Path, ...], image: tuple[str, int | None]) -> list[str]:
    """The rows of one image: what its digest is made of, so that other rows of the table do not touch it."""
    return [runs for table in files for _, runs in _rows(table, table.stat().st_mtime_ns)[image[0]]]


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
    except ValueError:
        raise ValueError(f"{where}: EncodedPixels must be whole numbers") from None
    if numbers.size % 2:
        raise ValueError(f"{where}: EncodedPixels must be pairs of start and length; there are {numbers.size} numbers")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    _, height, width = shape
    if shape[0] != 1:
        raise ValueError(f"{where}: run-lengths are for 2D images, but the image has {shape[0]} planes")
    if numbers.size and (starts.min() < 0 or lengths.min() < 1 or (starts + lengths).max() > height * width):
        raise ValueError(f"{where}: a run leaves the image of {height} x {width} pixels")
    down = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    return np.unique(down % height * width + down // height)


@functools.lru_cache(maxsize=4)
def _rows(table: Path, mtime_ns: int) -> dict[str, list[tuple[int, str]]]:
    """Line number and runs of each object, by image; an empty cell makes an image annotated and empty."""
    rows: dict[str, list[tuple[int, str]]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or []):
            raise ValueError(f"{table}: needs the columns {', '.join(COLUMNS)}; it has {', '.join(reader.fieldnames or []) or 'none'}")
        for row in reader:
            objects = rows.setdefault(Path(row["ImageId"]).stem, [])
            if (row["EncodedPixels"] or "").strip():
                objects.append((reader.line_num, row["EncodedPixels"]))
    return rows
