"""Which annotation format a file has, by its content; only the beginning and the end of it are read."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from unet_core.config.formats import DESCRIPTIONS

# Bytes that are read at the beginning and at the end of a file.
HEAD, TAIL = 2**18, 2**16


def format_of(path: Path) -> str | None:
    """Name of the annotation format of a file that is no image; None if it has none.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    recognise = {
        ".json": _json,
        ".geojson": _json,
        ".xml": _xml,
        ".csv": _csv,
        ".zip": _zip,
        ".roi": _roi,
        ".txt": _txt,
        ".mat": _mat,
    }.get(path.suffix.lower())
    found = recognise(path) if recognise and path.is_file() else None
    return found if found in DESCRIPTIONS else None


def _ends(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        if size <= HEAD:
            return head
        file.seek(max(HEAD, size - TAIL))
        return head + b"\n" + file.read()


def _json(path: Path) -> str | None:
    content = _ends(path)

    def has(key: bytes, value: bytes = b"") -> bool:
        return re.search(rb'"' + key + rb'"\s*:\s*' + value, content) is not None

    if has(b"type", b'"Feature'):
        return "geojson"
    if has(b"shapes", rb"\[") and (has(b"imagePath") or has(b"shape_type") or has(b"imageHeight")):
        return "labelme"
    lists = sum(has(key, rb"\[") for key in (b"images", b"annotations", b"categories"))
    return "coco" if lists >= 2 or (lists and (has(b"file_name") or has(b"segmentation"))) else None


def _xml(path: Path) -> str | None:
    content = _ends(path)
    if re.search(rb"<annotations[\s>]", content):
        return "cvat"
    layers = re.search(rb"<Annotations[\s>]", content) or (b"<Document" in content and b"<Layers" in content)
    return "aperio" if layers else None


def _csv(path: Path) -> str | None:
    with path.open("rb") as file:
        line = file.readline(HEAD).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    columns = {column.strip().strip('"') for column in line.split(",")}
    if {"ImageId", "EncodedPixels"} <= columns:
        return "rle"
    return "napari" if {"index", "shape-type", "vertex-index", "axis-0"} <= columns else None


def _zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return "imagej" if any(name.lower().endswith(".roi") for name in archive.namelist()) else None
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None


def _roi(path: Path) -> str | None:
    with path.open("rb") as file:
        return "imagej" if file.read(4) == b"Iout" else None


def _txt(path: Path) -> str | None:
    """YOLO: lines of a class and coordinates as shares of the image."""
    lines = _ends(path).decode("utf-8", "replace").split("\n")[:20]
    number = r"(?:0?\.\d+|[01](?:\.\d*)?|\d(?:\.\d+)?e-\d+)"
    shape = re.compile(rf"\d+(?:\s+{number}){{4,}}\s*")
    whole = [line for line in lines if line.strip()]
    return "yolo" if whole and all(shape.fullmatch(line) for line in whole[:19]) else None


def _mat(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(128)
    return "matlab" if head.startswith((b"MATLAB", b"\x89HDF")) else None
