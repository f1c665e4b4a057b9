"""Annotations of one sample painted into arrays: objects, classes, and what to ignore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import fastremap
import numpy as np
from scipy.ndimage import distance_transform_edt

from unet_core.annotations.classes import UnknownClasses
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Layer, Told
from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import Annotation, Dataset
from unet_core.groundtruth.samples import Sample

# What the names of classes in an annotation may stand for, beside the data set's classes.
IGNORE_CLASS, BACKGROUND_CLASS = "ignore", "background"
# Shared part of two objects, over that of either, from which they are the same object drawn twice.
DUPLICATE_IOU = 0.8
# Formats whose objects are pixels.
MASKS = ("masks", "rle")


class Overlap(NamedTuple):
    """Two objects that share voxels.

    Attributes
    ----------
    earlier, later : int
        Their numbers in the sample.
    voxels : int
        How many they share.
    position : int
        Flat position of one of these.
    iou : float
        Shared voxels over those of either, as drawn.
    share : float
        Shared voxels over those of the smaller object, as drawn.
    slight : bool
        Whether the pair passes where overlaps are errors.
    """

    earlier: int
    later: int
    voxels: int
    position: int
    iou: float
    share: float
    slight: bool


class Canvas:
    """Label arrays of one sample while its annotations are painted, with a policy for overlaps.

    Parameters
    ----------
    shape : tuple of int
        Extent along z, y, x.
    overlaps : {"error", "later", "smaller", "ignore"}
        What becomes of voxels that belong to several objects; where this is an error, the later is painted, and
        `conflict` tells it.
    tolerance : float
        Where overlaps are errors: share of the voxels of the smaller object up to which two objects may overlap. The
        smaller is painted there, since less would be left of it.

    Attributes
    ----------
    overlapping : int
        Voxels of objects that lay on others when they were painted.
    overlaps : list of Overlap
        The pairs of objects that share voxels.
    last : int
        The largest number of an object.
    names : dict
        What the annotation calls the objects, by number, where it has names for them.
    drawn : dict
        A flat position of each object as it was drawn, before others were painted over it, by number.
    told : list of Told
        What is to be told of the annotation: by its reader, and of objects that have no voxels.
    """

    def __init__(self, shape: ZYX, overlaps: str, tolerance: float = 0.0) -> None:
        self.shape = shape
        self.instances = np.zeros(shape, np.uint32)
        self.classes = np.zeros(shape, np.uint8)
        self.ignore = np.zeros(shape, np.uint8)
        self.overlapping = 0
        self.overlaps: list[Overlap] = []
        self.names: dict[int, str] = {}
        self.policy, self.tolerance = overlaps, tolerance
        self.last = 0
        self.drawn: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self.told: list[Told] = []

    def add(self, layer: Layer, class_number: int) -> None:
        """Paint a layer of objects of one class.

        Raises
        ------
        ValueError
            If the objects' numbers exceed 2^32 - 1.
        """
        instances, classes = self.instances.ravel(), self.classes.ravel()
        if not layer.position.size:
            return
        if self.last + int(layer.label.max()) >= 2**32:
            raise ValueError("more than 2^32 - 1 objects, or object numbers that large")
        # The first source keeps the annotator's numbers; later ones count on.
        position, label = layer.position, layer.label + np.uint32(self.last)
        numbers, first, counts = fastremap.unique(label, return_index=True, return_counts=True)
        self.drawn |= zip(numbers.tolist(), position[first].tolist(), strict=True)
        self._sizes |= zip(numbers.tolist(), counts.tolist(), strict=True)
        self.last = int(numbers[-1])
        if layer.name is not None:
            self.names[self.last] = layer.name
        below = instances[position]
        taken = np.flatnonzero(below)
        if taken.size:
            keep = self._resolve(position, label, below, taken)
            position, label = position[keep], label[keep]
        instances[position] = label
        classes[position] = class_number

    def ignore_outside(self, areas: list[np.ndarray]) -> None:
        """Ignore all that lies in none of the areas, given by flat positions."""
        outside = np.ones(self.ignore.size, np.uint8)
        for area in areas:
            outside[area] = 0
        self.ignore |= outside.reshape(self.shape)

    def ignore_outlines(self, known: int, width: float) -> None:
        """Ignore `width` pixels on either side of the outlines of objects with numbers above `known`.

        The pixels are in the plane of the outline.
        """
        for plane, ignore in zip(self.instances, self.ignore, strict=True):
            labels = np.where(plane > known, plane, 0)
            outline = np.zeros(labels.shape, bool)
            for before, after in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
                differ = labels[before] != labels[after]
                outline[before] |= differ
                outline[after] |= differ
            if outline.any():
                ignore[distance_transform_edt(~outline) <= width - 1] = 1

    def ignore_slices(self, annotated: set[int]) -> None:
        """Ignore all z planes but these.

        Raises
        ------
        ValueError
            If the image does not have one of them.
        """
        if annotated and max(annotated) >= self.shape[0]:
            raise ValueError(
                f"slices names plane {max(annotated)}, but the image has {self.shape[0]} (they count from 0)"
            )
        self.ignore[[plane for plane in range(self.shape[0]) if plane not in annotated]] = 1

    def ignore_margin(self, width: int, box: Box, shape: ZYX) -> None:
        """Ignore what is no object within `width` pixels of the border of the image, along y and x.

        Parameters
        ----------
        width : int
            Of the margin.
        box : Box
            What of the image is painted here.
        shape : tuple of int
            Extent of the image along z, y, x.
        """
        distances = [
            np.minimum(place, n - 1 - place)
            for place, n in zip(map(np.arange, box.start[1:], box.stop[1:]), shape[1:], strict=True)
        ]
        near = np.minimum(distances[0][:, None], distances[1]) < width
        self.ignore[(self.instances == 0) & near] = 1

    def part(self, box: Box) -> Canvas:
        """A view of the labels in a box, which knows nothing of overlaps."""
        part = Canvas((0, 0, 0), self.policy)
        part.shape = box.shape
        part.instances, part.classes = self.instances[box.slices], self.classes[box.slices]
        part.ignore = self.ignore[box.slices]
        return part

    def stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Instances, classes and ignore mask; objects have no voxels under the mask: nothing may be learnt there."""
        ignored = self.ignore > 0
        return np.where(ignored, 0, self.instances), np.where(ignored, 0, self.classes), self.ignore

    def conflict(self) -> str | None:
        """Message about objects that overlap though they may not; None if there are none."""
        pairs = [pair for pair in self.overlaps if not pair.slight]
        if not pairs or self.policy != "error":
            return None
        first = f"{self.called(pairs[0].earlier)} and {self.called(pairs[0].later)}"
        share = max(pair.share for pair in pairs)
        return (
            f"{sum(pair.voxels for pair in pairs)} voxels belong to several objects (pairs: {len(pairs)}, the first "
            f"{first}; they share up to {100 * share:.0f} % of the smaller object); mend the annotation, "
            "raise groundtruth.overlap_tolerance, or set groundtruth.overlaps to later, smaller or ignore"
        )

    def called(self, number: int) -> str:
        """What an object is called in messages."""
        return self.names.get(number) or f"object {number}"

    def _resolve(self, position: np.ndarray, label: np.ndarray, below: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Which voxels of a new layer are painted, where others are taken."""
        self.overlapping += int(taken.size)
        keep = np.ones(position.size, bool)
        pairs, first, inverse, counts = np.unique(
            np.stack([below[taken], label[taken]]), axis=1, return_index=True, return_inverse=True, return_counts=True
        )
        sizes = np.array([[self._sizes[int(number)] for number in row] for row in pairs])
        shares = counts / sizes.min(axis=0)
        ious = counts / (sizes.sum(axis=0) - counts)
        slight = (shares <= self.tolerance) & (ious < DUPLICATE_IOU)
        places = position[taken[first]]
        columns = (*pairs, counts, places, ious, shares, slight)
        self.overlaps += [Overlap(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        if self.policy == "ignore":
            self.ignore.ravel()[position[taken]] = 1
            keep[taken] = False
        elif self.policy in ("smaller", "error"):
            by_size = slight if self.policy == "error" else np.ones_like(slight)
            keep[taken] = (~by_size | (sizes[1] < sizes[0]))[inverse.ravel()]
        return keep


def paint(sample: Sample, cfg: Dataset, overlaps: str, shape: ZYX, tolerance: float = 0.0) -> Canvas:
    """Paint all annotations of one sample.

    Parameters
    ----------
    sample : Sample
        With the files that annotate it.
    cfg : Dataset
        Sources of annotations and classes.
    overlaps, tolerance : str, float
        What to do with overlaps; see `Canvas`.
    shape : tuple of int
        Shape of the image along z, y, x.

    Returns
    -------
    Canvas
        With objects that may overlap or lie under the ignore mask; see `Canvas.conflict` and `Canvas.stored`.

    Raises
    ------
    ValueError
        If an annotation cannot be read or does not fit its image; `UnknownClasses` if it names classes that the data
        set does not have.
    """
    canvas = Canvas(shape, overlaps, tolerance)
    unknown: list[str] = []
    several = sum(map(bool, sample.annotations)) > 1
    for source, files in zip(cfg.annotations, sample.annotations, strict=True):
        if files:
            layers = module_of(source.format).read(files, sample.annotated, shape, source)
            # Of several files the name of an object does not say in which it is.
            where = f" of {files[0].name}" if several and len(files) == 1 else ""
            unknown += paint_layers(canvas, source, layers, cfg.classes, where)
    if unknown:
        raise UnknownClasses(list(dict.fromkeys(unknown)))
    if margin := margin_of(source for source, files in zip(cfg.annotations, sample.annotations, strict=True) if files):
        canvas.ignore_margin(margin, Box((0, 0, 0), shape), shape)
    return canvas


def margin_of(sources: Iterable[Annotation]) -> int:
    """The widest margin of sources that annotate the same sample."""
    return max((source.margin for source in sources), default=0)


def paint_layers(
    canvas: Canvas, source: Annotation, layers: Iterable[Layer | Told], classes: list[str], where: str = ""
) -> list[str]:
    """Paint the layers of one source; the names of classes in them that are not known, in the order of the layers.

    `where` follows the names of objects that are told.
    """
    known = canvas.last
    areas, painted, unknown, named = [], set[int](), [], []
    for layer in layers:
        if isinstance(layer, Told):
            canvas.told.append(layer)
            continue
        name = source.class_ or source.classes.get(layer.class_name or "", layer.class_name) or classes[0]
        canvas.ignore.ravel()[layer.ignore] = 1
        if layer.name is not None and (name != BACKGROUND_CLASS or name in classes):
            named.append((layer.name, layer.position.size))
        if source.slices == "painted":
            painted |= set(np.unique(layer.position // math.prod(canvas.shape[1:])).tolist())
        if source.region:
            areas.append(layer.position)
        elif source.ignore or (name == IGNORE_CLASS and name not in classes):
            canvas.ignore.ravel()[layer.position] = 1
        elif name in classes:
            canvas.add(layer, classes.index(name) + 1)
        elif name != BACKGROUND_CLASS:
            unknown.append(name)
    if source.region:
        canvas.ignore_outside(areas)
    if source.border:
        canvas.ignore_outlines(known, source.border)
    if source.slices is not None:
        canvas.ignore_slices(painted if source.slices == "painted" else set(source.slices))
    canvas.told += _without_voxels(named, source.format in MASKS, where)
    return unknown


def _without_voxels(named: list[tuple[str, int]], is_mask: bool, where: str) -> list[Told]:
    """What to tell of objects without a voxel, from the names of all objects and the voxels of each."""
    text = "is empty" if is_mask else "covers no centre of a pixel"
    return [Told("lost", f"{name}{where} {text}") for name, voxels in named if not voxels]
