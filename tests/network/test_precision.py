"""The arithmetic of a network: what is chosen, on which device, and that a choice is kept where work goes on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.predict.test_step import expected, predict, prepare
from tests.train import test_longer
from tests.train.test_longer import train
from unet_core.config.options import Predict, Train
from unet_core.config.parse import parse_config
from unet_core.engine import Engine
from unet_core.network import precision
from unet_core.network.device import device, device_name
from unet_core.network.model import checkpoint_state, weights_digest
from unet_core.network.precision import CLEARLY, REPEATS, choose, hardware_name, low_precision, time_ratio
from unet_core.predict.members import tile_of
from unet_core.report.provenance import arithmetic
from unet_core.runtime import read_json, write_stamp
from unet_core.store.store import Result, read_attributes
from unet_core.train.processes import Processes

home = test_longer.home  # a fixture
CPU = torch.device("cpu")
# What a CPU with AVX2 gives, one with AMX, and one that makes no difference.
SLOW, FAST, SAME = 17.58, 0.45, 0.97


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Set what a measurement gives, and the name of the processor; what was measured since."""

    def give(ratio: float, name: str = "AMD EPYC") -> list[tuple[Any, ...]]:
        asked: list[tuple[Any, ...]] = []

        def ratio_of(*what: Any) -> float:
            asked.append(what)
            return ratio

        monkeypatch.setattr(precision, "time_ratio", ratio_of)
        monkeypatch.setattr(precision, "_processor_name", lambda: name)
        return asked

    return give


@pytest.mark.parametrize(
    ("asked", "ratio", "chosen", "told", "warns"),
    [
        ("auto", SLOW, "float32", "float32, since bfloat16 takes 17.6 times as long as float32 on this device", False),
        ("auto", SAME, "float32", "float32, since bfloat16 takes 0.97 times as long as float32 on this device", False),
        ("auto", FAST, "bfloat16", "bfloat16, since bfloat16 takes 0.45 times as long as float32", False),
        ("auto", 1 / CLEARLY, "bfloat16", "bfloat16, since bfloat16 takes 0.909 times as long as float32", False),
        ("auto", math.inf, "float32", "float32, since bfloat16 cannot be computed on this device (AMD EPYC)", False),
        ("bfloat16", FAST, "bfloat16", "bfloat16, as it is set in the configuration", False),
        ("bfloat16", SLOW, "bfloat16", "bfloat16 takes 17.6 times as long as float32 on this device (AMD EPYC)", True),
        ("float16", math.inf, "float16", "float16 cannot be computed on this device (AMD EPYC); set", True),
        ("float32", FAST, "float32", "float32, as it is set in the configuration", False),
    ],
)
@pytest.mark.parametrize("work", ["train", "predict"])
def test_what_is_chosen_and_said(
    work: Any, asked: str, ratio: float, chosen: str, told: str, warns: bool, measured: Any, caplog: Any
) -> None:
    caplog.set_level("INFO")
    calls = measured(ratio)
    choice = choose(asked, work, 2, CPU)
    choice.tell(work)
    (record,) = caplog.records
    assert (choice.chosen, choice.device) == (chosen, "AMD EPYC") and record.message.startswith(f"{work}: {told}")
    assert (record.levelname == "WARNING") == warns == (f"set {work}.precision to auto" in record.message)
    assert calls == ([] if asked == "float32" else [(asked if asked != "auto" else "bfloat16", work, 2, CPU)])


@pytest.mark.parametrize(("name", "emulates", "low"), [("cuda", False, "bfloat16"), ("cuda", True, "float16")])
def test_gpus_that_emulate_bfloat16_get_float16(
    name: str, emulates: bool, low: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or not emulates
    )
    assert low_precision(torch.device(name)) == low and low_precision(CPU) == "bfloat16"


class Clock:
    """Time passes by what is computed alone."""

    def __init__(self) -> None:
        self.now, self.done = 0.0, list[str]()

    def work(self, seconds: dict[str, list[float]]) -> Callable[..., Callable[[], None]]:
        """As `convolutions`: each pass of a precision takes the next of its times."""
        left = {name: iter(times) for name, times in seconds.items()}

        def made(name: str, *_: Any) -> Callable[[], None]:
            def run() -> None:
                self.done.append(name)
                self.now += next(left[name])

            return run

        return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    times = SimpleNamespace(perf_counter=lambda: found.now, thread_time=lambda: found.now)
    monkeypatch.setattr(precision, "time", times)
    time_ratio.cache_clear()
    return found


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    time_ratio.cache_clear()


def test_both_are_measured_in_turn_after_a_pass_that_does_not_count(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"float32": [9, 0.04, 0.02, 0.03], "bfloat16": [0.001, 0.02, 0.05, 0.01]}
    monkeypatch.setattr(precision, "convolutions", clock.work(seconds))
    assert time_ratio("bfloat16", "train", 2, CPU) == pytest.approx(0.01 / 0.02)
    assert clock.done == ["float32", "bfloat16"] * (1 + REPEATS)
    # Once in a process: of another device or kind of work it is another measurement.
    assert time_ratio("bfloat16", "train", 2, CPU) == pytest.approx(0.5) and len(clock.done) == 2 * (1 + REPEATS)


def test_what_takes_long_is_measured_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "convolutions", clock.work({"float32": [1, 0.1], "bfloat16": [1, 2.0]}))
    assert time_ratio("bfloat16", "train", 2, CPU) == pytest.approx(20)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, NotImplementedError, torch.OutOfMemoryError])
def test_a_type_that_the_device_refuses_is_slower(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, *_: Any) -> Callable[[], None]:
        if name != "float32":
            raise error("BFloat16 is not supported on MPS")
        return lambda: None

    monkeypatch.setattr(precision, "convolutions", refused)
    for where in (CPU, torch.device("mps", 0)):
        assert math.isinf(time_ratio("bfloat16", "predict", 2, where))


@pytest.mark.parametrize("work", ["train", "predict"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_this_cpu_is_measured_and_its_threads_stay(work: Any, dimensions: int) -> None:
    threads = torch.get_num_threads()
    ratio = time_ratio("bfloat16", work, dimensions, CPU)
    assert 0 < ratio < math.inf and torch.get_num_threads() == threads
    choice = choose("auto", work, dimensions, CPU)
    assert choice.ratio == ratio and choice.device == hardware_name(CPU) != ""
    assert choice.chosen == ("bfloat16" if ratio * CLEARLY <= 1 else "float32")


def test_auto_is_the_default_and_that_of_the_preset_for_gpus() -> None:
    sets = {"a": {"images": "a/*.tif", "annotations": [{"format": "labels", "path": "m/{stem}.tif"}]}}
    cfg = parse_config({"datasets": sets, "train": {"preset": "modern"}})
    assert Train().precision == Predict().precision == cfg.train_of("a").precision == "auto"


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps", None])
def test_the_accelerator_is_what_torch_offers(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROCm calls itself cuda; MPS has no names of devices."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind) if kind else None)
    for name in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, name), "get_device_name", lambda where: f"{where.type} number {where.index}")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert device() == (torch.device(kind, 0) if kind else CPU)
    assert device_name() == {"cuda": "cuda number 0", "xpu": "xpu number 0", "mps": "mps", None: "cpu"}[kind]
    assert hardware_name(device()) == (device_name() if kind else hardware_name(CPU))
    if kind in ("cuda", "xpu"):
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert device() == torch.device(str(kind), 3)


def test_the_first_of_several_processes_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def total(self: Processes, values: torch.Tensor) -> torch.Tensor:
        given.append(int(values))
        return torch.tensor(5)

    monkeypatch.setattr(Processes, "sum", total)
    assert [Processes(rank, 2).of_first(number) for rank, number in ((0, 5), (1, 7))] == [5, 5] and given == [5, 0]


# Training.


def described(home: Path, name: str = "unet") -> tuple[list[dict[str, Any]], str]:
    """In which arithmetic a model says that it was trained, and its digest."""
    return read_json(home / "train" / name / "model.json")["precision"], weights_digest(home / "train" / name)


@pytest.mark.parametrize(("ratio", "chosen"), [(SLOW, "float32"), (FAST, "bfloat16")])
def test_auto_trains_as_if_the_choice_had_been_asked_for(
    home: Path,
    ratio: float,
    chosen: str,
    measured: Any,
) -> None:
    measured(ratio)
    train(home, 4, "auto", precision="auto")
    train(home, 4, "asked", precision=chosen)
    test_longer.assert_same(home, "auto", "asked")
    (entry,), _ = described(home, "auto")
    assert (entry["step"], entry["asked"], entry["chosen"], entry["device"]) == (0, "auto", chosen, "AMD EPYC")
    assert f"{ratio:.3g} times as long" in entry["why"]
    assert read_json(home / "train/auto/model.json")["config"]["precision"] == "auto"


def test_digests_hold_what_was_asked_for_and_not_what_was_measured(home: Path, measured: Any) -> None:
    models, digests = [], []
    for name, ratio, processor in (("a", 17.1, "one"), ("b", 17.9, "one"), ("c", 3.2, "other")):
        measured(ratio, processor)
        digests.append(train(home, 3, name, precision="auto")["digest"])
        models.append(described(home, name)[1])
    assert len(set(models)) == len(set(digests)) == 1
    path = home / "train/a/model.json"
    write_stamp(path, read_json(path) | {"classes": ["other"]})
    assert described(home, "a")[1] != models[0]


def test_models_of_before_keep_their_digest(tmp_path: Path) -> None:
    """It is the hash of the two files as they are."""
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    for text in (b'{"b": 1,\n "a": 2}', b"no JSON", b"[]"):
        (tmp_path / "model.json").write_bytes(text)
        assert weights_digest(tmp_path) == hashlib.blake2b(b"weights" + text, digest_size=10).hexdigest()


def test_a_training_goes_on_in_its_arithmetic_on_the_same_device_and_chooses_anew_on_another(
    home: Path,
    measured: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    measured(FAST, "Xeon")
    train(home, 3, precision="auto")
    asked = measured(SLOW, "Xeon")  # measured again it would be another one
    train(home, 6, precision="auto")
    assert asked == [] and [entry["chosen"] for entry in described(home)[0]] == ["bfloat16"]
    assert "train: bfloat16, as this training began, since bfloat16 takes 0.45 times" in caplog.text
    measured(SLOW, "EPYC")
    train(home, 9, precision="auto")
    assert "train: until step 6 it was bfloat16, on Xeon" in caplog.text
    found = [(entry["step"], entry["chosen"], entry["device"]) for entry in described(home)[0]]
    assert found == [(0, "bfloat16", "Xeon"), (6, "float32", "EPYC")]
    assert checkpoint_state(home / "train/unet/last.safetensors")["precision"] == described(home)[0]


# Prediction.


def blocks_of(folder: Path) -> np.ndarray:
    """What is stored."""
    return Result(folder / "out/data.zarr/a b").read_all()


AUTO = Predict(dtype="float32")


def test_auto_predicts_as_if_the_choice_had_been_asked_for(
    tmp_path: Path, engine: Engine, measured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    image, found = prepare(tmp_path), {}
    for ratio, chosen in ((SLOW, "float32"), (FAST, "bfloat16")):
        for cfg in (AUTO, AUTO.model_copy(update={"precision": chosen})):
            measured(ratio)
            for path in (tmp_path / "out").glob("*"):
                path.rename(tmp_path / f"{len(found)}.old")
            predict(tmp_path, engine, cfg)
            found[chosen, cfg.precision] = blocks_of(tmp_path)
            kept = read_attributes(tmp_path / "out/data.zarr/a b")["provenance"]["precision"]
            assert kept == {"chosen": chosen, "device": "AMD EPYC"}
        assert np.array_equal(found[chosen, "auto"], found[chosen, chosen])
        assert f"predict: {chosen}, since bfloat16 takes {ratio:.3g} times as long" in caplog.text
    assert np.abs(found["float32", "auto"] - expected(tmp_path, image)).max() <= 1e-5
    assert not np.array_equal(found["float32", "auto"], found["bfloat16", "auto"])


def test_what_is_half_done_goes_on_as_it_was_begun_wherever_that_is(
    tmp_path: Path, engine: Engine, measured: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    prepare(tmp_path)
    measured(FAST, "GPU")
    whole, digest = predict(tmp_path, engine, AUTO).read_all(), read_json(tmp_path / "out.json")["samples"]["a b"]
    (tmp_path / "out").rename(tmp_path / "whole")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unet_core.predict.step._audit_all", stop)
        predict(tmp_path, engine, AUTO)
    result = tmp_path / "out/data.zarr/a b"
    for path in [path for path in result.rglob("c/0/0/0/*") if path.is_file()][:1]:
        path.unlink()
    asked = measured(SLOW, "CPU")
    predict(tmp_path, engine, AUTO)
    assert asked == [] and np.array_equal(blocks_of(tmp_path), whole)
    assert "predict: what is half done in bfloat16 (begun on GPU) goes on so" in caplog.text
    # The digest says what was asked for.
    assert read_json(tmp_path / "out.json")["samples"]["a b"]["digest"] == digest["digest"]
    # What is not begun is chosen here.
    (tmp_path / "out").rename(tmp_path / "second")
    predict(tmp_path, engine, AUTO)
    assert read_attributes(result)["provenance"]["precision"] == {"chosen": "float32", "device": "CPU"}
    assert asked and not np.array_equal(blocks_of(tmp_path), whole)


def test_tiles_are_measured_again_where_another_arithmetic_was_chosen(
    tmp_path: Path, engine: Engine, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, (3, 300, 530))
    monkeypatch.setattr("unet_core.predict.step.MIN_BLOCKS_TO_MEASURE", 0)
    keys = []
    for ratio, cfg in ((SLOW, AUTO), (FAST, AUTO), (SLOW, AUTO.model_copy(update={"precision": "float32"}))):
        measured(ratio)
        for path in (tmp_path / "out").glob("*"):
            path.rename(tmp_path / f"{len(keys)}.old")
        predict(tmp_path, engine, cfg)
        kept = read_json(tmp_path / "out.tile.json")
        keys.append(kept["key"])
        assert tile_of(kept["largest"])
    assert keys[0] == keys[2] != keys[1]


def test_the_report_tells_of_each_stretch_and_each_first_image(home: Path, measured: Any) -> None:
    measured(FAST, "Xeon")
    train(home, 3, precision="auto")
    measured(SLOW, "EPYC")
    train(home, 6, precision="auto")
    write_stamp(home / "predict/unet/cells.json", {"samples": {}})
    found = arithmetic([("unet", "cells")], home)
    assert found["what"].tolist() == ["model unet", "model unet, from step 3"]
    assert found["precision"].tolist() == ["bfloat16", "float32"] and found["device"].tolist() == ["Xeon", "EPYC"]
