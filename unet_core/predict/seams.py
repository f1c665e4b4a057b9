"""Seam audit, which asks whether results across block borders are those inside of blocks.

Places where blocks meet are computed again, with tiles that lie otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Container
from itertools import islice
from typing import NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Box, Grid
from unet_core.network.unet import NO_POOLING, Shape

# Windows per sample, and places that are drawn for them; half of their side, half of their thickness in 3D, and the
# width of what counts as border, in pixels.
N_WINDOWS, N_PLACES, HALF_SIDE, HALF_DEPTH, BORDER_WIDTH = 4, 256, 64, 16, 2


class Audit(NamedTuple):
    """Largest difference of probabilities that were computed twice: next to a block border, and elsewhere."""

    across: float
    inside: float


def windows(grid: Grid, shape: Shape, seed: str, empty: Container[int] = ()) -> list[tuple[Box, ZYX]]:
    """Boxes around places where blocks meet, and the place (z, y, x); none where there is one block.

    Parameters
    ----------
    grid : Grid
        Of the result.
    shape : Shape
        Of the network: boxes start at multiples of its steps. For a 2D one they have one plane, anywhere, and blocks
        meet along y and x alone.
    seed : str
        Chooses the places.
    empty : container of int
        Blocks without computed values: places are where two others meet at least.
    """
    flat = shape.z == NO_POOLING
    meet = [list(range(b, n, b)) for b, n in zip(grid.block, grid.shape, strict=True)]
    if not any(meet[1:] if flat else meet):
        return []
    places = [range(grid.shape[0]) if flat else meet[0] or [0], meet[1] or [0], meet[2] or [0]]
    rng = np.random.default_rng(list(seed.encode()))
    thick, high, wide = (
        math.ceil(half / step) * step
        for half, step in zip((HALF_DEPTH, HALF_SIDE, HALF_SIDE), shape.steps, strict=True)
    )

    def window(number: int) -> tuple[Box, ZYX]:
        rest, column = divmod(number, len(places[2]))
        plane, row = divmod(rest, len(places[1]))
        z, y, x = places[0][plane], places[1][row], places[2][column]
        before, after = (0, 1) if flat else (thick, thick)
        box = Box((z - before, y - high, x - wide), (z + after, y + high, x + wide)).clip(grid.shape)
        return box, (0 if flat else z, y, x)

    def is_computed(number: int) -> bool:
        return sum(index not in empty for index, _ in grid.boxes_in(window(number)[0])) > 1

    drawn = (int(n) for n in rng.integers(math.prod(map(len, places)), size=N_PLACES))
    return [window(number) for number in sorted(set(islice(filter(is_computed, drawn), N_WINDOWS)))]


def audit_window(difference: np.ndarray, box: Box, border: ZYX) -> Audit:
    """Look at the differences between what is stored in a box and the same computed again.

    Parameters
    ----------
    difference : ndarray, shape (z, y, x)
        Of probabilities.
    box : Box
        Where they are.
    border : tuple of int
        Where blocks meet along z, y and x; 0 where they do not.

    Returns
    -------
    Audit
    """
    along = [np.arange(a, b) for a, b in zip(*box, strict=True)]
    z, y, x = ((np.abs(at - place + 0.5) < BORDER_WIDTH) & (place > 0) for at, place in zip(along, border, strict=True))
    near = z[:, None, None] | y[:, None] | x
    return Audit(float(difference[near].max(initial=0)), float(difference[~near].max(initial=0)))
