"""The chain on a real SLURM: `make slurm-test` starts it; without one these tests are not collected."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tifffile

from tests.conftest import made_once
from tests.test_profiles import filled_in
from tests.test_workflow import CONFIG, Project
from unet_core.gpus import ALLOW_CPU

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests" / "slurm" / "cluster.sh"
RECORDS = ROOT / ".slurm" / "jobs.txt"
# The training of the tests; without dropout and normalisation two processes train exactly as one.
TRAIN = CONFIG["train"] | {"batch": 2}
# Long enough to be interrupted.
LONG = CONFIG | {"train": TRAIN | {"steps": 450, "validate_every": 150}}


def command(*arguments: str) -> str:
    """Output of a SLURM command."""
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_for(condition: Callable[[], Any], seconds: float = 240, what: str = "") -> Any:
    """Value of a condition as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s in vain for {what or condition}\n{command('squeue')}")


def records(folder: Path) -> list[dict[str, str]]:
    """SLURM's own records of ended jobs that were submitted from a folder."""
    text = RECORDS.read_text() if RECORDS.exists() else ""
    rows = [dict(re.findall(r"(\w+)=(.*?) (?=\w+=|$)", line + " ")) for line in text.splitlines()]
    return [row for row in rows if row.get("WorkDir") == str(folder)]


def comment(job: str) -> str:
    """Rule and wildcards of a job, which the executor writes into its comment."""
    found = re.search(r"Comment=(\S+)", command("scontrol", "show", "job", job))
    return found[1] if found else ""


def running(folder: Path, rule: str = "", state: str = "RUNNING") -> list[str]:
    """Numbers of jobs of a folder, of a rule, in a state."""
    lines = command("squeue", "--noheader", f"--states={state}", "--format=%i|%Z|%k").splitlines()
    return [
        number
        for number, place, note in (line.split("|", 2) for line in lines)
        if place == str(folder) and f"rule_{rule}" in note
    ]


def workers(folder: Path, state: str = "PENDING,RUNNING,COMPLETING") -> list[str]:
    """Worker jobs of a folder in the queue."""
    lines = command("squeue", "--noheader", f"--states={state}", "--format=%i|%j|%Z").splitlines()
    return [
        number
        for number, name, place in (line.split("|", 2) for line in lines)
        if name.startswith("unet-") and place == str(folder)
    ]


class ClusterProject(Project):
    """A project that is run through the profile slurm."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.profile = ROOT / "profiles" / "slurm"
        self.processes: list[subprocess.Popen[bytes]] = []

    def fill_in(self, **values: Any) -> None:
        """Use the profile with other values at its top."""
        self.profile = self.folder / "profile"
        self.profile.mkdir()
        (self.profile / "config.yaml").write_text(filled_in(**values))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin a run, in a process group of its own."""
        call = [
            sys.executable,
            str(ROOT / "tests" / "slurm" / "impatient.py"),
            "--snakefile",
            str(ROOT / "Snakefile"),
            "--configfile",
            "config.yaml",
            "--profile",
            str(self.profile),
            "--slurm-init-seconds-before-status-checks",
            "3",
        ]
        self.output = self.folder / f".output{len(self.processes)}"
        with self.output.open("w") as output:
            process = subprocess.Popen(
                [*call, *arguments], cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes], fails: bool = False, seconds: float = 900) -> str:
        """Wait for the end of the latest run; its output and the logs of its jobs."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(
                f"still running after {seconds} s\n{self.output.read_text()}\n{command('squeue')}"
            ) from None
        output = self.output.read_text(errors="replace")
        output += "".join(path.read_text(errors="replace") for path in self.folder.glob("results/logs/**/*.log"))
        assert (process.returncode != 0) == fails, output
        return output

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run to the end through SLURM."""
        return self.finish(self.start(*arguments), fails)

    def run_here(self, *arguments: str) -> str:
        """Run to the end without SLURM."""
        return super().run(*arguments)

    def forget(self, step: str) -> str:
        """Remove all that a step made; its output, to be made again."""
        shutil.rmtree(self.folder / "results" / step)
        return {
            "groundtruth": "results/groundtruth/cells.json",
            "weights": "results/weights/cells.json",
            "plan": "results/plan/cells.json",
        }.get(step, "results/train/cells.json" if step == "train" else f"results/{step}/cells/cells.json")

    def shards(self, step: str) -> dict[str, bytes]:
        """Content of a step's stores, without the metadata."""
        folder = self.folder / "results" / step
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("c/**/*")) if p.is_file()}

    def weights(self) -> bytes:
        return (self.folder / "results/train/cells/best.safetensors").read_bytes()


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """The test cluster must run. Its GPUs are pretended, so that jobs that ask for them may do without."""
    os.environ[ALLOW_CPU] = "1"
    assert shutil.which("sinfo"), "no SLURM; run `make slurm-test`"
    assert len(command("sinfo", "--noheader", "--Node", "--partition=cpu").splitlines()) == 3


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that disturbs the cluster leaves it as it was."""
    yield
    if request.node.get_closest_marker("alone"):
        if subprocess.run(["scontrol", "ping"], capture_output=True).returncode:
            subprocess.run([CLUSTER, "control"], check=True)
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        wait_for(lambda: not command("squeue", "--noheader"), 60, "an empty queue")
        nodes = ["sinfo", "--noheader", "--Node", "--partition=cpu", "--states=idle"]
        wait_for(lambda: len(command(*nodes).splitlines()) == 3, 60, "idle nodes")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> ClusterProject:
    """A project after its first run, without SLURM; tests work on copies."""

    def make(folder: Path) -> None:
        for number in range(7):
            for source in (f"01/t{number:03d}.tif", f"01_GT/SEG/man_seg{number:03d}.tif"):
                target = folder / "data" / "cells" / source
                target.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(target, tifffile.imread(demo / "cells" / source)[:150, :130])
        project = ClusterProject(folder)
        project.configure(CONFIG | {"train": TRAIN})
        project.run_here()

    return ClusterProject(made_once(tmp_path_factory, "finished", make))


@pytest.fixture(scope="session")
def uninterrupted(finished: ClusterProject, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Best weights of the long training, made without interruption and without SLURM."""

    def make(folder: Path) -> None:
        shutil.copytree(finished.folder, folder, copy_function=shutil.copy2, dirs_exist_ok=True)
        project = ClusterProject(folder)
        project.configure(LONG)
        project.run_here("results/train/cells.json")

    return ClusterProject(made_once(tmp_path_factory, "uninterrupted", make)).weights()


@pytest.fixture
def project(finished: ClusterProject, tmp_path: Path) -> Iterator[ClusterProject]:
    """A copy of the finished project; nothing of it runs when the test is over."""
    shutil.copytree(finished.folder, tmp_path / "project", copy_function=shutil.copy2)
    project = ClusterProject(tmp_path / "project")
    yield project
    for process in project.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    left = [*running(project.folder, state="PENDING,RUNNING"), *workers(project.folder)]
    if left:
        command("scancel", *left)
