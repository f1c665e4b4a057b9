"""Checkpoints: all of a training at one step, so that it goes on exactly there."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unet_core.files import write_atomic
from unet_core.network.model import checkpoint_state, load_checkpoint, save_checkpoint
from unet_core.network.unet import UNet
from unet_core.runtime import UserError

logger = logging.getLogger(__name__)

History = list[dict[str, float]]


@dataclass
class State:
    """A training between two steps.

    Parameters
    ----------
    net, optimiser
        With their weights, momentum and the like.
    step : int
        Steps done.
    losses : list of Tensor
        Of the steps since the last validation.
    history : list of dict
        One entry per validation.
    best_by : str
        Score that chooses the best checkpoint.
    scaler : GradScaler
        Scale of the loss; without effect unless the arithmetic is float16.
    precision : list of dict
        In which arithmetic it was trained, from which step on and why; the last one is that of now.
    """

    net: UNet
    optimiser: torch.optim.Optimizer
    best_by: str = "loss"
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    step: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    history: History = field(default_factory=list)
    precision: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path, wanted: str) -> None:
        """Write ``last.safetensors``, from which `resume` goes on."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            kept = self.optimiser.state.get(parameter, {})  # nothing for a parameter that is frozen
            tensors |= {f"optimiser.{key}.{name}": value for key, value in kept.items() if value is not None}
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        state = {"digest": wanted, "step": self.step, "history": self.history, "scaler": self.scaler.state_dict()}
        save_checkpoint(folder / "last.safetensors", tensors, state | {"precision": self.precision})

    def save_validated(self, folder: Path, wanted: str) -> None:
        """Write ``curves.csv`` and, if it is the best so far, ``best.safetensors``; then the last checkpoint.

        In this order, so that the last checkpoint never claims a best one that is not there.
        """
        if best_step(self.history, self.best_by) == self.step:
            save_checkpoint(
                folder / "best.safetensors", dict(self.net.state_dict()), {"digest": wanted, "history": self.history}
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.history[-1]))
        writer.writeheader()
        writer.writerows(self.history)
        write_atomic(folder / "curves.csv", text.getvalue().encode())
        self.save(folder, wanted)

    def resume(self, folder: Path, wanted: str, becoming: str | None = None) -> bool:
        """Load the last checkpoint, if there is one of this digest; False: nothing was changed.

        `becoming` is the digest that `take_over` may have given to the best checkpoint before it was killed.
        """
        path = folder / "last.safetensors"
        if not is_of(path, wanted):
            return False
        tensors, kept = load_checkpoint(path)
        # The best checkpoint may be older than the last one: without it there is nothing to go on from.
        if kept["history"] and not is_of(folder / "best.safetensors", wanted, becoming):
            return False
        self.net.load_state_dict(
            {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")}
        )
        where = next(self.net.parameters()).device
        parameters = dict(self.net.named_parameters())
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                key, parameter = name.removeprefix("optimiser.").split(".", 1)
                # AdamW counts its steps on the CPU.
                self.optimiser.state[parameters[parameter]][key] = tensor if key == "step" else tensor.to(where)
        self.step, self.history = kept["step"], kept["history"]
        if kept["scaler"]:
            self.scaler.load_state_dict(kept["scaler"])
        self.losses = list(tensors["losses"].to(where)) if "losses" in tensors else []
        return True

    def take_over(self, folder: Path, wanted: str) -> None:
        """Make the checkpoints from which this training goes on its own: those of another digest."""
        best = folder / "best.safetensors"
        tensors, kept = load_checkpoint(best)
        save_checkpoint(best, tensors, kept | {"digest": wanted})
        self.save(folder, wanted)


def best_step(history: History, by: str = "loss") -> float:
    """Step of the lowest validation loss, or of the highest other score.

    Of equal scores, and without validation, it is the last step.
    """
    sign = 1 if by == "loss" else -1
    return min(history, key=lambda entry: (sign * entry.get(f"validation_{by}", 0.0), -entry["step"]))["step"]


def last_state(folder: Path, *wanted: str | None) -> dict[str, Any]:
    """State of the last checkpoint without its tensors, if it was made for one of the digests; else empty."""
    state = checkpoint_state(folder / "last.safetensors")
    return state if state.get("digest", "") in wanted else {}


def is_of(checkpoint: Path, *wanted: str | None) -> bool:
    """Whether a checkpoint is there, whole, and was made for the digest, or for one of them."""
    try:
        return checkpoint.is_file() and load_checkpoint(checkpoint)[1].get("digest", "") in wanted
    except UserError as error:
        logger.warning("train: %s is damaged (%s); training starts anew", checkpoint, error.__cause__)
        return False
