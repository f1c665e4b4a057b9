"""Files that appear whole or not at all: written aside, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# How names of files and folders end that are not in their place yet; a killed process leaves them behind.
PARTIAL = ".partial"
# Held where numpy reads the header of a .npy or .npz file: it is parsed like Python's code, and of two threads that do
# so at once Python 3.11 ends one with a SystemError, where the garbage collector runs in between.
PARSING = threading.Lock()


def temporary_path(path: Path) -> Path:
    """A new name beside a file or folder, on the same file system, for what is to be renamed into its place."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")


@contextlib.contextmanager
def open_folder(path: Path, within: int | None = None) -> Iterator[int]:
    """Descriptor of a folder, for `dir_fd`: what is done through it is done to this folder, whatever its name becomes.

    So a folder that another process renames, and replaces by a new one, gets all of it, and the new one nothing. Where
    the descriptor of a folder is given, the path is one below it.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


def open_below(path: Path | str, folder: int | None = None, mode: str = "rb") -> BinaryIO:
    """Open a file; where a descriptor of a folder is given, the path is one below it."""
    opener = None if folder is None else functools.partial(os.open, mode=0o666, dir_fd=folder)
    return open(path, mode, opener=opener)  # type: ignore[return-value]  # noqa: PTH123, SIM115


@contextlib.contextmanager
def open_atomic(path: Path, durable: bool = True, folder: int | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when all of it is there; folders above it are made.

    Whatever ends the process, SIGKILL included, `path` is what it was before or all of the new file. On an error, as of
    a full disk, it is what it was, and nothing else stays behind. A killed process may leave a
    file named by `temporary_path`. A file is never changed where it stands, so that it may have other names (hard
    links), which keep what it was.

    Parameters
    ----------
    path : Path
        Where the file goes; one that is there is replaced.
    durable : bool
        The same holds where the machine fails, as by loss of power: the content is on the disk before the file gets its
        name. (Which of the two files is there is open, since the folder is not waited for.) It costs 2 to 6 ms on a
        local disk, ten times the rest. Without it such a failure may leave a file that is empty or full of zeros, which
        is only for readers that find that out and can have the file made again.
    folder : int, optional
        Descriptor from `open_folder`: the path is one below this folder.

    Yields
    ------
    BinaryIO
        The open file, for reading what was written too.
    """
    temporary = temporary_path(path)
    try:
        with _new_file(temporary, folder) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)  # noqa: PTH105
    except BaseException as error:
        with contextlib.suppress(OSError):  # the error is what is to be told
            os.unlink(temporary, dir_fd=folder)  # noqa: PTH108
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            name_file(error, path)  # errors of writing tell no name, and that of the temporary file says nothing
        raise


def _new_file(path: Path, folder: int | None) -> BinaryIO:
    """A new file; the folders above it are made where they are missing, which they mostly are not."""
    try:
        return open_below(path, folder, "x+b")
    except FileNotFoundError:
        make_folders(path.parent, folder)
        return open_below(path, folder, "x+b")


def make_folders(path: Path, folder: int | None = None) -> None:
    """Make a folder and those above it; where a descriptor is given, the path is one below that folder."""
    try:
        os.mkdir(path, dir_fd=folder)  # noqa: PTH102
    except FileExistsError:
        return
    except FileNotFoundError:
        if path.parent == path or (folder is not None and path.parent == Path()):
            raise
        make_folders(path.parent, folder)
        make_folders(path, folder)


def write_atomic(path: Path, content: bytes, durable: bool = True, folder: int | None = None) -> None:
    """Write a file whole or not at all, whatever ends the process; see `open_atomic`."""
    with open_atomic(path, durable, folder) as file:
        file.write(content)


def write_changed(path: Path, content: bytes) -> None:
    """Write a file, unless it stands there with this content."""
    if not (path.is_file() and path.read_bytes() == content):
        write_atomic(path, content)


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


def name_below(error: OSError, folder: Path) -> None:
    """Say in which folder a file lies that an error names as it lies below the descriptor of one, or does not name."""
    name = "" if error.filename is None else os.fsdecode(error.filename)
    if not os.path.isabs(name) and not name.startswith(str(folder)):
        name_file(error, folder / name)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that come with no name are those of this file or folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            name_file(error, path)
        raise
