"""Scores that know of classes, against counting object by object."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.test_matching import Pair, counted, iou_matrix, label_pairs
from unet_core.metrics.classes import confusion, of_class
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import matchings

NAMES = st.dictionaries(st.integers(1, 4), st.sampled_from("ab"))


def named(labels: np.ndarray, names: dict[int, str], name: str) -> np.ndarray:
    """Labels of the objects of a class, in an image of them alone."""
    return np.where(np.isin(labels, [label for label, own in names.items() if own == name]), labels, 0)


@given(label_pairs(), NAMES, NAMES)
def test_the_table_of_a_class_is_that_of_images_of_its_objects_alone(
    pair: Pair, of_truth: dict[int, str], of_found: dict[int, str]
) -> None:
    labels = [np.array([k for k, own in names.items() if own == "a"], np.int64) for names in (of_truth, of_found)]
    expected = contingency(*(named(one, names, "a") for one, names in zip(pair, (of_truth, of_found), strict=True)))
    own = of_class(contingency(*pair), *labels)
    assert counted(own) == counted(expected)
    assert matchings(own, [0.5, 0.75]) == matchings(expected, [0.5, 0.75])


@given(label_pairs(), NAMES, NAMES)
def test_each_object_is_once_in_the_table_of_confusion(
    pair: Pair, of_truth: dict[int, str], of_found: dict[int, str]
) -> None:
    table = contingency(*pair)
    truth, found = (np.unique(labels[labels > 0]).tolist() for labels in pair)
    # More than 0.5, where no object has two partners.
    if ((iou := iou_matrix(*pair)) == 0.5).any():
        return
    expected: Counter[tuple[str, str]] = Counter()
    left = set(found)
    for i, label in enumerate(truth):
        partner = [found[j] for j in range(len(found)) if iou[i, j] > 0.5]
        left -= set(partner)
        expected[of_truth.get(label, ""), of_found.get(partner[0], "") if partner else ""] += 1
    for label in left:
        expected["", of_found.get(label, "")] += 1
    assert confusion(table, of_truth, of_found) == expected
