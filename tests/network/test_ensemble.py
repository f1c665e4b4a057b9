"""A model of several networks gives the mean of what each gives alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import test_volumes
from tests.predict.test_step import NETWORK, NORM, prepare
from unet_core.config.options import Network, Predict
from unet_core.engine import Engine
from unet_core.network.ensemble import members_of, write_ensemble
from unet_core.network.model import build, load_checkpoint, save_checkpoint, weights_digest
from unet_core.network.share import share_model
from unet_core.predict.step import predict_samples
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Result

FLOAT = Predict(dtype="float32", precision="float32")


def member(
    folder: Path,
    name: str,
    seed: int,
    network: Network | None = None,
    norm: Any = NORM,
    rule: str = "percentile",
    **plan: Any,
) -> None:
    """A network with random weights, its stamp and its plan."""
    decided = read_json(folder / "plan.json")
    network = network or Network.model_validate(decided["network"])
    torch.manual_seed(seed)
    model = folder / "train" / name
    save_checkpoint(model / "best.safetensors", dict(build(network, 1, 2).state_dict()), {})
    about = {"channels": 1, "classes": ["cell"], "normalisation": {"normalisation": "percentile"}}
    write_stamp(model / "model.json", {"network": network.model_dump(), **about})
    write_stamp(folder / "train" / f"{name}.json", {"model": str(model), "weights": weights_digest(model)})
    decided |= {
        "network": network.model_dump(),
        "samples": {"data/a b": norm},
        "normalisation": {"normalisation": rule},
    } | plan
    write_stamp(folder / "plan" / f"{name}.json", decided)


def predict(folder: Path, engine: Engine, *names: str, model: str | None = None, cfg: Predict = FLOAT) -> np.ndarray:
    """Probabilities by one network, or by the mean of several."""
    out = folder / "predict" / (model or "+".join(names))
    stamp = folder / "train" / f"{model or '+'.join(names)}.json"
    if len(names) > 1 or model:
        write_ensemble([folder / "train" / f"{name}.json" for name in names], stamp)
    predict_samples(
        cfg,
        model=stamp,
        plans=[folder / "plan" / f"{name}.json" for name in names],
        groundtruth=folder / "data.json",
        images=folder / "data.zarr",
        store=out.with_suffix(".zarr"),
        stamp=out.with_suffix(".json"),
        engine=engine,
    )
    return Result(out.with_suffix(".zarr") / "a b").read_all()


def digest_of(folder: Path, model: str) -> str:
    return str(read_json(folder / "predict" / f"{model}.json")["samples"]["a b"]["digest"])


@pytest.mark.parametrize("average", ["none", "flips"])
def test_folds_give_the_mean_of_their_probabilities(tmp_path: Path, engine: Engine, average: str) -> None:
    prepare(tmp_path, (2, 150, 270))
    cfg = Predict.model_validate({"dtype": "float32", "average": average})
    for seed, name in enumerate("abc"):
        member(tmp_path, name, seed)
    alone = [predict(tmp_path, engine, name, cfg=cfg) for name in "abc"]
    together = predict(tmp_path, engine, "a", "b", "c", cfg=cfg)
    assert np.abs(together - np.mean(alone, axis=0)).max() <= 1e-6 < np.abs(alone[0] - alone[1]).max()
    # Rounded once, after the mean.
    stored = predict(tmp_path, engine, "a", "b", "c", model="small", cfg=cfg.model_copy(update={"dtype": "uint8"}))
    assert np.abs(stored / 255 - together).max() <= 0.5 / 255 + 1e-6


def test_an_ensemble_of_one_is_that_model_bit_for_bit(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path, (1, 150, 270))
    member(tmp_path, "a", 0)
    alone = predict(tmp_path, engine, "a")
    np.testing.assert_array_equal(predict(tmp_path, engine, "a", model="one"), alone)
    assert digest_of(tmp_path, "one") == digest_of(tmp_path, "a")


def test_models_of_other_networks_and_normalisations_are_averaged_too(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path, (1, 300, 530))
    deeper = NETWORK.model_copy(update={"depth": 3})
    member(tmp_path, "a", 0)
    member(tmp_path, "b", 1)
    member(tmp_path, "deep", 2, deeper, predict_tile={"value": 156})
    member(tmp_path, "bright", 3, norm={"offset": [20.0], "scale": [0.02]}, rule="mean_std")
    least = {"least_extent": {"value": [100.0], "why": "the smallest"}}
    member(tmp_path, "faint", 4, norm={"offset": [20.0], "scale": [0.01]}, **least)
    names = ("a", "deep", "b", "bright", "faint")
    alone = [predict(tmp_path, engine, name) for name in names]
    assert np.abs(predict(tmp_path, engine, *names) - np.mean(alone, axis=0)).max() <= 1e-6
    audit = read_json(tmp_path / "predict" / "a+deep+b+bright+faint.json")["samples"]["a b"]["audit"]
    assert max(audit["across"], audit["inside"]) <= 1e-5


def test_networks_for_volumes_and_for_planes_are_averaged(tmp_path: Path, engine: Engine) -> None:
    test_volumes.prepare(tmp_path, (9, 40, 270))
    member(tmp_path, "a", 0)
    member(tmp_path, "b", 1)
    member(tmp_path, "flat", 2, NETWORK, predict_tile={"value": 100}, predict_block={"value": [7, 256, 256]})
    for names in (("a", "b"), ("flat", "a", "b")):
        alone = [predict(tmp_path, engine, name) for name in names]
        assert np.abs(predict(tmp_path, engine, *names) - np.mean(alone, axis=0)).max() <= 1e-6


def test_a_sample_depends_on_the_networks_that_predict_it_alone(tmp_path: Path, engine: Engine) -> None:
    """Held out by the second of three folds: the others may change."""
    prepare(tmp_path, (1, 60, 70))
    truth = read_json(tmp_path / "data.json")
    truth["samples"]["a b"]["split"] = "train"
    write_stamp(tmp_path / "data.json", truth)
    for number in (1, 2, 3):
        member(tmp_path, f"m.fold{number}", number, fold=number, folds={"data/a b": 2})
    names = [f"m.fold{number}" for number in (1, 2, 3)]
    found = predict(tmp_path, engine, *names, model="m")
    assert read_json(tmp_path / "predict/m.json")["samples"]["a b"]["split"] == "cross-validation"
    plain = {
        key: value for key, value in read_json(tmp_path / "plan/m.fold2.json").items() if key not in ("fold", "folds")
    }
    shutil.copytree(tmp_path / "train/m.fold2", tmp_path / "train/alone")
    shutil.copy(tmp_path / "train/m.fold2.json", tmp_path / "train/alone.json")
    write_stamp(tmp_path / "plan/alone.json", plain)
    np.testing.assert_array_equal(found, predict(tmp_path, engine, "alone"))
    before = digest_of(tmp_path, "m")
    member(tmp_path, "m.fold1", 7, fold=1, folds={"data/a b": 2})
    predict(tmp_path, engine, *names, model="m")
    assert digest_of(tmp_path, "m") == before
    member(tmp_path, "m.fold2", 7, fold=2, folds={"data/a b": 2})
    predict(tmp_path, engine, *names, model="m")
    assert digest_of(tmp_path, "m") != before


def test_measured_tiles_of_several_networks_change_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, (1, 300, 300))
    member(tmp_path, "a", 0)
    member(tmp_path, "deep", 2, NETWORK.model_copy(update={"depth": 3}), predict_tile={"value": 156})
    expected = predict(tmp_path, engine, "a", "deep")
    monkeypatch.setattr("unet_core.predict.step.MIN_BLOCKS_TO_MEASURE", 0)
    again = predict(tmp_path, engine, "a", "deep", model="measured")
    assert np.abs(again - expected).max() <= 1e-6
    assert (
        read_json(tmp_path / "predict/measured.tile.json")["key"]
        != read_json(tmp_path / "predict/measured.tile1.json")["key"]
    )


def test_models_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 9, 9))
    member(tmp_path, "a", 0)
    member(tmp_path, "b", 1)
    description = tmp_path / "train/b/model.json"
    write_stamp(description, read_json(description) | {"classes": ["nucleus"]})
    with pytest.raises(
        UserError, match=r"ensemble both must have the same classes, but a has \['cell'\]; b has \['nucleus'\]"
    ):
        write_ensemble([tmp_path / "train/a.json", tmp_path / "train/b.json"], tmp_path / "train/both.json")
    assert not (tmp_path / "train/both.json").exists()


def test_a_stamp_names_its_networks_and_changes_with_each(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 9, 9))
    weights = set()
    for seed in (1, 2):
        member(tmp_path, "a", 0)
        member(tmp_path, "b", seed)
        write_ensemble([tmp_path / f"train/{name}.json" for name in "ab"], tmp_path / "train/both.json")
        weights.add(read_json(tmp_path / "train/both.json")["weights"])
    assert len(weights) == 2 and list(members_of(tmp_path / "train/both.json")) == ["a", "b"]
    assert list(members_of(tmp_path / "train/a.json")) == ["a"]
    assert load_checkpoint(Path(members_of(tmp_path / "train/both.json")["b"]["model"]) / "best.safetensors")


def test_sharing_a_model_with_folds_names_the_networks_to_share(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 9, 9))
    member(tmp_path, "m.fold1", 0)
    with pytest.raises(
        UserError, match=r"m is the mean of several networks, .* share each by itself: .*train/m.fold1$"
    ):
        share_model(tmp_path / "train/m", tmp_path / "m.zip", name="m", authors=["a"], licence="CC-BY-4.0")
    # One that was trained since without folds can be shared.
    member(tmp_path, "m", 0)
    with pytest.raises(UserError, match=r"names no sample that it was trained on|unet-core\[share\]"):
        share_model(tmp_path / "train/m", tmp_path / "m.zip", name="m", authors=["a"], licence="CC-BY-4.0")
