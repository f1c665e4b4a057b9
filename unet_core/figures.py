"""Pictures of the report, from arrays to PNG data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from skimage.segmentation import find_boundaries

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)
from matplotlib.figure import Figure  # noqa: E402

TRUTH, FOUND = (0.0, 0.75, 1.0), (1.0, 0.75, 0.0)


def learning_curves(curves: dict[str, Sequence[float]]) -> str:
    """Losses and validation IoU over steps.

    Parameters
    ----------
    curves : dict
        Columns of ``curves.csv``.

    Returns
    -------
    str
        Picture as a data URI.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(curves["step"], curves["train_loss"], label="training", marker=".")
    if "validation_loss" in curves:
        left.plot(curves["step"], curves["validation_loss"], label="validation", marker=".")
        right.plot(curves["step"], curves["validation_iou"], color="tab:green", marker=".")
    left.set(xlabel="step", ylabel="weighted cross-entropy", yscale="log")
    left.legend()
    right.set(xlabel="step", ylabel="foreground IoU, validation", ylim=(0, 1))
    return _data_uri(figure)


def overlay(image: np.ndarray, found: np.ndarray, truth: np.ndarray | None, probability: np.ndarray, ignore: np.ndarray | None) -> str:
    """Image, foreground probability, and the outlines of truth and result on the image.

    Parameters
    ----------
    image, probability : ndarray, shape (y, x)
        Gray values and foreground probability.
    found, truth : ndarray of integers, shape (y, x)
        Objects; no truth where there is no annotation.
    ignore : ndarray, optional
        Nonzero where nothing is scored: hatched gray.

    Returns
    -------
    str
        Picture as a data URI.
    """
    gray = _stretch(image)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    if ignore is not None:
        rgb[ignore > 0] = 0.5 * rgb[ignore > 0] + 0.5
    if truth is not None:
        rgb[find_boundaries(truth, mode="inner")] = TRUTH
    rgb[find_boundaries(found, mode="inner")] = FOUND
    figure, axes = plt.subplots(1, 3, figsize=(12, 12 / 3 * image.shape[0] / image.shape[1] + 0.4), layout="constrained")
    title = "outlines: found (orange)" + (", annotated (blue)" if truth is not None else "")
    for axis, picture, name in zip(axes, (gray, probability, rgb), ("image", "foreground probability", title), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    return _data_uri(figure)


def weight_map(image: np.ndarray, target: np.ndarray, weight: np.ndarray) -> str:
    """Image, training target, and the weight w = w_c + border term with its colour bar.

    Parameters
    ----------
    image, weight : ndarray, shape (y, x)
        Gray values and weights; NaN where ignored.
    target : ndarray of integers, shape (y, x)
        Class of each pixel, 255 ignored.

    Returns
    -------
    str
        Picture as a data URI.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 12 / 3 * image.shape[0] / image.shape[1] + 0.4), layout="constrained")
    axes[0].imshow(_stretch(image), cmap="gray", vmin=0, vmax=1)
    axes[1].imshow(np.ma.masked_equal(target, 255), cmap="viridis", interpolation="nearest")
    shown = axes[2].imshow(weight, cmap="jet", interpolation="nearest")
    figure.colorbar(shown, ax=axes[2], label="w(x)", fraction=0.05)
    for axis, name in zip(axes, ("image", "class to learn", "weight"), strict=True):
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    return _data_uri(figure)


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [0.5, 99.5])
    return np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
