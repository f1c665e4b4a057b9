"""The same objects, drawn in each format, become the same labels."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from roifile import ImagejRoi

from tests.annotations import scene
from unet_core.config.datasets import Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine, local_engine
from unet_core.groundtruth.canvas import paint
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.store.store import open_labels

STEM = "größe 1.5x [2]"
# Two triangles and a rectangle that share edges, on which centres of pixels lie.
CELLS = [
    [(2.0, 2.0), (10.0, 10.0), (2.0, 10.0)],
    [(2.0, 2.0), (10.0, 2.0), (10.0, 10.0)],
    [(10.0, 2.0), (15.0, 2.0), (15.0, 10.0), (10.0, 10.0)],
]
NAMES = ["dead", "cell", "cell"]


def coco(folder: Path) -> str:
    objects = [
        {
            "id": n,
            "image_id": 4,
            "category_id": NAMES[n],
            "segmentation": [[number for point in ring for number in point]],
        }
        for n, ring in enumerate(CELLS)
    ]
    categories = [{"id": name, "name": name} for name in ("cell", "dead")]
    images = [{"id": 4, "file_name": f"some folder/{STEM}.png", "width": 20, "height": 12}]
    (folder / "coco.json").write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories}), encoding="utf-8"
    )
    return "coco.json"


def imagej(folder: Path) -> str:
    with zipfile.ZipFile(folder / f"{STEM}.zip", "w") as archive:
        for number, ring in enumerate(CELLS):
            archive.writestr(f"{number}.roi", ImagejRoi.frompoints(np.array(ring, np.float32)).tobytes())
    return "{stem}.zip"


def geojson(folder: Path) -> str:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {"classification": {"name": name}},
        }
        for ring, name in zip(CELLS, NAMES, strict=True)
    ]
    (folder / f"{STEM}.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8"
    )
    return "{stem}.geojson"


def labelme(folder: Path) -> str:
    shapes = [{"label": name, "points": ring, "shape_type": "polygon"} for ring, name in zip(CELLS, NAMES, strict=True)]
    text = json.dumps({"shapes": shapes, "imagePath": f"{STEM}.png", "imageHeight": 12, "imageWidth": 20})
    (folder / f"{STEM}.json").write_text(text, encoding="utf-8")
    return "{stem}.json"


def cvat(folder: Path) -> str:
    rings = [";".join(f"{x},{y}" for x, y in ring) for ring in CELLS]
    shapes = "".join(f'<polygon label="{name}" points="{ring}"/>' for ring, name in zip(rings, NAMES, strict=True))
    text = f'<annotations><image id="0" name="{STEM}.jpg" width="20" height="12">{shapes}</image></annotations>'
    (folder / "cvat.xml").write_text(text, encoding="utf-8")
    return "cvat.xml"


def aperio(folder: Path) -> str:
    layers = ""
    for ring, name in zip(CELLS, NAMES, strict=True):
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
        region = f'<Region Type="0"><Vertices>{vertices}</Vertices></Region>'
        layers += f'<Annotation Name="{name}"><Regions>{region}</Regions></Annotation>'
    (folder / f"{STEM}.xml").write_text(f"<Annotations>{layers}</Annotations>", encoding="utf-8")
    return "{stem}.xml"


def napari(folder: Path) -> str:
    lines = [f"{n},polygon,{i},{y - 0.5},{x - 0.5}" for n, ring in enumerate(CELLS) for i, (x, y) in enumerate(ring)]
    (folder / f"{STEM}.csv").write_text(
        "\n".join(["index,shape-type,vertex-index,axis-0,axis-1", *lines]) + "\n", encoding="utf-8"
    )
    return "{stem}.csv"


def yolo(folder: Path) -> str:
    rings = [" ".join(f"{x / 20} {y / 12:.12f}" for x, y in ring) for ring in CELLS]
    numbers = [["cell", "dead"].index(name) for name in NAMES]
    (folder / f"{STEM}.txt").write_text(
        "".join(f"{number} {ring}\n" for number, ring in zip(numbers, rings, strict=True)), encoding="utf-8"
    )
    return "{stem}.txt"


WRITERS: dict[str, Callable[[Path], str]] = {
    writer.__name__: writer for writer in (coco, imagej, geojson, labelme, cvat, aperio, napari, yolo)
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with local_engine(1) as engine:
        yield engine


def test_each_format_that_draws_is_compared() -> None:
    painted = {"labels", "binary", "colours", "ctc", "rle", "masks", "boundaries", "ilastik", "cellpose", "matlab"}
    assert set(WRITERS) == set(DESCRIPTIONS) - painted


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_all_formats_give_the_same_labels(tmp_path: Path, engine: Engine, name: str) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    tifffile.imwrite(folder / f"{STEM}.tif", np.zeros((12, 20), np.uint8))
    source: dict[str, Any] = {"format": name, "path": f"{folder}/{WRITERS[name](folder)}"}
    if name == "yolo":
        source["classes"] = {"0": "cell", "1": "dead"}
    raw = {
        "images": f"{folder}/*.tif",
        "annotations": [source],
        "classes": ["cell", "dead"],
        "split": {"test": 0, "validation": 0},
    }
    cfg = Dataset.model_validate(raw)
    samples, problems = find_samples(cfg)
    assert problems == [] and [sample.name for sample in samples] == [STEM]
    convert_groundtruth(
        cfg, Groundtruth(), samples, store=tmp_path / "a.zarr", stamp=tmp_path / "a.json", engine=engine
    )
    instances, classes, ignore = (result.read_all()[0] for result in open_labels(tmp_path / "a.zarr", STEM))
    y, x = np.mgrid[:12, :20]
    inside = (y >= 2) & (y < 10)
    known = np.select(
        [inside & (x >= 2) & (x < y), inside & (x >= y) & (x < 10), inside & (x >= 10) & (x < 15)], [1, 2, 3], 0
    )
    np.testing.assert_array_equal(instances, known)
    # ROIs of ImageJ and shapes of napari have no classes.
    np.testing.assert_array_equal(classes, np.where(known == 1, 1 if name in ("imagej", "napari") else 2, known > 0))
    assert not ignore.any()


def test_the_scene_is_written_in_each_format() -> None:
    assert set(scene.WRITERS) == set(scene.LOSSES) == set(DESCRIPTIONS)


@pytest.mark.parametrize("name", sorted(DESCRIPTIONS))
def test_one_scene_in_every_format_is_the_same_but_for_what_the_format_cannot_say(tmp_path: Path, name: str) -> None:
    stem = "t007" if name == "ctc" else scene.STEM
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / f"{stem}.tif", np.zeros((scene.HEIGHT, scene.WIDTH), np.uint8))
    source = scene.WRITERS[name](tmp_path)
    source |= {"format": name, "path": f"{tmp_path}/{source['path']}"}
    raw = {"images": f"{tmp_path}/images/*.tif", "annotations": [source], "classes": ["cell", "dead"]}
    cfg = Dataset.model_validate(raw | {"split": {"test": 0, "validation": 0}})
    (sample,), problems = find_samples(cfg)
    assert problems == []
    canvas = paint(sample, cfg, "smaller", (1, scene.HEIGHT, scene.WIDTH))
    instances, painted, ignored = canvas.stored()
    objects, classes, ignore = scene.expected(name)
    np.testing.assert_array_equal(ignored[0] > 0, ignore)
    np.testing.assert_array_equal(painted[0], classes)
    # Numbers may differ, objects not.
    pairs = np.unique(np.stack([instances.ravel(), objects.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
