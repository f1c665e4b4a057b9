"""Prediction in several processes gives the store that one gives, byte for byte, whatever of it is killed."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.predict.test_step import NORM, contents, put
from unet_core.config.options import Network, Predict
from unet_core.engine import Engine, _local, open_job, process_engine
from unet_core.gpus import ALLOW_CPU, ASKED
from unet_core.network.device import environments_of_gpus
from unet_core.network.model import build, save_checkpoint, weights_digest
from unet_core.network.unet import input_size
from unet_core.predict.step import predict_samples
from unet_core.processes import Processes
from unet_core.runtime import UserError, read_json, write_stamp

# As two GPUs would be: no process knows of another.
DEVICES: dict[str, dict[str, str]] = {"cpu:0": {}, "cpu:1": {}}
PLANE = Network(depth=2, width=2, dropout=0.0)
SHALLOW = Network(depth=1, width=3, dropout=0.0)
VOLUME = Network(depth=1, width=2, dropout=0.0, dimensions=3, flat_levels=0)


@pytest.fixture(scope="module")
def several() -> Iterator[Engine]:
    with process_engine(DEVICES, 2, 2) as opened:
        yield opened


def prepare(folder: Path, shape: tuple[int, int, int], networks: dict[str, Network]) -> None:
    """Two images of one channel, and a model that is the mean of random networks."""
    planes = 16 if VOLUME in networks.values() else 1
    samples = {name: {"split": "test", "image": f"i{name}", "labels": None} for name in ("a", "b")}
    for name in samples:
        image = np.random.default_rng(len(name)).integers(0, 255, (1, *shape)).astype(np.uint8)
        put(folder, image, name, f"i{name}")
    write_stamp(folder / "data.json", {"samples": samples})
    torch.manual_seed(0)
    members = {}
    for name, network in networks.items():
        model = folder / name
        save_checkpoint(model / "best.safetensors", dict(build(network, 1, 2).state_dict()), {})
        write_stamp(model / "model.json", {"network": network.model_dump(), "channels": 1, "classes": ["cell"]})
        members[name] = {"model": str(model), "weights": weights_digest(model)}
        tile = input_size(100, network.depth) if planes == 1 else [36, 140, 60]
        plan = {
            "classes": ["cell"],
            "predict_tile": {"value": tile},
            "predict_block": {"value": [planes, 256, 256]},
            "samples": {f"data/{sample}": NORM for sample in samples},
            "network": network.model_dump(),
        }
        write_stamp(folder / f"{name}.plan.json", plan)
    write_stamp(folder / "model.json", {"members": members})


def predict(folder: Path, engine: Engine, out: str, cfg: Predict | None = None) -> dict[Path, bytes]:
    """All files of the predictions."""
    networks = read_json(folder / "model.json")["members"]
    predict_samples(
        cfg or Predict(precision="float32", dtype="float32"),
        model=folder / "model.json",
        plans=[folder / f"{name}.plan.json" for name in networks],
        groundtruth=folder / "data.json",
        images=folder / "data.zarr",
        store=folder / out / "data.zarr",
        stamp=folder / out / "stamp.json",
        engine=engine,
    )
    return contents(folder / out)


CASES: dict[str, tuple[tuple[int, int, int], dict[str, Network], dict[str, str]]] = {
    "plane": ((2, 300, 70), {"net": PLANE}, {"dtype": "float32"}),
    "rotated": ((1, 300, 70), {"net": PLANE}, {"dtype": "uint8", "average": "dihedral"}),
    "ensemble": ((1, 300, 70), {"net": PLANE, "other": SHALLOW, "again": PLANE}, {"dtype": "float16"}),
    "volume": ((20, 270, 20), {"net": VOLUME}, {"dtype": "float32", "average": "flips"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_store_of_two_processes_is_that_of_one(tmp_path: Path, engine: Engine, several: Engine, case: str) -> None:
    shape, networks, options = CASES[case]
    prepare(tmp_path, shape, networks)
    cfg = Predict(precision="float32", **options)
    assert predict(tmp_path, several, "two", cfg) == predict(tmp_path, engine, "one", cfg)


class Ending:
    """An engine that does something when so many blocks are done."""

    def __init__(self, engine: Engine, blocks: int, then: Callable[[], None]) -> None:
        self._engine, self._blocks, self._then = engine, blocks, then

    def run(self, function: Any, items: Any, total: int, what: str) -> Iterator[Any]:
        for done, found in enumerate(self._engine.run(function, items, total, what), start=1):
            if what == "predict" and done == self._blocks:
                self._then()
            yield found


def kill_first(before: list[psutil.Process]) -> None:
    first, *_ = [child for child in psutil.Process().children() if child not in before]
    first.kill()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_step_and_the_next_run_goes_on(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path, (4, 520, 4), {"net": PLANE})
    whole, before = predict(tmp_path, engine, "whole"), psutil.Process().children()
    with process_engine(DEVICES, 2, 1) as dying, pytest.raises(UserError, match="cpu:0 was killed.* raise mem_mb"):
        predict(tmp_path, Ending(dying, 3, lambda: kill_first(before)), "out")  # type: ignore[arg-type]
    done = {path: data for path, data in contents(tmp_path / "out").items() if "c" in path.parts}
    assert len(done) >= 3 and not (tmp_path / "out" / "stamp.json").exists()
    assert predict(tmp_path, engine, "out") == whole


KILLED = """
import os, signal, sys
from pathlib import Path
import psutil
from tests.predict.test_processes import DEVICES, Ending, predict
from unet_core.engine import process_engine

def end():
    Path(sys.argv[1], "ours").write_text(" ".join(str(child.pid) for child in psutil.Process().children()))
    os.kill(os.getpid(), signal.SIGKILL)

with process_engine(DEVICES, 2, 1) as engine:
    predict(Path(sys.argv[1]), Ending(engine, 3, end), "out")
"""


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_no_process_and_the_next_run_goes_on(
    tmp_path: Path, engine: Engine, several: Engine
) -> None:
    prepare(tmp_path, (4, 520, 4), {"net": PLANE})
    whole = predict(tmp_path, engine, "whole")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    ours = [int(number) for number in (tmp_path / "ours").read_text().split()]
    left = [psutil.Process(number) for number in ours if psutil.pid_exists(number)]
    assert len(ours) == 2 and not psutil.wait_procs(left, timeout=60)[1]
    assert predict(tmp_path, several, "out") == whole


@pytest.mark.slow
def test_a_job_with_two_gpus_has_a_process_on_each_and_leaves_the_gpus_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the rule does. The GPUs are pretended in this process alone: would it compute, it would fail.

    The tiles of the plan are those of a machine with more memory than the share of each process.
    """
    prepare(tmp_path, (1, 300, 20), {"net": PLANE})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    for name, value in {ASKED: "0", ALLOW_CPU: "1", "SLURM_MEM_PER_NODE": "1"}.items():  # MB
        monkeypatch.setenv(name, value)
    for gpus, work in ((2, 6), (1, 3)):
        environments = functools.partial(environments_of_gpus, {"gpu": gpus})
        with open_job("predict", tmp_path / "log", 2, {"cluster": "local"}, environments) as opened:
            assert isinstance(opened._pool, Processes) == (gpus > 1) and opened.workers == work
            if gpus > 1:
                predict(tmp_path, opened, "out")
    log = (tmp_path / "log").read_text()
    assert "in 2 processes, on cuda:0, cuda:1" in log and "predict: 2 samples, 2 segmented" in log
    assert log.count("cuda:0: predict: tiles of") == 1 and "this process may take 0.000488 GiB" in log


@pytest.mark.parametrize(("workers", "threads", "each"), [("auto", 16, 4), ("auto", 8, 3), (8, 16, 2), (2, 16, 1)])
def test_blocks_in_work_are_shared(
    monkeypatch: pytest.MonkeyPatch, workers: int | str, threads: int, each: int
) -> None:
    told = list[int]()
    monkeypatch.setattr("unet_core.engine.process_engine", lambda environments, cores, threads: told.append(threads))
    _local(workers, threads, {f"cuda:{n}": {} for n in range(4)})  # type: ignore[arg-type]
    assert told == [each]
