"""Pictures of the report, from arrays to PNG data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)
from matplotlib.ticker import MaxNLocator  # noqa: E402

# Caption -> picture as a data URI, from left to right.
Pictures = dict[str, str]

TRUTH, FOUND, SPOT = (0.0, 0.75, 1.0), (1.0, 0.75, 0.0), (1.0, 0.0, 0.6)


def learning_curves(curves: dict[str, Sequence[float]]) -> Pictures:
    """Losses, and validation IoU where there is validation, over steps.

    Parameters
    ----------
    curves : dict
        Columns of ``curves.csv``.

    Returns
    -------
    dict
        One or two pictures.
    """
    losses = {name.removesuffix("_loss"): curves[name] for name in ("train_loss", "validation_loss") if name in curves}
    pictures = {"weighted cross-entropy": _plot(curves["step"], losses)}
    if "validation_iou" in curves:
        pictures["foreground IoU"] = _plot(curves["step"], {"validation": curves["validation_iou"]}, ylim=(0, 1))
    return pictures


def overlay(image: np.ndarray, found: np.ndarray, truth: np.ndarray | None, probability: np.ndarray, ignore: np.ndarray | None) -> Pictures:
    """Image, foreground probability, and the outlines of truth and result on the image.

    Parameters
    ----------
    image, probability : ndarray, shape (y, x)
        Gray values and foreground probability.
    found, truth : ndarray of integers, shape (y, x)
        Objects; no truth where there is no annotation.
    ignore : ndarray, optional
        Nonzero where nothing is scored: brightened.

    Returns
    -------
    dict
        Three pictures.
    """
    gray = _stretch(image)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    if ignore is not None:
        rgb[ignore > 0] = 0.5 * rgb[ignore > 0] + 0.5
    caption = "found (orange)"
    if truth is not None:
        rgb[find_boundaries(truth, mode="inner")] = TRUTH
        caption += ", annotated (blue)" + (", ignored (pale)" if ignore is not None and ignore.any() else "")
    rgb[find_boundaries(found, mode="inner")] = FOUND
    return {"image": _png(gray, "gray"), "foreground probability": _png(probability, "gray"), caption: _png(rgb)}


def weight_map(image: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Pictures:
    """Image, training target, and the weight w = w_c + border term.

    Parameters
    ----------
    image, weight : ndarray, shape (y, x)
        Gray values and weights; NaN where ignored.
    target : ndarray of integers, shape (y, x)
        Class of each pixel, 255 ignored.

    Returns
    -------
    dict
        Three pictures.
    """
    classes, known = np.ma.masked_equal(target, 255), weight[np.isfinite(weight)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return {
        "image": _png(_stretch(image), "gray"),
        "class to learn": _png(classes, "viridis", high=max(1, int(classes.max() or 0))),
        f"weight, {low:.3g} (blue) to {high:.3g} (red)": _with_bar(weight, low, max(high, low + 1e-6)),
    }


def weight_figure(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> bytes:
    """Images, annotated objects on them, training targets, and weight maps with colour bars, as in figure 3 of the U-Net paper.

    Parameters
    ----------
    rows : sequence of (str, ndarray, ndarray, ndarray, ndarray)
        Name, image, objects, target (after touching objects were separated) and weights of each row, the arrays of shape (y, x).

    Returns
    -------
    bytes
        A PNG file.
    """
    figure, grid = plt.subplots(len(rows), 4, figsize=(16, 3.6 * len(rows)), layout="constrained", squeeze=False)
    for panels, (name, image, objects, target, weight) in zip(grid, rows, strict=True):
        gray = _stretch(image)
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


def spotted(image: np.ndarray, labels: np.ndarray, place: Sequence[int] | None, side: int = 128) -> str:
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
    gray = _stretch(image)
    step = max(1, max(image.shape) // 640)
    window = (slice(None, None, step), slice(None, None, step))
    if place is not None:
        starts = [min(max(0, at - side // 2), max(0, length - side)) for at, length in zip(place, image.shape, strict=True)]
        window = (slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side))
    rgb, part = np.repeat(gray[window][..., None], 3, axis=2), labels[window]
    rgb[find_boundaries(part, mode="inner")] = TRUTH
    if place is not None:
        number = labels[place[0], place[1]]
        if number:
            rgb[find_boundaries(part == number, mode="inner")] = FOUND
        y, x = (at - start for at, start in zip(place, starts, strict=True))
        for offset in (-4, -3, -2, 2, 3, 4):
            for row, column in ((y + offset, x), (y, x + offset)):
                if 0 <= row < part.shape[0] and 0 <= column < part.shape[1]:
                    rgb[row, column] = SPOT
    return _png(rgb)


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [0.5, 99.5])
    return np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def _plot(steps: Sequence[float], lines: dict[str, Sequence[float]], **axis: Any) -> str:
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for name, values in lines.items():
        axes.plot(steps, values, label=name, marker=".")
    values = [value for line in lines.values() for value in line if value > 0]
    # A logarithmic axis has readable ticks only over more than a decade.
    axes.set(xlabel="step", yscale="log" if values and not axis and max(values) > 10 * min(values) else "linear", **axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return _data_uri(buffer)


def _png(picture: np.ndarray, colours: str | None = None, low: float = 0, high: float = 1) -> str:
    """One pixel of the picture for each of the array: the page scales it."""
    buffer = io.BytesIO()
    plt.imsave(buffer, picture, cmap=colours, vmin=low, vmax=high, format="png")
    return _data_uri(buffer)


def _with_bar(picture: np.ndarray, low: float, high: float) -> str:
    """Values in colours, with the bar that says what they mean."""
    height, width = picture.shape
    scale = 5 / max(height, width)
    figure, axes = plt.subplots(figsize=(max(width * scale, 1) + 0.8, max(height * scale, 1)), layout="constrained")
    figure.colorbar(axes.imshow(picture, cmap="jet", vmin=low, vmax=high), ax=axes)
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return _data_uri(buffer)


def _data_uri(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
