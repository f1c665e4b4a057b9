"""Step instances: probabilities to objects with labels unique in the whole sample, the same for any block size.

Two passes, each block by block, without intermediate files. The first labels every block together with the first voxels
of its neighbours, and keeps only counts and the labels on its faces; objects that meet on a face are one. The second
labels every block again, in the same way, and writes the global numbers. Objects are numbered by their first voxel in
raster order, which does not depend on blocks.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unet_core.blocks import ZYX, Box, Grid
from unet_core.config import Dataset, Instances
from unet_core.digest import code_digest, digest
from unet_core.engine import Engine
from unet_core.predict import from_stored
from unet_core.runtime import read_json, write_atomic, write_stamp
from unet_core.store import Result, Spec, begin, details_if_done, finish, remove_others

logger = logging.getLogger(__name__)

CONNECTIVITY = {"faces": 6, "full": 26}


class Part(NamedTuple):
    """What one block knows of its objects; row i is the block's object i + 1.

    Attributes
    ----------
    first : ndarray of int64
        Raster number, in the whole sample, of the object's first voxel in this block.
    voxels : ndarray of int64
        Number of its voxels in this block.
    moments : ndarray of float64, shape (objects, 3)
        Sums of its z, y, x positions.
    low, high : ndarray of int64, shape (objects, 3)
        Bounding box, stop excluded.
    mass : ndarray of float64, shape (objects, classes)
        Sums of the probabilities of the object classes.
    faces : tuple of three ndarrays
        Labels of the block's first plane along z, y, x.
    beyond : tuple of three ndarrays
        Labels on the plane after the block's last one along z, y, x; these voxels belong to other blocks.
    """

    first: np.ndarray
    voxels: np.ndarray
    moments: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    faces: tuple[np.ndarray, np.ndarray, np.ndarray]
    beyond: tuple[np.ndarray, np.ndarray, np.ndarray]


def label_block(foreground: np.ndarray, connectivity: str) -> np.ndarray:
    """Connected components of a block, as uint32 from 1."""
    return cc3d.connected_components(foreground, connectivity=CONNECTIVITY[connectivity], out_dtype=np.uint32)


def describe_block(labels: np.ndarray, mass: np.ndarray, write: Box, shape: ZYX) -> Part:
    """What the first pass keeps of a block.

    Parameters
    ----------
    labels : ndarray, shape (z, y, x)
        Components of the block and of one more plane at each end that has a neighbour.
    mass : ndarray, shape (classes, z, y, x)
        Probabilities of the object classes, for the block alone.
    write : Box
        The block.
    shape : tuple of int
        Shape of the sample.
    """
    count = int(labels.max(initial=0))
    own = labels[tuple(slice(n) for n in write.shape)]
    position = np.flatnonzero(own)
    label = own.ravel()[position].astype(np.int64) - 1
    zyx = np.stack(np.unravel_index(position, own.shape), axis=1) + np.array(write.start)
    raster = np.ravel_multi_index(tuple(zyx.T), shape)
    first = np.full(count, np.iinfo(np.int64).max)
    low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
    np.minimum.at(first, label, raster)
    np.minimum.at(low, label, zyx)
    np.maximum.at(high, label, zyx + 1)
    beyond = tuple(labels.take(n, axis=axis) if labels.shape[axis] > n else labels[:0] for axis, n in enumerate(write.shape))
    return Part(
        first=first,
        voxels=np.bincount(label, minlength=count),
        moments=np.stack([np.bincount(label, zyx[:, axis], minlength=count) for axis in range(3)], axis=1),
        low=low,
        high=high,
        mass=np.stack([np.bincount(label, m.ravel()[position], minlength=count) for m in mass], axis=1),
        faces=(own[0], own[:, 0], own[:, :, 0]),
        beyond=beyond,  # type: ignore[arg-type]
    )


def merge_parts(parts: list[Part], grid: Grid) -> tuple[list[np.ndarray], np.ndarray]:
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
                pairs += _meeting(part.beyond[axis], offsets[index], box, axis, parts, offsets, grid)
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


def object_table(parts: list[Part], objects: np.ndarray, min_size: int, classes: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Table of all objects, and the label of each component.

    Parameters
    ----------
    parts : list of Part
        Of all blocks.
    objects : ndarray
        Object of each component.
    min_size : int
        Objects of fewer voxels are left out.
    classes : list of str
        Names of the object classes.

    Returns
    -------
    table : DataFrame
        label, class, voxels, centroid, bounding box, mean probability of the class.
    labels : ndarray
        Label of each component, from 1; 0 for those left out.
    """
    count = int(objects.max(initial=-1)) + 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(objects, column, minlength=count) for column in values.T], axis=1)

    voxels = np.bincount(objects, np.concatenate([p.voxels for p in parts]), minlength=count).astype(np.int64)
    centroid = total(np.concatenate([p.moments for p in parts])) / np.maximum(voxels, 1)[:, None]
    mass = total(np.concatenate([p.mass for p in parts]))
    low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
    np.minimum.at(low, objects, np.concatenate([p.low for p in parts]))
    np.maximum.at(high, objects, np.concatenate([p.high for p in parts]))
    kept = voxels >= max(1, min_size)
    label = np.where(kept, np.cumsum(kept), 0)
    best = mass.argmax(axis=1) if count else np.empty(0, int)
    table = {"label": label, "class": np.array(classes)[best], "voxels": voxels}
    table |= {f"centroid_{axis}": centroid[:, i] for i, axis in enumerate("zyx")}
    table |= {f"{name}_{axis}": values[:, i] for name, values in (("start", low), ("stop", high)) for i, axis in enumerate("zyx")}
    table["probability"] = mass[np.arange(count), best] / np.maximum(voxels, 1)
    return pd.DataFrame(table)[kept].reset_index(drop=True), label[objects]


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
    source = Result(probabilities / name)
    size = dataset.pixel_size
    describe = functools.partial(_describe, path=probabilities / name, cfg=cfg)
    described = dict(engine.run(describe, range(len(source.grid)), len(source.grid), f"instances {name}, describe"))
    parts = [described[index] for index in range(len(source.grid))]
    offsets, objects = merge_parts(parts, source.grid)
    table, labels = object_table(parts, objects, cfg.min_size, dataset.classes)
    dtype = "uint32" if len(table) < 2**32 else "uint64"
    spec = Spec(source.shape, dtype, "labels", pixel_size=(size.z, size.y, size.x), block=source.grid.block)
    result = begin(store / name, wanted, spec, {"step": "instances", "config": cfg.model_dump(mode="json"), "probabilities": str(probabilities / name)})
    missing = list(result.missing_blocks())
    write = functools.partial(_write, path=probabilities / name, cfg=cfg, target=store / name, wanted=wanted)
    items = ((index, np.concatenate([[0], labels[offsets[index] : offsets[index + 1]]]).astype(dtype)) for index in missing)
    for _ in engine.run(write, items, len(missing), f"instances {name}, write"):
        pass
    write_atomic(tables / f"{name}.csv", table.to_csv(index=False, float_format="%.4f").encode())
    details = {"objects": len(table)}
    finish(store / name, wanted, details)
    return details


def _read_foreground(source: Result, write: Box, cfg: Instances) -> tuple[np.ndarray, np.ndarray]:
    """Foreground of a block and of one more plane at each end, and the probabilities of the object classes."""
    read = Box(write.start, (write.stop[0] + 1, write.stop[1] + 1, write.stop[2] + 1)).clip(source.shape)
    probability = from_stored(source.read(read))
    return 1 - probability[0] > cfg.threshold, probability[1:]


def _describe(index: int, path: Path, cfg: Instances) -> Part:
    source = Result(path)
    write = source.grid.box(index)
    foreground, mass = _read_foreground(source, write, cfg)
    own = mass[(slice(None), *(slice(n) for n in write.shape))]
    return describe_block(label_block(foreground, cfg.connectivity), own, write, source.shape)


def _write(item: tuple[int, np.ndarray], path: Path, cfg: Instances, target: Path, wanted: str) -> None:
    index, labels = item
    source, result = Result(path), Result(target)
    write = source.grid.box(index)
    foreground, _ = _read_foreground(source, write, cfg)
    components = label_block(foreground, cfg.connectivity)[tuple(slice(n) for n in write.shape)]
    result.write(index, labels[components], wanted)


def _largest(a: ZYX, b: ZYX) -> ZYX:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]))


def _smallest(a: ZYX, b: ZYX) -> ZYX:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))
