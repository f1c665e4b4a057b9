"""AJI, DET, entropies and pairs of voxels against their definitions.

The expected values are worked out object by object or by an independent library.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import variation_of_information as skimage_voi

from tests.metrics.test_matching import EMPTY, ONE, Pair, label_pairs
from unet_core.evaluate.sample import score_image
from unet_core.evaluate.step import AT_THRESHOLDS, summarise
from unet_core.metrics import matching as m
from unet_core.metrics.aji import aggregated_jaccard_index
from unet_core.metrics.contingency import Contingency, add, contingency
from unet_core.metrics.det import Detection, count_operations, detection_score
from unet_core.metrics.isbi import v_info, v_rand
from unet_core.metrics.mean_ap import THRESHOLDS, mean_average_precision
from unet_core.metrics.voi import variation_of_information

# Three true objects: the first is split, the others are merged.
TRUTH = np.array([1, 1, 1, 1, 0, 2, 2, 2, 3, 3, 0])
FOUND = np.array([4, 4, 5, 5, 0, 6, 6, 6, 6, 6, 7])


def labels_of(mask: np.ndarray) -> list[int]:
    return [int(label) for label in np.unique(mask) if label]


def own_objects(truth: np.ndarray, found: np.ndarray) -> Pair:
    """True foreground of both, each background voxel of the result with a label of its own."""
    t, f = truth[truth > 0].astype(np.int64), found[truth > 0].astype(np.int64)
    return t, np.where(f > 0, f, 1000 + np.arange(f.size))


def entropy(labels: np.ndarray) -> float:
    p = np.unique(labels, return_counts=True)[1] / labels.size
    return float(-(p * np.log2(p)).sum())


@given(label_pairs())
@settings(deadline=None)
def test_variation_of_information_equals_scikit_image(pair: Pair) -> None:
    truth, found = pair
    expected = skimage_voi(truth, found, ignore_labels=(0,)) if truth.any() else (0, 0)
    assert variation_of_information(contingency(truth, found)) == pytest.approx(tuple(expected), abs=1e-12)


def test_variation_of_information_tells_splits_from_merges() -> None:
    halves, whole = np.array([1, 1, 2, 2]), np.array([3, 3, 3, 3])
    assert variation_of_information(contingency(whole, halves)) == (1, 0)
    assert variation_of_information(contingency(halves, whole)) == (0, 1)


def aji_by_loops(truth: np.ndarray, found: np.ndarray) -> float:
    """Algorithm 1 of Kumar et al. 2017, mask by mask."""
    shared = union = 0
    used = set()
    for t in labels_of(truth):
        best, partner = 0.0, 0
        for f in labels_of(found[truth == t]):
            iou = ((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum()
            if iou > best:
                best, partner = iou, f
        mask = found == partner if partner else np.zeros(found.shape, bool)
        shared += int(((truth == t) & mask).sum())
        union += int(((truth == t) | mask).sum())
        used.add(partner)
    union += sum(int((found == f).sum()) for f in labels_of(found) if f not in used)
    return shared / union if union else 1.0


@given(label_pairs())
@settings(max_examples=300, deadline=None)
def test_aji_equals_the_algorithm_of_the_paper(pair: Pair) -> None:
    assert aggregated_jaccard_index(contingency(*pair)) == aji_by_loops(*pair)


def test_aji_counts_an_object_that_two_take_twice_and_one_that_none_takes_once() -> None:
    # The first takes 4 (2 of 4 voxels), both others take 6 (3 of 5 and 2 of 5); 5 and 7 are left.
    assert aggregated_jaccard_index(contingency(TRUTH, FOUND)) == (2 + 3 + 2) / (4 + 5 + 5 + 2 + 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [([5, 5, 4, 5, 5, 5], 1 / (3 + 5)), ([4, 4, 5, 4, 4, 4], 2 / (6 + 1))],
    ids=["the small one", "the large one"],
)
def test_aji_takes_the_lowest_label_among_equally_good_partners(found: list[int], expected: float) -> None:
    # One shares 1 of 3 voxels with the true object, the other 2 of 6.
    assert aggregated_jaccard_index(contingency(np.array([1, 1, 1, 0, 0, 0]), np.array(found))) == expected


@given(label_pairs(), st.lists(st.sampled_from([0.5, 0.55, 0.6, 0.75, 0.8, 0.9, 0.95]), min_size=1, max_size=4))
@settings(deadline=None)
def test_matchings_at_several_thresholds_equal_those_at_each(pair: Pair, thresholds: list[float]) -> None:
    table = contingency(*pair)
    assert m.matchings(table, thresholds) == [m.match(table, threshold) for threshold in thresholds]


def test_precision_recall_and_the_factors_of_the_panoptic_quality_follow_their_formulas() -> None:
    counts = m.Matching(tp=2, fp=1, fn=3, iou_sum=1.5)
    assert (m.precision(counts), m.recall(counts), m.segmentation_quality(counts)) == (2 / 3, 2 / 5, 0.75)
    assert m.recognition_quality(counts) == 2 / (2 + 1 / 2 + 3 / 2)
    assert m.segmentation_quality(counts) * m.recognition_quality(counts) == m.panoptic_quality(counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0, 0.0), (1, 1, 1, 1)),
        ((0, 0, 1, 0.0), (0, 0, 0, 0)),
        ((0, 1, 0, 0.0), (0, 0, 0, 0)),
        ((0, 1, 1, 0.0), (0, 0, 0, 0)),
    ],
    ids=["both empty", "empty result", "empty truth", "no match"],
)
def test_scores_of_matchings_without_matches(counts: tuple[int, int, int, float], expected: tuple[int, ...]) -> None:
    measures = (m.precision, m.recall, m.segmentation_quality, m.recognition_quality)
    assert tuple(measure(m.Matching(*counts)) for measure in measures) == expected


def test_mean_average_precision_is_the_mean_over_ten_thresholds() -> None:
    # Eight of ten voxels: it matches at 0.50, 0.55 ... 0.80.
    table = contingency(np.ones(10, int), np.repeat([1, 0], [8, 2]))
    assert mean_average_precision(m.matchings(table, THRESHOLDS)) == pytest.approx(7 / 10)
    assert pytest.approx(np.arange(0.5, 1, 0.05)) == THRESHOLDS


def operations_by_loops(truth: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    detected: dict[int, list[int]] = {f: [] for f in labels_of(found)}
    missed = 0
    for t in labels_of(truth):
        by = [f for f in detected if ((truth == t) & (found == f)).sum() > 0.5 * (truth == t).sum()]
        missed += not by
        for f in by:
            detected[f].append(t)
    return sum(max(len(ts) - 1, 0) for ts in detected.values()), missed, sum(not ts for ts in detected.values())


@given(label_pairs())
@settings(max_examples=300, deadline=None)
def test_operations_of_det_equal_a_loop_over_all_objects(pair: Pair) -> None:
    counts = count_operations(contingency(*pair))
    assert counts == (*operations_by_loops(*pair), len(labels_of(pair[0])))


@pytest.mark.parametrize(
    ("truth", "found", "cost"),
    [
        ([1, 1, 2, 2], [7, 7, 8, 8], 0),
        ([1, 1, 2, 2], [7, 7, 7, 7], 5),
        ([1, 1, 2, 2], [7, 7, 0, 0], 10),
        ([1, 1, 2, 2], [7, 7, 8, 0], 10 + 1),
        ([1, 2, 3, 0], [7, 7, 7, 8], 5 * 2 + 1),
        ([0, 1, 0, 0], [7, 0, 8, 9], 10),
    ],
    ids=["the same", "two merged", "one missed", "one half", "three merged, one too many", "worse than nothing"],
)
def test_det_of_small_cases(truth: list[int], found: list[int], cost: int) -> None:
    objects = len(set(truth) - {0})
    assert detection_score(count_operations(contingency(np.array(truth), np.array(found)))) == 1 - cost / (10 * objects)


def test_det_pools_the_operations_of_images() -> None:
    images = [Detection(1, 0, 0, 2), Detection(0, 1, 2, 1)]
    assert detection_score(functools.reduce(Detection.__add__, images)) == 1 - (5 + 10 + 2) / 30


@given(label_pairs())
@settings(deadline=None)
def test_v_rand_equals_the_count_of_all_pairs(pair: Pair) -> None:
    truth, found = own_objects(*pair)
    same_truth, same_found = truth[:, None] == truth, found[:, None] == found
    pairs = int(same_truth.sum() + same_found.sum())
    expected = 2 * int((same_truth & same_found).sum()) / pairs if pairs else 1
    assert v_rand(contingency(*pair)) == pytest.approx(expected)


@given(label_pairs())
@settings(deadline=None)
def test_v_info_equals_the_entropies_of_the_labels(pair: Pair) -> None:
    truth, found = own_objects(*pair)
    total = entropy(truth) + entropy(found)
    information = total - entropy(truth * 10_000 + found)
    assert v_info(contingency(*pair)) == pytest.approx(2 * information / total if total > 1e-12 else 1, abs=1e-9)


def test_scores_of_large_volumes_do_not_overflow() -> None:
    table = Contingency(np.array([1, 2]), np.array([1, 1]), np.array([2**40, 2**40]))
    assert variation_of_information(table) == (0, 1) and aggregated_jaccard_index(table) == 2 / 4
    assert v_rand(table) == pytest.approx(2 / 3) and v_info(table) == 0


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (EMPTY, EMPTY, ((0, 0), 1, None, 1, 1)),
        (ONE, EMPTY, ((0, 0), 0, 0, 2 / 3, 0)),
        (EMPTY, ONE, ((0, 0), 0, None, 1, 1)),
        (ONE, ONE, ((0, 0), 1, 1, 1, 1)),
    ],
    ids=["both empty", "empty result", "empty truth", "the same"],
)
def test_scores_of_empty_images(truth: np.ndarray, found: np.ndarray, expected: tuple[Any, ...]) -> None:
    table = contingency(truth, found)
    voi, det = variation_of_information(table), detection_score(count_operations(table))
    assert (voi, aggregated_jaccard_index(table), det, v_rand(table), v_info(table)) == expected


@given(label_pairs(), st.lists(st.integers(0, 216), max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_all_scores_are_the_same_for_any_blocks(pair: Pair, cuts: list[int], random: Any) -> None:
    truth, found = (np.split(labels.ravel(), sorted(cuts)) for labels in pair)
    tables = [contingency(t, f) for t, f in zip(truth, found, strict=True)]
    random.shuffle(tables)
    assert score_image(add(tables), [0.5, 0.75]) == score_image(contingency(*pair), [0.5, 0.75])


@given(label_pairs(), st.data())
@settings(deadline=None)
def test_all_scores_are_the_same_whatever_lies_under_the_ignore_mask(pair: Pair, data: st.DataObject) -> None:
    truth, found = pair
    ignore = np.array(data.draw(st.lists(st.booleans(), min_size=truth.size, max_size=truth.size))).reshape(truth.shape)
    others = [np.where(ignore, data.draw(st.integers(0, 9)), labels) for labels in pair]
    expected = score_image(contingency(truth[~ignore], found[~ignore]), [0.5])
    assert (
        score_image(contingency(truth, found, ignore), [0.5])
        == score_image(contingency(*others, ignore), [0.5])
        == expected
    )


@given(label_pairs())
@settings(deadline=None)
def test_scores_keep_their_ranges_and_that_of_the_truth_itself_is_perfect(pair: Pair) -> None:
    distances = {"pixel_error", "rand_error", "voi_split", "voi_merge"}
    scores, perfect = (
        summarise([score_image(contingency(pair[0], found), [0.5])], [0.5]) for found in (pair[1], pair[0])
    )
    assert all(
        0 <= value <= (np.log2(5) if "voi" in name else 1) for name, value in scores.items() if value is not None
    )
    assert {name: 0 if name in distances else 1 for name in perfect} == pytest.approx(
        {name: (1 if value is None else value) for name, value in perfect.items()}
    )
    assert {f"{prefix}50" for prefix in AT_THRESHOLDS} <= set(scores)
