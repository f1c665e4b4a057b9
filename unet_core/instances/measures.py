"""What `instances.measure` asks for: objects are measured block by block in their finished labels, whoever made them.

So other measures need no new labels, and what is found does not depend on where blocks begin.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.blocks import Box
from unet_core.config.instances import Instances
from unet_core.digest import digest
from unet_core.engine import Runner
from unet_core.instances.hull import CORNER, corner_rows, hull_sizes
from unet_core.instances.intensity import intensity_columns, intensity_rows, intensity_type, suffixes
from unet_core.instances.morphology import SHAPE, halo_of, shape_columns, shape_rows
from unet_core.instances.objects import RowsByLabel
from unet_core.instances.run_lengths import RunLengths, encode_labels
from unet_core.method import method
from unet_core.runtime import return_freed_memory
from unet_core.store.pins import Pin
from unet_core.store.result import Result, made_anew
from unet_core.store.store import read_attributes


class Measuring(NamedTuple):
    """What a worker must know.

    Attributes
    ----------
    labels : Path
        Objects of a sample.
    wanted : str
        Digest of the labels.
    shape : bool
        Whether shapes are measured.
    image : Pin or None
        Image whose gray values are measured.
    """

    labels: Path
    wanted: str
    shape: bool
    image: Pin | None

    def open(self) -> Result:
        """The labels, unless another run has begun them anew."""
        labels = Result(self.labels)
        if labels.digest != self.wanted:
            raise made_anew(self.labels)
        return labels


def measures_digest(cfg: Instances, image: str) -> str | None:
    """Digest of what the tables have beside the columns that are always there; None for nothing.

    Parameters
    ----------
    cfg : Instances
        Options of the step.
    image : str
        Digest of the image.
    """
    if not cfg.measure:
        return None
    return digest(sorted({*cfg.measure}), image if "intensity" in cfg.measure else None, method("measures"))


def measure_block(index: int, work: Measuring) -> dict[str, np.ndarray]:
    """Rows of the objects of a block for each kind of measure; nothing where there are none."""
    return_freed_memory()  # of the block before: pieces of it would add up
    labels = work.open()
    box = labels.grid.box(index)
    if labels.is_empty(index):
        return {}
    halo = halo_of(labels.shape) if work.shape else (0, 0, 0)
    around = _with_halo(labels, box, halo)
    inner = tuple(slice(h, n - h) for h, n in zip(halo, around.shape, strict=True))
    run_lengths, present = numbered(encode_labels(around[inner]))
    found: dict[str, np.ndarray] = {}
    if present.size and work.shape:
        found["shape"] = shape_rows(run_lengths, present, index, box.start, around, halo)
        if labels.shape[0] == 1:
            found["hull"] = corner_rows(run_lengths, present, *box.start[1:])
    if present.size and work.image:
        found["intensity"] = intensity_rows(run_lengths, present, index, work.image.open_image().read(box))
    return found


def _with_halo(labels: Result, box: Box, halo: tuple[int, int, int]) -> np.ndarray:
    """Labels of a box and of a halo around it, which are 0 outside of the sample."""
    outer = box.grow(halo)
    inside = outer.clip(labels.shape)
    read = labels.read(inside)
    if inside == outer:
        return read
    around = np.zeros(outer.shape, read.dtype)
    around[inside.within(outer).slices] = read
    return around


def numbered(run_lengths: RunLengths) -> tuple[RunLengths, np.ndarray]:
    """Run-lengths whose labels are places in the array of those that are there, from 1, and this array."""
    present, place = np.unique(run_lengths.label, return_inverse=True)
    return run_lengths._replace(label=place.astype(np.int64) + 1), present


class Measurements:
    """What was measured in a sample, as columns of its table.

    Parameters
    ----------
    work : Measuring
        What is measured.
    folder : Path
        Gets files.
    """

    def __init__(self, work: Measuring, folder: Path) -> None:
        self._work, labels = work, work.open()
        self._flat, self._pixel_size = labels.shape[0] == 1, labels.pixel_size
        self._rows: dict[str, RowsByLabel] = {}
        if work.shape:
            self._rows["shape"] = RowsByLabel(folder, "shape", SHAPE)
            if self._flat:
                self._rows["hull"] = RowsByLabel(folder, "hull", CORNER)
        if work.image:
            channels = work.image.open_image().channels or 1
            names = read_attributes(work.image.path).get("details", {}).get("channels", [])
            self._names = suffixes(names, channels)
            self._rows["intensity"] = RowsByLabel(folder, "intensity", intensity_type(channels))

    def gather(self, runner: Runner) -> None:
        """Measure all blocks, if anything is to be measured."""
        if not self._rows:
            return
        count = len(self._work.open().grid)
        measure = functools.partial(measure_block, work=self._work)
        for _, found in runner.run(measure, range(count), count, f"instances {self._work.labels.name}, measure"):
            for kind, rows in found.items():
                self._rows[kind].add(rows)
        if self._work.image:
            self._work.image.check()

    def columns(self, number: int, voxels: np.ndarray, box: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the table of a range of labels.

        Parameters
        ----------
        number : int
            Of the range.
        voxels, box : ndarray of int64, shape (objects,)
            Voxels of each object in it, and of its bounding box.
        """
        columns: dict[str, np.ndarray] = {}
        for kind, rows in self._rows.items():
            of_range = rows.of(number)
            if len(np.unique(of_range["label"])) != len(box):  # another run has written other labels
                raise made_anew(self._work.labels)
            if kind == "shape":
                columns |= shape_columns(of_range, self._flat, self._pixel_size, box)
            elif kind == "hull":
                columns["solidity"] = voxels / hull_sizes(of_range)
            else:
                columns |= intensity_columns(of_range, self._names)
        return columns
