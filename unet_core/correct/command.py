"""Correct what a model found, and learn from it: ``python -m unet_core correct MODEL DATASET --to FOLDER``.

It writes the objects of some samples as files for an annotation tool, and prints the lines of the configuration by
which the corrected ones count before all other annotations of the same images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from unet_core.config.datasets import ConfigError, Dataset
from unet_core.config.options import Config
from unet_core.config.parse import read_config
from unet_core.correct.folder import COCO_FILE, FORMATS, fill, places_of
from unet_core.groundtruth.samples import Sample, expand, find_samples
from unet_core.instances.export import SHAPES, check_objects
from unet_core.runtime import UserError


def correct(
    cfg: Config, model: str, dataset: str, folder: Path, kind: str, best: int, names: Sequence[str] | None = None
) -> str:
    """Write what is to be corrected.

    Parameters
    ----------
    cfg : Config
        The configuration of the run.
    model, dataset : str
        Whose objects.
    folder : Path
        Gets the files, see `unet_core.correct.folder`.
    kind : str
        Format of the files.
    best : int
        How many of the samples that the report would annotate next.
    names : sequence of str, optional
        Names of samples, in the place of these.

    Returns
    -------
    str
        What to tell: how many files there are, and the lines for the configuration.

    Raises
    ------
    UserError
        If there is nothing to be corrected, or it does not fit the format.
    """
    if model not in cfg.models or dataset not in cfg.models[model].predict_on:
        pairs = ", ".join(f"{one} {name}" for one, its in cfg.models.items() for name in its.predict_on)
        raise UserError(f"model {model!r} is not applied to a data set {dataset!r}; there are {pairs}")
    results = Path(expand(cfg.results))
    samples = {sample.name: sample for sample in find_samples(cfg.datasets[dataset])[0]}
    chosen = list(dict.fromkeys(names)) if names else next_ones(results, model, dataset, best)
    if unknown := [name for name in chosen if name not in samples]:
        raise UserError(f"{len(unknown)} samples (as {unknown[0]}) are not in data set {dataset}; run snakemake first")
    if films := [name for name in chosen if samples[name].annotated.time is not None]:
        raise UserError(
            f"{len(films)} of {len(chosen)} samples (as {films[0]}) are time points of a file, whose annotations are "
            "pages of one file too; save each time point as a file of its own"
        )
    stores = {name: results / "instances" / model / f"{dataset}.zarr" / name for name in chosen}
    if absent := [name for name, path in stores.items() if not path.is_dir()]:
        raise UserError(f"{len(absent)} samples (as {absent[0]}) have no objects yet; run snakemake first")
    check_objects([*stores.values()])
    places, classes = places_of([*samples.values()]), cfg.datasets[dataset].classes
    written = fill(folder, kind, stores, places, results / "groundtruth" / f"{dataset}.zarr", classes)
    told = f"correct: {len(written.new)} files in {folder / 'to_do'}; {folder / 'HOW_TO.txt'} says how to go on\n"
    if written.old:
        told += f"correct: {len(written.old)} (as {written.old[0]}) were there already, and stay as they are\n"
    return told + _lines(cfg, model, dataset, _source(folder, kind, classes, [*samples.values()]))


def next_ones(results: Path, model: str, dataset: str, best: int) -> list[str]:
    """Names of the samples that the report would annotate next, the least certain first."""
    path = results / "report" / "annotate_next.csv"
    try:
        rows = pd.read_csv(path, dtype=str)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run snakemake first, or name samples by --samples") from None
    own = rows[(rows["model"] == model) & (rows["dataset"] == dataset)]
    if own.empty:
        raise UserError(
            f"{path} has no sample of data set {dataset} for model {model}: all are annotated, or no probabilities are "
            "stored; name samples by --samples"
        )
    return own.iloc[own["rank"].astype(int).argsort()]["sample"].tolist()[:best]


def _source(folder: Path, kind: str, classes: Sequence[str], samples: Sequence[Sample]) -> dict[str, Any]:
    """The source of annotations that reads what is done."""
    name = "*/{stem}" if len(next(iter(places_of(samples).values())).parts) > 1 else "{stem}"
    file = COCO_FILE if kind == "coco" else name + SHAPES.get(kind, ".tif")
    source: dict[str, Any] = {"format": kind, "path": f"{(folder / 'done').as_posix()}/{file}", "replaces": True}
    if kind == "imagej" and len(classes) > 1:
        source["classes"] = {str(number): name for number, name in enumerate(classes, start=1)}
    return source


def _lines(cfg: Config, model: str, dataset: str, source: dict[str, Any]) -> str:
    """What the configuration is to say."""
    before = [one for one in _sources_of(cfg.datasets[dataset]) if one["path"] != source["path"]]
    lines = ["When some lie in done, let the configuration say", "", "datasets:", f"  {dataset}:", "    annotations:"]
    lines += [f"      - {_flow(one)}" for one in (source, *before)]
    lines += ["", "and run snakemake: only what they touch is made again."]
    if dataset not in cfg.models[model].train_on:
        lines.append(f"To learn from them, add {dataset} to train_on of model {model}.")
    return "\n".join(lines)


def _sources_of(dataset: Dataset) -> list[dict[str, Any]]:
    return [one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in dataset.annotations]


def _flow(value: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.strip()


def main(arguments: list[str]) -> None:
    """Read the command line, and write what is to be corrected."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core correct",
        description="Objects that a model found as files for an annotation tool, to be corrected and learnt from.",
    )
    parser.add_argument("model", help="whose objects")
    parser.add_argument("dataset", help="of which data set")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="gets the files")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--best", type=int, default=10, help="so many that the report would annotate next (default 10)")
    chosen.add_argument("--samples", nargs="+", metavar="NAME", help="names of samples, in their place")
    parser.add_argument("--format", choices=FORMATS, default="labels", help="of the files (default labels)")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the configuration of the run")
    asked = parser.parse_args(arguments)
    try:
        cfg = read_config(asked.config)
        print(correct(cfg, asked.model, asked.dataset, asked.to, asked.format, asked.best, asked.samples))
    except (ConfigError, UserError) as error:
        sys.exit(f"correct: {error}")
