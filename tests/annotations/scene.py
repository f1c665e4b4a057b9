"""One scene, written in every annotation format.

Its objects touch, are nested, have a hole, lie at the border, and are of two classes; one area is to be ignored.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile
from pycocotools import mask as coco_mask
from roifile import ROI_TYPE, ImagejRoi
from scipy.io import savemat

from unet_core.demo import run_lengths

STEM = "scene 1.5x [2]"
HEIGHT, WIDTH = 30, 40
Box = tuple[int, int, int, int]
# Left, top, right, bottom: outline, hole and class of each object; one goes on beyond the image.
OBJECTS: list[tuple[Box, Box | None, str]] = [
    ((2, 2, 8, 8), None, "cell"),
    ((8, 2, 13, 8), None, "cell"),
    ((30, 5, 44, 12), None, "dead"),
    ((15, 12, 29, 26), (18, 15, 26, 23), "cell"),
    ((20, 17, 24, 21), None, "dead"),
    ((31, 16, 38, 24), (33, 18, 36, 21), "dead"),
]
IGNORED: Box = (2, 20, 8, 27)
COLOURS = {"cell": (255, 0, 0), "dead": (0, 0, 255), "ignore": (128, 128, 128)}


def filled(box: Box) -> np.ndarray:
    """Pixels of a box."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


def mask_of(number: int) -> np.ndarray:
    """Pixels of an object, from 1."""
    outline, hole, _ = OBJECTS[number - 1]
    return filled(outline) & ~filled(hole) if hole else filled(outline)


def instances() -> np.ndarray:
    """All objects, numbered from 1."""
    return np.sum(
        [np.uint16(number) * mask_of(number) for number in range(1, len(OBJECTS) + 1)], axis=0, dtype=np.uint16
    )


def ring(box: Box) -> list[list[float]]:
    """Corners of a box, x and y."""
    left, top, right, bottom = map(float, box)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def numbered(ignore: int = 0) -> np.ndarray:
    """Label image, the area to ignore with a value of its own."""
    return np.where(filled(IGNORED), ignore, instances()).astype(np.uint16)


def labels(folder: Path) -> dict[str, Any]:
    """As a label image."""
    tifffile.imwrite(folder / f"{STEM}_mask.tif", numbered(255), compression="zlib")
    return {"path": "{stem}_mask.tif", "ignore_label": 255}


def cellpose(folder: Path) -> dict[str, Any]:
    """As Cellpose saves its masks."""
    (folder / f"{STEM}_cp_masks.png").write_bytes(imagecodecs.png_encode(numbered()))
    return {"path": "{stem}_cp_masks.png"}


def ilastik(folder: Path) -> dict[str, Any]:
    """As object identities."""
    axes = {"axes": [{"key": key, "typeFlags": 2} for key in "yxc"]}
    with h5py.File(folder / f"{STEM}_Object Identities.h5", "w") as file:
        data = file.create_dataset(
            "exported_data", data=numbered()[..., None].astype(np.uint32), chunks=True, compression="gzip"
        )
        data.attrs["axistags"] = json.dumps(axes)
    return {"path": "{stem}_Object Identities.h5"}


def binary(folder: Path) -> dict[str, Any]:
    """As a mask."""
    tifffile.imwrite(
        folder / f"{STEM}_mask.tif", np.where(filled(IGNORED), 7, 255 * (instances() > 0)).astype(np.uint8)
    )
    return {"path": "{stem}_mask.tif", "ignore_label": 7}


boundaries = binary


def colours(folder: Path) -> dict[str, Any]:
    """As colours of classes."""
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, (_, _, name) in enumerate(OBJECTS, start=1):
        rgb[mask_of(number)] = COLOURS[name]
    rgb[filled(IGNORED)] = COLOURS["ignore"]
    (folder / f"{STEM}.mask.png").write_bytes(imagecodecs.png_encode(rgb))
    return {
        "path": "{stem}.mask.png",
        "classes": {"#{:02x}{:02x}{:02x}".format(*colour): name for name, colour in COLOURS.items()},
    }


def ctc(folder: Path) -> dict[str, Any]:
    """As a frame of the Cell Tracking Challenge."""
    (folder / "01_GT" / "SEG").mkdir(parents=True)
    tifffile.imwrite(folder / "01_GT" / "SEG" / "man_seg007.tif", numbered(), compression="lzw")
    return {"path": "01_GT"}


def rle(folder: Path) -> dict[str, Any]:
    """As Kaggle's table."""
    rows = [f"{STEM},{run_lengths(mask_of(number))}" for number in range(1, len(OBJECTS) + 1)]
    (folder / "train.csv").write_text("\n".join(["ImageId,EncodedPixels", *rows]) + "\n", encoding="utf-8")
    return {"path": "train.csv"}


def masks(folder: Path) -> dict[str, Any]:
    """As one image per object."""
    (folder / "masks" / STEM).mkdir(parents=True)
    for number in range(1, len(OBJECTS) + 1):
        (folder / "masks" / STEM / f"{number}.png").write_bytes(imagecodecs.png_encode(mask_of(number) * np.uint8(255)))
    return {"path": "masks/{stem}/*.png"}


def coco(folder: Path) -> dict[str, Any]:
    """As polygons, where there is no hole, run-lengths, and a crowd."""
    drawn = []
    for number, (outline, hole, name) in enumerate(OBJECTS, start=1):
        shape: Any = [[value for point in ring(outline) for value in point]]
        if hole:
            runs = coco_mask.encode(np.asfortranarray(mask_of(number), np.uint8))
            shape = {"size": runs["size"], "counts": runs["counts"].decode()}
        drawn.append(
            {"id": number, "image_id": 1, "category_id": 1 + (name == "dead"), "iscrowd": 0, "segmentation": shape}
        )
    crowd = np.diff(
        np.r_[0, np.flatnonzero(np.diff(np.r_[False, filled(IGNORED).ravel("F")])), HEIGHT * WIDTH]
    ).tolist()
    crowd = {
        "id": 99,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": crowd},
    }
    images = [{"id": 1, "file_name": f"{STEM}.png", "height": HEIGHT, "width": WIDTH}]
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dead"}]
    text = json.dumps({"images": images, "annotations": [*drawn, crowd], "categories": categories})
    (folder / "coco.json").write_text(text, encoding="utf-8")
    return {"path": "coco.json"}


def imagej(folder: Path) -> dict[str, Any]:
    """As polygons, and composites where there are holes."""
    with zipfile.ZipFile(folder / f"{STEM}.zip", "w") as archive:
        for number, (outline, hole, _) in enumerate(OBJECTS, start=1):
            roi = ImagejRoi.frompoints(np.array(ring(outline), np.float32))
            if hole:
                path = [part for box in (outline, hole) for part in _path(box)]
                left, top, right, bottom = outline
                roi = ImagejRoi(roitype=ROI_TYPE.RECT, left=left, top=top, right=right, bottom=bottom)
                roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
            archive.writestr(f"{number:04}.roi", roi.tobytes())
    return {"path": "{stem}.zip"}


def _path(box: Box) -> list[float]:
    """Moves and lines of Java: 0 to, 1 line to, 4 close."""
    first, *others = ring(box)
    return [0, *first, *(value for point in others for value in (1, *point)), 4]


def geojson(folder: Path) -> dict[str, Any]:
    """As QuPath exports it."""
    shapes = [([ring(box) for box in (outline, hole) if box], name) for outline, hole, name in OBJECTS] + [
        ([ring(IGNORED)], "Ignore*")
    ]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*part, part[0]] for part in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}},
        }
        for rings, name in shapes
    ]
    (folder / f"{STEM}.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8"
    )
    return {"path": "{stem}.geojson"}


def labelme(folder: Path) -> dict[str, Any]:
    """As polygons, and masks where there are holes."""
    shapes: list[dict[str, Any]] = [{"label": "debris", "points": ring(IGNORED), "shape_type": "polygon"}]
    for number, (outline, hole, name) in enumerate(OBJECTS, start=1):
        shapes.append({"label": name, "points": ring(outline), "shape_type": "polygon", "group_id": None})
        if hole:
            left, top, right, bottom = outline
            png = imagecodecs.png_encode(mask_of(number)[top:bottom, left:right].astype(np.uint8) * 255)
            shapes[-1] |= {
                "points": [[left, top], [right - 1, bottom - 1]],
                "shape_type": "mask",
                "mask": base64.b64encode(png).decode(),
            }
    text = json.dumps({"shapes": shapes, "imagePath": f"{STEM}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH})
    (folder / f"{STEM}.json").write_text(text, encoding="utf-8")
    return {"path": "{stem}.json", "classes": {"debris": "ignore"}}


def cvat(folder: Path) -> dict[str, Any]:
    """As polygons, and masks where there are holes."""
    shapes = []
    for number, (outline, hole, name) in enumerate([*OBJECTS, (IGNORED, None, "debris")], start=1):
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in ring(outline))
        shape = f'<polygon label="{name}" source="manual" occluded="0" points="{points}" z_order="0"></polygon>'
        if hole:
            left, top, right, bottom = outline
            part = mask_of(number)[top:bottom, left:right].ravel()
            runs = np.diff(np.r_[0, np.flatnonzero(np.diff(np.r_[False, part])), part.size])
            place = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
            shape = (
                f'<mask label="{name}" source="manual" rle="{", ".join(map(str, runs))}" {place} z_order="0"></mask>'
            )
        shapes.append(shape)
    image = f'<image id="0" name="{STEM}.png" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image>'
    text = f"<annotations>{image}</annotations>"
    (folder / "annotations.xml").write_text(text, encoding="utf-8")
    return {"path": "annotations.xml", "classes": {"debris": "ignore"}}


def aperio(folder: Path) -> dict[str, Any]:
    """As layers of regions, holes as negative ones."""
    layers = ""
    for outline, hole, name in [*OBJECTS, (IGNORED, None, "debris")]:
        regions = ""
        for box, negative in ((outline, 0), (hole, 1)):
            if box:
                vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring(box))
                regions += f'<Region Type="0" NegativeROA="{negative}"><Vertices>{vertices}</Vertices></Region>'
        layers += f'<Annotation Name="{name}"><Regions>{regions}</Regions></Annotation>'
    (folder / f"{STEM}.xml").write_text(f"<Annotations>{layers}</Annotations>", encoding="utf-8")
    return {"path": "{stem}.xml", "classes": {"debris": "ignore"}}


def napari(folder: Path) -> dict[str, Any]:
    """As polygons, which have no holes."""
    lines = ["index,shape-type,vertex-index,axis-0,axis-1"]
    for index, (outline, _, _) in enumerate(OBJECTS):
        lines += [f"{index},polygon,{place},{y - 0.5},{x - 0.5}" for place, (x, y) in enumerate(ring(outline))]
    (folder / f"{STEM}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": "{stem}.csv"}


def yolo(folder: Path) -> dict[str, Any]:
    """As polygons in fractions of the image, which have no holes."""
    numbers = {"cell": 0, "dead": 1, "debris": 2}
    lines = []
    for outline, _, name in [*OBJECTS, (IGNORED, None, "debris")]:
        points = [f"{x / WIDTH:.12f} {y / HEIGHT:.12f}" for x, y in ring(outline)]
        lines.append(f"{numbers[name]} {' '.join(points)}")
    (folder / f"{STEM}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": "{stem}.txt", "classes": {"0": "cell", "1": "dead", "2": "ignore"}}


def matlab(folder: Path) -> dict[str, Any]:
    """As label images with a type for each object."""
    types = [1 + (name == "dead") for _, _, name in OBJECTS] + [3]
    arrays = {"inst_map": numbered(len(types)).astype(np.float64), "inst_type": np.array(types, float)[:, None]}
    savemat(folder / f"{STEM}.mat", arrays, do_compression=True)
    return {"path": "{stem}.mat", "classes": {"1": "cell", "2": "dead", "3": "ignore"}}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "labels": labels,
    "binary": binary,
    "colours": colours,
    "ctc": ctc,
    "rle": rle,
    "masks": masks,
    "boundaries": boundaries,
    "coco": coco,
    "imagej": imagej,
    "geojson": geojson,
    "labelme": labelme,
    "cvat": cvat,
    "aperio": aperio,
    "napari": napari,
    "ilastik": ilastik,
    "yolo": yolo,
    "matlab": matlab,
    "cellpose": cellpose,
}
# What a format cannot say: classes, areas to ignore, where objects of a class touch, holes.
LOSSES: dict[str, set[str]] = {
    "labels": {"classes"},
    "binary": {"classes", "touching"},
    "colours": {"touching"},
    "ctc": {"classes", "ignore"},
    "rle": {"classes", "ignore"},
    "masks": {"classes", "ignore"},
    "boundaries": {"classes", "touching"},
    "coco": set(),
    "imagej": {"classes", "ignore"},
    "geojson": set(),
    "labelme": set(),
    "cvat": set(),
    "aperio": set(),
    "napari": {"classes", "ignore", "holes"},
    "ilastik": {"classes", "ignore"},
    "yolo": {"holes"},
    "matlab": set(),
    "cellpose": {"classes", "ignore"},
}


def expected(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects, classes and ignore mask, less what the format cannot say."""
    loss, objects = LOSSES[name], instances()
    classes = np.array([0, *(1 if "classes" in loss else 1 + (kind == "dead") for _, _, kind in OBJECTS)])
    if "touching" in loss:
        objects[objects == 2] = 1
    if "holes" in loss:
        # Of nested objects the smaller wins.
        for number, (outline, _, _) in enumerate(OBJECTS, start=1):
            objects[filled(outline) & (objects == 0)] = number
    return objects, classes[objects], filled(IGNORED) & ("ignore" not in loss)
