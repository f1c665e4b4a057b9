"""Sparse contingency table: how many voxels each pair of a true and a found object shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd


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
        counted = ignore.ravel() == 0
        t, f = t[counted], f[counted]
    # Neighbours along x mostly are of the same pair: runs of them are counted, so that few values have to be sorted.
    starts = (
        np.concatenate([[0], 1 + np.flatnonzero((t[1:] != t[:-1]) | (f[1:] != f[:-1]))])
        if t.size
        else np.empty(0, np.int64)
    )
    return _collect(t[starts], f[starts], np.diff(starts, append=t.size))


def add(tables: Iterable[Contingency]) -> Contingency:
    """Table of the whole from the tables of its blocks; labels must be those of the whole."""
    parts = list(tables)
    return _collect(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("truth", "found", "voxels")))


def _collect(truth: np.ndarray, found: np.ndarray, voxels: np.ndarray) -> Contingency:
    """Add up the voxels of equal pairs; pairs in the order of labels."""
    # Hash tables: sorting as many values takes several times as long.
    i, truth_labels = pd.factorize(truth)
    j, found_labels = pd.factorize(found)
    pair, codes = pd.factorize(i * max(found_labels.size, 1) + j)
    t, f = truth_labels[codes // max(found_labels.size, 1)], found_labels[codes % max(found_labels.size, 1)]
    order = np.lexsort((f, t))
    total = np.bincount(pair, voxels, minlength=codes.size).astype(np.int64)
    return Contingency(t[order].astype(np.int64), f[order].astype(np.int64), total[order])


def _sizes(labels: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, index = np.unique(labels, return_inverse=True)
    sizes = np.bincount(index, voxels, minlength=unique.size).astype(np.int64)
    return unique[unique > 0], sizes[unique > 0]
