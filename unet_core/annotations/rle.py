"""Tables of run-lengths, as Kaggle has them: one row ``ImageId,EncodedPixels`` per object.

Runs count from 1 and go down the columns, or along the rows, as the key ``runs`` of the source says. By itself they go
along the rows where a table has the columns ``annotation``, ``width`` and ``height``, as that of the Sartorius
challenge. A column ``ClassId`` holds the classes.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.annotations import raster
from unet_core.annotations.drawn import Drawn
from unet_core.annotations.layer import Found, Image, Images, Layer, Told, modified, object_of, one_image_each
from unet_core.annotations.names import Names, parts_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

COLUMNS = ("ImageId", "EncodedPixels")
# Other names of columns, in lower case: the image, its runs, the class of the object, and the size of the image.
IMAGE, RUNS = ("imageid", "image_id", "id"), ("encodedpixels", "rle", "encoding", "annotation")
CLASS, HEIGHT, WIDTH = ("classid", "class_id"), ("height", "img_height"), ("width", "img_width")


class _Row(NamedTuple):
    """An object: number of its line, runs, class, and height and width of the image as the table has them.

    Runs are None where the line ends before them.
    """

    line: int
    runs: str | None
    class_name: str | None
    size: tuple[str | None, str | None]


class _Table(NamedTuple):
    """Objects by the position of their image in `names`; an image without any is annotated and empty."""

    names: Names
    objects: list[list[_Row]]
    along_rows: bool


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    table = Path(path)
    one_image_each("rle", images)
    return _rows(table, modified(table)).names.match(images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        table = _rows(file, modified(file))
        along_rows = table.along_rows if source.runs is None else source.runs == "rows"
        drawn = Drawn(source, shape[1:], f"{file}: {image.stem}")
        for row in table.objects[table.names.of(image)]:
            where = f"{file}, line {row.line}"
            with drawn.object():
                if row.runs is None:
                    raise ValueError(f"{where}: ends before the run-lengths; is the file complete?")
                _check_size(row, shape, where)
                yield object_of(decode(row.runs, shape, where, along_rows), row.class_name, f"line {row.line}")
        yield from drawn.told()


def content(files: tuple[Path, ...], image: Image) -> list[object]:
    """The rows of one image: what its digest is made of, so that other rows of the table do not touch it."""
    parts: list[object] = []
    for file in files:
        table = _rows(file, modified(file))
        for row in table.objects[table.names.of(image)]:
            more = [row.class_name, *row.size, table.along_rows]
            parts.append([row.runs, more] if any(more) else row.runs)
    return parts


def decode(runs: str, shape: ZYX, where: str, along_rows: bool = False) -> np.ndarray:
    """Flat C-order positions of a run-length string, which counts from 1.

    Parameters
    ----------
    runs : str
        Start and length of each run.
    shape : tuple of int
        Shape of the image along z, y, x.
    where : str
        Names file and line in errors.
    along_rows : bool
        Whether positions count along the rows, and not down the columns.

    Returns
    -------
    ndarray of int64
        Sorted, each position once.

    Examples
    --------
    >>> decode("1 2 6 1", (1, 3, 2), "example")
    array([0, 2, 5])
    >>> decode("1 2 6 1", (1, 3, 2), "example", along_rows=True)
    array([0, 1, 5])

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
            f"{'along the rows' if along_rows else 'down the columns'})"
        )
    position = raster.expand_runs(starts, lengths)
    return np.unique(position) if along_rows else raster.transpose_positions(position, (height, width))


def _check_size(row: _Row, shape: ZYX, where: str) -> None:
    """Raise ValueError where the table has another size than the image."""
    for said, name, pixels in zip(row.size, ("height", "width"), shape[1:], strict=True):
        if said is not None and said.strip():
            try:
                fits = float(said) == pixels
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{where}: {name} is {said}, but the image has {shape[1]} x {shape[2]} pixels")


@functools.lru_cache(maxsize=4)
def _rows(table: Path, mtime_ns: int) -> _Table:
    """Objects of each image; an empty cell makes an image annotated and empty."""
    objects: dict[tuple[str, ...], list[_Row]] = {}
    names: dict[tuple[str, ...], str] = {}
    csv.field_size_limit(2**31 - 1)  # one large object is more than Python's limit of 128 KiB
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            image, runs, class_, height, width = (
                _one_of(columns, some) for some in (IMAGE, RUNS, CLASS, HEIGHT, WIDTH)
            )
            if image and runs:
                for row in reader:
                    name = (row[image] or "").strip()
                    own = objects.setdefault(parts_of(name), [])
                    names.setdefault(parts_of(name), name)
                    if row[runs] is None or row[runs].strip():
                        named = (row[class_] or "").strip() if class_ else ""
                        size = (row[height] if height else None, row[width] if width else None)
                        own.append(_Row(reader.line_num, row[runs], named or None, size))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: cannot be read as a table in UTF-8 ({error})") from None
    if not (image and runs):
        raise ValueError(
            f"{table}: needs the columns {', '.join(COLUMNS)} (or id, and rle, encoding or annotation); "
            f"it has {', '.join(columns) or 'none'}"
        )
    return _Table(
        Names(names.values(), table), [*objects.values()], bool(runs.lower() == "annotation" and height and width)
    )


def _one_of(columns: list[str], names: tuple[str, ...]) -> str | None:
    """The first of some names that a table has among its columns, as it writes it."""
    return next((column for name in names for column in columns if column.strip().lower() == name), None)
