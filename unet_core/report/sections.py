"""What the page says of models and data sets: curves, decisions, pictures, distributions, calibration and seams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unet_core.instances.objects import check_table
from unet_core.metrics.reliability import LEVELS, Reliability, count_probabilities
from unet_core.network.ensemble import members_of
from unet_core.pictures import KIND_COLOURS
from unet_core.predict.probabilities import foreground
from unet_core.report import charts
from unet_core.report.gallery import (
    Places,
    View,
    object_views,
    sample_view,
    short,
    tile_view,
    uncertain_view,
    weight_views,
    worst_objects,
)
from unet_core.report.uncertainty import sampled_boxes
from unet_core.runtime import read_json

# Images and objects among the worst that are shown of a model on a data set; pictures of each kind on the whole page.
N_WORST, MAX_VIEWS, MAX_THUMBS = 10, 60, 48
# Rows of a table on the page; all are in the files.
MAX_ROWS = 500
# Samples of which object sizes are read, and voxels of which probabilities are compared with the truth.
MAX_SIZED_SAMPLES, CALIBRATION_VOXELS = 500, 2**24
TEXT_COLUMNS = {"step", "model", "dataset", "split", "sample"}
MAIN_COLUMNS = ["sample", "split", "n_objects", "iou", "dice", "seg", "ap50", "ap75", "pixel_error", "rand_error"]
OBJECT_COLUMNS = ["sample", "label", "voxels", "best_iou", "match", "kind"]


def describe_model(name: str, results: Path) -> dict[str, Any]:
    """The networks of a model, and those that are its own: a model of other models is told of with these."""
    members = members_of(results / "train" / f"{name}.json")
    own = [network for network in members if network.partition(".")[0] == name]
    networks = [describe_network(network, Path(members[network]["model"]), results) for network in own]
    return {"name": name, "mean_of": list(members) if len(members) > 1 else [], "networks": networks}


def describe_tuning(name: str, results: Path) -> dict[str, Any]:
    """What was chosen of a model's options of instances, by which samples, and all settings that were tried."""
    found = read_json(results / "tune" / f"{name}.json")
    values = ", ".join(f"{key} {'none' if value is None else value}" for key, value in found["chosen"].items())
    if not found["tried"]:
        told = f"{values}, as nothing was annotated by which better values could be chosen"
    else:
        measure = "SEG" if found["best_by"] == "seg" else "mean of AP50 and AP75"
        told = (
            f"{values}, chosen by {found['objects']:,} annotated objects in {len(found['by'])} samples that were not "
            f"learnt from: {measure} {found['score']:.3f}, and {found['before']:.3f} without a choice"
        )
    return {"told": told, "tried": pd.DataFrame(found["tried"])}


def describe_network(name: str, model: Path, results: Path) -> dict[str, Any]:
    """Learning curves of a network, its size, and what was decided from the data."""
    plan = read_json(results / "plan" / f"{name}.json")
    description, network = read_json(model / "model.json"), plan["network"]
    best = description.get("best", {})
    curves = pd.read_csv(model / "curves.csv").to_dict("list") if (model / "curves.csv").is_file() else None
    classes = f"{plan['channels']} in, {len(plan['classes']) + 1} classes"
    summary = (
        f"{network.get('dimensions', 2)}D, depth {network['depth']}, "
        f"{network['width']} channels at the first level, {classes}"
    )
    if "validation_iou" in best:
        scores = f"loss {best['validation_loss']:.4f}, foreground IoU {best['validation_iou']:.3f}"
        summary += f"; best validation at step {best['step']:,}: {scores}"
    decided = {key: value for key, value in plan.items() if isinstance(value, dict) and "why" in value}
    decisions = [(key, _decision(value["value"]), value["why"]) for key, value in decided.items()]
    return {
        "name": name,
        "summary": summary,
        "warnings": plan.get("warnings", []),
        # A file from elsewhere is not decoded.
        "tiles": tile_view(model / "tiles.png") if model.resolve() == (results / "train" / name).resolve() else None,
        "curves": charts.learning_curves({str(key): values for key, values in curves.items()}) if curves else [],
        "decisions": pd.DataFrame(decisions, columns=["decision", "value", "reason"]),
    }


def describe_pair(at: Places, previews: int, pairs: int) -> dict[str, Any]:
    """All of a model on a data set.

    Parameters
    ----------
    at : Places
        Model, data set and where the stores are.
    previews : int
        Images that are shown beside the worst ones.
    pairs : int
        Models and data sets on the page, which share its size.
    """
    folder = at.results / "evaluate" / at.model / at.dataset
    samples = read_json(at.results / "instances" / at.model / f"{at.dataset}.json")["samples"]
    images, objects = _read_scores(folder / "images.csv"), _read_objects(folder / "objects.parquet")
    ranked = images.sort_values(["ap50", "iou"])["sample"].tolist() if len(images) else sorted(samples)
    allowed = max(1, MAX_VIEWS // pairs)
    views = [
        sample_view(
            at, name, _of(objects, name) if len(images) else None, _note(name, ranked, samples, images, objects)
        )
        for name in chosen(ranked, N_WORST if len(images) else 0, previews, allowed)
    ]
    stamp = read_json(folder.with_suffix(".json")) if folder.with_suffix(".json").is_file() else {}
    return {
        "name": at.dataset,
        "samples": len(samples),
        "scored": len(images),
        "has_probabilities": at.has_probabilities,
        "views": views,
        "kinds": Counter(objects["kind"]) if len(objects) else Counter(),
        "objects": object_views(
            at, worst_objects(objects, min(N_WORST, allowed)), at.results / "instances" / at.model / at.dataset
        ),
        "charts": _charts(at, images, objects, samples),
        "by_size": [(split, pd.DataFrame(rows)) for split, rows in stamp.get("by_size", {}).items() if rows],
        "confusion": [(split, _confusion(rows)) for split, rows in stamp.get("confusion", {}).items()],
        "images": images[MAIN_COLUMNS].sort_values(["ap50", "iou"]).head(MAX_ROWS) if len(images) else images,
        "seams": _seams(at),
        "empty_blocks": _empty_blocks(at),
    }


def chosen(ranked: Sequence[str], worst: int, spread: int, most: int) -> list[str]:
    """Names to be shown, in their order: the first ones, and some evenly spread from the first to the last.

    Examples
    --------
    >>> chosen("abcdefghi", worst=2, spread=3, most=10)
    ['a', 'b', 'e', 'i']
    """
    count = min(spread, len(ranked))
    evenly = [round(i * (len(ranked) - 1) / max(count - 1, 1)) for i in range(count)]
    positions = list(dict.fromkeys([*evenly, *range(min(worst, len(ranked)))]))[:most]
    return [ranked[place] for place in sorted(positions)]


def annotation_views(ranking: pd.DataFrame, results: Path) -> list[tuple[str, list[View]]]:
    """Thumbnails of the images to annotate next, by model and data set."""
    groups = []
    pairs = ranking.groupby(["model", "dataset"], sort=False)
    for (model, dataset), rows in pairs:
        at = Places(results, str(model), str(dataset))
        first = rows.head(max(1, min(12, MAX_THUMBS // len(pairs))))
        views = [
            uncertain_view(at, row["sample"], row["plane"], f"rank {row['rank']}, uncertainty {row['uncertainty']:.3f}")
            for row in first.to_dict("records")
        ]
        groups.append((f"{model} on {dataset}", views))
    return groups


def weight_maps(models: Sequence[str], previews: int, results: Path) -> list[tuple[str, list[View]]]:
    """Full weight maps w_c + border term of some training samples per model."""
    maps = []
    for model in models:
        # The first fold stands for all, whose maps differ by their class weights alone.
        network, folder = next(
            (name, entry["model"]) for name, entry in members_of(results / "train" / f"{model}.json").items()
        )
        if network.partition(".")[0] != model:
            continue
        plan = read_json(results / "plan" / f"{network}.json")
        trained_on = read_json(Path(folder) / "model.json").get("trained_on", [])
        if "class_weights" in plan:
            for sample in trained_on[: max(1, min(previews, MAX_VIEWS // 3 // len(models)))]:
                dataset, _, name = sample.partition("/")
                views = weight_views(results, dataset, name, plan["class_weights"]["value"])
                maps.append((f"{dataset}: {short(name)}, for model {model}", views))
    return maps


def _charts(at: Places, images: pd.DataFrame, objects: pd.DataFrame, samples: dict[str, Any]) -> list[charts.Chart]:
    shown = []
    names = images["sample"].tolist() if len(images) else sorted(samples)
    some = names[:: -(-len(names) // MAX_SIZED_SAMPLES)] if names else []
    tables = at.results / "instances" / at.model / at.dataset
    found = [
        charts.count_sizes(
            pd.read_parquet(check_table(tables / f"{name}.parquet"), columns=["voxels"])["voxels"].to_numpy()
        )
        for name in some
    ]
    sizes = {"found": np.sum(found, axis=0)} if found else {}
    if len(images):
        true = objects[objects["label"] > 0]
        sizes["annotated"] = charts.count_sizes(true.loc[true["sample"].isin(some), "voxels"].to_numpy())
        if len(images) > 1:
            measures = {"IoU": "iou", "SEG": "seg", "AP50": "ap50", "AP75": "ap75"}
            shown.append(charts.score_chart({text: images[name].to_numpy(float) for text, name in measures.items()}))
        if len(true):
            shown.append(charts.overlap_chart(true["best_iou"].to_numpy(float)))
    if sizes:
        shown.append(charts.size_chart(sizes))
    counts = _calibration(at, names) if len(images) and at.has_probabilities else None
    if counts is not None and counts.voxels.any():
        shown.append(charts.calibration_chart(counts))
    return shown


def _calibration(at: Places, names: list[str]) -> Reliability:
    """Probabilities against the truth, in places that are regularly spread over some of the scored samples."""
    total = Reliability(np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))
    some = names[:: -(-len(names) // 64)]
    for name in some:
        truth, ignore = at.labels(name)[::2]
        probability = at.result("predict", name)
        for box in sampled_boxes(probability.shape, CALIBRATION_VOXELS // len(some)):
            counts = count_probabilities(foreground(probability.read(box)), truth.read(box), ignore.read(box))
            total = Reliability(total.voxels + counts.voxels, total.foreground + counts.foreground)
    return total


def _seams(at: Places) -> pd.DataFrame:
    """The seam audit of each sample that has block borders, the largest difference first."""
    samples = read_json(at.results / "predict" / at.model / f"{at.dataset}.json")["samples"]
    rows = [{"sample": name} | entry["audit"] for name, entry in samples.items() if "audit" in entry]
    table = pd.DataFrame(rows, columns=["sample", "windows", "across", "inside"])
    return table.sort_values("across", ascending=False, kind="stable").head(MAX_ROWS)


def _empty_blocks(at: Places) -> pd.DataFrame:
    """Blocks of each sample that has empty ones, the sample with the most of them first."""
    samples = read_json(at.results / "predict" / at.model / f"{at.dataset}.json")["samples"]
    rows = [(name, entry["empty"], entry["blocks"]) for name, entry in samples.items() if entry.get("empty")]
    table = pd.DataFrame(rows, columns=["sample", "empty blocks", "blocks"])
    return table.sort_values("empty blocks", ascending=False, kind="stable")


def _confusion(rows: list[list[Any]]) -> pd.DataFrame:
    """Objects of each annotated class (rows) by the class that they were found as."""
    names = [row[0] for row in rows[:-1]]
    table = pd.DataFrame(rows, columns=["annotated as", *(f"found as {name}" for name in names), "missed"])
    return table.assign(**{"annotated as": [*names, "(spurious)"]})


def _note(name: str, ranked: list[str], samples: dict[str, Any], images: pd.DataFrame, objects: pd.DataFrame) -> str:
    if not len(images):
        return samples[name]["split"]
    row = images[images["sample"] == name].iloc[0]
    kinds = Counter(_of(objects, name)["kind"])
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KIND_COLOURS if kinds[kind]) or "no objects"
    rank = f"rank {ranked.index(name) + 1} of {len(ranked)} from the worst"
    return f"{row['split']}, AP50 {row['ap50']:.3f}, IoU {row['iou']:.3f}, {rank}; {counts}"


def _of(objects: pd.DataFrame, sample: str) -> pd.DataFrame:
    return objects[objects["sample"] == sample] if len(objects) else pd.DataFrame(columns=OBJECT_COLUMNS)


def _decision(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in values)


def _read_scores(path: Path) -> pd.DataFrame:
    """Table of scores as written by `DataFrame.to_csv`; a sample may be called 007 or NA."""
    if not path.is_file():
        return pd.DataFrame()
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])


def _read_objects(path: Path) -> pd.DataFrame:
    """The columns that are needed of the table of objects, few of which are long texts."""
    empty = pd.DataFrame(columns=OBJECT_COLUMNS)
    if not path.is_file():
        return empty
    table = pd.read_parquet(path)
    return (
        table[OBJECT_COLUMNS].astype({"sample": "str", "kind": "str"})
        if set(OBJECT_COLUMNS) <= set(table.columns)
        else empty
    )
