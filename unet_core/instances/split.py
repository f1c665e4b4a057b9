"""Cutting touching objects apart, by the watershed of their distance to the border or of their probability."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from unet_core.weights.distance import Spacing

# Deviation of the Gaussian, in pixels along x, that takes the steps of the pixel grid out of the distances, and noise
# out of the probabilities.
SMOOTHING_SIGMA = 1.0


def split_object(
    mask: np.ndarray, spacing: Spacing, depth: float, connectivity: str, probability: np.ndarray | None = None
) -> np.ndarray:
    """Parts of one object, by the marker watershed of the distance to its border, or of its probability.

    Each maximum of the distance (or of the probability) that rises by at least `depth` above the neck to a higher one
    becomes a part. Holes do not count as border.

    Parameters
    ----------
    mask : ndarray of bool, shape (z, y, x)
        The object, alone in its bounding box.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x.
    depth : float
        Least rise. Of the distance in the unit of `spacing`: half of the difference between the widths of a part and of
        its neck.
    connectivity : {"faces", "full"}
        Neighbours of a voxel.
    probability : ndarray of float, shape (z, y, x), optional
        Foreground probability in the bounding box; without it the distance counts.

    Returns
    -------
    ndarray of int32, shape (z, y, x)
        Parts, numbered from 1; 0 outside of the object. Around a hole a part may be in several pieces.

    References
    ----------
    Soille: Morphological Image Analysis, 2003, chapters 6 (h-maxima) and 9 (watershed).
    """
    # A single plane is worked on in 2D: in 3D all of its voxels would be border.
    flat = mask[0] if mask.shape[0] == 1 else mask
    sampling = spacing[-flat.ndim :]
    filled = np.pad(ndimage.binary_fill_holes(flat), 1)
    if probability is None:
        height = ndimage.distance_transform_edt(filled, sampling=sampling)
    else:
        height = np.pad(probability.reshape(flat.shape).astype(np.float64), 1) * filled
    height = ndimage.gaussian_filter(height, [SMOOTHING_SIGMA / s for s in sampling]) * filled
    # Extended maxima: what is left when all peaks are cut by `depth`, and those lower than that vanish.
    maxima = local_maxima(reconstruction(np.maximum(height - depth, 0), height)) & filled
    markers, count = ndimage.label(maxima, ndimage.generate_binary_structure(flat.ndim, flat.ndim))
    if count <= 1:
        return mask.astype(np.int32)
    parts = watershed(-height, markers, mask=filled, connectivity=flat.ndim if connectivity == "full" else 1)
    return np.where(flat, parts[(slice(1, -1),) * flat.ndim], 0).astype(np.int32).reshape(mask.shape)


def join_small_parts(parts: np.ndarray, least: int, connectivity: str) -> np.ndarray:
    """Join parts of too few voxels to their neighbours, so that what a cut leaves of an object is part of it.

    The smallest of them (of several the one with the smallest number) becomes one with the part with which it shares
    the most pairs of neighbouring voxels (of several the one with the smallest number), until none is too small or one
    is left.

    Parameters
    ----------
    parts : ndarray of int32, shape (z, y, x)
        Parts of one object, from `split_object`.
    least : int
        Voxels that a part must have.
    connectivity : {"faces", "full"}
        Neighbours of a voxel, by which the object is one.

    Returns
    -------
    ndarray of int32, shape (z, y, x)
        The parts that are left, numbered from 1 in the same order.

    Examples
    --------
    >>> join_small_parts(np.array([[[1, 1, 1, 2, 3, 3, 3]]], np.int32), 2, "faces")
    array([[[1, 1, 1, 1, 2, 2, 2]]], dtype=int32)
    """
    voxels = np.bincount(parts.ravel())
    if voxels[1:].min(initial=least) >= least:
        return parts
    # A part may have no voxel: all of it in a hole.
    sizes = {number: int(voxels[number]) for number in np.flatnonzero(voxels).tolist() if number}
    into = np.arange(len(voxels))
    for small, neighbour in _joins(dict(sizes), _borders(parts, connectivity), least):
        into[small] = neighbour
    # What a part was joined to may have been joined to another one later.
    while (into[into] != into).any():
        into = into[into]
    left = np.unique(into[[*sizes]])
    return np.append(0, np.searchsorted(left, into[1:]) + 1)[parts].astype(np.int32)


def _borders(parts: np.ndarray, connectivity: str) -> dict[int, dict[int, int]]:
    """How many pairs of neighbouring voxels each part shares with each of its neighbours."""
    steps = [step for step in itertools.product((-1, 0, 1), repeat=parts.ndim) if step > (0,) * parts.ndim]
    count, codes = int(parts.max()) + 1, []
    for step in steps if connectivity == "full" else [step for step in steps if sum(map(abs, step)) == 1]:
        here = parts[tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(step, parts.shape, strict=True))]
        there = parts[tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(step, parts.shape, strict=True))]
        meet = (here != there) & (here > 0) & (there > 0)
        a, b = here[meet].astype(np.int64), there[meet].astype(np.int64)
        codes.append(np.minimum(a, b) * count + np.maximum(a, b))
    borders: dict[int, dict[int, int]] = {}
    found, pairs = np.unique(np.concatenate(codes), return_counts=True)
    for code, shared in zip(found.tolist(), pairs.tolist(), strict=True):
        a, b = divmod(code, count)
        borders.setdefault(a, {})[b] = borders.setdefault(b, {})[a] = shared
    return borders


def _joins(sizes: dict[int, int], borders: dict[int, dict[int, int]], least: int) -> Iterator[tuple[int, int]]:
    """Which part is joined to which other one, one after the other; sizes and borders become those of what is left."""
    waiting = [(size, number) for number, size in sizes.items() if size < least]
    heapq.heapify(waiting)
    while waiting:
        size, small = heapq.heappop(waiting)
        if sizes.get(small) != size or small not in borders:
            continue  # it has grown since, or is all of the object
        neighbour = max(borders[small], key=lambda number: (borders[small][number], -number))
        for other, pairs in borders.pop(small).items():
            del borders[other][small]
            if other != neighbour:
                borders[other][neighbour] = borders[neighbour][other] = borders[neighbour].get(other, 0) + pairs
        sizes[neighbour] += sizes.pop(small)
        if not borders[neighbour]:
            del borders[neighbour]
        if sizes[neighbour] < least:
            heapq.heappush(waiting, (sizes[neighbour], neighbour))
        yield small, neighbour
