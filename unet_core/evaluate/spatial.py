"""Scores that need the neighbourhood of a voxel, read from stores piece by piece: warping error and boundaries.

The pieces are of one size, whatever the blocks of the stores, and see as much around them as the measure needs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from unet_core.blocks import ZYX, Grid
from unet_core.engine import Runner
from unet_core.metrics.surface import (
    Near,
    Surface,
    boundary,
    boundary_f1,
    compare_boundaries,
    count_near,
    hausdorff_distance,
)
from unet_core.metrics.warping import Warping, warp, warping_error
from unet_core.store.pins import Pin

# Larger planes are warped in squares of this size: no part of a program's memory, but of the definition of the score.
PLANE_SHAPE: ZYX = (1, 4096, 4096)
PIECE_SHAPE: ZYX = (32, 512, 512)
# Pixels along x up to which distances of boundaries are measured: further only where 95 % of them do not lie within.
MAX_DISTANCES = (16, 64, 256)
MAX_DISTANCES_3D = (16, 64)
# Pixels along x within which boundaries agree, where the user does not say.
DEFAULT_TOLERANCE = 2

# Instances, classes and ignore mask of a sample.
Truth = tuple[Pin, Pin, Pin]


def score_space(truth: Truth, found: Pin, tolerance: float | None, runner: Runner) -> dict[str, Any]:
    """Counts of one image.

    Parameters
    ----------
    truth : tuple of Pin
        Instances, classes and ignore mask of the sample.
    found : Pin
        What the step instances found in it.
    tolerance : float, optional
        Micrometres within which boundaries agree; default: two pixels along x.
    runner : Runner
        Where pieces are worked on.

    Returns
    -------
    dict
        `warping`, `boundary` (counts) and `hausdorff` (micrometres, or None).
    """
    shape, spacing = found.open().shape, truth[0].open().pixel_size
    within = DEFAULT_TOLERANCE * spacing[2] if tolerance is None else tolerance
    planes = Grid(shape, PLANE_SHAPE)
    warped = functools.partial(_warp_piece, truth=truth, found=found)
    warping = functools.reduce(
        Warping.__add__,
        (
            counts
            for _, counts in runner.run(warped, range(len(planes)), len(planes), f"evaluate {found.path.name}, warping")
        ),
    )
    surface, reach = _measure_boundaries(truth, found, within, runner)
    distance = hausdorff_distance(surface)
    return {
        "warping": list(warping),
        "boundary": list(count_near(surface, within)),
        "hausdorff": None if distance is None else min(distance, reach),
    }


def summarise_space(images: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Scores of one image, or of a data set.

    Parameters
    ----------
    images : sequence of dict
        From `score_space`.

    Returns
    -------
    dict
        warping_error and boundary_f1, of the pixels of all images, and hausdorff, the mean of those images that have
        one.
    """
    warping = functools.reduce(Warping.__add__, (Warping(*image["warping"]) for image in images))
    near = Near(*(sum(counts) for counts in zip(*(image["boundary"] for image in images), strict=True)))
    distances = [image["hausdorff"] for image in images if image["hausdorff"] is not None]
    return {
        "warping_error": warping_error(warping),
        "boundary_f1": boundary_f1(near),
        "hausdorff": float(np.mean(distances)) if distances else None,
    }


def _warp_piece(index: int, truth: Truth, found: Pin) -> Warping:
    result = found.open()
    objects, ignore = truth[0].open(), truth[2].open()
    box = Grid(result.shape, PLANE_SHAPE).box(index)
    return warp(objects.read(box)[0], result.read(box)[0], ignore.read(box)[0])


def _measure_boundaries(truth: Truth, found: Pin, tolerance: float, runner: Runner) -> tuple[Surface, float]:
    """Distances of boundaries, and the micrometres up to which they were measured."""
    shape, spacing = found.open().shape, truth[0].open().pixel_size
    pieces, surface, reach = Grid(shape, PIECE_SHAPE), Surface({}, {}), 0.0
    for pixels in MAX_DISTANCES if shape[0] == 1 else MAX_DISTANCES_3D:
        reach = max(pixels * spacing[2], tolerance)
        measure = functools.partial(_compare_piece, truth=truth, found=found, spacing=spacing, reach=reach)
        parts = runner.run(measure, range(len(pieces)), len(pieces), f"evaluate {found.path.name}, boundaries")
        surface = functools.reduce(Surface.__add__, (part for _, part in parts))
        if hausdorff_distance(surface) != np.inf:
            break
    return surface, reach


def _compare_piece(index: int, truth: Truth, found: Pin, spacing: tuple[float, float, float], reach: float) -> Surface:
    result = found.open()
    objects, ignore = truth[0].open(), truth[2].open()
    write = Grid(result.shape, PIECE_SHAPE).box(index)
    z, y, x = (int(reach / size * (1 + 1e-9)) for size in spacing)
    seen = write.grow((z, y, x)).clip(result.shape)
    # One more voxel, which says whether the last one is a boundary.
    read = seen.grow((1, 1, 1)).clip(result.shape)
    unknown, part = ignore.read(read), seen.within(read).slices
    edges = [boundary(labels.read(read), unknown)[part] for labels in (objects, result)]
    return compare_boundaries(edges[0], edges[1], write.within(seen).slices, spacing, reach)
