"""JSON that carries its own checksum, for what is remembered from run to run and stands nowhere else.

What former versions wrote has none, and is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_core.digest import digest
from unet_core.files import write_atomic

KEY = "checksum"
# How the name of the copy of a damaged file ends.
ASIDE = ".damaged"


def seal(value: Mapping[str, Any], indent: int | None = None) -> str:
    """A value as JSON with its checksum.

    Examples
    --------
    >>> unseal(seal({"a": 1})), unseal('{"a": 1}')
    ({'a': 1}, {'a': 1})
    >>> unseal('{"a": 2, "checksum": "that of another value"}')
    Traceback (most recent call last):
    ValueError: its checksum is another one
    """
    plain = json.loads(json.dumps(value))  # as it will be read: keys are strings, tuples are lists
    return json.dumps(plain | {KEY: digest(plain)}, indent=indent, allow_nan=False)


def unseal(text: bytes | str) -> dict[str, Any]:
    """The value in such a text, without its checksum.

    Raises
    ------
    ValueError
        If it is damaged, in a few words.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise ValueError("it cannot be read") from None
    if not isinstance(value, dict):
        raise ValueError("it cannot be read")
    # A checksum is text; in a file of former versions, in which names of samples are keys, it would be none.
    if isinstance(value.get(KEY), str) and value.pop(KEY) != digest(value):
        raise ValueError("its checksum is another one")
    return value


def unseal_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Values in the lines of a file, and how many other lines there are, which are damaged; a missing file has none."""
    found, damaged = list[dict[str, Any]](), 0
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        if line:
            try:
                found.append(unseal(line))
            except ValueError:
                damaged += 1
    return found, damaged


def keep_aside(path: Path) -> Path:
    """Copy a damaged file to another name beside it, so that it may be written anew and nothing is lost; that name."""
    aside = path.with_name(path.name + ASIDE)
    write_atomic(aside, path.read_bytes())
    return aside
