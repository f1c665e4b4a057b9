"""Step weights: instance labels to training target and border term of the weight map."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.compiled import compiled
from unet_core.config.datasets import IGNORE, Dataset, Weights
from unet_core.digest import digest
from unet_core.engine import Engine, Runner, run_samples
from unet_core.files import open_atomic
from unet_core.method import method
from unet_core.runtime import read_json, write_stamp
from unet_core.store.pins import Pin, pin_labels
from unet_core.store.removal import also_removed, remove_other_files, remove_others
from unet_core.store.store import BLOCK, LABELS, Result, Spec, begin, details_if_done, finish, open_weights
from unet_core.weights.distance import Spacing, is_former_ridge, outermost_voxels, separate, two_nearest

logger = logging.getLogger(__name__)


# Blocks of volumes: the planes of the halo are a smaller share of thick ones.
VOLUME_BLOCK: ZYX = (64, 256, 256)
# What a block was made of (hash of all that its voxels depend on) and what came of it (checksums of its shards).
BLOCK_RECORD = np.dtype([("source", "<u8"), ("border", "<u4"), ("target", "<u4")])
Record = tuple[int, int, int]
# Samples that a warning names.
MAX_NAMED = 5


def cutoff(cfg: Weights) -> float:
    """Sum of distances d1 + d2 beyond which the border term is below the tolerance, in pixels along x."""
    return _radius(cfg.w0, cfg.sigma, cfg.tolerance)


def near_cutoff(cfg: Weights) -> float:
    """Distance d1 beyond which the near term is below the tolerance, in pixels along x."""
    return _radius(cfg.near, cfg.near_sigma, cfg.tolerance)


def _radius(height: float, sigma: float, tolerance: float) -> float:
    """Where height * exp(-r^2 / (2 sigma^2)) falls to the tolerance."""
    return sigma * math.sqrt(2 * math.log(height / tolerance)) if height > tolerance else 0.0


def halo(cfg: Weights, spacing: Spacing) -> ZYX:
    """Voxels around a block on which its weights depend."""
    reach = max(cutoff(cfg), near_cutoff(cfg)) + cfg.separation / 2
    z, y, x = (math.ceil(reach / s) + 1 for s in spacing)
    return (z, y, x)


def border_term(labels: np.ndarray, spacing: Spacing, cfg: Weights) -> np.ndarray:
    """Border term, which is added to w_c.

    It is w0 * exp(-(d1 + d2)^2 / (2 sigma^2)), and in the background there is near * exp(-d1^2 / (2 near_sigma^2))
    more.

    d1 and d2 are the distances to the nearest and the second nearest object of any class: from the voxel to the nearest
    voxel of the object, which is what one Euclidean distance transform per object gives. In the background this is also
    the distance to the border of the object. Inside objects the border term is 0, or, if `inside` is ``object``, taken
    with the distance 0 to the object itself, or, if it is ``border``, with the distances to the outermost voxels of
    each object.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Objects, 0 is background; touching objects are already separated.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.
    cfg : Weights
        w0, sigma, near, near_sigma, inside, tolerance.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        Sum of both terms; each is 0 where it is below the tolerance.

    References
    ----------
    Border term: Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, equation 2. Its text leaves open whether it
    applies inside objects; figure 3d shows it in the background. Near term: Falk et al.: U-Net, Nature Methods 16
    (2019), and the source of the authors' Fiji plugin, whose defaults are w0 = 50, sigma = 6, near = 0.9, near_sigma =
    10, and w_c = 0.1 in the background, 1 in objects: there the weight falls from 1 at an object to 0.1.
    """
    labels = np.require(labels, np.uint32, ["C", "W"])
    inside = cfg.inside != "none"
    seeds = outermost_voxels(labels) if cfg.inside == "border" else labels
    reach, near_reach = cutoff(cfg), near_cutoff(cfg)
    nearest, second = two_nearest(seeds, spacing, reach, near_reach, inside)
    term = np.empty(labels.shape, np.float32)
    _terms(labels, nearest, second, (cfg.w0, cfg.sigma, reach), (cfg.near, cfg.near_sigma, near_reach), inside, term)
    return term


@compiled
def _terms(labels, nearest, second, border, near, inside, out):  # type: ignore[no-untyped-def]
    """Both terms from squared distances; `border` and `near` are height, sigma and cut-off."""
    (w0, sigma, reach), (height, near_sigma, near_reach) = border, near
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                term = 0.0
                if inside or labels[z, y, x] == 0:
                    d1 = math.sqrt(nearest[z, y, x])
                    both = d1 + math.sqrt(second[z, y, x])
                    # One voxel at a time, each by the same function: the result is the same bit for bit in any block.
                    if both <= reach:
                        term += w0 * math.exp(-(both**2) / (2 * sigma**2))
                    if d1 <= near_reach and labels[z, y, x] == 0:
                        term += height * math.exp(-(d1**2) / (2 * near_sigma**2))
                out[z, y, x] = term


@compiled
def _count(values):  # type: ignore[no-untyped-def]
    """How often each value of an array of uint8 occurs; numpy.bincount makes wide integers of them first."""
    counts = np.zeros(256, np.int64)
    for value in values.flat:
        counts[value] += 1
    return counts


def target_and_border(
    labels: np.ndarray, classes: np.ndarray, ignore: np.ndarray, inner: Box, spacing: Spacing, cfg: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Training target and border term of a block.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Instance labels of the block and its halo.
    classes, ignore : ndarray, shape of `inner`
        Class of each voxel of the block (uint8, 0 background), and ignored voxels (nonzero).
    inner : Box
        Where the block lies in `labels`.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.
    cfg : Weights
        Options.

    Returns
    -------
    target : ndarray of uint8, shape of `inner`
        Class to learn: 0 on the ridge between touching objects, 255 where ignored.
    border : ndarray of float16 or float32, shape of `inner`
        Border term; 0 where ignored.
    """
    apart = separate(labels, spacing, cfg.separation)
    border = border_term(apart, spacing, cfg)[inner.slices].astype(cfg.dtype)
    target = np.where(apart[inner.slices] > 0, classes, 0).astype(np.uint8)
    left_out = ignore > 0
    if left_out.any():
        target[left_out] = IGNORE
        border[left_out] = 0
    return target, border


def make_weights(
    cfg: Weights, dataset: Dataset, *, groundtruth: Path, truth_store: Path, store: Path, stamp: Path, engine: Engine
) -> None:
    """Make target and border term of every annotated sample; what stands there for the same labels stays.

    The store holds the border term alone. w_c depends on all training samples: it is decided in the plan and added when
    a tile is drawn, so that one new annotation does not rewrite every map.

    Parameters
    ----------
    cfg : Weights
        Options.
    dataset : Dataset
        For its classes.
    groundtruth, truth_store : Path
        Stamp and store of the step groundtruth.
    store : Path
        ``<results>/weights/<data set>.zarr``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    samples = {name: entry for name, entry in read_json(groundtruth)["samples"].items() if entry["labels"]}
    removed = len(remove_others(store, set(samples)))
    remove_other_files(store.with_suffix(""), ".blocks", set(samples))
    wanted = {name: weight_map_digest(entry["labels"], cfg, truth_store, name) for name, entry in samples.items()}
    counts = {name: class_pixels_if_done(store / name, wanted[name]) for name in samples}
    missing = [name for name in samples if counts[name] is None]

    def pinned() -> Iterator[Pending]:
        for name in missing:
            truth = pin_labels(truth_store, name, samples[name]["labels"], groundtruth)
            yield Pending(name, wanted[name], truth)

    make = functools.partial(_make_sample, cfg=cfg, classes=len(dataset.classes), store=store)
    thin: dict[str, int] = {}
    for sample, (found, vanished) in run_samples(engine, make, pinned(), _blocks, len(missing), "weights"):
        counts[sample.name] = found
        if vanished:
            thin[sample.name] = vanished
    if thin:
        logger.warning(
            "weights: %d objects in %d samples (%s) are not learnt: where objects touch, a ridge of background parts "
            "them (weights.separation: %g pixels), and nothing of these is left beside it; a smaller one keeps more",
            sum(thin.values()),
            len(thin),
            ", ".join([*list(thin)[:MAX_NAMED], *(["..."] if len(thin) > MAX_NAMED else [])]),
            cfg.separation,
        )
    entries = {
        name: {"split": entry["split"], "digest": wanted[name], "class_pixels": counts[name]}
        for name, entry in samples.items()
    }
    logger.info("weights: %d samples, %d made%s", len(samples), len(missing), also_removed(removed))
    write_stamp(stamp, {"step": "weights", "store": store.name, "samples": entries})


def weight_map_digest(labels: str, cfg: Weights, truth_store: Path, sample: str) -> str:
    """Digest of the weights of a sample from that of its labels, which the size of its pixels is part of.

    Parameters
    ----------
    labels : str
        Digest of its labels.
    cfg : Weights
        Options.
    truth_store : Path
        Store of the step groundtruth, where its labels are done.
    sample : str
        Its name.
    """
    instances = Result(truth_store / sample / "labels" / LABELS[0])
    return digest(labels, _settings(cfg, instances.shape, _spacing(instances)))


def _spacing(labels: Result) -> Spacing:
    """Distance between neighbouring voxels along z, y, x, in pixels along x."""
    z, y, x = labels.pixel_size
    return z / x, y / x, 1.0


def _settings(cfg: Weights, shape: ZYX, spacing: Spacing) -> str:
    """Digest of all that determines weights, beside the labels and the size of their pixels."""
    unused = {"near_sigma"} if cfg.near == 0 else set()
    as_before = is_former_ridge(shape, spacing, cfg.separation)
    return digest(cfg.model_dump(exclude=unused), method("weights", as_before))


def block_of(shape: ZYX) -> ZYX:
    """Block of the weights of a sample."""
    return VOLUME_BLOCK if shape[0] > BLOCK[0] else BLOCK


def class_pixels_if_done(path: Path, wanted: str) -> list[int] | None:
    """Pixels of each class of a sample if its border term and its target are done with that digest."""
    border, target = details_if_done(path, wanted), details_if_done(path / "labels" / "target", wanted)
    return target["class_pixels"] if border is not None and target is not None else None


class Pending(NamedTuple):
    """A sample whose weights are to be made: their digest, and its instances, classes and ignore mask."""

    name: str
    wanted: str
    truth: tuple[Pin, Pin, Pin]


def _blocks(sample: Pending) -> int:
    shape = sample.truth[0].open().shape
    return len(Spec(shape, "uint8", "labels", block=block_of(shape)).grid)


def _make_sample(sample: Pending, runner: Runner, cfg: Weights, classes: int, store: Path) -> tuple[list[int], int]:
    """Make the weights of a sample; its pixels of each class, and how many of its objects are not in the target."""
    name, wanted, truth = sample
    instances = truth[0].open()
    shape, size, spacing = instances.shape, instances.pixel_size, _spacing(instances)
    provenance = {"step": "weights", "config": cfg.model_dump(mode="json"), "labels": truth[0].digest}
    spec = Spec(shape, cfg.dtype, "image", pixel_size=size, block=block_of(shape))
    # What other labels or options left behind stays until each block is compared with its record.
    border = begin(store / name, wanted, spec, provenance, keep=True)
    kind = spec._replace(dtype="uint8", kind="labels")
    target = begin(store / name / "labels" / "target", wanted, kind, provenance, keep=True)
    make = functools.partial(
        _make_block,
        name=name,
        wanted=wanted,
        settings=digest(_settings(cfg, shape, spacing), size),
        cfg=cfg,
        spacing=spacing,
        truth=truth,
        store=store,
    )
    blocks, counts, made, vanished = len(spec.grid), np.zeros(256, np.int64), 0, 0
    records = _records(_records_of(store, name), blocks)
    items = ((index, tuple(records[index].tolist())) for index in range(blocks))
    for (index, before), (after, pixels, lost) in runner.run(make, items, blocks, f"weights {name}"):
        records[index] = after
        counts += pixels
        vanished += lost
        made += after != before
    if blocks > 1:
        logger.info("weights of %s: %d of %d blocks made", name, made, blocks)
    details: dict[str, Any] = {"class_pixels": counts[: classes + 1].tolist()}
    for part in truth:
        part.check()
    for result in (border, target):
        finish(result.path, wanted, details, generation=result.generation)
    return details["class_pixels"], vanished


def _records_of(store: Path, name: str) -> Path:
    return store.with_suffix("") / f"{name}.blocks"


def _records(path: Path, blocks: int) -> np.ndarray:
    """Records of the blocks of a sample, kept in a file.

    A sample of one block needs none, since it is made as a whole. Each run has a file of its own, which begins as what
    the last one knew and takes its place: two runs at once would write halves of one record.
    """
    if blocks == 1:
        return np.zeros(1, BLOCK_RECORD)
    size = blocks * BLOCK_RECORD.itemsize
    known = path.read_bytes() if path.is_file() else b""
    with open_atomic(path, durable=False) as file:
        file.write(known if len(known) == size else bytes(size))
        file.flush()
        return np.memmap(file, BLOCK_RECORD, "r+", shape=(blocks,))


def _make_block(
    item: tuple[int, Record],
    name: str,
    wanted: str,
    settings: str,
    cfg: Weights,
    spacing: Spacing,
    truth: tuple[Pin, Pin, Pin],
    store: Path,
) -> tuple[Record, np.ndarray, int]:
    """Make a block unless its record says that it was made of what stands there now.

    Returned are its record, its pixels per class, and the number of objects that `count_vanished` finds.
    """
    index, before = item
    instances, classes, ignore = (part.open() for part in truth)
    target, border = open_weights(store, name)
    write = target.grid.box(index)
    read = write.grow(halo(cfg, spacing)).clip(target.shape)
    arrays = instances.read(read), classes.read(write), ignore.read(write)
    source = _source(settings, *arrays) if len(target.grid) > 1 else 0
    if source and before == (source, border.checksum(index), target.checksum(index)):
        values = target.read(write)
        return before, _count(values), count_vanished(arrays[0], values, write.within(read))
    values, term = target_and_border(*arrays, write.within(read), spacing, cfg)
    # Of what was written, not of what stands there, which another run may have put there since.
    record = source, border.write(index, term, wanted), target.write(index, values, wanted)
    return record, _count(values), count_vanished(arrays[0], values, write.within(read))


def count_vanished(labels: np.ndarray, target: np.ndarray, inner: Box) -> int:
    """Count the objects that lie in a block as a whole and of which nothing is left in its target.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Instance labels of the block and its halo.
    target : ndarray of uint8, shape of `inner`
        Training target of the block.
    inner : Box
        Where the block lies in `labels`.

    Examples
    --------
    >>> count_vanished(np.array([[[1, 1, 2, 3, 3]]]), np.array([[[1, 0, 0, 0, 1]]]), Box((0, 0, 0), (1, 1, 5)))
    1
    """
    own = labels[inner.slices]
    gone = np.unique(own[(own > 0) & (target == 0)])
    if gone.size:
        left = labels.copy()
        left[inner.slices][target == 0] = 0
        flat = left.ravel()  # of each run of equal voxels one is enough
        gone = np.setdiff1d(gone, flat[np.append(True, flat[1:] != flat[:-1])])
    return len(gone)


def _source(settings: str, *arrays: np.ndarray) -> int:
    """Hash of all that determines a block, never 0: that stands for nothing."""
    content = hashlib.sha256(settings.encode())
    for array in arrays:
        content.update(repr(array.shape).encode())
        content.update(np.ascontiguousarray(array).data)
    return int.from_bytes(content.digest()[:8], "little") or 1
