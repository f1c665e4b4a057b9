"""Step instances: probabilities to objects with labels unique in the whole sample, the same for any block size.

Three passes, each block by block. *Describe* labels the connected components of every block together with the first
voxels of its neighbours, and keeps only counts and the labels on its faces; components that meet on a face are one
object. *Number* labels every block again, in the same way, and writes the numbers, in raster order of the objects' first
voxels. Where objects start from seeds, *grow* extends them to the threshold; each voxel goes to the nearest seed.
"""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cc3d
import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unet_core.blocks import ZYX, Box, Grid
from unet_core.config import Dataset, Instances
from unet_core.digest import code_digest, digest
from unet_core.distance import Spacing, grow
from unet_core.engine import Engine
from unet_core.predict import from_stored
from unet_core.runtime import read_json, write_atomic, write_stamp
from unet_core.store import Result, Spec, begin, details_if_done, finish, remove, remove_others

logger = logging.getLogger(__name__)

CONNECTIVITY: dict[str, Literal[6, 26]] = {"faces": 6, "full": 26}
POSITIONS = ("z", "y", "x")


class Part(NamedTuple):
    """What one block knows of its components; row i is the block's component i + 1.

    Attributes
    ----------
    first : ndarray of int64
        Raster number, in the whole sample, of the component's first voxel in this block.
    voxels : ndarray of int64
        Number of its voxels in this block.
    faces : tuple of three ndarrays
        Labels of the block's first plane along z, y, x.
    beyond : tuple of three ndarrays
        Labels on the plane after the block's last one along z, y, x; these voxels belong to other blocks.
    """

    first: np.ndarray
    voxels: np.ndarray
    faces: tuple[np.ndarray, np.ndarray, np.ndarray]
    beyond: tuple[np.ndarray, np.ndarray, np.ndarray]


def label_block(foreground: np.ndarray, connectivity: str) -> np.ndarray:
    """Connected components of a block, as uint32 from 1."""
    # As bytes: cc3d 3 fails on boolean arrays that are a single line of voxels.
    return cc3d.connected_components(foreground.astype(np.uint8), connectivity=CONNECTIVITY[connectivity], out_dtype=np.uint32)


def describe_block(labels: np.ndarray, write: Box, shape: ZYX) -> Part:
    """What the first pass keeps of a block.

    Parameters
    ----------
    labels : ndarray, shape (z, y, x)
        Components of the block and of one more plane at each end that has a neighbour.
    write : Box
        The block.
    shape : tuple of int
        Shape of the sample.
    """
    count = int(labels.max(initial=0))
    own = labels[tuple(slice(n) for n in write.shape)]
    position = np.flatnonzero(own)
    label = own.ravel()[position].astype(np.int64) - 1
    z, y, x = (index + start for index, start in zip(np.unravel_index(position, own.shape), write.start, strict=True))
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, label, (z.astype(np.int64) * shape[1] + y) * shape[2] + x)
    planes = [labels.take(n, axis=axis) if labels.shape[axis] > n else labels[:0] for axis, n in enumerate(write.shape)]
    return Part(
        first=first,
        voxels=np.bincount(label, minlength=count),
        faces=(own[0], own[:, 0], own[:, :, 0]),
        beyond=(planes[0], planes[1], planes[2]),
    )


def merge_parts(parts: list[Part], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Which components of all blocks are one object.

    Parameters
    ----------
    parts : list of Part
        Of all blocks, in the order of the grid.
    grid : Grid
        The blocks.

    Returns
    -------
    offsets : ndarray
        Number of components before each block, to count them through.
    objects : ndarray
        Object of each component, in raster order of first voxels, from 0.
    """
    offsets = np.concatenate([[0], np.cumsum([part.first.size for part in parts])])
    pairs = [np.empty((0, 2), np.int64)]
    for index, part in enumerate(parts):
        box = grid.box(index)
        for axis in range(3):
            if part.beyond[axis].size:
                pairs += _meeting(part.beyond[axis], int(offsets[index]), box, axis, parts, offsets, grid)
    a, b = np.concatenate(pairs).T
    total = int(offsets[-1])
    _, group = connected_components(coo_matrix((np.ones(a.size, bool), (a, b)), shape=(total, total)), directed=False)
    first = np.concatenate([part.first for part in parts]) if parts else np.empty(0, np.int64)
    earliest = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(earliest, group, first)
    rank = np.empty_like(earliest)
    rank[np.argsort(earliest, kind="stable")] = np.arange(earliest.size)
    return offsets, rank[group]


def _meeting(plane: np.ndarray, offset: int, box: Box, axis: int, parts: list[Part], offsets: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Pairs of components that share voxels on the plane after a block's last one along an axis."""
    extent = list(plane.shape)
    extent.insert(axis, 1)
    start = list(box.start)
    start[axis] = box.stop[axis]
    beyond = Box((start[0], start[1], start[2]), (start[0] + extent[0], start[1] + extent[1], start[2] + extent[2]))
    pairs = []
    for neighbour, other in grid.boxes_in(beyond):
        # The plane may reach over the edge of the neighbour into those beside it: compare where each one owns the voxels.
        shared = Box(_largest(beyond.start, other.start), _smallest(beyond.stop, other.stop))
        here = [s for i, s in enumerate(shared.within(beyond).slices) if i != axis]
        there = [s for i, s in enumerate(shared.within(other).slices) if i != axis]
        mine, theirs = plane[tuple(here)], parts[neighbour].faces[axis][tuple(there)]
        both = (mine > 0) & (theirs > 0)
        touching = np.stack([mine[both].astype(np.int64) + offset, theirs[both].astype(np.int64) + offsets[neighbour]], axis=1) - 1
        pairs.append(np.unique(touching, axis=0))
    return pairs


def number_objects(parts: list[Part], objects: np.ndarray, min_size: int) -> np.ndarray:
    """Final label of each component: 1, 2, ... in raster order; 0 for objects of fewer voxels than `min_size`."""
    voxels = np.bincount(objects, np.concatenate([part.voxels for part in parts]), minlength=int(objects.max(initial=-1)) + 1)
    kept = voxels >= max(1, min_size)
    return np.where(kept, np.cumsum(kept), 0)[objects]


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
        For its pixel size and classes.
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
    samples = read_json(predict)["samples"]
    redone = len(remove_others(store, set(samples)))
    entries = {}
    for name, entry in samples.items():
        wanted = digest(entry["digest"], cfg.model_dump(), dataset.classes, code_digest("instances"))
        details = details_if_done(store / name, wanted)
        if details is None or not (tables / f"{name}.csv").is_file():
            details = _make_sample(name, wanted, cfg, dataset, probabilities, store, tables, engine)
            redone += 1
        entries[name] = {"split": entry["split"], "digest": wanted, "objects": details["objects"]}
    logger.info("instances: %d samples, %d made", len(samples), redone)
    write_stamp(stamp, {"step": "instances", "store": store.name, "samples": entries})


def _make_sample(
    name: str, wanted: str, cfg: Instances, dataset: Dataset, probabilities: Path, store: Path, tables: Path, engine: Engine
) -> dict[str, Any]:
    source, size = Result(probabilities / name), dataset.pixel_size
    blocks = len(source.grid)
    describe = functools.partial(_describe, path=source.path, cfg=cfg)
    described = dict(engine.run(describe, range(blocks), blocks, f"instances {name}, describe"))
    parts = [described[index] for index in range(blocks)]
    offsets, objects = merge_parts(parts, source.grid)
    labels = number_objects(parts, objects, cfg.min_size)
    dtype = "uint32" if labels.max(initial=0) < 2**32 else "uint64"
    spec = Spec(source.shape, dtype, "labels", pixel_size=(size.z, size.y, size.x), block=source.grid.block)
    provenance = {"step": "instances", "config": cfg.model_dump(mode="json"), "probabilities": str(source.path)}
    result = begin(store / name, wanted, spec, provenance)
    # Seeds are numbered in a store of their own, which goes once they have grown.
    seeds = store.with_suffix(".seeds.zarr") / name
    numbered = begin(seeds, wanted, spec, provenance) if cfg.seed is not None else result
    number = functools.partial(_number, source=source.path, cfg=cfg, target=numbered.path, wanted=wanted)
    missing = list(numbered.missing_blocks())
    items = ((index, np.concatenate([[0], labels[offsets[index] : offsets[index + 1]]]).astype(dtype)) for index in missing)
    for _ in engine.run(number, items, len(missing), f"instances {name}, number"):
        pass
    spacing = (size.z / size.x, size.y / size.x, 1.0)
    complete = functools.partial(
        _complete,
        source=source.path,
        seeds=seeds if cfg.seed is not None else None,
        cfg=cfg,
        spacing=spacing,
        target=result.path,
        wanted=wanted,
        classes=dataset.classes,
    )
    table = object_table([part for _, part in engine.run(complete, range(blocks), blocks, f"instances {name}, measure")], dataset.classes)
    write_atomic(tables / f"{name}.csv", table.to_csv(index=False, float_format="%.4f").encode())
    finish(store / name, wanted, {"objects": len(table)})
    remove(seeds)
    return {"objects": len(table)}


def _components(source: Result, write: Box, cfg: Instances) -> np.ndarray:
    """Components of a block and of one more plane at each end: the same in every pass."""
    read = Box(write.start, (write.stop[0] + 1, write.stop[1] + 1, write.stop[2] + 1)).clip(source.shape)
    foreground = 1 - from_stored(source.read(read))[0]
    return label_block(foreground > (cfg.threshold if cfg.seed is None else cfg.seed), cfg.connectivity)


def _describe(index: int, path: Path, cfg: Instances) -> Part:
    source = Result(path)
    write = source.grid.box(index)
    return describe_block(_components(source, write, cfg), write, source.shape)


def _number(item: tuple[int, np.ndarray], source: Path, cfg: Instances, target: Path, wanted: str) -> None:
    index, labels = item
    opened, result = Result(source), Result(target)
    write = opened.grid.box(index)
    components = _components(opened, write, cfg)[tuple(slice(n) for n in write.shape)]
    result.write(index, labels[components], wanted)


def _complete(
    index: int, source: Path, seeds: Path | None, cfg: Instances, spacing: Spacing, target: Path, wanted: str, classes: list[str]
) -> pd.DataFrame:
    """Grow the seeds of a block, unless that is done, and measure its objects."""
    opened, result = Result(source), Result(target)
    write = opened.grid.box(index)
    probability = from_stored(opened.read(write))
    if seeds is not None and not result.has_block(index):
        z, y, x = (math.ceil(cfg.reach / s) for s in spacing)
        read = write.grow((z, y, x)).clip(opened.shape)
        grown = grow(Result(seeds).read(read), spacing, cfg.reach)[write.within(read).slices]
        grown[1 - probability[0] <= cfg.threshold] = 0
        result.write(index, grown, wanted)
    return measure_block(result.read(write), probability[1:], write.start, classes)


def _largest(a: ZYX, b: ZYX) -> ZYX:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]))


def _smallest(a: ZYX, b: ZYX) -> ZYX:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))
