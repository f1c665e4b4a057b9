"""Adapted Rand error (SNEMI3D, ISBI)."""

from __future__ import annotations

import numpy as np

from unet_core.metrics.contingency import Contingency


def adapted_rand_error(table: Contingency) -> float:
    """1 - F score of voxel pairs, over the voxels that are not background in the truth.

    Parameters
    ----------
    table : Contingency
        Of one image. Background of the result counts as one object, as in scikit-image.

    Returns
    -------
    float
        0 is perfect; 0 as well where the truth has no objects.

    References
    ----------
    Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics, 2015.
    """
    objects = table.truth > 0
    voxels = table.voxels[objects].astype(np.float64)
    if not voxels.size:
        return 0.0
    together = (voxels**2).sum()
    in_truth = (np.bincount(np.unique(table.truth[objects], return_inverse=True)[1], voxels) ** 2).sum()
    in_found = (np.bincount(np.unique(table.found[objects], return_inverse=True)[1], voxels) ** 2).sum()
    return float(1 - 2 * together / (in_truth + in_found))
