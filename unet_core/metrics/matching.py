"""One-to-one matching of objects by IoU, and the scores that follow from it.

These are average precision, precision, recall, F1, panoptic quality and its two factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unet_core.metrics.contingency import Contingency


class Matching(NamedTuple):
    """Counts at one threshold; those of several images may be added up."""

    tp: int
    fp: int
    fn: int
    iou_sum: float

    def __add__(self, other: Matching) -> Matching:  # type: ignore[override]
        """Add the counts of both."""
        return Matching(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum)


def match(table: Contingency, threshold: float) -> Matching:
    """Match true and found objects with an IoU of at least the threshold; see `matchings`."""
    return matchings(table, [threshold])[0]


def matchings(table: Contingency, thresholds: Sequence[float]) -> list[Matching]:
    """Match true and found objects with an IoU of at least each threshold.

    Parameters
    ----------
    table : Contingency
        Of one image.
    thresholds : sequence of float
        Each at least 0.5: then an object can only match one other, and no assignment problem is to be solved. (At
        exactly 0.5 two pairs could share an object only if one of them were split into equal halves; the first is
        taken.)

    Returns
    -------
    list of Matching
        One per threshold.
    """
    n_truth, n_found = table.truth_sizes()[0].size, table.found_sizes()[0].size
    matched = matched_pairs(table, min(thresholds))[2]
    kept = [matched[matched >= threshold] for threshold in thresholds]
    return [
        Matching(values.size, n_found - values.size, n_truth - values.size, sum(values.tolist(), 0.0))
        for values in kept
    ]


def matched_pairs(table: Contingency, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of objects that match.

    Parameters
    ----------
    table : Contingency
        Of one image.
    threshold : float
        Least IoU, at least 0.5.

    Returns
    -------
    truth_index, found_index : ndarray of int
        Positions in `Contingency.truth_sizes` and `Contingency.found_sizes`.
    iou : ndarray of float
        From the highest down, so that a higher threshold has the first of the same pairs.
    """
    i, j, _, iou = table.pairs()
    good = np.flatnonzero(iou >= threshold)
    order = good[np.lexsort((j[good], i[good], -iou[good]))]
    i, j, iou = i[order], j[order], iou[order]
    taken_truth: set[int] = set()
    taken_found: set[int] = set()
    kept = []
    for n, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        if a not in taken_truth and b not in taken_found:
            taken_truth.add(a)
            taken_found.add(b)
            kept.append(n)
    return i[kept], j[kept], iou[kept]


def average_precision(m: Matching) -> float:
    """Return tp / (tp + fp + fn); 1 where there are no objects.

    The Data Science Bowl and StarDist call this average precision.
    """
    total = m.tp + m.fp + m.fn
    return m.tp / total if total else 1.0


def precision(m: Matching) -> float:
    """Return tp / (tp + fp), the share of found objects that match.

    Where nothing was found it is 1 if nothing was there, else 0.
    """
    return m.tp / (m.tp + m.fp) if m.tp + m.fp else float(m.fn == 0)


def recall(m: Matching) -> float:
    """Return tp / (tp + fn), the share of true objects that match.

    Where no true objects are it is 1 if nothing was found, else 0.
    """
    return m.tp / (m.tp + m.fn) if m.tp + m.fn else float(m.fp == 0)


def f1(m: Matching) -> float:
    """Return 2 tp / (2 tp + fp + fn); 1 where there are no objects."""
    total = 2 * m.tp + m.fp + m.fn
    return 2 * m.tp / total if total else 1.0


def panoptic_quality(m: Matching) -> float:
    """Sum of the IoU of matches / (tp + fp / 2 + fn / 2); 1 where there are no objects.

    References
    ----------
    Kirillov et al.: Panoptic segmentation, CVPR 2019.
    """
    total = m.tp + (m.fp + m.fn) / 2
    return m.iou_sum / total if total else 1.0


def segmentation_quality(m: Matching) -> float:
    """Mean IoU of the matches (SQ): together with RQ a factor of the panoptic quality.

    It is 0 without a match, and 1 where there are no objects.
    """
    return m.iou_sum / m.tp if m.tp else float(m.fp + m.fn == 0)


def recognition_quality(m: Matching) -> float:
    """Return tp / (tp + fp / 2 + fn / 2) (RQ), the other factor of the panoptic quality. It equals `f1`."""
    return f1(m)
