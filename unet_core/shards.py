"""Shards of Zarr 3 with chunks compressed by Zstandard: written whole, read in part.

A shard holds its chunks one behind the other and ends with an index: offset and length of each chunk, as little-endian 64-bit
numbers, and a CRC-32C of them. zarr-python, which makes the arrays and reads the same shards, takes about five times as long per
chunk, most of it under Python's global lock: with label images and weight maps about as much as all other work on their voxels
(``python -m benchmarks weights`` prints both).
"""

from __future__ import annotations

import itertools
import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import Zstd

LEVEL = 3
# Offset and length of a chunk that is not there.
MISSING = 2**64 - 1

Slices = tuple[slice, ...]


def write_shard(path: Path, data: np.ndarray, chunk: Sequence[int], counts: Sequence[int]) -> None:
    """Write a shard whole or not at all.

    Parameters
    ----------
    path : Path
        File of the shard.
    data : ndarray
        What of the array lies in the shard: at its end it may be smaller.
    chunk : sequence of int
        Shape of a chunk.
    counts : sequence of int
        Chunks in the shard along each axis.
    """
    codec, parts, index, offset = Zstd(LEVEL, checksum=True), [], [], 0
    for position in np.ndindex(*counts):
        part = data[tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, chunk, strict=True))]
        if 0 in part.shape:
            index.append((MISSING, MISSING))
            continue
        missing = [(0, c - n) for c, n in zip(chunk, part.shape, strict=True)]
        parts.append(codec.encode(np.pad(part, missing) if part.shape != tuple(chunk) else np.ascontiguousarray(part)))
        index.append((offset, len(parts[-1])))
        offset += len(parts[-1])
    footer = np.array(index, "<u8").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("xb") as file:
            file.writelines([*parts, footer, google_crc32c.value(footer).to_bytes(4, "little")])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_index(path: Path, chunks: int) -> np.ndarray | None:
    """Offset and length of each chunk of a shard, shape (chunks, 2); None if the shard is missing or cut short."""
    length = 16 * chunks + 4
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - length, 0))
            footer = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(footer) < length or google_crc32c.value(footer[:-4]) != int.from_bytes(footer[-4:], "little"):
        return None
    index = np.frombuffer(footer[:-4], "<u8").reshape(-1, 2)
    used = index[index[:, 0] != MISSING]
    return index if bool((used.sum(axis=1) <= size - length).all()) else None


def read_part(path: Path, wanted: Slices, chunk: Sequence[int], counts: Sequence[int], out: np.ndarray) -> None:
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

    Raises
    ------
    ValueError, RuntimeError, OSError
        If the shard or a chunk of it is damaged.
    """
    index = read_index(path, math.prod(counts))
    if index is None:
        raise ValueError(f"{path} is missing or cut short")
    codec = Zstd(LEVEL, checksum=True)
    with path.open("rb") as file:
        for position in itertools.product(*(range(s.start // c, -(-s.stop // c)) for s, c in zip(wanted, chunk, strict=True))):
            starts = [p * c for p, c in zip(position, chunk, strict=True)]
            low = [max(s.start, start) for s, start in zip(wanted, starts, strict=True)]
            high = [min(s.stop, start + c) for s, start, c in zip(wanted, starts, chunk, strict=True)]
            there = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, wanted, strict=True))
            offset, length = (int(value) for value in index[np.ravel_multi_index(position, tuple(counts))])
            if offset == MISSING:
                out[there] = 0
                continue
            file.seek(offset)
            voxels = np.frombuffer(codec.decode(file.read(length)), out.dtype.newbyteorder("<")).reshape(chunk)
            out[there] = voxels[tuple(slice(a - start, b - start) for a, b, start in zip(low, high, starts, strict=True))]


def check_shard(path: Path, chunks: int) -> None:
    """Read all of a shard; the checksums of its index and of each chunk find any bit that changed.

    Parameters
    ----------
    path : Path
        File of the shard.
    chunks : int
        Chunks in the shard.

    Raises
    ------
    ValueError
        If the shard is missing, cut short or damaged; the message says which.
    """
    index = read_index(path, chunks)
    if index is None:
        raise ValueError("cut short" if path.is_file() else "missing")
    codec = Zstd(LEVEL, checksum=True)
    with path.open("rb") as file:
        for offset, length in index[index[:, 0] != MISSING].tolist():
            file.seek(offset)
            try:
                codec.decode(file.read(length))
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"damaged ({error})") from None
