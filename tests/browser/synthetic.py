"""A made-up run: stores, stamps and tables as the steps write them, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unet_core.config.options import Evaluate, Report
from unet_core.engine import local_engine
from unet_core.evaluate.history import keep_evaluation, read_history, read_images
from unet_core.evaluate.step import evaluate_samples
from unet_core.report.step import make_report
from unet_core.store.store import Spec, begin, finish

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
MODEL = "cells"


def write_results(folder: Path, images: int, side: int, previews: int = 3) -> Path:
    """Write the results of a run on noisy images, half as many again of them without annotation, and its page.

    Parameters
    ----------
    folder : Path
        Gets ``results``.
    images, side : int
        Number of scored images, and their sides in pixels.
    previews : int
        As the option of the report.

    Returns
    -------
    Path
        The page.
    """
    results, rng = folder / "results", np.random.default_rng(0)
    truth: dict[str, Any] = {}
    names = [HOSTILE, *(f"image_{number:03d}" for number in range(1, images))]
    for name in [*names, *(f"new_{number:03d}" for number in range(max(2, images // 2)))]:
        annotated = name in names
        _write_sample(results, name, side, annotated, rng)
        truth[name] = {
            "split": "test" if annotated else "unannotated",
            "image": "d",
            "labels": "d" if annotated else None,
        }
    _stamp(results / "groundtruth/cells.json", {"classes": ["cell"], "samples": truth})
    _stamp(
        results / "predict/cells/cells.json",
        {"dtype": "uint8", "samples": {name: _predicted(entry) for name, entry in truth.items()}},
    )
    _stamp(
        results / "instances/cells/cells.json",
        {"samples": {name: {"split": entry["split"], "digest": "d"} for name, entry in truth.items()}},
    )
    _write_model(results)
    _evaluate(results)
    make_report(
        Report(previews=previews),
        evaluations={(MODEL, "cells"): results / "evaluate/cells/cells.json"},
        predictions=[(MODEL, "cells")],
        jobs={"train": [MODEL]},
        config={"results": "results", "note": HOSTILE},
        results=results,
        folder=results / "report",
    )
    return results / "report" / "report.html"


def _predicted(entry: dict[str, Any]) -> dict[str, Any]:
    return {"split": entry["split"], "digest": "d", "audit": {"windows": 4, "across": 0.002, "inside": 0.001}}


def _write_sample(results: Path, name: str, side: int, annotated: bool, rng: np.random.Generator) -> None:
    y, x = np.mgrid[:side, :side]
    cell = (y // 24) * (side // 24 + 1) + x // 24 + 1
    inside = (y % 24 - 11.5) ** 2 + (x % 24 - 11.5) ** 2 < 90
    truth = np.where(inside, cell, 0).astype(np.uint16)
    kept = rng.random(int(cell.max()) + 1) > 0.2
    found = np.where(inside & kept[cell], cell, 0).astype(np.uint16)
    image = (truth > 0) * 9000 + rng.integers(0, 20000, truth.shape)
    background = np.clip(1 - (found > 0) + rng.normal(0, 0.2, truth.shape), 0, 1)
    _write(results / "groundtruth/cells.zarr" / name, image[None].astype(np.uint16), "image")
    if annotated:
        for part, labels in (
            ("instances", truth),
            ("classes", (truth > 0).astype(np.uint8)),
            ("ignore", (y < 9).astype(np.uint8)),
        ):
            _write(results / "groundtruth/cells.zarr" / name / "labels" / part, labels, "labels")
    stored = np.rint(255 * np.stack([background, 1 - background])).astype(np.uint8)
    _write(results / "predict/cells/cells.zarr" / name, stored, "image")
    _write(results / "instances/cells/cells.zarr" / name, found, "labels")
    numbers = np.unique(found[found > 0])
    rows = [
        {"label": n, "class": "cell", "voxels": int((found == n).sum()), "start_z": 0, "stop_z": 1} for n in numbers[:1]
    ]
    rows += [{"label": n, "class": "cell", "voxels": 280, "start_z": 0, "stop_z": 1} for n in numbers[1:]]
    table = pd.DataFrame(rows)
    for axis, start in (("y", (numbers - 1) // (side // 24 + 1) * 24), ("x", (numbers - 1) % (side // 24 + 1) * 24)):
        table[f"start_{axis}"], table[f"stop_{axis}"] = start, np.minimum(start + 24, side)
    tables = results / "instances/cells/cells"
    (tables / name).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(tables / f"{name}.csv", index=False)
    table.to_parquet(tables / f"{name}.parquet", index=False)


def _write(path: Path, data: np.ndarray, kind: Any) -> None:
    """A finished result; data of shape ([c,] y, x)."""
    channels = data.shape[0] if data.ndim == 3 else None
    result = begin(path, "d", Spec((1, *data.shape[-2:]), str(data.dtype), kind, channels), {})
    for index in range(len(result.grid)):
        box = result.grid.box(index)
        result.write(index, data[..., None, :, :][(..., *box.slices)], "d")
    finish(path, "d", {})


def _write_model(results: Path) -> None:
    model = results / "train" / "cells"
    _stamp(results / "train/cells.json", {"model": str(model), "weights": "w2"})
    _stamp(model / "model.json", {"trained_on": [], "versions": {"torch": "1"}})
    (model / "curves.csv").write_text("step,train_loss,validation_loss,validation_iou\n1,0.9,0.8,0.2\n2,0.2,0.3,0.8\n")
    decision = {"value": 3, "why": "made up"}
    _stamp(
        results / "plan/cells.json",
        {"channels": 1, "classes": ["cell"], "network": {"depth": 1, "width": 2}, "steps": decision},
    )


def _evaluate(results: Path) -> None:
    """Scored, with a history in which the model before was worse."""
    history = results / "evaluate/history/cells/cells.jsonl"
    stamp = results / "evaluate/cells/cells.json"
    with local_engine(2) as engine:
        evaluate_samples(
            Evaluate(),
            model=results / "train/cells.json",
            groundtruth=results / "groundtruth/cells.json",
            truth_store=results / "groundtruth/cells.zarr",
            instances=results / "instances/cells/cells.json",
            instance_store=results / "instances/cells/cells.zarr",
            tables=results / "instances/cells/cells",
            folder=stamp.with_suffix(""),
            history=history,
            stamp=stamp,
            engine=engine,
        )
    (entry,) = read_history(history)
    now = read_images(history, entry["digest"])
    assert now is not None
    history.unlink()
    keep_evaluation(history, now.assign(iou_over=0.8 * now["iou_over"]), entry["scores"], "w1", "before")
    keep_evaluation(history, now, entry["scores"], "w2", entry["digest"])


def _stamp(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
