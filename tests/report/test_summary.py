"""The table that matters: what the history says of a change is what it shows, and only of this evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from unet_core.evaluate.history import MEASURES, keep_evaluation
from unet_core.report.sections import _confusion
from unet_core.report.step import markdown
from unet_core.report.summary import Row, matrix_of, matrix_tables, measures_of, summary_rows


def images(quality: float) -> pd.DataFrame:
    columns = {
        f"{name}_{part}": [quality if part == "over" else 1.0] * 4 for name in MEASURES for part in ("over", "under")
    }
    return pd.DataFrame({"sample": list("abcd"), "split": "test", "truth": "t"} | columns)


def stamp(digest: str, quality: float) -> dict[str, Any]:
    scores: dict[str, Any] = dict.fromkeys(MEASURES, quality) | {
        "iou_low": quality - 0.1,
        "iou_high": quality + 0.1,
        "seg": None,
    }
    return {"digest": digest, "scores": {"test": {"n_images": 4, "n_objects": 9} | scores}}


@pytest.fixture
def history(tmp_path: Path) -> Path:
    for digest, quality in (("one", 0.5), ("two", 0.75)):
        keep_evaluation(tmp_path / "m" / "d.jsonl", images(quality), {}, f"w{digest}", digest)
    return tmp_path


def row_of(history: Path, digest: str) -> Row:
    (row,) = summary_rows({("m", "d"): stamp(digest, 0.75)}, history)
    return row


def test_a_change_is_shown_with_its_interval_and_its_meaning(history: Path) -> None:
    row = row_of(history, "two")
    scores = dict(zip(MEASURES, row.scores, strict=True))
    assert scores["iou"].text == "0.750" and scores["iou"].interval == "0.650–0.850"
    assert (
        scores["iou"].change == "+0.250"
        and scores["iou"].change_interval == "+0.250 to +0.250"
        and scores["iou"].verdict == "better"
    )
    # Of errors less is better.
    assert scores["pixel_error"].verdict == "worse"
    assert scores["seg"].text == "-" and scores["seg"].value is None
    assert row.since.endswith("on 4 images") and (row.n_images, row.n_objects) == (4, 9)


def test_a_history_of_another_evaluation_shows_no_change(history: Path) -> None:
    row = row_of(history, "three")
    assert not row.since and not any(score.change for score in row.scores)


def test_without_a_history_there_is_no_change(tmp_path: Path) -> None:
    assert not row_of(tmp_path, "one").since


def test_the_matrix_has_models_as_rows_and_marks_the_best_of_each_column(tmp_path: Path) -> None:
    qualities = {("a", "x"): 0.5, ("a", "y"): 0.25, ("b", "x"): 0.75, ("b", "z"): 1.0, ("c", "x"): 0.75}
    evaluations = {pair: stamp("d", quality) for pair, quality in qualities.items()}
    evaluations["c", "x"]["scores"]["train"] = stamp("d", 1.0)["scores"]["test"]
    for scores in (one["scores"]["test"] for one in evaluations.values()):
        scores |= {"ap50_low": scores["ap50"] - 0.125, "ap50_high": scores["ap50"]}
    evaluations["c", "y"] = {
        "digest": "d",
        "scores": {"test": {"n_images": 1, "n_objects": 0} | dict.fromkeys(MEASURES)},
    }
    matrix = matrix_of(summary_rows(evaluations, tmp_path))
    assert (matrix.models, matrix.datasets) == (["a", "b", "c"], ["x", "y", "z"])
    # In y only one model has a score, in z only one was scored; in x two are equally good.
    assert matrix.best == {(1, 0), (2, 0)}
    numbers, texts = matrix_tables(matrix)
    assert numbers.fillna(-1).values.tolist() == [["a", 0.5, 0.25, -1], ["b", 0.75, -1, 1.0], ["c", 0.75, -1, -1]]
    assert markdown(texts).splitlines()[3].split("|")[1:5] == [
        " b     ",
        " **0.750** (0.625–0.750) ",
        " -                   ",
        " 1.000 (0.875–1.000) ",
    ]


def test_nothing_scored_is_a_matrix_without_rows(tmp_path: Path) -> None:
    matrix = matrix_of(summary_rows({}, tmp_path))
    assert not matrix.models and [len(table) for table in matrix_tables(matrix)] == [0, 0]


def test_scores_by_class_are_shown_where_a_data_set_has_several(history: Path) -> None:
    of_one, of_two = stamp("two", 0.75), stamp("two", 0.5)
    del of_one["scores"]["test"]["class_ap50"]
    assert "class_ap50" not in measures_of({("m", "d"): of_one})
    both = {("m", "d"): of_one, ("m", "e"): of_two}
    assert measures_of(both)[-1] == "class_ap50"
    assert [row.scores[-1].text for row in summary_rows(both, history)] == ["-", "0.500"]
    table = _confusion([["cell", 5, 1, 0], ["debris", 0, 2, 4], ["", 3, 0, 0]])
    assert table.columns.tolist() == ["annotated as", "found as cell", "found as debris", "missed"]
    assert table["annotated as"].tolist() == ["cell", "debris", "(spurious)"]
