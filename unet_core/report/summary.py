"""The one table that matters: main scores of each model, data set and split.

The scores have intervals and their change since the last evaluation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from unet_core.evaluate.history import MEASURES, OF_CLASSES, read_history

# Measures of which less is better.
LOWER_IS_BETTER = {"pixel_error", "rand_error"}


# The measure of the matrix of models and data sets.
MATRIX_MEASURE = "ap50"


class Score(NamedTuple):
    """A score as the page shows it.

    Attributes
    ----------
    value : float or None
        None where there is none.
    text, interval, change, change_interval : str
        The value, its 95 % interval, its change and the interval of that; empty where there is none.
    verdict : str
        "better" or "worse" if the interval of the change does not contain 0, else "same".
    """

    value: float | None
    text: str
    interval: str
    change: str
    change_interval: str
    verdict: str


class Row(NamedTuple):
    """A line of the table."""

    model: str
    dataset: str
    split: str
    n_images: int
    n_objects: int
    scores: list[Score]
    since: str


def measures_of(evaluations: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Main measures that the table shows: those of classes only where a data set has several."""
    scores = [split for stamp in evaluations.values() for split in stamp["scores"].values()]
    return [name for name in MEASURES if name not in OF_CLASSES or any(name in split for split in scores)]


def summary_rows(evaluations: dict[tuple[str, str], dict[str, Any]], history: Path) -> list[Row]:
    """The table.

    Parameters
    ----------
    evaluations : dict
        (model, data set) -> stamp of the step evaluate.
    history : Path
        ``<results>/evaluate/history``.

    Returns
    -------
    list of Row
        With the measures in the order of `measures_of`. A change is shown only if the last line of the history is
        this evaluation.
    """
    rows, measures = [], measures_of(evaluations)
    for (model, dataset), stamp in evaluations.items():
        lines = read_history(history / model / f"{dataset}.jsonl")
        last = lines[-1] if lines and lines[-1]["digest"] == stamp.get("digest") else {}
        for split, scores in stamp["scores"].items():
            change = last.get("change", {}).get(split, {})
            shown = [_score(name, scores, change.get(name, {})) for name in measures]
            counts = {row["n_images"] for row in change.values()}
            since = (
                f"{lines[-2]['time'][:16].replace('T', ' ')}, on {max(counts)} images"
                if counts and len(lines) > 1
                else ""
            )
            rows.append(Row(model, dataset, split, scores["n_images"], scores["n_objects"], shown, since))
    return rows


class Matrix(NamedTuple):
    """One score of each model (rows) on each data set (columns).

    Attributes
    ----------
    models, datasets : list of str
        In the order of the configuration.
    cells : list of list of (Score or None)
        None where a model was not scored on a data set.
    best : set of (int, int)
        Row and column of the best scores of each column, where several models have one.
    """

    models: list[str]
    datasets: list[str]
    cells: list[list[Score | None]]
    best: set[tuple[int, int]]


def matrix_of(rows: list[Row]) -> Matrix:
    """The score `MATRIX_MEASURE` of each model on the test images of each data set.

    Parameters
    ----------
    rows : list of Row
        From `summary_rows`.
    """
    scored = {
        (row.model, row.dataset): row.scores[list(MEASURES).index(MATRIX_MEASURE)]
        for row in rows
        if row.split == "test"
    }
    models, datasets = (list(dict.fromkeys(pair[i] for pair in scored)) for i in (0, 1))
    cells = [[scored.get((model, dataset)) for dataset in datasets] for model in models]
    best = set()
    for column in range(len(datasets)):
        values = {
            row: cell.value
            for row, cells_of in enumerate(cells)
            if (cell := cells_of[column]) and cell.value is not None
        }
        if len(values) > 1:
            best |= {(row, column) for row, value in values.items() if value == max(values.values())}
    return Matrix(models, datasets, cells, best)


def matrix_tables(matrix: Matrix) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The matrix as numbers, and as text with intervals, the best scores in Markdown's bold letters."""
    columns = ["model", *matrix.datasets]
    numbers, texts = [], []
    for i, (model, row) in enumerate(zip(matrix.models, matrix.cells, strict=True)):
        numbers.append([model, *(math.nan if cell is None or cell.value is None else cell.value for cell in row)])
        texts.append([model, *(_cell_text(cell, (i, j) in matrix.best) for j, cell in enumerate(row))])
    return pd.DataFrame(numbers, columns=columns), pd.DataFrame(texts, columns=columns)


def _cell_text(cell: Score | None, best: bool) -> str:
    if cell is None or cell.value is None:
        return "-"
    interval = f" ({cell.interval})" if cell.interval else ""
    return f"**{cell.text}**{interval}" if best else f"{cell.text}{interval}"


def _score(name: str, scores: dict[str, Any], change: dict[str, Any]) -> Score:
    value, low, high = (scores.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    interval = f"{low:.3f}–{high:.3f}" if low is not None and high is not None else ""
    if change.get("difference") is None:
        return Score(value, "-" if value is None else f"{value:.3f}", interval, "", "", "same")
    verdict, text, ends = "same", f"{change['difference']:+.3f}", ""
    if change["low"] is not None:
        ends = f"{change['low']:+.3f} to {change['high']:+.3f}"
        if change["low"] > 0 or change["high"] < 0:
            verdict = "worse" if (change["low"] > 0) == (name in LOWER_IS_BETTER) else "better"
    return Score(value, "-" if value is None else f"{value:.3f}", interval, text, ends, verdict)
