"""Which tile is the fastest on the device at hand: measured, not guessed."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from unet_core.blocks import ZYX
from unet_core.network import unet
from unet_core.network.tiles import TileFunction

# Divisions of a block's side and thickness that are tried, and numbers of tiles at once on a GPU.
MAX_TILES_PER_SIDE, MAX_LAYERS = 12, 4
GPU_BATCHES = (1, 2, 4, 8)
# Seconds that a time is measured for; tiles in a row that are slower than the best, after which nothing more is tried.
TIMING_SECONDS, MAX_SLOWER_IN_A_ROW = 0.05, 3


class Tiles(NamedTuple):
    """What the network is given at once: a number of tiles of at most `largest` pixels a side.

    In 3D `largest` is the extent along z, y, x.
    """

    largest: int | ZYX
    batch: int


def candidate_tiles(block: ZYX, largest: int | ZYX, shape: unet.Shape, batches: tuple[int, ...] = (1,)) -> list[Tiles]:
    """Tiles that divide a block without much waste, the largest first; batches only as large as one largest tile.

    `shape` is that of the network.

    Examples
    --------
    >>> candidate_tiles((8, 2048, 2048), largest=2240, shape=unet.shape(4))[:2]
    [Tiles(largest=2236, batch=1), Tiles(largest=1212, batch=1)]
    """
    most = unet.sides(largest)
    thick = _divided(block[0], most[0], shape.z, MAX_LAYERS)
    wide = _divided(max(block[1:]), min(most[1:]), shape.y, MAX_TILES_PER_SIDE)
    fitting = sorted(((z, side, side) for z in thick for side in wide), key=math.prod, reverse=True)
    batched = [(tile, n) for tile in fitting for n in batches if n == 1 or n * math.prod(tile) <= math.prod(most)]
    return [Tiles(tile[1] if isinstance(largest, int) else tile, n) for tile, n in batched]


def _divided(extent: int, largest: int, axis: unet.Axis, most: int) -> list[int]:
    """Sides of tiles for whole fractions of an extent."""
    outputs = {math.ceil(extent / n / axis.step) * axis.step for n in range(1, most + 1)}
    return [tile for output in outputs if (tile := unet.input_size(output, *axis)) <= largest] or [largest]


def fastest_tiles(
    network: TileFunction,
    tried: list[Tiles],
    channels: int,
    shape: unet.Shape,
    block: ZYX,
    budget: float,
    lanes: int = 1,
) -> dict[str, Any]:
    """Time a network on tiles and choose those with the most pixels of a block per second.

    Parameters
    ----------
    network : callable
        As in `tiles.predict_box`.
    tried : list of Tiles
        From `candidate_tiles`; those that do not fit the memory are left out.
    channels : int
        Of the image.
    shape : Shape
        Of the network.
    block : tuple of int
        Extent of a block.
    budget : float
        Pixels; nothing more is tried after the time that they take at the rate of the first tiles.
    lanes : int
        Calls at a time, from as many threads.

    Returns
    -------
    dict
        `largest`, `batch`, and `rates`: (largest, batch, million pixels per second) of what was tried.
    """
    rates: list[tuple[int | ZYX, int, float]] = []
    start = time.perf_counter()
    for tiles in tried:
        sides = unet.sides(tiles.largest)
        extent = sides[1:] if shape.z == unet.NO_POOLING else sides
        image = np.random.default_rng(0).integers(0, 255, (tiles.batch, channels, *extent)).astype(np.uint8)
        try:
            _seconds(network, image, lanes)  # memory is taken, and kernels are chosen
            took = min(_seconds(network, image, lanes) for _ in range(2))
        except MemoryError:
            continue
        ways = [(n, unet.output_size(side, *axis)) for n, side, axis in zip(block, sides, shape, strict=True)]
        voxels = math.prod(n / math.ceil(n / output) for n, output in ways)
        rates.append((*tiles, round(voxels * tiles.batch / took / 1e6, 4)))
        best = max(rate for _, _, rate in rates)
        spent = (time.perf_counter() - start) * rates[0][2] * 1e6
        if spent > budget or all(rate < 0.9 * best for _, _, rate in rates[-MAX_SLOWER_IN_A_ROW:]):
            break
    largest, batch, _ = max(rates, key=lambda rate: rate[2], default=(*tried[-1], 0.0))
    return {"largest": largest, "batch": batch, "rates": rates}


def halve_tiles(tiles: Tiles, shape: unet.Shape) -> Tiles:
    """Tiles of about half of the output or less; the same tiles if no smaller ones are possible.

    They are halved in planes, or in 3D along the axis with the most to give.

    Examples
    --------
    >>> halve_tiles(Tiles(572, 1), unet.shape(4)), halve_tiles(Tiles((116, 132, 132), 1), unet.shape(3, dimensions=3))
    (Tiles(largest=380, batch=1), Tiles(largest=(116, 108, 108), batch=1))
    """
    z, y, x = unet.sides(tiles.largest)
    less_z, less_y, less_x = (_half(side, axis) for side, axis in zip((z, y, x), shape, strict=True))
    if isinstance(tiles.largest, int):
        return Tiles(less_y, tiles.batch)
    thinner = z - less_z > max(y - less_y, x - less_x)
    return Tiles((less_z, y, x) if thinner else (z, less_y, less_x), tiles.batch)


def _half(side: int, axis: unet.Axis) -> int:
    output = unet.output_size(side, *axis)
    return unet.input_size(output // 2 // axis.step * axis.step, *axis) if output >= 2 * axis.step else side


def _seconds(network: TileFunction, image: np.ndarray, lanes: int) -> float:
    """Time per call where `lanes` threads call the network at a time.

    Small tiles are worked on several times, since a millisecond says little.
    """

    def calls_per_second(_: int) -> float:
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() < start + TIMING_SECONDS:
            network(image)
            count += 1
        return count / (time.perf_counter() - start)

    with ThreadPoolExecutor(lanes) as pool:
        return 1 / sum(pool.map(calls_per_second, range(lanes)))
