"""Warping error of ISBI 2012: the pixel error that is left when borders may move.

While borders move nothing may be split, joined, lost or made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_core.compiled import compiled


class Warping(NamedTuple):
    """Pixels that no warping mends, and pixels that count; those of several planes may be added up."""

    wrong: int
    pixels: int

    def __add__(self, other: Warping) -> Warping:  # type: ignore[override]
        """Add the counts of both."""
        return Warping(self.wrong + other.wrong, self.pixels + other.pixels)


def warp(truth: np.ndarray, found: np.ndarray, ignore: np.ndarray | None = None) -> Warping:
    """Warp the true foreground of a plane towards the found one, and count the pixels where they still differ.

    A pixel of the truth that differs from the result is flipped if that changes neither the number of objects nor that
    of holes anywhere (a simple point), for as long as there are such pixels, in raster order.

    Parameters
    ----------
    truth, found : ndarray of unsigned integers, shape (y, x)
        Label arrays. Where two objects touch, a line of one pixel counts as background, so that joining them shows.
    ignore : ndarray, optional, shape (y, x)
        Where it is nonzero both count as background and nothing is counted.

    Returns
    -------
    Warping

    Notes
    -----
    Objects are connected over edges (4 neighbours), background over corners too; beyond the plane is background.
    The least error over all sequences of flips is not searched for: like the challenge's own program this takes one of
    them, and the value is an upper bound. Movement is not limited.

    References
    ----------
    Jain et al.: Boundary learning by optimization with topological constraints, CVPR 2010.

    Examples
    --------
    A gap in a membrane joins two cells, and no warping opens it; a membrane that only lies elsewhere costs nothing:

    >>> truth = np.array([[1, 1, 0, 2, 2]] * 3)
    >>> warp(truth, np.array([[3, 3, 0, 3, 3], [3, 3, 3, 3, 3], [3, 3, 0, 3, 3]]))
    Warping(wrong=1, pixels=15)
    >>> warp(truth, np.array([[1, 0, 2, 2, 2]] * 3))
    Warping(wrong=0, pixels=15)
    """
    counted = np.ones(truth.shape, bool) if ignore is None else ignore == 0
    # With a margin of background, so that each pixel has eight neighbours.
    source, target = (np.pad(_foreground(labels * counted), 1) for labels in (truth, found))
    return Warping(_warp(source, target), int(counted.sum()))


def warping_error(counts: Warping) -> float:
    """Share of pixels that no warping mends; 0 where there are no pixels."""
    return counts.wrong / counts.pixels if counts.pixels else 0.0


def _foreground(labels: np.ndarray) -> np.ndarray:
    """Objects of a plane, apart by at least one pixel."""
    inside = labels > 0
    apart = inside.copy()
    for own, beyond in (((slice(None), slice(-1)), (slice(None), slice(1, None))), ((slice(-1),), (slice(1, None),))):
        apart[own] &= ~(inside[beyond] & (labels[own] != labels[beyond]))
    return apart


@compiled
def _warp(source, target):  # type: ignore[no-untyped-def]
    """Flip simple points of `source` where `target` differs; the number of pixels that differ at the end."""
    width = source.shape[1]
    image, goal = source.copy().ravel(), target.ravel()
    left = np.flatnonzero(image != goal)
    flipped = True
    while flipped:
        flipped, kept = False, 0
        for n in range(left.size):
            p = left[n]
            if _is_simple(image, p, width):
                image[p] = goal[p]
                flipped = True
            else:
                left[kept] = p
                kept += 1
        left = left[:kept]
    return left.size


@compiled
def _is_simple(image, p, width):  # type: ignore[no-untyped-def]
    """Whether flipping a pixel changes no topology, which is so where Yokoi's number is 1.

    Then its neighbourhood has one object over the edges beside the pixel.
    """
    e, ne, n, nw = image[p + 1], image[p + 1 - width], image[p - width], image[p - 1 - width]
    w, sw, s, se = image[p - 1], image[p - 1 + width], image[p + width], image[p + 1 + width]
    return (e and not (ne and n)) + (n and not (nw and w)) + (w and not (sw and s)) + (s and not (se and e)) == 1
