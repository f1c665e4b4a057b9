"""Writes the option sections of config.yaml: ``python -m tests.config_text``.

They are made from the models in unet_core/config/options.py.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unet_core.config.options import Config

PATH = Path(__file__).parent.parent / "config.yaml"
MARK = "# ---- every step, with its defaults ----\n"
WIDTH = 120


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
            lines += _commented(indent, f"{key}: {_yaml(value)}", field.description or "")
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


def _yaml(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if value >= 0.001 or value == 0 else f"{value:.4f}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    head = PATH.read_text(encoding="utf-8").partition(MARK)[0]
    PATH.write_text(head + MARK + options_text(), encoding="utf-8")
