"""What every job needs: its log, its threads, its stamp."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unet_core.files import write_atomic

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something that the user can mend; the job ends with this message and without a traceback."""


@contextlib.contextmanager
def job_log(path: Path, threads: int = 1, append: bool = False) -> Iterator[None]:
    """Write log records of a job to its log file and to the terminal, and errors as what they are.

    A `UserError` ends the job with its message alone; the traceback of any other error goes to the log file too.

    Parameters
    ----------
    path : Path
        The log file.
    threads : int
        Threads that the job may use for arithmetic.
    append : bool
        Keep what the log says: for the processes of one job.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8"),
        logging.StreamHandler(sys.stderr),
    ]
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for noisy in ("distributed", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if "torch" in sys.modules:  # only some steps use it, and importing it takes seconds
        sys.modules["torch"].set_num_threads(min(threads, len(os.sched_getaffinity(0))))
    # So that what is open is closed, worker jobs among them: Python's default is to drop everything.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end) if in_main else None
    try:
        yield
    except UserError as error:
        logger.error("%s", error)
        sys.exit(1)
    except Exception:
        logger.exception("stopped by an unexpected error, a fault of the pipeline; please report it with %s", path)
        sys.exit(1)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        logging.shutdown()


def _end(number: int, _frame: object) -> None:
    logger.error("stopped by signal %s; run again to go on", signal.Signals(number).name)
    sys.exit(128 + number)


def return_freed_memory() -> None:
    """Let the C library return to the system what was freed.

    Between pieces that are in use it may otherwise keep freed memory for long.
    """
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


def write_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Write the output file of a step: JSON with one line per sample, so that it is readable and diffable."""
    lines = []
    for key, value in stamp.items():
        if key == "samples":
            inner = ",\n".join(f"  {_compact(name)}: {_compact(entry)}" for name, entry in value.items())
            lines.append(f' "samples": {{\n{inner}\n }}' if value else ' "samples": {}')
        else:
            lines.append(f" {_compact(key)}: {_compact(value)}")
    write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises
    ------
    UserError
        If the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run snakemake again to make it") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run snakemake again") from None


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes the results, for the provenance."""
    names = ("torch", "zarr", "dask", "numpy", "scipy", "scikit-image", "connected-components-3d", "numba")
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in names}
