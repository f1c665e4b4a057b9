"""napari shapes layers, as it saves them: one CSV file per image with polygons, rectangles and ellipses.

napari's coordinates name centres of pixels, so that 0 is the middle of the first. In volumes a shape belongs to its
plane.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations import labels, raster
from unet_core.annotations.layer import Found, Images, Layer, object_of
from unet_core.annotations.parsed import MAX_FILE_BYTES
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

COLUMNS = ("index", "shape-type", "vertex-index", "axis-0", "axis-1")


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        for index, (kind, vertices) in _shapes(file).items():
            where = f"{file}: shape {index}"
            lead, points = _lead(np.array(vertices), image[1], shape, where)
            if lead is None:  # of another time point
                continue
            position = _pixels(kind, points[:, ::-1] + 0.5, shape[1:], where)
            yield object_of(position + lead * shape[1] * shape[2], name=f"shape {index}")


def _shapes(file: Path) -> dict[str, tuple[str, list[list[float]]]]:
    """Kind and vertices (in napari's order of axes) of each shape."""
    shapes: dict[str, tuple[str, list[list[float]]]] = {}
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file}: has more than {MAX_FILE_BYTES} bytes")
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            columns = list(reader.fieldnames or [])
            if not set(COLUMNS) <= set(columns):
                raise ValueError(f"{file}: is no table of napari shapes (needs the columns {', '.join(COLUMNS)})")
            axes = sorted((name for name in columns if name.startswith("axis-")), key=lambda name: int(name[5:]))
            for row in reader:
                vertices = shapes.setdefault(row["index"], (row["shape-type"] or "", []))[1]
                try:
                    vertices.append([float(row[axis]) for axis in axes])
                except (TypeError, ValueError):
                    raise ValueError(
                        f"{file}: line {reader.line_num}: coordinates must be numbers; is the file complete?"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read as a table in UTF-8 ({error})") from None
    return shapes


def _lead(vertices: np.ndarray, time: int | None, shape: ZYX, where: str) -> tuple[int | None, np.ndarray]:
    """Plane of a shape (None if it is at another time point), and its vertices y, x."""
    lead, points = vertices[:, :-2], vertices[:, -2:]
    wanted = (time is not None) + (shape[0] > 1)
    # Axes of length 1 before these may be there or not.
    if not np.isfinite(vertices).all() or (lead != lead[0]).any():
        raise ValueError(f"{where}: must lie in one plane, and its coordinates must be finite")
    if lead.shape[1] < wanted:
        raise ValueError(
            f"{where}: has {vertices.shape[1]} axes, but the image has {wanted + 2}; "
            "draw shapes on the layer of the image"
        )
    numbers = np.rint(lead[0, lead.shape[1] - wanted :]).astype(int).tolist()
    if time is not None and numbers.pop(0) != time:
        return None, points
    plane = numbers[0] if numbers else 0
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
