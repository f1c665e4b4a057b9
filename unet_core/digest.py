"""Names of contents: hashes of values and of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from unet_core.files import naming, write_atomic

# Files of a part that have one entry in the cache: what a kill makes to be read again at most.
BATCH = 64
# Files of a part above which they are hashed by threads of their own.
MANY_FILES = 1024


def digest(*parts: Any) -> str:
    """Hash of builtin values (JSON): the same for the same values, whatever the order of keys.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def hash_of_file(path: Path) -> str:
    """Hash of the content of a file."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=10)).hexdigest()


class Part(Protocol):
    """What of a file or folder is read, where that is not all of it; `unet_core.images.contents` has such.

    Attributes
    ----------
    name : str
        Tells it from other parts of the same file.
    internal : str
        Array in a folder that it is of; empty for a part of a file.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def internal(self) -> str:
        """See above."""

    def seen(self, path: Path) -> Any:
        """What tells cheaply whether it may have changed; a value of JSON."""

    def contents(self, path: Path, parts: Sequence[Any], hashed: Callable[[list[Path]], list[str]]) -> list[str | None]:
        """Hashes of several parts of this kind, read at one opening; None where all of the file has to count.

        `hashed` hashes files, so that a kill loses little.
        """


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
        # Of a file: size, time, hash, its companions. Of a part: what was seen, None, hash, companions as seen.
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads(cache.read_text(encoding="utf-8")))
        self._news = False
        self._used: set[str] = set()
        self._looked: dict[str, Any] = {}  # a folder is looked at once
        self._save_every: float | None = None
        self._save_at = 0.0
        self._saving = threading.Lock()

    def of(self, path: Path, part: Part | None = None, limit: int | None = None) -> str:
        """Hash of a file, of all files below a folder, or of a part of one.

        Behind a URL the name counts, with its variables as they are written, and where the content would be read also
        the metadata of the image: its pixels are not fetched for this.

        Parameters
        ----------
        path : Path
            File or folder.
        part : Part, optional
            What of it is read; default: all.
        limit : int, optional
            Files (and folders) of more bytes are not read: size and time stand for their content.
        """
        if "://" in str(path):
            content = digest(str(path), [] if limit is not None else _metadata(path))
            if limit is None and self._entry(str(path)) != ["", None, content]:
                self._note(str(path), ["", None, content])
            return content
        if part is not None and limit is None:
            return self.known(path, part) or self._learn_parts(path, [part])[0]
        return self._whole(path, limit)

    def _whole(self, path: Path, limit: int | None = None) -> str:
        if path.is_dir():
            return self._of_folder(path, limit)
        content = self._content(path, limit)
        companions = self._companions(path)
        return digest(content, *(self._content(other, limit) for other in companions)) if companions else content

    def _content(self, path: Path, limit: int | None) -> str:
        """Hash of a file alone."""
        seen = _status(path)
        if limit is not None and seen[0] > limit:
            return digest(seen)
        known = self._entry(str(path))
        if known and known[:2] == seen:
            return known[2]
        content = hash_of_file(path)
        self._note(str(path), [*seen, content])
        return content

    def _companions(self, path: Path) -> list[Path]:
        """Files that are read with a file."""
        if self._find_companions is None:
            return []
        seen, known = _status(path), self._entry(str(path))
        current = known is not None and known[:2] == seen
        if known and current and len(known) > 3:
            return [Path(other) for other in known[3]]
        found = self._find_companions(path)
        if known and current:
            self._note(str(path), [*known[:3], [str(other) for other in found]])
        return found

    def _learn_parts(self, path: Path, parts: Sequence[Part]) -> list[str]:
        """Read parts of one kind of a file or folder."""
        # What was seen before counts, so that a change while it is read is found.
        seen = [self._seen(path, part) for part in parts]
        others = [] if path.is_dir() or self._find_companions is None else self._find_companions(path)
        beside = [[str(other), *_status(other)] for other in others]
        found = parts[0].contents(path, parts, lambda files: self._batches(path, files))
        hashes = [content or self._whole(path) for content in found]
        for part, one, content in zip(parts, seen, hashes, strict=True):
            self._note(_key(path, part), [one, None, content, beside])
        return hashes

    def _batches(self, path: Path, files: list[Path]) -> list[str]:
        """Hashes of the files of a folder, in batches that are remembered."""
        batches = [files[first : first + BATCH] for first in range(0, len(files), BATCH)]
        if len(files) <= MANY_FILES:
            return [self._batch(path, batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda batch: self._batch(path, batch), batches))

    def _batch(self, path: Path, files: list[Path]) -> str:
        key = f"{path}\0\0{files[0].relative_to(path)}"
        seen = digest([[file.name, *_status(file)] for file in files])
        known = self._entry(key)
        if known and known[0] == seen:
            return known[2]
        content = digest([hash_of_file(file) for file in files])
        self._note(key, [seen, None, content])
        return content

    def learn(self, wanted: Iterable[tuple[Path, Part | None]], threads: int = 8, save_every: float = 10.0) -> None:
        """Hash the files that are new, several at once, and keep what was learnt as it goes.

        A run that is killed while it reads terabytes goes on with the file at which it was. What cannot be read is left
        to `of`, which tells it.

        Parameters
        ----------
        wanted : iterable of (Path, Part)
            Files and folders, with the part that is read; None: all of it.
        threads : int
            Files that are read at once.
        save_every : float
            Seconds after which what was learnt is saved.
        """
        waiting = self._waiting(wanted, threads)
        if not waiting:
            return
        from tqdm import tqdm  # not for those who hash nothing

        self._save_every, self._save_at = save_every, time.monotonic() + save_every
        total = sum(size for size, _ in waiting)
        try:
            with (
                ThreadPoolExecutor(threads) as pool,
                tqdm(total=total, unit="B", unit_scale=True, desc="hashes", delay=5, file=sys.stderr) as progress,
            ):
                for size in pool.map(_done, waiting):
                    progress.update(size)
        finally:
            self._save_every = None
        self.save()

    def _waiting(self, wanted: Iterable[tuple[Path, Part | None]], threads: int) -> list[tuple[int, Callable[[], Any]]]:
        """What would have to be read, with sizes."""
        found = list[tuple[int, Callable[[], Any]]]()
        parts: dict[tuple[Path, type], list[Part]] = defaultdict(list)
        for path, part in dict.fromkeys(wanted):
            if "://" in str(path):
                continue
            if part is None:
                found += [(size, _bound(self._content, file, None)) for file, size in self._unknown(path)]
            elif self.known(path, part) is None:
                parts[path, type(part)].append(part)
        for (path, _), several in parts.items():
            each = -(-len(several) // threads)  # a file of many parts is read by several, too
            groups = [several[first : first + each] for first in range(0, len(several), each)]
            with contextlib.suppress(OSError):
                size = _status(path)[0] // len(groups)
                found += [(size, _bound(self._learn_parts, path, group)) for group in groups]
        return found

    def _unknown(self, path: Path) -> list[tuple[Path, int]]:
        """Files of a path, itself or those below it, that would have to be read, with their sizes."""
        found = []
        try:
            if path.is_dir():
                files = sorted(member for member in path.rglob("*") if member.is_file())
            else:
                files = [path, *self._companions(path)]
            for file in files:
                seen, known = _status(file), self._entry(str(file))
                if not known or known[:2] != seen:
                    found.append((file, seen[0]))
        except OSError:
            return []
        return found

    def seen(self, path: Path, part: Part | None = None, limit: int = 2**26) -> str:
        """Hash of a file or folder, or of a part, from what is remembered: of what is new, size and time stand for it.

        What was known and looks otherwise is read, if it is a file of at most `limit` bytes: mostly it was touched.
        """
        if "://" in str(path):
            return self.of(path, limit=limit)
        if (known := self.known(path, part)) is not None:
            return known
        if path.is_dir():
            return digest(self._seen(path, part)) if part else self.of(path, limit=-1)
        status = _status(path)
        if status[0] <= limit and self._entry(_key(path, part) if part else str(path)):
            return self.of(path, part)
        return digest(status)

    def known(self, path: Path, part: Part | None = None) -> str | None:
        """Hash of a file or folder, or of a part, as far as it is remembered; None where it would have to be read.

        What is behind a URL is not asked for.
        """
        if "://" in str(path):
            return (self._entry(str(path)) or [None])[-1]
        try:
            if part is not None:
                return self._known_part(path, part)
            if path.is_dir():
                members = sorted(member for member in path.rglob("*") if member.is_file())
                contents = [self.known(member) for member in members]
                listed = [[str(one.relative_to(path)), known] for one, known in zip(members, contents, strict=True)]
                return None if None in contents else digest(listed)
            contents = [self._known_content(file) for file in (path, *self._companions(path))]
        except OSError:  # told when it is read
            return None
        return None if None in contents else contents[0] if len(contents) == 1 else digest(*contents)

    def _known_content(self, path: Path) -> str | None:
        seen, known = _status(path), self._entry(str(path))
        return known[2] if known and known[:2] == seen else None

    def _known_part(self, path: Path, part: Part) -> str | None:
        known = self._entry(_key(path, part))
        if known is None or known[0] != self._seen(path, part):
            return None
        return known[2] if all(_status(Path(other)) == seen for other, *seen in known[3]) else None

    def looks(self, path: Path, part: Part | None = None) -> list[list[Any]]:
        """Files of which a hash was taken, how they looked then: path, array in it, and size and time (JSON).

        Of what is behind a URL nothing is known.
        """
        known = None if "://" in str(path) else self._entry(_key(path, part) if part else str(path))
        if known is None:
            return []
        if part is not None:
            return [[str(path), part.internal, known[0]], *([one[0], "", one[1:]] for one in known[3])]
        companions = [(other, self._entry(other)) for other in (known[3] if len(known) > 3 else [])]
        return [[str(path), "", known[:2]], *([other, "", entry[:2]] for other, entry in companions if entry)]

    def _seen(self, path: Path, part: Part) -> Any:
        if not path.is_dir():
            return part.seen(path)
        key = _key(path, part)
        if key not in self._looked:
            self._looked[key] = part.seen(path)
        return self._looked[key]

    def _of_folder(self, folder: Path, limit: int | None) -> str:
        members = sorted(path for path in folder.rglob("*") if path.is_file())
        if limit is not None and sum(path.stat().st_size for path in members) > limit:
            return digest(
                [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in members]
            )
        return digest([[str(path.relative_to(folder)), self.of(path, limit=limit)] for path in members])

    def _entry(self, key: str) -> list[Any] | None:
        self._used.add(key.partition("\0")[0])
        return self._known.get(key)

    def _note(self, key: str, entry: list[Any]) -> None:
        """Keep an entry, and from time to time all of them."""
        self._known[key], self._news = entry, True
        if self._save_every is not None and self._saving.acquire(blocking=False):
            try:
                begin = time.monotonic()
                if begin >= self._save_at:
                    self.save()
                    end = time.monotonic()
                    # Of many entries it takes seconds, which are to be few of all.
                    self._save_at = end + (max(self._save_every, 10 * (end - begin)) if self._save_every else 0)
            finally:
                self._saving.release()

    def save(self, forget: bool = False) -> None:
        """Keep what was learnt; with `forget`, without what was not asked for."""
        known = self._known.copy()  # other threads may learn more meanwhile
        if forget:
            known = {key: entry for key, entry in known.items() if key.partition("\0")[0] in self._used}
        if self._news or len(known) < len(self._known):
            self._news = False
            # Without indentation: with it Python writes a million of them in half a minute.
            write_atomic(self._cache, json.dumps(known).encode())
            self._known = known if forget else self._known


def _key(path: Path, part: Part) -> str:
    return f"{path}\0{part.name}"


def _status(path: Path) -> list[int]:
    """Size and time of a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that is made later, and whose errors others tell."""

    def call() -> None:
        with contextlib.suppress(OSError):
            function(*arguments)

    return call


def _done(one: tuple[int, Callable[[], Any]]) -> int:
    size, call = one
    call()
    return size


def _metadata(image: Path) -> list[str]:
    """Texts that describe an OME-Zarr image and its finest level, as far as there are any."""
    texts, image = [], type(image)(os.path.expandvars(str(image)))  # which may be secret, and thus are filled in late
    for name in ("zarr.json", ".zattrs", ".zarray", "0/zarr.json", "0/.zarray"):
        with contextlib.suppress(FileNotFoundError):
            texts.append((image / name).read_text(encoding="utf-8"))
    return texts
