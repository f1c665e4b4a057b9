"""Training on several nodes, and through the end of its job."""

from __future__ import annotations

import re

import psutil
import pytest
import torch

from tests.slurm.conftest import LONG, ClusterProject, command, comment, records, running, wait_for
from unet_core.network.model import load_checkpoint


def last_step(project: ClusterProject) -> int:
    path = project.folder / "results/train/cells/last.safetensors"
    return int(load_checkpoint(path)[1]["step"]) if path.exists() else 0


def test_two_processes_on_two_nodes_train_as_one(project: ClusterProject) -> None:
    expected, _ = load_checkpoint(project.folder / "results/train/cells/last.safetensors")
    project.fill_in(train_nodes=2)
    output = project.run("--", project.forget("train"))
    assert "2 process(es)" in output
    (job,) = [record for record in records(project.folder) if "rule_train" in comment(record["JobId"])]
    assert job["NodeCnt"] == "2" and job["JobState"] == "COMPLETED" and job["Partition"] == "gpu"
    assert "NumTasks=2" in command("scontrol", "show", "job", job["JobId"])
    tensors, _ = load_checkpoint(project.folder / "results/train/cells/last.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-5)


def test_training_saves_before_the_time_limit_and_the_next_attempt_ends_bit_for_bit(
    project: ClusterProject, uninterrupted: bytes
) -> None:
    project.configure(LONG)
    extra = "'--signal=USR1@300'"
    process = project.start("--set-resources", f"train:slurm_extra={extra}", "--", "results/train/cells.json")
    (job,) = wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    found = [p for p in psutil.process_iter(["name", "cmdline", "cwd"]) if p.info["cwd"] == str(project.folder)]
    (training,) = (
        p
        for p in found
        if p.info["name"].startswith("python") and any("train.py" in word for word in p.info["cmdline"])
    )
    # SLURM looks at the time every half minute; until then the training waits, and SLURM's signal wakes it.
    training.suspend()
    command("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    training.wait(240)
    output = project.finish(process)
    ended = [record for record in records(project.folder) if "rule_train" in comment(record["JobId"])]
    assert [job["JobState"] for job in ended] == ["FAILED", "COMPLETED"]
    assert re.search(r"train: goes on from step \d+", output)
    assert project.weights() == uninterrupted


def test_a_training_on_several_gpus_saves_when_slurm_warns_it_and_goes_on_there(project: ClusterProject) -> None:
    project.configure(LONG)
    project.fill_in(train_gpus=2)
    process = project.start("results/train/cells.json")
    (job,) = wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    command("scancel", "--signal=USR1", job)  # as before its time limit
    output = project.finish(process)
    # The first attempt had a checkpoint of step 150; its log went with it.
    begun = re.search(r"train: goes on from step (\d+)", output)
    assert begun and int(begun[1]) > 150
    ended = [record for record in records(project.folder) if "rule_train" in comment(record["JobId"])]
    assert [job["JobState"] for job in ended] == ["FAILED", "COMPLETED"]
    assert "2 process(es)" in output and last_step(project) == 450


@pytest.mark.alone
@pytest.mark.parametrize("partition", ["low", "lowcancel"])
def test_training_that_gives_way_to_other_jobs_is_queued_again_and_ends_bit_for_bit(
    project: ClusterProject, uninterrupted: bytes, partition: str
) -> None:
    project.configure(LONG)
    process = project.start("--set-resources", f"train:slurm_partition={partition}", "--", "results/train/cells.json")
    (job,) = wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    # Another job wants all that the nodes have.
    hogs = [
        command(
            "sbatch",
            "--parsable",
            "--output=/dev/null",
            "--partition=cpu",
            "--exclusive",
            f"--nodelist=node{n}",
            "--wrap=sleep 600",
        ).strip()
        for n in (1, 2, 3)
    ]
    wait_for(lambda: not running(project.folder, "train"), what="the training to give way")
    wait_for(lambda: running(project.folder, "train", "PENDING"), what="the training to be queued again")
    for number in hogs:
        command("scancel", number)
    output = project.finish(process)
    assert (f"SLURM job {job} was cancelled to make room for others; it is queued again" in output) == (
        partition == "lowcancel"
    )
    assert re.search(r"train: goes on from step \d+", output)
    assert project.weights() == uninterrupted


def test_training_that_is_cancelled_is_tried_again(project: ClusterProject, uninterrupted: bytes) -> None:
    project.configure(LONG)
    process = project.start("results/train/cells.json")
    (job,) = wait_for(lambda: running(project.folder, "train"), what="a training")
    wait_for(lambda: last_step(project) >= 150, what="a checkpoint")
    command("scancel", job)
    output = project.finish(process)
    assert re.search(r"train: goes on from step \d+", output)
    assert project.weights() == uninterrupted
