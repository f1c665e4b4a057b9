"""Run-length encoding of a block: its components are found, kept and painted again in runs of equal voxels along x.

A run is a row, where it starts and stops along x, and a label. There are far fewer runs than voxels, so that
components, their sizes and their extents cost little more than one look at the voxels; `python -m benchmarks instances`
compares with cc3d, which works on voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.compiled import compiled


class RunLengths(NamedTuple):
    """Run-lengths of a block, in raster order.

    Attributes
    ----------
    rows : ndarray of int64
        Number of the first run of each row (z, y) of the block, and the number of all runs.
    start, stop : ndarray of int32
        Extent along x.
    label : ndarray of int64
        Label of each run, from 1.
    """

    rows: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    label: np.ndarray


class Measures(NamedTuple):
    """What is known of each label of a block, row by row; positions count from the start of the block.

    Attributes
    ----------
    first : ndarray of int64, shape (labels, 3)
        First voxel in raster order.
    voxels : ndarray of int64
        Number of voxels.
    sums : ndarray of int64, shape (labels, 3)
        Sum of the voxels' positions.
    low, high : ndarray of int32, shape (labels, 3)
        Bounding box, the upper end excluded.
    mass, top : ndarray of float64, shape (labels, channels)
        Sum and maximum of the values of each channel, in the unit in which they are stored.
    """

    first: np.ndarray
    voxels: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    top: np.ndarray


class PlacedRunLengths(NamedTuple):
    """Run-lengths of any number of blocks, in coordinates of the whole sample, with their labels.

    Attributes
    ----------
    z, y, start, stop : ndarray of int32
        Row, and extent along x.
    label : ndarray of int64
        Label of each.
    """

    z: np.ndarray
    y: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    label: np.ndarray


def label_mask(mask: np.ndarray, connectivity: str, planes: bool = False) -> tuple[RunLengths, int]:
    """Connected components of a mask, numbered from 1 in raster order of their first voxels.

    Parameters
    ----------
    mask : ndarray of bool, shape (z, y, x)
        What is to be labelled.
    connectivity : {"faces", "full"}
        Neighbours of a voxel.
    planes : bool
        Voxels in different z planes are no neighbours.

    Returns
    -------
    RunLengths, int
        Labelled runs, and the number of components.

    References
    ----------
    He, Chao, Suzuki: A run-based two-scan labeling algorithm. IEEE Transactions on Image Processing 17 (2008).
    """
    depth, height, width = mask.shape
    rows, start, stop = _find_ones(np.ascontiguousarray(mask).view(np.uint8).reshape(depth * height, width))
    label, count = _label(rows, start, stop, height, connectivity == "full", planes)
    return RunLengths(rows, start, stop, label), int(count)


def encode_labels(labels: np.ndarray) -> RunLengths:
    """Run-lengths of the labels above 0 of an array (z, y, x)."""
    depth, height, width = labels.shape
    return RunLengths(*_find_labels(np.ascontiguousarray(labels).reshape(depth * height, width)))


def paint_run_lengths(run_lengths: RunLengths, values: np.ndarray, out: np.ndarray) -> None:
    """Write ``values[label]`` into the voxels of each run where that is not 0; `out` (z, y, x) is contiguous."""
    _paint_run_lengths(*run_lengths, values, out.reshape(-1, out.shape[-1]))


def place_run_lengths(run_lengths: RunLengths, box: Box, label: np.ndarray) -> PlacedRunLengths:
    """Run-lengths of a box in coordinates of the whole sample, with new labels."""
    row = np.repeat(np.arange(run_lengths.rows.size - 1, dtype=np.int32), np.diff(run_lengths.rows))
    (z, y, x), height = box.start, box.shape[1]
    return PlacedRunLengths(row // height + z, row % height + y, run_lengths.start + x, run_lengths.stop + x, label)


def paint_placed(placed: PlacedRunLengths, values: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Write ``values[label]`` into the voxels of each run that lie in a box, unless that is 0; `out` is the box."""
    _paint_placed(*placed, values, box.start, out)


def concatenate(placed: list[PlacedRunLengths]) -> PlacedRunLengths:
    """Placed run-lengths of several blocks in one; there may be none."""
    nowhere = np.empty(0, np.int32)
    empty = PlacedRunLengths(nowhere, nowhere, nowhere, nowhere, np.empty(0, np.int64))
    return PlacedRunLengths(*(np.concatenate(columns) for columns in zip(empty, *placed, strict=True)))


def measure_run_lengths(run_lengths: RunLengths, count: int, shape: ZYX, channels: np.ndarray) -> Measures:
    """Sizes, extents and channel values of the labels 1 to `count` of a block.

    Parameters
    ----------
    run_lengths : RunLengths
        Of the block.
    count : int
        Largest label.
    shape : tuple of int
        Shape of the block.
    channels : ndarray, shape (channels, z, y, x)
        Values to be summed; there may be none of them.
    """
    flat = channels.reshape(len(channels), shape[0] * shape[1], shape[2])
    if flat.dtype != np.uint8:
        flat = flat.astype(np.float32, copy=False)  # numba has no half precision
    return Measures(*_measure(*run_lengths, count, shape[1], flat))


@compiled
def _find_ones(mask):  # type: ignore[no-untyped-def]
    """Rows, starts and stops of the runs of ones."""
    count, width = mask.shape
    rows = np.zeros(count + 1, np.int64)
    for r in range(count):
        found = 0
        before = 0
        for x in range(width):
            found += mask[r, x] & (before ^ 1)
            before = mask[r, x]
        rows[r + 1] = rows[r] + found
    start, stop = np.empty(rows[count], np.int32), np.empty(rows[count], np.int32)
    for r in range(count):
        if rows[r] == rows[r + 1]:
            continue
        n = rows[r] - 1
        before = 0
        for x in range(width):
            if mask[r, x] != before:
                before = mask[r, x]
                if before:
                    n += 1
                    start[n] = x
                else:
                    stop[n] = x
        if before:
            stop[n] = width
    return rows, start, stop


@compiled
def _find_labels(labels):  # type: ignore[no-untyped-def]
    """Rows, starts, stops and labels of the runs of equal labels above 0."""
    count, width = labels.shape
    rows = np.zeros(count + 1, np.int64)
    for r in range(count):
        found = 0
        for x in range(width):
            if labels[r, x] != 0 and (x == 0 or labels[r, x] != labels[r, x - 1]):
                found += 1
        rows[r + 1] = rows[r] + found
    total = rows[count]
    start, stop, label = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int64)
    for r in range(count):
        n = rows[r] - 1
        for x in range(width):
            if labels[r, x] != 0:
                if x == 0 or labels[r, x] != labels[r, x - 1]:
                    n += 1
                    start[n] = x
                    label[n] = labels[r, x]
                stop[n] = x + 1
    return rows, start, stop, label


@compiled
def _root(parent, n):  # type: ignore[no-untyped-def]
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n


@compiled
def _link(parent, start, stop, i, end_i, j, end_j, slack):  # type: ignore[no-untyped-def]
    """Join the runs i..end_i of a row with the runs j..end_j of a neighbouring one where they meet."""
    while i < end_i and j < end_j:
        if start[i] < stop[j] + slack and start[j] < stop[i] + slack:
            a, b = _root(parent, i), _root(parent, j)
            parent[max(a, b)] = min(a, b)
        if stop[i] < stop[j]:
            i += 1
        else:
            j += 1


@compiled
def _label(rows, start, stop, height, full, planes):  # type: ignore[no-untyped-def]
    """Label of each run, and the number of labels: the smallest run of a component is its root."""
    parent = np.arange(start.size)
    slack = 1 if full else 0
    for r in range(rows.size - 1):
        y = r % height
        if y > 0:
            _link(parent, start, stop, rows[r], rows[r + 1], rows[r - 1], rows[r], slack)
        if r < height or planes:
            continue
        for shift in range(-slack, slack + 1):
            if 0 <= y + shift < height:
                other = r - height + shift
                _link(parent, start, stop, rows[r], rows[r + 1], rows[other], rows[other + 1], slack)
    label = np.empty(start.size, np.int64)
    count = 0
    for n in range(start.size):
        # A parent comes before its children, so that its label is known.
        if parent[n] == n:
            count += 1
            label[n] = count
        else:
            label[n] = label[parent[n]]
    return label, count


@compiled
def _paint_run_lengths(rows, start, stop, label, values, out):  # type: ignore[no-untyped-def]
    for r in range(rows.size - 1):
        for n in range(rows[r], rows[r + 1]):
            value = values[label[n]]
            if value != 0:
                out[r, start[n] : stop[n]] = value


@compiled
def _paint_placed(z, y, start, stop, label, values, corner, out):  # type: ignore[no-untyped-def]
    depth, height, width = out.shape
    for n in range(z.size):
        value, a, b = values[label[n]], z[n] - corner[0], y[n] - corner[1]
        if value != 0 and 0 <= a < depth and 0 <= b < height:
            out[a, b, max(0, start[n] - corner[2]) : max(0, min(width, stop[n] - corner[2]))] = value


@compiled
def _measure(rows, start, stop, label, count, height, channels):  # type: ignore[no-untyped-def]
    first = np.full((count, 3), -1, np.int64)
    voxels, sums = np.zeros(count, np.int64), np.zeros((count, 3), np.int64)
    low, high = np.full((count, 3), 2**31 - 1, np.int32), np.zeros((count, 3), np.int32)
    mass, top = np.zeros((count, len(channels))), np.zeros((count, len(channels)))
    for r in range(rows.size - 1):
        z, y = r // height, r % height
        for n in range(rows[r], rows[r + 1]):
            k, a, b = label[n] - 1, start[n], stop[n]
            length = np.int64(b - a)
            if first[k, 0] < 0:
                first[k, 0], first[k, 1], first[k, 2] = z, y, a
            voxels[k] += length
            sums[k, 0] += z * length
            sums[k, 1] += y * length
            sums[k, 2] += (np.int64(a) + b - 1) * length // 2
            low[k, 0], low[k, 1], low[k, 2] = min(low[k, 0], z), min(low[k, 1], y), min(low[k, 2], a)
            high[k, 0], high[k, 1], high[k, 2] = max(high[k, 0], z + 1), max(high[k, 1], y + 1), max(high[k, 2], b)
            for c in range(len(channels)):
                total = 0.0
                largest = channels[c, r, a]
                for x in range(a, b):
                    total += channels[c, r, x]
                    largest = max(largest, channels[c, r, x])
                mass[k, c] += total
                top[k, c] = max(top[k, c], largest)
    return first, voxels, sums, low, high, mass, top
