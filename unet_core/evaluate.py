"""Step evaluate: result and truth to scores per object, per image and per data set."""

from __future__ import annotations

import functools
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unet_core.config import Evaluate
from unet_core.digest import code_digest, digest
from unet_core.engine import Engine
from unet_core.metrics import matching as m
from unet_core.metrics.aji import aggregated_jaccard_index
from unet_core.metrics.contingency import Contingency, add, contingency
from unet_core.metrics.det import Detection, count_operations, detection_score
from unet_core.metrics.isbi import v_info, v_rand
from unet_core.metrics.mean_ap import THRESHOLDS, mean_average_precision
from unet_core.metrics.pixels import PixelCounts, count_pixels, dice, foreground_iou, pixel_error
from unet_core.metrics.rand import adapted_rand_error
from unet_core.metrics.seg import seg_scores
from unet_core.metrics.voi import variation_of_information
from unet_core.runtime import UserError, read_json, write_atomic, write_stamp
from unet_core.store import Result, open_labels, remove_other_files

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


def score_image(table: Contingency, thresholds: Sequence[float]) -> dict[str, Any]:
    """All counts of one image from which scores of images and of data sets follow.

    Parameters
    ----------
    table : Contingency
        Of the image.
    thresholds : sequence of float
        IoU thresholds of the matching.

    Returns
    -------
    dict
        `pixels`, `matching` (by threshold), `detection`, `means` (scores of which a data set has the mean), and `objects`:
        label, voxels, SEG score and best IoU of each true object.
    """
    labels, sizes = table.truth_sizes()
    i, _, _, iou = table.pairs()
    best = np.zeros(labels.size)
    np.maximum.at(best, i, iou)
    wanted, voi = sorted({*thresholds, *THRESHOLDS}), variation_of_information(table)
    return {
        "pixels": list(count_pixels(table)),
        "matching": {str(t): list(counts) for t, counts in zip(wanted, m.matchings(table, wanted), strict=True)},
        "detection": list(count_operations(table)),
        "means": {
            "rand_error": adapted_rand_error(table),
            "voi_split": voi.split,
            "voi_merge": voi.merge,
            "aji": aggregated_jaccard_index(table),
            "v_rand": v_rand(table),
            "v_info": v_info(table),
        },
        "objects": {"label": labels.tolist(), "voxels": sizes.tolist(), "seg": seg_scores(table).tolist(), "best_iou": best.tolist()},
    }


def summarise(images: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> dict[str, float | None]:
    """Scores of one image, or of a data set.

    Pixels, objects and operations of all images are pooled; AJI and the measures of pairs and entropies are means over images.

    Parameters
    ----------
    images : sequence of dict
        From `score_image`.
    thresholds : sequence of float
        IoU thresholds of the matching.

    Returns
    -------
    dict
        iou, dice, seg, ap50 ... and the others at each threshold, pixel_error, rand_error, voi_split, voi_merge, aji, v_rand,
        v_info, ap, det; None for seg and det without true objects.
    """
    pixels = PixelCounts(*(sum(counts) for counts in zip(*(image["pixels"] for image in images), strict=True)))
    seg = [score for image in images for score in image["objects"]["seg"]]
    scores = {"iou": foreground_iou(pixels), "dice": dice(pixels), "seg": float(np.mean(seg)) if seg else None}
    matchings = {
        t: functools.reduce(m.Matching.__add__, (m.Matching(*image["matching"][str(t)]) for image in images))
        for t in {*thresholds, *THRESHOLDS}
    }
    for prefix, measure in AT_THRESHOLDS.items():
        scores |= {f"{prefix}{100 * t:g}": measure(matchings[t]) for t in thresholds}
    means = {name: float(np.mean([image["means"][name] for image in images])) for name in images[0]["means"]}
    ap = mean_average_precision([matchings[t] for t in THRESHOLDS])
    det = detection_score(functools.reduce(Detection.__add__, (Detection(*image["detection"]) for image in images)))
    return scores | {"pixel_error": pixel_error(pixels)} | means | {"ap": ap, "det": det}


def evaluate_samples(
    cfg: Evaluate,
    *,
    groundtruth: Path,
    truth_store: Path,
    instances: Path,
    instance_store: Path,
    folder: Path,
    stamp: Path,
    engine: Engine,
) -> None:
    """Score the annotated samples of a data set; what was scored with the same result and truth stays.

    Parameters
    ----------
    cfg : Evaluate
        Options.
    groundtruth, truth_store : Path
        Stamp and store of the data set's groundtruth.
    instances, instance_store : Path
        Stamp and store of the objects that a model found in it.
    folder : Path
        Gets ``images.csv``, ``objects.csv`` and one JSON file of counts per sample.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    """
    truths = read_json(groundtruth)["samples"]
    remove_other_files(folder / "samples", ".json", set(truths))
    entries, images, objects, redone = {}, [], [], 0
    for name, entry in read_json(instances)["samples"].items():
        truth = truths[name]
        if truth["split"] not in cfg.splits:
            continue
        wanted = digest(truth["labels"], entry["digest"], cfg.thresholds, code_digest("evaluate"))
        counts = _kept(folder / "samples" / f"{name}.json", wanted)
        if counts is None:
            counts = _score_sample(name, cfg, truth_store, instance_store, engine)
            write_atomic(folder / "samples" / f"{name}.json", json.dumps({"digest": wanted, "counts": counts}).encode())
            redone += 1
        # Counted anew each time, so that a sample that changes its split needs no new scores.
        entries[name] = {"split": truth["split"], "digest": wanted}
        sample = {"sample": name, "split": truth["split"]}
        images.append(sample | {"n_objects": len(counts["objects"]["label"])} | summarise([counts], cfg.thresholds))
        objects.append(pd.DataFrame(sample | counts["objects"]))
    members = {split: [name for name, entry in entries.items() if entry["split"] == split] for split in cfg.splits}
    by_split = {split: _of_split(folder, names, cfg.thresholds) for split, names in members.items()}
    nothing = pd.DataFrame(columns=["sample", "split"])
    write_atomic(folder / "images.csv", _csv(pd.DataFrame(images) if images else nothing))
    write_atomic(folder / "objects.csv", _csv(pd.concat(objects) if objects else nothing))
    logger.info("evaluate: %d samples, %d scored", len(entries), redone)
    write_stamp(stamp, {"step": "evaluate", "scores": {split: scores for split, scores in by_split.items() if scores}, "samples": entries})


def _of_split(folder: Path, names: list[str], thresholds: Sequence[float]) -> dict[str, float | None]:
    counts = [read_json(folder / "samples" / f"{name}.json")["counts"] for name in names]
    if not counts:
        return {}
    return {"n_images": len(counts), "n_objects": sum(len(c["objects"]["label"]) for c in counts)} | summarise(counts, thresholds)


def _kept(path: Path, wanted: str) -> dict[str, Any] | None:
    """Counts that were kept for the same digest."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return kept["counts"] if kept.get("digest") == wanted else None


def _score_sample(name: str, cfg: Evaluate, truth_store: Path, instance_store: Path, engine: Engine) -> dict[str, Any]:
    found = Result(instance_store / name)
    truth = open_labels(truth_store, name)[0]
    if truth.shape != found.shape:
        mend = "'snakemake --forcerun predict' mends it"
        raise UserError(f"{instance_store / name} has shape {found.shape}, but its truth {truth.shape}; {mend}")
    block = functools.partial(_count_block, name=name, truth_store=truth_store, instance_store=instance_store)
    tables = [table for _, table in engine.run(block, range(len(found.grid)), len(found.grid), f"evaluate {name}")]
    return score_image(add(tables), cfg.thresholds)


def _count_block(index: int, name: str, truth_store: Path, instance_store: Path) -> Contingency:
    found = Result(instance_store / name)
    truth, _, ignore = open_labels(truth_store, name)
    box = found.grid.box(index)
    return contingency(truth.read(box), found.read(box), ignore.read(box))


def _csv(table: pd.DataFrame) -> bytes:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.5f")
    return text.getvalue().encode()
