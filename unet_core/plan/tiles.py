"""Sizes of tiles and blocks, from the network, the data and the memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import psutil

from unet_core.blocks import ZYX
from unet_core.config.options import Network, Plan, Predict, Train
from unet_core.network import unet
from unet_core.network.tiles import LANES, tiling
from unet_core.runtime import UserError
from unet_core.store.store import CHUNK

PAPER_TILE = 572
# In 3D about as many voxels as the tiles of Cicek et al. have: 132 x 132 x 116.
TILE_VOXELS = 2**21
# A block of probabilities: few enough voxels to be held a few times over, enough that files are few.
BLOCK_VOXELS, MAX_PLANES = 2**25, 64
# A larger output of one tile in prediction saves little.
MAX_OUTPUT = 2048


def fit_tile(shape: unet.Shape, outputs: ZYX, voxels: int) -> ZYX:
    """Extent of a tile for a 3D network that gives the best share of output within a number of voxels.

    In planes the tile is a square.

    Parameters
    ----------
    shape : Shape
        Of the network.
    outputs : tuple of int
        Largest useful output along z, y, x.
    voxels : int
        Of the tile at most, unless the smallest has more.

    Examples
    --------
    >>> fit_tile(unet.shape(3, dimensions=3), (10**4,) * 3, 116 * 132 * 132)
    (116, 132, 132)
    """
    steps = shape.steps
    most = max(steps[0], outputs[0]), max(steps[1], *outputs[1:])

    def tile(out: tuple[int, int]) -> ZYX:
        z, side = unet.input_size(min(out[0], most[0]), *shape.z), unet.input_size(min(out[1], most[1]), *shape.y)
        return z, side, side

    best = (steps[0], steps[1])
    while True:
        z, side = best
        larger = [(z + steps[0], side)] * (z < most[0]) + [(z, side + steps[1])] * (side < most[1])
        fitting = [out for out in larger if math.prod(tile(out)) <= voxels]
        if not fitting:
            return tile(best)
        best = max(fitting, key=lambda out: out[0] * out[1] ** 2 / math.prod(tile(out)))


def training_tile(cfg: Train, longest_side: int, planes: int = 1) -> tuple[int | ZYX, str]:
    """Side of the training tile (in 3D its extent along z, y, x) and the reason for it."""
    shape = unet.shape_of(cfg.network)
    if cfg.tile != "auto":
        try:
            outputs_of(cfg.tile, shape)
        except ValueError as error:
            raise UserError(f"train.tile: {error}") from None
        return configured_tile(cfg.tile), "set in the configuration"
    if cfg.network.dimensions == 3:
        tile = fit_tile(shape, (planes, longest_side, longest_side), TILE_VOXELS)
        return (
            tile,
            f"the most output within about {TILE_VOXELS / 1e6:.2g} million voxels, "
            "or what covers the largest training volume",
        )
    whole = unet.input_size(longest_side, *shape.y)
    paper = unet.input_size(max(1, PAPER_TILE - 2 * unet.halo(*shape.y)), *shape.y)
    return min(whole, paper), "the smaller of the paper's tile and what covers the largest training image"


def configured_tile(tile: int | Sequence[int]) -> int | ZYX:
    """Tile of the configuration, as the plan holds it."""
    return tile if isinstance(tile, int) else unet.sides(tile)


def outputs_of(tile: int | Sequence[int], shape: unet.Shape) -> ZYX:
    """Extent of what a network gives for a tile."""
    z, y, x = (unet.output_size(side, *axis) for side, axis in zip(unet.sides(tile), shape, strict=True))
    return z, y, x


def tile_memory(tile: int | ZYX, network: Network, channels: int) -> int:
    """Bytes of what is alive while the network is applied to the tiles of all lanes, in float32.

    At the first level of the expanding path these are, for each tile, the image, what comes from below, both halves of
    its concatenation with the copy, and the output of a convolution; deeper levels are smaller. With what the allocator
    cannot use again it is as much as five arrays of the first level's channels (measured).
    """
    return math.prod(unet.sides(tile)) * voxel_memory(network, channels)


def voxel_memory(network: Network, channels: int) -> int:
    """Bytes per pixel of a tile; see `tile_memory`."""
    return LANES * 4 * (channels + 5 * network.width)


def extent_of(shapes: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Longest side in the plane, and most planes, of images (z, y, x)."""
    planes, heights, widths = zip(*shapes, strict=True)
    return max(*heights, *widths), max(planes)


def anisotropy(pixel_size: tuple[float, float, float]) -> float:
    """Distance of planes over that of pixels."""
    z, y, x = pixel_size
    return z / math.sqrt(y * x)


def allowed_memory(cfg: Plan) -> int:
    """Bytes that prediction may take."""
    return psutil.virtual_memory().total // 2 if cfg.memory_gb == "auto" else int(cfg.memory_gb * 2**30)


def prediction_tile(
    cfg: Predict, network: Network, channels: int, plan: Plan, longest_side: int, planes: int = 1
) -> tuple[int | ZYX, str]:
    """Side of the largest tile in prediction (in 3D its extent along z, y, x) and the reason for it.

    On a machine with less memory than this one, prediction takes smaller tiles.
    """
    memory = allowed_memory(plan)
    shape = unet.shape_of(network)
    if cfg.tile != "auto":
        if isinstance(cfg.tile, int) != (network.dimensions == 2):
            needed = "one side" if network.dimensions == 2 else "[z, y, x]"
            raise UserError(f"predict.tile is {cfg.tile}, but a {network.dimensions}D network takes {needed}, or auto")
        try:
            for side, axis in zip(unet.sides(cfg.tile), shape, strict=True):
                tiling(longest_side, side, *axis)
        except ValueError as error:
            raise UserError(f"predict.tile: {error}") from None
        return configured_tile(cfg.tile), "set in the configuration"
    # Tiles are useful by whole groups of pooled pixels.
    group = shape.y.step
    smallest = unet.input_size(group, *shape.y)
    wanted = max(smallest, unet.input_size(min(longest_side, MAX_OUTPUT), *shape.y))
    tile: int | ZYX = wanted
    if network.dimensions == 3:
        limits = (min(planes, MAX_PLANES), min(longest_side, MAX_OUTPUT), 1)
        tile = fit_tile(shape, limits, memory // voxel_memory(network, channels))
    while isinstance(tile, int) and tile > smallest and tile_memory(tile, network, channels) > memory:
        tile -= group
    # Prediction may run elsewhere, with more memory, or on a GPU: no more than what was asked for is refused here.
    if plan.memory_gb != "auto" and tile_memory(tile, network, channels) > memory:
        needed_gb = tile_memory(tile, network, channels) / 2**30
        raise UserError(
            f"plan.memory_gb: the smallest tile of this network ({tile} px) needs {needed_gb:.3g} GiB, "
            f"but {memory / 2**30:.3g} GiB are allowed; allow more, or make train.network shallower or narrower"
        )
    if tile_memory(tile, network, channels) > memory:
        return tile, "the smallest of this network"
    if network.dimensions == 3:
        return (
            tile,
            f"covers the largest volume or {MAX_PLANES} planes of it, or is the largest within {memory / 2**30:.3g} "
            "GiB",
        )
    reason = (
        f"covers the largest image or {MAX_OUTPUT} px"
        if tile == wanted
        else f"the largest within {memory / 2**30:.3g} GiB"
    )
    return tile, reason


def prediction_block(tile: int | ZYX, network: Network) -> list[int]:
    """Shard of the probabilities: whole chunks around the output of one tile.

    It has as many planes as make a fair amount of work.
    """
    shape = unet.shape_of(network)
    useful = (
        output // axis.step * axis.step for output, axis in zip(outputs_of(tile, shape)[1:], shape[1:], strict=True)
    )
    side, step = CHUNK * math.ceil(max(useful) / CHUNK), shape.z.step
    return [max(1, min(MAX_PLANES, BLOCK_VOXELS // side**2) // step) * step, side, side]
