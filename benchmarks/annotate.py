"""Does the ranking of what to annotate next find the images that a model gets wrong? Annotated images answer.

Run it after `make real`.

Of each model of `make real` (or of the results that UNET_RESULTS names) all annotated images of its data sets are
scored, also those it was trained on: their truth says how wrong the model is (1 - AP50, 1 - SEG). Printed is the rank
correlation (Spearman) with that of the score of `annotate_next.csv`, and of the mean entropy over the whole image,
which is the simpler choice.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import average_precision, matchings
from unet_core.metrics.seg import seg_scores
from unet_core.predict.probabilities import with_background
from unet_core.report.uncertainty import entropy, measure_uncertainty
from unet_core.runtime import read_json
from unet_core.store.store import Result, open_labels

ROOT = Path(__file__).parent.parent


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        For each model and data set `<name>_ap50` and `<name>_seg` (correlation of the score of `annotate_next.csv`),
        and the same with `_mean` at the end for the mean over the image.
    """
    results, figures = Path(os.environ.get("UNET_RESULTS", ROOT / "results" / "real")), {}
    stamps = sorted((results / "instances").glob("*/*.json"))
    if not stamps:
        sys.exit(f"benchmarks annotate: no results in {results}; run `make real` first, or set UNET_RESULTS")
    print(
        f"{'model on data set':<32} {'images':>6}  {'score: 1-AP50':>13} {'1-SEG':>6}  "
        f"{'mean: 1-AP50':>12} {'1-SEG':>6}"
    )
    for stamp in stamps:
        model, dataset = stamp.parent.name, stamp.stem
        truths = read_json(results / "groundtruth" / f"{dataset}.json")["samples"]
        names = [name for name in read_json(stamp)["samples"] if truths[name]["split"] != "unannotated"]
        rows = np.array([_sample(results, model, dataset, name) for name in names])
        if len(rows) < 3:
            continue
        found = {}
        for column, measure in enumerate(("ap50", "seg")):
            known = np.isfinite(rows[:, column])
            for score, end in ((2, ""), (3, "_mean")):
                found[f"{dataset}_{measure}{end}"] = round(
                    float(spearmanr(rows[known, score], rows[known, column]).statistic), 3
                )
        score = [found[f"{dataset}_{measure}{end}"] for end in ("", "_mean") for measure in ("ap50", "seg")]
        print(
            f"{model + ' on ' + dataset:<32} {len(rows):>6}  {score[0]:>13.2f} {score[1]:>6.2f}  "
            f"{score[2]:>12.2f} {score[3]:>6.2f}"
        )
        figures |= found
    return figures


def _sample(results: Path, model: str, dataset: str, name: str) -> list[float]:
    """How wrong an image is (1 - AP50, 1 - SEG), its score, and its mean entropy."""
    probability = Result(results / "predict" / model / f"{dataset}.zarr" / name)
    parts = with_background(probability.read_all())
    truth, _, ignore = (labels.read_all() for labels in open_labels(results / "groundtruth" / f"{dataset}.zarr", name))
    table = contingency(truth, Result(results / "instances" / model / f"{dataset}.zarr" / name).read_all(), ignore)
    seg = seg_scores(table)
    return [
        1 - average_precision(matchings(table, [0.5])[0]),
        1 - float(seg.mean()) if len(seg) else np.nan,
        measure_uncertainty(parts).score,
        float(entropy(parts).mean()),
    ]
