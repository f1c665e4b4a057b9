"""GeoJSON as QuPath exports it: one file per image, coordinates in pixels of the full image.

``classification.name`` is the class. As in QuPath, classes whose names end with ``*`` (``Ignore*``) are areas to
ignore.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from unet_core.annotations import labels, raster
from unet_core.annotations.drawn import Drawn
from unet_core.annotations.layer import (
    Found,
    Image,
    Images,
    Layer,
    Told,
    as_ignored,
    object_of,
    one_image_each,
    one_plane,
)
from unet_core.annotations.parsed import Record, part_of, read_json
from unet_core.annotations.traced import Traced
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.files import write_atomic

_Rings = list[list[list[float]]]


class _Plane(Record):
    z: int = 0
    t: int = 0


class _Geometry(Record):
    type: str
    coordinates: Any = None
    plane: _Plane = _Plane()


class _Polygon(Record):
    coordinates: _Rings


class _MultiPolygon(Record):
    coordinates: list[_Rings]


class _Classification(Record):
    name: str | None = None
    names: list[str] = []


class _Properties(Record):
    classification: _Classification | None = None


class _Feature(Record):
    type: Literal["Feature"]
    geometry: _Geometry
    properties: _Properties | None = None


class _Document(Record):
    features: list[Any]

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, content: Any) -> Any:
        """QuPath writes a collection, a list, or, of a single object, this object."""
        if isinstance(content, list):
            return {"features": content}
        return {"features": [content]} if isinstance(content, dict) and content.get("type") == "Feature" else content


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("geojson", images)
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("geojson", file, shape)
        drawn = Drawn(source, size, str(file))
        for number, content in enumerate(read_json(file, _Document, "GeoJSON").features, start=1):
            where = f"{file}: object {number}"
            with drawn.object():
                feature = part_of(content, _Feature, file, "GeoJSON", f"features.{number - 1}")
                position = raster.polygons(_polygons(feature.geometry, where, drawn), size, where)
                name = _class_of(feature)
                yield (
                    as_ignored(position)
                    if name and name.endswith("*") and name not in source.classes
                    else object_of(position, name, f"object {number}")
                )
        yield from drawn.told()


def write(path: Path, objects: Iterable[Traced]) -> None:
    """Write the objects of a plane as QuPath imports them; `read` gives the same pixels and classes.

    An object is a polygon with its holes, or several of them where it is in parts.
    """
    features = []
    for one in objects:
        parts = [[[*ring.tolist(), ring[0].tolist()] for ring in part] for part in one.parts]
        geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": parts}
        if len(parts) == 1:
            geometry = {"type": "Polygon", "coordinates": parts[0]}
        properties: dict[str, Any] = {"objectType": "annotation", "name": str(one.number)}
        if one.class_name is not None:
            properties["classification"] = {"name": one.class_name}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    document = {"type": "FeatureCollection", "features": features}
    write_atomic(path, json.dumps(document, ensure_ascii=False).encode())


def _class_of(feature: _Feature) -> str | None:
    classification = feature.properties.classification if feature.properties else None
    # A class with parts, as in "Tumor: Positive", is written as a list since QuPath 0.4.
    return (classification.name or ": ".join(classification.names) or None) if classification else None


def _polygons(geometry: _Geometry, where: str, drawn: Drawn) -> list[_Rings]:
    """A polygon or several, each with its holes."""
    if geometry.plane.z > 0 or geometry.plane.t > 0:
        raise ValueError(f"{where}: lies in plane z {geometry.plane.z}, t {geometry.plane.t}, but the image is 2D")
    if geometry.type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{where}: is a {geometry.type}, and no area; only Polygon and MultiPolygon are")
    try:
        if geometry.type == "Polygon":
            polygons = [_Polygon(coordinates=geometry.coordinates).coordinates]
        else:
            polygons = _MultiPolygon(coordinates=geometry.coordinates).coordinates
    except ValueError:
        raise ValueError(f"{where}: coordinates are none of a {geometry.type}") from None
    # A third coordinate is a height in GeoJSON, which says nothing where it is 0.
    flat = [[[p[:2] if len(p) == 3 and p[2] == 0 else p for p in ring] for ring in rings] for rings in polygons]
    for ring in (ring for rings in flat for ring in rings):
        if all(len(point) > 1 for point in ring):
            drawn.saw([point[:2] for point in ring])
    return flat
