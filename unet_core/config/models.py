"""Models that a configuration names by their folders, to be applied or to start from: checked before any work."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unet_core.config.options import Config, Network
from unet_core.patterns import unset_variable

# What a model folder holds: how to apply it, and its weights.
DESCRIPTION, WEIGHTS = "model.json", "best.safetensors"
NEEDED = ("network", "channels", "classes", "normalisation")
OWN_FOLDER = (
    "is the folder of this very model; with start: previous it goes on from there where samples were added or steps "
    "raised, and has new weights otherwise"
)
# Values of `train.start` that name no folder.
NO_FOLDER = ("previous", "new")


def model_folder(path: str) -> Path:
    """Folder of a model, with ``~`` and environment variables filled in."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


def networks_started_from(cfg: Config, name: str) -> str | None:
    """The network of this configuration that a network starts from, or is taken from; None: it needs no other.

    Parameters
    ----------
    cfg : Config
        The configuration.
    name : str
        A network of it (`Config.networks`), whose `train.start` or `path` may be the folder of another one.
    """
    named = cfg.model_of(name).path or cfg.train_of(name).start
    if named in NO_FOLDER:
        return None
    folder, trained = model_folder(named).resolve(), model_folder(cfg.results).resolve() / "train"
    found = folder.name if folder.parent == trained else None
    return found if found in cfg.networks and not cfg.model_of(found).path else None


def check_models(cfg: Config) -> list[str]:
    """All that can be seen to be wrong with the models that `path` and `train.start` name, one line each."""
    problems = list[str]()
    for network in cfg.networks:
        model, name = cfg.model_of(network), network.partition(".")[0]
        if model.path:
            problems += [f"models.{name}.path: {line}" for line in _problems_of(cfg, network, model.path)]
        elif (start := cfg.train_of(network).start) not in NO_FOLDER:
            key = f"models.{name}.train.start" if "start" in (model.train or {}) else "train.start"
            problems += [f"{key}: {line}" for line in _problems_of(cfg, network, start)]
    return list(dict.fromkeys(problems))  # the folds of a model start from the same


def _problems_of(cfg: Config, network: str, named: str) -> Iterable[str]:
    folder, other = model_folder(named), networks_started_from(cfg, network)
    if unset := unset_variable(str(folder)):
        yield unset
    elif other == network:
        yield f"{folder} {OWN_FOLDER}"
    elif other is not None:
        if circle := _circle(cfg, network):
            yield f"the models start from each other: {' from '.join(circle)}; one of them must start from new weights"
        if not cfg.model_of(network).path:
            yield from _misfits(cfg, network, folder, {"network": cfg.train_of(other).network.model_dump()})
    elif wrong := model_problem(folder):
        yield wrong
    else:
        yield from _misfits(cfg, network, folder, json.loads((folder / DESCRIPTION).read_bytes()))


def _circle(cfg: Config, network: str) -> list[str]:
    """Networks of which each starts from the next, and the last from the first; empty if there is no such circle."""
    seen = [network]
    while (following := networks_started_from(cfg, seen[-1])) is not None:
        seen.append(following)
        if following in seen[:-1]:
            return seen
    return []


def _misfits(cfg: Config, network: str, folder: Path, description: dict[str, Any]) -> Iterable[str]:
    """Where a model cannot be what a network starts from, or what is applied to the data, as far as that is known."""
    own = cfg.model_of(network)
    if not own.path:
        wanted = cfg.train_of(network).network.model_dump()
        found = Network.model_validate(description["network"]).model_dump()
        # The plan decides what is auto.
        differ = [key for key in wanted if "auto" not in (wanted[key], found[key]) and wanted[key] != found[key]]
        if differ:
            listed = ", ".join(f"{key} {found[key]} (here {wanted[key]})" for key in differ)
            yield f"the model in {folder} has another network: {listed}; make train.network the same"
    for dataset in own.train_on or own.predict_on:
        used = cfg.datasets[dataset].channels
        if used is not None and description.get("channels", len(used)) != len(used):
            yield (
                f"the model in {folder} takes {description['channels']} channels, but data set {dataset} has "
                f"{len(used)}; see `channels` of the data set"
            )


def model_problem(folder: Path) -> str:
    """What is wrong with the folder of a model, as far as that is seen without reading all of it; empty: nothing."""
    try:
        return _folder_problem(folder)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def _folder_problem(folder: Path) -> str:
    if folder.is_symlink() and not folder.exists():
        return f"{folder} is a link to what is not there; get it, as by datalad get or git annex get"
    if folder.is_file():
        return f"{folder} is a file; name the folder of the model, which holds {DESCRIPTION} and {WEIGHTS}"
    if not (folder / DESCRIPTION).exists() and (
        folds := sorted(folder.parent.glob(f"{glob.escape(folder.name)}.fold*/"))
    ):
        return f"{folder} is the mean of several networks; name one of them, as {folds[0]}"
    if not folder.is_dir():
        return f"there is no folder {folder} (working folder: {Path.cwd()})"
    return _file_problem(folder / DESCRIPTION) or _file_problem(folder / WEIGHTS) or _content_problem(folder)


def _file_problem(path: Path) -> str:
    """What is wrong with a file of a model before its content is looked at."""
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to what is not there; get it, as by datalad get or git annex get"
    if not path.is_file():
        return f"{path.parent} has no {path.name}; it must be a folder of a trained model"
    with path.open("rb") as file:
        begin = file.read(64)
    if begin.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the file itself; get it by: git lfs pull"
    if begin.startswith(b"/annex/objects/"):
        return f"{path} is a pointer of git-annex, not the file itself; get it by: git annex get"
    return ""


def _content_problem(folder: Path) -> str:
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        absent = [key for key in NEEDED if key not in description]
        if not absent:
            Network.model_validate(description["network"])
    except (ValueError, TypeError) as error:
        return f"{folder / DESCRIPTION} is damaged ({str(error).partition(chr(10))[0]}); get a whole one"
    if absent:
        return f"{folder / DESCRIPTION} has no {absent[0]!r}; is it a model of this pipeline?"
    return "" if _is_whole(folder / WEIGHTS) else f"{folder / WEIGHTS} is damaged or cut short; get a whole one"


def _is_whole(path: Path) -> bool:
    """Whether a file of weights (safetensors) has a header, and is as long as that says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if length <= size - 8 else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
    return bool(ends) and size == 8 + length + max(ends)
