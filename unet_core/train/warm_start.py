"""Which weights a training starts from, and why.

New ones, those of an earlier model, or those that the model had before annotations were added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unet_core.config.models import NO_FOLDER, OWN_FOLDER, model_folder
from unet_core.config.options import Network, Train
from unet_core.network.model import SavedModel, load_checkpoint, read_model, save_checkpoint
from unet_core.runtime import UserError, read_json
from unet_core.train.checkpoint import is_of

# What a training started from, kept beside it: the model before is overwritten.
FILE = "start.safetensors"


@dataclass(frozen=True)
class Start:
    """First weights of a training.

    Parameters
    ----------
    why : str
        The reason, for the provenance.
    source : str or None
        ``previous``, or the folder of a model; None: new weights.
    weights : str or None
        Digest of the model that they come from.
    tensors : dict
        By their names in the network; what is not among them starts anew.
    extends : str or None
        Digest of the same training with fewer steps, from whose last checkpoint this one goes on.
    """

    why: str
    source: str | None = None
    weights: str | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    extends: str | None = None

    def keep(self, folder: Path, wanted: str) -> None:
        """Write the weights of the previous model aside, so that a training that is killed starts from them again."""
        if self.source == "previous" or self.extends:
            kept = {"source": self.source, "weights": self.weights, "why": self.why, "extends": self.extends}
            save_checkpoint(folder / FILE, self.tensors, {"digest": wanted} | kept)
        else:
            (folder / FILE).unlink(missing_ok=True)


def given_model(start: str) -> SavedModel | None:
    """Model that ``train.start`` names, if it names one."""
    return None if start in NO_FOLDER else read_model(model_folder(start), "train.start")


def choose_start(
    cfg: Train,
    folder: Path,
    wanted: str,
    used: dict[str, str],
    settings: dict[str, Any],
    given: SavedModel | None = None,
    shorter: dict[str, Any] | None = None,
) -> Start:
    """Weights that a training starts from.

    Parameters
    ----------
    cfg : Train
        Options.
    folder : Path
        The model's folder, with the previous model if there is one.
    wanted : str
        Digest of all that determines the result.
    used : dict
        Sample -> digest, of all that are used now.
    settings : dict
        Decisions of the plan: network, channels, classes, normalisation.
    given : SavedModel, optional
        The model that `start` names, where it has been read (`given_model`).
    shorter : dict, optional
        Description of the model in the folder, where it is that of the same training with fewer steps.

    Raises
    ------
    UserError
        If the model that `start` names does not fit.
    """
    if cfg.start == "new":
        return Start("set in the configuration")
    if is_of(folder / FILE, wanted):
        tensors, kept = load_checkpoint(folder / FILE)
        return Start(kept["why"], kept.get("source", "previous"), kept["weights"], tensors, kept.get("extends"))
    if shorter is not None:
        return _longer(shorter, folder)
    if (given := given or given_model(cfg.start)) is not None:
        return _from_model(given, folder, settings)
    if not (folder / "model.json").is_file():
        return Start("there is no previous model")
    before = read_json(folder / "model.json")
    why_not = _what_changed(before, cfg, used, settings)
    if why_not or not is_of(folder / "best.safetensors", before["digest"]):
        return Start(why_not or "the previous model is not whole")
    added = len(used) - len(before["samples"])
    previous = read_model(folder)
    return Start(
        f"{added} samples were added to the {len(before['samples'])} before",
        "previous",
        previous.digest,
        previous.tensors(),
    )


def _what_changed(before: dict[str, Any], cfg: Train, used: dict[str, str], settings: dict[str, Any]) -> str:
    """What, beside samples that were added, differs from the previous training; empty if nothing does."""
    if before.get("config") != cfg.model_dump(mode="json"):
        return "the options of training have changed"
    for key in ("network", "channels", "classes", "normalisation"):
        if _complete(before).get(key) != settings[key]:
            return f"the plan has changed: {key}"
    samples = before.get("samples", {})
    gone = sum(used.get(name) != content for name, content in samples.items())
    if gone:
        return f"{gone} of the samples before have changed or are gone"
    return "" if len(used) > len(samples) else "no sample was added"


def _longer(before: dict[str, Any], folder: Path) -> Start:
    """The training before, with more steps: what it started from stays true of it."""
    tensors, state = load_checkpoint(folder / "last.safetensors")
    start = before["start"]
    # Parts can be frozen only where the weights did not start anew.
    weights = {name.removeprefix("net."): tensor for name, tensor in tensors.items() if name.startswith("net.")}
    return Start(
        f"{start['why']}; goes on from step {state['step']} of the same training, which had {before['steps']} steps",
        start["from"],
        start["weights"],
        weights if start["from"] else {},
        before["digest"],
    )


def _from_model(given: SavedModel, folder: Path, settings: dict[str, Any]) -> Start:
    path = given.folder
    if path.resolve() == folder.resolve():
        raise UserError(f"train.start: {path} {OWN_FOLDER}")
    for key in ("network", "channels"):
        if _complete(given.description).get(key) != settings[key]:
            raise UserError(
                f"train.start: the model in {path} has {key} {given.description.get(key)}, this one {settings[key]}; "
                "make them the same"
            )
    tensors, why = given.tensors(), "set in the configuration"
    if given.description.get("classes") != settings["classes"]:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        why += "; the last layer is new, since the classes differ"
    return Start(why, str(path), given.digest, tensors)


def _complete(description: dict[str, Any]) -> dict[str, Any]:
    """A model's description, with the defaults of options of the network that came after it was trained."""
    network = Network.model_validate(description.get("network", {}))
    return description | {"network": network.model_dump()}
