"""Profiles name rules that exist, and give GPUs to the steps that use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RULES = {path.stem for path in (ROOT / "rules").glob("*.smk")} - {"common"}
GPU_STEPS = {"train", "predict"}


def profile(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("profiles/*/config.yaml")))
def test_every_rule_that_a_profile_names_exists(name: str) -> None:
    # Snakemake ignores misspelt names silently.
    for key in ("set-resources", "set-threads"):
        assert set(profile(name).get(key, {})) <= RULES


def test_gpu_steps_ask_for_gpus_and_others_do_not() -> None:
    resources = profile("slurm")["set-resources"]
    assert set(resources) == RULES
    for rule, wanted in resources.items():
        assert ("gpu" in wanted) == (rule in GPU_STEPS) == (wanted.get("slurm_partition") == "gpu")
        # A retried job gets more.
        assert wanted["mem_mb"].endswith("* attempt") and wanted["runtime"].endswith("* attempt")


def test_retries_are_in_the_profile_and_not_in_the_rules() -> None:
    assert profile("slurm")["retries"] > 0
    assert not [path for path in (ROOT / "rules").glob("*.smk") if "retries:" in path.read_text()]


@pytest.mark.parametrize(("arguments", "threads"), [([], 2), (["--profile", "profiles/slurm"], 8)])
def test_jobs_of_a_cluster_are_not_limited_to_the_cores_of_the_login_node(
    tmp_path: Path, arguments: list[str], threads: int
) -> None:
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "Snakefile").write_text("rule a:\n    output: 'a'\n    threads: 8\n    shell: 'echo {threads}'\n")
    # An imitated machine of two cores, since cores: all counts those of the real one.
    program = (
        "import sys, os; os.sched_getaffinity = lambda _: {0, 1}; os.cpu_count = lambda: 2; "
        "from snakemake.cli import main; main()"
    )
    command = [sys.executable, "-c", program, *arguments, "--dry-run", "--printshellcmds"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"echo {threads}" in result.stdout + result.stderr
