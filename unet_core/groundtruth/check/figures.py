"""Pictures of the check of annotations, and of the documentation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

from unet_core.pictures import FOUND_COLOUR, SPOT_COLOUR, TRUTH_COLOUR, data_uri, stretch_contrast

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)


def weight_figure(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> bytes:
    """Images, annotated objects on them, training targets, and weight maps with colour bars.

    The layout is that of figure 3 of the U-Net paper.

    Parameters
    ----------
    rows : sequence of (str, ndarray, ndarray, ndarray, ndarray)
        Name, image, objects, target (after touching objects were separated) and weights of each row, the arrays of
        shape (y, x).

    Returns
    -------
    bytes
        A PNG file.
    """
    figure, grid = plt.subplots(len(rows), 4, figsize=(16, 3.6 * len(rows)), layout="constrained", squeeze=False)
    for panels, (name, image, objects, target, weight) in zip(grid, rows, strict=True):
        gray = stretch_contrast(image)
        panels[0].imshow(gray, cmap="gray")
        panels[1].imshow(label2rgb(objects, gray, alpha=0.5, bg_label=0))
        panels[2].imshow(target > 0, cmap="gray")
        figure.colorbar(panels[3].imshow(weight, cmap="jet"), ax=panels[3])
        for panel, title in zip(panels, (name, "annotated objects", "target", "weight of each pixel"), strict=True):
            panel.set_title(title, loc="left")
            panel.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=70)
    plt.close(figure)
    return buffer.getvalue()


def outline_picture(image: np.ndarray, labels: np.ndarray, place: Sequence[int] | None, side: int = 128) -> str:
    """Outlines of annotated objects on the image: all of it, or the surroundings of one place.

    Parameters
    ----------
    image, labels : ndarray, shape (y, x)
        Gray values and objects.
    place : sequence of int, optional
        y, x of what is to be seen: its object is orange, and a cross marks it.
    side : int
        Pixels of the surroundings.

    Returns
    -------
    str
        The picture as a data URI.
    """
    gray = stretch_contrast(image)
    step = max(1, max(image.shape) // 640)
    window = (slice(None, None, step), slice(None, None, step))
    if place is not None:
        starts = [
            min(max(0, at - side // 2), max(0, length - side)) for at, length in zip(place, image.shape, strict=True)
        ]
        window = (slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side))
    rgb, part = np.repeat(gray[window][..., None], 3, axis=2), labels[window]
    rgb[find_boundaries(part, mode="inner")] = TRUTH_COLOUR
    if place is not None:
        number = labels[place[0], place[1]]
        if number:
            rgb[find_boundaries(part == number, mode="inner")] = FOUND_COLOUR
        y, x = (at - start for at, start in zip(place, starts, strict=True))
        for offset in (-4, -3, -2, 2, 3, 4):
            for row, column in ((y + offset, x), (y, x + offset)):
                if 0 <= row < part.shape[0] and 0 <= column < part.shape[1]:
                    rgb[row, column] = SPOT_COLOUR
    return data_uri(rgb, exact=True)
