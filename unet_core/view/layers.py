"""The layers of a sample, as napari takes them: arrays that are read when they are shown, at all their resolutions.

Nothing here imports napari.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd

from unet_core.blocks import ZYX, Box
from unet_core.images.in_place import InPlace
from unet_core.metrics.contingency import add, contingency
from unet_core.metrics.errors import object_errors
from unet_core.pictures import KIND_COLOURS
from unet_core.predict.probabilities import from_stored
from unet_core.report.gallery import Places, kinds_of
from unet_core.store.store import LABELS, Result, open_image_of, read_attributes

# Pixels along y and x that are read at once.
SIDE = 1024
# Voxels of a sample in which errors are looked for: a few seconds.
MAX_COMPARED_VOXELS = 2**26
# Colours of channels, to be told apart where they lie upon each other; three of them are mostly those of a picture.
CHANNEL_COLOURS = ("green", "magenta", "cyan", "yellow", "red", "blue")
COLOURS_OF = {1: ("gray",), 3: ("red", "green", "blue")}
ERRORS = {kind: number for number, kind in enumerate(KIND_COLOURS, 1) if kind != "matched"}


class Layer(NamedTuple):
    """A layer.

    Attributes
    ----------
    name : str
        What stands in the list of layers.
    kind : {"image", "labels"}
        How it is drawn.
    levels : list of dask array, shape ([z,] y, x)
        Resolutions, the finest first; a sample of one plane has no z.
    scale : tuple of float
        Micrometres of a voxel of the finest resolution, along each axis.
    shown : dict
        Further arguments of napari's ``add_image`` or ``add_labels``.
    contour : int
        Width of outlines in pixels; 0 draws labels filled.
    """

    name: str
    kind: Literal["image", "labels"]
    levels: list[da.Array]
    scale: tuple[float, ...]
    shown: dict[str, Any]
    contour: int = 0


class Layers(NamedTuple):
    """The layers of a sample, the lowest first, and a line for each that is not there."""

    layers: list[Layer]
    absent: list[str]


def layers_of(places: Places, sample: str, classes: Sequence[str], compared: int = MAX_COMPARED_VOXELS) -> Layers:
    """All layers of a sample.

    Parameters
    ----------
    places : Places
        Where the stores are; without a model (an empty name) there is nothing found.
    sample : str
        Its name.
    classes : sequence of str
        Names of the classes of objects.
    compared : int
        Voxels of the largest sample in which errors are looked for.

    Raises
    ------
    UserError
        If the image is missing or damaged.
    """
    layers, absent = image_layers(places.results / "groundtruth" / f"{places.dataset}.zarr", sample), list[str]()
    found = _done(places.results / "instances" / places.model / f"{places.dataset}.zarr" / sample)
    predicted = _done(places.results / "predict" / places.model / f"{places.dataset}.zarr" / sample)
    if predicted:
        layers += probability_layers(predicted, classes)
    else:
        absent.append("probabilities: not predicted, or not to the end")
    truths = places.results / "groundtruth" / f"{places.dataset}.zarr" / sample / "labels"
    truth, classes_of_truth, ignore = (_done(truths / name) for name in LABELS)
    if found:
        layers.append(_labels("result", found, opacity=0.4))
    else:
        absent.append("result: objects were not looked for, or not to the end")
    if truth and classes_of_truth and ignore:
        layers.append(_labels("truth", truth, contour=2))
        if len(classes) > 1:
            layers.append(_labels("classes of truth", classes_of_truth, visible=False))
        if read_attributes(ignore.path)["details"].get("ignored"):
            layers.append(_labels("ignored", ignore, visible=False, opacity=0.3))
    else:
        absent.append("truth: not annotated")
    if found and truth and ignore:
        if math.prod(truth.shape) <= compared:
            layers.append(error_layer(truth, found, ignore))
        else:
            absent.append(f"errors: the sample is too large to compare at once (more than {compared:,} voxels)")
    return Layers(layers, absent)


def image_layers(store: Path, sample: str) -> list[Layer]:
    """A layer for each channel of the image, with the contrast from the first to the 99.9th percentile."""
    image, details = open_image_of(store, sample), read_attributes(store / sample).get("details", {})
    names, seen, count = details.get("channels", []), details.get("intensities", []), image.channels or 1
    levels, colours, layers = levels_of(image), COLOURS_OF.get(count, CHANNEL_COLOURS), []
    for channel in range(count):
        name = names[channel] if channel < len(names) else ""
        shown: dict[str, Any] = {"colormap": colours[channel % len(colours)], "blending": "additive"}
        if channel < len(seen):
            low, high = (seen[channel]["percentiles"][level] for level in ("1", "99.9"))
            shown["contrast_limits"] = (low, high if high > low else low + 1)
        title = f"image {name or channel}" if count > 1 or name else "image"
        layers.append(_layer(title, "image", [level[channel] for level in levels], image.pixel_size, shown))
    return layers


def probability_layers(predicted: Result, classes: Sequence[str]) -> list[Layer]:
    """A hidden layer for each class of objects, 0 to 1."""
    levels, layers = levels_of(predicted), []
    for number in range(predicted.channels or 1):
        name = classes[number] if number < len(classes) else str(number + 1)
        ones = [level[number].map_blocks(from_stored, dtype=np.float32) for level in levels]
        shown = {"contrast_limits": (0.0, 1.0), "colormap": "inferno", "blending": "additive", "visible": False}
        layers.append(_layer(f"probability of {name}", "image", ones, predicted.pixel_size, shown))
    return layers


def error_layer(truth: Result, found: Result, ignore: Result) -> Layer:
    """What went wrong, as labels: merged, split and missed objects of the truth, and spurious ones.

    They are those of `metrics.errors` (IoU 0.5), as the report shows them. The objects are compared at once, block by
    block; which pixels they have is read when they are shown.
    """
    boxes = truth.grid
    table = add(contingency(truth.read(box), found.read(box), ignore.read(box)) for box in boxes)
    errors = object_errors(table)
    paint = functools.partial(_painted, objects=errors[errors["kind"] != "matched"])
    pairs = zip(levels_of(truth), levels_of(found), strict=False)
    levels = [da.map_blocks(paint, *pair, dtype=np.uint8) for pair in pairs]
    colours: dict[int | None, tuple[float, ...]] = {None: (0.0, 0.0, 0.0, 0.0), 0: (0.0, 0.0, 0.0, 0.0)}
    colours |= {ERRORS[kind]: (*(value / 255 for value in KIND_COLOURS[kind]), 1.0) for kind in ERRORS}
    shown = {
        "colormap": colours,
        "features": pd.DataFrame({"index": [0, *ERRORS.values()], "error": ["", *ERRORS]}),
        "visible": False,
    }
    counts = errors["kind"].value_counts()
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ERRORS if kind in counts) or "none"
    return _layer(f"errors ({told})", "labels", levels, truth.pixel_size, shown)


def _painted(truth: np.ndarray, found: np.ndarray, objects: pd.DataFrame) -> np.ndarray:
    return kinds_of(truth, found, objects).astype(np.uint8)


def levels_of(array: Result | InPlace) -> list[da.Array]:
    """All resolutions of a result, or of an image in place, shape ([c,] z, y, x).

    An image in place has a pyramid of every 2nd, 4th, ... pixel, which reads all of it; it is for a first look.
    """
    lead = (array.channels,) if array.channels is not None else ()
    if isinstance(array, Result):
        shapes = [array.shape_at(level) for level in range(array.levels)]
        reads: list[Callable[[Box], np.ndarray]] = [functools.partial(array.read, level=n) for n in range(len(shapes))]
        sides = [SIDE for _ in shapes]
    else:
        steps = [2**n for n in range(1 + max(0, math.ceil(math.log2(max(array.shape[1:]) / SIDE))))]
        shapes = [(array.shape[0], *(-(-n // step) for n in array.shape[1:])) for step in steps]
        reads = [functools.partial(_thinned, array, step) for step in steps]
        # What is read at once stays the same.
        sides = [max(1, 2 * SIDE // step) for step in steps]
    return [
        da.from_array(
            _Voxels((*lead, *shape), array.dtype, read),
            chunks=(*lead, 1, side, side),
            name=False,
            getitem=da.core.getter_nofancy,
            meta=np.empty((0,) * (len(lead) + 3), array.dtype),
        )
        for shape, read, side in zip(shapes, reads, sides, strict=True)
    ]


class _Voxels:
    """What dask needs of an array: voxels of slices, read when they are asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[Box], np.ndarray]) -> None:
        self.shape, self.dtype, self.ndim, self._read = shape, dtype, len(shape), read

    def __getitem__(self, index: tuple[slice | int, ...]) -> np.ndarray:
        # Dask puts the slices and numbers of those who take a part of an array together with its own.
        parts = [one if isinstance(one, slice) else slice(one, one + 1) for one in index[-3:]]
        bounds = [one.indices(n) for one, n in zip(parts, self.shape[-3:], strict=True)]
        (z, y, x), (z2, y2, x2), steps = zip(*bounds, strict=True)
        inner = [
            slice(None, None, step) if isinstance(one, slice) else 0
            for one, step in zip(index[-3:], steps, strict=True)
        ]
        return self._read(Box((z, y, x), (z2, y2, x2)))[(*index[:-3], *inner)]


def _thinned(image: InPlace, step: int, box: Box) -> np.ndarray:
    """Every n-th pixel along y and x, for a box of these."""
    (z, y, x), (z2, y2, x2) = box
    whole: ZYX = image.shape
    return image.read(Box((z, y * step, x * step), (z2, min(y2 * step, whole[1]), min(x2 * step, whole[2]))), step)


def _done(path: Path) -> Result | None:
    """A result that is done, if there is one."""
    return Result(path) if read_attributes(path).get("done") else None


def _labels(name: str, result: Result, contour: int = 0, **shown: Any) -> Layer:
    return _layer(name, "labels", levels_of(result), result.pixel_size, shown, contour)


def _layer(
    name: str,
    kind: Literal["image", "labels"],
    levels: Sequence[da.Array],
    size: tuple[float, float, float],
    shown: dict[str, Any],
    contour: int = 0,
) -> Layer:
    """A layer; of a sample of one plane without the axis z."""
    flat = levels[0].shape[0] == 1
    return Layer(name, kind, [level[0] if flat else level for level in levels], size[flat:], shown, contour)
