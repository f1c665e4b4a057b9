"""The proposed configuration as commented YAML."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from unet_core.config.datasets import Dataset
from unet_core.init.trial import Trial, fields_of

WIDTH = 120
# Options in the order in which a data set has them.
ORDER = [*Dataset.model_fields]
PLAIN = re.compile(r"[A-Za-z_][\w-]*|-?\d+")
# What YAML takes for something else than text.
WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


def config_text(trials: dict[str, Trial], folder: str, command: str) -> str:
    """The configuration with comments: what was recognised, and what is unsure.

    Parameters
    ----------
    trials : dict
        Name of each data set -> what was proposed and tried.
    folder : str
        The folder that was looked through, for the comment.
    command : str
        What to run next.
    """
    lines = [
        *_comment(f"Proposed by 'python -m unet_core init' for the files in {folder}.", ""),
        *_comment("Look at the lines with 'unsure', then run", ""),
        f"#     {command}",
        *_comment("Paths are relative to the folder in which the pipeline runs.", ""),
        *_comment("All other options, with their defaults, stand in config.yaml of the pipeline.", ""),
        "",
        "results: results # folder of everything that is made",
        "",
        "datasets:",
    ]
    for name, trial in trials.items():
        lines += [*_dataset(name, trial), ""]
    if not any(trial.sources for trial in trials.values()):
        lines += [
            *_comment("Nothing is annotated: name a model that was trained elsewhere, or add annotations.", ""),
            "# models:",
            f"#   bought: {{path: models/bought, predict_on: [{', '.join(trials)}]}}",
            "",
        ]
    overlapping = {name: trial.overlapping for name, trial in trials.items() if trial.overlapping}
    if overlapping:
        told = ", ".join(f"{count} pixels in {name}" for name, count in overlapping.items())
        lines += [
            "groundtruth:",
            *_comment(f"unsure: objects overlap ({told}): error stops there; later or smaller: that object wins", "  "),
            "  overlaps: ignore # pixels of several objects are neither learnt nor scored",
            "",
        ]
    return "\n".join(lines)


def _dataset(name: str, trial: Trial) -> list[str]:
    lines = [f"  {name}: # {_described(trial)}"]
    for problem in trial.problems:
        lines += _comment(f"problem: {problem}", "    ")
    for note in trial.notes:
        lines += _comment(f"note: {note}", "    ")
    ordered = sorted(trial.keys.items(), key=lambda item: ORDER.index(item[0]))
    for key, value in ordered:
        if key == "annotations":
            lines += _sources(trial)
        else:
            lines += _option(key, value, trial.why.get(key) or fields_of(key), trial.unsure.get(key), "    ")
    return lines


def _described(trial: Trial) -> str:
    counted = f"{trial.samples} images" if trial.samples != 1 else "1 image"
    return f"{counted}, {trial.annotated} of them annotated"


def _sources(trial: Trial) -> list[str]:
    lines = ["    annotations:"]
    for source in trial.sources:
        start = "      - "
        for key, value in source.keys.items():
            why = {"format": source.why, "path": f"found for {trial.annotated} of {trial.samples} images"}.get(key)
            why = why or fields_of(key)
            lines += _option(key, value, why, source.unsure.get(key), start)
            start = "        "
    return lines


def _option(key: str, value: Any, why: str, unsure: str | None, indent: str) -> list[str]:
    """An option with its comments; those that do not fit into its line stand above it."""
    plain = indent.replace("- ", "")
    above = _comment(f"unsure: {unsure}", plain) if unsure else []
    line = f"{indent}{key}: {written(value)}"
    if why and len(line) + len(why) + 3 <= WIDTH:
        line += f" # {why}"
    elif why:
        above = [*_comment(why, plain), *above]
    return [*above, line]


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    flat = "".join(sign if sign.isprintable() else " " for sign in text)
    return textwrap.wrap(
        flat, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False, break_long_words=False
    )


def written(value: Any) -> str:
    """A value in YAML.

    Examples
    --------
    >>> written({"test": ["a 1", "no"], "validation": 0}), written("zyx")
    ('{test: ["a 1", "no"], validation: 0}', 'zyx')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(str(key))}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in WORDS and not value[-1].isdigit():
        return value
    return json.dumps(value, ensure_ascii=False)
