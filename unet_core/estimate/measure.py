"""Time, memory and disk of what the estimate tries."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from unet_core.runtime import return_freed_memory

WITH_ENGINE = ("groundtruth", "weights", "predict", "instances", "evaluate")


@dataclass
class Cost:
    """What a job of a step costs.

    Attributes
    ----------
    start : float
        Seconds once per job, beside the start of its process.
    per_voxel : float
        Seconds per voxel of the samples (for training: per step; for prediction: of one network).
    validation : float
        Seconds of one validation and checkpoint per voxel of the validation samples.
    bytes_per_voxel : float
        Allocated on the file system (for training: of the model folder).
    memory : int
        Largest resident memory of the process, in bytes.
    """

    start: float = 0.0
    per_voxel: float = 0.0
    validation: float = 0.0
    bytes_per_voxel: float = 0.0
    memory: int = 0


def process_start(step: str, workers: int) -> float:
    """Seconds from the start of a job's process until its step begins, and from its end to that of the process."""
    engine = (
        f"from unet_core.engine import local_engine\nwith local_engine({workers}): pass" if step in WITH_ENGINE else ""
    )
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", f"import unet_core.{step}.step\n{engine}"], cwd=Path(__file__).parents[2], check=True
    )
    return time.perf_counter() - start


@contextmanager
def clock(cost: Cost) -> Iterator[list[float]]:
    """Wall seconds of what is done inside, as the only item; the peak of memory goes into the cost."""
    process, ended, seconds = psutil.Process(), threading.Event(), [0.0]

    def watch() -> None:
        while True:
            cost.memory = max(cost.memory, process.memory_info().rss)
            if ended.wait(0.02):
                return

    return_freed_memory()  # of the steps before
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        yield seconds
    finally:
        seconds[0] = time.perf_counter() - start
        ended.set()
        watcher.join()


def allocated(*paths: Path) -> int:
    """Bytes that files and folders take on their file system."""
    found = [member for path in paths if path.exists() for member in (path, *path.rglob("*"))]
    return sum(member.stat().st_blocks * 512 for member in found)
