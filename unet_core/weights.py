"""Step weights: instance labels to training target and border term of the weight map."""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.blocks import ZYX
from unet_core.config import IGNORE, Dataset, Weights
from unet_core.digest import code_digest, digest
from unet_core.distance import Spacing, separate, two_nearest
from unet_core.engine import Engine
from unet_core.runtime import read_json, write_stamp
from unet_core.store import Spec, begin, details_if_done, finish, open_labels, open_weights, read_attributes, remove_others

logger = logging.getLogger(__name__)


def cutoff(cfg: Weights) -> float:
    """Sum of distances d1 + d2 beyond which the border term is below the tolerance, in pixels along x."""
    if cfg.w0 <= cfg.tolerance:
        return 0.0
    return cfg.sigma * math.sqrt(2 * math.log(cfg.w0 / cfg.tolerance))


def halo(cfg: Weights, spacing: Spacing) -> ZYX:
    """Voxels around a block on which its weights depend."""
    reach = cutoff(cfg) + cfg.separation / 2
    z, y, x = (math.ceil(reach / s) + 1 for s in spacing)
    return (z, y, x)


def border_term(labels: np.ndarray, spacing: Spacing, cfg: Weights) -> np.ndarray:
    """w0 * exp(-(d1 + d2)^2 / (2 sigma^2)) in the background, 0 in objects.

    d1 and d2 are the distances to the nearest and the second nearest object: from the voxel to the nearest voxel of
    the object, which is what one Euclidean distance transform per object gives.

    Parameters
    ----------
    labels : ndarray of uint32, shape (z, y, x)
        Objects, 0 is background; touching objects are already separated.
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.
    cfg : Weights
        w0, sigma, tolerance.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        The border term; 0 where it is below the tolerance.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, equation 2.
    """
    reach = cutoff(cfg)
    nearest, second = two_nearest(labels, spacing, reach)
    distance = np.sqrt(nearest) + np.sqrt(second)
    with np.errstate(under="ignore"):
        border = cfg.w0 * np.exp(-(distance**2) / (2 * cfg.sigma**2))
    border[(labels > 0) | (distance > reach)] = 0
    return border.astype(np.float32)


def target_and_border(
    labels: np.ndarray, classes: np.ndarray, ignore: np.ndarray, spacing: Spacing, cfg: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Training target and border term of a block, its halo included.

    Parameters
    ----------
    labels, classes, ignore : ndarray, shape (z, y, x)
        Instance labels (uint32), class of each voxel (uint8, 0 background), ignored voxels (nonzero).
    spacing : tuple of float
        Distance between neighbouring voxels along z, y, x, in pixels along x.
    cfg : Weights
        Options.

    Returns
    -------
    target : ndarray of uint8
        Class to learn: 0 on the ridge between touching objects, 255 where ignored.
    border : ndarray of float32
        Border term; 0 where ignored.
    """
    apart = separate(labels, spacing, cfg.separation)
    target = np.where(apart > 0, classes, 0).astype(np.uint8)
    border = border_term(apart, spacing, cfg)
    target[ignore > 0] = IGNORE
    border[ignore > 0] = 0
    return target, border


def make_weights(cfg: Weights, dataset: Dataset, *, groundtruth: Path, truth_store: Path, store: Path, stamp: Path, engine: Engine) -> None:
    """Make target and border term of every annotated sample; what stands there for the same labels stays.

    The store holds the border term alone. w_c depends on all training samples: it is decided in the plan and added when
    a tile is drawn, so that one new annotation does not rewrite every map.

    Parameters
    ----------
    cfg : Weights
        Options.
    dataset : Dataset
        For its pixel size and classes.
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
    redone = len(remove_others(store, set(samples)))
    entries = {}
    for name, entry in samples.items():
        wanted = wanted_digest(entry["labels"], cfg, dataset)
        counts = _counts_if_done(store / name, wanted)
        if counts is None:
            counts = _make_sample(name, wanted, cfg, dataset, truth_store, store, engine)
            redone += 1
        entries[name] = {"split": entry["split"], "digest": wanted, "class_pixels": counts}
    logger.info("weights: %d samples, %d made", len(samples), redone)
    write_stamp(stamp, {"step": "weights", "store": store.name, "samples": entries})


def wanted_digest(labels: str, cfg: Weights, dataset: Dataset) -> str:
    """Digest of the weights of a sample from that of its labels."""
    return digest(labels, cfg.model_dump(), dataset.pixel_size.model_dump(), code_digest("weights"))


def _counts_if_done(path: Path, wanted: str) -> list[int] | None:
    border, target = details_if_done(path, wanted), details_if_done(path / "labels" / "target", wanted)
    return target["class_pixels"] if border is not None and target is not None else None


def _make_sample(name: str, wanted: str, cfg: Weights, dataset: Dataset, truth_store: Path, store: Path, engine: Engine) -> list[int]:
    shape = open_labels(truth_store, name)[0].shape
    size = dataset.pixel_size
    pixel_size = (size.z, size.y, size.x)
    labels = read_attributes(truth_store / name / "labels" / "instances").get("digest")
    provenance = {"step": "weights", "config": cfg.model_dump(mode="json"), "labels": labels}
    border = begin(store / name, wanted, Spec(shape, "float32", "image", pixel_size=pixel_size), provenance)
    target = begin(store / name / "labels" / "target", wanted, Spec(shape, "uint8", "labels", pixel_size=pixel_size), provenance)
    spacing = (size.z / size.x, size.y / size.x, 1.0)
    missing = [index for index in range(len(target.grid)) if not (target.has_block(index) and border.has_block(index))]
    make = functools.partial(_make_block, name=name, wanted=wanted, cfg=cfg, spacing=spacing, truth_store=truth_store, store=store)
    for _ in engine.run(make, missing, len(missing), f"weights {name}"):
        pass
    counts = np.zeros(256, np.int64)
    for box in target.grid:
        counts += np.bincount(target.read(box).ravel(), minlength=256)
    details: dict[str, Any] = {"class_pixels": counts[: len(dataset.classes) + 1].tolist()}
    finish(store / name, wanted, details)
    finish(store / name / "labels" / "target", wanted, details)
    return details["class_pixels"]


def _make_block(index: int, name: str, wanted: str, cfg: Weights, spacing: Spacing, truth_store: Path, store: Path) -> None:
    instances, classes, ignore = open_labels(truth_store, name)
    target, border = open_weights(store, name)
    write = target.grid.box(index)
    read = write.grow(halo(cfg, spacing)).clip(target.shape)
    results = target_and_border(instances.read(read), classes.read(read), ignore.read(read), spacing, cfg)
    inner = write.within(read).slices
    border.write(index, results[1][inner], wanted)
    target.write(index, results[0][inner], wanted)
