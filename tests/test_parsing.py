"""What Snakemake's own environment needs to read the rules: the libraries that compute are for the jobs alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from unet_core.annotations.formats import module_of
from unet_core.config.datasets import Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.digest import FileHashes
from unet_core.groundtruth.samples import find_samples
from unet_core.images.headers import header_of
from unet_core.images.readers import arrays_in, companions_of
from unet_core.images.source import NotInstalledError

ROOT = Path(__file__).parent.parent
# What the package needs beside what reading the rules needs, by the names with which it is imported.
LIBRARIES = set(
    """
    bioio cc3d cryptography dask dask_jobqueue defusedxml distributed fastremap google_crc32c h5py imagecodecs jinja2
    matplotlib mrcfile nibabel nrrd numba PIL psutil roifile safetensors scipy skimage tensorboardX tifffile torch tqdm
    upath zarr zstandard
    """.split()  # noqa: SIM905 (a list of strings would be a page of quotation marks)
)
# Snakemake needs these itself.
OF_SNAKEMAKE = {"jinja2", "psutil", "tqdm"}
REFUSES = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if sys.prefix == {sys.prefix!r} and name.partition(".")[0] in {sorted(LIBRARIES - OF_SNAKEMAKE)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def without_libraries(folder: Path) -> dict[str, str]:
    """Environment in which the Python that runs the tests has none of the libraries."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(REFUSES)
    return os.environ | {"PYTHONPATH": str(folder)}


def imported(code: str) -> set[str]:
    """Libraries that a fresh Python has imported after some code."""
    code = f"{code}; import sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {*run.stdout.split()} & LIBRARIES


def write_project(folder: Path) -> None:
    """Four images with masks, and a configuration."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
        for number in range(4):
            Image.fromarray(np.full((8, 8), number % 2, np.uint8)).save(folder / part / f"{number}.png")
    sources = [{"format": "binary", "path": "masks/{stem}.png"}]
    split = {"test": ["0"], "validation": ["1"]}
    config = {
        "datasets": {"cells": {"images": "images/*.png", "axes": "yx", "annotations": sources, "split": split}},
        "models": {"cells": {}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def run_rules(
    folder: Path, environment: dict[str, str], *arguments: str, rules: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a project."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(rules / "Snakefile"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", sorted(DESCRIPTIONS))
def test_that_a_format_is_looked_for_imports_no_library(name: str) -> None:
    assert not imported(f"import {module_of(name).__name__}")


def test_a_process_that_reads_the_rules_imports_no_library() -> None:
    assert not imported("import unet_core.groundtruth.samples, unet_core.jobs, unet_core.slurm, unet_core.lock")


def test_rules_are_read_and_jobs_planned_where_snakemake_alone_is_installed(tmp_path: Path) -> None:
    write_project(tmp_path)
    run = run_rules(tmp_path, without_libraries(tmp_path / "python"), "-n")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "groundtruth: cells" in run.stdout and "train: cells" in run.stdout


# What stands in for conda: an environment with the libraries, but without this package.
CONDA = """#!/bin/bash
case "$*" in
"info --json") echo '{"conda_prefix": "PREFIX", "platform": "linux-64"}' ;;
"--version") echo "conda 25.1.1" ;;
"config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
"env create"*)
    PYTHON -m venv --without-pip "${@: -1}" && echo LIBRARIES > "${@: -1}/lib/VERSION/site-packages/libraries.pth" ;;
"clean"*) ;;
*) echo "conda: $*" >&2; exit 1 ;;
esac
"""


def test_jobs_run_in_an_environment_of_conda_where_snakemake_alone_is_installed(tmp_path: Path) -> None:
    write_project(tmp_path)
    programs = tmp_path / "conda" / "bin"
    programs.mkdir(parents=True)
    script, base = CONDA, Path(sys.executable).resolve()
    libraries = Path(sysconfig.get_path("platlib"))
    for word, value in {"PREFIX": programs.parent, "PYTHON": base, "LIBRARIES": libraries}.items():
        script = script.replace(word, str(value))
    (programs / "conda").write_text(script.replace("VERSION", libraries.parent.name))
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text('export PATH="$1/bin:$PATH" CONDA_PREFIX="$1"\n')
    environment = without_libraries(tmp_path / "python")
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    rules = tmp_path / "workflow"
    for name in ("rules", "scripts", "envs", "profiles", "unet_core"):
        shutil.copytree(ROOT / name, rules / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", rules)
    arguments = ("--cores", "2", "--sdm", "conda", "--until", "groundtruth")
    run = run_rules(tmp_path, environment, *arguments, rules=rules)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 samples, 4 images and 4 annotations converted" in run.stdout + run.stderr
    # Other versions of libraries make no result old: what a step computes has a version of its own.
    with (rules / "envs" / "unet.yaml").open("a") as file:
        file.write("  - zlib\n")
    run = run_rules(tmp_path, environment, "-n", *arguments, rules=rules)
    assert run.returncode == 0 and re.search(r"total +0\n", run.stdout), run.stdout + run.stderr


@pytest.mark.parametrize(
    ("file", "library"),
    [("a.tif", "tifffile"), ("a.h5", "h5py"), ("a.png", "imagecodecs"), ("a.jpg", "PIL"), ("a.czi", "bioio")],
)
def test_a_library_that_is_missing_is_told_and_no_header_taken_for_one_that_says_nothing(
    file: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_bytes(b"something")
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(NotInstalledError, match=f"{file}.* is read by {library}, which is not installed"):
        header_of(tmp_path / file)
    samples, problems = find_samples(Dataset(images=f"{tmp_path}/*"))
    assert not samples and len(problems) == 1 and "pip install" in problems[0]


def test_a_library_that_finds_annotations_is_told_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "all.xml").write_text("<annotations/>")
    for name in ("defusedxml", "defusedxml.ElementTree"):
        monkeypatch.setitem(sys.modules, name, None)
    sources = [{"format": "cvat", "path": f"{tmp_path}/all.xml"}]
    dataset = Dataset.model_validate({"images": f"{tmp_path}/*.png", "axes": "yx", "annotations": sources})
    problems = find_samples(dataset)[1]
    assert any("all.xml: is read by defusedxml, which is not installed here" in line for line in problems)


def test_files_of_sets_have_no_other_hash_where_a_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(NotInstalledError):
        FileHashes(tmp_path / "hashes.json", companions_of).of(tmp_path / "a.tif")
    with pytest.raises(NotInstalledError):
        arrays_in(tmp_path / "a.tif")
