"""Runs functions over many items with Dask: bounded in flight, with progress; the first error stops the rest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import dask
from distributed import Client, LocalCluster, as_completed
from tqdm import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")


class Engine:
    """A Dask cluster in this process; use `open_engine`.

    Parameters
    ----------
    client : distributed.Client
        Connected client.
    workers : int
        Items worked on at once.
    """

    def __init__(self, client: Client, workers: int) -> None:
        self._client = client
        self._workers = workers

    def run(self, function: Callable[[Item], Value], items: Iterable[Item], total: int, what: str) -> Iterator[tuple[Item, Value]]:
        """Apply a function to items and yield (item, value) as they are done, in any order.

        Never more than twice as many items as workers are in flight, so that memory does not grow with their number.

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
        waiting = iter(items)
        flying = {self._submit(function, item): item for item in islice(waiting, 2 * self._workers)}
        # On a terminal the line moves often; in a log file every half minute is enough.
        interval = 0.5 if sys.stderr.isatty() else 30
        with tqdm(total=total, desc=what, mininterval=interval, maxinterval=interval, disable=total < 2) as progress:
            done = as_completed(flying, raise_errors=False)
            try:
                for future in done:
                    item = flying.pop(future)
                    value = future.result()
                    progress.update()
                    for following in islice(waiting, 1):
                        another = self._submit(function, following)
                        flying[another] = following
                        done.add(another)
                    yield item, value
            finally:
                self._client.cancel(list(flying))

    def _submit(self, function: Callable[[Item], Value], item: Item):  # type: ignore[no-untyped-def]
        return self._client.submit(function, item, pure=False)


@contextmanager
def open_engine(workers: int) -> Iterator[Engine]:
    """Start a Dask cluster in this process; nothing of it can be reached from another machine.

    Parameters
    ----------
    workers : int
        Threads, each working on one item.
    """
    quiet = {
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.worker.memory.terminate": False,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    # Dask starts HTTP servers even where it is told not to, by default on port 8787 of all networks.
    nowhere = "127.0.0.1:0"
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            protocol="inproc",
            dashboard_address=nowhere,
            worker_dashboard_address=nowhere,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Engine(client, workers)
