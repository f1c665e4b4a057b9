"""Names of contents: hashes of values and of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

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
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
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
        if self._known != self._kept:
            write_atomic(self._cache, json.dumps(self._known, indent=0).encode())


def _metadata(image: Path) -> list[str]:
    """Texts that describe an OME-Zarr image and its finest level, as far as there are any."""
    texts = []
    for name in ("zarr.json", ".zattrs", ".zarray", "0/zarr.json", "0/.zarray"):
        with contextlib.suppress(FileNotFoundError):
            texts.append((image / name).read_text(encoding="utf-8"))
    return texts
