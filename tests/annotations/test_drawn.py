"""Objects that cannot be read, and coordinates that are fractions of the image, in every format that draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image
from unet_core.config.datasets import Annotation
from unet_core.config.formats import DESCRIPTIONS

SHAPE = (1, 12, 16)
Ring = list[tuple[float, float]]
SQUARE: Ring = [(2, 3), (6, 3), (6, 8), (2, 8)]
OTHER: Ring = [(8, 3), (12, 3), (12, 8), (8, 8)]
BROKEN: list[Ring] = [[(1, 1), (5, 5)], [(100, 1), (105, 1), (105, 5)], [(1, 1), (math.nan, 1), (5, 5)]]
FRACTIONS: list[Ring] = [[(x / 16, y / 12) for x, y in ring] for ring in (SQUARE, OTHER)] + [[(0, 0), (1, 0), (1, 1)]]


def coco(rings: list[Ring]) -> str:
    drawn = [
        {"id": n, "image_id": 1, "segmentation": [[value for point in ring for value in point]]}
        for n, ring in enumerate(rings)
    ]
    return json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": drawn})


def geojson(rings: list[Ring]) -> str:
    shapes = [{"type": "Polygon", "coordinates": [[*ring, ring[0]] if len(ring) > 2 else ring]} for ring in rings]
    return json.dumps({"features": [{"type": "Feature", "geometry": shape} for shape in shapes]})


def labelme(rings: list[Ring]) -> str:
    return json.dumps({"shapes": [{"label": "cell", "points": ring} for ring in rings]})


def cvat(rings: list[Ring]) -> str:
    points = [";".join(f"{x},{y}" for x, y in ring) for ring in rings]
    shapes = "".join(f'<polygon label="cell" points="{text}"/>' for text in points)
    return f'<annotations><image name="a.png" width="16" height="12">{shapes}</image></annotations>'


def aperio(rings: list[Ring]) -> str:
    vertices = ["".join(f'<V X="{x}" Y="{y}"/>' for x, y in ring) for ring in rings]
    regions = "".join(f"<Region><Vertices>{points}</Vertices></Region>" for points in vertices)
    return f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"


def napari(rings: list[Ring]) -> str:
    half = 0 if rings is FRACTIONS else 0.5
    lines = [f"{n},polygon,{k},{y - half},{x - half}" for n, ring in enumerate(rings) for k, (x, y) in enumerate(ring)]
    return "\n".join(["index,shape-type,vertex-index,axis-0,axis-1", *lines]) + "\n"


def yolo(rings: list[Ring]) -> str:
    return "".join(f"0 {' '.join(f'{x / 16:.12f} {y / 12:.12f}' for x, y in ring)}\n" for ring in rings)


WRITERS: dict[str, Callable[[list[Ring]], str]] = {
    writer.__name__: writer for writer in (coco, geojson, labelme, cvat, aperio, napari, yolo)
}


def written(folder: Path, name: str, rings: list[Ring]) -> Path:
    path = folder / f"{len(rings)}.{name}"
    path.write_text(WRITERS[name](rings), encoding="utf-8")
    if name in ("coco", "cvat"):
        module_of(name).find(str(path), [Image("a")])
    return path


def test_each_format_that_draws_is_tried() -> None:
    assert {*WRITERS, "imagej", "rle"} == {name for name, one in DESCRIPTIONS.items() if one.drawn}


@pytest.mark.parametrize("broken", range(len(BROKEN)))
@pytest.mark.parametrize("name", WRITERS)
def test_broken_objects_are_errors_or_left_out_and_told(tmp_path: Path, name: str, broken: int) -> None:
    path = written(tmp_path, name, [SQUARE, BROKEN[broken], OTHER])
    with pytest.raises(ValueError, match=f"^{path}.*"):
        objects_in(name, path, SHAPE)
    found = objects_in(name, path, SHAPE, broken="skip")
    known = np.zeros((2, 12, 16), int)
    known[0, 3:8, 2:6] = known[1, 3:8, 8:12] = 1
    np.testing.assert_array_equal([array for _, array in found], known)
    (told,) = told_of(name, path, SHAPE, broken="skip")
    assert told.kind == "broken" and str(path) in told.text and "1 of 3 objects cannot be read (" in told.text


@pytest.mark.parametrize("name", WRITERS)
def test_images_without_any_object_that_can_be_read_are_errors(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, BROKEN[:2])
    with pytest.raises(ValueError, match="2 of 2 objects cannot be read .*nothing is left"):
        objects_in(name, path, SHAPE, broken="skip")


@pytest.mark.parametrize("name", sorted({*WRITERS} - {"yolo"}))
def test_damaged_files_are_errors_whatever_becomes_of_broken_objects(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, [SQUARE, OTHER])
    path.write_text(path.read_text(encoding="utf-8")[:-20] if name != "napari" else "index,shape", encoding="utf-8")
    source = Annotation.model_validate({"format": name, "path": "unused", "broken": "skip"})
    if name == "coco":
        module_of(name)._index.cache_clear()
    with pytest.raises(ValueError, match=f"{path}: is no "):
        list(module_of(name).read((path,), Image("a"), SHAPE, source))


@pytest.mark.parametrize("name", sorted({*WRITERS} - {"yolo"}))
def test_coordinates_that_are_fractions_of_the_image_are_told(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, FRACTIONS)
    (told,) = told_of(name, path, SHAPE)
    assert told.kind == "coordinates" and str(path) in told.text and "12 x 16 pixels" in told.text
    assert told_of(name, written(tmp_path, name, [*FRACTIONS, SQUARE]), SHAPE) == []


@pytest.mark.parametrize("name", ["labelme", "cvat"])
def test_objects_of_which_a_part_cannot_be_read_are_left_out_as_a_whole(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, [SQUARE, BROKEN[0], OTHER])
    text = path.read_text(encoding="utf-8")
    grouped = {
        "labelme": text.replace('"label"', '"group_id": 1, "label"', 2),
        "cvat": text.replace("label=", 'group_id="1" label=', 2),
    }
    path.write_text(grouped[name], encoding="utf-8")
    if name == "cvat":
        module_of(name)._images.cache_clear()
    ((_, array),) = objects_in(name, path, SHAPE, broken="skip")
    assert array.sum() == array[3:8, 8:12].sum() == 20


def test_broken_is_an_option_of_formats_that_draw_alone() -> None:
    with pytest.raises(ValueError, match="broken has no meaning for format labels: only for rle, coco"):
        Annotation.model_validate({"format": "labels", "path": "{stem}.tif", "broken": "skip"})
    assert "broken" not in Annotation(format="coco", path="c.json").model_dump()
