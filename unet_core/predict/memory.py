"""Tiles that the memory of a process holds: on a CPU by its limits, on a GPU by trying."""

from __future__ import annotations

import logging
import math
import threading

from unet_core.network import unet
from unet_core.network.device import device, device_name
from unet_core.predict.calibration import Tiles, halve_tiles
from unet_core.predict.members import Group
from unet_core.runtime import UserError, available_memory

logger = logging.getLogger(__name__)

# The tiles of each group that this process holds.
_fits: dict[Group, Tiles] = {}
_FITTING = threading.Lock()
# Share of the memory of a process that tiles may take on a CPU; blocks and the network itself need some too.
MEMORY_SHARE = 0.75


def fitting(group: Group) -> Tiles:
    """Tiles of a group that the memory of this process holds; the plan may have been made on a larger machine.

    Where results depend on tiles, and where no smaller ones are possible, it warns.
    """
    with _FITTING:
        if group not in _fits:
            _fits[group] = _within_memory(group) if device().type == "cpu" else group.tiles
        return _fits[group]


def _within_memory(group: Group) -> Tiles:
    allowed, tiles = available_memory(), group.tiles
    while (needed := _memory(tiles, group)) > MEMORY_SHARE * allowed:
        smaller = halve_tiles(tiles, group.shape)
        if smaller == tiles or group.tile_counts:
            logger.warning(
                "predict: tiles of %s px take about %.3g GiB, but this process may take %.3g GiB; if it is killed, "
                "give it more memory (mem_mb; the limit of the container)%s",
                *(tiles.largest, needed / 2**30, allowed / 2**30),
                ", or set predict.tile to less" if group.tile_counts else "",
            )
            return tiles
        tiles = smaller
    if tiles != group.tiles:
        logger.info(
            "predict: tiles of %s px in place of %s px, since this process may take %.3g GiB of memory",
            *(tiles.largest, group.tiles.largest, allowed / 2**30),
        )
    return tiles


def _memory(tiles: Tiles, group: Group) -> int:
    return math.prod(unet.sides(tiles.largest)) * tiles.batch * group.voxel_bytes


def smaller(group: Group, tiles: Tiles, what: str) -> Tiles:
    """Tiles that need half of the memory, for all further blocks of this process too.

    Parameters
    ----------
    group : Group
        Networks that are applied.
    tiles : Tiles
        Which did not fit the memory of the GPU.
    what : str
        How they are called in messages.

    Raises
    ------
    UserError
        If no smaller ones give the same result.
    """
    less = Tiles(tiles.largest, tiles.batch // 2) if tiles.batch > 1 else halve_tiles(tiles, group.shape)
    if tiles.batch == 1 and (less == tiles or group.tile_counts):
        advice = "set predict.tile to less" if group.tile_counts else "use one with more, or a network of less width"
        raise UserError(f"{what} do not fit the memory of the GPU ({device_name()}); {advice}")
    logger.warning(
        "predict: %s do not fit the memory of the GPU: going on with %d of %s px", what, less.batch, less.largest
    )
    _fits[group] = less
    return less
