"""Which pixels a drawn shape covers: those whose centre lies inside.

Coordinates are x, y in pixels; the pixel in row r and column c covers c..c+1 along x and r..r+1 along y, so that its
centre is (c + 0.5, r + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

# Rows that the edges of a shape may cross, taken together, before it counts as made to fill the memory.
MAX_CROSSED_ROWS = 2**22


def polygon(rings: Iterable[ArrayLike], size: tuple[int, int], where: str) -> np.ndarray:
    """Flat (C order) positions of the pixels inside closed rings, by the even-odd rule: a ring in a ring is a hole.

    A centre that lies on an edge belongs to the shape on its right (or below), so that shapes that share an edge
    neither overlap nor leave a gap. Exact for coordinates below 2^20 with steps of 1/2; others are rounded as float64.

    Parameters
    ----------
    rings : iterable of array_like
        Points of each ring, x and y; the last is joined to the first.
    size : tuple of int
        Height and width of the image. What lies beyond is cut off.
    where : str
        Names file and object in errors.

    Returns
    -------
    ndarray of int64
        Sorted, each position once.

    Raises
    ------
    ValueError
        If there are fewer than three points, numbers that are not finite, or the whole shape lies outside of the image.

    Examples
    --------
    >>> polygon([[(0, 0), (2, 0), (2, 2), (0, 2)]], (3, 3), "example")
    array([0, 1, 3, 4])
    """
    return polygons([rings], size, where)


def polygons(several: Iterable[Iterable[ArrayLike]], size: tuple[int, int], where: str) -> np.ndarray:
    """Flat positions of the union of polygons, each made of rings as in `polygon`.

    Some of the polygons may lie outside of the image.
    """
    closed = [[_ring(points, where) for points in rings] for rings in several]
    crossed = sum(_crossed(ring, size[0]) for rings in closed for ring in rings)
    if crossed > MAX_CROSSED_ROWS:
        raise ValueError(
            f"{where}: its outline crosses the rows of the image {crossed} times, which no outline of an object does"
        )
    if not closed or not all(closed):
        raise ValueError(f"{where}: a shape without points")
    _check_inside(np.concatenate([ring for rings in closed for ring in rings]), size, where)
    parts = [_inside(rings, size) for rings in closed]
    return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))


def _inside(closed: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Positions inside of rings, by the even-odd rule."""
    height, width = size
    crossings = [_crossings(ring, height) for ring in closed]
    rows, columns = (np.concatenate(parts) for parts in zip(*crossings, strict=True))
    order = np.lexsort((columns, rows))
    # In each row a shape goes from every odd crossing to the next even one.
    rows, columns = rows[order], np.clip(columns[order], 0, width)
    return expand_runs(rows[::2] * width + columns[::2], columns[1::2] - columns[::2])


def ellipse(
    centre: Sequence[float], radii: Sequence[float], angle: float, size: tuple[int, int], where: str
) -> np.ndarray:
    """Flat positions of the pixels whose centres lie in an ellipse, or on its edge.

    Parameters
    ----------
    centre, radii : sequence of float
        Along x and y, in pixels.
    angle : float
        By how many degrees it is turned, clockwise as seen on the screen.
    size : tuple of int
        Height and width of the image.
    where : str
        Names file and object in errors.

    Raises
    ------
    ValueError
        If a number is not finite, a radius is not above 0, or the whole ellipse lies outside of the image.
    """
    if not (np.abs([*centre, *radii, angle]) < 2**31).all() or min(radii) <= 0:
        raise ValueError(
            f"{where}: an ellipse needs numbers below 2^31 and radii above 0 (centre {list(centre)}, "
            f"radii {list(radii)})"
        )
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    reach = np.array([math.hypot(radii[0] * cosine, radii[1] * sine), math.hypot(radii[0] * sine, radii[1] * cosine)])
    low, high = np.array(centre) - reach, np.array(centre) + reach
    _check_inside(np.stack([low, high]), size, where)
    first = np.maximum(np.floor(low), 0).astype(int)
    last = np.minimum(np.ceil(high), (size[1], size[0])).astype(int)
    y, x = np.mgrid[first[1] : last[1], first[0] : last[0]]
    right, down = x + 0.5 - centre[0], y + 0.5 - centre[1]
    along, across = (right * cosine + down * sine) / radii[0], (down * cosine - right * sine) / radii[1]
    inside = along**2 + across**2 <= 1
    return (y[inside] * size[1] + x[inside]).astype(np.int64)


def box(low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Ring of an upright rectangle between two corners (x, y)."""
    return np.array([(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])], np.float64)


def rotate(ring: ArrayLike, angle: float) -> np.ndarray:
    """Ring turned around the middle of its points by degrees, clockwise as seen on the screen."""
    points = np.asarray(ring, np.float64)
    if angle == 0:
        return points
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    middle = points.mean(axis=0)
    return (points - middle) @ np.array([[cosine, sine], [-sine, cosine]]) + middle


def expand_runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All positions of runs: ``starts[i], starts[i] + 1, ...``, as many as `lengths` says."""
    lengths = lengths.astype(np.int64)
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def transpose_positions(down: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flat C-order positions of those that count down the columns."""
    return np.unique(down % size[0] * size[1] + down // size[0])


def decode_alternating(counts: ArrayLike, size: tuple[int, int], where: str) -> np.ndarray:
    """Positions of runs that are in turn outside and inside of the object, and fill the image.

    Raises
    ------
    ValueError
        If a run is negative, or they do not add up to the pixels of the image.
    """
    lengths = np.asarray(counts, np.int64).reshape(-1)
    if (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise ValueError(f"{where}: the run-lengths do not add up to the {size[0]} x {size[1]} pixels of the image")
    starts = np.cumsum(lengths) - lengths
    return expand_runs(starts[1::2], lengths[1::2])


def _ring(points: ArrayLike, where: str) -> np.ndarray:
    try:
        ring = np.asarray(points, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{where}: points must be pairs of numbers") from None
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError(f"{where}: a polygon needs at least 3 points, each x and y")
    if not (np.abs(ring) < 2**31).all():
        raise ValueError(f"{where}: coordinates must be finite and below 2^31")
    return ring


def _check_inside(points: np.ndarray, size: tuple[int, int], where: str) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    if high[0] <= 0 or high[1] <= 0 or low[0] >= size[1] or low[1] >= size[0]:
        raise ValueError(
            f"{where}: lies outside of the image of {size[0]} x {size[1]} pixels "
            f"(x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}); is it in pixels of this image?"
        )


def _crossed(ring: np.ndarray, height: int) -> int:
    """How many rows of centres the edges of a ring cross at most, taken together."""
    rows = np.clip(ring[:, 1], -1, height + 1)
    return int(np.abs(rows - np.roll(rows, -1)).sum())


def _crossings(ring: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the edges of a ring cross the centres of pixel rows.

    For each edge and each row of centres that it crosses: the row, and the first pixel whose centre is not left of the
    edge.
    """
    start, end = ring, np.roll(ring, -1, axis=0)
    # From top to bottom, so that both shapes of a shared edge round alike.
    up = start[:, 1] > end[:, 1]
    top, bottom = np.where(up[:, None], end, start), np.where(up[:, None], start, end)
    first = np.clip(np.ceil(top[:, 1] - 0.5), 0, height).astype(np.int64)
    after = np.clip(np.ceil(bottom[:, 1] - 0.5), 0, height).astype(np.int64)
    edge = np.repeat(np.arange(len(ring)), after - first)
    row = expand_runs(first, after - first)
    (x, y), (width, rise) = top[edge].T, (bottom - top)[edge].T
    # Multiplied first: a quotient that is a centre is exact.
    column = np.ceil(x + (row + 0.5 - y) * width / rise - 0.5)
    return row, column.astype(np.int64)
