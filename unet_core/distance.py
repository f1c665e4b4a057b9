"""Distances to the nearest and second nearest object, in one separable scan whose cost does not depend on their number."""

from __future__ import annotations

import numba
import numpy as np

Spacing = tuple[float, float, float]


def two_nearest(labels: np.ndarray, spacing: Spacing, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances from each voxel to the nearest and the second nearest object.

    The two nearest different labels of a voxel are among the two nearest different labels of the voxels of any line
    through it, so that the axes can be worked on one after the other, as in separable distance transforms. Objects
    farther than `reach` along an axis are not looked for.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Objects; 0 is background.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x.
    reach : float
        Distances up to this are exact; farther objects may be reported as infinitely far.

    Returns
    -------
    nearest, second : ndarray of float32, shape (z, y, x)
        Squared distances, 0 inside an object, infinite where there is none within reach.
    """
    nearest = np.where(labels > 0, np.float32(0), np.float32(np.inf))
    second = np.full(labels.shape, np.inf, np.float32)
    nearest_label = labels.astype(np.uint32)
    second_label = np.zeros(labels.shape, np.uint32)
    for axis in (2, 1, 0):
        length = labels.shape[axis]
        window = int(min(reach / spacing[axis] + 1, length - 1))
        if window > 0:
            lines = (-1, length, int(np.prod(labels.shape[axis + 1 :])))
            state = (nearest, nearest_label, second, second_label)
            first, first_label, other, other_label = (array.reshape(lines) for array in state)
            found = _scan(first, first_label, other, other_label, np.float32(spacing[axis]), window)
            nearest, nearest_label, second, second_label = (array.reshape(labels.shape) for array in found)
    return nearest, second


def separate(labels: np.ndarray, spacing: Spacing, width: float) -> np.ndarray:
    """Cut a ridge of background between touching objects.

    A voxel becomes background if another object lies within `width` / 2 of it: each of two touching objects loses half
    of the ridge. The paper does this by morphological operations before it computes the weights.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Objects; 0 is background.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x.
    width : float
        Width of the ridge, in the unit of `spacing`; 0 cuts nothing.

    Returns
    -------
    ndarray of uint32, shape (z, y, x)
        The labels with ridges of 0.

    Examples
    --------
    >>> separate(np.array([[[1, 1, 1, 2, 2, 2]]], np.uint32), (1, 1, 1), 2)
    array([[[1, 1, 0, 0, 2, 2]]], dtype=uint32)
    """
    reach = [int(width / 2 / s) for s in spacing]
    offsets = np.array(
        [
            offset
            for offset in np.ndindex(*(2 * r + 1 for r in reach))
            if 0 < sum(((o - r) * s) ** 2 for o, r, s in zip(offset, reach, spacing, strict=True)) <= (width / 2) ** 2
        ],
        dtype=np.int64,
    ).reshape(-1, 3) - np.array(reach)
    return _cut(labels.astype(np.uint32), offsets)


@numba.njit(cache=True, nogil=True)
def _closer(d, label, nearest, nearest_label, second, second_label):  # type: ignore[no-untyped-def]
    """Put one candidate into the pair of the two nearest different labels."""
    if d >= second:
        return nearest, nearest_label, second, second_label
    if label == nearest_label:
        return min(d, nearest), label, second, second_label
    if d < nearest:
        return d, label, nearest, nearest_label
    return nearest, nearest_label, d, label


@numba.njit(cache=True, nogil=True)
def _scan(nearest, nearest_label, second, second_label, step, window):  # type: ignore[no-untyped-def]
    """Bring in what lies along the middle axis: each voxel looks both ways until nothing nearer can come."""
    outer, length, inner = nearest.shape
    out = (np.empty_like(nearest), np.empty_like(nearest_label), np.empty_like(second), np.empty_like(second_label))
    for o in range(outer):
        for i in range(length):
            for j in range(inner):
                d1, l1 = nearest[o, i, j], nearest_label[o, i, j]
                d2, l2 = second[o, i, j], second_label[o, i, j]
                for k in range(1, window + 1):
                    far = (k * step) * (k * step)
                    if far >= d2:
                        break
                    for m in (i - k, i + k):
                        if 0 <= m < length and nearest_label[o, m, j] > 0 and far + nearest[o, m, j] < d2:
                            d1, l1, d2, l2 = _closer(far + nearest[o, m, j], nearest_label[o, m, j], d1, l1, d2, l2)
                            if second_label[o, m, j] > 0:
                                d1, l1, d2, l2 = _closer(far + second[o, m, j], second_label[o, m, j], d1, l1, d2, l2)
                out[0][o, i, j], out[1][o, i, j], out[2][o, i, j], out[3][o, i, j] = d1, l1, d2, l2
    return out


@numba.njit(cache=True, nogil=True)
def _cut(labels, offsets):  # type: ignore[no-untyped-def]
    """Set voxels to 0 that have another object at one of the offsets."""
    cut = labels.copy()
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                own = labels[z, y, x]
                if own == 0:
                    continue
                for n in range(offsets.shape[0]):
                    a, b, c = z + offsets[n, 0], y + offsets[n, 1], x + offsets[n, 2]
                    if 0 <= a < depth and 0 <= b < height and 0 <= c < width and labels[a, b, c] != 0 and labels[a, b, c] != own:
                        cut[z, y, x] = 0
                        break
    return cut
