"""What each job was made of: one small file per job, written when it ends, by which the next run knows what is stale.

A record stands in ``<results>/records/<step>/<name>.json``. It holds

- ``wanted``: for each part of what the job makes, a digest of the options and source files that it depends on, however
  many steps lie between;
- ``outputs``: size, time and hash of its output files, so that one that was replaced, restored or damaged is noticed;
- ``stores``: which samples its stores hold;
- ``parts``: digests of the parts of what came out;
- ``used``: the parts of earlier jobs that it was made from;
- ``checksum``: of all this, so that a damaged record vouches for nothing.

So what is stale follows from files below the results alone, wherever, by whom and from which working directory they
were made, and never from times. `unet_core.jobs` compares.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.config.folds import DIVIDED_SPLITS
from unet_core.digest import digest, hash_of_file
from unet_core.files import write_atomic
from unet_core.sealed import ASIDE, seal, unseal

logger = logging.getLogger(__name__)

FOLDER = "records"
# Decisions of a plan that training depends on.
TRAINING_DECISIONS = ("classes", "channels", "network", "normalisation", "class_weights", "train_tile", "steps")
# Size, time and hash of a file.
Seen = list[Any]


class Source(NamedTuple):
    """A part of what an earlier job makes."""

    job: str
    part: str


def holds_results(folder: Path) -> bool:
    """Whether a folder is one of results: jobs have left records in it."""
    return any((folder / FOLDER / "groundtruth").glob("*.json"))


def record_path(results: Path, job: str) -> Path:
    """File of a job's record; jobs are named as ``predict/hela/screen``."""
    return results / FOLDER / f"{job}.json"


def read_record(results: Path, job: str) -> dict[str, Any]:
    """Record of a job; empty if there is none that can be read."""
    try:
        return open_record(record_path(results, job))
    except (OSError, ValueError):
        return {}


def open_record(path: Path) -> dict[str, Any]:
    """Content of a record; ValueError where it is damaged."""
    found = unseal(path.read_bytes())
    if not found.keys() >= {"wanted", "outputs", "stores", "parts", "used"}:
        raise ValueError("it cannot be read")
    return found


def see(path: Path) -> Seen:
    """Size, time and hash of a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, hash_of_file(path)]


def is_as_seen(path: Path, seen: Seen) -> bool:
    """Whether a file has the content that was seen; it is read only if its time is another one."""
    try:
        status = path.stat()
        if status.st_size != seen[0]:
            return False
        return status.st_mtime_ns == seen[1] or see(path)[2] == seen[2]
    except (OSError, LookupError, TypeError):
        return False


def names_in(store: Path) -> str:
    """Digest of the names of what lies in a store: that a sample was deleted is seen without looking at each."""
    return digest(sorted(path.name for path in store.iterdir() if not path.name.startswith(".")))


def wanted_digest(own: str, sources: Mapping[Source, str | None]) -> str:
    """Digest of all that a part of a job's result depends on, from its options and the digests of its sources."""
    return digest(own, sorted([*source, wanted] for source, wanted in sources.items()))


def part_of(stamp: dict[str, Any], part: str) -> str:
    """Digest of the part of a stamp that concerns some of the later jobs.

    Parameters
    ----------
    stamp : dict
        Content of a stamp.
    part : str
        ``all``; ``images`` (all samples, without their labels), ``labels`` (annotated samples) or ``training``
        (samples for training and validation; of a plan what training depends on); of a plan also
        ``images of <data set>``.
    """
    if part == "all":
        return digest(stamp)
    if stamp["step"] == "plan":
        chosen = {key: stamp.get(key) for key in TRAINING_DECISIONS} | {"folds": stamp.get("folds")}
        if part != "training":
            prefix = part.removeprefix("images of ") + "/"
            chosen = {key: value for key, value in stamp.items() if key != "samples"}
            chosen["samples"] = {key: norm for key, norm in stamp["samples"].items() if key.startswith(prefix)}
        return digest(chosen)
    entries = stamp["samples"]
    if part == "images":
        return digest({name: [entry["image"], entry["split"], entry["shape"]] for name, entry in entries.items()})
    if part == "labels":
        return digest([stamp["classes"], {name: entry for name, entry in entries.items() if entry["labels"]}])
    chosen = {name: entry for name, entry in entries.items() if entry["split"] in DIVIDED_SPLITS}
    return digest([stamp.get("classes"), chosen])


class Recording:
    """What is known of a job that is at work."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.results, self.name = Path(job["results"]), str(job["name"])
        self.outputs = [str(path) for path in job["outputs"]]
        self.stores, self.own = [str(path) for path in job["stores"]], str(job["own"])
        self.beside = [str(path) for path in job["beside"]]
        self.parts = {part: [Source(*source) for source in listed] for part, listed in job["parts"].items()}
        sources = {source for listed in self.parts.values() for source in listed}
        records = {name: read_record(self.results, name) for name in {source.job for source in sources}}
        before = {source: records[source.job].get("wanted", {}).get(source.part) for source in sources}
        # Of groundtruth, whose sources are the files of users, its step says it when it has read them.
        self.wanted = {
            part: wanted_digest(self.own, {source: before[source] for source in listed})
            for part, listed in self.parts.items()
        }
        self.used = {"#".join(source): records[source.job].get("parts", {}).get(source.part) for source in sources}

    def put_aside(self) -> None:
        """Rename output files that are not what this job wrote before.

        A step that finds its work done would take a damaged one for its own, and this record vouch for it.
        """
        before = read_record(self.results, self.name).get("outputs", {})
        for path in (self.results / name for name in self.outputs[1:] if name in before):
            seen = before[path.relative_to(self.results).as_posix()]
            with contextlib.suppress(OSError):
                if not is_as_seen(path, seen) and hash_of_file(path) != seen[2]:
                    aside = path.rename(path.with_name(path.name + ASIDE))
                    logger.warning("%s: %s is not what the step wrote; it is now %s", self.name, path, aside.name)

    def keep(self) -> None:
        """Write the record."""
        beside = [path for path in self.beside if (self.results / path).is_file()]
        record = {
            "wanted": self.wanted,
            "own": self.own,
            "outputs": {path: see(self.results / path) for path in (*self.outputs, *beside)},
            "stores": {path: names_in(self.results / path) for path in self.stores},
            "parts": self._parts(),
            "used": self.used,
        }
        write_atomic(record_path(self.results, self.name), (seal(record, indent=1) + "\n").encode())

    def _parts(self) -> dict[str, str]:
        """Digest of each part of what came out."""
        first = self.results / self.outputs[0]
        if first.suffix != ".json":
            return {"all": see(first)[2]}
        stamp = json.loads(first.read_text(encoding="utf-8"))
        return {part: part_of(stamp, part) for part in self.parts}


@contextlib.contextmanager
def recorded(job: Mapping[str, Any]) -> Iterator[Recording]:
    """Keep the record of a job when it has ended well.

    Parameters
    ----------
    job : mapping
        Builtins, as ``Jobs.described`` gives them: ``results``, ``name``, ``outputs`` (paths below the results, the
        stamp first), ``stores`` beside them, files ``beside`` them that the job writes in most cases, the digest of its
        ``own`` options, and ``parts``: each with the parts of other jobs that it is made from.
    """
    # Until the end nothing vouches for what this job writes.
    recording = Recording(job)
    recording.put_aside()
    record_path(recording.results, recording.name).unlink(missing_ok=True)
    yield recording
    recording.keep()
