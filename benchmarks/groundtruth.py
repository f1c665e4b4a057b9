"""What annotations cost: 10,000 polygons, 1,000 images with run-lengths, and a look at 10,000 unchanged samples.

- polygons: a GeoJSON file of 10,000 polygons of 24 points is read, painted into 4096 x 4096 pixels, and checked; beside
  it the same polygons by scikit-image's `draw.polygon`, one by one, from memory.
- run-lengths: 1,000 images of 256 x 256 pixels with 20 objects each and a table of run-lengths go into the store.
- unchanged: the step on 10,000 samples that are all done (the store of the 1,000 under ten names, by hard links).

Goals, on 2 cores: 2 s without the check, 30 s, and 5 s.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from skimage import draw

from unet_core.annotations import geojson
from unet_core.blocks import Grid
from unet_core.config.datasets import Annotation, Dataset
from unet_core.config.options import Groundtruth
from unet_core.demo import run_lengths
from unet_core.engine import local_engine
from unet_core.groundtruth.canvas import Canvas
from unet_core.groundtruth.check.lint import findings_of
from unet_core.groundtruth.check.tally import Tally
from unet_core.groundtruth.label_volumes import Painted
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.store.store import BLOCK

SIDE, POLYGONS, POINTS = 4096, 10_000, 24
IMAGES, SMALL, OBJECTS, NAMES = 1000, 256, 20, 10


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        polygons_s, check_s: reading and painting 10,000 polygons, and checking them; x_skimage: time of scikit-image
        for the polygons alone over ours for all of reading and painting; rle_s: 1,000 images with run-lengths into the
        store; unchanged_s: the step on 10,000 samples that are done.
    """
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="unet-groundtruth-") as temporary:
        figures = _polygons(Path(temporary)) | _samples(Path(temporary) / "many")
    print(f"\n{'what':<72} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<72} {figures[key]:>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("polygons_s", "10,000 polygons of GeoJSON into 4096 x 4096 pixels (s)", "2"),
    ("x_skimage", "    scikit-image's draw.polygon over that", ""),
    ("check_s", "    the check of them (s)", ""),
    ("rle_s", "1,000 images of 256 x 256 with a table of run-lengths into the store (s)", "30"),
    ("unchanged_s", "10,000 samples that are done (s)", "5"),
)


def _polygons(folder: Path) -> dict[str, float]:
    random = np.random.default_rng(0)
    cell, per_row = SIDE / 100, 100
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    rings = []
    for number in range(POLYGONS):
        centre = (np.array([number % per_row, number // per_row]) + 0.5) * cell
        radii = random.uniform(0.25, 0.48, POINTS) * cell
        rings.append(centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring.round(2).tolist()]}} for ring in rings
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    source = Annotation(format="geojson", path="a.geojson")
    seconds, checks, peers = [], [], []
    for _ in range(3):
        start = time.perf_counter()
        canvas = Canvas((1, SIDE, SIDE), "error")
        for layer in geojson.read((folder / "a.geojson",), ("a", None), (1, SIDE, SIDE), source):
            canvas.add(layer, 1)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        tally = Tally(canvas.shape)
        for piece in Painted(canvas).pieces(Grid(canvas.shape, BLOCK)):
            tally.add(piece.box, piece.canvas.instances, piece.canvas.ignore, piece.inner)
        findings_of(tally.counts(), canvas.shape, canvas.instances[0], np.zeros((SIDE, SIDE), np.uint8), canvas)
        checks.append(time.perf_counter() - start)
        start = time.perf_counter()
        labels = np.zeros((SIDE, SIDE), np.uint32)
        for number, ring in enumerate(rings, start=1):
            labels[draw.polygon(ring[:, 1], ring[:, 0], labels.shape)] = number
        peers.append(time.perf_counter() - start)
    return {"polygons_s": min(seconds), "check_s": min(checks), "x_skimage": min(peers) / min(seconds)}


def _samples(folder: Path) -> dict[str, float]:
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = {}
    for number in range(IMAGES):
        labels = np.zeros((SMALL, SMALL), np.uint8)
        places = random.permutation(64)[:OBJECTS]
        for index, place in enumerate(places, start=1):
            y, x = place // 8 * 32 + 4, place % 8 * 32 + 4
            labels[y : y + random.integers(10, 24), x : x + random.integers(10, 24)] = index
        gray = random.normal(100, 10, labels.shape) + 50 * (labels > 0)
        tifffile.imwrite(folder / "images" / f"0_{number:04}.tif", np.clip(gray, 0, 255).astype(np.uint8))
        rows[number] = [run_lengths(labels == index) for index in range(1, OBJECTS + 1)]
    figures = {"rle_s": _convert(folder, rows, 1)}
    for copy in range(1, NAMES):
        for number in range(IMAGES):
            os.link(folder / "images" / f"0_{number:04}.tif", folder / "images" / f"{copy}_{number:04}.tif")
            one, other = (folder / "a.zarr" / f"{start}_{number:04}" for start in (0, copy))
            shutil.copytree(one, other, copy_function=os.link)
    _convert(folder, rows, NAMES)
    return figures | {"unchanged_s": min(_convert(folder, rows, NAMES) for _ in range(3))}


def _convert(folder: Path, rows: dict[int, list[str]], names: int) -> float:
    """Seconds of the step."""
    lines = [
        f"{copy}_{number:04},{runs}" for copy in range(names) for number, several in rows.items() for runs in several
    ]
    text = "\n".join(["ImageId,EncodedPixels", *lines]) + "\n"
    if not (folder / "table.csv").is_file() or (folder / "table.csv").stat().st_size != len(text):
        (folder / "table.csv").write_text(text, encoding="utf-8")
    raw = {"images": f"{folder}/images/*.tif", "annotations": [{"format": "rle", "path": f"{folder}/table.csv"}]}
    with local_engine(2) as engine:
        start = time.perf_counter()
        cfg = Dataset.model_validate(raw)
        samples = find_samples(cfg)[0]
        convert_groundtruth(
            cfg, Groundtruth(), samples, store=folder / "a.zarr", stamp=folder / "a.json", engine=engine
        )
        return time.perf_counter() - start
