"""Files that are listed, but whose content was not fetched, or not copied: told when the data is checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import local_engine
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.readers import SUFFIXES
from unet_core.runtime import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s12345--" + b"4" * 64 + b".tif\n"


def lfs(file: Path) -> None:
    file.write_bytes(LFS)


def annex(file: Path) -> None:
    file.write_bytes(ANNEX)


def link(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("../.git/annex/objects/X/Y/Z")


def loop(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)


def empty(file: Path) -> None:
    file.write_bytes(b"")


WAYS = {
    lfs: "git lfs pull",
    annex: "git annex get",
    link: "no such file, but a link to one; get what is missing, as by datalad get",
    loop: "a link to one",
    empty: "is empty; was it copied whole",
}
Way = Callable[[Path], None]


def problems(**options: object) -> list[str]:
    return find_samples(Dataset.model_validate({"split": {"test": 0, "validation": 0}} | options))[1]


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".zarr"])
@pytest.mark.parametrize("way", [lfs, link, empty])
def test_images_of_each_kind_that_are_not_here_are_one_message(tmp_path: Path, suffix: str, way: Way) -> None:
    for number in range(7):
        way(tmp_path / f"{number}{suffix}")
    (line,) = problems(images=f"{tmp_path}/*{suffix}")
    assert line.startswith("images: 7 files (") and WAYS[way] in line and line.count(suffix) == 3


@pytest.mark.parametrize("way", WAYS)
def test_label_images_that_are_not_here_are_told(tmp_path: Path, way: Way) -> None:
    (tmp_path / "masks").mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((4, 4), np.uint8))
        way(tmp_path / f"masks/{name}.tif")
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif"}
    line = problems(images=f"{tmp_path}/*.tif", annotations=[source])[0]
    assert line.startswith("annotations.0: 2 files (") and WAYS[way] in line


@pytest.mark.parametrize("way", [lfs, annex, link])
@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("coco", "all.json"),
        ("geojson", "{stem}.geojson"),
        ("labelme", "{stem}.json"),
        ("cvat", "all.xml"),
        ("yolo", "{stem}.txt"),
        ("imagej", "{stem}.zip"),
        ("ctc", "01_GT"),
    ],
)
def test_annotations_of_other_formats_that_are_not_here_are_told(
    tmp_path: Path, form: str, path: str, way: Way
) -> None:
    tifffile.imwrite(tmp_path / "a001.tif", np.ones((4, 4), np.uint8))
    file = tmp_path / path.replace("{stem}", "a001")
    if form == "ctc":
        file = file / "SEG/man_seg001.tif"
        file.parent.mkdir(parents=True)
    way(file)
    wrong = problems(images=f"{tmp_path}/*.tif", annotations=[{"format": form, "path": f"{tmp_path}/{path}"}])
    assert any(line.startswith(f"annotations.0: {file}: ") and WAYS[way] in line for line in wrong), wrong


def test_an_empty_file_of_shapes_is_an_image_without_objects(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.uint8))
    (tmp_path / "a.txt").touch()
    assert (
        problems(images=f"{tmp_path}/*.tif", annotations=[{"format": "yolo", "path": f"{tmp_path}/{{stem}}.txt"}]) == []
    )


@pytest.mark.parametrize("way", [lfs, link])
@pytest.mark.parametrize("what", ["description", "chunks"])
@pytest.mark.parametrize("version", [2, 3])
def test_folders_of_zarr_whose_files_are_not_here_are_told(tmp_path: Path, way: Way, what: str, version: int) -> None:
    array = np.ones((4, 4), np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(2, 2), zarr_format=version)  # type: ignore[arg-type]
    files = [file for file in (tmp_path / "a.zarr").rglob("*") if file.is_file()]
    for file in files:
        if (what == "description") == (file.name in ("zarr.json", ".zarray", ".zattrs")):
            way(file)
    wrong = problems(images=f"{tmp_path}/a.zarr", axes="yx")
    assert wrong and WAYS[way] in wrong[0]


def test_files_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.uint8))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs tests may read all
    assert problems(images=f"{tmp_path}/a.npy") == [
        f"images: {tmp_path}/a.npy: cannot be read, since permission is denied; ask for the right to read it"
    ]


def test_a_chunk_that_is_not_here_is_told_by_the_step_where_the_check_did_not_look_at_it(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.ones((40, 4), np.uint8), chunks=(1, 1))
    link(tmp_path / "a.zarr/c/1/1")
    cfg = Dataset(images=f"{tmp_path}/a.zarr", axes="yx")
    samples, wrong = find_samples(cfg)
    assert wrong == []
    with local_engine(1) as engine, pytest.raises(UserError, match=r"c/1/1: no such file, but a link to one; get"):
        convert_groundtruth(
            cfg, Groundtruth(), samples, store=tmp_path / "d.zarr", stamp=tmp_path / "d.json", engine=engine
        )
