"""Counts of one sample, from which its scores and those of a data set follow."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from unet_core.config.options import Evaluate
from unet_core.engine import Runner
from unet_core.evaluate.spatial import Truth, score_space
from unet_core.instances.objects import check_table
from unet_core.metrics import matching as m
from unet_core.metrics.aji import aggregated_jaccard_index
from unet_core.metrics.classes import confusion, of_class
from unet_core.metrics.contingency import Contingency, add, contingency
from unet_core.metrics.det import count_operations
from unet_core.metrics.errors import object_errors
from unet_core.metrics.isbi import v_info, v_rand
from unet_core.metrics.mean_ap import THRESHOLDS
from unet_core.metrics.pixels import count_class_pixels, count_pixels
from unet_core.metrics.rand import adapted_rand_error
from unet_core.metrics.seg import seg_scores
from unet_core.metrics.thinning import MAX_STEPS, thin_borders
from unet_core.metrics.voi import variation_of_information
from unet_core.runtime import UserError
from unet_core.store.pins import Pin


@dataclass(frozen=True)
class Classes:
    """Classes of the objects of one image.

    Attributes
    ----------
    names : list of str
        All classes of the data set.
    truth, found : dict
        Label -> name of its class, of the true and of the found objects.
    """

    names: list[str] = field(default_factory=list)
    truth: dict[int, str] = field(default_factory=dict)
    found: dict[int, str] = field(default_factory=dict)


def score_image(table: Contingency, thresholds: Sequence[float], classes: Classes | None = None) -> dict[str, Any]:
    """All counts of one image that follow from its table, and from which scores of images and of data sets follow.

    Parameters
    ----------
    table : Contingency
        Of the image.
    thresholds : sequence of float
        IoU thresholds of the matching.
    classes : Classes, optional
        Of the objects.

    Returns
    -------
    dict
        `pixels`, `matching` (by threshold), `detection`, `means` (scores of which a data set has the mean), and
        `objects`: label, class, voxels, SEG score, best IoU, match and kind of each true object and of the spurious
        ones. If there are several classes, also `classes` (pixels of each), `matching_of_class` (by class and
        threshold, of its objects alone) and `confusion` (true class, found class, objects).
    """
    wanted, voi, classes = sorted({*thresholds, *THRESHOLDS}), variation_of_information(table), classes or Classes()
    return {
        "pixels": list(count_pixels(table)),
        **_of_classes(table, classes, wanted),
        "matching": _matchings(table, wanted),
        "detection": list(count_operations(table)),
        "means": {
            "rand_error": adapted_rand_error(table),
            "voi_split": voi.split,
            "voi_merge": voi.merge,
            "aji": aggregated_jaccard_index(table),
            "v_rand": v_rand(table),
            "v_info": v_info(table),
        },
        "objects": _objects(table, classes),
    }


def _matchings(table: Contingency, thresholds: Sequence[float]) -> dict[str, list[float]]:
    return {str(t): list(counts) for t, counts in zip(thresholds, m.matchings(table, thresholds), strict=True)}


def _of_classes(table: Contingency, classes: Classes, thresholds: Sequence[float]) -> dict[str, Any]:
    """Counts that know of classes; nothing where there is one."""
    if len(classes.names) < 2:
        return {"classes": {}}
    labels = {
        name: [
            np.array([label for label, own in side.items() if own == name], np.int64)
            for side in (classes.truth, classes.found)
        ]
        for name in classes.names
    }
    return {
        "classes": {name: list(count_class_pixels(table, *own)) for name, own in labels.items()},
        "matching_of_class": {name: _matchings(of_class(table, *own), thresholds) for name, own in labels.items()},
        "confusion": [[*pair, n] for pair, n in sorted(confusion(table, classes.truth, classes.found).items())],
    }


def _objects(table: Contingency, classes: Classes) -> dict[str, list[Any]]:
    """Columns of the table of objects; None where a spurious object has no score."""
    objects, seg = object_errors(table), seg_scores(table).tolist()
    rows = zip(objects["label"].tolist(), objects["match"].tolist(), strict=True)
    names = [classes.truth.get(label, "") if label else classes.found.get(match, "") for label, match in rows]
    return {
        "label": objects["label"].tolist(),
        "class": names,
        "voxels": objects["voxels"].tolist(),
        "seg": seg + [None] * (len(objects) - len(seg)),
        "best_iou": objects["best_iou"].tolist(),
        "match": objects["match"].tolist(),
        "kind": objects["kind"].tolist(),
    }


def score_sample(
    cfg: Evaluate, names: list[str], truth: Truth, found: Pin, table: Path, runner: Runner
) -> dict[str, Any]:
    """All counts of one sample, read from stores block by block.

    Parameters
    ----------
    cfg : Evaluate
        Options.
    names : list of str
        Classes of the data set.
    truth : tuple of Pin
        Instances, classes and ignore mask of the sample.
    found : Pin
        Objects that a model found in it.
    table : Path
        Table of these objects.
    runner : Runner
        With which blocks are worked on.

    Returns
    -------
    dict
        That of `score_image`, with `thin` and `space` besides.
    """
    result, shape = found.open(), truth[0].open().shape
    if shape != result.shape:
        raise UserError(
            f"{found.path} has shape {result.shape}, but its truth {shape}: it was not made of this image; "
            f"delete the folder {found.path} and run snakemake again, which makes its objects again"
        )
    count = len(result.grid)
    check_table(table)
    block = functools.partial(_count_block, truth=truth, found=found)
    blocks = [counted for _, counted in runner.run(block, range(count), count, f"evaluate {table.stem}")]
    of_truth = {label: names[number - 1] for block in blocks for label, number in block.classes.items()}
    of_found = pd.read_csv(table, usecols=["label", "class"], dtype={"class": str}, keep_default_na=False)
    classes = Classes(names, of_truth, dict(zip(of_found["label"].tolist(), of_found["class"].tolist(), strict=True)))
    thin = add(block.thin for block in blocks)
    space = score_space(truth, found, cfg.boundary_tolerance, runner)
    for part in (*truth, found):
        part.check()
    return score_image(add(block.table for block in blocks), cfg.thresholds, classes) | {
        "thin": {"v_rand": v_rand(thin), "v_info": v_info(thin)},
        "space": space,
    }


class Counted(NamedTuple):
    """What a block adds to an image.

    Its contingency table, the same with thinned borders, and the class (a number) of each true object.
    """

    table: Contingency
    thin: Contingency
    classes: dict[int, int]


def _count_block(index: int, truth: Truth, found: Pin) -> Counted:
    result = found.open()
    instances, classes, ignore = (part.open() for part in truth)
    box = result.grid.box(index)
    read = box.grow((0, MAX_STEPS, MAX_STEPS)).clip(result.shape)
    inner, labels, unknown = box.within(read).slices, result.read(read), ignore.read(read)
    thin = thin_borders(labels, unknown)[inner]
    true, labels, unknown = instances.read(box), labels[inner], unknown[inner]
    numbers = contingency(true, classes.read(box))
    known = (numbers.truth > 0) & (numbers.found > 0)
    of_class = dict(zip(numbers.truth[known].tolist(), numbers.found[known].tolist(), strict=True))
    return Counted(contingency(true, labels, unknown), contingency(true, thin, unknown), of_class)
