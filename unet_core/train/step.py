"""Step train: the U-Net from plan, images, targets and border weights.

Batch n and the dropout of step n depend on the seed and n alone, and a checkpoint holds weights, optimiser and history;
so a training that was killed goes on from its last checkpoint to the same end. Several processes share the tiles of
each batch and add up their gradients.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.config.folds import split_in_training
from unet_core.config.options import Network, Train
from unet_core.digest import digest
from unet_core.files import write_atomic
from unet_core.method import method
from unet_core.network import unet
from unet_core.network.cached import Cache, Cached
from unet_core.network.device import require_gpus
from unet_core.network.model import SavedModel, read_model, weights_digest
from unet_core.network.precision import PRECISIONS, choose, hardware_name
from unet_core.runtime import job_log, read_json, versions, write_stamp
from unet_core.store.pins import Pin, pin, pin_labels, pin_weights
from unet_core.train.checkpoint import best_step, is_of, last_state
from unet_core.train.loop import train_network
from unet_core.train.processes import SINGLE_PROCESS, Processes, join_processes
from unet_core.train.sampling import Sampler, TrainingSample
from unet_core.train.tile_picture import N_TILES, tile_picture
from unet_core.train.warm_start import Start, choose_start, given_model

logger = logging.getLogger(__name__)


def train_model(
    cfg: Train,
    *,
    plan: Path,
    weights: dict[str, Path],
    groundtruth: dict[str, Path],
    results: Path,
    folder: Path,
    stamp: Path,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Train a model if its data, plan or options have changed.

    Parameters
    ----------
    cfg : Train
        Options of this model.
    plan : Path
        The model's plan.
    weights, groundtruth : dict
        Data set -> stamp, for the data sets that the model is trained on.
    results : Path
        Folder of all results.
    folder : Path
        The model's folder.
    stamp : Path
        The step's output file.
    processes : Processes
        This process among those that train together; the first one writes.
    """
    decided = read_json(plan)
    used: dict[str, str] = {}
    splits: dict[str, list[TrainingSample]] = {"train": [], "validation": []}
    cache, read = Cache(), list[Pin]()
    for dataset in weights:
        truths = read_json(groundtruth[dataset])["samples"]
        for name, entry in read_json(weights[dataset])["samples"].items():
            split = split_in_training(decided, f"{dataset}/{name}", entry["split"])
            if split in splits:
                norm = decided["samples"][f"{dataset}/{name}"]
                used[f"{dataset}/{name}"] = sample_digest(split, truths[name]["image"], entry["digest"], norm)
                pins = _pins(results, dataset, name, truths[name], entry, groundtruth[dataset], weights[dataset])
                read += pins
                splits[split].append(_open_sample(pins, dataset, norm, entry | {"split": split}, cache))
    given = given_model(cfg.start)
    wanted = training_digest(cfg, decided, used, given)
    if is_trained(folder, wanted):
        logger.info("train: nothing has changed")
    else:
        settings = _settings(decided)
        shorter = _same_but_shorter(cfg, decided, used, given, folder)
        start = choose_start(cfg, folder, wanted, used, settings, given, shorter)
        _train(cfg, decided, settings, used, splits, read, start, folder, wanted, processes)
    if processes.rank == 0:
        write_stamp(stamp, {"step": "train", "model": str(folder), "digest": wanted, "weights": weights_digest(folder)})


def sample_digest(split: str, image: str, weights: str, norm: dict[str, list[float]]) -> str:
    """Digest of a sample as training sees it, from those of its image and its weights."""
    return digest(split, image, weights, norm)


def training_digest(cfg: Train, decided: dict[str, Any], used: dict[str, str], given: SavedModel | None = None) -> str:
    """Digest of a model.

    Parameters
    ----------
    cfg : Train
        Options.
    decided : dict
        The plan.
    used : dict
        ``<data set>/<sample>`` -> `sample_digest`, of all samples for training and validation.
    given : SavedModel, optional
        The model that ``train.start`` names, where it has been read.
    """
    given = given or given_model(cfg.start)
    start = given.digest if given else None
    return digest(used, _settings(decided), cfg.model_dump(exclude={"preset"}), start, method("train"))


def is_trained(folder: Path, wanted: str) -> bool:
    """Whether the model in a folder is whole and has that digest."""
    described = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
    return described.get("digest") == wanted and is_of(folder / "best.safetensors", wanted)


def _same_but_shorter(
    cfg: Train, decided: dict[str, Any], used: dict[str, str], given: SavedModel | None, folder: Path
) -> dict[str, Any] | None:
    """Description of the model in a folder, if it came from this training with fewer steps, and all else is the same.

    With its number of steps this training then has its digest.
    """
    before = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
    asked, steps = before.get("config", {}).get("steps"), before.get("steps")
    if asked is None or steps is None or steps >= _value(decided["steps"]):
        return None
    was = training_digest(cfg.model_copy(update={"steps": asked}), decided | {"steps": steps}, used, given)
    same = before["digest"] == was and "start" in before
    return before if same and all(is_of(folder / f"{one}.safetensors", was) for one in ("last", "best")) else None


def _settings(decided: dict[str, Any]) -> dict[str, Any]:
    """Decisions of the plan that training depends on."""
    keys = ("classes", "channels", "network", "normalisation", "class_weights", "train_tile", "steps")
    return {key: _value(decided[key]) for key in keys}


def _train(
    cfg: Train,
    decided: dict[str, Any],
    settings: dict[str, Any],
    used: dict[str, str],
    splits: dict[str, list[TrainingSample]],
    read: list[Pin],
    start: Start,
    folder: Path,
    wanted: str,
    processes: Processes,
) -> None:
    """Train, and describe what came out in ``model.json``."""
    # All processes must have looked at the previous model before it goes.
    processes.wait()
    if processes.rank == 0:
        start.keep(folder, wanted)
        # A description must not outlive the weights that it describes.
        (folder / "model.json").unlink(missing_ok=True)
    here = f"{processes.size} process(es), this one on {processes.device}"
    logger.info(
        "train: %d training and %d validation samples, %s", len(splits["train"]), len(splits["validation"]), here
    )
    logger.info("train: starts from %s: %s", start.source or "new weights", start.why)
    sampler = _sampler(cfg, settings, splits["train"], processes)
    if processes.rank == 0:
        write_atomic(folder / "tiles.png", tile_picture(_first_tiles(sampler), settings["class_weights"]))

    def check() -> None:
        for part in read:
            part.check()

    precision = _precision(cfg, settings["network"], folder, (wanted, start.extends), processes)
    history = train_network(
        cfg.model_copy(update={"precision": precision[-1]["chosen"]}),
        decided,
        sampler,
        splits["validation"],
        folder=folder,
        wanted=wanted,
        start=start.tensors,
        extends=start.extends,
        precision=precision,
        processes=processes,
        check=check,
    )
    description = settings | {
        "digest": wanted,
        "best": next(e for e in history if e["step"] == best_step(history, cfg.best_by)),
        "start": {"from": start.source, "weights": start.weights, "why": start.why},
        "trained_on": sorted(used),
        "pixel_size": _pixel_sizes(decided, used),
        "least_extent": _value(decided.get("least_extent", [])),
        "samples": used,
        "config": cfg.model_dump(mode="json"),
        "processes": processes.size,
        "precision": precision,
        "versions": versions(),
    }
    if processes.rank == 0:
        write_atomic(folder / "model.json", json.dumps(description, indent=1, ensure_ascii=False).encode())


def _precision(
    cfg: Train, network: dict[str, Any], folder: Path, wanted: tuple[str | None, ...], processes: Processes
) -> list[dict[str, Any]]:
    """Arithmetic of a training: from which step on, which one, and why; that of now is the last.

    Of several processes the first one decides, and knows of those before.
    """
    found = _decide_precision(cfg, network, last_state(folder, *wanted), processes) if processes.rank == 0 else []
    number = processes.of_first(PRECISIONS.index(found[-1]["chosen"]) if found else 0)
    return found or [{"chosen": PRECISIONS[number]}]


def _decide_precision(
    cfg: Train, network: dict[str, Any], state: dict[str, Any], processes: Processes
) -> list[dict[str, Any]]:
    """As `_precision`, from the state of the checkpoint that training goes on from, if there is one.

    It goes on in the arithmetic of the checkpoint, unless that is to be chosen and the device is another one.
    """
    before, here = state.get("precision", []), hardware_name(processes.device)
    if before and cfg.precision == "auto" and before[-1]["device"] == here:
        logger.info("train: %s, as this training began, since %s", before[-1]["chosen"], before[-1]["why"])
        return list(before)
    choice = choose(cfg.precision, "train", Network.model_validate(network).dimensions, processes.device)
    choice.tell("train")
    if before and before[-1]["chosen"] != choice.chosen:
        was = before[-1]["chosen"], before[-1]["device"]
        logger.info("train: until step %d it was %s, on %s", state["step"], *was)
    if before and (before[-1]["chosen"], before[-1]["device"]) == (choice.chosen, here):
        return list(before)
    return [*before, {"step": state.get("step", 0)} | choice.described()]


def _sampler(cfg: Train, settings: dict[str, Any], samples: list[TrainingSample], processes: Processes) -> Sampler:
    halo = unet.shape_of(Network.model_validate(settings["network"])).halo
    tiles = (settings["train_tile"], halo, cfg.batch * cfg.accumulate, cfg.seed)
    balanced = cfg.sampling == "balanced"
    return Sampler(samples, *tiles, cfg.augment, cfg.foreground, balanced, processes.device)


def _pixel_sizes(decided: dict[str, Any], used: dict[str, str]) -> dict[str, list[float]]:
    """Size (z, y, x) of the pixels of the data sets that are learnt from, where the plan knows it."""
    learnt = {name.partition("/")[0] for name in used}
    return {dataset: size for dataset, size in decided.get("pixel_size", {}).items() if dataset in learnt}


def _first_tiles(sampler: Sampler) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, target and border term of the tiles that training begins with."""
    batches = (sampler.draw(number) for number in itertools.count())
    tiles = ((image, target, border) for batch in batches for image, target, border in zip(*batch, strict=True))
    return [tuple(part.numpy(force=True) for part in tile) for tile in itertools.islice(tiles, N_TILES)]


def adopt_model(path: Path, stamp: Path) -> None:
    """Write the stamp of a model that was trained elsewhere, after a look at its files."""
    model = read_model(path, f"models.{stamp.stem}.path")
    model.tensors()
    write_stamp(stamp, {"step": "train", "model": str(path), "digest": None, "weights": model.digest})


def _pins(
    results: Path,
    dataset: str,
    name: str,
    truth: dict[str, Any],
    entry: dict[str, Any],
    groundtruth: Path,
    weights: Path,
) -> list[Pin]:
    """What a training reads of a sample: image, target, border term, and objects, of those that the stamps name."""
    store = results / "groundtruth" / f"{dataset}.zarr"
    image, objects = (
        pin(store / name, truth["image"], groundtruth),
        pin_labels(store, name, truth["labels"], groundtruth),
    )
    targets = pin_weights(results / "weights" / f"{dataset}.zarr", name, entry["digest"], weights)
    return [image, *targets, objects[0]]


def _open_sample(
    pins: list[Pin], dataset: str, norm: dict[str, list[float]], entry: dict[str, Any], cache: Cache
) -> TrainingSample:
    offset, scale = (np.array(norm[key], np.float32)[:, None, None] for key in ("offset", "scale"))
    instances = pins[3].open() if entry["split"] == "validation" else None
    annotated = sum(entry["class_pixels"])
    sources = pins[0].open_image(), pins[1].open(), pins[2].open()
    image, target, border = (Cached(source, cache) for source in sources)
    return TrainingSample(image, target, border, offset, scale, annotated, dataset, instances)


def _value(decision: Any) -> Any:
    """A decision of the plan without its reason."""
    return decision["value"] if isinstance(decision, dict) and "why" in decision else decision


def main() -> None:
    """Entry of one of several processes that `launch` starts; its argument is the job as JSON."""
    job = json.loads(sys.argv[1])
    with job_log(Path(job["log"]), job["threads"], append=True):
        require_gpus()  # of this node: that which launched has looked at its own
    with join_processes() as processes, job_log(Path(job["log"]), job["threads"], append=True):
        if processes.rank:
            logging.getLogger().setLevel(logging.WARNING)
        _run(job, processes)


def run_alone(job: dict[str, Any]) -> None:
    """A job of one process, as `_run` has it."""
    with join_processes() as processes:
        _run(job, processes)


def _run(job: dict[str, Any], processes: Processes) -> None:
    """`train_model` with arguments as a script gives them: plain builtins."""
    stamp = Path(job["stamp"])
    train_model(
        Train.model_validate(job["options"]),
        plan=Path(job["plan"]),
        weights={Path(path).stem: Path(path) for path in job["weights"]},
        groundtruth={Path(path).stem: Path(path) for path in job["groundtruth"]},
        results=stamp.parent.parent,
        folder=stamp.with_suffix(""),
        stamp=stamp,
        processes=processes,
    )


if __name__ == "__main__":
    main()
