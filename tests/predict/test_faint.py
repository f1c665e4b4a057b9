"""Images that show nothing stay empty: noise is not stretched to the contrast of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from unet_core.config.datasets import Dataset, Weights
from unet_core.config.instances import Instances
from unet_core.config.options import Groundtruth, Network, Plan, Predict, Train
from unet_core.engine import Engine
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.step import make_instances
from unet_core.plan.step import make_plan
from unet_core.predict.step import predict_samples
from unet_core.runtime import read_json
from unet_core.store.store import Result
from unet_core.train.step import train_model
from unet_core.weights.step import make_weights

TRAIN = Train(
    network=Network(depth=2, width=8, dropout=0, norm="batch"),
    tile=92,
    batch=2,
    steps=120,
    optimiser="adamw",
    learning_rate=0.01,
    validate_every=60,
    precision="float32",
)


def blobs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs in noise, and their labels; each has a place of its own in a grid."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    labels = np.zeros((128, 128), np.uint16)
    for label, place in enumerate(rng.permutation(25)[:count].tolist(), 1):
        centre = np.array(divmod(place, 5)) * 25 + 14 + rng.integers(-2, 3, 2)
        labels[np.hypot(y - centre[0], x - centre[1]) < rng.integers(6, 9)] = label
    gray = 300 + 800 * ndimage.gaussian_filter((labels > 0).astype(float), 1) + rng.normal(0, 40, labels.shape)
    return gray.astype(np.uint16), labels


def write_dataset(folder: Path) -> Dataset:
    """Images with and without objects, some of which are annotated."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for seed, (name, count) in enumerate({"a": 12, "b": 9, "v": 10, "one": 1, "empty": 0}.items()):
        gray, labels = blobs(seed, count)
        tifffile.imwrite(folder / "images" / f"{name}.tif", gray)
        if name in "abv":
            tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)
    annotation = {"format": "labels", "path": f"{folder}/masks/{{stem}}.tif"}
    split = {"test": [], "validation": ["v"]}
    values = {"images": f"{folder}/images/*.tif", "annotations": [annotation], "unmatched": "allow", "split": split}
    return Dataset.model_validate(values)


class Run:
    """The steps up to a model, and from there to objects by any plan."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self.truth, self.maps = folder / "groundtruth" / "cells.zarr", folder / "weights" / "cells.zarr"
        dataset = write_dataset(folder)
        samples, problems = find_samples(dataset)
        assert not problems
        stamps = {"groundtruth": self.truth.with_suffix(".json"), "stamp": self.maps.with_suffix(".json")}
        convert_groundtruth(
            dataset, Groundtruth(), samples, store=self.truth, stamp=stamps["groundtruth"], engine=engine
        )
        make_weights(Weights(), dataset, truth_store=self.truth, store=self.maps, **stamps, engine=engine)
        self.model = folder / "train" / "cells.json"
        train_model(
            TRAIN,
            plan=self.plan(Plan(memory_gb=1)),
            weights={"cells": stamps["stamp"]},
            groundtruth={"cells": stamps["groundtruth"]},
            results=folder,
            folder=self.model.with_suffix(""),
            stamp=self.model,
        )

    def plan(self, cfg: Plan, bought: Path | None = None) -> Path:
        stamp = self.folder / f"plan-{cfg.least_extent}-{bought is None}.json"
        make_plan(
            cfg,
            TRAIN,
            Predict(),
            groundtruth={"cells": self.truth.with_suffix(".json")},
            weights={} if bought else {"cells": self.maps.with_suffix(".json")},
            bought=bought,
            results=self.folder,
            stamp=stamp,
        )
        return stamp

    def objects(self, plan: Path) -> dict[str, Any]:
        """Sample -> labels."""
        home = self.folder / plan.stem
        predict_samples(
            Predict(precision="float32"),
            model=self.model,
            plans=[plan],
            groundtruth=self.truth.with_suffix(".json"),
            images=self.truth,
            store=home / "predict.zarr",
            stamp=home / "predict.json",
            engine=self.engine,
        )
        make_instances(
            Instances(min_size=3),
            predict=home / "predict.json",
            probabilities=home / "predict.zarr",
            groundtruth=self.truth.with_suffix(".json"),
            store=home / "instances.zarr",
            tables=home / "tables",
            stamp=home / "instances.json",
            engine=self.engine,
        )
        samples = read_json(home / "instances.json")["samples"]
        return {name: Result(home / "instances.zarr" / name).read_all()[0] for name in samples}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Run:
    return Run(tmp_path_factory.mktemp("faint"), engine)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_image_of_noise_has_no_object_and_one_with_a_cell_has_one(run: Run, elsewhere: bool) -> None:
    bought = run.model.with_suffix("") if elsewhere else None
    found = {name: int(labels.max()) for name, labels in run.objects(run.plan(Plan(memory_gb=1), bought)).items()}
    assert found["empty"] == 0 and found["one"] == 1
    assert abs(found["v"] - 10) <= 1


def test_without_a_least_extent_noise_becomes_foreground(run: Run) -> None:
    found = run.objects(run.plan(Plan(memory_gb=1, least_extent=0)))
    assert (found["empty"] > 0).mean() > 0.1
    assert abs(int(found["v"].max()) - 10) <= 1
