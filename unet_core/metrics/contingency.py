"""Sparse contingency table: how many voxels each pair of a true and a found object shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contingency:
    """Overlaps of true and found objects; label 0 is background.

    Attributes
    ----------
    truth, found : ndarray of int64
        Labels of each pair that shares voxels.
    voxels : ndarray of int64
        Number of shared voxels.
    """

    truth: np.ndarray
    found: np.ndarray
    voxels: np.ndarray

    def truth_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and sizes of the true objects, background excluded."""
        return _sizes(self.truth, self.voxels)

    def found_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and sizes of the found objects, background excluded."""
        return _sizes(self.found, self.voxels)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of objects that share voxels.

        Returns
        -------
        truth_index, found_index : ndarray of int
            Positions in `truth_sizes` and `found_sizes`.
        shared : ndarray of int64
            Shared voxels.
        iou : ndarray of float
            Intersection over union.
        """
        objects = (self.truth > 0) & (self.found > 0)
        (truth_labels, truth_sizes), (found_labels, found_sizes) = self.truth_sizes(), self.found_sizes()
        i = np.searchsorted(truth_labels, self.truth[objects])
        j = np.searchsorted(found_labels, self.found[objects])
        shared = self.voxels[objects]
        return i, j, shared, shared / (truth_sizes[i] + found_sizes[j] - shared)


def contingency(truth: np.ndarray, found: np.ndarray, ignore: np.ndarray | None = None) -> Contingency:
    """Contingency table of two label arrays.

    Parameters
    ----------
    truth, found : ndarray of unsigned integers
        Label arrays of one shape.
    ignore : ndarray, optional
        Voxels where it is nonzero are not counted.

    Returns
    -------
    Contingency

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> table = contingency(np.array([1, 1, 0, 2]), np.array([3, 3, 3, 0]))
    >>> [tuple(map(int, row)) for row in zip(table.truth, table.found, table.voxels)]
    [(0, 3, 1), (1, 3, 2), (2, 0, 1)]
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth has shape {truth.shape}, but the result has {found.shape}")
    t, f = truth.ravel(), found.ravel()
    if ignore is not None:
        t, f = t[ignore.ravel() == 0], f[ignore.ravel() == 0]
    true_labels, true_index = np.unique(t, return_inverse=True)
    found_labels, found_index = np.unique(f, return_inverse=True)
    code, voxels = np.unique(true_index.astype(np.int64) * max(found_labels.size, 1) + found_index, return_counts=True)
    return Contingency(
        true_labels[code // max(found_labels.size, 1)].astype(np.int64),
        found_labels[code % max(found_labels.size, 1)].astype(np.int64),
        voxels.astype(np.int64),
    )


def add(tables: Iterable[Contingency]) -> Contingency:
    """Table of the whole from the tables of its blocks; labels must be those of the whole."""
    parts = list(tables)
    pairs = np.stack([np.concatenate([p.truth for p in parts]), np.concatenate([p.found for p in parts])], axis=1)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    voxels = np.bincount(index.ravel(), np.concatenate([p.voxels for p in parts]), minlength=len(unique))
    return Contingency(unique[:, 0], unique[:, 1], voxels.astype(np.int64))


def _sizes(labels: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, index = np.unique(labels, return_inverse=True)
    sizes = np.bincount(index, voxels, minlength=unique.size).astype(np.int64)
    return unique[unique > 0], sizes[unique > 0]
