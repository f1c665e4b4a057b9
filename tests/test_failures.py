"""What the system refuses is told in one line: what, which file, why, and what to do."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.test_files import full_disk  # noqa: F401 (fixture)
from tests.test_runtime import root_logger  # noqa: F401 (fixture)
from unet_core.blocks import Grid
from unet_core.engine import Engine
from unet_core.failures import KINDS, explain
from unet_core.files import make_room, write_atomic
from unet_core.instances.components import COMPONENT, build_forest, mapped
from unet_core.instances.objects import RowsByLabel, measured_type, object_table, write_tables
from unet_core.runtime import job_log

ROOT = Path(__file__).parent.parent


def refused(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def refuse(path: Path) -> None:
    raise refused(errno.ENOSPC, path)


@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
@pytest.mark.usefixtures("root_logger")
def test_what_the_system_refuses_is_no_fault_of_the_pipeline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    with pytest.raises(SystemExit) as stopped, job_log(tmp_path / "step.log"):
        try:
            raise refused(number, tmp_path / "results/a/b.csv")
        except OSError as error:
            raise RuntimeError("a library could not write") from error
    assert stopped.value.code == 1
    for text in ((tmp_path / "step.log").read_text(), capsys.readouterr().err):
        (line,) = [line for line in text.splitlines() if "b.csv: " in line]
        assert "run snakemake again" in line or number == errno.ENAMETOOLONG
        assert ("MB are free" in line or "no more files" in line) == (number in (errno.ENOSPC, errno.EDQUOT))
        assert "fault of the pipeline" not in text and "Traceback" not in text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_does_not_suffice_is_told(error: Exception) -> None:
    assert "the memory is used up" in str(explain(error)) and "allocate" in str(explain(error))


def test_other_errors_are_not_explained() -> None:
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "no such file", "x"), OSError("in words alone")):
        assert explain(error) is None


def test_an_error_of_a_worker_is_explained_as_one_of_the_job(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(OSError) as raised:
        list(engine.run(refuse, [tmp_path / "shard"], 1, "test"))
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert str(explain(error)).startswith(f"{tmp_path}/shard: no space is left")


def build(folder: Path) -> None:
    build_forest([(0, np.zeros(5000, COMPONENT))], Grid((1, 8, 8), (1, 8, 8)), folder)


def add(folder: Path) -> None:
    RowsByLabel(folder, "measured", measured_type(1)).add(np.ones(5000, measured_type(1)))


def tables(folder: Path) -> None:
    empty = object_table(np.empty(0, measured_type(1)), ["cell"], (1, 8, 8), (1, 1, 1), None)
    write_tables(folder / "out/sample", [empty], folder)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: write_atomic(folder / "file", bytes(5000)),
    "a mapped file": lambda folder: mapped(folder / "roots", np.dtype("<i8"), 5000),
    "components": build,
    "measurements": add,
    "tables": tables,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_error_of_writing_names_the_file(
    tmp_path: Path,
    full_disk: Callable[[], None],  # noqa: F811
    writer: str,
) -> None:
    full_disk()
    with pytest.raises(OSError) as raised:
        WRITERS[writer](tmp_path)
    assert str(explain(raised.value)).startswith(f"{tmp_path}/") or str(raised.value.filename) == str(tmp_path)
    assert "ulimit -f" in str(explain(raised.value)) and ".partial" not in str(explain(raised.value))


def test_room_is_made_for_all_of_a_file(tmp_path: Path) -> None:
    make_room(tmp_path / "file", 10**6)
    status = (tmp_path / "file").stat()
    assert status.st_size == 10**6 and status.st_blocks * 512 >= 10**6
    make_room(tmp_path / "file", 0)
    assert (tmp_path / "file").stat().st_size == 0


@pytest.mark.usefixtures("root_logger")
def test_a_log_that_cannot_be_written_leaves_the_messages_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with job_log(tmp_path / "file/step.log"):
        logging.getLogger("unet_core.step").info("is done")
    told = capsys.readouterr().err
    assert "the log cannot be written" in told and "is done" in told
    with job_log(tmp_path / "step.log"), monkeypatch.context() as patch:
        patch.setattr(logging.FileHandler, "flush", lambda self: refuse(tmp_path / "step.log"))
        logging.getLogger("unet_core.step").info("is done too")
    told = capsys.readouterr().err
    assert "is done too" in told and "Logging error" not in told


def test_a_command_tells_it_too(tmp_path: Path) -> None:
    code = (
        "import sys, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "from unet_core.__main__ import main; main(sys.argv[1:])"
    )
    # -B: compiled modules would be cut short, too, and stay.
    done = subprocess.run([sys.executable, "-B", "-c", code, "demo", tmp_path / "demo"], cwd=ROOT, capture_output=True)
    assert done.returncode == 1 and b"ulimit -f" in done.stderr and b"Traceback" not in done.stderr
