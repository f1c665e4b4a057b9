"""A volume larger than memory through the whole workflow, from OME-Zarr to OME-Zarr labels: rate and peak memory.

UNET_GB gigavoxels of 8 bits (default 30), 4096 x 4096 pixels per plane: blobs under noise, in which no block is like
another. A narrow network (4 to 16 channels, depth 2) learns from eight small planes of the same kind; then the workflow
segments the volume. Memory is that of Snakemake and all processes under it together, looked at twice a second. Labels
of one place where blocks meet are compared with those of cc3d in one piece. Needs about 1.3 bytes of disk per voxel in
the folder for temporary files, and on two cores about an hour; UNET_LARGE names a folder to work in, where a second
call goes on.

Goal: 30 GB with less than 4 GB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cc3d
import numpy as np
import tifffile
import yaml
from scipy import ndimage

from benchmarks.rerun import tree_memory
from unet_core.blocks import Box
from unet_core.store.store import Result, Spec, begin, details_if_done, finish

ROOT = Path(__file__).parent.parent
SIDE, BLOCK = 4096, (64, 1024, 1024)
STEPS = ("groundtruth", "predict", "instances")
LEVEL = 1.0  # of the blobs, in standard deviations


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        gigavoxels, image_gb (on the disk), peak_mb (all processes), seconds and mvox_per_s of the step predict and of
        instances, and objects.
    """
    with tempfile.TemporaryDirectory(prefix="unet-large-") as temporary:
        folder = Path(os.environ.get("UNET_LARGE", temporary))
        planes = max(BLOCK[0], round(float(os.environ.get("UNET_GB", "30")) * 1e9 / SIDE**2))
        _write_volume(folder / "volume.zarr", (planes, SIDE, SIDE))
        _write_training(folder)
        peak = _run(folder)
        return _figures(folder, planes * SIDE**2, peak)


def _write_volume(store: Path, shape: tuple[int, int, int]) -> None:
    if details_if_done(store / "volume", "volume") is not None:
        return
    blobs = np.tile(_blobs((64, 512, 512), 0), (1, BLOCK[1] // 512, BLOCK[2] // 512))
    clean = _gray(blobs)
    noise = _noise(2 * clean.size, 1)
    result = begin(store / "volume", "volume", Spec(shape, "uint8", "image", 1, block=BLOCK), {})
    start = time.perf_counter()
    for index in result.missing_blocks():
        offset = int(np.random.default_rng([2, index]).integers(clean.size))
        size = result.grid.box(index).shape
        block = clean + noise[offset : offset + clean.size].reshape(clean.shape)
        result.write(index, block[None, : size[0], : size[1], : size[2]], "volume")
        if index % 100 == 0:
            _say(f"writing the volume: block {index} of {len(result.grid)}, {time.perf_counter() - start:.0f} s")
    finish(store / "volume", "volume", {})


def _gray(blobs: np.ndarray) -> np.ndarray:
    """Few gray levels, so that an image of this size fits a small disk."""
    return np.clip(60 + 40 * blobs, 0, 200).astype(np.uint8) // 16 * 16


def _noise(size: int, seed: int) -> np.ndarray:
    """A tenth of the voxels is brighter."""
    return (np.random.default_rng(seed).random(size, np.float32) < 0.1).astype(np.uint8) * np.uint8(4)


def _blobs(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Smooth noise that fits to itself at its ends, with standard deviation 1."""
    field = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(field, (4, 8, 8), mode="wrap")
    return smooth / smooth.std()


def _write_training(folder: Path) -> None:
    blobs = _blobs((64, 512, 512), 3)[::8]
    images = _gray(blobs) + _noise(blobs.size, 4).reshape(blobs.shape)
    (folder / "planes").mkdir(parents=True, exist_ok=True)
    for number, (image, truth) in enumerate(zip(images, blobs > LEVEL, strict=True)):
        tifffile.imwrite(folder / "planes" / f"p{number}.tif", image)
        tifffile.imwrite(folder / "planes" / f"p{number}_mask.tif", (255 * truth).astype(np.uint8))
    config = {
        "datasets": {
            "planes": {
                "images": "planes/p?.tif",
                "annotations": [{"format": "binary", "path": "planes/{stem}_mask.tif"}],
                "split": {"test": ["p0"], "validation": ["p1"]},
            },
            "volume": {"images": "volume.zarr:volume", "axes": "czyx", "split": {"test": 0, "validation": 0}},
        },
        "models": {"narrow": {"train_on": ["planes"], "predict_on": ["planes", "volume"]}},
        "train": {"preset": "small", "network": {"depth": 2, "width": 4}, "steps": 400},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _run(folder: Path) -> float:
    """Run the workflow; peak memory of all its processes in MB, with that of earlier calls in the same folder."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--configfile",
        "config.yaml",
        "--cores",
        "2",
    ]
    note = folder / "peak.txt"
    peak = float(note.read_text()) if note.exists() else 0.0
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        shown = time.monotonic()
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid) / 1e6)
            if time.monotonic() > shown + 60:
                shown = time.monotonic()
                note.write_text(str(peak))
                _say(f"peak {peak:.0f} MB; {_last_line(folder)}")
            time.sleep(0.5)
    note.write_text(str(peak))
    if process.returncode:
        sys.exit(f"the workflow failed; see {folder / 'output.txt'}")
    return peak


def _last_line(folder: Path) -> str:
    logs = sorted((folder / "results" / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text(errors="replace").replace("\r", "\n").strip().rpartition("\n")[2][:110] if logs else ""


def _figures(folder: Path, voxels: int, peak: float) -> dict[str, float]:
    results = folder / "results"
    figures = {"gigavoxels": voxels / 1e9, "image_gb": _size(folder / "volume.zarr") / 1e9, "peak_mb": peak}
    for step in STEPS:
        place = "groundtruth/volume" if step == "groundtruth" else f"{step}/narrow/volume"
        seconds = json.loads((results / "benchmarks" / f"{place}.jsonl").read_text().splitlines()[-1])["s"]
        figures |= {f"{step}_s": seconds, f"{step}_mvox_per_s": voxels / 1e6 / seconds}
        store = results / f"{place}.zarr"
        figures[f"{step}_gb"] = _size(store) / 1e9 if store.exists() else 0.0
    figures["objects"] = json.loads((results / "instances" / "narrow" / "volume.json").read_text())["samples"][
        "volume"
    ]["objects"]
    _check(results)
    print(f"\n{'what':<16} {'figure':>10}")
    for key, value in figures.items():
        print(f"{key:<16} {value:>10.4g}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def _check(results: Path) -> None:
    """Where blocks meet, labels must part the foreground as cc3d does in one piece."""
    probabilities, labels = (
        Result(results / step / "narrow" / "volume.zarr" / "volume") for step in ("predict", "instances")
    )
    middle = [
        max(block, n // 2 // block * block) for n, block in zip(labels.grid.shape, labels.grid.block, strict=True)
    ]
    start, stop = (tuple(max(0, at + offset) for at in middle) for offset in (-40, 200))
    box = Box(start, stop).clip(labels.grid.shape)  # type: ignore[arg-type]
    ours = labels.read(box)
    foreground = probabilities.read(box)[0] > 127
    if not np.array_equal(ours > 0, foreground):
        sys.exit(f"labels are not where the probability is above one half, in {box}")
    theirs = cc3d.connected_components(foreground, connectivity=6)
    pairs = np.unique(np.stack([theirs[foreground], ours[foreground]]), axis=1)
    # Pieces in the box may be one object by a way around it, but no piece is two objects.
    if len(pairs.T) != theirs.max():
        sys.exit(f"labels differ from those of cc3d in {box}")
    _say(f"checked: {theirs.max()} pieces of objects in {box.shape} voxels where blocks meet")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say(text: str) -> None:
    print(f"large: {text}", flush=True)
