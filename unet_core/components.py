"""Connected components of an array that is seen block by block: described, joined over the faces, numbered."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cc3d
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unet_core.blocks import ZYX, Box, Grid

CONNECTIVITY: dict[str, Literal[6, 26]] = {"faces": 6, "full": 26}


class Part(NamedTuple):
    """What one block knows of its components; row i is the block's component i + 1.

    Attributes
    ----------
    first : ndarray of int64
        Raster number, in the whole sample, of the component's first voxel in this block.
    voxels : ndarray of int64
        Number of its voxels in this block.
    low, high : ndarray of int64, shape (components, 3)
        Bounding box of these voxels, the upper end excluded.
    faces : tuple of three ndarrays
        Labels of the block's first plane along z, y, x.
    beyond : tuple of three ndarrays
        Labels on the plane after the block's last one along z, y, x; these voxels belong to other blocks.
    """

    first: np.ndarray
    voxels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    faces: tuple[np.ndarray, np.ndarray, np.ndarray]
    beyond: tuple[np.ndarray, np.ndarray, np.ndarray]


def label_block(foreground: np.ndarray, connectivity: str) -> np.ndarray:
    """Connected components of a block, as uint32 from 1."""
    # As bytes: cc3d 3 fails on boolean arrays that are a single line of voxels.
    return cc3d.connected_components(foreground.astype(np.uint8), connectivity=CONNECTIVITY[connectivity], out_dtype=np.uint32)


def describe_block(labels: np.ndarray, write: Box, shape: ZYX) -> Part:
    """What the first pass keeps of a block.

    Parameters
    ----------
    labels : ndarray, shape (z, y, x)
        Components of the block and of one more plane at each end that has a neighbour.
    write : Box
        The block.
    shape : tuple of int
        Shape of the sample.
    """
    count = int(labels.max(initial=0))
    own = labels[tuple(slice(n) for n in write.shape)]
    position = np.flatnonzero(own)
    label = own.ravel()[position].astype(np.int64) - 1
    zyx = np.stack(np.unravel_index(position, own.shape), axis=1).astype(np.int64) + np.array(write.start)
    first = np.full(count, np.iinfo(np.int64).max)
    low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
    np.minimum.at(first, label, np.ravel_multi_index(tuple(zyx.T), shape))
    np.minimum.at(low, label, zyx)
    np.maximum.at(high, label, zyx + 1)
    planes = [labels.take(n, axis=axis) if labels.shape[axis] > n else labels[:0] for axis, n in enumerate(write.shape)]
    return Part(
        first=first,
        voxels=np.bincount(label, minlength=count),
        low=low,
        high=high,
        faces=(own[0], own[:, 0], own[:, :, 0]),
        beyond=(planes[0], planes[1], planes[2]),
    )


def merge_parts(parts: list[Part], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Which components of all blocks are one object.

    Parameters
    ----------
    parts : list of Part
        Of all blocks, in the order of the grid.
    grid : Grid
        The blocks.

    Returns
    -------
    offsets : ndarray
        Number of components before each block, to count them through.
    objects : ndarray
        Object of each component, in raster order of first voxels, from 0.
    """
    offsets = np.concatenate([[0], np.cumsum([part.first.size for part in parts])])
    pairs = [np.empty((0, 2), np.int64)]
    for index, part in enumerate(parts):
        box = grid.box(index)
        for axis in range(3):
            if part.beyond[axis].size:
                pairs += _meeting(part.beyond[axis], int(offsets[index]), box, axis, parts, offsets, grid)
    a, b = np.concatenate(pairs).T
    total = int(offsets[-1])
    _, group = connected_components(coo_matrix((np.ones(a.size, bool), (a, b)), shape=(total, total)), directed=False)
    first = np.concatenate([part.first for part in parts]) if parts else np.empty(0, np.int64)
    earliest = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(earliest, group, first)
    rank = np.empty_like(earliest)
    rank[np.argsort(earliest, kind="stable")] = np.arange(earliest.size)
    return offsets, rank[group]


def _meeting(plane: np.ndarray, offset: int, box: Box, axis: int, parts: list[Part], offsets: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Pairs of components that share voxels on the plane after a block's last one along an axis."""
    extent = list(plane.shape)
    extent.insert(axis, 1)
    start = list(box.start)
    start[axis] = box.stop[axis]
    beyond = Box((start[0], start[1], start[2]), (start[0] + extent[0], start[1] + extent[1], start[2] + extent[2]))
    pairs = []
    for neighbour, other in grid.boxes_in(beyond):
        # The plane may reach over the edge of the neighbour into those beside it: compare where each one owns the voxels.
        shared = overlap(beyond, other)
        here = [s for i, s in enumerate(shared.within(beyond).slices) if i != axis]
        there = [s for i, s in enumerate(shared.within(other).slices) if i != axis]
        mine, theirs = plane[tuple(here)], parts[neighbour].faces[axis][tuple(there)]
        both = (mine > 0) & (theirs > 0)
        touching = np.stack([mine[both].astype(np.int64) + offset, theirs[both].astype(np.int64) + offsets[neighbour]], axis=1) - 1
        pairs.append(np.unique(touching, axis=0))
    return pairs


class Whole(NamedTuple):
    """Objects put together from the parts of all blocks, in raster order of their first voxels."""

    first: np.ndarray
    voxels: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def box(self, number: int) -> Box:
        """Bounding box of an object."""
        (z, y, x), (z2, y2, x2) = self.low[number].tolist(), self.high[number].tolist()
        return Box((z, y, x), (z2, y2, x2))


def whole_objects(parts: list[Part], objects: np.ndarray) -> Whole:
    """First voxel, size and bounding box of each object; `objects` is the object of each component."""
    count = int(objects.max(initial=-1)) + 1
    first, voxels = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
    np.minimum.at(first, objects, np.concatenate([part.first for part in parts]))
    np.add.at(voxels, objects, np.concatenate([part.voxels for part in parts]))
    np.minimum.at(low, objects, np.concatenate([part.low for part in parts]))
    np.maximum.at(high, objects, np.concatenate([part.high for part in parts]))
    return Whole(first, voxels, low, high)


def number_objects(whole: Whole, pieces: dict[int, list[tuple[int, int]]], min_size: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Final labels 1, 2, ... in raster order of first voxels.

    Parameters
    ----------
    whole : Whole
        All objects.
    pieces : dict
        Object -> (first voxel, voxels) of each of its pieces, for the objects that were split.
    min_size : int
        Objects and pieces of fewer voxels get 0.

    Returns
    -------
    labels : ndarray
        Of each object that was not split; 0 for the others.
    piece_labels : dict
        Object -> labels of its pieces.
    """
    entries = [(first, n, 0) for n, (first, voxels) in enumerate(zip(whole.first, whole.voxels, strict=True)) if voxels >= max(1, min_size)]
    entries = [entry for entry in entries if entry[1] not in pieces]
    entries += [(first, n, i) for n, own in pieces.items() for i, (first, voxels) in enumerate(own) if voxels >= max(1, min_size)]
    labels = np.zeros(whole.first.size, np.int64)
    piece_labels = {n: np.zeros(len(own), np.int64) for n, own in pieces.items()}
    for label, (_, n, i) in enumerate(sorted(entries), start=1):
        if n in pieces:
            piece_labels[n][i] = label
        else:
            labels[n] = label
    return labels, piece_labels


def overlap(a: Box, b: Box) -> Box:
    """What two boxes share; they must meet."""
    z, y, x = (max(pair) for pair in zip(a.start, b.start, strict=True))
    z2, y2, x2 = (min(pair) for pair in zip(a.stop, b.stop, strict=True))
    return Box((z, y, x), (z2, y2, x2))
