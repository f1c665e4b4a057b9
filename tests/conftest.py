"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

# As in the Snakefile; before torch is imported. Several tests share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from unet_core.blocks import Box  # noqa: E402
from unet_core.demo import write_demo  # noqa: E402
from unet_core.engine import Engine, local_engine  # noqa: E402

# No test asserts a time: on a machine that others use too, any example may take long.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# These need a SLURM cluster, or a browser: `make slurm-test` and `make browser-test` have them.
collect_ignore = [name for name in ("slurm", "browser") if not os.environ.get(f"UNET_{name.upper()}")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rules of the house come first, since they fail at once; then what takes long, to be shared by all workers.

    The first of the tests of the workflow makes what all of them need, beside long tests that do not need it.
    """

    def rank(item: pytest.Item) -> int:
        if item.path.name == "test_house.py":
            return 0
        if item is first:
            return 1
        return 2 if item.get_closest_marker("slow") else 3 if item.get_closest_marker("workflow") else 4

    first = next((item for item in items if item.get_closest_marker("workflow")), None)
    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test says, in characters that can be sent: names of files that are no UTF-8 would end the worker."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(one) for key, one in value.items()}
    return type(value)(map(_sendable, value)) if type(value) in (list, tuple) else value


class ArraySource:
    """An array in memory that is read box by box, like a stored result."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape[-3:]
        self.boxes: list[Box] = []

    def read(self, box: Box) -> np.ndarray:
        """Voxels of a box; boxes outside the array are mistakes of the caller."""
        assert min(box.start) >= 0 and all(b <= n for b, n in zip(box.stop, self.shape, strict=True)), box
        self.boxes.append(box)
        return self.array[(..., *box.slices)]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker of a run of pytest that needs it makes, and all of them read."""
    # Workers have folders of their own below that of the run.
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = factory.getbasetemp().parent if parallel else factory.getbasetemp()
    with FileLock(base / f"{name}.lock"):
        if not (base / name).exists():
            partial = base / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated demo data."""
    return made_once(tmp_path_factory, "demo", write_demo)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Dask engine of two threads."""
    with local_engine(2) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of public data sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("UNET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set UNET_DATA)")
    return folder
