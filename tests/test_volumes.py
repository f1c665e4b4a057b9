"""Networks for volumes through the chain.

Training tiles, exact resume, plan, prediction over blocks along z, and all steps together.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml

from tests.conftest import ArraySource
from tests.network.test_tiles import in_one_piece
from tests.predict.test_step import NORM, predict
from tests.test_workflow import Project
from tests.train.test_sampling import STILL, WILD, sample
from tests.train.test_step import assert_killed_training_ends_as_another
from unet_core.blocks import Grid
from unet_core.config.datasets import IGNORE
from unet_core.config.options import Network, Plan, Predict, Train
from unet_core.config.parse import parse_config
from unet_core.config.presets import PRESETS, with_preset
from unet_core.engine import Engine
from unet_core.estimate.workload import Workload, sizes
from unet_core.groundtruth.samples import check_data
from unet_core.network import unet
from unet_core.network.model import TooLarge, build, load_network, network_function, save_checkpoint, weights_digest
from unet_core.network.share import share_model
from unet_core.plan import step as plan
from unet_core.plan import tiles as plan_tiles
from unet_core.predict.calibration import Tiles, candidate_tiles, fastest_tiles
from unet_core.predict.seams import audit_window, windows
from unet_core.predict.step import block_of
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Spec, begin, finish
from unet_core.train import loop as training
from unet_core.train import validation
from unet_core.train.loop import train_network
from unet_core.train.sampling import Sampler, TrainingSample
from unet_core.train.validation import validate

NETWORK = Network(depth=2, width=4, dropout=0.3, norm="batch", dimensions=3, flat_levels=1)
SHAPE = unet.shape_of(NETWORK)
TILE = plan_tiles.fit_tile(SHAPE, (4, 12, 12), 10**9)
CFG = Train(
    network=NETWORK, learning_rate=0.02, momentum=0.9, warmup=2, validate_every=4, precision="float32", augment=STILL
)


def volume(shape: tuple[int, int, int] = (12, 40, 44), seed: int = 0, channels: int = 1) -> TrainingSample:
    """A volume whose planes differ.

    Its target is a threshold of it, and its border weight is a linear function of it.
    """
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    wave = np.sin(y / 9 + seed) + np.cos(x / 7) + z / 8
    image = np.broadcast_to(wave, (channels, *shape)).astype(np.float32)
    target = (wave > 0.8).astype(np.uint8)
    sources = ArraySource(image), ArraySource(target), ArraySource(image[0] + 3)
    return dataclasses.replace(
        sample(channels=channels),
        **dict(zip(("image", "target", "border"), sources, strict=True)),
        annotated=target.size,
    )


def sampler(samples: list[TrainingSample], augment: Any = STILL, batch: int = 2) -> Sampler:
    return Sampler(samples, TILE, SHAPE.halo, batch=batch, seed=0, augment=augment)


@pytest.mark.parametrize(
    "augment", [STILL, WILD.model_copy(update=dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0.0))]
)
def test_image_target_and_weights_of_a_volume_are_moved_by_the_same_field(augment: Any) -> None:
    batch = sampler([volume(channels=2)], augment, batch=6).draw(0)
    outputs = plan_tiles.outputs_of(TILE, SHAPE)
    assert batch.image_NCYX.shape == (6, 2, *TILE) and batch.target_NYX.shape == batch.border_NYX.shape == (6, *outputs)
    centre = (
        batch.image_NCYX[(slice(None), 0, *(slice(h, n - h) for h, n in zip(SHAPE.halo, TILE, strict=True)))] / 0.5 + 1
    )
    assert (batch.border_NYX - centre - 3).abs().median() < 0.01
    clear = (centre - 0.8).abs() > 0.15
    assert clear.float().mean() > 0.6 and torch.equal((centre > 0.8)[clear], (batch.target_NYX == 1)[clear])


def test_planes_of_a_tile_follow_each_other_and_may_be_turned_over() -> None:
    """An image that is the number of its plane; beyond the volume it is mirrored."""
    given = volume((40, 30, 30))
    planes = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 30, 30))
    given = dataclasses.replace(given, image=ArraySource(planes[None] / 0.5 + 1))
    upward = []
    for number in range(12):
        drawn = sampler([given], STILL.model_copy(update={"flip": True})).draw(number).image_NCYX[:, 0]
        for tile in drawn:
            along = torch.round(tile[:, 5, 5])
            assert (tile - along[:, None, None]).abs().max() < 1e-3 and (along.diff().abs() == 1).all()
            inside = along[(along > 0) & (along < 39)]
            upward.append(bool(inside[1] > inside[0]) if inside.numel() > 1 else None)
    assert {True, False} <= set(upward)
    still = sampler([given]).draw(0).image_NCYX[0, 0, :, 5, 5]
    assert torch.equal(torch.round(still).diff().abs(), torch.ones(TILE[0] - 1))


def test_2d_tiles_are_those_of_before_there_were_others() -> None:
    drawn = Sampler([sample()], 60, (0, 20, 20), batch=2, seed=3, augment=WILD).draw(0)
    assert drawn.image_NCYX.shape == (2, 1, 60, 60) and drawn.target_NYX.shape == (2, 20, 20)


def test_slices_without_annotation_contribute_nothing() -> None:
    given = volume((30, 60, 60))
    assert isinstance(given.target, ArraySource) and isinstance(given.border, ArraySource)
    given.target.array[np.arange(30) != 17] = IGNORE
    drawn = sampler([given], WILD, batch=5).draw(0)
    seen = drawn.target_NYX != IGNORE
    assert seen.flatten(1).any(dim=1).all() and (seen.any(dim=-1).any(dim=-1).sum(dim=1) == 1).all()
    torch.manual_seed(0)
    net = build(NETWORK, 1, 2).eval()
    weights = torch.tensor([1.0, 2.0])
    before = training._loss(net, drawn, weights, "float32")
    given.border.array = np.where(given.target.array == IGNORE, 1e6, given.border.array).astype(np.float32)
    scores = validate(net, [given], weights, TILE, "float32")
    given.border.array[given.target.array == IGNORE] = 0
    assert training._loss(net, sampler([given], WILD, batch=5).draw(0), weights, "float32") == before
    assert validate(net, [given], weights, TILE, "float32") == scores


def test_only_the_planes_of_a_tile_are_read() -> None:
    given = volume((200, 50, 50))
    list(sampler([given], WILD).batches(0, 2))
    assert isinstance(given.image, ArraySource)
    assert max(box.shape[0] for box in given.image.boxes) <= TILE[0]


def run(folder: Path, steps: int) -> list[dict[str, float]]:
    decided = {
        "network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"], "class_weights": {"value": [1.0, 1.0]},
        "steps": {"value": steps}, "predict_tile": {"value": list(TILE)},
    }  # fmt: skip
    given = sampler([volume()], WILD)
    return train_network(CFG, decided, given, [volume(seed=1)], folder=folder, wanted="d")


def test_a_network_for_volumes_learns(tmp_path: Path) -> None:
    history = run(tmp_path, 40)
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"] and history[-1]["validation_iou"] > 0.5


@pytest.mark.parametrize("killed_at", [3, 6])
def test_a_killed_training_on_volumes_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_killed_training_ends_as_another(run, tmp_path, 8, killed_at, monkeypatch)


def test_validation_of_volumes_by_blocks_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = volume()
    torch.manual_seed(0)
    net = build(NETWORK, 1, 2)
    whole = validate(
        net, [given], torch.tensor([0.5, 2.0]), plan_tiles.fit_tile(SHAPE, (100, 100, 100), 10**9), "float32"
    )
    monkeypatch.setattr(validation, "VALIDATION_BLOCK", {3: (4, 16, 32)})
    assert validate(net, [given], torch.tensor([0.5, 2.0]), TILE, "float32") == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "planes", "expected"),
    [
        (1.0, 1000, 0),
        (1.4, 1000, 0),
        (1.5, 1000, 1),
        (2.8, 1000, 1),
        (2.9, 1000, 2),
        (0.5, 1000, 0),
        (100, 1000, 4),
        (1.0, 16, 3),
        (4, 1, 4),
    ],
)
def test_levels_are_flat_while_planes_lie_far_apart_or_are_few(ratio: float, planes: int, expected: int) -> None:
    decided, why = plan.decided_network(Network(dimensions=3), [ratio], planes)
    assert decided.flat_levels == expected and ("planes beyond" if planes < 1000 else "sqrt(2) pixels") in why
    assert plan.decided_network(decided, [9.0], 3) == (decided, "set in the configuration")
    assert plan.decided_network(Network(), [ratio], planes)[0] == Network()


def test_several_data_sets_count_by_the_mean_of_their_ratios() -> None:
    assert plan.decided_network(Network(dimensions=3), [1.0, 16.0], 1000)[0].flat_levels == 2


@pytest.mark.parametrize("flat", [0, 1, 3])
@pytest.mark.parametrize(
    ("planes", "side", "voxels"), [(1, 1, 10), (200, 3000, 10**6), (30, 100, 10**9), (64, 700, 3 * 10**6)]
)
def test_tiles_for_volumes_keep_their_limits(flat: int, planes: int, side: int, voxels: int) -> None:
    shape = unet.shape(3, dimensions=3, flat_levels=flat)
    tile = plan_tiles.fit_tile(shape, (planes, side, side), voxels)
    smallest = [unet.input_size(axis.step, *axis) for axis in shape]
    whole = [unet.input_size(max(n, axis.step), *axis) for n, axis in zip((planes, side, side), shape, strict=True)]
    assert np.prod(tile) <= max(voxels, np.prod(smallest)) and all(a <= b for a, b in zip(tile, whole, strict=True))
    if np.prod(whole) <= voxels:
        assert list(tile) == whole


def test_tiles_that_are_set_must_fit_network_and_axes() -> None:
    for given, message in (
        ({"tile": 92}, "a 3D network takes"),
        ({"tile": [20, 92, 108]}, "must be the same"),
        ({"tile": [20, 92]}, "z, y, x"),
    ):
        with pytest.raises(ValueError, match=message):
            Train.model_validate({"network": NETWORK.model_dump()} | given)
    with pytest.raises(ValueError, match="flat_levels is 3, but must be 2"):
        Network(depth=2, flat_levels=3)
    with pytest.raises(UserError, match="^train.tile: a U-Net of depth 1 cannot take a tile of 23 px"):
        plan_tiles.training_tile(CFG.model_copy(update={"tile": (23, 92, 92)}), 100, 30)
    with pytest.raises(UserError, match="^predict.tile is 572, but a 3D network takes"):
        plan_tiles.prediction_tile(Predict(tile=572), NETWORK, 1, Plan(memory_gb=1024), 100, 30)
    with pytest.raises(
        UserError, match=r"^plan.memory_gb: the smallest tile of this network \(\(18, 44, 44\) px\) needs"
    ):
        plan_tiles.prediction_tile(Predict(), NETWORK, 1, Plan(memory_gb=2**-10), 1000, 100)


def test_presets_count_in_3d_but_for_their_tile() -> None:
    for name in PRESETS:
        train = Train.model_validate(with_preset({"preset": name, "network": {"dimensions": 3}}))
        assert train.tile == "auto" and train.network.dimensions == 3
        assert train.network.width == PRESETS[name]["network"]["width"]


def test_blocks_hold_whole_groups_of_pooled_planes() -> None:
    assert (block_of((8, 2048, 2048), 1), block_of((8, 512, 512), 6, 4)) == ((8, 2048, 2048), (12, 512, 512))
    assert block_of((8, 512, 512), 127, 8) == (8, 512, 512)
    network = Network(dimensions=3, depth=3, flat_levels=0)
    assert plan_tiles.prediction_block(plan_tiles.fit_tile(unet.shape_of(network), (64, 300, 300), 10**9), network) == [
        64,
        512,
        512,
    ]


def test_tiles_of_a_block_are_measured_in_3d_too() -> None:
    tried = candidate_tiles((64, 256, 256), (92, 108, 108), unet.shape(3, dimensions=3))
    assert tried[0].largest == (92, 108, 108) or tried[-1].largest[0] <= 92  # type: ignore[index]
    for tiles in tried:
        assert all(a <= b for a, b in zip(unet.sides(tiles.largest), (92, 108, 108), strict=True))
    function = network_function(build(NETWORK, 1, 2).eval(), [0.0], [1.0], "float32")
    found = fastest_tiles(function, [Tiles((18, 44, 44), 1), Tiles((18, 44, 44), 2)], 1, SHAPE, (8, 16, 16), 5.0)
    assert found["largest"] == (18, 44, 44) and found["rates"]


def test_windows_of_the_seam_audit_meet_borders_along_z() -> None:
    grid = Grid((100, 50, 40), (32, 64, 64))
    found = windows(grid, unet.shape(3, dimensions=3), "seed")
    assert found and {place[0] for _, place in found} <= {32, 64, 96} and all(place[1:] == (0, 0) for _, place in found)
    assert (
        windows(grid, unet.shape(3), "seed")
        == []
        == windows(Grid((30, 9, 9), (32, 64, 64)), unet.shape(3, dimensions=3), "s")
    )
    for box, place in found:
        assert box.start[0] % 8 == 0 and box.start[0] < place[0] < box.stop[0]
        difference = np.zeros(box.shape)
        difference[place[0] - box.start[0]] = 0.5
        difference[0] = 0.25
        assert audit_window(difference, box, place) == (0.5, 0.25)


def prepare(folder: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A volume in a store, a random 3D model and a plan with small tiles and blocks; the probabilities in one piece."""
    image = np.random.default_rng(0).integers(0, 255, (1, *shape)).astype(np.uint8)
    result = begin(folder / "data.zarr" / "a b", "i", Spec(shape, "uint8", "image", 1), {})
    for index in result.missing_blocks():
        result.write(index, image[(slice(None), *result.grid.box(index).slices)], "i")
    finish(folder / "data.zarr" / "a b", "i", {})
    write_stamp(folder / "data.json", {"samples": {"a b": {"split": "test", "image": "i", "labels": None}}})
    torch.manual_seed(0)
    network, model = NETWORK.model_copy(update={"width": 2, "norm": "none"}), folder / "model"
    save_checkpoint(model / "best.safetensors", dict(build(network, 1, 2).state_dict()), {})
    about = {"channels": 1, "classes": ["cell"], "normalisation": {"normalisation": "percentile"}}
    write_stamp(model / "model.json", {"network": network.model_dump(), **about})
    write_stamp(folder / "model.json", {"model": str(model), "weights": weights_digest(model)})
    decided = {"classes": ["cell"], "predict_tile": {"value": [22, 60, 60]}, "predict_block": {"value": [8, 256, 256]}}
    write_stamp(folder / "plan.json", decided | {"samples": {"data/a b": NORM}, "network": network.model_dump()})
    net = load_network(model, weights_digest(model))
    return in_one_piece(net, ((image.astype(np.float32) - 50) * np.float32(0.01)).astype(np.float32))[1:]


@pytest.mark.parametrize("shape", [(19, 70, 300), (1, 1, 1)])
def test_stored_probabilities_of_a_volume_equal_the_network_in_one_piece(
    tmp_path: Path, engine: Engine, shape: tuple[int, int, int]
) -> None:
    expected = prepare(tmp_path, shape)
    stored = predict(tmp_path, engine)
    assert np.abs(stored.read_all() - expected).max() <= 1e-5
    audit = read_json(tmp_path / "out.json")["samples"]["a b"].get("audit")
    assert (audit is None) == (shape == (1, 1, 1))
    if audit:
        assert max(audit["across"], audit["inside"]) <= 1e-5


@pytest.mark.slow
def test_measured_and_halved_tiles_give_the_same_volume(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(tmp_path, (19, 70, 90))
    monkeypatch.setattr("unet_core.predict.seams.N_WINDOWS", 0)
    extents = set()

    def small(*arguments: Any, **options: Any) -> Any:
        function = network_function(*arguments, **options)

        def apply(tiles: np.ndarray) -> np.ndarray:
            if tiles.shape[2] > 20 or tiles.shape[3] > 52:
                raise TooLarge(f"1 tiles of {tiles.shape[2:]} px")
            extents.add(tiles.shape[2:])
            return function(tiles)

        return apply

    monkeypatch.setattr("unet_core.predict.step.network_function", small)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    assert np.abs(predict(tmp_path, engine).read_all() - expected).max() <= 1e-5 and extents
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("unet_core.predict.step.network_function", network_function)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    monkeypatch.setattr("unet_core.predict.step.MIN_BLOCKS_TO_MEASURE", 0)
    assert np.abs(predict(tmp_path, engine).read_all() - expected).max() <= 1e-5
    assert len(read_json(tmp_path / "out.tile.json")["largest"]) == 3
    assert np.abs(predict(tmp_path, engine).read_all() - expected).max() <= 1e-5


def test_a_package_is_not_made_of_a_3d_network(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 1, 1))
    with pytest.raises(UserError, match="the network in .* is 3D; packages are made of 2D ones alone"):
        share_model(tmp_path / "model", tmp_path / "m.zip", name="m", authors=["a"], licence="MIT")


@pytest.mark.slow
def test_volumes_go_through_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:20, :48, :52]
    for name in "abc":
        labels = np.zeros((20, 48, 52), np.uint16)
        for number, (cz, cy, cx) in enumerate(rng.uniform((3, 8, 8), (17, 40, 44), (5, 3)), start=1):
            labels[((z - cz) * 2) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 36] = number
        for folder, array in (("images", (labels > 0) * 120 + rng.integers(0, 60, labels.shape)), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", array.astype(np.uint8))
    project = Project(tmp_path)
    project.configure(
        {
            "datasets": {
                "cells": {
                    "images": "images/*.tif",
                    "axes": "zyx",
                    "pixel_size": {"z": 2, "y": 1, "x": 1},
                    "annotations": [
                        {"format": "labels", "path": "labels/{stem}.tif", "samples": ["b", "c"]},
                        {"format": "labels", "path": "labels/{stem}.tif", "samples": ["a"], "slices": [4, 5, 12]},
                    ],
                    "split": {"test": ["c"], "validation": ["b"]},
                }
            },
            "models": {"cells": {}},
            "weights": {"sigma": 3},
            "train": {
                "network": {"depth": 2, "width": 4, "dropout": 0, "norm": "batch", "dimensions": 3},
                "batch": 2,
                "steps": 30,
                "validate_every": 15,
                "learning_rate": 0.02,
                "augment": {"elastic_sigma": 2},
            },
        }
    )
    project.run()
    decided = json.loads((tmp_path / "results/plan/cells.json").read_text())
    assert (
        decided["network"]["flat_levels"] == decided["flat_levels"]["value"] == 1
        and "sqrt(2)" in decided["flat_levels"]["why"]
    )
    assert len(decided["train_tile"]["value"]) == len(decided["predict_tile"]["value"]) == 3
    # What the estimate of a run takes from headers alone is what the plan decided.
    monkeypatch.chdir(tmp_path)
    cfg = parse_config(yaml.safe_load(Path("config.yaml").read_text()))
    work = Workload(cfg, sizes(cfg, check_data(cfg)), {})
    tiles = (work.train_tile("cells"), work.predict_tile("cells"))
    assert [list(tile) for tile in tiles] == [  # type: ignore[arg-type]
        decided[key]["value"] for key in ("train_tile", "predict_tile")
    ]
    assert (
        work.network("cells").model_dump() == decided["network"]
        and list(work.block("cells")) == decided["predict_block"]["value"]
    )
    table = pd.read_csv(tmp_path / "results/report/table.csv")
    assert table["iou"].item() > 0.3
    assert project.jobs(project.run()) == set()
