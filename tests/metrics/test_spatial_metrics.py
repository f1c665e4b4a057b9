"""Warping error, border thinning and boundaries against cases written out by hand, brute force and scikit-image."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from skimage.measure import euler_number
from skimage.metrics import hausdorff_distance as skimage_hausdorff

from unet_core.blocks import Grid
from unet_core.metrics import surface
from unet_core.metrics.surface import (
    Near,
    Surface,
    boundary,
    boundary_f1,
    compare_boundaries,
    count_near,
    hausdorff_distance,
)
from unet_core.metrics.thinning import thin_borders
from unet_core.metrics.warping import Warping, _is_simple, warp, warping_error

CORNERS = np.ones((3, 3), int)


def plane(*rows: str) -> np.ndarray:
    """Labels from text: a digit is an object, a dot background."""
    return np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows], np.uint32)


CELLS = plane("111.222", "111.222", "111.222", ".......", "333.444", "333.444", "333.444")


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (CELLS, 0),
        # The membrane lies one pixel to the left, or is thicker: no topology changes.
        (plane("11.2222", "11.2222", "11.2222", ".......", "33.4444", "33.4444", "33.4444"), 0),
        (plane("11..222", "11..222", "11...22", ".......", "33..444", "33..444", "33..444"), 0),
        # One gap of a pixel in a membrane: the pixel cannot be flipped.
        (plane("111.111", "1111111", "111.111", ".......", "333.444", "333.444", "333.444"), 1),
        # A cell that is lost: all but its last pixel can be eaten away.
        (plane("111.222", "111.222", "111.222", ".......", "333....", "333....", "333...."), 1),
        # A hole of one pixel in a cell.
        (plane("111.222", "1.1.222", "111.222", ".......", "333.444", "333.444", "333.444"), 1),
        # A cell that is cut in two by a line of three pixels: one of them must stay.
        (plane("1.1.222", "1.1.222", "1.1.222", ".......", "333.444", "333.444", "333.444"), 1),
        # Nothing found: four cells shrink to a pixel each.
        (np.zeros((7, 7), np.uint32), 4),
    ],
    ids=["the same", "moved", "thicker", "a gap", "a lost cell", "a hole", "a cut", "nothing"],
)
def test_warping_error_of_cases_by_hand(found: np.ndarray, wrong: int) -> None:
    counts = warp(CELLS, found)
    assert counts == Warping(wrong, 49) and warping_error(counts) == wrong / 49


def test_warping_error_of_an_object_that_is_not_there() -> None:
    # All pixels but one of it can never be made, since the first would be a new object.
    assert warp(np.zeros((5, 5), np.uint32), plane(".....", ".11..", ".11..", ".....", ".....")).wrong == 4


def test_cells_that_touch_are_apart_and_joining_them_is_seen() -> None:
    touching, joined = plane("111222", "111222", "111222"), plane("111111", "111111", "111111")
    assert warp(touching, touching).wrong == 0 and warp(touching, joined).wrong == 3
    assert warp(touching, plane("112222", "112222", "112222")).wrong == 0


def test_empty_planes_have_no_warping_error() -> None:
    nothing = np.zeros((4, 4), np.uint32)
    assert warp(nothing, nothing) == (0, 16) and warping_error(Warping(0, 0)) == 0
    assert Warping(1, 10) + Warping(2, 20) == Warping(3, 30)


def topology(image: np.ndarray) -> tuple[int, int]:
    """Objects over edges, and pieces of background over corners, with a margin."""
    padded = np.pad(image, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, CORNERS)[1]


def test_simple_points_are_those_that_change_neither_objects_nor_background() -> None:
    """All 256 neighbourhoods, against counting components in the neighbourhood itself."""
    for bits in itertools.product([False, True], repeat=8):
        image = np.zeros((3, 3), bool)
        image[tuple(np.array([(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]).T)] = bits
        objects = ndimage.label(image)[0]
        beside = {int(objects[p]) for p in ((0, 1), (1, 0), (1, 2), (2, 1)) if image[p]}
        empty = ~image
        empty[1, 1] = False
        around = {int(label) for label in ndimage.label(empty, CORNERS)[0][empty]}
        assert _is_simple(image.ravel(), 4, 3) == (len(beside) == 1 and len(around) == 1), image


@given(arrays.arrays(bool, (6, 7)), arrays.arrays(bool, (6, 7)))
@settings(max_examples=200, deadline=None)
def test_warping_changes_no_topology_and_stops_where_no_simple_point_is_left(
    truth: np.ndarray, found: np.ndarray
) -> None:
    # The same flips, pixel by pixel, with whole-image topology as the judge of what is simple.
    image, left = truth.copy(), [tuple(p) for p in np.argwhere(truth != found)]
    flipped = True
    while flipped:
        flipped = False
        for p in list(left):
            before = topology(image)
            image[p] = ~image[p]
            local = _neighbourhood_is_simple(image, p)
            if local:
                assert topology(image) == before and euler_number(image, 1) == euler_number(truth, 1)
                left.remove(p)
                flipped = True
            else:
                image[p] = ~image[p]
    assert warp(truth.astype(np.uint32), found.astype(np.uint32)) == Warping(len(left), truth.size)


def _neighbourhood_is_simple(image: np.ndarray, p: tuple[int, ...]) -> bool:
    padded = np.pad(image, 1)
    around = padded[p[0] : p[0] + 3, p[1] : p[1] + 3].copy()
    around[1, 1] = False
    objects = ndimage.label(around)[0]
    beside = {int(objects[q]) for q in ((0, 1), (1, 0), (1, 2), (2, 1)) if around[q]}
    empty = ~around
    empty[1, 1] = False
    return len(beside) == 1 and ndimage.label(empty, CORNERS)[1] == 1


@given(arrays.arrays(np.uint32, (2, 5, 6), elements=st.integers(0, 3)), arrays.arrays(bool, (5, 6)))
@settings(max_examples=100, deadline=None)
def test_what_lies_under_the_ignore_mask_leaves_no_trace(pair: np.ndarray, ignore: np.ndarray) -> None:
    other = np.where(ignore, 7, pair)
    assert warp(*pair, ignore) == warp(*other, ignore)
    assert (thin_borders(pair, np.stack([ignore] * 2), 2) == thin_borders(other, np.stack([ignore] * 2), 2)).all()
    edges = [[boundary(labels[None], ignore[None]) for labels in two] for two in (pair, other)]
    assert np.array_equal(edges[0], edges[1]) and not np.array(edges)[..., ignore].any()


def thinned_by_search(labels: np.ndarray, reach: int) -> np.ndarray:
    """Labels that breadth-first searches from all objects bring to each background pixel, the lowest of each step."""
    result = labels.copy()
    front = deque((int(y), int(x)) for y, x in np.argwhere(labels > 0))
    for _ in range(reach):
        found: dict[tuple[int, int], int] = {}
        for y, x in front:
            for p in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= p[0] < labels.shape[0] and 0 <= p[1] < labels.shape[1] and result[p] == 0:
                    found[p] = min(found.get(p, 2**31), int(result[y, x]))
        for p, label in found.items():
            result[p] = label
        front = deque(found)
    return result


@given(arrays.arrays(np.uint32, (7, 9), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3])), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_thinning_equals_a_search_from_all_objects(labels: np.ndarray, reach: int) -> None:
    assert np.array_equal(thin_borders(labels, reach=reach), thinned_by_search(labels, reach))
    distance = ndimage.distance_transform_cdt(labels == 0, "taxicab")
    assert np.array_equal(thin_borders(labels, reach=reach) > 0, (distance <= reach) & labels.any())


def test_a_thick_border_costs_nothing_after_thinning() -> None:
    thick = plane("11...222", "11...222", "11...222")
    assert np.array_equal(thin_borders(thick), plane("11112222", "11112222", "11112222"))


@given(arrays.arrays(np.uint32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 3)))
@settings(max_examples=100, deadline=None)
def test_boundaries_equal_a_loop_over_faces(labels: np.ndarray) -> None:
    expected = np.zeros(labels.shape, bool)
    for p in np.argwhere(labels > 0):
        for axis, step in itertools.product(range(labels.ndim), (-1, 1)):
            q = p.copy()
            q[axis] += step
            if 0 <= q[axis] < labels.shape[axis] and labels[tuple(q)] != labels[tuple(p)]:
                expected[tuple(p)] = True
    assert np.array_equal(boundary(labels), expected)


def whole(truth: np.ndarray, found: np.ndarray, spacing: surface.Spacing = (1, 1, 1), reach: float = np.inf) -> Surface:
    return compare_boundaries(truth, found, (slice(None),) * 3, spacing, reach)


edges = arrays.arrays(bool, (2, 3, 8, 9), elements=st.sampled_from([False, False, False, True]))


@given(edges, st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.65, 0.5)]), st.sampled_from([1.0, 2.0, 3.5]))
@settings(max_examples=100, deadline=None)
def test_distances_between_boundaries_equal_those_of_all_pairs(
    pair: np.ndarray, spacing: surface.Spacing, tolerance: float
) -> None:
    measured = whole(*pair, spacing)
    points = [np.argwhere(edge) * spacing for edge in pair]
    if not points[0].size or not points[1].size:
        assert hausdorff_distance(measured) == (0 if not pair.any() else None)
        assert boundary_f1(count_near(measured, tolerance)) == (not pair.any())
        return
    distances = np.linalg.norm(points[0][:, None] - points[1], axis=2)
    there, back = distances.min(axis=1), distances.min(axis=0)
    quantiles = [np.quantile(side, 0.95, method="inverted_cdf") for side in (there, back)]
    assert hausdorff_distance(measured) == pytest.approx(max(quantiles), abs=1e-5)
    close = [(side <= tolerance + 1e-6) for side in (there, back)]
    assert count_near(measured, tolerance) == Near(int(close[0].sum()), there.size, int(close[1].sum()), back.size)
    shares = [side.mean() for side in close]
    assert boundary_f1(count_near(measured, tolerance)) == pytest.approx(
        2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0
    )
    if spacing[0] == 1:
        assert max([*measured.of_truth, *measured.of_found]) == pytest.approx(skimage_hausdorff(*pair), abs=1e-5)


@given(edges, st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 9)), st.sampled_from([1.5, 4.0]))
@settings(max_examples=100, deadline=None)
def test_boundaries_of_blocks_add_up_to_those_of_the_whole(
    pair: np.ndarray, block: tuple[int, int, int], reach: float
) -> None:
    spacing = (2.0, 0.65, 0.5)
    halo = tuple(int(reach / s) for s in spacing)
    total = Surface({}, {})
    for write in Grid((3, 8, 9), block):
        read = write.grow((halo[0], halo[1], halo[2])).clip((3, 8, 9))
        total += compare_boundaries(
            pair[0][read.slices], pair[1][read.slices], write.within(read).slices, spacing, reach
        )
    assert total == whole(*pair, spacing, reach)


def test_distances_are_measured_in_micrometres() -> None:
    near, far = np.zeros((2, 3, 40, 40), bool)
    near[0, 5, :], far[0, 8, :] = True, True
    assert hausdorff_distance(whole(near, far, (1, 0.5, 0.1))) == 1.5
    assert count_near(whole(near, far, (1, 0.5, 0.1)), 1.5) == (40, 40, 40, 40)
    assert hausdorff_distance(whole(near, far, (1, 0.5, 0.1), reach=1.4)) == np.inf


@pytest.mark.parametrize(
    ("truth", "found", "f1"), [(0, 0, 1), (5, 0, 0), (0, 5, 0)], ids=["both empty", "empty result", "empty truth"]
)
def test_boundaries_of_empty_images(truth: int, found: int, f1: float) -> None:
    counts = Near(0, truth, 0, found)
    assert boundary_f1(counts) == f1
