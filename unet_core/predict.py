"""Step predict: images and a model to class probabilities, block by block, by the overlap-tile strategy."""

from __future__ import annotations

import functools
import json
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core import unet
from unet_core.blocks import ZYX, Box
from unet_core.calibration import GPU_BATCHES, Tiles, candidates, fastest, halved
from unet_core.config import Network, Predict
from unet_core.digest import code_digest, digest
from unet_core.engine import Engine
from unet_core.model import TooLarge, device_name, load_network, network_function
from unet_core.runtime import UserError, read_json, write_atomic, write_stamp
from unet_core.seams import Audit, audit_window, windows
from unet_core.store import CHUNK, Result, Spec, begin, details_if_done, finish, open_image_of, read_attributes, remove_others
from unet_core.tiles import TileFunction, predict_box

logger = logging.getLogger(__name__)

# Voxels of a block at most, where the chunks of an image ask for more planes than planned; planes of a chunk that are followed.
LARGEST_BLOCK, MOST_PLANES = 2**26, 128
# Tiles are measured where that takes a small part of the work: blocks of one plane, and share of the time.
WORTH_MEASURING, SHARE = 32, 0.05

_LOADING = threading.Lock()


def to_stored(probability: np.ndarray, dtype: str) -> np.ndarray:
    """Probabilities as they are stored: uint8 maps 0..1 to 0..255."""
    return np.rint(probability * 255).astype(np.uint8) if dtype == "uint8" else probability.astype(dtype)


def from_stored(stored: np.ndarray) -> np.ndarray:
    """Probabilities in 0..1 (float32) from what is stored."""
    return stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)


class Job(NamedTuple):
    """What all blocks of a data set have in common."""

    cfg: Predict
    folder: Path
    weights: str
    images: Path
    store: Path
    tiles: Tiles
    tile_counts: bool


class Todo(NamedTuple):
    """A sample that is not done."""

    name: str
    wanted: str
    norm: dict[str, list[float]]


def predict_samples(
    cfg: Predict,
    *,
    model: Path,
    plan: Path,
    groundtruth: Path,
    images: Path,
    store: Path,
    stamp: Path,
    engine: Engine,
) -> None:
    """Segment the samples of a data set; what stands there for the same image and model stays.

    Parameters
    ----------
    cfg : Predict
        Options of this model.
    model : Path
        Stamp of the model.
    plan : Path
        The model's plan.
    groundtruth, images : Path
        Stamp and store of the data set's groundtruth.
    store : Path
        ``<results>/predict/<model>/<data set>.zarr``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    trained, decided = read_json(model), read_json(plan)
    samples = {name: entry for name, entry in read_json(groundtruth)["samples"].items() if entry["split"] in cfg.splits}
    removed = len(remove_others(store, set(samples)))
    todo, entries = [], {}
    for name, entry in samples.items():
        norm = decided["samples"][f"{images.stem}/{name}"]
        wanted = wanted_digest(entry["image"], trained["weights"], norm, cfg, decided)
        entries[name] = {"split": entry["split"], "digest": wanted}
        if details_if_done(store / name, wanted) is None:
            todo.append(Todo(name, wanted, norm))
    tiles = Tiles(_tile(decided["predict_tile"]["value"]), 1)
    job = Job(cfg, Path(trained["model"]), trained["weights"], images, store, tiles, _tile_counts(decided))
    if todo:
        specs = {sample.name: _spec(sample, job, decided) for sample in todo}
        job = job._replace(tiles=_measured(job, todo[0], specs, stamp.with_suffix(".tile.json"), engine))
        _predict_all(todo, specs, job, engine)
        _audit_all(todo, job, engine)
    for name, entry in entries.items():
        if audit := read_attributes(store / name)["details"].get("audit"):
            entry["audit"] = audit
    logger.info("predict: %d samples, %d segmented", len(samples), removed + len(todo))
    write_stamp(stamp, {"step": "predict", "store": store.name, "classes": decided["classes"], "samples": entries})


def wanted_digest(image: str, weights: str, norm: dict[str, list[float]], cfg: Predict, plan: dict[str, Any]) -> str:
    """Digest of the probabilities of a sample from those of its image and of the model's weights."""
    # The tile counts only where the result depends on it.
    tile = [plan["predict_tile"]["value"]] if _tile_counts(plan) else []
    return digest(image, weights, norm, cfg.precision, cfg.average, cfg.dtype, code_digest("predict"), *tile)


def _tile(value: Any) -> int | ZYX:
    """A tile as it was read from JSON."""
    return value if isinstance(value, int) else unet.sides(value)


def _tile_counts(plan: dict[str, Any]) -> bool:
    """Whether results depend on the tile: instance normalisation takes the statistics of each tile."""
    return plan["network"]["norm"] == "instance"


def block_of(planned: ZYX, chunk_planes: int, step: int = 1) -> ZYX:
    """Block of an image whose chunks hold several planes: whole chunks, so that none is decoded for each of its planes.

    It has a multiple of `step` planes, those that the network pools together.

    Examples
    --------
    >>> block_of((8, 2048, 2048), 1), block_of((8, 2048, 2048), 64)
    ((8, 2048, 2048), (64, 1024, 1024))
    """
    z, y, x = planned
    if (together := math.lcm(chunk_planes, step)) <= MOST_PLANES:
        z = math.ceil(z / together) * together
    while z * y * x > LARGEST_BLOCK and max(y, x) > CHUNK:
        y, x = (math.ceil(n / 2 / CHUNK) * CHUNK for n in (y, x))
    return z, y, x


def _spec(sample: Todo, job: Job, decided: dict[str, Any]) -> Spec:
    reference = read_attributes(job.images / sample.name).get("reference")
    image, planes = open_image_of(job.images, sample.name), reference["chunk"][0] if reference else 1
    step = unet.shape_of(Network.model_validate(decided["network"])).z.step
    block = block_of(tuple(decided["predict_block"]["value"]), planes, step)
    return Spec(image.shape, job.cfg.dtype, "image", len(decided["classes"]) + 1, image.pixel_size, block)


def _predict_all(todo: list[Todo], specs: dict[str, Spec], job: Job, engine: Engine) -> None:
    """Blocks of all samples in one stream, so that no worker waits for the last block of a sample."""

    def items() -> Iterator[tuple[Todo, int]]:
        for sample in todo:
            provenance = {
                "step": "predict",
                "config": job.cfg.model_dump(mode="json"),
                "model": str(job.folder),
                "weights": job.weights,
                "normalisation": sample.norm,
            }
            result = begin(job.store / sample.name, sample.wanted, specs[sample.name], provenance)
            yield from ((sample, index) for index in result.missing_blocks())

    total = sum(len(spec.grid) for spec in specs.values())
    for _ in engine.run(functools.partial(_predict_block, job=job), items(), total, "predict"):
        pass


def _predict_block(item: tuple[Todo, int], job: Job) -> None:
    sample, index = item
    result = Result(job.store / sample.name)
    result.write(index, _computed(sample, result.grid.box(index), job), sample.wanted)


def _computed(sample: Todo, box: Box, job: Job) -> np.ndarray:
    """Probabilities of a box as they are stored, with smaller tiles where the memory is full."""
    image, tiles = open_image_of(job.images, sample.name), _fitting(job.tiles)
    network, shape = _network(job, sample.norm)
    while True:
        try:
            return predict_box(image, box, network, shape=shape, largest=tiles.largest, batch=tiles.batch)
        except TooLarge as error:
            tiles = _smaller(job, tiles, shape, str(error))


def _network(job: Job, norm: dict[str, list[float]]) -> tuple[TileFunction, unet.Shape]:
    """The network as a function of tiles, and its shape."""
    with _LOADING:
        net = load_network(job.folder, job.weights, job.cfg.precision)
    function = network_function(net, norm["offset"], norm["scale"], job.cfg.precision, job.cfg.average, job.cfg.dtype)

    def in_turn(tiles_NCYX: np.ndarray) -> np.ndarray:
        with _turns():
            return function(tiles_NCYX)

    return in_turn, net.shape


@functools.cache
def _turns() -> threading.Semaphore:
    """On a CPU a tile takes all threads of the job; a GPU computes one while the next is copied."""
    return threading.Semaphore(1 if device_name() == "cpu" else 2)


# Tiles that were too large for this process -> those that were not.
_fits: dict[Tiles, Tiles] = {}


def _fitting(tiles: Tiles) -> Tiles:
    return _fits.get(tiles, tiles)


def _smaller(job: Job, tiles: Tiles, shape: unet.Shape, what: str) -> Tiles:
    """Tiles that need half of the memory, for all further blocks of this process too."""
    smaller = Tiles(tiles.largest, tiles.batch // 2) if tiles.batch > 1 else halved(tiles, shape)
    if tiles.batch == 1 and (smaller == tiles or job.tile_counts):
        advice = "set predict.tile to less" if job.tile_counts else "use one with more, or a network of less width"
        raise UserError(f"{what} do not fit the memory of the GPU ({device_name()}); {advice}")
    logger.warning("predict: %s do not fit the memory of the GPU: going on with %d of %s px", what, smaller.batch, smaller.largest)
    _fits[job.tiles] = smaller
    return smaller


def _measured(job: Job, sample: Todo, specs: dict[str, Spec], kept: Path, engine: Engine) -> Tiles:
    """The fastest tiles where there is much to do; what was measured before on the same device stays, for identical results."""
    block = max((spec.grid.block for spec in specs.values()), key=math.prod)
    pixels = sum(math.prod(spec.shape) for spec in specs.values())
    if job.cfg.tile != "auto" or job.tile_counts:
        return job.tiles
    ((_, where),) = engine.run(_ask_device, [0], 1, "device")
    key = digest(where, job.weights, job.cfg.precision, job.cfg.average, block, job.tiles.largest)
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if known.get("key") != key:
        if pixels < WORTH_MEASURING * math.prod(block[1:]):
            return job.tiles
        measure = functools.partial(_calibrate, job=job, block=block, pixels=pixels)
        ((_, found),) = engine.run(measure, [sample], 1, "tiles")
        known = {"key": key, "device": where} | found
        write_atomic(kept, json.dumps(known, indent=1).encode())
        rates = ", ".join(f"{n} x {tile} px {rate:.3g} Mpx/s" for tile, n, rate in found["rates"])
        logger.info("predict: tiles of %s px, %d at once (on %s: %s)", known["largest"], known["batch"], where, rates)
    return Tiles(_tile(known["largest"]), known["batch"])


def _ask_device(_: int) -> str:
    return device_name()


def _calibrate(sample: Todo, job: Job, block: ZYX, pixels: int) -> dict[str, Any]:
    network, shape = _network(job, sample.norm)
    batches = (1,) if device_name() == "cpu" else GPU_BATCHES
    channels = len(sample.norm["offset"])
    tried = candidates(block, job.tiles.largest, shape, batches)
    return fastest(network, tried, channels, shape, block, SHARE * pixels)


def _audit_all(todo: list[Todo], job: Job, engine: Engine) -> None:
    """Compute places at block borders again, with tiles that lie otherwise, and keep how far they are from what is stored.

    Samples are done only then, so that a run that was interrupted here goes on here.
    """
    shape = load_network(job.folder, job.weights, job.cfg.precision).shape
    grids = {sample.name: Result(job.store / sample.name).grid for sample in todo}
    places = [(sample, box, border) for sample in todo for box, border in windows(grids[sample.name], shape, sample.wanted)]
    found: dict[str, list[Audit]] = {}
    for (sample, _, _), audit in engine.run(functools.partial(_audit, job=job), places, len(places), "seams"):
        found.setdefault(sample.name, []).append(audit)
    for sample in todo:
        details: dict[str, Any] = {"blocks": len(grids[sample.name])}
        if audits := found.get(sample.name):
            details["audit"] = {"windows": len(audits), "across": max(a.across for a in audits), "inside": max(a.inside for a in audits)}
        finish(job.store / sample.name, sample.wanted, details)


def _audit(item: Any, job: Job) -> Audit:
    sample, box, border = item
    stored = Result(job.store / sample.name).read(box)
    return audit_window(from_stored(stored), from_stored(_computed(sample, box, job)), box, border)
