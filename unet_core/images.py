"""Images of the step groundtruth: copied into the store, or noted where they lie, with the statistics of their gray values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.blocks import Grid
from unet_core.config import Dataset
from unet_core.in_place import InPlace, pieces
from unet_core.readers import CZYX, open_image, to_czyx
from unet_core.samples import Sample
from unet_core.store import Spec, begin, finish, refer

# Bytes above which an image stays where it lies, where the configuration leaves it open.
COPIED = 2**30
# Voxels of an image in place from which its statistics are taken.
LOOKED_AT = 2**27


def convert_image(sample: Sample, cfg: Dataset, path: Path, image_digest: str) -> dict[str, Any]:
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

    Returns
    -------
    dict
        Shape (c, z, y, x) and the statistics of each channel.

    Raises
    ------
    ValueError
        If the file cannot be read, or is not as the configuration says.
    """
    with open_image(sample.image, sample.internal) as opened:
        try:
            source = to_czyx(opened, cfg.axes, sample.page)
        except ValueError as error:
            raise ValueError(f"{sample.image} {error}") from None
        channels = cfg.channels or list(range(source.shape[0]))
        if max(channels) >= source.shape[0]:
            raise ValueError(f"{sample.image} has {source.shape[0]} channels, but channels says {channels} (they count from 0)")
        shape = source.shape[1:]
        if 0 in shape:
            raise ValueError(f"{sample.image} has no pixels (shape {shape})")
        dtype = _stored_type(source.dtype, sample)
        if _stays(source, cfg, sample):
            return _refer(source, channels, dtype, sample, cfg, path, image_digest)
        spec = Spec(shape, dtype, "image", len(channels), (cfg.pixel_size.z, cfg.pixel_size.y, cfg.pixel_size.x))
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
    details = {"shape": [len(channels), *shape], "intensities": [statistics.summary() for statistics in intensities]}
    finish(path, image_digest, details)
    return details


def stays_in_place(cfg: Dataset, size: int, readable: bool) -> bool:
    """Whether an image of `size` bytes is read where it lies; `readable`: parts of it can be read without the rest."""
    return cfg.in_place == "always" or (cfg.in_place == "auto" and readable and size > COPIED)


def _stays(source: CZYX, cfg: Dataset, sample: Sample) -> bool:
    stays = stays_in_place(cfg, math.prod(source.shape) * source.dtype.itemsize, source.chunk is not None)
    if stays and source.chunk is None:
        raise ValueError(
            f"{sample.image}: no part of it can be read without reading all of it; set in_place: never, or convert it to OME-Zarr"
        )
    return stays


def _refer(source: CZYX, channels: list[int], dtype: str, sample: Sample, cfg: Dataset, path: Path, image_digest: str) -> dict[str, Any]:
    """Note where the image lies; its statistics come from all of it, or from regularly chosen parts of a large one."""
    shape = source.shape[1:]
    reference = {
        "file": str(sample.image) if "://" in str(sample.image) else str(sample.image.absolute()),
        "internal": sample.internal,
        "axes": cfg.axes,
        "page": sample.page,
        "channels": channels,
        "dtype": dtype,
        "shape": list(shape),
        "chunk": list(source.chunk or (1, 1, 1)),
    }
    image, boxes = InPlace(reference), pieces(shape, source.chunk, LOOKED_AT)
    seen = sum(math.prod(box.shape) for box in boxes)
    intensities = [Intensities(np.dtype(dtype), seen) for _ in channels]
    for box in boxes:
        for channel, statistics in zip(image.read(box), intensities, strict=True):
            statistics.add(channel)
    details = {"shape": [len(channels), *shape], "intensities": [s.summary() for s in intensities], "voxels_looked_at": seen}
    refer(path, image_digest, reference, details, _provenance(sample, cfg))
    return details


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


class Intensities:
    """Statistics of one channel, gathered block by block.

    Exact for integers of up to 16 bits (a histogram); for floating-point numbers the percentiles are those of at most
    about four million regularly chosen pixels.
    """

    SAMPLED = 2**22

    def __init__(self, dtype: np.dtype, voxels: int) -> None:
        self._integer = dtype.kind in "ui"
        self._offset = int(np.iinfo(dtype).min) if self._integer else 0
        self._histogram = np.zeros(int(np.iinfo(dtype).max) - self._offset + 1 if self._integer else 0, np.int64)
        self._step = max(1, voxels // self.SAMPLED)
        self._values: list[np.ndarray] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Count in the voxels of one block."""
        flat = values.ravel()
        if self._integer:
            self._histogram += np.bincount(flat.astype(np.int64) - self._offset, minlength=self._histogram.size)
        else:
            self._values.append(flat[:: self._step].copy())
            self._count += flat.size
            self._sum += float(flat.sum(dtype=np.float64))
            self._squares += float(np.square(flat, dtype=np.float64).sum())

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, and the percentiles 0, 0.1, 0.5, 1, 2, ... 98, 99, 99.5, 99.9, 100."""
        levels = [0, 0.1, 0.5, *range(1, 100), 99.5, 99.9, 100]
        if self._integer:
            gray = np.arange(self._histogram.size) + self._offset
            count = int(self._histogram.sum())
            mean = float((self._histogram * gray).sum() / count)
            deviation = float(np.sqrt((self._histogram * (gray - mean) ** 2).sum() / count))
            rank = np.searchsorted(np.cumsum(self._histogram), np.array(levels) * (count - 1) / 100, side="right")
            percentiles = gray[np.minimum(rank, gray.size - 1)].astype(float)
        else:
            mean = self._sum / self._count
            deviation = float(np.sqrt(max(0.0, self._squares / self._count - mean**2)))
            percentiles = np.percentile(np.concatenate(self._values), levels)
        return {
            "mean": mean,
            "deviation": deviation,
            "percentiles": {str(level): float(v) for level, v in zip(levels, percentiles, strict=True)},
        }
