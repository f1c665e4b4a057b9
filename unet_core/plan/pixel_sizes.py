"""Pixel sizes of the data sets of a model, and those that differ much from what it learnt: nothing is resampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

Sizes = dict[str, list[float]]

# A model finds objects that are this much larger or smaller than those that it learnt from less well, or not at all.
FACTOR = 1.5
# What stands in the stores where neither files nor configuration tell a size.
UNKNOWN = 1.0


def size_of(samples: Iterable[Sequence[float]]) -> list[float] | None:
    """Median size (z, y, x), in micrometres, over the samples of a data set; None where it is not known."""
    columns = list(zip(*samples, strict=True))
    size = [float(median(column)) for column in columns]
    return size if any(value != UNKNOWN for value in size[1:]) else None


def differences(sizes: Sizes, learnt: Sizes, volumes: bool) -> list[str]:
    """Data sets whose pixels have another size than all that a model learnt from, a sentence each.

    Parameters
    ----------
    sizes : dict
        Data set -> size of its pixels, of those that the model is applied to, where it is known.
    learnt : dict
        The same of those that it was trained on.
    volumes : bool
        Whether the network is 3D, so that the distance of planes counts too.

    Examples
    --------
    >>> differences({"new": [1, 0.125, 0.125]}, {"old": [1, 0.5, 0.5]}, volumes=False)[0][:73]
    'data set new has pixels of 0.125 x 0.125 micrometres (y, x), but the mode'
    """
    first, axes = (0, "z, y, x") if volumes else (1, "y, x")
    told = []
    for dataset, size in sizes.items():
        if learnt and all(_factor(size[first:], known[first:]) > FACTOR for known in learnt.values()):
            listed = "; ".join(f"{_text(known[first:])} in {name}" for name, known in learnt.items())
            told.append(
                f"data set {dataset} has pixels of {_text(size[first:])} micrometres ({axes}), but the model learnt "
                f"from {listed}: images are not resampled, so that objects have other sizes than it knows; bring the "
                "images to that size, or correct pixel_size"
            )
    return told


def _factor(one: Sequence[float], other: Sequence[float]) -> float:
    """By how much two sizes differ, along the axis where they differ most."""
    known = [(a, b) for a, b in zip(one, other, strict=True) if UNKNOWN not in (a, b)]
    return max((max(a / b, b / a) for a, b in known), default=1.0)


def _text(size: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in size)
