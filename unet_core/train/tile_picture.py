"""A picture of the first training tiles as the network sees them.

It shows how tiles are varied and whether targets are in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import imagecodecs
import numpy as np

from unet_core.config.datasets import IGNORE
from unet_core.pictures import FOUND_COLOUR, TRUTH_COLOUR, jet, stretch_contrast

# Tiles in a picture, longest side of each, and pixels between them.
N_TILES, SIDE, GAP = 6, 200, 4


def tile_picture(tiles: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], class_weights: Sequence[float]) -> bytes:
    """PNG of some tiles side by side: the image above, and the weight of each pixel below.

    In the image stand the outlines of the classes to learn (blue) and the frame of what is learnt (yellow), around
    which the network only looks. The weight is w_c + border term, from 0 (blue) to the highest of all these tiles
    (red), and gray where it is ignored. Of volumes the middle plane is shown.

    Parameters
    ----------
    tiles : iterable of (ndarray, ndarray, ndarray)
        Image (c, [z,] y, x) of the input tile; target and border term ([z,] y, x) of the output.
    class_weights : sequence of float
        w_c of each class, background first.
    """
    planes = [_middle_plane(*tile) for tile in tiles]
    w_c = np.array([*class_weights, *([np.nan] * (IGNORE + 1 - len(class_weights)))])
    weights = [w_c[target] + border for _, target, border in planes]
    highest = np.nanmax([1e-6, *(weight[np.isfinite(weight)].max(initial=0) for weight in weights)])
    columns = []
    for (image, target, _), weight in zip(planes, weights, strict=True):
        step = -(-max(image.shape) // SIDE)
        upper, lower = _seen(image, target, step), np.full((*image[::step, ::step].shape, 3), 255, np.uint8)
        coloured = jet(weight[::step, ::step], 0, float(highest))
        top, left = ((big - small) // 2 for big, small in zip(lower.shape[:2], coloured.shape[:2], strict=True))
        lower[top : top + coloured.shape[0], left : left + coloured.shape[1]] = coloured
        column = np.concatenate([upper, np.full((GAP, *upper.shape[1:]), 255, np.uint8), lower])
        columns += [column, np.full((len(column), GAP, 3), 255, np.uint8)]
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(np.concatenate(columns[:-1], axis=1)), level=6))


def _middle_plane(
    image: np.ndarray, target: np.ndarray, border: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First channel of the image, target and border term, each (y, x)."""
    first = image[0]
    if first.ndim == 3:
        first, target, border = (part[len(part) // 2] for part in (first, target, border))
    return first, target, border


def _seen(image: np.ndarray, target: np.ndarray, step: int) -> np.ndarray:
    """Image with outlines and frame, at a `step`-th of the resolution."""
    from skimage.segmentation import find_boundaries  # takes half a second, and jobs with nothing to do need it not

    colours = np.repeat(stretch_contrast(image[::step, ::step])[..., None], 3, axis=2)
    # Outlines before the resolution is lowered would be dashed lines.
    known = target[::step, ::step]
    top, left = ((big - small) // 2 for big, small in zip(colours.shape[:2], known.shape, strict=True))
    inner = colours[top : top + known.shape[0], left : left + known.shape[1]]
    inner[find_boundaries(known, mode="inner")] = TRUTH_COLOUR
    inner[[0, -1], :] = FOUND_COLOUR
    inner[:, [0, -1]] = FOUND_COLOUR
    return colours
