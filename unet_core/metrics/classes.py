"""Objects and their classes: one class alone, and which class was found where another one is (confusion)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from unet_core.metrics.contingency import Contingency, add
from unet_core.metrics.matching import matched_pairs

# Least IoU of two objects whose classes are compared.
CONFUSION_IOU = 0.5


def of_class(table: Contingency, of_truth: np.ndarray, of_found: np.ndarray) -> Contingency:
    """Table of the objects of one class, in which those of all others are background.

    Parameters
    ----------
    table : Contingency
        Of the image.
    of_truth, of_found : ndarray of int
        Labels of the true and of the found objects of the class.

    Returns
    -------
    Contingency

    Examples
    --------
    >>> table = Contingency(np.array([1, 2]), np.array([5, 6]), np.array([9, 4]))
    >>> own = of_class(table, np.array([1]), np.array([6]))
    >>> [tuple(map(int, row)) for row in zip(own.truth, own.found, own.voxels)]
    [(0, 6, 4), (1, 0, 9)]
    """
    truth = np.where(np.isin(table.truth, of_truth), table.truth, 0)
    return add([Contingency(truth, np.where(np.isin(table.found, of_found), table.found, 0), table.voxels)])


def confusion(table: Contingency, of_truth: dict[int, str], of_found: dict[int, str]) -> Counter[tuple[str, str]]:
    """How many objects of each class were found as which class, whatever their class matched at an IoU of 0.5.

    Parameters
    ----------
    table : Contingency
        Of the image.
    of_truth, of_found : dict
        Label -> name of its class.

    Returns
    -------
    Counter
        (true class, found class) -> objects. The found class of a missed object is empty, as is the true class of a
        spurious one.
    """
    truth, found = table.truth_sizes()[0].tolist(), table.found_sizes()[0].tolist()
    i, j, _ = matched_pairs(table, CONFUSION_IOU)
    pairs = [
        (of_truth.get(truth[a], ""), of_found.get(found[b], "")) for a, b in zip(i.tolist(), j.tolist(), strict=True)
    ]
    missed = [(of_truth.get(truth[a], ""), "") for a in sorted({*range(len(truth))} - {*i.tolist()})]
    spurious = [("", of_found.get(found[b], "")) for b in sorted({*range(len(found))} - {*j.tolist()})]
    return Counter([*pairs, *missed, *spurious])
