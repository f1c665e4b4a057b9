"""Secrets in URLs: passwords and tokens reach no log, store or message.

A URL keeps its environment variables as the configuration writes them; they are filled in where it is opened.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from unet_core import patterns
from unet_core.patterns import VARIABLE

_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\")]+")


def filled(path: Path) -> Path:
    """A path as it is opened: of a URL with the values of its environment variables."""
    text = str(path)
    return type(path)(os.path.expandvars(text)) if "://" in text and "$" in text else path


def masked(text: str, path: Path | str = "") -> str:
    """A text for people: without logins and queries of URLs, and without values of the variables of one.

    Parameters
    ----------
    text : str
        As of an error.
    path : Path or str
        The URL whose variables have values that the text may hold.

    Examples
    --------
    >>> masked("404: https://me:secret@host/a.zarr?key=secret")
    '404: https://***@host/a.zarr?***'
    """
    for found in VARIABLE.finditer(str(path)):
        if value := os.environ.get(found[1] or found[2]):
            text = text.replace(value, found[0])
    return _QUERY.sub(r"\1***", _LOGIN.sub(lambda login: login[0] if "$" in login[0] else "***", text))


def written_secret(path: str) -> str:
    """What is wrong with a URL in which a password is written out; empty if there is none."""
    login = _LOGIN.search(path)
    if login is None or ":" not in login[0] or "$" in login[0].partition(":")[2]:
        return ""
    return (
        f"{masked(path)} holds a password, which would be written into results; put it into an environment variable, "
        "as in https://user:$PASSWORD@host/image.zarr"
    )


def unset_variable(path: str) -> str:
    """What is wrong with a path in which an environment variable is left that has no value; empty if there is none."""
    return patterns.unset_variable(path, masked(path))
