"""Presets: what they say, how it is overridden, and that each network works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_core.config.datasets import ConfigError
from unet_core.config.options import Train
from unet_core.config.parse import parse_config
from unet_core.config.presets import PRESETS
from unet_core.config.section import merge
from unet_core.network import unet
from unet_core.network.model import build

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
SETS = {"a": {"images": "a/*.tif", "annotations": [{"format": "labels", "path": "m/{stem}.tif"}]}}


def train_of(train: dict[str, Any], own: dict[str, Any] | None = None) -> Train:
    return parse_config({"datasets": SETS, "train": train, "models": {"a": {"train": own} if own else None}}).train_of(
        "a"
    )


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_values_and_the_defaults_of_all_others(name: str) -> None:
    found = train_of({"preset": name}).model_dump()
    assert found == merge(Train().model_dump(), PRESETS[name] | {"preset": name})
    assert train_of({}, {"preset": name}).model_dump() == found


@pytest.mark.parametrize("name", PRESETS)
def test_each_key_of_a_preset_can_be_overridden(name: str) -> None:
    cfg = train_of({"preset": name, "batch": 7, "network": {"width": 5}, "augment": {"gamma": 0.9}})
    assert (cfg.batch, cfg.network.width, cfg.augment.gamma) == (7, 5, 0.9)
    expected = merge(PRESETS[name], {"batch": 7, "network": {"width": 5}, "augment": {"gamma": 0.9}})
    assert dict(leaves(expected)).items() <= dict(leaves(cfg.model_dump())).items()


def test_keys_of_a_model_come_before_the_common_preset_and_its_own_preset_before_all_common_keys() -> None:
    assert (
        train_of({"preset": "small"}, {"batch": 9}).model_dump()
        == train_of({"preset": "small", "batch": 9}).model_dump()
    )
    own = train_of({"preset": "small", "clip": 3, "seed": 4}, {"preset": "paper2015", "steps": 10})
    assert own == train_of({"preset": "paper2015", "steps": 10})


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"train.preset: must be 'paper2015', 'modern', 'small' or 'tutorial' \(is: 'best'\)"
    ):
        train_of({"preset": "best"})


@pytest.mark.parametrize("name", PRESETS)
def test_each_network_gives_the_size_that_its_tile_promises(name: str) -> None:
    cfg = train_of({"preset": name})
    network = cfg.network
    shape = unet.shape_of(network).y
    side = cfg.tile if isinstance(cfg.tile, int) else unet.input_size(100, *shape)
    with torch.inference_mode():
        scores = build(network.model_copy(update={"width": 2}), 1, 2).eval()(torch.zeros(1, 1, side, side))
    assert scores.shape[-1] == unet.output_size(side, *shape) == side - 2 * unet.halo(*shape)
    if name == "paper2015":
        assert sum(parameter.numel() for parameter in build(network, 1, 2).parameters()) == 31_030_658
        assert (side, scores.shape[-1], cfg.batch, cfg.momentum) == (572, 388, 1, 0.99)


def test_the_table_in_the_docs_holds_each_value_of_each_preset() -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in DOCS.read_text().splitlines()
        if line.startswith("| ")
    ]
    head = next(row for row in rows if row[0] == "train.")
    table = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if len(row) == len(head)}
    defaults = dict(leaves(Train().model_dump()))
    named = {key for preset in PRESETS.values() for key, _ in leaves(preset)}
    assert set(table) - {"train."} == named
    for key in named:
        assert table[key].pop("default") == str(defaults[key]), key
        for name, preset in PRESETS.items():
            assert table[key][name] == str(dict(leaves(preset)).get(key, "")), (key, name)
