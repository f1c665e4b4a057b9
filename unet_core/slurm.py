"""Jobs that SLURM cancelled to make room for others: queued again, where Snakemake would wait for them for ever."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path


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
    answer = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True)
    what = (
        f"it cannot be queued again ({answer.stderr.strip()}), and Snakemake would wait for it for ever: "
        "stop this run and start it anew"
        if answer.returncode
        else "it is queued again"
    )
    # Snakemake's logging shows only messages of its own.
    print(f"SLURM job {number} was cancelled to make room for others; {what}", file=sys.stderr, flush=True)
    return not answer.returncode
