"""Text files of annotations, checked while they are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, ParseError

from pydantic import BaseModel, ConfigDict, ValidationError

# Tables for all images of a data set are read at once.
MAX_FILE_BYTES = 2**31
# What some editors write before a text in UTF-8.
BOM = b"\xef\xbb\xbf"


class Record(BaseModel):
    """Part of a file; keys that are not asked for are passed over."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


Document = TypeVar("Document", bound=Record)


def read_json(file: Path, model: type[Document], name: str) -> Document:
    """Content of a JSON file.

    Parameters
    ----------
    file : Path
        The file, in UTF-8.
    model : type
        What it must hold.
    name : str
        The format, for errors.

    Raises
    ------
    ValueError
        If the file is missing, too large, truncated or something else.
    """
    try:
        return model.model_validate_json(read_bytes(file).removeprefix(BOM))
    except ValidationError as error:
        raise ValueError(f"{file}: is no {name} file ({told(error)}); is it complete?") from None


def part_of(content: Any, model: type[Document], file: Path, name: str, place: str) -> Document:
    """Part of a file that was read before, such as one of its objects.

    Parameters
    ----------
    content : Any
        As it was parsed.
    model : type
        What it must be.
    file : Path
        The file, for errors.
    name : str
        The format, for errors.
    place : str
        Where the part stands in the file, for errors.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(
            f"{file}: is no {name} file ({'.'.join([place, *map(str, first['loc'])])}: {first['msg']}); is it complete?"
        ) from None


def told(error: ValidationError) -> str:
    """The first thing that is wrong with a part of a file, and where it stands."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place + ': ' if place else ''}{first['msg']}"


def read_xml(file: Path, name: str) -> Element:
    """Root element of an XML file without document types and entities.

    These are refused, since a small file can fill the memory with them.

    Raises
    ------
    ValueError
        If the file is missing, too large, truncated or something else.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(read_bytes(file), forbid_dtd=True)
    except DefusedXmlException:
        raise ValueError(
            f"{file}: has a document type or entities, which are refused; {name} files have none"
        ) from None
    except (ParseError, LookupError, UnicodeError) as error:
        raise ValueError(f"{file}: is no {name} file ({error}); is it complete?") from None
    return root


def number(element: Element, attribute: str, where: str, default: float | None = None) -> float:
    """Attribute of an element as a finite number.

    Raises
    ------
    ValueError
        If it is none, or missing without a default.
    """
    text = element.get(attribute, default)
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {attribute} must be a number (is: {element.get(attribute)!r})")
    return value


def read_bytes(file: Path) -> bytes:
    """Content of a file of at most `MAX_FILE_BYTES` bytes."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file}: has more than {MAX_FILE_BYTES} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
