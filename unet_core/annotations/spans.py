"""Where the elements of the lists of a large JSON file stand, found without reading what is in them.

A file with the annotations of all images is asked for one image at a time, and often only for the names of the images:
its brackets and quotation marks are enough to find each element, which is read when it is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

# Bytes that are looked at together.
PIECE = 2**24
QUOTE, BACKSLASH = ord('"'), b"\\"
_SPECIAL = np.zeros(256, bool)
_SPECIAL[list(b'"{}[]')] = True
_STEP = np.zeros(256, np.int8)
_STEP[list(b"{[")], _STEP[list(b"}]")] = 1, -1
_OPENS_LIST = ord("[")


def lists_in(data: bytes, file: Path, name: str) -> dict[str, np.ndarray]:
    """Elements of each list that stands in the object of a JSON file, by its key.

    Parameters
    ----------
    data : bytes
        Content of the file, in UTF-8.
    file : Path
        The file, for errors.
    name : str
        The format, for errors.

    Returns
    -------
    dict of str to ndarray of int64, shape (n + 1, 2)
        Where the list starts and ends, and then where each of its elements does, in bytes. Elements are objects or
        lists themselves; what is in them is not checked.

    Raises
    ------
    ValueError
        If the file is cut short or no object, or a list has other elements.
    """
    problem = f"{file}: is no {name} file ({{}}); is it complete?"
    array = np.frombuffer(data, np.uint8)
    pieces = [np.flatnonzero(_SPECIAL[array[at : at + PIECE]]) + at for at in range(0, len(data), PIECE)]
    at = np.concatenate([np.empty(0, np.int64), *pieces])
    is_quote = array[at] == QUOTE
    at, is_quote = _without_escaped(data, at, is_quote)
    quotes = at[is_quote]
    brackets = at[~is_quote & (np.cumsum(is_quote) % 2 == 0)]
    step = _STEP[array[brackets]].astype(np.int32)
    depth = np.cumsum(step, dtype=np.int32)
    if len(quotes) % 2 or not len(depth) or depth[-1] or (depth[:-1] <= 0).any() or data[brackets[0]] != ord("{"):
        raise ValueError(problem.format("its brackets and quotation marks do not fit together, or it is no object"))
    if data[: brackets[0]].strip() or data[brackets[-1] + 1 :].strip():
        raise ValueError(problem.format("something stands before or after its object"))
    found = {}
    ends = np.flatnonzero((step < 0) & (depth == 1))
    for start in np.flatnonzero((step > 0) & (depth == 2)).tolist():
        end = int(ends[np.searchsorted(ends, start)])
        if data[brackets[start]] == _OPENS_LIST:
            inner = slice(start + 1, end)
            starts = brackets[inner][(step[inner] > 0) & (depth[inner] == 3)]
            stops = brackets[inner][(step[inner] < 0) & (depth[inner] == 2)] + 1
            place = int(brackets[start]), int(brackets[end]) + 1
            key = _key(data, quotes, place[0])
            between = zip([place[0] + 1, *stops.tolist()], [*starts.tolist(), place[1] - 1], strict=True)
            gaps = [data[before:after].strip() for before, after in between]
            if key is None or gaps != ([b"", *[b","] * (len(starts) - 1), b""] if len(starts) else [b""]):
                raise ValueError(problem.format(f"the list {key or 'in it'} holds something else than objects"))
            found[key] = np.vstack([[place], np.stack([starts, stops], axis=1)])
    return found


def _without_escaped(data: bytes, at: np.ndarray, is_quote: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Special bytes without the quotation marks that belong to a text."""
    array = np.frombuffer(data, np.uint8)
    after_backslash = np.flatnonzero(is_quote & (at > 0) & (array[at - 1] == BACKSLASH[0]))
    escaped = []
    for index in after_backslash.tolist():
        since = int(at[index - 1]) + 1 if index else 0
        text = data[since : at[index]]
        if (len(text) - len(text.rstrip(BACKSLASH))) % 2:
            escaped.append(index)
    return np.delete(at, escaped), np.delete(is_quote, escaped)


def _key(data: bytes, quotes: np.ndarray, place: int) -> str | None:
    """The key of a value; None if none stands before it."""
    index = int(np.searchsorted(quotes, place))
    if index < 2 or data[quotes[index - 1] + 1 : place].strip() != b":":
        return None
    try:
        return str(json.loads(data[quotes[index - 2] : quotes[index - 1] + 1]))
    except ValueError:
        return None
