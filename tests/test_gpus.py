"""GPUs that a job asked for, as the executor for SLURM understands its resources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unet_core.gpus import ASKED, expect_gpus, expected_gpus, gpus_of, gpus_per_node, nodes_of
from unet_core.runtime import ROOT, UserError


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
    ("resources", "name", "value"),
    [
        ({"gpu": "abc"}, "gpu", "'abc'"),
        ({"gpu": "a100:2"}, "gpu", "'a100:2'"),
        ({"gpu": 1.5}, "gpu", "1.5"),
        ({"gpu": float("inf")}, "gpu", "inf"),
        ({"gpu": [2]}, "gpu", r"\[2\]"),
        ({"gpu": 2, "nodes": "two"}, "nodes", "'two'"),
        ({"nodes": "two"}, "nodes", "'two'"),
    ],
)
def test_a_resource_that_is_no_number_is_told(resources: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"this job has {value} for the resource {name}, .* mend it where it is set"):
        expect_gpus(resources)


def test_numbers_in_words_and_of_benchmarks_are_numbers() -> None:
    assert (gpus_of({"gpu": "4"}), gpus_of({"gpu": 4.0}), nodes_of({"nodes": "2"}), nodes_of({})) == (4, 4, 2, 1)


@pytest.mark.parametrize("step", ["train", "predict"])
def test_a_job_with_a_resource_that_is_no_number_says_so_and_nothing_else(step: str, tmp_path: Path) -> None:
    record = {"results": ".", "name": step, "own": "", "parts": {}, "outputs": [], "stores": [], "beside": []}
    params = {"cfg": {"train": {}, "bought": None}, "record": record, "dask": {}}
    program = f"""
import runpy
from types import SimpleNamespace as Named

job = Named(
    params=Named(**{params}), resources={{"gpu": "abc"}}, log=["log"], threads=1, output=Named(stamp="out.json"),
    input=Named(plan="p", weights=[], groundtruth="g.json", model="m", plans=[]),
)
runpy.run_path({str(ROOT / "scripts" / step)!r} + ".py", {{"snakemake": job}})
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True)
    said = ended.stderr.decode()
    assert ended.returncode == 1 and "Traceback" not in said, said
    assert "this job has 'abc' for the resource gpu, which is no whole number" in (tmp_path / "log").read_text()


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
