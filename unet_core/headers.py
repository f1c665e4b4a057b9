"""What an image file says of itself: its axes and the size of its pixels, in OME-TIFF, ImageJ's TIFF and OME-Zarr."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

# Micrometres.
UNITS = {
    **dict.fromkeys(("µm", "um", "μm", "\\u00B5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
}


class Header(NamedTuple):
    """Axes of a file (empty where it does not say), and micrometres per pixel along those that it tells."""

    axes: str
    pixel_size: dict[str, float]


NOTHING = Header("", {})


def header_of(path: Path, internal: str = "") -> Header:
    """What a file says of itself; what is missing or damaged is not said.

    Parameters
    ----------
    path : Path
        The image file.
    internal : str
        Path of the array inside it.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _tiff(path)
        return _ome_zarr(path / internal.strip("/")) if path.suffix.lower() == ".zarr" else NOTHING
    except Exception:  # of many kinds, where the file is damaged; reading its pixels tells that
        return NOTHING


def _tiff(path: Path) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as file:
        axes = file.series[0].axes.lower().replace("s", "c")
        if not (file.is_ome or file.is_imagej) or set(axes) - set("tczyx"):
            axes = ""
        if file.is_ome and file.ome_metadata:
            root: Element = fromstring(file.ome_metadata, forbid_dtd=True)
            pixels = next(element for element in root.iter() if element.tag.endswith("}Pixels"))
            units = {axis: pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm") for axis in "zyx"}
            sizes = {axis: pixels.get(f"PhysicalSize{axis.upper()}") for axis in "zyx"}
            return Header(axes, _sizes({axis: (float(size), units[axis]) for axis, size in sizes.items() if size}))
        if file.is_imagej and file.imagej_metadata:
            unit, page = str(file.imagej_metadata.get("unit", "")), file.pages[0]
            told: dict[str, tuple[float, str]] = {}
            for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
                per_unit, count = page.tags[tag].value if tag in page.tags else (0, 1)  # type: ignore[union-attr]
                if per_unit:
                    told[axis] = (count / per_unit, unit)
            if "spacing" in file.imagej_metadata:
                told["z"] = (float(file.imagej_metadata["spacing"]), unit)
            return Header(axes, _sizes(told))
    return Header(axes, {})


def _ome_zarr(node: Path) -> Header:
    for name in ("zarr.json", ".zattrs"):
        if (node / name).is_file():
            content: dict[str, Any] = json.loads((node / name).read_text(encoding="utf-8"))
            metadata = content.get("attributes", {}).get("ome", {}) if name == "zarr.json" else content
            image = metadata["multiscales"][0]
            scales = [one["scale"] for one in image["datasets"][0]["coordinateTransformations"] if one["type"] == "scale"]
            axes = "".join(axis["name"] for axis in image["axes"])
            named = {
                axis["name"]: (float(size), axis.get("unit", ""))
                for axis, size in zip(image["axes"], scales[0], strict=True)
                if axis["name"] in "zyx"
            }
            return Header(axes if set(axes) <= set("tczyx") else "", _sizes(named))
    return NOTHING


def _sizes(told: dict[str, tuple[float, str]]) -> dict[str, float]:
    known = {axis: size * UNITS[unit] for axis, (size, unit) in told.items() if unit in UNITS}
    return {axis: size for axis, size in known.items() if math.isfinite(size) and size > 0}
