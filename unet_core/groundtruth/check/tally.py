"""What is counted of the objects of a sample piece by piece: sizes, first voxels, and how many voxels lie inside."""

from __future__ import annotations

from typing import NamedTuple

import fastremap
import numpy as np

from unet_core.blocks import ZYX, Box

# Entries after which those of the same object are put together.
MAX_PENDING_ENTRIES = 2**20


class Counts(NamedTuple):
    """Objects in ascending order of their numbers.

    Attributes
    ----------
    number : ndarray of uint32
        What the objects are called.
    voxels, kept, inner : ndarray of int64
        Voxels of each, those of them that are not ignored, and those whose neighbours in the plane are of the same
        object.
    first : ndarray of int64
        Flat position (C order) of its first voxel in the sample.
    """

    number: np.ndarray
    voxels: np.ndarray
    kept: np.ndarray
    inner: np.ndarray
    first: np.ndarray


class Tally:
    """Counts objects in the pieces of a sample.

    Parameters
    ----------
    shape : tuple of int
        Of the sample along z, y, x.

    Attributes
    ----------
    ignored : int
        Voxels under the ignore mask.
    """

    def __init__(self, shape: ZYX) -> None:
        self._shape = shape
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self.ignored = 0

    def add(self, box: Box, instances: np.ndarray, ignore: np.ndarray, inner: np.ndarray) -> None:
        """Count in a piece.

        Parameters
        ----------
        box : Box
            Where it lies.
        instances, ignore, inner : ndarray, shape of the box
            Objects, ignored voxels (nonzero), and inside voxels (see `inner_voxels`).
        """
        self.ignored += int(np.count_nonzero(ignore))
        position = np.flatnonzero(instances)
        if not position.size:
            return
        # Faster than `numpy.unique`, which sorts all voxels.
        number, first, inverse = fastremap.unique(instances.ravel()[position], return_index=True, return_inverse=True)
        inverse = inverse.astype(np.int64, copy=False)  # `bincount` takes no unsigned numbers of 64 bits
        voxels = np.bincount(inverse)
        kept = np.bincount(inverse[ignore.ravel()[position] == 0], minlength=number.size)
        inside = np.bincount(inverse[inner.ravel()[position]], minlength=number.size)
        place = np.unravel_index(position[first], instances.shape)
        first = np.ravel_multi_index(tuple(p + s for p, s in zip(place, box.start, strict=True)), self._shape)
        self._rows.append(np.stack([number.astype(np.int64), voxels, kept, inside, first]))
        self._waiting += number.size
        if self._waiting > MAX_PENDING_ENTRIES:
            self._put_together()

    def counts(self) -> Counts:
        """What was counted so far."""
        self._put_together()
        number, voxels, kept, inner, first = self._rows[0] if self._rows else np.zeros((5, 0), np.int64)
        return Counts(number.astype(np.uint32), voxels, kept, inner, first)

    def _put_together(self) -> None:
        if len(self._rows) > 1:
            rows = np.concatenate(self._rows, axis=1)
            rows = rows[:, np.argsort(rows[0], kind="stable")]
            starts = np.flatnonzero(np.diff(rows[0], prepend=-1))
            sums = [np.add.reduceat(rows[i], starts) for i in (1, 2, 3)]
            self._rows = [np.stack([rows[0][starts], *sums, np.minimum.reduceat(rows[4], starts)])]
        self._waiting = 0


def inner_voxels(labels: np.ndarray) -> np.ndarray:
    """Voxels (bool, z y x) whose neighbours in the plane belong to the same object; beyond the array all do."""
    inner = labels > 0
    for before, after in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        same = labels[before] == labels[after]
        inner[before] &= same
        inner[after] &= same
    return inner
