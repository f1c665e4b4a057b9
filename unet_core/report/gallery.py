"""Pictures on the page.

Samples with truth, result and errors as layers; the worst objects; weight maps; tiles; what to annotate next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import pandas as pd
from skimage.segmentation import find_boundaries

from unet_core import pictures
from unet_core.blocks import Box
from unet_core.images.in_place import InPlace
from unet_core.instances.objects import check_table
from unet_core.predict.probabilities import foreground, with_background
from unet_core.report.uncertainty import entropy
from unet_core.runtime import read_json
from unet_core.store.store import Result, open_image_of, open_labels, open_weights

# Longest side of a picture in pixels: about as large as the page shows it, so that outlines stay visible; of a
# thumbnail.
PREVIEW_SIDE, THUMB_SIDE = 640, 320
# Pixels around an object, and voxels that are searched for objects that nothing but their label is known of.
MARGIN, MAX_SEARCHED_VOXELS = 24, 2**28
# Planes of a volume of which the one with the most to see is shown.
N_CANDIDATE_PLANES = 9


def short(name: str) -> str:
    """A name that fits under a picture, its middle left out if it is long.

    Examples
    --------
    >>> short("t001"), short("094afe36759e7daffe12188ab5987581d405b06720f1d5acf3f2614f404df380")
    ('t001', '094afe36759e7daf…404df380')
    """
    return name if len(name) <= 32 else f"{name[:16]}…{name[-8:]}"


class View(NamedTuple):
    """A picture with layers.

    Attributes
    ----------
    title, note : str
        Name, and what is told of it.
    size : tuple of int
        Height and width in pixels.
    layers : dict
        Kind of layer -> picture; the first is the lowest.
    """

    title: str
    note: str
    size: tuple[int, int]
    layers: dict[str, str]


class Places(NamedTuple):
    """Where the stores of a model and a data set are."""

    results: Path
    model: str
    dataset: str

    def image(self, sample: str) -> Result | InPlace:
        """Image of a sample."""
        return open_image_of(self.results / "groundtruth" / f"{self.dataset}.zarr", sample)

    def labels(self, sample: str) -> tuple[Result, Result, Result]:
        """Instances, classes and ignore mask."""
        return open_labels(self.results / "groundtruth" / f"{self.dataset}.zarr", sample)

    @property
    def has_probabilities(self) -> bool:
        """Whether probabilities are stored, and not masks alone."""
        return bool(read_json(self.results / "predict" / self.model / f"{self.dataset}.json")["dtype"] != "mask")

    def result(self, step: str, sample: str) -> Result:
        """What the step predict or instances made of a sample."""
        return Result(self.results / step / self.model / f"{self.dataset}.zarr" / sample)


def sample_view(
    places: Places, sample: str, objects: pd.DataFrame | None, note: str, limit: int = PREVIEW_SIDE
) -> View:
    """A sample with all layers there are.

    Parameters
    ----------
    places : Places
        Where the stores are.
    sample : str
        Its name.
    objects : DataFrame or None
        Its part of the table of objects, if it was scored; None if nothing is annotated.
    note : str
        What the caption says of it.
    limit : int
        Longest side in pixels.
    """
    found = places.result("instances", sample)
    truth, ignore = places.labels(sample)[::2] if objects is not None else (None, None)
    plane = _plane(found.shape[0], truth or found)
    found_plane = found.preview(plane, limit)
    image = _like(places.image(sample).preview(plane, limit)[0], found_plane.shape)
    layers = {"image": pictures.data_uri(pictures.stretch_contrast(image))}
    if places.has_probabilities:
        probability = foreground(places.result("predict", sample).preview(plane, limit))
        layers["probability"] = pictures.data_uri((probability * 255).astype(np.uint8))
    if truth is not None and ignore is not None and objects is not None:
        unknown, truth_plane = ignore.preview(plane, limit), truth.preview(plane, limit)
        if unknown.any():
            layers["ignored"] = pictures.data_uri(pictures.ignore_layer(unknown), exact=True)
        if len(objects):
            layers["errors"] = pictures.data_uri(
                pictures.kind_layer(kinds_of(truth_plane, found_plane, objects)), exact=True
            )
        layers["truth"] = pictures.data_uri(pictures.outline_layer(truth_plane, pictures.TRUTH_COLOUR), exact=True)
    layers["result"] = pictures.data_uri(pictures.outline_layer(found_plane, pictures.FOUND_COLOUR), exact=True)
    where = f", plane {plane} of {found.shape[0]}" if found.shape[0] > 1 else ""
    return View(sample, note + where, (image.shape[0], image.shape[1]), layers)


def kinds_of(truth: np.ndarray, found: np.ndarray, objects: pd.DataFrame) -> np.ndarray:
    """What became of the object of each pixel.

    Parameters
    ----------
    truth, found : ndarray of integers, shape (y, x)
        Labels.
    objects : DataFrame
        `label`, `match` and `kind` of the objects of the sample.

    Returns
    -------
    ndarray of uint8, shape (y, x)
        0 where there is none, else 1 + the position in `pictures.KIND_COLOURS`; a spurious object covers no true one.
    """
    code = {kind: number for number, kind in enumerate(pictures.KIND_COLOURS, 1)}
    true = objects[objects["label"] > 0]
    kinds = _looked_up(truth, true["label"].to_numpy(np.int64), true["kind"].map(code).to_numpy(np.uint8))
    spurious = objects.loc[objects["label"] == 0, "match"].to_numpy(np.int64)
    of_found = _looked_up(found, spurious, np.full(spurious.size, code["spurious"], np.uint8))
    return np.where((truth == 0) & (kinds == 0), of_found, kinds)


def worst_objects(objects: pd.DataFrame, count: int) -> pd.DataFrame:
    """The objects with the most wrong voxels: those that are not matched first.

    Parameters
    ----------
    objects : DataFrame
        Table of objects of a data set.
    count : int
        How many.
    """
    wrong = objects["voxels"] * (1 - objects["best_iou"])
    ranked = objects.assign(wrong=wrong, matched=objects["kind"] == "matched")
    return ranked.sort_values(["matched", "wrong"], ascending=[True, False], kind="stable").head(count)


def object_views(places: Places, rows: pd.DataFrame, tables: Path) -> list[View]:
    """Surroundings of objects: outlines of truth (blue) and result (orange), and of the object itself (pink).

    Parameters
    ----------
    places : Places
        Where the stores are.
    rows : DataFrame
        From `worst_objects`.
    tables : Path
        Folder of the tables of found objects, which know where they are.
    """
    views = []
    for row in rows.to_dict("records"):
        sample, of_truth = str(row["sample"]), row["label"] > 0
        truth, found = places.labels(sample)[0], places.result("instances", sample)
        label = int(row["label"] if of_truth else row["match"])
        box = _search(truth, label) if of_truth else None
        if box is None and row["match"] > 0:
            box = _extent(tables / f"{sample}.parquet", int(row["match"]))
        name = f"label {label}" if of_truth else f"found object {label}"
        note = f"{short(sample)}, {name}: {int(row['voxels']):,} voxels, best IoU {row['best_iou']:.2f}"
        if box is None:
            views.append(View(str(row["kind"]), note + ", not looked for in so large an image", (1, 1), {}))
            continue
        window = _window(box, found.shape)
        colours = np.repeat(pictures.stretch_contrast(places.image(sample).read(window)[0, 0])[..., None], 3, axis=2)
        true_part, found_part = truth.read(window)[0], found.read(window)[0]
        colours[find_boundaries(true_part, mode="inner")] = pictures.TRUTH_COLOUR
        colours[find_boundaries(found_part, mode="inner")] = pictures.FOUND_COLOUR
        colours[find_boundaries((true_part if of_truth else found_part) == label, mode="inner")] = pictures.SPOT_COLOUR
        step = -(-max(colours.shape) // THUMB_SIDE)
        height, width = colours[::step, ::step].shape[:2]
        views.append(
            View(
                str(row["kind"]),
                note,
                (height, width),
                {"image": pictures.data_uri(colours[::step, ::step], exact=True)},
            )
        )
    return views


def uncertain_view(places: Places, sample: str, plane: int, note: str) -> View:
    """An image that nobody annotated, and how uncertain its pixels are."""
    probability = places.result("predict", sample)
    parts = with_background(probability.preview(plane, THUMB_SIDE))
    image = _like(places.image(sample).preview(plane, THUMB_SIDE)[0], parts.shape[1:])
    layers = {"image": pictures.data_uri(pictures.stretch_contrast(image))}
    layers["entropy"] = pictures.data_uri(pictures.probability_layer(entropy(parts)), exact=True)
    return View(sample, note, (image.shape[0], image.shape[1]), layers)


def tile_view(path: Path) -> View | None:
    """The picture of training tiles that the training has drawn; None where it is missing or damaged."""
    try:
        picture = imagecodecs.png_decode(path.read_bytes())
    except (OSError, ValueError, RuntimeError):  # the page can do without
        return None
    note = (
        "varied at random, with the outlines of the classes to learn (blue) and the frame of what is learnt (yellow); "
        "below, the "
        "weight of each pixel from 0 (blue) to the highest (red), gray where nothing is annotated"
    )
    return View("the first training tiles", note, picture.shape[:2], {"tiles": pictures.data_uri(picture, exact=True)})


def weight_views(results: Path, dataset: str, sample: str, class_weights: Sequence[float]) -> list[View]:
    """Image, class to learn, and weight w = w_c + border term of a training sample."""
    target_result, border = open_weights(results / "weights" / f"{dataset}.zarr", sample)
    plane = target_result.shape[0] // 2
    target = target_result.preview(plane, PREVIEW_SIDE)
    image = _like(
        open_image_of(results / "groundtruth" / f"{dataset}.zarr", sample).preview(plane, PREVIEW_SIDE)[0], target.shape
    )
    w_c = np.array([*class_weights, *([np.nan] * (256 - len(class_weights)))])
    weight = w_c[target] + border.preview(plane, PREVIEW_SIDE)
    known = weight[np.isfinite(weight)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    classes = np.where(target == 255, np.nan, target)
    size, shown = (image.shape[0], image.shape[1]), pictures.jet(classes, 0, len(class_weights) - 1)
    return [
        View("image", "", size, {"image": pictures.data_uri(pictures.stretch_contrast(image))}),
        View("class to learn", "background blue", size, {"image": pictures.data_uri(shown, exact=True)}),
        View(
            "weight",
            f"{low:.3g} (blue) to {high:.3g} (red)",
            size,
            {"image": pictures.data_uri(pictures.jet(weight, low, high))},
        ),
    ]


def _plane(planes: int, labels: Result) -> int:
    """The plane with the most foreground, of some."""
    if planes == 1:
        return 0
    tried = sorted({(2 * i + 1) * planes // (2 * N_CANDIDATE_PLANES) for i in range(N_CANDIDATE_PLANES)})
    return max(tried, key=lambda plane: np.count_nonzero(labels.preview(plane, 64)))


def _like(picture: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The nearest pixels, at another resolution: an image that lies in place is scaled otherwise than a store."""
    y, x = (np.arange(n) * have // n for n, have in zip(shape, picture.shape, strict=True))
    return picture[np.ix_(y, x)]


def _looked_up(labels: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value of each pixel's label, 0 for those that are not known."""
    out = np.zeros(labels.shape, np.uint8)
    if known.size:
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known, labels, sorter=order), known.size - 1)
        hit = known[order][place] == labels
        out[hit] = values[order][place[hit]]
    return out


def _extent(table: Path, label: int) -> Box | None:
    """Bounding box of a found object."""
    columns = [f"{end}_{axis}" for end in ("start", "stop") for axis in "zyx"]
    rows = pd.read_parquet(check_table(table), columns=columns, filters=[("label", "==", label)])
    if not len(rows):
        return None
    z, y, x, z2, y2, x2 = (int(value) for value in rows.iloc[0])
    return Box((z, y, x), (z2, y2, x2))


def _search(labels: Result, label: int) -> Box | None:
    """Bounding box of an object in the first block that has it; None where the image is too large to be searched."""
    if int(np.prod(labels.shape)) > MAX_SEARCHED_VOXELS:
        return None
    for box in _boxes(labels):
        places = np.nonzero(labels.read(box) == label)
        if places[0].size:
            low, high = (tuple(int(end(axis)) + (end is np.max) for axis in places) for end in (np.min, np.max))
            z, y, x = box.start
            return Box((z + low[0], y + low[1], x + low[2]), (z + high[0], y + high[1], x + high[2]))
    return None


def _boxes(result: Result) -> Iterable[Box]:
    return (result.grid.box(index) for index in range(len(result.grid)))


def _window(box: Box, shape: tuple[int, int, int]) -> Box:
    """The middle plane of a box with some pixels around it, a square of at most twice `PREVIEW_SIDE`."""
    plane = (box.start[0] + box.stop[0]) // 2
    side = min(
        max(stop - start for start, stop in zip(box.start[1:], box.stop[1:], strict=True)) + 2 * MARGIN,
        2 * PREVIEW_SIDE,
    )
    middle = [(start + stop) // 2 for start, stop in zip(box.start[1:], box.stop[1:], strict=True)]
    y, x = (max(0, min(at - side // 2, n - side)) for at, n in zip(middle, shape[1:], strict=True))
    return Box((min(plane, shape[0] - 1), y, x), (min(plane, shape[0] - 1) + 1, y + side, x + side)).clip(shape)
