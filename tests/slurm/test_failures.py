"""What a cluster does to jobs, one by one: each ends in the right result or in a clear error, never in a hang."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.slurm.conftest import CLUSTER, LONG, ROOT, ClusterProject, command, comment, records, running, wait_for
from tests.slurm.test_training import last_step

WAITING = "SLURM's controller does not answer; waiting until it does"


def states(project: ClusterProject, rule: str) -> list[str]:
    """How the jobs of a rule ended, in their order."""
    ended = [record for record in records(project.folder) if f"rule_{rule}" in comment(record["JobId"])]
    return [record["JobState"] for record in sorted(ended, key=lambda record: int(record["JobId"]))]


def end_daemon(name: str, by: signal.Signals) -> None:
    """End a daemon of the cluster."""
    os.kill(int((ROOT / ".slurm" / f"{name}.pid").read_text()), by)


def test_a_job_that_needs_more_memory_gets_more(project: ClusterProject) -> None:
    before = project.shards("weights")
    stamp = project.forget("weights")
    project.run("--set-resources", "weights:mem_mb=100 if attempt == 1 else 4000", "--", stamp)
    # Clusters with control groups say OUT_OF_MEMORY; this one's watcher of memory kills the step.
    first, second = states(project, "weights")
    assert first in ("FAILED", "OUT_OF_MEMORY") and second == "COMPLETED"
    assert project.shards("weights") == before


@pytest.mark.alone
def test_a_job_whose_node_is_lost_is_queued_again_and_goes_on(project: ClusterProject, uninterrupted: bytes) -> None:
    project.configure(LONG)
    process = project.start("results/train/cells.json")
    (job,) = wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    node = command("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
    end_daemon(f"slurmd.{node}", signal.SIGKILL)
    try:
        # With the node its processes go.
        subprocess.run(["pkill", "-KILL", "-f", f"slurmstepd: \\[{job}"], check=False)
        for part in (".snakemake/scripts", "config.yaml"):  # the script of the job, and its own Snakemake
            subprocess.run(["pkill", "-KILL", "-f", str(project.folder / part)], check=False)
        wait_for(
            lambda: "down" in command("sinfo", "--noheader", "--Node", "--nodes", node, "--format=%t"),
            60,
            "SLURM to miss the node",
        )
        output = project.finish(process)
    finally:
        subprocess.run([CLUSTER, "node", node.removeprefix("node")], check=True)
    assert "train: goes on from step" in output and project.weights() == uninterrupted


@pytest.mark.alone
def test_the_run_goes_on_when_slurmctld_was_away(project: ClusterProject, uninterrupted: bytes) -> None:
    """Away when a job is to be submitted, and while one runs, for longer than the executor asks."""
    project.configure(LONG)
    end_daemon("slurmctld", signal.SIGTERM)
    process = project.start("results/train/cells.json")
    wait_for(lambda: WAITING in project.output.read_text(), what="a job that cannot be submitted")
    subprocess.run([CLUSTER, "control"], check=True)
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    end_daemon("slurmctld", signal.SIGTERM)
    wait_for(lambda: project.output.read_text().count(WAITING) == 2, what="a job whose state cannot be asked for")
    wait_for(lambda: (project.folder / "results/train/cells/model.json").exists(), what="its end")
    subprocess.run([CLUSTER, "control"], check=True)
    project.finish(process)
    assert project.weights() == uninterrupted


def test_a_second_run_beside_the_jobs_of_a_killed_one_ends_right(project: ClusterProject, uninterrupted: bytes) -> None:
    project.configure(LONG)
    process = project.start("results/train/cells.json")
    wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    refused = project.run("results/train/cells.json", fails=True)
    assert "--unlock" in refused
    project.run_here("--unlock")
    project.run("results/train/cells.json")
    wait_for(lambda: not running(project.folder, "train"), 120, "the first job to end")
    assert project.weights() == uninterrupted
    project.run_here("results/train/cells.json")


def test_a_full_disk_is_said_and_what_was_written_stays_valid(project: ClusterProject) -> None:
    before = project.shards("weights")
    stamp = project.forget("weights")
    folder = project.folder / "results/weights"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], check=True)
    try:
        output = project.run("--retries", "0", "--", stamp, fails=True)
        assert "no space is left on this file system" in output
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        project.run("--", stamp)
        assert project.shards("weights") == before
    finally:
        subprocess.run(["umount", str(folder)], check=True)
