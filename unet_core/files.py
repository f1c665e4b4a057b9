"""Files that appear whole or not at all: written aside, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# How names of files and folders end that are not in their place yet; a killed process leaves them behind.
PARTIAL = ".partial"


def temporary_path(path: Path) -> Path:
    """A new name beside a file or folder, on the same file system, for what is to be renamed into its place."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")


@contextlib.contextmanager
def open_atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when all of it is there; folders above it are made.

    Whatever ends the process, SIGKILL included, `path` is what it was before or all of the new file. On an error, as of
    a full disk, it is what it was, and nothing else stays behind. A killed process may leave a
    file named by `temporary_path`.

    Parameters
    ----------
    path : Path
        Where the file goes; one that is there is replaced.
    durable : bool
        The same holds where the machine fails, as by loss of power: the content is on the disk before the file gets its
        name. (Which of the two files is there is open, since the folder is not waited for.) It costs 2 to 6 ms on a
        local disk, ten times the rest. Without it such a failure may leave a file that is empty or full of zeros, which
        is only for readers that find that out and can have the file made again.

    Yields
    ------
    BinaryIO
        The open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the error is what is to be told
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            name_file(error, path)  # errors of writing tell no name, and that of the temporary file says nothing
        raise


def write_atomic(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file whole or not at all, whatever ends the process; see `open_atomic`."""
    with open_atomic(path, durable) as file:
        file.write(content)


def make_room(path: Path, size: int) -> None:
    """Make a file of zeros that has all of its space on the disk.

    A file that is only said to be so long is given its space when it is written: where it is mapped into memory, a full
    disk then ends the process without a word (SIGBUS).
    """
    with path.open("wb") as file:
        try:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # not every file system can say so
                name_file(error, path)
                raise
            file.truncate(size)


def name_file(error: OSError, path: Path) -> None:
    """Add the name of the file to an error that has none: those of writing and closing do not tell it."""
    error.filename = str(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that come with no name are those of this file or folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            name_file(error, path)
        raise
