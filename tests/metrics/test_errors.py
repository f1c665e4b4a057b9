"""Kinds of errors of objects, in cases written out by hand and against a loop over masks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from tests.metrics.test_matching import EMPTY, ONE, Pair, label_pairs
from unet_core.metrics.contingency import contingency
from unet_core.metrics.errors import object_errors
from unet_core.metrics.matching import match


def rows(truth: list[int], found: list[int]) -> list[tuple[int, int, float, int, str]]:
    table = object_errors(contingency(np.array(truth), np.array(found)))
    return [(int(a), int(b), float(c), int(d), str(e)) for a, b, c, d, e in table.itertuples(index=False)]


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([1, 1, 1, 0], [7, 7, 7, 0], [(1, 3, 1, 7, "matched")]),
        ([1, 1, 1, 0], [0, 0, 0, 0], [(1, 3, 0, 0, "missed")]),
        # Touched by an object that is mostly elsewhere: the object is missed, the other one spurious.
        ([1, 1, 1, 0, 0], [0, 0, 7, 7, 7], [(1, 3, 1 / 5, 7, "missed"), (0, 3, 1 / 5, 7, "spurious")]),
        ([1, 1, 1, 1, 1, 0], [7, 7, 0, 8, 8, 0], [(1, 5, 2 / 5, 7, "split")]),
        # The larger part matches, the other one is too much.
        ([1, 1, 1, 1, 1, 0], [7, 7, 7, 8, 8, 0], [(1, 5, 3 / 5, 7, "matched"), (0, 2, 2 / 5, 8, "spurious")]),
        (
            [1] * 10,
            [7] * 6 + [8, 8, 9, 9],
            [(1, 10, 6 / 10, 7, "matched"), (0, 2, 2 / 10, 8, "spurious"), (0, 2, 2 / 10, 9, "spurious")],
        ),
        ([1, 1, 0, 2, 2], [7, 7, 7, 7, 7], [(1, 2, 2 / 5, 7, "merged"), (2, 2, 2 / 5, 7, "merged")]),
        # The larger of two objects that were joined matches, the small one is merged.
        ([1, 1, 1, 1, 2], [7, 7, 7, 7, 7], [(1, 4, 4 / 5, 7, "matched"), (2, 1, 1 / 5, 7, "merged")]),
        ([0, 0, 0], [7, 7, 0], [(0, 2, 0, 7, "spurious")]),
        # One found object, far too large: the only true one in it is not merged with anything.
        ([0, 0, 0, 1, 0], [7, 7, 7, 7, 7], [(1, 1, 1 / 5, 7, "missed"), (0, 5, 1 / 5, 7, "spurious")]),
    ],
    ids=["matched", "missed", "touched", "split", "part", "parts", "merged", "swallowed", "spurious", "too large"],
)
def test_kinds_of_errors_by_hand(
    truth: list[int], found: list[int], expected: list[tuple[int, int, float, int, str]]
) -> None:
    assert rows(truth, found) == expected


@given(label_pairs())
@settings(max_examples=300, deadline=None)
def test_kinds_agree_with_the_matching_and_with_the_masks(pair: Pair) -> None:
    truth, found = pair
    table = object_errors(contingency(truth, found))
    counts, kinds = match(contingency(truth, found), 0.5), Counter(table["kind"])
    assert kinds["matched"] == counts.tp and kinds["missed"] + kinds["split"] + kinds["merged"] == counts.fn
    assert kinds["spurious"] <= counts.fp
    assert table["label"][table["kind"] != "spurious"].tolist() == np.unique(truth[truth > 0]).tolist()
    for row in table.itertuples():
        mask = truth == row.label if row.label else found == row.match
        others = found if row.label else truth
        ious = [((others == o) & mask).sum() / ((others == o) | mask).sum() for o in np.unique(others[mask]) if o]
        assert row.voxels == mask.sum() and row.best_iou == pytest.approx(max(ious, default=0))
        if row.label:
            own = found == row.match
            assert (row.match == 0) == (not ious) and (
                not ious or (own & mask).sum() / (own | mask).sum() == pytest.approx(row.best_iou)
            )
        covering = (
            [f for f in np.unique(found[mask]) if f and 2 * ((found == f) & mask).sum() > mask.sum()]
            if row.label
            else []
        )
        if row.kind == "merged":
            under = found == covering[0]
            assert sum(2 * ((truth == t) & under).sum() > (truth == t).sum() for t in np.unique(truth[under]) if t) > 1


def test_empty_images_have_no_errors() -> None:
    assert object_errors(contingency(EMPTY, EMPTY)).empty
    assert object_errors(contingency(ONE, EMPTY))["kind"].tolist() == ["missed"]
    assert object_errors(contingency(EMPTY, ONE))["kind"].tolist() == ["spurious"]
