"""What an image file says of itself: axes, pixel size, channels.

Read are OME-TIFF, ImageJ's TIFF, OME-Zarr, HDF5 and files of microscopes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from unet_core.config.datasets import PixelSize
from unet_core.images.readers import VENDOR_FILE_TYPES, open_hdf5

# Micrometres.
MICROMETRES = {
    **dict.fromkeys(("µm", "um", "μm", "\\u00B5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}
# Micrometres of a pixel, and the largest side over the smallest, that are believed: with others work would have no end.
MIN_PIXEL_SIZE, MAX_PIXEL_SIZE, MAX_ANISOTROPY = 1e-6, 1e6, 1e3
# Letters of a channel's name that are kept.
MAX_NAME_LENGTH = 100


class Header(NamedTuple):
    """What a file says of itself.

    Attributes
    ----------
    axes : str
        Empty where it does not say.
    pixel_size : dict
        Micrometres per pixel along those axes that it tells.
    channels : tuple of str
        Names of the channels; empty where it does not say.
    """

    axes: str
    pixel_size: dict[str, float]
    channels: tuple[str, ...] = ()


EMPTY_HEADER = Header("", {})


def header_of(path: Path, internal: str = "") -> Header:
    """What a file says of itself; what is missing or damaged is not said.

    Parameters
    ----------
    path : Path
        The image file.
    internal : str
        Path of the array inside it.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".tif", ".tiff"):
            return _tiff(path)
        if suffix in VENDOR_FILE_TYPES:
            return _vendor(path, internal)
        if suffix in (".h5", ".hdf5"):
            return _hdf5(path, internal)
        return _ome_zarr(path, internal.strip("/")) if suffix == ".zarr" else EMPTY_HEADER
    except Exception:  # of many kinds, where the file is damaged; reading its pixels tells that
        return EMPTY_HEADER


def voxel_size(configured: PixelSize, header: Header, axes: str) -> tuple[float, float, float]:
    """Micrometres per voxel along z, y, x that count: of the configuration, else of the file, else 1.

    What a file says counts only if with it the size along all axes is known: micrometres beside a made-up 1 would turn
    cubes into needles.

    Parameters
    ----------
    configured : PixelSize
        The configuration.
    header : Header
        The file.
    axes : str
        Axes of the file.

    Examples
    --------
    >>> voxel_size(PixelSize(), Header("yx", {"y": 0.5, "x": 0.5}), "yx")
    (1.0, 0.5, 0.5)
    >>> voxel_size(PixelSize(), Header("zyx", {"y": 0.5, "x": 0.5}), "zyx")
    (1.0, 1.0, 1.0)
    >>> voxel_size(PixelSize(z=2), Header("zyx", {"y": 0.5, "x": 0.5}), "zyx")
    (2.0, 0.5, 0.5)
    """
    open_axes = [axis for axis in "zyx" if axis in axes and getattr(configured, axis) is None]
    known = header.pixel_size if all(axis in header.pixel_size for axis in open_axes) else {}
    z, y, x = (getattr(configured, axis) or (known.get(axis, 1.0) if axis in open_axes else 1.0) for axis in "zyx")
    return z, y, x


def _tiff(path: Path) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if not (file.is_ome or file.is_imagej):  # the pages of others would all be looked at for nothing
            return EMPTY_HEADER
        axes = file.series[0].axes.lower().replace("s", "c")
        axes = axes if set(axes) <= set("tczyx") else ""
        if file.is_ome and file.ome_metadata:
            return _ome_xml(axes, fromstring(file.ome_metadata, forbid_dtd=True))
        metadata = file.imagej_metadata or {}
        unit, page = str(metadata.get("unit", "")), file.pages[0]
        with_units: dict[str, tuple[float, str]] = {}
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            per_unit, count = page.tags[tag].value if tag in page.tags else (0, 1)  # type: ignore[union-attr]
            if per_unit:
                with_units[axis] = (count / per_unit, str(metadata.get("yunit", unit)) if axis == "y" else unit)
        if "spacing" in metadata:
            with_units["z"] = (abs(float(metadata["spacing"])), str(metadata.get("zunit", unit)))
        # ImageJ names planes; these are channels only where there is nothing else.
        labels = metadata.get("Labels") if axes == "cyx" else None
        return Header(axes, _sizes(with_units), _names(labels or []))


def _ome_xml(axes: str, root: Element) -> Header:
    pixels = next(element for element in root.iter() if element.tag.endswith("}Pixels"))
    units = {axis: pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm") for axis in "zyx"}
    sizes = {axis: pixels.get(f"PhysicalSize{axis.upper()}") for axis in "zyx"}
    names = [element.get("Name") for element in pixels if element.tag.endswith("}Channel")]
    return Header(
        axes, _sizes({axis: (float(size), units[axis]) for axis, size in sizes.items() if size}), _names(names)
    )


def _ome_zarr(path: Path, internal: str) -> Header:
    """Of the image; where one of its resolutions is named, of that."""
    metadata, level = _zarr_metadata(path / internal), ""
    if "multiscales" not in metadata and internal:
        parent, _, level = internal.rpartition("/")
        metadata = _zarr_metadata(path / parent)
    image = metadata["multiscales"][0]
    dataset = next(one for one in image["datasets"] if not level or one["path"] == level)
    scales = [
        one["scale"]
        for part in (dataset, image)  # each resolution has its own, and all of them together another
        for one in part.get("coordinateTransformations", [])
        if one["type"] == "scale"
    ]
    axes = "".join(axis["name"] for axis in image["axes"])
    with_units = {
        axis["name"]: (math.prod(float(scale[i]) for scale in scales), axis.get("unit", ""))
        for i, axis in enumerate(image["axes"])
        if scales and axis["name"] in "zyx"
    }
    names = [channel.get("label") for channel in metadata.get("omero", {}).get("channels", [])]
    return Header(axes if set(axes) <= set("tczyx") else "", _sizes(with_units), _names(names))


def _hdf5(path: Path, internal: str) -> Header:
    """As Fiji's HDF5 plugin, PlantSeg (`element_size_um`, along z y x) and ilastik (`axistags`) write."""
    with open_hdf5(path, internal) as array:
        size, tags = array.attrs.get("element_size_um"), array.attrs.get("axistags")
        told_axes = (
            [axis["key"] for axis in json.loads(tags)["axes"]]
            if tags
            else "zyx"
            if size is not None and array.ndim == 3
            else ""
        )
        axes = "".join(told_axes)
    with_units = {} if size is None else {axis: (float(extent), "µm") for axis, extent in zip("zyx", size, strict=True)}
    return Header(axes if set(axes) <= set("tczyx") else "", _sizes(with_units))


def _zarr_metadata(node: Path) -> dict[str, Any]:
    """OME-NGFF metadata of a group, version 0.5 or earlier."""
    for name in ("zarr.json", ".zattrs"):
        if (node / name).is_file():
            content: dict[str, Any] = json.loads((node / name).read_text(encoding="utf-8"))
            return content.get("attributes", {}).get("ome", {}) if name == "zarr.json" else content
    return {}


def _vendor(path: Path, internal: str) -> Header:
    import bioio

    image = bioio.BioImage(path)
    if internal:
        image.set_scene(internal)
    pixel = image.physical_pixel_sizes
    sizes = {axis: (float(size), "µm") for axis, size in zip("zyx", (pixel.Z, pixel.Y, pixel.X), strict=True) if size}
    # As `readers` gives them: without axes of length 1.
    axes = "".join(axis for axis, length in zip("tczyx", image.shape, strict=True) if length > 1 or axis in "yx")
    return Header(axes, _sizes(sizes), _names(image.channel_names or []))


def _sizes(with_units: dict[str, tuple[float, str]]) -> dict[str, float]:
    known = {
        axis: size * MICROMETRES[unit.strip()]
        for axis, (size, unit) in with_units.items()
        if unit.strip() in MICROMETRES
    }
    known = {axis: size for axis, size in known.items() if MIN_PIXEL_SIZE <= size <= MAX_PIXEL_SIZE}
    return known if known and max(known.values()) <= MAX_ANISOTROPY * min(known.values()) else {}


def _names(names: list[Any]) -> tuple[str, ...]:
    """Names of channels, where all have one that is a name."""
    whole = bool(names) and all(isinstance(name, str) and name.strip() for name in names)
    return tuple(name.strip()[:MAX_NAME_LENGTH] for name in names) if whole else ()
