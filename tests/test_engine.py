"""All results come back, few items are in flight, and the first error stops the rest."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import LocalCluster
from distributed.security import Security
from pydantic import ValidationError

from unet_core import engine as engine_module
from unet_core.config.cluster import Dask, Tls
from unet_core.engine import Engine, Runner, local_engine, open_engine, run_samples
from unet_core.runtime import UserError

WORKERS = 2  # of the shared engine

# Functions come to the workers by name, so that what they leave here can be seen.
BEGUN: list[int] = []
RUNNING: list[int] = []
RELEASED = threading.Event()
MEETING = threading.Barrier(WORKERS, timeout=120)


def meet(item: int) -> None:
    MEETING.wait()


def begin(item: int) -> None:
    BEGUN.append(item)


def fail_at_3(item: int) -> None:
    BEGUN.append(item)
    if item == 3:
        raise UserError("item 3: no pixels; replace it")


def fail_at(item: int, bad: int) -> int:
    if item == bad:
        raise UserError(f"item {item}: no pixels")
    return -item


def wait_from_1(item: int) -> None:
    BEGUN.append(item)
    if item:
        RELEASED.wait(timeout=20)


def count_running(item: int) -> int:
    RUNNING.append(item)
    time.sleep(0.005)
    count = len(RUNNING)
    RUNNING.remove(item)
    return count


def test_all_items_come_back_with_their_values(engine: Engine) -> None:
    assert sorted(engine.run(str, range(9), 9, "test")) == [(n, str(n)) for n in range(9)]


def test_no_items_give_no_results(engine: Engine) -> None:
    assert list(engine.run(str, [], 0, "test")) == []


def test_items_need_neither_be_hashable_nor_differ(engine: Engine) -> None:
    assert list(engine.run(sum, [[1, 2], [1, 2], [1, 2]], 3, "test")) == [([1, 2], 3)] * 3


def test_workers_work_at_the_same_time(engine: Engine) -> None:
    assert len(list(engine.run(meet, range(WORKERS), WORKERS, "test"))) == WORKERS


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item is a task of its own, as those are that take long."""
    monkeypatch.setattr(engine_module, "TASK_SECONDS", 0)


@pytest.mark.usefixtures("alone")
def test_never_more_than_twice_as_many_items_as_workers_are_in_flight(engine: Engine) -> None:
    BEGUN.clear()
    for consumed, _ in enumerate(engine.run(begin, range(30), 30, "test"), start=1):
        time.sleep(0.002)  # a consumer slower than the workers
        assert len(BEGUN) <= consumed + 2 * WORKERS
    assert sorted(BEGUN) == list(range(30))


@pytest.mark.usefixtures("alone")
def test_the_input_is_taken_from_lazily(engine: Engine) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = engine.run(abs, endless(), 10**15, "test")
    assert taken == 0
    for consumed in range(1, 6):
        next(results)
        assert taken <= consumed + 2 * WORKERS
    results.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("alone")
def test_an_error_in_one_item_is_raised_as_it_is_and_stops_the_rest(engine: Engine) -> None:
    BEGUN.clear()
    with pytest.raises(UserError, match="^item 3: no pixels; replace it$"):
        for _ in engine.run(fail_at_3, range(1000), 1000, "test"):
            pass
    assert list(engine.run(abs, [1], 1, "test")) == [(1, 1)]  # it can still be used
    stopped = len(BEGUN)
    assert stopped < 100
    time.sleep(0.02)
    assert len(BEGUN) == stopped


def tasks_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of items of the tasks that an engine is given from now on."""
    sizes, submit = list[int](), Engine._submit

    def counting(self: Engine, function: Any, items: list[Any], done: Any) -> Any:
        sizes.append(len(items))
        return submit(self, function, items, done)

    monkeypatch.setattr(Engine, "_submit", counting)
    return sizes


def test_items_that_take_little_time_share_tasks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tasks_of(engine, monkeypatch)
    assert sorted(engine.run(str, range(5000), 5000, "test")) == [(n, str(n)) for n in range(5000)]
    assert sum(sizes) == 5000 and len(sizes) < 100
    assert sizes[0] == 1 and max(sizes) <= 5000 // (4 * WORKERS)
    assert sizes[-WORKERS:] == [1] * WORKERS  # at the end no worker has much to do when the others have nothing


def test_items_that_take_long_are_tasks_of_their_own(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tasks_of(engine, monkeypatch)
    monkeypatch.setattr(engine_module, "TASK_SECONDS", 0.004)  # less than what `count_running` takes
    assert len(list(engine.run(count_running, range(60), 60, "test"))) == 60
    assert sizes == [1] * 60


@pytest.mark.parametrize("bad", [0, 1, 3, 700, 999])
def test_what_was_done_before_an_error_in_a_shared_task_comes_back_first(bad: int) -> None:
    came: list[int] = []
    with local_engine(1) as single, pytest.raises(UserError, match=f"^item {bad}: no pixels$"):
        for item, value in single.run(functools.partial(fail_at, bad=bad), range(1000), 1000, "test"):
            assert value == -item
            came.append(item)
    assert len(came) == len(set(came)) and set(range(bad)) <= set(came) and bad not in came


def blocks_of(sample: tuple[int, int], runner: Runner) -> list[int]:
    """A sample is its number, and how many blocks it has."""
    number, blocks = sample
    return sorted(-block for block, _ in runner.run(abs, range(blocks), blocks, f"sample {number}"))


def second(sample: tuple[int, int]) -> int:
    return sample[1]


@pytest.mark.parametrize("sizes", [[], [1], [3], [1, 2, 1, 5], [2] * 40, [1] * 9 + [33, 2, 100] + [3] * 30])
def test_samples_of_all_sizes_come_back_once_with_all_of_their_blocks(engine: Engine, sizes: list[int]) -> None:
    samples = list(enumerate(sizes))
    found = list(run_samples(engine, blocks_of, iter(samples), second, len(samples), "test"))
    assert sorted(found) == [(sample, sorted(-block for block in range(sample[1]))) for sample in samples]


def meet_in_block_0(block: int) -> None:
    if block == 0:
        MEETING.wait()


def meet_in_the_first_block(sample: tuple[int, int], runner: Runner) -> None:
    for _ in runner.run(meet_in_block_0, range(sample[1]), sample[1], "sample"):
        pass


def test_blocks_of_several_samples_are_worked_on_at_the_same_time(engine: Engine) -> None:
    # One after the other, the first block of the one would wait in vain for that of the other.
    samples = [(number, 3) for number in range(WORKERS)]
    assert len(list(run_samples(engine, meet_in_the_first_block, samples, second, WORKERS, "test"))) == WORKERS


def has_engine(sample: tuple[int, int], runner: Runner) -> bool:
    return isinstance(runner, Engine)


def test_many_samples_of_few_blocks_are_done_by_one_worker_each(engine: Engine) -> None:
    # One of 33 blocks would keep its worker for too long, and so would one of 2 if there were no others.
    for sizes, by_blocks in (([2] * 60 + [33], [60]), ([2] * 3, [0, 1, 2])):
        found = run_samples(engine, has_engine, list(enumerate(sizes)), second, len(sizes), "test")
        assert [number for (number, _), by_block in sorted(found) if by_block] == by_blocks


def begin_slowly(item: int) -> None:
    BEGUN.append(item)
    time.sleep(0.02)


def sleep(_: int) -> None:
    time.sleep(0.02)


def sleep_in_each_block(sample: tuple[int, int], runner: Runner) -> None:
    for _ in runner.run(sleep, range(sample[1]), sample[1], "sample"):
        pass


def fail_in_sample_1(sample: tuple[int, int], runner: Runner) -> None:
    for _ in runner.run(begin_slowly, range(sample[1]), sample[1], "sample"):
        if sample[0] == 1:
            raise UserError("sample 1: no pixels")


def test_an_error_in_one_sample_stops_the_others(engine: Engine) -> None:
    BEGUN.clear()
    with pytest.raises(UserError, match="^sample 1: no pixels$"):
        list(run_samples(engine, fail_in_sample_1, [(0, 32), (1, 32)], second, 2, "test"))
    assert list(engine.run(abs, [1], 1, "test")) == [(1, 1)]
    assert BEGUN.count(0) == 2 and len(BEGUN) < 40


def test_several_samples_at_once_ask_the_cluster_one_after_the_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "POLL_SECONDS", 0.01)
    asking, most, calls = list[int](), list[int](), 0

    def check() -> None:  # looks for lost worker jobs, and starts others
        nonlocal calls
        calls += 1
        asking.append(1)
        most.append(len(asking))
        time.sleep(0.2)
        asking.pop()

    watched = Engine(engine._pool, WORKERS, check)
    samples = [(number, 8) for number in range(4)]
    assert len(list(run_samples(watched, sleep_in_each_block, samples, second, 4, "test"))) == 4
    assert calls > 1 and max(most) == 1
    failing = Engine(engine._pool, WORKERS, functools.partial(fail_at, 1, 1))  # all workers are lost
    with pytest.raises(UserError, match="^item 1: no pixels$"):
        list(run_samples(failing, sleep_in_each_block, samples, second, 4, "test"))


def test_items_that_wait_are_dropped_when_nobody_wants_more_results() -> None:
    BEGUN.clear()
    RELEASED.clear()
    with local_engine(1) as single:
        results = single.run(wait_from_1, range(9), 9, "test")
        assert next(results) == (0, None)
        results.close()  # type: ignore[attr-defined]
        time.sleep(0.2)
        RELEASED.set()
        assert list(single.run(abs, [1], 1, "test")) == [(1, 1)]
    assert set(BEGUN) <= {0, 1}


def test_no_more_workers_work_than_were_asked_for() -> None:
    with local_engine(1) as single:
        assert max(running for _, running in single.run(count_running, range(4), 4, "test")) == 1


def test_no_other_machine_can_reach_the_engine() -> None:
    with local_engine(1):
        assert {
            connection.laddr.ip for connection in psutil.Process().net_connections() if connection.status == "LISTEN"
        } <= {"127.0.0.1"}


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, Tls]]:
    """A scheduler with TLS and one worker, as somebody else may have started it, and its certificates."""
    made = Security.temporary()
    for name, text in {"ca": made.tls_ca_file, "certificate": made.tls_client_cert, "key": made.tls_client_key}.items():
        (tmp_path / name).write_text(text)
    quiet = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tls://",
            security=made,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        yield cluster.scheduler_address, Tls(**{name: str(tmp_path / name) for name in ("ca", "certificate", "key")})


def test_a_scheduler_that_runs_already_is_joined_with_its_certificates(
    scheduler: tuple[str, Tls], tmp_path: Path
) -> None:
    address, tls = scheduler
    with open_engine(Dask(cluster=address, tls=tls), "weights", 1, tmp_path) as joined:
        assert sorted(joined.run(str, range(9), 9, "test")) == [(n, str(n)) for n in range(9)]


def test_foreign_certificates_do_not_get_in(scheduler: tuple[str, Tls], tmp_path: Path) -> None:
    address, _ = scheduler
    made, folder = Security.temporary(), tmp_path / "foreign"
    folder.mkdir()
    for name, text in {"ca": made.tls_ca_file, "certificate": made.tls_client_cert, "key": made.tls_client_key}.items():
        (folder / name).write_text(text)
    tls = Tls(**{name: str(folder / name) for name in ("ca", "certificate", "key")})
    with (
        pytest.raises(UserError, match=f"no Dask scheduler at {address}"),
        open_engine(Dask(cluster=address, tls=tls), "weights", 1, tmp_path),
    ):
        pass


def test_a_scheduler_without_certificates_is_refused_in_the_configuration() -> None:
    with pytest.raises(ValidationError, match="tls needs ca, certificate and key"):
        Dask(cluster="tls://head:8786")
    with pytest.raises(ValidationError, match="should match pattern"):
        Dask(cluster="tcp://head:8786")


def test_a_step_may_have_worker_jobs_of_its_own_kind() -> None:
    cfg = Dask.model_validate({"slurm": {"partition": "cpu"}, "steps": {"predict": {"partition": "gpu", "gpus": 1}}})
    assert cfg.slurm_of("weights").gpus == 0 and cfg.slurm_of("weights").partition == "cpu"
    assert cfg.slurm_of("predict").gpus == 1 and cfg.slurm_of("predict").partition == "gpu"
    for wrong in ({"predict": {"gpu": 1}}, {"report": {}}, {"predict": {"minimum": 20}}):
        with pytest.raises(ValidationError):
            Dask.model_validate({"steps": wrong})
