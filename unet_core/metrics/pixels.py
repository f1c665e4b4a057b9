"""Scores of the foreground, or of one class, pixel by pixel: IoU, Dice, pixel error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.metrics.contingency import Contingency


class PixelCounts(NamedTuple):
    """Pixels that are foreground in both, in the result alone, in the truth alone, in neither; may be added up."""

    both: int
    found_only: int
    truth_only: int
    neither: int


def count_pixels(table: Contingency) -> PixelCounts:
    """Foreground counts of one image."""
    return _count(table, table.truth > 0, table.found > 0)


def count_class_pixels(table: Contingency, of_truth: np.ndarray, of_found: np.ndarray) -> PixelCounts:
    """Counts of one class in one image: the foreground is its objects alone.

    Parameters
    ----------
    table : Contingency
        Of the image.
    of_truth, of_found : ndarray of int
        Labels of the true and of the found objects of the class.

    Returns
    -------
    PixelCounts
        Pixels that are an object of another class in one of them count as background there.
    """
    return _count(table, np.isin(table.truth, of_truth), np.isin(table.found, of_found))


def _count(table: Contingency, t: np.ndarray, f: np.ndarray) -> PixelCounts:
    return PixelCounts(*(int(table.voxels[part].sum()) for part in (t & f, ~t & f, t & ~f, ~t & ~f)))


def foreground_iou(counts: PixelCounts) -> float:
    """Intersection over union of the foreground; 1 where both are empty."""
    union = counts.both + counts.found_only + counts.truth_only
    return counts.both / union if union else 1.0


def dice(counts: PixelCounts) -> float:
    """Dice coefficient of the foreground; 1 where both are empty."""
    total = 2 * counts.both + counts.found_only + counts.truth_only
    return 2 * counts.both / total if total else 1.0


def pixel_error(counts: PixelCounts) -> float:
    """Share of pixels whose foreground is wrong (ISBI 2012: membrane or not); 0 where there are no pixels."""
    total = sum(counts)
    return (counts.found_only + counts.truth_only) / total if total else 0.0
