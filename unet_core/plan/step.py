"""Step plan: what the data and the machine decide, written as one readable file per model, each decision with its reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from unet_core.blocks import ZYX
from unet_core.config.folds import divided, seen_as
from unet_core.config.options import Network, Plan, Predict, Train
from unet_core.network import unet
from unet_core.network.tiles import LANES, tiling
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import CHUNK, open_labels, read_attributes

logger = logging.getLogger(__name__)

# Each training pixel is to be seen this often, with bounds, where steps is auto.
PASSES, FEWEST_STEPS, MOST_STEPS = 200, 1_000, 200_000
PAPER_TILE = 572
# In 3D about as many voxels as the tiles of Cicek et al. have: 132 x 132 x 116.
TILE_VOXELS = 2**21
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


def grown(shape: unet.Shape, outputs: ZYX, voxels: int) -> ZYX:
    """Extent of a tile for a 3D network, as a square in planes: the best share of output in it, within a number of voxels.

    Parameters
    ----------
    shape : Shape
        Of the network.
    outputs : tuple of int
        Largest useful output along z, y, x.
    voxels : int
        Of the tile at most, unless the smallest has more.

    Examples
    --------
    >>> grown(unet.shape(3, dimensions=3), (10**4,) * 3, 116 * 132 * 132)
    (116, 132, 132)
    """
    steps = shape.steps
    most = max(steps[0], outputs[0]), max(steps[1], *outputs[1:])

    def tile(out: tuple[int, int]) -> ZYX:
        z, side = unet.input_size(min(out[0], most[0]), *shape.z), unet.input_size(min(out[1], most[1]), *shape.y)
        return z, side, side

    best = (steps[0], steps[1])
    while True:
        z, side = best
        larger = [(z + steps[0], side)] * (z < most[0]) + [(z, side + steps[1])] * (side < most[1])
        fitting = [out for out in larger if math.prod(tile(out)) <= voxels]
        if not fitting:
            return tile(best)
        best = max(fitting, key=lambda out: out[0] * out[1] ** 2 / math.prod(tile(out)))


def training_tile(cfg: Train, longest_side: int, planes: int = 1) -> tuple[int | ZYX, str]:
    """Side of the training tile (in 3D its extent along z, y, x) and the reason for it."""
    shape = unet.shape_of(cfg.network)
    if cfg.tile != "auto":
        try:
            outputs_of(cfg.tile, shape)
        except ValueError as error:
            raise UserError(f"train.tile: {error}") from None
        return _given(cfg.tile), "set in the configuration"
    if cfg.network.dimensions == 3:
        tile = grown(shape, (planes, longest_side, longest_side), TILE_VOXELS)
        return (
            tile,
            f"the most output within about {TILE_VOXELS / 1e6:.2g} million voxels, or what covers the largest training volume",
        )
    whole = unet.input_size(longest_side, *shape.y)
    paper = unet.input_size(max(1, PAPER_TILE - 2 * unet.halo(*shape.y)), *shape.y)
    return min(whole, paper), "the smaller of the paper's tile and what covers the largest training image"


def _given(tile: int | Sequence[int]) -> int | ZYX:
    return tile if isinstance(tile, int) else unet.sides(tile)


def outputs_of(tile: int | Sequence[int], shape: unet.Shape) -> ZYX:
    """Extent of what a network gives for a tile."""
    z, y, x = (unet.output_size(side, *axis) for side, axis in zip(unet.sides(tile), shape, strict=True))
    return z, y, x


def training_steps(cfg: Train, pixels: int, outputs: ZYX) -> tuple[int, str]:
    """Number of training steps, for a number of annotated training pixels and the extent of the network's output, and the reason for it."""
    if cfg.steps != "auto":
        return cfg.steps, "set in the configuration"
    steps = math.ceil(PASSES * pixels / (math.prod(outputs) * cfg.batch * cfg.accumulate))
    bounds = f"within {FEWEST_STEPS:,} and {MOST_STEPS:,} steps"
    reason = f"each of {pixels:,} annotated training pixels is seen about {PASSES} times, {bounds}"
    return min(max(steps, FEWEST_STEPS), MOST_STEPS), reason


def tile_memory(tile: int | ZYX, network: Network, channels: int) -> int:
    """Bytes of what is alive while the network is applied to the tiles of all lanes, in float32.

    At the first level of the expanding path these are, for each tile, the image, what comes from below, both halves of
    its concatenation with the copy, and the output of a convolution; deeper levels are smaller. With what the allocator
    cannot use again it is as much as five arrays of the first level's channels (measured).
    """
    return math.prod(unet.sides(tile)) * voxel_memory(network, channels)


def voxel_memory(network: Network, channels: int) -> int:
    """Bytes per pixel of a tile; see `tile_memory`."""
    return LANES * 4 * (channels + 5 * network.width)


def extent_of(shapes: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Longest side in the plane, and most planes, of images (z, y, x)."""
    planes, heights, widths = zip(*shapes, strict=True)
    return max(*heights, *widths), max(planes)


def anisotropy(pixel_size: tuple[float, float, float]) -> float:
    """Distance of planes over that of pixels."""
    z, y, x = pixel_size
    return z / math.sqrt(y * x)


def allowed_memory(cfg: Plan) -> int:
    """Bytes that prediction may take."""
    return psutil.virtual_memory().total // 2 if cfg.memory_gb == "auto" else int(cfg.memory_gb * 2**30)


def prediction_tile(
    cfg: Predict, network: Network, channels: int, memory: int, longest_side: int, planes: int = 1
) -> tuple[int | ZYX, str]:
    """Side of the largest tile in prediction (in 3D its extent along z, y, x) and the reason for it."""
    shape = unet.shape_of(network)
    if cfg.tile != "auto":
        if isinstance(cfg.tile, int) != (network.dimensions == 2):
            needed = "one side" if network.dimensions == 2 else "[z, y, x]"
            raise UserError(f"predict.tile is {cfg.tile}, but a {network.dimensions}D network takes {needed}, or auto")
        try:
            for side, axis in zip(unet.sides(cfg.tile), shape, strict=True):
                tiling(longest_side, side, *axis)
        except ValueError as error:
            raise UserError(f"predict.tile: {error}") from None
        return _given(cfg.tile), "set in the configuration"
    # Tiles are useful by whole groups of pooled pixels.
    group = shape.y.step
    smallest = unet.input_size(group, *shape.y)
    wanted = max(smallest, unet.input_size(min(longest_side, LARGEST_OUTPUT), *shape.y))
    tile: int | ZYX = wanted
    if network.dimensions == 3:
        limits = (min(planes, MOST_PLANES), min(longest_side, LARGEST_OUTPUT), 1)
        tile = grown(shape, limits, memory // voxel_memory(network, channels))
    while isinstance(tile, int) and tile > smallest and tile_memory(tile, network, channels) > memory:
        tile -= group
    if tile_memory(tile, network, channels) > memory:
        needed_gb = tile_memory(tile, network, channels) / 2**30
        raise UserError(
            f"plan.memory_gb: the smallest tile of this network ({tile} px) needs {needed_gb:.3g} GiB, "
            f"but {memory / 2**30:.3g} GiB are allowed; allow more, or make train.network shallower or narrower"
        )
    if network.dimensions == 3:
        return (
            tile,
            f"covers the largest volume or {MOST_PLANES} planes of it, or is the largest within {memory / 2**30:.3g} GiB",
        )
    reason = (
        f"covers the largest image or {LARGEST_OUTPUT} px"
        if tile == wanted
        else f"the largest within {memory / 2**30:.3g} GiB"
    )
    return tile, reason


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
    """
    truths = {dataset: read_json(path) for dataset, path in groundtruth.items()}
    maps = {dataset: read_json(path) for dataset, path in weights.items()}
    parts = {"fold": fold[0], "folds": divided(maps, fold[1])} if fold else {}
    for dataset, name, entry in [
        (d, name, entry) for d, found in maps.items() for name, entry in found["samples"].items()
    ]:
        entry["split"] = seen_as(parts, f"{dataset}/{name}", entry["split"])
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
        plan |= _training(cfg, train, truths, maps)
    plan["samples"] = {
        f"{dataset}/{name}": normalisation(_details(results, dataset, name)["intensities"], cfg)
        for dataset, truth in truths.items()
        for name in truth["samples"]
    }
    training = "" if bought else f", training tile {plan['train_tile']['value']} px, {plan['steps']['value']} steps"
    logger.info("plan: prediction tile %s px%s", plan["predict_tile"]["value"], training)
    write_stamp(stamp, plan)


def _prediction(cfg: Plan, predict: Predict, network: Network, truths: dict[str, Any], channels: int) -> dict[str, Any]:
    """Tile, block and memory of prediction."""
    memory = allowed_memory(cfg)
    extent = extent_of(entry["shape"][1:] for truth in truths.values() for entry in truth["samples"].values())
    tile, why = prediction_tile(predict, network, channels, memory, *extent)
    return {
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


def _channels(truths: dict[str, Any]) -> int:
    found = {
        entry["shape"][0]: f"{dataset}/{name}"
        for dataset, truth in truths.items()
        for name, entry in truth["samples"].items()
    }
    if len(found) != 1:
        listed = ", ".join(f"{channels} in {sample}" for channels, sample in found.items())
        raise UserError(
            f"all images of a model must have the same number of channels; there are {listed}; see `channels` of the data sets"
        )
    return next(iter(found))


def _planes(truths: dict[str, Any], maps: dict[str, Any], results: Path) -> tuple[list[float], int]:
    """Distance of planes over that of pixels, of each data set that is trained on, and planes of the thickest sample of them."""
    ratios, planes = [], 1
    for dataset, stamp in maps.items():
        names = [name for name, entry in stamp["samples"].items() if entry["split"] == "train"]
        for name in names[:1]:
            ratios.append(anisotropy(open_labels(results / "groundtruth" / f"{dataset}.zarr", name)[0].pixel_size))
        planes = max([planes, *(truths[dataset]["samples"][name]["shape"][1] for name in names)])
    return ratios, planes


def _details(results: Path, dataset: str, sample: str) -> dict[str, Any]:
    attributes = read_attributes(results / "groundtruth" / f"{dataset}.zarr" / sample)
    if not attributes.get("done"):
        raise UserError(
            f"{results}/groundtruth/{dataset}.zarr/{sample} is missing; 'snakemake --forcerun groundtruth' makes it again"
        )
    return attributes["details"]


def prediction_block(tile: int | ZYX, network: Network) -> list[int]:
    """Shard of the probabilities: whole chunks around the output of one tile, and as many planes as make a fair amount of work."""
    shape = unet.shape_of(network)
    useful = (
        output // axis.step * axis.step for output, axis in zip(outputs_of(tile, shape)[1:], shape[1:], strict=True)
    )
    side, step = CHUNK * math.ceil(max(useful) / CHUNK), shape.z.step
    return [max(1, min(MOST_PLANES, BLOCK_VOXELS // side**2) // step) * step, side, side]


def _percentile(percentiles: dict[str, float], level: float) -> float:
    """Percentile at any level, linear between those that were kept."""
    levels = sorted((float(key), value) for key, value in percentiles.items())
    for (a, low), (b, high) in zip(levels, levels[1:], strict=False):
        if a <= level <= b:
            return low + (high - low) * (level - a) / (b - a)
    raise ValueError(f"percentile {level} is not between 0 and 100")
