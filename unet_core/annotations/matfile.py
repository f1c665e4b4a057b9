"""Arrays of numbers in MATLAB files; nothing else of these is read.

Headers are believed only as far as the wanted shape: an array is unpacked once it has the shape of the image, and never
more of it than that takes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unet_core.annotations.parsed import read_bytes

if TYPE_CHECKING:
    import h5py

# Numbers of the format for the types of data and the classes of arrays.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = range(6, 16)
_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x800
# Bytes in which name and shape of an array stand, and values of a list.
_HEADER_BYTES, _LIST_VALUES = 2**12, 2**20


class Arrays(NamedTuple):
    """Arrays of an opened file.

    Attributes
    ----------
    shapes : dict
        Shape of each array of numbers, by its name.
    read : callable
        The values of an array: by its name, and height and width that it must have; without these it must be short.
        ValueError if it is none, is damaged, or has another shape.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str, tuple[int, int] | None], np.ndarray]


class _Variable(NamedTuple):
    """Where an array stands in a file: its bytes, packed or not, and after how many of these its values begin."""

    shape: tuple[int, ...]
    data: memoryview
    packed: bool
    start: int


@contextmanager
def arrays_of(file: Path) -> Iterator[Arrays]:
    """Arrays of numbers of a MATLAB file.

    Raises
    ------
    ValueError
        If the file is missing, cut short or something else.
    """
    import h5py

    if not file.is_file():
        raise ValueError(f"no file {file}")
    try:
        if h5py.is_hdf5(file):
            with h5py.File(file, "r") as opened:
                yield _of_hdf5(opened, file)
        else:
            yield _of_matlab5(memoryview(read_bytes(file)), file)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{file}: cannot be read as a MATLAB file ({error}); is it complete?") from None


def _of_hdf5(opened: h5py.File, file: Path) -> Arrays:
    """Arrays of a file of MATLAB 7.3, which writes columns as rows."""
    import h5py

    found = {
        name: item
        for name in opened
        # A link to another file is none of this one's arrays.
        if isinstance(opened.get(name, getlink=True), h5py.HardLink)
        and isinstance(item := opened[name], h5py.Dataset)
        and item.dtype.kind in "uifb"
        and not item.external
        and not item.is_virtual
    }
    shapes = {name: tuple(item.shape[::-1]) for name, item in found.items()}

    def read(name: str, size: tuple[int, int] | None) -> np.ndarray:
        _check(shapes, name, size, file)
        return np.asarray(found[name][()]).T

    return Arrays(shapes, read)


def _of_matlab5(data: memoryview, file: Path) -> Arrays:
    """Arrays of a file of MATLAB 5 to 7.2."""
    mark = bytes(data[126:128])
    if len(data) < 128 or mark not in (b"IM", b"MI"):
        raise ValueError(f"{file}: is no MATLAB file of version 5 or newer; is it complete?")
    order, found, at = "<" if mark == b"IM" else ">", dict[str, _Variable](), 128
    try:
        while at < len(data):
            kind, length = struct.unpack(f"{order}II", data[at : at + 8])
            part = data[at + 8 : at + 8 + length]
            if len(part) < length or kind not in (_MATRIX, _COMPRESSED):
                raise ValueError("it is cut short, or holds something else than arrays")
            packed = kind == _COMPRESSED
            head = _unpacked(part, _HEADER_BYTES) if packed else bytes(part[:_HEADER_BYTES])
            if packed and struct.unpack(f"{order}I", head[:4]) != (_MATRIX,):
                raise ValueError("it holds something else than arrays")
            if read := _header(head[8:] if packed else head, order):
                name, shape, start = read
                found[name] = _Variable(shape, part, packed, start + 8 * packed)
            at += 8 + length
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{file}: cannot be read as a MATLAB file ({error}); is it complete?") from None
    shapes = {name: variable.shape for name, variable in found.items()}

    def values(name: str, size: tuple[int, int] | None) -> np.ndarray:
        _check(shapes, name, size, file)
        try:
            return _values(found[name], order)
        except (ValueError, struct.error, zlib.error) as error:
            raise ValueError(f"{file}: array {name} cannot be read ({error}); is the file complete?") from None

    return Arrays(shapes, values)


def _check(shapes: dict[str, tuple[int, ...]], name: str, size: tuple[int, int] | None, file: Path) -> None:
    """Raise ValueError unless there is an array, and it has a size (without one, few values)."""
    if name not in shapes:
        raise ValueError(f"{file}: has no array of numbers {name}, but {', '.join(shapes) or 'none'}")
    shape = shapes[name]
    if size is not None and shape != size:
        turned = "; is it transposed?" if shape == size[::-1] else ""
        raise ValueError(f"{file}: array {name} has shape {shape}, but its image has {size}{turned}")
    if size is None and np.prod(shape, dtype=np.float64) > _LIST_VALUES:
        raise ValueError(f"{file}: array {name} has shape {shape}, which is no list")


def _unpacked(part: memoryview, most: int) -> bytes:
    """The first bytes of a compressed part, `most` of them at most."""
    return zlib.decompressobj().decompress(part, most)


def _header(head: bytes, order: str) -> tuple[str, tuple[int, ...], int] | None:
    """Name and shape of an array, and where its values begin; None for what is no array of real numbers."""
    flags, at = _element(head, 0, order)
    if len(flags[1]) < 4:
        raise ValueError("an array has no class")
    (bits,) = struct.unpack(f"{order}I", flags[1][:4])
    if bits & 0xFF not in _CLASSES or bits & _COMPLEX:
        return None
    dimensions, at = _element(head, at, order)
    name, at = _element(head, at, order)
    if len(dimensions[1]) < 4 or len(dimensions[1]) % 4:
        raise ValueError("an array has no shape")
    shape = struct.unpack(f"{order}{len(dimensions[1]) // 4}i", dimensions[1])
    if min(shape) < 0:
        raise ValueError("the shape of an array is negative")
    return name[1].decode("latin1"), shape, at


def _element(data: bytes, at: int, order: str) -> tuple[tuple[int, bytes], int]:
    """Type and bytes of an element, and where the next one begins; short ones stand in their tag."""
    (first,) = struct.unpack(f"{order}I", data[at : at + 4])
    kind, length, start = first & 0xFFFF, first >> 16, at + 4
    if not length:
        (length,) = struct.unpack(f"{order}I", data[at + 4 : at + 8])
        start = at + 8
    if start + length > len(data):
        raise ValueError("it is cut short")
    return (kind, data[start : start + length]), at + 8 if start == at + 4 else start + -(-length // 8) * 8


def _values(variable: _Variable, order: str) -> np.ndarray:
    """Values of an array, which are stored column by column, often in a smaller type than that of the array."""
    count = int(np.prod(variable.shape, dtype=np.int64))
    most = variable.start + 8 * count + 16
    data = _unpacked(variable.data, most) if variable.packed else bytes(variable.data[:most])
    (kind, raw), _ = _element(data, variable.start, order)
    if kind not in _TYPES:
        raise ValueError(f"its values are of type {kind}, which are no numbers")
    values = np.frombuffer(raw, np.dtype(order + _TYPES[kind]))
    if len(values) != count:
        raise ValueError(f"it has {len(values)} values for the shape {variable.shape}")
    return values.reshape(variable.shape, order="F")
