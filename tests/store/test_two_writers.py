"""Runs that make the same result at the same time never mix: what is done is all of one digest.

A scheduler lets one writer go at a time and stops it before each operation on files, so that an interleaving is a list
of numbers: some are enumerated, the others chosen by hypothesis.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unet_core.runtime import UserError
from unet_core.store.pins import pin
from unet_core.store.removal import remove, remove_others
from unet_core.store.shards import PLACE_BYTES
from unet_core.store.store import Spec, begin, details_if_done, finish, open_weights, read_attributes

ROOT = Path(__file__).parent.parent.parent
# For a longer run: UNET_INTERLEAVINGS=20000 python -m pytest tests/store/test_two_writers.py
INTERLEAVINGS = int(os.environ.get("UNET_INTERLEAVINGS", "100"))
OPERATIONS = ("open", "mkdir", "rename", "replace", "unlink", "link")
# Each example is as short as the next: to shrink one takes minutes and tells no more.
PHASES = (Phase.explicit, Phase.generate)
# Thousands of folders are made and deleted: in memory, where there is such a place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Chunks as small as those of the tests: two blocks with two resolutions each.
CHUNK, SPEC = 16, Spec((2, 20, 10), "uint8", "labels", block=(1, 32, 32))

_actor = threading.local()


class Killed(BaseException):
    """The end of a writer whose operations on files have no effect any more."""


class Actor:
    """A thread that goes on for one operation on files at a time."""

    def __init__(self, work: Callable[[], object]) -> None:
        # Each is taken by one thread and released by the other.
        self._work, self._go, self._stopped = work, threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self.over, self.killed, self.value, self.error = False, False, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def _run(self) -> None:
        _actor.current = self
        try:
            self.pause()
            self.value = self._work()
        except (UserError, Killed) as error:  # a message for the user, never a traceback
            self.error = error
        except BaseException as error:
            self.error = error
            self.fault = error
        self.over = True
        self._stopped.release()

    fault: BaseException | None = None

    def pause(self) -> None:
        """Called in the thread, before an operation."""
        if not self.killed:
            self._stopped.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def step(self) -> None:
        """Let the thread do its next operation, and wait until it stands before the one after it."""
        if not self.over:
            self._go.release()
            self._stopped.acquire()

    def kill(self) -> None:
        """As SIGKILL: nothing that it still does has an effect."""
        self.killed = True
        self.step()

    def end(self) -> None:
        """Let it go on until it is over."""
        while not self.over:
            self.step()


@pytest.fixture(scope="module", autouse=True)
def seams() -> Iterator[None]:
    """Operations on files stop threads of actors."""
    with pytest.MonkeyPatch.context() as patch:

        def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
            def stop(*args: Any, **options: Any) -> Any:
                # What is only read of one file is there or not: nothing comes between.
                reading = args[1:2] == ("rb",) or args[1:2] == (os.O_RDONLY | os.O_CLOEXEC,)
                if not reading and (actor := getattr(_actor, "current", None)):
                    actor.pause()
                return function(*args, **options)

            return stop

        for name in OPERATIONS:
            patch.setattr(os, name, stopping(getattr(os, name)))
        patch.setattr(io, "open", stopping(io.open))
        patch.setattr(builtins, "open", io.open)
        patch.setattr("unet_core.store.result.CHUNK", CHUNK)
        patch.setattr("unet_core.store.store.CHUNK", CHUNK)
        yield


def write(path: Path, digest: str, keep: bool = False) -> str:
    """Make a result of the voxels `digest`, as the steps do: a step that keeps blocks looks at each of them."""
    result = begin(path, digest, SPEC, {}, keep)
    for index in range(len(result.grid)):
        if keep or not result.has_block(index):
            result.write(index, np.full(result.grid.box(index).shape, int(digest), np.uint8), digest)
    finish(path, digest, {"by": digest}, generation=result.generation if keep else None)
    return digest


def write_pair(path: Path, digest: str) -> None:
    """Two results of which one lies below the other, as the step weights has them."""
    both = path, path / "labels" / "target"
    results = [begin(each, digest, SPEC, {}, keep=True) for each in both]
    for each in results:
        for index in range(len(each.grid)):
            each.write(index, np.full(each.grid.box(index).shape, int(digest), np.uint8), digest)
    for each in results:
        finish(each.path, digest, {}, generation=each.generation)


def read(path: Path, digest: str) -> set[int]:
    """Voxels of a result as a step reads them that makes something of it."""
    source = pin(path, digest, Path("stamp.json"))
    voxels = set(np.unique(source.open().read_all()).tolist())
    source.check()
    return voxels


def files_of(path: Path) -> dict[str, bytes]:
    """Shards of a result at all resolutions."""
    names = (name for level in "01" for name in sorted(path.glob(f"{level}/c/**/[!.]*")))
    return {str(name.relative_to(path)): name.read_bytes() for name in names if name.is_file()}


class Alone(dict[str, dict[str, bytes]]):
    """Shards of each digest as a writer without others makes them."""

    def __repr__(self) -> str:
        return "alone"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Shards of each digest as a writer without others makes them; zarr-python sees the one value in them."""
    made = Alone()
    for digest in "1239":
        path = tmp_path_factory.mktemp("alone") / "a.zarr" / "s"
        write(path, digest)
        arrays = [zarr.open_array(path / level, mode="r") for level in "01"]
        assert [array.shape for array in arrays] == [(2, 20, 10), (2, 10, 5)]
        assert all((array[:] == int(digest)).all() for array in arrays)
        made[digest] = files_of(path)
        assert len(made[digest]) == 4
    return made


def check(path: Path, alone: Alone) -> None:
    """A result that is done is all of its digest."""
    attributes = read_attributes(path)
    if attributes.get("done"):
        digest, files = attributes["digest"], files_of(path)
        assert files.keys() == alone[digest].keys(), (digest, sorted(files))
        # What a shard begins with says where it lies.
        wrong = [name for name, content in files.items() if content[PLACE_BYTES:] != alone[digest][name][PLACE_BYTES:]]
        assert not wrong, (digest, wrong)


class Turn(NamedTuple):
    """What an interleaving lets happen next."""

    actor: int
    steps: int
    kill: bool


def play(path: Path, works: list[Callable[[], object]], turns: list[Turn], look: Callable[[], None]) -> list[Actor]:
    """Let writers go on in turns, and then to their ends; a killed one begins again."""
    actors = [Actor(work) for work in works]
    try:
        for turn in turns:
            number = turn.actor % len(works)
            for _ in range(turn.steps):
                actors[number].step()
            if turn.kill:
                actors[number].kill()
                actors[number] = Actor(works[number])
            look()
        for actor in actors:
            actor.end()
            look()
    finally:
        for actor in actors:
            actor.kill()
    for actor in actors:
        if actor.fault is not None:
            raise actor.fault
    return actors


def steps_of(path: Path, work: Callable[[], object]) -> int:
    """Operations of a writer that is alone."""
    actor = Actor(work)
    for count in itertools.count():
        if actor.over:
            return count
        actor.step()
    raise AssertionError


@contextlib.contextmanager
def place(before: str | None) -> Iterator[Path]:
    """Where a result goes; with a digest, an older one stands there."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "a.zarr" / "s"
        if before:
            write(path, before)
        yield path


@pytest.mark.parametrize(
    ("before", "first", "second"),
    [(None, False, True), ("9", False, False), ("9", False, True), ("9", True, False), ("9", True, True)],
)
def test_a_run_that_another_one_overtakes_anywhere_never_gets_into_its_result(
    alone: Alone, before: str | None, first: bool, second: bool
) -> None:
    with place(before) as path:
        total = steps_of(path, lambda: write(path, "1", first))
    for steps in range(total):
        with place(before) as path:
            works = [lambda path=path: write(path, "1", first), lambda path=path: write(path, "2", second)]
            turns = [Turn(0, steps, False), Turn(1, 10**4, False)]
            _, other = play(path, works, turns, lambda path=path: check(path, alone))
            check(path, alone)
            assert other.error is None or steps < total, other.error
            # Whatever the two left behind, one that is alone gets its result.
            write(path, "3")
            assert details_if_done(path, "3") == {"by": "3"}
            check(path, alone)


TURN = st.builds(Turn, st.integers(0, 2), st.integers(1, 40), st.integers(0, 9).map(lambda number: number == 0))


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=INTERLEAVINGS, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([None, "9", "1"]),
    st.text("12", min_size=2, max_size=3),
    st.sets(st.sampled_from("12")),
    st.sampled_from([None, "1", "2"]),
    st.lists(TURN, max_size=14),
)
def test_what_is_done_is_all_of_one_digest_however_the_writers_take_turns(
    alone: Alone,
    before: str | None,
    writers: str,
    keeping: set[str],
    reader: str | None,
    turns: list[Turn],
) -> None:
    with place(before) as path:
        works: list[Callable[[], object]] = [lambda one=one: write(path, one, one in keeping) for one in writers]
        if reader:
            works.append(lambda: read(path, reader))
        actors = play(path, works, turns, lambda: check(path, alone))
        if reader and actors[-1].error is None:
            assert actors[-1].value == {int(reader)}
        write(path, "3")
        check(path, alone)
        remove_others(path.parent, {"s"})
        assert not [name for name in path.parent.glob(".*") if name.suffix == ".trash"]


@pytest.mark.timeout(0)
@settings(max_examples=INTERLEAVINGS // 10, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(st.lists(TURN, max_size=14))
def test_results_below_a_result_never_mix_either(alone: Alone, turns: list[Turn]) -> None:
    with place(None) as path:
        write_pair(path, "9")

        def look() -> None:
            check(path, alone)
            check(path / "labels" / "target", alone)

        works = [lambda digest=digest: write_pair(path, digest) for digest in "121"]
        play(path, works, turns, look)
        write_pair(path, "3")
        look()
        assert [result.digest for result in open_weights(path.parent, "s")] == ["3", "3"]


def test_blocks_that_are_kept_are_links_and_the_label_images_below_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    write_pair(path, "1")
    old = {name: (path / name).stat().st_ino for name in files_of(path)}
    generation = read_attributes(path)["generation"]
    result = begin(path, "2", SPEC, {}, keep=True)
    assert {name: (path / name).stat().st_ino for name in files_of(path)} == old and len(old) == 4
    assert result.generation not in (None, generation) and details_if_done(path, "2") is None
    assert details_if_done(path / "labels" / "target", "1") == {}


def test_blocks_are_copied_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise PermissionError("no links here")

    path = tmp_path / "a.zarr" / "s"
    write(path, "1")
    before = files_of(path)
    monkeypatch.setattr(os, "link", refused)
    begin(path, "2", SPEC, {}, keep=True)
    assert files_of(path) == before


def test_a_shard_of_two_results_is_replaced_in_one_of_them_alone(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.zarr" / "s", tmp_path / "kept"
    write(path, "1")
    shards = files_of(path)
    for name in shards:
        target = kept / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path / name, target)
    write(path, "2", keep=True)
    assert files_of(kept) == shards and files_of(path).keys() == shards.keys() and files_of(path) != shards


def test_label_images_of_two_runs_at_once_are_both_listed(tmp_path: Path) -> None:
    def make(name: str, folder: Path) -> Callable[[], object]:
        return lambda: write(folder / "labels" / name, "1")

    total = steps_of(tmp_path, make("classes", tmp_path / "alone.zarr" / "s"))
    for steps in range(total):
        sample = tmp_path / f"{steps}.zarr" / "s"
        works = [make("classes", sample), make("ignore", sample)]
        play(sample, works, [Turn(0, steps, False), Turn(1, 10**4, False)], lambda: None)
        assert zarr.open_group(sample / "labels", mode="r").attrs["ome"]["labels"] == ["classes", "ignore"]


def test_a_result_that_is_removed_under_a_writer_ends_it_with_a_message(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    total = steps_of(path, lambda: write(path, "1"))
    seen = set()
    for steps in range(total):
        remove(path.parent)
        _, writer = play(
            path,
            [lambda: remove(path), lambda: write(path, "1")],
            [Turn(1, steps, False), Turn(0, 10**4, False)],
            lambda: None,
        )
        seen.add(str(writer.error).replace(str(path), "PATH"))
        assert (details_if_done(path, "1") is not None) == (writer.error is None)
    assert "PATH is being made anew by another run with other settings or data; this run stops" in seen


def test_two_processes_with_other_digests_leave_one_result(tmp_path: Path, alone: Alone) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from unet_core.runtime import UserError
from unet_core.store import result, store
result.CHUNK = store.CHUNK = 16
path, digest = Path(sys.argv[1]), sys.argv[2]
spec = store.Spec((2, 20, 10), "uint8", "labels", block=(1, 32, 32))
for _ in range(25):
    try:
        made = store.begin(path, digest, spec, {}, keep=True)
        for index in range(2):
            made.write(index, np.full(made.grid.box(index).shape, int(digest), np.uint8), digest)
        store.finish(path, digest, {}, generation=made.generation)
    except UserError as error:
        assert "anew" in str(error) or "again and again" in str(error) or "damaged" in str(error), error
"""
    path = tmp_path / "a.zarr" / "s"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path), digest], cwd=ROOT) for digest in "12"]
    assert [run.wait() for run in runs] == [0, 0]
    check(path, alone)
    write(path, "3")
    check(path, alone)
