"""Where the SLURM executor of Snakemake (2.8.0) would wait for ever, or give up: it does neither.

SLURM cancels jobs to make room for others, and its controller is restarted now and then, while runs take weeks.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any


def preempted_jobs(folder: Path, since: str) -> list[str]:
    """Numbers of this user's jobs that were submitted from a folder, not before a time, and cancelled for others.

    Parameters
    ----------
    folder : Path
        Where Snakemake was called.
    since : str
        Time of submission (ISO 8601, to the second, local time).
    """
    command = ["squeue", "--me", "--states=PREEMPTED", "--noheader", "--format=%i|%V|%Z"]
    answer = subprocess.run(command, capture_output=True, text=True)
    rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
    return [number for number, submitted, place in rows if submitted >= since and Path(place) == folder]


def watch_preempted(folder: Path, interval: float = 20) -> None:
    """Have SLURM queue again what it cancels to make room, for as long as this process lives.

    The SLURM executor of Snakemake (2.8.0) neither counts such a job as failed nor submits it again.
    """
    if shutil.which("squeue") is None:
        return
    since = datetime.datetime.now().isoformat(timespec="seconds")

    def watch() -> None:
        refused: set[str] = set()
        while True:
            time.sleep(interval)
            for number in preempted_jobs(folder, since):
                if number not in refused and not _requeue(number):
                    refused.add(number)

    threading.Thread(target=watch, daemon=True).start()


def _requeue(number: str) -> bool:
    """Queue a job again and say so, or say why that cannot be."""
    try:
        answer = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True)
        refused = answer.stderr.strip() if answer.returncode else ""
    except OSError as error:
        refused = f"{error.strerror}: '{error.filename}'"
    what = (
        f"it cannot be queued again ({refused}), and Snakemake would wait for it for ever: "
        "stop this run and start it anew"
        if refused
        else "it is queued again"
    )
    # Snakemake's logging shows only messages of its own.
    print(f"SLURM job {number} was cancelled to make room for others; {what}", file=sys.stderr, flush=True)
    return not refused


def outlast_controller(interval: float = 10) -> None:
    """Have Snakemake wait while SLURM's controller does not answer.

    The executor asks five times at once, then forgets the jobs that it asked about, and waits for them for ever. A job
    that it cannot submit counts as failed, and its retries are over in seconds.

    Parameters
    ----------
    interval : float
        Seconds between two attempts to reach the controller.
    """
    from snakemake_executor_plugin_slurm import Executor

    check = Executor.check_active_jobs

    async def check_active_jobs(self: Any, jobs: list[Any]) -> AsyncIterator[Any]:
        if jobs:
            wait_for_controller(interval, lambda: self.wait)
        before = getattr(self, "_status_query_calls", None)
        async for job in check(self, jobs):
            yield job
        # No question was answered: it went away between ours and theirs.
        if before is not None and self._status_query_calls == before:
            for job in jobs:
                yield job

    def outlasting(submit: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def submit_later(self: Any, job: Any) -> None:
            wait_for_controller(interval, lambda: self.wait)
            submit(self, job)

        return submit_later

    Executor.check_active_jobs = check_active_jobs
    Executor.run_job = outlasting(Executor.run_job)
    Executor.run_array_jobs = outlasting(Executor.run_array_jobs)


def wait_for_controller(interval: float = 10, wanted: Callable[[], bool] = lambda: True) -> None:
    """Return as soon as a controller of SLURM answers, and say once that none did.

    Parameters
    ----------
    interval : float
        Seconds between two attempts to reach it.
    wanted : callable
        Whether an answer is still of use; where it is not, waiting ends.
    """
    told = False
    while wanted() and _controllers_are_down():
        if not told:
            print("SLURM's controller does not answer; waiting until it does", file=sys.stderr, flush=True)
            told = True
        time.sleep(interval)
    if told and wanted():
        print("SLURM's controller answers again", file=sys.stderr, flush=True)


def _controllers_are_down() -> bool:
    """Whether SLURM says that its controller is down, and so are those that could take its place."""
    try:
        states = subprocess.run(["scontrol", "ping"], capture_output=True, text=True).stdout.split()
    except OSError:  # a site without it: what follows tells
        return False
    return "DOWN" in states and "UP" not in states
