"""How sure a score is: intervals from images drawn again with replacement (bootstrap)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95
# Images drawn at once, so that memory does not grow with their number.
MAX_DRAWS_AT_ONCE = 2**22


class Sums(NamedTuple):
    """A score as it follows from images: the sum of `over` of all images divided by the sum of their `under`.

    Attributes
    ----------
    over, under : ndarray of float, shape (images,)
        What each image adds.
    empty : float
        The score where the images add up to nothing; NaN if there is none.
    """

    over: np.ndarray
    under: np.ndarray
    empty: float


class Interval(NamedTuple):
    """Ends of a 95 % interval."""

    low: float
    high: float


def intervals(scores: dict[str, Sums]) -> dict[str, Interval | None]:
    """95 % percentile intervals of scores of one set of images, drawn together.

    Parameters
    ----------
    scores : dict
        Name -> sums of the same images in the same order.

    Returns
    -------
    dict
        None where there are fewer than two images or the score never has a value. The random numbers are always the
        same.

    Notes
    -----
    Images are drawn, not objects: objects of an image are alike. With few images intervals are too narrow.

    References
    ----------
    Efron and Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13.
    """
    return {name: _interval(values) for name, values in _resampled(scores).items()}


def differences(before: dict[str, Sums], after: dict[str, Sums]) -> dict[str, Interval | None]:
    """95 % percentile intervals of `after` - `before`, of the same images in the same order, drawn in pairs."""
    old, new = _resampled(before), _resampled(after)
    return {name: _interval(new[name] - old[name]) for name in new}


def score(sums: Sums) -> float:
    """The score of all images together."""
    under = float(sums.under.sum())
    return float(sums.over.sum()) / under if under else sums.empty


def _resampled(scores: dict[str, Sums]) -> dict[str, np.ndarray]:
    """Score of each resample; the same images are drawn for all scores, and in each call."""
    count = len(next(iter(scores.values())).over) if scores else 0
    rng = np.random.default_rng(SEED)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    left = RESAMPLES if count > 1 else 0
    while left:
        rows = min(left, max(1, MAX_DRAWS_AT_ONCE // count))
        drawn = rng.multinomial(count, np.full(count, 1 / count), rows)
        for name, sums in scores.items():
            over, under = drawn @ sums.over, drawn @ sums.under
            parts[name].append(np.where(under > 0, over / np.where(under > 0, under, 1), sums.empty))
        left -= rows
    return {name: np.concatenate(values) if values else np.empty(0) for name, values in parts.items()}


def _interval(values: np.ndarray) -> Interval | None:
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(low, high)
