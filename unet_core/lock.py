"""A lock of the results, for all runs that write there: of other clones, other users and other machines too.

The lock is a file, ``<results>/.lock``, that says who holds it. It is made by `os.link`, which also on NFS one of
several processes alone succeeds with. Its owner touches it every `BEAT` seconds. A lock whose owner is gone is taken
over: at once where the process ran on this machine, and else after `PATIENCE` seconds without a touch, by whatever
clock the file system has.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from unet_core.files import temporary_path

NAME = ".lock"
# Seconds between two touches, and without a touch until a lock counts as left behind.
BEAT, PATIENCE = 15.0, 60.0


class Locked(Exception):
    """Another run holds the lock."""


def lock_results(results: Path) -> None:
    """Hold the lock of a folder of results until this process ends.

    Raises
    ------
    Locked
        If a run that is alive holds it; the message says who, and what to do.
    OSError
        If the folder cannot be written to.
    """
    results.mkdir(parents=True, exist_ok=True)
    path, own = results / NAME, _own()
    while not _made(path, own):
        holder = _holder(path)
        if holder is not None and _is_alive(path, holder):
            raise Locked(
                f"{results} is in use by another run: {holder.get('user')} on {holder.get('host')} (process "
                f"{holder.get('process')}) since {holder.get('since')}; wait for its end, give this run other results "
                "(the key results), or start it with --nolock if the two do nothing in common"
            )
        _take_away(path, holder)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, own["token"], ended), daemon=True).start()
    atexit.register(_release, path, own, ended)


def _own() -> dict[str, Any]:
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": uuid.uuid4().hex,
    }


def _machine() -> str:
    """What tells this boot of this machine, and the numbers of processes seen here, from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _began(process: int) -> str:
    """When a process began, as the system counts; empty if there is none, or where the system does not say."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""


def _made(path: Path, own: dict[str, Any]) -> bool:
    """Whether the lock could be made, whole and by this process alone."""
    temporary = temporary_path(path)
    temporary.write_text(json.dumps(own), encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(own))
            return True
        return False
    finally:
        temporary.unlink()
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock; None if nobody does any more, or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_alive(path: Path, holder: dict[str, Any]) -> bool:
    if holder.get("machine") == _machine():
        return _began(int(holder["process"])) == holder.get("began") and _exists(int(holder["process"]))
    before = _touched(path)
    print(
        f"{path} is held by {holder.get('user')} on {holder.get('host')}; looking for {PATIENCE:g} s whether that run "
        "is alive",
        file=sys.stderr,
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, PATIENCE / 10))
        if _touched(path) != before:
            return _holder(path) is not None
    return False


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _take_away(path: Path, holder: dict[str, Any] | None) -> None:
    """Remove a lock that was left behind, unless another process has just done so and made its own."""
    aside = temporary_path(path)
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if holder is not None and (_holder(aside) or {}).get("token") != holder.get("token"):
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _beat(path: Path, token: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        holder = _holder(path)
        if holder is not None and holder.get("token") != token:
            print(f"{path}: another run has taken this lock; both write to the same results", file=sys.stderr)
            return
        with contextlib.suppress(OSError):
            os.utime(path)


def _release(path: Path, own: dict[str, Any], ended: threading.Event) -> None:
    if os.getpid() != own["process"]:  # a child that was forked
        return
    ended.set()
    if (_holder(path) or {}).get("token") == own["token"]:
        path.unlink(missing_ok=True)
