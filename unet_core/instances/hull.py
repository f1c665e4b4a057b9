"""Convex hulls of objects in images, from the corners of the hulls of their pieces: exact, in integers."""

from __future__ import annotations

import numpy as np

from unet_core.compiled import compiled
from unet_core.instances.run_lengths import RunLengths

# A pixel that may be a corner of the hull of an object.
CORNER = np.dtype([("label", "<i8"), ("y", "<i8"), ("x", "<i8")])


def corner_rows(run_lengths: RunLengths, present: np.ndarray, y: int, x: int) -> np.ndarray:
    """Corners of the convex hulls of the pieces of objects in a block of one plane.

    Parameters
    ----------
    run_lengths : RunLengths
        Of the block; its labels are places in `present`, from 1.
    present : ndarray of int64
        Labels of the objects in the block.
    y, x : int
        First pixel of the block.

    Returns
    -------
    ndarray of CORNER
    """
    row = np.repeat(np.arange(run_lengths.rows.size - 1), np.diff(run_lengths.rows))
    order = np.argsort(run_lengths.label, kind="stable")
    ends = run_lengths.start.astype(np.int64), run_lengths.stop.astype(np.int64) - 1
    label, found_y, found_x = _corners(run_lengths.label[order], row[order], *(end[order] for end in ends))
    rows = np.empty(label.size, CORNER)
    rows["label"], rows["y"], rows["x"] = present[label - 1], found_y + y, found_x + x
    return rows


def hull_sizes(rows: np.ndarray) -> np.ndarray:
    """Pixels in the convex hull of each object, sorted by label, from the corners of all its pieces.

    A pixel is a square on its corner, with corners half a pixel from its centre along y and x, and it is in the hull if
    its centre is, as for `skimage.morphology.convex_hull_image`.
    """
    rows = rows[np.lexsort((rows["x"], rows["y"], rows["label"]))]
    return _hull_sizes(*(np.ascontiguousarray(rows[name]) for name in ("label", "y", "x")))


@compiled
def _envelope(rows, values, count, kept):  # type: ignore[no-untyped-def]
    """Places of the corners of the lower convex envelope of values over ascending rows; gives how many there are.

    References
    ----------
    Andrew: Another efficient algorithm for convex hulls in two dimensions. Information Processing Letters 9 (1979).
    """
    n = 0
    for i in range(count):
        while n > 1:
            a, b = kept[n - 2], kept[n - 1]
            if (values[b] - values[a]) * (rows[i] - rows[b]) < (values[i] - values[b]) * (rows[b] - rows[a]):
                break
            n -= 1
        kept[n] = i
        n += 1
    return n


@compiled
def _corners(label, row, first, last):  # type: ignore[no-untyped-def]
    """Label, row and column of the corners on the left and on the right of each label; runs sorted by label and row."""
    size = label.size
    found_label, found_y = np.empty(2 * size, np.int64), np.empty(2 * size, np.int64)
    found_x = np.empty(2 * size, np.int64)
    rows, kept, total, begin = np.empty(size, np.int64), np.empty(size, np.int64), 0, 0
    ends = np.empty((2, size), np.int64)
    while begin < size:
        end, count = begin, 0
        while end < size and label[end] == label[begin]:
            if end == begin or row[end] != row[end - 1]:
                rows[count], ends[0, count], ends[1, count] = row[end], first[end], -last[end]
                count += 1
            else:
                ends[1, count - 1] = -last[end]
            end += 1
        for side in range(2):
            for n in range(_envelope(rows, ends[side], count, kept)):
                value = ends[side, kept[n]]
                found_label[total], found_y[total] = label[begin], rows[kept[n]]
                found_x[total] = value if side == 0 else -value
                total += 1
        begin = end
    return found_label[:total], found_y[:total], found_x[:total]


@compiled
def _bounds(rows, values, count, kept, low, out):  # type: ignore[no-untyped-def]
    """First pixel at or after the envelope in each row of pixels; rows and values are in halves of a pixel."""
    corners, n = _envelope(rows, values, count, kept), 0
    for place in range(out.size):
        here = 2 * (low + place)
        while rows[kept[n + 1]] < here and n + 2 < corners:
            n += 1
        a, b = kept[n], kept[n + 1]
        long = rows[b] - rows[a]
        across = values[a] * long + (values[b] - values[a]) * (here - rows[a])
        out[place] = -((-across) // (2 * long))


@compiled
def _hull_sizes(label, y, x):  # type: ignore[no-untyped-def]
    """Pixels in the hull of each label; points are sorted by label, row and column."""
    size = label.size
    rows, values, kept = np.empty(3 * size, np.int64), np.empty((2, 3 * size), np.int64), np.empty(3 * size, np.int64)
    sizes, objects, begin = np.empty(size, np.int64), 0, 0
    while begin < size:
        end, count = begin, 0
        while end < size and label[end] == label[begin]:
            first = end
            while end < size and label[end] == label[first] and y[end] == y[first]:
                end += 1
            left, right = 2 * x[first], -2 * x[end - 1]
            for d in range(-1, 2):
                if count and rows[count - 1] == 2 * y[first] + d:
                    count -= 1
                    values[0, count] = min(values[0, count], left - (d == 0))
                    values[1, count] = min(values[1, count], right - (d == 0))
                else:
                    rows[count] = 2 * y[first] + d
                    values[0, count], values[1, count] = left - (d == 0), right - (d == 0)
                count += 1
        low, height = y[begin], y[end - 1] - y[begin] + 1
        left_most, right_most = np.empty(height, np.int64), np.empty(height, np.int64)
        _bounds(rows, values[0], count, kept, low, left_most)
        _bounds(rows, values[1], count, kept, low, right_most)
        sizes[objects] = np.maximum(1 - right_most - left_most, 0).sum()
        objects += 1
        begin = end
    return sizes[:objects]
