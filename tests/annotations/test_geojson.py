from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tests.annotations.layers import objects_in
from unet_core.annotations import geojson
from unet_core.annotations.layer import Image, Layer
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

SHAPE: ZYX = (1, 40, 50)
SQUARE = shapely.box(1, 1, 3, 3)


def feature(shape: Any, name: str | None = None, **geometry: Any) -> dict[str, Any]:
    """Object as QuPath writes it."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    drawn = json.loads(shapely.to_geojson(shape)) if isinstance(shape, shapely.Geometry) else shape
    return {"type": "Feature", "id": "5f1e", "geometry": drawn | geometry, "properties": properties}


def written(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def read(path: Path, shape: ZYX = SHAPE) -> list[tuple[str | None, np.ndarray]]:
    return objects_in("geojson", path, shape)


def centres_in(shape: shapely.Geometry) -> np.ndarray:
    y, x = np.mgrid[:40, :50] + 0.5
    return shapely.contains_xy(shape, x, y)


def test_files_are_found_by_the_name_of_the_image(tmp_path: Path) -> None:
    path = written(tmp_path / "größe 1.geojson")
    assert geojson.find(f"{tmp_path}/{{stem}}.geojson", [Image("größe 1"), Image("b")]) == ({0: (path,)}, [])
    assert read(path) == []
    with pytest.raises(ValueError, match="format geojson annotates one image per file, but axes has a t"):
        geojson.find(f"{tmp_path}/{{stem}}.geojson", [Image("a", 0)])


def test_polygons_with_holes_cover_the_centres_that_shapely_finds_in_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = []
    for number in range(1, 20):
        many = shapely.union_all(
            shapely.buffer(shapely.points(rng.uniform(0, 50, (number, 2))), rng.uniform(2, 8, number))
        )
        shapes.append(many.difference(shapely.points(rng.uniform(10, 40, 2)).buffer(3)))
    kinds = {shape.geom_type for shape in shapes}
    holes = any(part.interiors for shape in shapes for part in getattr(shape, "geoms", [shape]))
    assert kinds == {"Polygon", "MultiPolygon"} and holes
    found = read(written(tmp_path / "a.geojson", *(feature(shape) for shape in shapes)))
    for shape, (_, array) in zip(shapes, found, strict=True):
        np.testing.assert_array_equal(array, centres_in(shape))


def test_classifications_are_classes_and_those_with_a_star_are_ignored(tmp_path: Path) -> None:
    parts = feature(SQUARE)
    parts["properties"]["classification"] = {"names": ["Tumor", "Positive"]}
    bare = {"type": "Feature", "geometry": feature(SQUARE)["geometry"]}
    path = written(
        tmp_path / "a.geojson", feature(SQUARE, "Größe 1"), feature(SQUARE, "Ignore*"), feature(SQUARE), parts, bare
    )
    found = read(path)
    assert [name for name, _ in found] == ["Größe 1", None, None, "Tumor: Positive", None]
    assert [int(array.sum()) for _, array in found] == [4, -4, 4, 4, 4]


@pytest.mark.parametrize("content", [[feature(SQUARE)], feature(SQUARE)])
def test_lists_and_single_objects_are_files_too(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.geojson").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    ((_, array),) = read(tmp_path / "a.geojson")
    np.testing.assert_array_equal(array, centres_in(SQUARE))


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        (shapely.Point(1, 1), "is a Point, and no area; only Polygon and MultiPolygon are"),
        (shapely.LineString([(1, 1), (2, 2)]), "is a LineString, and no area"),
        (shapely.box(100, 1, 103, 3), "lies outside of the image of 40 x 50 pixels"),
        ({"type": "Polygon", "coordinates": []}, "a shape without points"),
        (shapely.MultiPolygon(), "a shape without points"),
        ({"type": "Polygon", "coordinates": [1, 2]}, "coordinates are none of a Polygon"),
        ({"type": "MultiPolygon"}, "coordinates are none of a MultiPolygon"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}, "a polygon needs at least 3 points"),
    ],
)
def test_objects_that_are_wrong_are_told_with_file_and_number(tmp_path: Path, drawn: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"a.geojson: object 2: {text}"):
        read(written(tmp_path / "a.geojson", feature(SQUARE), feature(drawn)))


def test_objects_of_other_planes_and_volumes_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature(SQUARE, plane={"c": -1, "z": 2, "t": 0}))
    with pytest.raises(ValueError, match="a.geojson: object 1: lies in plane z 2, t 0, but the image is 2D"):
        read(path)
    with pytest.raises(ValueError, match="format geojson is for 2D images, but the image has 2 planes"):
        read(path, (2, 40, 50))


@pytest.mark.parametrize("text", ["", "3", "{}", '{"type": "FeatureCollection"}', '[{"type": "Polygon"}]', "\x00\xff"])
def test_files_of_something_else_or_cut_short_are_told(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.geojson", feature(SQUARE))
    path.write_text(text or path.read_text(encoding="utf-8")[:-9], encoding="latin-1")
    with pytest.raises(ValueError, match="a.geojson: is no GeoJSON file .*is it complete"):
        read(path)


def test_a_height_of_0_is_passed_over_and_another_is_told(tmp_path: Path) -> None:
    ring = [[x, y, 0] for x, y in SQUARE.exterior.coords]
    flat = read(written(tmp_path / "a.geojson", feature(SQUARE)))
    high = read(written(tmp_path / "b.geojson", feature({"type": "Polygon", "coordinates": [ring]})))
    assert len(high) == 1 and np.array_equal(high[0][1], flat[0][1])
    ring[0][2] = 7
    with pytest.raises(ValueError, match="c.geojson: object 1: points must be pairs of numbers"):
        read(written(tmp_path / "c.geojson", feature({"type": "Polygon", "coordinates": [ring]})))


def test_classes_of_the_source_count_before_the_star_of_a_name(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature(SQUARE, "Ignore*"))
    given = Annotation.model_validate({"format": "geojson", "path": "", "classes": {"Ignore*": "cell"}})
    (layer,) = geojson.read((path,), Image("a"), SHAPE, given)
    assert isinstance(layer, Layer) and (layer.class_name, layer.position.size, layer.ignore.size) == ("Ignore*", 4, 0)
    plain = Annotation.model_validate({"format": "geojson", "path": ""})
    (layer,) = geojson.read((path,), Image("a"), SHAPE, plain)
    assert isinstance(layer, Layer) and (layer.position.size, layer.ignore.size) == (0, 4)
