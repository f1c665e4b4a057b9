"""Variation of information, as its two parts: how much is split, how much is merged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.metrics.contingency import Contingency


class VariationOfInformation(NamedTuple):
    """Conditional entropies in bits; the sum of both is the distance."""

    split: float
    merge: float


def variation_of_information(table: Contingency) -> VariationOfInformation:
    """Entropy of the result given the truth (split) and of the truth given the result (merge).

    With p the share of voxels in each pair of a true object T and a found one S::

        split = H(S | T) = -sum of p(s, t) log2(p(s, t) / p(t))
        merge = H(T | S) = -sum of p(s, t) log2(p(s, t) / p(s))

    Parameters
    ----------
    table : Contingency
        Of one image. Counted are voxels that are not background in the truth; background of the result counts as one
        object, as in `adapted_rand_error`, so that two objects that were missed count as merged.

    Returns
    -------
    VariationOfInformation
        Each from 0 (perfect) to the logarithm of the number of objects; both 0 where there are no true objects.

    References
    ----------
    Meila: Comparing clusterings - an information based distance, Journal of Multivariate Analysis 2007.
    Split and merge: Nunez-Iglesias et al.: Machine learning of hierarchical clustering to segment 2D and 3D images,
    PLoS ONE 2013.
    """
    objects = table.truth > 0
    voxels = table.voxels[objects].astype(np.float64)
    if not voxels.size:
        return VariationOfInformation(0.0, 0.0)
    # Plus 0.0, so that a perfect score is not written as -0.
    split, merge = (
        float(-(voxels * np.log2(voxels / _size_of_each(labels[objects], voxels))).sum() / voxels.sum() + 0.0)
        for labels in (table.truth, table.found)
    )
    return VariationOfInformation(split, merge)


def _size_of_each(labels: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """For each pair the size of the object that `labels` names."""
    _, index = np.unique(labels, return_inverse=True)
    return np.bincount(index, voxels)[index]
