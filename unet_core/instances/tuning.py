"""Which threshold, least size and split make the best objects of samples that a model has not learnt from.

Rule ``tune``: what ``auto`` in the section `instances` stands for. Option after option, the best of some values is
taken, scored on probabilities that the step predict has stored, and on no sample of the test split.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Box, Grid
from unet_core.config.folds import HELD_OUT_SPLIT
from unet_core.config.instances import FixedInstances, Instances
from unet_core.digest import digest
from unet_core.engine import Engine
from unet_core.files import write_atomic
from unet_core.instances.whole import label_objects
from unet_core.method import method
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import Matching, average_precision, matchings
from unet_core.metrics.seg import seg_scores
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.sealed import seal, unseal
from unet_core.store.pins import Pin, pin, pin_labels

logger = logging.getLogger(__name__)

AUTO = "auto"
# What stands for `auto` until something better is found, or where nothing can be learnt.
START: dict[str, Any] = {"threshold": 0.5, "min_size": 0, "split": None}
THRESHOLDS, FINER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (-0.05, 0.05)
# Depths of a split that are tried, by what it goes by: pixels, or probability.
DEPTHS = {"distance": (0.5, 1.0, 2.0, 4.0), "probability": (0.05, 0.1, 0.2, 0.3)}
# Without a cut only a high threshold parts what touches, which with one may be too high: all are looked at again.
ROUNDS = 2
# Shares of the size of the smallest annotated objects: of the one that two percent of them are smaller than.
SHARES, SMALLEST = (0.125, 0.25, 0.5), 0.02
# A gain of less is taken for chance.
LEAST_GAIN = 0.002
IOU = (0.5, 0.75)
SPLITS = ("validation", HELD_OUT_SPLIT)
# Pieces that objects are made of: flat samples, and volumes; and how many voxels are looked at in all.
PIECES: dict[bool, ZYX] = {True: (1, 1024, 1024), False: (64, 256, 256)}
MAX_VOXELS = 2**26


class Piece(NamedTuple):
    """A piece of a sample: its probabilities, its true objects with classes and ignore mask, and where it lies."""

    probabilities: Pin
    truth: tuple[Pin, Pin, Pin]
    box: Box


class Counts(NamedTuple):
    """What objects of some options come to: matches at each IoU threshold, and the SEG score of each true object."""

    matched: tuple[Matching, ...]
    seg: tuple[float, ...]

    def __add__(self, other: Counts) -> Counts:  # type: ignore[override]
        """Counts of both."""
        pairs = zip(self.matched, other.matched, strict=True)
        return Counts(tuple(a + b for a, b in pairs), self.seg + other.seg)

    def score(self, best_by: str) -> float:
        """Mean of the average precisions, or of SEG, from 0 to 1."""
        if best_by == "seg":
            return float(np.mean(self.seg)) if self.seg else 0.0
        return float(np.mean([average_precision(matching) for matching in self.matched]))


def settled(cfg: Instances, tuned: Path | None) -> FixedInstances:
    """Options with numbers for what is ``auto``.

    Parameters
    ----------
    cfg : Instances
        As configured.
    tuned : Path, optional
        Stamp of the rule ``tune``; needed if something is ``auto``, unless what it will say does not matter yet.
    """
    # A stamp of before may lack what is auto only now.
    chosen = START | (read_json(tuned)["chosen"] if tuned is not None and tuned.is_file() else {})
    options = cfg.model_dump()
    return FixedInstances.model_validate(options | {key: chosen[key] for key in START if options[key] == AUTO})


def tune_instances(
    cfg: Instances, *, predict: Mapping[str, Path], groundtruth: Mapping[str, Path], stamp: Path, engine: Engine
) -> None:
    """Choose what is ``auto`` by the samples for validation, or those that each fold has not seen.

    Parameters
    ----------
    cfg : Instances
        Options of the model.
    predict, groundtruth : mapping
        Data set -> stamp, beside the store.
    stamp : Path
        The output file: what was chosen, and each score on the way.
    engine : Engine
        Where pieces are worked on.
    """
    samples = [*_samples(predict, groundtruth)]
    about = {"digest": _digest(cfg, samples), "best_by": cfg.best_by, "by": [name for name, _, _ in samples]}
    kept = stamp.with_suffix("") / "tried.json"
    found = _kept(kept, about)
    if found is None:
        found = about | _tune(cfg, samples, engine)
        write_atomic(kept, seal(found, indent=1).encode())
    else:
        logger.info("tune: nothing has changed")
    write_stamp(stamp, {"step": "tune", **found})


def _digest(cfg: Instances, samples: list[tuple[str, Pin, Any]]) -> str:
    read = [[name, probabilities.digest, truth[0].digest] for name, probabilities, truth in samples]
    return digest(cfg.model_dump(exclude={"measure"}), read, method("tune"))


def _kept(path: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """What was found before, if it was for the same samples and options."""
    try:
        found: dict[str, Any] = unseal(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if about.items() <= found.items() else None


def _tune(cfg: Instances, samples: list[tuple[str, Pin, Any]], engine: Engine) -> dict[str, Any]:
    """What is chosen, scores and settings that were tried."""
    pieces, start = _pieces(samples), settled(cfg, None)
    sizes = np.array([size for _, found in engine.run(_sizes, pieces, len(pieces), "tune, sizes") for size in found])
    auto = [key for key in START if getattr(cfg, key) == AUTO]
    if not len(sizes):
        told = ", ".join(f"{key} is {START[key]}" for key in auto)
        logger.warning("tune: no annotated object in samples for validation, or held out by folds: %s", told)
        return {"chosen": {key: START[key] for key in auto}, "objects": 0, "tried": []}
    rate = functools.partial(_rate, pieces=pieces, engine=engine)
    chosen, tried = search(cfg, start, int(np.quantile(sizes, SMALLEST)), rate)
    for part in (part for _, probabilities, truth in samples for part in (probabilities, *truth)):
        part.check()
    values = {key: getattr(chosen, key) for key in auto}
    scores = {"before": tried[0]["score"], "score": _score_of(chosen, tried)}
    logger.info(
        "tune: %s, by %d samples with %d objects: %s %.3f, with the values of before %.3f",
        ", ".join(f"{key} {value}" for key, value in values.items()),
        *(len(samples), len(sizes), cfg.best_by, scores["score"], scores["before"]),
    )
    return {"chosen": values, **scores, "objects": len(sizes), "tried": tried}


def _score_of(chosen: FixedInstances, tried: list[dict[str, Any]]) -> float:
    return float(next(one["score"] for one in tried if all(one[key] == getattr(chosen, key) for key in START)))


def search(
    cfg: Instances, start: FixedInstances, smallest: int, rate: Callable[[list[FixedInstances]], list[Counts]]
) -> tuple[FixedInstances, list[dict[str, Any]]]:
    """Choose the best value of one option after the other, twice, and at last a finer threshold.

    Parameters
    ----------
    cfg : Instances
        Which options are ``auto``.
    start : FixedInstances
        Where to begin.
    smallest : int
        Voxels of the smallest annotated objects.
    rate : callable
        Counts of some options.

    Returns
    -------
    FixedInstances, list of dict
        The best options, and all that were tried, with their scores; those of `start` are the first.
    """
    known: dict[tuple[Any, ...], float] = {}

    def key(options: FixedInstances) -> tuple[Any, ...]:
        return tuple(getattr(options, name) for name in START)

    def best(now: FixedInstances, option: str, values: Sequence[Any]) -> FixedInstances:
        if getattr(cfg, option) != AUTO and values:
            return now
        candidates = [now, *(now.model_copy(update={option: value}) for value in values)]
        new = [one for one in {key(one): one for one in candidates}.values() if key(one) not in known]
        for one, counts in zip(new, rate(new) if new else [], strict=True):
            known[key(one)] = counts.score(cfg.best_by)
        found = max(candidates, key=lambda one: known[key(one)])
        return found if known[key(found)] >= known[key(now)] + LEAST_GAIN else now

    now = best(start, "threshold", [])
    for _ in range(ROUNDS):
        now = best(now, "threshold", THRESHOLDS)
        now = best(now, "min_size", sorted({int(share * smallest) for share in SHARES}))
        now = best(now, "split", (None, *DEPTHS[cfg.split_by]))
    now = best(now, "threshold", [round(now.threshold + step, 2) for step in FINER])
    return now, [dict(zip(START, values, strict=True)) | {"score": score} for values, score in known.items()]


def _samples(predict: Mapping[str, Path], groundtruth: Mapping[str, Path]) -> Iterator[tuple[str, Pin, Any]]:
    """Samples that the model has not learnt from and that are not for tests: name, probabilities and truth."""
    for dataset, stamp in predict.items():
        truths, truth_store = read_json(groundtruth[dataset])["samples"], groundtruth[dataset].with_suffix(".zarr")
        for name, entry in read_json(stamp)["samples"].items():
            if entry["split"] not in SPLITS:
                continue
            if name not in truths:
                raise UserError(f"{groundtruth[dataset]} has no longer the sample {name}; run snakemake again")
            if labels := truths[name]["labels"]:
                truth = pin_labels(truth_store, name, labels, groundtruth[dataset])
                yield f"{dataset}/{name}", pin(stamp.with_suffix(".zarr") / name, entry["digest"], stamp), truth


def _pieces(samples: list[tuple[str, Pin, Any]]) -> list[Piece]:
    """Pieces of all samples in turn, up to a number of voxels; of each sample those of its middle first."""
    each = []
    for _, probabilities, truth in samples:
        shape = probabilities.open().shape
        grid = Grid(shape, PIECES[shape[0] == 1])
        middle = sorted(grid, key=lambda box: _from_middle(box, grid.shape))
        each.append([Piece(probabilities, truth, box) for box in middle])
    chosen, voxels = list[Piece](), 0
    for turn in range(max(map(len, each), default=0)):
        for piece in (pieces[turn] for pieces in each if turn < len(pieces)):
            voxels += int(np.prod(piece.box.shape))
            if chosen and voxels > MAX_VOXELS:
                return chosen
            chosen.append(piece)
    return chosen


def _from_middle(box: Box, shape: ZYX) -> float:
    ends = zip(box.start, box.stop, shape, strict=True)
    return float(sum(((start + stop - n) / n) ** 2 for start, stop, n in ends))


def _sizes(piece: Piece) -> list[int]:
    """Voxels of each true object of a piece."""
    voxels = np.unique(piece.truth[0].open().read(piece.box), return_counts=True)
    return [size for label, size in zip(*(column.tolist() for column in voxels), strict=True) if label]


def _rate(candidates: list[FixedInstances], pieces: list[Piece], engine: Engine) -> list[Counts]:
    """Counts of each of some options, over all pieces."""
    score = functools.partial(score_piece, candidates=candidates)
    found = dict(engine.run(score, pieces, len(pieces), f"tune, {len(candidates)} settings"))
    # In the order of the pieces, so that sums of rounded numbers do not depend on which was faster.
    columns = zip(*(found[piece] for piece in pieces), strict=True)
    return [functools.reduce(Counts.__add__, column) for column in columns]


def score_piece(piece: Piece, candidates: list[FixedInstances]) -> list[Counts]:
    """Counts of a piece for each of some options."""
    probabilities, (instances, _, ignore) = piece.probabilities.open(), (part.open() for part in piece.truth)
    stored, true, unknown = probabilities.read(piece.box), instances.read(piece.box), ignore.read(piece.box)
    z, y, x = probabilities.pixel_size
    found = []
    for cfg in candidates:
        table = contingency(true, label_objects(stored, cfg, (z / x, y / x, 1.0)), unknown)
        found.append(Counts(tuple(matchings(table, IOU)), tuple(seg_scores(table).tolist())))
    return found
