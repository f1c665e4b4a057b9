"""One-to-one matching of objects by IoU: average precision, precision, recall, F1, panoptic quality and its two factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
        Each at least 0.5: then an object can only match one other, and no assignment problem is to be solved. (At exactly
        0.5 two pairs could share an object only if one of them were split into equal halves; the first is taken.)

    Returns
    -------
    list of Matching
        One per threshold.
    """
    n_truth, n_found = table.truth_sizes()[0].size, table.found_sizes()[0].size
    i, j, _, iou = table.pairs()
    good = iou >= min(thresholds)
    i, j, iou = i[good], j[good], iou[good]
    taken_truth: set[int] = set()
    taken_found: set[int] = set()
    matched = []
    # From the highest IoU down, so that a higher threshold has the first of the same pairs.
    for a, b, value in sorted(zip(i.tolist(), j.tolist(), iou.tolist(), strict=True), key=lambda row: (-row[2], row[0], row[1])):
        if a not in taken_truth and b not in taken_found:
            taken_truth.add(a)
            taken_found.add(b)
            matched.append(value)
    kept = [[value for value in matched if value >= threshold] for threshold in thresholds]
    return [Matching(len(values), n_found - len(values), n_truth - len(values), sum(values, 0.0)) for values in kept]


def average_precision(m: Matching) -> float:
    """Return tp / (tp + fp + fn), which the Data Science Bowl and StarDist call average precision; 1 where there are no objects."""
    total = m.tp + m.fp + m.fn
    return m.tp / total if total else 1.0


def precision(m: Matching) -> float:
    """Return tp / (tp + fp), the share of found objects that match; where nothing was found 1 if nothing was there, else 0."""
    return m.tp / (m.tp + m.fp) if m.tp + m.fp else float(m.fn == 0)


def recall(m: Matching) -> float:
    """Return tp / (tp + fn), the share of true objects that match; where none are there 1 if nothing was found, else 0."""
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
    """Mean IoU of the matches (SQ): with RQ a factor of the panoptic quality; 0 without a match, 1 where there are no objects."""
    return m.iou_sum / m.tp if m.tp else float(m.fp + m.fn == 0)


def recognition_quality(m: Matching) -> float:
    """Return tp / (tp + fp / 2 + fn / 2) (RQ), the other factor of the panoptic quality. It equals `f1`."""
    return f1(m)
