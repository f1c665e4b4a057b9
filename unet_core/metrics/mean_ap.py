"""Mean average precision over IoU thresholds from 0.50 to 0.95."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet_core.metrics.matching import Matching, average_precision

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def mean_average_precision(matchings: Sequence[Matching]) -> float:
    """Mean of tp / (tp + fp + fn) over the thresholds.

    This is the measure of the Data Science Bowl 2018. It is not the one of COCO, which ranks objects by confidence:
    objects here have none.

    Parameters
    ----------
    matchings : sequence of Matching
        One for each of `THRESHOLDS`, of one image or the sums of those of a data set. (The Bowl took the mean over
        images; sums count each object alike.)

    Returns
    -------
    float
        From 0 to 1 (perfect). 1 where neither has objects, 0 where only one of them has.

    References
    ----------
    Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods 2019.
    """
    return float(np.mean([average_precision(matching) for matching in matchings]))
