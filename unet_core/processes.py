"""Processes of one job that work side by side, each in an environment of its own: one for each GPU.

They are given functions and items through a pipe that no other program can open, and send back values, errors and what
they have to say. They end when the pipe does, however the job ends.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from unet_core.failures import chain_of
from unet_core.runtime import END_SIGNALS, SHARED_BY, UserError, available_cores, code_path

logger = logging.getLogger(__name__)


class Processes:
    """Where functions are called, as a client of Dask offers it; use `open_processes`."""

    def __init__(self, all_of_them: list[_Process]) -> None:
        self._all = all_of_them

    def submit(self, function: Callable[..., Any], *arguments: Any, pure: bool = False) -> Future[Any]:
        """Call a function in the process that has the least to do; functions and values are pickled."""
        payload = pickle.dumps((function, arguments))
        return min(self._all, key=lambda process: process.busy).submit(payload)

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        """Forget calls; those that have not begun do not begin."""
        wanted = set(futures)
        for process in self._all:
            process.cancel(wanted)


@contextmanager
def open_processes(environments: Mapping[str, Mapping[str, str]], cores: int, threads: int) -> Iterator[Processes]:
    """Start processes, which end with the context; they share the cores and the memory of the job.

    Parameters
    ----------
    environments : mapping
        Name of each process, for messages, and what its environment has more than that of this one.
    cores : int
        Of all processes together, for arithmetic.
    threads : int
        Calls that each process works on at once.
    """
    number = len(environments)
    shared = {
        SHARED_BY: str(number),
        "OMP_NUM_THREADS": str(max(1, min(cores, available_cores()) // number)),
        "PYTHONPATH": code_path(),
    }
    logger.info("in %d processes, on %s", number, ", ".join(environments))
    started: list[_Process] = []
    try:
        for name, environment in environments.items():
            started.append(_Process(name, {**os.environ, **shared, **environment}, threads))
        yield Processes(started)
    finally:
        for process in started:
            process.end()


class _Process:
    """One process, as it is seen by the job."""

    def __init__(self, name: str, environment: Mapping[str, str], threads: int) -> None:
        self._name = name
        self._connection, theirs = Pipe()
        with theirs:
            end = theirs.fileno()
            # Not forked: what was forked could not use a GPU that its parent has looked at.
            command = [sys.executable, "-P", "-m", __name__, name, str(end), str(threads)]
            self._process = subprocess.Popen(command, env=environment, pass_fds=[end], stdin=subprocess.DEVNULL)
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._error: UserError | None = None
        self._listener = threading.Thread(target=self._listen, name=name, daemon=True)
        self._listener.start()

    @property
    def busy(self) -> int:
        """Calls that have not ended."""
        return len(self._waiting)

    def submit(self, payload: bytes) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._error:
                future.set_exception(self._error)
                return future
            number = next(self._numbers)
            self._waiting[number] = future
            self._send(number, payload)
        return future

    def cancel(self, futures: set[Future[Any]]) -> None:
        with self._lock:
            numbers = [number for number, future in self._waiting.items() if future in futures]
            for number in numbers:
                self._waiting.pop(number).cancel()
            self._send(None, numbers)

    def end(self) -> None:
        """End the process, whatever it does: files are whole at any time."""
        self._process.kill()
        self._listener.join()
        self._connection.close()

    def _send(self, number: int | None, payload: bytes | list[int]) -> None:
        """Send a call, or the numbers of those that nobody waits for."""
        with suppress(OSError):  # a process that is gone is noticed by `_listen`
            self._connection.send((number, payload))

    def _listen(self) -> None:
        """Hand on what comes from the process, until it is gone; then nobody waits for it in vain."""
        with suppress(EOFError, OSError):
            while True:
                number, fine, payload = self._connection.recv()
                if number is None:
                    record = pickle.loads(payload)
                    logging.getLogger(record.name).handle(record)
                    continue
                with self._lock:
                    future = self._waiting.pop(number, None)
                if future is not None:
                    _answer(future, fine, payload)
        code = self._process.wait()
        with self._lock:
            self._error = UserError(_lost(self._name, code))
            left, self._waiting = list(self._waiting.values()), {}
        for future in left:
            future.set_exception(self._error)


def _answer(future: Future[Any], fine: bool, payload: bytes) -> None:
    try:
        value = pickle.loads(payload)
    except Exception as error:
        value, fine = [error], False
    if fine:
        future.set_result(value)
        return
    for raised, cause in itertools.pairwise(value):
        raised.__cause__ = cause
    future.set_exception(value[0])


def _lost(name: str, code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            f"the process on {name} was killed, mostly because the job needs more memory: raise mem_mb, or lower "
            "dask.workers or the threads of the rule (blocks in work at once)"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"the process on {name} ended {how}; what it said before stands in the output of the job"


def serve(name: str, connection: Connection, threads: int) -> None:
    """Call what comes through the pipe, in threads; when it is closed, so is the process, whatever it does."""
    _Calls(name, connection, threads).serve()
    os._exit(0)


class _Calls:
    """The calls of one process, as it sees them itself."""

    def __init__(self, name: str, connection: Connection, threads: int) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(threads)
        self._cancelled: set[int] = set()
        self._sending, self._loading = threading.Lock(), threading.Lock()
        said = _ToJob(self._send)
        said.setFormatter(logging.Formatter(f"{name}: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[said], force=True)

    def serve(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, payload = self._connection.recv()
                if number is None:
                    self._cancelled.update(payload)
                else:
                    self._pool.submit(self._call, number, payload)

    def _call(self, number: int, payload: bytes) -> None:
        if number in self._cancelled:
            return  # nobody waits for it
        try:
            with self._loading:  # the first one imports what it needs
                function, arguments = pickle.loads(payload)
            answer = True, pickle.dumps(function(*arguments))
        except BaseException as error:  # whatever it is, the job waits for it
            answer = False, pickle.dumps([_sendable(one) for one in chain_of(error)])
        self._send(number, *answer)

    def _send(self, number: int | None, fine: bool, payload: bytes) -> None:
        with self._sending, suppress(OSError):  # a job that is gone is noticed by `serve`
            self._connection.send((number, fine, payload))


class _ToJob(logging.Handler):
    """Log records go to the log of the job."""

    def __init__(self, send: Callable[[None, bool, bytes], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        plain = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        self._send(None, True, pickle.dumps(logging.makeLogRecord(plain | {"msg": self.format(record)})))


def _sendable(error: BaseException) -> BaseException:
    """An error as it arrives in another process, with the traceback that would be lost."""
    error.add_note("".join(traceback.format_exception(error, chain=False)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        other = RuntimeError(f"{type(error).__name__}: {error}")
        other.__notes__ = error.__notes__
        return other
    return error


if __name__ == "__main__":
    for _signal in END_SIGNALS:  # the job gets them too, and says when this process ends
        signal.signal(_signal, signal.SIG_IGN)
    serve(sys.argv[1], Connection(int(sys.argv[2])), int(sys.argv[3]))
