"""Image files as arrays with the axes c z y x: TIFF, PNG, JPEG, BMP, GIF, NPY, HDF5, OME-Zarr, NRRD, MRC and NIfTI.

Formats of microscopes are read by bioio.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.blocks import ZYX
from unet_core.files import PARSING
from unet_core.images import hdf5, ome_tiff, tiff, volume_headers, zarr_images
from unet_core.images.hdf5 import open_hdf5
from unet_core.images.pictures import open_picture, open_png
from unet_core.images.source import RefusedError, Source, box_of, lengths, of_array, passing_over_damage, reading
from unet_core.images.vendor import VENDOR_FILE_TYPES, open_vendor, scenes_of
from unet_core.images.volume_headers import VOLUME_FILE_TYPES
from unet_core.images.volumes import open_volume
from unet_core.images.zarr_images import missing_chunks, open_zarr
from unet_core.patterns import ending_of

__all__ = ["missing_chunks"]

TIFF_FILE_TYPES = dict.fromkeys(
    (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk", ".svs", ".ndpi", ".qptiff"), "TIFF"
)
HDF5_FILE_TYPES = dict.fromkeys((".h5", ".hdf5", ".hdf"), "HDF5")
# Read by Pillow.
PICTURE_FILE_TYPES = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}
FILE_TYPES = (
    TIFF_FILE_TYPES
    | {".png": "PNG"}
    | PICTURE_FILE_TYPES
    | {".npy": "NPY", ".zarr": "Zarr"}
    | HDF5_FILE_TYPES
    | VENDOR_FILE_TYPES
    | VOLUME_FILE_TYPES
)
SUFFIXES = tuple(FILE_TYPES)


def split_internal(path: str) -> tuple[Path, str]:
    """Split ``file.h5:volumes/raw`` into the file and the path inside it (empty where none is given).

    Of TIFF only a number can follow, or * for all images.

    Examples
    --------
    >>> split_internal("a/b.h5:volumes/raw")
    (PosixPath('a/b.h5'), 'volumes/raw')
    >>> split_internal("scan.tif:2"), split_internal("a:b.tif")
    ((PosixPath('scan.tif'), '2'), (PosixPath('a:b.tif'), ''))
    """
    endings = "|".join(map(re.escape, (*HDF5_FILE_TYPES, ".zarr", ".mat", *VENDOR_FILE_TYPES)))
    if inside := re.search(f"({endings}):", path, re.IGNORECASE):
        return path_of(path[: inside.end() - 1]), path[inside.end() :]
    numbered = re.fullmatch(r"(.*\.(\w+)):(\d+|\*)", path, re.DOTALL)
    if numbered and f".{numbered[2].lower()}" in TIFF_FILE_TYPES:
        return path_of(numbered[1]), numbered[3]
    return path_of(path), ""


def path_of(text: str) -> Path:
    """Path of a file, or of what a URL like s3://bucket/image.zarr names.

    URLs are read by fsspec, with the package that the kind of URL needs.

    Examples
    --------
    >>> path_of("a/b.tif"), str(path_of("memory://a/b.zarr"))
    (PosixPath('a/b.tif'), 'memory://a/b.zarr')
    """
    if not is_url(text):
        return Path(text)
    from upath import UPath  # not a Path for all types, but all that we ask of one

    return UPath(text)  # type: ignore[return-value]


def is_url(path: object) -> bool:
    """Whether a path is a URL.

    Examples
    --------
    >>> is_url("s3://bucket/image.zarr"), is_url(Path("a/b"))
    (True, False)
    """
    return "://" in str(path)


@contextmanager
def open_image(path: Path, internal: str = "", stored: bool = False) -> Iterator[Any]:
    """Open an image file as something that is indexed like an array; large files are not read whole.

    It has ``shape``, ``dtype``, ``chunks`` (what is decoded at once; None where no part can be read without the rest),
    ``axes`` (letters of t c z y x, and q for a stack of unknown kind; empty where the file does not say) and
    ``white_is_zero`` (whether the file says that low values are bright).

    Parameters
    ----------
    path : Path
        TIFF, PNG, JPEG, BMP, GIF, NPY, HDF5, CZI, LIF, ND2, NRRD, MRC, NIfTI file or OME-Zarr folder.
    internal : str
        Path of the array inside an HDF5 file or a Zarr group, the number of an image of a TIFF file, or the scene of a
        microscope's file; needed where there are several.
    stored : bool
        Whether values are wanted as they are stored, as those of annotations are: indices of palettes, and low values
        where these are white. Else palettes become colours, and all images have bright values that are high.

    Raises
    ------
    ValueError
        If the file is missing, of an unknown kind, truncated or otherwise unreadable; of some kinds of files this comes
        out when their pixels are asked for.
    """
    suffix = ending_of(path).lower()
    if is_url(path) and suffix != ".zarr":
        raise ValueError(f"{path}: behind a URL only OME-Zarr can be read; copy the file here first")
    if not is_url(path) and not path.exists():
        raise ValueError(f"{path}: no such file")
    if suffix not in SUFFIXES and not is_url(path) and path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file in it, as in {path}/{{stem}}.tif")
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of image {suffix!r}; known are {', '.join(SUFFIXES)}")
    kind = FILE_TYPES[suffix]
    ways = {"TIFF": tiff.open_tiff, "PNG": open_png, "NPY": _open_npy, "HDF5": open_hdf5, "Zarr": open_zarr}
    ways |= dict.fromkeys(VOLUME_FILE_TYPES.values(), open_volume)
    way = open_vendor if suffix in VENDOR_FILE_TYPES else ways.get(kind, open_picture)
    with way(path, internal, stored) as source:
        yield _Image(path, source)


class _Image:
    """Array of a file; the errors that it raises name the file."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path, self._source = path, source
        self.shape, self.dtype, self.chunks = source.shape, source.dtype, source.chunks
        self.axes, self.white_is_zero = source.axes, source.white_is_zero

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array, by whole numbers and slices."""
        with reading(self._path, FILE_TYPES[ending_of(self._path).lower()]):
            box, single = box_of(index, self.shape)
            part = np.asarray(self._source.read(box))
            if part.shape != lengths(box):
                raise ValueError(f"it gives {part.shape} pixels where {lengths(box)} are asked for")
            return part.squeeze(single) if single else part


def image_shape(path: Path, internal: str = "") -> tuple[int, ...]:
    """Shape of an image file, from its header."""
    if path.suffix.lower() == ".zarr":
        return zarr_images.located(path, internal).shape
    with open_image(path, internal) as array:
        return array.shape


def members_of(path: Path) -> list[Path]:
    """All files that are read when an image file is, itself first; of one that is damaged itself alone.

    Companions are the other files of an OME-TIFF set, with that of its description, and those that hold values of
    arrays of an HDF5 file, or those of a header of NRRD.

    Parameters
    ----------
    path : Path
        The image file.
    """
    found: list[Path] = []
    with passing_over_damage(path):
        if FILE_TYPES.get(path.suffix.lower()) == "TIFF" and not is_url(path):
            found = [path.parent / one.name for one in tiff.files_of(path)]
        elif FILE_TYPES.get(path.suffix.lower()) == "HDF5" and not is_url(path):
            found = hdf5.files_of(path)
        elif FILE_TYPES.get(path.suffix.lower()) == "NRRD" and not is_url(path):
            found = volume_headers.files_of(path)
    return [path, *(file for file in dict.fromkeys(found) if file != path)]


def companions_of(path: Path) -> list[Path]:
    """The files that are read with an image file; see `members_of`."""
    return members_of(path)[1:]


def set_of(path: Path) -> list[Path]:
    """Files with planes of the image that a file of an OME-TIFF set belongs to, as far as they are there.

    Of other files, and damaged ones, it is the file alone.

    Parameters
    ----------
    path : Path
        The image file.
    """
    with passing_over_damage(path):
        if _is_set(path):
            return ome_tiff.files_of(path)[0] or [path]
    return [path]


def times_of_set(path: Path) -> dict[Path, int]:
    """Time points of the files of an OME-TIFF set that has a file for each time point; empty for all others.

    Parameters
    ----------
    path : Path
        A file of the set.
    """
    with passing_over_damage(path):
        if _is_set(path):
            return ome_tiff.times_of(path)
    return {}


def arrays_in(path: Path) -> list[str]:
    """Names that can follow a path and a colon, as in ``path:name``; none where the file has one image.

    They are numbers of the images of a TIFF file, images or arrays of Zarr, arrays of HDF5, and scenes of microscopes'
    files. Of a damaged file there are none.

    Parameters
    ----------
    path : Path
        The image file.
    """
    kind = FILE_TYPES.get(path.suffix.lower(), "")
    if is_url(path):
        return []
    ways = {"TIFF": tiff.numbers_in, "HDF5": hdf5.arrays_in, "Zarr": zarr_images.arrays_in}
    ways |= dict.fromkeys(VENDOR_FILE_TYPES.values(), scenes_of)
    with passing_over_damage(path):
        return ways[kind](path) if kind in ways else []
    return []


def _is_set(path: Path) -> bool:
    if FILE_TYPES.get(path.suffix.lower()) != "TIFF" or is_url(path):
        return False
    with tiff.opened(path) as (_, is_set):
        return is_set


def to_czyx(array: Any, axes: str, time: int | None) -> Any:
    """View of one sample of an opened file with the axes c z y x; a missing c or z gets length 1.

    Parameters
    ----------
    array : array-like
        What `open_image` gives.
    axes : str
        Its axes, of t c z y x.
    time : int or None
        Position along t.

    Returns
    -------
    CZYX
        Sliced as ``view[z_slice, y_slice, x_slice]``, giving c z y x.
    """
    return CZYX(array, axes, time)


class CZYX:
    """Lazy view of an array in the axes c z y x; see `to_czyx`."""

    def __init__(self, array: Any, axes: str, time: int | None) -> None:
        if len(array.shape) != len(axes):
            raise ValueError(f"has {len(array.shape)} axes (shape {tuple(array.shape)}), but axes says {axes!r}")
        self._array, self.axes, self._time = array, axes, time
        size = dict(zip(axes, array.shape, strict=True))
        self.shape = (size.get("c", 1), size.get("z", 1), size["y"], size["x"])
        self.dtype = np.dtype(array.dtype)
        chunk = dict(zip(axes, getattr(array, "chunks", None) or (), strict=False))
        # What is decoded at once along z, y, x; None where parts cannot be read alone.
        self.chunk: ZYX | None = (chunk.get("z", 1), chunk["y"], chunk["x"]) if chunk else None

    def __getitem__(self, zyx: tuple[slice, slice, slice]) -> np.ndarray:
        """Box of voxels, all channels."""
        wanted: dict[str, Any] = {"t": self._time or 0, "c": slice(None)} | dict(zip("zyx", zyx, strict=True))
        part = self._array[tuple(wanted[axis] for axis in self.axes)]
        left = [axis for axis in self.axes if axis != "t"]
        part = part.transpose([left.index(axis) for axis in "czyx" if axis in left])
        return np.expand_dims(part, tuple(i for i, axis in enumerate("czyx") if axis not in left))


@contextmanager
def _open_npy(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """Memory map, which never unpickles: arrays of Python objects are errors."""
    with reading(path, "NPY"):
        if _holds_objects(path):
            raise RefusedError(
                f"{path}: holds Python objects, which are not read, as this may run any code; save an array of numbers"
            )
        with PARSING:
            array = np.lib.format.open_memmap(path, mode="r")
        source = of_array(array)
    yield source


def _holds_objects(path: Path) -> bool:
    with path.open("rb") as file, PARSING:
        version = np.lib.format.read_magic(file)
        way = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return version < (3, 0) and way(file)[2].hasobject
