"""What the step instances does with one block in each of its passes.

What is found is kept in files of a scratch folder.

Each pass can be called again at any time: a file that is missing or damaged is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.blocks import Box, Grid
from unet_core.config.instances import FixedInstances, Instances
from unet_core.instances.components import (
    Faces,
    Forest,
    component_rows,
    contacts,
    faces_from,
    load_arrays,
    mapped,
    open_forest,
    run_lengths_from,
    save_arrays,
    save_part,
)
from unet_core.instances.objects import measure_rows
from unet_core.instances.run_lengths import (
    Measures,
    PlacedRunLengths,
    concatenate,
    encode_labels,
    label_mask,
    measure_run_lengths,
    paint_placed,
    paint_run_lengths,
    place_run_lengths,
)
from unet_core.predict.probabilities import foreground, is_foreground
from unet_core.runtime import return_freed_memory
from unet_core.store.pins import Pin
from unet_core.store.result import Result, made_anew
from unet_core.weights.distance import Spacing

# Objects whose bounding box has more voxels are left whole: it is held in memory when an object is split.
MAX_BOX_VOXELS = 2**26
DUAL_CONNECTIVITY = {"faces": "full", "full": "faces"}


class Work(NamedTuple):
    """What a worker must know.

    Attributes
    ----------
    source : Pin
        Probabilities.
    target : Path
        Labels.
    cfg : FixedInstances
        Options.
    wanted : str
        Digest of the labels.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.
    kept : Path
        Folder of what later runs can use: one file per block.
    run : Path
        Folder of this run.
    """

    source: Pin
    target: Path
    cfg: FixedInstances
    wanted: str
    spacing: Spacing
    kept: Path
    run: Path

    @property
    def least(self) -> int:
        """Voxels that an object must have."""
        return max(1, self.cfg.min_size)


def describe(index: int, work: Work, kind: str) -> np.ndarray:
    """Components of a block as rows of COMPONENT, of the foreground ("objects") or of what is around it ("holes")."""
    grid = work.source.open().grid
    names = [*Measures._fields, *(["owner"] if kind == "holes" else [])]
    arrays = _load(index, work, kind, *names)
    rows = component_rows(Measures(*(arrays[name] for name in Measures._fields)), grid.box(index).start, grid.shape)
    if kind == "holes":
        rows["owner"] = arrays["owner"]
    return rows


def join(index: int, work: Work, kind: str) -> list[tuple[int, np.ndarray]]:
    """Components of a block that are one with components of the blocks after it; see `contacts`."""
    grid = work.source.open().grid
    if kind == "objects":
        return contacts(index, grid, lambda n: _faces(n, work, kind), work.cfg.connectivity)
    return contacts(
        index,
        grid,
        lambda n: _faces(n, work, kind),
        DUAL_CONNECTIVITY[work.cfg.connectivity],
        _in_planes(work.cfg, grid),
    )


def _load(index: int, work: Work, kind: str, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a block's file, which is made where it is missing."""
    path = work.kept / kind / f"{index}.npz"
    arrays = load_arrays(path, *names)
    if arrays is None:
        (_find_objects if kind == "objects" else _find_holes)(index, work, path)
        arrays = load_arrays(path, *names)
    assert arrays is not None
    return arrays


def _faces(index: int, work: Work, kind: str) -> Faces:
    return faces_from(_load(index, work, kind, "shape", "face_start", "face_label"))


def _find_objects(index: int, work: Work, path: Path) -> None:
    """Components of the foreground of a block, with the probabilities of all classes in them."""
    source = work.source.open()
    box = source.grid.box(index)
    stored = source.read(box)
    run_lengths, count = label_mask(is_foreground(stored, work.cfg.threshold), work.cfg.connectivity)
    save_part(path, run_lengths, box.shape, measure_run_lengths(run_lengths, count, box.shape, stored)._asdict())


def _find_holes(index: int, work: Work, path: Path) -> None:
    """Components of what is not foreground in a block, objects that are too small included.

    Each has as owner the object to the left of its first voxel: the first voxel of a hole is preceded by the object
    that is around the hole. The neighbours of a voxel are the other kind than for objects, so that a hole is closed by
    one object.
    """
    grid = work.source.open().grid
    box = grid.box(index)
    forest = open_forest(work.run / "objects")
    numbers = _kept_objects(forest, index, work)
    own = np.zeros(box.shape, np.uint32)
    paint_run_lengths(
        run_lengths_from(_load(index, work, "objects")), np.where(numbers >= 0, np.arange(len(numbers)), 0), own
    )
    run_lengths, count = label_mask(own == 0, DUAL_CONNECTIVITY[work.cfg.connectivity], _in_planes(work.cfg, grid))
    found = measure_run_lengths(run_lengths, count, box.shape, np.empty((0, *box.shape), np.uint8))
    z, y, x = found.first.T
    owner = np.where(x > 0, numbers[own[z, y, x - 1]], -1)
    if box.start[2] > 0:
        before = _kept_objects(forest, index - 1, work)[_faces(index - 1, work, "objects")[5]]
        owner[x == 0] = before[z[x == 0], y[x == 0]]
    save_part(path, run_lengths, box.shape, {**found._asdict(), "owner": owner})


def _kept_objects(forest: Forest, index: int, work: Work) -> np.ndarray:
    """Number of the object of each label of a block, from 0; -1 for those that are too small, and for label 0."""
    objects = forest.roots[forest.of_block(index)]
    return np.concatenate([[-1], np.where(forest.components["voxels"][objects] >= work.least, objects, -1)])


def _in_planes(cfg: Instances, grid: Grid) -> bool:
    return cfg.fill == "planes" or grid.shape[0] == 1


def _owners(holes: Forest, index: int, work: Work, grid: Grid) -> np.ndarray:
    """Number, from 0, of the object in which each label of a block's surroundings is a hole.

    It is -1 where the label is no hole, and for label 0.
    """
    rows = holes.components[holes.roots[holes.of_block(index)]]
    axes = slice(1 if _in_planes(work.cfg, grid) else 0, 3)
    closed = ((rows["low"] > 0) & (rows["high"] < np.array(grid.shape)))[:, axes].all(axis=1)
    return np.concatenate([[-1], np.where(closed, rows["owner"], -1)])


class Pieces(NamedTuple):
    """What became of the objects that begin in one block.

    Attributes
    ----------
    split : ndarray of int64
        Numbers of the objects that fall into pieces.
    pieces : ndarray of int64, shape (pieces, 2)
        First voxel and size of each piece.
    blocks : ndarray of int64
        Blocks that they reach into.
    """

    split: np.ndarray
    pieces: np.ndarray
    blocks: np.ndarray


def split_objects(item: tuple[int, np.ndarray], work: Work) -> Pieces:
    """Split the objects, given by their numbers, that begin in a block; where their pieces lie is kept in a file."""
    from unet_core.instances.split import join_small_parts, split_object  # takes a second, and not all split

    index, numbers = item
    path = work.kept / "pieces" / f"{index}.npz"
    arrays = load_arrays(path, *Pieces._fields)
    if arrays is not None:
        return Pieces(**arrays)
    source = work.source.open()
    rows = open_forest(work.run / "objects").components[numbers]
    split, pieces, placed, blocks = [], [np.empty((0, 2), np.int64)], [], [np.empty(0, np.int64)]
    for k, (box, mask, probability) in enumerate(_masks(numbers, rows, source, work)):
        parts = split_object(mask, work.spacing, work.cfg.split or 0.0, work.cfg.connectivity, probability)
        parts = join_small_parts(parts, work.least, work.cfg.connectivity)
        count = int(parts.max())
        if count > 1:
            run_lengths = encode_labels(parts.astype(np.uint32))
            found = measure_run_lengths(run_lengths, count, box.shape, np.empty((0, *box.shape), np.uint8))
            first = np.ravel_multi_index(tuple((found.first + np.array(box.start)).T), source.shape)
            placed.append(place_run_lengths(run_lengths, box, run_lengths.label + sum(map(len, pieces))))
            pieces.append(np.stack([first, found.voxels], axis=1))
            split.append(numbers[k])
            blocks.append(np.array([n for n, _ in source.grid.boxes_in(box)]))
    result = Pieces(np.array(split, np.int64), np.concatenate(pieces), np.unique(np.concatenate(blocks)))
    save_arrays(path, **result._asdict(), **concatenate(placed)._asdict())
    return result


def _masks(
    numbers: np.ndarray, rows: np.ndarray, source: Result, work: Work
) -> Iterator[tuple[Box, np.ndarray, np.ndarray | None]]:
    """Bounding box, mask and (if the split is by probability) foreground probability of each of some objects."""
    boxes = [
        Box(tuple(low), tuple(high)) for low, high in zip(rows["low"].tolist(), rows["high"].tolist(), strict=True)
    ]
    blocks = sorted({index for box in boxes for index, _ in source.grid.boxes_in(box)})
    found = concatenate([part for index in blocks for part in _stretches(index, numbers, source.grid, work)])
    order = np.argsort(found.label, kind="stable")
    found = PlacedRunLengths(*(column[order] for column in found))
    ends = np.searchsorted(found.label, np.arange(1, len(numbers) + 2))
    probability = _probability(source, boxes) if work.cfg.split_by == "probability" else None
    for k, box in enumerate(boxes):
        mask = np.zeros(box.shape, np.uint8)
        own = PlacedRunLengths(*(column[ends[k] : ends[k + 1]] for column in found))
        paint_placed(own, np.ones(len(numbers) + 1, np.uint8), box, mask)
        yield box, mask.view(bool), probability(box) if probability else None


def _stretches(index: int, numbers: np.ndarray, grid: Grid, work: Work) -> Iterator[PlacedRunLengths]:
    """Where some objects, and their holes, lie in a block; labelled by their place in the sorted `numbers`, from 1."""
    box = grid.box(index)
    kinds = {"objects": _kept_objects(open_forest(work.run / "objects"), index, work)}
    if work.cfg.fill != "none":
        kinds["holes"] = _owners(open_forest(work.run / "holes"), index, work, grid)
    for kind, owners in kinds.items():
        place = np.searchsorted(numbers, owners).clip(max=len(numbers) - 1)
        label = np.where(numbers[place] == owners, place + 1, 0)
        run_lengths = run_lengths_from(_load(index, work, kind))
        found = place_run_lengths(run_lengths, box, label[run_lengths.label])
        yield PlacedRunLengths(*(column[found.label > 0] for column in found))


def _probability(source: Result, boxes: list[Box]) -> Callable[[Box], np.ndarray]:
    """Reads the foreground probability of a box: once for all boxes together, unless that is too large."""
    starts, stops = (np.array([getattr(box, end) for box in boxes]) for end in ("start", "stop"))
    start, stop = starts.min(axis=0), stops.max(axis=0)
    if np.prod(stop - start) > MAX_BOX_VOXELS:
        return lambda box: foreground(source.read(box))
    together = Box(tuple(start.tolist()), tuple(stop.tolist()))
    read = foreground(source.read(together))
    return lambda box: read[box.within(together).slices]


def number_block(item: tuple[int, list[tuple[int, np.ndarray]]], work: Work) -> np.ndarray:
    """Write the final labels of a block, unless that is done, and measure its objects.

    Parameters
    ----------
    item : (int, list of (int, ndarray))
        Number of the block; blocks in which objects begin whose pieces reach into it, with the labels of these pieces.
    work : Work
        What is to be done.

    Returns
    -------
    ndarray of `objects.measured_type`
    """
    return_freed_memory()  # of the block before: pieces of it would add up
    index, split = item
    source, target = work.source.open(), Result(work.target)
    if target.grid != source.grid:
        raise made_anew(work.target)
    box, missing = source.grid.box(index), not target.has_block(index)
    as_found = work.cfg.fill == "none" and not split
    if missing or not as_found:
        block = _painted(index, box, split, work, target.dtype)
        if missing:
            target.write(index, block, work.wanted)
    if as_found:
        found = Measures(**_load(index, work, "objects", *Measures._fields))
        return measure_rows(_labels_of_block(index, work, "objects")[1:], found, box.start)
    run_lengths = encode_labels(block)
    present, label = np.unique(run_lengths.label, return_inverse=True)
    found = measure_run_lengths(
        run_lengths._replace(label=label.astype(np.int64) + 1), len(present), box.shape, source.read(box)
    )
    return measure_rows(present, found, box.start)


def _labels_of_block(index: int, work: Work, kind: str) -> np.ndarray:
    """Final label of each label of a block's file; 0 for label 0."""
    forest = open_forest(work.run / "objects")
    labels = mapped(work.run / "objects" / "labels", np.dtype("<i8"))
    if kind == "objects":
        return np.concatenate([[0], labels[forest.of_block(index)]])
    owners = _owners(open_forest(work.run / "holes"), index, work, work.source.open().grid)
    closed = owners >= 0
    found = np.zeros(len(owners), np.int64)
    found[closed] = labels[owners[closed]]
    return found


def _painted(index: int, box: Box, split: list[tuple[int, np.ndarray]], work: Work, dtype: np.dtype) -> np.ndarray:
    """Final labels of a block: objects that stayed whole, their holes, and pieces of those that did not."""
    block = np.zeros(box.shape, dtype)
    for kind in ("objects", *(["holes"] if work.cfg.fill != "none" else [])):
        paint_run_lengths(run_lengths_from(_load(index, work, kind)), _labels_of_block(index, work, kind), block)
    for group, labels in split:
        arrays = load_arrays(work.kept / "pieces" / f"{group}.npz", *PlacedRunLengths._fields)
        if arrays is None:
            raise FileNotFoundError(f"{work.kept} was removed while it was in use; run snakemake again")
        paint_placed(PlacedRunLengths(**arrays), np.concatenate([[0], labels]), box, block)
    return block
