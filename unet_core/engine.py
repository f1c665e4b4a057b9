"""Runs functions over many items with Dask: bounded in flight, with progress; the first error stops the rest.

Three places: this machine, worker jobs in SLURM, or the workers of a scheduler that runs already. On this machine it
is threads of this process, or, without Dask, processes that have a GPU each.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster
from distributed.security import Security
from tqdm import tqdm

from unet_core.config.cluster import Dask, Slurm, Tls
from unet_core.processes import open_processes
from unet_core.runtime import UserError, job_log
from unet_core.workers import (
    ALLOWED_FAILURES,
    ANY_LOCAL_PORT,
    DASK_SETTINGS,
    POLL_SECONDS,
    silent,
    worker_jobs,
)

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")
# Names of processes, and what the environment of each has more.
Environments = Mapping[str, Mapping[str, str]]

# A task takes Dask some 5 ms: where items take less than this, several are one task, so that it is 2 % of the work.
TASK_SECONDS = 0.25
# A sample of more blocks is never done by one worker: it would show no progress for long, and begin anew with it.
WHOLE_BLOCKS = 32
# How soon work in another thread sees that it is to stop.
LOOK_SECONDS = 0.5
# Samples with fewer blocks for each worker than this are not worked on alone: of their time, the end of a pass over the
# blocks, where some workers have nothing left, would be more than one part in so many.
OVERLAP = 16
# Threads that each wait for the blocks of a sample.
MAX_SAMPLES_AT_ONCE = 256


class Runner(Protocol):
    """What applies functions to items: an engine, or the worker in which one asks (`AtHand`)."""

    def run(
        self, function: Callable[[Item], Value], items: Iterable[Item], total: int, what: str
    ) -> Iterator[tuple[Item, Value]]:
        """See `Engine.run`."""


class Pool(Protocol):
    """What functions are submitted to, as a client of Dask offers it."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, pure: bool) -> Any:
        """A future of the value of a function."""

    def cancel(self, futures: list[Any], /) -> Any:
        """Forget what nobody waits for any more."""


class AtHand:
    """Works on one item after the other where it is asked to: in a worker that has a whole sample to do."""

    def run(
        self, function: Callable[[Item], Value], items: Iterable[Item], total: int, what: str
    ) -> Iterator[tuple[Item, Value]]:
        """As `Engine.run`, without a progress line."""
        return ((item, function(item)) for item in items)


class _NowAndThen:
    """Calls a check every `POLL_SECONDS` seconds, however often and from however many threads it is called itself."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check, self._lock, self._called = check, threading.Lock(), time.monotonic()

    def __call__(self) -> None:
        # Where another thread is at it, that is enough: two would both replace the same lost job.
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._called >= POLL_SECONDS:
                    self._check()
                    self._called = time.monotonic()
            finally:
                self._lock.release()


class Engine:
    """A Dask cluster, or processes; use `open_engine`.

    Parameters
    ----------
    pool : distributed.Client or Processes
        What functions are submitted to.
    workers : int
        Items worked on at once.
    check : callable
        Called every `POLL_SECONDS` seconds; raises if nothing will ever get done.
    stop : threading.Event, optional
        Set where nobody waits for what runs any more.
    """

    def __init__(
        self, pool: Pool, workers: int, check: Callable[[], None] = lambda: None, stop: threading.Event | None = None
    ) -> None:
        self.workers = workers
        self._pool = pool
        self._check = check if isinstance(check, _NowAndThen) else _NowAndThen(check)
        self._stop = stop or threading.Event()

    def in_thread(self, stop: threading.Event) -> Engine:
        """The same workers, for use in another thread; what runs there fails soon after the event is set."""
        return Engine(self._pool, self.workers, self._check, stop)

    def run(
        self, function: Callable[[Item], Value], items: Iterable[Item], total: int, what: str
    ) -> Iterator[tuple[Item, Value]]:
        """Apply a function to items and yield (item, value) as they are done, in any order.

        Never more than twice as many tasks as workers are in flight, so that memory does not grow with the number of
        items. A task is one item, or as many as take `TASK_SECONDS`.

        Parameters
        ----------
        function : callable
            Called with one item in a worker.
        items : iterable
            Taken from lazily.
        total : int
            Number of items, for the progress line.
        what : str
            Shown before the progress line.
        """
        waiting, size, left = iter(items), 1, total
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        flying: dict[Any, list[Item]] = {}
        # On a terminal the line moves often; in a log file every half minute is enough.
        interval = 0.5 if sys.stderr.isatty() else 30
        with tqdm(total=total, desc=what, mininterval=interval, maxinterval=interval, disable=total < 2) as progress:
            try:
                while True:
                    while len(flying) < 2 * self.workers and (taken := list(islice(waiting, size))):
                        flying[self._submit(function, taken, done)] = taken
                        left -= len(taken)
                    if not flying:
                        return
                    future = self._next(done)
                    together = flying.pop(future)
                    values, seconds = _value(future)
                    if rest := together[len(values) :]:
                        flying[self._submit(function, rest, done)] = rest
                    fair = left // (4 * self.workers)  # that no worker has much to do when the others have nothing
                    size = max(1, min(2 * size, fair, int(TASK_SECONDS * len(values) / max(seconds, 1e-9))))
                    for item, value in zip(together, values, strict=False):
                        progress.update()
                        yield item, value
            finally:
                self._pool.cancel(list(flying))

    def _submit(self, function: Callable[[Item], Value], items: list[Item], done: queue.SimpleQueue[Any]) -> Any:
        future = self._pool.submit(_one_by_one, items, function, pure=False)
        future.add_done_callback(done.put)
        return future

    def _next(self, done: queue.SimpleQueue[Any]) -> Any:
        while True:
            if self._stop.is_set():
                raise UserError("another sample failed, or the step was told to end")
            self._check()
            with contextlib.suppress(queue.Empty):
                return done.get(timeout=LOOK_SECONDS)


def _one_by_one(items: list[Item], function: Callable[[Item], Value]) -> tuple[list[Value], float]:
    """Values of items, and the seconds that they took.

    Of one that fails, and of those after it, there is none: it fails again as the first of a task, with its own error.
    """
    begun, values = time.perf_counter(), list[Value]()
    for item in items:
        try:
            values.append(function(item))
        except Exception:
            if not values:
                raise
            break
    return values, time.perf_counter() - begun


def run_samples(
    engine: Engine,
    function: Callable[[Item, Runner], Value],
    samples: Iterable[Item],
    blocks: Callable[[Item], int],
    total: int,
    what: str,
) -> Iterator[tuple[Item, Value]]:
    """Apply a function to samples and yield (sample, value) as they are done, in any order.

    A sample of one block is one item, so that many small ones keep all workers busy. Larger ones come after them: it is
    their blocks that are worked on side by side, or, where that leaves no worker idle for long, whole samples again.

    Parameters
    ----------
    engine : Engine
        That of the step.
    function : callable
        Called with a sample and what its blocks are to be run with, also in several threads at once.
    samples : iterable
        Taken from lazily.
    blocks : callable
        Number of blocks of a sample.
    total, what : int, str
        As in `Engine.run`.
    """
    large: list[tuple[int, Item]] = []

    def small() -> Iterator[Item]:
        for sample in samples:
            if (number := blocks(sample)) == 1:
                yield sample
            else:
                large.append((number, sample))

    whole = functools.partial(_whole, function=function)
    yield from engine.run(whole, small(), total, what)
    # The last whole samples keep one worker each, while others have nothing left: at most an eighth of the time.
    most = min(WHOLE_BLOCKS, sum(number for number, _ in large) // (8 * engine.workers))
    yield from _side_by_side(engine, function, [(number, sample) for number, sample in large if number > most])
    rest = [sample for number, sample in large if number <= most]
    yield from engine.run(whole, rest, len(rest), f"{what}, larger samples")


def _side_by_side(
    engine: Engine, function: Callable[[Item, Runner], Value], samples: list[tuple[int, Item]]
) -> Iterator[tuple[Item, Value]]:
    """Apply a function to samples, as many at once as have work for all workers where one ends a pass over its blocks.

    The first error stops all of them.
    """
    stop = threading.Event()
    waiting = iter(samples)
    at_once = min(
        MAX_SAMPLES_AT_ONCE, 1 + OVERLAP * engine.workers // min((number for number, _ in samples), default=1)
    )
    flying: dict[Future[Value], Item] = {}
    with ThreadPoolExecutor(at_once, "sample") as threads:
        try:
            while True:
                for _, sample in islice(waiting, at_once - len(flying)):
                    flying[threads.submit(function, sample, engine.in_thread(stop))] = sample
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    yield flying.pop(future), future.result()
        finally:
            stop.set()


def _whole(sample: Item, function: Callable[[Item, Runner], Value]) -> Value:
    return function(sample, AtHand())


def _value(future: Any) -> Any:
    try:
        return future.result()
    except KilledWorker:
        raise UserError(
            f"a block was given up after {ALLOWED_FAILURES} workers that worked on it were killed; see their logs. "
            "Mostly they need more memory: raise dask.slurm.memory_gb, or lower dask.slurm.cores"
        ) from None


@contextmanager
def open_job(
    step: str,
    log: str | Path,
    threads: int,
    options: dict[str, Any],
    environments: Callable[[], Environments] = dict,
) -> Iterator[Engine]:
    """Log and engine of a job, as scripts need them.

    Parameters
    ----------
    step : str
        Name of the step.
    log : path-like
        Its log file.
    threads : int
        Threads of this job.
    options : dict
        The section ``dask`` of the configuration.
    environments : callable
        As in `open_engine`.
    """
    log = Path(log)
    cfg = Dask.model_validate(options)
    logs = log.with_suffix(".workers")
    with job_log(log, threads), open_engine(cfg, step, threads, logs, environments) as engine:
        yield engine


@contextmanager
def open_engine(
    cfg: Dask, step: str, threads: int, logs: Path, environments: Callable[[], Environments] = dict
) -> Iterator[Engine]:
    """Start or join the Dask cluster on which a step works; all that was started ends with the context.

    Parameters
    ----------
    cfg : Dask
        Options.
    step : str
        Which may have options of its own.
    threads : int
        Threads of this job.
    logs : Path
        Folder for the logs of worker jobs.
    environments : callable
        Asked where the step works on this machine: of processes in which it does so; none: in threads of this one.
    """
    opened: AbstractContextManager[Engine]
    if cfg.cluster == "slurm":
        opened = _slurm(cfg.slurm_of(step), step, logs)
    elif cfg.cluster == "local":
        opened = _local(cfg.workers, threads, environments())
    else:
        opened = _joined(cfg.cluster, cfg.tls)
    with opened as engine:
        yield engine


def _local(workers: int | Literal["auto"], threads: int, environments: Environments) -> AbstractContextManager[Engine]:
    """Threads of this process, or processes with equal shares of them."""
    share = max(1, len(environments))
    # While the network computes one block, another is read and a third written.
    each = max(3, threads // share) if workers == "auto" else max(1, workers // share)
    return process_engine(environments, threads, each) if environments else local_engine(each)


@contextmanager
def process_engine(environments: Environments, cores: int, threads: int) -> Iterator[Engine]:
    """Processes on this machine; see `open_processes`."""
    with open_processes(environments, cores, threads) as processes:
        yield Engine(processes, len(environments) * threads)


@contextmanager
def local_engine(workers: int) -> Iterator[Engine]:
    """A Dask cluster in this process; nothing of it can be reached from another machine.

    Parameters
    ----------
    workers : int
        Threads, each working on one item.
    """
    with (
        dask.config.set(DASK_SETTINGS),
        silent("distributed", "distributed.client"),
        LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            protocol="inproc",
            dashboard_address=ANY_LOCAL_PORT,
            worker_dashboard_address=ANY_LOCAL_PORT,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=False,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Engine(client, workers)


@contextmanager
def _slurm(cfg: Slurm, step: str, logs: Path) -> Iterator[Engine]:
    with worker_jobs(cfg, step, logs) as (client, check):
        yield Engine(client, cfg.maximum * cfg.cores, check)


@contextmanager
def _joined(address: str, tls: Tls) -> Iterator[Engine]:
    """The workers of a scheduler that runs already; they must see the same files and code."""
    try:
        security = Security(
            tls_ca_file=tls.ca, tls_client_cert=tls.certificate, tls_client_key=tls.key, require_encryption=True
        )
        client = Client(address, security=security, timeout=30)
    except OSError as error:
        raise UserError(
            f"no Dask scheduler at {address} ({error}); see dask.cluster and dask.tls in the configuration"
        ) from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"the Dask scheduler at {address} has no workers; start some")
        yield Engine(client, threads)
