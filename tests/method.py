"""What each step makes of small fixed data: ``python -m tests.method`` records it in tests/method.json.

The record stands beside the version of the step's method (`unet_core.method`), so that a change of results without a
new version is found. Each step starts from data that no other step made. Data is drawn with integers, and what is
computed with floating-point numbers is compared with a tolerance, so that processors and libraries may differ in the
last digits.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
import zarr
from safetensors.numpy import load_file

from tests.annotations import scene
from tests.browser.synthetic import write_results
from unet_core import method
from unet_core.config.datasets import Dataset, Weights
from unet_core.config.instances import Instances
from unet_core.config.options import Evaluate, Groundtruth, Network, Plan, Predict, Train
from unet_core.config.section import Section
from unet_core.engine import Engine, local_engine
from unet_core.evaluate.step import evaluate_samples
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.step import make_instances
from unet_core.instances.tuning import tune_instances
from unet_core.network.ensemble import write_ensemble
from unet_core.network.model import build, save_checkpoint, weights_digest
from unet_core.plan.step import make_plan
from unet_core.predict.step import predict_samples
from unet_core.runtime import read_json, write_stamp
from unet_core.store.store import Spec, begin, finish
from unet_core.train.step import train_model
from unet_core.weights.step import make_weights

RECORD = Path(__file__).with_suffix(".json")
# Relative difference that processors and libraries may make, of numbers and of `outline` of an array.
TOLERANCE = 5e-4


def _triangle(values: np.ndarray, period: int) -> np.ndarray:
    return np.abs(values % period - period // 2)


def gray(shape: tuple[int, ...], period: int = 40) -> np.ndarray:
    """A smooth pattern of gray values without symmetry, uint8."""
    z, y, x = np.indices((1,) * (3 - len(shape)) + shape)
    waves = _triangle(7 * y + 3 * x + 11 * z, 4 * period) + _triangle(5 * x - 2 * y + z * z, 3 * period)
    return (waves + _triangle(y * x // 9, period)).astype(np.uint8).reshape(shape)


def cells(shape: tuple[int, ...], side: int = 20) -> np.ndarray:
    """Discs of several sizes in a grid, many of which touch, numbered from 1, uint32."""
    z, y, x = np.indices((1,) * (3 - len(shape)) + shape)
    number = (y // side) * 50 + x // side + 1
    radius = side // 2 - number % 3 - (z + number) % 2
    inside = (2 * (y % side) - side + 1) ** 2 + (2 * (x % side) - side + 1) ** 2 <= (2 * radius) ** 2
    return np.where(inside & (number % 7 > 0), number, 0).astype(np.uint32).reshape(shape)


def put(path: Path, array: np.ndarray, kind: Any, size: tuple[float, float, float] = (1, 1, 1)) -> None:
    """A finished result of an array with axes ([c,] z, y, x), whose digest is "d"."""
    channels = array.shape[0] if array.ndim == 4 else None
    result = begin(path, "d", Spec(array.shape[-3:], str(array.dtype), kind, channels, size), {})
    for index in result.missing_blocks():
        result.write(index, array[(..., *result.grid.box(index).slices)], "d")
    finish(path, "d", {})


def exact(array: np.ndarray) -> str:
    """Digest of all values."""
    text = f"{array.dtype} {array.shape}".encode()
    return hashlib.blake2b(text + np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()


def outline(array: np.ndarray, patterns: int = 8) -> list[Any]:
    """Shape and type; mean size, mean, and means of the values times patterns, which changed values move."""
    values = array.astype(np.float64).ravel()
    places = np.arange(values.size)
    products = [
        float(np.mean(values * (_triangle(places * (2 * n + 3), 97 + 10 * n) / 25 - 1))) for n in range(patterns)
    ]
    return [f"{array.dtype} {array.shape}", float(np.abs(values).mean()), float(values.mean()), *products]


def arrays(store: Path, close: bool = False) -> dict[str, Any]:
    """Each array of a store, at all resolutions: its digest, or its outline."""
    found = {}
    for path in sorted(store.rglob("zarr.json")):
        if json.loads(path.read_text(encoding="utf-8"))["node_type"] == "array":
            values = np.asarray(zarr.open_array(path.parent, mode="r")[...])
            found[path.parent.relative_to(store).as_posix()] = outline(values) if close else exact(values)
    return found


def attributes(store: Path) -> dict[str, Any]:
    """What the attributes of each group of a store say, but for digests and provenance."""
    found = {}
    for path in sorted(store.rglob("zarr.json")):
        content = json.loads(path.read_text(encoding="utf-8")).get("attributes", {})
        kept = {key: value for key, value in content.get("unet", {}).items() if key in ("details", "done")}
        found[path.parent.relative_to(store).as_posix()] = kept | {"ome": content.get("ome")}
    return {name: values for name, values in found.items() if values != {"ome": None}}


def table(path: Path) -> dict[str, Any]:
    """Columns of a CSV file: the outline of numbers with fractions, the digest of others."""
    frame = pd.read_csv(path)
    columns = {}
    for name, column in frame.items():
        if column.dtype == np.float64:
            columns[str(name)] = [int(column.isna().sum()), *outline(column.fillna(0).to_numpy(), 1)]
        else:
            columns[str(name)] = exact(np.frombuffer("\n".join(map(str, column)).encode(), np.uint8))
    return columns


def groundtruth(folder: Path, engine: Engine) -> dict[str, Any]:
    """One scene in all formats of annotations, and a volume with a label volume."""
    made = {}
    for name, write in scene.WRITERS.items():
        home = folder / name
        home.mkdir(parents=True)
        image = gray((scene.HEIGHT, scene.WIDTH))
        stem = "t007" if name == "ctc" else scene.STEM
        tifffile.imwrite(home / f"{stem}.tif", image)
        source = {"format": name} | write(home)
        source["path"] = f"{home}/{source['path']}"
        classes = (
            ["cell", "dead"]
            if name in ("coco", "geojson", "labelme", "cvat", "aperio", "colours", "yolo", "matlab")
            else ["cell"]
        )
        dataset = {"images": f"{home}/{stem}.tif".replace("[2]", "[[]2]"), "annotations": [source]}
        made[name] = _converted(home, dataset | {"classes": classes}, engine)["arrays"]
    home = folder / "volume"
    home.mkdir()
    tifffile.imwrite(home / "a.tif", gray((5, 300, 280)).astype(np.uint16) * 9, photometric="minisblack")
    (home / "masks").mkdir()
    tifffile.imwrite(home / "masks" / "a.tif", cells((5, 300, 280)).astype(np.uint16), photometric="minisblack")
    annotation = {"format": "labels", "path": f"{home}/masks/{{stem}}.tif"}
    volume = {"images": f"{home}/a.tif", "axes": "zyx", "pixel_size": {"z": 2, "y": 1, "x": 1}}
    made["volume"] = _converted(home, volume | {"annotations": [annotation]}, engine)
    return made


def _converted(folder: Path, dataset: dict[str, Any], engine: Engine) -> dict[str, Any]:
    cfg = Dataset.model_validate(dataset | {"split": {"test": 0, "validation": 0}})
    samples, problems = find_samples(cfg)
    assert not problems, problems
    store = folder / "groundtruth.zarr"
    stamp = store.with_suffix(".json")
    convert_groundtruth(cfg, Groundtruth(overlaps="later"), samples, store=store, stamp=stamp, engine=engine)
    return {"arrays": arrays(store), "attributes": attributes(store)}


def _truth(folder: Path, labels: np.ndarray, size: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """Store and stamp of the step groundtruth for three samples: a and b to learn from, v to validate."""
    store = folder / "groundtruth" / "cells.zarr"
    samples = {}
    for number, (name, split) in enumerate((("a", "train"), ("b", "train"), ("v", "validation"))):
        own = np.roll(labels, 5 * number, axis=-1)
        put(store / name, np.roll(gray(labels.shape), 5 * number, axis=-1)[None] // 2 + own.astype(bool) * 90, "image")
        parts = {"instances": own, "classes": own.astype(bool), "ignore": gray(own.shape, 80) > 200}
        for part, array in parts.items():
            put(
                store / name / "labels" / part,
                array.astype(np.uint32 if part == "instances" else np.uint8),
                "labels",
                size,
            )
        samples[name] = {"split": split, "image": "d", "labels": "d", "shape": [1, *labels.shape]}
    write_stamp(store.with_suffix(".json"), {"classes": ["cell"], "samples": samples})
    return store


def weights(folder: Path, engine: Engine) -> dict[str, Any]:
    """Planes with most options, anisotropic volumes with the defaults, and a plane with coarser resolutions.

    In the second volume other objects touch those of the third plane.
    """
    made = {}
    everything = {"inside": "border", "near": 0.5, "near_sigma": 8, "separation": 3, "dtype": "float16"}
    cases = {
        "plane": ((1, 300, 290), (1.0, 1.0, 1.0), Weights()),
        "options": ((1, 90, 80), (1.0, 1.0, 1.0), Weights.model_validate(everything)),
        "volume": ((6, 80, 70), (2.5, 1.0, 1.0), Weights()),
        "layers": ((6, 80, 70), (2.5, 1.0, 1.0), Weights()),
        "resolutions": ((1, 64, 1100), (1.0, 1.0, 1.0), Weights()),  # smaller images have one
    }
    for name, (shape, size, cfg) in cases.items():
        labels = cells(shape)
        if name == "layers":
            labels[3:][labels[3:] > 0] += 1000
        store = _truth(folder / name, labels, size)
        out = folder / name / "weights" / "cells.zarr"
        stamp = out.with_suffix(".json")
        dataset = Dataset.model_validate({"images": "none", "axes": "zyx" if shape[0] > 1 else "yx"})
        make_weights(
            cfg,
            dataset,
            groundtruth=store.with_suffix(".json"),
            truth_store=store,
            store=out,
            stamp=stamp,
            engine=engine,
        )
        found = arrays(out, close=True)
        found |= {path: digest for path, digest in arrays(out).items() if "target" in path}
        pixels = {sample: entry["class_pixels"] for sample, entry in read_json(stamp)["samples"].items()}
        made[name] = {"arrays": found, "class_pixels": pixels}
    return made


def plan(folder: Path, engine: Engine) -> dict[str, Any]:
    """For images and for volumes."""
    made = {}
    intensities = {
        "percentiles": {str(level): float(level * 2) for level in (0, 0.1, 1, 2, 5, 25, 50, 75, 95, 98, 99, 99.9, 100)},
        "mean": 90.0,
        "deviation": 30.0,
    }
    for name, shape, dimensions in (("plane", (1, 300, 290), 2), ("volume", (20, 100, 90), 3)):
        store = _truth(folder / name, np.zeros(shape, np.uint32), (3, 1, 1))
        for sample in "abv":
            path = store / sample / "zarr.json"
            content = json.loads(path.read_text(encoding="utf-8"))
            content["attributes"]["unet"]["details"] = {"intensities": [intensities]}
            del content["attributes"]["unet"]["checksum"]
            path.write_text(json.dumps(content), encoding="utf-8")
        counts = {"a": [70000, 9000], "b": [60000, 12000], "v": [50000, 8000]}
        splits = {"a": "train", "b": "train", "v": "validation"}
        maps = folder / name / "weights" / "cells.json"
        entries = {s: {"split": splits[s], "digest": "d", "class_pixels": counts[s]} for s in splits}
        write_stamp(maps, {"samples": entries})
        stamp = folder / name / "plan" / "unet.json"
        make_plan(
            Plan(memory_gb=2),
            Train(network=Network(dimensions=dimensions)),
            Predict(),
            groundtruth={"cells": store.with_suffix(".json")},
            weights={"cells": maps},
            bought=None,
            results=folder / name,
            stamp=stamp,
        )
        made[name] = read_json(stamp)
    return made


def train(folder: Path, engine: Engine) -> dict[str, Any]:
    """A few steps of a small network with all augmentation, and with the preset's optimiser."""
    made = {}
    for name, changes in {"plain": {}, "adamw": {"optimiser": "adamw", "learning_rate": 0.01, "batch": 2}}.items():
        home = folder / name
        labels = cells((1, 130, 140))
        store = _truth(home, labels)
        maps = home / "weights" / "cells.zarr"
        samples = read_json(store.with_suffix(".json"))["samples"]
        for number, sample in enumerate(samples):
            own = np.roll(labels, 5 * number, axis=-1)
            put(maps / sample, (gray(own.shape) % 64 / 8).astype(np.float32), "image")
            put(maps / sample / "labels" / "target", own.astype(bool).astype(np.uint8), "labels")
        entries = {s: {"split": e["split"], "digest": "d", "class_pixels": [9000, 9200]} for s, e in samples.items()}
        write_stamp(maps.with_suffix(".json"), {"samples": entries})
        network = Network(depth=2, width=4)
        norm = {"offset": [60.0], "scale": [0.02]}
        write_stamp(
            home / "plan.json",
            {
                "classes": ["cell"],
                "channels": 1,
                "network": network.model_dump(),
                "normalisation": {"normalisation": "percentile", "percentiles": [1, 99]},
                "class_weights": {"value": [0.8, 1.3], "why": "fixed"},
                "train_tile": {"value": 92, "why": "fixed"},
                "predict_tile": {"value": 92, "why": "fixed"},
                "steps": {"value": 6, "why": "fixed"},
                "samples": {f"cells/{sample}": norm for sample in samples},
            },
        )
        cfg = {"network": network.model_dump(), "tile": 92, "steps": 6, "validate_every": 3, "precision": "float32"}
        stamp = home / "train" / "unet.json"
        train_model(
            Train.model_validate(cfg | changes),
            plan=home / "plan.json",
            weights={"cells": maps.with_suffix(".json")},
            groundtruth={"cells": store.with_suffix(".json")},
            results=home,
            folder=stamp.with_suffix(""),
            stamp=stamp,
        )
        tensors = load_file(stamp.with_suffix("") / "last.safetensors")
        parts = {key: outline(values, 2) for key, values in sorted(tensors.items()) if values.dtype == np.float32}
        curves = pd.read_csv(stamp.with_suffix("") / "curves.csv")
        losses = {column: curves[column].tolist() for column in curves.columns if "loss" in column}
        made[name] = {"tensors": parts, "losses": losses}
    return made


def _network(folder: Path, network: Network, sign: int = 1) -> None:
    """A model folder and its stamp, whose parameters are drawn with integers."""
    net = build(network, 1, 2)
    parameters = {}
    for key, tensor in net.state_dict().items():
        places = np.arange(tensor.numel())
        fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
        values = sign * (_triangle(places * 13 + len(key), 59) / 14.5 - 1) * (math.sqrt(4 / fan) if fan > 1 else 0.05)
        parameters[key] = torch.tensor(values.reshape(tensor.shape), dtype=torch.float32)
    save_checkpoint(folder / "best.safetensors", parameters, {})
    description = {"network": network.model_dump(), "channels": 1, "classes": ["cell"]}
    write_stamp(folder / "model.json", description)
    write_stamp(folder.with_suffix(".json"), {"model": str(folder), "weights": weights_digest(folder)})


def ensemble(folder: Path, engine: Engine) -> dict[str, Any]:
    """The stamp of a model of two."""
    for number, name in enumerate(("one", "two")):
        _network(folder / "train" / name, Network(depth=1, width=2), 1 - 2 * number)
    stamp = folder / "train" / "both.json"
    write_ensemble([folder / "train" / f"{name}.json" for name in ("one", "two")], stamp)
    return {key: value for key, value in read_json(stamp).items() if key in ("step", "weights")}


def predict(folder: Path, engine: Engine) -> dict[str, Any]:
    """Planes in the kinds of storage, the mean over copies, and a volume."""
    made = {}
    plane, volume = Network(depth=2, width=3), Network(depth=1, width=2, dimensions=3, flat_levels=0)
    cases: dict[str, tuple[Network, tuple[int, int, int], Any, Predict, float | None]] = {
        "uint8": (plane, (1, 300, 270), 92, Predict(precision="float32"), None),
        "float16": (plane, (1, 80, 70), 92, Predict(precision="float32", dtype="float16"), None),
        "mask": (plane, (1, 80, 70), 92, Predict(precision="float32", dtype="mask"), 0.5),
        "average": (plane, (1, 60, 70), 92, Predict(precision="float32", average="dihedral"), None),
        "volume": (volume, (9, 60, 50), [18, 34, 34], Predict(precision="float32"), None),
    }
    for name, (network, shape, tile, cfg, threshold) in cases.items():
        home = folder / name
        truth = home / "groundtruth" / "cells.zarr"
        put(truth / "a", gray(shape)[None], "image")
        samples = {"a": {"split": "test", "image": "d", "labels": None}}
        write_stamp(truth.with_suffix(".json"), {"samples": samples})
        _network(home / "train" / "unet", network)
        norm = {"cells/a": {"offset": [60.0], "scale": [0.02]}}
        plan = {"classes": ["cell"], "network": network.model_dump(), "samples": norm}
        block = [8 if network.dimensions == 3 else 1, 256, 256]
        write_stamp(home / "plan.json", plan | {"predict_tile": {"value": tile}, "predict_block": {"value": block}})
        stamp = home / "predict" / "cells.json"
        predict_samples(
            cfg,
            model=home / "train" / "unet.json",
            plans=[home / "plan.json"],
            groundtruth=truth.with_suffix(".json"),
            images=truth,
            store=stamp.with_suffix(".zarr"),
            stamp=stamp,
            engine=engine,
            mask_threshold=threshold,
        )
        made[name] = arrays(stamp.with_suffix(".zarr"), close=True)
    return made


def instances(folder: Path, engine: Engine) -> dict[str, Any]:
    """Objects of two classes with most options, in a plane of several blocks and in a volume."""
    volume = {"min_size": 5, "split": 0.5, "split_by": "probability", "fill": "volume", "threshold": 0.4}
    cases: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
        "plain": ((1, 300, 280), {}),
        "options": ((1, 300, 280), {"min_size": 9, "split": 0.5, "fill": "planes", "connectivity": "full"}),
        "pieces": ((1, 300, 280), {"min_size": 120, "split": 0.1}),
        "volume": ((7, 70, 60), volume),
    }
    return _objects(folder, engine, {name: (shape, cfg | {"measure": []}) for name, (shape, cfg) in cases.items()})


def measures(folder: Path, engine: Engine) -> dict[str, Any]:
    """What is measured of objects in a plane and in a volume, with gray values of two channels."""
    cases: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
        "plane": ((1, 300, 280), {}),
        "volume": ((7, 70, 60), {"threshold": 0.4}),
    }
    return _objects(folder, engine, cases, (2, 0.5, 0.5))


def _objects(
    folder: Path,
    engine: Engine,
    cases: dict[str, tuple[tuple[int, int, int], dict[str, Any]]],
    size: tuple[float, float, float] = (1, 1, 1),
) -> dict[str, Any]:
    made = {}
    for name, (shape, cfg) in cases.items():
        home = folder / name
        first, second = gray(shape, 60), gray(shape, 40)[..., ::-1] // 2
        stored = np.stack([first, np.minimum(second, 255 - first)]).astype(np.uint8)
        put(home / "predict" / "cells.zarr" / "a", stored, "image", size)
        put(home / "groundtruth" / "cells.zarr" / "a", np.stack([first, second]), "image", size)
        samples = {"a": {"split": "test", "digest": "d", "image": "d"}}
        write_stamp(home / "groundtruth" / "cells.json", {"samples": samples})
        stamp = {"step": "predict", "classes": ["cell", "debris"], "dtype": "uint8", "samples": samples}
        write_stamp(home / "predict" / "cells.json", stamp)
        out = home / "instances" / "cells.json"
        make_instances(
            Instances.model_validate(cfg),
            predict=home / "predict" / "cells.json",
            probabilities=home / "predict" / "cells.zarr",
            groundtruth=home / "groundtruth" / "cells.json",
            store=out.with_suffix(".zarr"),
            tables=out.with_suffix(""),
            stamp=out,
            engine=engine,
        )
        made[name] = {"arrays": arrays(out.with_suffix(".zarr")), "table": table(out.with_suffix("") / "a.csv")}
    return made


def tune(folder: Path, engine: Engine) -> dict[str, Any]:
    """Settings that are tried and chosen, by distance and by probability."""
    labels = cells((1, 130, 120))
    truth = _truth(folder, labels)
    stamp, entries = folder / "predict" / "cells.json", {}
    for number, (name, entry) in enumerate(read_json(truth.with_suffix(".json"))["samples"].items()):
        own = np.roll(labels, 5 * number, axis=-1)
        touching = (own > 0) | (np.roll(own, 4, axis=-1) > 0)
        put(stamp.with_suffix(".zarr") / name, np.where(touching, 120 + gray(labels.shape) // 2, 30)[None], "image")
        entries[name] = {"split": entry["split"], "digest": "d"}
    write_stamp(stamp, {"samples": entries})
    made = {}
    for split_by in ("distance", "probability"):
        out = folder / "tune" / f"{split_by}.json"
        cfg = {"threshold": "auto", "min_size": "auto", "split": "auto", "split_by": split_by}
        tune_instances(
            Instances.model_validate(cfg),
            predict={"cells": stamp},
            groundtruth={"cells": truth.with_suffix(".json")},
            stamp=out,
            engine=engine,
        )
        made[split_by] = {key: value for key, value in read_json(out).items() if key != "digest"}
    return made


def evaluate(folder: Path, engine: Engine) -> dict[str, Any]:
    """Objects that are moved, merged and missing, against the truth."""
    made = {}
    for name, shape in (("plane", (1, 130, 120)), ("volume", (4, 60, 50))):
        home = folder / name
        truth = _truth(home, cells(shape))
        write_stamp(
            truth.with_suffix(".json"),
            {"classes": ["cell"], "samples": {s: {"split": "test", "labels": "d"} for s in "abv"}},
        )
        out = home / "instances" / "unet" / "cells.zarr"
        out.with_suffix("").mkdir(parents=True)
        for number, sample in enumerate("abv"):
            found = np.roll(cells(shape), (number, 5 * number + 1), axis=(-2, -1))
            found[found % 5 == 0] = 0
            found[(found == 2) | (found == 3)] = 2
            put(out / sample, found, "labels")
            labels = [label for label in np.unique(found).tolist() if label]
            rows = pd.DataFrame({"label": labels, "class": "cell"})
            rows.to_csv(out.with_suffix("") / f"{sample}.csv", index=False)
        entries = {s: {"split": "test", "digest": "d"} for s in "abv"}
        write_stamp(out.with_suffix(".json"), {"samples": entries})
        write_stamp(home / "train" / "unet.json", {"weights": "w"})
        stamp = home / "evaluate" / "unet" / "cells.json"
        evaluate_samples(
            Evaluate(),
            model=home / "train" / "unet.json",
            groundtruth=truth.with_suffix(".json"),
            truth_store=truth,
            instances=out.with_suffix(".json"),
            instance_store=out,
            tables=out.with_suffix(""),
            folder=stamp.with_suffix(""),
            history=home / "evaluate" / "history" / "unet" / "cells.jsonl",
            stamp=stamp,
            engine=engine,
        )
        made[name] = {part: table(stamp.with_suffix("") / f"{part}.csv") for part in ("images", "objects")}
        made[name]["scores"] = {key: value for key, value in read_json(stamp).items() if key not in ("digest",)}
    return made


def report(folder: Path, engine: Engine) -> dict[str, Any]:
    """The tables of a made-up run."""
    page = write_results(folder, 3, 96, previews=1)
    names = ("table.csv", "matrix.csv", "annotate_next.csv")
    return {name: table(page.parent / name) for name in names}


STEPS: dict[str, Callable[[Path, Engine], dict[str, Any]]] = {
    "groundtruth": groundtruth,
    "weights": weights,
    "plan": plan,
    "train": train,
    "ensemble": ensemble,
    "predict": predict,
    "instances": instances,
    "measures": measures,
    "tune": tune,
    "evaluate": evaluate,
    "report": report,
}


def differences(one: Any, other: Any, where: str = "", large: float = 1e-3) -> list[str]:
    """Places in which two records differ by more than the tolerance, of numbers at least as of one of size `large`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        missing = [f"{where}/{key}" for key in keys if (key in one) != (key in other)]
        shared = [key for key in keys if key in one and key in other]
        return missing + [place for key in shared for place in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return [where]
        # Numbers of a list are of one kind: what matters of a small one is its difference to the large ones.
        large = max((abs(number) for number in one + other if isinstance(number, float)), default=0.0)
        pairs = enumerate(zip(one, other, strict=True))
        return [place for n, pair in pairs for place in differences(*pair, f"{where}/{n}", large)]
    if isinstance(one, float) and isinstance(other, float | int) or isinstance(other, float) and isinstance(one, int):
        same = math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE * large)
        return [] if same else [f"{where}: {one} and {other}"]
    return [] if one == other and type(one) is type(other) else [f"{where}: {one!r} and {other!r}"]


def made_by(step: str, folder: Path, engine: Engine) -> Any:
    """What a step makes, as it is read back from JSON."""
    return json.loads(json.dumps(STEPS[step](folder, engine)))


def sections() -> list[type[Section]]:
    """All sections of the configuration, and parts of them."""
    found = [section for section in Section.__subclasses__() if section.__module__.startswith("unet_core.config")]
    return sorted(found, key=lambda section: section.__name__)


def main(steps: list[str]) -> None:
    """Record what the steps make; one whose version was not raised keeps its record, and a difference is an error."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    with local_engine(2) as engine:
        for step in steps or STEPS:
            with tempfile.TemporaryDirectory() as folder:
                made = made_by(step, Path(folder), engine)
            known = record.get(step)
            if known and known["version"] == method.VERSIONS[step] and differences(known["made"], made):
                sys.exit(f"{step}: its results have changed; raise its number in unet_core/method.py first")
            if not known or known["version"] != method.VERSIONS[step]:
                record[step] = {"version": method.VERSIONS[step], "made": made}
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    # A list of numbers or names is one line.
    text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)
    RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
