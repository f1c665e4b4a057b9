"""Aperio ImageScope: one XML file per image with layers of regions; also files of ``Document/Layers/Layer/Shapes``.

The name of a layer is the class of its regions, or else the name of its first attribute, as in MoNuSAC; names like
``Layer 1`` and ``Description`` are the program's own and say nothing. Negative regions are holes in the others of their
layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from unet_core.annotations import labels, raster
from unet_core.annotations.drawn import Drawn
from unet_core.annotations.layer import (
    NO_POSITIONS,
    Found,
    Image,
    Images,
    Layer,
    Told,
    object_of,
    one_image_each,
    one_plane,
)
from unet_core.annotations.parsed import number, read_xml
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

# ImageScope's numbers, and what others write in their place.
POLYGON, RECTANGLE, ELLIPSE = ("", "0", "Polygon", "SmoothPolygon"), ("1", "Rectangle"), ("2", "Ellipse")


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("aperio", images)
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("aperio", file, shape)
        drawn = Drawn(source, size, str(file))
        for index, (name, regions) in enumerate(_layers(read_xml(file, "ImageScope"), file), start=1):
            objects, holes = [], NO_POSITIONS
            for place, (region, kind, points) in enumerate(regions, start=1):
                place_name = f"layer {index}, region {place}"
                negative = region.get("NegativeROA", "0") != "0"
                with drawn.object() if not negative else nullcontext():  # a hole that is left out would be learnt
                    data = region.find("Data")
                    if data is not None and number(data, "Rotation", f"{file}: {place_name}", 0) != 0:
                        raise ValueError(f"{file}: holds a shape that is turned, which is not supported ({place_name})")
                    position = _pixels(kind, points, size, f"{file}: {place_name}", drawn)
                    if negative:
                        holes = np.union1d(holes, position)
                    else:
                        objects.append((position, place_name))
            for position, place_name in objects:
                yield object_of(np.setdiff1d(position, holes), name, place_name)
        yield from drawn.told()


def _layers(root: Element, file: Path) -> Iterator[tuple[str | None, Iterable[tuple[Element, str, list[Element]]]]]:
    """Class of each layer, and its regions with their types and points."""
    if root.tag == "Annotations":
        for layer in root.findall("Annotation"):
            attribute = layer.find("Attributes/Attribute")
            name = layer.get("Name") or (attribute.get("Name") if attribute is not None else None)
            regions = layer.findall("Regions/Region")
            yield (
                _class_of(name),
                [(region, region.get("Type", ""), region.findall("Vertices/*")) for region in regions],
            )
    elif root.tag == "Document" and root.find("Layers") is not None:
        for layer in root.findall("Layers/Layer"):
            shapes = layer.findall("Shapes/Shape")
            yield (
                _class_of(layer.get("Name")),
                [(shape, shape.get("Type", ""), shape.findall("Data/Points/Point")) for shape in shapes],
            )
    else:
        raise ValueError(f"{file}: is no ImageScope file (its root is {root.tag}, and not Annotations)")


def _class_of(name: str | None) -> str | None:
    name = (name or "").strip()
    return None if re.fullmatch(r"|Layer ?\d+|Description", name) else name


def _pixels(kind: str, vertices: list[Element], size: tuple[int, int], where: str, drawn: Drawn) -> np.ndarray:
    points = np.array([(number(vertex, "X", where), number(vertex, "Y", where)) for vertex in vertices]).reshape(-1, 2)
    drawn.saw(points)
    if kind in POLYGON or (kind in RECTANGLE and len(points) == 4):
        return raster.polygon([points], size, where)
    if kind not in RECTANGLE + ELLIPSE:
        raise ValueError(
            f"{where}: is of type {kind} and no area; supported are polygons (0), rectangles (1) and ellipses (2)"
        )
    if len(points) < 2:
        raise ValueError(f"{where}: has {len(points)} points; a rectangle or ellipse has 2 or 4 corners")
    low, high = points.min(axis=0), points.max(axis=0)
    if kind in RECTANGLE:
        return raster.polygon([raster.box(low, high)], size, where)
    return raster.ellipse(((low + high) / 2).tolist(), ((high - low) / 2).tolist(), 0, size, where)
