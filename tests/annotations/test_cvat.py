from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from skimage.draw import polygon2mask

from tests.annotations.layers import objects_in
from unet_core.annotations import cvat
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX

SHAPE: ZYX = (1, 20, 30)
SQUARE = "1.00,1.00;3.00,1.00;3.00,3.00;1.00,3.00"


def drawn(tag: str, label: str = "cell", **values: Any) -> str:
    """A shape as CVAT writes it."""
    texts = {"label": label, "source": "manual", "occluded": 0, "z_order": 0} | values
    attributes = " ".join(f"{key}={quoteattr(str(value))}" for key, value in texts.items())
    return f'<{tag} {attributes}>\n<attribute name="quality">good</attribute></{tag}>'


def written(path: Path, *shapes: str, other: str = "", head: str = "", images: str = "") -> Path:
    text = f'<image id="0" name="train/a.png" width="30" height="20">{"".join(shapes)}</image>'
    text += f'<image id="1" name="größe 1.tif" width="30" height="20">{other}</image>'
    meta = "<meta><task><name>cells</name><size>2</size></task></meta>"
    content = f"<annotations><version>1.1</version>{meta}{images or text}</annotations>"
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n{head}{content}'
    path.write_text(xml, encoding="utf-8")
    return path


def read(path: Path, stem: str = "a", shape: ZYX = SHAPE) -> list[tuple[str | None, np.ndarray]]:
    cvat.find(str(path), [Image(stem)])
    return objects_in("cvat", path, shape, stem)


def test_images_are_found_by_their_name(tmp_path: Path) -> None:
    path = written(tmp_path / "c.xml", '<tag label="good" source="manual"></tag>')
    assert cvat.find(str(path), [Image("größe 1"), Image("c")]) == ({0: (path,)}, ["a"])
    assert read(path) == [] and read(path, "größe 1") == []


def test_polygons_are_those_of_scikit_image(tmp_path: Path) -> None:
    ring = np.random.default_rng(0).uniform(-3, 25, (9, 2))
    points = ";".join(f"{x!r},{y!r}" for x, y in ring.tolist())
    ((name, array),) = read(written(tmp_path / "c.xml", drawn("polygon", "größe", points=points)))
    assert name == "größe"
    np.testing.assert_array_equal(array, polygon2mask(SHAPE[1:], ring[:, ::-1] - 0.5))


@pytest.mark.parametrize("rotation", [0, 90, 33])
def test_boxes_and_ellipses_may_be_turned(tmp_path: Path, rotation: float) -> None:
    options = {"rotation": rotation} if rotation else {}
    box = drawn("box", xtl=5.2, ytl=7.1, xbr=17.2, ybr=11.1, **options)
    ellipse = drawn("ellipse", cx=11.2, cy=9.1, rx=6, ry=2, **options)
    (_, first), (_, second) = read(written(tmp_path / "c.xml", box, ellipse))
    y, x = np.mgrid[:20, :30] + 0.5
    # Complex numbers turn the pixels back.
    back = ((x - 11.2) + 1j * (y - 9.1)) * np.exp(-1j * np.radians(rotation))
    np.testing.assert_array_equal(first, (np.abs(back.real) < 6) & (np.abs(back.imag) < 2))
    np.testing.assert_array_equal(second, (back.real / 6) ** 2 + (back.imag / 2) ** 2 <= 1)


def test_masks_go_along_the_rows_of_their_box(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    part = rng.random((5, 7)) > 0.5
    lines = np.flatnonzero(np.diff(np.r_[False, part.ravel()]))
    counts = np.diff(np.r_[0, lines, part.size]).tolist()
    mask = drawn("mask", rle=", ".join(map(str, counts)), left=4, top=9, width=7, height=5)
    ((_, array),) = read(written(tmp_path / "c.xml", mask))
    known = np.zeros(SHAPE[1:], bool)
    known[9:14, 4:11] = part
    np.testing.assert_array_equal(array, known)


def test_groups_are_objects_and_the_order_is_that_of_z(tmp_path: Path) -> None:
    high, low = drawn("polygon", "high", points=SQUARE, z_order=3), drawn("polygon", "low", points=SQUARE, z_order=-1)
    one = drawn("polygon", points=SQUARE, group_id=2)
    other = drawn("box", xtl=2, ytl=2, xbr=4, ybr=4, group_id=2)
    found = read(written(tmp_path / "c.xml", high, one, low, other))
    assert [(name, int(array.sum())) for name, array in found] == [("low", 4), ("cell", 7), ("high", 4)]


def test_only_what_concerns_an_image_is_its_content(tmp_path: Path) -> None:
    shape = drawn("polygon", points=SQUARE)
    files = [written(tmp_path / "c.xml", shape), written(tmp_path / "d.xml", shape, other=shape)]
    (a, b), (after_a, after_b) = [[cvat.content((file,), Image(stem)) for stem in ("a", "größe 1")] for file in files]
    assert a == after_a and b != after_b and json.dumps(a)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (drawn("polygon", points="1,1;2"), r"shape 1 \(polygon cell\): points must be pairs of numbers"),
        (drawn("polygon", points="a,b"), "points must be written as x,y;x,y"),
        (drawn("polygon"), "points must be written as x,y;x,y"),
        (drawn("polygon", points="1,1;2,2"), "a polygon needs at least 3 points"),
        (drawn("box", xtl=1, ytl=1, xbr="nan", ybr=3), "xbr must be a number .is: 'nan'"),
        (drawn("ellipse", cx=1, cy=1, rx=0, ry=2), "an ellipse needs numbers below 2.31 and radii above 0"),
        (drawn("mask", rle="1, 2", left=0, top=0, width=2, height=2), "run-lengths do not add up to the 2 x 2 pixels"),
        (drawn("mask", rle="1, b", left=0, top=0, width=2, height=2), "rle must be whole numbers"),
        (drawn("mask", rle="4", left=29, top=0, width=2, height=2), "leaves the image of 20 x 30 pixels"),
        (
            drawn("polyline", points=SQUARE),
            r"shape 1 \(polyline cell\): no area; supported are polygon, box, ellipse and mask",
        ),
        (drawn("polygon", points="100,1;101,1;101,5"), "lies outside of the image of 20 x 30 pixels"),
    ],
)
def test_shapes_that_are_wrong_are_told_with_file_image_and_number(tmp_path: Path, shape: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"c.xml: train/a.png, .*{text}"):
        read(written(tmp_path / "c.xml", shape))


def test_files_that_are_wrong_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "c.xml")
    with pytest.raises(ValueError, match="c.xml: train/a.png has 20 x 30 pixels there, but the image has 20 x 31"):
        read(path, shape=(1, 20, 31))
    with pytest.raises(ValueError, match="format cvat is for 2D images, but the image has 2 planes"):
        read(path, shape=(2, 20, 30))
    with pytest.raises(ValueError, match="no file .*nothing.xml"):
        cvat.find(str(tmp_path / "nothing.xml"), [Image("a")])
    with pytest.raises(ValueError, match="two images have the name 'a'"):
        cvat.find(
            str(written(tmp_path / "d.xml", images='<image name="x/a.png"/><image name="y/a.png"/>')), [Image("a")]
        )
    with pytest.raises(ValueError, match="an image has no name"):
        cvat.find(str(written(tmp_path / "g.xml", images='<image id="0"/>')), [Image("a")])
    with pytest.raises(ValueError, match="holds tracks of a video; export it from CVAT as 'CVAT for images 1.1'"):
        cvat.find(str(written(tmp_path / "e.xml", images='<track id="0" label="cell"/>')), [Image("a")])
    (tmp_path / "f.xml").write_text("<other/>", encoding="utf-8")
    with pytest.raises(ValueError, match="f.xml: is no CVAT file .its root is other"):
        cvat.find(str(tmp_path / "f.xml"), [Image("a")])


def test_files_that_are_cut_short_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "c.xml", drawn("polygon", points=SQUARE))
    for content in (
        path.read_bytes()[:-30],
        b"",
        b"\xff\x00",
        b'<?xml version="1.0" encoding="nothing"?><annotations/>',
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="c.xml: is no CVAT file .*is it complete"):
            cvat._images(path, hash(content))


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE annotations [<!ENTITY secret SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE annotations SYSTEM "http://127.0.0.1/annotations.dtd">',
    ],
)
def test_document_types_and_entities_are_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(
        ValueError, match="c.xml: has a document type or entities, which are refused; CVAT files have none"
    ):
        read(written(tmp_path / "c.xml", head=head))
