"""What a training starts from, and that the choice survives a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.test_step import CFG, NETWORK, plan, run
from unet_core.config.options import Train
from unet_core.network.model import build, load_checkpoint, save_checkpoint
from unet_core.runtime import UserError
from unet_core.train import loop as training
from unet_core.train.checkpoint import State
from unet_core.train.warm_start import FILE, Start, choose_start, given_model

RULE = {"normalisation": "mean_std"}
SETTINGS: dict[str, Any] = {"network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"], "normalisation": RULE}
USED = {"d/a": "1", "d/b": "2"}


def previous(folder: Path, cfg: Train = CFG, **other: Any) -> dict[str, torch.Tensor]:
    """A model that was trained on `USED`; its weights."""
    torch.manual_seed(5)
    tensors = dict(build(NETWORK, 1, 2).state_dict())
    save_checkpoint(folder / "best.safetensors", tensors, {"digest": "old"})
    description = SETTINGS | {"digest": "old", "samples": USED, "config": cfg.model_dump(mode="json")} | other
    (folder / "model.json").write_text(json.dumps(description))
    return tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_where_only_samples_were_added_the_previous_weights_are_taken_also_after_a_kill(tmp_path: Path) -> None:
    weights = previous(tmp_path)
    more = USED | {"d/c": "3"}
    start = choose_start(CFG, tmp_path, "new", more, SETTINGS)
    assert (
        start.source == "previous"
        and start.why == "1 samples were added to the 2 before"
        and same(start.tensors, weights)
    )
    start.keep(tmp_path, "new")
    # What a killed training leaves: no description, and other best weights.
    (tmp_path / "model.json").unlink()
    save_checkpoint(tmp_path / "best.safetensors", {name: t * 0 for name, t in weights.items()}, {"digest": "new"})
    again = choose_start(CFG, tmp_path, "new", more, SETTINGS)
    assert (again.source, again.why, again.weights) == (start.source, start.why, start.weights) and same(
        again.tensors, weights
    )
    assert choose_start(CFG, tmp_path, "newer", more, SETTINGS).source is None


@pytest.mark.parametrize(
    ("cfg", "used", "settings", "why"),
    [
        (CFG, USED, SETTINGS, "no sample was added"),
        (CFG, {"d/a": "1", "d/c": "3", "d/e": "5"}, SETTINGS, "1 of the samples before have changed or are gone"),
        (CFG, USED | {"d/b": "x", "d/c": "3"}, SETTINGS, "1 of the samples before have changed or are gone"),
        (CFG.model_copy(update={"batch": 3}), USED | {"d/c": "3"}, SETTINGS, "the options of training have changed"),
        (CFG, USED | {"d/c": "3"}, SETTINGS | {"classes": ["a", "b"]}, "the plan has changed: classes"),
        (CFG.model_copy(update={"start": "new"}), USED | {"d/c": "3"}, SETTINGS, "set in the configuration"),
    ],
)
def test_otherwise_weights_start_anew_and_the_reason_is_told(
    tmp_path: Path, cfg: Train, used: Any, settings: Any, why: str
) -> None:
    previous(tmp_path)
    assert choose_start(cfg, tmp_path, "new", used, settings) == Start(why)


def test_a_previous_model_that_is_damaged_or_not_there_is_not_taken(tmp_path: Path) -> None:
    assert choose_start(CFG, tmp_path, "new", USED, SETTINGS).why == "there is no previous model"
    previous(tmp_path)
    (tmp_path / "best.safetensors").write_bytes(b"cut")
    assert choose_start(CFG, tmp_path, "new", USED | {"d/c": "3"}, SETTINGS).why == "the previous model is not whole"


def test_any_earlier_model_may_be_named_and_other_classes_get_a_new_last_layer(tmp_path: Path) -> None:
    weights = previous(tmp_path / "other")
    cfg = CFG.model_copy(update={"start": str(tmp_path / "other")})
    start = choose_start(cfg, tmp_path / "this", "new", USED, SETTINGS)
    assert start.source == str(tmp_path / "other") and same(start.tensors, weights)
    other = choose_start(cfg, tmp_path / "this", "new", USED, SETTINGS | {"classes": ["a", "b"]})
    assert set(weights) - set(other.tensors) == {"head.weight", "head.bias"} and "the last layer is new" in other.why
    with pytest.raises(UserError, match="train.start: the model in .* has channels 1, this one 2; make them the same"):
        choose_start(cfg, tmp_path / "this", "new", USED, SETTINGS | {"channels": 2})
    with pytest.raises(UserError, match="the folder of this very model"):
        choose_start(cfg, tmp_path / "other", "new", USED, SETTINGS)
    start.keep(tmp_path / "this", "new")
    assert not (tmp_path / "this" / FILE).exists()


def test_the_weights_of_a_start_are_those_of_its_digest_also_if_the_folder_changes_meanwhile(tmp_path: Path) -> None:
    weights = previous(tmp_path / "other")
    cfg = CFG.model_copy(update={"start": str(tmp_path / "other")})
    given = given_model(cfg.start)
    save_checkpoint(tmp_path / "other/best.safetensors", {name: t * 0 for name, t in weights.items()}, {})
    start = choose_start(cfg, tmp_path / "this", "new", USED, SETTINGS, given)
    assert given is not None and start.weights == given.digest and same(start.tensors, weights)


@pytest.mark.parametrize("start", ["gone", "other/best.safetensors"])
def test_a_start_that_is_no_model_is_told_with_the_key_that_names_it(tmp_path: Path, start: str) -> None:
    previous(tmp_path / "other")
    with pytest.raises(UserError, match=r"train\.start: .*folder") as told:
        given_model(str(tmp_path / start))
    assert "snakemake" not in str(told.value)


def test_training_begins_with_the_given_weights_and_frozen_parts_keep_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = previous(tmp_path)
    state = training._begin(CFG, plan(4), weights, training.SINGLE_PROCESS)
    assert same(dict(state.net.state_dict()), weights)
    cfg = CFG.model_copy(update={"freeze": ["contracting", "output"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.State, "resume", lambda self, folder, wanted: False)
        begin = training._begin
        patch.setattr(training, "_begin", lambda cfg, plan, _start, processes: begin(cfg, plan, weights, processes))
        run(tmp_path / "frozen", 4, cfg)
    after, _ = load_checkpoint(tmp_path / "frozen/last.safetensors")
    for name, tensor in weights.items():
        kept = torch.equal(after[f"net.{name}"], tensor)
        # Statistics of frozen normalisation layers stay as well.
        assert kept == name.startswith(("down.", "head.")), name
    run(tmp_path / "anew", 4, cfg)
    assert "train.freeze has no effect" in caplog.text
    with pytest.raises(UserError, match="nothing is left to learn"):
        cfg = CFG.model_copy(update={"freeze": ["contracting", "expanding", "output"]})
        training._begin(cfg, plan(4), weights, training.SINGLE_PROCESS)


def test_a_frozen_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    weights = previous(tmp_path)
    cfg = CFG.model_copy(update={"freeze": ["contracting"]})
    state = training._begin(cfg, plan(4), weights, training.SINGLE_PROCESS)
    state.save(tmp_path, "d")
    other = training._begin(cfg, plan(4), weights, training.SINGLE_PROCESS)
    assert isinstance(other, State) and other.resume(tmp_path, "d")
