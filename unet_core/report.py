"""Step report: all scores in one table (CSV, Markdown, LaTeX) and one self-contained HTML page with pictures."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from unet_core import figures
from unet_core.config import Report
from unet_core.cost import HOURS, clock, cost_table
from unet_core.predict import from_stored
from unet_core.runtime import read_json, write_atomic
from unet_core.store import Result, open_image_of, open_labels, open_weights

logger = logging.getLogger(__name__)

FIRST = ["model", "dataset", "split", "n_images", "n_objects", "iou", "dice", "seg", "ap50", "ap75", "pixel_error", "rand_error"]
# Longest side of a preview in pixels: about as large as the page shows it, so that outlines stay visible.
PREVIEW = 640
TEXTS = {"step", "model", "dataset", "split", "sample"}
MEANINGS = {
    "iou, dice": "foreground, pixel by pixel: intersection over union, and Dice coefficient (with a class: of it alone)",
    "seg": "Cell Tracking Challenge: mean Jaccard index of annotated objects with the found object covering more than half of each, else 0",
    "apNN": "average precision: tp / (tp + fp + fn) of objects matched at an IoU of at least NN %",
    "precisionNN, recallNN, f1_NN": "share of found objects that match, share of annotated ones that do, and F1, at the same matching",
    "pqNN, sqNN, rqNN": "panoptic quality and its factors: mean IoU of the matches, and recognition quality (which equals F1)",
    "ap": "mean of AP over the IoU thresholds 0.50, 0.55 ... 0.95",
    "pixel_error": "share of pixels whose foreground is wrong (ISBI 2012)",
    "rand_error": "adapted Rand error over annotated objects, mean of images",
    "voi_split, voi_merge": "variation of information over annotated objects, in bits (0 is best): splits and merges, mean of images",
    "aji": "aggregated Jaccard index, mean of images",
    "v_rand, v_info": "F scores of ISBI 2012 over annotated objects, mean of images, borders as they are",
    "v_rand_thin, v_info_thin": "the same after borders of the result were thinned, as in ISBI 2012",
    "warping_error": "share of pixels that moving borders cannot mend: objects split, merged, lost or made (ISBI 2012)",
    "boundary_f1": "F1 of boundary voxels within evaluate.boundary_tolerance of the other boundary",
    "hausdorff": "95 % Hausdorff distance of boundaries in micrometres (0 is best), mean of images",
    "det": "Cell Tracking Challenge: 1 - cost of mending the result / cost of drawing it all, with annotated masks as markers",
}


def score_table(evaluations: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    """One row per model, data set and split.

    Parameters
    ----------
    evaluations : dict
        (model, data set) -> stamp of the step evaluate.
    """
    rows = [
        {"model": model, "dataset": dataset, "split": split, **scores}
        for (model, dataset), stamp in evaluations.items()
        for split, scores in stamp["scores"].items()
    ]
    table = pd.DataFrame(rows, columns=None if rows else FIRST)
    return table[[*FIRST, *(column for column in table.columns if column not in FIRST)]]


def make_report(
    cfg: Report,
    *,
    evaluations: dict[tuple[str, str], Path],
    predictions: list[tuple[str, str]],
    jobs: dict[str, list[str]],
    results: Path,
    folder: Path,
) -> None:
    """Write tables and page.

    Parameters
    ----------
    cfg : Report
        Options.
    evaluations : dict
        (model, data set) -> stamp of the step evaluate, for annotated data sets.
    predictions : list of (str, str)
        All pairs of model and data set that were segmented.
    jobs : dict
        Step -> names of its jobs, whose cost is shown.
    results : Path
        Folder of all results.
    folder : Path
        Gets ``table.csv`` (all scores), ``table.md`` and ``table.tex`` (the first columns), and ``report.html``.
    """
    table = score_table({key: read_json(path) for key, path in evaluations.items()})
    write_atomic(folder / "table.csv", table.to_csv(index=False, float_format="%.5f").encode())
    shown = table.map(_shown)
    write_atomic(folder / "table.md", markdown(shown[FIRST]).encode())
    write_atomic(
        folder / "table.tex", shown[FIRST].to_latex(index=False, escape=True, column_format="lll" + "r" * (len(FIRST) - 3)).encode()
    )
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    names = list(dict.fromkeys(model for model, _ in predictions))
    page = environment.get_template("report.html.j2").render(
        table=shown,
        first=FIRST,
        texts=TEXTS,
        meanings=MEANINGS,
        models=[_describe_model(name, [d for m, d in predictions if m == name], cfg, results) for name in names],
        weights=_weight_maps(names, cfg, results),
        cost=_shown_cost(cost_table(jobs, results / "benchmarks")),
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "zarr", "dask", "scikit-image")),
    )
    write_atomic(folder / "report.html", page.encode())
    logger.info("report: %s\n%s", folder / "report.html", markdown(shown[FIRST]))


def markdown(table: pd.DataFrame) -> str:
    """Table of text as Markdown, its columns aligned."""
    cells = [[str(column) for column in table.columns], *([str(value) for value in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _shown(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _shown_cost(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(clock) for name in HOURS}).map(_shown)


def _decision(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in values)


def _read_scores(path: Path) -> pd.DataFrame:
    """Table of scores as written by `DataFrame.to_csv`; a sample may be called 007 or NA."""
    return pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])


def _describe_model(name: str, datasets: list[str], cfg: Report, results: Path) -> dict[str, Any]:
    plan, stamp = read_json(results / "plan" / f"{name}.json"), read_json(results / "train" / f"{name}.json")
    model = Path(stamp["model"])
    description, network = read_json(model / "model.json"), plan["network"]
    best = description.get("best", {})
    curves = pd.read_csv(model / "curves.csv").to_dict("list") if (model / "curves.csv").is_file() else None
    classes = f"{plan['channels']} in, {len(plan['classes']) + 1} classes"
    summary = f"{network.get('dimensions', 2)}D, depth {network['depth']}, {network['width']} channels at the first level, {classes}"
    if "validation_iou" in best:
        scores = f"loss {best['validation_loss']:.4f}, foreground IoU {best['validation_iou']:.3f}"
        summary += f"; best validation at step {best['step']:,}: {scores}"
    decisions = [
        {"name": key, "value": _decision(value["value"]), "why": value["why"]}
        for key, value in plan.items()
        if isinstance(value, dict) and "why" in value
    ]
    return {
        "name": name,
        "summary": summary,
        "curves": figures.learning_curves({str(name): values for name, values in curves.items()}) if curves else None,
        "decisions": decisions,
        "datasets": [_describe_pair(name, dataset, cfg, results) for dataset in datasets],
    }


def _describe_pair(model: str, dataset: str, cfg: Report, results: Path) -> dict[str, Any]:
    """Previews and scores per image: of the scored images the worst, the median and the best."""
    samples = read_json(results / "instances" / model / f"{dataset}.json")["samples"]
    scored = results / "evaluate" / model / dataset / "images.csv"
    images = _read_scores(scored) if scored.is_file() else pd.DataFrame()
    if len(images):
        ranked = images.sort_values(["ap50", "iou"])["sample"].tolist()
        notes = {row["sample"]: f"{row['split']}, AP50 {row['ap50']:.3f}, IoU {row['iou']:.3f}" for row in images.to_dict("records")}
    else:
        ranked, notes = sorted(samples), {}
    count = min(cfg.previews, len(ranked))
    chosen = [ranked[round(i * (len(ranked) - 1) / max(count - 1, 1))] for i in range(count)]
    previews = [
        {"pictures": _preview(model, dataset, name, results), "caption": f"{name} ({notes.get(name, samples[name]['split'])})"}
        for name in chosen
    ]
    return {"name": dataset, "previews": previews, "images": images.map(_shown)}


def _preview(model: str, dataset: str, name: str, results: Path) -> figures.Pictures:
    image = open_image_of(results / "groundtruth" / f"{dataset}.zarr", name)
    plane = image.shape[0] // 2
    found = Result(results / "instances" / model / f"{dataset}.zarr" / name).preview(plane, PREVIEW)
    probability = from_stored(Result(results / "predict" / model / f"{dataset}.zarr" / name).preview(plane, PREVIEW))
    truth = ignore = None
    if (results / "groundtruth" / f"{dataset}.zarr" / name / "labels").is_dir():
        truth, ignore = (result.preview(plane, PREVIEW) for result in open_labels(results / "groundtruth" / f"{dataset}.zarr", name)[::2])
    return figures.overlay(image.preview(plane, PREVIEW)[0], found, truth, 1 - probability[0], ignore)


def _weight_maps(models: list[str], cfg: Report, results: Path) -> list[dict[str, Any]]:
    """Full weight maps w_c + border term of some training samples per model."""
    maps = []
    for model in models:
        plan = read_json(results / "plan" / f"{model}.json")
        trained_on = read_json(Path(read_json(results / "train" / f"{model}.json")["model"]) / "model.json").get("trained_on", [])
        if "class_weights" not in plan:
            continue
        w_c = np.array(plan["class_weights"]["value"] + [np.nan] * (256 - len(plan["class_weights"]["value"])))
        for sample in trained_on[: cfg.previews]:
            dataset, _, name = sample.partition("/")
            target_result, border = open_weights(results / "weights" / f"{dataset}.zarr", name)
            plane = target_result.shape[0] // 2
            target = target_result.preview(plane, PREVIEW)
            image = open_image_of(results / "groundtruth" / f"{dataset}.zarr", name).preview(plane, PREVIEW)[0]
            pictures = figures.weight_map(image, target, w_c[target] + border.preview(plane, PREVIEW))
            maps.append({"pictures": pictures, "caption": f"{dataset}: {name}, for model {model}"})
    return maps
