"""Step plan: what the data and the machine decide, written as one readable file per model, each decision with its reason."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import psutil

from unet_core import unet
from unet_core.config import Network, Plan, Predict, Train
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store import CHUNK, read_attributes
from unet_core.tiles import tiling

logger = logging.getLogger(__name__)

# Each training pixel is to be seen this often, with bounds, where steps is auto.
PASSES, FEWEST_STEPS, MOST_STEPS = 200, 1_000, 200_000
PAPER_TILE = 572
# A block of probabilities: few enough voxels to be held a few times over, enough that files are few.
BLOCK_VOXELS, MOST_PLANES = 2**25, 64
# A larger output of one tile in prediction saves little.
LARGEST_OUTPUT = 2048


def class_weights(pixels: list[int], rule: str | list[float]) -> list[float]:
    """w_c of each class from its number of training pixels.

    Parameters
    ----------
    pixels : list of int
        Training pixels of each class, background first; ignored ones are not counted.
    rule : {"balanced", "none"} or list of float
        balanced: total / (number of classes * pixels of the class), so that every class weighs the same in sum and the
        mean weight of a pixel is 1; classes that do not occur get 0.

    Returns
    -------
    list of float

    Examples
    --------
    >>> class_weights([300, 100], "balanced")
    [0.6666666666666666, 2.0]
    """
    if isinstance(rule, list | tuple):
        return [float(weight) for weight in rule]
    if rule == "none":
        return [1.0] * len(pixels)
    present = sum(count > 0 for count in pixels)
    return [sum(pixels) / (present * count) if count else 0.0 for count in pixels]


def normalisation(intensities: list[dict[str, Any]], cfg: Plan) -> dict[str, list[float]]:
    """Offset and scale of each channel of a sample: normalised = (gray value - offset) * scale.

    Parameters
    ----------
    intensities : list of dict
        Statistics of each channel, as the step groundtruth keeps them.
    cfg : Plan
        Rule and percentiles.

    Returns
    -------
    dict
        Lists `offset` and `scale`; a constant channel becomes 0.
    """
    offsets, scales = [], []
    for channel in intensities:
        if cfg.normalisation == "mean_std":
            low, extent = channel["mean"], channel["deviation"]
        else:
            low, high = (_percentile(channel["percentiles"], level) for level in cfg.percentiles)
            extent = high - low
            if extent == 0:
                # Sparse bright objects on a constant background: fall back on the whole range.
                extent = channel["percentiles"]["100"] - low
        offsets.append(low)
        scales.append(1 / extent if extent > 0 else 0.0)
    return {"offset": offsets, "scale": scales}


def training_tile(cfg: Train, longest_side: int) -> tuple[int, str]:
    """Side of the training tile and the reason for it."""
    shape = unet.shape_of(cfg.network)
    if cfg.tile != "auto":
        try:
            unet.output_size(cfg.tile, *shape)
        except ValueError as error:
            raise UserError(f"train.tile: {error}") from None
        return cfg.tile, "set in the configuration"
    whole = unet.input_size(longest_side, *shape)
    paper = unet.input_size(max(1, PAPER_TILE - 2 * unet.halo(*shape)), *shape)
    return min(whole, paper), "the smaller of the paper's tile and what covers the largest training image"


def training_steps(cfg: Train, pixels: int, output: int) -> tuple[int, str]:
    """Number of training steps, for a number of annotated training pixels and a side of the network's output, and the reason for it."""
    if cfg.steps != "auto":
        return cfg.steps, "set in the configuration"
    steps = math.ceil(PASSES * pixels / (output**2 * cfg.batch * cfg.accumulate))
    bounds = f"within {FEWEST_STEPS:,} and {MOST_STEPS:,} steps"
    reason = f"each of {pixels:,} annotated training pixels is seen about {PASSES} times, {bounds}"
    return min(max(steps, FEWEST_STEPS), MOST_STEPS), reason


def tile_memory(tile: int, network: Network, channels: int) -> int:
    """Bytes of the largest set of arrays alive while the network is applied to one tile, in float32.

    At the first level these are the input, the copy that waits for the expanding path, and the input and output of a
    convolution; deeper levels are smaller. A factor of two covers the work space of the convolutions.
    """
    pixels = tile * tile
    return 2 * 4 * pixels * (channels + 4 * network.width)


def allowed_memory(cfg: Plan) -> int:
    """Bytes that prediction may take."""
    return psutil.virtual_memory().total // 2 if cfg.memory_gb == "auto" else int(cfg.memory_gb * 2**30)


def prediction_tile(cfg: Predict, network: Network, channels: int, memory: int, longest_side: int) -> tuple[int, str]:
    """Side of the largest tile in prediction and the reason for it."""
    shape, group = unet.shape_of(network), 2**network.depth
    if cfg.tile != "auto":
        try:
            tiling(longest_side, cfg.tile, *shape)
        except ValueError as error:
            raise UserError(f"predict.tile: {error}") from None
        return cfg.tile, "set in the configuration"
    # Tiles are useful by whole groups of pooled pixels.
    smallest = unet.input_size(group, *shape)
    wanted = max(smallest, unet.input_size(min(longest_side, LARGEST_OUTPUT), *shape))
    tile = wanted
    while tile > smallest and tile_memory(tile, network, channels) > memory:
        tile -= group
    if tile_memory(tile, network, channels) > memory:
        needed = tile_memory(tile, network, channels) / 2**30
        raise UserError(
            f"plan.memory_gb: the smallest tile of this network ({tile} px) needs {needed:.3g} GiB, "
            f"but {memory / 2**30:.3g} GiB are allowed; allow more, or make train.network shallower or narrower"
        )
    reason = f"covers the largest image or {LARGEST_OUTPUT} px" if tile == wanted else f"the largest within {memory / 2**30:.3g} GiB"
    return tile, reason


def make_plan(
    cfg: Plan,
    train: Train,
    predict: Predict,
    *,
    groundtruth: dict[str, Path],
    weights: dict[str, Path],
    bought: Path | None,
    results: Path,
    stamp: Path,
) -> None:
    """Decide for one model and write the plan.

    Parameters
    ----------
    cfg, train, predict
        Sections of the configuration, for this model.
    groundtruth : dict
        Data set -> stamp of its groundtruth, for all that the model is trained on or applied to.
    weights : dict
        Data set -> stamp of its weights, for those that it is trained on.
    bought : Path or None
        Folder of a model that is not trained here.
    results : Path
        Folder of all results.
    stamp : Path
        The plan: the step's output file.
    """
    truths = {dataset: read_json(path) for dataset, path in groundtruth.items()}
    maps = {dataset: read_json(path) for dataset, path in weights.items()}
    network, channels, classes = train.network, _channels(truths), truths[next(iter(truths))]["classes"]
    if bought is not None:
        model = read_json(bought / "model.json")
        network, classes = Network.model_validate(model["network"]), model["classes"]
        cfg = cfg.model_copy(update=model["normalisation"])
        for dataset, truth in truths.items():
            if truth["classes"] != classes and any(entry["labels"] for entry in truth["samples"].values()):
                raise UserError(
                    f"the model in {bought} knows the classes {', '.join(classes)}, but data set {dataset} is annotated with "
                    f"{', '.join(truth['classes'])}; set `classes` of the data set"
                )
        if model["channels"] != channels:
            raise UserError(
                f"the model in {bought} takes {model['channels']} channels, but the data has {channels}; see `channels` of the data sets"
            )
    memory = allowed_memory(cfg)
    sides = [max(entry["shape"][2:]) for truth in truths.values() for entry in truth["samples"].values()]
    tile, why = prediction_tile(predict, network, channels, memory, max(sides))
    plan: dict[str, Any] = {
        "step": "plan",
        "classes": classes,
        "channels": channels,
        "network": network.model_dump(),
        "normalisation": {"normalisation": cfg.normalisation, "percentiles": list(cfg.percentiles)},
        "predict_tile": {"value": tile, "why": why},
        "predict_block": {
            "value": prediction_block(tile, network),
            "why": "chunks next above the output of one tile, and planes; one shard each",
        },
        "predict_memory_gb": {
            "value": float(f"{tile_memory(tile, network, channels) / 2**30:.3g}"),
            "why": f"of {memory / 2**30:.3g} allowed",
        },
    }
    if bought is None:
        plan |= _training(cfg, train, truths, maps)
    plan["samples"] = {
        f"{dataset}/{name}": normalisation(_details(results, dataset, name)["intensities"], cfg)
        for dataset, truth in truths.items()
        for name in truth["samples"]
    }
    training = "" if bought else f", training tile {plan['train_tile']['value']} px, {plan['steps']['value']} steps"
    logger.info("plan: prediction tile %d px%s", tile, training)
    write_stamp(stamp, plan)


def _training(cfg: Plan, train: Train, truths: dict[str, Any], maps: dict[str, Any]) -> dict[str, Any]:
    """Decisions that only training needs."""
    entries = [
        (truths[dataset]["samples"][name], entry["class_pixels"])
        for dataset, stamp in maps.items()
        for name, entry in stamp["samples"].items()
        if entry["split"] == "train"
    ]
    if not entries:
        raise UserError(
            f"no training sample in {', '.join(maps)}: all annotated samples are for test or validation; "
            "annotate more, or lower the shares of these in split"
        )
    pixels = [sum(counts) for counts in zip(*(counts for _, counts in entries), strict=True)]
    tile, why = training_tile(train, max(max(truth["shape"][2:]) for truth, _ in entries))
    output = unet.output_size(tile, *unet.shape_of(train.network))
    steps, reason = training_steps(train, sum(pixels), output)
    return {
        "class_pixels": {"value": pixels, "why": f"over {len(entries)} training samples; background first"},
        "class_weights": {"value": class_weights(pixels, cfg.class_weights), "why": f"w_c, rule: {cfg.class_weights}"},
        "train_tile": {"value": tile, "why": f"{why}; the network's output is {output} px wide"},
        "steps": {"value": steps, "why": reason},
    }


def _channels(truths: dict[str, Any]) -> int:
    found = {entry["shape"][0]: f"{dataset}/{name}" for dataset, truth in truths.items() for name, entry in truth["samples"].items()}
    if len(found) != 1:
        listed = ", ".join(f"{channels} in {sample}" for channels, sample in found.items())
        raise UserError(f"all images of a model must have the same number of channels; there are {listed}; see `channels` of the data sets")
    return next(iter(found))


def _details(results: Path, dataset: str, sample: str) -> dict[str, Any]:
    attributes = read_attributes(results / "groundtruth" / f"{dataset}.zarr" / sample)
    if not attributes.get("done"):
        raise UserError(f"{results}/groundtruth/{dataset}.zarr/{sample} is missing; 'snakemake --forcerun groundtruth' makes it again")
    return attributes["details"]


def prediction_block(tile: int, network: Network) -> list[int]:
    """Shard of the probabilities: whole chunks around the output of one tile, and as many planes as make a fair amount of work."""
    output = unet.output_size(tile, *unet.shape_of(network))
    side = CHUNK * math.ceil(output / CHUNK)
    return [max(1, min(MOST_PLANES, BLOCK_VOXELS // side**2)), side, side]


def _percentile(percentiles: dict[str, float], level: float) -> float:
    """Percentile at any level, linear between those that were kept."""
    levels = sorted((float(key), value) for key, value in percentiles.items())
    for (a, low), (b, high) in zip(levels, levels[1:], strict=False):
        if a <= level <= b:
            return low + (high - low) * (level - a) / (b - a)
    raise ValueError(f"percentile {level} is not between 0 and 100")
