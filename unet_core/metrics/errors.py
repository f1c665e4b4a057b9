"""What became of each object: matched, missed, split, merged; and which found objects are spurious."""

from __future__ import annotations

import numpy as np
import pandas as pd

from unet_core.metrics.contingency import Contingency
from unet_core.metrics.matching import matched_pairs

# IoU from which a true and a found object match.
MATCH_IOU = 0.5


def object_errors(table: Contingency) -> pd.DataFrame:
    """Best match and kind of error of each true object, and the spurious found ones.

    A true object is

    - *matched* if a found object matches it with an IoU of at least 0.5;
    - else *merged* if a found object covers more than half of it, and more than half of another true object too;
    - else *split* if at least two found objects that match nothing lie in it by more than half;
    - else *missed*.

    A found object is *spurious* if it matches nothing and neither merges nor splits an object as above.

    Parameters
    ----------
    table : Contingency
        Of one image.

    Returns
    -------
    DataFrame
        `label` (0 for a spurious object), `voxels` (of the true object; of the found one where it is spurious),
        `best_iou` (highest IoU with any object of the other side), `match` (label of the found object that has it, 0
        for none; that of the spurious object itself), `kind`. True objects in the order of labels, then the spurious
        ones.
    """
    (labels, sizes), (found_labels, found_sizes) = table.truth_sizes(), table.found_sizes()
    i, j, shared, iou = table.pairs()
    best, partner = _best(i, found_labels[j], iou, labels.size)
    matched_truth, matched_found, value = matched_pairs(table, MATCH_IOU)
    best[matched_truth], partner[matched_truth] = value, found_labels[matched_found]
    matched, found_matched = np.zeros(labels.size, bool), np.zeros(found_labels.size, bool)
    matched[matched_truth], found_matched[matched_found] = True, True

    covers = 2 * shared > sizes[i]
    merges = (np.bincount(j[covers], minlength=found_labels.size) > 1)[j] & covers & ~matched[i]
    merged = np.bincount(i[merges], minlength=labels.size) > 0
    fragment = (2 * shared > found_sizes[j]) & ~found_matched[j] & ~(matched | merged)[i]
    split = np.bincount(i[fragment], minlength=labels.size) > 1

    kind = np.select([matched, merged, split], ["matched", "merged", "split"], "missed")
    explained = found_matched.copy()
    explained[j[merges]] = True
    explained[j[fragment & split[i]]] = True
    spurious = np.flatnonzero(~explained)
    best_of_found = _best(j, labels[i], iou, found_labels.size)[0]
    return pd.DataFrame(
        {
            "label": np.concatenate([labels, np.zeros(spurious.size, np.int64)]),
            "voxels": np.concatenate([sizes, found_sizes[spurious]]),
            "best_iou": np.concatenate([best, best_of_found[spurious]]),
            "match": np.concatenate([partner, found_labels[spurious]]),
            "kind": np.concatenate([kind.astype(object), np.full(spurious.size, "spurious", object)]),
        }
    )


def _best(of: np.ndarray, labels: np.ndarray, iou: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Highest IoU of each object, and the label that has it; of several the lowest."""
    best, partner = np.zeros(count), np.zeros(count, np.int64)
    # The last of equal positions is what stays.
    order = np.lexsort((-labels, iou))
    best[of[order]], partner[of[order]] = iou[order], labels[order]
    return best, partner
