"""Images of the step groundtruth: copied into the store, or noted where they lie.

The statistics of their gray values are stored with them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.blocks import ZYX, Grid
from unet_core.config.datasets import Dataset
from unet_core.groundtruth.intensities import Intensities
from unet_core.groundtruth.samples import Sample
from unet_core.images.headers import Header, header_of, voxel_size
from unet_core.images.in_place import InPlace, pieces
from unet_core.images.readers import CZYX, missing_chunks, open_image, to_czyx
from unet_core.images.signatures import changed
from unet_core.store.store import Spec, begin, finish, read_attributes, write_reference

# Bytes above which an image stays where it lies, where the configuration leaves it open.
MAX_COPIED_BYTES = 2**30
# Voxels of an image in place from which its statistics are taken.
STATISTICS_VOXELS = 2**27


def convert_image(
    sample: Sample, cfg: Dataset, path: Path, image_digest: str, looks: list[list[Any]]
) -> dict[str, Any]:
    """Bring the image of one sample into the store.

    Parameters
    ----------
    sample : Sample
        With the file.
    cfg : Dataset
        Axes, channels, pixel size, and whether images stay in place.
    path : Path
        Folder of the sample in the store.
    image_digest : str
        Hash of all that determines the image.
    looks : list
        How its files looked when they were hashed; see `check_unchanged`.

    Returns
    -------
    dict
        Shape (c, z, y, x), micrometres per voxel (z, y, x), names of the channels (none where the file does not say),
        the statistics of each channel, and what the header of the file says.

    Raises
    ------
    ValueError
        If the file cannot be read, or is not as the configuration says.
    """
    header = header_of(sample.image, sample.internal)
    if "q" in header.axes:  # a stack of unknown kind
        header = header._replace(axes="")
    absent = _absent_chunks(sample)
    with open_image(sample.image, sample.internal) as opened:
        try:
            source = to_czyx(opened, sample.axes, sample.time)
        except ValueError as error:
            hint = f"; its header says that they are {header.axes}" if header.axes not in ("", sample.axes) else ""
            raise ValueError(f"{sample.image} {error}{hint}") from None
        channels = cfg.channels or list(range(source.shape[0]))
        if max(channels) >= source.shape[0]:
            raise ValueError(
                f"{sample.image} has {source.shape[0]} channels, but channels says {channels} (they count from 0)"
            )
        shape = source.shape[1:]
        if 0 in shape:
            raise ValueError(f"{sample.image} has no pixels (shape {shape})")
        dtype = _stored_type(source.dtype, sample)
        if _stays(source, cfg, sample):
            return _refer(source, channels, dtype, sample, header, cfg, path, image_digest, absent, looks)
        spec = Spec(shape, dtype, "image", len(channels), voxel_size(cfg.pixel_size, header, sample.axes))
        intensities = [Intensities(np.dtype(dtype), math.prod(shape)) for _ in channels]
        _check_range(source, spec.grid, channels, sample)
        result = begin(path, image_digest, spec, _provenance(sample, cfg))
        # Statistics need all blocks, so that they are read again after an interruption; writing is what is saved.
        for index in range(len(result.grid)):
            data = source[result.grid.box(index).slices][channels].astype(dtype)
            for channel, statistics in zip(data, intensities, strict=True):
                statistics.add(channel)
            if not result.has_block(index):
                result.write(index, data, image_digest)
    names = _chosen(header.channels, source, channels)
    details = _details(shape, intensities, header, names, spec.pixel_size) | {"dtype": source.dtype.name} | absent
    shown = [_displayed(name, one, np.dtype(dtype)) for name, one in zip(names, details["intensities"], strict=False)]
    check_unchanged(looks)
    finish(path, image_digest, details, shown)
    return details


def _absent_chunks(sample: Sample) -> dict[str, list[int]]:
    """How many chunks of a Zarr image are not there, and of how many; nothing where all are.

    Chunks that hold the fill value alone need not be there, and a copy that was interrupted leaves chunks out.
    """
    if sample.image.suffix.lower() != ".zarr":
        return {}
    missing, total = missing_chunks(sample.image, sample.internal)
    return {"absent_chunks": [missing, total]} if missing else {}


def size_of(sample: Sample, cfg: Dataset) -> tuple[float, float, float]:
    """Micrometres per voxel of a sample along z, y, x, from the configuration or the header of the file.

    The conversion takes the same values.
    """
    return voxel_size(cfg.pixel_size, header_of(sample.image, sample.internal), sample.axes)


def stays_in_place(cfg: Dataset, size: int, readable: bool) -> bool:
    """Whether an image of `size` bytes is read where it lies; `readable`: parts of it can be read without the rest."""
    return cfg.in_place == "always" or (cfg.in_place == "auto" and readable and size > MAX_COPIED_BYTES)


def _stays(source: CZYX, cfg: Dataset, sample: Sample) -> bool:
    stays = stays_in_place(cfg, math.prod(source.shape) * source.dtype.itemsize, source.chunk is not None)
    if stays and source.chunk is None:
        raise ValueError(
            f"{sample.image}: no part of it can be read without reading all of it; set in_place: never, "
            "or convert it to OME-Zarr"
        )
    return stays


def _refer(
    source: CZYX,
    channels: list[int],
    dtype: str,
    sample: Sample,
    header: Header,
    cfg: Dataset,
    path: Path,
    image_digest: str,
    absent: dict[str, list[int]],
    looks: list[list[Any]],
) -> dict[str, Any]:
    """Note where the image lies; its statistics come from all of it, or from regularly chosen parts of a large one."""
    shape, size = source.shape[1:], voxel_size(cfg.pixel_size, header, sample.axes)
    reference = {
        "file": str(sample.image),
        "seen": looks,
        "internal": sample.internal,
        "axes": sample.axes,
        "page": sample.time,
        "channels": channels,
        "dtype": dtype,
        "shape": list(shape),
        "pixel_size": list(size),
        "chunk": list(source.chunk or (1, 1, 1)),
    }
    # What changes meanwhile is told at the end.
    image, boxes = InPlace(reference | {"seen": []}), pieces(shape, source.chunk, STATISTICS_VOXELS)
    seen = sum(math.prod(box.shape) for box in boxes)
    intensities = [Intensities(np.dtype(dtype), seen) for _ in channels]
    for box in boxes:
        for channel, statistics in zip(image.read(box), intensities, strict=True):
            statistics.add(channel)
    details = _details(shape, intensities, header, _chosen(header.channels, source, channels), size) | {
        "dtype": source.dtype.name,
        "voxels_looked_at": seen,
        **absent,
    }
    check_unchanged(looks)
    write_reference(path, image_digest, reference, details, _provenance(sample, cfg))
    return details


def _chosen(names: tuple[str, ...], source: CZYX, channels: list[int]) -> list[str]:
    """Names of the channels that are used, where the header names as many as there are."""
    return [names[channel] for channel in channels] if len(names) == source.shape[0] else []


def refresh_reference(sample: Sample, cfg: Dataset, path: Path, looks: list[list[Any]]) -> None:
    """Note anew where an image in place lies, and how it looks, where its content is the one that was looked at.

    So that a project that was moved or copied reads its own images.
    """
    attributes = read_attributes(path)
    reference = attributes.get("reference")
    place = {"file": str(sample.image), "seen": looks}
    if reference and reference | place != reference:
        provenance = _provenance(sample, cfg)
        write_reference(path, attributes["digest"], reference | place, attributes["details"], provenance)


def check_unchanged(looks: list[list[Any]]) -> None:
    """Raise ValueError if a file is not what it was when it was hashed: then what was read is not what it is called."""
    if others := changed(looks):
        raise ValueError(f"{others[0]}: changed while it was read; run snakemake again when it is complete")


def _displayed(name: str, intensities: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """How viewers should show a channel, as OME-NGFF has it: white, from its first to its 99.9th percentile."""
    seen = intensities["percentiles"]
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "ui" else (seen["0"], seen["100"])
    window = {"min": float(low), "max": float(high), "start": seen["1"], "end": max(seen["99.9"], seen["1"])}
    return {"label": name, "color": "FFFFFF", "active": True, "window": window}


def _details(
    shape: ZYX, intensities: list[Intensities], header: Header, names: list[str], pixel_size: tuple[float, float, float]
) -> dict[str, Any]:
    return {
        "shape": [len(intensities), *shape],
        "pixel_size": list(pixel_size),
        "channels": names,
        "intensities": [statistics.summary() for statistics in intensities],
        "header": {"axes": header.axes, "pixel_size": header.pixel_size},
    }


def _provenance(sample: Sample, cfg: Dataset) -> dict[str, Any]:
    return {"step": "groundtruth", "image": str(sample.image), "config": cfg.model_dump(mode="json", by_alias=True)}


def _stored_type(dtype: np.dtype, sample: Sample) -> str:
    """Type in the store: small integers and float32 stay, wider numbers become float32."""
    if dtype.kind == "b":
        return "uint8"
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        return dtype.newbyteorder("=").name
    if dtype.kind in "uif":
        return "float32"
    raise ValueError(f"{sample.image}: pixels of type {dtype}; needed are integers or floating-point numbers")


def _check_range(source: CZYX, grid: Grid, channels: list[int], sample: Sample) -> None:
    """Floating-point numbers must be finite, also as float32."""
    if source.dtype.kind != "f":
        return
    limit = np.finfo(np.float32).max
    bad = sum(int((~(np.abs(source[box.slices][channels]) <= limit)).sum()) for box in grid)
    if bad:
        raise ValueError(f"{sample.image}: {bad} pixels are NaN, infinite or beyond the range of float32; replace them")
