"""Step evaluate: result and truth to scores per object, per image and per data set."""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from unet_core.config.folds import HELD_OUT_SPLIT
from unet_core.config.options import Evaluate
from unet_core.digest import digest
from unet_core.engine import Engine, Runner, run_samples
from unet_core.evaluate.bootstrap import intervals
from unet_core.evaluate.history import MEASURES, keep_evaluation, sums_of
from unet_core.evaluate.sample import score_sample
from unet_core.evaluate.spatial import Truth, summarise_space
from unet_core.files import write_atomic
from unet_core.method import method
from unet_core.metrics import matching as m
from unet_core.metrics.det import Detection, detection_score
from unet_core.metrics.mean_ap import THRESHOLDS, mean_average_precision
from unet_core.metrics.pixels import PixelCounts, dice, foreground_iou, pixel_error
from unet_core.metrics.strata import size_strata
from unet_core.runtime import read_json, write_stamp
from unet_core.store.pins import Pin, pin, pin_labels
from unet_core.store.removal import also_removed, remove_other_files

logger = logging.getLogger(__name__)

# Measures at each threshold, by the prefix of their columns.
AT_THRESHOLDS = {
    "ap": m.average_precision,
    "f1_": m.f1,
    "pq": m.panoptic_quality,
    "precision": m.precision,
    "recall": m.recall,
    "sq": m.segmentation_quality,
    "rq": m.recognition_quality,
}


def summarise(images: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> dict[str, float | None]:
    """Scores of one image, or of a data set.

    Pixels, objects and operations of all images are pooled; AJI and the measures of pairs and entropies are means over
    images.

    Parameters
    ----------
    images : sequence of dict
        From `score_image`.
    thresholds : sequence of float
        IoU thresholds of the matching.

    Returns
    -------
    dict
        iou, dice, seg, ap50 ... and the others at each threshold, pixel_error, rand_error, voi_split, voi_merge, aji,
        v_rand, v_info, ap, det; None for seg and det without true objects. Where there are several classes, also
        class_ap at each threshold, and iou, dice, ap and pq of each class.
    """
    pixels = _pool(image["pixels"] for image in images)
    seg = [score for image in images for score in image["objects"]["seg"] if score is not None]
    scores = {"iou": foreground_iou(pixels), "dice": dice(pixels), "seg": float(np.mean(seg)) if seg else None}
    for name in images[0]["classes"]:
        of_class = _pool(image["classes"][name] for image in images)
        scores |= {_of_class("iou", name): foreground_iou(of_class), _of_class("dice", name): dice(of_class)}
    matchings = {t: _matched(image["matching"][str(t)] for image in images) for t in {*thresholds, *THRESHOLDS}}
    for prefix, measure in AT_THRESHOLDS.items():
        scores |= {f"{prefix}{100 * t:g}": measure(matchings[t]) for t in thresholds}
    for t in thresholds if images[0]["classes"] else ():
        of_classes = {
            name: _matched(image["matching_of_class"][name][str(t)] for image in images)
            for name in images[0]["classes"]
        }
        scores[f"class_ap{100 * t:g}"] = m.average_precision(_matched(of_classes.values()))
        for prefix in ("ap", "pq"):
            measure = AT_THRESHOLDS[prefix]
            scores |= {_of_class(f"{prefix}{100 * t:g}", name): measure(own) for name, own in of_classes.items()}
    means = {name: float(np.mean([image["means"][name] for image in images])) for name in images[0]["means"]}
    ap = mean_average_precision([matchings[t] for t in THRESHOLDS])
    det = detection_score(functools.reduce(Detection.__add__, (Detection(*image["detection"]) for image in images)))
    return scores | {"pixel_error": pixel_error(pixels)} | means | {"ap": ap, "det": det}


def _of_class(measure: str, name: str) -> str:
    """Column of a measure of one class: with "low" or "high" it would be that of the end of an interval."""
    return f"{measure}_of_{name}" if name in ("low", "high") else f"{measure}_{name}"


def _pool(counts: Iterable[Sequence[int]]) -> PixelCounts:
    return PixelCounts(*(sum(parts) for parts in zip(*counts, strict=True)))


def _matched(counts: Iterable[Sequence[float]]) -> m.Matching:
    return functools.reduce(m.Matching.__add__, (m.Matching(*one) for one in counts))  # type: ignore[arg-type]


def main_sums(counts: dict[str, Any]) -> dict[str, float]:
    """What one image adds to the main measures.

    Over several images, a measure is the sum of ``<measure>_over`` divided by the sum of ``<measure>_under``.
    """
    pixels, seg = PixelCounts(*counts["pixels"]), [score for score in counts["objects"]["seg"] if score is not None]
    wrong, foreground = pixels.found_only + pixels.truth_only, pixels.both + pixels.found_only + pixels.truth_only
    parts = {
        "iou": (pixels.both, foreground),
        "dice": (2 * pixels.both, 2 * pixels.both + wrong),
        "seg": (sum(seg), len(seg)),
        "pixel_error": (wrong, sum(pixels)),
        "rand_error": (counts["means"]["rand_error"], 1),
    }
    for threshold in (0.5, 0.75):
        tp, fp, fn, _ = counts["matching"][str(threshold)]
        parts[f"ap{100 * threshold:g}"] = (tp, tp + fp + fn)
    if counts["classes"]:
        tp, fp, fn, _ = _matched(own[str(0.5)] for own in counts["matching_of_class"].values())
        parts["class_ap50"] = (tp, tp + fp + fn)
    return {
        f"{name}_{part}": float(value)
        for name in MEASURES
        if name in parts
        for part, value in zip(("over", "under"), parts[name], strict=True)
    }


def evaluate_samples(
    cfg: Evaluate,
    *,
    model: Path,
    groundtruth: Path,
    truth_store: Path,
    instances: Path,
    instance_store: Path,
    tables: Path,
    folder: Path,
    history: Path,
    stamp: Path,
    engine: Engine,
) -> None:
    """Score the annotated samples of a data set; what was scored with the same result and truth stays.

    Parameters
    ----------
    cfg : Evaluate
        Options.
    model : Path
        Stamp of the model.
    groundtruth, truth_store : Path
        Stamp and store of the data set's groundtruth.
    instances, instance_store, tables : Path
        Stamp, store and folder of tables of the objects that a model found in it.
    folder : Path
        Gets ``images`` and ``objects``, each as ``.csv`` and ``.parquet``, and one JSON file of counts per sample.
    history : Path
        ``<results>/evaluate/history/<model>/<data set>.jsonl``, to which the evaluation is added.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    truths, names = (read_json(groundtruth)[key] for key in ("samples", "classes"))
    removed = remove_other_files(folder / "samples", ".json", set(truths))
    # Of several classes more is counted than once was.
    options = [cfg.thresholds, cfg.boundary_tolerance, names, *(["by class"] if len(names) > 1 else [])]
    entries, pending, counted = {}, [], {}
    for name, entry in read_json(instances)["samples"].items():
        truth = truths[name]
        # By whom it was predicted, not what it is for, says whether it was held out.
        split = HELD_OUT_SPLIT if entry["split"] == HELD_OUT_SPLIT else truth["split"]
        if split not in cfg.splits:
            continue
        wanted = digest(truth["labels"], entry["digest"], options, method("evaluate"))
        # Counted anew each time, so that a sample that changes its split needs no new scores.
        entries[name] = {"split": split, "digest": wanted}
        if counts := _kept(folder / "samples" / f"{name}.json", wanted):
            counted[name] = counts
        else:
            pending.append(Pending(name, wanted, truth["labels"], entry["digest"]))

    inputs = Inputs(groundtruth, truth_store, instances, instance_store, tables)
    counted |= _score_all(cfg, names, pending, inputs, folder / "samples", engine)
    scored = {name: counted[name] for name in entries}
    write_tables(folder, scored, entries, cfg.thresholds)
    sums = pd.DataFrame(
        [
            {"sample": name, "truth": truths[name]["labels"]} | entries[name] | main_sums(scored[name])
            for name in sorted(scored)
        ]
    )
    summaries = _of_splits(cfg, names, scored, entries, sums)
    weights = read_json(model)["weights"]
    made = digest(weights, entries)
    if scored:
        keep_evaluation(history, sums.drop(columns="digest"), summaries["scores"], weights, made)
    logger.info("evaluate: %d samples, %d scored%s", len(entries), len(pending), also_removed(removed))
    write_stamp(stamp, {"step": "evaluate", "weights": weights, "digest": made, **summaries, "samples": entries})


def write_tables(
    folder: Path, scored: dict[str, dict[str, Any]], entries: dict[str, dict[str, str]], thresholds: Sequence[float]
) -> None:
    """Write the tables of images and of objects as CSV and Parquet.

    Parameters
    ----------
    folder : Path
        Where they go.
    scored : dict
        Sample -> its counts.
    entries : dict
        Sample -> its `split`.
    thresholds : sequence of float
        IoU thresholds of the matching.
    """
    images, objects = [], []
    for name, counts in scored.items():
        sample = {"sample": name, "split": entries[name]["split"]}
        images.append(sample | {"n_objects": _number(counts)} | _scores([counts], thresholds))
        objects.append(pd.DataFrame(sample | counts["objects"]).astype({"seg": float}))
    nothing = pd.DataFrame(columns=["sample", "split"])
    for name, table in (("images", pd.DataFrame(images)), ("objects", pd.concat(objects) if objects else nothing)):
        table = table if len(table.columns) else nothing
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.5f").encode())
        write_atomic(folder / f"{name}.parquet", table.reset_index(drop=True).to_parquet(index=False))


def _scores(images: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> dict[str, float | None]:
    """All scores of one image, or of a data set."""
    thin = {f"{name}_thin": float(np.mean([image["thin"][name] for image in images])) for name in images[0]["thin"]}
    return summarise(images, thresholds) | thin | summarise_space([image["space"] for image in images])


def _number(counts: dict[str, Any]) -> int:
    """True objects of an image."""
    return Detection(*counts["detection"]).objects


def _of_splits(
    cfg: Evaluate, names: list[str], scored: dict[str, Any], entries: dict[str, dict[str, str]], sums: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Scores of each split, also by the size of objects, and by class where there are several."""
    parts = ["scores", "by_size", *(["confusion"] if len(names) > 1 else [])]
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for split in map(str, cfg.splits):
        if images := [scored[name] for name, entry in entries.items() if entry["split"] == split]:
            found["scores"][split] = _of_split(images, sums[sums["split"] == split], cfg.thresholds)
            found["by_size"][split] = _by_size([image["objects"] for image in images])
            if len(names) > 1:
                found["confusion"][split] = _confused(images, names)
    return found


def _of_split(images: list[dict[str, Any]], sums: pd.DataFrame, thresholds: Sequence[float]) -> dict[str, float | None]:
    scores: dict[str, float | None] = {"n_images": len(images), "n_objects": sum(map(_number, images))}
    scores |= _scores(images, thresholds)
    for name, interval in intervals(sums_of(sums)).items():
        scores |= {
            f"{name}_low": interval.low if interval else None,
            f"{name}_high": interval.high if interval else None,
        }
    return scores


def _by_size(images: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Scores of small, medium and large true objects of a split."""
    rows = pd.concat([pd.DataFrame(objects) for objects in images])
    true = rows[rows["label"] > 0]
    return size_strata(
        true["voxels"].to_numpy(np.int64), true["seg"].to_numpy(float), (true["kind"] == "matched").to_numpy(bool)
    )


def _confused(images: list[dict[str, Any]], names: list[str]) -> list[list[Any]]:
    """Rows of true class and objects: found as each class, and missed; the last row is that of spurious ones."""
    total = Counter({(true, found): 0 for true in [*names, ""] for found in [*names, ""]})
    for image in images:
        total.update({(true, found): n for true, found, n in image["confusion"]})
    return [[true, *(total[true, found] for found in [*names, ""])] for true in [*names, ""]]


def _kept(path: Path, wanted: str) -> dict[str, Any] | None:
    """Counts that were kept for the same digest."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return kept["counts"] if kept.get("digest") == digest(wanted, kept.get("counts")) else None


class Pending(NamedTuple):
    """A sample that is to be scored, and the digests of its labels and of its objects."""

    name: str
    wanted: str
    labels: str
    objects: str


class Inputs(NamedTuple):
    """What is read: see `evaluate_samples`."""

    groundtruth: Path
    truth_store: Path
    instances: Path
    instance_store: Path
    tables: Path


def _score_all(
    cfg: Evaluate, names: list[str], pending: list[Pending], inputs: Inputs, folder: Path, engine: Engine
) -> dict[str, dict[str, Any]]:
    """Counts of samples, each of which is kept in a file as soon as it is known."""

    def pinned() -> Iterator[tuple[Pending, Truth, Pin]]:
        for sample in pending:
            truth = pin_labels(inputs.truth_store, sample.name, sample.labels, inputs.groundtruth)
            yield sample, truth, pin(inputs.instance_store / sample.name, sample.objects, inputs.instances)

    score = functools.partial(_score_and_keep, cfg=cfg, names=names, tables=inputs.tables, folder=folder)
    scored = run_samples(engine, score, pinned(), _blocks, len(pending), "evaluate")
    return {sample.name: counts for (sample, _, _), counts in scored}


def _blocks(item: tuple[Pending, Truth, Pin]) -> int:
    return len(item[2].open().grid)


def _score_and_keep(
    item: tuple[Pending, Truth, Pin], runner: Runner, cfg: Evaluate, names: list[str], tables: Path, folder: Path
) -> dict[str, Any]:
    sample, truth, found = item
    counts = score_sample(cfg, names, truth, found, tables / f"{sample.name}.csv", runner)
    # The counts are in the digest, so that damaged ones are counted again.
    as_read = json.loads(json.dumps(counts))
    kept = json.dumps({"digest": digest(sample.wanted, as_read), "counts": as_read})
    # What a lost machine leaves half written of it is counted again.
    write_atomic(folder / f"{sample.name}.json", kept.encode(), durable=False)
    return counts
