"""Miniatures of public data sets and of what tools write, read with the lines that stand in docs/annotations.md."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import yaml
import zarr
from PIL import Image as Pillow
from roifile import ImagejRoi

from unet_core.config.datasets import Dataset
from unet_core.demo import run_lengths
from unet_core.groundtruth.canvas import paint
from unet_core.groundtruth.samples import find_samples
from unet_core.images.readers import open_image, to_czyx

PAGE = Path(__file__).parents[2] / "docs" / "annotations.md"
LINES = dict(re.findall(r"^\| ([^|]+) \| `(images: .*)` \|$", PAGE.read_text(encoding="utf-8"), re.M))
HEIGHT, WIDTH = 16, 20
BOXES = [(2, 3, 8, 9), (11, 4, 17, 13)]
TWO = np.zeros((HEIGHT, WIDTH), np.uint16)
for index, (left, top, right, bottom) in enumerate(BOXES, start=1):
    TWO[top:bottom, left:right] = index
VOLUME = np.stack([TWO, TWO, 0 * TWO])
# Name of each sample -> its objects; where None stands, the two above.
Expected = dict[str, np.ndarray | None]


def gray() -> np.ndarray:
    return (TWO * 50 + 20).astype(np.uint8)


def tif(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")


def picture(path: Path, array: np.ndarray | None = None) -> None:
    """PNG or JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(gray() if array is None else array).save(path)


def rgb() -> np.ndarray:
    return np.stack([gray(), gray() // 2, gray() // 3], axis=-1)


def table(path: Path, columns: list[str], *rows: list[object]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def rings() -> list[list[list[float]]]:
    return [[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in BOXES]


def coco(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
    drawn = [
        {"id": 10 * n + k, "image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": [sum(ring, [])]}
        for n in range(len(names))
        for k, ring in enumerate(rings())
    ]
    categories = [{"id": 1, "name": "cell"}]
    path.write_text(json.dumps({"images": images, "annotations": drawn, "categories": categories}))


def aperio(path: Path, *layers: str) -> None:
    """A layer for each object; the names of layers are classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ""
    for ring, layer in zip(rings(), layers, strict=True):
        corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring)
        text += (
            f'<Annotation Name="{layer}"><Regions><Region Type="0"><Vertices>{corners}</Vertices></Region></Regions>'
        )
        text += "</Annotation>"
    path.write_text(f"<Annotations>{text}</Annotations>")


def cellpose_training(folder: Path) -> Expected:
    for name in ("000", "001"):
        picture(folder / "train" / f"{name}_img.png")
        picture(folder / "train" / f"{name}_masks.png", TWO)
    return {"000": None, "001": None}


def cellpose_saved(folder: Path) -> Expected:
    tif(folder / "a.tif", gray())
    picture(folder / "a_cp_masks.png", TWO)
    (folder / "a_seg.npy").touch()
    return {"a": None}


def stardist(folder: Path) -> Expected:
    for part in ("train", "test"):
        tif(folder / part / "images" / "a.tif", gray())
        tif(folder / part / "masks" / "a.tif", TWO)
    return {"a": None}


def stardist3d(folder: Path) -> Expected:
    tif(folder / "train" / "images" / "a.tif", VOLUME.astype(np.uint8))
    tif(folder / "train" / "masks" / "a.tif", VOLUME)
    return {"a": VOLUME}


def dsb2018(folder: Path) -> Expected:
    for name in ("0a1b", "2c3d"):
        picture(folder / "stage1_train" / name / "images" / f"{name}.png", np.dstack([rgb(), gray() * 0 + 255]))
        for number in (1, 2):
            mask = (number == TWO) * np.uint8(255)
            picture(folder / "stage1_train" / name / "masks" / f"{name}{number}.png", mask)
    return {"0a1b": None, "2c3d": None}


def dsb2018_table(folder: Path) -> Expected:
    picture(folder / "images" / "0a1b.png", rgb())
    rows = [["0a1b", run_lengths(number == TWO)] for number in (1, 2)]
    table(folder / "stage1_train_labels.csv", ["ImageId", "EncodedPixels"], *rows)
    return {"0a1b": None}


def sartorius(folder: Path) -> Expected:
    picture(folder / "train" / "0030fd0e6378.png")
    # Along the rows, which is down the columns of the transposed mask.
    rows = [["0030fd0e6378", run_lengths((number == TWO).T), WIDTH, HEIGHT, "shsy5y"] for number in (1, 2)]
    table(folder / "train.csv", ["id", "annotation", "width", "height", "cell_type"], *rows)
    return {"0030fd0e6378": None}


def hubmap(folder: Path) -> Expected:
    (folder / "train").mkdir()
    tifffile.imwrite(folder / "train" / "10044.tiff", rgb(), photometric="rgb")
    table(folder / "train.csv", ["id", "organ", "rle"], ["10044", "kidney", run_lengths(TWO > 0)])
    return {"10044": (TWO > 0).astype(np.uint16)}


def neurips(folder: Path) -> Expected:
    picture(folder / "images" / "cell_00001.png", rgb())
    tif(folder / "labels" / "cell_00001_label.tiff", TWO)
    return {"cell_00001": None}


def livecell(folder: Path) -> Expected:
    names = ["A172_Phase_A7_1.tif", "BT474_Phase_B3_1.tif"]
    for name in names:
        tif(folder / "images" / "livecell_train_val_images" / name.split("_")[0] / name, gray())
    coco(folder / "livecell_coco_train.json", *names)
    return {Path(name).stem: None for name in names}


def roboflow(folder: Path) -> Expected:
    name = "cells_png.rf.0123abcd.jpg"
    picture(folder / "train" / name)
    coco(folder / "train" / "_annotations.coco.json", name)
    return {Path(name).stem: None}


def ctc(folder: Path) -> Expected:
    for frame in (0, 1):
        tif(folder / "01" / f"t{frame:03d}.tif", gray())
    tif(folder / "01_GT" / "SEG" / "man_seg001.tif", TWO)
    return {"t001": None}


def isbi2012(folder: Path) -> Expected:
    tif(folder / "train-volume.tif", np.stack([gray()] * 3))
    tif(folder / "train-labels.tif", np.stack([(TWO > 0) * np.uint8(255)] * 3))
    return {f"train-volume_{number:04d}": None for number in range(3)}


def lucchi(folder: Path) -> Expected:
    tif(folder / "training.tif", VOLUME.astype(np.uint8))
    tif(folder / "training_groundtruth.tif", (VOLUME > 0) * np.uint8(255))
    return {"training": VOLUME}


def cremi(folder: Path) -> Expected:
    with h5py.File(folder / "sample_A.hdf", "w") as file:
        file["volumes/raw"] = VOLUME.astype(np.uint8)
        file["volumes/raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
        file["volumes/labels/neuron_ids"] = VOLUME.astype(np.uint64)
        file["volumes/labels/clefts"] = np.full(VOLUME.shape, 2**64 - 1, np.uint64)
    return {"sample_A": VOLUME}


def plantseg(folder: Path) -> Expected:
    (folder / "train").mkdir()
    with h5py.File(folder / "train" / "N_420.h5", "w") as file:
        file["raw"], file["label"] = VOLUME.astype(np.uint8), np.where(VOLUME, VOLUME + 1, 1)
    return {"N_420": VOLUME}


def monuseg(folder: Path) -> Expected:
    (folder / "Tissue Images").mkdir()
    tifffile.imwrite(folder / "Tissue Images" / "TCGA-18-5592-01Z.tif", rgb(), photometric="rgb")
    aperio(folder / "Annotations" / "TCGA-18-5592-01Z.xml", "", "")
    return {"TCGA-18-5592-01Z": None}


def monusac(folder: Path) -> Expected:
    for patient in ("TCGA-5P", "TCGA-69"):
        (folder / patient).mkdir()
        tifffile.imwrite(folder / patient / f"{patient}_1.tif", rgb(), photometric="rgb")
        (folder / patient / f"{patient}_1.svs").touch()
        aperio(folder / patient / f"{patient}_1.xml", "Epithelial", "Lymphocyte")
    return {"TCGA-5P_1": None, "TCGA-69_1": None}


def consep(folder: Path) -> Expected:
    picture(folder / "Train" / "Images" / "train_1.png", rgb())
    (folder / "Train" / "Labels").mkdir(parents=True)
    arrays = {"inst_map": TWO.astype(float), "type_map": (TWO > 0).astype(float), "inst_type": [[1.0], [1.0]]}
    scipy.io.savemat(folder / "Train" / "Labels" / "train_1.mat", arrays)
    return {"train_1": None}


def nuinsseg(folder: Path) -> Expected:
    for organ in ("human bladder", "mouse liver"):
        name = f"{organ.replace(' ', '_')}_01"
        picture(folder / organ / "tissue images" / f"{name}.png", rgb())
        tif(folder / organ / "label masks" / f"{name}.tif", TWO.astype(np.float32))
        picture(folder / organ / "mask binary" / f"{name}.png")
    return {"human_bladder_01": None, "mouse_liver_01": None}


def bbbc006(folder: Path) -> Expected:
    name = "mcf-z-stacks-03212011_a01_s1"
    tif(folder / "images" / f"{name}_w1f2a5b6c7.tif", gray())
    tif(folder / "images" / f"{name}_w2f2a5b6c8.tif", gray())
    picture(folder / "labels" / f"{name}.png", TWO.astype(np.uint8))
    return {name: None}


def pascal(folder: Path) -> Expected:
    for name in ("2007_000032", "2007_000033"):
        picture(folder / "JPEGImages" / f"{name}.jpg", rgb())
    (folder / "SegmentationObject").mkdir()
    objects = TWO.astype(np.uint8)
    objects[0] = 255
    mask = Pillow.fromarray(objects, mode="P")
    mask.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    mask.save(folder / "SegmentationObject" / "2007_000032.png")
    return {"2007_000032": None}


def yolo(folder: Path) -> Expected:
    picture(folder / "images" / "train" / "a.jpg", rgb())
    (folder / "labels" / "train").mkdir(parents=True)
    lines = [" ".join(["0", *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in ring)]) for ring in rings()]
    (folder / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    return {"a": None}


def qupath(folder: Path) -> Expected:
    tif(folder / "images" / "slide 1.tif", gray())
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {"objectType": "annotation"},
        }
        for ring in rings()
    ]
    (folder / "export").mkdir()
    (folder / "export" / "slide 1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return {"slide 1": None}


def cvat(folder: Path) -> Expected:
    picture(folder / "images" / "a.png")
    shapes = "".join(f'<polygon label="cell" points="{";".join(f"{x},{y}" for x, y in ring)}"/>' for ring in rings())
    image = f'<image id="0" name="images/a.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    (folder / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
    return {"a": None}


def labelme(folder: Path) -> Expected:
    picture(folder / "a.jpg")
    shapes = [{"label": "cell", "points": ring, "shape_type": "polygon", "group_id": None} for ring in rings()]
    (folder / "a.json").write_text(
        json.dumps({"shapes": shapes, "imagePath": "a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH})
    )
    return {"a": None}


def fiji(folder: Path) -> Expected:
    import zipfile

    tif(folder / "a.tif", gray())
    with zipfile.ZipFile(folder / "a_RoiSet.zip", "w") as archive:
        for number, ring in enumerate(rings()):
            archive.writestr(f"{number}.roi", ImagejRoi.frompoints(ring).tobytes())
    return {"a": None}


def ilastik(folder: Path) -> Expected:
    picture(folder / "a.png")
    with h5py.File(folder / "a_Object Identities.h5", "w") as file:
        data = file.create_dataset("exported_data", data=TWO[None, :, :, None].astype(np.uint32))
        data.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tyxc"]})
    return {"a": None}


def ome_zarr(folder: Path) -> Expected:
    group = zarr.create_group(folder / "a.zarr")
    for node, array in ((group, gray()), (group.create_group("labels/cells"), TWO)):
        node.create_array("0", data=array)
        axes = [{"name": name, "type": "space"} for name in "yx"]
        node.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    return {"a": None}


MINIATURES: dict[str, Callable[[Path], Expected]] = {
    "Cellpose (training folder)": cellpose_training,
    "Cellpose (saved masks)": cellpose_saved,
    "StarDist (dsb2018 subset)": stardist,
    "StarDist 3D, EmbedSeg": stardist3d,
    "DSB 2018 (BBBC038)": dsb2018,
    "DSB 2018 (table)": dsb2018_table,
    "Sartorius cell segmentation": sartorius,
    "HuBMAP": hubmap,
    "NeurIPS 2022 cell segmentation": neurips,
    "LIVECell": livecell,
    "Roboflow, COCO": roboflow,
    "Cell Tracking Challenge": ctc,
    "ISBI 2012": isbi2012,
    "EPFL mitochondria (Lucchi)": lucchi,
    "CREMI": cremi,
    "PlantSeg": plantseg,
    "MoNuSeg": monuseg,
    "MoNuSAC": monusac,
    "CoNSeP": consep,
    "NuInsSeg": nuinsseg,
    "BBBC006": bbbc006,
    "Pascal VOC": pascal,
    "YOLO (Ultralytics)": yolo,
    "QuPath": qupath,
    "CVAT": cvat,
    "LabelMe": labelme,
    "Fiji, ROI manager": fiji,
    "ilastik": ilastik,
    "OME-Zarr with labels": ome_zarr,
}


def test_the_page_has_a_line_for_each_miniature() -> None:
    assert list(LINES) == list(MINIATURES)


@pytest.mark.parametrize("name", MINIATURES)
def test_the_line_of_the_page_reads_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = MINIATURES[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    raw: dict[str, Any] = yaml.safe_load(f"{{{LINES[name]}}}")
    # Two images are too few for shares of three splits, which a real set has.
    cfg = Dataset.model_validate(raw | {"split": {"group": "sample", "test": 0, "validation": 0}})
    samples, problems = find_samples(cfg)
    assert problems == []
    assert {one.name for one in samples if one.split != "unannotated"} == set(expected)
    for sample in samples:
        with open_image(sample.image, sample.internal) as opened:
            view = to_czyx(opened, sample.axes, sample.time)
        assert view.shape[0] in (1, 3, 4) and view.shape[2:] == (HEIGHT, WIDTH)
        if sample.name in expected:
            known = expected[sample.name]
            found = paint(sample, cfg, "error", view.shape[1:]).stored()[0]
            np.testing.assert_array_equal(found > 0, (TWO[None] if known is None else known.reshape(found.shape)) > 0)
            objects = TWO if known is None else known
            pairs = np.unique(np.stack([found.ravel(), objects.ravel()]), axis=1)
            assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
