"""Classes that annotations name and the data set does not have, and the messages about problems of samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# Names that a line lists of those with the same problem.
MAX_NAMES = 5


class UnknownClasses(ValueError):
    """Annotations of a sample name classes that the data set does not have."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names


def merged(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of messages, of which those that differ in a name and in numbers alone are one, with their count.

    Parameters
    ----------
    lines : iterable of (str, str)
        Name of a sample, file or source, and what is to be told of it. The name may stand in the text too.

    Returns
    -------
    list of str
        ``name: text`` in the order of the lines; of several that are alike the first, with their number and first
        names. The text alone where the name is empty.

    Examples
    --------
    >>> merged([("t1", "masks/t1.tif: has 3 pages"), ("t2", "is cut short"), ("t3", "masks/t3.tif: has 12 pages")])
    ['t1: masks/t1.tif: has 3 pages (2 like this: t1, t3)', 't2: is cut short']
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, text in lines:
        groups.setdefault(_without_names(name, text), []).append((name, text))
    told = []
    for (name, text), *others in groups.values():
        names = list(dict.fromkeys([name, *(other for other, _ in others)]))
        like = f"{len(others) + 1} like this"
        if names != [""]:
            like += f": {', '.join(names[:MAX_NAMES])}"
            like += f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        told.append(f"{name}: {text}" if name else text)
        if others:
            told[-1] += f" ({like})"
    return told


def _without_names(name: str, text: str) -> str:
    """A text in which nothing is left of a name and of numbers, by which texts are compared."""
    if name:
        # As part of a path or in quotes a name is no word of the text, nor is one of several letters by itself.
        alone = r"(?!\w)" if len(name) > 3 else r"(?=[./\\'\"_:])"
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}{alone}", "*", text)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def problem_lines(problems: Mapping[str, Exception], classes: Sequence[str]) -> list[str]:
    """One line for each kind of problem of the samples, and one for the unknown classes of all samples.

    Examples
    --------
    >>> problem_lines({"a": ValueError("truncated")}, ["cell"])
    ['a: truncated']
    """
    unknown = {sample: error.names for sample, error in sorted(problems.items()) if isinstance(error, UnknownClasses)}
    lines = merged((sample, str(error)) for sample, error in sorted(problems.items()) if sample not in unknown)
    if unknown:
        names = ", ".join(sorted({repr(name) for several in unknown.values() for name in several}))
        shown = ", ".join([*unknown][:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        lines.append(
            f"annotations of {shown} name the classes {names}, but classes says {', '.join(classes)}; "
            "add them there, map them with the classes of the source, or give it a class for all its objects"
        )
    return lines
