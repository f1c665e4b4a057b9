"""SEG of the Cell Tracking Challenge."""

from __future__ import annotations

import numpy as np

from unet_core.metrics.contingency import Contingency


def seg_scores(table: Contingency) -> np.ndarray:
    """Jaccard index of each true object with the found object that covers more than half of it, else 0.

    SEG is the mean over all true objects of a data set.

    Parameters
    ----------
    table : Contingency
        Of one image.

    Returns
    -------
    ndarray of float
        One value per true object, in the order of labels.

    References
    ----------
    Ulman et al.: An objective comparison of cell-tracking algorithms, Nature Methods 2017.
    """
    _, sizes = table.truth_sizes()
    i, _, shared, iou = table.pairs()
    scores = np.zeros(sizes.size)
    # At most one found object covers more than half of a true one.
    matched = 2 * shared > sizes[i]
    scores[i[matched]] = iou[matched]
    return scores
