"""Step plan: what the data and the machine decide, each decision with its reason.

There is one readable file per model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_core.blocks import ZYX
from unet_core.config.folds import DIVIDED_SPLITS, folds_of_samples, split_in_training
from unet_core.config.options import Network, Plan, Predict, Train
from unet_core.network import unet
from unet_core.plan.normalisation import faint, least_extents, normalisation
from unet_core.plan.pixel_sizes import Sizes, differences, size_of
from unet_core.plan.tiles import (
    allowed_memory,
    anisotropy,
    extent_of,
    outputs_of,
    prediction_block,
    prediction_tile,
    tile_memory,
    training_tile,
)
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.result import repair
from unet_core.store.store import open_labels, read_attributes

logger = logging.getLogger(__name__)

# Each training pixel is to be seen this often, with bounds, where steps is auto.
PASSES_PER_PIXEL, MIN_STEPS, MAX_STEPS = 200, 1_000, 200_000


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


def decided_network(network: Network, ratios: list[float], planes: int) -> tuple[Network, str]:
    """The network with the number of its flat levels, and the reason for it.

    A level is flat while the distance of planes is more than sqrt(2) pixels there: as long as pooling y and x alone
    brings voxels nearer to cubes. More levels are flat where the halo on both sides would be more than a volume has
    planes.

    Parameters
    ----------
    network : Network
        As configured.
    ratios : list of float
        Distance of planes over that of pixels, of each data set that is trained on; their geometric mean counts.
    planes : int
        Of the thickest training volume.

    Examples
    --------
    >>> decided_network(Network(dimensions=3, depth=3), [4.0], 100)[0].flat_levels
    2
    """
    if network.dimensions == 2:
        return network, "without meaning in 2D"
    if network.flat_levels != "auto":
        return network, "set in the configuration"
    ratio = math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))
    flat = min(network.depth, max(0, math.ceil(math.log2(ratio) - 0.5)))
    reason = f"levels are flat while planes lie farther apart than sqrt(2) pixels of the level; here {ratio:.3g} pixels"
    decided = network.model_copy(update={"flat_levels": flat})
    while flat < network.depth and 2 * unet.shape_of(decided).halo[0] > planes:
        flat += 1
        decided = network.model_copy(update={"flat_levels": flat})
        reason = f"so many that the network sees no more planes beyond the {planes} of the thickest volume than these"
    return decided, reason


def training_steps(cfg: Train, pixels: int, outputs: ZYX) -> tuple[int, str]:
    """Number of training steps, and the reason for it.

    It follows from the number of annotated training pixels and the extent of the network's output.
    """
    if cfg.steps != "auto":
        return cfg.steps, "set in the configuration"
    steps = math.ceil(PASSES_PER_PIXEL * pixels / (math.prod(outputs) * cfg.batch * cfg.accumulate))
    bounds = f"within {MIN_STEPS:,} and {MAX_STEPS:,} steps"
    reason = f"each of {pixels:,} annotated training pixels is seen about {PASSES_PER_PIXEL} times, {bounds}"
    return min(max(steps, MIN_STEPS), MAX_STEPS), reason


def make_plan(
    cfg: Plan,
    train: Train,
    predict: Predict,
    *,
    groundtruth: dict[str, Path],
    weights: dict[str, Path],
    bought: Path | None,
    fold: tuple[int, int | Sequence[Sequence[str]]] | None = None,
    results: Path,
    stamp: Path,
    rehearsal: bool = False,
) -> None:
    """Decide for one network and write the plan.

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
    fold : (int, folds), optional
        Number of the fold on which the network is validated, and what the folds are (`folds.divide`).
    results : Path
        Folder of all results.
    stamp : Path
        The plan: the step's output file.
    rehearsal : bool
        The samples are a few that stand for all, which may lack classes that others have.

    Raises
    ------
    UserError
        If there is nothing to learn from, or data and model do not fit each other.
    """
    truths = {dataset: read_json(path) for dataset, path in groundtruth.items()}
    maps = {dataset: read_json(path) for dataset, path in weights.items()}
    parts = {"fold": fold[0], "folds": folds_of_samples(maps, fold[1])} if fold else {}
    for dataset, name, entry in [
        (d, name, entry) for d, found in maps.items() for name, entry in found["samples"].items()
    ]:
        entry["split"] = split_in_training(parts, f"{dataset}/{name}", entry["split"])
    network, channels, classes = train.network, _channels(truths), truths[next(iter(truths))]["classes"]
    if bought is not None:
        model = read_json(bought / "model.json")
        network, classes = Network.model_validate(model["network"]), model["classes"]
        cfg = cfg.model_copy(update=model["normalisation"])
        _check_bought(bought, model, truths, channels)
    why_flat = "as the model was trained"
    if bought is None:
        network, why_flat = decided_network(
            network, *(_planes(truths, maps, results) if network.dimensions == 3 else ([], 1))
        )
        train = train.model_copy(update={"network": network})
    plan: dict[str, Any] = {
        "step": "plan",
        "classes": classes,
        "channels": channels,
        "network": network.model_dump(),
        "normalisation": {"normalisation": cfg.normalisation, "percentiles": list(cfg.percentiles)},
    }
    if network.dimensions == 3:
        plan["flat_levels"] = {"value": network.flat_levels, "why": why_flat}
    plan |= _prediction(cfg, predict, network, truths, channels) | parts
    if bought is None:
        plan |= _training(cfg, train, truths, maps, [] if rehearsal else classes)
    details = {
        dataset: {name: _details(results, dataset, name) for name in truth["samples"]}
        for dataset, truth in truths.items()
    }
    plan |= _pixel_sizes(details, maps, None if bought is None else model.get("pixel_size", {}), network)
    least, why = _least_extents(cfg, details, maps, channels, None if bought is None else model)
    plan["least_extent"] = {"value": least, "why": why}
    _warn_of_faint(plan, cfg, {dataset: found for dataset, found in details.items() if dataset not in maps}, least)
    plan["samples"] = {
        f"{dataset}/{name}": normalisation(found["intensities"], cfg, least)
        for dataset, samples in details.items()
        for name, found in samples.items()
    }
    training = "" if bought else f", training tile {plan['train_tile']['value']} px, {plan['steps']['value']} steps"
    logger.info("plan: prediction tile %s px%s", plan["predict_tile"]["value"], training)
    write_stamp(stamp, plan)


def _check_bought(bought: Path, model: dict[str, Any], truths: dict[str, Any], channels: int) -> None:
    """Refuse a model that was trained elsewhere for other classes or channels."""
    for dataset, truth in truths.items():
        if truth["classes"] != model["classes"] and any(entry["labels"] for entry in truth["samples"].values()):
            raise UserError(
                f"the model in {bought} knows the classes {', '.join(model['classes'])}, "
                f"but data set {dataset} is annotated with "
                f"{', '.join(truth['classes'])}; set `classes` of the data set"
            )
    if model["channels"] != channels:
        raise UserError(
            f"the model in {bought} takes {model['channels']} channels, but the data has {channels}; "
            "see `channels` of the data sets"
        )


def _pixel_sizes(
    details: dict[str, dict[str, dict[str, Any]]], maps: dict[str, Any], bought: Sizes | None, network: Network
) -> dict[str, Any]:
    """Pixel sizes, where they are known, and warnings of data sets that a model is applied to whose size is another."""
    of_samples = {
        dataset: [found["pixel_size"] for found in samples.values() if "pixel_size" in found]
        for dataset, samples in details.items()
    }
    sizes = {dataset: size for dataset, several in of_samples.items() if (size := size_of(several)) is not None}
    learnt = {dataset: sizes[dataset] for dataset in maps if dataset in sizes} if bought is None else bought
    applied = {dataset: size for dataset, size in sizes.items() if dataset not in maps}
    warnings = differences(applied, learnt, network.dimensions == 3)
    for warning in warnings:
        logger.warning("plan: %s", warning)
    return ({"pixel_size": sizes} if sizes else {}) | ({"warnings": warnings} if warnings else {})


def _least_extents(
    cfg: Plan, details: dict[str, dict[str, Any]], maps: dict[str, Any], channels: int, bought: dict[str, Any] | None
) -> tuple[list[float], str]:
    """Least extent of each channel's gray values, and the reason for it.

    Samples for validation count as those for training, so that it is the same for all folds of a model.
    """
    if cfg.least_extent != "auto":
        return [cfg.least_extent] * channels, "set in the configuration"
    if bought is not None:
        return bought.get("least_extent") or [0.0] * channels, "as the model was trained"
    learnt = [
        [
            details[dataset][name]["intensities"]
            for name, entry in stamp["samples"].items()
            if entry["split"] in DIVIDED_SPLITS and any(entry["class_pixels"][1:])
        ]
        for dataset, stamp in maps.items()
    ]
    return least_extents(learnt, cfg, channels)


def _warn_of_faint(plan: dict[str, Any], cfg: Plan, details: dict[str, dict[str, Any]], least: list[float]) -> None:
    """Tell of data sets, not trained on, most of whose images have less than the least extent."""
    for dataset, samples in details.items():
        below = sum(faint(found["intensities"], cfg, least) for found in samples.values())
        if 2 * below > len(samples) and len(samples) > 1:
            warning = (
                f"{below} of {len(samples)} images of {dataset} have less contrast than what the model learnt from, "
                "and are not stretched to it: their objects may not be found. Where their gray values are in another "
                "range (8 bits for 16, another exposure), set `plan: {least_extent: 0}` of the model"
            )
            logger.warning("plan: %s", warning)
            plan.setdefault("warnings", []).append(warning)


def _prediction(cfg: Plan, predict: Predict, network: Network, truths: dict[str, Any], channels: int) -> dict[str, Any]:
    """Tile, block and memory of prediction."""
    extent = extent_of(entry["shape"][1:] for truth in truths.values() for entry in truth["samples"].values())
    tile, why = prediction_tile(predict, network, channels, cfg, *extent)
    return {
        "predict_tile": {"value": tile, "why": why},
        "predict_block": {
            "value": prediction_block(tile, network),
            "why": "chunks next above the output of one tile, and planes; one shard each",
        },
        "predict_memory_gb": {
            "value": float(f"{tile_memory(tile, network, channels) / 2**30:.3g}"),
            "why": f"of {allowed_memory(cfg) / 2**30:.3g} allowed",
        },
    }


def _training(
    cfg: Plan, train: Train, truths: dict[str, Any], maps: dict[str, Any], classes: list[str]
) -> dict[str, Any]:
    """Decisions that only training needs; the samples must have some of the classes, if there are any."""
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
    if classes:
        _check_classes(pixels, ["background", *classes], [*maps])
    tile, why = training_tile(train, *extent_of(truth["shape"][1:] for truth, _ in entries))
    outputs = outputs_of(tile, unet.shape_of(train.network))
    output = str(outputs[2]) if isinstance(tile, int) else " x ".join(map(str, outputs))
    steps, reason = training_steps(train, sum(pixels), outputs)
    return {
        "class_pixels": {"value": pixels, "why": f"over {len(entries)} training samples; background first"},
        "class_weights": {"value": class_weights(pixels, cfg.class_weights), "why": f"w_c, rule: {cfg.class_weights}"},
        "train_tile": {"value": tile, "why": f"{why}; the network's output is {output} px wide"},
        "steps": {"value": steps, "why": reason},
    }


def _check_classes(pixels: list[int], classes: list[str], datasets: list[str]) -> None:
    """Refuse to learn from no object at all, and warn of classes that do not occur; background first."""
    if not any(pixels[1:]):
        raise UserError(
            f"no pixel of an object in the training samples of {', '.join(datasets)}, so that there is nothing to "
            "learn; 'make check-annotations' shows what was read of their annotations: all may be ignored (iscrowd, "
            "ignore_label, region, classes that are mapped to ignore or background), or the samples with objects may "
            "all be for test or validation (split)"
        )
    absent = [name for name, count in zip(classes, pixels, strict=True) if not count]
    if absent:
        logger.warning(
            "plan: no pixel of the class %s in the training samples of %s: it is not learnt; see "
            "'make check-annotations' and split",
            ", ".join(absent),
            ", ".join(datasets),
        )


def _channels(truths: dict[str, Any]) -> int:
    found = {
        entry["shape"][0]: f"{dataset}/{name}"
        for dataset, truth in truths.items()
        for name, entry in truth["samples"].items()
    }
    if len(found) != 1:
        listed = ", ".join(f"{channels} in {sample}" for channels, sample in found.items())
        raise UserError(
            f"all images of a model must have the same number of channels; there are {listed}; "
            "see `channels` of the data sets"
        )
    return next(iter(found))


def _planes(truths: dict[str, Any], maps: dict[str, Any], results: Path) -> tuple[list[float], int]:
    """Distance of planes over distance of pixels, for each data set that is trained on.

    Returned with it is the number of planes of the thickest training sample.
    """
    ratios, planes = [], 1
    for dataset, stamp in maps.items():
        names = [name for name, entry in stamp["samples"].items() if entry["split"] == "train"]
        for name in names[:1]:
            ratios.append(anisotropy(open_labels(results / "groundtruth" / f"{dataset}.zarr", name)[0].pixel_size))
        planes = max([planes, *(truths[dataset]["samples"][name]["shape"][1] for name in names)])
    return ratios, planes


def _details(results: Path, dataset: str, sample: str) -> dict[str, Any]:
    path = results / "groundtruth" / f"{dataset}.zarr" / sample
    attributes = read_attributes(path)
    if not attributes.get("done"):
        raise UserError(f"{path} is missing or damaged; {repair(path)}")
    return attributes["details"]
