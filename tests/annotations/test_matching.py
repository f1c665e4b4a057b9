"""Which files belong to which image, in the layouts that people have."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unet_core.annotations import labels, masks, matching
from unet_core.annotations.layer import Image
from unet_core.config.datasets import Dataset
from unet_core.groundtruth.samples import Sample, find_samples

ALL_TRAIN = {"test": 0, "validation": 0}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, np.zeros((4, 5), np.uint8))


def pairs(folder: Path, image: str, annotation: str, form: str = "labels") -> dict[str, list[str]]:
    """Names of the samples with their annotation files, below the folder."""
    samples, problems = find_samples(
        Dataset.model_validate(
            {
                "images": f"{folder}/{image}",
                "annotations": [{"format": form, "path": f"{folder}/{annotation}"}],
                "split": ALL_TRAIN,
            }
        )
    )
    assert problems == []
    return {one.name: [file.relative_to(folder).as_posix() for file in one.annotations[0]] for one in samples}


def test_pairs_by_replaced_prefix(tmp_path: Path) -> None:
    images(tmp_path, "img_001.tif", "img_002.tif")
    touch(tmp_path, "mask_001.png", "mask_002.png")
    assert pairs(tmp_path, "img_{stem}.tif", "mask_{stem}.png") == {"001": ["mask_001.png"], "002": ["mask_002.png"]}


@pytest.mark.parametrize("form", ["labels", "geojson", "labelme", "imagej", "aperio", "napari", "ilastik"])
def test_pairs_by_replaced_suffix_in_every_format_with_a_file_for_each_image(tmp_path: Path, form: str) -> None:
    images(tmp_path, "000_img.tif", "001_img.tif")
    touch(tmp_path, "000_masks.x", "001_masks.x")
    assert pairs(tmp_path, "{stem}_img.tif", "{stem}_masks.x", form) == {
        "000": ["000_masks.x"],
        "001": ["001_masks.x"],
    }


def test_pairs_in_a_folder_for_each_image(tmp_path: Path) -> None:
    images(tmp_path, "a/images/x.tif", "b/images/y.tif")
    touch(tmp_path, "a/masks/1.png", "a/masks/2.png", "b/masks/1.png")
    assert pairs(tmp_path, "{stem}/images/*.tif", "{stem}/masks/*.png", "masks") == {
        "a": ["a/masks/1.png", "a/masks/2.png"],
        "b": ["b/masks/1.png"],
    }


@pytest.mark.parametrize("form", ["labels", "geojson", "labelme", "imagej", "aperio", "napari", "ilastik"])
@pytest.mark.parametrize(
    ("image", "annotation"), [("plates/*/raw/*.tif", "plates/*/seg/{stem}.x"), ("**/raw/*.tif", "**/seg/{stem}.x")]
)
def test_equal_names_in_several_folders_go_by_the_folders(
    tmp_path: Path, form: str, image: str, annotation: str
) -> None:
    for plate in ("p1", "p2"):
        images(tmp_path, f"plates/{plate}/raw/A01.tif", f"plates/{plate}/raw/{plate} only.tif")
        touch(tmp_path, f"plates/{plate}/seg/A01.x", f"plates/{plate}/seg/{plate} only.x")
    assert pairs(tmp_path, image, annotation, form) == {
        "p1_A01": ["plates/p1/seg/A01.x"],
        "p2_A01": ["plates/p2/seg/A01.x"],
        "p1 only": ["plates/p1/seg/p1 only.x"],
        "p2 only": ["plates/p2/seg/p2 only.x"],
    }


def test_masks_beside_images_in_nested_folders(tmp_path: Path) -> None:
    images(tmp_path, "a/x.tif", "a/b/x.tif", "c/x.tif")
    touch(tmp_path, "a/x_mask.png", "a/b/x_mask.png", "c/x_mask.png")
    assert pairs(tmp_path, "**/{stem}.tif", "**/{stem}_mask.png") == {
        "a_x": ["a/x_mask.png"],
        "a_b_x": ["a/b/x_mask.png"],
        "c_x": ["c/x_mask.png"],
    }


def test_masks_of_images_of_the_same_name_go_by_the_folders(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        images(tmp_path, f"{patient}/x.tif")
        touch(tmp_path, f"{patient}/x/1.png", f"{patient}/x/2.png")
    assert pairs(tmp_path, "*/x.tif", "*/{stem}/*.png", "masks") == {
        "p1_x": ["p1/x/1.png", "p1/x/2.png"],
        "p2_x": ["p2/x/1.png", "p2/x/2.png"],
    }


def test_folders_alone_may_tell_which_mask_is_whose(tmp_path: Path) -> None:
    images(tmp_path, "p1/image.tif", "p2/image.tif")
    touch(tmp_path, "p1/mask.png", "p2/mask.png")
    assert pairs(tmp_path, "*/image.tif", "*/mask.png") == {
        "p1_image": ["p1/mask.png"],
        "p2_image": ["p2/mask.png"],
    }


@pytest.mark.parametrize(
    ("image", "mask"), [("scan.ome.tif", "scan.tif"), ("scan.tif", "scan.ome.tif"), ("scan.ome.tif", "scan.ome.tif")]
)
def test_ome_is_no_part_of_a_name_that_must_be_the_same(tmp_path: Path, image: str, mask: str) -> None:
    images(tmp_path, f"raw/{image}")
    touch(tmp_path, f"seg/{mask}")
    assert list(pairs(tmp_path, "raw/*.tif", "seg/{stem}.tif").values()) == [[f"seg/{mask}"]]


def test_ome_counts_where_both_names_are_there(tmp_path: Path) -> None:
    images(tmp_path, "raw/scan.ome.tif", "raw/scan.tif")
    touch(tmp_path, "seg/scan.ome.png", "seg/scan.png")
    assert pairs(tmp_path, "raw/*.tif", "seg/{stem}.png") == {
        "scan": ["seg/scan.png"],
        "scan.ome": ["seg/scan.ome.png"],
    }


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("form", ["labels", "masks"])
def test_names_match_in_both_forms_of_unicode(tmp_path: Path, written: str, form: str) -> None:
    composed, apart = "gr\u00fcn", "gru\u0308n"
    image, mask = (composed, apart) if written == "NFD" else (apart, composed)
    images(tmp_path, f"raw/{image}.tif")
    touch(tmp_path, f"seg/{mask}.png")
    assert pairs(tmp_path, "raw/*.tif", "seg/{stem}.png", form) == {image: [f"seg/{mask}.png"]}


def test_two_files_that_fit_an_image_are_an_error_that_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.png", "two/a.png")
    with pytest.raises(ValueError, match="both .*one/a.png and .*two/a.png fit image 'a'; write a path that fits one"):
        labels.find(f"{tmp_path}/*/{{stem}}.png", [Image("a")])


def test_files_of_another_source_are_no_strangers(tmp_path: Path) -> None:
    images(tmp_path, "raw/a.tif", "raw/b.tif")
    touch(tmp_path, "seg/a.png", "seg/b_cells.png")
    sources = [
        {"format": "labels", "path": f"{tmp_path}/seg/{{stem}}_cells.png", "samples": ["b"]},
        {"format": "labels", "path": f"{tmp_path}/seg/{{stem}}.png", "samples": ["a"]},
    ]
    cfg = {"images": f"{tmp_path}/raw/*.tif", "annotations": sources, "split": ALL_TRAIN}
    assert find_samples(Dataset.model_validate(cfg))[1] == []
    touch(tmp_path, "seg/c.png")
    assert find_samples(Dataset.model_validate(cfg))[1] == [
        f"annotations.1: no image for {tmp_path}/seg/c.png; add it, or set unmatched: allow"
    ]


def test_samples_of_a_source_are_names_before_they_are_patterns(tmp_path: Path) -> None:
    images(tmp_path, "raw/img[1].tif", "raw/img1.tif")
    touch(tmp_path, "seg/img[1].png", "seg/img1.png")
    source = {"format": "labels", "path": f"{tmp_path}/seg/{{stem}}.png", "samples": ["img[1]"]}
    split = {"test": ["img[1]"], "validation": 0}
    cfg = {"images": f"{tmp_path}/raw/*.tif", "annotations": [source], "split": split}
    found: list[Sample] = find_samples(Dataset.model_validate(cfg | {"unmatched": "allow"}))[0]
    assert [(one.name, one.split) for one in found] == [("img1", "unannotated"), ("img[1]", "test")]


def test_masks_that_fit_two_images_are_an_error_that_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "a_b_1.png")
    with pytest.raises(ValueError, match="a_b_1.png fits both images 'a' and 'a_b'"):
        masks.find(f"{tmp_path}/{{stem}}_*.png", [Image("a"), Image("a_b")])


def test_masks_beside_images_are_no_images_though_their_pattern_finds_both(tmp_path: Path) -> None:
    images(tmp_path, "a.tif", "a_mask.tif", "b.tif", "b_mask.tif")
    expected = {"a": ["a_mask.tif"], "b": ["b_mask.tif"]}
    assert pairs(tmp_path, "*.tif", "{stem}_mask.tif") == expected
    assert pairs(tmp_path, "{stem}.tif", "{stem}_mask.tif", "binary") == expected
    images(tmp_path, "b_mask_2.tif")
    assert pairs(tmp_path, "*.tif", "{stem}_mask*.tif", "masks") == {
        "a": ["a_mask.tif"],
        "b": ["b_mask.tif", "b_mask_2.tif"],
    }


@pytest.mark.parametrize(("form", "path"), [("labels", "{stem}.tif"), ("masks", "{stem}/*.tif")])
def test_an_image_that_is_its_own_annotation_is_told(tmp_path: Path, form: str, path: str) -> None:
    folder = tmp_path / "a" if form == "masks" else tmp_path
    images(folder, "a.tif")
    cfg = {
        "images": f"{folder}/*.tif",
        "annotations": [{"format": form, "path": f"{tmp_path}/{path}"}],
        "split": ALL_TRAIN,
    }
    assert find_samples(Dataset.model_validate(cfg))[1] == [
        f"annotations.0: path finds the images themselves ({folder}/a.tif); write that of their masks"
    ]


@pytest.mark.parametrize("path", ["{stem}_*_mask.png", "{stem}*.png"])
def test_a_file_is_of_the_longest_name_that_fits_it(tmp_path: Path, path: str) -> None:
    images(tmp_path, "s1.tif", "s10.tif", "s1_b.tif")
    masks_ = ("s1_2024_mask.png", "s10_2024_mask.png", "s1_b_2024_mask.png")
    touch(tmp_path, *masks_)
    assert pairs(tmp_path, "*.tif", path) == {"s1": [masks_[0]], "s10": [masks_[1]], "s1_b": [masks_[2]]}
    # What is of s10 is not of s1 either where this has none.
    (tmp_path / masks_[0]).unlink()
    source = {"format": "labels", "path": f"{tmp_path}/{path}"}
    cfg = {"images": f"{tmp_path}/*.tif", "annotations": [source], "split": ALL_TRAIN}
    samples, problems = find_samples(Dataset.model_validate(cfg))
    assert [bool(one.annotations[0]) for one in samples] == [False, True, True]
    assert len(problems) == 1 and "no annotation for s1.tif" in problems[0]


def test_a_file_that_fits_names_of_the_same_length_is_told(tmp_path: Path) -> None:
    images(tmp_path, "ab.tif", "cd.tif")
    touch(tmp_path, "abcd.png")
    with pytest.raises(ValueError, match="abcd.png fits both images 'ab' and 'cd'"):
        labels.find(f"{tmp_path}/*{{stem}}*.png", [Image("ab"), Image("cd")])


@pytest.mark.parametrize("form", ["labels", "binary", "colours", "boundaries", "cellpose"])
def test_pages_beyond_the_last_frame_of_a_film_are_told(tmp_path: Path, form: str) -> None:
    for name, pages in (("film", 4), ("same", 4), ("more", 5)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((pages, 8, 9), np.uint8), photometric="minisblack")

    def problems(name: str) -> list[str]:
        source = {"format": form, "path": f"{tmp_path}/{name}.tif", "classes": {}}
        cfg = {"images": f"{tmp_path}/film.tif", "axes": "tyx", "annotations": [source], "split": ALL_TRAIN}
        return find_samples(Dataset.model_validate(cfg))[1]

    assert problems("same") == []
    assert problems("more") == [
        f"annotations.0: no image for {tmp_path}/more.tif from page 5 on (it has 5, its film 4); add it, or set "
        "unmatched: allow"
    ]


@pytest.mark.parametrize(("written", "form"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("file", ["seg/a.png", "c.json"])
def test_paths_without_wildcards_match_in_both_forms_of_unicode(
    tmp_path: Path, written: str, form: str, file: str
) -> None:
    place, asked = (unicodedata.normalize(one, "Zürich") for one in (written, form))
    images(tmp_path, f"{place}/raw/a.tif")
    touch(tmp_path, f"{place}/seg/a.png")
    coco = {"images": [{"id": 1, "file_name": "a.tif"}], "annotations": [], "categories": []}
    (tmp_path / place / "c.json").write_text(json.dumps(coco), encoding="utf-8")
    found = pairs(tmp_path, f"{asked}/raw/a.tif", f"{asked}/{file}", "coco" if file == "c.json" else "labels")
    assert found == {"a": [f"{place}/{file}"]}


def test_many_images_of_the_same_name_are_each_looked_at_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, looked = 100, list[int]()
    touch(tmp_path, *(f"p{number}/seg/x.png" for number in range(count)))
    folders = [(*tmp_path.parts[1:], f"p{number}", "raw") for number in range(count)]
    real = matching._in_order
    monkeypatch.setattr(matching, "_in_order", lambda *names: looked.append(1) or real(*names))
    for path in ("*/seg/{stem}.png", "*/seg/x.png"):
        found, _ = labels.find(f"{tmp_path}/{path}", [Image("x", folders=one) for one in folders])
        assert {position: files[0].parts[-3] for position, files in found.items()} == {
            number: f"p{number}" for number in range(count)
        }
    assert len(looked) == 2 * count


@pytest.mark.parametrize(
    ("form", "path"), [("labels", "seg/{stem}.png"), ("labels", "seg/x.png"), ("masks", "seg/{stem}.png")]
)
def test_a_file_for_images_of_one_name_in_several_folders_is_an_error(tmp_path: Path, form: str, path: str) -> None:
    images(tmp_path, "p1/x.tif", "p2/x.tif")
    touch(tmp_path, "seg/x.png")
    source = {"format": form, "path": f"{tmp_path}/{path}"}
    cfg = {"images": f"{tmp_path}/*/x.tif", "annotations": [source], "split": ALL_TRAIN}
    told = find_samples(Dataset.model_validate(cfg))[1]
    assert any(
        f"seg/x.png fits the images 'x' in {tmp_path}/p1 and in {tmp_path}/p2; write wildcards" in one for one in told
    )
