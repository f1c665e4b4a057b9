"""Several processes train as one does, and stop together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import CONTEXT
from tests.train.test_sampling import STILL, sample
from tests.train.test_step import plan
from unet_core.config.options import Network, Train
from unet_core.network import precision
from unet_core.network.model import build, load_checkpoint
from unet_core.network.unet import UNet, input_size, shape
from unet_core.runtime import ROOT, UserError, job_log
from unet_core.train import loop as training
from unet_core.train import step, validation
from unet_core.train.checkpoint import State
from unet_core.train.loop import train_network
from unet_core.train.processes import join_processes, launch
from unet_core.train.sampling import Sampler, TrainingSample
from unet_core.train.validation import validate

# Batch normalisation and dropout see the tiles of one process only: without them the sum of gradients is the same.
NETWORK = Network(depth=2, width=4, dropout=0)


def warn_at(stopped: int, by: int, whom: list[int]) -> None:
    """Send processes a signal in a step, as SLURM does before the time limit."""
    step = training._step

    def warned(cfg: Train, state: State, *arguments: Any) -> None:
        step(cfg, state, *arguments)
        if state.step == stopped:
            for process in whom:
                os.kill(process, by)

    training._step = warned


def program(job: dict) -> None:
    """What each process runs: a short training, in which one may be warned."""
    with join_processes() as processes, job_log(Path(job["log"]), append=True):
        cfg = Train(
            network=NETWORK,
            learning_rate=0.02,
            momentum=0.9,
            warmup=2,
            validate_every=4,
            precision="float32",
            augment=STILL,
            batch=job["batch"],
        )
        sampler = Sampler([sample()], input_size(20, 2), shape(2).halo, batch=cfg.batch, seed=0, augment=STILL)
        decided = plan(12) | {"network": NETWORK.model_dump()}
        if job["warned"] == processes.rank:
            warn_at(
                5,
                job["by"],
                {"above": [os.getppid()], "both": [os.getppid(), os.getpid()]}.get(job["whom"], [os.getpid()]),
            )
        train_network(
            cfg,
            decided,
            sampler,
            [sample((2, 60, 70), seed=1)],
            folder=Path(job["folder"]),
            wanted="d",
            processes=processes,
        )


def member(rank: int, size: int, port: int, job: dict) -> None:
    """One of several processes in forks, with what torchrun tells each of those that it starts."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()} | {"TORCHELASTIC_RUN_ID": "forks"}
    if "ratios" in job:
        choose(job)
    elif "samples" in job:
        look(job)
    else:
        program(job)


def choose(job: dict) -> None:
    """What each process runs that chooses its arithmetic, by measurements that do not agree."""
    with join_processes() as processes:
        precision.time_ratio = lambda *_: job["ratios"][processes.rank]
        found = step._precision(Train(), NETWORK.model_dump(), Path(job["folder"]), ("d",), processes)
        Path(job["folder"], f"{processes.rank}").write_text(found[-1]["chosen"])


def look(job: dict) -> None:
    """What each process runs that validates a network, whose statistics differ between them."""
    with join_processes() as processes:
        worked, predict_box = [], validation.predict_box
        validation.predict_box = lambda *given, **named: worked.append(1) or predict_box(*given, **named)
        scores = validate(network(processes.rank), small(job["samples"]), torch.ones(2), 76, "float32", processes)
        Path(job["folder"], f"{processes.rank}.json").write_text(json.dumps([len(worked), scores]))


def network(seed: int) -> UNet:
    """The same weights, with other statistics of the normalisation for each seed."""
    torch.manual_seed(0)
    net = build(Network(depth=2, width=4, dropout=0, norm="batch"), 1, 2)
    for name, tensor in net.named_buffers():
        tensor.add_(seed * name.endswith("running_mean"))
    return net


def small(number: int) -> list[TrainingSample]:
    """Samples of one piece each."""
    return [sample((1, 40, 50), seed=seed) for seed in range(number)]


def fork(processes: int, job: dict) -> None:
    """Run a job in several processes, to the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [CONTEXT.Process(target=member, args=(rank, processes, port, job)) for rank in range(processes)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    if any(process.exitcode for process in together):
        raise RuntimeError(f"ended with codes {[process.exitcode for process in together]}")


def run(
    folder: Path,
    processes: int,
    batch: int = 3,
    warned: int | None = None,
    by: signal.Signals = signal.SIGUSR1,
    launched: bool = False,
    whom: str = "",
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train in several processes, in forks or as a user would; the weights and the curves.

    One of the processes is sent a signal, or that which has started them (`whom`: "above"), or both.
    """
    job = {"folder": str(folder), "log": str(folder / "log"), "batch": batch, "warned": warned, "by": by}
    job["whom"] = whom
    if processes == 1:
        program(job)
    elif launched:
        launch("tests.train.test_processes", job, nodes=1, per_node=processes, cores=2)
    else:
        fork(processes, job)
    tensors, state = load_checkpoint(folder / "last.safetensors")
    return tensors, state["history"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch(tmp_path: Path) -> None:
    one, curves = run(tmp_path / "one", 1)
    two, other = run(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    for a, b in zip(curves, other, strict=True):
        assert b == pytest.approx(a, rel=1e-4)


@pytest.mark.parametrize(("ratios", "chosen"), [((0.4, 9.0), "bfloat16"), ((9.0, 0.4), "float32")])
def test_all_processes_take_the_arithmetic_that_the_first_one_chooses(
    tmp_path: Path, ratios: tuple[float, float], chosen: str
) -> None:
    fork(2, {"folder": str(tmp_path), "ratios": ratios})
    assert [(tmp_path / name).read_text() for name in ("0", "1")] == [chosen, chosen]


@pytest.mark.slow
def test_all_processes_stop_where_one_is_warned_and_go_on_to_the_same_end(tmp_path: Path) -> None:
    expected, curves = run(tmp_path / "whole", 2)
    with pytest.raises(UserError, match="training in 2 processes ended with code 1"):
        run(tmp_path / "warned", 2, warned=1, launched=True)
    assert load_checkpoint(tmp_path / "warned/last.safetensors")[1]["step"] == 8
    assert (
        "stopped by a signal to another process after step 8 of 12, and saved" in (tmp_path / "warned/log").read_text()
    )
    tensors, again = run(tmp_path / "warned", 2)
    assert again == curves
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_an_interruption_of_torchrun_lets_the_processes_save(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training in 2 processes ended with code"):
        run(tmp_path, 2, warned=1, by=signal.SIGINT, launched=True, whom="above")
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] == 8
    text = (tmp_path / "log").read_text()
    assert "stopped by SIGINT after step 8 of 12, and saved" in text and "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["above", "both"])
def test_the_warning_of_slurm_lets_the_processes_save_whether_torchrun_alone_gets_it_or_all(
    tmp_path: Path, whom: str
) -> None:
    """Clusters that track jobs by process groups tell torchrun alone, those with control groups all processes."""
    with pytest.raises(UserError, match="training in 2 processes ended with code 1"):
        run(tmp_path, 2, warned=1, launched=True, whom=whom)
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["step"] == 8
    assert re.search("stopped by .* after step 8 of 12, and saved", (tmp_path / "log").read_text())


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_training_which_goes_on_to_the_same_end(tmp_path: Path) -> None:
    expected, curves = run(tmp_path / "whole", 2)
    with pytest.raises(UserError, match="training in 2 processes ended with code"):
        run(tmp_path / "killed", 2, warned=1, by=signal.SIGKILL, launched=True)
    assert load_checkpoint(tmp_path / "killed/last.safetensors")[1]["step"] == 4
    tensors, again = run(tmp_path / "killed", 2, launched=True)
    assert again == curves
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_processes_share_small_samples_and_validate_the_network_that_is_saved(tmp_path: Path) -> None:
    fork(2, {"folder": str(tmp_path), "samples": 5})
    (first, scores), (second, others) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first, second) == (3, 2)
    expected = validate(network(0), small(5), torch.ones(2), 76, "float32")
    assert scores == others == pytest.approx(expected)
    assert expected != pytest.approx(validate(network(1), small(5), torch.ones(2), 76, "float32"))


def test_a_batch_that_is_too_small_for_the_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with codes \[1, 1\]"):
        run(tmp_path, 2, batch=1)
    assert "train.batch is 1, but 2 processes need a tile each" in (tmp_path / "log").read_text()


def test_several_nodes_need_a_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="training on 2 nodes needs a SLURM job"):
        launch("unet_core.train.step", {}, nodes=2, per_node=1, cores=1)


def test_several_nodes_need_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"needs srun, which cannot be found on {socket.gethostname()}"):
        launch("unet_core.train.step", {}, nodes=2, per_node=1, cores=1)


def test_srun_gives_the_processes_of_a_node_all_cores_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `srun` of our own: SLURM's would give each task one core."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/told; echo "$PYTHONPATH" > {tmp_path}/path\n')
    srun.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for cores, given in ((8, 8), (64, 16)):
        launch("unet_core.train.step", {"a": 1}, nodes=2, per_node=4, cores=cores)
        told = (tmp_path / "told").read_text().split("\n")
        wanted = ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", f"--cpus-per-task={given}"]
        assert told[:4] == wanted and "--nnodes" in told and told[told.index("--nproc-per-node") + 1] == "4"
    # Where this package is not installed, as in an environment of conda, processes find it all the same.
    assert (tmp_path / "path").read_text().strip() == f"{ROOT}:/of/the/user"


@pytest.mark.parametrize("nodes", [1, 2])
def test_no_process_is_started_where_gpus_are_missing(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_GPUS", "4")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(UserError, match="asked for 4 GPUs on each node"):
        launch("unet_core.train.step", {}, nodes=nodes, per_node=4, cores=1)


def test_a_node_without_its_gpus_ends_the_training_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun starts on a node that is not the first."""
    monkeypatch.setenv("UNET_GPUS", "4")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["step", json.dumps({"log": str(tmp_path / "log"), "threads": 1})])
    with pytest.raises(SystemExit):
        step.main()
    log = (tmp_path / "log").read_text()
    assert "asked for 4 GPUs on each node" in log and "Traceback" not in log


if __name__ == "__main__":
    program(json.loads(sys.argv[1]))
