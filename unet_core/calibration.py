"""Which tile is the fastest on the device at hand: measured, not guessed."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np

from unet_core import unet
from unet_core.tiles import TileFunction

# Divisions of a block's side that are tried, and numbers of tiles at once on a GPU.
MOST_TILES = 12
GPU_BATCHES = (1, 2, 4, 8)
# Seconds that a time is measured for; tiles in a row that are slower than the best, after which nothing more is tried.
ENOUGH, NOT_BETTER = 0.05, 3


class Tiles(NamedTuple):
    """What the network is given at once: tiles of at most `largest` pixels a side, and how many."""

    largest: int
    batch: int


def candidates(side: int, largest: int, shape: tuple[int, int], batches: tuple[int, ...] = (1,)) -> list[Tiles]:
    """Tiles that divide a block of `side` pixels without much waste, the largest first; batches only as large as one largest tile.

    `shape` is that of the network, as in `unet.shape_of`.

    Examples
    --------
    >>> candidates(2048, largest=2240, shape=(4, 0))[:2]
    [Tiles(largest=2236, batch=1), Tiles(largest=1212, batch=1)]
    """
    step = 2 ** shape[0]
    outputs = {math.ceil(side / n / step) * step for n in range(1, MOST_TILES + 1)}
    fitting = sorted((tile for output in outputs if (tile := unet.input_size(output, *shape)) <= largest), reverse=True) or [largest]
    return [Tiles(tile, n) for tile in fitting for n in batches if n == 1 or n * tile**2 <= largest**2]


def fastest(network: TileFunction, tried: list[Tiles], channels: int, shape: tuple[int, int], side: int, budget: float) -> dict[str, Any]:
    """Time a network on tiles and choose those with the most pixels of a block per second.

    Parameters
    ----------
    network : callable
        As in `tiles.predict_box`.
    tried : list of Tiles
        From `candidates`; those that do not fit the memory are left out.
    channels : int
        Of the image.
    shape : tuple of int
        Of the network; see `unet.shape_of`.
    side : int
        Of a block.
    budget : float
        Pixels; nothing more is tried after the time that they take at the rate of the first tiles.

    Returns
    -------
    dict
        `largest`, `batch`, and `rates`: (largest, batch, million pixels per second) of what was tried.
    """
    rates: list[tuple[int, int, float]] = []
    start = time.perf_counter()
    for tiles in tried:
        image = np.random.default_rng(0).integers(0, 255, (tiles.batch, channels, tiles.largest, tiles.largest)).astype(np.uint8)
        try:
            _seconds(network, image)  # memory is taken, and kernels are chosen
            took = min(_seconds(network, image) for _ in range(2))
        except MemoryError:
            continue
        count = math.ceil(side / unet.output_size(tiles.largest, *shape))
        rates.append((*tiles, round((side / count) ** 2 * tiles.batch / took / 1e6, 4)))
        best = max(rate for _, _, rate in rates)
        spent = (time.perf_counter() - start) * rates[0][2] * 1e6
        if spent > budget or all(rate < 0.9 * best for _, _, rate in rates[-NOT_BETTER:]):
            break
    largest, batch, _ = max(rates, key=lambda rate: rate[2], default=(*tried[-1], 0.0))
    return {"largest": largest, "batch": batch, "rates": rates}


def _seconds(network: TileFunction, image: np.ndarray) -> float:
    """Time for tiles; small ones are worked on several times, since a millisecond says little."""
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < start + ENOUGH:
        network(image)
        count += 1
    return (time.perf_counter() - start) / count
