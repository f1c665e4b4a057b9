"""Names of contents: hashes of values and of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unet_core.files import write_atomic


def digest(*parts: Any) -> str:
    """Hash of builtin values (JSON): the same for the same values, whatever the order of keys.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class FileHashes:
    """Hashes of the content of files; a file is read again only if its size or time changed.

    Parameters
    ----------
    cache : Path
        JSON file in which the hashes are kept; one that is missing or damaged counts as empty.
    companions : callable, optional
        Which other files are read with a file: they count as its content. It is asked once for each content.
    """

    def __init__(self, cache: Path, companions: Callable[[Path], list[Path]] | None = None) -> None:
        self._cache, self._find_companions = cache, companions
        try:
            self._known: dict[str, list[Any]] = dict(json.loads(cache.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._kept = dict(self._known)

    def of(self, path: Path, limit: int | None = None) -> str:
        """Hash of a file, or of all files below a folder (an OME-Zarr image).

        Behind a URL the name counts, and where the content would be read also the metadata of the image: its pixels are
        not fetched for this.

        Parameters
        ----------
        path : Path
            File or folder.
        limit : int, optional
            Files (and folders) of more bytes are not read: size and time stand for their content.
        """
        if "://" in str(path):
            return digest(str(path), [] if limit is not None else _metadata(path))
        if path.is_dir():
            return self._of_folder(path, limit)
        content = self._content(path, limit)
        companions = self._companions(path)
        return digest(content, *(self._content(other, limit) for other in companions)) if companions else content

    def _content(self, path: Path, limit: int | None) -> str:
        """Hash of a file alone."""
        status = path.stat()
        seen = [status.st_size, status.st_mtime_ns]
        if limit is not None and status.st_size > limit:
            return digest(seen)
        known = self._known.get(str(path))
        if known and known[:2] == seen:
            return known[2]
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=10)).hexdigest()
        self._known[str(path)] = [*seen, content]
        return content

    def _companions(self, path: Path) -> list[Path]:
        """Files that are read with a file."""
        if self._find_companions is None:
            return []
        status, known = path.stat(), self._known.get(str(path))
        current = known is not None and known[:2] == [status.st_size, status.st_mtime_ns]
        if known and current and len(known) > 3:
            return [Path(other) for other in known[3]]
        found = self._find_companions(path)
        if known and current:
            self._known[str(path)] = [*known[:3], [str(other) for other in found]]
        return found

    def learn(self, paths: Iterable[Path], threads: int = 8, save_every: float = 10.0) -> None:
        """Hash the files that are new, several at once, and keep what was learnt as it goes.

        A run that is killed while it reads terabytes goes on with the file at which it was. What cannot be read is left
        to `of`, which tells it.

        Parameters
        ----------
        paths : iterable of Path
            Files and folders.
        threads : int
            Files that are read at once.
        save_every : float
            Seconds after which what was learnt is saved.
        """
        waiting = [(file, size) for path in dict.fromkeys(paths) for file, size in self._unknown(path)]
        if not waiting:
            return
        saved = time.monotonic()
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(
                total=sum(size for _, size in waiting),
                unit="B",
                unit_scale=True,
                desc="hashes",
                delay=5,
                file=sys.stderr,
            ) as progress,
        ):
            for size in pool.map(lambda one: self._read(*one), waiting):
                progress.update(size)
                if time.monotonic() - saved > save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _unknown(self, path: Path) -> list[tuple[Path, int]]:
        """Files of a path, itself or those below it, that would have to be read, with their sizes."""
        if "://" in str(path):
            return []
        found = []
        try:
            if path.is_dir():
                files = sorted(member for member in path.rglob("*") if member.is_file())
            else:
                files = [path, *self._companions(path)]
            for file in files:
                status, known = file.stat(), self._known.get(str(file))
                if not known or known[:2] != [status.st_size, status.st_mtime_ns]:
                    found.append((file, status.st_size))
        except OSError:
            return []
        return found

    def _read(self, file: Path, size: int) -> int:
        with contextlib.suppress(OSError):
            self._content(file, None)
        return size

    def seen(self, path: Path, limit: int = 2**26) -> str:
        """Hash of a file or folder, from what is remembered: of all that is new, size and time stand for the content.

        What was only touched is read, if it is not larger than `limit` bytes: its size is remembered.
        """
        if "://" in str(path):
            return self.of(path, limit)
        known = self.known(path)
        if known is not None:
            return known
        members = [member for member in path.rglob("*") if member.is_file()] if path.is_dir() else [path]
        sizes = {member: member.stat().st_size for member in members}
        touched = all(self._known.get(str(member), [None])[0] == size for member, size in sizes.items())
        return self.of(path, None if touched and sum(sizes.values()) <= limit else -1)

    def known(self, path: Path) -> str | None:
        """Hash of a file or folder as far as it is remembered; None where it would have to be read."""
        if "://" in str(path):
            return self.of(path)
        if path.is_dir():
            members = sorted(member for member in path.rglob("*") if member.is_file())
            contents = [self.known(member) for member in members]
            listed = [
                [str(member.relative_to(path)), content] for member, content in zip(members, contents, strict=True)
            ]
            return None if None in contents else digest(listed)
        contents = [self._known_content(file) for file in (path, *self._companions(path))]
        return None if None in contents else contents[0] if len(contents) == 1 else digest(*contents)

    def _known_content(self, path: Path) -> str | None:
        status, known = path.stat(), self._known.get(str(path))
        return known[2] if known and known[:2] == [status.st_size, status.st_mtime_ns] else None

    def _of_folder(self, folder: Path, limit: int | None) -> str:
        members = sorted(path for path in folder.rglob("*") if path.is_file())
        if limit is not None and sum(path.stat().st_size for path in members) > limit:
            return digest(
                [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in members]
            )
        return digest([[str(path.relative_to(folder)), self.of(path, limit)] for path in members])

    def save(self) -> None:
        """Keep what was learnt."""
        known = self._known.copy()  # other threads may learn more meanwhile
        if known != self._kept:
            write_atomic(self._cache, json.dumps(known, indent=0).encode())
            self._kept = known


def _metadata(image: Path) -> list[str]:
    """Texts that describe an OME-Zarr image and its finest level, as far as there are any."""
    texts = []
    for name in ("zarr.json", ".zattrs", ".zarray", "0/zarr.json", "0/.zarray"):
        with contextlib.suppress(FileNotFoundError):
            texts.append((image / name).read_text(encoding="utf-8"))
    return texts
