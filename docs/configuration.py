"""Writes the reference of all options, and their JSON schema: ``python -m docs.configuration``.

Both follow from the models in unet_core/config: ``docs/configuration.md`` is for readers, ``docs/config.schema.json``
for editors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.mkdocs_hooks import anchor
from tests.config_text import as_yaml
from unet_core.config.options import Config

OUTPUT, SCHEMA = Path(__file__).with_suffix(".md"), Path(__file__).with_name("config.schema.json")
INTRODUCTION = """\
# Configuration

`make config` writes this page and [config.schema.json](config.schema.json) from the models in `unet_core/config`.

A configuration is a YAML file: [config.yaml](../config.yaml), or the one that `--configfile` names.
Keys that are not on this page are errors.
Only `datasets` is needed; all else has the default that stands here.

Editors that know JSON schemas complete keys and mark mistakes while you type.
For VS Code's YAML extension, and others with yaml-language-server, this is the first line of the file
(the path is relative to it):

    # yaml-language-server: $schema=docs/config.schema.json

What must agree between keys is checked when a run starts.
"""
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
COUNTS = {"minItems": "at least {}", "maxItems": "at most {}"}
TOP = "The file"
NAMES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def schema() -> dict[str, Any]:
    """JSON schema of a configuration, as the user writes it."""
    whole = Config.model_json_schema(mode="validation")
    for model in (whole, *whole["$defs"].values()):
        for field in model["properties"].values():
            if "patternProperties" in field:
                field["additionalProperties"] = False  # names that the pattern does not take
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def page() -> str:
    """The page: a section for each model, in the order in which a configuration names them."""
    whole = schema()
    parts = [INTRODUCTION]
    for place, model in _sections(whole, whole):
        parts.append(f"## {place or TOP}\n\n{_summary(model)}\n\n{_table(place, model, whole)}")
    return "\n".join(parts)


def _sections(model: dict[str, Any], whole: dict[str, Any], place: str = "") -> list[tuple[str, dict[str, Any]]]:
    """A model and all in it, each with its place in the configuration."""
    found = [(place, model)]
    for name, field in model["properties"].items():
        for step, inner in _models(field, whole):
            found += _sections(inner, whole, _inside(place, name, step))
    return found


def _inside(place: str, name: str, step: str) -> str:
    return f"{place}.{name}{step}".removeprefix(".")


def _models(field: dict[str, Any], whole: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Models that a field holds, with ``.NAME`` where the user chooses the keys, and ``[]`` where it is a list."""
    if "$ref" in field:
        return [("", whole["$defs"][field["$ref"].rpartition("/")[2]])]
    inside = [("", branch) for branch in field.get("anyOf", [])]
    inside += [("[]", field["items"])] if "items" in field else []
    named = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
    inside += [(".NAME", values) for values in named if isinstance(values, dict)]
    return [(step + more, model) for step, inner in inside for more, model in _models(inner, whole)]


def _summary(model: dict[str, Any]) -> str:
    return (model.get("description") or "").partition("\n")[0]


def _table(place: str, model: dict[str, Any], whole: dict[str, Any]) -> str:
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        shown, meaning = f"`{name}`", field.get("description") or ""
        for step, inner in _models(field, whole)[:1]:
            shown = f"[`{name}`](#{anchor(_inside(place, name, step))})"
            meaning = meaning or _summary(inner)
        default = "needed" if name in model.get("required", []) else ""
        if "default" in field and "$ref" not in field:
            default = f"`{as_yaml(field['default'])}`"
        lines.append(f"| {shown} | {_type(field)} | {default} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text that Markdown leaves as it is: patterns have stars, which would become italics."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _type(field: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in field:
        return ", or ".join(dict.fromkeys(map(_type, field["anyOf"])))
    if "$ref" in field:
        return "section"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{as_yaml(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return _list(field)
    if field["type"] == "object":
        return "keys with values"
    limits = [text.format(f"{field[key]:g}") for key, text in LIMITS.items() if key in field]
    return " ".join([NAMES[field["type"]], " and ".join(limits)]).strip()


def _list(field: dict[str, Any]) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {_type(field['prefixItems'][0])}"
    counts = [text.format(field[key]) for key, text in COUNTS.items() if key in field]
    inner = _type(field["items"])
    return f"list of {' and '.join(counts)}: {inner}" if counts else f"list: {inner}"


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
