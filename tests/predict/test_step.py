"""From store to store: the stitched probabilities are those of one piece, whatever is interrupted."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.network.test_tiles import in_one_piece
from unet_core.blocks import Box
from unet_core.config.options import Network, Predict
from unet_core.engine import Engine
from unet_core.network.model import (
    TooLarge,
    build,
    in_lane,
    load_network,
    network_function,
    save_checkpoint,
    weights_digest,
)
from unet_core.network.tiles import LANES, TileFunction, predict_box
from unet_core.network.unet import input_size
from unet_core.network.unet import shape as unet_shape
from unet_core.plan.tiles import tile_memory
from unet_core.predict import step
from unet_core.predict.calibration import Tiles
from unet_core.predict.members import Group
from unet_core.predict.memory import MEMORY_SHARE, fitting
from unet_core.predict.probabilities import distance_from_mask, from_stored, is_foreground, to_stored
from unet_core.predict.step import block_of, predict_samples
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Result, Spec, begin, finish, read_attributes

NETWORK = Network(depth=2, width=2, dropout=0.0)
NORM = {"offset": [50.0], "scale": [0.01]}


def put(folder: Path, image: np.ndarray, name: str, digest: str = "i0") -> None:
    """A sample that is done."""
    result = begin(folder / "data.zarr" / name, digest, Spec(image.shape[1:], "uint8", "image", 1), {})
    for index in result.missing_blocks():
        result.write(index, image[(slice(None), *result.grid.box(index).slices)], digest)
    finish(folder / "data.zarr" / name, digest, {})


def prepare(folder: Path, shape: tuple[int, int, int] = (1, 300, 530), seed: int = 0) -> np.ndarray:
    """An image in a store, a random model and a plan with small tiles and blocks."""
    image = np.random.default_rng(seed).integers(0, 255, (1, *shape)).astype(np.uint8)
    put(folder, image, "a b", f"i{seed}")
    write_stamp(folder / "data.json", {"samples": {"a b": {"split": "test", "image": f"i{seed}", "labels": None}}})
    model = folder / "model"
    if not model.is_dir():
        torch.manual_seed(0)
        net = build(NETWORK, 1, 2)
        save_checkpoint(model / "best.safetensors", dict(net.state_dict()), {})
        write_stamp(model / "model.json", {"network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"]})
    write_stamp(folder / "model.json", {"model": str(model), "weights": weights_digest(model)})
    tile = {"value": input_size(100, 2)}
    plan = {
        "classes": ["cell"],
        "predict_tile": tile,
        "predict_block": {"value": [1, 256, 256]},
        "samples": {"data/a b": NORM},
    }
    write_stamp(folder / "plan.json", plan | {"network": NETWORK.model_dump()})
    return image


def predict(folder: Path, engine: Engine, cfg: Predict | None = None, mask_threshold: float | None = None) -> Result:
    predict_samples(
        cfg or Predict(precision="float32", dtype="float32"),
        model=folder / "model.json",
        plans=[folder / "plan.json"],
        groundtruth=folder / "data.json",
        images=folder / "data.zarr",
        store=folder / "out" / "data.zarr",
        stamp=folder / "out.json",
        engine=engine,
        mask_threshold=mask_threshold,
    )
    return Result(folder / "out" / "data.zarr" / "a b")


def expected(folder: Path, image: np.ndarray) -> np.ndarray:
    net = load_network(folder / "model", weights_digest(folder / "model"))
    return in_one_piece(net, ((image.astype(np.float32) - 50) * np.float32(0.01)).astype(np.float32))[1:]


def test_differences_from_a_mask_are_distances_from_the_threshold() -> None:
    again = np.array([[[[100, 130, 200, 10]]]], np.uint8)
    mask = np.array([[[[0, 0, 255, 255]]]], np.uint8)
    np.testing.assert_allclose(
        distance_from_mask(mask, again, 0.5)[0, 0], [0, 130 / 255 - 0.5, 0, 0.5 - 10 / 255], atol=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 300, 530), (3, 257, 20), (1, 1, 1)])
def test_stored_probabilities_equal_the_network_in_one_piece(
    tmp_path: Path, engine: Engine, shape: tuple[int, int, int]
) -> None:
    image = prepare(tmp_path, shape)
    assert np.abs(predict(tmp_path, engine).read_all() - expected(tmp_path, image)).max() <= 1e-5


@pytest.mark.parametrize(("dtype", "error"), [("uint8", 0.5 / 255 + 1e-5), ("float16", 5e-4)])
def test_compact_types_are_as_exact_as_they_can_be(tmp_path: Path, engine: Engine, dtype: str, error: float) -> None:
    image = prepare(tmp_path)
    stored = predict(tmp_path, engine, Predict.model_validate({"dtype": dtype, "precision": "float32"})).read_all()
    assert np.abs(from_stored(stored) - expected(tmp_path, image)).max() <= error
    np.testing.assert_array_equal(to_stored(from_stored(stored), dtype), stored)


def test_a_mask_is_where_the_probabilities_are_above_the_threshold(tmp_path: Path, engine: Engine) -> None:
    image = prepare(tmp_path)
    threshold = float(np.median(expected(tmp_path, image)).round(2))
    whole = predict(tmp_path, engine, Predict(precision="float32", dtype="uint8")).read_all()
    mask = predict(tmp_path, engine, Predict(precision="float32", dtype="mask"), threshold)
    np.testing.assert_array_equal(mask.read_all(), np.where(is_foreground(whole, threshold), 255, 0)[None])
    assert 0.1 < mask.read_all().mean() / 255 < 0.9 and mask.dtype == np.uint8
    stamp = read_json(tmp_path / "out.json")
    assert (
        stamp["dtype"] == "mask"
        and max(stamp["samples"]["a b"]["audit"][place] for place in ("across", "inside")) <= 1e-5
    )
    predict(tmp_path, engine, Predict(precision="float32", dtype="mask"), 0.9)
    assert read_json(tmp_path / "out.json")["samples"]["a b"]["digest"] != stamp["samples"]["a b"]["digest"]


def test_only_missing_blocks_are_computed_again(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    result = predict(tmp_path, engine)
    shards = {path: path.stat().st_mtime_ns for path in (result.path / "0").rglob("c/*/*/*/*") if path.is_file()}
    assert len(shards) == len(result.grid) == 6
    whole = result.read_all()
    lost = result.path / "0" / "c" / "0" / "0" / "1" / "2"
    lost.unlink()
    np.testing.assert_array_equal(predict(tmp_path, engine).read_all(), whole)
    changed = [path for path, time in shards.items() if path.stat().st_mtime_ns != time]
    assert changed == [lost]


def test_another_image_model_or_option_is_predicted_anew_and_nothing_else_is(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    digests = [
        read_json(tmp_path / "out.json")["samples"]["a b"]["digest"] for _ in range(2) if predict(tmp_path, engine)
    ]
    prepare(tmp_path, seed=1)
    predict(tmp_path, engine)
    digests.append(read_json(tmp_path / "out.json")["samples"]["a b"]["digest"])
    predict(tmp_path, engine, Predict(precision="float32", dtype="uint8"))
    digests.append(read_json(tmp_path / "out.json")["samples"]["a b"]["digest"])
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_another_model_in_the_folder_is_not_taken_for_the_one_that_was_adopted(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    model = tmp_path / "model"
    adopted = weights_digest(model)
    load_network(model, adopted)
    load_network.cache_clear()
    save_checkpoint(model / "best.safetensors", dict(build(NETWORK, 1, 2).state_dict()), {})
    told = (
        f"is not the one that was asked for .weights {weights_digest(model)}, not {adopted}.: .*; run snakemake again"
    )
    with pytest.raises(UserError, match=told):
        predict(tmp_path, engine)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("when", ["before", "meanwhile", "audit"])
def test_what_was_predicted_of_another_image_than_the_stamp_says_is_not_done(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The image is made anew before its first block is read, after that, or after the last one was."""
    prepare(tmp_path)
    stamp = (tmp_path / "data.json").read_bytes()

    def another(*arguments: Any) -> Any:
        prepare(tmp_path, seed=1)
        (tmp_path / "data.json").write_bytes(stamp)
        return real(*arguments) if arguments else None

    real: Any = None
    if when == "before":
        another()
    else:
        name = "_predict_all" if when == "meanwhile" else "_audit_all"
        real = getattr(step, name)
        monkeypatch.setattr(step, name, another)
    with pytest.raises(UserError, match="a b is not what .*data.json says: another run makes it anew"):
        predict(tmp_path, engine)
    assert not read_attributes(tmp_path / "out" / "data.zarr" / "a b").get("done")
    assert not (tmp_path / "out.json").exists()


def test_samples_that_are_gone_are_told_apart_from_those_that_are_segmented(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path)
    for name in ("gone", "gone too"):
        (tmp_path / "out" / "data.zarr" / name).mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        predict(tmp_path, engine)
        predict(tmp_path, engine)
    told = [record.getMessage() for record in caplog.records if "samples" in record.getMessage()]
    assert told == ["predict: 1 samples, 1 segmented, 2 removed", "predict: 1 samples, 0 segmented"]


def test_missing_weights_are_named(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    load_network.cache_clear()
    (tmp_path / "model" / "best.safetensors").unlink()
    with pytest.raises(UserError, match="best.safetensors is missing; put a whole one in its place"):
        predict(tmp_path, engine)


def test_tiles_that_do_not_fit_the_memory_are_halved_and_the_result_is_the_same(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = prepare(tmp_path)
    sides = []

    def small(*arguments: Any, **options: Any) -> TileFunction:
        function = network_function(*arguments, **options)

        def apply(tiles: np.ndarray) -> np.ndarray:
            if tiles.shape[-1] > input_size(60, 2):
                raise TooLarge(f"1 tiles of {tiles.shape[-1]} px")
            sides.append(tiles.shape[-1])
            return function(tiles)

        return apply

    monkeypatch.setattr("unet_core.predict.step.network_function", small)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    assert np.abs(predict(tmp_path, engine).read_all() - expected(tmp_path, image)).max() <= 1e-5
    assert sides and caplog.text.count("do not fit the memory of the GPU: going on with 1 of") <= 3


def test_a_job_with_less_memory_than_the_plan_assumed_takes_smaller_tiles_for_the_same_result(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = prepare(tmp_path)
    sides = []

    def noted(*arguments: Any, **options: Any) -> TileFunction:
        function = network_function(*arguments, **options)

        def apply(tiles: np.ndarray) -> np.ndarray:
            sides.append(tiles.shape[-1])
            return function(tiles)

        return apply

    allowed = tile_memory(input_size(60, 2), NETWORK, 1)
    monkeypatch.setattr("unet_core.predict.step.network_function", noted)
    monkeypatch.setattr("unet_core.predict.memory.available_memory", lambda: allowed / MEMORY_SHARE)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    caplog.set_level("INFO")
    assert np.abs(predict(tmp_path, engine).read_all() - expected(tmp_path, image)).max() <= 1e-5
    assert max(sides) <= input_size(60, 2) and "px in place of" in caplog.text
    # What no tile fits is tried all the same, and said.
    monkeypatch.setattr("unet_core.predict.memory.available_memory", lambda: 1000)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    shutil.rmtree(tmp_path / "out")
    assert np.abs(predict(tmp_path, engine).read_all() - expected(tmp_path, image)).max() <= 1e-5
    assert "this process may take" in caplog.text and "if it is killed, give it more memory" in caplog.text


def test_networks_of_two_kinds_with_the_same_tiles_are_held_by_what_each_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    monkeypatch.setattr("unet_core.predict.memory.available_memory", lambda: 2**20)
    narrow = Group(unet_shape(4), Tiles(572, 1), False, 1)
    assert fitting(narrow) == Tiles(572, 1)
    assert fitting(narrow._replace(voxel_bytes=4)) == Tiles(380, 1)


def test_a_network_that_fits_with_no_tile_says_so(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **_options: Any) -> TileFunction:
        def apply(tiles: np.ndarray) -> np.ndarray:
            raise TooLarge(f"1 tiles of {tiles.shape[-1]} px")

        return apply

    prepare(tmp_path)
    monkeypatch.setattr("unet_core.predict.step.network_function", none)
    monkeypatch.setattr("unet_core.predict.memory._fits", {})
    with pytest.raises(UserError, match="1 tiles of .* px do not fit the memory of the GPU"):
        predict(tmp_path, engine)


@pytest.mark.parametrize(("dtype", "seen"), [("float32", 0.1), ("mask", 0.02)])
def test_the_audit_of_seams_sees_what_differs_across_block_borders(
    dtype: str, seen: float, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = prepare(tmp_path)
    options = (
        Predict(precision="float32", dtype=dtype),
        float(np.median(expected(tmp_path, image))) if dtype == "mask" else None,
    )
    predict(tmp_path, engine, *options)
    audit = read_json(tmp_path / "out.json")["samples"]["a b"]["audit"]
    assert audit["windows"] >= 1 and max(audit["across"], audit["inside"]) <= 1e-5

    def careless(source: Any, box: Box, network: TileFunction, **more: Any) -> np.ndarray:
        result = predict_box(source, box, network, **more)
        if box.shape[1:] == (256, 256):  # a block
            result[..., -1] = 1 - result[..., -1]
        return result

    monkeypatch.setattr("unet_core.predict.step.predict_box", careless)
    shutil.rmtree(tmp_path / "out")
    predict(tmp_path, engine, *options)
    audit = read_json(tmp_path / "out.json")["samples"]["a b"]["audit"]
    assert audit["across"] > seen and audit["inside"] <= 1e-5


def test_measured_tiles_are_kept_and_change_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = prepare(tmp_path, (3, 300, 530))
    monkeypatch.setattr("unet_core.predict.step.MIN_BLOCKS_TO_MEASURE", 0)
    result = predict(tmp_path, engine)
    assert np.abs(result.read_all() - expected(tmp_path, image)).max() <= 1e-5
    kept = read_json(tmp_path / "out.tile.json")
    assert kept["device"] == "cpu" and [kept["largest"], kept["batch"]] in [rate[:2] for rate in kept["rates"]]
    monkeypatch.setattr("unet_core.predict.step.fastest_tiles", None)
    result.shards_of(1)[0].unlink()
    predict(tmp_path, engine)


def test_several_samples_are_one_stream_of_blocks(tmp_path: Path, engine: Engine) -> None:
    image = prepare(tmp_path)
    groundtruth, plan = read_json(tmp_path / "data.json"), read_json(tmp_path / "plan.json")
    for name in ("b", "c"):
        put(tmp_path, image, name)
        groundtruth["samples"][name] = groundtruth["samples"]["a b"]
        plan["samples"][f"data/{name}"] = NORM
    write_stamp(tmp_path / "data.json", groundtruth)
    write_stamp(tmp_path / "plan.json", plan)
    predict(tmp_path, engine)
    for name in ("a b", "b", "c"):
        assert read_attributes(tmp_path / "out" / "data.zarr" / name)["done"]
        assert (
            np.abs(Result(tmp_path / "out" / "data.zarr" / name).read_all() - expected(tmp_path, image)).max() <= 1e-5
        )


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 200))
def test_blocks_hold_whole_chunks_of_the_image(chunks: tuple[int, int, int], planes: int) -> None:
    planned = (chunks[0], 256 * chunks[1], 256 * chunks[2])
    z, y, x = block_of(planned, planes)
    assert y % 256 == 0 and x % 256 == 0 and y <= planned[1] and x <= planned[2]
    assert z % planes == 0 or planes > 128
    assert z * y * x <= 2**26 or (y, x) == (256, 256) or planned == (z, y, x)


def test_no_more_tiles_than_lanes_are_in_work_and_errors_come_back() -> None:
    names: set[str] = set()

    def function(tiles: np.ndarray) -> np.ndarray:
        names.add(threading.current_thread().name)
        if not len(tiles):
            raise TooLarge("0 tiles")
        return tiles + 1

    with ThreadPoolExecutor(8) as workers:
        found = list(workers.map(lambda n: in_lane(function, np.array([n])), range(40)))
    assert [int(value[0]) for value in found] == list(range(1, 41))
    assert 1 <= len(names) <= LANES and threading.current_thread().name not in names
    with pytest.raises(TooLarge):
        in_lane(function, np.empty(0))


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from tests.predict.test_step import predict
from unet_core.engine import local_engine

folder, kills = Path(sys.argv[1]), 0
random.seed(0)
while True:
    child = os.fork()
    if child == 0:
        with local_engine(2) as engine:
            predict(folder, engine)
        os._exit(0)
    limit = time.monotonic() + (random.uniform(0.05, 0.5) if kills < 30 else 60)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < limit:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    elif ended[1]:
        sys.exit(f"run {kills} failed")
    elif kills >= 30:
        break
    else:
        import shutil
        shutil.rmtree(folder / "out")
        kills += 1
"""


def contents(folder: Path) -> dict[Path, bytes]:
    """All files, but for what a killed process did not get to rename, and without the names of generations."""
    return {
        path.relative_to(folder): re.sub(rb'"generation": "\w+"', b"", path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not any(part.endswith(".partial") for part in path.parts)
    }


def test_run_that_ended_before_its_seam_audit_makes_it_up(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, (1, 300, 530))
    with monkeypatch.context() as patched:
        patched.setattr("unet_core.predict.step._audit", lambda *_arguments, **_named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(tmp_path, engine)
    assert "audit" in read_attributes(predict(tmp_path, engine).path)["details"]


def test_thirty_kills_end_in_the_store_of_an_uninterrupted_run(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path, (3, 600, 700))
    predict(tmp_path, engine)
    files = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], cwd=Path(__file__).parents[2], check=True, capture_output=True
    )
    assert contents(tmp_path / "out") == files
