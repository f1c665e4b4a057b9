"""GPUs that a job asked for, as the executor for SLURM understands its resources."""

from __future__ import annotations

import os
from typing import Any

import pytest

from unet_core.gpus import ASKED, expect_gpus, expected_gpus, gpus_of, gpus_per_node


@pytest.mark.parametrize(
    ("resources", "total", "each"),
    [
        ({}, 0, 0),
        ({"mem_mb": 8000, "nodes": 2}, 0, 0),
        ({"gpu": 0}, 0, 0),
        ({"gpu": 4}, 4, 4),
        ({"gpu": 8, "nodes": 2}, 8, 4),
        ({"gpu": 3, "nodes": 2}, 3, 2),
        ({"gpu_model": "a100"}, 1, 1),
        ({"gpu_model": "a100", "gpu": 2}, 2, 2),
        ({"gpu_model": "a100", "gpu": 0}, 0, 0),
        ({"gres": "gpu"}, 1, 1),
        ({"gres": "gpu:4"}, 4, 4),
        ({"gres": "gpu:0"}, 0, 0),
        ({"gres": "gpu:a100"}, 1, 1),
        ({"gres": "gpu:a100:4"}, 4, 4),
        ({"gres": "gpu:1g.10gb:2"}, 2, 2),
        ({"gres": "gpu:a100:4", "nodes": 2}, 8, 4),
        ({"gres": "gpu:a100:2,gpu:v100:2"}, 4, 4),
        ({"gres": "nvme:1, gpu:2"}, 2, 2),
        ({"gres": "nvme:4"}, 0, 0),
        ({"gres": "shard:6"}, 1, 1),
        ({"gres": "mps:50"}, 1, 1),
        ({"gres": ""}, 0, 0),
        ({"gres": "gpu:a100:4", "gpu": 1}, 4, 4),
    ],
)
def test_gpus_are_counted(resources: dict[str, Any], total: int, each: int) -> None:
    assert (gpus_of(resources), gpus_per_node(resources)) == (total, each)


def test_processes_know_what_their_job_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASKED, raising=False)
    assert expected_gpus() == 0
    monkeypatch.setenv(ASKED, "7")  # of the job that started this one
    assert expect_gpus({"gres": "gpu:a100:4", "nodes": 2}) == expected_gpus() == 4 == int(os.environ[ASKED])
    assert expect_gpus({"mem_mb": 1}) == expected_gpus() == 0


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"gpu": 4}, "--gpus=4"),
        ({"gpu_model": "a100"}, "--gpus=a100:1"),
        ({"gpu_model": "a100", "gpu": 2}, "--gpus=a100:2"),
        ({"gres": "gpu:a100:4"}, "--gres=gpu:a100:4"),
        ({"gres": "shard:2"}, "--gres=shard:2"),
        ({"gpus": 4}, ""),
    ],
)
def test_the_executor_asks_slurm_for_what_is_counted(resources: dict[str, Any], told: str) -> None:
    utils = pytest.importorskip("snakemake_executor_plugin_slurm.utils")

    class Resources(dict[str, Any]):
        __getattr__ = dict.__getitem__

    class Job:
        pass

    job = Job()
    job.resources = Resources(resources)  # type: ignore[attr-defined]
    assert utils.set_gres_string(job).strip() == told and (gpus_of(resources) > 0) == bool(told)
