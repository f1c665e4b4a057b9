"""Shards of Zarr 3 with chunks compressed by Zstandard: written whole, read in part.

A shard begins with eight bytes that say which block it is (readers of Zarr do not look at them), holds its chunks one
behind the other and ends with an index: offset and length of each chunk, as little-endian
64-bit numbers, and a CRC-32C of them. zarr-python, which makes the arrays and reads the same shards, takes about five
times as long per chunk, most of it under Python's global lock: with label images and weight maps about as much as all
other work on their voxels (``python -m benchmarks weights`` prints both).
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import zstandard

from unet_core.files import open_atomic, open_below

COMPRESSION_LEVEL = 3
# Offset and length of a chunk that is not there.
MISSING_CHUNK = 2**64 - 1
# Bytes before the first chunk that say which block it is; shards of former versions have none.
PLACE_BYTES = 8

Slices = tuple[slice, ...]

# Contexts of Zstandard cost more than a small chunk; each thread needs its own.
_contexts = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_contexts, "compressor"):
        _contexts.compressor = zstandard.ZstdCompressor(COMPRESSION_LEVEL, write_checksum=True)
    return _contexts.compressor


def _decompress(data: bytes, size: int) -> bytes:
    """The `size` bytes of a chunk; a header that says otherwise is an error before memory is asked for."""
    if not hasattr(_contexts, "decompressor"):
        _contexts.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(data) == size:
            return _contexts.decompressor.decompress(data)
        raise ValueError("a header is wrong")
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def write_shard(
    path: Path,
    data: np.ndarray | None,
    chunk: Sequence[int],
    counts: Sequence[int],
    folder: int | None = None,
    place: bytes = b"",
) -> list[bytes]:
    """Write a shard whole or not at all, whatever ends the process.

    Parameters
    ----------
    path : Path
        File of the shard.
    data : ndarray or None
        What of the array lies in the shard: at its end it may be smaller. None: no chunk is there, so that all voxels
        are read as 0, by any reader of Zarr.
    chunk : sequence of int
        Shape of a chunk.
    counts : sequence of int
        Chunks in the shard along each axis.
    folder : int, optional
        Descriptor of a folder, as of `files.open_folder`: the path is one below it.
    place : bytes
        What the file begins with.

    Returns
    -------
    list of bytes
        What the file holds, part by part.
    """
    compress, parts, index, offset = _compressor().compress, [place], [], len(place)
    whole = np.empty([0 for _ in chunk]) if data is None else _whole_chunks(data, chunk)
    for position in np.ndindex(*counts):
        part = whole[tuple([slice(p * c, (p + 1) * c) for p, c in zip(position, chunk, strict=True)])]
        if 0 in part.shape:
            index.append((MISSING_CHUNK, MISSING_CHUNK))
            continue
        parts.append(compress(np.ascontiguousarray(part).data))
        index.append((offset, len(parts[-1])))
        offset += len(parts[-1])
    footer = np.array(index, "<u8").tobytes()
    parts += [footer, google_crc32c.value(footer).to_bytes(4, "little")]
    # Not durable: there are many small shards, and checksums tell which of them a power failure damages.
    with open_atomic(path, durable=False, folder=folder) as file:
        file.writelines(parts)
    return parts


def _whole_chunks(data: np.ndarray, chunk: Sequence[int]) -> np.ndarray:
    missing = [(0, -n % c) for n, c in zip(data.shape, chunk, strict=True)]
    return np.pad(data, missing) if any(more for _, more in missing) else data


def checksum(path: Path) -> int:
    """CRC-32C of any file."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            value = google_crc32c.extend(value, part)
    return int(value)


class CutShort(ValueError):
    """A shard that does not end with its index."""


def read_index(path: Path | str, chunks: int, folder: int | None = None) -> np.ndarray | None:
    """Offset and length of each chunk of a shard, shape (chunks, 2); None if the shard is missing or cut short.

    Where a descriptor of a folder is given, the path is one below it.
    """
    try:
        with open_below(path, folder) as file:
            return _index_of(file, chunks)
    except (FileNotFoundError, NotADirectoryError):
        return None


def has_no_chunk(index: np.ndarray) -> bool:
    """Whether a shard holds no chunk, by its index: it was written without data."""
    return bool((index == MISSING_CHUNK).all())


def _index_of(file: BinaryIO, chunks: int) -> np.ndarray | None:
    length = 16 * chunks + 4
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - length, 0))
    footer = file.read()
    if len(footer) < length or google_crc32c.value(footer[:-4]) != int.from_bytes(footer[-4:], "little"):
        return None
    index = np.frombuffer(footer[:-4], "<u8").reshape(-1, 2)
    used = index[index[:, 0] != MISSING_CHUNK]
    return index if bool((used.sum(axis=1) <= size - length).all()) else None


def read_part(
    path: Path, wanted: Slices, chunk: Sequence[int], counts: Sequence[int], out: np.ndarray, place: bytes = b""
) -> None:
    """Read a part of a shard.

    Parameters
    ----------
    path : Path
        File of the shard.
    wanted : tuple of slice
        Part of the shard, counted from its start.
    chunk, counts : sequence of int
        Shape of a chunk, and chunks in the shard along each axis.
    out : ndarray
        Where the voxels go; of the shape of `wanted`.
    place : bytes
        What it must begin with.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, CutShort
        If the shard is missing or cut short.
    ValueError, OSError
        If a chunk of it is damaged.
    """
    size = math.prod(chunk) * out.dtype.itemsize
    with path.open("rb") as file:
        index = _index_of(file, math.prod(counts))
        if index is None:
            raise CutShort(f"{path} is cut short")
        _check_place(file, index, place)
        for position in itertools.product(
            *(range(s.start // c, -(-s.stop // c)) for s, c in zip(wanted, chunk, strict=True))
        ):
            starts = [p * c for p, c in zip(position, chunk, strict=True)]
            low = [max(s.start, start) for s, start in zip(wanted, starts, strict=True)]
            high = [min(s.stop, start + c) for s, start, c in zip(wanted, starts, chunk, strict=True)]
            there = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, wanted, strict=True))
            offset, length = (int(value) for value in index[np.ravel_multi_index(position, tuple(counts))])
            if offset == MISSING_CHUNK:
                out[there] = 0
                continue
            file.seek(offset)
            voxels = np.frombuffer(_decompress(file.read(length), size), out.dtype.newbyteorder("<")).reshape(chunk)
            out[there] = voxels[
                tuple(slice(a - start, b - start) for a, b, start in zip(low, high, starts, strict=True))
            ]


def _check_place(file: BinaryIO, index: np.ndarray, place: bytes) -> None:
    """Raise a `ValueError` where a shard is that of another block; one of former versions says nothing."""
    used = index[index[:, 0] != MISSING_CHUNK]
    # One without chunks is none of a former version.
    if not place or (len(used) and used[:, 0].min() < PLACE_BYTES):
        return
    file.seek(0)
    if file.read(PLACE_BYTES) != place:
        raise ValueError("it is that of another block")


def check_shard(path: Path, chunks: int, size: int, place: bytes = b"") -> None:
    """Read all of a shard; the checksums of its index and of each chunk find any bit that changed.

    Parameters
    ----------
    path : Path
        File of the shard.
    chunks : int
        Chunks in the shard.
    size : int
        Bytes of the voxels of a chunk.
    place : bytes
        What it must begin with.

    Raises
    ------
    ValueError
        If the shard is missing, cut short or damaged; the message says which.
    """
    index = read_index(path, chunks)
    if index is None:
        raise ValueError("cut short" if path.is_file() else "missing")
    with path.open("rb") as file:
        _check_place(file, index, place)
        for offset, length in index[index[:, 0] != MISSING_CHUNK].tolist():
            file.seek(offset)
            try:
                _decompress(file.read(length), size)
            except ValueError as error:
                raise ValueError(f"damaged ({error})") from None
