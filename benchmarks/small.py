"""Many small images: how busy the steps weights, instances and evaluate keep two cores, and what an image costs.

200 images of 256 x 256 pixels with 30 touching cells each go through the three steps, with two workers. What is found
is the truth, blurred; with holes to fill. Each step is measured by itself, once its code is compiled and in memory.

Goals: 90 % of both cores, with nothing else to do; at most 50 ms of CPU time per image in all three steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.weights import _quiet, cells
from unet_core.config.datasets import Dataset, Weights
from unet_core.config.instances import Instances
from unet_core.config.options import Evaluate
from unet_core.engine import Engine, local_engine
from unet_core.evaluate.step import evaluate_samples
from unet_core.instances.step import make_instances
from unet_core.runtime import write_stamp
from unet_core.store.store import Spec, begin, finish
from unet_core.weights.step import make_weights

SIDE, OBJECTS, IMAGES, WORKERS = 256, 30, 200, 2
STEPS = ("weights", "instances", "evaluate")


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        core_share_small: CPU time of the three steps over what two cores have in their time; ms_per_small_image: wall
        milliseconds per image, of the three steps; the same of each step (``core_share_weights`` ...), and
        cpu_ms_per_small_image (``cpu_ms_weights`` ...), the CPU time, which other work on the machine changes less.
    """
    wall, cpu = {}, {}
    with tempfile.TemporaryDirectory(prefix="unet-small-") as temporary, _quiet(), local_engine(WORKERS) as engine:
        warm, folder = Path(temporary) / "warm", Path(temporary) / "all"
        for place, images in ((warm, 4), (folder, IMAGES)):
            _write(place, images)
            for name, step in _steps(place, engine).items():
                began = time.perf_counter(), time.process_time()
                step()
                wall[name], cpu[name] = time.perf_counter() - began[0], time.process_time() - began[1]
    figures = {
        "core_share_small": sum(cpu.values()) / sum(wall.values()) / WORKERS,
        "ms_per_small_image": sum(wall.values()) / IMAGES * 1e3,
        "cpu_ms_per_small_image": sum(cpu.values()) / IMAGES * 1e3,
    }
    for name in STEPS:
        figures[f"core_share_{name}"] = cpu[name] / wall[name] / WORKERS
        figures[f"ms_{name}"], figures[f"cpu_ms_{name}"] = (part[name] / IMAGES * 1e3 for part in (wall, cpu))
    print(f"\n{'what':<48} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<48} {figures[key]:>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("core_share_small", "share of two cores, all three steps", "0.9"),
    *((f"core_share_{name}", f"    {name}", "") for name in STEPS),
    ("ms_per_small_image", "milliseconds per image, all three steps", ""),
    *((f"ms_{name}", f"    {name}", "") for name in STEPS),
    ("cpu_ms_per_small_image", "CPU milliseconds per image, all three steps", "50"),
    *((f"cpu_ms_{name}", f"    {name}", "") for name in STEPS),
)


def _write(folder: Path, images: int) -> None:
    """Labels and probabilities, as the steps groundtruth and predict leave them."""
    wide = cells((SIDE, SIDE * 8), OBJECTS * 8)
    truth, predicted = {}, {}
    for number in range(images):
        name, labels = f"s{number}", np.roll(wide, 37 * number, axis=2)[..., :SIDE]
        parts = {"instances": labels, "classes": (labels > 0).astype(np.uint8), "ignore": np.zeros_like(labels, "u1")}
        gray = (80 * (labels > 0) + labels % 50).astype(np.uint8)
        _put(folder / "groundtruth" / "cells.zarr" / name, gray[None], "image")
        for part, array in parts.items():
            _put(folder / "groundtruth" / "cells.zarr" / name / "labels" / part, array, "labels")
        seen = ndimage.gaussian_filter((labels > 0).astype(np.float32), (0, 2, 2))
        _put(folder / "predict" / "cells.zarr" / name, np.rint(255 * seen).astype(np.uint8)[None], "image")
        truth[name], predicted[name] = {"split": "test", "image": "d", "labels": "d"}, {"split": "test", "digest": "d"}
    write_stamp(folder / "groundtruth" / "cells.json", {"classes": ["cell"], "samples": truth})
    write_stamp(folder / "predict" / "cells.json", {"classes": ["cell"], "dtype": "uint8", "samples": predicted})
    write_stamp(folder / "train" / "unet.json", {"weights": "w"})


def _put(path: Path, array: np.ndarray, kind: str) -> None:
    channels = len(array) if kind == "image" else None
    result = begin(path, "d", Spec(array.shape[-3:], array.dtype.name, kind, channels), {})  # type: ignore[arg-type]
    result.write(0, array, "d")
    finish(path, "d", {})


def _steps(folder: Path, engine: Engine) -> dict[str, Callable[[], None]]:
    truth, truth_store = folder / "groundtruth" / "cells.json", folder / "groundtruth" / "cells.zarr"
    instances, store = folder / "instances" / "cells.json", folder / "instances" / "cells.zarr"
    probabilities, tables = folder / "predict" / "cells.zarr", folder / "instances" / "cells"
    scores = folder / "evaluate" / "cells"
    return {
        "weights": lambda: make_weights(
            Weights(), Dataset(images="none"), groundtruth=truth, truth_store=truth_store, engine=engine,
            store=folder / "weights" / "cells.zarr", stamp=folder / "weights" / "cells.json",
        ),
        "instances": lambda: make_instances(
            Instances(), predict=probabilities.with_suffix(".json"), probabilities=probabilities,
            groundtruth=truth, store=store, tables=tables, stamp=instances, engine=engine,
        ),
        "evaluate": lambda: evaluate_samples(
            Evaluate(), model=folder / "train" / "unet.json", groundtruth=truth, truth_store=truth_store,
            instances=instances, instance_store=store, tables=tables, folder=scores,
            history=folder / "evaluate" / "history.jsonl", stamp=scores.with_suffix(".json"), engine=engine,
        ),
    }  # fmt: skip
