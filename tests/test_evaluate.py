"""Scores of small stores, worked out by hand; what was scored once is not scored again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unet_core.config import Evaluate
from unet_core.engine import Engine
from unet_core.evaluate import evaluate_samples, score_image, summarise
from unet_core.metrics.contingency import contingency
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store import Result, Spec, begin, finish

CFG = Evaluate(thresholds=[0.5, 0.75])

# Two objects, of which one is found.
TRUTH_A = [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0]]
FOUND_A = [[5, 5, 5, 5, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
# One object, of which three quarters are found, and one that is not there.
TRUTH_B = [[0, 0, 0, 0, 0, 0], [0, 9, 9, 0, 0, 0], [0, 9, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
FOUND_B = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 2, 0], [0, 0, 0, 0, 2, 0]]
NOTHING = [[0] * 6] * 4

Rows = Sequence[Sequence[int]]


class Project:
    """Stores and stamps of the steps before, and what evaluate makes of them."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.truth_store, self.instance_store = folder / "groundtruth" / "cells.zarr", folder / "instances" / "unet" / "cells.zarr"
        self.folder = folder / "evaluate" / "unet" / "cells"
        self._engine = engine
        self._truths: dict[str, dict[str, str]] = {}
        self._instances: dict[str, dict[str, str]] = {}

    def add(
        self,
        name: str,
        truth: Rows,
        found: Rows,
        ignore: Rows = NOTHING,
        split: str = "test",
        truth_digest: str = "1",
        found_digest: str = "1",
    ) -> None:
        arrays = {f"labels/{part}": np.array([rows]) for part, rows in (("instances", truth), ("classes", NOTHING), ("ignore", ignore))}
        for part, array in arrays.items():
            put(self.truth_store / name / part, array, truth_digest)
        put(self.instance_store / name, np.array([found]), found_digest)
        self._truths[name] = {"split": split, "labels": truth_digest}
        self._instances[name] = {"split": split, "digest": found_digest}

    def move(self, name: str, split: str) -> None:
        self._truths[name]["split"] = split

    def evaluate(self, cfg: Evaluate = CFG) -> dict[str, Any]:
        groundtruth, instances, stamp = (path.with_suffix(".json") for path in (self.truth_store, self.instance_store, self.folder))
        write_stamp(groundtruth, {"samples": self._truths})
        write_stamp(instances, {"samples": self._instances})
        evaluate_samples(
            cfg,
            groundtruth=groundtruth,
            truth_store=self.truth_store,
            instances=instances,
            instance_store=self.instance_store,
            folder=self.folder,
            stamp=stamp,
            engine=self._engine,
        )
        return read_json(stamp)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / name)


def put(path: Path, array: np.ndarray, digest: str) -> None:
    result = begin(path, digest, Spec(array.shape, "uint32", "labels", block=(1, 256, 256)), {})
    for index in result.missing_blocks():
        result.write(index, array[result.grid.box(index).slices].astype(np.uint32), digest)
    finish(path, digest, {})


@pytest.fixture
def project(tmp_path: Path, engine: Engine) -> Project:
    return Project(tmp_path, engine)


@pytest.fixture
def two_images(project: Project) -> Project:
    project.add("a", TRUTH_A, FOUND_A)
    project.add("b", TRUTH_B, FOUND_B)
    return project


def scored(caplog: pytest.LogCaptureFixture) -> str:
    """How many samples the last call scored."""
    return caplog.messages[-1]


def test_scores_of_a_data_set_pool_the_pixels_and_objects_of_its_images(two_images: Project) -> None:
    assert two_images.evaluate()["scores"] == {
        "test": {
            "n_images": 2,
            "n_objects": 3,
            "iou": 7 / 14,
            "dice": 14 / 21,
            "seg": (1 + 0 + 3 / 4) / 3,
            "ap50": 2 / 4,
            "ap75": 2 / 4,
            "f1_50": 4 / 6,
            "f1_75": 4 / 6,
            "pq50": (1 + 3 / 4) / 3,
            "pq75": (1 + 3 / 4) / 3,
            "precision50": 2 / 3,
            "precision75": 2 / 3,
            "recall50": 2 / 3,
            "recall75": 2 / 3,
            "sq50": (1 + 3 / 4) / 2,
            "sq75": (1 + 3 / 4) / 2,
            "rq50": 4 / 6,
            "rq75": 4 / 6,
            "pixel_error": 7 / 48,
            "rand_error": pytest.approx((0 + 1 / 3) / 2),
            # In b, one and three quarters of an object lie apart.
            "voi_split": pytest.approx((0 + 1 / 4 * 2 + 3 / 4 * np.log2(4 / 3)) / 2),
            "voi_merge": 0,
            "aji": (4 / 8 + 3 / 6) / 2,
            # In a, four of eight voxels were found, the others count alone; in b, three of four.
            "v_rand": pytest.approx((2 * 20 / (32 + 20) + 2 * 10 / (16 + 10)) / 2),
            "v_info": pytest.approx((2 * 1 / (1 + 2) + 0) / 2),
            # Two of four match up to an IoU of 0.75, above it one of five.
            "ap": pytest.approx((6 * 2 / 4 + 4 * 1 / 5) / 10),
            "det": 1 - (10 + 1) / 30,
        }
    }


def test_tables_hold_the_scores_of_each_image_and_of_each_true_object(two_images: Project) -> None:
    two_images.evaluate()
    images = two_images.table("images.csv")
    assert images[["sample", "split", "n_objects", "ap50", "seg"]].values.tolist() == [
        ["a", "test", 2, 0.5, 0.5],
        ["b", "test", 1, 0.5, 0.75],
    ]
    objects = two_images.table("objects.csv")
    assert list(objects.columns) == ["sample", "split", "label", "voxels", "seg", "best_iou"]
    assert objects.values.tolist() == [["a", "test", 1, 4, 1, 1], ["a", "test", 2, 4, 0, 0], ["b", "test", 9, 4, 0.75, 0.75]]


def test_pixels_under_the_ignore_mask_do_not_count(project: Project) -> None:
    ignore = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    project.add("b", TRUTH_B, FOUND_B, ignore)
    scores = project.evaluate()["scores"]["test"]
    assert (scores.pop("n_images"), scores.pop("n_objects")) == (1, 1)
    distances = ("pixel_error", "rand_error", "voi_split", "voi_merge")
    assert scores == {name: 0 if name in distances else 1 for name in scores}


def test_samples_of_other_splits_are_left_out(two_images: Project) -> None:
    two_images.add("c", TRUTH_A, NOTHING, split="train")
    two_images.add("d", TRUTH_A, NOTHING, split="unannotated")
    stamp = two_images.evaluate()
    assert list(stamp["samples"]) == ["a", "b"] and stamp["scores"]["test"]["n_images"] == 2


def test_each_split_has_scores_of_its_own(two_images: Project) -> None:
    two_images.move("b", "train")
    scores = two_images.evaluate(CFG.model_copy(update={"splits": ["train", "test", "validation"]}))["scores"]
    assert {split: (values["n_objects"], values["seg"]) for split, values in scores.items()} == {"train": (1, 0.75), "test": (2, 0.5)}


def test_a_second_call_scores_nothing_and_writes_the_same(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate")
    first = two_images.evaluate()
    assert scored(caplog) == "evaluate: 2 samples, 2 scored"
    tables = [(two_images.folder / name).read_bytes() for name in ("images.csv", "objects.csv")]
    assert two_images.evaluate() == first and scored(caplog) == "evaluate: 2 samples, 0 scored"
    assert [(two_images.folder / name).read_bytes() for name in ("images.csv", "objects.csv")] == tables


@pytest.mark.parametrize(
    ("truth", "found", "digests"),
    [(FOUND_B, FOUND_B, {"truth_digest": "2"}), (TRUTH_B, TRUTH_B, {"found_digest": "2"})],
    ids=["annotation", "result"],
)
def test_a_new_annotation_or_result_of_one_sample_scores_that_sample_alone(
    two_images: Project, caplog: pytest.LogCaptureFixture, truth: Rows, found: Rows, digests: dict[str, str]
) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate")
    before = two_images.evaluate()
    two_images.add("b", truth, found, **digests)
    after = two_images.evaluate()
    assert scored(caplog) == "evaluate: 2 samples, 1 scored"
    assert after["samples"]["a"] == before["samples"]["a"]
    assert two_images.table("images.csv")["iou"].tolist() == [0.5, 1]


def test_other_thresholds_score_all_samples_anew(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate")
    two_images.evaluate()
    scores = two_images.evaluate(Evaluate(thresholds=[0.5, 0.75, 0.755, 0.8]))["scores"]["test"]
    assert scored(caplog) == "evaluate: 2 samples, 2 scored"
    assert {name: value for name, value in scores.items() if name.startswith("ap") and name != "ap"} == {
        "ap50": 0.5,
        "ap75": 0.5,
        "ap75.5": 0.2,
        "ap80": 0.2,
    }


def test_a_sample_that_moves_to_another_split_is_not_scored_again(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate")
    cfg = CFG.model_copy(update={"splits": ["train", "test"]})
    assert two_images.evaluate(cfg)["scores"]["test"]["n_objects"] == 3
    two_images.move("a", "train")
    scores = two_images.evaluate(cfg)["scores"]
    assert scored(caplog) == "evaluate: 2 samples, 0 scored"
    assert (scores["train"]["n_objects"], scores["test"]["n_objects"]) == (2, 1)
    assert two_images.table("images.csv")["split"].tolist() == ["train", "test"]


def test_damaged_counts_are_made_again(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate")
    expected = two_images.evaluate()
    path = two_images.folder / "samples" / "a.json"
    path.write_bytes(path.read_bytes()[:20])
    assert two_images.evaluate() == expected and scored(caplog) == "evaluate: 2 samples, 1 scored"


def test_images_without_true_objects_have_neither_seg_nor_det(project: Project) -> None:
    project.add("empty", NOTHING, FOUND_A)
    stamp = project.evaluate()
    assert stamp["scores"]["test"]["seg"] is stamp["scores"]["test"]["det"] is None and stamp["scores"]["test"]["ap50"] == 0
    assert project.table("images.csv")["seg"].isna().all() and project.table("objects.csv").empty
    project.add("b", TRUTH_B, FOUND_B)
    assert project.evaluate()["scores"]["test"]["seg"] == 0.75


def test_a_data_set_without_samples_to_score_has_tables_without_rows(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A, split="train")
    assert project.evaluate() == {"step": "evaluate", "scores": {}, "samples": {}}
    assert project.table("images.csv").empty and project.table("objects.csv").empty


def test_blocks_are_scored_as_one_image(project: Project) -> None:
    rng = np.random.default_rng(0)
    truth, found = (np.kron(rng.integers(0, 4, (3, 3)), np.ones((100, 100), int)) for _ in range(2))
    put(project.truth_store / "large" / "labels" / "classes", np.zeros((1, 300, 300)), "1")
    project.add("large", truth.tolist(), found.tolist(), ignore=np.eye(300, dtype=int).tolist())
    assert len(Result(project.instance_store / "large").grid) == 4
    project.evaluate()
    kept = json.loads((project.folder / "samples" / "large.json").read_text())["counts"]
    assert kept == score_image(contingency(truth, found, np.eye(300)), CFG.thresholds)


def test_scores_of_one_image_are_summarised_like_those_of_many() -> None:
    counts = score_image(contingency(np.array(TRUTH_A), np.array(FOUND_A)), [0.5])
    one, two = (summarise([counts] * n, [0.5]) for n in (1, 2))
    assert one == two


def test_a_result_of_another_shape_says_where_and_what_to_do(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A)
    put(project.instance_store / "a", np.zeros((1, 4, 7)), "other")
    with pytest.raises(
        UserError, match=r"instances/unet/cells.zarr/a has shape \(1, 4, 7\), but its truth \(1, 4, 6\); 'snakemake --forcerun predict'"
    ):
        project.evaluate()


def test_a_missing_shard_is_an_error_and_not_background(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A)
    (project.truth_store / "a" / "labels" / "instances" / "0" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(UserError, match=r"groundtruth/cells.zarr/a/labels/instances: block \(0, 0, 0\) is missing"):
        project.evaluate()
