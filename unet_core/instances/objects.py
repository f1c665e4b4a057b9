"""Tables of objects, put together from the measurements of blocks and written part by part, as CSV and as Parquet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from unet_core.blocks import ZYX
from unet_core.files import naming
from unet_core.instances.run_lengths import Measures
from unet_core.runtime import UserError
from unet_core.store.result import repair
from unet_core.store.shards import checksum
from unet_core.store.store import read_attributes

POSITIONS = ("z", "y", "x")
SUFFIXES = (".csv", ".parquet")
# Objects that are put together at once, in memory: a few hundred bytes for each block that one reaches into.
OBJECTS_PER_FILE = 2**13
# The last column that is there whatever `instances.measure` says.
LAST_COLUMN = "border"
# Digits that numbers of measures are rounded to.
DIGITS = 10


def check_table(path: Path) -> Path:
    """The path of a sample's table of objects, if the file is what the step wrote.

    Raises
    ------
    UserError
        If it is missing or damaged. Tables of former versions have no checksum.
    """
    sample = path.name.removesuffix(path.suffix)
    store = path.parent.with_name(f"{path.parent.name}.zarr")
    known = read_attributes(store / sample).get("details", {}).get("files", {})
    if not path.is_file():
        raise UserError(f"{path} is missing; {repair(store / sample)}")
    wanted = known.get(f"{path.parent.name}/{path.name}")
    if wanted is not None and checksum(path) != wanted:
        raise UserError(f"{path} is damaged; {repair(store / sample)}")
    return path


def measured_type(classes: int) -> np.dtype:
    """One row per object and block: what `measure_rows` gives."""
    vectors = [
        ("sums", "<i8", 3),
        ("low", "<i4", 3),
        ("high", "<i4", 3),
        ("mass", "<f8", classes),
        ("top", "<f8", classes),
    ]
    return np.dtype([("label", "<i8"), ("voxels", "<i8"), *vectors])


def measure_rows(labels: np.ndarray, found: Measures, start: ZYX) -> np.ndarray:
    """Measurements of the objects of a block; those of several blocks can be put together.

    Parameters
    ----------
    labels : ndarray of int64
        Label of each row of `found`; 0 for those that belong to no object.
    found : Measures
        Of the block, with one channel per class.
    start : tuple of int
        First voxel of the block.

    Returns
    -------
    ndarray of `measured_type`
    """
    kept = np.flatnonzero(labels)
    rows = np.empty(kept.size, measured_type(found.mass.shape[1]))
    rows["label"], rows["voxels"], rows["mass"], rows["top"] = (
        labels[kept],
        found.voxels[kept],
        found.mass[kept],
        found.top[kept],
    )
    rows["sums"] = found.sums[kept] + found.voxels[kept, None] * np.array(start)
    rows["low"], rows["high"] = (
        found.low[kept] + np.array(start, np.int32),
        found.high[kept] + np.array(start, np.int32),
    )
    return rows


def put_together(rows: np.ndarray) -> np.ndarray:
    """One row per object, sorted by label, from the rows of all blocks."""
    # By place too, so that sums of rounded numbers do not depend on which block was faster.
    rows = rows[np.lexsort((rows["low"][:, 2], rows["low"][:, 1], rows["low"][:, 0], rows["label"]))]
    begin = np.flatnonzero(np.diff(rows["label"], prepend=-1))
    whole = rows[begin]
    if rows.size:
        for how, names in ((np.add, ("voxels", "sums", "mass")), (np.minimum, ("low",)), (np.maximum, ("high", "top"))):
            for name in names:
                whole[name] = how.reduceat(rows[name], begin, axis=0)
    return whole


def object_table(
    whole: np.ndarray, classes: list[str], shape: ZYX, pixel_size: tuple[float, float, float], unit: float | None
) -> pa.Table:
    """Table of objects.

    Parameters
    ----------
    whole : ndarray
        From `put_together`.
    classes : list of str
        Names of the object classes.
    shape : tuple of int
        Shape of the sample; one plane is an image, whose first and last plane are no border.
    pixel_size : tuple of float
        Micrometres along z, y, x.
    unit : float or None
        Stored value that stands for a probability of 1; None where a mask is stored.

    Returns
    -------
    pyarrow.Table
        label; class (the one of the largest summed probability; of a mask, of the most voxels); voxels; centroid and
        bounding box in voxels; mean and maximum probability of the class (empty where a mask is stored); centroid in
        micrometres; volume in cubic micrometres (images: area in square micrometres); border: whether the object
        reaches the border of the sample.
    """
    rows, best = np.arange(len(whole)), whole["mass"].argmax(axis=1)
    low, high, voxels = whole["low"], whole["high"], whole["voxels"]
    centroid = whole["sums"] / voxels[:, None]
    flat = shape[0] == 1
    size = float(np.prod(pixel_size[1:] if flat else pixel_size))
    columns = {
        "label": whole["label"],
        "class": pa.array(np.array(classes, object)[best], pa.string()),
        "voxels": voxels,
    }
    columns |= {f"centroid_{axis}": centroid[:, i].round(4) for i, axis in enumerate(POSITIONS)}
    columns |= {f"start_{axis}": low[:, i] for i, axis in enumerate(POSITIONS)}
    columns |= {f"stop_{axis}": high[:, i] for i, axis in enumerate(POSITIONS)}
    mean, most = whole["mass"][rows, best] / voxels, whole["top"][rows, best]
    columns |= {
        name: (values / unit).round(4) if unit else pa.nulls(len(whole), pa.float64())
        for name, values in (("probability", mean), ("max_probability", most))
    }
    columns |= {f"centroid_{axis}_um": (centroid[:, i] * pixel_size[i]).round(4) for i, axis in enumerate(POSITIONS)}
    # Rounded to a ten-thousandth of a voxel, so that no digits are printed that mean nothing.
    columns["area_um2" if flat else "volume_um3"] = (voxels * size).round(max(0, 4 - int(np.floor(np.log10(size)))))
    columns[LAST_COLUMN] = ((low == 0) | (high == np.array(shape)))[:, flat:].any(axis=1)
    return pa.table(columns)


class RowsByLabel:
    """Measurements of blocks on their way into a table.

    They are kept in files, by ranges of labels, so that memory does not grow.

    Parameters
    ----------
    folder : Path
        Gets the files; it must exist.
    name : str
        What the names of the files begin with.
    row : dtype
        Of a row; its field ``label`` is the label of an object.
    """

    def __init__(self, folder: Path, name: str, row: np.dtype) -> None:
        self._base, self._row = folder / name, row

    def add(self, rows: np.ndarray) -> None:
        """Take in the measurements of a block."""
        place = (rows["label"] - 1) // OBJECTS_PER_FILE
        for number in np.unique(place):
            path = self._file(int(number))
            with naming(path), path.open("ab") as file:
                file.write(rows[place == number].tobytes())  # errors of `tofile` do not tell that the disk is full

    def of(self, number: int) -> np.ndarray:
        """All rows of a range of labels."""
        path = self._file(number)
        return np.fromfile(path, self._row) if path.exists() else np.empty(0, self._row)

    def _file(self, number: int) -> Path:
        return self._base.with_name(f"{self._base.name}{number}")


def ranges_of(count: int) -> range:
    """Numbers of the ranges of labels of so many objects; one without objects, for a table without rows."""
    return range(max(1, -(-count // OBJECTS_PER_FILE)))


def former_parts(path: Path, details: dict[str, Any]) -> list[Callable[[], pa.Table]] | None:
    """The columns that do not depend on `instances.measure`, from a table of the same objects; None if it is no use.

    Parameters
    ----------
    path : Path
        The table as Parquet.
    details : dict
        What the step noted of these objects: how many there are, and checksums of the tables.

    Returns
    -------
    list of callable or None
        Reads the part of each range of labels.
    """
    if f"{path.parent.name}/{path.name}" not in details.get("files", {}):  # it may be damaged
        return None
    count: int = details["objects"]
    try:
        check_table(path)
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    except (UserError, OSError, pa.ArrowException):
        return None
    wanted = [min(OBJECTS_PER_FILE, count - number * OBJECTS_PER_FILE) for number in ranges_of(count)] if count else []
    if sizes != wanted or LAST_COLUMN not in names:
        return None
    kept = names[: names.index(LAST_COLUMN) + 1]
    if not count:
        return [lambda: file.schema_arrow.empty_table().select(kept)]
    return [functools.partial(file.read_row_group, number, columns=kept) for number in ranges_of(count)]


def box_voxels(table: pa.Table) -> np.ndarray:
    """Voxels of the bounding box of each object."""
    sides = [
        table[f"stop_{axis}"].to_numpy().astype(np.int64) - table[f"start_{axis}"].to_numpy() for axis in POSITIONS
    ]
    return np.prod(sides, axis=0)


def with_columns(table: pa.Table, columns: dict[str, np.ndarray]) -> pa.Table:
    """A table with more columns of its objects; nan becomes empty.

    Numbers are rounded to ten digits, since the last ones depend on where blocks begin.
    """
    more = {name: pa.array(_rounded(values), from_pandas=True) for name, values in columns.items()}
    return pa.table(dict(zip(table.column_names, table.columns, strict=True)) | more)


def _rounded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    places = np.where(np.isfinite(places), places, 0).clip(-300, 300)
    # Of whole numbers all digits are right.
    return np.where(values == np.rint(values), values, np.rint(values * 10.0**places) / 10.0**places)


def write_tables(base: Path, parts: Iterable[pa.Table], folder: Path) -> dict[str, int]:
    """Write the tables of a sample, whole or not at all.

    The files are ``<base>.csv`` and ``<base>.parquet``. Returned are their checksums, by their paths below the folder
    of the store.

    Parameters
    ----------
    base : Path
        Path of the tables, without suffix.
    parts : iterable of pyarrow.Table
        One at least; it may be without rows.
    folder : Path
        Where they are written, on the file system of the tables.
    """
    rest = iter(parts)
    first = next(rest)
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    made = [folder / f"table{suffix}" for suffix in SUFFIXES]
    with (
        naming(base),
        pyarrow.csv.CSVWriter(made[0], first.schema, write_options=options) as csv,
        pyarrow.parquet.ParquetWriter(made[1], first.schema) as parquet,
    ):
        for table in chain([first], rest):
            if table.num_rows:
                csv.write_table(table)
                parquet.write_table(table)
    base.parent.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for path, suffix in zip(made, SUFFIXES, strict=True):
        checksums[f"{base.parent.name}/{base.name}{suffix}"] = checksum(path)
        path.replace(base.with_name(base.name + suffix))
    return checksums
