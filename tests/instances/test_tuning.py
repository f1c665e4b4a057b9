"""What is auto is what is best on samples that were not learnt from, and on no others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from unet_core.config.instances import FixedInstances, Instances
from unet_core.engine import Engine
from unet_core.instances import tuning
from unet_core.instances.tuning import Counts, score_piece, search, settled, tune_instances
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import Matching, average_precision, match
from unet_core.metrics.seg import seg_scores
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import LABELS, Spec, begin, finish

AUTO = Instances(threshold="auto", min_size="auto", split="auto")
# Rows and columns of disks, and their radius: some touch.
DISKS = [
    (30, 30, 12),
    (30, 53, 12),
    (80, 40, 14),
    (80, 90, 9),
    (30, 95, 10),
    (110, 20, 8),
    (110, 70, 12),
    (110, 93, 12),
]


def scene(shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of disks, and what a network says of them: too sure of their rim, with necks between them, and specks."""
    y, x = np.mgrid[:130, :120]
    labels = np.zeros((130, 120), np.uint32)
    for number, (row, column, radius) in enumerate(DISKS, start=1):
        labels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = number
    inside = ndimage.distance_transform_edt(labels > 0) - ndimage.distance_transform_edt(labels == 0)
    probability = 1 / (1 + np.exp(-(inside + 3) / 2))  # 0.5 lies three pixels outside of the disks
    probability[4:7, 4:7] = probability[60, 20:24] = 1
    stored = np.rint(255 * np.roll(probability, shift, (0, 1))).astype(np.uint8)
    return np.roll(labels, shift, (0, 1))[None], stored[None, None]


class Project:
    """Probabilities and truth of samples, as earlier steps leave them."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine, self.predicted, self.truths = folder, engine, dict[str, Any](), dict[str, Any]()

    def add(self, name: str, split: str, labels: np.ndarray | None, stored: np.ndarray) -> None:
        images = {self.folder / "predict.zarr" / name: (stored, Spec(stored.shape[1:], "uint8", "image", len(stored)))}
        if labels is not None:
            types = {"instances": "uint32", "classes": "uint8", "ignore": "uint8"}
            arrays = {"instances": labels, "classes": labels > 0, "ignore": np.zeros_like(labels)}
            for part in LABELS:
                path = self.folder / "truth.zarr" / name / "labels" / part
                images[path] = (arrays[part], Spec(labels.shape, types[part], "labels"))
        for path, (array, spec) in images.items():
            result = begin(path, "d", spec, {})
            for index in [*result.missing_blocks()]:
                result.write(index, array[(..., *result.grid.box(index).slices)], "d")
            finish(path, "d", {})
        self.predicted[name] = {"split": split, "digest": "d"}
        self.truths[name] = {"split": split, "labels": None if labels is None else "d"}
        write_stamp(self.folder / "predict.json", {"samples": self.predicted})
        write_stamp(self.folder / "truth.json", {"samples": self.truths})

    def tune(self, cfg: Instances = AUTO) -> dict[str, Any]:
        stamp = self.folder / "tune.json"
        predict, truth = ({"cells": self.folder / f"{name}.json"} for name in ("predict", "truth"))
        tune_instances(cfg, predict=predict, groundtruth=truth, stamp=stamp, engine=self.engine)
        return read_json(stamp)


@pytest.fixture
def project(tmp_path: Path, engine: Engine) -> Project:
    return Project(tmp_path, engine)


def brute_force(labels: np.ndarray, stored: np.ndarray, tried: list[dict[str, Any]]) -> list[float]:
    """Scores of settings on one sample, each by itself."""
    scores = []
    for one in tried:
        cfg = FixedInstances(threshold=one["threshold"], min_size=one["min_size"], split=one["split"])
        table = contingency(labels, tuning.label_objects(stored, cfg, (1.0, 1.0, 1.0)))
        scores.append(float(np.mean([average_precision(match(table, t)) for t in (0.5, 0.75)])))
    return scores


def test_what_is_best_is_found(project: Project) -> None:
    labels, stored = scene()
    project.add("v", "validation", labels, stored)
    found = project.tune()
    assert found["by"] == ["cells/v"] and found["objects"] == len(DISKS)
    assert found["score"] == max(one["score"] for one in found["tried"]) > found["before"] + 0.2
    assert [one["score"] for one in found["tried"]] == pytest.approx(brute_force(labels, stored, found["tried"]))
    best = next(one for one in found["tried"] if one["score"] == found["score"])
    assert {**found["chosen"], "score": found["score"]} == best
    assert found["chosen"]["threshold"] > 0.7 and found["chosen"]["min_size"] > 9


def test_volumes_and_several_classes_are_tuned_too(project: Project) -> None:
    labels, stored = scene()
    volume = np.repeat(labels, 3, axis=0)
    half = np.repeat(stored, 3, axis=1) // 2
    two = np.concatenate([half, np.repeat(stored, 3, axis=1) - half])  # of two classes, which together are the cells
    project.add("v", "validation", volume, two)
    found = project.tune()
    assert found["objects"] == len(DISKS) and found["score"] > found["before"]
    assert [one["score"] for one in found["tried"]] == pytest.approx(brute_force(volume, two, found["tried"]))


def test_what_was_found_is_kept_as_long_as_nothing_it_depends_on_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    labels, stored = scene()
    project.add("v", "validation", labels, stored)
    found = project.tune()
    project.add("new", "unannotated", None, stored)
    kept, calls = project.folder / "tune" / "tried.json", list[int]()
    monkeypatch.setattr(tuning, "search", lambda *given: calls.append(1) or search(*given))
    assert project.tune() == found and not calls
    kept.write_bytes(kept.read_bytes().replace(b"0.", b"1.", 1))  # damaged
    assert project.tune() == found and len(calls) == 1
    project.tune(AUTO.model_copy(update={"fill": "planes"}))
    assert len(calls) == 2
    project.add("w", "validation", labels, stored)
    assert project.tune()["by"] == ["cells/v", "cells/w"] and len(calls) == 3


def test_seg_may_decide(project: Project) -> None:
    labels, stored = scene()
    project.add("v", "validation", labels, stored)
    found = project.tune(AUTO.model_copy(update={"best_by": "seg"}))
    cfg = settled(AUTO, project.folder / "tune.json")
    table = contingency(labels, tuning.label_objects(stored, cfg, (1.0, 1.0, 1.0)))
    assert found["score"] == pytest.approx(float(np.mean(seg_scores(table))))


@pytest.mark.parametrize(
    "numbers", [{"threshold": 0.45}, {"min_size": 7}, {"split": 0.5}, {"split": None, "threshold": 0.9}]
)
def test_numbers_of_the_configuration_win(project: Project, numbers: dict[str, Any]) -> None:
    project.add("v", "validation", *scene())
    cfg = AUTO.model_copy(update=numbers)
    found = project.tune(cfg)
    assert set(found["chosen"]) == {"threshold", "min_size", "split"} - set(numbers)
    assert all(one[key] == value for one in found["tried"] for key, value in numbers.items())
    fixed = settled(cfg, project.folder / "tune.json")
    assert {key: getattr(fixed, key) for key in numbers} == numbers


def test_tests_and_what_was_learnt_from_decide_nothing(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    labels, stored = scene()
    project.add("t", "test", labels, stored)
    project.add("l", "train", labels, stored)
    project.add("u", "unannotated", None, stored)
    found = project.tune()
    assert found["chosen"] == {"threshold": 0.5, "min_size": 0, "split": None} and found["by"] == []
    assert "no annotated object in samples for validation" in caplog.text
    project.add("h", "cross-validation", labels, stored)
    alone = project.tune()
    assert alone["by"] == ["cells/h"] and alone["chosen"]["threshold"] > 0.7


def test_a_truth_that_went_since_is_told(project: Project) -> None:
    project.add("v", "validation", *scene())
    write_stamp(project.folder / "truth.json", {"samples": {}})
    with pytest.raises(UserError, match="has no longer the sample v; run snakemake again"):
        project.tune()


def test_counts_are_those_of_all_pieces_in_any_order(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [scene(shift) for shift in (0, 9, 31)]
    for number, (labels, stored) in enumerate(scenes):
        project.add(f"v{number}", "validation", labels, stored)
    whole = project.tune()
    counts = [Counts((Matching(0, 0, 0, 0.0),) * 2, ())]
    candidate = settled(AUTO, project.folder / "tune.json")
    predict, truth = ({"cells": project.folder / f"{name}.json"} for name in ("predict", "truth"))
    for piece in tuning._pieces([*tuning._samples(predict, truth)]):
        counts += score_piece(piece, [candidate])
    assert sum(counts[1:], counts[0]).score("ap") == pytest.approx(whole["score"])
    # Not more than so many voxels are looked at, of all samples in turn.
    monkeypatch.setattr(tuning, "PIECES", {True: (1, 64, 64)})
    monkeypatch.setattr(tuning, "MAX_VOXELS", 4 * 64 * 64)
    pieces = tuning._pieces([*tuning._samples(predict, truth)])
    assert sum(np.prod(piece.box.shape) for piece in pieces) <= tuning.MAX_VOXELS
    assert {piece.probabilities.path.name for piece in pieces} == {"v0", "v1", "v2"}
    assert {piece.box.start for piece in pieces[:3]} == {(0, 64, 0)}  # rows 64 to 128 of 130 are nearest to the middle


def test_gains_that_may_be_chance_change_nothing() -> None:
    start = settled(AUTO, None)
    values = {(0.5, 0, None): 0.7, (0.6, 0, None): 0.7019, (0.5, 5, None): 0.7021}

    def rate(candidates: list[FixedInstances]) -> list[Counts]:
        scores = [values.get((one.threshold, one.min_size, one.split), 0.1) for one in candidates]
        return [Counts((), (score,)) for score in scores]

    chosen, tried = search(AUTO.model_copy(update={"best_by": "seg"}), start, 20, rate)
    assert (chosen.threshold, chosen.min_size, chosen.split) == (0.5, 5, None)
    settings = [tuple(one[key] for key in ("threshold", "min_size", "split")) for one in tried]
    assert settings[0] == (0.5, 0, None) and len(set(settings)) == len(settings)


def test_without_a_stamp_auto_is_what_it_begins_with() -> None:
    fixed = settled(AUTO.model_copy(update={"split": 0.3}), None)
    assert (fixed.threshold, fixed.min_size, fixed.split) == (0.5, 0, 0.3)
    assert not fixed.is_tuned and AUTO.is_tuned and not Instances().is_tuned


def test_what_is_auto_only_now_is_what_it_begins_with_until_it_is_chosen(tmp_path: Path) -> None:
    write_stamp(tmp_path / "tune.json", {"chosen": {"threshold": 0.7}})
    fixed = settled(AUTO, tmp_path / "tune.json")
    assert (fixed.threshold, fixed.min_size, fixed.split) == (0.7, 0, None)


@pytest.mark.parametrize(("key", "value"), [*itertools.product(["threshold", "min_size", "split"], ["best", -1])])
def test_other_words_and_impossible_numbers_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Instances.model_validate({key: value})
