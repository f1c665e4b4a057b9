"""A finished model is trained longer: it goes on where it was, and only where nothing but the steps has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.method import _truth, cells, gray, put
from unet_core.config.options import Network, Train
from unet_core.network.model import load_checkpoint
from unet_core.runtime import read_json, write_stamp
from unet_core.train import loop as training
from unet_core.train.checkpoint import State
from unet_core.train.loop import learning_rate
from unet_core.train.step import train_model
from unet_core.train.warm_start import Start

OPTIONS: dict[str, Any] = {
    "network": {"depth": 2, "width": 4}, "tile": 92, "validate_every": 3, "warmup": 0, "schedule": "constant",
    "learning_rate": 0.01, "precision": "float32",
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Stores of two samples, and a plan without steps."""
    labels = cells((1, 130, 140))
    store, maps = _truth(tmp_path, labels), tmp_path / "weights/cells.zarr"
    samples = read_json(store.with_suffix(".json"))["samples"]
    for sample in samples:
        put(maps / sample, (gray(labels.shape) % 64 / 8).astype(np.float32), "image")
        put(maps / sample / "labels/target", labels.astype(bool).astype(np.uint8), "labels")
    entries = {s: {"split": e["split"], "digest": "d", "class_pixels": [9000, 9200]} for s, e in samples.items()}
    write_stamp(maps.with_suffix(".json"), {"samples": entries})
    norm = {"offset": [60.0], "scale": [0.02]}
    plan = {
        "classes": ["cell"], "channels": 1, "network": Network(depth=2, width=4).model_dump(),
        "normalisation": {"normalisation": "percentile", "percentiles": [1, 99]},
        "class_weights": {"value": [0.8, 1.3], "why": "fixed"}, "train_tile": {"value": 92, "why": "fixed"},
        "predict_tile": {"value": 92, "why": "fixed"}, "samples": {f"cells/{sample}": norm for sample in samples},
    }  # fmt: skip
    write_stamp(tmp_path / "plan.json", plan)
    return tmp_path


def train(home: Path, steps: int, name: str = "unet", **changes: Any) -> dict[str, Any]:
    """Train a model; its description."""
    plan = read_json(home / "plan.json") | {"steps": {"value": steps, "why": "set"}}
    write_stamp(home / f"plan.{name}.json", plan)
    stamp = home / "train" / f"{name}.json"
    train_model(
        Train.model_validate(OPTIONS | {"steps": steps} | changes),
        plan=home / f"plan.{name}.json",
        weights={"cells": home / "weights/cells.json"},
        groundtruth={"cells": home / "groundtruth/cells.json"},
        results=home,
        folder=stamp.with_suffix(""),
        stamp=stamp,
    )
    described: dict[str, Any] = read_json(stamp.with_suffix("") / "model.json")
    return described


def assert_same(home: Path, one: str, two: str) -> None:
    """Weights, momentum and curves are equal."""
    assert (home / "train" / one / "curves.csv").read_text() == (home / "train" / two / "curves.csv").read_text()
    for name in ("best", "last"):
        (a, _), (b, _) = (load_checkpoint(home / "train" / model / f"{name}.safetensors") for model in (one, two))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_more_steps_go_on_to_what_so_many_at_once_would_have_given(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(home, 6)
    described = train(home, 12)
    assert "train: goes on from step 6 of the same training" in caplog.text
    assert described["start"]["from"] is None and described["start"]["why"] == (
        "there is no previous model; goes on from step 6 of the same training, which had 6 steps"
    )
    caplog.clear()
    whole = train(home, 12, "whole")
    assert_same(home, "unet", "whole")
    assert (described["digest"], described["best"]) == (whole["digest"], whole["best"])
    train(home, 12)
    assert caplog.messages[-1] == "train: nothing has changed"


@pytest.mark.parametrize("killed", ["before the checkpoints", "between them", "after them", "in training"])
def test_a_longer_training_that_is_killed_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch, killed: str) -> None:
    train(home, 6)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    keep, step, take_over = Start.keep, training._step, State.take_over
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if killed == "before the checkpoints":
            patch.setattr(Start, "keep", lambda self, *at: (keep(self, *at), die()))
        elif killed == "between them":
            patch.setattr(State, "save", die)
        elif killed == "after them":
            patch.setattr(State, "take_over", lambda self, *at: (take_over(self, *at), die()))
        else:
            patch.setattr(training, "_step", lambda cfg, state, *at: die() if state.step > 9 else step(cfg, state, *at))
        train(home, 12)
    described = train(home, 12)
    train(home, 12, "whole")
    assert_same(home, "unet", "whole")
    assert described["start"]["why"].endswith("goes on from step 6 of the same training, which had 6 steps")


def test_a_model_tells_the_pixel_size_that_it_learnt_from(home: Path) -> None:
    plan = read_json(home / "plan.json")
    assert train(home, 1)["pixel_size"] == {}  # where the plan is of a former version
    write_stamp(home / "plan.json", plan | {"pixel_size": {"cells": [1, 0.5, 0.5], "other": [1, 2, 2]}})
    assert train(home, 1, "again")["pixel_size"] == {"cells": [1, 0.5, 0.5]}


def test_the_learning_rate_is_that_of_the_longer_schedule(home: Path) -> None:
    train(home, 6, schedule="poly")
    train(home, 12, schedule="poly")
    rates = [float(line.split(",")[1]) for line in (home / "train/unet/curves.csv").read_text().splitlines()[1:]]
    cfg = Train.model_validate(OPTIONS | {"schedule": "poly"})
    assert rates == pytest.approx([learning_rate(s, n, cfg) for s, n in ((2, 6), (5, 6), (8, 12), (11, 12))])


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 0.02}, {"start": "new"}, {"steps": 3}])
def test_where_anything_else_has_changed_training_starts_anew(
    home: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    train(home, 6)
    caplog.set_level("INFO")
    described = train(home, changes.pop("steps", 9), **changes)
    assert "goes on" not in caplog.text and "goes on" not in described["start"]["why"]


def test_frozen_parts_stay_frozen(home: Path) -> None:
    train(home, 3, "given")
    options = {"start": str(home / "train/given"), "freeze": ["contracting"]}
    train(home, 3, **options)
    described = train(home, 6, **options)
    assert described["start"]["from"] == str(home / "train/given") and "goes on" in described["start"]["why"]
    given, _ = load_checkpoint(home / "train/given/best.safetensors")
    last, _ = load_checkpoint(home / "train/unet/last.safetensors")
    frozen = [torch.equal(last[f"net.{key}"], tensor) for key, tensor in given.items() if key.startswith("down.")]
    assert frozen and all(frozen)
    train(home, 6, "whole", **options)
    assert_same(home, "unet", "whole")
