"""Bootstrap intervals against those of scipy, and of normal theory where it holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unet_core.evaluate import bootstrap
from unet_core.evaluate.bootstrap import Sums, differences, intervals, score

RNG = np.random.default_rng(5)
UNDER = RNG.integers(20, 200, 40).astype(float)
OVER = UNDER * RNG.uniform(0.5, 1, 40)


def ratio(over: np.ndarray, under: np.ndarray, axis: int) -> np.ndarray:
    return over.sum(axis=axis) / under.sum(axis=axis)


def test_intervals_equal_those_of_scipy_but_for_the_images_drawn() -> None:
    ours = intervals({"iou": Sums(OVER, UNDER, 1)})["iou"]
    theirs = stats.bootstrap(
        (OVER, UNDER), ratio, paired=True, vectorized=True, method="percentile", n_resamples=20_000, rng=1
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.08 * width)


def test_intervals_of_a_mean_of_many_images_are_those_of_normal_theory() -> None:
    values = RNG.normal(0.7, 0.1, 1000)
    interval = intervals({"rand_error": Sums(values, np.ones(1000), 0)})["rand_error"]
    error = 1.96 * values.std() / np.sqrt(1000)
    assert interval == pytest.approx((values.mean() - error, values.mean() + error), abs=0.15 * error)


def test_about_95_of_100_intervals_hold_the_true_score() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        drawn = Sums(rng.normal(0.5, 0.2, 30), np.ones(30), 0)
        interval = intervals({"a": drawn})["a"]
        assert interval is not None
        inside += interval.low <= 0.5 <= interval.high
    assert 0.88 <= inside / 200 <= 0.98


def test_the_same_images_have_the_same_interval_each_time_and_those_of_differences_are_drawn_in_pairs() -> None:
    sums = Sums(OVER, UNDER, 1)
    assert intervals({"iou": sums}) == intervals({"iou": sums}) and score(sums) == OVER.sum() / UNDER.sum()
    both = intervals({"iou": sums, "dice": sums})
    assert both["iou"] == both["dice"] == intervals({"iou": sums})["iou"]
    worse = differences({"iou": sums}, {"iou": Sums(OVER - 0.1 * UNDER, UNDER, 1)})["iou"]
    # Each image is worse by the same, so that there is no doubt.
    assert worse == pytest.approx((-0.1, -0.1))


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = intervals({"iou": Sums(OVER, UNDER, 1)})["iou"]
    monkeypatch.setattr(bootstrap, "MAX_DRAWS_AT_ONCE", 40 * 7)
    assert intervals({"iou": Sums(OVER, UNDER, 1)})["iou"] == pytest.approx(expected, abs=1e-12)


def test_a_single_image_and_scores_without_value_have_no_interval() -> None:
    one, none = Sums(OVER[:1], UNDER[:1], 1), Sums(np.zeros(5), np.zeros(5), np.nan)
    assert (
        intervals({"iou": one}) == {"iou": None} and intervals({"seg": none}) == {"seg": None} and intervals({}) == {}
    )
    assert intervals({"iou": none._replace(empty=1)}) == {"iou": (1, 1)} and np.isnan(score(none))


def test_draws_without_true_objects_are_left_out_of_the_interval_of_seg() -> None:
    sums = Sums(np.array([0.0, 3.0]), np.array([0.0, 4.0]), np.nan)
    assert intervals({"seg": sums})["seg"] == (0.75, 0.75)
