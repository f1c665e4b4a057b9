"""Class probabilities as they are stored: of each object class; that of the background is what they leave of 1."""

from __future__ import annotations

import numpy as np


def to_stored(probability: np.ndarray, dtype: str) -> np.ndarray:
    """Probabilities as they are stored: uint8 maps 0..1 to 0..255."""
    return np.rint(probability * 255).astype(np.uint8) if dtype == "uint8" else probability.astype(dtype)


def from_stored(stored: np.ndarray) -> np.ndarray:
    """Probabilities in 0..1 (float32) from what is stored."""
    return stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)


def foreground(stored_KZYX: np.ndarray) -> np.ndarray:
    """Probability of all object classes together, 0..1 (float32), without the first axis."""
    if len(stored_KZYX) == 1:
        return from_stored(stored_KZYX[0])
    return np.minimum(from_stored(stored_KZYX).sum(axis=0), 1)


def is_foreground(stored_KZYX: np.ndarray, threshold: float) -> np.ndarray:
    """Where the foreground probability is above a threshold.

    Examples
    --------
    >>> is_foreground(np.array([[127, 128]], np.uint8), 0.5).tolist()
    [False, True]
    """
    if stored_KZYX.dtype != np.uint8:
        return foreground(stored_KZYX) > threshold
    # Integers are compared: the arithmetic for each voxel would take longer than all else.
    most = np.count_nonzero(from_stored(np.arange(256, dtype=np.uint8)) <= threshold) - 1
    return (stored_KZYX[0] if len(stored_KZYX) == 1 else stored_KZYX.sum(axis=0, dtype=np.uint16)) > most


def to_mask(stored_KZYX: np.ndarray, threshold: float) -> np.ndarray:
    """A mask (uint8), which is stored instead of probabilities where only the objects are wanted.

    It is 255 for the most probable class of the foreground, else 0.

    Its foreground, at any threshold, is that of the probabilities at `threshold`.

    Examples
    --------
    >>> to_mask(np.array([[10, 90, 200], [20, 100, 7]], np.uint8), 0.5).tolist()
    [[0, 0, 255], [0, 255, 0]]
    """
    full = is_foreground(stored_KZYX, threshold).view(np.uint8) * np.uint8(255)
    if len(stored_KZYX) == 1:
        return full[None]
    most, mask = stored_KZYX.max(axis=0), np.zeros_like(stored_KZYX)
    for k, stored in enumerate(stored_KZYX):
        np.copyto(mask[k], full, where=stored == most)
        full[stored == most] = 0  # of equal ones the first
    return mask


def distance_from_mask(mask_KZYX: np.ndarray, stored_KZYX: np.ndarray, threshold: float) -> np.ndarray:
    """How far probabilities are beyond the threshold on the side that contradicts a mask; 0 where they agree.

    The result lacks the first axis.
    """
    agree = mask_KZYX.any(axis=0) == is_foreground(stored_KZYX, threshold)
    return np.where(agree, 0, np.abs(foreground(stored_KZYX) - np.float32(threshold)))


def with_background(stored_KZYX: np.ndarray) -> np.ndarray:
    """Probabilities of all classes, 0..1 (float32), background first.

    Examples
    --------
    >>> with_background(np.array([[0.0, 0.25, 1.0]], np.float16)).tolist()
    [[1.0, 0.75, 0.0], [0.0, 0.25, 1.0]]
    """
    return np.concatenate([1 - foreground(stored_KZYX)[None], from_stored(stored_KZYX)])
