"""DET of the Cell Tracking Challenge: what it costs to mend the detection of objects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.metrics.contingency import Contingency

# Cost of an operation in the challenge.
SPLIT, FALSE_NEGATIVE, FALSE_POSITIVE = 5, 10, 1


class Detection(NamedTuple):
    """Counts of the operations that turn the result into the truth, and of the true objects.

    The counts of several images may be added up.
    """

    splits: int
    false_negatives: int
    false_positives: int
    objects: int

    def __add__(self, other: Detection) -> Detection:  # type: ignore[override]
        """Add the counts of both."""
        return Detection(*(a + b for a, b in zip(self, other, strict=True)))


def count_operations(table: Contingency) -> Detection:
    """Operations on the objects of one image.

    A true object is detected by the found object that covers more than half of it. One that detects n true objects must
    be split n - 1 times; true objects that nothing detects are to be added, found objects that detect nothing to be
    removed.

    Parameters
    ----------
    table : Contingency
        Of one image. The challenge counts markers of the objects (its TRA images), which are smaller than the objects
        and drawn for all of them; here the annotated masks stand in for the markers, so that values can differ from its
        own.

    Returns
    -------
    Detection
    """
    _, sizes = table.truth_sizes()
    i, j, shared, _ = table.pairs()
    # At most one found object covers more than half of a true one.
    detecting = j[2 * shared > sizes[i]]
    detectors = np.unique(detecting).size
    found = table.found_sizes()[0].size
    return Detection(detecting.size - detectors, sizes.size - detecting.size, found - detectors, sizes.size)


def detection_score(counts: Detection) -> float | None:
    """Return DET = 1 - min(AOGM-D, AOGM-D0) / AOGM-D0.

    AOGM-D = 5 splits + 10 false negatives + 1 false positive each; AOGM-D0 is that of an empty result, 10 for each true
    object.

    Parameters
    ----------
    counts : Detection
        Of one image, or the sum of those of a data set.

    Returns
    -------
    float or None
        From 0 (no better than an empty result) to 1 (perfect); None where there are no true objects.

    References
    ----------
    Matula et al.: Cell tracking accuracy measurement based on comparison of acyclic oriented graphs, PLoS
    ONE 2015 (AOGM). Maska et al.: The Cell Tracking Challenge: 10 years of objective benchmarking, Nature Methods 2023
    (DET).
    """
    empty = FALSE_NEGATIVE * counts.objects
    cost = SPLIT * counts.splits + FALSE_NEGATIVE * counts.false_negatives + FALSE_POSITIVE * counts.false_positives
    return 1 - min(cost, empty) / empty if empty else None
