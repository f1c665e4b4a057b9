"""Image files as arrays: TIFF, PNG, HDF5 and OME-Zarr, brought to the axes c z y x."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".tif", ".tiff", ".png", ".h5", ".hdf5", ".zarr")


def split_internal(path: str) -> tuple[Path, str]:
    """Split ``file.h5:volumes/raw`` into the file and the path inside it (empty where none is given).

    Examples
    --------
    >>> split_internal("a/b.h5:volumes/raw")
    (PosixPath('a/b.h5'), 'volumes/raw')
    >>> split_internal("a:b.tif")
    (PosixPath('a:b.tif'), '')
    """
    for suffix in (".h5", ".hdf5", ".zarr"):
        head, found, internal = path.partition(f"{suffix}:")
        if found:
            return Path(head + suffix), internal
    return Path(path), ""


@contextmanager
def open_image(path: Path, internal: str = "") -> Iterator[Any]:
    """Open an image file as something with ``shape``, ``dtype`` and slicing; large files are not read whole.

    Parameters
    ----------
    path : Path
        TIFF, PNG, HDF5 file or OME-Zarr folder.
    internal : str
        Path of the array inside an HDF5 file or a Zarr group; needed where there are several.

    Raises
    ------
    ValueError
        If the file is missing, of an unknown kind, truncated or otherwise unreadable.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of image {suffix!r}; known are {', '.join(SUFFIXES)}")
    opened = {".png": _open_png, ".h5": _open_hdf5, ".hdf5": _open_hdf5, ".zarr": _open_zarr}.get(suffix, _open_tiff)
    with opened(path, internal) as array:
        yield array


def image_shape(path: Path, internal: str = "") -> tuple[int, ...]:
    """Shape of an image file, from its header."""
    if path.suffix.lower() == ".zarr":
        return tuple(json.loads((_zarr_array(path, internal) / "zarr.json").read_text(encoding="utf-8"))["shape"])
    with open_image(path, internal) as array:
        return tuple(array.shape)


def to_czyx(array: Any, axes: str, page: int | None) -> Any:
    """View of one sample of an opened file with the axes c z y x; a missing c or z gets length 1.

    Parameters
    ----------
    array : array-like
        What `open_image` gives.
    axes : str
        Its axes, of t c z y x.
    page : int or None
        Position along t.

    Returns
    -------
    CZYX
        Sliced as ``view[z_slice, y_slice, x_slice]``, giving c z y x.
    """
    return CZYX(array, axes, page)


class CZYX:
    """Lazy view of an array in the axes c z y x; see `to_czyx`."""

    def __init__(self, array: Any, axes: str, page: int | None) -> None:
        if len(array.shape) != len(axes):
            raise ValueError(f"has {len(array.shape)} axes (shape {tuple(array.shape)}), but axes says {axes!r}")
        self._array, self._axes, self._page = array, axes, page
        size = dict(zip(axes, array.shape, strict=True))
        self.shape = (size.get("c", 1), size.get("z", 1), size["y"], size["x"])
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, zyx: tuple[slice, slice, slice]) -> np.ndarray:
        """Box of voxels, all channels."""
        wanted: dict[str, Any] = {"t": self._page, "c": slice(None)} | dict(zip("zyx", zyx, strict=True))
        part = np.asarray(self._array[tuple(wanted[axis] for axis in self._axes)])
        left = [axis for axis in self._axes if axis != "t"]
        part = part.transpose([left.index(axis) for axis in "czyx" if axis in left])
        return np.expand_dims(part, tuple(i for i, axis in enumerate("czyx") if axis not in left))


@contextmanager
def _open_tiff(path: Path, internal: str) -> Iterator[np.ndarray]:
    import tifffile

    try:
        try:
            array = tifffile.memmap(path, mode="r")
        except ValueError:  # compressed or tiled: no memory map
            array = tifffile.imread(path)
    except Exception as error:
        # Decoders raise errors of many kinds for damaged files.
        raise ValueError(f"{path}: cannot be read as TIFF ({_first_line(error)}); is it complete?") from None
    yield array


@contextmanager
def _open_png(path: Path, internal: str) -> Iterator[np.ndarray]:
    import imagecodecs

    try:
        array = imagecodecs.png_decode(path.read_bytes())
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as PNG ({_first_line(error)}); is it complete?") from None
    yield array


@contextmanager
def _open_hdf5(path: Path, internal: str) -> Iterator[Any]:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({_first_line(error)})") from None
    with file:
        arrays: list[str] = []
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
        name = internal or (arrays[0] if len(arrays) == 1 else "")
        if name not in arrays:
            raise ValueError(f"{path}: say which array, as in {path.name}:{arrays[0] if arrays else 'name'}; it has {', '.join(arrays) or 'none'}")
        yield file[name]


@contextmanager
def _open_zarr(path: Path, internal: str) -> Iterator[Any]:
    import zarr

    try:
        array = zarr.open_array(_zarr_array(path, internal), mode="r")
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as Zarr ({_first_line(error)})") from None
    yield array


def _zarr_array(path: Path, internal: str) -> Path:
    """Folder of the array: itself, the finest level of an OME-Zarr image, or the one named."""
    node = path / internal
    for name in ("zarr.json", ".zattrs"):
        if (node / name).is_file():
            metadata = json.loads((node / name).read_text(encoding="utf-8"))
            attributes = metadata.get("attributes", metadata)
            multiscales = attributes.get("ome", attributes).get("multiscales")
            return node / multiscales[0]["datasets"][0]["path"] if multiscales else node
    return node


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
