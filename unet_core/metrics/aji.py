"""AJI, the aggregated Jaccard index of the nuclei challenges."""

from __future__ import annotations

import numpy as np

from unet_core.metrics.contingency import Contingency


def aggregated_jaccard_index(table: Contingency) -> float:
    """Aggregated Jaccard index (AJI) of the objects of an image.

    Its numerator is the shared voxels of all true objects and their best partners.
    Its denominator is the voxels of their unions, and of the found objects that no true object took.

    Each true object takes the found object with which its IoU is highest::

        AJI = sum of |T and S(T)| / (sum of |T or S(T)| + sum of |S| over the found objects that none took)

    As in the original, a found object may be taken by several true ones, and its voxels then count each time; a true
    object that nothing touches adds its own size to the union. Among equally good partners that of the lowest label is
    taken.

    Parameters
    ----------
    table : Contingency
        Of one image.

    Returns
    -------
    float
        From 0 to 1 (perfect). 1 where neither has objects, 0 where only one of them has.

    References
    ----------
    Kumar et al.: A dataset and a technique for generalized nuclear segmentation for computational pathology, IEEE
    Transactions on Medical Imaging 2017, algorithm 1.
    """
    (_, truth_sizes), (_, found_sizes) = table.truth_sizes(), table.found_sizes()
    i, j, shared, iou = table.pairs()
    # The best pair of each true object comes first in its group.
    order = np.lexsort((j, -iou, i))
    first = order[np.unique(i[order], return_index=True)[1]]
    i, j, shared = i[first], j[first], shared[first]
    taken = np.zeros(found_sizes.size, bool)
    taken[j] = True
    # The unions: sizes of all true objects, of the partner of each, less what they share.
    union = int(truth_sizes.sum() + found_sizes[j].sum() - shared.sum() + found_sizes[~taken].sum())
    return int(shared.sum()) / union if union else 1.0
