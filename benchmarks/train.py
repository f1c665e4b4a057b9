"""Training with real data against the same loop on constant tensors, and its memory on a small and a large data set.

The network of the preset `small` (for CPUs) and one wider. Steps alternate in short series between batches that the
sampler draws from Zarr stores, with all augmentation, and one batch that is used again and again. Memory is the peak
of a process that trains for some steps on images of 1 and of 256 megapixels.

Goals: at least 95 % of the steps per second of constant tensors; memory that does not grow with the data set.
"""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from unet_core import unet
from unet_core.blocks import Box
from unet_core.checkpoint import State
from unet_core.config import Network, Train
from unet_core.model import build, device
from unet_core.processes import Processes
from unet_core.sampling import Batch, Sampler, TrainingSample
from unet_core.store import Result, Spec, begin
from unet_core.training import _optimiser, _sampling_threads, _step

SMALL, LARGE, SIDE = 1024, 16384, 2048
SERIES, SERIES_STEPS, MEMORY_STEPS = 24, 5, 30


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        frac_constant_tensors: steps per second with real data over those with constant tensors, preset `small`;
        frac_constant_tensors_wide: the same, 32 channels at the first level; steps_per_s, steps_per_s_wide; rss_ratio: peak memory
        with the large data set over that with the small one; rss_mb: the latter.
    """
    with tempfile.TemporaryDirectory(prefix="unet-train-") as temporary:
        folder = Path(temporary)
        _write(folder / "data", SIDE)
        figures = {}
        for key, width in (("", 16), ("_wide", 32)):
            real, constant = _seconds_per_step(folder / "data", width)
            figures |= {f"frac_constant_tensors{key}": constant / real, f"steps_per_s{key}": 1 / real}
        peaks = []
        for name, side in (("small", SMALL), ("large", LARGE)):
            _write(folder / name, side)
            command = [sys.executable, "-m", "benchmarks.train", str(folder / name)]
            peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    figures |= {"rss_ratio": peaks[1] / peaks[0], "rss_mb": peaks[0]}
    print(f"{'what':<64} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<64} {figures[key]:>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("steps_per_s", "preset small, 4 tiles of 292 px: steps per second", ""),
    ("frac_constant_tensors", "    as a share of those with constant tensors", "0.95"),
    ("steps_per_s_wide", "the same with 32 channels at the first level", ""),
    ("frac_constant_tensors_wide", "    as a share of those with constant tensors", "0.95"),
    ("rss_mb", "peak memory, one image of 1 megapixel (MB)", ""),
    ("rss_ratio", "    256 megapixels / 1 megapixel", "1"),
)


def _seconds_per_step(folder: Path, width: int) -> tuple[float, float]:
    """With real data, and with constant tensors."""
    step, batches, constant = _loop(folder, width)
    for _ in range(3):
        step(next(batches))
        step(constant)
    real, still = [], []
    for _ in range(SERIES):
        for times, source in ((real, batches), (still, None)):
            start = time.perf_counter()
            for _ in range(SERIES_STEPS):
                step(next(source) if source else constant)
            times.append((time.perf_counter() - start) / SERIES_STEPS)
            if source is None:
                continue
    return float(np.mean(real)), float(np.mean(still))
