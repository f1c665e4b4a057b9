"""Measures against their definitions, worked out voxel by voxel or by an independent library."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error as skimage_rand_error

from unet_core.metrics.contingency import Contingency, add, contingency
from unet_core.metrics.matching import Matching, average_precision, f1, match, panoptic_quality
from unet_core.metrics.pixels import PixelCounts, count_pixels, dice, foreground_iou, pixel_error
from unet_core.metrics.rand import adapted_rand_error
from unet_core.metrics.seg import seg_scores

Pair = tuple[np.ndarray, np.ndarray]
EMPTY = np.zeros((2, 3), np.uint32)
ONE = np.array([[7, 7, 0], [0, 0, 0]], np.uint32)


@st.composite
def label_pairs(draw: st.DrawFn, lowest: int = 0) -> Pair:
    """Two label images of the same shape, with few labels, so that they often overlap."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6))
    truth, found = (draw(arrays.arrays(np.uint32, shape, elements=st.integers(lowest, 4))) for _ in range(2))
    return truth, found


def counted(table: Contingency) -> dict[tuple[int, int], int]:
    return {(int(t), int(f)): int(n) for t, f, n in zip(table.truth, table.found, table.voxels, strict=True)}


def iou_matrix(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """IoU of every true with every found object."""
    rows = [
        [((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum() for f in np.unique(found[found > 0])]
        for t in np.unique(truth[truth > 0])
    ]
    return np.array(rows).reshape(np.unique(truth[truth > 0]).size, np.unique(found[found > 0]).size)


@given(label_pairs(), st.booleans())
@settings(deadline=None)
def test_contingency_equals_a_loop_over_all_voxels(pair: Pair, with_ignore: bool) -> None:
    truth, found = pair
    ignore = (truth + found) % 3 == 0 if with_ignore else None
    expected = Counter(
        (int(t), int(f))
        for index, t in np.ndenumerate(truth)
        for f in [found[index]]
        if ignore is None or not ignore[index]
    )
    assert counted(contingency(truth, found, ignore)) == expected


@given(label_pairs(), st.lists(st.integers(0, 216), max_size=4))
@settings(deadline=None)
def test_tables_of_blocks_add_up_to_that_of_the_whole_for_any_split(pair: Pair, cuts: list[int]) -> None:
    truth, found = pair
    blocks = zip(np.split(truth.ravel(), sorted(cuts)), np.split(found.ravel(), sorted(cuts)), strict=True)
    assert counted(add(contingency(t, f) for t, f in blocks)) == counted(contingency(truth, found))


def test_contingency_keeps_the_largest_label() -> None:
    largest = 2**32 - 1
    assert counted(contingency(np.array([largest, 1], np.uint32), np.array([1, largest], np.uint32))) == {
        (1, largest): 1,
        (largest, 1): 1,
    }


def test_contingency_of_nothing_but_ignored_voxels_is_empty() -> None:
    table = contingency(ONE, ONE, np.ones_like(ONE))
    assert counted(table) == counted(add([table, table])) == {}
    assert match(table, 0.5) == (0, 0, 0, 0.0) and seg_scores(table).size == 0 and adapted_rand_error(table) == 0


def test_contingency_of_different_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"truth has shape \(2, 3\), but the result has \(3, 2\)"):
        contingency(EMPTY, EMPTY.T)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75, 0.9])
@given(pair=label_pairs())
@settings(max_examples=50, deadline=None)
def test_matching_equals_the_best_assignment(threshold: float, pair: Pair) -> None:
    iou = iou_matrix(*pair)
    good = iou >= threshold
    rows, columns = linear_sum_assignment(-(good + np.where(good, iou, 0) / 1000))
    matched = good[rows, columns]
    tp = int(matched.sum())
    result = match(contingency(*pair), threshold)
    assert result[:3] == (tp, iou.shape[1] - tp, iou.shape[0] - tp)
    assert result.iou_sum == pytest.approx(iou[rows, columns][matched].sum())


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([1, 1, 0], [0, 5, 0], (1, 0, 0, 0.5)),
        ([1, 1, 0], [3, 5, 0], (1, 1, 0, 0.5)),
        ([4, 9, 0], [1, 1, 0], (1, 0, 1, 0.5)),
        ([1, 1, 1, 0], [2, 0, 0, 0], (0, 1, 1, 0.0)),
    ],
    ids=["half an object", "two halves found", "two objects merged", "a third"],
)
def test_an_iou_of_exactly_one_half_matches_one_object_once(
    truth: list[int], found: list[int], expected: tuple[int, int, int, float]
) -> None:
    assert match(contingency(np.array(truth), np.array(found)), 0.5) == expected


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.9])
def test_an_iou_of_exactly_the_threshold_matches(threshold: float) -> None:
    truth, found = np.ones(10, np.uint32), np.zeros(10, np.uint32)
    found[: round(10 * threshold)] = 1
    assert match(contingency(truth, found), threshold).tp == 1


def test_matchings_of_images_add_up() -> None:
    assert Matching(1, 2, 3, 0.75) + Matching(10, 20, 30, 8.0) == Matching(11, 22, 33, 8.75)


def test_scores_of_a_matching_follow_their_formulas() -> None:
    matching = Matching(tp=2, fp=1, fn=3, iou_sum=1.5)
    assert (average_precision(matching), f1(matching), panoptic_quality(matching)) == (2 / 6, 4 / 8, 1.5 / 4)


@given(label_pairs())
@settings(deadline=None)
def test_seg_is_the_jaccard_index_with_the_object_that_covers_more_than_half(pair: Pair) -> None:
    truth, found = pair
    expected = []
    for t in np.unique(truth[truth > 0]):
        reference, score = truth == t, 0.0
        for f in np.unique(found[found > 0]):
            segment = found == f
            if (reference & segment).sum() > 0.5 * reference.sum():
                score = (reference & segment).sum() / (reference | segment).sum()
        expected.append(score)
    assert seg_scores(contingency(truth, found)).tolist() == expected


def test_seg_of_an_object_that_is_covered_by_exactly_one_half_is_zero() -> None:
    assert seg_scores(contingency(np.array([1, 1, 2, 2, 2]), np.array([1, 0, 2, 2, 0]))).tolist() == [0, 2 / 3]


@pytest.mark.parametrize("lowest", [0, 1], ids=["with background", "without background"])
@given(data=st.data())
@settings(deadline=None)
def test_adapted_rand_error_equals_scikit_image(lowest: int, data: st.DataObject) -> None:
    truth, found = data.draw(label_pairs(lowest))
    error = adapted_rand_error(contingency(truth, found))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = skimage_rand_error(truth, found, ignore_labels=(0,))[0]
    assert error == pytest.approx(0 if np.isnan(expected) else expected)


def test_adapted_rand_error_of_large_objects_does_not_overflow() -> None:
    table = Contingency(np.array([1, 2]), np.array([1, 1]), np.array([2**40, 2**40]))
    assert adapted_rand_error(table) == pytest.approx(1 / 3)


@given(label_pairs())
@settings(deadline=None)
def test_pixel_scores_equal_those_of_the_masks(pair: Pair) -> None:
    truth, found = pair[0] > 0, pair[1] > 0
    both, either, wrong = (truth & found).sum(), (truth | found).sum(), (truth != found).sum()
    counts = count_pixels(contingency(*pair))
    assert counts == (both, (found & ~truth).sum(), (truth & ~found).sum(), (~truth & ~found).sum())
    assert foreground_iou(counts) == (both / either if either else 1)
    assert dice(counts) == (2 * both / (truth.sum() + found.sum()) if either else 1)
    assert pixel_error(counts) == wrong / truth.size


@pytest.mark.parametrize(
    ("truth", "found", "matching", "ap", "seg", "iou", "rand"),
    [
        (EMPTY, EMPTY, (0, 0, 0, 0), 1, [], 1, 0),
        (ONE, EMPTY, (0, 0, 1, 0), 0, [0], 0, 0),
        (EMPTY, ONE, (0, 1, 0, 0), 0, [], 0, 0),
        (ONE, ONE, (1, 0, 0, 1), 1, [1], 1, 0),
    ],
    ids=["both empty", "empty result", "empty truth", "the same"],
)
def test_scores_of_empty_images(
    truth: np.ndarray,
    found: np.ndarray,
    matching: tuple[int, ...],
    ap: float,
    seg: list[float],
    iou: float,
    rand: float,
) -> None:
    table = contingency(truth, found)
    result = match(table, 0.5)
    assert result == matching and seg_scores(table).tolist() == seg
    assert average_precision(result) == f1(result) == panoptic_quality(result) == ap
    assert foreground_iou(count_pixels(table)) == dice(count_pixels(table)) == iou
    assert adapted_rand_error(table) == rand


def test_pixel_error_of_no_pixels_is_zero() -> None:
    assert pixel_error(PixelCounts(0, 0, 0, 0)) == 0
