"""Empty blocks: the network is not asked for them, and all of their voxels are background.

A block is empty where the gray values of the image say so (`predict.skip`), or where it lies outside of the region of
its data set.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import Extent
from unet_core.config.skip import Skip
from unet_core.images.in_place import InPlace
from unet_core.runtime import UserError
from unet_core.store.pyramid import halve_image
from unet_core.store.result import Result

# Gray values are compared at the resolution that is halved so often along y and x, in the block and one pixel of that
# resolution around it.
LEVEL = 2
MARGIN: ZYX = (1, 2**LEVEL, 2**LEVEL)

Image = Result | InPlace


def boxes_of(region: Sequence[Extent]) -> tuple[Box, ...]:
    """Boxes of a region: an axis that is left out has no end.

    Examples
    --------
    >>> boxes_of([Extent(y=(0, 10), x=(5, 9))])[0].clip((3, 20, 7))
    Box(start=(0, 0, 5), stop=(3, 10, 7))
    """
    return tuple(
        Box(*zip(*(span or (0, sys.maxsize) for span in (extent.z, extent.y, extent.x)), strict=True))
        for extent in region
    )


def check_region(region: Sequence[Box], shape: ZYX, sample: str) -> None:
    """Raise a `UserError` if there is a region, and no box of it meets an image of `shape`."""
    if region and is_outside(Box((0, 0, 0), shape), region):
        z, y, x = shape
        raise UserError(
            f"region: no box of it meets the image {sample}, which has {z} planes (z) of {y} x {x} pixels (y, x); "
            "set it to pixels of the image, counted from 0, or move the image to a data set without region"
        )


def is_outside(box: Box, region: Sequence[Box]) -> bool:
    """Whether a box meets none of the boxes of a region; without a region all is inside."""
    return bool(region) and all(min(box.overlap(one).shape) <= 0 for one in region)


def clear_outside(values: np.ndarray, box: Box, region: Sequence[Box]) -> None:
    """Set what of a box lies outside of a region to 0.

    Parameters
    ----------
    values : ndarray, shape (..., z, y, x)
        Of the box.
    box : Box
        Where they are.
    region : sequence of Box
        As of `boxes_of`.
    """
    parts = [box.overlap(one) for one in region]
    if not parts or box in parts:
        return
    outside = np.ones(box.shape, bool)
    for part in parts:
        if min(part.shape) > 0:
            outside[part.within(box).slices] = False
    values[..., outside] = 0


def is_blank(image: Image, box: Box, skip: Skip) -> bool:
    """Whether the gray values of all channels stay on the side of the limit that means empty, in a block and around it.

    Parameters
    ----------
    image : Result or InPlace
        With channels.
    box : Box
        A block: it starts at multiples of the chunks of stores, and ends there or with the image.
    skip : Skip
        The limit.
    """
    coarse = reduced(image, box.grow(MARGIN).clip(image.shape))
    return bool((skip.below is None or coarse.max() < skip.below) and (skip.above is None or coarse.min() > skip.above))


def reduced(image: Image, box: Box) -> np.ndarray:
    """A box of an image at the resolution `LEVEL`, the same whether it lies in a store or in place.

    Parameters
    ----------
    image : Result or InPlace
        With channels.
    box : Box
        Along y and x from multiples of `2**LEVEL` to multiples of it, or to the end of the image.
    """
    if isinstance(image, Result) and image.levels > LEVEL:
        (z, y, x), (z_stop, y_stop, x_stop) = box
        n = 2**LEVEL
        return image.read(Box((z, y // n, x // n), (z_stop, math.ceil(y_stop / n), math.ceil(x_stop / n))), LEVEL)
    data = image.read(box)
    for _ in range(LEVEL):
        data = halve_image(data)
    return data


def empty_blocks(result: Result) -> set[int]:
    """Numbers of the blocks that are empty, by their shards: also of those that another run has written."""
    return {index for index in range(len(result.grid)) if result.is_empty(index)}


def told_empty(entries: Iterable[dict[str, Any]]) -> str:
    """How many blocks of the samples in a stamp are empty, as the end of a sentence; nothing where none may be."""
    counted = [entry for entry in entries if "empty" in entry]
    count, blocks = (sum(entry[key] for entry in counted) for key in ("empty", "blocks"))
    return f", {count} of {blocks} blocks are empty" if counted else ""
