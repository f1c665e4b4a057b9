"""Charts of the report as SVG inside of the page.

They have the colours of the page's text, so that they can be read in the dark and on paper too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup

from unet_core.digest import digest
from unet_core.metrics.reliability import Reliability, expected_calibration_error, reliability_curve

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter  # noqa: E402

# Stands for the colour of the page's text, which the page knows.
INK = "#010203"
# Annotated and found, as the outlines, and two more; each readable on white and on black.
BLUE, ORANGE, GREEN, PURPLE = "#1f8fd0", "#d9800d", "#1a9e77", "#b06fc0"
STYLE: Any = {
    name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
} | {
    "svg.fonttype": "none",
    "svg.hashsalt": "unet",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 11,
}

# What is drawn by a function under this decorator looks so.
STYLED: Any = plt.rc_context(STYLE)


class Chart(NamedTuple):
    """A chart, and what it shows in words."""

    caption: str
    svg: Markup


@STYLED
def learning_curves(curves: Mapping[str, Sequence[float]]) -> list[Chart]:
    """Losses, and scores of the validation where there is one, over steps.

    Parameters
    ----------
    curves : mapping
        Columns of ``curves.csv``.

    Returns
    -------
    list of Chart
        One or two.
    """
    losses = {name.removesuffix("_loss"): curves[name] for name in ("train_loss", "validation_loss") if name in curves}
    scores = {
        text: curves[name]
        for name, text in (("validation_iou", "foreground IoU"), ("validation_seg", "SEG"), ("validation_ap50", "AP50"))
        if name in curves
    }
    positive = [value for line in losses.values() for value in line if value > 0]
    charts = []
    for caption, lines in (
        ("weighted cross-entropy over steps of training", losses),
        ("scores of the validation over steps", scores),
    ):
        if lines:
            figure, axes = _axes()
            for (name, values), colour in zip(lines.items(), (BLUE, ORANGE, GREEN), strict=False):
                axes.plot(curves["step"], values, label=name, marker=".", color=colour)
            # A logarithmic axis has readable ticks only over more than a decade.
            wide = lines is losses and positive and max(positive) > 10 * min(positive)
            axes.set(xlabel="step", yscale="log" if wide else "linear")
            if lines is scores:
                axes.set_ylim(0, 1.02)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _legend(axes)
            charts.append(_chart(figure, caption))
    return charts


@STYLED
def calibration_chart(counts: Reliability) -> Chart:
    """Share of true foreground over foreground probability, and how many voxels there are of each."""
    curve = np.array(reliability_curve(counts))
    figure, axes = _axes()
    axes.bar(curve[:, 0], curve[:, 2] / curve[:, 2].sum(), width=0.07, color=INK, alpha=0.18, label="share of voxels")
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    axes.plot(curve[:, 0], curve[:, 1], marker="o", color=ORANGE, label="true foreground")
    axes.set(xlabel="foreground probability", xlim=(-0.05, 1.05), ylim=(0, 1.02))
    _legend(axes)
    return _chart(
        figure, f"calibration: expected calibration error {expected_calibration_error(counts):.3f}; dotted: perfect"
    )


@STYLED
def size_chart(sizes: Mapping[str, np.ndarray]) -> Chart:
    """Distributions of object sizes, on a logarithmic axis.

    Parameters
    ----------
    sizes : mapping
        "annotated" and "found" -> objects of each size class; see `count_sizes`.
    """
    figure, axes = _axes()
    used = np.flatnonzero(sum(sizes.values()))
    first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    edges = 2.0 ** (np.arange(first, last + 1) / BINS_PER_OCTAVE)
    for name, colour in (("annotated", BLUE), ("found", ORANGE)):
        if name in sizes:
            axes.stairs(sizes[name][first:last], edges, color=colour, fill=True, alpha=0.3)
            axes.stairs(sizes[name][first:last], edges, color=colour, label=f"{name} ({int(sizes[name].sum()):,})")
    axes.set(xlabel="voxels of an object", ylabel="objects")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    _legend(axes)
    return _chart(figure, "sizes of objects")


# Classes of sizes: three for each doubling.
BINS_PER_OCTAVE, N_SIZE_BINS = 3, 180


def count_sizes(voxels: np.ndarray) -> np.ndarray:
    """Objects of each class of sizes, for `size_chart`; counts of several samples can be added up.

    Examples
    --------
    >>> np.flatnonzero(count_sizes(np.array([1, 8, 8]))).tolist()
    [0, 9]
    """
    # A little more, so that powers of two do not fall below the edge.
    of_class = np.floor(np.log2(np.maximum(voxels, 1)) * BINS_PER_OCTAVE + 1e-9).astype(np.intp)
    return np.bincount(of_class, minlength=N_SIZE_BINS)


@STYLED
def overlap_chart(best_iou: np.ndarray) -> Chart:
    """Distribution of the best IoU of the true objects."""
    figure, axes = _axes()
    axes.hist(best_iou, bins=np.linspace(0, 1, 21).tolist(), color=BLUE, alpha=0.75)
    axes.axvline(0.5, color=INK, linestyle=":", linewidth=1)
    axes.set(xlabel="best IoU of an annotated object", ylabel="objects", xlim=(0, 1))
    return _chart(figure, "how well annotated objects were found; dotted: from there on they match")


@STYLED
def score_chart(scores: Mapping[str, np.ndarray]) -> Chart:
    """Scores of each image as points, and their medians as lines.

    Parameters
    ----------
    scores : mapping
        Name of a measure -> its value in each image; NaN where it has none.
    """
    figure, axes = _axes()
    rng = np.random.default_rng(0)
    for position, values in enumerate(scores.values()):
        known = values[np.isfinite(values)]
        axes.scatter(
            position + rng.uniform(-0.18, 0.18, known.size),
            known,
            s=12,
            alpha=0.6,
            color=(BLUE, ORANGE, GREEN, PURPLE)[position],
        )
        if known.size:
            axes.hlines(np.median(known), position - 0.3, position + 0.3, color=INK)
    axes.set(xticks=range(len(scores)), xticklabels=list(scores), ylim=(0, 1.02))
    return _chart(figure, "scores of each image, and their medians")


def _axes() -> tuple[Figure, Axes]:
    return plt.subplots(figsize=(5, 3.1), layout="constrained")


def _legend(axes: Axes) -> None:
    """Above the chart, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def _chart(figure: Figure, caption: str) -> Chart:
    """The chart as an element of the page: without what only a file needs, and with names that no other chart has."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    plt.close(figure)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"|<style.*?</style>', "", svg)
    own = f"c{digest(svg)[:8]}"
    svg = re.sub(r'(id="|"#|url\(#)(?=[mp][0-9a-f]{10})', rf"\g<1>{own}", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(caption)}"', 1).replace(INK, "currentColor")
    return Chart(caption, Markup(svg))
