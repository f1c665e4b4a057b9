"""The training loop: steps of the optimiser, validations, checkpoints, in one process or several."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from unet_core.config.datasets import IGNORE
from unet_core.config.options import Network, Train
from unet_core.network.model import arithmetic, build, channels_last, keep_freed_memory
from unet_core.network.unet import UNet
from unet_core.runtime import Stopped, UserError
from unet_core.train.checkpoint import History, State, best_step
from unet_core.train.curves import live_curves, log_entry, show
from unet_core.train.loss import weighted_cross_entropy
from unet_core.train.processes import SINGLE_PROCESS, Processes, StopRequest, watch_signals
from unet_core.train.sampling import Batch, Sampler, TrainingSample
from unet_core.train.validation import validate

logger = logging.getLogger(__name__)

# So often, in steps, several processes ask each other, and a GPU is asked for its loss; asking each time would make it
# wait.
SYNC_EVERY = 8
# What train.freeze names, as the network calls it.
PARTS = {"contracting": ("down",), "expanding": ("up", "merge"), "output": ("head",)}


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
    start: Mapping[str, torch.Tensor] | None = None,
    extends: str | None = None,
    precision: Sequence[dict[str, Any]] = (),
    processes: Processes = SINGLE_PROCESS,
    check: Callable[[], None] = lambda: None,
) -> History:
    """Train to the end, from the last checkpoint if there is one of the same digest.

    Parameters
    ----------
    cfg : Train
        Options; its precision is what is computed in.
    plan : dict
        Decisions: network, classes, class weights, steps, prediction tile.
    sampler : Sampler
        Source of batches, of `batch` times `accumulate` tiles.
    validation : list of TrainingSample
        Samples for validation; may be empty.
    folder : Path
        Gets ``last.safetensors``, ``best.safetensors``, ``curves.csv`` and ``tensorboard/``.
    wanted : str
        Digest of all that determines the result.
    start : dict, optional
        Weights to start from, by their names in the network; what is not among them starts anew.
    extends : str, optional
        Digest of the same training with fewer steps, from whose last checkpoint this one goes on.
    precision : sequence of dict
        In which arithmetic, from which step on and why, for the checkpoints.
    processes : Processes
        This process among those that train together.
    check : callable
        Raises where what the training reads is no longer what it was; asked before each checkpoint, so that none holds
        what came of other data.

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
        raise UserError(
            f"train.batch is {cfg.batch}, but {processes.size} processes need a tile each: raise it, "
            "or ask for fewer GPUs"
        )
    state = _begin(cfg, plan, start, processes)
    state.precision = list(precision)
    if state.resume(folder, wanted):
        logger.info("train: goes on from step %d", state.step)
    elif extends and state.resume(folder, extends, wanted):
        logger.info("train: goes on from step %d of the same training", state.step)
        processes.wait()  # all have read the checkpoints
        if processes.rank == 0:
            state.take_over(folder, wanted)
    if state.step:
        state.losses = [loss / processes.size for loss in state.losses]
    trained = _shared(cfg, state.net, processes)
    class_weights = torch.tensor(plan["class_weights"]["value"], dtype=torch.float32, device=processes.device)
    steps = plan["steps"]["value"]
    with ExitStack() as stack:
        warned = stack.enter_context(watch_signals())
        curves = stack.enter_context(live_curves(folder, state.step)) if processes.rank == 0 else None
        progress = stack.enter_context(_progress(state.step, steps, processes))
        batches = sampler.batches(state.step, steps, processes.rank, processes.size, _sampling_threads(processes))
        while state.step < steps and not _is_over(state, cfg):
            _step(cfg, state, trained, next(batches), class_weights, steps, processes)
            _check_loss(state, steps, folder, progress)
            if state.step % cfg.validate_every == 0 or state.step == steps:
                mean = processes.sum(torch.stack(state.losses).mean()).item()
                state.losses.clear()
                scores = validate(
                    state.net, validation, class_weights, plan["predict_tile"]["value"], cfg.precision, processes
                )
                rate = learning_rate(state.step - 1, steps, cfg)
                state.history.append({"step": state.step, "learning_rate": rate, "train_loss": mean, **scores})
                _check_weights(state, folder)
                if curves is not None:
                    show(curves, state.history[-1], folder)
                    done = progress.format_dict
                    log_entry(state.history[-1], steps, (done["n"] - done["initial"]) / max(done["elapsed"], 1e-9))
                    check()
                    state.save_validated(folder, wanted)
            if state.step < steps:
                _stop_if_warned(warned, state, folder, wanted, steps, processes, check)
        batches.close()
    return state.history


def _begin(cfg: Train, plan: dict[str, Any], start: Mapping[str, torch.Tensor] | None, processes: Processes) -> State:
    """A training before its first step."""
    torch.manual_seed(cfg.seed)
    keep_freed_memory()
    net = build(Network.model_validate(plan["network"]), plan["channels"], len(plan["classes"]) + 1)
    if start:
        net.load_state_dict(net.state_dict() | dict(start))
        for part in _frozen(net, cfg):
            part.requires_grad_(False)
    elif cfg.freeze:
        logger.warning("train: train.freeze has no effect: the weights start anew, and what is random must be learnt")
    net.to(processes.device)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=cfg.precision == "float16")
    return State(net, _optimiser(cfg, net), cfg.best_by, scaler)


def _step(
    cfg: Train,
    state: State,
    trained: torch.nn.Module,
    batch: Batch,
    class_weights: torch.Tensor,
    steps: int,
    processes: Processes,
) -> None:
    """One step of the optimiser."""
    state.net.train()
    for part in _frozen(state.net, cfg):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()  # the statistics of its normalisation stay too
    torch.manual_seed((cfg.seed * 1_000_003 + state.step) * processes.size + processes.rank)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.step, steps, cfg)
    state.optimiser.zero_grad()
    batch = Batch(*(part.to(processes.device, non_blocking=True) for part in batch))
    pixels = processes.sum((batch.target_NYX != IGNORE).sum()).clamp(min=1)
    passes = [Batch(*parts) for parts in zip(*(part.tensor_split(cfg.accumulate) for part in batch), strict=True)]
    losses = []
    for number, tiles in enumerate(passes, start=1):
        together = isinstance(trained, DistributedDataParallel) and number < len(passes)
        with trained.no_sync() if together else nullcontext():  # type: ignore[operator]
            loss = _loss(trained, tiles, class_weights, cfg.precision) / pixels
            # Several processes take the mean of their gradients.
            state.scaler.scale(loss * processes.size).backward()
        losses.append(loss.detach())
    if cfg.clip:
        state.scaler.unscale_(state.optimiser)
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), cfg.clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.losses.append(torch.stack(losses).sum())
    state.step += 1


def _loss(net: torch.nn.Module, batch: Batch, class_weights: torch.Tensor, precision: str) -> torch.Tensor:
    """Sum of the weighted loss over all pixels of a batch."""
    with arithmetic(batch.image_NCYX.device, precision):
        scores = net(channels_last(batch.image_NCYX))
    return weighted_cross_entropy(scores, batch.target_NYX, class_weights, batch.border_NYX)[0]


def _frozen(net: UNet, cfg: Train) -> list[torch.nn.Module]:
    return [getattr(net, name) for part in cfg.freeze for name in PARTS[part]]


def _progress(start: int, steps: int, processes: Processes) -> tqdm[Any]:
    return tqdm(
        desc="train",
        initial=start,
        total=steps,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 30,
        maxinterval=30,
        disable=processes.rank > 0,
    )


def _sampling_threads(processes: Processes) -> int:
    """Beside a GPU the cores have nothing else to do; on the CPU the network needs them."""
    return torch.get_num_threads() if processes.device.type != "cpu" else 1


def _optimiser(cfg: Train, net: UNet) -> torch.optim.Optimizer:
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not learnt:
        raise UserError("train.freeze names all parts of the network: nothing is left to learn")
    if cfg.optimiser == "adamw":
        return torch.optim.AdamW(learnt, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    return torch.optim.SGD(learnt, lr=cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)


def _shared(cfg: Train, net: UNet, processes: Processes) -> torch.nn.Module:
    """The network, with gradients that are the mean over all processes, and compiled if that is wanted."""
    module: torch.nn.Module = net
    if processes.size > 1:
        module = DistributedDataParallel(net, device_ids=[processes.device] if processes.device.type != "cpu" else None)
    if cfg.compile:
        compiled: Any = torch.compile(module)
        return compiled
    return module


def _is_over(state: State, cfg: Train) -> bool:
    """Whether `patience` validations brought nothing better."""
    if not cfg.patience or not state.history or f"validation_{cfg.best_by}" not in state.history[-1]:
        return False
    best = best_step(state.history, cfg.best_by)
    if sum(entry["step"] > best for entry in state.history) < cfg.patience:
        return False
    logger.info("train: stops early at step %d: nothing better than that of step %.0f since", state.step, best)
    return True


def _check_loss(state: State, steps: int, folder: Path, progress: tqdm[Any]) -> None:
    """Stop where the loss is no number any more; show it."""
    progress.update()
    last = state.losses[-1]
    if last.device.type != "cpu" and state.step % SYNC_EVERY and state.step != steps:
        return
    if not bool(torch.isfinite(torch.stack(state.losses)[-SYNC_EVERY:]).all()):
        raise _not_finite(f"the loss became {last.item()}", state.step, folder)
    progress.set_postfix(loss=f"{last.item():.4g}", refresh=False)


def _check_weights(state: State, folder: Path) -> None:
    """Stop before a network is saved that computes nothing any more."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.net.state_dict().values()):
        raise _not_finite("a weight became infinite", state.step, folder)
    wrong = [
        f"{name} became {value}" for name, value in (state.history or [{}])[-1].items() if not math.isfinite(value)
    ]
    if wrong:
        raise _not_finite(wrong[0], state.step, folder)


def _not_finite(what: str, step: int, folder: Path) -> UserError:
    return UserError(
        f"{what} at step {step} of training; lower train.learning_rate or set train.clip, to 1 for example; "
        f"the checkpoints before that stay in {folder}"
    )


def _stop_if_warned(
    warned: StopRequest,
    state: State,
    folder: Path,
    wanted: str,
    steps: int,
    processes: Processes,
    check: Callable[[], None],
) -> None:
    """Save and stop where a signal announces the end of the job: the next attempt goes on from there."""
    # Several processes must stop at the same step.
    if (processes.size > 1 and state.step % SYNC_EVERY) or not warned.anywhere(processes):
        return
    _check_weights(state, folder)
    if state.losses:
        state.losses = list(processes.sum(torch.stack(state.losses)))
    if processes.rank == 0:
        check()
        state.save(folder, wanted)
    by = warned.by.name if warned.by else "a signal to another process"
    told = f"stopped by {by} after step {state.step} of {steps}, and saved; run again (or let it be retried) to go on"
    raise Stopped(f"{told} from there", warned.by) if warned.by else UserError(f"{told} from there")
