"""A million images and a volume of 100 TB: time, memory, files and tasks that are no work on voxels.

Nothing of that size is computed. The real code is run as far as it goes without voxels, and unit costs are measured
and multiplied:

- a million images (hard links to one of some files) are listed, and it is decided what is stale, as at the start of
  each run; a job's own look at the configuration;
- a volume of 100 TB is cut into blocks as each step cuts it, and one look at a block, one task of Dask and the hash of
  one byte are measured: each on this machine, with local disks.

``UNET_SCALE=10000`` makes that number of images in place of a million.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import yaml

from benchmarks.weights import _quiet
from unet_core.blocks import ZYX
from unet_core.config.instances import Instances
from unet_core.config.parse import parse_config
from unet_core.digest import FileHashes
from unet_core.engine import local_engine
from unet_core.estimate.command import inodes_of_job
from unet_core.estimate.stand_in import Sized
from unet_core.estimate.workload import PendingJob
from unet_core.files import write_atomic
from unet_core.groundtruth.contents import wanted_of_files
from unet_core.groundtruth.samples import Sample, check_data
from unet_core.groundtruth.step import hashes_of
from unet_core.jobs import Jobs
from unet_core.records import recorded
from unet_core.runtime import write_stamp
from unet_core.store.store import BLOCK, Result, Spec, begin

ROOT = Path(__file__).parent.parent
IMAGES, ANNOTATED = 1_000_000, 0.01
SIDE = 512
# File systems allow some 65,000 names of one file.
LINKS = 50_000
TERABYTES = 100
VOLUME: ZYX = (10_000, 100_000, 100_000)
BLOCKS_LOOKED_AT, TASKS, BYTES_HASHED = 2_000, 20_000, 2**28
STEPS = ("groundtruth", "weights", "predict", "instances", "evaluate")


def measure() -> dict[str, float]:
    """Run the benchmark and print its tables.

    Returns
    -------
    dict
        list_s, list_mb: CPU seconds and peak memory of listing the images; stale_s, stale_mb: the same, and deciding
        that nothing is to be done; job_s, job_mb: of a job of the same configuration; files_256, files_512, files_1024:
        files and folders per annotated image of that side, in all steps; look_us: one look at a block; task_ms: one
        task of Dask; hash_gb_s: hashing with eight threads; blocks_N, files_N, look_h_N, tasks_h_N: of the volume, for
        each step N; hash_h: its hash.
    """
    count = int(os.environ.get("UNET_SCALE", IMAGES))
    with tempfile.TemporaryDirectory(prefix="unet-scale-") as temporary, _quiet():
        figures = _many_images(Path(temporary) / "images", count)
        figures |= {f"files_{side}": float(_files_of_image((1, side, side))) for side in (256, 512, 1024)}
        units = _units(Path(temporary) / "units")
    print(f"\n{'what':<64} {'figure':>9}")
    for key, text in ROWS.items():
        print(f"{text.format(count=count):<64} {(figures | units)[key]:>9.3g}")
    return {key: float(f"{value:.4g}") for key, value in (figures | units | _volume(units)).items()}


ROWS = {
    "list_s": "listing {count:,} images of which 1 % are annotated: CPU s",
    "list_mb": "    peak memory (MB)",
    "stale_s": "the same, and deciding that nothing is to be done: CPU s",
    "stale_mb": "    peak memory (MB)",
    "job_s": "a job's own look at the configuration: CPU s",
    "job_mb": "    peak memory (MB)",
    "files_256": "files and folders per annotated image of 256 x 256, all steps",
    "files_512": "    of 512 x 512",
    "files_1024": "    of 1024 x 1024",
    "look_us": "one look at a block of a result (microseconds)",
    "task_ms": "one task of Dask (CPU ms)",
    "item_us": "one block of many that take no time, in shared tasks (CPU us)",
    "hash_gb_s": "hashing with eight threads (GB/s)",
}


def _many_images(folder: Path, count: int) -> dict[str, float]:
    _say(f"making {count:,} names of images")
    _write_project(folder, count)
    figures: dict[str, float] = {}
    for part in ("list", "keep", "stale", "job"):
        _say({"keep": "writing what a finished step knows of them"}.get(part, f"measuring: {part}"))
        command = [sys.executable, "-c", f"from benchmarks.scale import CHILDREN; CHILDREN[{part!r}]()"]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.PIPE
        )
        if part != "keep":
            figures[f"{part}_s"], figures[f"{part}_mb"] = json.loads(done.stdout)
    return figures


def _write_project(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for kind, number in (("images", count), ("masks", max(1, int(count * ANNOTATED)))):
        place = folder / "data" / kind
        place.mkdir(parents=True)
        for first in range(0, number, LINKS):
            base = place / f"i{first:07d}.tif"
            tifffile.imwrite(base, rng.integers(0, 9, (64, 64), np.uint8), photometric="minisblack")
            for one in range(first + 1, min(first + LINKS, number)):
                os.link(base, place / f"i{one:07d}.tif")
    dataset = {
        "images": "data/images/*.tif",
        "annotations": [{"format": "labels", "path": "data/masks/{stem}.tif"}],
        "pixel_size": {"y": 0.5, "x": 0.5},
        "unmatched": "allow",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"datasets": {"screen": dataset}}))


def _config() -> Any:
    return parse_config(yaml.safe_load(Path("config.yaml").read_text()))


def _told(work: Callable[[], object]) -> None:
    """Print CPU seconds and peak memory (MB) of a piece of work, beside what the modules of the benchmark take."""
    before, begun = psutil.Process().memory_info().rss, time.process_time()
    work()
    seconds, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([seconds, max(peak - before, 0) / 1e6]))


def _list() -> None:
    check_data(_config())


def _keep() -> None:
    """Write what groundtruth knows of the files when it has ended, and its record."""
    cfg = _config()
    samples = check_data(cfg)
    jobs = Jobs(cfg, samples)
    known = {}
    for entry in [*os.scandir("data/images"), *os.scandir("data/masks")]:
        status = entry.stat()
        known[entry.path] = [status.st_size, status.st_mtime_ns, "0" * 20, []]
    stamp = jobs.results / "groundtruth" / "screen.json"
    write_atomic(stamp.with_suffix(".files.json"), json.dumps(known).encode())
    write_stamp(stamp, {"step": "groundtruth", "classes": ["cell"], "samples": {}})
    stamp.with_suffix(".zarr").mkdir()
    with recorded(jobs.described("groundtruth/screen")) as record:
        dataset = cfg.datasets["screen"]
        record.wanted = wanted_of_files(dataset, cfg.groundtruth, samples["screen"], hashes_of(stamp).seen)


def _stale() -> None:
    cfg = _config()
    if why := Jobs(cfg, check_data(cfg)).stale("groundtruth/screen"):
        sys.exit(f"expected nothing to do, but {why}")


def _job() -> None:
    Jobs(_config()).described("groundtruth/screen")


CHILDREN: dict[str, Callable[[], None]] = {
    "list": lambda: _told(_list),
    "keep": _keep,
    "stale": lambda: _told(_stale),
    "job": lambda: _told(_job),
}


def _jobs_of(shape: ZYX, block: ZYX = BLOCK) -> dict[str, PendingJob]:
    """A job of each step for one annotated image."""
    item = Sized(Sample("s", Path("s.tif"), "", None, (), "train"), (2, *shape))
    return {step: PendingJob(step, "", [item], block) for step in STEPS}


def _files_of_image(shape: ZYX) -> int:
    return sum(map(inodes_of_job, _jobs_of(shape).values()))


def _units(folder: Path) -> dict[str, float]:
    """What one look, one task and one byte cost."""
    _say("measuring looks at blocks, tasks and hashes")
    spec = Spec((1, 256 * 40, 256 * 50), "uint8", "labels", block=(1, 256, 256))
    result = begin(folder / "a.zarr" / "s", "d", spec, {})
    data = np.zeros((1, 256, 256), np.uint8)
    for index in range(BLOCKS_LOOKED_AT):
        result.write(index, data, "d")
    begun = time.process_time()
    gaps = list(Result(result.path).missing_blocks())
    look = (time.process_time() - begun) / len(spec.grid)
    assert len(gaps) == len(spec.grid) - BLOCKS_LOOKED_AT == 0
    content = os.urandom(BYTES_HASHED // 16)
    for number in range(16):
        (folder / f"{number}.bin").write_bytes(content)
    begun = time.perf_counter()
    FileHashes(folder / "hashes.json").learn((folder / f"{number}.bin", None) for number in range(16))
    return {
        "look_us": look * 1e6,
        "hash_gb_s": BYTES_HASHED / (time.perf_counter() - begun) / 1e9,
        "task_ms": _seconds_per_item(0, TASKS // 20) * 1e3,
        "item_us": _seconds_per_item(None, TASKS * 5) * 1e6,
    }


def _seconds_per_item(task_seconds: float | None, count: int) -> float:
    """CPU time of an item that takes none itself; with 0, each is a task of its own."""
    from unet_core import engine as module

    before = module.TASK_SECONDS
    module.TASK_SECONDS = before if task_seconds is None else task_seconds
    try:
        with local_engine(2) as engine, open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            begun = time.process_time()
            for _ in engine.run(abs, range(count), count, "tasks"):
                pass
            return (time.process_time() - begun) / count
    finally:
        module.TASK_SECONDS = before


def _volume(units: dict[str, float]) -> dict[str, float]:
    """Blocks, files, looks and tasks of a volume of 100 TB in each step; printed too."""
    from unet_core.engine import TASK_SECONDS

    voxels = float(np.prod([float(n) for n in VOLUME]))
    found = {"hash_h": voxels / 1e9 / units["hash_gb_s"] / 3600}
    print(f"\na volume of {TERABYTES} TB, {' x '.join(f'{n:,}' for n in VOLUME)} voxels of 8 bits")
    print(f"hash of its files, eight threads: {found['hash_h']:.3g} h; read in place: no copy of the image")
    print(f"{'step':<12} {'blocks':>12} {'files':>12} {'one look (h)':>13} {'tasks (h)':>10}")
    jobs = _jobs_of(VOLUME)
    for step in ("weights", "predict", "instances"):
        blocks, files = jobs[step].blocks, inodes_of_job(jobs[step])
        passes = 1 if step != "instances" else 2 + 2 * (Instances().fill != "none")
        looks = blocks * units["look_us"] / 1e6 / 3600
        tasks = blocks * passes * units["task_ms"] / 1e3 / 3600
        figures = {"blocks": blocks, "files": files, "look_h": looks, "tasks_h": tasks}
        found |= {f"{name}_{step}": float(value) for name, value in figures.items()}
        print(f"{step:<12} {blocks:>12,} {files:>12,} {looks:>13.3g} {tasks:>10.3g}")
    print(f"Tasks: one per block and pass; blocks that take less than {TASK_SECONDS} s share tasks.")
    return found


def _say(text: str) -> None:
    print(f"scale: {text}", flush=True)
