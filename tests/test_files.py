"""Files appear whole or not at all, whatever ends their writer."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from unet_core.blocks import ZYX
from unet_core.files import open_atomic, temporary_path, write_atomic
from unet_core.instances import export
from unet_core.instances.components import save_arrays
from unet_core.store.ngff import write_group
from unet_core.store.shards import write_shard
from unet_core.store.store import Spec, begin, finish

ROOT = Path(__file__).parent.parent
NOISE = np.random.default_rng(0).integers(0, 2**32, (1, 64, 64), np.uint32)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Makes the system refuse more than 1,000 bytes per file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_written_with_its_folders_and_replaces_another(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"old", b"new"):
        write_atomic(path, content, durable)
        assert path.read_bytes() == content and files_in(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interruption"])
@pytest.mark.parametrize("function", ["os.replace", "os.fsync"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, function: str
) -> None:
    def fail(*args: object, **folders: object) -> None:
        raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(function, fail)
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and files_in(tmp_path) == ["file"]


def test_an_error_while_the_file_is_open_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match="of the writer"), open_atomic(tmp_path / "file") as file:
        file.write(b"ne")
        raise ValueError("of the writer")
    assert (tmp_path / "file").read_bytes() == b"old" and files_in(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [True, False])
def test_the_content_is_on_the_disk_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    done: list[object] = []
    replace = os.replace
    monkeypatch.setattr("os.fsync", lambda _: done.extend(path.read_bytes() for path in tmp_path.iterdir()))
    monkeypatch.setattr("os.replace", lambda *names, **folders: (done.append("named"), replace(*names, **folders)))
    write_atomic(tmp_path / "file", b"new", durable)
    assert done == ([b"new", "named"] if durable else ["named"])


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_atomic": lambda path: write_atomic(path, bytes(5000)),
    "write_shard": lambda path: write_shard(path, NOISE, (1, 64, 64), (1, 1, 1)),
    "write_group": lambda path: write_group(path.parent, {"long": "x" * 5000}),
    "save_arrays": lambda path: save_arrays(path, noise=NOISE),
}


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, full_disk: Callable[[], None], writer: str
) -> None:
    path = tmp_path / "zarr.json"
    path.write_bytes(b"old")
    full_disk()
    with pytest.raises(OSError):
        WRITERS[writer](path)
    assert path.read_bytes() == b"old" and files_in(tmp_path) == ["zarr.json"]


def test_a_full_disk_leaves_neither_torn_exports_nor_results(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    shape: ZYX = (1, 64, 64)
    begin(tmp_path / "a.zarr" / "s", "d", Spec(shape, "uint32", "labels"), {}).write(0, NOISE, "d")
    finish(tmp_path / "a.zarr" / "s", "d", {"objects": 9})
    (tmp_path / "out").mkdir()
    full_disk()
    with pytest.raises(OSError):
        export.export_labels(tmp_path / "a.zarr", tmp_path / "out")
    assert files_in(tmp_path / "out") == []
    with pytest.raises(OSError):
        begin(tmp_path / "b.zarr" / "s", "d", Spec(shape, "uint32", "labels"), {"long": "x" * 5000})
    assert [name for name in files_in(tmp_path / "b.zarr") if name != "zarr.json"] == []


@pytest.mark.parametrize("durable", [True, False])
def test_a_killed_writer_leaves_the_old_content_and_a_name_that_is_known(tmp_path: Path, durable: bool) -> None:
    code = f"""
import os, signal
from pathlib import Path
from unet_core.files import open_atomic
with open_atomic(Path({str(tmp_path)!r}) / "file", {durable}) as file:
    file.write(b"ne")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "file").write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    left, kept = files_in(tmp_path)
    assert kept == "file" and (tmp_path / "file").read_bytes() == b"old"
    for name in (left, temporary_path(tmp_path / "file").name):
        assert re.fullmatch(r"\.file\.[0-9a-f]{32}\.partial", name)


def test_no_other_module_renames_files_by_itself() -> None:
    for path in (ROOT / "unet_core").rglob("*.py"):
        text = path.read_text()
        assert path.name == "files.py" or not re.search(r"fsync|os\.replace|\.partial[\"']", text), path
