from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as oracle

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations import coco
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

SHAPE: ZYX = (1, 4, 5)
SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]


def written(path: Path, *annotations: dict[str, Any], **other: Any) -> Path:
    """COCO file of the images a (id 1) and b (id 2), of classes cell (id 7) and nucleus (id 9)."""
    images = [{"id": 1, "file_name": "train/a.jpg", "height": 4, "width": 5}, {"id": 2, "file_name": "größe 1.5x.tif"}]
    categories = [{"id": 7, "name": "cell"}, {"id": 9, "name": "nucleus"}]
    numbered = [{"id": number, "image_id": 1, "category_id": 7} | drawn for number, drawn in enumerate(annotations)]
    path.write_text(
        json.dumps({"images": images, "categories": categories, "annotations": numbered} | other), encoding="utf-8"
    )
    return path


def read(path: Path, stem: str = "a", shape: ZYX = SHAPE, **options: Any) -> list[tuple[str | None, np.ndarray]]:
    coco.find(str(path), [Image(stem)])
    return objects_in("coco", path, shape, stem, **options)


def test_images_are_found_by_their_file_name(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json")
    found, strangers = coco.find(str(path), [Image("größe 1.5x"), Image("c")])
    assert (found, strangers) == ({0: (path,)}, ["a"])
    assert read(path, "größe 1.5x") == []


def test_polygons_are_united_and_have_the_class_of_their_category(tmp_path: Path) -> None:
    path = written(
        tmp_path / "c.json",
        {"segmentation": [*SQUARE, [2, 2, 5, 2, 5, 4, 2, 4]]},
        {"segmentation": SQUARE, "category_id": 9},
    )
    (first, union), (second, square) = read(path)
    known = np.zeros((4, 5), int)
    known[1:3, 1:3] = 1
    assert (first, second) == ("cell", "nucleus")
    np.testing.assert_array_equal(square, known)
    known[2:4, 2:5] = 1
    np.testing.assert_array_equal(union, known)


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_are_those_of_pycocotools(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    encoded = oracle.encode(np.asfortranarray(mask, np.uint8))
    lines = np.flatnonzero(np.diff(np.r_[False, mask.ravel(order="F")]))
    counts = np.diff(np.r_[0, lines, mask.size])
    folder = tmp_path_factory.mktemp("runs")
    segmentations = [
        {"size": list(mask.shape), "counts": encoded["counts"].decode()},
        {"size": list(mask.shape), "counts": counts.tolist()},
    ]
    images = [{"id": 1, "file_name": "a.png"}]
    path = written(folder / "c.json", *({"segmentation": one} for one in segmentations), images=images)
    for _, found in read(path, shape=(1, *mask.shape)):
        np.testing.assert_array_equal(found, mask)


def test_crowds_are_areas_to_ignore(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"iscrowd": 1, "segmentation": {"size": [4, 5], "counts": [2, 3, 15]}})
    ((_, array),) = read(path)
    known = np.zeros((4, 5), int)
    known.T.flat[2:5] = -1
    np.testing.assert_array_equal(array, known)


def test_only_what_concerns_an_image_is_its_content(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"segmentation": SQUARE})
    before = [coco.content((path,), Image(stem)) for stem in ("a", "größe 1.5x")]
    path = written(tmp_path / "d.json", {"segmentation": SQUARE}, {"segmentation": SQUARE, "image_id": 2})
    after = [coco.content((path,), Image(stem)) for stem in ("a", "größe 1.5x")]
    assert before[0] == after[0] and before[1] != after[1] and json.dumps(after)


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        ({"segmentation": []}, "annotation 0: has no segmentation"),
        ({"segmentation": None, "bbox": [1, 1, 2, 2]}, "annotation 0: has no segmentation"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "annotation 0: a polygon must be a list x, y, x, y"),
        ({"segmentation": [[1, 1, 2, 2]]}, "annotation 0: a polygon needs at least 3 points"),
        ({"segmentation": [[101, 1, 102, 1, 102, 3]]}, "annotation 0: lies outside of the image of 4 x 5 pixels"),
        ({"segmentation": SQUARE, "image_id": 3}, "annotation 0 is of image 3, which is not among the images"),
        (
            {"segmentation": SQUARE, "category_id": 3},
            "annotation 0 is of category 3, which is not among the categories",
        ),
        (
            {"segmentation": {"size": [5, 4], "counts": [20]}},
            r"run-lengths for \(5, 4\) pixels, but the image has \(4, 5\)",
        ),
        ({"segmentation": {"size": [4, 5], "counts": [19]}}, "the run-lengths do not add up to the 4 x 5 pixels"),
        (
            {"segmentation": {"size": [4, 5], "counts": [10, -5, 15]}},
            "the run-lengths do not add up to the 4 x 5 pixels",
        ),
        ({"segmentation": {"size": [4, 5], "counts": "5~"}}, "'~' in the compressed run-lengths has no meaning"),
        ({"segmentation": {"size": [4, 5], "counts": "5P"}}, "the compressed run-lengths are cut short"),
        ({"segmentation": {"size": [4, 5], "counts": "o" * 40}}, "'o' in the compressed run-lengths has no meaning"),
    ],
)
def test_annotations_that_are_wrong_are_told_with_file_and_number(
    tmp_path: Path, drawn: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=f"c.json: .*{text}"):
        read(written(tmp_path / "c.json", drawn))


def test_files_that_are_wrong_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"segmentation": SQUARE})
    with pytest.raises(
        ValueError, match=r"c.json: a.jpg|train/a.jpg has 4 x 5 pixels there, but the image has \(5, 5\)"
    ):
        read(path, shape=(1, 5, 5))
    with pytest.raises(ValueError, match="format coco is for 2D images, but the image has 2 planes"):
        read(path, shape=(2, 4, 5))
    with pytest.raises(ValueError, match="no file .*nothing.json"):
        coco.find(str(tmp_path / "nothing.json"), [Image("a")])
    with pytest.raises(ValueError, match="format coco annotates one image per file, but axes has a t"):
        coco.find(str(path), [Image("a", 0)])
    twice = [{"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "y/a.png"}]
    with pytest.raises(ValueError, match="two images have the name 'a'"):
        coco.find(str(written(tmp_path / "twice.json", images=twice)), [Image("a")])


@pytest.mark.parametrize(
    "text", ["", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}', "[" * 10**5]
)
def test_files_of_something_else_or_cut_short_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    whole = written(path, {"segmentation": SQUARE}).read_text(encoding="utf-8")
    path.write_text(text or whole[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match="c.json: is no COCO file .*is it complete"):
        coco.find(str(path), [Image("a")])


@pytest.mark.parametrize(
    "other",
    [
        {"iscrowd": None},
        {"iscrowd": 0.0, "bbox": None, "area": None, "score": {"segmentation": []}},
        {"id": None, "category_id": 7.0, "image_id": 1.0},
        {"id": "one", "category_id": "7", "image_id": "1"},
    ],
)
def test_what_tools_write_beside_the_outline_is_read(tmp_path: Path, other: dict[str, Any]) -> None:
    ((name, array),) = read(written(tmp_path / "c.json", {"segmentation": SQUARE} | other))
    assert name == "cell" and array.sum() == 4 and array[1:3, 1:3].all()


def test_keys_may_stand_in_any_order_and_texts_hold_any_sign(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"segmentation": SQUARE, "note": '}]," {"images": [\\"'}, licenses=[])
    document = json.loads(path.read_text(encoding="utf-8"))
    for text in (json.dumps(document, sort_keys=True), json.dumps(document, indent=1, ensure_ascii=False)):
        path.write_text("\ufeff" + text, encoding="utf-8")
        coco._index.cache_clear(), coco._grouped.cache_clear()
        ((name, array),) = read(path)
        assert name == "cell" and array.sum() == 4
        assert coco.find(str(path), [Image("größe 1.5x")])[1] == ["a"]


BROKEN: list[dict[str, Any]] = [
    {"segmentation": []},
    {"segmentation": [[]]},
    {"segmentation": None},
    {"segmentation": [[1, 1, 2, 2]]},
    {"segmentation": "x"},
    {"segmentation": SQUARE, "category_id": 1.5},
    {"segmentation": SQUARE, "category_id": 3},
    {"segmentation": {"size": [4, 5], "counts": "b'52203'"}},
]


def test_broken_objects_are_left_out_and_told_where_the_source_says_so(tmp_path: Path) -> None:
    for number, drawn in enumerate(BROKEN):
        path = written(tmp_path / f"{number}.json", drawn, {"segmentation": SQUARE}, {"image_id": 2} | drawn)
        with pytest.raises(ValueError, match=rf"{number}.json: annotation 0"):
            read(path)
        ((_, array),) = read(path, broken="skip")
        assert array.sum() == 4
        (told,) = told_of("coco", path, SHAPE, broken="skip")
        assert told.kind == "broken" and f"{path}: train/a.jpg: 1 of 2 objects cannot be read" in told.text
        with pytest.raises(ValueError, match="1 of 1 objects cannot be read .*so that nothing is left"):
            read(path, "größe 1.5x", broken="skip")


def test_objects_of_no_image_are_told(tmp_path: Path) -> None:
    lost = [{"image_id": 9, "segmentation": SQUARE}, {"image_id": None, "segmentation": SQUARE}]
    path = written(tmp_path / "b.json", {"segmentation": SQUARE})
    before = coco.content((path,), Image("a"))
    path = written(tmp_path / "c.json", {"segmentation": SQUARE}, *lost)
    assert coco.content((path,), Image("a")) != before
    with pytest.raises(ValueError, match="annotation 1 is of image 9, which is not among the images .and 1 more"):
        read(path)
    assert len(read(path, broken="skip")) == 1
    (told,) = told_of("coco", path, SHAPE, broken="skip")
    assert told.kind == "broken" and told.text.startswith("2 annotations belong to no image")


def test_what_is_no_json_inside_of_an_object_is_told_when_its_image_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"segmentation": SQUARE}, {"segmentation": SQUARE, "image_id": 2, "x": 77})
    path.write_text(path.read_text(encoding="utf-8").replace('"x": 77', '"x": 7 7'), encoding="utf-8")
    with pytest.raises(ValueError, match="c.json: annotation number 2: Invalid JSON"):
        read(path)
    assert len(read(path, broken="skip")) == 1


def test_images_of_the_same_name_in_several_folders(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{folder}/a.png"} for n, folder in enumerate(("train", "test"))]
    drawn = [{"image_id": 0, "segmentation": SQUARE}] * 2 + [{"image_id": 1, "segmentation": SQUARE}]
    path = written(tmp_path / "c.json", *drawn, images=images)
    both = [Image("a", folders=("data", folder)) for folder in ("test", "train")]
    assert coco.find(str(path), [*both]) == ({0: (path,), 1: (path,)}, [])
    source = Annotation(format="coco", path="unused")
    assert [len([*coco.read((path,), image, SHAPE, source)]) for image in both] == [1, 2]
    contents = [coco.content((path,), image) for image in both]
    assert [len(one[0][2]) for one in contents] == [1, 2]  # type: ignore[index]


def test_coordinates_that_are_fractions_are_told(tmp_path: Path) -> None:
    small = {"segmentation": [[0.1, 0.2, 0.9, 0.2, 0.5, 1.0]]}
    (told,) = told_of("coco", written(tmp_path / "c.json", small, small), SHAPE)
    assert told.kind == "coordinates" and "4 x 5 pixels" in told.text
    assert told_of("coco", written(tmp_path / "d.json", small, {"segmentation": SQUARE}), SHAPE) == []


def test_categories_with_the_same_id_and_different_names_are_told(tmp_path: Path) -> None:
    same = [{"id": 7, "name": "cell"}, {"id": 7, "name": "cell"}]
    assert len(read(written(tmp_path / "a.json", {"segmentation": [[0, 0, 2, 0, 2, 2]]}, categories=same))) == 1
    path = written(tmp_path / "b.json", categories=[{"id": 7, "name": "cell"}, {"id": 7, "name": "nucleus"}])
    with pytest.raises(ValueError, match="b.json: two categories have the id 7"):
        coco.find(str(path), [Image("a")])
