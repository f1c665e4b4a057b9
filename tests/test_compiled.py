"""Machine code is kept for later jobs, and never taken for that of another text or machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unet_core import compiled as module

ROOT = Path(__file__).parent.parent
TEXT = """from unet_core.compiled import compiled

@compiled
def double(x):
    return x * {factor}
"""
RUN = "import some; y = some.double(3); print(y, sum(some.double.stats.cache_hits.values()))"


def run(folder: Path, **environment: str) -> list[int]:
    """What the function returns in a new process, and how often kept machine code was used."""
    variables = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"} | environment
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=folder, env=variables, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_a_second_process_uses_what_the_first_compiled_and_a_changed_text_is_compiled_anew(tmp_path: Path) -> None:
    module_file, kept = tmp_path / "some.py", tmp_path / "__pycache__"
    module_file.write_text(TEXT.format(factor=2))
    assert run(tmp_path) == [6, 0]
    assert run(tmp_path) == [6, 1]
    module_file.write_text(TEXT.format(factor=5))
    assert run(tmp_path) == [15, 0]
    assert run(tmp_path) == [15, 1]
    # Side by side: no entry of the new text can stand for machine code of the old one.
    assert [len(list(folder.rglob("*.nbc"))) for folder in kept.glob("numba-*")] == [1, 1]


def test_the_folder_is_another_for_another_cpu_and_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.py"
    file.write_text("")
    names = {module._folders(file)[0].name}
    monkeypatch.setattr(module.binding, "get_host_cpu_name", lambda: "other")
    names.add(module._folders(file)[0].name)
    monkeypatch.setattr(module.numba, "__version__", "0")
    names.add(module._folders(file)[0].name)
    assert len(names) == 3


def test_numbas_own_setting_is_respected(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    assert run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "else")) == [6, 0]
    assert run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "else")) == [6, 1]
    assert list(tmp_path.glob("else/numba-*/*/*.nbc")) and not list(tmp_path.glob("__pycache__/numba-*"))


def test_where_nothing_can_be_written_it_is_compiled_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "no")) == [6, 0]


def test_the_functions_of_this_package_are_called_with_one_set_of_types_each() -> None:
    """Each compiled function is called with one set of types.

    If two processes write entries for different types, the machine code of one may stand under the name of the other.
    """
    code = """
import numpy as np
from unet_core.weights import distance
from unet_core.weights import step as weights
from unet_core.blocks import Box
from unet_core.config.datasets import Weights
for dtype in (np.uint32, np.int64, np.uint8):
    for order in "CF":
        labels = np.asarray(np.arange(24).reshape(2, 3, 4) % 3, dtype, order=order)
        labels.flags.writeable = False
        for cfg in (Weights(), Weights(w0=0, near=1, separation=0, inside="border")):
            box = Box((0, 0, 0), labels.shape)
            target, _ = weights.target_and_border(labels, labels, labels, box, (2.0, 1, 1), cfg)
            weights._count(target)
for module in (distance, weights):
    for name, function in vars(module).items():
        if hasattr(function, "signatures") and function.signatures:
            print(module.__name__, name, len(function.signatures))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    counts = {line.split()[1]: int(line.split()[2]) for line in done.stdout.splitlines()}
    assert counts.keys() >= {"_along", "_across", "_cut", "_terms", "_count"}
    assert {name: count for name, count in counts.items() if count > 1} == {}
