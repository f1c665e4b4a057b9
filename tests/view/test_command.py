"""The command finds what is to be looked at, and says how other tools open it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from tests.view.stores import refer, store, write_stamps, write_truth
from unet_core.report.gallery import Places
from unet_core.runtime import UserError
from unet_core.store.store import Result
from unet_core.view import napari_window
from unet_core.view.command import choose, main
from unet_core.view.elsewhere import NEUROGLANCER, PORT, instructions
from unet_core.view.napari_window import why_no_window

NAME = "ä b's"


def write_all(results: Path, name: str = NAME) -> None:
    store(results / f"groundtruth/d.zarr/{name}", np.ones((1, 1, 9, 9), np.uint8), "image")
    write_truth(results, name, np.ones((1, 9, 9), np.uint32))
    store(results / f"predict/m/d.zarr/{name}", np.ones((1, 1, 9, 9), np.uint8), "image")
    store(results / f"instances/m/d.zarr/{name}", np.ones((1, 9, 9), np.uint32), "labels")
    write_stamps(results, ["a", name, "../x", ".b"])


def test_without_names_the_first_of_each_is_taken(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = choose(tmp_path)
    # Names that lead out of the store, or are hidden, are none.
    assert found == (Places(tmp_path, "m", "d"), ["a", NAME], 0, ["cell"])
    assert choose(tmp_path, "m", "d", NAME).start == 1
    (tmp_path / "predict/m/d.json").unlink()
    assert choose(tmp_path).places.model == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("n",), "no model 'n'; there are m"),
        (("m", "e"), "no data set 'e'; there are d"),
        (("m", "d", "..a"), "no sample"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, names: tuple[str], message: str) -> None:
    write_all(tmp_path)
    with pytest.raises(UserError, match=message):
        choose(tmp_path, *names)


def test_paths_and_addresses_lead_to_the_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path / "my results")
    monkeypatch.chdir(tmp_path)
    main(["my results", "m", "d", NAME, "--paths"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    opened = shlex.split(next(line for line in lines if line.startswith("napari --plugin")))[3:]
    assert len(opened) == 3 and all(Result(Path(path)).shape == (1, 9, 9) for path in opened)
    server = shlex.split(next(line for line in lines if line.startswith("npx")))
    assert server[2] == str(tmp_path / "my results") and "127.0.0.1" in server
    state = json.loads(
        unquote(next(line for line in lines if line.startswith(NEUROGLANCER)).removeprefix(NEUROGLANCER))
    )
    kinds = {layer["name"]: layer["type"] for layer in state["layers"]}
    assert kinds == {"image": "image", "truth": "segmentation", "result": "segmentation", "probabilities": "image"}
    for layer in state["layers"]:
        path = layer["source"].removeprefix(f"zarr3://http://localhost:{PORT}/")
        assert Result(Path(server[2], unquote(path))).shape == (1, 9, 9)


def test_an_image_in_place_is_told_by_its_own_file(tmp_path: Path) -> None:
    refer(tmp_path / "results", "a", tmp_path / "image.npy", (1, 9, 9))
    told = instructions(Places(tmp_path / "results", "", "d"), "a")
    assert f"image  {tmp_path / 'image.npy'}" in told and "%22layers%22%3A%20%5B%5D" in told


def test_where_no_window_can_be_opened_it_is_said_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(napari_window.sys, "platform", "linux")
    for there, why in ((None, ".[view]"), ("napari", "no screen")):
        monkeypatch.setattr(napari_window.importlib.util, "find_spec", lambda _, there=there: there)
        main([str(tmp_path), "m", "d", NAME])
        assert why in capsys.readouterr().out.splitlines()[0]
    monkeypatch.setenv("DISPLAY", ":0")
    assert why_no_window() == ""
    with pytest.raises(SystemExit, match="d.zarr/a is missing"):
        main([str(tmp_path), "--paths"])
    with pytest.raises(SystemExit, match="no data sets"):
        main([str(tmp_path / "none")])
