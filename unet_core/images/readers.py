"""Image files as arrays with the axes c z y x: TIFF, PNG, NPY, HDF5 and OME-Zarr.

Formats of microscopes are read by bioio.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_core.blocks import ZYX

if TYPE_CHECKING:
    import tifffile

FILE_TYPES = {
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".png": "PNG",
    ".npy": "NPY",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".zarr": "Zarr",
}
# Read by bioio, an extra of this package, with its plugin for each.
VENDOR_FILE_TYPES = {".czi": "CZI", ".lif": "LIF", ".nd2": "ND2"}
FILE_TYPES |= VENDOR_FILE_TYPES
SUFFIXES = tuple(FILE_TYPES)
# Bytes of pixels that a byte of a file may stand for: deflate, the densest of the usual, reaches 1032.
MAX_COMPRESSION_RATIO = 2000


def split_internal(path: str) -> tuple[Path, str]:
    """Split ``file.h5:volumes/raw`` into the file and the path inside it (empty where none is given).

    Examples
    --------
    >>> split_internal("a/b.h5:volumes/raw")
    (PosixPath('a/b.h5'), 'volumes/raw')
    >>> split_internal("a:b.tif")
    (PosixPath('a:b.tif'), '')
    """
    for suffix in (".h5", ".hdf5", ".zarr", ".mat", *VENDOR_FILE_TYPES):
        head, found, internal = path.partition(f"{suffix}:")
        if found:
            return path_of(head + suffix), internal
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
    """Open an image file as something with ``shape``, ``dtype`` and indexing; large files are not read whole.

    Parameters
    ----------
    path : Path
        TIFF, PNG, NPY, HDF5, CZI, LIF, ND2 file or OME-Zarr folder.
    internal : str
        Path of the array inside an HDF5 file or a Zarr group, or the scene of a microscope's file; needed where there
        are several.

    Raises
    ------
    ValueError
        If the file is missing, of an unknown kind, truncated or otherwise unreadable; of some kinds of files this comes
        out when their pixels are asked for.
    """
    suffix = path.suffix.lower()
    if is_url(path) and suffix != ".zarr":
        raise ValueError(f"{path}: behind a URL only OME-Zarr can be read; copy the file here first")
    if not is_url(path) and not path.exists():
        raise ValueError(f"{path}: no such file")
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of image {suffix!r}; known are {', '.join(SUFFIXES)}")
    opened = {".png": _open_png, ".npy": _open_npy, ".h5": open_hdf5, ".hdf5": open_hdf5, ".zarr": _open_zarr}
    with (_open_vendor if suffix in VENDOR_FILE_TYPES else opened.get(suffix, _open_tiff))(path, internal) as array:
        yield _Image(path, array)


class _Image:
    """Array of a file; the errors that it raises name the file."""

    def __init__(self, path: Path, array: Any) -> None:
        self._path, self._array = path, array
        self.axes = ""
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        # Where a part can be read without the rest: what is decoded at once.
        self.chunks: tuple[int, ...] | None = getattr(array, "chunks", None)
        if (
            self.chunks is None and not isinstance(array, _Lazy) and type(array) is not np.ndarray
        ):  # mapped, or stored without chunks
            self.chunks = (1,) * len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array, by whole numbers and slices."""
        with _reading(self._path):
            return np.asarray(self._array[index])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of decoders of damaged files, which are of many kinds, into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as {FILE_TYPES[path.suffix.lower()]} ({_first_line(error)}); is it complete?"
        ) from None


def image_shape(path: Path, internal: str = "") -> tuple[int, ...]:
    """Shape of an image file, from its header."""
    if path.suffix.lower() == ".zarr":
        return _zarr_array(path, internal)[1]
    with open_image(path, internal) as array:
        return array.shape


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
        self._array, self._axes, self._time = array, axes, time
        size = dict(zip(axes, array.shape, strict=True))
        self.shape = (size.get("c", 1), size.get("z", 1), size["y"], size["x"])
        self.dtype = np.dtype(array.dtype)
        chunk = dict(zip(axes, getattr(array, "chunks", None) or (), strict=False))
        # What is decoded at once along z, y, x; None where parts cannot be read alone.
        self.chunk: ZYX | None = (chunk.get("z", 1), chunk["y"], chunk["x"]) if chunk else None

    def __getitem__(self, zyx: tuple[slice, slice, slice]) -> np.ndarray:
        """Box of voxels, all channels."""
        wanted: dict[str, Any] = {"t": self._time or 0, "c": slice(None)} | dict(zip("zyx", zyx, strict=True))
        part = self._array[tuple(wanted[axis] for axis in self._axes)]
        left = [axis for axis in self._axes if axis != "t"]
        part = part.transpose([left.index(axis) for axis in "czyx" if axis in left])
        return np.expand_dims(part, tuple(i for i, axis in enumerate("czyx") if axis not in left))


@contextmanager
def _open_tiff(path: Path, internal: str) -> Iterator[Any]:
    import tifffile

    with contextlib.ExitStack() as stack:
        with _reading(path):
            file = stack.enter_context(tifffile.TiffFile(path))
            _check_pages(file)
            array = _tiff_array(path, file.series[0])
        yield array


def _check_pages(file: tifffile.TiffFile) -> None:
    """Raise an error if the chain of pages breaks off; tifffile gives the pages before silently."""
    len(file.pages)  # follows the chain to its end
    file.filehandle.seek(file.pages.next_page_offset or 0)
    if file.filehandle.read(file.tiff.offsetsize) != bytes(file.tiff.offsetsize):
        raise ValueError("its list of pages breaks off")


def _tiff_array(path: Path, series: tifffile.TiffPageSeries) -> Any:
    """A TIFF file as an array that is read as late as the file allows.

    It is a memory map where possible; else its pages, strips or tiles are decoded when asked for; else all is read at
    once.
    """
    import tifffile
    import zarr

    with contextlib.suppress(ValueError):  # compressed or tiled
        return tifffile.memmap(path, mode="r")
    lead = series.shape[: -len(series.keyframe.shape)]
    paged = series.shape == lead + series.keyframe.shape and len(series) == math.prod(lead) > 1
    claimed = math.prod(series.shape) * series.dtype.itemsize
    if not series.is_multifile:
        _check_claim(claimed, path, MAX_COMPRESSION_RATIO if series.keyframe.compression != 1 else 1)
    if series.is_multifile or (not paged and len(series.keyframe.dataoffsets) == 1):
        return _Lazy(series.shape, series.dtype, series.asarray)
    return _TiffPages(series, lead) if paged else zarr.open_array(series.aszarr(level=0), mode="r")


def _check_claim(claimed: int, path: Path, ratio: int) -> None:
    """Raise an error if a header claims more bytes of pixels than the file can hold, before memory is asked for."""
    if claimed > max(2**24, ratio * path.stat().st_size):
        raise ValueError(f"its header claims {claimed} bytes of pixels, but the file has {path.stat().st_size}")


class _Lazy:
    """An array that is decoded as a whole when it is asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, decode: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self._decode = shape, dtype, decode

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return _as_claimed(self._decode(), self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array; see `_Image`."""
        return self._array[index]


class _TiffPages:
    """Compressed pages as an array, of which no more are decoded than are asked for."""

    def __init__(self, series: tifffile.TiffPageSeries, lead: tuple[int, ...]) -> None:
        self._series, self._lead = series, lead
        self.shape, self.dtype = series.shape, series.dtype
        self.chunks = (1,) * len(lead) + tuple(series.keyframe.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array; see `_Image`."""
        index = () if index is Ellipsis else index if isinstance(index, tuple) else (index,)
        depth = len(self._lead)
        numbers = np.arange(len(self._series)).reshape(self._lead)[index[:depth]]
        pages = np.stack([self._page(int(number))[index[depth:]] for number in np.ravel(numbers)])
        return pages.reshape(np.shape(numbers) + pages.shape[1:])

    def _page(self, number: int) -> np.ndarray:
        page = self._series[number]
        if page is None:
            raise ValueError(f"page {number} is missing")
        return page.asarray()


@contextmanager
def _open_png(path: Path, internal: str) -> Iterator[_Lazy]:
    import imagecodecs

    with _reading(path):
        data = path.read_bytes()
        # IHDR: width, height, bits, colour type. Palettes are decoded to RGB, transparency to an alpha channel.
        if data[12:16] != b"IHDR" or len(data) < 33:
            raise ValueError("it has no header")
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour]
        if colour in (0, 2, 3) and b"tRNS" in data[: max(data.find(b"IDAT"), 0)]:
            channels += 1
        dtype = np.dtype("uint16" if bits == 16 else "uint8")
        _check_claim(width * height * channels * dtype.itemsize, path, 8 * MAX_COMPRESSION_RATIO)
    shape = (height, width) if channels == 1 else (height, width, channels)
    yield _Lazy(shape, dtype, lambda: imagecodecs.png_decode(data))


def _as_claimed(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What was decoded, which in damaged files may be less, or more, than the header says."""
    if array.shape != shape:
        raise ValueError(f"it holds {array.shape} pixels and not {shape}, as its header says")
    return array


@contextmanager
def _open_npy(path: Path, internal: str) -> Iterator[np.ndarray]:
    """Memory map, which never unpickles: arrays of Python objects are errors."""
    with _reading(path):
        array = np.lib.format.open_memmap(path, mode="r")
    yield array


@contextmanager
def open_hdf5(path: Path, internal: str) -> Iterator[Any]:
    """The array (`h5py.Dataset`) of a file: the named one, or the only one."""
    import h5py

    with contextlib.ExitStack() as stack:
        arrays: list[str] = []
        with _reading(path):
            file = stack.enter_context(h5py.File(path, "r"))
            file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
        name = internal.strip("/") or (arrays[0] if len(arrays) == 1 else "")
        if name not in arrays:
            raise ValueError(_which_array(path, arrays))
        yield file[name]


@contextmanager
def _open_zarr(path: Path, internal: str) -> Iterator[Any]:
    import zarr

    folder, _ = _zarr_array(path, internal)
    with _reading(path):
        array = zarr.open_array(str(folder), mode="r", storage_options=getattr(folder, "storage_options", None))
    yield array


@contextmanager
def _open_vendor(path: Path, internal: str) -> Iterator[_Vendor]:
    try:
        import bioio
    except ImportError:
        name = path.suffix.lower()[1:]
        raise ValueError(
            f"{path}: {name.upper()} is read by bioio, which is not installed: "
            "pip install 'unet-core[bioio]' (or convert it to OME-TIFF)"
        ) from None
    with _reading(path):
        image = bioio.BioImage(path)
        if internal:
            image.set_scene(internal)
        elif len(image.scenes) > 1:
            raise ValueError(f"say which scene, as in {path.name}:{image.scenes[0]}; it has {', '.join(image.scenes)}")
        array = _Vendor(image.get_image_dask_data("TCZYX"))
    yield array


class _Vendor:
    """Lazy array t c z y x without the axes of length 1 before y and x."""

    def __init__(self, lazy: Any) -> None:
        self._lazy = lazy[
            tuple(0 if length == 1 and axis < 3 else slice(None) for axis, length in enumerate(lazy.shape))
        ]
        self.shape, self.dtype = self._lazy.shape, self._lazy.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array; see `_Image`."""
        # In this thread: a task that waits for tasks of its own could wait for ever.
        return self._lazy[index].compute(scheduler="synchronous")


def _zarr_array(path: Path, internal: str) -> tuple[Path, tuple[int, ...]]:
    """Folder and shape of the array: itself, the finest level of an OME-Zarr image, or the one named."""
    node = path / internal.strip("/")
    with _reading(path):
        metadata = _json(node / "zarr.json").get("attributes") or _json(node / ".zattrs")
        multiscales = metadata.get("ome", metadata).get("multiscales")
        if multiscales:
            node /= multiscales[0]["datasets"][0]["path"]
        header = _json(node / "zarr.json") or _json(node / ".zarray")
    if "shape" not in header:
        listed = [] if is_url(path) or not node.is_dir() else [child for child in node.iterdir() if child.is_dir()]
        raise ValueError(_which_array(path, sorted(child.relative_to(path).as_posix() for child in listed)))
    return node, tuple(header["shape"])


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _which_array(path: Path, inside: list[str]) -> str:
    example = inside[0] if inside else "name"
    return f"{path}: say which array, as in {path.name}:{example}; it has {', '.join(inside) or 'none'}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def companions_of(path: Path) -> list[Path]:
    return []


def set_of(path: Path) -> list[Path]:
    return [path]


def arrays_in(path: Path) -> list[str]:
    return []
