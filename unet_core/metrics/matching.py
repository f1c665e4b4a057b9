"""One-to-one matching of objects by IoU: average precision at a threshold, F1, panoptic quality."""

from __future__ import annotations

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
    """Match true and found objects with an IoU of at least the threshold.

    Parameters
    ----------
    table : Contingency
        Of one image.
    threshold : float
        At least 0.5: then an object can only match one other, and no assignment problem is to be solved. (At exactly
        0.5 two pairs could share an object only if one of them were split into equal halves; the first is taken.)

    Returns
    -------
    Matching
    """
    n_truth, n_found = table.truth_sizes()[0].size, table.found_sizes()[0].size
    i, j, _, iou = table.pairs()
    good = iou >= threshold
    i, j, iou = i[good], j[good], iou[good]
    taken_truth: set[int] = set()
    taken_found: set[int] = set()
    total = 0.0
    for a, b, value in sorted(zip(i.tolist(), j.tolist(), iou.tolist(), strict=True), key=lambda row: (-row[2], row[0], row[1])):
        if a not in taken_truth and b not in taken_found:
            taken_truth.add(a)
            taken_found.add(b)
            total += value
    return Matching(len(taken_truth), n_found - len(taken_truth), n_truth - len(taken_truth), total)


def average_precision(m: Matching) -> float:
    """Return tp / (tp + fp + fn), which the Data Science Bowl and StarDist call average precision; 1 where there are no objects."""
    total = m.tp + m.fp + m.fn
    return m.tp / total if total else 1.0


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
