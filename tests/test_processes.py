"""Processes beside each other give what threads give, and none is waited for in vain or outlives its job."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest

from unet_core.failures import explain
from unet_core.processes import Processes, open_processes
from unet_core.runtime import SHARED_BY, UserError, available_cores, available_memory, job_log

WORK = {"gpu:0": {"CUDA_VISIBLE_DEVICES": "3"}, "gpu:1": {"CUDA_VISIBLE_DEVICES": "GPU-5f"}}


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def where(item: int) -> tuple[int, str]:
    time.sleep(0.01)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def share(item: int) -> tuple[str, int, str]:
    return os.environ["OMP_NUM_THREADS"], available_memory(), os.environ[SHARED_BY]


def threads_of_torch(item: int) -> int:
    import torch

    return torch.get_num_threads()


def tell(item: int) -> None:
    logging.getLogger("unet_core.test").warning("item %d is odd", item)


def fail(item: int) -> None:
    if item == 0:
        raise UserError("item 0: no pixels; replace it")
    if item == 1:
        raise Unpicklable(1, 2)
    if item == 2:
        sys.exit(3)
    try:
        raise OSError(errno.ENOSPC, "No space", "/data/x")
    except OSError:
        raise RuntimeError("could not write") from None if item == 3 else sys.exception()


def unpicklable(item: int) -> object:
    return lambda: item


def end_by(number: int) -> int:
    if number > 0:
        os.kill(os.getpid(), number)
        threading.Event().wait()  # another thread may be the one that gets it
    if number < 0:
        os._exit(-number)
    return number


def begin(item: tuple[str, int]) -> int:
    folder, number = item
    Path(folder, str(number)).touch()
    if number:
        while not Path(folder, "go on").exists():
            time.sleep(0.01)
    return number


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    with open_processes(WORK, 2, 2) as opened:
        yield opened


def call(processes: Processes, function: Callable[[Any], Any], *items: Any) -> list[Any]:
    """Values of a function, asked for at once."""
    return [future.result() for future in [processes.submit(function, item) for item in items]]


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_each_process_has_its_own_device_and_all_of_them_work(two: Processes) -> None:
    found = call(two, where, *range(8))
    assert {device for _, device in found} == {"3", "GPU-5f"} and len(set(found)) == 2
    assert os.getpid() not in dict(found)


def test_what_one_item_asks_for_is_asked_of_the_first_process(two: Processes) -> None:
    assert {call(two, where, 0)[0][1] for _ in range(5)} == {"3"}


def test_processes_share_cores_and_memory(two: Processes) -> None:
    expected = str(max(1, min(2, available_cores()) // 2)), available_memory() // 2, "2"
    assert call(two, share, 0, 1) == [expected, expected]
    assert call(two, threads_of_torch, 0) == [1]


def test_what_processes_say_stands_in_the_log_of_the_job(
    two: Processes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with job_log(tmp_path / "log"):
        call(two, tell, 7)
    assert "gpu:0: item 7 is odd" in (tmp_path / "log").read_text()
    assert capfd.readouterr().err.count("item 7 is odd") == 1


def test_errors_arrive_as_they_are_with_what_they_were_raised_from(two: Processes) -> None:
    with pytest.raises(UserError) as told:
        call(two, fail, 0)
    assert str(told.value) == "item 0: no pixels; replace it" and "in fail" in told.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Unpicklable: 1 and 2"):
        call(two, fail, 1)
    with pytest.raises(SystemExit):
        call(two, fail, 2)
    with pytest.raises(RuntimeError, match="could not write") as bare:
        call(two, fail, 3)
    with pytest.raises(RuntimeError, match="could not write") as wrapped:
        call(two, fail, 4)
    assert explain(bare.value) is None and "/data/x: no space is left" in (explain(wrapped.value) or "")
    with pytest.raises(Exception, match="pickle"):
        call(two, unpicklable, 0)
    assert call(two, abs, -1) == [1]  # they can still be used


def test_signals_of_the_terminal_and_of_slurm_are_for_the_job(two: Processes) -> None:
    before = set(call(two, where, *range(8)))
    for process, _ in before:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process, number)
    assert set(call(two, where, *range(8))) == before


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (signal.SIGKILL, "the process on gpu:0 was killed, mostly because the job needs more memory: raise mem_mb"),
        (signal.SIGSEGV, "the process on gpu:0 ended by SIGSEGV; what it said before"),
        (-7, "the process on gpu:0 ended with code 7; what it said before"),
    ],
)
def test_the_end_of_a_process_is_told_to_all_that_wait_for_it(how: int, told: str) -> None:
    with open_processes({"gpu:0": {}}, 1, 1) as one:
        waiting = [one.submit(end_by, number) for number in (0, how, 0, 0)]
        assert waiting[0].result() == 0
        for future in [*waiting[1:], one.submit(end_by, 0)]:
            with pytest.raises(UserError, match=told):
                future.result()


def test_a_process_that_cannot_start_is_no_hang() -> None:
    with (
        open_processes({"gpu:0": {"PYTHONHOME": "/nowhere"}}, 1, 1) as broken,
        pytest.raises(UserError, match="gpu:0 ended with code 1"),
    ):
        call(broken, abs, -1)


def test_calls_that_nobody_waits_for_do_not_begin(tmp_path: Path) -> None:
    with open_processes({"gpu:0": {}}, 1, 1) as one:
        futures = [one.submit(begin, (str(tmp_path), number)) for number in range(9)]
        futures[0].result()
        one.cancel(futures[1:])
        last = one.submit(abs, -1)
        while int.from_bytes(fcntl.ioctl(one._all[0]._connection.fileno(), termios.TIOCOUTQ, b"1234"), sys.byteorder):
            time.sleep(0.01)  # until the process has read what was sent last
        (tmp_path / "go on").touch()
        assert last.result() == 1
        with pytest.raises(CancelledError):
            futures[8].result()
    begun = {path.name for path in tmp_path.iterdir()} - {"go on"}
    assert "0" in begun and len(begun) <= 2  # one may have begun before it was known


def test_processes_end_with_the_context_whatever_they_do(tmp_path: Path) -> None:
    before = children()
    with open_processes(WORK, 1, 1) as both:
        ours = [child for child in children() if child not in before]
        waiting = [both.submit(begin, (str(tmp_path), number)) for number in range(1, 5)]
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        # What is sent goes through a pipe that nobody else can open.
        assert len(ours) == 2 and not [one for child in ours for one in child.net_connections(kind="inet")]
    assert not [child for child in ours if child.is_running()]
    assert all(isinstance(future.exception(), UserError) for future in waiting)


JOB = """
import sys, time
from pathlib import Path
from tests.test_processes import WORK, begin
from unet_core.processes import open_processes
from unet_core.runtime import job_log

with job_log(Path(sys.argv[1], "log")), open_processes(WORK, 1, 1) as both:
    waiting = [both.submit(begin, (sys.argv[1], number)) for number in range(1, 5)]
    waiting[0].result()
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_job(tmp_path: Path, by: signal.Signals) -> None:
    command = [sys.executable, "-c", JOB, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE) as job:
        while not {"1", "2"} <= {path.name for path in tmp_path.iterdir()}:
            time.sleep(0.01)
        ours = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(by)
        job.communicate()
    gone, alive = psutil.wait_procs(ours, timeout=60)
    assert len(gone) == 2 and not alive
    assert job.returncode == (-by if by == signal.SIGKILL else 128 + by)
    assert ("stopped by SIGTERM; run again" in (tmp_path / "log").read_text()) == (by == signal.SIGTERM)


def test_work_goes_where_there_is_the_least_of_it() -> None:
    class Busy:
        def __init__(self, busy: int) -> None:
            self.busy, self.got = busy, 0

        def submit(self, payload: bytes) -> None:
            self.busy, self.got = self.busy + 1, self.got + 1

    uneven = [Busy(2), Busy(0), Busy(1)]
    processes = Processes(uneven)  # type: ignore[arg-type]
    for _ in range(6):
        processes.submit(abs, -1)
    assert [one.busy for one in uneven] == [3, 3, 3]
