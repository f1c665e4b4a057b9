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
    background : int
        Voxels that are neither of an object nor under the ignore mask.
    class_voxels : ndarray of int64, shape (256,)
        Voxels of each class that are not ignored, by the number of the class.
    """

    def __init__(self, shape: ZYX) -> None:
        self._shape = shape
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self.ignored = self.background = 0
        self.class_voxels = np.zeros(256, np.int64)

    def add(
        self,
        box: Box,
        instances: np.ndarray,
        ignore: np.ndarray,
        inner: np.ndarray,
        classes: np.ndarray | None = None,
    ) -> None:
        """Count in a piece.

        Parameters
        ----------
        box : Box
            Where it lies.
        instances, ignore, inner : ndarray, shape of the box
            Objects, ignored voxels (nonzero), and inside voxels (see `inner_voxels`).
        classes : ndarray of uint8, shape of the box, optional
            Class of each voxel of an object; default: all are of class 0.
        """
        ignored = int(np.count_nonzero(ignore))
        self.ignored += ignored
        position = np.flatnonzero(instances)
        known = ignore.ravel()[position] == 0
        self.background += instances.size - ignored - int(np.count_nonzero(known))
        if not position.size:
            return
        kinds = np.zeros(position.size, np.uint8) if classes is None else classes.ravel()[position]
        self.class_voxels += np.bincount(kinds[known], minlength=256)
        # Faster than `numpy.unique`, which sorts all voxels.
        number, first, inverse = fastremap.unique(instances.ravel()[position], return_index=True, return_inverse=True)
        inverse = inverse.astype(np.int64, copy=False)  # `bincount` takes no unsigned numbers of 64 bits
        voxels = np.bincount(inverse)
        kept = np.bincount(inverse[known], minlength=number.size)
        inside = np.bincount(inverse[inner.ravel()[position]], minlength=number.size)
        place, kind = np.unravel_index(position[first], instances.shape), kinds[first].astype(np.int64)
        first = np.ravel_multi_index(tuple(p + s for p, s in zip(place, box.start, strict=True)), self._shape)
        self._rows.append(np.stack([number.astype(np.int64), voxels, kept, inside, first, kind]))
        self._waiting += number.size
        if self._waiting > MAX_PENDING_ENTRIES:
            self._put_together()

    def counts(self) -> Counts:
        """What was counted so far."""
        number, voxels, kept, inner, first, _ = self._together()
        return Counts(number.astype(np.uint32), voxels, kept, inner, first)

    def class_objects(self) -> np.ndarray:
        """How many objects that are not wholly ignored there are of each class, shape (256,)."""
        _, _, kept, _, _, kind = self._together()
        return np.bincount(kind[kept > 0], minlength=256)

    def _together(self) -> np.ndarray:
        self._put_together()
        return self._rows[0] if self._rows else np.zeros((6, 0), np.int64)

    def _put_together(self) -> None:
        if len(self._rows) > 1:
            rows = np.concatenate(self._rows, axis=1)
            rows = rows[:, np.argsort(rows[0], kind="stable")]
            starts = np.flatnonzero(np.diff(rows[0], prepend=-1))
            sums = [np.add.reduceat(rows[i], starts) for i in (1, 2, 3)]
            # All voxels of an object are of one class.
            self._rows = [np.stack([rows[0][starts], *sums, np.minimum.reduceat(rows[4], starts), rows[5][starts]])]
        self._waiting = 0


def inner_voxels(labels: np.ndarray) -> np.ndarray:
    """Voxels (bool, z y x) whose neighbours in the plane belong to the same object; beyond the array all do."""
    inner = labels > 0
    for before, after in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        same = labels[before] == labels[after]
        inner[before] &= same
        inner[after] &= same
    return inner
