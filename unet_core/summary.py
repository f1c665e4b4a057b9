"""The one table that matters: main scores of each model, data set and split, with intervals and the change since the last evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from unet_core.history import MEASURES, read_history

# Measures of which less is better.
ERRORS = {"pixel_error", "rand_error"}


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
        With the measures in the order of `history.MEASURES`. A change is shown only if the last line of the history is this evaluation.
    """
    rows = []
    for (model, dataset), stamp in evaluations.items():
        lines = read_history(history / model / f"{dataset}.jsonl")
        last = lines[-1] if lines and lines[-1]["digest"] == stamp.get("digest") else {}
        for split, scores in stamp["scores"].items():
            change = last.get("change", {}).get(split, {})
            shown = [_score(name, scores, change.get(name, {})) for name in MEASURES]
            counts = {row["n_images"] for row in change.values()}
            since = f"{lines[-2]['time'][:16].replace('T', ' ')}, on {max(counts)} images" if counts and len(lines) > 1 else ""
            rows.append(Row(model, dataset, split, scores["n_images"], scores["n_objects"], shown, since))
    return rows


def _score(name: str, scores: dict[str, Any], change: dict[str, Any]) -> Score:
    value, low, high = (scores.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    interval = f"{low:.3f}–{high:.3f}" if low is not None and high is not None else ""
    if change.get("difference") is None:
        return Score(value, "-" if value is None else f"{value:.3f}", interval, "", "", "same")
    verdict, text, ends = "same", f"{change['difference']:+.3f}", ""
    if change["low"] is not None:
        ends = f"{change['low']:+.3f} to {change['high']:+.3f}"
        if change["low"] > 0 or change["high"] < 0:
            verdict = "worse" if (change["low"] > 0) == (name in ERRORS) else "better"
    return Score(value, "-" if value is None else f"{value:.3f}", interval, text, ends, verdict)
