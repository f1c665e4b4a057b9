"""From store to store: the stitched probabilities are those of one piece, whatever is interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_tiles import in_one_piece
from unet_core.config import Network, Predict
from unet_core.data_config import Dataset
from unet_core.engine import Engine
from unet_core.model import build, load_network, save_checkpoint, weights_digest
from unet_core.predict import from_stored, predict_samples, to_stored
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store import Result, Spec, begin, finish
from unet_core.unet import input_size

NETWORK = Network(depth=2, width=2, dropout=0.0)
NORM = {"offset": [50.0], "scale": [0.01]}


def prepare(folder: Path, shape: tuple[int, int, int] = (1, 300, 530), seed: int = 0) -> np.ndarray:
    """An image in a store, a random model and a plan with small tiles and blocks."""
    image = np.random.default_rng(seed).integers(0, 255, (1, *shape)).astype(np.uint8)
    result = begin(folder / "data.zarr" / "a b", f"i{seed}", Spec(shape, "uint8", "image", 1), {})
    for index in result.missing_blocks():
        result.write(index, image[(slice(None), *result.grid.box(index).slices)], f"i{seed}")
    finish(folder / "data.zarr" / "a b", f"i{seed}", {})
    write_stamp(folder / "data.json", {"samples": {"a b": {"split": "test", "image": f"i{seed}", "labels": None}}})
    model = folder / "model"
    if not model.is_dir():
        torch.manual_seed(0)
        net = build(NETWORK, 1, 2)
        save_checkpoint(model / "best.safetensors", dict(net.state_dict()), {})
        write_stamp(model / "model.json", {"network": NETWORK.model_dump(), "channels": 1, "classes": ["cell"]})
    write_stamp(folder / "model.json", {"model": str(model), "weights": weights_digest(model)})
    tile = {"value": input_size(100, 2)}
    plan = {"classes": ["cell"], "predict_tile": tile, "predict_block": {"value": [1, 256, 256]}, "samples": {"data/a b": NORM}}
    write_stamp(folder / "plan.json", plan | {"network": NETWORK.model_dump()})
    return image


def predict(folder: Path, engine: Engine, cfg: Predict | None = None) -> Result:
    predict_samples(
        cfg or Predict(dtype="float32"),
        Dataset(images="x"),
        model=folder / "model.json",
        plan=folder / "plan.json",
        groundtruth=folder / "data.json",
        images=folder / "data.zarr",
        store=folder / "out" / "data.zarr",
        stamp=folder / "out.json",
        engine=engine,
    )
    return Result(folder / "out" / "data.zarr" / "a b")


def expected(folder: Path, image: np.ndarray) -> np.ndarray:
    net = load_network(folder / "model", weights_digest(folder / "model"))
    return in_one_piece(net, ((image.astype(np.float32) - 50) * np.float32(0.01)).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 300, 530), (3, 257, 20), (1, 1, 1)])
def test_stored_probabilities_equal_the_network_in_one_piece(tmp_path: Path, engine: Engine, shape: tuple[int, int, int]) -> None:
    image = prepare(tmp_path, shape)
    assert np.abs(predict(tmp_path, engine).read_all() - expected(tmp_path, image)).max() <= 1e-5


@pytest.mark.parametrize(("dtype", "error"), [("uint8", 0.5 / 255 + 1e-5), ("float16", 5e-4)])
def test_compact_types_are_as_exact_as_they_can_be(tmp_path: Path, engine: Engine, dtype: str, error: float) -> None:
    image = prepare(tmp_path)
    stored = predict(tmp_path, engine, Predict.model_validate({"dtype": dtype})).read_all()
    assert np.abs(from_stored(stored) - expected(tmp_path, image)).max() <= error
    np.testing.assert_array_equal(to_stored(from_stored(stored), dtype), stored)


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
    digests = [read_json(tmp_path / "out.json")["samples"]["a b"]["digest"] for _ in range(2) if predict(tmp_path, engine)]
    prepare(tmp_path, seed=1)
    predict(tmp_path, engine)
    digests.append(read_json(tmp_path / "out.json")["samples"]["a b"]["digest"])
    predict(tmp_path, engine, Predict(dtype="uint8"))
    digests.append(read_json(tmp_path / "out.json")["samples"]["a b"]["digest"])
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_missing_weights_are_named(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    load_network.cache_clear()
    (tmp_path / "model" / "best.safetensors").unlink()
    with pytest.raises(UserError, match="best.safetensors is missing; 'snakemake --forcerun train'"):
        predict(tmp_path, engine)
