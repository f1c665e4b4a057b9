"""Scores of small, medium and large objects."""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = ("small", "medium", "large")


def size_strata(voxels: np.ndarray, seg: np.ndarray, matched: np.ndarray) -> list[dict[str, Any]]:
    """Scores of the smallest, the middle and the largest third of the true objects.

    Parameters
    ----------
    voxels : ndarray of int
        Size of each true object.
    seg : ndarray of float
        Its SEG score.
    matched : ndarray of bool
        Whether a found object matches it at an IoU of 0.5.

    Returns
    -------
    list of dict
        `size` (small, medium or large), `min_voxels`, `max_voxels`, `n_objects`, `seg` (mean) and `recall50`. Objects
        of one size are in one third, so that a third may be missing.
    """
    if not voxels.size:
        return []
    limits = np.quantile(voxels, [1 / 3, 2 / 3], method="inverted_cdf")
    third = np.searchsorted(limits, voxels)
    return [
        {
            "size": name,
            "min_voxels": int(voxels[own].min()),
            "max_voxels": int(voxels[own].max()),
            "n_objects": int(own.sum()),
            "seg": float(seg[own].mean()),
            "recall50": float(matched[own].mean()),
        }
        for number, name in enumerate(NAMES)
        if (own := third == number).any()
    ]
