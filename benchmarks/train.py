"""Training with real data against the same loop on constant tensors, and its memory on a small and a large data set.

The network of the preset `small`, which is for CPUs, and the same with 32 channels. Series of 20 steps alternate
between batches that the sampler draws from Zarr stores, with all augmentation, and one batch that is used again and
again; the figure is the median ratio of two series that follow each other. Twice: with an image of 1 megapixel, of
which what is read stays in memory, and with one of 64, of which hardly anything does. Memory is the peak of a process
that trains for 20 steps on one of them.

Goals: at least 95 % of the steps per second with constant tensors; memory that does not grow with the data set.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks._memory import peak_mb
from unet_core.config.options import Train
from unet_core.config.presets import PRESETS
from unet_core.config.section import merge
from unet_core.network import unet
from unet_core.network.cached import Cache, Cached
from unet_core.network.device import device
from unet_core.store.store import Result, Spec, begin
from unet_core.train import loop as training
from unet_core.train.processes import Processes
from unet_core.train.sampling import Batch, Sampler, TrainingSample

SIDES = {"": 1024, "_large": 8192}
# A series is so long that the two batches that are prepared ahead, during the one before, hardly count.
SERIES, STEPS, MEMORY_STEPS = 5, 20, 20
ROWS = (
    ("steps_per_s", "preset small, 4 tiles of 292 px: steps per second", ""),
    ("frac_constant_tensors", "    as a share of those with constant tensors", "0.95"),
    ("frac_constant_tensors_large", "    the same, from an image of 64 megapixels", "0.95"),
    ("steps_per_s_wide", "with 32 channels at the first level: steps per second", ""),
    ("frac_constant_tensors_wide", "    as a share of those with constant tensors", "0.95"),
    ("rss_mb", "peak memory with an image of 1 megapixel (MB)", ""),
    ("rss_ratio", "    64 megapixels / 1 megapixel", "1"),
)


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        frac_constant_tensors: steps per second with real data over those with constant tensors, preset `small`;
        frac_constant_tensors_large: from an image of 64 megapixels; frac_constant_tensors_wide: with 32 channels;
        steps_per_s, steps_per_s_wide; rss_ratio: peak memory with 64 megapixels over that with 1; rss_mb: the latter.
    """
    figures = {}
    with tempfile.TemporaryDirectory(prefix="unet-train-") as temporary:
        folder = Path(temporary)
        for key, side in SIDES.items():
            _write(folder / f"side{side}", side)
            figures[f"frac_constant_tensors{key}"], figures[f"steps_per_s{key}"] = _rates(folder / f"side{side}", 16)
        figures["frac_constant_tensors_wide"], figures["steps_per_s_wide"] = _rates(folder / f"side{SIDES['']}", 32)
        peaks = []
        for side in SIDES.values():
            command = [sys.executable, "-m", "benchmarks.train", str(folder / f"side{side}")]
            peaks.append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    figures |= {"rss_ratio": peaks[1] / peaks[0], "rss_mb": peaks[0]}
    print(f"\n{'what':<64} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<64} {figures[key]:>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def _rates(folder: Path, width: int) -> tuple[float, float]:
    """Speed with real data: its share of that with constant tensors in the series before, and steps per second."""
    step, sampler, processes = _loop(folder, width)
    batches = sampler.batches(0, 10**9, threads=training._sampling_threads(processes))
    constant = sampler.draw(0)

    def series(draw: Callable[[], Batch]) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            step(draw())
        if processes.device.type != "cpu":
            torch.accelerator.synchronize()
        return (time.perf_counter() - start) / STEPS

    pairs = [(series(lambda: constant), series(lambda: next(batches))) for _ in range(SERIES + 1)][1:]
    batches.close()
    share = statistics.median(still / real for still, real in pairs)
    print(f"train: {folder.name}, {width} channels: {share:.3f}", flush=True)
    return share, 1 / statistics.median(real for _, real in pairs)


def _loop(folder: Path, width: int) -> tuple[Callable[[Batch], None], Sampler, Processes]:
    """A step of training, the source of its batches, and where it runs."""
    cfg = Train.model_validate(merge(PRESETS["small"], {"network": {"width": width}, "precision": "float32"}))
    processes = Processes(device=device())
    plan = {"network": cfg.network.model_dump(), "channels": 1, "classes": ["cell"]}
    state = training._begin(cfg, plan, None, processes)
    class_weights = torch.ones(2, device=processes.device)
    cache = Cache()
    sources = [Cached(Result(folder / f"{name}.zarr" / "a"), cache) for name in ("image", "target", "border")]
    norm = (np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), 1e-3, np.float32))
    sample = TrainingSample(*sources, *norm, annotated=1)
    assert isinstance(cfg.tile, int)
    sampler = Sampler(
        [sample], cfg.tile, unet.shape_of(cfg.network).halo, cfg.batch, 0, cfg.augment, device=processes.device
    )
    return (
        lambda batch: training._step(cfg, state, state.net, batch, class_weights, 10**9, processes),
        sampler,
        processes,
    )


def _write(folder: Path, side: int) -> None:
    """Image, target and border weights like those of crowded cells, and as hard to compress."""
    specs = {
        "image": Spec((1, side, side), "uint16", "image", 1, (1.0, 1.0, 1.0)),
        "target": Spec((1, side, side), "uint8", "labels", None, (1.0, 1.0, 1.0)),
        "border": Spec((1, side, side), "float32", "image", None, (1.0, 1.0, 1.0)),
    }
    rng = np.random.default_rng(0)
    results = {name: begin(folder / f"{name}.zarr" / "a", "benchmark", spec, {}) for name, spec in specs.items()}
    grid = results["image"].grid
    _, y, x = np.indices(grid.box(0).shape, sparse=True)
    cells = np.sin(y / 9) * np.sin(x / 9)
    blocks = {
        "image": (400 + 300 * cells + rng.normal(0, 30, cells.shape)).astype(np.uint16)[None],
        "target": (np.abs(cells) > 0.2).astype(np.uint8),
        "border": np.where(np.abs(cells) > 0.2, 0, 10 * np.exp(-10 * np.abs(cells))).astype(np.float32),
    }
    for index in range(len(grid)):
        for name, block in blocks.items():
            results[name].write(index, block, "benchmark")


def _peak_mb(folder: Path) -> float:
    step, sampler, processes = _loop(folder, 16)
    for batch in sampler.batches(0, MEMORY_STEPS, threads=training._sampling_threads(processes)):
        step(batch)
    return peak_mb()


if __name__ == "__main__":
    print(_peak_mb(Path(sys.argv[1])))
