"""The chain through `snakemake --profile profiles/slurm`, and what SLURM recorded of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.slurm.conftest import ClusterProject, command, comment, records
from tests.test_workflow import STEPS, edit_annotation

GPU_STEPS = {"train", "predict"}


def recorded(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Step -> records of its jobs."""
    steps: dict[str, list[dict[str, str]]] = {}
    for record in records(folder):
        steps.setdefault(comment(record["JobId"]).split("_")[1], []).append(record)
    return steps


def test_the_chain_runs_from_annotations_to_the_report_and_slurm_knows_each_job(
    finished: ClusterProject, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    shutil.copytree(finished.folder / "data", tmp_path / "project" / "data")
    shutil.copy(finished.folder / "config.yaml", tmp_path / "project")
    project = ClusterProject(tmp_path / "project")
    output = project.run()
    assert project.jobs(output) == set(STEPS)
    assert project.table() == finished.table()
    jobs = recorded(project.folder)
    assert set(jobs) == set(STEPS)
    for step, (job,) in jobs.items():
        assert job["JobState"] == "COMPLETED"
        assert job["Partition"] == ("gpu" if step in GPU_STEPS else "cpu")
        details = command("scontrol", "show", "job", job["JobId"])
        assert ("gres:gpu:1" in details) == (step in GPU_STEPS)
        assert int(job["TimeLimit"]) >= 30 and "mem=" in job["Tres"]
    assert jobs["weights"][0]["Tres"].startswith("cpu=8,mem=16000M")
    assert jobs["train"][0]["TimeLimit"] == "1440"
    # The page counts the GPU hours of train and predict.
    cost = project.cost()
    assert float(cost["weights"][4].replace(":", "")) == 0 and cost["train"][4] == cost["train"][2]
    assert not [job for job in project.run().splitlines() if job.startswith("Job ")]  # nothing is left to do


def test_new_annotations_start_only_what_they_touch(project: ClusterProject) -> None:
    for frame in (1, 2):  # of the test split
        edit_annotation(project, frame)
    # What follows does as without SLURM, which other tests show.
    output = project.run("results/weights/cells.json")
    counts = project.counts(output)
    assert counts["groundtruth"] == "7 samples, 0 images and 2 annotations converted, 0 removed"
    assert counts["weights"] == "7 samples, 2 made"
    assert {step: len(jobs) for step, jobs in recorded(project.folder).items()} == {"groundtruth": 1, "weights": 1}


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ("slurm_partition=nowhere", "invalid partition specified: nowhere"),
        ("slurm_account=nobody", "account nobody is not known here"),
    ],
)
def test_a_wrong_partition_or_account_is_said_in_the_words_of_slurm(
    project: ClusterProject, resource: str, message: str
) -> None:
    output = project.run(
        "--set-resources", f"weights:{resource}", "--retries", "0", project.forget("weights"), fails=True
    )
    assert message in output
