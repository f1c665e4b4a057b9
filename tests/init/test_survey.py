"""What names have in common, what pixels look like, and which format contents have."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unet_core.config.formats import DESCRIPTIONS
from unet_core.init.contents import HEAD, format_of
from unet_core.init.looks import look_at, masks_of
from unet_core.init.survey import affixes, parts_of, walk


@pytest.mark.parametrize(
    ("stems", "others", "found"),
    [
        (["t000", "t001"], ["man_seg000", "man_seg001"], (("t", ""), ("man_seg", ""))),
        (["a 1", "b 1"], ["a 1 (mask)", "b 1 (mask)"], (("", ""), ("", " (mask)"))),
        (["x.ome", "y.ome"], ["x", "y"], (("", ".ome"), ("", ""))),
        (["b0", "b1"], ["a0", "a1"], None),
        (["a", "b", "c"], ["d", "e"], None),
    ],
)
def test_affixes_around_common_parts(stems: list[str], others: list[str], found: object) -> None:
    assert affixes(stems, others) == found


@pytest.mark.parametrize(
    ("stems", "parts"),
    [
        (["a_img", "a_mask", "b_img", "b_mask"], 2),
        (["a", "a_mask", "b", "b_mask", "c", "c_mask"], 2),
        (["a_c1", "a_c2", "a_mask", "b_c1", "b_c2", "b_mask", "d_c1", "d_c2", "d_mask"], 3),
        ([f"t{n:03}" for n in range(20)], 0),
        ([f"well_{row}{n}" for row in "ABC" for n in range(5)], 0),
        ([f"{n:x}{n * n:x}c" for n in range(1000, 1020)], 0),
    ],
)
def test_kinds_of_names_in_one_folder(stems: list[str], parts: int) -> None:
    found = parts_of(stems)
    assert len(found) == parts and (not parts or sorted(sum(found.values(), [])) == sorted(stems))


def test_images_are_not_taken_for_masks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    cells = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 60) for a, b in random.uniform(5, 60, (8, 2)))
    pictures = {
        "noise": random.poisson(3, (64, 64)).astype(np.uint8),
        "dark": random.poisson(100 * cells + 0.2).astype(np.uint16),
        "saturated": np.minimum(random.normal(400 * cells + 20, 10).clip(0), 255).astype(np.uint8),
        "float": random.normal(0, 1, (64, 64)).astype(np.float32),
        "stack": random.normal(100, 10, (5, 64, 64)).astype(np.uint16),
        "colour": random.integers(0, 255, (64, 64, 3), np.uint8),
    }
    for name, array in pictures.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="rgb" if name == "colour" else "minisblack")
        assert look_at(tmp_path / f"{name}.tif").kind == "image", name


def test_masks_with_255_for_what_is_ignored_are_masks(tmp_path: Path) -> None:
    array = np.zeros((40, 40), np.uint8)
    array[5:15, 5:15], array[20:] = 1, 255
    tifffile.imwrite(tmp_path / "a.tif", array)
    masks = masks_of([look_at(tmp_path / "a.tif")])
    assert (masks.kind, masks.ignored, masks.values) == ("binary", 255, (0, 1))


def test_contents_tell_formats_by_their_beginning_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DESCRIPTIONS, "yolo", DESCRIPTIONS["labels"])
    long = '"file_name": "x.png", ' * (HEAD // 10)
    files = {
        "coco.json": (f'{{"info": {{}}, "images": [{{{long}}}]', "coco"),
        "labelme.json": ('{"version": "5", "shapes": [], "imagePath": "a.png"}', "labelme"),
        "settings.json": ('{"images": "here", "shapes": 3}', None),
        "a.geojson": ('[{"type": "Feature", "geometry": null}]', "geojson"),
        "voc.xml": ("<annotation><object/></annotation>", None),
        "train.csv": ('"ImageId","EncodedPixels"\n', "rle"),
        "table.csv": ("name,size\n", None),
        "boxes.txt": ("0 0.5 0.5 0.25 .125\n3 0 1 1.0 0.000001\n", "yolo"),
        "classes.txt": ("cell\nnucleus\n", None),
        "notes.txt": ("", None),
        "fake.zip": ("no archive", None),
        "fake.roi": ("no ROI", None),
    }
    for name, (text, found) in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert format_of(tmp_path / name) == found, name
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "words")
    assert format_of(tmp_path / "other.zip") is None


def test_results_of_the_pipeline_are_no_data(tmp_path: Path) -> None:
    for name in ("x.tif", "results/train/tiles.png", "results/records/groundtruth/cells.json", "other/records/y.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, notes = walk(tmp_path)
    assert [file.text for file in files] == ["x.tif", "other/records/y.tif"]
    assert notes == [f"{tmp_path}/results holds results of this pipeline, and was not looked into"]


def test_walk_passes_over_hidden_names_and_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tif").touch()
    (tmp_path / "a" / ".hidden.tif").touch()
    (tmp_path / "a" / "line\nbreak.tif").touch()
    (tmp_path / "a" / "narrow\u202fspace.tif").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "image.zarr" / "0").mkdir(parents=True)
    files, notes = walk(tmp_path)
    assert [file.text for file in files] == ["image.zarr", "a/narrow\u202fspace.tif", "a/x.tif"]
    assert len(notes) == 1 and "rename" in notes[0]
