"""Two nearest objects, ridges and growth, against one distance transform per object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import find_boundaries

from unet_core.weights.distance import is_former_ridge, outermost_voxels, separate, two_nearest

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 1.0, 0.8)]


def random_labels(seed: int, shape: tuple[int, int, int], objects: int) -> np.ndarray:
    """Boxes of different sizes with labels that are not consecutive; later ones cut earlier ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for _ in range(objects):
        start = [rng.integers(0, n) for n in shape]
        labels[tuple(slice(s, s + rng.integers(1, 6)) for s in start)] = rng.integers(1, 2**32, dtype=np.uint64)
    return labels


def distances_one_by_one(labels: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Distance to each object, nearest first: the recipe of most public code."""
    each = [
        ndimage.distance_transform_edt(labels != label, sampling=spacing) for label in np.unique(labels[labels > 0])
    ]
    return np.sort(np.stack(each + [np.full(labels.shape, np.inf)] * 2), axis=0)


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 6), st.integers(1, 25), st.integers(1, 300)),
    st.integers(0, 12),
    st.sampled_from(SPACINGS),
    st.sampled_from([0.0, 3.0, 14.0]),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_distances_within_reach_equal_one_transform_per_object(
    seed: int, shape: tuple[int, int, int], objects: int, spacing: tuple, alone: float, inside: bool
) -> None:
    labels = random_labels(seed, shape, objects)
    d1, d2 = distances_one_by_one(labels, spacing)[:2]
    nearest, second = (np.sqrt(d) for d in two_nearest(labels, spacing, reach=9.0, alone=alone, inside=inside))
    wanted = np.full(shape, True) if inside else labels == 0
    pair = wanted & (d1 + d2 <= 9.0)
    np.testing.assert_allclose(nearest[pair], d1[pair], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(second[pair], d2[pair], rtol=1e-6, atol=1e-6)
    assert (nearest + second)[wanted & ~pair].min(initial=np.inf) > 9.0 * (1 - 1e-6)
    near = wanted & (d1 <= alone)
    np.testing.assert_allclose(nearest[near], d1[near], rtol=1e-6, atol=1e-6)
    assert nearest[wanted & ~near].min(initial=np.inf) > alone * (1 - 1e-6)


@given(st.integers(0, 10**6), st.sampled_from([(1, 20, 17), (4, 9, 12)]))
@settings(max_examples=30, deadline=None)
def test_outlines_are_the_inner_boundaries(seed: int, shape: tuple[int, int, int]) -> None:
    labels = random_labels(seed, shape, 9)
    inner = find_boundaries(np.squeeze(labels), mode="inner").reshape(shape)
    np.testing.assert_array_equal(outermost_voxels(labels), np.where(inner, labels, 0))


def separated_one_by_one(labels: np.ndarray, spacing: tuple[float, float, float], width: float) -> np.ndarray:
    """The ridge by a transform per object, and then by looking at each pair of neighbours.

    Half of the ridge reaches as far as a millionth more of it does, so that rounding decides nothing.
    """
    half = width / 2 * (1 + 1e-6)
    apart = labels.copy()
    for label in np.unique(labels[labels > 0]) if width else ():
        others = (labels > 0) & (labels != label)
        if others.any():
            apart[(labels == label) & (ndimage.distance_transform_edt(~others, sampling=spacing) <= half)] = 0
    parted = apart.copy()
    for axis in (axis for axis in range(3) if width and spacing[axis] > half):
        for place in np.ndindex(*labels.shape):
            there = tuple(p + (n == axis) for n, p in enumerate(place))
            pair = (place, there)
            if there[axis] < labels.shape[axis] and apart[place] != apart[there] and apart[place] and apart[there]:
                parted[max(pair, key=lambda one: apart[one])] = 0
    return parted


def neighbours_of_other_objects(labels: np.ndarray) -> int:
    """How many pairs of voxels share a face and belong to two objects."""
    pairs = [(there[1:], there[:-1]) for there in (np.moveaxis(labels, axis, 0) for axis in range(labels.ndim))]
    return sum(int(((a != b) & (a > 0) & (b > 0)).sum()) for a, b in pairs)


# Distances of voxels along an axis: those of headers are quotients, and the ridges of users are any number.
DISTANCES = st.one_of(
    st.sampled_from([0.5, 1.0, 1.0000001, 1.5, 1.5666666, 2.0, 2.25, 3.0, 0.1 * 3 / 0.3]), st.floats(0.3, 5)
)


@given(
    st.integers(0, 10**6),
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.5]), st.floats(0.1, 5)),
    st.tuples(DISTANCES, DISTANCES, st.just(1.0)),
    st.sampled_from([(3, 12, 12), (1, 16, 16), (5, 5, 9)]),
)
@settings(max_examples=80, deadline=None)
def test_a_ridge_takes_the_voxels_within_half_its_width_and_one_between_those_that_are_farther_apart(
    seed: int, width: float, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    labels = random_labels(seed, shape, 9)
    apart = separate(labels, spacing, width)
    np.testing.assert_array_equal(apart, separated_one_by_one(labels, spacing, width))
    kept = np.unique(apart[apart > 0])
    if width:
        assert neighbours_of_other_objects(apart) == 0
        assert ndimage.label(apart > 0)[1] >= len(kept)


@pytest.mark.parametrize("size", [1.0, 1.0000001, 1 / 0.9999999, 0.1 / 0.1 * 1.0000000001])
def test_a_pixel_size_that_is_rounded_moves_no_ridge(size: float) -> None:
    rows = np.repeat(np.array([1, 1, 1, 2, 2, 2], np.uint32)[None, :, None], 4, axis=2)
    assert separate(rows, (size, size, 1.0), 2)[0, :, 0].tolist() == [1, 1, 0, 0, 2, 2]


def test_planes_far_apart_are_parted_by_one_plane_and_the_smaller_number_keeps_its_own() -> None:
    planes = np.repeat(np.array([4, 4, 2, 2, 0, 9, 9], np.uint32)[:, None, None], 3, axis=1)
    assert separate(planes, (2.5, 1.0, 1.0), 2)[:, 0, 0].tolist() == [4, 0, 2, 2, 0, 9, 9]


def former_separate(labels: np.ndarray, spacing: tuple[float, float, float], width: float) -> np.ndarray:
    """The ridge as version 1 cut it."""
    reach = [int(width / 2 / s) for s in spacing]
    cut = labels.copy()
    for place in np.ndindex(*labels.shape):
        for step in np.ndindex(*(2 * r + 1 for r in reach)):
            offset = [o - r for o, r in zip(step, reach, strict=True)]
            there = tuple(p + o for p, o in zip(place, offset, strict=True))
            near = sum((o * s) ** 2 for o, s in zip(offset, spacing, strict=True)) <= (width / 2) ** 2
            inside = all(0 <= t < n for t, n in zip(there, labels.shape, strict=True))
            if near and inside and labels[there] not in (0, labels[place]):
                cut[place] = 0
    return cut


@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.6, 1.0, 2.0, 3.0, 4.5]),
    st.tuples(st.sampled_from([0.1, 0.75, 1.0, 1.0000001, 1.5, 2.5]), st.sampled_from([0.5, 1.0, 1.2]), st.just(1.0)),
    st.sampled_from([(3, 7, 7), (1, 8, 8), (4, 1, 9)]),
)
@settings(max_examples=60, deadline=None)
def test_ridges_of_the_former_version_are_told_from_others(
    seed: int, width: float, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    labels = random_labels(seed, shape, 8)
    if is_former_ridge(shape, spacing, width):
        np.testing.assert_array_equal(separate(labels, spacing, width), former_separate(labels, spacing, width))


@pytest.mark.parametrize(
    ("shape", "spacing", "width", "former"),
    [
        ((1, 9, 9), (1.0, 1.0, 1.0), 2.0, True),
        ((1, 9, 9), (50.0, 1.0, 1.0), 2.0, True),
        ((9, 9, 9), (1.0, 1.0, 1.0), 2.0, True),
        ((9, 9, 9), (0.4, 0.9, 1.0), 2.0, True),
        ((9, 9, 9), (50.0, 1.0, 1.0), 0.0, True),
        ((2, 9, 9), (1.57, 1.0, 1.0), 2.0, False),
        ((1, 9, 9), (1.0, 1.0000001, 1.0), 2.0, False),
        ((1, 9, 9), (1.0, 1.0, 1.0), 1.0, False),
        ((9, 9, 9), (0.1, 1.0, 1.0), 0.6, False),
    ],
)
def test_results_of_the_former_version_count_where_they_come_out_the_same(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], width: float, former: bool
) -> None:
    assert is_former_ridge(shape, spacing, width) == former
