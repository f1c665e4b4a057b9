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


class Tiles(NamedTuple):
    """What the network is given at once: tiles of at most `largest` pixels a side, and how many."""

    largest: int
    batch: int


def candidates(side: int, largest: int, shape: tuple[int, int], batches: tuple[int, ...] = (1,)) -> list[Tiles]:
    """Tiles that divide a block of `side` pixels without much waste, the smallest first; batches only as large as one largest tile.

    `shape` is that of the network, as in `unet.shape_of`.

    Examples
    --------
    >>> candidates(2048, largest=2240, shape=(4, 0))[-2:]
    [Tiles(largest=1212, batch=1), Tiles(largest=2236, batch=1)]
    """
    step = 2 ** shape[0]
    outputs = {math.ceil(side / n / step) * step for n in range(1, MOST_TILES + 1)}
    fitting = sorted(tile for output in outputs if (tile := unet.input_size(output, *shape)) <= largest) or [largest]
    return [Tiles(tile, n) for tile in fitting for n in batches if n == 1 or n * tile**2 <= largest**2]


def fastest(network: TileFunction, tried: list[Tiles], channels: int, shape: tuple[int, int], side: int, seconds: float) -> dict[str, Any]:
    """Time a network on tiles and choose those with the most pixels of a block per second.

    Parameters
    ----------
    network : callable
        As in `tiles.predict_box`.
    tried : list of Tiles
        From `candidates`; beginning with the small ones, as long as time is left and until the memory is full.
    channels : int
        Of the image.
    shape : tuple of int
        Of the network; see `unet.shape_of`.
    side : int
        Of a block.
    seconds : float
        After which nothing more is tried.

    Returns
    -------
    dict
        `largest`, `batch`, and `rates`: (largest, batch, million pixels per second) of what was tried.
    """
    rates: list[tuple[int, int, float]] = []
    end = time.perf_counter() + seconds
    for tiles in tried:
        image = np.random.default_rng(0).integers(0, 255, (tiles.batch, channels, tiles.largest, tiles.largest)).astype(np.float32)
        try:
            took = min(_seconds(network, image) for _ in range(3 if not rates else 2))
        except MemoryError:
            break
        count = math.ceil(side / unet.output_size(tiles.largest, *shape))
        rates.append((*tiles, round((side / count) ** 2 * tiles.batch / took / 1e6, 4)))
        # The next one takes at least as long, twice.
        if time.perf_counter() + 3 * took > end:
            break
    largest, batch, _ = max(rates, key=lambda rate: rate[2], default=(*tried[0], 0.0))
    return {"largest": largest, "batch": batch, "rates": rates}


def _seconds(network: TileFunction, image: np.ndarray) -> float:
    start = time.perf_counter()
    network(image)
    return time.perf_counter() - start
