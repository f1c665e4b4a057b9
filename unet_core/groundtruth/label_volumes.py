"""The annotation of a sample, painted block by block, or as a whole and handed out in the same blocks.

A sample is painted block by block, from where its label volumes lie, where it is large and each of its annotations is a
label image of which parts can be read: then memory holds a few blocks alone. What comes out is the same as of a sample
that is painted as a whole; only what needs an object as a whole, its parts and holes, is not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.annotations import labels
from unet_core.annotations.layer import gray_of, opened_view
from unet_core.blocks import ZYX, Box, Grid
from unet_core.config.datasets import Annotation, Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.groundtruth.canvas import Canvas, margin_of, paint, paint_layers
from unet_core.groundtruth.check.tally import inner_voxels
from unet_core.groundtruth.samples import Sample
from unet_core.images.readers import CZYX
from unet_core.store.store import BLOCK

# Voxels above which a sample is taken in pieces.
MAX_WHOLE_VOXELS = 2**26
# Bytes of a source that are read at once, so that chunks of many planes are not decoded for each block of few planes.
READ_BYTES = 2**27
# Side of the part of the middle plane of a label volume that is compared with the image.
COMPARED_SIDE = 4096


class Piece(NamedTuple):
    """A painted block.

    Attributes
    ----------
    number : int
        Its number in the grid.
    box : Box
        Where it lies.
    canvas : Canvas
        Its labels, with objects under the ignore mask.
    inner : ndarray of bool, shape of the block
        Voxels whose neighbours in the plane belong to the same object.
    """

    number: int
    box: Box
    canvas: Canvas
    inner: np.ndarray


class Painted:
    """A sample that was painted as a whole; see `open_annotations`.

    Parameters
    ----------
    canvas : Canvas
        The sample.

    Attributes
    ----------
    window : Box
        The part of the sample in which outlines and gray values are compared with the image: its middle plane.
    """

    def __init__(self, canvas: Canvas) -> None:
        self.canvas: Canvas | None = canvas
        self._painted = canvas
        z, y, x = canvas.shape
        self.window = Box((z // 2, 0, 0), (z // 2 + 1, y, x))

    def pieces(self, grid: Grid) -> Iterator[Piece]:
        """All blocks of a grid."""
        inner = inner_voxels(self._painted.instances)
        for number, box in enumerate(grid):
            yield Piece(number, box, self._painted.part(box), inner[box.slices])

    def paint(self, box: Box) -> Canvas:
        """Labels of a box, with objects under the ignore mask."""
        return self._painted.part(box)


class LabelVolume:
    """The label images that annotate one sample, opened; see `open_annotations`.

    Parameters
    ----------
    sources : list of (Annotation, Path, CZYX)
        Each source with its file and the view of it, z y x.
    cfg : Dataset
        For its classes.
    overlaps : str
        See `Canvas`.
    shape : tuple of int
        Extent along z, y, x.

    Attributes
    ----------
    window : Box
        The part of the sample in which outlines and gray values are compared with the image: the centre of its middle
        plane.
    """

    canvas: Canvas | None = None

    def __init__(self, sources: list[tuple[Annotation, Path, CZYX]], cfg: Dataset, overlaps: str, shape: ZYX) -> None:
        self._classes, self._overlaps, self.shape = cfg.classes, overlaps, shape
        low, high = (
            [(n - min(n, COMPARED_SIDE)) // 2 for n in shape[1:]],
            [(n + min(n, COMPARED_SIDE)) // 2 for n in shape[1:]],
        )
        self.window = Box((shape[0] // 2, low[0], low[1]), (shape[0] // 2 + 1, high[0], high[1]))
        self._halo = 1 + math.ceil(max(source.border for source, _, _ in sources))
        self._sources = [(self._with_planes(source, file, view), file, view) for source, file, view in sources]

    def pieces(self, grid: Grid) -> Iterator[Piece]:
        """All blocks of a grid, in the order in which they are read fast."""
        views = [view for _, _, view in self._sources]
        for slab in _slabs(self.shape, grid.block, views):
            read = self._around(slab)
            values = [gray_of(view[read.slices], view, file) for _, file, view in self._sources]
            for number, box in grid.boxes_in(slab):
                around = self._around(box)
                canvas = self._paint([array[around.within(read).slices] for array in values], around)
                inner = inner_voxels(canvas.instances)
                part = box.within(around)
                yield Piece(number, box, canvas.part(part), inner[part.slices])

    def paint(self, box: Box) -> Canvas:
        """Labels of a box, with objects under the ignore mask."""
        around = self._around(box)
        canvas = self._paint([gray_of(view[around.slices], view, file) for _, file, view in self._sources], around)
        return canvas.part(box.within(around))

    def _paint(self, values: list[np.ndarray], box: Box) -> Canvas:
        canvas = Canvas(box.shape, self._overlaps)
        for (source, file, _), array in zip(self._sources, values, strict=True):
            planes = range(box.start[0], box.stop[0])
            here = (
                None if source.slices is None else [planes.index(plane) for plane in planes if plane in source.slices]
            )
            layers = [labels.layer_in(array, file, source)]
            paint_layers(canvas, source.model_copy(update={"slices": here}), layers, self._classes)
        if margin := margin_of(source for source, _, _ in self._sources):
            canvas.ignore_margin(margin, box, self.shape)
        return canvas

    def _around(self, box: Box) -> Box:
        return box.grow((0, self._halo, self._halo)).clip(self.shape)

    def _with_planes(self, source: Annotation, file: Path, view: CZYX) -> Annotation:
        """The source with the numbers of its annotated planes."""
        if source.slices is None:
            return source
        if source.slices == "painted":
            painted: set[int] = set()
            for box in _slabs(self.shape, BLOCK, [view]):
                objects = labels.layer_in(gray_of(view[box.slices], view, file), file, source).position
                painted |= set(np.unique(objects // math.prod(box.shape[1:]) + box.start[0]).tolist())
            return source.model_copy(update={"slices": sorted(painted)})
        if max(source.slices, default=0) >= self.shape[0]:
            Canvas((self.shape[0], 1, 1), self._overlaps).ignore_slices(set(source.slices))  # raises
        return source


@contextmanager
def open_annotations(
    sample: Sample, cfg: Dataset, overlaps: str, shape: ZYX, tolerance: float = 0.0
) -> Iterator[Painted | LabelVolume]:
    """The annotation of a sample, to be taken in pieces; it is painted as a whole unless it is a large label volume.

    Parameters
    ----------
    sample : Sample
        With the files that annotate it.
    cfg : Dataset
        Sources of annotations and classes.
    overlaps, tolerance : str, float
        See `Canvas`.
    shape : tuple of int
        Shape of the image along z, y, x.

    Raises
    ------
    ValueError
        If an annotation cannot be read or does not fit its image; of what is wrong with the pixels of a label volume,
        when they are asked for. `UnknownClasses` if it names classes that the data set does not have.
    """
    found = [(source, files) for source, files in zip(cfg.annotations, sample.annotations, strict=True) if files]
    objects = [source for source, _ in found if not (source.ignore or source.region)]
    # Several sources of objects may overlap: who wins depends on the whole objects.
    fit = all(
        DESCRIPTIONS[source.format].in_pieces and not source.classes and len(files) == 1 for source, files in found
    )
    if math.prod(shape) <= MAX_WHOLE_VOXELS or len(objects) != 1 or not fit:
        yield Painted(paint(sample, cfg, overlaps, shape, tolerance))
        return
    with ExitStack() as stack:
        views = [
            (source, files[0], stack.enter_context(opened_view(files[0], sample.annotated, shape)))
            for source, files in found
        ]
        if all(view.chunk for _, _, view in views):
            yield LabelVolume(views, cfg, overlaps, shape)
            return
    yield Painted(paint(sample, cfg, overlaps, shape, tolerance))


def _slabs(shape: ZYX, block: ZYX, views: list[CZYX]) -> Grid:
    """What is read at once: so many blocks on each other that no chunk is decoded twice, or `READ_BYTES` bytes."""
    deep = max((view.chunk or (1, 1, 1))[0] for view in views)
    z, y, x = block
    most = READ_BYTES // (math.prod(block) * max(view.dtype.itemsize for view in views))
    return Grid(shape, (z * max(1, min(math.ceil(deep / z), most)), y, x))
