"""Adapted Rand error (SNEMI3D, ISBI)."""

from __future__ import annotations

import numpy as np

from unet_core.metrics.contingency import Contingency


def adapted_rand_error(table: Contingency) -> float:
    """1 - F score of pairs of two voxels, over the voxels that are not background in the truth.

    Parameters
    ----------
    table : Contingency
        Of one image. Background of the result counts as one object, as in scikit-image.

    Returns
    -------
    float
        0 is perfect; 0 as well where there are no pairs, as in an image without true objects.

    References
    ----------
    Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics, 2015.
    """
    objects = table.truth > 0
    voxels = table.voxels[objects]
    in_truth, in_found = (_pairs(_sums(labels[objects], voxels)) for labels in (table.truth, table.found))
    return 1 - 2 * _pairs(voxels) / (in_truth + in_found) if in_truth + in_found else 0.0


def _sums(labels: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return np.bincount(np.unique(labels, return_inverse=True)[1], voxels)


def _pairs(sizes: np.ndarray) -> float:
    """Ordered pairs of different voxels in parts of these sizes."""
    n = sizes.astype(np.float64)
    return float((n * (n - 1)).sum())
