"""Reads every byte of the stores and tells what is damaged.

``python -m unet_core verify [--mend] results`` ends with status 1 where a file is damaged. With ``--mend`` the damaged
blocks are deleted, with the stamps of their steps, so that ``snakemake`` computes those blocks again and nothing else;
and what killed runs left behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from unet_core.files import PARTIAL
from unet_core.runtime import UserError
from unet_core.store.removal import remove
from unet_core.store.result import store_of
from unet_core.store.shards import check_shard, checksum
from unet_core.store.store import Result, read_attributes

# Shards in work per thread: few, so that the memory does not grow with the store.
SHARDS_PER_THREAD = 4


class Damage(NamedTuple):
    """A file that is not as it was written; without a block it is a description, or lies beside the store."""

    result: Path
    file: Path
    block: int | None
    what: str


class State(NamedTuple):
    """Whether a result is done, and how many of its blocks were written."""

    path: Path
    done: bool
    written: int
    blocks: int


def results_in(folder: Path) -> list[Path]:
    """Folders of all results below a folder of results, below that of a step, or below a store.

    Images that stay in place have none.
    """
    stores = [folder] if folder.suffix == ".zarr" else sorted(folder.rglob("*.zarr"))
    found = [path for store in stores for path in _results_of(store)]
    if not found:
        raise UserError(
            f"{folder} has no stores; name a folder of results, or a store, as in results/predict/hela/hela.zarr"
        )
    return found


def _results_of(store: Path) -> Iterator[Path]:
    for sample in sorted(path for path in store.glob("[!.]*") if path.is_dir()):
        attributes = read_attributes(sample)
        if (attributes and "reference" not in attributes) or (sample / "0").exists():
            yield sample
        yield from sorted(path for path in sample.glob("labels/[!.]*") if path.is_dir())


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
        What is missing or damaged in results that are done, and damaged in those that are not.
    """
    states: list[State] = []
    damages: list[Damage] = []
    with ThreadPoolExecutor() as pool, tqdm(unit="B", unit_scale=True, desc="verify", file=sys.stderr) as progress:
        for path in results_in(folder):
            attributes = read_attributes(path)
            try:
                result = Result(path)
                if "done" not in attributes:
                    raise UserError("its attributes cannot be read")
            except UserError as error:
                damages.append(Damage(path, path / "zarr.json", None, str(error)))
                continue
            written = 0
            for block, size, found in _checked(pool, result, attributes["done"]):
                written += size > 0
                damages += [Damage(path, file, block, what) for file, what in found]
                progress.update(size)
            damages += [Damage(path, file, None, what) for file, what in _checked_beside(path, attributes)]
            states.append(State(path, attributes["done"], written, len(result.grid)))
    return states, damages


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
            yield file, str(error)


def mend(damages: list[Damage]) -> set[Path]:
    """Delete what is damaged, and the stamps of the steps that made it.

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
    found = (path for result in results_in(folder) for path in result.glob(f"[0-9]/**/.*{PARTIAL}"))
    return [path for path in found if path.is_file() and path.stat().st_mtime < time.time() - 3600]


def main(arguments: list[str]) -> None:
    """Read the command line, verify, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core verify", description="Reads every byte of the stores; tells what is damaged."
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
    for stamp in sorted(mend(damages)):
        print(f"verify: {stamp} deleted: its step runs again, for what is missing alone")
