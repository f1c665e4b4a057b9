"""Boundaries of objects: boundary F1 within a tolerance, and the 95 % Hausdorff distance, in micrometres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

Spacing = tuple[float, float, float]
HAUSDORFF_QUANTILE = 0.95
# Distances are told apart to this many micrometres, so that rounding cannot tell blocks apart.
DISTANCE_DECIMALS = 6


@dataclass(frozen=True)
class Surface:
    """Distances from boundary voxels to the nearest boundary voxel of the other side.

    The distances of several blocks may be added up.

    Attributes
    ----------
    of_truth, of_found : dict
        Distance in micrometres -> number of voxels of the true, and of the found boundary; infinite where nothing is
        within reach.
    """

    of_truth: dict[float, int]
    of_found: dict[float, int]

    def __add__(self, other: Surface) -> Surface:
        """Add the counts of both."""
        return Surface(_sum(self.of_truth, other.of_truth), _sum(self.of_found, other.of_found))


class Near(NamedTuple):
    """Numbers of boundary voxels within the tolerance of the other boundary, and of all boundary voxels.

    The numbers of several images may be added up.
    """

    truth_near: int
    truth: int
    found_near: int
    found: int


def boundary(labels: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Voxels of objects that share a face with a voxel of another object or of the background.

    The edge of the array is no boundary, and neither is that of an ignored area.

    Parameters
    ----------
    labels : ndarray of unsigned integers
        Objects.
    ignore : ndarray, optional, of the same shape
        Nonzero where nothing is known.

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> boundary(np.array([1, 1, 1, 0, 2, 3])).astype(int)
    array([0, 0, 1, 0, 1, 1])
    """
    known = np.ones(labels.shape, bool) if ignore is None else ignore == 0
    edge = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        moved, known_there, out = (np.moveaxis(array, axis, 0) for array in (labels, known, edge))
        differ = (moved[1:] != moved[:-1]) & known_there[1:] & known_there[:-1]
        out[1:] |= differ
        out[:-1] |= differ
    return edge & (labels > 0)


def compare_boundaries(
    truth: np.ndarray, found: np.ndarray, inner: tuple[slice, ...], spacing: Spacing, reach: float
) -> Surface:
    """Distances of the boundary voxels of a block.

    Parameters
    ----------
    truth, found : ndarray of bool, shape (z, y, x)
        From `boundary`, of the block and of `reach` more around it.
    inner : tuple of slice
        The block itself: its voxels are counted.
    spacing : tuple of float
        Micrometres between neighbouring voxels along z, y, x.
    reach : float
        Distances up to this many micrometres are measured.

    Returns
    -------
    Surface
    """
    own = np.zeros(truth.shape, bool)
    own[inner] = True
    # Where both have a boundary the distance is 0: mostly few voxels are left to be searched for.
    shared = int(np.count_nonzero(truth & found & own))
    apart = truth != found
    return Surface(
        _distances(truth & apart & own, found, shared, spacing, reach),
        _distances(found & apart & own, truth, shared, spacing, reach),
    )


def count_near(surface: Surface, tolerance: float) -> Near:
    """Count the boundary voxels that lie within a tolerance (micrometres) of the other boundary."""
    sides = (surface.of_truth, surface.of_found)
    near = [sum(n for distance, n in side.items() if distance <= tolerance + 10**-DISTANCE_DECIMALS) for side in sides]
    return Near(near[0], sum(sides[0].values()), near[1], sum(sides[1].values()))


def boundary_f1(counts: Near) -> float:
    """Harmonic mean of the shares of true and of found boundary voxels that lie near the other boundary.

    Near means within the tolerance.

    Parameters
    ----------
    counts : Near
        Of an image, or the sum of those of a data set.

    Returns
    -------
    float
        From 0 to 1 (perfect). 1 where neither has boundaries, 0 where only one of them has.

    References
    ----------
    Csurka et al.: What is a good evaluation measure for semantic segmentation?, BMVC 2013.
    """
    if not counts.truth and not counts.found:
        return 1.0
    recall, precision = counts.truth_near / max(counts.truth, 1), counts.found_near / max(counts.found, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def hausdorff_distance(surface: Surface) -> float | None:
    """95 % Hausdorff distance between the boundaries of truth and result.

    Within it lie 95 % of the true boundary from the found one, and 95 % of the found from the true.

    Parameters
    ----------
    surface : Surface
        Of one image.

    Returns
    -------
    float or None
        In micrometres, 0 is perfect; 0 where neither has boundaries, None where only one of them has; infinite where it
        is beyond the reach of the measurement.

    References
    ----------
    Huttenlocher et al.: Comparing images using the Hausdorff distance, IEEE TPAMI 1993 (with quantiles).
    """
    if bool(surface.of_truth) != bool(surface.of_found):
        return None
    return max((_quantile(side) for side in (surface.of_truth, surface.of_found) if side), default=0.0)


def _distances(edge: np.ndarray, other: np.ndarray, shared: int, spacing: Spacing, reach: float) -> dict[float, int]:
    """Distances of the voxels of one boundary from the other one, and of so many voxels that they share."""
    points, others = np.argwhere(edge) * spacing, np.argwhere(other) * spacing if edge.any() else np.empty((0, 3))
    distance = np.full(len(points), np.inf)
    if len(others):
        # Nearest neighbours are looked for up to a little beyond, since the tree excludes the bound itself.
        distance = cKDTree(others, balanced_tree=False, compact_nodes=False).query(
            points, distance_upper_bound=reach * (1 + 1e-9)
        )[0]
    values, count = np.unique(np.round(distance, DISTANCE_DECIMALS), return_counts=True)
    return _sum({0.0: shared} if shared else {}, dict(zip(values.tolist(), count.tolist(), strict=True)))


def _quantile(side: dict[float, int]) -> float:
    """Least distance within which at least 95 % of the voxels lie."""
    distances = np.array(sorted(side))
    count = np.cumsum([side[distance] for distance in distances])
    return float(distances[np.searchsorted(count, HAUSDORFF_QUANTILE * count[-1] - 1e-9)])


def _sum(a: dict[float, int], b: dict[float, int]) -> dict[float, int]:
    return {distance: a.get(distance, 0) + b.get(distance, 0) for distance in sorted({*a, *b})}
