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
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unet_core.failures import explain
from unet_core.files import write_atomic

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something that the user can mend; the job ends with this message and without a traceback."""

    status = 1


class Stopped(UserError):
    """A signal ended the job in good order."""

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.status = 128 + by


# Signals that announce the end of a job, beside what SLURM sends to training.
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# So many interruptions end a process at once, whatever it does.
INTERRUPTS = 3
# Control groups of this process, and where those of all lie.
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# In the environment of the processes of a job that share its node: their number.
SHARED_BY = "UNET_SHARED_BY"
# Where this package lies.
ROOT = Path(__file__).parents[1]
# A log that is longer is moved aside before the next attempt.
LOG_BYTES = 2**20


@contextlib.contextmanager
def job_log(path: Path, threads: int = 1, append: bool = False) -> Iterator[None]:
    """Write log records of a job to its log file and to the terminal, and errors as what they are.

    A `UserError` ends the job with its message alone, and so does what the system refuses (`failures.explain`); the
    traceback of any other error goes to the log file too. Signals end it in good order, with 128 and their number.

    Parameters
    ----------
    path : Path
        The log file. It keeps what earlier attempts said, up to 1 MiB; of what was before, ``<path>.old`` has the last.
    threads : int
        Threads that the job may use for arithmetic.
    append : bool
        No attempt of its own begins: for the processes of one job.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    unwritten = None
    try:
        handlers.append(_log_file(path, append))
    except OSError as error:
        unwritten = explain(error) or str(error)
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for noisy in ("distributed", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if unwritten:
        logger.warning("the log cannot be written, and what the job says stands here alone: %s", unwritten)
    if "torch" in sys.modules:  # only some steps use it, and importing it takes seconds
        sys.modules["torch"].set_num_threads(min(threads, available_cores()))
    try:
        with end_in_order(lambda name: logger.error("stopped by %s; run again to go on", name)):
            yield
    except UserError as error:
        logger.error("%s", error)
        sys.exit(error.status)
    except Exception as error:
        if told := explain(error):
            logger.error("%s", told)
        else:
            logger.exception("stopped by an unexpected error, a fault of the pipeline; please report it with %s", path)
        sys.exit(1)
    finally:
        logging.shutdown()


class _LogFile(logging.FileHandler):
    """Where it cannot be written, as on a full disk, what is said stands in the terminal alone."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name of the base class)
        pass


def _log_file(path: Path, append: bool) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not append and path.is_file() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.old"))
    if not append:
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, attempt\n")
    return _LogFile(path, encoding="utf-8")


def end_while_starting() -> dict[signal.Signals, Any]:
    """End with one line if a signal comes from now on, without closing anything; the handlers of before.

    For the seconds in which a program imports what it needs.
    """

    def end(number: int, _frame: object) -> None:
        print_at_once(f"stopped by {signal.Signals(number).name} before it began")
        os._exit(128 + number)

    # Only the main thread may handle signals.
    return handle_signals(END_SIGNALS, end) if threading.current_thread() is threading.main_thread() else {}


def print_at_once(line: str) -> None:
    """Print a line to the terminal, whatever else is being printed, or where output goes in the meantime."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def end_in_order(tell: Callable[[str], object]) -> Iterator[None]:
    """Close what is open where a signal ends the work, worker jobs among it: Python's default is to drop everything.

    Parameters
    ----------
    tell : callable
        Called with the name of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    came: list[int] = []

    def end(number: int, _frame: object) -> None:
        came.append(number)
        end_at_once_if_urged(came)
        if len(came) == 1:
            tell(signal.Signals(number).name)
            sys.exit(128 + number)

    before = handle_signals(END_SIGNALS, end)
    try:
        yield
    finally:
        if not came:  # else what follows is the end of the process, which another signal must not disturb
            for number, handler in before.items():
                signal.signal(number, handler)


def handle_signals(numbers: Iterable[signal.Signals], handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Set a handler of signals and return those before; SIGINT stays ignored where it is, as in background jobs."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return {number: signal.signal(number, handler) for number in numbers if not (ignored and number == signal.SIGINT)}


def end_at_once_if_urged(came: list[int]) -> None:
    """End the process where the user has pressed Ctrl-C again and again: its files are whole at any time."""
    if came.count(signal.SIGINT) >= INTERRUPTS:
        os._exit(128 + signal.SIGINT)


def available_cores() -> int:
    """Cores that this process may use; where the system does not say (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that this process may take: of the machine, or less where its container or its job of SLURM has less.

    Processes of one job have equal shares.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits_of_groups(), *_limits_of_slurm()]
    return min(limit for limit in limits if limit > 0) // int(os.environ.get(SHARED_BY, 1))


def _limits_of_groups() -> Iterator[int]:
    """Limits of the control groups of this process (cgroups, version 1 or 2), and of those around them."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top, name = GROUPS / "memory", "memory.limit_in_bytes"
            elif not controllers:
                top, name = GROUPS, "memory.max"
            else:
                continue
            # In a container the path may be one of outside, where nothing is found, and the limit stands at the top.
            group = top / path.lstrip("/")
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # "max": none
                    yield int((folder / name).read_text(encoding="utf-8"))
                if folder == top:
                    break


def _limits_of_slurm() -> Iterator[int]:
    """What a job of SLURM asked for; some clusters end jobs that take more without limiting them."""
    megabytes = {name: os.environ.get(f"SLURM_{name}", "") for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")}
    numbers = {name: int(value) for name, value in megabytes.items() if value.isdecimal()}
    yield numbers.get("MEM_PER_NODE", 0) * 2**20
    yield numbers.get("MEM_PER_CPU", 0) * numbers.get("CPUS_ON_NODE", 0) * 2**20


def code_path() -> str:
    """PYTHONPATH by which processes find this package, before what the user has there.

    It need not be installed: in an environment of conda it is not.
    """
    return os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


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
