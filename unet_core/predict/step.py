"""Step predict: images and a model to class probabilities, block by block, by the overlap-tile strategy."""

from __future__ import annotations

import functools
import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import Extent
from unet_core.config.folds import split_in_scores
from unet_core.config.options import Network, Predict
from unet_core.digest import digest
from unet_core.engine import Engine
from unet_core.files import write_atomic
from unet_core.images.in_place import InPlace
from unet_core.network.cached import Cache, Cached
from unet_core.network.device import device_name
from unet_core.network.model import TooLarge, in_lane, load_network, network_function
from unet_core.network.tiles import LANES, Readable, TileFunction, predict_box
from unet_core.predict import empty
from unet_core.predict.calibration import GPU_BATCHES, Tiles, candidate_tiles, fastest_tiles
from unet_core.predict.members import (
    Group,
    Member,
    Part,
    block_in_plan,
    common_shape,
    deepest,
    groups_of,
    members_for,
    parts_of,
    planes_together,
    probabilities_digest,
    read_members,
    tile_of,
)
from unet_core.predict.memory import fitting, smaller
from unet_core.predict.precision import precision_of
from unet_core.predict.probabilities import distance_from_mask, from_stored, to_mask, to_stored
from unet_core.predict.seams import Audit, audit_window, windows
from unet_core.runtime import read_json, write_stamp
from unet_core.store.pins import Pin, pin
from unet_core.store.removal import also_removed, remove_others
from unet_core.store.store import CHUNK, Result, Spec, begin, details_if_done, finish, read_attributes

logger = logging.getLogger(__name__)

# Voxels of a block at most, where the chunks of an image ask for more planes than planned; planes of a chunk that are
# followed.
MAX_BLOCK_VOXELS, MAX_PLANES = 2**26, 128
# Tile sizes are measured where that is a small part of the work: with so many blocks at least (measuring two sizes
# takes the time of about 12), and for this share of the time at most.
MIN_BLOCKS_TO_MEASURE, MAX_MEASURING_SHARE = 256, 0.05

_LOADING = threading.Lock()


class PredictionJob(NamedTuple):
    """What all blocks of a data set have in common."""

    cfg: Predict
    mask_threshold: float | None
    store: Path
    groups: tuple[Group, ...]
    region: tuple[Box, ...] = ()

    @property
    def dtype(self) -> str:
        """Type of what is stored."""
        return self.cfg.dtype if self.mask_threshold is None else "uint8"


class PendingSample(NamedTuple):
    """A sample that is not done, its image, the networks whose mean it gets, and where its arithmetic was chosen."""

    name: str
    wanted: str
    image: Pin
    parts: tuple[Part, ...]
    device: str = ""

    def computed_in(self, chosen: str, device: str) -> PendingSample:
        """The sample with the arithmetic of all its blocks."""
        return self._replace(parts=tuple(part._replace(precision=chosen) for part in self.parts), device=device)


def predict_samples(
    cfg: Predict,
    *,
    model: Path,
    plans: Sequence[Path],
    groundtruth: Path,
    images: Path,
    store: Path,
    stamp: Path,
    engine: Engine,
    mask_threshold: float | None = None,
    region: Sequence[Extent] = (),
) -> None:
    """Segment the samples of a data set; what stands there for the same image and model stays.

    A model of several networks gives the mean of their probabilities; samples that some of its folds were trained on
    are left to the others.

    Parameters
    ----------
    cfg : Predict
        Options of this model.
    model : Path
        Stamp of the model.
    plans : sequence of Path
        Plan of each of its networks, in the order of the stamp.
    groundtruth, images : Path
        Stamp and store of the data set's groundtruth.
    store : Path
        ``<results>/predict/<model>/<data set>.zarr``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    mask_threshold : float, optional
        For `dtype` mask: what a pixel's probability must exceed (``Config.mask_threshold``).
    region : sequence of Extent
        Of the data set: outside of these boxes all is background; none: nowhere.
    """
    members = read_members(model, plans)
    groups, boxes = groups_of(members), empty.boxes_of(region)
    samples = {name: entry for name, entry in read_json(groundtruth)["samples"].items() if entry["split"] in cfg.splits}
    removed = len(remove_others(store, set(samples)))
    todo, entries = [], {}
    for name, entry in samples.items():
        key = f"{images.stem}/{name}"
        used = members_for(key, members)
        wanted = probabilities_digest(entry["image"], key, members, cfg, mask_threshold, boxes)
        entries[name] = {
            "split": split_in_scores([member.plan for member in used], key, entry["split"]),
            "digest": wanted,
        }
        if details_if_done(store / name, wanted) is None:
            image = pin(images / name, entry["image"], groundtruth)
            todo.append(PendingSample(name, wanted, image, parts_of(used, list(groups), key)))
    job = PredictionJob(cfg, mask_threshold, store, tuple(groups.values()), boxes)
    if todo:
        dimensions = Network.model_validate(members[0].plan["network"]).dimensions
        found = precision_of(cfg, dimensions, [(store / sample.name, sample.wanted) for sample in todo], engine)
        todo = [sample.computed_in(**one) for sample, one in zip(todo, found, strict=True)]
        specs = {sample.name: _spec(sample, job, members) for sample in todo}
        job = job._replace(groups=_measured(job, todo, specs, stamp, engine))
        _predict_all(todo, specs, job, engine)
        _audit_all(todo, job, engine)
    for name, entry in entries.items():
        details = read_attributes(store / name)["details"]
        entry |= {key: details[key] for key in ("audit", "empty") if key in details}
        entry |= {"blocks": details["blocks"]} if "empty" in details else {}
    told = empty.told_empty(entries.values()), also_removed(removed)
    logger.info("predict: %d samples, %d segmented%s%s", len(samples), len(todo), *told)
    write_stamp(
        stamp,
        {
            "step": "predict",
            "store": store.name,
            "classes": members[0].plan["classes"],
            "dtype": cfg.dtype,
            "samples": entries,
        },
    )


def block_of(planned: ZYX, chunk_planes: int, step: int = 1) -> ZYX:
    """Block of an image whose chunks hold several planes: whole chunks, so that none is decoded for each of its planes.

    It has a multiple of `step` planes, those that the network pools together.

    Examples
    --------
    >>> block_of((8, 2048, 2048), 1), block_of((8, 2048, 2048), 64)
    ((8, 2048, 2048), (64, 1024, 1024))
    """
    z, y, x = planned
    if (together := math.lcm(chunk_planes, step)) <= MAX_PLANES:
        z = math.ceil(z / together) * together
    while z * y * x > MAX_BLOCK_VOXELS and max(y, x) > CHUNK:
        y, x = (math.ceil(n / 2 / CHUNK) * CHUNK for n in (y, x))
    return z, y, x


def _spec(sample: PendingSample, job: PredictionJob, members: Sequence[Member]) -> Spec:
    image = sample.image.open_image()
    empty.check_region(job.region, image.shape, sample.name)
    planes = image.chunk[0] if isinstance(image, InPlace) else 1
    block = block_of(block_in_plan(members), planes, planes_together(deepest(members)))
    return Spec(image.shape, job.dtype, "image", len(members[0].plan["classes"]), image.pixel_size, block)


def _predict_all(todo: list[PendingSample], specs: dict[str, Spec], job: PredictionJob, engine: Engine) -> None:
    """Blocks of all samples in one stream, so that no worker waits for the last block of a sample."""

    def items() -> Iterator[tuple[PendingSample, int]]:
        for sample in todo:
            limits = {"region": [box.clip(specs[sample.name].shape) for box in job.region]} if job.region else {}
            provenance = {
                "step": "predict",
                "config": job.cfg.model_dump(mode="json") | {"mask_threshold": job.mask_threshold} | limits,
                "precision": {"chosen": sample.parts[0].precision, "device": sample.device},
                "networks": [
                    {"model": str(folder), "weights": weights, "normalisation": part.norm}
                    for part in sample.parts
                    for folder, weights in part.networks
                ],
            }
            result = begin(job.store / sample.name, sample.wanted, specs[sample.name], provenance)
            yield from ((sample, index) for index in result.missing_blocks())

    total = sum(len(spec.grid) for spec in specs.values())
    for _ in engine.run(functools.partial(_predict_block, job=job), items(), total, "predict"):
        pass


def _predict_block(item: tuple[PendingSample, int], job: PredictionJob) -> None:
    sample, index = item
    result = Result(job.store / sample.name)
    box, computed = result.grid.box(index), None
    if not _is_empty(sample, box, job):
        computed = _computed(sample, box, job)
        if job.mask_threshold is not None:
            computed = to_mask(computed, job.mask_threshold)
    result.write(index, computed, sample.wanted)


def _is_empty(sample: PendingSample, box: Box, job: PredictionJob) -> bool:
    if empty.is_outside(box, job.region):
        return True
    return job.cfg.skip is not None and empty.is_blank(sample.image.open_image(), box, job.cfg.skip)


def _computed(sample: PendingSample, box: Box, job: PredictionJob) -> np.ndarray:
    """Probabilities of a box as they are stored, if they are; outside of the region those of background."""
    computed = _of_all_parts(sample, box, job)
    empty.clear_outside(computed, box, job.region)
    return computed


def _of_all_parts(sample: PendingSample, box: Box, job: PredictionJob) -> np.ndarray:
    image = sample.image.open_image()
    if len(sample.parts) == 1:
        return _of_part(image, sample.parts[0], box, job, job.dtype)
    # What one kind of network has read is there for the next.
    held, count = Cached(image, Cache()), sum(len(part.networks) for part in sample.parts)
    weighted = (
        _of_part(held, part, box, job, "float32") * np.float32(len(part.networks) / count) for part in sample.parts
    )
    return to_stored(functools.reduce(np.add, weighted), job.dtype)


def _of_part(image: Readable, part: Part, box: Box, job: PredictionJob, dtype: str) -> np.ndarray:
    """Mean of the probabilities of networks of a kind, with smaller tiles where the memory is full."""
    group = job.groups[part.group]
    network, tiles = _network(job.cfg, part, dtype), fitting(group)
    while True:
        try:
            return predict_box(image, box, network, shape=group.shape, largest=tiles.largest, batch=tiles.batch)
        except TooLarge as error:
            tiles = smaller(group, tiles, str(error))


def _network(cfg: Predict, part: Part, dtype: str) -> TileFunction:
    """Networks of a kind as a function of tiles."""
    with _LOADING:
        net, *others = (load_network(folder, weights, part.precision) for folder, weights in part.networks)
    function = network_function(
        net, part.norm["offset"], part.norm["scale"], part.precision, cfg.average, dtype, others, background=False
    )

    return functools.partial(in_lane, function)


def _measured(
    job: PredictionJob, todo: list[PendingSample], specs: dict[str, Spec], stamp: Path, engine: Engine
) -> tuple[Group, ...]:
    """Groups with the fastest tiles, which are measured where there is much to do.

    What was measured before on the same device stays, so that results are identical.
    """
    groups = list(job.groups)
    for number, group in enumerate(job.groups):
        kept = stamp.with_suffix(f".tile{number or ''}.json")
        found = [
            (part, math.prod(specs[sample.name].shape))
            for sample in todo
            for part in sample.parts
            if part.group == number
        ]
        if found and job.cfg.tile == "auto" and not group.tile_counts:
            block = max((spec.grid.block for spec in specs.values()), key=math.prod)
            pixels = sum(len(part.networks) * size for part, size in found)
            groups[number] = group._replace(
                tiles=_fastest(job, max(found, key=_networks)[0], block, pixels, kept, engine)
            )
    return tuple(groups)


def _networks(found: tuple[Part, int]) -> int:
    return len(found[0].networks)


def _fastest(job: PredictionJob, part: Part, block: ZYX, pixels: int, kept: Path, engine: Engine) -> Tiles:
    """The fastest tiles for the networks of a part, which apply them to so many pixels in all."""
    tiles = job.groups[part.group].tiles
    ((_, where),) = engine.run(_ask_device, [0], 1, "device")
    weights = [digest_of for _, digest_of in part.networks]
    key = digest(where, weights, part.precision, job.cfg.average, block, tiles.largest)
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if known.get("key") != key:
        if pixels < MIN_BLOCKS_TO_MEASURE * math.prod(block[1:]):
            return tiles
        measure = functools.partial(_calibrate, job=job, block=block, pixels=pixels / len(weights))
        ((_, found),) = engine.run(measure, [part], 1, "tiles")
        known = {"key": key, "device": where} | found
        write_atomic(kept, json.dumps(known, indent=1).encode())
        rates = ", ".join(f"{n} x {tile} px {rate:.3g} Mpx/s" for tile, n, rate in found["rates"])
        logger.info("predict: tiles of %s px, %d at once (on %s: %s)", known["largest"], known["batch"], where, rates)
    return Tiles(tile_of(known["largest"]), known["batch"])


def _ask_device(_: int) -> str:
    return device_name()


def _calibrate(part: Part, job: PredictionJob, block: ZYX, pixels: float) -> dict[str, Any]:
    group = job.groups[part.group]
    network, tiles, shape = _network(job.cfg, part, job.dtype), fitting(group), group.shape
    batches = (1,) if device_name() == "cpu" else GPU_BATCHES
    tried = candidate_tiles(block, tiles.largest, shape, batches)
    return fastest_tiles(network, tried, len(part.norm["offset"]), shape, block, MAX_MEASURING_SHARE * pixels, LANES)


def _audit_all(todo: list[PendingSample], job: PredictionJob, engine: Engine) -> None:
    """Compute places at block borders again, with tiles that lie otherwise, and keep the differences to what is stored.

    Blocks are counted here, the empty ones by their shards, whichever run has written them.
    Samples are done only then, so that a run that was interrupted here goes on here.
    """
    shape = common_shape([group.shape for group in job.groups])
    results = {sample.name: Result(job.store / sample.name) for sample in todo}
    may_be_empty = bool(job.cfg.skip or job.region)
    left_out = {name: empty.empty_blocks(result) if may_be_empty else set() for name, result in results.items()}
    places = [
        (sample, box, border)
        for sample in todo
        for box, border in windows(results[sample.name].grid, shape, sample.wanted, left_out[sample.name])
    ]
    found: dict[str, list[Audit]] = {}
    for (sample, _, _), audit in engine.run(functools.partial(_audit, job=job), places, len(places), "seams"):
        found.setdefault(sample.name, []).append(audit)
    for sample in todo:
        details: dict[str, Any] = {"blocks": len(results[sample.name].grid)}
        if may_be_empty:
            details["empty"] = len(left_out[sample.name])
        if audits := found.get(sample.name):
            details["audit"] = {
                "windows": len(audits),
                "across": max(a.across for a in audits),
                "inside": max(a.inside for a in audits),
            }
        sample.image.check()
        finish(job.store / sample.name, sample.wanted, details)


def _audit(item: Any, job: PredictionJob) -> Audit:
    sample, box, border = item
    result = Result(job.store / sample.name)
    stored, again = result.read(box), _computed(sample, box, job)
    for index, block in result.grid.boxes_in(box):
        if result.is_empty(index):
            again[(..., *block.overlap(box).within(box).slices)] = 0
    if job.mask_threshold is None:
        difference = np.abs(from_stored(stored) - from_stored(again)).max(axis=0)
    else:
        difference = distance_from_mask(stored, again, job.mask_threshold)
    return audit_window(difference, box, border)
