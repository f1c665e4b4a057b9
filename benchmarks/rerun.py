"""What a run costs that has nothing to do, or one annotation of 1,000: time and memory of Snakemake and of the steps.

Everything is made in a temporary folder, of images of 64 x 64 pixels:

- 1,000 images in one data set. The steps groundtruth and weights are really run: in full, and after the annotation of
  one image was changed. Their times are those of Snakemake's benchmark files: one process per step, from its start.
  What the same two processes take where all is done, in a data set of one image, is called their start.
- 10,000 images in five data sets, one for each format of annotations. Images and annotations are real. Of the results
  there are only the stamps, with the entries that the 1,000 images got, and the records of the jobs, because a run that
  has nothing to do looks at nothing else.

Goals: a run that has nothing to do takes at most 10 s and 400 MB; one annotation of 1,000 at most 3 % of the full run,
beside the start.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import yaml

from unet_core.config.parse import parse_config
from unet_core.demo import run_lengths
from unet_core.files import write_atomic
from unet_core.groundtruth.contents import wanted_of_files, with_contents
from unet_core.groundtruth.samples import check_data
from unet_core.groundtruth.step import hashes_of
from unet_core.jobs import Jobs
from unet_core.records import recorded
from unet_core.runtime import write_stamp

ROOT = Path(__file__).parent.parent
SLURM = ROOT / "profiles" / "slurm"
SIDE, OBJECTS = 64, 4
FORMATS = ("labels", "ctc", "rle", "masks", "boundaries")
IMAGES_PER_SET, IMAGES_OF_ONE_SET, REPEATS = 2000, 1000, 3
PATHS = {
    "labels": "labels/{stem}.tif",
    "ctc": "01_GT",
    "rle": "table.csv",
    "masks": "masks/{stem}/*.png",
    "boundaries": "membranes/{stem}.tif",
}
QUARTERS = SIDE // 2 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        noop_s, noop_mb: wall time (median of three) and peak memory of all processes of a run with nothing to do on
        10,000 images; noop_touched_s: the same after all files were touched; noop_slurm_s, noop_slurm_mb: with the
        profile for SLURM, where there is one; frac_one_of_1000: time of groundtruth and weights after one annotation
        was changed, less their start, as a fraction of the full run; full_s, one_s, start_s: the times behind it.
    """
    with tempfile.TemporaryDirectory(prefix="unet-rerun-") as temporary:
        one, entries = _one_of_many(Path(temporary))
        figures = one | _nothing_to_do(Path(temporary) / "many", entries)
    print(f"\n{'what':<72} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        if key in figures:
            print(f"{text:<72} {figures[key]:>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("noop_s", "nothing to do, 10,000 images in 5 data sets: wall time (s)", "10"),
    ("noop_mb", "    peak memory of all its processes (MB)", "400"),
    ("noop_slurm_s", "    wall time with the profile for SLURM (s)", "10"),
    ("noop_slurm_mb", "    peak memory with the profile for SLURM (MB)", "400"),
    ("noop_touched_s", "    wall time after all files were touched (s)", ""),
    ("full_s", "groundtruth and weights of 1,000 images (s)", ""),
    ("one_s", "    after one annotation was changed (s)", ""),
    ("start_s", "    of which start of two processes (s)", ""),
    ("frac_one_of_1000", "    (one - start) / full", "0.03"),
)


def _one_of_many(folder: Path) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Times of groundtruth and weights, and an entry of each of their stamps."""
    small, large = folder / "single", folder / "thousand"
    for project, count in ((small, 1), (large, IMAGES_OF_ONE_SET)):
        _write_project(project, {"cells": "labels"}, count)
    target = "results/weights/cells.json"
    _snakemake(small, target)
    _snakemake(small, target, "--forcerun", "groundtruth")
    start = _seconds_of_steps(small)
    _say(f"full run of groundtruth and weights on {IMAGES_OF_ONE_SET:,} images")
    _snakemake(large, target)
    full = _seconds_of_steps(large)
    label_image = large / "data" / "cells" / PATHS["labels"].format(stem="t0007")
    labels = tifffile.imread(label_image)
    labels[labels == 1] = 0
    tifffile.imwrite(label_image, labels, photometric="minisblack")
    _snakemake(large, target)
    one = _seconds_of_steps(large)
    _check((large / "results/logs/groundtruth/cells.log").read_text(), "0 images and 1 annotations converted")
    _check((large / "results/logs/weights/cells.log").read_text(), "1 made")
    stamps = {
        step: json.loads((large / "results" / step / "cells.json").read_text()) for step in ("groundtruth", "weights")
    }
    entries = {step: stamp["samples"]["t0007"] for step, stamp in stamps.items()}
    return {"full_s": full, "one_s": one, "start_s": start, "frac_one_of_1000": (one - start) / full}, entries


def _nothing_to_do(folder: Path, entries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Time and memory of runs on a finished project that have nothing to do."""
    _say(f"writing {len(FORMATS) * IMAGES_PER_SET:,} images with annotations")
    _write_project(folder, {f"set_{name}": name for name in FORMATS}, IMAGES_PER_SET)
    _write_stamps(folder / "results", entries)
    _write_records(folder)
    _say("runs with nothing to do")
    times, memory = zip(*(_snakemake(folder, expect="Nothing to be done") for _ in range(REPEATS)), strict=True)
    figures = {"noop_s": statistics.median(times), "noop_mb": max(memory)}
    if SLURM.is_dir() and importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        figures["noop_slurm_s"], figures["noop_slurm_mb"] = _snakemake(
            folder, "--profile", str(SLURM), expect="Nothing to be done"
        )
    for path in (folder / "data").rglob("*"):
        path.touch()
    figures["noop_touched_s"] = _snakemake(folder, expect="Nothing to be done")[0]
    # The measurement would be worth nothing if Snakemake did not look.
    changed = folder / "data" / "set_labels" / PATHS["labels"].format(stem="t0000")
    tifffile.imwrite(changed, np.zeros((SIDE, SIDE), np.uint16), photometric="minisblack")
    _snakemake(folder, "--dry-run", "results/groundtruth/set_labels.json", expect="groundtruth: set_labels")
    return figures


def _snakemake(folder: Path, *arguments: str, expect: str = "") -> tuple[float, float]:
    """Run Snakemake in a project; wall seconds, and peak memory of it and its processes in MB."""
    snakefile = str(ROOT / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, *arguments, "--configfile", "config.yaml"]
    output = folder / "output.txt"
    with output.open("w") as file:
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
    text = output.read_text()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    _check(text, expect)
    return seconds, peak / 1e6


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and all under it; those that end meanwhile do not count."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _seconds_of_steps(folder: Path) -> float:
    files = [folder / "results" / "benchmarks" / step / "cells.jsonl" for step in ("groundtruth", "weights")]
    return sum(float(json.loads(path.read_text().splitlines()[0])["s"]) for path in files)


def _check(text: str, expected: str) -> None:
    if expected not in text:
        sys.exit(f"expected {expected!r}, but found:\n{text}")


def _say(text: str) -> None:
    print(f"rerun: {text}", flush=True)


def _write_project(folder: Path, sets: dict[str, str], count: int) -> None:
    """Images, annotations and configuration."""
    rng = np.random.default_rng(0)
    datasets = {}
    for name, kind in sets.items():
        place = folder / "data" / name
        _write_images(rng, place, kind, [f"t{number:04d}" for number in range(count)])
        source = {"format": kind, "path": f"data/{name}/{PATHS[kind]}"}
        split = {"test": 0.2, "validation": 0.1} if count > 1 else {"test": 0, "validation": 0}
        datasets[name] = {"images": f"data/{name}/images/*.tif", "annotations": [source], "split": split}
    models = {"one": {"train_on": list(sets), "predict_on": list(sets)}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"datasets": datasets, "models": models}))


def _write_images(rng: np.random.Generator, place: Path, kind: str, names: Iterable[str]) -> None:
    rows = [("ImageId", "EncodedPixels")]
    for name in names:
        labels = np.zeros((SIDE, SIDE), np.uint16)
        # One object in each quarter, so that none is hidden.
        for label, (y, x) in enumerate(QUARTERS + rng.integers(2, SIDE // 2 - 12, (OBJECTS, 2)), start=1):
            labels[y : y + 10, x : x + 10] = label
        _write(
            place / "images" / f"{name}.tif", ((labels > 0) * 100 + rng.integers(0, 60, labels.shape)).astype(np.uint8)
        )
        if kind == "labels":
            _write(place / "labels" / f"{name}.tif", labels)
        elif kind == "ctc":
            _write(place / "01_GT" / "SEG" / f"man_seg{name[1:]}.tif", labels)
        elif kind == "boundaries":
            _write(place / "membranes" / f"{name}.tif", np.where(labels > 0, 255, 0).astype(np.uint8))
        else:
            masks = [labels == label for label in range(1, OBJECTS + 1)]
            rows += [(name, run_lengths(mask)) for mask in masks]
            for number, mask in enumerate(masks if kind == "masks" else ()):
                _write(place / "masks" / name / f"{number}.png", mask.astype(np.uint8))
    if kind == "rle":
        with (place / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(image))
    else:
        tifffile.imwrite(path, image, photometric="minisblack")


def _write_stamps(results: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Stamps of all steps, as long as real ones."""
    names = [f"t{number:04d}" for number in range(IMAGES_PER_SET)]
    sets = [f"set_{name}" for name in FORMATS]
    brief = {"split": "train", "digest": entries["weights"]["digest"]}
    for name in sets:
        for step, entry in entries.items():
            stamp = {"step": step, "classes": ["cell"], "samples": dict.fromkeys(names, entry)}
            write_stamp(results / step / f"{name}.json", stamp)
        for step in ("predict", "instances", "evaluate"):
            write_stamp(results / step / "one" / f"{name}.json", {"step": step, "samples": dict.fromkeys(names, brief)})
    norm = {"offset": [12.0], "scale": [0.006711409395973154]}
    write_stamp(
        results / "plan" / "one.json",
        {"step": "plan", "samples": {f"{s}/{name}": norm for s in sets for name in names}},
    )
    write_stamp(results / "train" / "one.json", {"step": "train", "digest": brief["digest"]})
    write_stamp(results / "evaluate" / "history" / "one" / "gate.json", {"step": "gate"})
    shutil.rmtree(results / "logs", ignore_errors=True)


def _write_records(folder: Path) -> None:
    """What else a finished project has that is looked at: records of its jobs, models, tables, and empty stores."""
    with contextlib.chdir(folder):
        cfg = parse_config(yaml.safe_load(Path("config.yaml").read_text()))
        samples = check_data(cfg)
        jobs = Jobs(cfg, samples)
        for name, job in jobs.all.items():
            for path in map(jobs.results.joinpath, job.outputs[1:] if name != "report" else job.outputs):
                write_atomic(path, b"", durable=False)
            for store in job.stores:
                (jobs.results / store).mkdir(parents=True, exist_ok=True)
            with recorded(jobs.described(name)) as record:
                step, _, dataset = name.partition("/")
                if step == "groundtruth":
                    hashes = hashes_of(jobs.results / "groundtruth" / f"{dataset}.json")
                    for sample in samples[dataset]:
                        with_contents(sample, hashes.of)
                    hashes.save()
                    record.wanted = wanted_of_files(
                        cfg.datasets[dataset], cfg.groundtruth, samples[dataset], hashes.seen
                    )
