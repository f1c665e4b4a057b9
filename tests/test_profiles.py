"""Profiles name rules that exist, and give GPUs to the steps that use them."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yte
from snakemake.cli import parse_set_resources
from snakemake.profiles import ProfileConfigFileParser

from unet_core.gpus import gpus_of, gpus_per_node

ROOT = Path(__file__).parents[1]
RULES = {path.stem for path in (ROOT / "rules").glob("*.smk")} - {"common"}
GPU_STEPS = {"train", "predict"}


def profile(name: str) -> dict[str, Any]:
    text = (ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8")
    return dict(yte.process_yaml(text, require_use_yte=True))


def filled_in(**values: Any) -> str:
    """The profile slurm with other values at its top, as a site writes them there."""
    text = (ROOT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    for name, value in values.items():
        lines = re.findall(rf"(?m)^  - {name} = .*$", text)
        assert len(lines) == 1, name
        text = text.replace(lines[0], f"  - {name} = {value!r}")
    return text


class Resources(SimpleNamespace):
    """Resources of a job, by attribute and by key."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def asked_for(step: str, attempt: int = 1, **values: Any) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A job of a step as the executor sees it, and its settings: read and evaluated by Snakemake."""
    text = io.StringIO(filled_in(**values))
    text.name = "profiles/slurm/config.yaml"  # type: ignore[misc]
    profile = ProfileConfigFileParser().parse(text)
    own = [wanted.partition(":")[2] for wanted in profile["set-resources"] if wanted.startswith(f"{step}:")]
    every = [f"{step}:{wanted}" for wanted in [*profile["default-resources"], *own]]
    resources = {
        name: resource.evaluate(
            wildcards=None, input=None, attempt=attempt, threads=1, rulename=step, async_run=None
        ).value
        if resource.is_evaluable()
        else resource.value
        for name, resource in parse_set_resources(every)[step].items()
    }
    threads = dict(wanted.split("=") for wanted in profile["set-threads"]).get(step, "1")
    settings = {
        "requeue": str(profile["slurm-requeue"]).lower() == "true",
        "reservation": profile.get("slurm-reservation"),
    }
    job = SimpleNamespace(resources=Resources(**resources), threads=int(threads))
    return job, SimpleNamespace(no_requeue=False, qos=None, **settings)


def told_to_sbatch(step: str, attempt: int = 1, **values: Any) -> list[str]:
    """Words of the call of sbatch for a job of a step, by the executor's own functions."""
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    job, settings = asked_for(step, attempt, **values)
    plugin.validation.validate_slurm_extra(job)
    params = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "workdir"), "x")
    for option in ("account", "partition"):  # which the executor looks up in SLURM
        value = job.resources.get(f"slurm_{option}")
        params[option] = f"--{option}={value}" if value else ""
    call = plugin.submit_string.get_submit_command(job, params, settings=settings)
    return shlex.split(call + plugin.utils.set_gres_string(job))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("profiles/*/config.yaml")))
def test_every_rule_that_a_profile_names_exists(name: str) -> None:
    # Snakemake ignores misspelt names silently.
    for key in ("set-resources", "set-threads"):
        assert set(profile(name).get(key, {})) <= RULES


def test_gpu_steps_ask_for_gpus_and_others_do_not() -> None:
    resources = profile("slurm")["set-resources"]
    assert set(resources) == RULES
    for rule, wanted in resources.items():
        assert ("gres" in wanted) == (rule in GPU_STEPS)


@pytest.mark.parametrize("step", sorted(RULES))
def test_sbatch_is_told_no_more_than_what_a_site_has_filled_in(step: str) -> None:
    gpu = step in GPU_STEPS
    call = told_to_sbatch(step)
    assert f"--partition={'gpu' if gpu else 'cpu'}" in call and ("--gres=gpu:1" in call) == gpu
    assert not [word for word in call if word.startswith(("--account", "--qos", "-C", "--reservation", "--mail"))]
    assert ("--signal=USR1@180" in call) == (step == "train") and ("--nodes=1" in call) == (step == "train")
    assert ("--ntasks=1" in call) == (not gpu) and "--requeue" in call
    bare = told_to_sbatch(step, partition=None, gpu_partition=None)
    assert bare == [word for word in call if not word.startswith("--partition")]


# What a site fills in; what sbatch is told more then, for the steps with GPUs and for the others; whether in place of
# something else.
WISHES: dict[str, tuple[Any, list[str], list[str], bool]] = {
    "partition": ("cpu-long", [], ["--partition=cpu-long"], True),
    "gpu_partition": ("gpu-a100", ["--partition=gpu-a100"], [], True),
    "account": (1234567, ["--account=1234567"], ["--account=1234567"], False),
    "qos": ("max", ["--qos=max"], ["--qos=max"], False),
    "gpu_qos": ("gpu-normal", ["--qos=gpu-normal"], [], False),
    "constraint": ("a100&80gb|h100", ["-C", "a100&80gb|h100"], [], False),
    "reservation": ("course-2024", ["--reservation=course-2024"], ["--reservation=course-2024"], False),
    "mail": ("me@lab.org", *2 * (["--mail-user=me@lab.org", "--mail-type=FAIL,TIME_LIMIT"],), False),
    "max_minutes": (90, ["90"], ["90"], True),
    "gpu_type": ("a100", ["--gres=gpu:a100:1"], [], True),
}


@pytest.mark.parametrize("wish", WISHES)
def test_each_wish_of_a_site_reaches_sbatch_and_leaves_the_rest_as_it_was(wish: str) -> None:
    value, for_gpu_steps, for_others, replaces = WISHES[wish]
    for step in sorted(RULES):
        wanted = Counter(for_gpu_steps if step in GPU_STEPS else for_others)
        call, before = Counter(told_to_sbatch(step, **{wish: value})), Counter(told_to_sbatch(step))
        assert call - before == wanted and (before - call).total() == replaces * wanted.total()


def test_all_wishes_are_tried() -> None:
    text = filled_in()
    names = re.findall(r"(?m)^  - (\w+) = ", text[: text.index("what follows from them")])
    assert set(names) == set(WISHES) | {"train_gpus", "train_nodes", "predict_gpus"}


def test_a_training_on_several_gpus_has_its_node_and_cores_for_each() -> None:
    call = told_to_sbatch("train", train_gpus=4, gpu_type="a100")
    assert {"--gres=gpu:a100:4", "--nodes=1", "--cpus-per-task=32", "--partition=gpu", "--signal=USR1@180"} <= set(call)
    assert not [word for word in call if "ntasks" in word or "gpus" in word]
    assert "--gres=gpu:1" in told_to_sbatch("predict", train_gpus=4)


def test_a_prediction_on_several_gpus_has_cores_and_memory_for_each() -> None:
    call, one = told_to_sbatch("predict", predict_gpus=4, gpu_type="a100"), told_to_sbatch("predict")
    assert {"--gres=gpu:a100:4", "--cpus-per-task=32", "--partition=gpu"} <= set(call)
    assert int(call[call.index("--mem") + 1]) == 4 * int(one[one.index("--mem") + 1])
    assert not [word for word in call if word.startswith(("--nodes", "--ntasks-per", "--gpus"))]
    job, _ = asked_for("predict", predict_gpus=4)
    assert (gpus_of(vars(job.resources)), gpus_per_node(vars(job.resources))) == (4, 4)
    assert "--gres=gpu:1" in told_to_sbatch("train", predict_gpus=4)


def test_a_training_on_several_nodes_has_one_task_and_the_same_gpus_on_each() -> None:
    call = told_to_sbatch("train", train_gpus=4, train_nodes=2)
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=32", "--gres=gpu:4", "--signal=USR1@180"} <= set(call)
    assert not [word for word in call if word.startswith(("--ntasks-per", "--gpus"))]
    job, _ = asked_for("train", train_gpus=4, train_nodes=2)
    assert (gpus_of(vars(job.resources)), gpus_per_node(vars(job.resources))) == (8, 4)


def test_a_step_without_gpus_goes_where_the_others_go() -> None:
    call = told_to_sbatch("predict", predict_gpus=0, constraint="a100", gpu_qos="gpu")
    assert {"--partition=cpu", "--ntasks=1"} <= set(call)
    assert not [word for word in call if "gpu" in word or word == "-C"]
    call = told_to_sbatch("train", train_gpus=0)
    assert {"--partition=cpu", "--ntasks=1", "--cpus-per-task=8", "--nodes=1"} <= set(call)


@pytest.mark.parametrize("step", sorted(RULES))
def test_a_job_that_is_tried_again_gets_more_memory_and_the_same_time(step: str) -> None:
    first, third = (told_to_sbatch(step, attempt, max_minutes=600) for attempt in (1, 3))
    memory, time = first.index("--mem") + 1, first.index("-t") + 1
    assert int(third[memory]) == 3 * int(first[memory]) and third[time] == first[time] and int(first[time]) <= 600


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
