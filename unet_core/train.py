"""Step train: the U-Net from plan, images, targets and border weights.

Batch n and the dropout of step n depend on the seed and n alone, and a checkpoint holds weights, optimiser and history;
so a training that was killed goes on from its last checkpoint to the same end. Several processes share the tiles of each
batch and add up their gradients.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from unet_core.blocks import Grid
from unet_core.checkpoint import History, State, best_step, is_of
from unet_core.config import IGNORE, Network, Train
from unet_core.digest import code_digest, digest
from unet_core.loss import weighted_cross_entropy
from unet_core.model import build, load_checkpoint, network_function, weights_digest
from unet_core.processes import ALONE, Processes, Warned, join_processes, watch_signals
from unet_core.runtime import UserError, job_log, read_json, versions, write_atomic, write_stamp
from unet_core.sampling import Batch, Sampler, TrainingSample
from unet_core.store import open_image_of, open_weights
from unet_core.tiles import predict_box
from unet_core.unet import UNet

logger = logging.getLogger(__name__)

SHOWN = ("train_loss", "validation")
VALIDATION_BLOCK = (1, 1024, 1024)


def learning_rate(step: int, steps: int, cfg: Train) -> float:
    """Learning rate of a step, counted from 0.

    A linear rise over `warmup` steps; then constant, or a fall as (1 - step / steps)^0.9.
    """
    rise = min(1.0, (step + 1) / (cfg.warmup + 1))
    fall = (1 - step / steps) ** 0.9 if cfg.schedule == "poly" else 1.0
    return cfg.learning_rate * rise * fall


def train_network(
    cfg: Train,
    plan: dict[str, Any],
    sampler: Sampler,
    validation: list[TrainingSample],
    *,
    folder: Path,
    wanted: str,
    processes: Processes = ALONE,
) -> History:
    """Train to the end, from the last checkpoint if there is one of the same digest.

    Parameters
    ----------
    cfg : Train
        Options.
    plan : dict
        Decisions: network, classes, class weights, steps, prediction tile.
    sampler : Sampler
        Source of batches.
    validation : list of TrainingSample
        Samples for validation; may be empty.
    folder : Path
        Gets ``last.safetensors``, ``best.safetensors`` and ``curves.csv``.
    wanted : str
        Digest of all that determines the result.
    processes : Processes
        This process among those that train together.

    Returns
    -------
    list of dict
        The curves: one entry per validation.

    Raises
    ------
    UserError
        If the loss is no longer a number; the checkpoints stay. If a signal ended the training; it was saved.
    """
    if cfg.batch < processes.size:
        raise UserError(f"train.batch is {cfg.batch}, but {processes.size} processes need a tile each: raise it, or ask for fewer GPUs")
    torch.manual_seed(cfg.seed)
    net = build(Network.model_validate(plan["network"]), plan["channels"], len(plan["classes"]) + 1).to(processes.device)
    state = State(net, _optimiser(cfg, net))
    if state.resume(folder, wanted):
        logger.info("train: goes on from step %d", state.step)
        state.losses = [loss / processes.size for loss in state.losses]
    trained = _shared(net, processes)
    class_weights = torch.tensor(plan["class_weights"]["value"], dtype=torch.float32, device=processes.device)
    steps = plan["steps"]["value"]
    with watch_signals() as warned, _progress(sampler, state.step, steps, processes) as progress:
        for batch in progress:
            _step(cfg, state, trained, batch, class_weights, steps, processes)
            if state.step % cfg.validate_every == 0 or state.step == steps:
                mean = processes.sum(torch.stack(state.losses).mean()).item()
                state.losses.clear()
                scores = validate(net, validation, class_weights, plan["predict_tile"]["value"], cfg.precision, processes)
                rate = learning_rate(state.step - 1, steps, cfg)
                state.history.append({"step": state.step, "learning_rate": rate, "train_loss": mean, **scores})
                _stop_if_not_finite(state, folder)
                progress.set_postfix({key: value for key, value in state.history[-1].items() if key.startswith(SHOWN)})
                if processes.rank == 0:
                    state.save_validated(folder, wanted)
            if state.step < steps:
                _stop_if_warned(warned, state, folder, wanted, steps, processes)
    return state.history


def _step(
    cfg: Train, state: State, trained: torch.nn.Module, batch: Batch, class_weights: torch.Tensor, steps: int, processes: Processes
) -> None:
    """One step of the optimiser."""
    state.net.train()
    torch.manual_seed((cfg.seed * 1_000_003 + state.step) * processes.size + processes.rank)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.step, steps, cfg)
    state.optimiser.zero_grad()
    total, pixels = _loss(trained, batch, class_weights, cfg.precision, processes.device)
    loss = total / processes.sum(pixels).clamp(min=1)
    (loss * processes.size).backward()  # several processes take the mean of their gradients
    if cfg.clip:
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), cfg.clip)
    state.optimiser.step()
    state.losses.append(loss.detach())
    state.step += 1


def _progress(sampler: Sampler, start: int, steps: int, processes: Processes) -> tqdm[Batch]:
    return tqdm(
        sampler.batches(start, steps, processes.rank, processes.size),
        desc="train",
        initial=start,
        total=steps,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 30,
        maxinterval=30,
        disable=processes.rank > 0,
    )


def _optimiser(cfg: Train, net: UNet) -> torch.optim.Optimizer:
    if cfg.optimiser == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    return torch.optim.SGD(net.parameters(), lr=cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)


def _shared(net: UNet, processes: Processes) -> torch.nn.Module:
    """The network, with gradients that are the mean over all processes."""
    if processes.size == 1:
        return net
    return DistributedDataParallel(net, device_ids=[processes.device] if processes.device.type == "cuda" else None)


def _stop_if_not_finite(state: State, folder: Path) -> None:
    entry = state.history[-1]
    weights = all(bool(torch.isfinite(parameter).all()) for parameter in state.net.parameters())
    if not (weights and all(math.isfinite(value) for value in entry.values())):
        raise UserError(
            f"the loss became {entry['train_loss']} before step {entry['step']:.0f}; lower train.learning_rate or set train.clip; "
            f"the checkpoint of the last good validation stays in {folder}"
        )


def _stop_if_warned(warned: Warned, state: State, folder: Path, wanted: str, steps: int, processes: Processes) -> None:
    """Save and stop where a signal announces the end of the job: the next attempt goes on from there."""
    # Several processes must stop at the same step; asking each time would make a GPU wait for the CPU.
    if (processes.size > 1 and state.step % 8) or not warned.anywhere(processes):
        return
    if state.losses:
        state.losses = list(processes.sum(torch.stack(state.losses)))
    if processes.rank == 0:
        state.save(folder, wanted)
    by = warned.by.name if warned.by else "a signal to another process"
    raise UserError(f"stopped by {by} after step {state.step} of {steps}, and saved; run again (or let it be retried) to go on from there")


def validate(
    net: UNet, samples: list[TrainingSample], class_weights: torch.Tensor, tile: int, precision: str, processes: Processes = ALONE
) -> dict[str, float]:
    """Weighted loss and foreground IoU of whole samples, by overlap-tile, as in prediction.

    Parameters
    ----------
    net : UNet
        Network; left in evaluation mode.
    samples : list of TrainingSample
        What to validate on; may be empty.
    class_weights : Tensor
        w_c.
    tile : int
        Largest side of an input tile.
    precision : {"float32", "bfloat16"}
        Arithmetic of the network.
    processes : Processes
        This process among those that share the work.

    Returns
    -------
    dict
        `validation_loss` and `validation_iou`; empty without samples.
    """
    net.eval()
    # Weighted loss, pixels, intersection, union.
    sums = np.zeros(4)
    w_c = class_weights.cpu().numpy()
    for sample in samples:
        function = network_function(net, sample.offset.ravel().tolist(), sample.scale.ravel().tolist(), precision)
        for box in islice(Grid(sample.target.shape, VALIDATION_BLOCK), processes.rank, None, processes.size):
            probability = predict_box(sample.image, box, function, depth=net.depth, largest=tile)
            target, border = sample.target.read(box), sample.border.read(box)
            valid = target != IGNORE
            truth = np.where(valid, target, 0)
            chosen = np.take_along_axis(probability, truth[None].astype(np.int64), axis=0)[0]
            losses = ((w_c[truth] + border) * -np.log(np.maximum(chosen, 1e-7)))[valid]
            foreground = probability[0] < 0.5
            both, either = (foreground & (truth > 0))[valid], (foreground | (truth > 0))[valid]
            sums += losses.sum(dtype=np.float64), valid.sum(), both.sum(), either.sum()
    weighted, pixels, both, either = processes.sum(torch.from_numpy(sums)).tolist()
    if not pixels:
        return {}
    return {"validation_loss": weighted / pixels, "validation_iou": both / either if either else 1.0}


def _loss(
    net: torch.nn.Module, batch: Batch, class_weights: torch.Tensor, precision: str, where: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    image, target, border = (part.to(where, non_blocking=True) for part in batch)
    with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bfloat16"):
        scores = net(image.contiguous(memory_format=torch.channels_last))
    return weighted_cross_entropy(scores, target, class_weights, border)


def train_model(
    cfg: Train,
    *,
    plan: Path,
    weights: dict[str, Path],
    groundtruth: dict[str, Path],
    results: Path,
    folder: Path,
    stamp: Path,
    processes: Processes = ALONE,
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
    used: dict[str, Any] = {}
    splits: dict[str, list[TrainingSample]] = {"train": [], "validation": []}
    for dataset in weights:
        truths = read_json(groundtruth[dataset])["samples"]
        for name, entry in read_json(weights[dataset])["samples"].items():
            if entry["split"] in splits:
                norm = decided["samples"][f"{dataset}/{name}"]
                used[f"{dataset}/{name}"] = [entry["split"], truths[name]["image"], entry["digest"], norm]
                splits[entry["split"]].append(_open_sample(results, dataset, name, norm))
    keys = ("classes", "channels", "network", "normalisation", "class_weights", "train_tile", "steps")
    settings = {key: _value(decided[key]) for key in keys}
    wanted = digest(used, settings, cfg.model_dump(), code_digest("train"))
    if _description(folder).get("digest") != wanted or not is_of(folder / "best.safetensors", wanted):
        # A description must not outlive the weights that it describes.
        (folder / "model.json").unlink(missing_ok=True)
        here = f"{processes.size} process(es), this one on {processes.device}"
        logger.info("train: %d training and %d validation samples, %s", len(splits["train"]), len(splits["validation"]), here)
        sampler = Sampler(splits["train"], decided["train_tile"]["value"], decided["network"]["depth"], cfg.batch, cfg.seed, cfg.augment)
        history = train_network(cfg, decided, sampler, splits["validation"], folder=folder, wanted=wanted, processes=processes)
        description = settings | {
            "digest": wanted,
            "best": next(e for e in history if e["step"] == best_step(history)),
            "trained_on": sorted(used),
            "config": cfg.model_dump(mode="json"),
            "processes": processes.size,
            "versions": versions(),
        }
        if processes.rank == 0:
            write_atomic(folder / "model.json", json.dumps(description, indent=1, ensure_ascii=False).encode())
    else:
        logger.info("train: nothing has changed")
    if processes.rank == 0:
        write_stamp(stamp, {"step": "train", "model": str(folder), "digest": wanted, "weights": weights_digest(folder)})


def adopt_model(path: Path, stamp: Path) -> None:
    """Write the stamp of a model that was trained elsewhere, after a look at its files."""
    for key in ("network", "channels", "classes", "normalisation"):
        if key not in read_json(path / "model.json"):
            raise UserError(f"{path}/model.json has no {key!r}; is it a model of this pipeline?")
    load_checkpoint(path / "best.safetensors")
    write_stamp(stamp, {"step": "train", "model": str(path), "digest": None, "weights": weights_digest(path)})


def _open_sample(results: Path, dataset: str, name: str, norm: dict[str, list[float]]) -> TrainingSample:
    image = open_image_of(results / "groundtruth" / f"{dataset}.zarr", name)
    target, border = open_weights(results / "weights" / f"{dataset}.zarr", name)
    offset, scale = (np.array(norm[key], np.float32)[:, None, None] for key in ("offset", "scale"))
    return TrainingSample(image, target, border, offset, scale)


def _value(decision: Any) -> Any:
    """A decision of the plan without its reason."""
    return decision["value"] if isinstance(decision, dict) and "why" in decision else decision


def _description(folder: Path) -> dict[str, Any]:
    return read_json(folder / "model.json") if (folder / "model.json").is_file() else {}


def main() -> None:
    """Entry of one of several processes that `launch` starts; its argument is the job as JSON."""
    job = json.loads(sys.argv[1])
    with join_processes() as processes, job_log(Path(job["log"]), job["threads"], append=True):
        if processes.rank:
            logging.getLogger().setLevel(logging.WARNING)
        run_job(job, processes)


def run_job(job: dict[str, Any], processes: Processes) -> None:
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
