"""The lock of the results: one run alone holds it, and none that is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unet_core import lock
from unet_core.lock import Locked, lock_results

HOLD = (
    "from pathlib import Path; from unet_core.lock import lock_results; lock_results(Path({!r}));"
    "print('held', flush=True); "
)
FOR_LONG = "import time; time.sleep(600)"


@contextlib.contextmanager
def held(results: Path, then: str = FOR_LONG, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, and is killed at the end if it still runs."""
    command = [sys.executable, "-c", before + HOLD.format(str(results)) + then]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def take_and_end(results: Path) -> None:
    with held(results, "") as process:
        process.wait()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        held(tmp_path) as process,
        pytest.raises(Locked, match=rf"in use by another run: \w+ on .+ \(process {process.pid}\) since 20"),
    ):
        lock_results(tmp_path)


@pytest.mark.parametrize(("then", "left"), [(FOR_LONG, True), ("", False), ("1 / 0", False)])
def test_the_lock_of_a_run_that_is_gone_is_free_at_once(tmp_path: Path, then: str, left: bool) -> None:
    with held(tmp_path, then) as process:
        if left:
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".lock").exists() == left
    take_and_end(tmp_path)
    assert [*tmp_path.iterdir()] == []


def foreign(results: Path) -> Path:
    """The lock of a process on another machine."""
    holder = {
        "user": "ada",
        "host": "node7",
        "process": 1,
        "machine": "node7 x",
        "began": "1",
        "since": "then",
        "token": "t",
    }
    (results / ".lock").write_text(json.dumps(holder))
    return results / ".lock"


def test_the_lock_of_a_run_on_another_machine_holds_while_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 20.0)
    path = foreign(tmp_path)
    toucher = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\nfor _ in range(99): time.sleep(.2); os.utime({str(path)!r})"]
    )
    try:
        with pytest.raises(Locked, match="ada on node7"):
            lock_results(tmp_path)
    finally:
        toucher.kill()
        toucher.wait()
    assert "looking for 20 s whether that run is alive" in capsys.readouterr().err


def test_the_lock_of_a_machine_that_is_gone_is_taken_over_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    os.utime(foreign(tmp_path), (2**32, 2**32))
    lock_results(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_lock_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    take_and_end(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_of_many_that_want_a_lock_left_behind_one_alone_gets_it(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    code = HOLD.format(str(tmp_path)) + "import time; time.sleep(3)"
    many = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    outputs = [one.communicate() for one in many]
    assert [out for out, _ in outputs].count("held\n") == 1, outputs
    assert sum("Locked" in error for _, error in outputs) == 7


def test_an_owner_that_lost_its_lock_leaves_that_of_the_other_run_alone(tmp_path: Path) -> None:
    with held(tmp_path, "time.sleep(1)", "import time; ") as process:
        path = foreign(tmp_path)
        process.wait()
        assert process.returncode == 0 and json.loads(path.read_text())["token"] == "t"


def test_the_owner_touches_its_lock(tmp_path: Path) -> None:
    with held(tmp_path, FOR_LONG, "from unet_core import lock; lock.BEAT = 0.1; "):
        before, deadline = (tmp_path / ".lock").stat().st_mtime_ns, time.monotonic() + 30
        while (tmp_path / ".lock").stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / ".lock").stat().st_mtime_ns != before
