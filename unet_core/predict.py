"""Step predict: images and a model to class probabilities, block by block, by the overlap-tile strategy."""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.config import Dataset, Predict
from unet_core.digest import code_digest, digest
from unet_core.engine import Engine
from unet_core.model import load_network, network_function
from unet_core.runtime import read_json, write_stamp
from unet_core.store import Result, Spec, begin, details_if_done, finish, remove_others
from unet_core.tiles import averaged, predict_box

logger = logging.getLogger(__name__)

# One tile at a time goes through the network, which uses all threads; other blocks are read and written meanwhile.
_NETWORK = threading.Lock()


def to_stored(probability: np.ndarray, dtype: str) -> np.ndarray:
    """Probabilities as they are stored: uint8 maps 0..1 to 0..255."""
    return np.rint(probability * 255).astype(np.uint8) if dtype == "uint8" else probability.astype(dtype)


def from_stored(stored: np.ndarray) -> np.ndarray:
    """Probabilities in 0..1 (float32) from what is stored."""
    return stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)


def predict_samples(
    cfg: Predict,
    dataset: Dataset,
    *,
    model: Path,
    plan: Path,
    groundtruth: Path,
    images: Path,
    store: Path,
    stamp: Path,
    engine: Engine,
) -> None:
    """Segment the samples of a data set; what stands there for the same image and model stays.

    Parameters
    ----------
    cfg : Predict
        Options of this model.
    dataset : Dataset
        For its pixel size.
    model : Path
        Stamp of the model.
    plan : Path
        The model's plan.
    groundtruth, images : Path
        Stamp and store of the data set's groundtruth.
    store : Path
        ``<results>/predict/<model>/<data set>.zarr``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    trained, decided = read_json(model), read_json(plan)
    name_of_set = images.stem
    samples = {name: entry for name, entry in read_json(groundtruth)["samples"].items() if entry["split"] in cfg.splits}
    redone = len(remove_others(store, set(samples)))
    entries = {}
    for name, entry in samples.items():
        norm = decided["samples"][f"{name_of_set}/{name}"]
        wanted = wanted_digest(entry["image"], trained["weights"], norm, cfg)
        if details_if_done(store / name, wanted) is None:
            _predict_sample(name, wanted, cfg, dataset, trained, decided, norm, images, store, engine)
            redone += 1
        entries[name] = {"split": entry["split"], "digest": wanted}
    logger.info("predict: %d samples, %d segmented", len(samples), redone)
    write_stamp(stamp, {"step": "predict", "store": store.name, "classes": decided["classes"], "samples": entries})


def wanted_digest(image: str, weights: str, norm: dict[str, list[float]], cfg: Predict) -> str:
    """Digest of the probabilities of a sample from those of its image and of the model's weights."""
    # The tile is no part of the digest: the result does not depend on it.
    return digest(image, weights, norm, cfg.precision, cfg.average, cfg.dtype, code_digest("predict"))


def _predict_sample(
    name: str,
    wanted: str,
    cfg: Predict,
    dataset: Dataset,
    trained: dict[str, Any],
    decided: dict[str, Any],
    norm: dict[str, list[float]],
    images: Path,
    store: Path,
    engine: Engine,
) -> None:
    image = Result(images / name)
    size = dataset.pixel_size
    spec = Spec(
        image.shape, cfg.dtype, "image", len(decided["classes"]) + 1, (size.z, size.y, size.x), tuple(decided["predict_block"]["value"])
    )
    provenance = {
        "step": "predict",
        "config": cfg.model_dump(mode="json"),
        "model": trained["model"],
        "weights": trained["weights"],
        "normalisation": norm,
    }
    result = begin(store / name, wanted, spec, provenance)
    missing = list(result.missing_blocks())
    block = functools.partial(
        _predict_block,
        name=name,
        wanted=wanted,
        cfg=cfg,
        folder=Path(trained["model"]),
        weights=trained["weights"],
        tile=decided["predict_tile"]["value"],
        norm=norm,
        images=images,
        store=store,
    )
    for _ in engine.run(block, missing, len(missing), f"predict {name}"):
        pass
    finish(store / name, wanted, {"blocks": len(result.grid)})


def _predict_block(
    index: int,
    name: str,
    wanted: str,
    cfg: Predict,
    folder: Path,
    weights: str,
    tile: int,
    norm: dict[str, list[float]],
    images: Path,
    store: Path,
) -> None:
    image, result = Result(images / name), Result(store / name)
    with _NETWORK:
        net = load_network(folder, weights)
    function = network_function(net, norm["offset"], norm["scale"], cfg.precision)

    def one_at_a_time(tile_CYX: np.ndarray) -> np.ndarray:
        with _NETWORK:
            return function(tile_CYX)

    network = averaged(one_at_a_time, cfg.average)
    probability = predict_box(image, result.grid.box(index), network, depth=net.depth, largest=tile, wider=net.wider)
    result.write(index, to_stored(probability, cfg.dtype), wanted)
