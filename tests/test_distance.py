"""Two nearest objects, ridges and growth, against one distance transform per object."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_core.distance import separate, two_nearest

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
    each = [ndimage.distance_transform_edt(labels != label, sampling=spacing) for label in np.unique(labels[labels > 0])]
    return np.sort(np.stack(each + [np.full(labels.shape, np.inf)] * 2), axis=0)


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 6), st.integers(1, 25), st.integers(1, 25)),
    st.integers(0, 12),
    st.sampled_from(SPACINGS),
)
@settings(max_examples=60, deadline=None)
def test_distances_within_reach_equal_one_transform_per_object(
    seed: int, shape: tuple[int, int, int], objects: int, spacing: tuple
) -> None:
    labels = random_labels(seed, shape, objects)
    expected = distances_one_by_one(labels, spacing)
    nearest, second = (np.sqrt(d) for d in two_nearest(labels, spacing, reach=9.0))
    near, far = expected[1] <= 9.0, expected[0] <= 9.0
    np.testing.assert_allclose(nearest[far], expected[0][far], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(second[near], expected[1][near], rtol=1e-6, atol=1e-6)
    assert (second[~near] > 9.0).all()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.5]), st.sampled_from(SPACINGS))
@settings(max_examples=40, deadline=None)
def test_a_ridge_takes_the_voxels_that_have_another_object_within_half_its_width(seed: int, width: float, spacing: tuple) -> None:
    labels = random_labels(seed, (3, 14, 14), 8)
    expected = labels.copy()
    for label in np.unique(labels[labels > 0]):
        others = (labels > 0) & (labels != label)
        distance = ndimage.distance_transform_edt(~others, sampling=spacing) if others.any() else np.full(labels.shape, np.inf)
        expected[(labels == label) & (distance <= width / 2)] = 0
    np.testing.assert_array_equal(separate(labels, spacing, width), expected)
