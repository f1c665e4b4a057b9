"""Stamps are readable, and a job ends with a message for its reader."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from unet_core.runtime import UserError, available_cores, available_memory, job_log, read_json, versions, write_stamp


@pytest.fixture
def root_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handlers, level and threads as they were before the job."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "samples", [{}, {'a "quoted" <name>': {"digest": "x"}, "Zähler": {"digest": None}}], ids=["none", "two"]
)
def test_a_stamp_is_json_with_one_line_per_sample(tmp_path: Path, samples: dict[str, dict[str, str | None]]) -> None:
    stamp = {"step": "plan", "list": [1, 2.5], "nested": {"key": None}, "samples": samples}
    write_stamp(tmp_path / "stamp.json", stamp)
    text = (tmp_path / "stamp.json").read_text(encoding="utf-8")
    assert json.loads(text) == stamp and list(json.loads(text)) == list(stamp)
    for name in samples:
        assert sum(json.dumps(name, ensure_ascii=False) in line for line in text.splitlines()) == 1


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_stamp(tmp_path / "stamp.json", {"score": float("nan")})
    assert files_in(tmp_path) == []


def test_a_missing_json_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stamp.json is missing; run snakemake again to make it"):
        read_json(tmp_path / "stamp.json")


@pytest.mark.parametrize("content", [b'{"step": ', b"", b"\xff\xfe"], ids=["truncated", "empty", "binary"])
def test_a_damaged_json_file_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stamp.json").write_bytes(content)
    with pytest.raises(UserError, match=r"stamp.json is not valid JSON .*; delete it and run snakemake again"):
        read_json(tmp_path / "stamp.json")


@pytest.mark.usefixtures("root_logger")
def test_a_mistake_of_the_user_ends_the_job_with_its_message_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "step.log"
    with pytest.raises(SystemExit) as stopped, job_log(log):
        logging.getLogger("unet_core.step").info("begins")
        raise UserError("images/a.tif: no pixels; replace it")
    assert stopped.value.code == 1
    for text in (log.read_text(), capsys.readouterr().err):
        assert "begins" in text and "images/a.tif: no pixels; replace it" in text and "Traceback" not in text


@pytest.mark.usefixtures("root_logger")
def test_any_other_error_ends_the_job_with_its_traceback_in_the_log_file(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    with pytest.raises(SystemExit) as stopped, job_log(log):
        raise ZeroDivisionError("of a fault")
    text = log.read_text()
    assert stopped.value.code == 1
    assert "Traceback" in text and "ZeroDivisionError: of a fault" in text and f"please report it with {log}" in text


@pytest.mark.usefixtures("root_logger")
def test_a_job_without_errors_goes_on_after_its_log(tmp_path: Path) -> None:
    with job_log(tmp_path / "step.log"):
        logging.getLogger("unet_core.step").info("done")
    assert (tmp_path / "step.log").read_text().endswith(" done\n")


@pytest.mark.usefixtures("root_logger")
def test_a_log_keeps_what_earlier_attempts_said_until_it_is_long(tmp_path: Path) -> None:
    log, old = tmp_path / "step.log", tmp_path / "step.log.old"
    with pytest.raises(SystemExit), job_log(log):
        raise UserError("why the first one failed")
    with job_log(log), job_log(log, append=True):
        logging.getLogger("unet_core.step").info("of a process of the job")
    lines = log.read_text().splitlines()
    assert "why the first one failed" in lines[1] and "of a process of the job" in lines[3]
    assert all(re.fullmatch(r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, attempt", lines[n]) for n in (0, 2))
    assert len(lines) == 4 and not old.exists()
    log.write_text("x" * 2**20 + "y")
    with job_log(log):
        pass
    assert old.read_text().endswith("xy") and "x" not in log.read_text()


JOB = """
import sys, time
from pathlib import Path
from unet_core.engine import local_engine
from unet_core.runtime import job_log
with job_log(Path(sys.argv[1])), local_engine(2):
    try:
        print("begins", flush=True)
        time.sleep(60)
    finally:
        print("closes", flush=True)
        time.sleep(float(sys.argv[2]))
        print("closed", flush=True)
"""


def interrupted_job(log: Path, closing: float, times: int, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """A job that gets a signal, and others while it closes; its status and what it printed."""
    text = ""
    with subprocess.Popen(
        [sys.executable, "-c", JOB, str(log), str(closing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent.parent,
        # Where the tests run in the background, programs ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            for _ in range({"begins\n": 1, "closes\n": times - 1}.get(line, 0)):
                process.send_signal(by)
                time.sleep(0.1)  # two at once are one
    return process.returncode, text


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_closes_what_is_open_and_says_what_to_do(
    tmp_path: Path, by: signal.Signals, status: int
) -> None:
    code, text = interrupted_job(tmp_path / "step.log", 0.5, 2, by)
    assert code == status and "closed" in text and "Traceback" not in text
    for told in (text, (tmp_path / "step.log").read_text()):
        assert told.count(f"stopped by {by.name}; run again to go on") == 1


def test_the_third_interruption_ends_a_job_that_hangs(tmp_path: Path) -> None:
    code, text = interrupted_job(tmp_path / "step.log", 60, 3)
    assert code == 130 and "closed" not in text and "Traceback" not in text


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with a module that takes long to import, as torch does, and says when that begins."""
    (tmp_path / "torch.py").write_text("import time; print('imports', flush=True); time.sleep(60)")
    return tmp_path


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", [["scripts/train.py"], ["-m", "unet_core", "share"]], ids=["script", "command"])
def test_a_signal_while_a_program_still_imports_is_told_in_one_line(
    slow: Path, program: list[str], by: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        [sys.executable, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"PYTHONPATH": f"{slow}{os.pathsep}{Path(__file__).parent.parent}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "imports\n"
        process.send_signal(by)
        assert process.stdout.read() == f"stopped by {by.name} before it began\n"
    assert process.returncode == status


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_good_order_with_one_line(tmp_path: Path, by: signal.Signals, status: int) -> None:
    """As one that works in a temporary folder."""
    code = (
        "import sys, time, types, unet_core.__main__ as program\n"
        "def main(arguments):\n"
        "    try: print('works', flush=True); time.sleep(60)\n"
        "    finally: print('closed', flush=True)\n"
        "sys.modules['unet_core.demo'] = types.SimpleNamespace(main=main)\n"
        "program.main(['demo'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "works\n"
        process.send_signal(by)
        assert process.stdout.read() == f"demo: stopped by {by.name}\nclosed\n"
    assert process.returncode == status


def write_groups(folder: Path, own: str, limits: dict[str, str]) -> None:
    """Control groups of a process, and the files with their limits."""
    for name, limit in limits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{limit}\n")
    (folder / "own").write_text(own)


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "3000000", "memory.max": "5000000"}, 3000000),
        ("0::/outside/of/the/container\n", {"memory.max": "2500000"}, 2500000),
        ("9:name=systemd:/\n4:cpu,memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "7000000"}, 7000000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {}, None),
    ],
    ids=["version 2", "container", "version 1", "no limit", "no file"],
)
def test_the_memory_of_a_process_is_what_its_control_groups_leave_it(
    own: str, limits: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    write_groups(tmp_path, own, limits)
    monkeypatch.setattr("unet_core.runtime.GROUPS", tmp_path)
    monkeypatch.setattr("unet_core.runtime.OWN_GROUPS", tmp_path / "own")
    whole = psutil.virtual_memory().total
    assert available_memory() == (expected or whole)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2")
    assert available_memory() == 2 * 2**20
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert available_memory() == 2 * 2**20
    monkeypatch.setattr("unet_core.runtime.OWN_GROUPS", tmp_path / "none")
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert available_memory() == whole


def test_cores_are_counted_where_the_system_has_no_affinity(
    tmp_path: Path, root_logger: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == os.cpu_count()
    with job_log(tmp_path / "job.log", 1):
        logging.info("at work")


def test_versions_name_what_computes_the_results() -> None:
    assert {"python", "numpy", "torch", "zarr"} <= set(versions())


def test_a_job_leaves_the_handling_of_signals_as_it_was(tmp_path: Path, root_logger: None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with job_log(tmp_path / "job.log"):
        assert all(signal.getsignal(number) != handler for number, handler in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_job_in_the_background_is_not_interrupted(tmp_path: Path, root_logger: None) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with job_log(tmp_path / "job.log"):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, before)
