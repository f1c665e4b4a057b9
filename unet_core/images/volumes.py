"""Volumes of tomography, CT and MRI as NRRD, MRC and NIfTI.

Their headers are read by libraries (`volume_headers`), and their values here, so that memory is asked for only where
the file has as many bytes as its header claims, and so that parts of files that are not compressed are read alone.
"""

from __future__ import annotations

import bz2
import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.images.decoded import DECODED
from unet_core.images.limits import UNLIMITED, check_file, check_part
from unet_core.images.source import Box, RefusedError, Source, of_array, reading, with_values
from unet_core.images.volume_headers import VOLUME_FILE_TYPES, Volume, described
from unet_core.patterns import ending_of

# Bytes that a byte of gzip may stand for.
DEFLATE_RATIO = 1100
# Bytes that are decompressed at once.
PIECE = 2**24


@contextmanager
def open_volume(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """A volume with the axes that its header says, voxels in the order in which they are stored.

    Directions in space (affine, direction cosines) are not applied: an image and its labels have the same.

    Parameters
    ----------
    path : Path
        The file; of NRRD with detached values its header.
    internal : str
        Not used: these files hold one array.
    stored : bool
        Whether it is an annotation. Scaled values of NIfTI (``scl_slope``) that are whole numbers but for rounding are
        made whole then, since some programs store labels so; layers are refused, of which one alone would be read.

    Raises
    ------
    RefusedError
        If the kind of its values is not read, they lie in several files or outside of its folder, or it has layers.
    ValueError
        If the library for its header is not installed, or the file is damaged or claims more than it can hold.
    """
    kind = VOLUME_FILE_TYPES[ending_of(path).lower()]
    with reading(path, kind):
        volume = described(path)
        if volume.dtype.kind not in "biuf":
            raise RefusedError(f"{path}: its values are of type {volume.dtype}, which is not read; save it as float")
        channels = volume.shape[volume.axes.index("c")] if "c" in volume.axes else 1
        if stored and channels > 1 and (volume.layers or channels not in (3, 4)):
            raise RefusedError(
                f"{path}: has {channels} layers, of which an annotation can have one; save each as a file, or in "
                "3D Slicer export the segments as one label map"
            )
        source = _source(volume)
        if volume.scale is not None:
            source = _scaled(source, *volume.scale, stored)
    try:
        yield source
    finally:
        DECODED.let_go()


def _source(volume: Volume) -> Source:
    """The values, in the byte order of this machine; those that are not compressed are read in parts."""
    size = volume.file.stat().st_size - volume.start
    if not volume.shape or min(volume.shape) < 1:
        raise ValueError(f"it has no voxels: its header says {volume.shape}")
    claimed = math.prod(volume.shape) * volume.dtype.itemsize
    if volume.coding == "":
        if claimed > size:
            raise ValueError(f"its header claims {claimed} bytes of voxels, but the file has {max(size, 0)}")
        mapped = np.memmap(volume.file, volume.dtype, "r", volume.start, volume.shape)
        source = of_array(mapped, volume.axes)
    else:
        if volume.coding == "gzip":
            check_file(claimed + volume.skip, size, DEFLATE_RATIO)
        elif volume.coding == "bzip2":
            check_part(claimed + volume.skip, size, UNLIMITED)
        elif math.prod(volume.shape) > size:
            raise ValueError(f"its header claims {math.prod(volume.shape)} numbers, but the file has {size} bytes")
        status = volume.file.stat()
        key = ("volume", str(volume.file.absolute()), status.st_mtime_ns, status.st_size, volume.shape, volume.dtype)

        def read(box: Box) -> np.ndarray:
            return DECODED.get(key, lambda: _decoded(volume))[box]

        source = Source(volume.shape, volume.dtype, read, volume.axes)
    native = volume.dtype.newbyteorder("=")
    return with_values(source, lambda values: values.astype(native, copy=False), native)


def _decoded(volume: Volume) -> np.ndarray:
    """All values of a compressed file, or of one that has them as text."""
    count = math.prod(volume.shape) * volume.dtype.itemsize
    with volume.file.open("rb") as file:
        file.seek(volume.start)
        if volume.coding == "text":
            values = np.array(file.read().split()).astype(volume.dtype)
            if values.size != math.prod(volume.shape):
                raise ValueError(f"it has {values.size} numbers and not {math.prod(volume.shape)}, as its header says")
        else:
            stream: Any = gzip.GzipFile(fileobj=file) if volume.coding == "gzip" else bz2.BZ2File(file)
            _skip(stream, volume.skip)
            found = np.empty(count, np.uint8)
            view, filled = memoryview(found.data), 0
            while filled < count:
                got = stream.readinto(view[filled : filled + PIECE])
                if not got:
                    raise ValueError(f"it has {filled} bytes of voxels and not {count}, as its header says")
                filled += got
            stream.read(1)  # the checksum is looked at where the end is
            values = found.view(volume.dtype)
    values = values.reshape(volume.shape)
    values.flags.writeable = False
    return values


def _skip(stream: Any, count: int) -> None:
    while count:
        piece = stream.read(min(count, PIECE))
        if not piece:
            raise ValueError("it ends before its voxels")
        count -= len(piece)


def _scaled(source: Source, slope: float, inter: float, whole: bool) -> Source:
    """Values that are stored times `slope`, plus `inter`; with `whole`, those next to whole numbers become these.

    A program that scales labels to all numbers of a type rounds them to the nearest of its steps.
    """
    wide = source.dtype.itemsize > 4 or (source.dtype.kind in "iu" and source.dtype.itemsize == 4)
    dtype = np.dtype(np.float64 if wide or whole else np.float32)

    def values(stored: np.ndarray) -> np.ndarray:
        scaled = stored.astype(np.float64) * slope + inter
        if whole:
            rounded = np.rint(scaled)
            near = np.abs(scaled - rounded) <= min(0.1, 0.51 * abs(slope)) + 1e-6 * np.abs(scaled)
            scaled = np.where(near, rounded, scaled)
        return scaled.astype(dtype, copy=False)

    return with_values(source, values, dtype)
