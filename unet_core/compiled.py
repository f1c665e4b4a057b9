"""Compiled functions whose machine code is kept for later jobs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

# Numba fills it in while it is imported.
SETTINGS: Any = numba.config


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the machine code: the next job loads it in milliseconds.

    Numba writes an entry of its cache in two steps. If it is killed between them, or two kinds of CPU share the folder,
    the name of an entry may stand for the machine code of another one. So each text of a module, version of Numba and
    kind of CPU has a folder of its own, in which all writers write the same. For this to hold, a function may call
    others of its own module only, and each must always be called with the same types.

    Parameters
    ----------
    function : callable
        Of arrays and numbers; runs without Python's global lock.

    Returns
    -------
    callable
        The function itself, compiled; where no folder can be written, its code is compiled anew in each process.
    """
    module = Path(function.__code__.co_filename)
    folder = next(filter(_writable, _folders(module)), None)
    before = SETTINGS.CACHE_DIR
    SETTINGS.CACHE_DIR = str(folder or "")
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=folder is not None)(function)
    finally:
        SETTINGS.CACHE_DIR = before


def _folders(module: Path) -> list[Path]:
    """Folders that may keep machine code, in the order in which they are tried.

    ``NUMBA_CACHE_DIR`` alone where it is set; else the one beside the module, then one among the user's other caches.
    """
    machine = f"{numba.__version__} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    name = "numba-" + hashlib.blake2b(module.read_bytes() + machine.encode(), digest_size=10).hexdigest()
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unet_core"
    return [
        parent / name
        for parent in ([Path(SETTINGS.CACHE_DIR)] if SETTINGS.CACHE_DIR else [module.parent / "__pycache__", user])
    ]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)
