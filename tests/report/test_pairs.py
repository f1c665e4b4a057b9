"""Models are compared on the images that both have, with the interval of a bootstrap that draws the same for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unet_core.evaluate.history import MEASURES, keep_evaluation
from unet_core.report.pairs import compare_models, pairs_of

COUNT = 30


def evaluated(history: Path, model: str, over: np.ndarray, truths: str = "t" * COUNT, split: str = "test") -> Any:
    """An evaluation whose images add `over` of 1 to each measure, and its stamp."""
    columns = {
        f"{name}_{part}": over if part == "over" else np.ones(COUNT) for name in MEASURES for part in ("over", "under")
    }
    names = [f"i{number:02d}" for number in range(COUNT)]
    images = pd.DataFrame({"sample": names, "split": split, "truth": list(truths)} | columns)
    keep_evaluation(history / model / "cells.jsonl", images, {}, model, model)
    return {"digest": model, "scores": {split: {"ap50": float(over.mean())}}}


def drawn_by_hand(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """The interval by drawing images one by one."""
    rng = np.random.default_rng(1)
    places = rng.integers(0, len(better), (20_000, len(better)))
    low, high = np.quantile((better - worse)[places].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def test_the_best_model_is_compared_with_each_other_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.9, COUNT)  # images differ much more than models
    scores = {"a": hard, "b": hard + 0.05 + rng.normal(0, 0.02, COUNT), "c": rng.permutation(hard) + 0.03}
    evaluations = {(model, "cells"): evaluated(tmp_path, model, over) for model, over in scores.items()}
    table = compare_models(evaluations, tmp_path)
    assert {(row.model, row.than) for row in table.itertuples()} == {("b", "a"), ("b", "c")}
    assert len(table) == 2 * len(MEASURES) and set(table["n_images"]) == {COUNT}
    for row in table[table["measure"] == "ap50"].itertuples():
        worse = scores[str(row.than)]
        assert row.difference == pytest.approx((scores["b"] - worse).mean())
        assert (row.low, row.high) == pytest.approx(drawn_by_hand(scores["b"], worse), abs=0.01)
    better, chance = pairs_of(table)
    # In pairs a small difference is certain that is small beside those between images.
    assert [one.verdict if one else "" for one in better.differences] == ["better"] * 3
    assert [one.verdict if one else "" for one in chance.differences] == ["same"] * 3
    assert better.differences[0] and better.differences[0].text == f"{(scores['b'] - hard).mean():+.3f}"


def test_images_that_were_annotated_otherwise_meanwhile_do_not_count(tmp_path: Path) -> None:
    over = np.linspace(0.1, 0.9, COUNT)
    evaluations = {("a", "cells"): evaluated(tmp_path, "a", over)}
    evaluations["b", "cells"] = evaluated(tmp_path, "b", over + 0.1, "t" * 10 + "u" * 20)
    assert set(compare_models(evaluations, tmp_path)["n_images"]) == {10}
    evaluations["b", "cells"] = evaluated(tmp_path, "b2", over + 0.1, "u" * COUNT) | {"digest": "b2"}
    assert compare_models(evaluations, tmp_path).empty


def test_one_model_other_splits_and_lost_histories_give_no_pair(tmp_path: Path) -> None:
    over = np.full(COUNT, 0.5)
    one = {("a", "cells"): evaluated(tmp_path, "a", over)}
    assert pairs_of(compare_models(one, tmp_path)) == []
    assert pairs_of(compare_models({}, tmp_path)) == []
    other = one | {("b", "cells"): evaluated(tmp_path, "b", over, split="cross-validation")}
    assert compare_models(other, tmp_path).empty
    lost = one | {("c", "cells"): {"digest": "gone", "scores": {"test": {"ap50": 0.6}}}}
    assert compare_models(lost, tmp_path).empty


def test_a_single_image_has_a_difference_and_no_interval(tmp_path: Path) -> None:
    columns = {f"{name}_{part}": [0.5 if part == "over" else 1.0] for name in MEASURES for part in ("over", "under")}
    for model, more in (("a", 0.0), ("b", 0.25)):
        images = pd.DataFrame({"sample": ["i"], "split": "test", "truth": "t"} | columns)
        images[[f"{name}_over" for name in MEASURES]] += more
        keep_evaluation(tmp_path / model / "cells.jsonl", images, {}, model, model)
    stamps = {
        (model, "cells"): {"digest": model, "scores": {"test": {"ap50": ap}}} for model, ap in (("a", 0.5), ("b", 0.75))
    }
    (pair,) = pairs_of(compare_models(stamps, tmp_path))
    shown = pair.differences[0]
    assert (pair.model, pair.than, pair.n_images) == ("b", "a", 1) and shown
    assert (shown.text, shown.interval, shown.verdict) == ("+0.250", "", "same")
