"""Reads every byte of the results and tells what is damaged.

``python -m unet_core verify [--mend] results`` ends with status 1 where a file is damaged. With ``--mend`` the damaged
blocks are deleted, with the stamps of their steps, so that ``snakemake`` computes those blocks again and nothing else;
so are damaged files beside the stores (`unet_core.store.beside`), and what killed runs left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from unet_core.files import PARTIAL
from unet_core.runtime import UserError
from unet_core.store.beside import DAMAGES, damaged_beside, has_records, mend_beside
from unet_core.store.ngff import METADATA_FILE, NGFF_VERSION, read_group
from unet_core.store.removal import remove
from unet_core.store.result import pass_refusal, store_of
from unet_core.store.shards import check_shard, checksum
from unet_core.store.store import LABELS, Result, read_attributes, restore_group

# Shards in work per thread: few, so that the memory does not grow with the store.
SHARDS_PER_THREAD = 4
# Label images that the steps make of each sample.
LABELS_OF = {"groundtruth": LABELS, "weights": ("target",)}


class Damage(NamedTuple):
    """A file that is not as it was written; without a block it is a description, or lies beside the store.

    Without a result it describes a folder between the store and its results, or is none of a store.
    """

    result: Path | None
    file: Path
    block: int | None
    what: str


class State(NamedTuple):
    """Whether a result is done, and how many of its blocks were written."""

    path: Path
    done: bool
    written: int
    blocks: int


def stores_in(folder: Path) -> list[Path]:
    """All stores below a folder of results, or below that of a step; or the folder, if it is one.

    Raises
    ------
    UserError
        If no results are there. Images that stay in place have none; files beside stores may have records.
    """
    stores = [folder] if folder.suffix == ".zarr" else sorted(folder.rglob("*.zarr"))
    if not any(True for store in stores for _ in results_of(store)) and not has_records(folder):
        what = "has no stores" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name a folder of results, or a store, as in results/predict/hela/hela.zarr")
    return stores


def results_of(store: Path) -> Iterator[Path]:
    """Folders of the results in a store: those that there are, and those that the stamp of its step names."""
    named = _named(store)
    for sample in sorted({*_folders(store), *(store / name for name in named)}):
        attributes = read_attributes(sample)
        if (
            (attributes and "reference" not in attributes)
            or (sample / "0").exists()
            or (not attributes and sample.name in named)
        ):
            yield sample
        labels = {sample / "labels" / label for label in named.get(sample.name, ())}
        yield from sorted({*_folders(sample / "labels"), *labels})


def _named(store: Path) -> dict[str, tuple[str, ...]]:
    """Samples in the stamp beside a store, each with its label images."""
    stamp = store.with_suffix(".json")
    try:
        content = json.loads(stamp.read_bytes())
        labels = LABELS_OF.get(content["step"], ())
        return {
            name: labels if content["step"] != "groundtruth" or entry.get("labels") else ()
            for name, entry in content["samples"].items()
            # A name is a folder in the store; what a stamp from elsewhere says must not lead out of it.
            if name and Path(name).name == name and not name.startswith(".")
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # what the next run makes again
        return {}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def verify(folder: Path) -> tuple[list[State], list[Damage]]:
    """Read all that the results below a folder hold.

    Parameters
    ----------
    folder : Path
        ``results``, a step in it, or a store.

    Returns
    -------
    states : list of State
        Of each result.
    damages : list of Damage
        What is missing or damaged in results that are done, and damaged in those that are not; in the descriptions of
        the folders above them; and of the files beside the stores.
    """
    states: list[State] = []
    damages: list[Damage] = []
    stores = stores_in(folder)
    with ThreadPoolExecutor() as pool, tqdm(unit="B", unit_scale=True, desc="verify", file=sys.stderr) as progress:
        results = {path: None for store in stores for path in results_of(store)}
        for store in stores:
            damages += [Damage(None, file, None, what) for file, what in _checked_folders(store, results)]
        for path in results:
            attributes = read_attributes(path)
            try:
                result = Result(path)
                if "done" not in attributes:
                    raise UserError("its attributes cannot be read")
                if not _has_version(read_group(path)):
                    raise UserError("its description is damaged")
            except UserError as error:
                missing = isinstance(error.__cause__, FileNotFoundError)
                what = "missing, or a file in its folder" if missing else f"damaged ({error.__cause__ or error})"
                damages.append(Damage(path, path / METADATA_FILE, None, what))
                continue
            written = 0
            for block, size, found in _checked(pool, result, attributes["done"]):
                written += size > 0
                damages += [Damage(path, file, block, what) for file, what in found]
                progress.update(size)
            damages += [Damage(path, file, None, what) for file, what in _checked_beside(path, attributes)]
            states.append(State(path, attributes["done"], written, len(result.grid)))
        damages += [Damage(None, file, None, what) for file, what in damaged_beside(folder)]
    return states, damages


def _checked_folders(store: Path, results: Collection[Path]) -> Iterator[tuple[Path, str]]:
    """Descriptions of the folders between a store and its results that are damaged."""
    samples = _folders(store)
    for folder in (store, *samples, *(path / "labels" for path in samples)):
        if folder in results or "reference" in read_attributes(folder) or not folder.is_dir():
            continue
        try:
            if not _describes(folder, store):
                yield folder / METADATA_FILE, "damaged (it does not say what is in its folder)"
        except FileNotFoundError:
            yield folder / METADATA_FILE, "missing"
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            pass_refusal(error, folder, but=DAMAGES)
            yield folder / METADATA_FILE, "damaged"


def _describes(folder: Path, store: Path) -> bool:
    """Whether the description of a folder without a result lists the label images that are there, if any."""
    attributes = read_group(folder)
    here = _folders(folder) if folder.name == "labels" and folder.parent != store else []
    done = {path.name for path in here if read_attributes(path).get("done")}
    listed = {*attributes.get("ome", {}).get("labels", [])}
    return ("ome" not in attributes or _has_version(attributes)) and done <= listed <= {path.name for path in here}


def _has_version(attributes: dict[str, Any]) -> bool:
    ome = attributes.get("ome", {})
    return {ome.get("version"), ome.get("image-label", {}).get("version", NGFF_VERSION)} == {NGFF_VERSION}


def _checked(pool: ThreadPoolExecutor, result: Result, done: bool) -> Iterator[tuple[int, int, list[tuple[Path, str]]]]:
    """Number of each block, the bytes of it, and its files that are damaged."""

    def look(index: int) -> tuple[int, int, list[tuple[Path, str]]]:
        size, found = 0, []
        shards = result.shards_of(index)
        # Blocks of a result in the making are missing, or all their resolutions are there.
        if not done and not shards[0].exists():
            return index, 0, []
        for level, shard in enumerate(shards):
            try:
                check_shard(shard, result.chunks_per_shard, result.chunk_bytes >> 2 * level, result.place(index, level))
            except (ValueError, OSError) as error:
                pass_refusal(error, shard, but=DAMAGES)
                found.append((shard, str(error)))
            size += shard.stat().st_size if shard.exists() else 0
        return index, size, found

    numbers = iter(range(len(result.grid)))
    while some := [
        number for _, number in zip(range(SHARDS_PER_THREAD * (os.cpu_count() or 1)), numbers, strict=False)
    ]:
        yield from pool.map(look, some)


def _checked_beside(path: Path, attributes: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Files beside the store that belong to a result (tables of objects), and what is wrong with them."""
    files = attributes.get("details", {}).get("files", {}) if attributes["done"] else {}
    for name, wanted in files.items():
        file = store_of(path).parent / name
        try:
            if checksum(file) != wanted:
                yield file, "damaged (its checksum is another one)"
        except FileNotFoundError:
            yield file, "missing"
        except OSError as error:
            pass_refusal(error, file, but=DAMAGES)
            yield file, str(error)


def mend(damages: list[Damage]) -> set[Path]:
    """Delete what is damaged, and stamps of the steps that made it; what describes folders is written again.

    Parameters
    ----------
    damages : list of Damage
        From `verify`.

    Returns
    -------
    set of Path
        The stamps.
    """
    stamps = set()
    for damage in damages:
        if damage.result is None:
            if damage.file.name == METADATA_FILE:
                restore_group(damage.file.parent)
            elif stamp := mend_beside(damage.file):
                stamps.add(stamp)
            continue
        if damage.block is None and damage.file.parent == damage.result:
            remove(damage.result)
        elif damage.block is None:
            damage.file.unlink(missing_ok=True)
        else:
            # The finest one says that the block is there; without the others it would be a lie.
            for shard in Result(damage.result).shards_of(damage.block):
                shard.unlink(missing_ok=True)
        stamps.add(store_of(damage.result).with_suffix(".json"))
    for stamp in stamps:
        stamp.unlink(missing_ok=True)
    return stamps


def leftovers(folder: Path) -> list[Path]:
    """Files that killed runs had begun; younger ones than an hour may be those of a run at work."""
    results = (result for store in stores_in(folder) for result in results_of(store))
    found = (path for result in results for path in result.glob(f"[0-9]/**/.*{PARTIAL}"))
    return [path for path in found if path.is_file() and path.stat().st_mtime < time.time() - 3600]


def main(arguments: list[str]) -> None:
    """Read the command line, verify, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core verify", description="Reads every byte of the results; tells what is damaged."
    )
    parser.add_argument("folder", type=Path, help="results, a step in it, or a store")
    parser.add_argument(
        "--mend", action="store_true", help="delete what is damaged, so that snakemake makes that again, and only that"
    )
    asked = parser.parse_args(arguments)
    try:
        states, damages = verify(asked.folder)
    except UserError as error:
        sys.exit(f"verify: {error}")
    for state in states:
        if not state.done:
            print(
                f"verify: {state.path}: unfinished, {state.written} of {state.blocks} blocks; snakemake goes on with it"
            )
    for damage in damages:
        print(f"verify: {damage.file}: {damage.what}")
    done = sum(state.done for state in states)
    print(
        f"verify: {len(states)} results, {done} done, {len(states) - done} unfinished, "
        f"{len(damages)} files damaged or missing"
    )
    if asked.mend:
        for path in leftovers(asked.folder):
            path.unlink(missing_ok=True)
    if not damages:
        return
    if not asked.mend:
        sys.exit(
            "verify: 'python -m unet_core verify --mend' with the same folder deletes what is damaged, "
            "for snakemake to make it again"
        )
    alone = [damage.file for damage in damages if damage.result is None]
    if folders := sum(file.name == METADATA_FILE for file in alone):
        print(f"verify: {folders} descriptions of folders written again")
    if others := len(alone) - folders:
        print(f"verify: {others} files beside the stores taken away, or to be written again by the next run")
    for stamp in sorted(mend(damages)):
        print(f"verify: {stamp} deleted: its step runs again, for what is missing alone")
