"""Results that are no longer wanted, and what killed runs left behind: taken away at once, deleted afterwards."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from unet_core.files import PARTIAL

# Seconds after which what looks as if it was in the making is a leftover of a killed run.
LATELY = 3600


def remove(path: Path) -> None:
    """Delete a result; it vanishes at once, even where deleting its files takes long."""
    if trash := move_to_trash(path):
        shutil.rmtree(trash, ignore_errors=True)  # another run may be cleaning up


def move_to_trash(path: Path) -> Path | None:
    """Move a result away; None if there is none (any more)."""
    trash = path.with_name(f".{path.name}.{uuid.uuid4().hex}.trash")
    with contextlib.suppress(FileNotFoundError):
        return path.rename(trash)
    return None


def remove_others(store: Path, keep: set[str], of_use: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Delete the results of samples that are no longer in the data set, and leftovers of killed runs.

    Parameters
    ----------
    store : Path
        Of the data set.
    keep : set of str
        Names of its samples.
    of_use : callable
        Whether a folder of another name is of use. A set of those that there are would not do: another run may make
        one after they were looked up.

    Returns
    -------
    list of str
        What was deleted.
    """
    here = store.iterdir() if store.is_dir() else []
    found = [path for path in here if path.is_dir() and path.name not in keep and not of_use(path.name)]
    gone = [path for path in found if not _in_the_making(path)]
    for path in gone:
        remove(path)
    for leftover in (path for pattern in ("*/.*", "*/labels/.*") for path in store.glob(pattern)):
        if leftover.is_dir() and not _in_the_making(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    return [path.name for path in gone]


def _in_the_making(path: Path) -> bool:
    """Whether another run may just be beginning this result; an old one is a leftover of a killed run."""
    return path.suffix == PARTIAL and changed_lately(path)


def changed_lately(path: Path) -> bool:
    """Whether a folder, or one in it, got or lost files within the last hour: another run may be at work there."""
    try:
        folders = [path, *(inner for inner in path.iterdir() if inner.is_dir())] if path.is_dir() else [path]
        return max(folder.stat().st_mtime for folder in folders) > time.time() - LATELY
    except FileNotFoundError:  # renamed meanwhile
        return True


def remove_other_files(folder: Path, suffix: str, keep: set[str]) -> int:
    """Delete the files of samples that are no longer in the data set, and say how many there were."""
    others = [path for path in folder.glob(f"*{suffix}") if path.name.removesuffix(suffix) not in keep]
    for path in others:
        path.unlink(missing_ok=True)
    return len(others)


def also_removed(count: int) -> str:
    """How a step ends its line about what it did."""
    return f", {count} removed" if count else ""
