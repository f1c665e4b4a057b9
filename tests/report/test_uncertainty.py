"""Which images to annotate next, and the calibration of probabilities, against brute force and written-out cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unet_core.metrics.reliability import count_probabilities, expected_calibration_error, reliability_curve
from unet_core.report.uncertainty import (
    BOX_SIDE,
    DAMPING,
    UNCERTAIN_ENTROPY,
    Uncertainty,
    annotate_next,
    entropy,
    measure_uncertainty,
    sampled_boxes,
    uncertainty_of_result,
)
from unet_core.store.store import Result, Spec, begin, finish


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_entropy_is_that_of_scipy(seed: int, classes: int) -> None:
    parts = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), 20).T
    parts[:, 0] = np.eye(classes)[0]
    np.testing.assert_allclose(entropy(parts), stats.entropy(parts, base=classes), atol=1e-5)


def test_the_score_is_the_damped_mean_over_uncertain_voxels() -> None:
    background = np.array([1.0, 0.5, 0.99, 0.7])
    found = measure_uncertainty(np.stack([background, 1 - background]))
    values = stats.entropy(np.stack([background, 1 - background])[:, [1, 3]], base=2)
    assert values.min() > UNCERTAIN_ENTROPY and found[:2] == (4, 2)
    assert found.score == pytest.approx(values.sum() / (2 + 4 * DAMPING), rel=1e-6)
    assert measure_uncertainty(np.array([[1.0], [0.0]])).score == 0


def test_the_score_depends_neither_on_how_much_there_is_nor_on_a_single_voxel() -> None:
    few, many = Uncertainty(10**6, 20_000, 12_000.0), Uncertainty(10**6, 200_000, 120_000.0)
    assert few.score == pytest.approx(many.score, rel=0.06)
    assert Uncertainty(10**6, 1, 1.0).score < 0.01


@settings(deadline=None)
@given(st.tuples(st.integers(1, 30), st.integers(1, 3000), st.integers(1, 3000)), st.integers(1, 2**21))
def test_places_lie_inside_and_stay_below_the_limit(shape: tuple[int, int, int], most: int) -> None:
    boxes = sampled_boxes(shape, most)
    assert len(set(boxes)) == len(boxes) >= 1 and all(box.shape[0] == 1 and max(box.shape) <= BOX_SIDE for box in boxes)
    assert all(stop <= n for box in boxes for stop, n in zip(box.stop, shape, strict=True))
    assert sum(np.prod(box.shape) for box in boxes) <= max(most, BOX_SIDE**2)


def write_probabilities(path: Path, background: np.ndarray) -> None:
    spec = Spec(background.shape, "uint8", "image", 1)  # type: ignore[arg-type]
    result = begin(path, "d", spec, {})
    stored = np.rint(255 * (1 - background[None])).astype(np.uint8)
    for index in range(len(result.grid)):
        result.write(index, stored[(slice(None), *result.grid.box(index).slices)], "d")
    finish(path, "d", {})


def test_only_images_without_annotation_are_ranked_and_the_least_certain_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store, samples = tmp_path / "predict" / "m" / "d.zarr", {}
    for name, width, split in (("sure", 0.1, "unannotated"), ("unsure", 0.45, "unannotated"), ("known", 0.5, "test")):
        write_probabilities(store / name, np.clip(rng.normal(0.1, width, (1, 60, 60)), 0, 1))
        samples[name] = {"split": split}
    (store.parent / "d.json").write_text(json.dumps({"dtype": "uint8", "samples": samples}))
    table = annotate_next([("m", "d")], tmp_path)
    assert table[["rank", "sample"]].values.tolist() == [[1, "unsure"], [2, "sure"]]
    # Of masks nothing is known.
    (store.parent / "d.json").write_text(json.dumps({"dtype": "mask", "samples": samples}))
    assert annotate_next([("m", "d")], tmp_path).empty


def test_of_a_volume_the_least_certain_plane_is_known(tmp_path: Path) -> None:
    background = np.ones((5, 40, 40))
    background[3] = 0.5
    write_probabilities(tmp_path / "predict.zarr" / "a", background)
    found, plane = uncertainty_of_result(Result(tmp_path / "predict.zarr" / "a"))
    assert plane == 3 and found.voxels == 5 * 1600 and found.uncertain == 1600


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_calibration_error_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, truth, ignore = rng.integers(0, 256, 200) / 255, rng.integers(0, 3, 200), rng.integers(0, 2, 200)
    known = ignore == 0
    expected = 0.0
    for low in range(10):
        inside = known & (np.floor(np.minimum(probability, 0.999) * 10 + 1e-9) == low)
        if inside.any():
            expected += inside.sum() * abs(probability[inside].mean() - (truth[inside] > 0).mean())
    counts = count_probabilities(probability, truth, ignore)
    assert expected_calibration_error(counts) == pytest.approx(expected / known.sum(), abs=1e-9)
    assert sum(voxels for *_, voxels in reliability_curve(counts)) == known.sum()


def test_perfect_probabilities_have_no_calibration_error() -> None:
    truth = np.array([0, 0, 0, 1, 5])
    assert expected_calibration_error(count_probabilities((truth > 0).astype(float), truth)) == 0
    assert np.isnan(expected_calibration_error(count_probabilities(np.empty(0), np.empty(0))))
