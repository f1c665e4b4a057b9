"""Step instances: probabilities to objects with labels unique in the whole sample, the same for any block size.

Passes over the blocks, without intermediate files. *Describe* labels the connected components of every block together
with the first voxels of its neighbours, and keeps only counts and the labels on its faces; components that meet on a face
are one object. *Split*, an option, looks at each object as a whole, in its bounding box, wherever block borders lie.
*Number* labels every block again, in the same way, and writes the numbers, in raster order of the objects' first voxels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unet_core.blocks import ZYX, Box, Grid
from unet_core.components import Part, Whole, describe_block, label_block, merge_parts, number_objects, overlap, whole_objects
from unet_core.config import Dataset, Instances
from unet_core.digest import code_digest, digest
from unet_core.distance import Spacing
from unet_core.engine import Engine
from unet_core.predict import from_stored
from unet_core.runtime import read_json, write_atomic, write_stamp
from unet_core.split import split_object
from unet_core.store import Result, Spec, begin, details_if_done, finish, remove, remove_other_files, remove_others

logger = logging.getLogger(__name__)

POSITIONS = ("z", "y", "x")
# Objects whose bounding box has more voxels are left whole: it is held in memory when an object is split.
LARGEST_BOX = 2**26


def measure_block(labels: np.ndarray, probability: np.ndarray, start: ZYX, classes: list[str]) -> pd.DataFrame:
    """Sums and extremes over the voxels of each object in a block; those of several blocks can be put together.

    Parameters
    ----------
    labels : ndarray, shape (z, y, x)
        Final labels of the block.
    probability : ndarray, shape (classes, z, y, x)
        Probabilities of the object classes.
    start : tuple of int
        First voxel of the block.
    classes : list of str
        Names of the object classes.

    Returns
    -------
    DataFrame
        One row per object, indexed by label.
    """
    position = np.flatnonzero(labels)
    label, index = np.unique(labels.ravel()[position], return_inverse=True)
    count = label.size
    columns: dict[str, np.ndarray] = {"voxels": np.bincount(index, minlength=count)}
    for axis, values, first in zip(POSITIONS, np.unravel_index(position, labels.shape), start, strict=True):
        low, high = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
        np.minimum.at(low, index, values + first)
        np.maximum.at(high, index, values + first + 1)
        columns |= {f"sum_{axis}": np.bincount(index, values + first, minlength=count), f"start_{axis}": low, f"stop_{axis}": high}
    for name, values in zip(classes, probability, strict=True):
        columns[f"mass_{name}"] = np.bincount(index, values.ravel()[position], minlength=count)
    return pd.DataFrame(columns, index=pd.Index(label, name="label"))


def object_table(measured: list[pd.DataFrame], classes: list[str]) -> pd.DataFrame:
    """Table of objects from the measurements of all blocks.

    Returns
    -------
    DataFrame
        label, class (the one of the largest summed probability), voxels, centroid and bounding box in voxels, and the
        mean probability of the class.
    """
    parts = pd.concat(measured)
    rules = {name: {"start": "min", "stop": "max"}.get(name.split("_")[0], "sum") for name in parts.columns}
    whole = parts.groupby(level="label").agg(rules)
    mass = whole[[f"mass_{name}" for name in classes]].to_numpy()
    best = mass.argmax(axis=1)
    table = pd.DataFrame({"label": whole.index, "class": np.array(classes)[best], "voxels": whole["voxels"].to_numpy()})
    for axis in POSITIONS:
        table[f"centroid_{axis}"] = (whole[f"sum_{axis}"] / whole["voxels"]).to_numpy()
    for name in (f"{edge}_{axis}" for edge in ("start", "stop") for axis in POSITIONS):
        table[name] = whole[name].to_numpy()
    table["probability"] = mass[np.arange(len(table)), best] / table["voxels"]
    return table


def make_instances(
    cfg: Instances, dataset: Dataset, *, predict: Path, probabilities: Path, store: Path, tables: Path, stamp: Path, engine: Engine
) -> None:
    """Make the objects of all segmented samples of a data set; what stands there for the same probabilities stays.

    Parameters
    ----------
    cfg : Instances
        Options of this model.
    dataset : Dataset
        For its pixel size.
    predict, probabilities : Path
        Stamp and store of the step predict.
    store : Path
        ``<results>/instances/<model>/<data set>.zarr``.
    tables : Path
        Folder that gets one table of objects per sample.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    predicted = read_json(predict)
    samples, classes = predicted["samples"], predicted["classes"]
    redone = len(remove_others(store, set(samples)))
    remove_other_files(tables, ".csv", set(samples))
    entries = {}
    for name, entry in samples.items():
        wanted = wanted_digest(entry["digest"], cfg, classes)
        details = details_if_done(store / name, wanted)
        if details is None or not (tables / f"{name}.csv").is_file():
            details = _make_sample(name, wanted, cfg, dataset, classes, probabilities, store, tables, engine)
            redone += 1
        entries[name] = {"split": entry["split"], "digest": wanted, "objects": details["objects"]}
    logger.info("instances: %d samples, %d made", len(samples), redone)
    write_stamp(stamp, {"step": "instances", "store": store.name, "samples": entries})


def wanted_digest(probabilities: str, cfg: Instances, classes: list[str]) -> str:
    """Digest of the objects of a sample from that of its probabilities."""
    return digest(probabilities, cfg.model_dump(), classes, code_digest("instances"))


def _make_sample(
    name: str,
    wanted: str,
    cfg: Instances,
    dataset: Dataset,
    classes: list[str],
    probabilities: Path,
    store: Path,
    tables: Path,
    engine: Engine,
) -> dict[str, Any]:
    source, size = Result(probabilities / name), dataset.pixel_size
    grid, spacing = source.grid, (size.z / size.x, size.y / size.x, 1.0)
    describe = functools.partial(_describe, path=source.path, cfg=cfg)
    described = dict(engine.run(describe, range(len(grid)), len(grid), f"instances {name}, describe"))
    parts = [described[index] for index in range(len(grid))]
    offsets, objects = merge_parts(parts, grid)
    whole = whole_objects(parts, objects)
    pieces: dict[int, list[tuple[int, int]]] = {}
    if cfg.split is not None:
        split = functools.partial(_split, path=source.path, cfg=cfg, spacing=spacing)
        groups = list(_splittable(whole, grid, cfg.min_size))
        too_large = int((_volumes(whole) > LARGEST_BOX).sum())
        if too_large:
            logger.warning("%s: %d objects are too large to be split (bounding box above %d voxels)", name, too_large, LARGEST_BOX)
        for _, found in engine.run(split, groups, len(groups), f"instances {name}, split"):
            pieces |= found
    labels, piece_labels = number_objects(whole, pieces, cfg.min_size)
    spec = Spec(
        source.shape, "uint32" if labels.size < 2**31 else "uint64", "labels", pixel_size=(size.z, size.y, size.x), block=grid.block
    )
    provenance = {"step": "instances", "config": cfg.model_dump(mode="json"), "probabilities": str(source.path)}
    result = begin(store / name, wanted, spec, provenance)
    if result.grid != grid:  # unfinished, from probabilities that were stored in other blocks
        remove(store / name)
        result = begin(store / name, wanted, spec, provenance)
    inside = _split_objects_of_blocks(whole, piece_labels, grid)
    items = ((i, labels[objects[offsets[i] : offsets[i + 1]]], inside.get(i, ())) for i in range(len(grid)))
    number = functools.partial(_number, source=source.path, cfg=cfg, spacing=spacing, target=result.path, wanted=wanted, classes=classes)
    table = object_table([part for _, part in engine.run(number, items, len(grid), f"instances {name}, number")], classes)
    write_atomic(tables / f"{name}.csv", table.to_csv(index=False, float_format="%.4f").encode())
    finish(store / name, wanted, {"objects": len(table)})
    return {"objects": len(table)}


SplitObject = tuple[int, Box, np.ndarray]


def _split_objects_of_blocks(whole: Whole, piece_labels: dict[int, np.ndarray], grid: Grid) -> dict[int, tuple[SplitObject, ...]]:
    """First voxel, bounding box and labels of the pieces of each split object, for each block that it may reach into."""
    inside: dict[int, tuple[SplitObject, ...]] = {}
    for n, labels in piece_labels.items():
        for index, _ in grid.boxes_in(whole.box(n)):
            inside[index] = (*inside.get(index, ()), (int(whole.first[n]), whole.box(n), labels))
    return inside


def _components(source: Result, read: Box, cfg: Instances) -> np.ndarray:
    """Connected components of the foreground in a box; the same in every pass."""
    return label_block(1 - from_stored(source.read(read))[0] > cfg.threshold, cfg.connectivity)


def _overlapping(write: Box, shape: ZYX) -> Box:
    """A block and one more plane at each end that has a neighbour."""
    return Box(write.start, (write.stop[0] + 1, write.stop[1] + 1, write.stop[2] + 1)).clip(shape)


def _describe(index: int, path: Path, cfg: Instances) -> Part:
    source = Result(path)
    write = source.grid.box(index)
    return describe_block(_components(source, _overlapping(write, source.shape), cfg), write, source.shape)


def _volumes(whole: Whole) -> np.ndarray:
    """Voxels in the bounding box of each object."""
    return np.prod(np.maximum(whole.high - whole.low, 0), axis=1)


def _splittable(whole: Whole, grid: Grid, min_size: int) -> Iterator[tuple[tuple[int, int, Box], ...]]:
    """Number, first voxel and bounding box of the objects that may be split, in groups that lie near each other."""
    chosen = np.flatnonzero((_volumes(whole) <= LARGEST_BOX) & (whole.voxels >= max(1, min_size)))
    zyx = np.stack(np.unravel_index(whole.first[chosen], grid.shape), axis=1) // np.array(grid.block)
    block = np.ravel_multi_index(tuple(zyx.T), grid.counts)
    for index in np.unique(block):
        yield tuple((int(n), int(whole.first[n]), whole.box(n)) for n in chosen[block == index])


def _split(group: tuple[tuple[int, int, Box], ...], path: Path, cfg: Instances, spacing: Spacing) -> dict[int, list[tuple[int, int]]]:
    """First voxel and size of each piece, for the objects of a group that fall into pieces."""
    source = Result(path)
    found = {}
    for (n, _, box), parts in zip(group, _parts_of(source, [(first, box) for _, first, box in group], cfg, spacing), strict=True):
        if parts.max() > 1:
            _, first, voxels = np.unique(parts[parts > 0], return_index=True, return_counts=True)
            local = np.flatnonzero(parts)[first]
            zyx = np.stack(np.unravel_index(local, parts.shape), axis=1) + np.array(box.start)
            raster = np.ravel_multi_index(tuple(zyx.T), source.shape)
            found[n] = list(zip(raster.tolist(), voxels.tolist(), strict=True))
    return found


def _parts_of(source: Result, wanted: list[tuple[int, Box]], cfg: Instances, spacing: Spacing) -> Iterator[np.ndarray]:
    """Parts of objects, given by first voxel and bounding box; one read for all of them where that is not too large."""
    starts, stops = np.array([box.start for _, box in wanted]), np.array([box.stop for _, box in wanted])
    (z, y, x), (z2, y2, x2) = starts.min(axis=0).tolist(), stops.max(axis=0).tolist()
    together = Box((z, y, x), (z2, y2, x2)) if np.prod(stops.max(axis=0) - starts.min(axis=0)) <= LARGEST_BOX else None
    components = _components(source, together, cfg) if together else None
    for first, box in wanted:
        read = together or box
        here = np.array(np.unravel_index(first, source.shape)) - np.array(read.start)
        seen = components if components is not None else _components(source, read, cfg)
        own = seen[box.within(read).slices] == seen[tuple(here)]
        yield split_object(own, spacing, cfg.split or 0.0, cfg.connectivity)


def _number(
    item: tuple[int, np.ndarray, tuple[SplitObject, ...]],
    source: Path,
    cfg: Instances,
    spacing: Spacing,
    target: Path,
    wanted: str,
    classes: list[str],
) -> pd.DataFrame:
    """Write the final labels of a block, unless that is done, and measure its objects."""
    index, labels, split = item
    opened, result = Result(source), Result(target)
    write = opened.grid.box(index)
    if not result.has_block(index):
        components = _components(opened, _overlapping(write, opened.shape), cfg)[tuple(slice(n) for n in write.shape)]
        numbered = np.concatenate([[0], labels])[components].astype(result.dtype)
        for (_, box, own), parts in zip(split, _parts_of(opened, [s[:2] for s in split], cfg, spacing) if split else (), strict=True):
            shared = overlap(box, write)
            here, there = shared.within(write).slices, shared.within(box).slices
            numbered[here] = np.where(parts[there] > 0, np.concatenate([[0], own])[parts[there]], numbered[here])
        result.write(index, numbered, wanted)
    return measure_block(result.read(write), from_stored(opened.read(write))[1:], write.start, classes)
