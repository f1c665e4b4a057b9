"""Models that a configuration names are looked at before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_core.config.models import check_models, networks_started_from
from unet_core.config.options import Config, Network
from unet_core.config.parse import parse_config
from unet_core.network.model import build, save_checkpoint

SMALL = {"depth": 2, "width": 4}
MASKS = {"format": "labels", "path": "{stem}.tif"}
DATASETS = {"cells": {"images": "*.tif", "channels": [0], "annotations": [MASKS]}}


def write_model(folder: Path, **other: Any) -> Path:
    """A model with random weights."""
    network = Network.model_validate(SMALL)
    torch.manual_seed(0)
    save_checkpoint(folder / "best.safetensors", dict(build(network, 1, 2).state_dict()), {})
    rule = {"normalisation": "mean_std"}
    description = {"network": network.model_dump(), "channels": 1, "classes": ["cell"], "normalisation": rule} | other
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def config(results: Path | str = "results", **models: Any) -> Config:
    return parse_config({"results": str(results), "datasets": DATASETS, "models": models})


def bought(folder: Path) -> Config:
    return config(m={"path": str(folder), "predict_on": ["cells"]})


def started(start: Path | str, results: Path | str = "results", **more: Any) -> Config:
    train = {"network": SMALL, "start": str(start)}
    return config(results, m={"train_on": ["cells"], "train": train}, **more)


def file_instead(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b"weights")


def relink(folder: Path) -> None:
    (folder / "best.safetensors").unlink()
    (folder / "best.safetensors").symlink_to("../.git/annex/objects/x")


def cut(folder: Path) -> None:
    os.truncate(folder / "best.safetensors", 500)


def describe(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000\n"
SPOILED = {
    "missing": (lambda folder: os.rename(folder, folder.with_name("moved")), "there is no folder"),
    "a file": (file_instead, "is a file; name the folder of the model"),
    "no description": (lambda folder: (folder / "model.json").unlink(), "has no model.json; it must be a folder of"),
    "no weights": (lambda folder: (folder / "best.safetensors").unlink(), "has no best.safetensors"),
    "pointer of LFS": (lambda folder: (folder / "best.safetensors").write_text(LFS), "git lfs pull"),
    "pointer of annex": (lambda folder: describe(folder, "/annex/objects/MD5-1--2"), "git annex get"),
    "link to nothing": (relink, "best.safetensors is a link to what is not there; get it, as by datalad get"),
    "cut short": (cut, "best.safetensors is damaged or cut short; get a whole one"),
    "no weights but text": (lambda folder: (folder / "best.safetensors").write_text("{}"), "damaged or cut short"),
    "no JSON": (lambda folder: describe(folder, "{"), "model.json is damaged"),
    "no object": (lambda folder: describe(folder, "3"), "model.json is damaged"),
    "lacks a key": (lambda folder: describe(folder, '{"network": {}}'), "model.json has no 'channels'; is it a model"),
    "another network": (lambda folder: write_model(folder, network={"levels": 3}), "model.json is damaged"),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_what_is_wrong_with_a_model_is_told_with_the_key_that_names_it(tmp_path: Path, spoil: str) -> None:
    folder = write_model(tmp_path / "given")
    assert check_models(bought(folder)) == check_models(started(folder)) == []
    spoiling, told = SPOILED[spoil]
    spoiling(folder)
    for cfg, key in ((bought(folder), "models.m.path: "), (started(folder), "models.m.train.start: ")):
        (line,) = check_models(cfg)
        assert line.startswith(f"{key}{tmp_path}/given") or f"{key}there is no folder {tmp_path}/given" in line
        assert told in line and "snakemake" not in line and "delete" not in line


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELS", raising=False)
    assert check_models(bought(Path("$MODELS/a"))) == [
        "models.m.path: the environment variable $MODELS in '$MODELS/a' is not set"
    ]


def test_a_start_that_cannot_fit_is_told(tmp_path: Path) -> None:
    (line,) = check_models(started(write_model(tmp_path / "a", network=SMALL | {"depth": 3})))
    assert "has another network: depth 3 (here 2); make train.network the same" in line
    for cfg in (bought, started):
        (line,) = check_models(cfg(write_model(tmp_path / "a", channels=3)))
        assert "takes 3 channels, but data set cells has 1" in line


def test_a_start_in_the_common_section_is_told_once_for_all_models(tmp_path: Path) -> None:
    raw = {"datasets": DATASETS, "train": {"start": f"{tmp_path}/gone"}, "models": {"cells": {"folds": 3}}}
    assert check_models(parse_config(raw)) == [f"train.start: there is no folder {tmp_path}/gone (working folder: "
                                               f"{Path.cwd()})"]  # fmt: skip


def test_models_of_the_same_configuration_may_be_started_from_before_they_are_there(tmp_path: Path) -> None:
    own = tmp_path / "results/train"
    cfg = started(own / "first", tmp_path / "results", first={"train_on": ["cells"], "train": {"network": SMALL}})
    assert networks_started_from(cfg, "m") == "first" and networks_started_from(cfg, "first") is None
    assert check_models(cfg) == []
    of_fold = {"path": str(own / "a.fold1"), "predict_on": ["cells"]}
    again = config(tmp_path / "results", a={"train_on": ["cells"], "folds": 2}, b=of_fold)
    assert networks_started_from(again, "b") == "a.fold1" and check_models(again) == []
    (line,) = check_models(started(own / "first", tmp_path / "results", first={"train_on": ["cells"]}))
    assert "has another network: depth 4 (here 2), width 64 (here 4)" in line
    (line,) = check_models(started(own / "m", tmp_path / "results"))
    assert "is the folder of this very model; with start: previous" in line
    elsewhere = started(tmp_path / "other/train/first", tmp_path / "results")
    assert networks_started_from(elsewhere, "m") is None and len(check_models(elsewhere)) == 1


def test_models_that_start_from_each_other_are_told(tmp_path: Path) -> None:
    other = {"train_on": ["cells"], "train": {"network": SMALL, "start": f"{tmp_path}/train/m"}}
    first, _ = check_models(started(tmp_path / "train/first", tmp_path, first=other))
    assert "m from first from m" in first


def test_the_folder_of_a_model_with_folds_is_answered_with_those_of_its_networks(tmp_path: Path) -> None:
    write_model(tmp_path / "m.fold1")
    (line,) = check_models(bought(tmp_path / "m"))
    assert f"is the mean of several networks; name one of them, as {tmp_path}/m.fold1" in line
