"""Writes what follows from the code into config.yaml and docs/annotations.md: ``python -m tests.config_text``.

The option sections come from the models in unet_core/config/options.py, the annotation formats from the table in
unet_core/config/formats.py.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.options import Config

ROOT = Path(__file__).parent.parent
PATH, DOCS = ROOT / "config.yaml", ROOT / "docs" / "annotations.md"
MARK = "# ---- every step, with its defaults ----\n"
WIDTH = 120
# What stands before and after the formats.
IN_CONFIG = ("    annotations: # none: the data set is only segmented\n", "      # More keys of a source")
IN_DOCS = ("Formats, as `unet_core/config/formats.py` describes them:\n\n", "\n## Names and folders")


def options_text() -> str:
    """Sections of the steps as YAML, each option with its default and its description."""
    lines = []
    for name, field in Config.model_fields.items():
        if name not in ("results", "datasets", "models"):
            section = field.default
            summary = (type(section).__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{name}: # {summary}", *_options(section, "  ")]
    return "\n".join(lines) + "\n"


def _options(section: BaseModel, indent: str) -> list[str]:
    lines = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            lines += [
                f"{indent}{key}: # {(type(value).__doc__ or '').strip().splitlines()[0]}",
                *_options(value, indent + "  "),
            ]
        else:
            lines += _commented(indent, f"{key}: {as_yaml(value)}", field.description or "")
    return lines


def _commented(indent: str, option: str, comment: str) -> list[str]:
    """An option and its comment, which stands above it where one line cannot hold both."""
    line = f"{indent}{option} # {comment}"
    if len(line) <= WIDTH:
        return [line]
    start = f"{indent}# "
    wrapped = textwrap.wrap(
        comment, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False, break_long_words=False
    )
    return [*wrapped, indent + option]


def as_yaml(value: Any) -> str:
    """A value as config.yaml has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if value >= 0.001 or value == 0 else f"{value:.4f}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    return json.dumps(value)


def formats_comment() -> str:
    """The annotation formats as comments of a data set in config.yaml."""
    names = [f"{one.name}: {one.summary}" for one in DESCRIPTIONS.values()]
    width = max(map(len, names))
    paths = [one.path for one in DESCRIPTIONS.values()]
    lines = [f"      # {name:<{width}} path: {path}" for name, path in zip(names, paths, strict=True)]
    return "\n".join(lines) + "\n"


def formats_table() -> str:
    """The annotation formats as a table of docs/annotations.md."""
    lines = ["| format | what it is | `path`, for example | classes | more |", "|---|---|---|---|---|"]
    for one in DESCRIPTIONS.values():
        more = [
            one.note,
            "`ignore_label`" if one.ignore_label else "",
            "[large ones in pieces](#labels)" if one.in_pieces else "",
            f"no `{one.refused[0]}`" if one.refused else "",
        ]
        cells = [
            f"[`{one.name}`](#{one.name})",
            one.summary,
            f"`{one.path}`",
            one.classes or "one per source",
            "; ".join(filter(None, more)),
        ]
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def between(text: str, marks: tuple[str, str]) -> tuple[str, str, str]:
    """What stands before, between and after two marks in a text, the marks with what is outside."""
    start = text.index(marks[0]) + len(marks[0])
    stop = text.index(marks[1], start)
    return text[:start], text[start:stop], text[stop:]


if __name__ == "__main__":
    before, _, after = between(PATH.read_text(encoding="utf-8").partition(MARK)[0], IN_CONFIG)
    PATH.write_text(before + formats_comment() + after + MARK + options_text(), encoding="utf-8")
    before, _, after = between(DOCS.read_text(encoding="utf-8"), IN_DOCS)
    DOCS.write_text(before + formats_table() + after, encoding="utf-8")
