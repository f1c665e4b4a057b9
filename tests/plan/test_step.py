"""Decisions from the data and the machine: known values, readable reasons, the same bytes for the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_core.config.options import Network, Plan, Predict, Train
from unet_core.groundtruth.intensities import Intensities
from unet_core.network import unet
from unet_core.plan.normalisation import least_extents, normalisation
from unet_core.plan.pixel_sizes import differences
from unet_core.plan.step import class_weights, make_plan
from unet_core.plan.tiles import prediction_tile, tile_memory, training_tile
from unet_core.runtime import UserError, write_stamp
from unet_core.store.store import Spec, begin, finish

PERCENTILE, MEAN_STD = Plan(), Plan(normalisation="mean_std")
SMALL = Network(depth=2, width=4)


def statistics(gray: np.ndarray) -> dict[str, Any]:
    intensities = Intensities(gray.dtype, gray.size)
    intensities.add(gray)
    return intensities.summary()


@pytest.mark.parametrize(
    ("pixels", "rule", "expected"),
    [
        ([300, 100], "balanced", [4 / 6, 2.0]),
        ([50, 25, 25], "balanced", [4 / 6, 4 / 3, 4 / 3]),
        ([30, 0, 10], "balanced", [4 / 6, 0.0, 2.0]),
        ([0, 0], "balanced", [0.0, 0.0]),
        ([300, 100], "none", [1.0, 1.0]),
        ([300, 100], [1, 2.5], [1.0, 2.5]),
    ],
)
def test_class_weights(pixels: list[int], rule: Any, expected: list[float]) -> None:
    assert class_weights(pixels, rule) == pytest.approx(expected, abs=0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5).filter(any))
@settings(deadline=None)
def test_balanced_classes_weigh_the_same_in_sum_and_a_pixel_one_in_the_mean(pixels: list[int]) -> None:
    sums = [weight * count for weight, count in zip(class_weights(pixels, "balanced"), pixels, strict=True) if count]
    assert sums == pytest.approx([sum(pixels) / len(sums)] * len(sums))


@pytest.mark.parametrize(
    ("gray", "cfg", "offset", "scale"),
    [
        (np.arange(101, dtype=np.uint8), PERCENTILE, 1, 1 / 98),
        (np.arange(101, dtype=np.float32), Plan(percentiles=(0.25, 99.75)), 0.25, 1 / 99.5),
        (np.array([0, 4], np.uint8), MEAN_STD, 2, 1 / 2),
        (np.full(9, 7, np.uint16), PERCENTILE, 7, 0),
        (np.full(9, 7, np.float32), MEAN_STD, 7, 0),
        (np.array([5] * 999 + [205], np.uint8), PERCENTILE, 5, 1 / 200),
    ],
    ids=[
        "percentiles",
        "percentiles between those that were kept",
        "mean and deviation",
        "constant",
        "constant, mean",
        "sparse",
    ],
)
def test_normalisation(gray: np.ndarray, cfg: Plan, offset: float, scale: float) -> None:
    result = normalisation([statistics(gray)], cfg)
    assert result == {"offset": pytest.approx([offset]), "scale": pytest.approx([scale])}


@pytest.mark.parametrize(
    ("extents", "least"),
    [
        ([[100, 100, 100]], 100),
        ([[100, 80, 120]], 80),
        ([[100, 5, 120]], 5),
        ([[100] * 30 + [5]], 25),
        ([[100] * 30 + [0, 40]], 40),
        ([[100] * 30 + [40]], 40),
        ([[100] * 30 + [5] * 20], 5),
        ([[100] * 30, [5]], 5),
        ([[100] * 30, []], 100),
        ([[100, 0]], 100),
        ([[]], 0),
    ],
)
@pytest.mark.parametrize("cfg", [Plan(percentiles=(0, 100)), MEAN_STD])
def test_the_least_extent_is_half_of_the_smallest_to_learn_from_but_for_rare_exceptions(
    extents: list[list[int]], least: int, cfg: Plan
) -> None:
    # The second channel has twice the range; half of the pixels have one value and half the other.
    images = [
        [[statistics(np.array([7, 7 + n * extent], np.float32)) for n in (1, 2)] for extent in own] for own in extents
    ]
    found, why = least_extents(images, cfg, 2)
    part = 0.5 if cfg.normalisation == "percentile" else 0.25
    assert found == pytest.approx([least * part, 2 * least * part])
    assert f"{sum(map(len, extents))} samples" in why or not least


def test_gray_values_of_less_than_the_least_extent_are_not_stretched_to_the_full_range() -> None:
    image = [statistics(np.arange(101, dtype=np.uint8))] * 2
    found = normalisation(image, Plan(percentiles=(0, 100)), [400.0, 50.0])
    assert found["scale"] == pytest.approx([1 / 400, 1 / 100]) and found["offset"] == [0, 0]
    constant = [statistics(np.full(9, 7, np.uint8))]
    assert normalisation(constant, Plan(), [50.0]) == normalisation(constant, Plan())


def test_each_channel_is_normalised_by_itself() -> None:
    channels = [np.arange(101, dtype=np.uint8), np.arange(0, 202, 2, dtype=np.uint8)]
    result = normalisation([statistics(gray) for gray in channels], Plan(percentiles=(0, 100)))
    assert result == {"offset": [0, 0], "scale": [1 / 100, 1 / 200]}


@pytest.mark.parametrize(
    ("tile", "depth", "longest_side", "expected"),
    [("auto", 4, 5000, 572), ("auto", 4, 100, 284), ("auto", 1, 1, 18), (188, 4, 5000, 188)],
    ids=["the paper's", "covers the image", "a pixel", "set"],
)
def test_training_tile(tile: Any, depth: int, longest_side: int, expected: int) -> None:
    cfg = Train(tile=tile, network=Network(depth=depth))
    assert training_tile(cfg, longest_side)[0] == expected
    assert unet.output_size(expected, depth) >= min(longest_side, 4)


def test_a_tile_that_does_not_fit_the_network_is_refused_with_the_nearest_sizes() -> None:
    message = "a U-Net of depth 4 cannot take a tile of 570 px; the nearest sizes are 556 and 572 px"
    with pytest.raises(UserError, match=f"^train.tile: {message}$"):
        training_tile(Train(tile=570), 1000)
    with pytest.raises(UserError, match=f"^predict.tile: {message}$"):
        prediction_tile(Predict(tile=570), Network(), 1, Plan(memory_gb=1024), 1000)


@pytest.mark.parametrize(
    ("tile", "memory", "longest_side", "expected", "reason"),
    [
        ("auto", 2**40, 388, 572, "covers the largest image or 2048 px"),
        ("auto", 2**40, 10**6, 2236, "covers the largest image or 2048 px"),
        ("auto", 2**30, 10**6, 636, "the largest within 1 GiB"),
        (204, 1, 10**6, 204, "set in the configuration"),
        ("auto", 2**40, 1, 204, "covers the largest image or 2048 px"),
    ],
    ids=["the image", "the limit", "the memory", "set", "one pixel"],
)
def test_prediction_tile(tile: Any, memory: int, longest_side: int, expected: int, reason: str) -> None:
    assert prediction_tile(Predict(tile=tile), Network(), 1, Plan(memory_gb=memory / 2**30), longest_side) == (
        expected,
        reason,
    )


@given(st.integers(1, 5), st.integers(1, 64), st.integers(1, 4), st.integers(10**6, 10**9), st.integers(1, 4000))
@settings(deadline=None)
def test_prediction_tile_is_the_largest_that_the_memory_allows(
    depth: int, width: int, channels: int, memory: int, side: int
) -> None:
    network = Network(depth=depth, width=width)
    smallest = unet.input_size(2**depth, depth)
    wanted = max(smallest, unet.input_size(min(side, 2048), depth))
    if tile_memory(smallest, network, channels) > memory:
        return
    tile, _ = prediction_tile(Predict(), network, channels, Plan(memory_gb=memory / 2**30), side)
    assert unet.output_size(tile, depth) > 0 and smallest <= tile <= wanted
    assert tile_memory(tile, network, channels) <= memory
    assert tile == wanted or tile_memory(tile + 2**depth, network, channels) > memory


def test_a_small_machine_plans_for_a_larger_one_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**26))
    assert prediction_tile(Predict(), Network(), 1, Plan(), 1000) == (204, "the smallest of this network")
    network = Network(depth=3, width=64, dimensions=3)
    assert prediction_tile(Predict(), network, 1, Plan(), 1000, 100)[1] == "the smallest of this network"


def test_too_little_memory_for_any_tile_is_an_error() -> None:
    with pytest.raises(
        UserError,
        match=r"^plan.memory_gb: the smallest tile of this network \(204 px\) needs 0.0995 GiB, but 0.0625 GiB",
    ):
        prediction_tile(Predict(), Network(), 1, Plan(memory_gb=2**-4), 1000)


class Stamps:
    """What the steps before the plan leave; all gray values are 0, and all samples have `pixels` of each class."""

    def __init__(self, results: Path) -> None:
        self.classes, self.pixels = ["cell"], [300, 100]
        self.results = results
        self.groundtruth: dict[str, Path] = {}
        self.weights: dict[str, Path] = {}

    def add(
        self,
        dataset: str,
        samples: dict[str, str],
        side: int = 50,
        channels: int = 1,
        trained_on: bool = True,
        pixel: list[float] | None = None,
        extents: dict[str, int] | None = None,
    ) -> None:
        """Add a data set, of samples and their splits; `extents` are those of gray values, 98 if not said."""
        for name in samples:
            path = self.results / "groundtruth" / f"{dataset}.zarr" / name
            result = begin(path, "d", Spec((1, side, side), "uint8", "image", channels), {})
            for index in range(len(result.grid)):
                result.write(index, np.zeros((channels, *result.grid.box(index).shape), np.uint8), "d")
            size = {"pixel_size": pixel} if pixel else {}
            gray = np.arange(101) * (extents or {}).get(name, 98) / 98
            found = statistics(np.arange(101, dtype=np.uint8) if extents is None else gray.astype(np.float32))
            finish(path, "d", {"intensities": [found] * channels} | size)
        truths = {
            name: {"split": split, "labels": "l" if trained_on else None, "shape": [channels, 1, side, side]}
            for name, split in samples.items()
        }
        maps = {name: {"split": split, "class_pixels": self.pixels} for name, split in samples.items()}
        self.groundtruth[dataset] = self.results / "groundtruth" / f"{dataset}.json"
        write_stamp(self.groundtruth[dataset], {"classes": self.classes, "samples": truths})
        if trained_on:
            self.weights[dataset] = self.results / "weights" / f"{dataset}.json"
            write_stamp(self.weights[dataset], {"samples": maps})

    def plan(
        self,
        train: Train | None = None,
        cfg: Plan | None = None,
        bought: Path | None = None,
        rehearsal: bool = False,
        fold: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        stamp = self.results / "plan" / "model.json"
        make_plan(
            cfg or Plan(memory_gb=1),
            train or Train(network=SMALL),
            Predict(),
            groundtruth=self.groundtruth,
            weights={} if bought else self.weights,
            bought=bought,
            results=self.results,
            stamp=stamp,
            rehearsal=rehearsal,
            fold=fold,
        )
        return json.loads(stamp.read_text())


@pytest.fixture
def stamps(tmp_path: Path) -> Stamps:
    return Stamps(tmp_path)


def test_a_plan_holds_all_decisions_with_their_reasons(stamps: Stamps) -> None:
    stamps.add("cells", {"a": "train", "b": "train", "c": "test"})
    stamps.add("screen", {"d": "unannotated"}, side=90, trained_on=False)
    plan = stamps.plan()
    values = {key: entry["value"] for key, entry in plan.items() if isinstance(entry, dict) and "value" in entry}
    assert values == {
        "predict_tile": 132,
        "predict_block": [64, 256, 256],
        "predict_memory_gb": 0.00273,
        "least_extent": [49.0],
        "class_pixels": [600, 200],
        "class_weights": [4 / 6, 2.0],
        "train_tile": 92,
        "steps": 1000,
    }
    assert all(plan[key]["why"] for key in values)
    assert (plan["classes"], plan["channels"], plan["network"]) == (["cell"], 1, SMALL.model_dump())
    assert plan["samples"] == dict.fromkeys(
        ["cells/a", "cells/b", "cells/c", "screen/d"], {"offset": [1.0], "scale": [1 / 98]}
    )


def test_the_same_inputs_give_the_same_bytes(stamps: Stamps) -> None:
    stamps.add("cells", {"a": "train", "b": "test"})
    stamps.plan()
    first = (stamps.results / "plan" / "model.json").read_bytes()
    stamps.plan()
    assert (stamps.results / "plan" / "model.json").read_bytes() == first


def test_automatic_steps_see_each_training_pixel_often_within_bounds(
    stamps: Stamps, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps.add("cells", {"a": "train"}, side=8)
    monkeypatch.setattr("unet_core.plan.step.MIN_STEPS", 1)
    one = stamps.plan(Train(network=SMALL, batch=1))["steps"]
    four = stamps.plan(Train(network=SMALL, batch=4))["steps"]
    assert (one["value"], four["value"]) == (200 * 400 // 8**2, -(-200 * 400 // (4 * 8**2)))
    assert "each of 400 annotated training pixels is seen about 200 times" in one["why"]
    monkeypatch.setattr("unet_core.plan.step.MAX_STEPS", 77)
    assert stamps.plan()["steps"]["value"] == 77
    assert stamps.plan(Train(network=SMALL, steps=5))["steps"] == {"value": 5, "why": "set in the configuration"}


def test_a_model_that_was_trained_elsewhere_brings_its_own_decisions(stamps: Stamps, tmp_path: Path) -> None:
    stamps.add("screen", {"d": "unannotated"}, trained_on=False)
    (tmp_path / "bought").mkdir()
    model = {"network": Network(depth=1).model_dump(), "channels": 1, "classes": ["nucleus", "debris"]}
    model["normalisation"] = {"normalisation": "mean_std", "percentiles": [2, 98]}
    (tmp_path / "bought" / "model.json").write_text(json.dumps(model))
    plan = stamps.plan(bought=tmp_path / "bought")
    assert {key: plan[key] for key in model} == model and "train_tile" not in plan
    assert plan["samples"]["screen/d"]["offset"] == [50.0]


def test_faint_images_are_stretched_no_more_than_those_that_show_objects(
    stamps: Stamps, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stamps.add("cells", {"a": "train", "b": "validation", "c": "test"}, extents={"a": 100, "b": 80, "c": 20})
    stamps.add("screen", {"d": "unannotated", "e": "unannotated"}, trained_on=False, extents={"d": 8, "e": 200})
    plan = stamps.plan()
    assert plan["least_extent"]["value"] == pytest.approx([40])
    scales = {name: norm["scale"][0] for name, norm in plan["samples"].items()}
    expected = {"cells/a": 100, "cells/b": 80, "cells/c": 40, "screen/d": 40, "screen/e": 200}
    assert scales == pytest.approx({name: 1 / extent for name, extent in expected.items()})
    assert "warnings" not in plan
    stamps.add("other", {"f": "unannotated", "g": "unannotated"}, trained_on=False, extents={"f": 8, "g": 9})
    (warning,) = stamps.plan()["warnings"]
    assert "2 of 2 images of other have less contrast than what the model learnt from" in warning
    found = stamps.plan(cfg=Plan(memory_gb=1, least_extent=0))
    assert "warnings" not in found and found["samples"]["other/f"]["scale"] == pytest.approx([1 / 8])


def test_all_folds_of_a_model_have_one_least_extent(stamps: Stamps) -> None:
    extents = {name: 50 + 10 * number for number, name in enumerate("abcd")}
    stamps.add("cells", dict.fromkeys(extents, "train") | {"t": "test"}, extents=extents | {"t": 9})
    found = [stamps.plan(fold=(number, 4))["least_extent"] for number in (1, 2, 3, 4)]
    assert all(one == found[0] for one in found) and found[0]["value"] == pytest.approx([25])


def test_a_model_that_learnt_from_images_above_the_least_extent_stays_valid(stamps: Stamps) -> None:
    extents = {"a": 100, "b": 80, "v": 60, "t": 5}
    stamps.add("cells", {"a": "train", "b": "train", "v": "validation", "t": "test"}, extents=extents)
    found, before = (stamps.plan(cfg=Plan(memory_gb=1, least_extent=least)) for least in ("auto", 0))
    norms = [{name: plan["samples"][f"cells/{name}"] for name in "abv"} for plan in (found, before)]
    assert norms[0] == norms[1] and found["samples"]["cells/t"] != before["samples"]["cells/t"]


def test_a_model_from_elsewhere_brings_its_least_extent(stamps: Stamps, tmp_path: Path) -> None:
    stamps.add("screen", {"d": "unannotated"}, trained_on=False, extents={"d": 8})
    model = {"network": SMALL.model_dump(), "channels": 1, "classes": ["cell"], "normalisation": {}}
    for more, extent in (({"least_extent": [40.0]}, 40), ({"least_extent": []}, 8), ({}, 8)):
        (tmp_path / "model.json").write_text(json.dumps(model | more))
        assert stamps.plan(bought=tmp_path)["samples"]["screen/d"]["scale"] == pytest.approx([1 / extent])


def test_a_model_for_other_channels_is_refused(stamps: Stamps, tmp_path: Path) -> None:
    stamps.add("screen", {"d": "unannotated"}, channels=2, trained_on=False)
    model = {
        "network": SMALL.model_dump(),
        "channels": 1,
        "classes": ["cell"],
        "normalisation": {"normalisation": "mean_std"},
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(
        UserError, match="the model in .* takes 1 channels, but the data has 2; see `channels` of the data sets"
    ):
        stamps.plan(bought=tmp_path)


def test_images_with_different_numbers_of_channels_are_refused(stamps: Stamps) -> None:
    stamps.add("cells", {"a": "train"})
    stamps.add("nuclei", {"b": "train"}, channels=3)
    with pytest.raises(
        UserError, match="must have the same number of channels; there are 1 in cells/a, 3 in nuclei/b; see `channels`"
    ):
        stamps.plan()


def test_a_data_set_without_training_samples_is_refused(stamps: Stamps) -> None:
    stamps.add("cells", {"a": "test", "b": "validation"})
    with pytest.raises(UserError, match="no training sample in cells: .*; annotate more, or lower the shares"):
        stamps.plan()


def test_learning_from_no_object_is_refused(stamps: Stamps) -> None:
    stamps.pixels = [300, 0]
    stamps.add("cells", {"a": "train", "b": "train"})
    stamps.add("nuclei", {"c": "train"})
    with pytest.raises(
        UserError, match="no pixel of an object in the .* of cells, nuclei, .* 'make check-annotations'"
    ):
        stamps.plan()
    # A few samples that stand for all may be empty.
    assert stamps.plan(rehearsal=True)["class_pixels"]["value"] == [900, 0]
    # Objects of a sample for the test are not learnt either.
    stamps.pixels = [300, 100]
    stamps.add("more", {"d": "test"})
    with pytest.raises(UserError, match="no pixel of an object"):
        stamps.plan()
    stamps.add("more", {"d": "train"})
    assert stamps.plan()["class_pixels"]["value"] == [1200, 100]


def test_a_class_without_a_pixel_is_told_and_weighs_nothing(stamps: Stamps, caplog: pytest.LogCaptureFixture) -> None:
    stamps.classes, stamps.pixels = ["cell", "dead", "other"], [300, 100, 0, 0]
    stamps.add("cells", {"a": "train"})
    plan = stamps.plan()
    assert plan["class_weights"]["value"] == [4 / 6, 2.0, 0.0, 0.0]
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("plan: no pixel of the class dead, other in the training samples of cells: it is not")


def test_a_store_that_was_removed_is_an_error_that_names_the_command(stamps: Stamps) -> None:
    stamps.add("cells", {"a": "train"})
    (stamps.results / "groundtruth" / "cells.zarr" / "a" / "zarr.json").unlink()
    with pytest.raises(
        UserError, match="groundtruth/cells.zarr/a is missing or damaged; run 'python -m unet_core verify --mend"
    ):
        stamps.plan()


DIFFERENT = (
    "data set new has pixels of 0.125 x 0.125 micrometres (y, x), but the model learnt from 0.5 x 0.5 in cells: images "
    "are not resampled"
)


def test_data_sets_of_another_pixel_size_are_warned_of(stamps: Stamps, caplog: pytest.LogCaptureFixture) -> None:
    stamps.add("cells", {"a": "train", "b": "train"}, pixel=[1, 0.5, 0.5])
    stamps.add("like", {"d": "unannotated"}, trained_on=False, pixel=[9, 0.7, 0.4])
    stamps.add("unknown", {"e": "unannotated"}, trained_on=False, pixel=[1, 1, 1])
    stamps.add("old", {"f": "unannotated"}, trained_on=False)
    plan = stamps.plan()
    assert plan["pixel_size"] == {"cells": [1, 0.5, 0.5], "like": [9, 0.7, 0.4]} and "warnings" not in plan
    stamps.add("new", {"g": "unannotated"}, trained_on=False, pixel=[1, 0.125, 0.125])
    (warning,) = stamps.plan()["warnings"]
    assert warning.startswith(DIFFERENT) and f"plan: {warning}" in caplog.messages


def test_a_model_from_elsewhere_knows_the_pixel_size_that_it_learnt_from(stamps: Stamps, tmp_path: Path) -> None:
    stamps.add("new", {"d": "unannotated"}, trained_on=False, pixel=[1, 0.125, 0.125])
    rule = {"normalisation": "mean_std", "percentiles": [2, 98]}
    model = {"network": SMALL.model_dump(), "channels": 1, "classes": ["cell"], "normalisation": rule}
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert "warnings" not in stamps.plan(bought=tmp_path)  # it does not say
    (tmp_path / "model.json").write_text(json.dumps(model | {"pixel_size": {"cells": [1, 0.5, 0.5]}}))
    (warning,) = stamps.plan(bought=tmp_path)["warnings"]
    assert warning.startswith(DIFFERENT)


def test_the_distance_of_planes_counts_for_3d_networks_and_one_of_several_sizes_is_enough() -> None:
    new, old = {"new": [2.0, 0.5, 0.5]}, {"a": [8.0, 0.5, 0.5]}
    assert differences(new, old, volumes=False) == [] and len(differences(new, old, volumes=True)) == 1
    assert differences(new, old | {"b": [2.5, 0.4, 0.6]}, volumes=True) == []
    assert differences({"new": [2, 0.5, 0.76]}, old, volumes=False) and differences(new, {}, volumes=True) == []
