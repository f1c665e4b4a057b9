"""Machine code is kept for later jobs, and never taken for that of another text or machine."""

from __future__ import annotations

import ast
import os
import shutil
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
RUN = "import some; y = some.double({value}); print(y, sum(some.double.stats.cache_hits.values()))"
MODULES = sorted(file for file in (ROOT / "unet_core").rglob("*.py") if "@compiled" in file.read_text())


def python(folder: Path, code: str, **environment: str) -> str:
    variables = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder: Path, value: float = 3, before: str = "", **environment: str) -> list[float]:
    """What the function returns in a new process, and how often kept machine code was used."""
    return [float(word) for word in python(folder, before + RUN.format(value=value), **environment).split()]


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
    assert list(tmp_path.glob("else/numba-*/**/*.nbc")) and not list(tmp_path.glob("__pycache__/numba-*"))


def test_where_nothing_can_be_written_it_is_compiled_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "no")) == [6, 0]


def test_without_a_home_it_is_compiled_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.py").write_text("")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert [folder.parent for folder in module._folders(tmp_path / "some.py")] == [tmp_path / "__pycache__"]


def test_a_function_is_never_given_the_machine_code_for_other_types(tmp_path: Path) -> None:
    """Two processes compile for different types; one is killed between the index of Numba's cache and its data."""
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    assert run(tmp_path, 3) == [6, 0]
    killed = """
import os
from numba.core.caching import IndexDataCacheFile as File
File._load_index, File._save_data = lambda self: {}, lambda *_: os._exit(0)
"""
    assert python(tmp_path, killed + "import some; some.double(2.5)") == ""
    assert run(tmp_path, 2.5) == [5, 0] and run(tmp_path, 2.5) == [5, 1] and run(tmp_path, 3) == [6, 1]


@pytest.mark.parametrize("content", [b"", bytes(99)], ids=["empty", "zeros"])
def test_damaged_machine_code_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    assert run(tmp_path) == [6, 0]
    for pattern in ("*.nbc", "*.nbi"):
        for file in tmp_path.rglob(pattern):
            file.write_bytes(content)
        assert run(tmp_path) == [6, 0] and run(tmp_path) == [6, 1]


def test_a_full_disk_does_not_stop_a_function(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(TEXT.format(factor=2))
    full = """
from numba.core.caching import IndexDataCacheFile as File
def full(*_): raise OSError(28, "No space left on device")
File._save_data = full
"""
    assert run(tmp_path, before=full) == [6, 0] and run(tmp_path) == [6, 0]


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which nobody, not even root, can keep machine code: files stand in the place of its folders."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "unet_core", folder / "unet_core", ignore=shutil.ignore_patterns("__pycache__"))
    for package in {file.parent for file in folder.rglob("*.py")}:
        (package / "__pycache__").touch()
    return folder


@pytest.mark.parametrize("setting", ["", "no/numba"], ids=["without NUMBA_CACHE_DIR", "with NUMBA_CACHE_DIR"])
def test_all_modules_work_where_neither_checkout_nor_home_can_be_written(read_only: Path, setting: str) -> None:
    (read_only / "no").touch()
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in MODULES]
    code = f"""
import {", ".join(names)}
import numpy as np
assert unet_core.store.pyramid.__file__.startswith({str(read_only)!r})
print(unet_core.store.pyramid.halve_labels(np.array([[1, 0], [0, 1]], np.uint8)).item())
"""
    homes = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": str(read_only / "no" / "cache")}
    numbas = {"NUMBA_CACHE_DIR": str(read_only / setting) if setting else ""}
    assert python(read_only, code, PYTHONPATH=str(read_only), **homes, **numbas) == "1\n"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_compiled_functions_use_nothing_of_other_modules_of_the_package(file: Path) -> None:
    """Else the text of their own module, which names the folder of their machine code, would not tell what they do."""
    tree = ast.parse(file.read_text())
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unet_core")
        for alias in node.names
    }
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "compiled" for d in node.decorator_list)
    ]
    assert functions and not any("import unet_core" in ast.unparse(node) for node in tree.body)
    for function in functions:
        used = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
        assert not used & foreign, function.name


def test_weights_of_any_labels_are_compiled_once() -> None:
    """Each further set of types, as of labels that are read-only or lie otherwise, would cost seconds."""
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
