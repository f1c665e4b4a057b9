"""Which of several models is the better one, and whether that may be chance: differences on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from unet_core.evaluate.history import compare, read_images
from unet_core.report.summary import LOWER_IS_BETTER

# The measure by which the model is chosen with which the others are compared, and those that the page shows.
BEST_BY, SHOWN = "ap50", ("ap50", "ap75", "seg")
COLUMNS = ["dataset", "split", "model", "than", "measure", "n_images", "value", "value_than", "difference"]


class Difference(NamedTuple):
    """A difference as the page shows it: the number, its 95 % interval, and whether that leaves out 0."""

    text: str
    interval: str
    verdict: str


class Pair(NamedTuple):
    """A line of the page: two models on the same images, and how much higher the scores of the first are.

    `differences` has one entry for each of `SHOWN`; None where there is no score.
    """

    dataset: str
    split: str
    model: str
    than: str
    n_images: int
    differences: list[Difference | None]


def compare_models(evaluations: dict[tuple[str, str], dict[str, Any]], history: Path) -> pd.DataFrame:
    """Compare the best model of each data set and split with each of the others, on the images that both have.

    Parameters
    ----------
    evaluations : dict
        (model, data set) -> stamp of the step evaluate.
    history : Path
        ``<results>/evaluate/history``, which has the sums of the images of each evaluation.

    Returns
    -------
    DataFrame
        dataset, split, model (the one with the highest AP50), than (the other one), measure, n_images, value and
        value_than, difference, and the ends low and high of its 95 % interval (paired bootstrap over images; missing
        where there is one image). Images whose annotation was another one for one of the models do not count.
    """
    images: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for (model, dataset), stamp in evaluations.items():
        table = read_images(history / model / f"{dataset}.jsonl", stamp.get("digest", ""))
        if table is not None:
            for split, rows in table.groupby("split", sort=False):
                images.setdefault((dataset, str(split)), {})[model] = rows
    found = []
    for (dataset, split), of_models in images.items():
        scores = {model: evaluations[model, dataset]["scores"].get(split, {}).get(BEST_BY) for model in of_models}
        known = {model: value for model, value in scores.items() if value is not None}
        best = max(known, key=lambda model: known[model], default=None)
        for other in (model for model in of_models if best is not None and model != best):
            table = compare(of_models[other], of_models[str(best)]).rename(
                columns={"before": "value_than", "after": "value"}
            )
            found.append(table.assign(dataset=dataset, model=best, than=other))
    columns = [*COLUMNS, "low", "high"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def pairs_of(table: pd.DataFrame) -> list[Pair]:
    """Lines of the page, from `compare_models`."""
    pairs = []
    for names, rows in table.groupby(["dataset", "split", "model", "than"], sort=False):
        dataset, split, model, than = map(str, names)
        by_measure = {row["measure"]: row for row in rows.to_dict("records")}
        shown = [_difference(name, by_measure.get(name)) for name in SHOWN]
        pairs.append(Pair(dataset, split, model, than, int(rows["n_images"].iloc[0]), shown))
    return pairs


def _difference(name: str, row: dict[Any, Any] | None) -> Difference | None:
    if row is None or pd.isna(row["difference"]):
        return None
    text = f"{row['difference']:+.3f}"
    if pd.isna(row["low"]):
        return Difference(text, "", "same")
    verdict = "same"
    if row["low"] > 0 or row["high"] < 0:
        verdict = "worse" if (row["low"] > 0) == (name in LOWER_IS_BETTER) else "better"
    return Difference(text, f"{row['low']:+.3f} to {row['high']:+.3f}", verdict)
