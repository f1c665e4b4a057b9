from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from skimage.draw import polygon2mask

from tests.annotations.layers import objects_in
from unet_core.annotations import labelme
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX

SHAPE: ZYX = (1, 20, 30)
TRIANGLE = [[1.2, 1.4], [12.7, 3.1], [4.9, 17.3]]


def drawn(points: Any, kind: str = "polygon", label: str = "cell", group: int | None = None) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


# A mask of 3 rows and 2 columns, in base64 as LabelMe writes it.
MASK = np.array([[1, 0], [1, 1], [0, 1]], bool)
PNG = base64.b64encode(imagecodecs.png_encode(MASK.astype(np.uint8) * 255)).decode()


def written(path: Path, *shapes: dict[str, Any], **other: Any) -> Path:
    """File with all that LabelMe 5 writes."""
    head = {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 20,
        "imageWidth": 30,
    }
    path.write_text(json.dumps(head | {"shapes": shapes} | other), encoding="utf-8")
    return path


def read(path: Path, shape: ZYX = SHAPE) -> list[tuple[str | None, np.ndarray]]:
    return objects_in("labelme", path, shape)


def test_files_are_found_by_the_name_of_the_image(tmp_path: Path) -> None:
    path = written(tmp_path / "größe 1.json")
    assert labelme.find(f"{tmp_path}/{{stem}}.json", [Image("b"), Image("größe 1")]) == ({1: (path,)}, [])
    assert read(path) == []
    with pytest.raises(ValueError, match="format labelme annotates one image per file, but axes has a t"):
        labelme.find(f"{tmp_path}/{{stem}}.json", [Image("a", 0)])


def test_polygons_rectangles_and_circles(tmp_path: Path) -> None:
    shapes = [
        drawn(TRIANGLE),
        drawn([[10, 8], [4, 2]], "rectangle", "größe"),
        drawn([[4, 2], [10, 2], [10, 8], [4, 8]], "rectangle"),
        drawn([[9, 8], [12, 12]], "circle"),
    ]
    (_, triangle), (name, two), (_, four), (_, circle) = read(written(tmp_path / "a.json", *shapes))
    np.testing.assert_array_equal(triangle, polygon2mask(SHAPE[1:], np.array(TRIANGLE)[:, ::-1] - 0.5))
    known = np.zeros(SHAPE[1:], bool)
    known[2:8, 4:10] = True
    assert name == "größe"
    np.testing.assert_array_equal(two, known)
    np.testing.assert_array_equal(four, known)
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(circle, np.hypot(y - 8, x - 9) <= 5)


def test_shapes_of_a_group_are_one_object(tmp_path: Path) -> None:
    one, other = [[0, 0], [2, 2]], [[1, 1], [3, 3]]
    shapes = [
        drawn(one, "rectangle", group=1),
        drawn(one, "rectangle"),
        drawn(one, "rectangle", "b", 1),
        drawn(other, "rectangle", group=1),
    ]
    found = read(written(tmp_path / "a.json", *shapes))
    assert [(name, int(array.sum())) for name, array in found] == [("cell", 7), ("cell", 4), ("b", 4)]


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (drawn([[1, 1]], "point"), "is a point; supported are polygon, rectangle, circle and mask"),
        (drawn([[1, 1], [2, 2]], "mask"), "its mask cannot be read .it is no PNG of 2 x 2 pixels"),
        (drawn([[1, 1], [2, 2]], "mask") | {"mask": "?"}, "its mask cannot be read"),
        (drawn([[1, 1], [5, 6]], "mask") | {"mask": PNG}, "its mask cannot be read .it is no PNG of 6 x 5 pixels"),
        (drawn([[1, 1], [1, 2]], "mask") | {"mask": PNG[:40] + "A" * 20}, "its mask cannot be read"),
        (
            drawn([[29, 19], [30, 20]], "mask") | {"mask": PNG},
            "its mask from 29, 19 to 30, 20 leaves the image of 20 x 30 pixels",
        ),
        (drawn([[0, 0], [1e300, 1]], "mask"), "a mask has 2 corners"),
        (drawn([[1, 1]], "circle"), "a circle has 2 points"),
        (drawn([[1, 1], [1, 1]], "circle"), "an ellipse needs numbers below 2.31 and radii above 0"),
        (drawn([[1, 1]], "rectangle"), "a rectangle has 2 or 4 corners; this has 1"),
        (drawn([[1, 1], [2, 2]]), "a polygon needs at least 3 points"),
        (drawn([]), "a polygon needs at least 3 points"),
        (drawn([[1, 50], [2, 52], [3, 50]]), "lies outside of the image of 20 x 30 pixels"),
    ],
)
def test_shapes_that_are_wrong_are_told_with_file_and_number(tmp_path: Path, shape: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=rf"a.json: shape 2 \(cell\): {text}"):
        read(written(tmp_path / "a.json", drawn(TRIANGLE), shape))


def test_masks_lie_between_their_corners(tmp_path: Path) -> None:
    ((_, found),) = read(written(tmp_path / "a.json", drawn([[4.0, 7.0], [5.0, 9.0]], "mask") | {"mask": PNG}))
    known = np.zeros(SHAPE[1:], bool)
    known[7:10, 4:6] = MASK
    np.testing.assert_array_equal(found, known)


def test_images_of_another_size_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.json: annotates an image of 21 x 30 pixels, but the image has 20 x 30"):
        read(written(tmp_path / "a.json", imageHeight=21))
    with pytest.raises(ValueError, match="format labelme is for 2D images, but the image has 2 planes"):
        read(written(tmp_path / "a.json"), (2, 20, 30))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"shapes": [{"label": "a"}]}', '{"shapes": [{"label": "a", "points": [[1, NaN]]}]}']
)
def test_files_of_something_else_or_cut_short_are_told(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.json", drawn(TRIANGLE))
    path.write_text(text or path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(ValueError, match="a.json: is no LabelMe file .*is it complete"):
        read(path)
