"""Training learns, goes on exactly where it was, and stops clearly."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from tests.train.test_sampling import STILL, sample
from unet_core.config.options import Network, Train
from unet_core.network.model import build, load_checkpoint, load_network, save_checkpoint, weights_digest
from unet_core.network.unet import input_size, shape
from unet_core.runtime import UserError
from unet_core.train import loop as training
from unet_core.train import validation
from unet_core.train.checkpoint import State, best_step
from unet_core.train.loop import learning_rate, train_network
from unet_core.train.sampling import Sampler
from unet_core.train.validation import validate

NETWORK = Network(depth=2, width=4, dropout=0.3, norm="batch")
CFG = Train(
    network=NETWORK, learning_rate=0.02, momentum=0.9, warmup=2, validate_every=4, precision="float32", augment=STILL
)


def plan(steps: int) -> dict[str, Any]:
    return {
        "network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"], "class_weights": {"value": [1.0, 1.0]},
        "steps": {"value": steps}, "predict_tile": {"value": input_size(40, 2)},
    }  # fmt: skip


def run(folder: Path, steps: int, cfg: Train = CFG, schedule: int | None = None) -> list[dict[str, float]]:
    """Train; with `schedule` so many steps of a longer training."""
    sampler = Sampler(
        [sample()], input_size(20, 2), shape(2).halo, batch=2 * cfg.accumulate, seed=0, augment=cfg.augment
    )
    if schedule:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=f"after step {steps} of {schedule}"):
            step = training._step

            def warned(cfg: Train, state: State, *arguments: Any) -> None:
                step(cfg, state, *arguments)
                if state.step == steps:
                    os.kill(os.getpid(), signal.SIGUSR1)

            patch.setattr(training, "_step", warned)
            train_network(cfg, plan(schedule), sampler, [sample(seed=1)], folder=folder, wanted="d")
        return []
    return train_network(cfg, plan(steps), sampler, [sample(seed=1)], folder=folder, wanted="d")


def test_the_loss_falls_and_the_best_checkpoint_is_that_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    history = run(tmp_path, 80)
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert [entry["step"] for entry in history] == list(range(4, 81, 4))
    _, state = load_checkpoint(tmp_path / "best.safetensors")
    assert (
        state["history"][-1]["step"] == best_step(history) == min(history, key=lambda e: e["validation_loss"])["step"]
    )
    assert (tmp_path / "curves.csv").read_text().splitlines()[
        0
    ] == "step,learning_rate,train_loss,validation_loss,validation_iou"


ADAMW = CFG.model_copy(update={"optimiser": "adamw", "weight_decay": 0.01})


@pytest.mark.parametrize("cfg", [CFG, ADAMW])
@pytest.mark.parametrize("stopped_at", [1, 6, 11])
@pytest.mark.parametrize("by", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_warned_training_saves_at_once_and_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, cfg: Train, stopped_at: int, by: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tmp_path / "whole", 12, cfg)
    step = training._step

    def warned(cfg: Train, state: State, *arguments: Any) -> None:
        step(cfg, state, *arguments)
        if state.step == stopped_at:
            os.kill(os.getpid(), by)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    handler = signal.getsignal(by)
    monkeypatch.setattr(training, "_step", warned)
    with pytest.raises(
        UserError, match=f"stopped by {by.name} after step {stopped_at} of 12, and saved; run again"
    ) as stopped:
        run(tmp_path / "stopped", 12, cfg)
    assert stopped.value.status == 128 + by
    assert signal.getsignal(by) == handler
    assert load_checkpoint(tmp_path / "stopped/last.safetensors")[1]["step"] == stopped_at
    monkeypatch.setattr(training, "_step", step)
    assert run(tmp_path / "stopped", 12, cfg) == expected
    for name in ("best.safetensors", "last.safetensors", "curves.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_interruption_does_not_disturb_the_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step, save = training._step, State.save

    def warned(cfg: Train, state: State, *arguments: Any) -> None:
        step(cfg, state, *arguments)
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def disturbed(self: State, folder: Path, wanted: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(self, folder, wanted)

    monkeypatch.setattr(training, "_step", warned)
    monkeypatch.setattr(State, "save", disturbed)
    with pytest.raises(UserError, match="stopped by SIGINT after step 3 of 8, and saved"):
        run(tmp_path, 8)
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] == 3


@pytest.mark.parametrize("warned", [False, True])
def test_no_checkpoint_holds_what_came_of_data_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: bool
) -> None:
    """Before a validation, or before a signal ends the training."""
    sampler = Sampler([sample()], input_size(20, 2), shape(2).halo, batch=2, seed=0, augment=CFG.augment)
    step, given = training._step, {"folder": tmp_path, "wanted": "d"}

    def check() -> None:
        raise UserError("made anew")

    def stepped(cfg: Train, state: State, *arguments: Any) -> None:
        step(cfg, state, *arguments)
        if warned:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(training, "_step", stepped)
    with pytest.raises(UserError, match="^made anew$"):
        train_network(CFG, plan(CFG.validate_every), sampler, [sample(seed=1)], **given, check=check)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_warning_in_the_last_step_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training._step

    def warned(cfg: Train, state: State, *arguments: Any) -> None:
        step(cfg, state, *arguments)
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(training, "_step", warned)
    assert run(tmp_path, 4)[-1]["step"] == 4


def assert_killed_training_ends_as_another(
    run: Callable[[Path, int], Any], folder: Path, steps: int, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trains to the end; trains again, is killed and resumes: files and history are the same.

    The second training is killed when the loss was computed `killed_at` times.
    """
    expected = run(folder / "whole", steps)
    calls, loss = 0, training._loss

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > killed_at:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(training, "_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "killed", steps)
    monkeypatch.setattr(training, "_loss", loss)
    assert run(folder / "killed", steps) == expected
    for name in ("best.safetensors", "last.safetensors", "curves.csv"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_a_killed_training_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_killed_training_ends_as_another(run, tmp_path, 12, killed_at, monkeypatch)


@pytest.mark.parametrize("damage", ["truncated", "empty"])
def test_a_damaged_last_checkpoint_is_told_and_training_starts_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    expected = run(tmp_path / "whole", 8)
    run(tmp_path / "damaged", 4, schedule=8)
    last = tmp_path / "damaged/last.safetensors"
    last.write_bytes(last.read_bytes()[: -100 if damage == "truncated" else 0])
    assert run(tmp_path / "damaged", 8) == expected
    assert re.search(r"last.safetensors is damaged \(.+\); training starts anew", caplog.text)
    for name in ("best.safetensors", "last.safetensors", "curves.csv"):
        assert (tmp_path / "damaged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_precision_goes_on_bit_for_bit(tmp_path: Path, precision: str, accumulate: int) -> None:
    cfg = CFG.model_copy(update={"precision": precision, "accumulate": accumulate, "clip": 1.0})
    expected = run(tmp_path / "whole", 8, cfg)
    run(tmp_path / "parts", 4, cfg, schedule=8)
    assert run(tmp_path / "parts", 8, cfg) == expected
    assert (tmp_path / "parts/last.safetensors").read_bytes() == (tmp_path / "whole/last.safetensors").read_bytes()


def test_gradients_of_several_passes_add_up_to_those_of_one() -> None:
    torch.manual_seed(0)
    net = build(NETWORK.model_copy(update={"norm": "none", "dropout": 0.0}), 1, 2)
    batch = Sampler([sample()], input_size(20, 2), shape(2).halo, batch=4, seed=0, augment=STILL).draw(0)
    batch.target_NYX[0] = 255  # passes weigh as much as they have annotated pixels
    changed = []
    for accumulate in (1, 2, 3):
        cfg = CFG.model_copy(update={"accumulate": accumulate, "momentum": 0.0})
        copy = deepcopy(net)
        state = State(copy, torch.optim.SGD(copy.parameters()))
        training._step(cfg, state, copy, batch, torch.tensor([1.0, 2.0]), 10, training.SINGLE_PROCESS)
        changed.append(torch.cat([parameter.detach().flatten() for parameter in copy.parameters()]))
    for other in changed[1:]:
        torch.testing.assert_close(other, changed[0], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(
        changed[0], torch.cat([parameter.detach().flatten() for parameter in net.parameters()]), atol=1e-4
    )


def test_training_stops_early_where_nothing_gets_better_and_stays_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(tmp_path / "whole", 200, CFG.model_copy(update={"learning_rate": 0.2}))
    best = next(
        n
        for n in range(len(whole))
        if all(whole[n]["validation_loss"] < later["validation_loss"] for later in whole[n + 1 : n + 4])
    )
    cfg = CFG.model_copy(update={"learning_rate": 0.2, "patience": 3})
    caplog.set_level("INFO")
    stopped = run(tmp_path / "early", 200, cfg)
    assert len(stopped) < len(whole) and stopped == whole[: len(stopped)]
    assert best_step(stopped) == stopped[-4]["step"] and best <= len(stopped) - 4
    assert f"stops early at step {stopped[-1]['step']}" in caplog.text
    assert run(tmp_path / "early", 200, cfg) == stopped


def test_the_best_checkpoint_may_be_that_of_the_highest_score() -> None:
    history = [
        {"step": step, "validation_loss": loss, "validation_seg": seg}
        for step, loss, seg in ((1, 2, 0.5), (2, 1, 0.9), (3, 0, 0.7))
    ]
    assert (best_step(history), best_step(history, "seg")) == (3, 2)


def test_curves_of_tensorboard_are_those_of_the_table_also_after_a_stop(tmp_path: Path) -> None:
    run(tmp_path, 8, schedule=12)
    history = run(tmp_path, 12)
    table = pd.read_csv(tmp_path / "curves.csv").set_index("step")
    assert list(table.index) == [entry["step"] for entry in history] == [4, 8, 12]
    found = events(tmp_path / "tensorboard")
    assert found.keys() == {(name, step) for name in table.columns for step in table.index}
    for (name, step), value in found.items():
        assert value == pytest.approx(table.loc[step, name], rel=1e-6)


def events(folder: Path) -> dict[tuple[str, int], float]:
    """Scalars of TensorBoard's event files: records of length, checksum, message, checksum."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            data = data[16 + length :]
    return found


def test_a_network_is_compiled_if_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda net: compiled.append(net) or net)
    expected = run(tmp_path / "plain", 4)
    assert not compiled
    assert run(tmp_path / "compiled", 4, CFG.model_copy(update={"compile": True})) == expected and len(compiled) == 1


def test_a_checkpoint_of_another_digest_is_not_gone_on_from(tmp_path: Path) -> None:
    first = run(tmp_path, 4)
    tensors, state = load_checkpoint(tmp_path / "last.safetensors")
    save_checkpoint(
        tmp_path / "last.safetensors", {name: t * 0 for name, t in tensors.items()}, state | {"digest": "other"}
    )
    assert run(tmp_path, 4) == first


def test_a_loss_that_is_no_number_stops_with_advice_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, 4)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(
        UserError, match=r"the loss became nan at step [5-8] of training; lower train.learning_rate or set train.clip"
    ):
        run(tmp_path, 12, CFG.model_copy(update={"learning_rate": 1e30}))
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_weights_that_become_infinite_in_the_last_step_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, 4)
    before = (tmp_path / "last.safetensors").read_bytes()
    monkeypatch.setattr(training, "validate", lambda *_: {"validation_loss": float("nan"), "validation_iou": 0.0})
    with pytest.raises(UserError, match="validation_loss became nan at step 8 .* the checkpoints before that stay in"):
        run(tmp_path, 8)
    assert (tmp_path / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("lost", ["best.safetensors", "last.safetensors"])
def test_a_lost_checkpoint_is_made_again(tmp_path: Path, lost: str) -> None:
    expected = run(tmp_path, 8)
    content = (tmp_path / lost).read_bytes()
    (tmp_path / lost).unlink()
    assert run(tmp_path, 8) == expected and (tmp_path / lost).read_bytes() == content


def test_validation_by_blocks_equals_the_formula_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = sample((2, 50, 44))
    given.target.array[0, :9] = 255  # type: ignore[attr-defined]
    torch.manual_seed(0)
    net = build(NETWORK, 1, 2)
    w_c = torch.tensor([0.5, 2.0])
    whole = validate(net, [given], w_c, input_size(200, 2), "float32")
    monkeypatch.setattr(validation, "VALIDATION_BLOCK", {2: (1, 16, 32)})
    blocks = validate(net, [given], w_c, input_size(20, 2), "float32")
    assert blocks == pytest.approx(whole, rel=1e-5)
    assert validate(net, [], w_c, 100, "float32") == {}


def test_learning_rate_rises_and_falls() -> None:
    cfg = Train(learning_rate=1.0, warmup=9)
    assert learning_rate(0, 100, cfg) == 0.1
    assert learning_rate(50, 100, cfg) == pytest.approx(0.5**0.9)
    assert learning_rate(99, 100, cfg.model_copy(update={"schedule": "constant"})) == 1.0


@pytest.mark.parametrize("damage", ["truncate", "empty", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    run(tmp_path, 4)
    (tmp_path / "model.json").write_text(
        json.dumps({"network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"]})
    )
    load_network(tmp_path, weights_digest(tmp_path))
    best = tmp_path / "best.safetensors"
    if damage == "missing":
        best.unlink()
    else:
        best.write_bytes(best.read_bytes()[: 100 if damage == "truncate" else 0])
    with pytest.raises(UserError, match="best.safetensors is (damaged|missing)"):
        load_network(tmp_path, damage)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", {"w": torch.arange(3.0)}, {"step": 1})
    tensors, state = load_checkpoint(tmp_path / "a.safetensors")
    assert tensors["w"].tolist() == [0, 1, 2] and state == {"step": 1}
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x04\x95")
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_bfloat16_and_float32_agree_roughly(tmp_path: Path) -> None:
    a = run(tmp_path / "a", 8)[-1]["train_loss"]
    b = run(tmp_path / "b", 8, CFG.model_copy(update={"precision": "bfloat16"}))[-1]["train_loss"]
    assert np.isclose(a, b, rtol=0.1)
