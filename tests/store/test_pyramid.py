"""Coarse labels are the most frequent of the fine ones, coarse images their mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unet_core.store.pyramid import halve_image, halve_labels

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None)
@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 3)))
def test_each_coarse_label_is_the_most_frequent_and_of_equals_the_largest(labels: np.ndarray) -> None:
    coarse = halve_labels(labels)
    assert coarse.dtype == labels.dtype and coarse.shape == (
        len(labels),
        -(-labels.shape[1] // 2),
        -(-labels.shape[2] // 2),
    )
    for z, i, j in np.ndindex(coarse.shape):
        values, counts = np.unique(labels[z, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], return_counts=True)
        assert coarse[z, i, j] == values[counts == counts.max()].max()


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_large_labels_stay_what_they_are(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    np.testing.assert_array_equal(halve_labels(np.array([[largest, 0], [largest, 5]], dtype)), [[largest]])


@settings(deadline=None)
@given(arrays(np.uint16, SHAPES))
def test_coarse_pixels_are_means_of_those_there_are(image: np.ndarray) -> None:
    coarse = halve_image(image)
    for z, i, j in np.ndindex(coarse.shape):
        assert abs(coarse[z, i, j] - image[z, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()) <= 0.51
