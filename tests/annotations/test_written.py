"""What is written is read again, pixel by pixel: objects with holes, in parts, that touch, and of several classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from roifile import ROI_TYPE, ImagejRoi, roiread

from tests.annotations.layers import objects_in
from tests.annotations.scene import HEIGHT, WIDTH, instances
from unet_core.annotations import coco, geojson, imagej, labelme, raster
from unet_core.annotations.traced import traced

CLASSES = ["cell", "débris"]


def write_imagej(path: Path, labels: np.ndarray, classes: dict[int, str]) -> None:
    imagej.write(path, traced(labels, classes), CLASSES)


def write_geojson(path: Path, labels: np.ndarray, classes: dict[int, str]) -> None:
    geojson.write(path, traced(labels, classes))


def write_labelme(path: Path, labels: np.ndarray, classes: dict[int, str]) -> None:
    labelme.write(path, traced(labels, classes), labels.shape[:2], "a.png", "cell")


def write_coco(path: Path, labels: np.ndarray, classes: dict[int, str]) -> None:
    other = coco.Written("b.png", (3, 3), traced(np.eye(3, dtype=np.uint32)))
    coco.write(path, [other, coco.Written("a.png", labels.shape[:2], traced(labels, classes))], CLASSES)


WRITERS: dict[str, Callable[[Path, np.ndarray, dict[int, str]], None]] = {
    "imagej": write_imagej,
    "geojson": write_geojson,
    "labelme": write_labelme,
    "coco": write_coco,
}
NAMES = {"imagej": "a.zip", "geojson": "a.geojson", "labelme": "a.json", "coco": "all.json"}


def scene() -> np.ndarray:
    """Objects that touch and are nested, holes, one pixel, two parts that meet at a corner, and two that lie apart."""
    labels = instances().astype(np.uint32)
    labels[0, 0] = 9
    labels[27, 12], labels[28, 13] = 10, 10
    labels[1, 20:24], labels[9, 2] = 11, 11
    return labels


@pytest.mark.parametrize("name", WRITERS)
def test_objects_are_the_same_after_writing_and_reading(tmp_path: Path, name: str) -> None:
    labels = scene()
    numbers = np.unique(labels[labels > 0]).tolist()
    classes = {number: CLASSES[number % 2] for number in numbers}
    path = tmp_path / NAMES[name]
    WRITERS[name](path, labels, classes)
    options = {"classes": {"1": "cell", "2": "débris"}} if name == "imagej" else {}
    found = objects_in(name, path, (1, HEIGHT, WIDTH), **options)
    assert len(found) == len(numbers)
    called = {"1": "cell", "2": "débris"} if name == "imagej" else {one: one for one in CLASSES}
    for class_name, mask in found:
        (number,) = np.unique(labels[mask > 0])
        np.testing.assert_array_equal(mask > 0, labels == number)
        assert called[str(class_name)] == classes[number]


@pytest.mark.parametrize("name", WRITERS)
def test_an_image_without_objects_is_an_annotated_one(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / NAMES[name], np.zeros((7, 5), np.uint32), {})
    assert objects_in(name, tmp_path / NAMES[name], (1, 7, 5)) == []


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_are_valid_polygons_of_the_same_area(mask: np.ndarray) -> None:
    for one in traced(mask.astype(np.uint32)):
        polygons = [shapely.Polygon(outline, holes) for outline, *holes in one.parts]
        assert all(polygon.is_valid for polygon in polygons) and sum(one.area for one in polygons) == mask.sum()
        # No point too many.
        assert all(len(polygon.exterior.simplify(0).coords) == len(polygon.exterior.coords) for polygon in polygons)
        covered = raster.polygons(one.parts, mask.shape, "here")
        np.testing.assert_array_equal(covered, np.flatnonzero(mask))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools
def test_other_readers_see_the_same_objects(tmp_path: Path) -> None:
    labels = scene()
    write_coco(tmp_path / "all.json", labels, {})
    reader = COCO(tmp_path / "all.json")
    (image_id,) = [image["id"] for image in reader.imgs.values() if image["file_name"] == "a.png"]
    annotations = reader.loadAnns(reader.getAnnIds(imgIds=[image_id]))
    areas = {number: int((labels == number).sum()) for number in np.unique(labels[labels > 0])}
    assert sorted(one["area"] for one in annotations) == sorted(areas.values())
    # Its polygons cover other pixels at the edges than ours; run-lengths are the same everywhere.
    with_holes = [reader.annToMask(one).astype(bool) for one in annotations if isinstance(one["segmentation"], dict)]
    assert len(with_holes) == 2
    for mask in with_holes:
        (number,) = np.unique(labels[mask])
        np.testing.assert_array_equal(mask, labels == number)
    write_imagej(tmp_path / "a.zip", labels, {})
    rois = [roi for roi in roiread(tmp_path / "a.zip") if isinstance(roi, ImagejRoi)]
    assert {roi.name for roi in rois} == {str(number) for number in areas}
    assert {roi.roitype for roi in rois} == {ROI_TYPE.TRACED, ROI_TYPE.RECT} and sum(roi.composite for roi in rois) == 4
    write_geojson(tmp_path / "a.geojson", labels, {})
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [shapely.geometry.shape(one["geometry"]).area for one in features] == list(areas.values())


@pytest.mark.parametrize("name", WRITERS)
def test_outlines_far_from_the_origin_keep_their_pixels(tmp_path: Path, name: str) -> None:
    labels = np.zeros((3, 70_000), np.uint32)
    labels[1, 40_000:40_009], labels[:, 65_000:65_003], labels[1, 65_001] = 1, 2, 0
    WRITERS[name](tmp_path / NAMES[name], labels, {})
    found = objects_in(name, tmp_path / NAMES[name], (1, 3, 70_000))
    assert [mask.sum() for _, mask in found] == [9, 8]
    np.testing.assert_array_equal(sum((mask > 0) * number for number, (_, mask) in enumerate(found, 1)), labels)
