"""History of evaluations, their comparison, and the gate, on small stores.

One test shows that the gate catches a corrupted batch of annotations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.evaluate.test_step import CFG, Project
from unet_core.config.options import Evaluate
from unet_core.config.parse import parse_config
from unet_core.engine import Engine
from unet_core.evaluate.gate import check_gate
from unet_core.evaluate.history import MEASURES, compare, keep_evaluation, read_history, read_images
from unet_core.runtime import UserError, read_json

CELL = np.zeros((12, 12), int)
CELL[2:10, 2:10] = 1
NAMES = [f"t{number}" for number in range(6)]


def eroded(by: int) -> np.ndarray:
    """The cell as a model finds it that lost so many pixels of its border."""
    found = np.zeros_like(CELL)
    found[2 + by : 10 - by, 2 + by : 10 - by] = 1
    return found


@pytest.fixture
def project(tmp_path: Path, engine: Engine) -> Project:
    return Project(tmp_path, engine)


def train(
    project: Project, weights: str, found: np.ndarray, names: list[str] = NAMES, truth_digest: str = "1"
) -> dict[str, Any]:
    """What a model of these weights finds in the test images, scored."""
    project.weights = weights
    for name in names:
        project.add(name, CELL.tolist(), found.tolist(), truth_digest=truth_digest, found_digest=weights)
    return project.evaluate(CFG)


def gate(project: Project, on: bool = True, margin: float = 0.05) -> dict[str, Any]:
    stamp = project.history.parent / "gate.json"
    stamp.unlink(missing_ok=True)  # as Snakemake does
    check_gate(
        Evaluate(gate=on, gate_margin=margin),
        model=project.folder.parents[1] / "train" / "unet.json",
        evaluations={"cells": project.folder.with_suffix(".json")},
        history=project.history.parent,
        stamp=stamp,
    )
    return read_json(stamp)


def test_each_evaluation_is_kept_once_with_its_model_and_the_change_since_the_last(project: Project) -> None:
    first = train(project, "w1", eroded(0))
    assert project.evaluate(CFG) == first and len(read_history(project.history)) == 1
    second = train(project, "w2", eroded(1))
    lines = read_history(project.history)
    assert [(line["weights"], line["digest"], line["scores"]) for line in lines] == [
        (stamp["weights"], stamp["digest"], stamp["scores"]) for stamp in (first, second)
    ]
    assert list(lines[0]) == ["time", "digest", "weights", "scores", "change", "images"] and lines[0]["change"] == {}
    change = lines[1]["change"]["test"]["iou"]
    assert change == {
        "n_images": 6,
        "before": 1,
        "after": 36 / 64,
        "difference": -28 / 64,
        "low": -28 / 64,
        "high": -28 / 64,
    }
    # An annotation that changed since is no ground for a comparison.
    train(project, "w3", eroded(0), NAMES[:4], truth_digest="2")
    assert read_history(project.history)[2]["change"]["test"]["iou"]["n_images"] == 2


def test_a_history_with_damaged_lines_is_read_and_goes_on(project: Project) -> None:
    train(project, "w1", eroded(0))
    with project.history.open("a") as file:
        file.write('{"time": "2026\nnull\n{"digest": 3}\n')
    train(project, "w2", eroded(1))
    assert [line["weights"] for line in read_history(project.history)] == ["w1", "w2"]
    (project.history.with_suffix("") / f"{read_history(project.history)[1]['digest']}.csv").write_text("x,y\n1,2\n")
    assert read_images(project.history, read_history(project.history)[1]["digest"]) is None
    # What is lost of the latest evaluation is written again.
    assert project.evaluate(CFG) and read_images(project.history, "nothing") is None
    assert read_images(project.history, read_history(project.history)[1]["digest"]) is not None
    train(project, "w3", eroded(1))
    assert read_history(project.history)[2]["change"]["test"]["iou"]["difference"] == 0


def test_wrong_numbers_in_a_history_are_left_out_told_once_and_kept_aside(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        train(project, f"w{number}", eroded(number))
    whole = project.history.read_bytes()
    second = whole.split(b"\n")[1]
    harmed = second.replace(b'"scores": {"test": {"n_images": 6', b'"scores": {"test": {"n_images": 7')
    assert harmed != second and json.loads(harmed)["scores"]["test"]["n_images"] == 7
    project.history.write_bytes(whole.replace(second, harmed))
    for _ in range(2):
        assert [line["weights"] for line in read_history(project.history)] == ["w0", "w2"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"evaluate: {project.history}: 1 of 3 lines are damaged: those evaluations are left out"
    ]
    project.evaluate(CFG)
    assert project.history.read_bytes() == whole.replace(second + b"\n", b"")
    aside = project.history.with_name("cells.jsonl.damaged")
    assert aside.read_bytes() == whole.replace(second, harmed)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"][-1] == (
        f"evaluate: {project.history} is written without its damaged lines, and kept as {aside.name}"
    )


def test_a_history_of_a_former_version_is_read_and_gets_checksums(project: Project) -> None:
    train(project, "w1", eroded(0))
    lines = read_history(project.history)
    former = {key: value for key, value in lines[0].items() if key != "images"}
    project.history.write_text(json.dumps(former) + "\n")
    assert read_history(project.history) == [former]
    assert read_images(project.history, former["digest"]) is not None
    train(project, "w2", eroded(1))
    before, after = [json.loads(line) for line in project.history.read_text().splitlines()]
    assert before.pop("checksum") and before == former
    assert after["checksum"] and after["change"]["test"]["iou"]["n_images"] == 6


def test_wrong_numbers_in_a_table_of_images_are_compared_with_nothing_and_told(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    train(project, "w1", eroded(0))
    gate(project)
    table = project.history.with_suffix("") / f"{read_history(project.history)[0]['digest']}.csv"
    whole = table.read_text()
    table.write_text(whole.replace("64.0", "65.0", 1))
    train(project, "w2", eroded(3))
    assert gate(project)["weights"] == "w2"
    told = [record.message for record in caplog.records if str(table) in record.message]
    assert told == [
        f"evaluate: {table} is damaged (its checksum is another one): nothing is compared with that evaluation"
    ]


def test_a_damaged_note_of_the_accepted_model_is_told(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    train(project, "w1", eroded(0))
    gate(project)
    train(project, "w2", eroded(3))
    note = project.history.parent / "accepted.json"
    assert json.loads(note.read_text())["weights"] == "w1"
    # As it is, the model would be compared with itself.
    note.write_text(note.read_text().replace("w1", "w2"))
    with pytest.raises(UserError, match="model unet is worse than the one it replaces"):
        gate(project)
    assert any(f"gate: {note} is damaged (its checksum is another one)" in record.message for record in caplog.records)
    # A former version wrote no checksum.
    note.write_text('{"weights": "w2"}\n')
    assert gate(project)["weights"] == "w2"


def test_a_model_that_takes_each_class_for_the_other_is_refused(project: Project) -> None:
    def trained(weights: str, found_as: str) -> None:
        project.classes, project.weights = ["cell", "debris"], weights
        for name in NAMES:
            project.add(name, CELL.tolist(), CELL.tolist(), found_digest=weights)
            (project.instance_store.with_suffix("") / f"{name}.csv").write_text(f"label,class\n1,{found_as}\n")
        project.evaluate(CFG)
        gate(project)

    trained("w1", "cell")
    with pytest.raises(UserError, match="unet is worse than the one it replaces: class_ap50 on cells fell"):
        trained("w2", "debris")


def test_evaluations_of_former_versions_are_compared_without_scores_by_class() -> None:
    of_before = images_of([0.5] * 3).drop(columns=["class_ap50_over", "class_ap50_under"])
    table = compare(of_before, images_of([0.25] * 3))
    assert {*table["measure"]} == {*MEASURES} - {"class_ap50"} and (table["difference"] == -0.25).all()


def images_of(values: list[float], split: str = "test", truth: str = "1") -> pd.DataFrame:
    columns = {
        f"{name}_{part}": values if part == "over" else [1.0] * len(values)
        for name in MEASURES
        for part in ("over", "under")
    }
    return pd.DataFrame({"sample": [f"s{n}" for n in range(len(values))], "split": split, "truth": truth} | columns)


def test_a_comparison_pairs_the_images_that_both_have() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.2, 0.9, 30)
    after = before - 0.1 + rng.normal(0, 0.02, 30)
    table = compare(images_of(before.tolist()).sample(frac=1, random_state=1), images_of(after.tolist())).set_index(
        "measure"
    )
    row = table.loc["iou"]
    # The images differ a lot, and yet the change is known well.
    assert (
        row["difference"] == pytest.approx(after.mean() - before.mean())
        and row["high"] - row["low"] < 0.02 < before.std()
    )
    assert row["low"] < -0.1 + 0.01 and row["high"] > -0.1 - 0.01
    assert compare(images_of([0.5] * 3), images_of([0.5] * 3, truth="2")).empty
    assert compare(images_of([0.5] * 3), images_of([0.5] * 3, split="train")).empty
    assert compare(images_of([0.5]), images_of([0.25]))[["difference", "low"]].iloc[0].tolist() == pytest.approx(
        [-0.25, np.nan], nan_ok=True
    )


def test_a_model_that_is_worse_is_stopped_and_says_so_with_the_table(project: Project) -> None:
    train(project, "w1", eroded(0))
    assert gate(project) == {"step": "gate", "weights": "w1"}
    train(project, "w2", eroded(1))
    with pytest.raises(UserError) as stopped:
        gate(project)
    message = str(stopped.value)
    assert (
        "model unet is worse than the one it replaces: iou on cells, seg on cells fell by more than "
        "evaluate.gate_margin = 0.05" in message
    )
    assert "snakemake --config gate=off" in message and "0.562" in message and "-0.438" in message
    assert not (project.history.parent / "gate.json").exists()


def test_a_model_with_folds_is_compared_by_its_cross_validation(project: Project) -> None:
    for weights, found in (("w1", eroded(0)), ("w2", eroded(1))):
        project.weights = weights
        for name in NAMES:
            project.add(name, CELL.tolist(), found.tolist(), split="train", found_digest=weights)
            project.predicted_as(name, "cross-validation")
        project.evaluate(Evaluate())
        if weights == "w1":
            gate(project)
    with pytest.raises(UserError, match="iou on cells, seg on cells fell by more than") as stopped:
        gate(project)
    assert "cross-validation" in str(stopped.value)


def test_gate_off_accepts_the_model_and_later_ones_are_compared_with_it(project: Project) -> None:
    train(project, "w1", eroded(0))
    gate(project)
    train(project, "w2", eroded(1))
    assert gate(project, on=False)["weights"] == "w2" and gate(project)["weights"] == "w2"
    train(project, "w3", eroded(1))
    assert gate(project)["weights"] == "w3"


def test_a_model_that_was_stopped_is_not_what_the_next_one_is_compared_with(project: Project) -> None:
    # No gate before the second model: there was no data set without annotation then.
    train(project, "w1", eroded(0))
    train(project, "w2", eroded(2))
    for _ in range(2):
        with pytest.raises(UserError, match="is worse"):
            gate(project)
    train(project, "w3", eroded(1))
    with pytest.raises(UserError, match="is worse"):
        gate(project)
    train(project, "w4", eroded(0))
    assert gate(project)["weights"] == "w4"


@pytest.mark.parametrize(("margin", "stops"), [(0.5, False), (0.4, True)])
def test_the_margin_decides(project: Project, margin: float, stops: bool) -> None:
    train(project, "w1", eroded(0))
    gate(project)
    train(project, "w2", eroded(1))
    if stops:
        with pytest.raises(UserError, match="gate_margin = 0.4"):
            gate(project, margin=margin)
    else:
        assert gate(project, margin=margin)["weights"] == "w2"


def test_one_bad_image_of_many_is_no_proof_that_the_model_is_worse(project: Project) -> None:
    train(project, "w1", eroded(1))
    gate(project)
    train(project, "w2", eroded(0), NAMES[:5])
    train(project, "w2", eroded(3), NAMES[5:])
    assert gate(project)["weights"] == "w2"


def test_without_common_test_images_or_history_a_model_is_accepted(project: Project) -> None:
    train(project, "w1", eroded(0))
    gate(project)
    train(project, "w2", eroded(3), truth_digest="2")
    assert gate(project)["weights"] == "w2"
    project.history.unlink()
    (project.history.parent / "accepted.json").write_text("damaged")
    assert gate(project)["weights"] == "w2"


def test_a_corrupted_batch_of_annotations_is_caught(project: Project) -> None:
    """A toy model learns from its training annotations how far cells reach around their centres.

    A batch of these annotations is shifted.
    """

    def learn(annotations: list[np.ndarray]) -> np.ndarray:
        return (np.mean(annotations, axis=0) > 0.5).astype(int)

    annotations = [
        np.roll(CELL, (int(y), int(x)), (0, 1)) for y, x in np.random.default_rng(0).integers(-1, 2, (20, 2))
    ]
    train(project, "good", learn(annotations))
    gate(project)
    more = [*annotations, *(np.roll(CELL, (1, 0), (0, 1)) for _ in range(5))]
    train(project, "more", learn(more))
    assert gate(project)["weights"] == "more"
    corrupted = [*annotations, *(np.roll(annotation, (4, 4), (0, 1)) for annotation in annotations * 2)]
    train(project, "corrupted", learn(corrupted))
    with pytest.raises(UserError, match="iou on cells"):
        gate(project)


def test_keeping_an_evaluation_writes_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "history" / "unet" / "cells.jsonl"
    keep_evaluation(path, images_of([0.5, 0.25]), {"test": {"iou": 0.375, "seg": None}}, "w", "d")
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        "history/unet/cells.jsonl",
        "history/unet/cells/d.csv",
    }
    assert json.loads(path.read_text())["scores"] == {"test": {"iou": 0.375, "seg": None}}


@pytest.mark.parametrize(("given", "expected"), [("off", False), ("on", True), (False, False), ("false", False)])
def test_gate_beside_the_sections_stands_for_that_of_evaluate(given: Any, expected: bool) -> None:
    raw = {"datasets": {"a": {"images": "*.tif", "annotations": [{"format": "labels", "path": "x"}]}}}
    for sections in ({}, {"evaluate": {"splits": ["test"]}}, {"evaluate": {"gate": not expected}}, {"evaluate": None}):
        assert parse_config({**raw, **sections, "gate": given}).evaluate.gate is expected
    with pytest.raises(ValueError, match="evaluate.gate: must be a valid boolean"):
        parse_config({**raw, "gate": "maybe"})
