"""Compiled functions whose machine code is kept for later jobs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.caching import FunctionCache, NullCache

# Numba fills it in while it is imported.
SETTINGS: Any = numba.config


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the machine code: the next job loads it in milliseconds.

    Numba writes an entry of its cache in two steps, an index and then what it names. If it is killed between them, two
    processes write at once, or two kinds of CPU share the folder, the name of an entry may stand for the machine code
    of another one. So each text of a module, version of Numba, kind of CPU and set of types has a folder of its own, in
    which all writers write the same. For this to hold, a function may use nothing of other modules of this package.

    Parameters
    ----------
    function : callable
        Of arrays and numbers, of any types; runs without Python's global lock.

    Returns
    -------
    callable
        The function itself, compiled; where no folder can be written, its code is compiled anew in each process.
    """
    code: Any = numba.njit(nogil=True, error_model="numpy")(function)
    # In the place of the cache that Numba makes if it is told to, with one folder for all types.
    code._cache = _Kept(function, _folders(Path(function.__code__.co_filename)))
    return code


class _Kept(NullCache):
    """Machine code of a function: for each set of types in the first of some folders that can be written."""

    def __init__(self, function: Callable[..., Any], folders: list[Path]) -> None:
        self._function = function
        self._folders = folders

    def load_overload(self, sig: tuple[Any, ...], target_context: object) -> object | None:
        """Machine code for these types; None where none can be read."""
        cache = self._of(sig)
        with contextlib.suppress(OSError):
            try:
                return cache.load_overload(sig, target_context)
            except (EOFError, pickle.UnpicklingError):  # damaged, as a power failure may leave it
                cache.flush()
        return None

    def save_overload(self, sig: tuple[Any, ...], cres: object) -> None:
        """Keep machine code for these types; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            self._of(sig).save_overload(sig, cres)

    def _of(self, sig: tuple[Any, ...]) -> Any:
        """Numba's own cache in the folder of these types; where none can be written, one that keeps nothing."""
        name = hashlib.blake2b(repr(sig).encode(), digest_size=10).hexdigest()
        folder = next(filter(_writable, (parent / name for parent in self._folders)), None)
        if folder is None:
            return NullCache()
        # Numba holds its lock of the compiler: no other thread sees this setting.
        before, SETTINGS.CACHE_DIR = SETTINGS.CACHE_DIR, str(folder)
        try:
            return FunctionCache(self._function)
        finally:
            SETTINGS.CACHE_DIR = before


def _folders(module: Path) -> list[Path]:
    """Folders that may keep machine code, in the order in which they are tried.

    ``NUMBA_CACHE_DIR`` alone where it is set; else the one beside the module, then one among the user's other caches.
    """
    machine = f"{numba.__version__} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    name = "numba-" + hashlib.blake2b(module.read_bytes() + machine.encode(), digest_size=10).hexdigest()
    if SETTINGS.CACHE_DIR:
        return [Path(SETTINGS.CACHE_DIR) / name]
    parents = [module.parent / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        parents.append(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unet_core")
    return [parent / name for parent in parents]


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder; permissions alone do not tell, as on a full disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
