"""Patterns of paths and names: ``*``, ``?``, ``[...]`` and ``**`` as a shell has them, and ``{stem}`` for a name.

A name counts as a name before it counts as a pattern: ``plate [1]/*.tif`` finds the images in a folder of this name.
Names are compared in Unicode's composed form (NFC), since file systems and tools write the same name in two forms.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

STEM = "{stem}"
# What stands before the ending of OME-TIFF and OME-Zarr, and is part of a name for some tools and not for others.
OME = ".ome"
# An environment variable in a path.
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
# An ending of two parts.
NIFTI_GZ = ".nii.gz"


class Match(NamedTuple):
    """A file or folder that fits a pattern.

    Attributes
    ----------
    path : Path
        The file or folder.
    stem : str or None
        What stands for ``{stem}``; None where the pattern does not have it.
    folders : tuple of str
        Names of the folders that wildcards stand for, from the root on.
    """

    path: Path
    stem: str | None = None
    folders: tuple[str, ...] = ()


def nfc(name: str) -> str:
    """Name in Unicode's composed form, as it is compared.

    Examples
    --------
    >>> len("u" + chr(0x308)), len(nfc("u" + chr(0x308)))
    (2, 1)
    """
    return unicodedata.normalize("NFC", name)


def ending_of(path: Path | str) -> str:
    """Ending of the name of a file, as written; that of compressed NIfTI has two parts.

    Examples
    --------
    >>> ending_of("a/b.c.TIF"), ending_of(Path("a/b.c.nii.gz")), ending_of("b.csv.gz"), ending_of("b")
    ('.TIF', '.nii.gz', '.gz', '')
    """
    path = Path(path) if isinstance(path, str) else path
    name = path.name
    return name[-len(NIFTI_GZ) :] if name.lower().endswith(NIFTI_GZ) and len(name) > len(NIFTI_GZ) else path.suffix


def name_without_ending(path: Path | str) -> str:
    """Name of a file without its ending, as `ending_of` has it.

    Examples
    --------
    >>> name_without_ending("a/b.c.TIF"), name_without_ending(Path("a/b.c.nii.gz")), name_without_ending("b")
    ('b.c', 'b.c', 'b')
    """
    name = Path(path).name if isinstance(path, str) else path.name
    return name.removesuffix(ending_of(path)) if ending_of(path) else name


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those listed, or fits one of them as a pattern.

    Examples
    --------
    >>> fits("img[1]", ["img[1]"]), fits("img1", ["img[1]"]), fits("a", ["b*"])
    (True, True, False)
    """
    name = nfc(name)
    return any(name == nfc(pattern) or fnmatch.fnmatchcase(name, nfc(pattern)) for pattern in patterns)


def names_first(patterns: Iterable[str], names: Collection[str]) -> list[str]:
    """Patterns of which those that are names, as ``img[1]``, stand for these alone.

    Examples
    --------
    >>> names_first(["img[1]", "a*"], {"img[1]", "img1"})
    ['img[[]1]', 'a*']
    """
    composed = {nfc(name) for name in names}
    return [_literal(pattern) if nfc(pattern) in composed else pattern for pattern in patterns]


def has_wildcards(text: str) -> bool:
    """Whether a text holds ``*``, ``?`` or ``[``."""
    return any(sign in text for sign in "*?[")


def matching(pattern: str, stems: Collection[str] | None = None) -> list[Match]:
    """All files and folders that fit a pattern, in the order of their paths.

    Each folder is listed once, so that the time is that of listing them.

    Parameters
    ----------
    pattern : str
        Path; wildcards find no names that begin with a point, and ``**`` follows no link to a folder that it has seen.
    stems : collection of str, optional
        What ``{stem}`` may stand for (in NFC). Where wildcards stand beside it, a file may fit for several of them, and
        is a match for each. A file that fits for none of them is a match too, with what would stand there.

    Examples
    --------
    >>> matching("no/such/folder/*.tif")
    []
    """
    path = Path(pattern)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    start = Match(Path(path.root) if path.is_absolute() else Path())
    found = [start]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        found = [after for before in found for after in _step(before, part, stems, last)]
    unique = dict.fromkeys(found)
    return sorted(unique, key=lambda match: (str(match.path), match.stem or ""))


def on_disk(path: str) -> str:
    """A path without wildcards as the file system writes it, which may have its names in another form of Unicode."""
    if path.isascii() or STEM in path or has_wildcards(path) or Path(path).exists():
        return path
    return next((str(match.path) for match in matching(path)), path)


def _step(before: Match, part: str, stems: Collection[str] | None, last: bool) -> Iterator[Match]:
    """The members of a folder that fit a part of a pattern."""
    if part == "**":
        for folder in _folders_below(before.path):
            yield Match(folder, before.stem, (*before.folders, *folder.relative_to(before.path).parts))
        return
    known = before.stem
    plain = part.replace(STEM, known) if known is not None else part
    if STEM not in plain and (not has_wildcards(plain) or (before.path / plain).exists()):
        if (before.path / plain).exists():
            yield before._replace(path=before.path / plain)
            return
        # The same name in another Unicode form.
        same = [name for name in _names(before.path) if nfc(name) == nfc(plain)] if not plain.isascii() else []
        yield from (before._replace(path=before.path / name) for name in same)
        return
    wild = has_wildcards(part)
    for name in _names(before.path):
        if name.startswith(".") and not part.startswith("."):
            continue
        if not last and not (before.path / name).is_dir():
            continue
        folders = before.folders if last or not wild else (*before.folders, name)
        if known is not None:
            if _expression(part.replace(STEM, _literal(known))).fullmatch(nfc(name)):
                yield Match(before.path / name, known, folders)
        elif STEM not in part:
            if _expression(part).fullmatch(nfc(name)):
                yield Match(before.path / name, None, folders)
        else:
            for stem in _stems_in(nfc(name), part, stems):
                yield Match(before.path / name, stem, folders)


def _stems_in(name: str, part: str, stems: Collection[str] | None) -> list[str]:
    """What ``{stem}`` of a part of a pattern may stand for in a name."""
    before, _, after = part.partition(STEM)
    first, rest = _expression(before), _expression(after.replace(STEM, "*") if STEM in after else after)
    starts = [len(before)] if not has_wildcards(before) else range(len(name) + 1)
    stops = [len(name) - len(after)] if not has_wildcards(after) and STEM not in after else range(len(name), -1, -1)
    fitting = [
        name[start:stop]
        for start in starts
        if first.fullmatch(name[:start])
        for stop in stops
        if start < stop and rest.fullmatch(name[stop:])
    ]
    if STEM in after:
        fitting = [stem for stem in fitting if _expression(part.replace(STEM, _literal(stem))).fullmatch(name)]
    if stems is not None and (known := [stem for stem in dict.fromkeys(fitting) if stem in stems]):
        return known
    return fitting[:1]


def _literal(text: str) -> str:
    """Text whose signs stand for themselves in a pattern."""
    return re.sub(r"([*?[])", r"[\1]", text)


@functools.lru_cache(maxsize=1024)
def _expression(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(nfc(part)))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # no folder, or not for us: nothing in it fits
        return []


def _folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all below it."""
    seen, waiting = set[str](), [folder]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        yield here
        with_folders = (here / name for name in _names(here) if not name.startswith("."))
        waiting += sorted((path for path in with_folders if path.is_dir()), reverse=True)


def unset_variable(path: str, shown: str = "") -> str:
    """What is wrong with a path in which an environment variable is left that has no value; empty if there is none.

    `shown` is what of the path may be told.
    """
    unset = next((found[0] for found in VARIABLE.finditer(path) if (found[1] or found[2]) not in os.environ), "")
    return f"the environment variable {unset} in {shown or path!r} is not set" if unset else ""
