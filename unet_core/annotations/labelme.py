"""LabelMe: one JSON file per image with polygons, rectangles, circles and masks; labels are the classes.

Shapes of one label with the same ``group_id`` are parts of one object.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.annotations import labels, raster
from unet_core.annotations.drawn import Drawn, complete
from unet_core.annotations.layer import Found, Image, Images, Layer, Told, object_of, one_image_each, one_plane
from unet_core.annotations.parsed import Record, part_of, read_json
from unet_core.annotations.traced import Traced
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.files import write_atomic


class _Shape(Record):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | None = None
    mask: str | None = None


class _Document(Record):
    shapes: list[Any]
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("labelme", images)
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("labelme", file, shape)
        document = read_json(file, _Document, "LabelMe")
        said = (document.imageHeight or size[0], document.imageWidth or size[1])
        if said != size:
            raise ValueError(
                f"{file}: annotates an image of {said[0]} x {said[1]} pixels, but the image has {size[0]} x {size[1]}"
            )
        objects: dict[tuple[str, int], list[np.ndarray | None]] = {}
        drawn = Drawn(source, size, str(file))
        for number, content in enumerate(document.shapes, start=1):
            with drawn.object():
                one = part_of(content, _Shape, file, "LabelMe", f"shapes.{number - 1}")
                # Shapes without a group are objects of their own; their numbers below 0 are no groups of LabelMe's.
                key = (one.label, -number if one.group_id is None else abs(one.group_id))
                where = f"{file}: shape {number} ({one.label})"
                parts = objects.setdefault(key, [])
                parts.append(None)  # an object of which a part cannot be read is left out as a whole
                parts[-1] = _pixels(one, size, where, drawn)
        for (label, group), parts in objects.items():
            if whole := complete(parts):
                name = f"shape {-group}" if group < 0 else f"group {group}"
                yield object_of(np.unique(np.concatenate(whole)), label, name)
        yield from drawn.told()


def write(path: Path, objects: Iterable[Traced], size: tuple[int, int], image: str, class_name: str) -> None:
    """Write the objects of a plane; `read` gives the same pixels and classes.

    An object is a polygon, several polygons of one group where it is in parts, or a mask where it has holes, which
    LabelMe's polygons cannot have.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    objects : iterable of Traced
        The objects.
    size : tuple of int
        Height and width of the image.
    image : str
        Where the image lies, as seen from the folder of the file.
    class_name : str
        Label of objects whose class is not known: LabelMe has none without.
    """
    shapes = []
    for one in objects:
        parts = one.parts
        of_parts: list[dict[str, Any]] = [{"points": part[0].tolist(), "shape_type": "polygon"} for part in parts]
        if any(len(part) > 1 for part in parts):
            of_parts = [_as_mask(one)]
        group = one.number if len(of_parts) > 1 else None
        common: dict[str, Any] = {
            "label": one.class_name or class_name,
            "group_id": group,
            "flags": {},
            "description": "",
        }
        shapes += [common | part for part in of_parts]
    document: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    write_atomic(path, json.dumps(document, ensure_ascii=False).encode())


def _as_mask(one: Traced) -> dict[str, Any]:
    import imagecodecs

    (top, left), (height, width) = one.origin, one.mask.shape
    mask = base64.b64encode(imagecodecs.png_encode(one.mask.astype(np.uint8) * 255)).decode()
    corners = [[left, top], [left + width - 1, top + height - 1]]
    return {"points": corners, "shape_type": "mask", "mask": mask}


def _pixels(shape: _Shape, size: tuple[int, int], where: str, drawn: Drawn) -> np.ndarray:
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    drawn.saw(points)
    if shape.shape_type == "polygon":
        return raster.polygon([points], size, where)
    if shape.shape_type not in ("rectangle", "circle", "mask"):
        raise ValueError(f"{where}: is a {shape.shape_type}; supported are polygon, rectangle, circle and mask")
    if shape.shape_type == "mask":
        return _mask(shape, points, size, where)
    if shape.shape_type == "circle":
        if len(points) != 2:
            raise ValueError(f"{where}: a circle has 2 points, its centre and one on its edge; this has {len(points)}")
        radius = float(np.hypot(*(points[1] - points[0])))
        return raster.ellipse(points[0].tolist(), (radius, radius), 0, size, where)
    if len(points) not in (2, 4):
        raise ValueError(f"{where}: a rectangle has 2 or 4 corners; this has {len(points)}")
    return raster.polygon([raster.box(points[0], points[1]) if len(points) == 2 else points], size, where)


def _mask(shape: _Shape, points: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Positions of a mask: a PNG of the part of the image between two corners, both within it."""
    if len(points) != 2 or not np.isfinite(points).all() or (np.abs(points) > 2**31).any():
        raise ValueError(f"{where}: a mask has 2 corners")
    (left, top), (right, bottom) = np.rint(points).astype(int).tolist()
    height, width = bottom - top + 1, right - left + 1
    if left < 0 or top < 0 or height < 1 or width < 1 or right >= size[1] or bottom >= size[0]:
        raise ValueError(
            f"{where}: its mask from {left}, {top} to {right}, {bottom} leaves the image of {size[0]} x {size[1]} "
            "pixels"
        )
    import imagecodecs

    try:
        data = base64.b64decode(shape.mask or "", validate=True)
        # Width and height in the header, before memory is asked for.
        if data[12:16] != b"IHDR" or struct.unpack(">II", data[16:24]) != (width, height):
            raise ValueError(f"it is no PNG of {height} x {width} pixels")
        mask = imagecodecs.png_decode(data)
    except (ValueError, struct.error, imagecodecs.PngError) as error:
        raise ValueError(f"{where}: its mask cannot be read ({error})") from None
    rows, columns = np.nonzero(mask if mask.ndim == 2 else mask[..., 0])
    return (rows + top) * size[1] + columns + left
