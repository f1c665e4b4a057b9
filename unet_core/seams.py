"""Seam audit: are results across block borders as those inside? Looked at where blocks meet, with tiles that lie otherwise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from unet_core.blocks import Box, Grid

# Windows per sample; half of their side and the width of what counts as border, in pixels.
WINDOWS, HALF, NEAR = 4, 64, 2


class Audit(NamedTuple):
    """Largest difference of probabilities that were computed twice: next to a block border, and elsewhere."""

    across: float
    inside: float


def windows(grid: Grid, step: int, seed: str) -> list[tuple[Box, tuple[int, int]]]:
    """Boxes of one plane around places where blocks meet along y or x, and the place (y, x); none where there is one block.

    Parameters
    ----------
    grid : Grid
        Of the result.
    step : int
        Boxes start at multiples of this, ``2**depth`` of the network.
    seed : str
        Chooses the places.
    """
    places = [list(range(b, n, b)) or [0] for b, n in zip(grid.block[1:], grid.shape[1:], strict=True)]
    count = math.prod(map(len, places)) * grid.shape[0]
    if all(n <= b for b, n in zip(grid.block[1:], grid.shape[1:], strict=True)):
        return []
    rng = np.random.default_rng(list(seed.encode()))
    half = math.ceil(HALF / step) * step
    chosen = []
    for number in sorted({int(n) for n in rng.integers(count, size=WINDOWS)}):
        plane, rest = divmod(number, count // grid.shape[0])
        y, x = places[0][rest // len(places[1])], places[1][rest % len(places[1])]
        box = Box((plane, y - half, x - half), (plane + 1, y + half, x + half)).clip(grid.shape)
        chosen.append((box, (y, x)))
    return chosen


def audit_window(stored: np.ndarray, again: np.ndarray, box: Box, border: tuple[int, int]) -> Audit:
    """Compare what is stored in a box with the same computed again.

    Parameters
    ----------
    stored, again : ndarray, shape (k, 1, y, x)
        Probabilities.
    box : Box
        Where they are.
    border : tuple of int
        Where blocks meet along y and x; 0 where they do not.

    Returns
    -------
    Audit
    """
    difference = np.abs(stored - again).max(axis=(0, 1))
    y, x = (np.arange(a, b) for a, b in zip(box.start[1:], box.stop[1:], strict=True))
    near_y, near_x = ((np.abs(at - place + 0.5) < NEAR) & (place > 0) for at, place in zip((y, x), border, strict=True))
    near = near_y[:, None] | near_x[None]
    return Audit(float(difference[near].max(initial=0)), float(difference[~near].max(initial=0)))
