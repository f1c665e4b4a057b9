"""Accidents, many of them: SIGKILL at random moments, a full disk, damaged files; the results must be the same.

A small project is made in a temporary folder, and run once to its end. Then

- *kills*: the same run, killed with all its processes at a random moment and called again, until it ends; and again;
- *full*: the same run in a file system (tmpfs, as root) with room for a random part of what it writes; after each
  failure there is room again for a random part;
- *damages*: in the finished project one file is damaged: a bit flipped, cut short, emptied, deleted, or swapped with
  another. ``verify`` or the next run must find it; ``verify --mend`` and the next run must make the same files.

Tables and voxels at the end are compared with those of the first run, byte by byte.

``UNET_ATTACKS="kills=200 full=50 damages=30 seed=1"`` sets the counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

ROOT = Path(__file__).parent.parent
COUNTS = {"kills": 200, "full": 50, "damages": 30, "seed": 1}
CONFIG: dict[str, Any] = {
    "datasets": {
        "cells": {
            "images": "data/images/*.tif",
            "pixel_size": {"y": 0.5, "x": 0.5},
            "annotations": [{"format": "labels", "path": "data/masks/{stem}.tif"}],
            "split": {"test": ["i0", "i1"], "validation": ["i2"]},
        }
    },
    "train": {
        "network": {"depth": 1, "width": 4, "dropout": 0, "norm": "batch"},
        **{"tile": 60, "batch": 2, "steps": 40, "optimiser": "adamw", "learning_rate": 0.01, "validate_every": 10},
        "precision": "float32",
    },
    "predict": {"precision": "float32"},
}
# What is not a result: logs and costs, what is remembered of files, what says when something was made, and copies of
# damaged files.
NOT_COMPARED = re.compile(
    r"(logs|benchmarks|records|tensorboard|history)/|\.files\.json$|report\.html$|\.lock$|\.damaged$"
)
# In attributes of stores, stamps of evaluations and descriptions of models.
TIMES = re.compile(rb'"(time|seconds|generation|checksum)": ?("[^"]*"|[\d.]+)')


class Project:
    """A folder with data, a configuration and results."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        # What the longest run took.
        self.seconds = 0.0

    def make(self, images: int = 6) -> None:
        """Write images of disks, their masks and the configuration."""
        rng, grid = np.random.default_rng(0), np.mgrid[:130, :150]
        for number in range(images):
            labels = np.zeros((130, 150), np.uint16)
            for label, (y, x) in enumerate(rng.uniform(10, 120, (12, 2)), start=1):
                labels[(grid[0] - y) ** 2 + (grid[1] - x) ** 2 < 80] = label
            image = (20 + 150 * (labels > 0) + rng.normal(0, 20, labels.shape)).clip(0, 255).astype(np.uint8)
            for kind, array in (("images", image), ("masks", labels)):
                (self.folder / "data" / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(self.folder / "data" / kind / f"i{number}.tif", array, photometric="minisblack")
        (self.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake in a group of processes of its own."""
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "Snakefile"),
            "--cores",
            "2",
            *arguments,
        ]
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, text=True
            )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run Snakemake to its end; its status, and what it said."""
        (self.folder / "output.txt").unlink(missing_ok=True)
        status = self.start(*arguments).wait()
        return status, (self.folder / "output.txt").read_text(errors="replace")

    def finish(self) -> str:
        """Run Snakemake to a good end, as a user would whose last run was killed."""
        self.run("--unlock")
        begun = time.monotonic()
        status, output = self.run()
        self.seconds = max(self.seconds, time.monotonic() - begun)
        if status:
            sys.exit(f"attacks: the run failed:\n{output}")
        return output

    def content(self) -> dict[str, str]:
        """Hash of each file of the results that is compared."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results).as_posix()
            if path.is_file() and not NOT_COMPARED.search(name):
                found[name] = hashlib.sha256(TIMES.sub(b"", path.read_bytes())).hexdigest()[:16]
        return found

    def clear(self) -> None:
        """Delete what is in the folder of results."""
        for path in self.results.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Files that are not the same."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def kills(project: Project, count: int, rng: random.Random) -> dict[str, Any]:
    """Kill runs at random moments."""
    expected, whole = project.content(), project.seconds
    done, ends, wrong = 0, 0, set[str]()
    project.clear()
    while done < count:
        process = project.start()
        try:
            process.wait(rng.uniform(0, whole))
            project.run("--unlock")
            ended = project.run()[0] == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            ended = False
            project.run("--unlock")
        if ended:
            different = differences(expected, project.content())
            wrong |= {*different}
            ends += 1
            project.clear()
            print(
                f"attacks: {done} kills, {ends} runs came to their end, {len(wrong)} files differ",
                *([f"now {', '.join(different[:9])}"] if different else []),
                flush=True,
            )
    project.finish()
    wrong |= {*differences(expected, project.content())}
    return {"kills": done, "kill_ends": ends + 1, "kill_differences": sorted(wrong)}


def full(project: Project, count: int, rng: random.Random) -> dict[str, Any]:
    """Run where there is too little room."""
    expected = project.content()
    kept = project.folder / "kept"
    project.results.rename(kept)
    project.results.mkdir()
    size = sum(path.stat().st_blocks * 512 for path in kept.rglob("*") if path.is_file())
    options = f"size={3 * size},nr_inodes=100000"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", project.results], capture_output=True
    ).returncode:
        project.results.rmdir()
        kept.rename(project.results)
        return {"full": "not tried: mounting needs root"}
    bad, failed, wrong = [], 0, set[str]()
    filler = project.results / "filler"
    try:
        while failed < count:
            room = rng.randrange(0, size + size // 4)
            free = os.statvfs(project.results)
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
            status, output = project.run()
            filler.unlink()
            if status:
                failed += 1
                told = re.search(r"results/\S*: no space is left|No space left on device", output)
                if not told or "Traceback" in output or "a fault of the pipeline" in output:
                    bad.append(next((line for line in output.splitlines() if "rror" in line), output[-300:]))
            else:
                wrong |= {*differences(expected, project.content())}
                project.clear()
        project.finish()
        wrong |= {*differences(expected, project.content())}
    finally:
        subprocess.run(["umount", project.results], check=True)
        project.results.rmdir()
        kept.rename(project.results)
    return {"full": failed, "full_unclear": len(bad), "full_differences": sorted(wrong), "full_said": bad[:3]}


def damages(project: Project, count: int, rng: random.Random) -> dict[str, Any]:
    """Damage one file after the other."""
    expected, missed, wrong, kinds = project.content(), [], set[str](), dict[str, int]()
    kept = project.folder / "kept"
    shutil.copytree(project.results, kept)
    files = [name for name in expected if not name.startswith(("report/",))]
    for number in range(count):
        name = rng.choice(files)
        path, how = project.results / name, rng.choice(["flip", "cut", "empty", "delete", "swap"])
        others = [
            other
            for other in files
            if other != name and Path(other).name == path.name and other.split("/")[0] == name.split("/")[0]
        ]
        if not damage(path, how, [project.results / other for other in others], rng):
            continue
        kinds[how] = kinds.get(how, 0) + 1
        verify = [sys.executable, "-m", "unet_core", "verify", "results"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        found = subprocess.run(verify, cwd=project.folder, env=environment, capture_output=True, text=True)
        planned = project.run("--dry-run")[1]
        if not found.returncode and "Nothing to be done" in planned:
            missed.append(f"{how} {name}")
        subprocess.run([*verify, "--mend"], cwd=project.folder, env=environment, capture_output=True)
        status, output = project.run()
        different = differences(expected, project.content())
        if status or different:
            wrong |= {f"{how} {name}: {different[:4]} {output[-500:] if status else ''}"}
            shutil.rmtree(project.results)
            shutil.copytree(kept, project.results)
        print(f"attacks: {number + 1} damages, {len(missed)} missed, {len(wrong)} not mended", flush=True)
    shutil.rmtree(kept)
    return {
        "damages": sum(kinds.values()),
        "damage_kinds": kinds,
        "damage_missed": missed,
        "damage_wrong": sorted(wrong),
    }


def damage(path: Path, how: str, others: list[Path], rng: random.Random) -> bool:
    """Damage a file; whether that changed it."""
    before = path.read_bytes()
    after = before
    if how == "flip" and before:
        place = rng.randrange(len(before))
        after = before[:place] + bytes([before[place] ^ 1 << rng.randrange(8)]) + before[place + 1 :]
    elif how == "cut":
        after = before[: rng.randrange(max(1, len(before)))]
    elif how == "empty":
        after = b""
    elif how == "swap" and others:
        other = rng.choice(others)
        after = other.read_bytes()
        other.write_bytes(before)
    elif how == "delete":
        path.unlink()
        return True
    path.write_bytes(after)
    return after != before


def counts() -> dict[str, int]:
    """How many of each kind are to be tried."""
    given = dict(part.split("=") for part in os.environ.get("UNET_ATTACKS", "").split())
    return COUNTS | {key: int(value) for key, value in given.items()}


def measure() -> dict[str, Any]:
    """Run the attacks.

    Returns
    -------
    dict
        How many of each kind were tried, what differed at the end, and which damages were not found.
    """
    rng = random.Random(counts()["seed"])
    with tempfile.TemporaryDirectory(prefix="unet-attacks-") as temporary, contextlib.chdir(temporary):
        project = Project(Path(temporary))
        project.make()
        project.finish()
        found: dict[str, Any] = {}
        for name, attack in (("damages", damages), ("full", full), ("kills", kills)):
            if counts()[name]:
                found |= attack(project, counts()[name], rng)
    print(json.dumps(found, indent=1))
    return found
