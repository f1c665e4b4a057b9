from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from unet_core.annotations import raster

HALVES = st.integers(-6, 26).map(lambda number: number / 2)
RING = st.lists(st.tuples(HALVES, HALVES), min_size=3, max_size=8)
SIZE = (9, 11)


def mask(position: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    assert position.dtype == np.int64
    covered = np.zeros(size, bool)
    covered.flat[position] = True
    assert covered.sum() == position.size
    return covered


def brute_force(rings: list[list[tuple[float, float]]], size: tuple[int, int]) -> np.ndarray:
    """Parity of the edges left of each centre, in exact arithmetic."""
    covered = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        y, x = Fraction(2 * row + 1, 2), Fraction(2 * column + 1, 2)
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
                if (y0 <= y) != (y1 <= y):
                    at = Fraction(x0) + (y - Fraction(y0)) * (Fraction(x1) - Fraction(x0)) / (
                        Fraction(y1) - Fraction(y0)
                    )
                    covered[row, column] ^= at <= x
    return covered


def touches(rings: list[list[tuple[float, float]]], size: tuple[int, int]) -> bool:
    points = np.concatenate([np.array(ring) for ring in rings])
    return bool((points.max(0) > 0).all() and (points.min(0) < (size[1], size[0])).all())


@settings(deadline=None, max_examples=150)
@given(st.lists(RING, min_size=1, max_size=3))
def test_polygons_are_those_of_exact_arithmetic(rings: list[list[tuple[float, float]]]) -> None:
    if touches(rings, SIZE):
        np.testing.assert_array_equal(mask(raster.polygon(rings, SIZE, "here")), brute_force(rings, SIZE))


def test_polygons_agree_with_scikit_image_where_no_centre_is_on_an_edge() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ring = rng.uniform(-10, 70, (rng.integers(3, 30), 2))
        known = polygon2mask((50, 60), ring[:, ::-1] - 0.5)
        np.testing.assert_array_equal(mask(raster.polygon([ring], (50, 60), "here"), (50, 60)), known)


def test_a_ring_in_a_ring_is_a_hole() -> None:
    rings = [raster.box((0, 0), (5, 5)), raster.box((1, 1), (3, 4))]
    covered = np.zeros(SIZE, bool)
    covered[:5, :5] = True
    covered[1:4, 1:3] = False
    np.testing.assert_array_equal(mask(raster.polygon(rings, SIZE, "here")), covered)


@settings(deadline=None)
@given(st.tuples(HALVES, HALVES), st.tuples(HALVES, HALVES))
def test_shapes_that_share_an_edge_neither_overlap_nor_leave_a_gap(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    edge = [one, other]
    if one[1] != other[1]:
        edge.sort(key=lambda point: point[1])
        (x0, y0), (x1, y1) = edge
        left = (
            raster.polygon([[(-9, y0), (x0, y0), (x1, y1), (-9, y1)]], (20, 20), "here")
            if y1 > 0 and max(x0, x1) > 0
            else np.empty(0, int)
        )
        right = (
            raster.polygon([[(x1, y1), (x0, y0), (30, y0), (30, y1)]], (20, 20), "here") if y1 > 0 else np.empty(0, int)
        )
        rows = [row for row in range(20) if y0 <= row + 0.5 < y1]
        assert sorted([*left, *right]) == [row * 20 + column for row in rows for column in range(20)]


@settings(deadline=None, max_examples=60)
@given(HALVES, HALVES, st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 90, 30, -45, 200]))
def test_ellipses_are_those_of_the_equation(x: float, y: float, width: int, height: int, angle: float) -> None:
    turn = math.radians(angle)
    right, down = np.meshgrid(np.arange(SIZE[1]) + 0.5 - x, np.arange(SIZE[0]) + 0.5 - y)
    value = ((right * math.cos(turn) + down * math.sin(turn)) / width) ** 2 + (
        (down * math.cos(turn) - right * math.sin(turn)) / height
    ) ** 2
    try:
        covered = mask(raster.ellipse((x, y), (width, height), angle, SIZE, "here"))
    except ValueError:
        covered = np.zeros(SIZE, bool)
    clear = np.abs(value - 1) > 1e-9
    np.testing.assert_array_equal(covered[clear], (value <= 1)[clear])


@pytest.mark.parametrize(
    ("rings", "text"),
    [
        ([], "here: a shape without points"),
        ([[(0, 0), (1, 1)]], "here: a polygon needs at least 3 points, each x and y"),
        ([[(0, 0, 0), (1, 1, 0), (1, 0, 0)]], "here: a polygon needs at least 3 points, each x and y"),
        ([[(0, 0), (1,), (1, 1)]], "here: points must be pairs of numbers"),
        ([[(0, 0), (math.nan, 1), (1, 1)]], "here: coordinates must be finite"),
        ([[(0, 0), (1e300, 1), (1, 1)]], "here: coordinates must be finite"),
        ([[(20, 0), (30, 0), (30, 5)]], r"here: lies outside of the image of 9 x 11 pixels \(x 20 to 30, y 0 to 5\)"),
    ],
)
def test_what_is_no_polygon_is_an_error(rings: list[list[tuple[float, ...]]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        raster.polygon(rings, SIZE, "here")


@pytest.mark.parametrize("radii", [(0, 1), (1, -1), (math.inf, 1)])
def test_what_is_no_ellipse_is_an_error(radii: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="here: an ellipse needs numbers below 2.31 and radii above 0"):
        raster.ellipse((1, 1), radii, 0, SIZE, "here")
