from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.config_text import (
    DOCS,
    IN_CONFIG,
    IN_DOCS,
    MARK,
    PATH,
    between,
    formats_comment,
    formats_table,
    options_text,
)
from unet_core.annotations.formats import module_of
from unet_core.config.datasets import Annotation, ConfigError, Dataset, Split
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.options import Config, Train
from unet_core.config.parse import parse_config

SECTIONS = [name for name in Config.model_fields if name not in ("results", "datasets", "models")]
LABELS = {"format": "labels", "path": "masks/{stem}.tif"}
CELLS: dict[str, Any] = {"images": "cells/*.tif", "annotations": [LABELS]}


def config(**sections: Any) -> dict[str, Any]:
    return {"datasets": {"cells": CELLS}} | sections


def mistakes(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(raw)
    first, *lines = str(error.value).splitlines()
    assert first == "the configuration has mistakes:"
    return [line.removeprefix("  - ") for line in lines]


def test_config_yaml_lists_every_option_with_its_default_and_description() -> None:
    below = PATH.read_text(encoding="utf-8").partition(MARK)[2]
    assert below == options_text(), "config.yaml is behind unet_core/config/options.py: run 'make config'"


def test_config_yaml_and_the_docs_list_every_annotation_format() -> None:
    advice = "is behind unet_core/config/formats.py: run 'make config'"
    assert between(PATH.read_text(encoding="utf-8"), IN_CONFIG)[1] == formats_comment(), f"config.yaml {advice}"
    docs = DOCS.read_text(encoding="utf-8")
    assert between(docs, IN_DOCS)[1] == formats_table(), f"docs/annotations.md {advice}"
    assert [name for name in DESCRIPTIONS if f"\n## {name}\n" not in docs] == []


def test_each_annotation_format_is_read_by_a_module_and_each_path_is_allowed() -> None:
    for name, described in DESCRIPTIONS.items():
        assert callable(module_of(name).find) and callable(module_of(name).read)
        assert Annotation(format=name, path=described.path).format == name


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_of_config_yaml_are_the_defaults(section: str) -> None:
    written = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    assert getattr(parse_config(written), section) == Config.model_fields[section].default


def test_config_yaml_as_it_stands_is_valid() -> None:
    cfg = parse_config(yaml.safe_load(PATH.read_text(encoding="utf-8")))
    assert list(cfg.datasets) == ["cells", "nuclei"]
    assert list(cfg.models) == ["cells", "nuclei"]
    assert cfg.train_of("cells").network.depth == 3
    assert cfg.weights_of("nuclei").sigma == 3


def test_defaults_are_those_of_the_paper() -> None:
    cfg = parse_config(config())
    assert (cfg.weights.w0, cfg.weights.sigma) == (10, 5)
    assert (cfg.train.network.depth, cfg.train.network.width, cfg.train.network.norm) == (4, 64, "none")
    assert (cfg.train.batch, cfg.train.momentum) == (1, 0.99)
    assert (cfg.train.augment.elastic_sigma, cfg.train.augment.elastic_grid) == (10, 3)


def test_configuration_is_frozen() -> None:
    cfg = parse_config(config())
    with pytest.raises(ValidationError, match="frozen"):
        cfg.results = "elsewhere"


def test_configuration_survives_being_written_and_read() -> None:
    raw = config(models={"cells": {"train": {"steps": 3}}}, plan={"class_weights": [1, 2]})
    raw["datasets"] = {"cells": CELLS | {"annotations": [LABELS | {"class": "b"}], "classes": ["b"]}}
    cfg = parse_config(raw)
    assert parse_config(cfg.model_dump(mode="json", by_alias=True)) == cfg


def test_each_annotated_data_set_gets_a_model_of_its_own_by_default() -> None:
    cfg = parse_config({"datasets": {"a": CELLS, "b": {"images": "b.tif"}, "c": CELLS}})
    assert {name: (model.train_on, model.predict_on) for name, model in cfg.models.items()} == {
        "a": (["a"], ["a"]),
        "c": (["c"], ["c"]),
    }


@pytest.mark.parametrize(
    ("model", "train_on", "predict_on"),
    [
        (None, ["a"], ["a"]),
        ({}, ["a"], ["a"]),
        ({"train_on": ["b"]}, ["b"], ["b"]),
        ({"predict_on": ["b"]}, ["a"], ["b"]),
        ({"train_on": ["a", "b"], "predict_on": ["c"]}, ["a", "b"], ["c"]),
        ({"path": "bought"}, [], ["a"]),
        ({"path": "bought", "predict_on": ["b"]}, [], ["b"]),
    ],
)
def test_models_learn_from_and_are_applied_to_the_data_set_of_their_name_by_default(
    model: dict[str, Any] | None, train_on: list[str], predict_on: list[str]
) -> None:
    cfg = parse_config({"datasets": {"a": CELLS, "b": CELLS, "c": CELLS}, "models": {"a": model}})
    assert (cfg.models["a"].train_on, cfg.models["a"].predict_on) == (train_on, predict_on)


def test_overrides_of_a_model_merge_deeply_with_the_section() -> None:
    own = {
        "train": {"network": {"depth": 2}, "steps": 7},
        "plan": {"normalisation": "mean_std"},
        "instances": {"split": 0.9},
    }
    cfg = parse_config(
        config(train={"network": {"width": 8}, "batch": 3}, models={"cells": own, "other": {"train_on": ["cells"]}})
    )
    train = cfg.train_of("cells")
    assert (train.network.depth, train.network.width, train.steps, train.batch) == (2, 8, 7, 3)
    assert train.augment == Train().augment
    assert (cfg.plan_of("cells").normalisation, cfg.plan_of("other").normalisation) == ("mean_std", "percentile")
    assert (cfg.instances_of("cells").split, cfg.instances_of("other").split) == (0.9, None)
    assert cfg.train_of("other") == cfg.train
    assert cfg.predict_of("cells") == cfg.predict


def test_overrides_of_a_data_set_merge_with_the_section_weights() -> None:
    cfg = parse_config({"datasets": {"a": CELLS | {"weights": {"sigma": 3}}, "b": CELLS}, "weights": {"w0": 7}})
    assert (cfg.weights_of("a").sigma, cfg.weights_of("a").w0) == (3, 7)
    assert (cfg.weights_of("b").sigma, cfg.weights_of("b").w0) == (5, 7)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (config(trian={}), "trian: unknown key; did you mean train?"),
        (config(train={"stepz": 3}), "train.stepz: unknown key; did you mean steps?"),
        (config(train={"network": {"dept": 3}}), "train.network.dept: unknown key; did you mean depth?"),
        (config(groundtruth={"colour": 1}), "groundtruth.colour: unknown key; allowed: overlaps, overlap_tolerance"),
        ({"datasets": {"a": CELLS | {"imagess": 1}}}, "datasets.a.imagess: unknown key; did you mean images?"),
        ({"datasets": {"split": CELLS | {"axis": 1}}}, "datasets.split.axis: unknown key; did you mean axes?"),
        ({"datasets": {"a": CELLS | {"split": {"tst": 1}}}}, "datasets.a.split.tst: unknown key; did you mean test?"),
        (
            {"datasets": {"a": CELLS | {"annotations": [LABELS, LABELS | {"clas": "b"}]}}},
            "datasets.a.annotations.1.clas: unknown key; did you mean class?",
        ),
        (config(models={"cells": {"trainon": []}}), "models.cells.trainon: unknown key; did you mean train_on?"),
        (
            config(models={"cells": {"train": {"network": {"widht": 3}}}}),
            "models.cells.train.network.widht: unknown key; did you mean width?",
        ),
        (
            {"datasets": {"a": CELLS | {"weights": {"sgima": 3}}}},
            "datasets.a.weights.sgima: unknown key; did you mean sigma?",
        ),
    ],
)
def test_unknown_keys_are_told_with_their_place_and_a_suggestion(raw: dict[str, Any], line: str) -> None:
    assert mistakes(raw) == [line]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({}, "datasets: missing"),
        ({"datasets": {}}, "datasets: at least one is needed"),
        ({"datasets": None}, "datasets: must have keys of its own (is: None)"),
        ({"datasets": {"a": {"axes": "yx"}}}, "datasets.a.images: missing"),
        ({"datasets": {"my set": CELLS}}, "datasets.my set: may hold only letters, digits, '_' and '-' (is: 'my set')"),
        ({"datasets": {1: {"images": "a.tif"}}}, "datasets.1: must be text; put it into quotes (is: 1)"),
        (
            {"datasets": {"cells": CELLS | {"annotations": [LABELS | {"samples": [1]}]}}},
            "datasets.cells.annotations.0.samples.0: must be text; put it into quotes (is: 1)",
        ),
        (
            {
                "datasets": {
                    "cells": CELLS | {"annotations": [{"format": "yolo", "path": "{stem}.txt", "classes": {0: "cell"}}]}
                }
            },
            "datasets.cells.annotations.0.classes.0: must be text; put it into quotes (is: 0)",
        ),
        (
            {"datasets": {"a": CELLS | {"pixel_size": 0.5}}},
            "datasets.a.pixel_size: must have keys of its own (is: 0.5)",
        ),
        (
            {"datasets": {"a": CELLS | {"pixel_size": {"x": 0}}}},
            "datasets.a.pixel_size.x: must be greater than 0 (is: 0)",
        ),
        (
            {"datasets": {"a": CELLS | {"classes": "cell"}}},
            "datasets.a.classes: must be a list, as in [a, b] (is: 'cell')",
        ),
        (
            {"datasets": {"a": CELLS | {"classes": ["a", "a"]}}},
            "datasets.a.classes: each class may be named only once (is: ['a', 'a'])",
        ),
        (
            {"datasets": {"a": CELLS | {"axes": "yxq"}}},
            "datasets.a.axes: must be letters of t c z y x, each at most once, with y and x among them (is: 'yxq')",
        ),
        (
            {"datasets": {"a": CELLS | {"axes": "yyx"}}},
            "datasets.a.axes: must be letters of t c z y x, each at most once, with y and x among them (is: 'yyx')",
        ),
        (
            {
                "datasets": {"a": CELLS},
                "predict": {"dtype": "mask"},
                "instances": {"split": 0.2, "split_by": "probability"},
            },
            "models.a: instances.split_by is probability, but predict.dtype mask stores none; use uint8 or distance",
        ),
        ({"datasets": {"a": CELLS | {"axes": "yx", "channels": [0]}}}, "datasets.a: channels needs an axis c in axes"),
        (
            {"datasets": {"a": CELLS | {"split": {"test": 0.7, "validation": 0.5}}}},
            "datasets.a.split: the shares of test and validation add up to 1.2; at most 1",
        ),
        (
            {"datasets": {"a": CELLS | {"split": {"test": 1.5}}}},
            "datasets.a.split.test: must be less than or equal to 1, or must be a list, as in [a, b] (is: 1.5)",
        ),
        (
            {"datasets": {"a": CELLS | {"annotations": [{"format": "lables", "path": "x"}]}}},
            "datasets.a.annotations.0.format: must be 'labels', 'binary', 'colours', 'ctc', 'rle', 'masks', "
            "'boundaries', "
            "'coco', 'imagej', 'geojson', 'labelme', 'cvat', 'aperio', 'napari', 'ilastik', 'yolo', 'matlab' or "
            "'cellpose' (is: 'lables')",
        ),
        (
            {"datasets": {"a": CELLS | {"annotations": [LABELS | {"class": "nucleus"}]}}},
            "datasets.a: annotation class 'nucleus' is not among classes: cell",
        ),
        (
            {"datasets": {"a": CELLS | {"annotations": [{"format": "rle", "path": "x", "ignore_label": 3}]}}},
            "datasets.a.annotations.0: ignore_label has no meaning for format rle: only for labels, binary, "
            "boundaries and cellpose",
        ),
        (
            {"datasets": {"a": CELLS | {"annotations": [{"format": "cellpose", "path": "{stem}_seg.npy"}]}}},
            "datasets.a.annotations.0: path '{stem}_seg.npy': _seg.npy is a pickle, which is not read, as it may run "
            "any code; in Cellpose choose 'Save masks as PNG/tif' (or run it with --save_tif), and set path to "
            "{stem}_cp_masks.png or .tif",
        ),
        (config(train={"steps": 0}), "train.steps: must be at least 1, or auto (is: 0)"),
        (config(train={"learning_rate": float("inf")}), "train.learning_rate: must be a finite number (is: inf)"),
        (
            config(train={"tile": [1]}),
            "train.tile: must be at least 1, or in 3D [z, y, x], each at least 1, or auto (is: [1])",
        ),
        (config(train=None), "train: must have keys of its own (is: None)"),
        (
            config(plan={"percentiles": [99, 1]}),
            "plan.percentiles: the low percentile must be below the high one (is: [99, 1])",
        ),
        (config(instances={"threshold": 1}), "instances.threshold: must be less than 1, or must be 'auto' (is: 1)"),
        (
            config(evaluate={"thresholds": [0.5]}),
            "evaluate.thresholds: must contain 0.5 and 0.75: the table has columns for them (is: [0.5])",
        ),
        (config(dask={"workers": 0}), "dask.workers: must be at least 1, or auto (is: 0)"),
        (config(models=["cells"]), "models: must have keys of its own (is: ['cells'])"),
        (config(models={"cells": "cells"}), "models.cells: must have keys of its own (is: 'cells')"),
        (config(models={"m": {"train_on": "cells"}}), "models.m.train_on: must be a list, as in [a, b] (is: 'cells')"),
        (
            config(models={"cells": {"predict": {"splits": 5}}}),
            "models.cells.predict.splits: must be a list, as in [a, b] (is: 5)",
        ),
        (
            config(models={"cells": {"instances": {"split": -1}}}),
            "models.cells.instances.split: must be greater than or equal to 0, or must be 'auto' (is: -1)",
        ),
        (
            config(predict={"skip": {}}),
            "predict.skip: one of below and above is needed, as in {below: 12} "
            "(of a model that differs: {below: null, above: 3})",
        ),
        (
            config(predict={"skip": {"below": 3}}, models={"cells": {"predict": {"skip": {"above": 4}}}}),
            "models.cells.predict.skip: one of below and above is needed, as in {below: 12} "
            "(of a model that differs: {below: null, above: 3})",
        ),
        (
            config(predict={"skip": {"belw": 3}}),
            "predict.skip.belw: unknown key; did you mean below?",
        ),
        (
            config(predict={"skip": {"below": float("nan")}}),
            "predict.skip.below: must be a finite number (is: nan)",
        ),
        (
            config() | {"datasets": {"cells": CELLS, "b": {"images": "b.tif", "region": [{}]}}},
            "datasets.b.region.0: at least one of z, y and x is needed, as in {y: [0, 4096], x: [1000, 3000]}",
        ),
        (
            config() | {"datasets": {"cells": CELLS, "b": {"images": "b.tif", "region": [{"z": [0, 1], "y": [5, 5]}]}}},
            "datasets.b.region.0.y: the first pixel must be below the end, which is not part of it (is: [5, 5])",
        ),
        (
            config() | {"datasets": {"cells": CELLS, "b": {"images": "b.tif", "region": [{"x": [-1, 5]}]}}},
            "datasets.b.region.0.x.0: must be greater than or equal to 0 (is: -1)",
        ),
        (
            {"datasets": {"cells": CELLS | {"region": [{"y": [0, 5]}]}}},
            "datasets.cells: region has no meaning with annotations: objects outside of it would be scored as missed; "
            "name the images in a data set without annotations too, with the region, and in predict_on of the model",
        ),
    ],
)
def test_wrong_values_are_told_with_key_value_and_what_is_allowed(raw: dict[str, Any], line: str) -> None:
    assert mistakes(raw) == [line]


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ({"m": {}}, "models.m.train_on: no data set 'm'; there are: a, b, plain"),
        ({"a": {"predict_on": ["c"]}}, "models.a.predict_on: no data set 'c'; there are: a, b, plain"),
        (
            {"a": {"predict_on": ["a", "a"]}},
            "models.a.predict_on: each data set may be named only once (is: ['a', 'a'])",
        ),
        (
            {"a": {"predict_on": ["a", "b"]}},
            "models.a.predict_on: the model learns the classes cell, but data set 'b' is annotated with cell, nucleus",
        ),
        (
            {"m": {"path": "p", "predict_on": ["a"], "train": {"steps": 3}}},
            "models.m.train: has no meaning for a model with a path (it is not trained)",
        ),
        ({"plain": {}}, "models.plain.train_on: data set 'plain' has no annotations"),
        (
            {"a": {"path": "p", "train_on": ["a"]}},
            "models.a: path and train_on exclude each other (a model with a path is not trained)",
        ),
        (
            {"m": {"train_on": ["a", "b"]}},
            "models.m.train_on: the data sets must have the same classes, but a has cell; b has cell, nucleus",
        ),
        (
            {"b": {"plan": {"class_weights": [1, 2]}}},
            "models.b: plan.class_weights has 2 values; needed are 3: background, cell, nucleus",
        ),
        (
            {"a": {"predict": {"splits": ["train"]}}},
            "models.a: predict.splits leaves out test, which evaluate.splits wants to score",
        ),
    ],
)
def test_what_models_name_must_exist_and_agree(models: dict[str, Any], line: str) -> None:
    datasets = {"a": CELLS, "b": CELLS | {"classes": ["cell", "nucleus"]}, "plain": {"images": "plain.tif"}}
    assert mistakes({"datasets": datasets, "models": models}) == [line]


def test_several_mistakes_of_all_kinds_make_one_message() -> None:
    raw = {
        "datasets": {"a": CELLS | {"axes": "xz", "weights": {"sgima": 1}}},
        "models": {"a": {"train": {"steps": -1}}, "b": {"train_on": ["c"], "path": "p"}},
        "trian": {},
        "weights": {"w0": -1},
    }
    assert mistakes(raw) == [
        "datasets.a.axes: must be letters of t c z y x, each at most once, with y and x among them (is: 'xz')",
        "weights.w0: must be greater than or equal to 0 (is: -1)",
        "trian: unknown key; did you mean train?",
        "datasets.a.weights.sgima: unknown key; did you mean sigma?",
        "models.a.train.steps: must be at least 1, or auto (is: -1)",
        "models.b.train_on: no data set 'c'; there are: a",
        "models.b: path and train_on exclude each other (a model with a path is not trained)",
    ]


def test_a_section_of_another_name_counts_once_where_it_is_wrong() -> None:
    assert mistakes(config(train={"steps": 0}, models={"cells": {"train": {"batch": 2}}})) == [
        "train.steps: must be at least 1, or auto (is: 0)"
    ]


@pytest.mark.parametrize("axes", ["yx", "yxc", "czyx", "tyx", "zcyx", "tczyx", "xy"])
def test_axes_may_stand_in_any_order(axes: str) -> None:
    assert Dataset(images="a.tif", axes=axes).axes == axes


def test_split_takes_shares_and_names() -> None:
    assert Split(test=["t00*"], validation=0.5) == Split.model_validate({"test": ["t00*"], "validation": 0.5})
    assert Split(test=1.0, validation=0.0).test == 1.0


def test_masks_have_the_threshold_of_objects_and_probabilities_none() -> None:
    masks = {"predict": {"dtype": "mask"}, "instances": {"threshold": 0.6}}
    cfg = parse_config(
        config(models={"cells": masks, "other": {"train_on": ["cells"], "instances": {"threshold": 0.6}}})
    )
    assert (cfg.mask_threshold("cells"), cfg.mask_threshold("other")) == (0.6, None)
