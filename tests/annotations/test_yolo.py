from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.draw import polygon2mask

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations import yolo
from unet_core.annotations.layer import Image

SHAPE = (1, 30, 50)
TRIANGLE = [(3.25, 2.0), (40.5, 6.75), (12.0, 28.5)]


def written(folder: Path, *lines: str) -> Path:
    (folder / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "a.txt"


def line(number: str, points: list[tuple[float, float]]) -> str:
    return f"{number} " + " ".join(f"{x / 50:.9f} {y / 30:.9f}" for x, y in points)


def test_files_are_found_by_the_name_of_the_image_and_a_list_of_classes_is_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "classes.txt").write_text("cell\n", encoding="utf-8")
    (tmp_path / "c.txt").touch()
    images = [Image("a"), Image("b")]
    assert yolo.find(f"{tmp_path}/{{stem}}.txt", images) == ({0: (path,)}, [str(tmp_path / "c.txt")])
    assert objects_in("yolo", path, SHAPE) == []
    with pytest.raises(ValueError, match="format yolo annotates one image per file, but axes has a t"):
        yolo.find(f"{tmp_path}/{{stem}}.txt", [Image("a", 0)])


def test_polygons_are_fractions_of_width_and_height_and_have_the_number_of_their_class(tmp_path: Path) -> None:
    path = written(tmp_path, line("1", TRIANGLE), "", line("0.0", [(x, y / 2) for x, y in TRIANGLE]))
    (one, first), (zero, second) = objects_in("yolo", path, SHAPE)
    assert (one, zero) == ("1", "0")
    for found, scale in ((first, 1), (second, 0.5)):
        known = polygon2mask(SHAPE[1:], np.array(TRIANGLE)[:, ::-1] * (scale, 1) - 0.5)
        np.testing.assert_array_equal(found, known)


def test_points_on_centres_of_pixels_stay_there_whatever_their_digits(tmp_path: Path) -> None:
    corners = [(10.5, 3.5), (20.5, 3.5), (20.5, 11.5), (10.5, 11.5)]
    text = "0 " + " ".join(f"{x / 50:.6f} {y / 30:.6f}" for x, y in corners)
    ((_, found),) = objects_in("yolo", written(tmp_path, text), SHAPE)
    assert found[3:11, 10:20].all() and found.sum() == 80


def test_what_lies_beyond_the_image_is_cut_off(tmp_path: Path) -> None:
    ((_, found),) = objects_in("yolo", written(tmp_path, "0 -0.1 -0.1 1.1 -0.1 1.1 1.1 -0.1 1.1"), SHAPE)
    assert found.all()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 2: is a box, which says nothing about pixels"),
        ("0 0.5 0.5 0.2 0.2 0.9", "line 2: must be a class and at least three points x y; there are 6 numbers"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "line 2: must be a class and at least three points x y; there are 8"),
        ("0", "line 2: must be a class and at least three points x y; there are 1 numbers"),
        ("cell 0.1 0.1 0.5 0.1 0.5 0.5", "line 2: must hold numbers"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "line 2: must begin with the number of a class"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "line 2: must begin with the number of a class"),
        ("0 0.1 nan 0.5 0.1 0.5 0.5", "line 2: .*its coordinates must be finite"),
        ("0 10 10 20 10 20 20", "line 2: has coordinates from 10 to 20, but they must be fractions"),
        ("0 1.1 0.1 1.5 0.1 1.5 0.5", "line 2: lies outside of the image of 30 x 50 pixels"),
    ],
)
def test_lines_that_are_wrong_are_told_with_their_number(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, line("0", TRIANGLE), text)
    with pytest.raises(ValueError, match=f"a.txt: {problem}"):
        objects_in("yolo", path, SHAPE)
    assert len(objects_in("yolo", path, SHAPE, broken="skip")) == 1
    assert [told.kind for told in told_of("yolo", path, SHAPE, broken="skip")] == ["broken"]


def test_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="a.txt: is no text in UTF-8"):
        objects_in("yolo", tmp_path / "a.txt", SHAPE)
