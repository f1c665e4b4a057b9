from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import polygon2mask

from tests.annotations.layers import objects_in
from unet_core.annotations import aperio
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX

SHAPE: ZYX = (1, 20, 30)
REAL = Path(os.environ.get("UNET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gbm40"
SQUARE = [(1, 1), (5, 1), (5, 5), (1, 5)]


def region(points: Any, kind: int = 0, negative: int = 0) -> str:
    """A region as ImageScope writes it."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in points)
    head = f'<Region Id="1" Type="{kind}" Zoom="0.5" Text="" NegativeROA="{negative}" Analyze="1">'
    return f"{head}<Attributes /><Vertices>{vertices}</Vertices></Region>"


def layer(*regions: str, name: str = "", attribute: str = "Description") -> str:
    attributes = f'<Attributes><Attribute Name="{attribute}" Id="0" Value="" /></Attributes>'
    drawn = f"<Regions><RegionAttributeHeaders />{''.join(regions)}</Regions>"
    return f'<Annotation Id="1" Name="{name}" Type="4">{attributes}{drawn}</Annotation>'


def written(path: Path, *layers: str) -> Path:
    path.write_text(f'\ufeff<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>', encoding="utf-8")
    return path


def read(path: Path, shape: ZYX = SHAPE) -> list[tuple[str | None, np.ndarray]]:
    return objects_in("aperio", path, shape)


def test_files_are_found_by_the_name_of_the_image(tmp_path: Path) -> None:
    path = written(tmp_path / "größe 1.xml")
    assert aperio.find(f"{tmp_path}/{{stem}}.xml", [Image("b"), Image("größe 1")]) == ({1: (path,)}, [])
    assert read(path) == []
    with pytest.raises(ValueError, match="format aperio annotates one image per file, but axes has a t"):
        aperio.find(f"{tmp_path}/{{stem}}.xml", [Image("a", 0)])


def test_polygons_are_those_of_scikit_image(tmp_path: Path) -> None:
    ring = np.random.default_rng(0).uniform(-3, 25, (9, 2))
    ((_, array),) = read(written(tmp_path / "a.xml", layer(region(ring.tolist()))))
    np.testing.assert_array_equal(array, polygon2mask(SHAPE[1:], ring[:, ::-1] - 0.5))


def test_rectangles_and_ellipses(tmp_path: Path) -> None:
    corners = [(4, 2), (14, 8)]
    found = read(written(tmp_path / "a.xml", layer(region(corners, 1), region(SQUARE, 1), region(corners, 2))))
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(found[0][1], (x > 4) & (x < 14) & (y > 2) & (y < 8))
    np.testing.assert_array_equal(found[1][1], (x > 1) & (x < 5) & (y > 1) & (y < 5))
    np.testing.assert_array_equal(found[2][1], ((x - 9) / 5) ** 2 + ((y - 5) / 3) ** 2 <= 1)


def test_negative_regions_are_holes_in_the_others_of_their_layer(tmp_path: Path) -> None:
    hole, other = region([(2, 2), (4, 2), (4, 4), (2, 4)], negative=1), region([(10, 1), (12, 1), (12, 3), (10, 3)])
    found = read(written(tmp_path / "a.xml", layer(hole, region(SQUARE), other), layer(region(SQUARE))))
    assert [int(array.sum()) for _, array in found] == [12, 4, 16]
    assert not found[0][1][2:4, 2:4].any()


def test_names_of_layers_and_attributes_are_classes(tmp_path: Path) -> None:
    square = region(SQUARE)
    layers = [
        layer(square, name="größe"),
        layer(square, name="Layer 1"),
        layer(square, attribute="Epithelial"),
        layer(square),
    ]
    assert [name for name, _ in read(written(tmp_path / "a.xml", *layers))] == ["größe", None, "Epithelial", None]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (region(SQUARE, 3), r"is of type 3 and no area; supported are polygons \(0\)"),
        (region(SQUARE[:2]), "a polygon needs at least 3 points"),
        (region([]), "a polygon needs at least 3 points"),
        (region(SQUARE[:1], 2), "has 1 points; a rectangle or ellipse has 2 or 4 corners"),
        (region([("a", 1), (2, 2), (3, 3)]), "X must be a number .is: 'a'"),
        (region([(50, 1), (52, 1), (52, 3)]), "lies outside of the image of 20 x 30 pixels"),
    ],
)
def test_regions_that_are_wrong_are_told_with_file_layer_and_number(tmp_path: Path, wrong: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"a.xml: layer 2, region 1: {text}"):
        read(written(tmp_path / "a.xml", layer(region(SQUARE)), layer(wrong)))


def test_files_of_something_else_or_cut_short_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xml", layer(region(SQUARE)))
    with pytest.raises(ValueError, match="format aperio is for 2D images, but the image has 2 planes"):
        read(path, (2, 20, 30))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="a.xml: is no ImageScope file .*is it complete"):
        read(path)
    for text in ("<annotations/>", "<Document/>"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="a.xml: is no ImageScope file .its root is .*, and not Annotations"):
            read(path)
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', encoding="utf-8")
    with pytest.raises(ValueError, match="a.xml: has a document type or entities"):
        read(path)


def test_turned_shapes_are_told(tmp_path: Path) -> None:
    shape = '<Shape Type="Polygon"><Data Rotation="30"><Points/></Data></Shape>'
    (tmp_path / "a.xml").write_text(
        f"<Document><Layers><Layer><Shapes>{shape}</Shapes></Layer></Layers></Document>", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="a.xml: holds a shape that is turned"):
        read(tmp_path / "a.xml")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_real_nuclei_of_a_histology_tile_are_dark() -> None:
    found = read(REAL / "01_data.xml", (1, 512, 512))
    assert len(found) == 102 and {name for name, _ in found} == {None}
    red = tifffile.imread(REAL / "01.tif")[..., 0].astype(float)
    nuclei = np.any([array for _, array in found], axis=0)
    assert 0.15 < nuclei.mean() < 0.25 and red[nuclei].mean() < 0.5 * red[~nuclei].mean()
