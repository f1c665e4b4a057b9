"""Programs in forks of a process that has imported what the steps import: the same work, without ten starts of Python.

A run is a process of its own, and so is each of its jobs. What is forked has one thread and has computed nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
STEPS = ("groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate", "report")
CONTEXT.set_forkserver_preload(["snakemake.cli", *(f"unet_core.{step}.step" for step in STEPS), "tests.preloaded"])


def _ensure_running() -> None:
    """Start the process that is forked, in the folder of the code: it imports the package that lies there."""
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()


def run_snakemake(arguments: list[str], folder: Path, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder to its end; its status, and what it and its jobs printed."""
    _ensure_running()
    return _run(_snakemake, arguments, folder, seconds, forkserver._forkserver._forkserver_address)


def run_function(
    function: Callable[..., object], arguments: list[str], folder: Path, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Call a function in a folder, as a program of its own: its status, and what it printed."""
    return _run(_call, arguments, folder, seconds, function)


def _run(
    target: Callable[..., None], arguments: list[str], folder: Path, seconds: float, *more: object
) -> subprocess.CompletedProcess[str]:
    _ensure_running()
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output"
        output.touch()
        process = CONTEXT.Process(target=target, args=(arguments, folder, output, *more))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, seconds)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(errors="replace"), "")


def _call(arguments: list[str], folder: Path, output: Path, function: Callable[..., object]) -> None:
    _enter(folder, output)
    function(*arguments)


def _snakemake(arguments: list[str], folder: Path, output: Path, address: str) -> None:
    from snakemake.benchmark import benchmarked
    from snakemake.cli import main
    from snakemake.script import PythonScript

    def execute(self: PythonScript, script: str, edit: bool = False) -> None:
        job = CONTEXT.Process(target=_script, args=(script, Path.cwd(), output, dict(os.environ)))
        job.start()
        if self.bench_record is None:
            job.join()
        else:
            with benchmarked(job.pid, self.bench_record):
                job.join()
        if job.exitcode:
            raise subprocess.CalledProcessError(job.exitcode, script)

    # Jobs are forked by the process that forked this one; Python would start another.
    server = forkserver._forkserver
    server._forkserver_address, server.ensure_running = address, lambda: None
    _enter(folder, output)
    PythonScript.execute_script = execute
    # The profile looks at the command line.
    sys.argv = ["snakemake", *arguments]
    sys.exit(main(arguments))


def _script(path: str, folder: Path, output: Path, environment: dict[str, str]) -> None:
    _enter(folder, output)
    os.environ.update(environment)
    runpy.run_path(path, run_name="__main__")


def _enter(folder: Path, output: Path) -> None:
    """Work in a folder, and print to the end of a file."""
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
