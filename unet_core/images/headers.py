"""What an image file says of itself: axes, pixel size, channels.

Read are OME-TIFF, ImageJ's TIFF, LSM, slides (SVS, NDPI, QPTIFF), OME-Zarr, HDF5, volumes (NRRD, MRC, NIfTI) and
files of microscopes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.config.datasets import PixelSize
from unet_core.images import ome_tiff, tiff, volume_headers
from unet_core.images.hdf5 import axes_of, dataset
from unet_core.images.readers import FILE_TYPES, VENDOR_FILE_TYPES, VOLUME_FILE_TYPES, open_image
from unet_core.images.source import passing_over_damage
from unet_core.images.zarr_images import located
from unet_core.patterns import ending_of

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
    kind = FILE_TYPES.get(ending_of(path).lower(), "")
    ways = {"TIFF": _tiff, "HDF5": _hdf5, "Zarr": _zarr} | dict.fromkeys(VENDOR_FILE_TYPES.values(), _vendor)
    ways |= dict.fromkeys(VOLUME_FILE_TYPES.values(), _volume)
    with passing_over_damage(path):
        return ways.get(kind, _axes)(path, internal)
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


def _axes(path: Path, internal: str) -> Header:
    with open_image(path, internal) as array:
        return Header(array.axes, {})


def _tiff(path: Path, internal: str) -> Header:
    axes = _axes(path, internal).axes
    with tiff.opened(path) as (file, is_set):
        if file.is_ome and file.ome_metadata:
            return _ome_tiff(path, file, is_set, internal, axes)
        if file.is_lsm:
            told = file.lsm_metadata or {}
            sizes = {axis: (float(told.get(f"VoxelSize{axis.upper()}", 0)), "m") for axis in "zyx"}
            names = (told.get("ChannelColors") or {}).get("ColorNames") or []
            return Header(axes, _sizes(sizes), _names(list(names)))
        if file.is_imagej:
            return _imagej(file, axes)
        page = file.pages.first
        scale = re.search(r"\bMPP *= *([0-9.]+)", page.description) if file.is_svs else None
        if scale:
            return Header(axes, _sizes({axis: (float(scale[1]), "µm") for axis in "yx"}))
        if file.is_ndpi or file.is_qpi:
            unit = {2: "in", 3: "cm"}.get(int(page.tags.valueof(296) or 0), "")
            return Header(axes, _sizes({axis: (size, unit) for axis, size in _resolutions(page).items()}))
        return Header(axes, {})


def _resolutions(page: Any) -> dict[str, float]:
    """Size of a pixel along y and x in the unit of the file, where it says them."""
    sizes = {}
    for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
        per_unit, count = page.tags[tag].value if tag in page.tags else (0, 1)
        if per_unit:
            sizes[axis] = count / per_unit
    return sizes


def _imagej(file: Any, axes: str) -> Header:
    metadata = file.imagej_metadata or {}
    unit = str(metadata.get("unit", ""))
    with_units = {
        axis: (size, str(metadata.get("yunit", unit)) if axis == "y" else unit)
        for axis, size in _resolutions(file.pages[0]).items()
    }
    if "spacing" in metadata:
        with_units["z"] = (abs(float(metadata["spacing"])), str(metadata.get("zunit", unit)))
    # ImageJ names planes; these are channels only where there is nothing else.
    labels = metadata.get("Labels") if axes == "cyx" else None
    return Header(axes, _sizes(with_units), _names(labels or []))


def _ome_tiff(path: Path, file: Any, is_set: bool, internal: str, axes: str) -> Header:
    """Of the image that is read, which is not always the first one."""
    root = ome_tiff.described(path)[0] if is_set else ome_tiff.parsed(file.ome_metadata)
    number = _number(path, file, is_set, internal)
    if root is None:
        return Header(axes, {})
    pixels = [element for element in root.iter() if element.tag.endswith("}Pixels")][number]
    units = {axis: pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm") for axis in "zyx"}
    sizes = {axis: pixels.get(f"PhysicalSize{axis.upper()}") for axis in "zyx"}
    names = [element.get("Name") for element in pixels if element.tag.endswith("}Channel")]
    return Header(
        axes, _sizes({axis: (float(size), units[axis]) for axis, size in sizes.items() if size}), _names(names)
    )


def _number(path: Path, file: Any, is_set: bool, internal: str) -> int:
    if is_set:
        return ome_tiff.number_of(path, internal)
    return tiff.chosen(path, tiff.images_in(file), internal).number


def _zarr(path: Path, internal: str) -> Header:
    """Of the image; where one of its resolutions is named, of that."""
    found = located(path, internal, header_only=True)
    if found.image is None or found.dataset is None:
        return Header(found.axes, {})
    scales = [
        one["scale"]
        for part in (found.dataset, found.image)  # each resolution has its own, and all of them together another
        for one in part.get("coordinateTransformations", [])
        if one["type"] == "scale"
    ]
    with_units = {
        axis["name"].lower(): (math.prod(float(scale[i]) for scale in scales), axis.get("unit", ""))
        for i, axis in enumerate(found.image.get("axes", []))  # before version 0.4 names alone, or none
        if scales and isinstance(axis, dict) and axis["name"].lower() in "zyx"
    }
    names = [channel.get("label") for channel in found.group.get("omero", {}).get("channels", [])]
    return Header(found.axes, _sizes(with_units), _names(names))


def _hdf5(path: Path, internal: str) -> Header:
    """As Fiji's HDF5 plugin, PlantSeg (`element_size_um`, along z y x) and ilastik (`axistags`) write."""
    with dataset(path, internal) as array:
        size, axes = array.attrs.get("element_size_um"), axes_of(array)
    with_units = {} if size is None else {axis: (float(extent), "µm") for axis, extent in zip("zyx", size, strict=True)}
    return Header(axes, _sizes(with_units))


def _vendor(path: Path, internal: str) -> Header:
    import bioio

    axes = _axes(path, internal).axes
    image = bioio.BioImage(path)
    if internal:
        image.set_scene(internal)
    pixel = image.physical_pixel_sizes
    sizes = {axis: (float(size), "µm") for axis, size in zip("zyx", (pixel.Z, pixel.Y, pixel.X), strict=True) if size}
    return Header(axes, _sizes(sizes), _names(image.channel_names or []))


def _volume(path: Path, internal: str) -> Header:
    return Header(_axes(path, internal).axes, _sizes(volume_headers.described(path).sizes))


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
