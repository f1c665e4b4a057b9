"""Scores of 20,000 objects against StarDist and py-ctcmetrics, warping error, and memory on two sizes of volume.

- Matching at ten IoU thresholds of 20,164 true with 19,207 found objects on 4096 x 4096 pixels, from the label images
  in memory: our sparse table and matching against `stardist.matching.matching`, which fills dense tables (about 11 GB).
- SEG of the same images, from the TIFF files: against `match` and `seg` of py-ctcmetrics (dense as well, about 46 GB).
- Warping error of a plane of 512 x 512 pixels of cells between membranes, with gaps, moved borders and lost cells.
- Peak memory of the step evaluate, all measures, on a volume of 480 and one of 1,200 planes of 512 x 512 pixels.

Peers are measured where they are installed (extra `bench`), in the same run; results that differ stop it. Where memory
is short both sides get a quarter of the image with 5,041 objects, and the key `..._objects` says so: dense tables grow
with the square, so that the ratio is then less than it would be. No peer gets the last memory of the machine. Times are
the median of five, those of peers of one call after a small one that compiles. Limits: reading two label images of 4096
x 4096 pixels once (134 MB) takes about 0.02 s at 7 GB/s, below which no matching can be; a plane of 512 x 512 pixels is
2 MB.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile

from benchmarks._memory import peak_mb
from unet_core.config.options import Evaluate
from unet_core.engine import local_engine
from unet_core.evaluate.step import evaluate_samples
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import Matching, matchings
from unet_core.metrics.mean_ap import THRESHOLDS
from unet_core.metrics.seg import seg_scores
from unet_core.metrics.warping import warp
from unet_core.runtime import write_stamp
from unet_core.store.store import LABELS, Spec, begin, finish

ROOT = Path(__file__).parent.parent
SIDE, CELLS = 4096, 142
# Enough planes for pieces of boundaries with all that is around them.
PLANE, PLANES = 512, (480, 1200)
REPEATS = 5
# Of 20,164 objects: 16 times what 5,041 objects were seen to take.
NEEDED_GB = {"stardist": 11, "ctc_metrics": 46}


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        matching_s, seg_s, warping_s: our times; x_stardist_matching, x_ctcmetrics_seg: how many times longer the peers
        take, where installed, and stardist_objects, ctcmetrics_objects, on how many objects; rss_small_mb,
        rss_large_mb, rss_ratio: peak memory of the step evaluate, on a small and on a 2.5 times larger volume;
        mvox_per_s: what it scores per second of the larger one.
    """
    truth, found = scene(SIDE, CELLS)
    with tempfile.TemporaryDirectory(prefix="unet-metrics-") as folder:
        figures = _matching(truth, found) | _seg(truth, found, Path(folder)) | _warping() | _memory(Path(folder))
    print(f"\n{'what':<76} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        if key in figures:
            print(f"{text:<76} {figures[key]:>8.{5 if isinstance(figures[key], int) else 3}g}  {goal}")
    return {key: value if isinstance(value, int) else float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("matching_s", "20,164 objects on 4096 x 4096 pixels, matched at 10 thresholds (s)", ""),
    ("x_stardist_matching", "    StarDist's matching takes so many times as long", "50"),
    ("stardist_objects", "    on so many objects", "20,000"),
    ("seg_s", "SEG of the same, from files (s)", ""),
    ("x_ctcmetrics_seg", "    py-ctcmetrics takes so many times as long", "20"),
    ("ctcmetrics_objects", "    on so many objects", "20,000"),
    ("warping_s", "warping error of 512 x 512 pixels (s)", "1"),
    ("rss_small_mb", "evaluate, all measures, 126 million voxels: peak memory (MB)", ""),
    ("rss_large_mb", "    315 million voxels: peak memory (MB)", ""),
    ("rss_ratio", "    large / small", "flat"),
    ("mvox_per_s", "    million voxels per second", ""),
)


def scene(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """True cells on a grid, and what was found: moved, with ragged borders, some lost, some joined."""
    rng, pitch = np.random.default_rng(0), side // cells
    y, x = np.ogrid[:side, :side]
    inside = (y % pitch - pitch / 2) ** 2 + (x % pitch - pitch / 2) ** 2 < (0.42 * pitch) ** 2
    inside = inside & (y < pitch * cells) & (x < pitch * cells)
    number = (y // pitch) * cells + x // pitch + 1
    truth = np.where(inside, number, 0).astype(np.uint32)
    partner = np.arange(cells * (cells + 1) + side + 2)
    joined = rng.choice(cells**2 - 1, cells**2 // 20, replace=False) + 1
    partner[joined] = partner[joined + 1]
    found = np.roll(partner[truth], (1, 2), (0, 1)).astype(np.uint32)
    found[rng.random(found.shape) < 0.002] = 0
    return truth, found


def _matching(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    def ours() -> list[Matching]:
        return matchings(contingency(truth, found), THRESHOLDS)

    seconds, counts = _median(ours)
    figures = {"matching_s": seconds}
    if importlib.util.find_spec("stardist"):
        from stardist.matching import matching

        matching(truth[:200, :200], found[:200, :200], thresh=THRESHOLDS)
        truth, found, figures["stardist_objects"] = _fitting("stardist", truth, found)
        seconds, counts = _median(ours)
        with _memory_left():
            peer, theirs = _once(lambda: matching(truth, found, thresh=THRESHOLDS))
        _check([c[:3] for c in counts] == [(t.tp, t.fp, t.fn) for t in theirs], "StarDist counts other matches")
        figures["x_stardist_matching"] = peer / seconds
    return figures


def _fitting(peer: str, truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The scene, or a quarter of it where memory is short for the peer, and its number of true objects."""
    if psutil.virtual_memory().available < 1.3e9 * NEEDED_GB[peer]:
        truth, found = scene(SIDE // 2, CELLS // 2)
    objects = np.unique(truth).size - 1
    _say(f"{peer} on {objects:,} objects")
    return truth, found, objects


@contextmanager
def _memory_left() -> Iterator[None]:
    """What takes more than the free memory less 3 GB fails, instead of the processes beside it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    free = psutil.virtual_memory().available - 3 * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + max(free, 0), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _seg(truth: np.ndarray, found: np.ndarray, folder: Path) -> dict[str, float]:
    paths = folder / "man_seg000.tif", folder / "mask000.tif"

    def ours() -> float:
        return float(seg_scores(contingency(tifffile.imread(paths[0]), tifffile.imread(paths[1]))).mean())

    def theirs() -> float:
        labels, _, _, _, ious = match(str(paths[0]), str(paths[1]))
        return float(seg([labels], [ious]))

    _write(paths, truth, found)
    figures = {"seg_s": _median(ours)[0]}
    if importlib.util.find_spec("ctc_metrics"):
        from ctc_metrics.metrics import seg
        from ctc_metrics.utils.representations import match

        truth, found, figures["ctcmetrics_objects"] = _fitting("ctc_metrics", truth, found)
        _write(paths, truth, found)
        seconds, score = _median(ours)
        with _memory_left():
            peer, other = _once(theirs)
        _check(abs(score - other) < 1e-9, f"py-ctcmetrics gives SEG {other}, but ours is {score}")
        figures["x_ctcmetrics_seg"] = peer / seconds
    return figures


def _write(paths: tuple[Path, Path], *images: np.ndarray) -> None:
    for path, labels in zip(paths, images, strict=True):
        tifffile.imwrite(path, labels, photometric="minisblack")


def membranes(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells between membranes of four pixels, and a segmentation of them with errors.

    In the result, membranes are moved, thicker or broken, and some cells are lost.
    """
    rng = np.random.default_rng(1)
    y, x = np.ogrid[:side, :side]
    waves = (6 * np.sin(x / 40) + 0 * y).astype(int), (6 * np.cos(y / 35) + 0 * x).astype(int)
    truth, found = (((y + waves[0]) % 32 > 3) & ((x + waves[1] + shift) % 32 > 3 + shift) for shift in (0, 2))
    for _ in range(60):
        a, b = rng.integers(0, side - 12, 2)
        found[a : a + 12, b : b + 12] = rng.random() < 0.5
    return truth.astype(np.uint32), found.astype(np.uint32)


def _warping() -> dict[str, float]:
    truth, found = membranes(PLANE)
    warp(truth[:9, :9], found[:9, :9])
    return {"warping_s": _median(lambda: warp(truth, found))[0]}


def _memory(folder: Path) -> dict[str, float]:
    found = []
    for planes in PLANES:
        _say(f"evaluate on {planes} planes")
        code = f"from benchmarks.metrics import score_volume; score_volume({str(folder / str(planes))!r}, {planes})"
        write_volume(folder / str(planes), planes)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        _check(done.returncode == 0, done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    (small, _), (large, seconds) = found
    voxels = PLANES[1] * PLANE**2
    return {
        "rss_small_mb": small,
        "rss_large_mb": large,
        "rss_ratio": large / small,
        "mvox_per_s": voxels / seconds / 1e6,
    }


def write_volume(folder: Path, planes: int) -> None:
    """Stores of truth and result, written plane by plane: columns of cells, of which each is cut every 24 planes."""
    truth, found = scene(PLANE, 20)
    shape, block = (planes, PLANE, PLANE), (8, PLANE, PLANE)
    cells = 20 * 20 + PLANE
    for name, path in _results(folder).items():
        result = begin(path, "1", Spec(shape, "uint32", "labels", block=block), {})
        for index in range(len(result.grid)):
            box = result.grid.box(index)
            storeys = np.arange(box.start[0], box.stop[0]) // 24
            flat = found if name == "found" else truth
            if name in LABELS[1:]:
                labels = np.repeat((flat > 0)[None] * (name == "classes"), box.shape[0], axis=0)
            else:
                labels = np.where(flat > 0, flat + cells * storeys[:, None, None], 0)
            result.write(index, labels.astype(np.uint32), "1")
        finish(path, "1", {})


def _results(folder: Path) -> dict[str, Path]:
    return {name: folder / "truth.zarr" / "v" / "labels" / name for name in LABELS} | {
        "found": folder / "found.zarr" / "v"
    }


def score_volume(place: str, planes: int) -> None:
    """Score a volume and print the peak memory of this process in MB, and the seconds it took."""
    folder = Path(place)
    (folder / "found").mkdir()
    (folder / "found" / "v.csv").write_text("label,class\n")
    write_stamp(folder / "truth.json", {"classes": ["cell"], "samples": {"v": {"split": "test", "labels": "1"}}})
    write_stamp(folder / "found.json", {"samples": {"v": {"split": "test", "digest": "1"}}})
    write_stamp(folder / "model.json", {"weights": "1"})
    with local_engine(2) as engine:
        start = time.perf_counter()
        evaluate_samples(
            Evaluate(),
            model=folder / "model.json",
            groundtruth=folder / "truth.json",
            truth_store=folder / "truth.zarr",
            instances=folder / "found.json",
            instance_store=folder / "found.zarr",
            tables=folder / "found",
            folder=folder / "scores",
            history=folder / "history.jsonl",
            stamp=folder / "scores.json",
            engine=engine,
        )
        seconds = time.perf_counter() - start
    print(json.dumps([peak_mb(), seconds]))


def _median(function: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of several calls, and what the last one gave."""
    times = []
    for _ in range(REPEATS):
        seconds, value = _once(function)
        times.append(seconds)
    return statistics.median(times), value


def _once(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        sys.exit(otherwise)


def _say(text: str) -> None:
    print(f"metrics: {text}", flush=True)
