"""Boxes and grids of blocks: integers only, no arrays, no files.

A block is the unit of work on an array. It reads a box with a halo around the box that it writes::

      read
    +-----------------+
    |   halo          |      `write` boxes tile the array without gap or overlap.
    |   +---------+   |      `read` may reach beyond the array: there the data is mirrored
    |   |  write  |   |      or left out, as the step needs.
    |   +---------+   |
    |                 |
    +-----------------+

All arrays are z, y, x; a 2D image has one plane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

ZYX = tuple[int, int, int]


class Box(NamedTuple):
    """A box of voxels, `start` included, `stop` excluded."""

    start: ZYX
    stop: ZYX

    @property
    def shape(self) -> ZYX:
        """Extent along z, y, x."""
        return _zyx(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array; only for boxes inside it."""
        return (
            slice(self.start[0], self.stop[0]),
            slice(self.start[1], self.stop[1]),
            slice(self.start[2], self.stop[2]),
        )

    def grow(self, halo: ZYX) -> Box:
        """The box with `halo` more voxels on each side."""
        return Box(
            _zyx(a - h for a, h in zip(self.start, halo, strict=True)),
            _zyx(b + h for b, h in zip(self.stop, halo, strict=True)),
        )

    def clip(self, shape: ZYX) -> Box:
        """The part of the box that lies inside an array of `shape`."""
        return Box(_zyx(max(a, 0) for a in self.start), _zyx(min(b, n) for b, n in zip(self.stop, shape, strict=True)))

    def overlap(self, other: Box) -> Box:
        """What both boxes have in common; for boxes that meet."""
        return Box(
            _zyx(max(a, b) for a, b in zip(self.start, other.start, strict=True)),
            _zyx(min(a, b) for a, b in zip(self.stop, other.stop, strict=True)),
        )

    def within(self, outer: Box) -> Box:
        """The same box in coordinates that count from the start of `outer`."""
        return Box(
            _zyx(a - o for a, o in zip(self.start, outer.start, strict=True)),
            _zyx(b - o for b, o in zip(self.stop, outer.start, strict=True)),
        )


@dataclass(frozen=True)
class Grid:
    """The blocks of an array; they are made when asked for, so that a grid of any size costs nothing.

    Examples
    --------
    >>> grid = Grid((1, 5, 4), (1, 3, 4))
    >>> len(grid), [box.start for box in grid]
    (2, [(0, 0, 0), (0, 3, 0)])
    >>> grid.box(1).stop
    (1, 5, 4)
    """

    shape: ZYX
    block: ZYX

    @property
    def counts(self) -> ZYX:
        """Blocks along z, y, x."""
        return _zyx(math.ceil(n / b) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    def position(self, index: int) -> ZYX:
        """Place of block number `index` in the grid."""
        _, ny, nx = self.counts
        return index // (ny * nx), index // nx % ny, index % nx

    def box(self, index: int) -> Box:
        """What block number `index` writes."""
        start = _zyx(p * b for p, b in zip(self.position(index), self.block, strict=True))
        return Box(start, _zyx(min(a + b, n) for a, b, n in zip(start, self.block, self.shape, strict=True)))

    def __iter__(self) -> Iterator[Box]:
        """All write boxes, in raster order."""
        return (self.box(index) for index in range(len(self)))

    def boxes_in(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Numbers and write boxes of the blocks that a box meets."""
        inside = box.clip(self.shape)
        if min(inside.shape) <= 0:
            return
        ranges = [range(a // b, -(-z // b)) for a, z, b in zip(inside.start, inside.stop, self.block, strict=True)]
        _, ny, nx = self.counts
        for z, y, x in itertools.product(*ranges):
            index = (z * ny + y) * nx + x
            yield index, self.box(index)


def _zyx(values: Iterable[int]) -> ZYX:
    z, y, x = values
    return (z, y, x)
