"""napari shapes layers, as it saves them: one CSV file per image with polygons, rectangles and ellipses.

napari's coordinates name centres of pixels, so that 0 is the middle of the first. In volumes a shape belongs to its
plane.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.annotations import labels, raster
from unet_core.annotations.drawn import Drawn, beyond
from unet_core.annotations.layer import Found, Image, Images, Layer, Told, object_of
from unet_core.annotations.parsed import MAX_FILE_BYTES
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

COLUMNS = ("index", "shape-type", "vertex-index", "axis-0", "axis-1")


class _Shape(NamedTuple):
    """A shape as its lines say it: coordinates in napari's order of axes, and the number of each line."""

    kind: str
    rows: list[tuple[int, list[str | None]]]


def find(path: str, images: Images) -> Found:
    """Files by the position of their image, and shapes beyond the last frame; see `unet_core.annotations`."""
    found, strangers = labels.find(path, images)
    axes = images[0].axes if images else ""
    return found, [*strangers, *beyond(found, images, lambda file, _: _frames(file, axes))]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    axes = image.axes
    for file in files:
        drawn = Drawn(source, shape[1:], str(file))
        for index, lines in _shapes(file).items():
            where = f"{file}: shape {index}"
            with drawn.object():
                vertices = _vertices(lines, file)
                lead, points = _lead(vertices, axes, image.time, shape, where)
                if lead is not None:
                    drawn.saw(points)
                    position = _pixels(lines.kind, points[:, ::-1] + 0.5, shape[1:], where)
                    yield object_of(position + lead * shape[1] * shape[2], name=f"shape {index}")
        yield from drawn.told()


def _shapes(file: Path) -> dict[str, _Shape]:
    """Lines of each shape."""
    shapes: dict[str, _Shape] = {}
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file}: has more than {MAX_FILE_BYTES} bytes")
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            columns = list(reader.fieldnames or [])
            if not set(COLUMNS) <= set(columns):
                raise ValueError(f"{file}: is no table of napari shapes (needs the columns {', '.join(COLUMNS)})")
            axes = [name for name in columns if re.fullmatch(r"axis-\d{1,3}", name)]
            axes.sort(key=lambda name: int(name[5:]))
            for row in reader:
                shape = shapes.setdefault(row["index"], _Shape(row["shape-type"] or "", []))
                shape.rows.append((reader.line_num, [row[axis] for axis in axes]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read as a table in UTF-8 ({error})") from None
    return shapes


def _vertices(shape: _Shape, file: Path) -> np.ndarray:
    """Coordinates of a shape in napari's order of axes."""
    vertices = []
    for line, values in shape.rows:
        try:
            vertices.append([float(value or "") for value in values])
        except ValueError:
            raise ValueError(f"{file}: line {line}: coordinates must be numbers; is the file complete?") from None
    return np.array(vertices)


def _frames(file: Path, axes: str) -> list[tuple[str, int | None]]:
    """Names of the shapes of a film, and their frames from 1; None where these cannot be told."""
    frames = list[tuple[str, int | None]]()
    for index, lines in _shapes(file).items():
        frame = None
        with suppress(ValueError):
            vertices = _vertices(lines, file)
            if np.isfinite(vertices).all() and (np.abs(vertices) < 2**31).all():
                where = _leading(vertices, axes)
                known = where.get("t", vertices[0, 0] if vertices.shape[1] == 3 else None)
                frame = None if known is None else int(np.rint(known)) + 1
        frames.append((f"shape {index}", frame))
    return frames


def _leading(vertices: np.ndarray, axes: str) -> dict[str, float]:
    """Positions of a shape along the axes of the image's file before y and x; none where napari had other axes.

    napari shows channels as an axis, or each as a layer without it.
    """
    lead = vertices[0, :-2].tolist()
    for names in ([axis for axis in axes if axis in "tcz"], [axis for axis in axes if axis in "tz"]):
        if len(names) == len(lead):
            return dict(zip(names, lead, strict=True))
    return {}


def _lead(vertices: np.ndarray, axes: str, time: int | None, shape: ZYX, where: str) -> tuple[int | None, np.ndarray]:
    """Plane of a shape (None if it is at another time point), and its vertices y, x."""
    lead, points = vertices[:, :-2], vertices[:, -2:]
    wanted = (time is not None) + (shape[0] > 1)
    # Axes of length 1 before these may be there or not.
    if not (np.abs(vertices) < 2**31).all() or (lead != lead[0]).any():
        raise ValueError(f"{where}: must lie in one plane, and its coordinates must be finite")
    if lead.shape[1] < wanted:
        raise ValueError(
            f"{where}: has {vertices.shape[1]} axes, but the image has {wanted + 2}; "
            "draw shapes on the layer of the image"
        )
    known = _leading(vertices, axes)
    if not known:
        names = ("t" if time is not None else "") + ("z" if shape[0] > 1 else "")
        known = dict(zip(names, lead[0, lead.shape[1] - wanted :].tolist(), strict=True))
    if time is not None and int(np.rint(known["t"])) != time:
        return None, points
    plane = int(np.rint(known["z"])) if shape[0] > 1 else 0
    if not 0 <= plane < shape[0]:
        raise ValueError(f"{where}: lies in plane {plane}, but the image has {shape[0]}")
    return plane, points


def _pixels(kind: str, points: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    if kind in ("polygon", "rectangle"):
        return raster.polygon([points], size, where)
    if kind != "ellipse":
        raise ValueError(f"{where}: is a {kind}, and no area; supported are polygon, rectangle and ellipse")
    if len(points) != 4:
        raise ValueError(f"{where}: an ellipse has 4 corners; this has {len(points)}")
    # The corners of its box, one after the other: two sides span it.
    right, down = points[1] - points[0], points[2] - points[1]
    longest = max(float(right @ right), float(down @ down))
    if (
        abs(float(right @ down)) > 1e-3 * longest
        or np.abs(points[0] + points[2] - points[1] - points[3]).max() ** 2 > 1e-3 * longest
    ):
        raise ValueError(f"{where}: its box is skewed, which is not supported; make it a polygon")
    radii = [float(np.hypot(*side)) / 2 for side in (right, down)]
    angle = float(np.degrees(np.arctan2(right[1], right[0])))
    return raster.ellipse(points.mean(axis=0).tolist(), radii, angle, size, where)
