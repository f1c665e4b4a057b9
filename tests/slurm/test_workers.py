"""Worker jobs that steps start by Dask: encrypted, renewed, and never left behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.security import Security

from tests.slurm.conftest import ROOT, ClusterProject, command, records, wait_for, workers
from tests.test_workflow import CONFIG
from unet_core.config.cluster import Dask, Slurm
from unet_core.engine import open_engine
from unet_core.runtime import UserError
from unet_core.workers import DEATH_TIMEOUT, _environment

SMALL = {"partition": "cpu", "cores": 2, "memory_gb": 2, "maximum": 2}
# A step that lasts; its worker jobs must not outlive it.
DRIVER = """
import logging, sys, time
from pathlib import Path
from unet_core.config.cluster import Dask
from unet_core.engine import open_engine
from unet_core.runtime import job_log
slurm = {"partition": "cpu", "cores": 2, "memory_gb": 2, "minimum": 2, "maximum": 2}
cfg = Dask.model_validate({"cluster": "slurm", "slurm": slurm})
with job_log(Path("driver.log")), open_engine(cfg, "weights", 1, Path("workers")) as engine:
    for _ in engine.run(time.sleep, [2] * 300, 300, "sleeping"):
        print("one", flush=True)
"""


def dask(**slurm: object) -> Dask:
    return Dask.model_validate({"cluster": "slurm", "slurm": SMALL | slurm})


def pid(_: int) -> int:
    time.sleep(1)
    return os.getpid()


def listening(_: int) -> set[int]:
    """Ports that are open to other machines than this one."""
    found = psutil.Process().net_connections("tcp")
    return {
        c.laddr.port for c in found if c.status == psutil.CONN_LISTEN and not c.laddr.ip.startswith(("127.", "::1"))
    }


def test_a_worker_can_be_reached_from_other_machines_by_tls_alone(tmp_path: Path) -> None:
    with open_engine(dask(minimum=1, maximum=1), "weights", 1, tmp_path / "logs") as engine:
        ((_, ports),) = engine.run(listening, [0], 1, "sockets")
    log = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.err"))
    assert len(ports) == 1 and re.search(rf"worker at: +tls://[^ ]+:{ports.pop()}\n", log)


def test_steps_on_worker_jobs_give_the_same_results(project: ClusterProject) -> None:
    before = {step: project.shards(step) for step in ("groundtruth", "weights", "predict", "instances")}
    table = project.table()
    for step in ("groundtruth", "weights", "predict", "instances", "evaluate"):
        project.forget(step)
    shutil.rmtree(project.folder / "results/report")
    project.configure(CONFIG | {"dask": {"cluster": "slurm", "slurm": SMALL}})
    output = project.run()
    assert {step: project.shards(step) for step in before} == before and project.table() == table
    assert len(re.findall(r"1 to 2 worker jobs in SLURM", output)) == 5
    names = {record["Name"] for record in records(project.folder)}
    assert {f"unet-{step}" for step in ("groundtruth", "weights", "predict", "instances", "evaluate")} <= names
    wait_for(lambda: not workers(project.folder), 20, "worker jobs to end")
    assert not list(project.folder.glob("results/logs/**/tls.*"))  # keys are not left behind


def test_only_those_who_have_the_certificate_are_let_in(tmp_path: Path) -> None:
    with open_engine(dask(), "weights", 1, tmp_path) as engine:
        assert sorted(engine.run(abs, [-1, -2], 2, "test")) == [(-2, 2), (-1, 1)]
        address = engine._pool.scheduler.address
        assert address.startswith("tls://")
        (keys,) = tmp_path.glob("tls.*")
        assert keys.stat().st_mode & 0o777 == 0o700
        with pytest.raises(OSError):
            Client(address.replace("tls://", "tcp://"), timeout=5)
        with pytest.raises(OSError):
            Client(address, security=Security.temporary(), timeout=5)
        worker = next(iter(engine._pool.scheduler_info()["workers"]))
        with pytest.raises(OSError):
            Client(worker, security=Security.temporary(), timeout=5)


def test_workers_are_renewed_before_their_time_is_over(tmp_path: Path) -> None:
    short = Slurm.model_construct(**(Slurm().model_dump() | SMALL | {"minutes": 1, "minimum": 1, "maximum": 1}))
    cfg = Dask.model_construct(cluster="slurm", steps={}, slurm=short)
    with open_engine(cfg, "weights", 1, tmp_path) as engine:
        found = dict(engine.run(pid, range(140), 140, "test"))
    assert len(found) == 140 and len(set(found.values())) >= 2
    states = {record["JobState"] for record in records(Path.cwd()) if record["Name"] == "unet-weights"}
    assert "TIMEOUT" not in states


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_block_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with (
        open_engine(dask(), "weights", 1, tmp_path) as engine,
        pytest.raises(UserError, match="given up after 5 workers"),
    ):
        list(engine.run(die, [1], 1, "test"))


def test_slurm_refusing_worker_jobs_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    message = r"weights: SLURM refuses worker jobs \(.*invalid partition.*\); change dask.slurm or dask.steps.weights"
    with pytest.raises(UserError, match=message), open_engine(dask(partition="nowhere"), "weights", 1, tmp_path):
        pass


def test_worker_jobs_that_end_at_once_are_an_error_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_core.workers._environment", lambda _: ["exit 1"])
    with (
        open_engine(dask(), "weights", 1, tmp_path) as engine,
        pytest.raises(UserError, match="worker jobs ended without reaching this job"),
    ):
        list(engine.run(abs, [1], 1, "test"))


def test_a_worker_job_that_ends_at_once_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = f"mkdir {shlex.quote(str(tmp_path / 'first'))} && exit 1"  # as on a node that is not well
    monkeypatch.setattr("unet_core.workers._environment", lambda cores: [once, *_environment(cores)])
    with open_engine(dask(maximum=1), "weights", 1, tmp_path / "logs") as engine:
        assert dict(engine.run(abs, [-1, -2], 2, "test")) == {-1: 1, -2: 2}
    assert len(list((tmp_path / "logs").glob("*.out"))) == 2


@pytest.mark.parametrize("how", ["success", "SIGKILL", "SIGTERM", "scancel"])
def test_no_worker_job_outlives_its_step(tmp_path: Path, how: str) -> None:
    (tmp_path / "driver.py").write_text(DRIVER.replace("[2] * 300, 300", "[0] * 9, 9") if how == "success" else DRIVER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "driver.py"]
    if how == "scancel":
        wrapped = f"--wrap=srun {sys.executable} -u driver.py"
        job = subprocess.check_output(
            ["sbatch", "--parsable", "-n1", wrapped], cwd=tmp_path, env=environment, text=True
        ).strip()
    else:
        process = subprocess.Popen(call, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    if how == "success":
        assert process.wait(timeout=60) == 0
        wait_for(lambda: not workers(tmp_path), 20, "worker jobs to end")
        return
    wait_for(lambda: len(workers(tmp_path, "RUNNING")) == 2, what="two worker jobs")
    time.sleep(3)
    if how == "scancel":
        command("scancel", job)
    else:
        process.send_signal(getattr(signal, how))
        process.wait(timeout=30)
    wait_for(lambda: not workers(tmp_path), DEATH_TIMEOUT + 45 if how == "SIGKILL" else 30, "worker jobs to end")
