"""What all sections of the configuration are, and how one is changed by another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """Frozen, and a misspelt key is an error.

    An option that came after release 0.1.0 says so (``json_schema_extra={"since": "0.2.0"}``). Where it has its
    default, it is left out of what a section is written as, and so of digests and params: what was made before there
    was such an option stays valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "since" in extra and getattr(self, name) == field.get_default():
                values.pop(name, None)
                values.pop(field.alias or name, None)
        return values


def plain(section: Any) -> dict[str, Any]:
    """A section as builtins."""
    return dict(section.model_dump(mode="json", by_alias=True))


def override(section: Any, own: Mapping[str, Any]) -> Any:
    """A section with some of its keys replaced."""
    return type(section).model_validate(merge(section.model_dump(), own)) if own else section


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own`, also inside of nested sections."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
