"""Pictures of a page: arrays of gray values and labels become data URIs, as small as they get.

Some are layers to lie upon each other.
"""

from __future__ import annotations

import base64

import imagecodecs
import numpy as np

# Outlines of annotated and of found objects, and of the one in question.
TRUTH_COLOUR, FOUND_COLOUR, SPOT_COLOUR = (0, 191, 255), (255, 191, 0), (255, 0, 153)
# Fills by what became of an object, as in Okabe and Ito's palette, which the colour-blind can tell apart.
KIND_COLOURS = {
    "matched": (0, 158, 115),
    "merged": (240, 228, 66),
    "split": (204, 121, 167),
    "missed": (213, 94, 0),
    "spurious": (0, 114, 178),
}
# Opacity; what went well hides less of the image.
FILL_OPACITY, MATCHED_OPACITY = 150, 60
JPEG_QUALITY = 82


def data_uri(picture: np.ndarray, exact: bool = False) -> str:
    """A picture as it stands in a page, in the format that takes the fewest bytes.

    Parameters
    ----------
    picture : ndarray of uint8, shape (y, x), (y, x, 3) or (y, x, 4)
        Gray values, red, green and blue, or these and the opacity.
    exact : bool
        Keep each value: PNG or lossless WebP; else WebP or JPEG with small losses, without opacity.

    Returns
    -------
    str
        ``data:image/...;base64,...``.
    """
    colours = np.ascontiguousarray(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
    if exact:
        made = {"png": imagecodecs.png_encode(np.ascontiguousarray(picture), level=6)}
        made["webp"] = imagecodecs.webp_encode(colours, lossless=True, level=0)
    else:
        made = {"jpeg": imagecodecs.jpeg8_encode(np.ascontiguousarray(picture), level=JPEG_QUALITY)}
        made["webp"] = imagecodecs.webp_encode(colours, level=JPEG_QUALITY)
    kind = min(made, key=lambda name: len(made[name]))
    return f"data:image/{kind};base64,{base64.b64encode(made[kind]).decode()}"


def stretch_contrast(image: np.ndarray) -> np.ndarray:
    """Gray values as uint8, with the darkest and the brightest half percent cut off."""
    low, high = np.percentile(image, [0.5, 99.5])
    return (np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def outline_layer(labels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A layer with the outlines of objects, shape (y, x, 4)."""
    from skimage.segmentation import find_boundaries  # takes half a second, and not all who draw need it

    return _layer(find_boundaries(labels, mode="inner"), colour, 255)


def kind_layer(kinds: np.ndarray) -> np.ndarray:
    """A layer that shows what became of objects, shape (y, x, 4).

    Parameters
    ----------
    kinds : ndarray of integers, shape (y, x)
        0 where there is no object, else 1 + the position in `KIND_COLOURS`.
    """
    palette = np.array(
        [
            (0, 0, 0, 0),
            *(
                (*colour, MATCHED_OPACITY if kind == "matched" else FILL_OPACITY)
                for kind, colour in KIND_COLOURS.items()
            ),
        ],
        np.uint8,
    )
    return palette[kinds]


def ignore_layer(mask: np.ndarray) -> np.ndarray:
    """A layer that brightens what is ignored, shape (y, x, 4)."""
    return _layer(mask, (255, 255, 255), FILL_OPACITY)


def probability_layer(values: np.ndarray) -> np.ndarray:
    """A layer of values 0 to 1: the higher, the redder and the less transparent; shape (y, x, 4)."""
    # Few steps, so that the layer takes few bytes.
    steps = np.rint(np.clip(values, 0, 1) * 15) / 15
    layer = np.zeros((*values.shape, 4), np.uint8)
    layer[..., 0], layer[..., 1], layer[..., 3] = 255, 200 * (1 - steps), 200 * steps
    layer[layer[..., 3] == 0] = 0
    return layer


def jet(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours from `low` (blue) to `high` (red), as in figure 3 of the U-Net paper; gray where there is no value.

    The result has the shape (y, x, 3) and the type uint8.
    """
    part = 4 * np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-6), 0, 1)
    channels = [np.clip(1.5 - np.abs(part - middle), 0, 1) for middle in (3, 2, 1)]
    colours = (np.stack(channels, axis=-1) * 255).astype(np.uint8)
    colours[~np.isfinite(values)] = 128
    return colours


def _layer(mask: np.ndarray, colour: tuple[int, int, int], opacity: int) -> np.ndarray:
    return np.array([(0, 0, 0, 0), (*colour, opacity)], np.uint8)[(mask > 0).astype(np.intp)]
