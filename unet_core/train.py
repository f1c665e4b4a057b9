"""Step train: the U-Net from plan, images, targets and border weights.

Batch n and the dropout of step n depend on the seed and n alone, and a checkpoint holds weights, momentum and history;
so a training that was killed goes on from its last checkpoint to the same end.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from unet_core.blocks import Grid
from unet_core.config import IGNORE, Network, Train
from unet_core.digest import code_digest, digest
from unet_core.loss import weighted_cross_entropy
from unet_core.model import build, device, load_checkpoint, network_function, save_checkpoint, weights_digest
from unet_core.runtime import UserError, read_json, versions, write_atomic, write_stamp
from unet_core.sampling import Batch, Sampler, TrainingSample
from unet_core.store import Result, open_weights
from unet_core.tiles import predict_box
from unet_core.unet import UNet

logger = logging.getLogger(__name__)

History = list[dict[str, float]]
VALIDATION_BLOCK = (1, 1024, 1024)


def learning_rate(step: int, steps: int, cfg: Train) -> float:
    """Learning rate of a step, counted from 0.

    A linear rise over `warmup` steps; then constant, or a fall as (1 - step / steps)^0.9.
    """
    rise = min(1.0, (step + 1) / (cfg.warmup + 1))
    fall = (1 - step / steps) ** 0.9 if cfg.schedule == "poly" else 1.0
    return cfg.learning_rate * rise * fall


def train_network(
    cfg: Train, plan: dict[str, Any], sampler: Sampler, validation: list[TrainingSample], *, folder: Path, wanted: str
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

    Returns
    -------
    list of dict
        The curves: one entry per validation.

    Raises
    ------
    UserError
        If the loss is no longer a number; the checkpoints stay.
    """
    where = device()
    torch.manual_seed(cfg.seed)
    net = build(Network.model_validate(plan["network"]), plan["channels"], len(plan["classes"]) + 1).to(where)
    optimiser = torch.optim.SGD(net.parameters(), lr=cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    start, history = _resume(folder / "last.safetensors", wanted, net, optimiser)
    class_weights = torch.tensor(plan["class_weights"]["value"], dtype=torch.float32, device=where)
    steps = plan["steps"]["value"]
    losses: list[torch.Tensor] = []
    progress = tqdm(
        sampler.batches(start, steps),
        desc="train",
        initial=start,
        total=steps,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 30,
        maxinterval=30,
    )
    for step, batch in enumerate(progress, start):
        net.train()
        torch.manual_seed(cfg.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, cfg)
        optimiser.zero_grad()
        loss = _loss(net, batch, class_weights, cfg.precision, where)
        loss.backward()
        if cfg.clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.clip)
        optimiser.step()
        losses.append(loss.detach())
        if (step + 1) % cfg.validate_every == 0 or step + 1 == steps:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            scores = validate(net, validation, class_weights, plan["predict_tile"]["value"], cfg.precision)
            history.append({"step": step + 1, "learning_rate": learning_rate(step, steps, cfg), "train_loss": mean, **scores})
            _stop_if_not_finite(history[-1], net, folder)
            progress.set_postfix_str(", ".join(f"{key} {value:.3f}" for key, value in history[-1].items() if "loss" in key or "iou" in key))
            _save(folder, wanted, net, optimiser, history)
    return history


def _stop_if_not_finite(entry: dict[str, float], net: UNet, folder: Path) -> None:
    weights = all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
    if not (weights and all(math.isfinite(value) for value in entry.values())):
        raise UserError(
            f"the loss became {entry['train_loss']} before step {entry['step']:.0f}; lower train.learning_rate or set train.clip; "
            f"the checkpoint of the last good validation stays in {folder}"
        )


def validate(net: UNet, samples: list[TrainingSample], class_weights: torch.Tensor, tile: int, precision: str) -> dict[str, float]:
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

    Returns
    -------
    dict
        `validation_loss` and `validation_iou`; empty without samples.
    """
    net.eval()
    weighted, pixels, both, either = 0.0, 0, 0, 0
    w_c = class_weights.cpu().numpy()
    for sample in samples:
        function = network_function(net, sample.offset.ravel().tolist(), sample.scale.ravel().tolist(), precision)
        for box in Grid(sample.target.shape, VALIDATION_BLOCK):
            probability = predict_box(sample.image, box, function, depth=net.depth, largest=tile)
            target, border = sample.target.read(box), sample.border.read(box)
            valid = target != IGNORE
            truth = np.where(valid, target, 0)
            chosen = np.take_along_axis(probability, truth[None].astype(np.int64), axis=0)[0]
            weighted += float(((w_c[truth] + border) * -np.log(np.maximum(chosen, 1e-7)))[valid].sum(dtype=np.float64))
            pixels += int(valid.sum())
            foreground = probability[0] < 0.5
            both += int((foreground & (truth > 0) & valid).sum())
            either += int(((foreground | (truth > 0)) & valid).sum())
    if not pixels:
        return {}
    return {"validation_loss": weighted / pixels, "validation_iou": both / either if either else 1.0}


def _loss(net: UNet, batch: Batch, class_weights: torch.Tensor, precision: str, where: torch.device) -> torch.Tensor:
    image, target, border = (part.to(where, non_blocking=True) for part in batch)
    with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bfloat16"):
        scores = net(image.contiguous(memory_format=torch.channels_last))
    return weighted_cross_entropy(scores, target, class_weights, border)


def _resume(path: Path, wanted: str, net: UNet, optimiser: torch.optim.SGD) -> tuple[int, History]:
    """Load the last checkpoint into network and optimiser; step and history from which to go on."""
    # The best checkpoint may be older than the last one: without it there is nothing to go on from.
    if not (_is_of(path, wanted) and _is_of(path.with_name("best.safetensors"), wanted)):
        return 0, []
    tensors, state = load_checkpoint(path)
    net.load_state_dict({name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")})
    for name, parameter in net.named_parameters():
        if f"momentum.{name}" in tensors:
            optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"].to(parameter.device)
    logger.info("train: goes on from step %d", state["history"][-1]["step"])
    return int(state["history"][-1]["step"]), state["history"]


def _save(folder: Path, wanted: str, net: UNet, optimiser: torch.optim.SGD, history: History) -> None:
    """Write curves and checkpoints; the best one first, so that the last never claims a best that is not there."""
    weights = dict(net.state_dict())
    if best_step(history) == history[-1]["step"]:
        save_checkpoint(folder / "best.safetensors", weights, {"digest": wanted, "history": history})
    tensors = {f"net.{name}": tensor for name, tensor in weights.items()}
    for name, parameter in net.named_parameters():
        buffer = optimiser.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    save_checkpoint(folder / "last.safetensors", tensors, {"digest": wanted, "history": history})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[-1]))
    writer.writeheader()
    writer.writerows(history)
    write_atomic(folder / "curves.csv", text.getvalue().encode())


def best_step(history: History) -> float:
    """Step of the lowest validation loss; without validation the last one."""
    return min(history, key=lambda entry: (entry.get("validation_loss", 0.0), -entry["step"]))["step"]


def train_model(
    cfg: Train, *, plan: Path, weights: dict[str, Path], groundtruth: dict[str, Path], results: Path, folder: Path, stamp: Path
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
    if _description(folder).get("digest") != wanted or not _is_of(folder / "best.safetensors", wanted):
        # A description must not outlive the weights that it describes.
        (folder / "model.json").unlink(missing_ok=True)
        logger.info("train: %d training and %d validation samples on %s", len(splits["train"]), len(splits["validation"]), device())
        sampler = Sampler(splits["train"], decided["train_tile"]["value"], decided["network"]["depth"], cfg.batch, cfg.seed, cfg.augment)
        history = train_network(cfg, decided, sampler, splits["validation"], folder=folder, wanted=wanted)
        description = settings | {
            "digest": wanted,
            "best": next(e for e in history if e["step"] == best_step(history)),
            "trained_on": sorted(used),
            "config": cfg.model_dump(mode="json"),
            "versions": versions(),
        }
        write_atomic(folder / "model.json", json.dumps(description, indent=1, ensure_ascii=False).encode())
    else:
        logger.info("train: nothing has changed")
    write_stamp(stamp, {"step": "train", "model": str(folder), "digest": wanted, "weights": weights_digest(folder)})


def adopt_model(path: Path, stamp: Path) -> None:
    """Write the stamp of a model that was trained elsewhere, after a look at its files."""
    for key in ("network", "channels", "classes", "normalisation"):
        if key not in read_json(path / "model.json"):
            raise UserError(f"{path}/model.json has no {key!r}; is it a model of this pipeline?")
    load_checkpoint(path / "best.safetensors")
    write_stamp(stamp, {"step": "train", "model": str(path), "digest": None, "weights": weights_digest(path)})


def _open_sample(results: Path, dataset: str, name: str, norm: dict[str, list[float]]) -> TrainingSample:
    image = Result(results / "groundtruth" / f"{dataset}.zarr" / name)
    target, border = open_weights(results / "weights" / f"{dataset}.zarr", name)
    offset, scale = (np.array(norm[key], np.float32)[:, None, None] for key in ("offset", "scale"))
    return TrainingSample(image, target, border, offset, scale)


def _value(decision: Any) -> Any:
    """A decision of the plan without its reason."""
    return decision["value"] if isinstance(decision, dict) and "why" in decision else decision


def _is_of(checkpoint: Path, wanted: str) -> bool:
    """Whether a checkpoint is there and was made for the digest."""
    try:
        return checkpoint.is_file() and load_checkpoint(checkpoint)[1].get("digest") == wanted
    except UserError:  # damaged: it is made again
        return False


def _description(folder: Path) -> dict[str, Any]:
    return read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
