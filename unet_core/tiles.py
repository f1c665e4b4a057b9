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


def averaged(network: TileFunction, copies: str) -> TileFunction:
    """Mean of a network's values over mirrored and rotated copies of a tile, each turned back.

    Tiles pair the same pixels in poolings from either end, so that the mean does not depend on them either.

    Parameters
    ----------
    network : callable
        Values (k, y, x) of an input tile (c, y, x).
    copies : {"none", "flips", "dihedral"}
        The tile alone; its 4 mirror images along y and x; the 8 symmetries of the square: the tile and 7 rotated or
        mirrored copies.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, table 1 averages over 7 rotated copies.
    """
    if copies == "none":
        return network
    symmetries = list(itertools.product((False, True) if copies == "dihedral" else (False,), (1, -1), (1, -1)))

    def mean(tile_CYX: np.ndarray) -> np.ndarray:
        total: np.ndarray | None = None
        for swap, y, x in symmetries:
            copy = (tile_CYX.swapaxes(1, 2) if swap else tile_CYX)[:, ::y, ::x]
            values = network(np.ascontiguousarray(copy))[:, ::y, ::x]
            values = values.swapaxes(1, 2) if swap else values
            total = values.astype(np.float32) if total is None else total + values
        assert total is not None
        return total / len(symmetries)

    return mean


def predict_box(source: Readable, box: Box, network: TileFunction, *, depth: int, largest: int, wider: int = 0) -> np.ndarray:
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
        Values (k, y, x) of an input tile (c, y, x).
    depth : int
        Depth of the network.
    largest : int
        Largest side of an input tile.
    wider : int
        What the network's kernels need beside (`unet.wider`).

    Returns
    -------
    ndarray
        Shape (k, z, y, x) of the box.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 2.
    """
    halo = unet.halo(depth, wider)
    rows, columns = (tiling(n, largest, depth, wider) for n in box.shape[1:])
    planes = []
    for z in range(box.start[0], box.stop[0]):
        start = (z, box.start[1] - halo, box.start[2] - halo)
        # Beyond the halo the last tiles need more, since poolings reach to the end of their group of pixels.
        image = read_mirrored(source, Box(start, (z + 1, start[1] + rows.extent, start[2] + columns.extent)))[:, 0]
        planes.append(_predict_plane(image, rows, columns, network)[:, : box.shape[1], : box.shape[2]])
    return np.stack(planes, axis=1)


def _predict_plane(image_CYX: np.ndarray, rows: Tiling, columns: Tiling, network: TileFunction) -> np.ndarray:
    result: np.ndarray | None = None
    for row in range(rows.count):
        for column in range(columns.count):
            y, x = row * rows.stride, column * columns.stride
            values = network(image_CYX[:, y : y + rows.side, x : x + columns.side])
            if result is None:
                result = np.empty((values.shape[0], rows.count * rows.stride, columns.count * columns.stride), values.dtype)
            result[:, y : y + rows.stride, x : x + columns.stride] = values[:, : rows.stride, : columns.stride]
    assert result is not None
    return result
