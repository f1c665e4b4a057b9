"""Means and central moments of objects that are seen in pieces, put together without loss of digits."""

from __future__ import annotations

import numpy as np

# What rows of any measure begin with: label of the object, number of the block, voxels in it.
HEAD = [("label", "<i8"), ("block", "<i8"), ("voxels", "<i8")]


def in_order(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several blocks, sorted by label and block, and the place of the first row of each object.

    The order does not depend on which block was faster, so that sums of rounded numbers do not either.
    """
    rows = rows[np.lexsort((rows["block"], rows["label"]))]
    return rows, np.flatnonzero(np.diff(rows["label"], prepend=-1))


def combine(
    voxels: np.ndarray, mean: np.ndarray, second: np.ndarray, begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, means and central second moments of objects from those of their pieces.

    Parameters
    ----------
    voxels : ndarray of int64, shape (pieces,)
        Size of each piece.
    mean : ndarray of float64, shape (pieces, quantities)
        Means over the voxels of each piece.
    second : ndarray of float64, shape (pieces, quantities, quantities)
        Sums of the products of the differences to these means.
    begin : ndarray of int64, shape (objects,)
        First piece of each object; the pieces of an object follow each other.

    Returns
    -------
    ndarray, ndarray, ndarray
        The same of each object.

    References
    ----------
    Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances. COMPSTAT (1982).
    """
    if not begin.size:
        return voxels, mean, second
    of_object = np.repeat(np.arange(begin.size), np.diff(begin, append=len(voxels)))
    whole = np.add.reduceat(voxels, begin)
    weight = (voxels / whole[of_object])[:, None]
    # Relative to the first piece: far from the origin of the image differences would lose digits.
    centre = np.add.reduceat((mean - mean[begin][of_object]) * weight, begin) + mean[begin]
    apart = mean - centre[of_object]
    between = voxels[:, None, None] * apart[:, :, None] * apart[:, None, :]
    return whole, centre, np.add.reduceat(second + between, begin)
