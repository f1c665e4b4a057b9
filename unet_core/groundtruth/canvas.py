"""Annotations of one sample painted into arrays: objects, classes, and what to ignore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import fastremap
import numpy as np
from scipy.ndimage import distance_transform_edt

from unet_core.annotations.classes import UnknownClasses
from unet_core.annotations.formats import FORMATS
from unet_core.annotations.layer import Layer
from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import Annotation, Dataset
from unet_core.groundtruth.samples import Sample

# What the names of classes in an annotation may stand for, beside the data set's classes.
IGNORE_CLASS, BACKGROUND_CLASS = "ignore", "background"


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
    """

    earlier: int
    later: int
    voxels: int
    position: int
    iou: float


class Canvas:
    """Label arrays of one sample while its annotations are painted, with a policy for overlaps.

    Parameters
    ----------
    shape : tuple of int
        Extent along z, y, x.
    overlaps : {"error", "later", "smaller", "ignore"}
        What becomes of voxels that belong to several objects; where this is an error, the later is painted, and
        `conflict` tells it.

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
    """

    def __init__(self, shape: ZYX, overlaps: str) -> None:
        self.shape = shape
        self.instances = np.zeros(shape, np.uint32)
        self.classes = np.zeros(shape, np.uint8)
        self.ignore = np.zeros(shape, np.uint8)
        self.overlapping = 0
        self.overlaps: list[Overlap] = []
        self.names: dict[int, str] = {}
        self.policy = overlaps
        self.last = 0
        self._drawn: dict[int, int] = {}

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
        numbers, counts = fastremap.unique(label, return_counts=True)
        self._drawn |= zip(numbers.tolist(), counts.tolist(), strict=True)
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
        if not self.overlapping or self.policy != "error":
            return None
        pairs = [f"{self.called(pair.earlier)} and {self.called(pair.later)}" for pair in self.overlaps]
        shown = "; ".join(pairs[:3]) + (f"; {len(pairs) - 3} more pairs" if len(pairs) > 3 else "")
        return (
            f"{self.overlapping} voxels belong to several objects ({shown}); "
            "mend the annotation, or set groundtruth.overlaps to later, smaller or ignore"
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
        sizes = np.array([[self._drawn[int(number)] for number in row] for row in pairs])
        for (earlier, later), (one, other), at, shared in zip(
            pairs.T.tolist(), sizes.T.tolist(), first, counts.tolist(), strict=True
        ):
            self.overlaps.append(
                Overlap(earlier, later, shared, int(position[taken[at]]), shared / (one + other - shared))
            )
        if self.policy == "ignore":
            self.ignore.ravel()[position[taken]] = 1
            keep[taken] = False
        elif self.policy == "smaller":
            keep[taken] = (sizes[1] < sizes[0])[inverse.ravel()]
        return keep


def paint(sample: Sample, cfg: Dataset, overlaps: str, shape: ZYX) -> Canvas:
    """Paint all annotations of one sample.

    Parameters
    ----------
    sample : Sample
        With the files that annotate it.
    cfg : Dataset
        Sources of annotations and classes.
    overlaps : str
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
    canvas = Canvas(shape, overlaps)
    unknown: list[str] = []
    for source, files in zip(cfg.annotations, sample.annotations, strict=True):
        if files:
            layers = FORMATS[source.format].read(files, sample.annotated, shape, source)
            unknown += paint_layers(canvas, source, layers, cfg.classes)
    if unknown:
        raise UnknownClasses(list(dict.fromkeys(unknown)))
    return canvas


def paint_layers(canvas: Canvas, source: Annotation, layers: Iterable[Layer], classes: list[str]) -> list[str]:
    """Paint the layers of one source; the names of classes in them that are not known, in the order of the layers."""
    known = canvas.last
    areas, painted, unknown = [], set[int](), []
    for layer in layers:
        name = source.class_ or source.classes.get(layer.class_name or "", layer.class_name) or classes[0]
        canvas.ignore.ravel()[layer.ignore] = 1
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
    return unknown
