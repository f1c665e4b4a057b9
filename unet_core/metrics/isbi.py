"""V_rand and V_info, the foreground-restricted F scores of the ISBI 2012 challenge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.metrics.contingency import Contingency


def v_rand(table: Contingency) -> float:
    """F score of the Rand split and merge scores.

    With p the share of voxels in each pair of a true object T and a found one S, and alpha = 0.5::

        V_rand = sum of p(s, t)^2 / (0.5 sum of p(s)^2 + 0.5 sum of p(t)^2)

    Parameters
    ----------
    table : Contingency
        Of one image. Counted are voxels that are not background in the truth (foreground-restricted). Each background
        voxel of the result counts as an object of its own; `adapted_rand_error`, like scikit-image, takes them as one
        object and leaves out pairs of a voxel with itself, and otherwise is 1 - V_rand.

    Returns
    -------
    float
        Above 0 and up to 1 (perfect); 1 where there are no true objects.

    Notes
    -----
    Not done: the challenge thins the borders of the result first (watershed), so that their thickness costs
    nothing, and takes the best score over all thresholds of the boundary map. Here objects are taken as they were
    found.

    References
    ----------
    Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics, 2015.
    """
    shares = _shares(table)
    if not shares.truth.size:
        return 1.0
    # n voxels, each an object of its own, have n squares of one voxel's share.
    alone = shares.background * shares.voxel
    together = _squares(shares.joint) + alone
    return 2 * together / (_squares(shares.truth) + _squares(shares.found) + alone)


def v_info(table: Contingency) -> float:
    """F score of the information-theoretic split and merge scores.

    With I the mutual information and H the entropy, over the same voxels as `v_rand` and with alpha = 0.5::

        V_info = I(S; T) / (0.5 H(S) + 0.5 H(T))

    Parameters
    ----------
    table : Contingency
        Of one image. What is counted and what is not done: as in `v_rand`.

    Returns
    -------
    float
        From 0 to 1 (perfect). 1 where truth and result each are one object in the counted voxels, or where there are
        none.

    References
    ----------
    Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics, 2015.
    """
    shares = _shares(table)
    alone = -shares.background * float(np.log2(shares.voxel))
    of_truth, of_found, of_both = _entropy(shares.truth), _entropy(shares.found) + alone, _entropy(shares.joint) + alone
    if of_truth + of_found <= 0:
        return 1.0
    # Entropies are rounded: the score of labels that have nothing in common could be just below 0.
    return min(max(2 * (of_truth + of_found - of_both) / (of_truth + of_found), 0.0), 1.0)


class _Shares(NamedTuple):
    """Shares of the voxels that are counted.

    There is a share for each pair of objects, each object, the background of the result, and one voxel.
    """

    joint: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    background: float
    voxel: float


def _shares(table: Contingency) -> _Shares:
    in_truth = table.truth > 0
    in_both = in_truth & (table.found > 0)
    total = max(int(table.voxels[in_truth].sum()), 1)
    truth, found = (
        _sums(labels[part], table.voxels[part]) for labels, part in ((table.truth, in_truth), (table.found, in_both))
    )
    background = int(table.voxels[in_truth & ~in_both].sum())
    return _Shares(table.voxels[in_both] / total, truth / total, found / total, background / total, 1 / total)


def _sums(labels: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return np.bincount(np.unique(labels, return_inverse=True)[1], voxels)


def _squares(shares: np.ndarray) -> float:
    return float((shares**2).sum())


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log2(shares)).sum())
