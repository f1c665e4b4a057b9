"""Objects of a piece that is held in memory, as the step makes them of a whole sample."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from unet_core.config.instances import FixedInstances
from unet_core.instances.passes import DUAL_CONNECTIVITY
from unet_core.instances.run_lengths import Measures, RunLengths, label_mask, measure_run_lengths, paint_run_lengths
from unet_core.instances.split import join_small_parts, split_object
from unet_core.predict.probabilities import foreground, is_foreground
from unet_core.weights.distance import Spacing


def label_objects(stored: np.ndarray, cfg: FixedInstances, spacing: Spacing) -> np.ndarray:
    """Label the objects of stored probabilities.

    Parameters
    ----------
    stored : ndarray, shape (classes, z, y, x)
        Probabilities as the step predict stores them.
    cfg : FixedInstances
        Options of the step.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.

    Returns
    -------
    ndarray of uint32, shape (z, y, x)
        Labels from 1, with gaps, in any order.
    """
    mask = is_foreground(stored, cfg.threshold)
    run_lengths, found = _components(mask, cfg.connectivity)
    labels = np.zeros(mask.shape, np.uint32)
    kept = np.where(found.voxels >= cfg.min_size, np.arange(1, len(found.voxels) + 1), 0)
    paint_run_lengths(run_lengths, np.append(0, kept), labels)
    if cfg.fill != "none":
        _fill_holes(labels, cfg)
    return labels if cfg.split is None else _split(labels, stored, cfg.split, cfg, spacing)


def _components(mask: np.ndarray, connectivity: str, planes: bool = False) -> tuple[RunLengths, Measures]:
    run_lengths, count = label_mask(mask, connectivity, planes)
    return run_lengths, measure_run_lengths(run_lengths, count, mask.shape, np.empty((0, *mask.shape), np.uint8))


def _fill_holes(labels: np.ndarray, cfg: FixedInstances) -> None:
    """Give each hole to the object before its first voxel: it is around the hole."""
    planes = cfg.fill == "planes" or len(labels) == 1
    run_lengths, found = _components(labels == 0, DUAL_CONNECTIVITY[cfg.connectivity], planes)
    closed = ((found.low > 0) & (found.high < np.array(labels.shape)))[:, 1 if planes else 0 :].all(axis=1)
    z, y, x = found.first.T
    paint_run_lengths(run_lengths, np.append(0, np.where(closed, labels[z, y, x - 1], 0)), labels)


def _split(labels: np.ndarray, stored: np.ndarray, depth: float, cfg: FixedInstances, spacing: Spacing) -> np.ndarray:
    probability = foreground(stored) if cfg.split_by == "probability" else None
    result, last = np.zeros_like(labels), 0
    for label, box in enumerate(ndimage.find_objects(labels.view(np.int32)), start=1):
        if box is None:
            continue
        own = labels[box] == label
        by = None if probability is None else probability[box]
        parts = join_small_parts(
            split_object(own, spacing, depth, cfg.connectivity, by), max(1, cfg.min_size), cfg.connectivity
        )
        result[box][own] = parts[own] + last
        last += int(parts.max())
    return result
