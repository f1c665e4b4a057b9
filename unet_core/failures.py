"""What an error of the system means to a user: what happened, to which file, and what to do about it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

AGAIN = "then run snakemake again: it goes on where it was"

# What happened, and what to do.
KINDS = {
    errno.ENOSPC: ("no space is left on this file system", f"make room, {AGAIN}"),
    errno.EDQUOT: ("your quota of space or of files on this file system is used up", f"make room, {AGAIN}"),
    errno.EFBIG: ("the file is larger than a file may be here (ulimit -f)", f"raise the limit, {AGAIN}"),
    errno.EACCES: ("permission denied", f"get the permission (ls -ld shows who has it), {AGAIN}"),
    errno.EPERM: ("the system does not permit it", f"get the permission (ls -ld shows who has it), {AGAIN}"),
    errno.EROFS: (
        "this file system can only be read",
        f"have it mounted for writing, or name another folder in the configuration (results), {AGAIN}",
    ),
    errno.ESTALE: ("the file server has lost the file (stale file handle)", f"wait until it is well, {AGAIN}"),
    errno.EIO: ("the disk or the file server fails (input/output error)", f"have it looked after, {AGAIN}"),
    errno.ENAMETOOLONG: (
        "the name is longer than this file system allows",
        "shorten it: names of files follow from those of images, data sets and models",
    ),
    errno.EMFILE: ("this process may not open more files (ulimit -n: {files})", f"raise the limit, {AGAIN}"),
    errno.ENFILE: ("this machine may not open more files", f"end other programs, {AGAIN}"),
}
FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException) -> str | None:
    """Say in one line what the system refused, where and why, and what to do; None for any other error.

    Libraries wrap such errors in others: what an error was raised from is looked at too.
    """
    for one in chain_of(error):
        if _is_of_memory(one):
            detail = str(one).partition("\n")[0]
            return (
                f"the memory is used up{f' ({detail})' if detail else ''}: end other programs, give the job more, or "
                f"ask for less (plan.memory_gb, train.tile, train.batch), {AGAIN}"
            )
        if isinstance(one, OSError) and one.errno in KINDS:
            return _of_system(one)
    return None


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _is_of_memory(error: BaseException) -> bool:
    """Whether the memory does not suffice; torch raises errors of its own."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _of_system(error: OSError) -> str:
    happened, advice = KINDS[error.errno or 0]
    happened = happened.format(files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = f"{named[-1]}: " if named else ""
    free = _free(Path(named[-1])) if named and error.errno in FULL else ""
    return f"{where}{happened}{free}; {advice}"


def _free(path: Path) -> str:
    """What is free where a file lies or was to lie."""
    folder = next((one for one in path.absolute().parents if one.is_dir()), Path("/"))
    try:
        status = os.statvfs(folder)
    except OSError:
        return ""
    if status.f_files and not status.f_favail:
        return " (it can hold no more files)"
    return f" ({status.f_bavail * status.f_frsize / 1e6:,.1f} MB are free)"
