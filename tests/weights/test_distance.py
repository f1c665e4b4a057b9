"""Two nearest objects, ridges and growth, against one distance transform per object."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import find_boundaries

from unet_core.weights.distance import outermost_voxels, separate, two_nearest

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


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.5]), st.sampled_from(SPACINGS))
@settings(max_examples=40, deadline=None)
def test_a_ridge_takes_the_voxels_that_have_another_object_within_half_its_width(
    seed: int, width: float, spacing: tuple
) -> None:
    labels = random_labels(seed, (3, 14, 14), 8)
    expected = labels.copy()
    for label in np.unique(labels[labels > 0]):
        others = (labels > 0) & (labels != label)
        distance = (
            ndimage.distance_transform_edt(~others, sampling=spacing) if others.any() else np.full(labels.shape, np.inf)
        )
        expected[(labels == label) & (distance <= width / 2)] = 0
    np.testing.assert_array_equal(separate(labels, spacing, width), expected)
