"""What made the results of a report, and the command that makes them again."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from unet_core.digest import digest
from unet_core.evaluate.history import read_history
from unet_core.network.ensemble import members_of
from unet_core.runtime import read_json, versions
from unet_core.store.store import read_attributes


def software(pairs: Sequence[tuple[str, str]], results: Path) -> pd.DataFrame:
    """Versions of the software that made the models and the segmentations: one column each, and of this page."""
    columns: dict[str, dict[str, str]] = {}
    for model, dataset in pairs:
        for network, entry in members_of(results / "train" / f"{model}.json").items():
            columns[f"model {network}"] = read_json(Path(entry["model"]) / "model.json").get("versions", {})
        for sample in [*read_json(results / "predict" / model / f"{dataset}.json")["samples"]][:1]:
            attributes = read_attributes(results / "predict" / model / f"{dataset}.zarr" / sample)
            columns[f"{model} on {dataset}"] = attributes.get("provenance", {}).get("versions", {})
    columns["this page"] = versions()
    names = dict.fromkeys(name for column in columns.values() for name in column)
    table = pd.DataFrame(
        [{"software": name} | {key: column.get(name, "-") for key, column in columns.items()} for name in names]
    )
    if all(table[name].isin([*table["this page"], "-"]).all() for name in columns):
        # All the same: one column says it.
        return table[["software", "this page"]].rename(columns={"this page": "version"})
    return table


def arithmetic(pairs: Sequence[tuple[str, str]], results: Path) -> pd.DataFrame:
    """In which arithmetic models were trained and first images segmented, where and why, as far as it is known."""
    rows = []
    for name, entry in _networks(pairs, results).items():
        for number, stretch in enumerate(read_json(Path(entry["model"]) / "model.json").get("precision", [])):
            since = f", from step {stretch['step']:,}" if number else ""
            rows.append((f"model {name}{since}", stretch["chosen"], stretch["device"], stretch["why"]))
    for model, dataset in pairs:
        for sample in [*read_json(results / "predict" / model / f"{dataset}.json")["samples"]][:1]:
            made = read_attributes(results / "predict" / model / f"{dataset}.zarr" / sample).get("provenance", {})
            if found := made.get("precision"):
                asked = (
                    "measured on the device" if made["config"]["precision"] == "auto" else "set in the configuration"
                )
                rows.append((f"{model} on {dataset}", found["chosen"], found["device"], asked))
    return pd.DataFrame(rows, columns=["what", "precision", "device", "reason"])


def _networks(pairs: Sequence[tuple[str, str]], results: Path) -> dict[str, dict[str, str]]:
    """Networks of all models, with their folders."""
    return {
        name: entry
        for model in dict.fromkeys(model for model, _ in pairs)
        for name, entry in members_of(results / "train" / f"{model}.json").items()
    }


def digests(pairs: Sequence[tuple[str, str]], results: Path) -> pd.DataFrame:
    """Digests of data sets (images and annotations), models and evaluations, and when an evaluation was made."""
    datasets = dict.fromkeys(dataset for _, dataset in pairs)
    rows = [
        ("data set", name, digest(read_json(results / "groundtruth" / f"{name}.json")["samples"]), "")
        for name in datasets
    ]
    rows += [
        ("model", name, read_json(results / "train" / f"{name}.json")["weights"], "")
        for name in dict.fromkeys(m for m, _ in pairs)
    ]
    for model, dataset in pairs:
        stamp = results / "evaluate" / model / f"{dataset}.json"
        if stamp.is_file():
            made = read_json(stamp).get("digest", "-")
            lines = read_history(results / "evaluate" / "history" / model / f"{dataset}.jsonl")
            times = [line["time"] for line in lines if line["digest"] == made]
            rows.append(("evaluation", f"{model} on {dataset}", made, times[-1] if times else ""))
    return pd.DataFrame(rows, columns=["what", "name", "digest", "time"])


def config_text(config: dict[str, Any]) -> str:
    """A configuration as YAML, in the order in which it was written."""
    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True, width=120)


def command(config: str, path: Path) -> str:
    """The command that repeats a run with a configuration, environment variables that it names included.

    Examples
    --------
    >>> command("results: out", Path("out/report/config.yaml"))
    'snakemake --configfile out/report/config.yaml'
    """
    named = dict.fromkeys(first or second for first, second in re.findall(r"\$(?:(\w+)|\{(\w+)\})", config))
    variables = [f"{name}={shlex.quote(os.environ[name])}" for name in named if name in os.environ]
    return " ".join([*variables, "snakemake --configfile", shlex.quote(str(path))])
