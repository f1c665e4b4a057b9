"""Files whose content is not here: links of datalad and git-annex, pointers of Git LFS, empty ones."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from unet_core.images.readers import is_url
from unet_core.images.signatures import kind_of
from unet_core.images.zarr_images import chosen_chunks, located

# Bytes that a pointer has at most, and how it begins.
MAX_POINTER = 400
POINTERS = {
    b"version https://git-lfs": "holds no content, but a pointer of Git LFS; get what is missing by git lfs pull",
    b"/annex/objects/": "holds no content, but a pointer of git-annex; get what is missing by git annex get",
}
LINK = "no such file, but a link to one; get what is missing, as by datalad get or git annex get, or remove the link"
DENIED = "cannot be read, since permission is denied; ask for the right to read it"
EMPTY = "is empty; was it copied whole? Copy it again or remove it"
# Chunks of an image of Zarr that are looked at.
CHUNKS = 3


def missing(paths: Iterable[Path]) -> str:
    """What is wrong with files whose content is not here, whatever they are; empty if all is well.

    A path that is not there at all is not told: another message says what is wrong with that.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        for file in () if is_url(path) else _files_of(path):
            if why := _why(file):
                found[why].append(str(file))
    return "; ".join(f"{_few(files)}: {why}" for why, files in found.items())


def _few(files: list[str]) -> str:
    """The first of many names, and how many there are."""
    return files[0] if len(files) == 1 else f"{len(files)} files ({', '.join(files[:3])}{' ...' * (len(files) > 3)})"


def _files_of(path: Path) -> Iterator[Path]:
    """A path, and of an image of Zarr what describes it and a few of its chunks."""
    yield path
    if kind_of(path) == "Zarr" and path.is_dir():
        yield from (path / name for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))
        with contextlib.suppress(Exception):  # of many kinds, where it is damaged; reading its pixels tells that
            found = located(path, "")
            yield from (found.folder / name for name in ("zarr.json", ".zarray"))
            yield from chosen_chunks(found, CHUNKS)


def _why(file: Path) -> str:
    """Why a file cannot be read; empty if it can, or is not there at all."""
    try:
        status = file.stat()
        if not os.access(file, os.R_OK):
            return DENIED
        if status.st_size > MAX_POINTER or file.is_dir():
            return ""
        with file.open("rb") as opened:
            beginning = opened.read(max(map(len, POINTERS)))
    except PermissionError:
        return DENIED
    except OSError:  # also a link that leads to itself
        return LINK if file.is_symlink() else ""
    if not beginning and kind_of(file):
        return EMPTY
    return next((why for start, why in POINTERS.items() if beginning.startswith(start)), "")
