"""Calibration of probabilities: whether of all voxels of foreground probability 0.8 a share of 0.8 is foreground."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Probabilities are counted as whole 255ths, which is how they are stored by default.
LEVELS = 256
BINS = 10


class Reliability(NamedTuple):
    """Counts of voxels at each level of foreground probability (k / 255), of all and of the true foreground.

    Several may be added up.

    Attributes
    ----------
    voxels, foreground : ndarray of int64, shape (256,)
        Counts.
    """

    voxels: np.ndarray
    foreground: np.ndarray


def count_probabilities(foreground: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> Reliability:
    """Counts of some voxels.

    Parameters
    ----------
    foreground : ndarray of float
        Foreground probability, 0 to 1.
    truth : ndarray, same shape
        True objects; 0 is background.
    ignore : ndarray, optional
        Nonzero where nothing is counted.
    """
    levels = np.rint(foreground * (LEVELS - 1)).astype(np.intp)
    known = np.ones(levels.shape, bool) if ignore is None else ignore == 0
    return Reliability(*(np.bincount(levels[known & wanted], minlength=LEVELS) for wanted in (True, truth > 0)))


def reliability_curve(counts: Reliability) -> list[tuple[float, float, int]]:
    """Mean probability, share of foreground, and number of voxels in ten ranges of probability of equal width.

    Empty ranges are left out.

    Examples
    --------
    >>> counts = count_probabilities(np.array([0, 0.2, 0.2, 1]), np.array([0, 1, 0, 3]))
    >>> [(round(mean, 3), share, voxels) for mean, share, voxels in reliability_curve(counts)]
    [(0.0, 0.0, 1), (0.2, 0.5, 2), (1.0, 1.0, 1)]
    """
    levels = np.arange(LEVELS)
    of_bin = np.minimum(levels * BINS // (LEVELS - 1), BINS - 1)
    voxels, foreground, mass = (
        np.bincount(of_bin, values, BINS)
        for values in (counts.voxels, counts.foreground, counts.voxels * levels / (LEVELS - 1))
    )
    return [
        (float(mass[i] / voxels[i]), float(foreground[i] / voxels[i]), int(voxels[i])) for i in np.flatnonzero(voxels)
    ]


def expected_calibration_error(counts: Reliability) -> float:
    """Mean distance between probability and share of foreground, by ten ranges of equal width.

    The mean is over voxels; without voxels it is NaN.

    References
    ----------
    Guo et al.: On Calibration of Modern Neural Networks. ICML 2017, equation 3 (there of the most probable
    class, here of the foreground).
    """
    curve = reliability_curve(counts)
    total = sum(voxels for *_, voxels in curve)
    return sum(voxels * abs(mean - share) for mean, share, voxels in curve) / total if total else float("nan")
