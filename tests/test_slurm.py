"""What is done while SLURM's controller is away, with a `scontrol` of our own; tests/slurm has a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unet_core.config.cluster import Dask, Slurm
from unet_core.engine import open_engine
from unet_core.runtime import UserError
from unet_core.slurm import _requeue, outlast_controller, wait_for_controller
from unet_core.workers import _environment, _refuse_early

DOWN, UP = "Slurmctld(primary) at node1 is DOWN", "Slurmctld(primary) at node1 is UP"
AWAY, BACK = "SLURM's controller does not answer; waiting until it does\n", "SLURM's controller answers again\n"


def answers(monkeypatch: pytest.MonkeyPatch, folder: Path, *said: str) -> None:
    """A `scontrol` that says something else each time that it is asked, and its last words from then on."""
    for number, text in enumerate(said):
        (folder / f"{number}").write_text(text)
    tool = folder / "scontrol"
    tool.write_text(
        f"#!/bin/sh\ncd {folder}; n=$(cat n 2>/dev/null || echo 0); cat $n; "
        f"[ $n -ge {len(said) - 1} ] || echo $((n + 1)) > n\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_waiting_ends_when_a_controller_answers_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, tmp_path, DOWN, DOWN, f"{DOWN}\nSlurmctld(backup) at node2 is UP")
    wait_for_controller(0)
    assert capsys.readouterr().err == AWAY + BACK
    wait_for_controller(0)
    assert capsys.readouterr().err == ""


def test_nobody_waits_for_a_run_that_was_stopped_or_where_there_is_no_scontrol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, tmp_path, DOWN)
    still = iter([True, False, False])
    wait_for_controller(0, lambda: next(still))
    assert capsys.readouterr().err == AWAY
    monkeypatch.setenv("PATH", "")
    wait_for_controller(0)


@pytest.mark.parametrize("answered", [True, False])
def test_jobs_are_submitted_late_and_none_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answered: bool
) -> None:
    executor = pytest.importorskip("snakemake_executor_plugin_slurm").Executor
    submitted = []

    async def check(self: Any, jobs: list[str]) -> AsyncIterator[str]:
        if answered:
            self._status_query_calls += 1
            yield jobs[0]

    for name in ("run_job", "run_array_jobs"):
        monkeypatch.setattr(executor, name, lambda self, job: submitted.append(job))
    monkeypatch.setattr(executor, "check_active_jobs", check)
    outlast_controller(0)
    run = SimpleNamespace(wait=True, _status_query_calls=3)

    async def active() -> list[str]:
        return [job async for job in executor.check_active_jobs(run, ["a", "b"])]

    answers(monkeypatch, tmp_path, DOWN, UP)
    assert asyncio.run(active()) == (["a"] if answered else ["a", "b"])
    assert capsys.readouterr().err == AWAY + BACK
    for number, submit in enumerate((executor.run_job, executor.run_array_jobs)):
        (tmp_path / "n").write_text("0")
        submit(run, number)
    assert submitted == [0, 1] and capsys.readouterr().err == 2 * (AWAY + BACK)


def test_worker_jobs_are_not_taken_for_refused_while_the_controller_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, tmp_path, DOWN, UP)
    monkeypatch.setattr("unet_core.slurm.time.sleep", lambda _: None)
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n[ $(cat {tmp_path}/n) = 1 ]\n")
    (tmp_path / "sbatch").chmod(0o755)
    _refuse_early("", "weights")


def test_worker_jobs_need_the_commands_of_slurm_on_the_node_of_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cfg = Dask.model_validate({"cluster": "slurm"})
    for command in ("sbatch", "squeue", "scancel"):
        with (
            pytest.raises(UserError, match=rf"^predict: .*{command}.* cannot be found on \S+: .*dask.cluster: local$"),
            open_engine(cfg, "predict", 1, tmp_path / "logs"),
        ):
            pass
        (tmp_path / command).touch(0o755)
    assert not (tmp_path / "logs").exists()


def test_a_job_that_cannot_be_queued_again_for_want_of_scontrol_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not _requeue("7")
    assert "it cannot be queued again (No such file or directory: 'scontrol')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "gpus"),
    [({}, 0), ({"gpus": 2}, 2), ({"options": ["--qos=long", "--gres=gpu:a100:1"]}, 1), ({"options": ["--qos=gpu"]}, 0)],
)
def test_worker_jobs_know_which_gpus_they_asked_for(options: dict[str, Any], gpus: int) -> None:
    assert f"export UNET_GPUS={gpus}" in _environment(Slurm.model_validate(options))
