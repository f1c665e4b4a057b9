"""Scores of small stores, worked out by hand; what was scored once is not scored again."""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unet_core.blocks import ZYX
from unet_core.config.options import Evaluate
from unet_core.engine import Engine, local_engine
from unet_core.evaluate import sample, spatial
from unet_core.evaluate.bootstrap import score
from unet_core.evaluate.history import MEASURES, OF_CLASSES, read_history, read_images, sums_of
from unet_core.evaluate.sample import Classes, score_image
from unet_core.evaluate.step import evaluate_samples, summarise
from unet_core.metrics.contingency import contingency
from unet_core.metrics.isbi import v_info, v_rand
from unet_core.metrics.surface import boundary, compare_boundaries, count_near, hausdorff_distance
from unet_core.metrics.thinning import thin_borders
from unet_core.metrics.warping import Warping, warp
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.pins import pin, pin_labels
from unet_core.store.removal import remove
from unet_core.store.store import Result, Spec, begin, finish, read_attributes

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
        self.truth_store, self.instance_store = (
            folder / "groundtruth" / "cells.zarr",
            folder / "instances" / "unet" / "cells.zarr",
        )
        self.folder = folder / "evaluate" / "unet" / "cells"
        self.history = folder / "evaluate" / "history" / "unet" / "cells.jsonl"
        self.classes, self.weights = ["cell"], "w1"
        self.engine = engine
        self._truths: dict[str, dict[str, str]] = {}
        self._instances: dict[str, dict[str, str]] = {}

    def add(
        self,
        name: str,
        truth: Rows,
        found: Rows,
        ignore: Rows | None = None,
        split: str = "test",
        truth_digest: str = "1",
        found_digest: str = "1",
        classes: Rows | None = None,
    ) -> None:
        ignore = np.zeros_like(truth).tolist() if ignore is None else ignore
        classes = np.sign(truth).tolist() if classes is None else classes
        arrays = {
            f"labels/{part}": np.array([rows])
            for part, rows in (("instances", truth), ("classes", classes), ("ignore", ignore))
        }
        for part, array in arrays.items():
            put(self.truth_store / name / part, array, truth_digest)
        put(self.instance_store / name, np.array([found]), found_digest)
        table = pd.DataFrame({"label": [label for label in np.unique(found).tolist() if label]}).assign(
            **{"class": "cell"}
        )
        self.instance_store.with_suffix("").mkdir(parents=True, exist_ok=True)
        table.to_csv(self.instance_store.with_suffix("") / f"{name}.csv", index=False)
        self._truths[name] = {"split": split, "labels": truth_digest}
        self._instances[name] = {"split": split, "digest": found_digest}

    def predicted_as(self, name: str, split: str) -> None:
        """Split that the step predict names."""
        self._instances[name]["split"] = split

    def move(self, name: str, split: str) -> None:
        self._truths[name]["split"] = split

    def evaluate(self, cfg: Evaluate = CFG) -> dict[str, Any]:
        groundtruth, instances, stamp = (
            path.with_suffix(".json") for path in (self.truth_store, self.instance_store, self.folder)
        )
        model = self.folder.parents[1] / "train" / "unet.json"
        write_stamp(groundtruth, {"classes": self.classes, "samples": self._truths})
        write_stamp(instances, {"samples": self._instances})
        write_stamp(model, {"weights": self.weights})
        evaluate_samples(
            cfg,
            model=model,
            groundtruth=groundtruth,
            truth_store=self.truth_store,
            instances=instances,
            instance_store=self.instance_store,
            tables=self.instance_store.with_suffix(""),
            folder=self.folder,
            history=self.history,
            stamp=stamp,
            engine=self.engine,
        )
        return read_json(stamp)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / name)


def without_intervals(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if not name.endswith(("_low", "_high"))}


def put(path: Path, array: np.ndarray, digest: str, size: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    result = begin(path, digest, Spec(array.shape, "uint32", "labels", pixel_size=size, block=(1, 256, 256)), {})
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
    scores = two_images.evaluate()["scores"]
    assert {split: without_intervals(values) for split, values in scores.items()} == {
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
            # What was found grows over all of its plane: in a over both objects, in b over the missing quarter.
            "v_rand_thin": pytest.approx((2 / 3 + 1) / 2),
            "v_info_thin": pytest.approx((0 + 1) / 2),
            # In a the missed object shrinks to a pixel, in b the one that is not there cannot be made.
            "warping_error": (1 + 2) / 48,
            # All voxels are boundary, and one of 9 found ones is farther than two pixels from the truth.
            "boundary_f1": pytest.approx(2 * (8 / 9) / (1 + 8 / 9)),
            "hausdorff": pytest.approx((2 + 5**0.5) / 2, abs=1e-6),
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
    assert list(objects.columns) == ["sample", "split", "label", "class", "voxels", "seg", "best_iou", "match", "kind"]
    assert objects.astype(object).where(objects.notna(), None).values.tolist() == [
        ["a", "test", 1, "cell", 4, 1, 1, 5, "matched"],
        ["a", "test", 2, "cell", 4, 0, 0, 0, "missed"],
        ["b", "test", 9, "cell", 4, 0.75, 0.75, 1, "matched"],
        ["b", "test", 0, "cell", 2, None, 0, 2, "spurious"],
    ]
    for name, table in (("images", images), ("objects", objects)):
        pd.testing.assert_frame_equal(
            pd.read_parquet(two_images.folder / f"{name}.parquet"), table, atol=1e-5, check_dtype=False
        )


def test_pixels_under_the_ignore_mask_do_not_count(project: Project) -> None:
    ignore = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    project.add("b", TRUTH_B, FOUND_B, ignore)
    scores = without_intervals(project.evaluate()["scores"]["test"])
    assert (scores.pop("n_images"), scores.pop("n_objects")) == (1, 1)
    distances = ("pixel_error", "rand_error", "voi_split", "voi_merge", "warping_error", "hausdorff")
    assert scores == {name: 0 if name in distances else 1 for name in scores}


def test_samples_of_other_splits_are_left_out(two_images: Project) -> None:
    two_images.add("c", TRUTH_A, NOTHING, split="train")
    two_images.add("d", TRUTH_A, NOTHING, split="unannotated")
    stamp = two_images.evaluate()
    assert list(stamp["samples"]) == ["a", "b"] and stamp["scores"]["test"]["n_images"] == 2


def test_each_split_has_scores_of_its_own(two_images: Project) -> None:
    two_images.move("b", "train")
    scores = two_images.evaluate(CFG.model_copy(update={"splits": ["train", "test", "validation"]}))["scores"]
    assert {split: (values["n_objects"], values["seg"]) for split, values in scores.items()} == {
        "train": (1, 0.75),
        "test": (2, 0.5),
    }


def test_a_second_call_scores_nothing_and_writes_the_same(
    two_images: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
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
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
    before = two_images.evaluate()
    two_images.add("b", truth, found, **digests)
    after = two_images.evaluate()
    assert scored(caplog) == "evaluate: 2 samples, 1 scored"
    assert after["samples"]["a"] == before["samples"]["a"]
    assert two_images.table("images.csv")["iou"].tolist() == [0.5, 1]


def test_other_thresholds_score_all_samples_anew(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
    two_images.evaluate()
    scores = two_images.evaluate(Evaluate(thresholds=[0.5, 0.75, 0.755, 0.8]))["scores"]["test"]
    assert scored(caplog) == "evaluate: 2 samples, 2 scored"
    assert {name: value for name, value in scores.items() if re.fullmatch(r"ap[\d.]+", name)} == {
        "ap50": 0.5,
        "ap75": 0.5,
        "ap75.5": 0.2,
        "ap80": 0.2,
    }


def test_a_sample_that_moves_to_another_split_is_not_scored_again(
    two_images: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
    cfg = CFG.model_copy(update={"splits": ["train", "test"]})
    assert two_images.evaluate(cfg)["scores"]["test"]["n_objects"] == 3
    two_images.move("a", "train")
    scores = two_images.evaluate(cfg)["scores"]
    assert scored(caplog) == "evaluate: 2 samples, 0 scored"
    assert (scores["train"]["n_objects"], scores["test"]["n_objects"]) == (2, 1)
    assert two_images.table("images.csv")["split"].tolist() == ["train", "test"]


def test_damaged_counts_are_made_again(two_images: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
    expected = two_images.evaluate()
    path = two_images.folder / "samples" / "a.json"
    path.write_bytes(path.read_bytes()[:20])
    assert two_images.evaluate() == expected and scored(caplog) == "evaluate: 2 samples, 1 scored"


def test_images_without_true_objects_have_neither_seg_nor_det(project: Project) -> None:
    project.add("empty", NOTHING, FOUND_A)
    stamp = project.evaluate()
    assert (
        stamp["scores"]["test"]["seg"] is stamp["scores"]["test"]["det"] is None
        and stamp["scores"]["test"]["ap50"] == 0
    )
    assert stamp["scores"]["test"]["hausdorff"] is None and stamp["by_size"] == {"test": []}
    assert project.table("images.csv")["seg"].isna().all() and project.table("objects.csv")["kind"].tolist() == [
        "spurious"
    ]
    project.add("b", TRUTH_B, FOUND_B)
    assert project.evaluate()["scores"]["test"]["seg"] == 0.75


def test_a_data_set_without_samples_to_score_has_tables_without_rows(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A, split="train")
    stamp = project.evaluate()
    assert stamp["scores"] == stamp["by_size"] == stamp["samples"] == {} and not project.history.exists()
    assert project.table("images.csv").empty and project.table("objects.csv").empty


def test_blocks_are_scored_as_one_image(project: Project) -> None:
    # An object ends and another begins where the blocks do, and grows over that border when borders are thinned.
    rng = np.random.default_rng(0)
    truth, found = (np.kron(rng.integers(0, 4, (5, 5)), np.ones((64, 64), int)) for _ in range(2))
    put(project.truth_store / "large" / "labels" / "classes", np.where(truth > 0, 1, 0)[None], "1")
    project.add("large", truth.tolist(), found.tolist(), ignore=np.eye(320, dtype=int).tolist())
    assert len(Result(project.instance_store / "large").grid) == 4
    project.evaluate()
    kept = json.loads((project.folder / "samples" / "large.json").read_text())["counts"]
    ignore = np.eye(320)
    classes = Classes(["cell"], dict.fromkeys(range(1, 4), "cell"), dict.fromkeys(range(1, 4), "cell"))
    expected = score_image(contingency(truth, found, ignore), CFG.thresholds, classes)
    thin = contingency(truth, thin_borders(found, ignore), ignore)
    assert kept == expected | {"thin": {"v_rand": v_rand(thin), "v_info": v_info(thin)}, "space": kept["space"]}
    edges = [boundary(labels[None], ignore[None]) for labels in (truth, found)]
    surface = compare_boundaries(edges[0], edges[1], (slice(None),) * 3, (1, 1, 1), 1000)
    assert kept["space"] == {
        "warping": list(warp(truth, found, ignore)),
        "boundary": list(count_near(surface, 2)),
        "hausdorff": hausdorff_distance(surface),
    }


@pytest.mark.parametrize("piece", [(1, 512, 512), (2, 37, 50), (5, 20, 300)])
def test_boundaries_of_a_volume_are_the_same_for_any_pieces(
    project: Project, piece: ZYX, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    truth, found = (np.kron(rng.integers(0, 3, (2, 2, 3)), np.ones((2, 40, 45), int)) for _ in range(2))
    size = (2.0, 0.5, 0.5)
    for name, array in (("instances", truth), ("classes", truth > 0), ("ignore", rng.random(truth.shape) < 0.001)):
        put(project.truth_store / "v" / "labels" / name, np.asarray(array), "1", size)
    put(project.instance_store / "v", found, "1", size)
    monkeypatch.setattr(spatial, "PIECE_SHAPE", piece)
    objects = pin(project.instance_store / "v", "1", Path("stamp.json"))
    pins = pin_labels(project.truth_store, "v", "1", Path("stamp.json"))
    scores = spatial.score_space(pins, objects, None, project.engine)
    ignore = Result(project.truth_store / "v" / "labels" / "ignore").read_all()
    edges = [boundary(labels, ignore) for labels in (truth, found)]
    surface = compare_boundaries(edges[0], edges[1], (slice(None),) * 3, size, 1000)
    assert scores["boundary"] == list(count_near(surface, 1.0)) and scores["hausdorff"] == min(
        hausdorff_distance(surface) or 0, 32
    )
    planes = zip(truth, found, ignore, strict=True)
    assert scores["warping"] == list(functools.reduce(Warping.__add__, (warp(*plane) for plane in planes)))


def test_boundaries_farther_apart_than_is_measured_have_the_largest_distance(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial, "MAX_DISTANCES", (1, 2))
    project.add("a", TRUTH_B, [[0] * 5 + [1]] * 4)
    assert project.evaluate()["scores"]["test"]["hausdorff"] == 2


def test_a_boundary_just_within_reach_of_another_piece_is_seen(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial, "PIECE_SHAPE", (1, 20, 10))
    monkeypatch.setattr(spatial, "MAX_DISTANCES", (16,))
    truth, found = ([[1] * width + [0] * (60 - width)] * 20 for width in (10, 26))
    project.add("a", truth, found)
    scores = project.evaluate(CFG.model_copy(update={"boundary_tolerance": 16.0}))["scores"]["test"]
    assert (scores["hausdorff"], scores["boundary_f1"]) == (16, 1)


def test_the_tolerance_of_boundaries_is_in_micrometres(two_images: Project) -> None:
    exact = two_images.evaluate(CFG.model_copy(update={"boundary_tolerance": 0.0}))["scores"]["test"]
    # In a 4 of 8 and 4 of 4 lie on each other, in b 3 of 4 and 3 of 5.
    assert exact["boundary_f1"] == pytest.approx(2 * (7 / 12) * (7 / 9) / (7 / 12 + 7 / 9))


def test_each_class_has_iou_and_dice_where_there_are_several(project: Project) -> None:
    project.classes = ["cell", "debris"]
    project.add(
        "a",
        TRUTH_A,
        [[5, 5, 5, 5, 0, 0], [0] * 6, [6, 6, 7, 7, 0, 0], [0] * 6],
        classes=[[1] * 6, [0] * 6, [2] * 6, [0] * 6],
    )
    (project.instance_store.with_suffix("") / "a.csv").write_text("label,class\n5,cell\n6,debris\n7,cell\n")
    scores = project.evaluate()["scores"]["test"]
    assert (scores["iou"], scores["iou_cell"], scores["iou_debris"]) == (1, 4 / 6, 2 / 4)
    assert (scores["dice_cell"], scores["dice_debris"]) == (8 / 10, 4 / 6)
    assert project.table("objects.csv")[["label", "class", "kind"]].values.tolist()[:2] == [
        [1, "cell", "matched"],
        [2, "debris", "matched"],
    ]


def test_scores_of_objects_know_of_classes_where_there_are_several(project: Project) -> None:
    """Two cells of which one is found as debris, and a debris that is found as what it is."""
    project.classes = ["cell", "debris"]
    truth = [[1, 1, 0, 2, 2, 0], [0] * 6, [3, 3, 0, 0, 0, 0]]
    project.add("a", truth, truth, classes=[[1, 1, 0, 1, 1, 0], [0] * 6, [2, 2, 0, 0, 0, 0]])
    (project.instance_store.with_suffix("") / "a.csv").write_text("label,class\n1,cell\n2,debris\n3,debris\n")
    stamp = project.evaluate()
    scores = stamp["scores"]["test"]
    assert scores["ap50"] == 1 and scores["class_ap50"] == 2 / 4
    assert (scores["ap50_cell"], scores["ap50_debris"], scores["pq75_debris"]) == (1 / 2, 1 / 2, 2 / 3)
    assert stamp["confusion"] == {"test": [["cell", 1, 1, 0], ["debris", 0, 1, 0], ["", 0, 0, 0]]}
    assert project.table("images.csv")["class_ap50"].tolist() == [0.5]


def test_classes_called_low_and_high_do_not_take_the_place_of_intervals(project: Project) -> None:
    project.classes = ["low", "high"]
    truth = [[1, 1, 0, 2, 2, 0], [0] * 6, [0] * 6, [0] * 6]
    for name, found in (("a", [[1, 1, 0, 2, 2, 0], *truth[1:]]), ("b", [[1, 1, 0, 0, 0, 0], *truth[1:]])):
        project.add(name, truth, found, classes=[[1, 1, 0, 2, 2, 0], [0] * 6, [0] * 6, [0] * 6])
        table = project.instance_store.with_suffix("") / f"{name}.csv"
        table.write_text("label,class\n1,low\n" + ("2,high\n" if name == "a" else ""))
    scores = project.evaluate()["scores"]["test"]
    assert [scores[f"{name}_of_{one}"] for name in ("iou", "ap50") for one in ("low", "high")] == [1, 0.5, 1, 0.5]
    assert (scores["ap50_low"], scores["ap50"], scores["ap50_high"]) == (0.5, 0.75, 1)


def test_a_data_set_of_one_class_has_no_scores_by_class(two_images: Project) -> None:
    stamp = two_images.evaluate()
    assert "confusion" not in stamp and not [name for name in stamp["scores"]["test"] if "class" in name]


def test_intervals_hold_the_score_and_a_single_image_has_none(two_images: Project) -> None:
    scores = two_images.evaluate()["scores"]["test"]
    measures = [name for name in MEASURES if name not in OF_CLASSES]
    for name in measures:
        assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"], name
    # Both images, one of them twice, or the other twice.
    assert (scores["iou_low"], scores["iou_high"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (scores["seg_low"], scores["seg_high"]) == (0.5, 0.75)
    two_images.move("b", "train")
    scores = two_images.evaluate()["scores"]["test"]
    assert all(scores[f"{name}_{end}"] is None for name in measures for end in ("low", "high"))


def test_main_measures_follow_from_the_sums_of_images(two_images: Project) -> None:
    scores = two_images.evaluate()["scores"]["test"]
    table = read_images(two_images.history, read_history(two_images.history)[0]["digest"])
    assert table is not None
    assert {name: score(sums) for name, sums in sums_of(table).items()} == pytest.approx(
        {name: scores[name] for name in MEASURES if name not in OF_CLASSES}
    )


def test_small_medium_and_large_objects_have_scores_of_their_own(project: Project) -> None:
    project.add("a", [[1, 0, 2, 2, 0, 0], [0] * 6, [3, 3, 3, 3, 3, 3]], [[0] * 6, [0] * 6, [8, 8, 8, 0, 0, 0]])
    project.add("b", [[4, 4, 4, 0, 5, 5], [0] * 6, [0] * 6], [[4, 4, 4, 0, 5, 0], [0] * 6, [0] * 6])
    assert project.evaluate()["by_size"]["test"] == [
        {"size": "small", "min_voxels": 1, "max_voxels": 2, "n_objects": 3, "seg": 0, "recall50": pytest.approx(1 / 3)},
        {"size": "medium", "min_voxels": 3, "max_voxels": 3, "n_objects": 1, "seg": 1, "recall50": 1},
        {"size": "large", "min_voxels": 6, "max_voxels": 6, "n_objects": 1, "seg": 0, "recall50": 1},
    ]


def test_scores_of_one_image_are_summarised_like_those_of_many() -> None:
    counts = score_image(contingency(np.array(TRUTH_A), np.array(FOUND_A)), [0.5])
    one, two = (summarise([counts] * n, [0.5]) for n in (1, 2))
    assert one == two


def test_a_result_of_another_shape_says_where_and_what_to_do(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A)
    digest = read_attributes(project.instance_store / "a")["digest"]
    remove(project.instance_store / "a")
    put(project.instance_store / "a", np.zeros((1, 4, 7)), digest)
    with pytest.raises(
        UserError,
        match=r"instances/unet/cells.zarr/a has shape \(1, 4, 7\), but its truth \(1, 4, 6\): "
        r"it was not made of this image; delete the folder .*/a and run snakemake again",
    ):
        project.evaluate()


@pytest.mark.parametrize("what", ["instances", "classes", "ignore", "objects"])
@pytest.mark.parametrize("before", [True, False])
def test_scores_of_what_was_made_anew_are_not_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str, before: bool
) -> None:
    """Before the sample is scored, or while it is."""
    project.add("a", TRUTH_A, FOUND_A)
    path = project.instance_store / "a" if what == "objects" else project.truth_store / "a" / "labels" / what
    real = sample.score_space

    def replaced(*arguments: Any) -> dict[str, Any]:
        found = real(*arguments)
        put(path, np.zeros((1, 4, 6)), "other")
        return found

    if before:
        put(path, np.zeros((1, 4, 6)), "other")
    else:
        monkeypatch.setattr(sample, "score_space", replaced)
    with pytest.raises(UserError, match=f"{path.name} is not what .*json says: another run .*; run snakemake again"):
        project.evaluate()
    assert not (project.folder / "samples" / "a.json").exists()


def test_a_missing_table_says_what_makes_it(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A)
    (project.instance_store.with_suffix("") / "a.csv").unlink()
    with pytest.raises(UserError, match="a.csv is missing; run 'python -m unet_core verify --mend .*cells.zarr'"):
        project.evaluate()


def test_a_missing_shard_is_an_error_and_not_background(project: Project) -> None:
    project.add("a", TRUTH_A, FOUND_A)
    (project.truth_store / "a" / "labels" / "instances" / "0" / "c.0.0.0").unlink()
    with pytest.raises(UserError, match=r"groundtruth/cells.zarr/a/labels/instances: block \(0, 0, 0\) is missing"):
        project.evaluate()


def written(project: Project) -> dict[str, bytes]:
    """Stamp and tables, and what is kept of each sample."""
    files = [project.folder.with_suffix(".json"), *project.folder.rglob("*.*")]
    return {path.name: path.read_bytes() for path in files}


def test_small_samples_are_scored_side_by_side_and_written_in_their_order(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        project.add(name, TRUTH_A if name in "ac" else TRUTH_B, FOUND_A)
    several = project.engine
    with local_engine(1) as project.engine:
        project.evaluate()
    expected = written(project)
    remove(project.folder)
    project.engine, together, later = several, threading.Barrier(2, timeout=120), threading.Event()
    real = sample.score_space

    def meeting(truth: Any, found: Any, *others: Any) -> dict[str, Any]:
        together.wait()
        if found.path.name == "a":
            assert later.wait(timeout=120)
        space = real(truth, found, *others)
        if found.path.name == "b":
            later.set()
        return space

    monkeypatch.setattr(sample, "score_space", meeting)
    assert list(project.evaluate()["samples"]) == names and written(project) == expected


def test_what_was_scored_before_an_error_in_another_sample_stays(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unet_core.evaluate.step")
    for number in range(9):
        project.add(f"s{number}", TRUTH_A, FOUND_A)
    table = project.instance_store.with_suffix("") / "s8.csv"
    content = table.read_bytes()
    table.unlink()
    shared = project.engine
    # What is at work at the moment of the error ends with the engine; in the process of a step that is at once.
    with (
        pytest.raises(UserError, match="^.*s8.csv is missing; run 'python -m unet_core verify --mend"),
        local_engine(2) as project.engine,
    ):
        project.evaluate()
    project.engine = shared
    kept = len(list((project.folder / "samples").iterdir()))
    assert kept >= 4  # no more than twice as many samples as workers were in flight
    table.write_bytes(content)
    project.evaluate()
    assert scored(caplog) == f"evaluate: 9 samples, {9 - kept} scored"
