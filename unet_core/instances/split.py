"""Cutting touching objects apart, by the watershed of their distance to the border or of their probability."""

from __future__ import annotations

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
