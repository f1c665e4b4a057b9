"""Reading boxes with mirrored borders, and the overlap-tile strategy on one box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unet_core import unet
from unet_core.blocks import ZYX, Box, mirror

TileFunction = Callable[[np.ndarray], np.ndarray]


class Readable(Protocol):
    """What can be read box by box; shape ([c,] z, y, x)."""

    shape: ZYX

    def read(self, box: Box) -> np.ndarray:
        """Voxels of a box inside the array."""
        ...


def read_mirrored(source: Readable, box: Box) -> np.ndarray:
    """Voxels of a box that may reach beyond the array, where the data is mirrored.

    Only the part of the array that is needed is read.

    Parameters
    ----------
    source : Readable
        Where to read.
    box : Box
        Wanted voxels; any start and stop.

    Returns
    -------
    ndarray
        Shape of the box, with the leading axes of the source.
    """
    indices = [
        np.array([mirror(i, n) for i in range(a, b)], dtype=np.intp) for a, b, n in zip(box.start, box.stop, source.shape, strict=True)
    ]
    z, y, x = indices
    inside = Box((int(z.min()), int(y.min()), int(x.min())), (int(z.max()) + 1, int(y.max()) + 1, int(x.max()) + 1))
    data = source.read(inside)
    if inside == box:
        return data
    for axis, (index, start) in enumerate(zip(indices, inside.start, strict=True)):
        data = np.take(data, index - start, axis=axis - 3)
    return data


@dataclass(frozen=True)
class Tiling:
    """Tiles along one axis: they start at multiples of `stride`; the last may reach beyond what is wanted."""

    count: int
    stride: int
    side: int

    @property
    def extent(self) -> int:
        """Input pixels that all tiles together see."""
        return (self.count - 1) * self.stride + self.side


def tiling(wanted: int, largest: int, depth: int, wider: int = 0) -> Tiling:
    """Fewest tiles for `wanted` output pixels along an axis, each no larger than needed.

    Tiles start at multiples of ``2**depth``, so that poolings pair the same pixels as in one piece.

    Parameters
    ----------
    wanted : int
        Output pixels.
    largest : int
        Largest side of an input tile.
    depth, wider : int
        Depth of the network, and what its kernels need beside (`unet.wider`).

    Raises
    ------
    ValueError
        If the largest tile is too small for the network.

    Examples
    --------
    >>> tiling(700, largest=572, depth=4)
    Tiling(count=2, stride=352, side=540)
    """
    step = 2**depth
    useful = unet.output_size(largest, depth, wider) // step * step
    if useful == 0:
        raise ValueError(f"a tile of {largest} px is too small for depth {depth}: its output must be at least {step} px wide")
    count = math.ceil(wanted / useful)
    stride = math.ceil(wanted / count / step) * step
    return Tiling(count, stride, unet.input_size(stride, depth, wider))


def predict_box(
    source: Readable, box: Box, network: TileFunction, *, depth: int, largest: int, wider: int = 0, batch: int = 1
) -> np.ndarray:
    """Apply a 2D network to a box, plane by plane and tile by tile, with mirrored data beyond the array.

    Every output pixel has its full receptive field, so that the result does not depend on tiles and boxes, as long as
    boxes start at multiples of ``2**depth`` along y and x.

    Parameters
    ----------
    source : Readable
        Image with channels.
    box : Box
        Wanted voxels, inside the image.
    network : callable
        Values (n, k, y, x) of input tiles (n, c, y, x).
    depth : int
        Depth of the network.
    largest : int
        Largest side of an input tile.
    wider : int
        What the network's kernels need beside (`unet.wider`).
    batch : int
        Tiles that the network is given at once.

    Returns
    -------
    ndarray
        Shape (k, z, y, x) of the box, of the type that the network returns.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 2.
    """
    halo = unet.halo(depth, wider)
    rows, columns = (tiling(n, largest, depth, wider) for n in box.shape[1:])
    (z, y, x), (z_stop, _, _) = box
    # Read once, since planes may be stored together. Beyond the halo the last tiles need more: poolings reach to the end of
    # their group of pixels.
    image = read_mirrored(source, Box((z, y - halo, x - halo), (z_stop, y - halo + rows.extent, x - halo + columns.extent)))
    places = itertools.product(range(rows.count), range(columns.count), range(box.shape[0]))
    result: np.ndarray | None = None
    while some := list(itertools.islice(places, batch)):
        corners = [(row * rows.stride, column * columns.stride, plane) for row, column, plane in some]
        tiles = np.stack([image[:, plane, y : y + rows.side, x : x + columns.side] for y, x, plane in corners])
        values = network(tiles)
        if result is None:
            result = np.empty((values.shape[1], *box.shape), values.dtype)
        for (y, x, plane), of_tile in zip(corners, values, strict=True):
            height, width = min(rows.stride, box.shape[1] - y), min(columns.stride, box.shape[2] - x)
            result[:, plane, y : y + height, x : x + width] = of_tile[:, :height, :width]
    assert result is not None
    return result
