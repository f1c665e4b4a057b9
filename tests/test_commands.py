"""What the commands say where results are missing, empty, half made or damaged: a line and a status, no traceback."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from unet_core.__main__ import COMMANDS, main
from unet_core.store.store import Spec, begin, finish

STORE = "results/instances/m/cells.zarr"
ARGUMENTS = {
    "check": ["config.yaml"],
    "correct": ["cells", "cells", "--to", "out"],
    "demo": ["config.yaml"],
    "estimate": ["results"],
    "export": [STORE, "out"],
    "init": ["results", "--out", "new.yaml"],
    "share": ["results/train/m", "m.zip", "--author", "a"],
    "verify": ["results"],
    "view": ["results"],
}
NO_RANKING = "correct: results/report/annotate_next.csv is missing; run snakemake first, or name samples by --samples"
NO_DATA_SETS = r"view: results has no data sets; name the folder of results \(by default 'results'\)"
NO_STORE = f"export: {STORE} has no samples; name a store of objects, as in results/instances/hela/hela.zarr"
SAID = {
    ("check", "absent"): "cells: was not checked yet",
    ("check", "empty"): "cells: was not checked yet",
    (
        "check",
        "damaged",
    ): "cells: results/groundtruth/cells.check is damaged; delete results/groundtruth/cells.json, and "
    "the next run writes its tables again",
    ("correct", "absent"): NO_RANKING,
    ("correct", "empty"): NO_RANKING,
    ("demo", "absent"): "demo: config.yaml.*: (Not a directory|File exists)",
    ("estimate", "absent"): r"estimate: results: cannot be read \(No such file or directory\)",
    ("estimate", "empty"): r"estimate: results: cannot be read \(Is a directory\)",
    ("export", "absent"): NO_STORE,
    ("export", "empty"): NO_STORE,
    ("export", "unfinished"): f"export: {STORE}/s is unfinished; run snakemake to the end first",
    ("export", "damaged"): f"export: {STORE}/s is missing or damaged; run 'python -m unet_core verify --mend {STORE}', "
    "then snakemake again, which makes again what is damaged, and nothing else",
    ("init", "absent"): "results: no such folder",
    ("init", "empty"): "results: no images in it; nothing was written",
    ("init", "damaged"): "results: no images in it; nothing was written\n"
    "  results holds results of this pipeline, and was not looked into",
    ("share", "absent"): r"share: there is no folder results/train/m \(working folder: .*\)",
    ("share", "empty"): r"share: there is no folder results/train/m \(working folder: .*\)",
    ("share", "unfinished"): "share: results/train/m has no model.json; it must be a folder of a trained model",
    ("share", "damaged"): r"share: results/train/m/model.json is damaged \(Expecting .*\); get a whole one",
    ("view", "absent"): NO_DATA_SETS,
    ("view", "empty"): NO_DATA_SETS,
    ("verify", "absent"): "verify: results does not exist; name a folder of results, or a store, as in .*",
    ("verify", "empty"): "verify: results has no stores; name a folder of results, or a store, as in .*",
    ("verify", "unfinished"): f"verify: {STORE}/s: unfinished, 1 of 1 blocks; snakemake goes on with it\n"
    "verify: 1 results, 0 done, 1 unfinished, 0 files damaged or missing",
    ("verify", "damaged"): rf"verify: {STORE}/s/zarr.json: damaged \(Expecting .*\)\n(verify: .*\n)*"
    r"verify: 0 results, 0 done, 0 unfinished, \d files damaged or missing\n"
    "verify: 'python -m unet_core verify --mend' with the same folder deletes what is damaged, "
    "for snakemake to make it again",
}
FINE = {("check", "absent"), ("check", "empty"), ("verify", "unfinished")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a configuration."""
    dataset = {"images": "*.tif", "annotations": [{"format": "labels", "path": "masks/{stem}.tif"}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"datasets": {"cells": dataset}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(results: Path, state: str) -> None:
    """Results of one sample, in a state."""
    if state == "absent":
        return
    results.mkdir()
    if state == "empty":
        return
    spec, path = Spec((1, 9, 9), "uint32", "labels"), results.parent / STORE / "s"
    begin(path, "d", spec, {}).write(0, np.ones(spec.shape, np.uint32), "d")
    (results / "train/m").mkdir(parents=True)
    if state == "damaged":
        finish(path, "d", {"objects": 1})
        damaged = [path / "zarr.json", results / "train/m/model.json", results / "train/m/best.safetensors"]
        damaged += [
            results / f"groundtruth/cells.check/{name}" for name in ("samples.csv", "findings.csv", "check.html")
        ]
        for file in (*damaged, results / "records/groundtruth/cells.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{")


@pytest.mark.parametrize(("command", "state"), SAID)
def test_a_command_says_in_a_line_what_is_wrong_with_the_results(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, state: str
) -> None:
    put(folder / "results", state)
    status: object = 0
    try:
        main([command, *ARGUMENTS[command]])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().out + (f"{status}\n" if isinstance(status, str) else "")
    assert re.fullmatch(SAID[command, state], said.strip()), said
    assert (status in (0, None)) == ((command, state) in FINE)
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())


def test_each_command_is_tried_without_results() -> None:
    assert {command for command, state in SAID if state == "absent"} == {*ARGUMENTS} == {*COMMANDS}
