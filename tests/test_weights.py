"""The weight map is the paper's, and does not depend on blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_distance import distances_one_by_one, random_labels
from unet_core.blocks import Grid
from unet_core.config import IGNORE, Weights
from unet_core.weights import border_term, cutoff, halo, target_and_border

CFG = Weights(sigma=2.0, tolerance=1e-4)


@given(st.integers(0, 10**6), st.integers(0, 10), st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)]))
@settings(max_examples=40, deadline=None)
def test_border_term_equals_the_formula_with_one_transform_per_object(seed: int, objects: int, spacing: tuple) -> None:
    labels = random_labels(seed, (2, 24, 24), objects)
    d1, d2 = distances_one_by_one(labels, spacing)[:2]
    expected = CFG.w0 * np.exp(-((d1 + d2) ** 2) / (2 * CFG.sigma**2))
    expected[labels > 0] = 0
    border = border_term(labels, spacing, CFG)
    above = expected > CFG.tolerance * (1 + 1e-3)
    assert np.abs(border - expected)[above].max(initial=0) <= 1e-6 * CFG.w0
    assert border[~above].max(initial=0) <= CFG.tolerance * (1 + 1e-3)


def test_the_cutoff_is_where_the_term_falls_to_the_tolerance() -> None:
    assert CFG.w0 * np.exp(-(cutoff(CFG) ** 2) / (2 * CFG.sigma**2)) == pytest.approx(CFG.tolerance)
    assert cutoff(Weights(w0=0)) == 0


@pytest.mark.parametrize("block", [(1, 5, 7), (2, 16, 4), (9, 40, 40)])
def test_blocks_with_their_halo_give_the_same_map_bit_for_bit(block: tuple[int, int, int]) -> None:
    spacing = (2.0, 1.0, 1.0)
    labels = random_labels(3, (4, 37, 33), 14)
    classes, ignore = (labels > 0).astype(np.uint8), np.zeros(labels.shape, np.uint8)
    ignore[:, 5:9, 5:9] = 1
    whole = target_and_border(labels, classes, ignore, spacing, CFG)
    for write in Grid(labels.shape, block):
        read = write.grow(halo(CFG, spacing)).clip(labels.shape)
        part = target_and_border(labels[read.slices], classes[read.slices], ignore[read.slices], spacing, CFG)
        for ours, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours[write.within(read).slices], expected[write.slices])


def test_touching_objects_are_separated_and_the_ridge_weighs_most() -> None:
    labels = np.zeros((1, 9, 12), np.uint32)
    labels[0, 2:7, 1:6], labels[0, 2:7, 6:11] = 7, 9
    target, border = target_and_border(labels, (labels > 0).astype(np.uint8) * 3, np.zeros_like(labels), (1.0, 1.0, 1.0), CFG)
    assert target[0, 4].tolist() == [0, 3, 3, 3, 3, 0, 0, 3, 3, 3, 3, 0]
    assert border[0, 4, 5] == border[0, 4, 6] == pytest.approx(10 * np.exp(-(3**2) / 8)) == border.max()


def test_ignored_voxels_have_target_255_and_no_weight() -> None:
    labels = np.zeros((1, 1, 7), np.uint32)
    labels[0, 0, [1, 5]] = 1, 2
    ignore = np.array([[[0, 0, 0, 1, 0, 1, 0]]])
    target, border = target_and_border(labels, labels.astype(np.uint8), ignore, (1.0, 1.0, 1.0), CFG)
    assert target.ravel().tolist() == [0, 1, 0, IGNORE, 0, IGNORE, 0]
    assert border.ravel()[3] == 0 and border.ravel()[2] > 0


@pytest.mark.parametrize("labels", [np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((2, 3, 4)), np.ones((1, 4, 4))])
def test_without_a_second_object_there_is_no_border_term(labels: np.ndarray) -> None:
    assert border_term(labels.astype(np.uint32), (1.0, 1.0, 1.0), CFG).tolist() == np.zeros(labels.shape).tolist()
