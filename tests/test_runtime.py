"""Stamps are readable, and a job ends with a message for its reader."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from unet_core.runtime import UserError, job_log, read_json, versions, write_stamp


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
    (tmp_path / "step.log").write_text("of an earlier run")
    with job_log(tmp_path / "step.log"):
        logging.getLogger("unet_core.step").info("done")
    text = (tmp_path / "step.log").read_text()
    assert text.endswith(" done\n") and "earlier" not in text


def test_versions_name_what_computes_the_results() -> None:
    assert {"python", "numpy", "torch", "zarr"} <= set(versions())


def test_a_job_leaves_the_handling_of_signals_as_it_was(tmp_path: Path, root_logger: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with job_log(tmp_path / "job.log"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
