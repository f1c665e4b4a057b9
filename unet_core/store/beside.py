"""Files beside the stores: those that the records of jobs name, and what is remembered of earlier evaluations."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unet_core.digest import hash_of_file
from unet_core.records import FOLDER, open_record
from unet_core.sealed import keep_aside, unseal, unseal_lines
from unet_core.store.result import pass_refusal

# What no job can make again: a copy is kept.
REMEMBERED = "batches.json"
HISTORY = "evaluate/history"
# Errors of the system that mean a damaged file: a part of the disk that fails. Of others the file may be whole.
DAMAGES = (errno.EIO,)


def damaged_beside(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder, beside the stores, that are damaged or missing, and what is wrong with each.

    Parameters
    ----------
    folder : Path
        ``results``, or a folder in it.
    """
    asked = _absolute(folder)
    for file, what in _damaged(_results_of(asked)):
        if file.is_relative_to(asked):
            yield folder / file.relative_to(asked), what


def has_records(folder: Path) -> bool:
    """Whether jobs have left records of files below a folder."""
    asked = _absolute(folder)
    results = _results_of(asked)
    files = (file for record, outputs in _records(results) for file in (record, *map(results.joinpath, outputs or ())))
    return any(file.is_relative_to(asked) for file in files)


def mend_beside(file: Path) -> Path | None:
    """Take a damaged file away, so that the next run makes it again.

    Parameters
    ----------
    file : Path
        From `damaged_beside`.

    Returns
    -------
    Path or None
        The stamp that is to go too, since by the file alone no job would start.
    """
    if file.name == REMEMBERED:
        keep_aside(file)
    lines = file.suffix == ".jsonl"
    if not lines:
        file.unlink(missing_ok=True)
    # <data set>.jsonl, or <data set>/<digest>.csv: those that can be made again are by an evaluation.
    model = _absolute(file).parents[0 if lines else 1]
    if model.parent.as_posix().endswith(f"/{HISTORY}"):
        return model.parents[1] / model.name / f"{file.stem if lines else file.parent.name}.json"
    return None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (symbolic links stay what they are)


def _results_of(asked: Path) -> Path:
    """The folder of results that a folder is, or lies in."""
    return next((path for path in (asked, *asked.parents) if (path / FOLDER).is_dir()), asked)


def _records(results: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Each record, with the outputs that it names; None where it is damaged."""
    for path in sorted((results / FOLDER).rglob("[!.]*.json")):
        try:
            outputs = open_record(path)["outputs"].items()
        except (OSError, ValueError, AttributeError) as error:
            pass_refusal(error, path, but=DAMAGES)
            yield path, None
            continue
        # What a record from elsewhere says must not lead out of the results.
        yield path, {name: seen for name, seen in outputs if not {"", "..", "/"} & {*Path(name).parts}}


def _damaged(results: Path) -> Iterator[tuple[Path, str]]:
    for record, outputs in _records(results):
        if outputs is None:
            yield record, "damaged"
        # A result without its stamp is to be made again, or has been deleted.
        elif outputs and (results / next(iter(outputs))).exists():
            for name, seen in outputs.items():
                what = _wrong(results / name, seen)
                if what and Path(name).name != REMEMBERED:
                    yield results / name, what
    for path in sorted(results.glob(f"groundtruth/*.check/{REMEMBERED}")):
        yield from _checked(path)
    for path in sorted(results.glob(f"{HISTORY}/*/accepted.json")):
        yield from _checked(path)
    for path in sorted(results.glob(f"{HISTORY}/*/*.jsonl")):
        yield from _checked_history(path)


def _wrong(path: Path, seen: Any) -> str | None:
    """What is wrong with a file of which size, time and hash were noted; it is read."""
    try:
        return None if hash_of_file(path) == seen[2] else "damaged (it is not what its step wrote)"
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError, LookupError, TypeError) as error:
        pass_refusal(error, path, but=DAMAGES)
        return str(error)


def _checked(path: Path) -> Iterator[tuple[Path, str]]:
    try:
        unseal(path.read_bytes())
    except (ValueError, OSError) as error:
        pass_refusal(error, path, but=DAMAGES)
        yield path, f"damaged ({error})"


def _checked_history(path: Path) -> Iterator[tuple[Path, str]]:
    """A history with damaged lines, and tables of images that are not those of their lines."""
    entries, damaged = unseal_lines(path)
    if damaged:
        yield path, f"damaged ({damaged} of {len(entries) + damaged} lines)"
    # An evaluation that was made again has one table; that of the latest alone can be written again.
    for number, entry in {entry.get("digest"): (number, entry) for number, entry in enumerate(entries, 1)}.values():
        table = path.with_suffix("") / f"{entry.get('digest')}.csv"
        if "images" not in entry or table.parent.name != path.stem:
            continue
        if table.is_file() and hash_of_file(table) != entry["images"]:
            yield table, "damaged (its checksum is another one)"
        elif not table.exists() and number == len(entries):
            yield table, "missing"
