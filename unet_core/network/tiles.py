"""Reading boxes with mirrored borders, and the overlap-tile strategy on one box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.network import unet

TileFunction = Callable[[np.ndarray], np.ndarray]

# Tiles in work at a time. On a CPU each has its share of the threads: those of one tile wait for one another again and
# again, and any of them for the reading and writing of other blocks. A GPU computes one tile while the next is copied.
LANES = 2


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
    indices = [mirror(np.arange(a, b), n) for a, b, n in zip(box.start, box.stop, source.shape, strict=True)]
    z, y, x = indices
    inside = Box((int(z.min()), int(y.min()), int(x.min())), (int(z.max()) + 1, int(y.max()) + 1, int(x.max()) + 1))
    data = source.read(inside)
    if inside == box:
        return data
    for axis, (index, start) in enumerate(zip(indices, inside.start, strict=True)):
        data = np.take(data, index - start, axis=axis - 3)
    return data


def mirror(positions: np.ndarray, size: int) -> np.ndarray:
    """Positions inside an axis of `size` that mirror extrapolation puts at `positions`.

    The edge pixel is not repeated (``numpy.pad(mode="reflect")``); any distance from the array is allowed.

    Examples
    --------
    >>> mirror(np.arange(-3, 6), 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    there_and_back = max(1, 2 * size - 2)
    forth = np.abs(positions) % there_and_back
    return np.minimum(forth, there_and_back - forth)


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
        raise ValueError(
            f"a tile of {largest} px is too small for depth {depth}: its output must be at least {step} px wide"
        )
    count = math.ceil(wanted / useful)
    stride = math.ceil(wanted / count / step) * step
    return Tiling(count, stride, unet.input_size(stride, depth, wider))


def predict_box(
    source: Readable,
    box: Box,
    network: TileFunction,
    *,
    shape: unet.Shape,
    largest: int | Sequence[int],
    batch: int = 1,
) -> np.ndarray:
    """Apply a network to a box, tile by tile (a 2D one plane by plane), with mirrored data beyond the array.

    Every output voxel has its full receptive field, so that the result does not depend on tiles and boxes, as long as
    boxes start at multiples of `shape.steps`.

    Parameters
    ----------
    source : Readable
        Image with channels.
    box : Box
        Wanted voxels, inside the image.
    network : callable
        Values (n, k, y, x) of input tiles (n, c, y, x); of a 3D network with z before y.
    shape : Shape
        Of the network.
    largest : int or (int, int, int)
        Largest side of an input tile; of a 3D one its extent.
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
    ways = [tiling(n, most, *axis) for n, most, axis in zip(box.shape, unet.sides(largest), shape, strict=True)]
    # Read once, since planes may be stored together. Beyond the halo the last tiles need more: poolings reach to the
    # end of their group of pixels.
    z, y, x = (start - halo for start, halo in zip(box.start, shape.halo, strict=True))
    image = read_mirrored(source, _placed((z, y, x), [way.extent for way in ways]))
    in_planes = shape.z == unet.NO_POOLING
    planes, rows, columns = (range(0, way.count * way.stride, way.stride) for way in ways)
    corners = itertools.product(rows, columns, planes)
    result: np.ndarray | None = None
    while some := [_placed((z, y, x), [way.side for way in ways]) for y, x, z in itertools.islice(corners, batch)]:
        tiles = np.stack([image[(slice(None), *tile.slices)] for tile in some])
        values = network(tiles[:, :, 0])[:, :, None] if in_planes else network(tiles)
        if result is None:
            result = np.empty((values.shape[1], *box.shape), values.dtype)
        for tile, of_tile in zip(some, values, strict=True):
            place = _placed(tile.start, [way.stride for way in ways]).clip(box.shape)
            result[(slice(None), *place.slices)] = of_tile[(slice(None), *place.within(tile).slices)]
    assert result is not None
    return result


def _placed(start: ZYX, extent: list[int]) -> Box:
    z, y, x = (a + n for a, n in zip(start, extent, strict=True))
    return Box(start, (z, y, x))
