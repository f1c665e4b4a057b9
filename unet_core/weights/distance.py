"""Distances to the nearest and second nearest object, axis by axis, at a cost that does not depend on their number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unet_core.compiled import compiled

Spacing = tuple[float, float, float]
# Voxels of a row that are worked on together: their state stays in the registers and the first-level cache.
BATCH_VOXELS = 256
# Part by which a distance may be beyond half of a ridge and still count as within: sizes of pixels come from headers,
# and their quotients are rounded.
TOLERANCE = 1e-6


def two_nearest(
    labels: np.ndarray, spacing: Spacing, reach: float, alone: float = 0.0, inside: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances from each voxel to the nearest and the second nearest object.

    The two nearest different labels of a voxel are among the two nearest different labels of the voxels of any line
    through it, so that the axes can be worked on one after the other, as in separable distance transforms: along x by
    one sweep in each direction, along y and z by looking both ways until nothing can come that matters.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Objects; 0 is background.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x.
    reach : float
        Both distances are exact where their sum is within it, otherwise their sum is beyond it.
    alone : float
        The distance to the nearest object is exact up to this, too, otherwise beyond it.
    inside : bool
        Whether the distances are wanted inside objects, too.

    Returns
    -------
    nearest, second : ndarray of float32, shape (z, y, x)
        Squared distances. Infinite where nothing was found; inside an object, the nearest is 0, and the second infinite
        unless wanted.
    """
    labels = np.require(labels, np.uint32, ["C", "W"])
    farthest = max(reach, alone)
    steps = [np.arange(min(int(farthest / s) + 2, max(n, 1))) * s for s, n in zip(spacing, labels.shape, strict=True)]
    tables = [(distances.astype(np.float32), (distances**2).astype(np.float32)) for distances in steps]
    state = _empty(labels.shape)
    _along(labels, tables[2][1], *state)
    axes = [axis for axis in (1, 0) if labels.shape[axis] > 1] or [1]
    for axis in axes:
        lines = (-1, labels.shape[axis], math.prod(labels.shape[axis + 1 :]))
        found = _empty(labels.shape)
        # A little more than the reach, so that rounding decides nothing.
        last = (axis == axes[-1], inside, reach * 1.0001, alone * 1.0001)
        _across(
            *(array.reshape(lines) for array in state), *(array.reshape(lines) for array in found), *tables[axis], *last
        )
        state = found
    return state[0], state[2]


def outermost_voxels(labels: np.ndarray) -> np.ndarray:
    """Objects reduced to their outermost voxels: those with a face neighbour that is not of the object.

    The edge of the array is no border.

    Examples
    --------
    >>> outermost_voxels(np.array([[[0, 1, 1, 1, 2, 2]]], np.uint32))
    array([[[0, 1, 0, 1, 2, 0]]], dtype=uint32)
    """
    edge = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        there, edges = np.moveaxis(labels, axis, 0), np.moveaxis(edge, axis, 0)
        differ = there[1:] != there[:-1]
        edges[1:] |= differ
        edges[:-1] |= differ
    return labels * edge


def separate(labels: np.ndarray, spacing: Spacing, width: float) -> np.ndarray:
    """Cut a ridge of background between touching objects.

    A voxel becomes background if another object lies within `width` / 2 of it: each of two touching objects loses half
    of the ridge. Along an axis whose voxels lie farther apart than that, the ridge is one voxel wide: of two objects
    that still touch, the one with the larger number loses its voxel. So no two objects are left that share a face. The
    paper does this by morphological operations before it computes the weights.

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
    >>> separate(np.array([[[1, 1, 1, 2, 2, 2]]], np.uint32), (1, 1, 1), 1)
    array([[[1, 1, 1, 0, 2, 2]]], dtype=uint32)
    """
    labels = np.require(labels, np.uint32, ["C", "W"])
    offsets = _ball(spacing, width / 2, TOLERANCE)
    apart = labels.copy()
    _cut(labels, offsets, apart)
    wide = _wide_axes(labels.shape, offsets) if width > 0 else []
    if not wide:
        return apart
    parted = apart.copy()
    for axis in wide:
        along, out = np.moveaxis(apart, axis, 0), np.moveaxis(parted, axis, 0)
        before, after = along[:-1], along[1:]
        out[1:][(after > before) & (before > 0)] = 0
        out[:-1][(before > after) & (after > 0)] = 0
    return parted


def is_former_ridge(shape: tuple[int, ...], spacing: Spacing, width: float) -> bool:
    """Whether `separate` gives what version 1 of the step weights gave for labels of a shape.

    That version compared without tolerance, and cut nothing along axes whose voxels lie farther apart than `width` / 2.
    """
    if width == 0:
        return True
    # Along an axis of one voxel there is no neighbour.
    reached = np.where(np.array(shape) > 1, spacing, width)
    former, offsets = _ball(reached, width / 2, 0.0), _ball(reached, width / 2, TOLERANCE)
    return np.array_equal(former, offsets) and not _wide_axes(shape, offsets)


def _ball(spacing: Sequence[float] | np.ndarray, radius: float, tolerance: float) -> np.ndarray:
    """Offsets (z, y, x), in voxels, to the voxels within a radius of one, without itself."""
    farthest = radius * (1 + tolerance)
    reach = [int(farthest / s) for s in spacing]
    offsets = np.indices(tuple(2 * r + 1 for r in reach)).reshape(3, -1).T - reach
    squares = ((offsets * np.asarray(spacing)) ** 2).sum(axis=1)
    return np.ascontiguousarray(offsets[(squares > 0) & (squares <= farthest**2)])


def _wide_axes(shape: tuple[int, ...], offsets: np.ndarray) -> list[int]:
    """Axes of several voxels whose next voxel is none of the offsets."""
    return [axis for axis, length in enumerate(shape) if length > 1 and not offsets[:, axis].any()]


def _empty(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Room for the nearest object of each voxel (squared distance, label) and the second nearest."""
    return [np.empty(shape, dtype) for dtype in (np.float32, np.uint32, np.float32, np.uint32)]


@compiled
def _along(labels, squares, nearest, nearest_label, second, second_label):  # type: ignore[no-untyped-def]
    """Two nearest objects in the row of each voxel: those to the left, then those to the right."""
    depth, height, length = labels.shape
    none, infinite = np.uint32(0), np.float32(np.inf)
    for z in range(depth):
        for y in range(height):
            # Where the latest object ended, and the latest one that is another; far away if there is none.
            last, other, last_label, other_label = -squares.size, -squares.size, none, none
            for x in range(length):
                label = labels[z, y, x]
                if label > 0:
                    if label != last_label:
                        other, other_label, last_label = last, last_label, label
                    last = x
                nearest[z, y, x] = squares[x - last] if x - last < squares.size else infinite
                second[z, y, x] = squares[x - other] if x - other < squares.size else infinite
                nearest_label[z, y, x], second_label[z, y, x] = last_label, other_label
            last, other, last_label, other_label = length + squares.size, length + squares.size, none, none
            for x in range(length - 1, -1, -1):
                label = labels[z, y, x]
                if label > 0:
                    if label != last_label:
                        other, other_label, last_label = last, last_label, label
                    last = x
                if last - x < squares.size:
                    pair = (nearest[z, y, x], nearest_label[z, y, x], second[z, y, x], second_label[z, y, x])
                    pair = _closer(squares[last - x], last_label, *pair)
                    if other - x < squares.size:
                        pair = _closer(squares[other - x], other_label, *pair)
                    nearest[z, y, x], nearest_label[z, y, x], second[z, y, x], second_label[z, y, x] = pair


@compiled
def _closer(d, label, nearest, nearest_label, second, second_label):  # type: ignore[no-untyped-def]
    """Put one candidate into the pair of the two nearest different labels."""
    # Choices without branches, so that the compiler works on many voxels at once.
    same, closer, between = label == nearest_label, d < nearest, d < second
    moved, moved_label = (
        (nearest, nearest_label) if closer else (d if between else second, label if between else second_label)
    )
    return (
        d if closer else nearest,
        label if closer else nearest_label,
        second if same else moved,
        second_label if same else moved_label,
    )


@compiled
def _across(  # type: ignore[no-untyped-def]
    nearest,
    nearest_label,
    second,
    second_label,
    out_nearest,
    out_nearest_label,
    out_second,
    out_second_label,
    steps,
    squares,
    last,
    inside,
    reach,
    alone,
):
    """Bring in what lies along the middle axis: each voxel looks both ways until nothing can come that matters."""
    outer, length, inner = nearest.shape
    # Nearest and second, side by side: in one array, the compiler sees that they do not overlap.
    d, label = np.empty(2 * BATCH_VOXELS, np.float32), np.empty(2 * BATCH_VOXELS, np.uint32)
    infinite = np.float32(np.inf)
    for o in range(outer):
        for i in range(length):
            for start in range(0, inner, BATCH_VOXELS):
                lanes = min(BATCH_VOXELS, inner - start)
                for j in range(lanes):
                    d[j], label[j] = nearest[o, i, start + j], nearest_label[o, i, start + j]
                    d[BATCH_VOXELS + j], label[BATCH_VOXELS + j] = (
                        second[o, i, start + j],
                        second_label[o, i, start + j],
                    )
                    if last and not inside and d[j] == 0:
                        d[BATCH_VOXELS + j] = -1
                for k in range(1, squares.size):
                    far2 = squares[k]
                    # What was not found yet is at least as far away as row k. In the last axis a second object matters
                    # only if the nearest, found or not, leaves room for it in the sum, and a nearest one if it counts
                    # alone.
                    room = np.float32(max(reach - steps[k], 0.0) ** 2) if last else infinite
                    lone = far2 if last and steps[k] <= alone else infinite
                    busy = 0
                    for j in range(lanes):
                        busy += (d[BATCH_VOXELS + j] > far2) & ((min(d[j], far2) <= room) | (d[j] > lone))
                    if busy == 0:
                        break
                    for m in (i - k, i + k):
                        if 0 <= m < length:
                            there = slice(start, start + lanes)
                            _bring(
                                far2,
                                nearest[o, m, there],
                                nearest_label[o, m, there],
                                second[o, m, there],
                                second_label[o, m, there],
                                d,
                                label,
                            )
                for j in range(lanes):
                    out_nearest[o, i, start + j] = d[j]
                    out_second[o, i, start + j] = d[BATCH_VOXELS + j] if d[BATCH_VOXELS + j] >= 0 else infinite
                if not last:
                    for j in range(lanes):
                        out_nearest_label[o, i, start + j], out_second_label[o, i, start + j] = (
                            label[j],
                            label[BATCH_VOXELS + j],
                        )


@compiled
def _bring(far2, nearest, nearest_label, second, second_label, d, label):  # type: ignore[no-untyped-def]
    """Put the pairs of another row, `far2` away, into those of this row."""
    for j in range(nearest.size):
        pair = (d[j], label[j], d[BATCH_VOXELS + j], label[BATCH_VOXELS + j])
        pair = _closer(far2 + nearest[j], nearest_label[j], *pair)
        pair = _closer(far2 + second[j], second_label[j], *pair)
        d[j], label[j], d[BATCH_VOXELS + j], label[BATCH_VOXELS + j] = pair


@compiled
def _cut(labels, offsets, cut):  # type: ignore[no-untyped-def]
    """Set voxels to 0 that have another object at one of the offsets."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for n in range(offsets.shape[0]):
                a, b, dx = z + offsets[n, 0], y + offsets[n, 1], offsets[n, 2]
                if 0 <= a < depth and 0 <= b < height:
                    for x in range(max(0, -dx), min(width, width - dx)):
                        there = labels[a, b, x + dx]
                        if (there != 0) & (there != labels[z, y, x]):
                            cut[z, y, x] = 0
