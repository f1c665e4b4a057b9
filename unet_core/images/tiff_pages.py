"""Pages of TIFF files as one array of which no more is decoded than is asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_core.images.decoded import DECODED
from unet_core.images.limits import MAX_COMPRESSION_RATIO, RATIOS, check_file, check_part
from unet_core.images.source import Box, Source, lengths

if TYPE_CHECKING:
    import tifffile

# A page or frame of tifffile, whose types do not say that both can be read alike.
Page = Any
# Files of a set that are mapped at the same time.
MAX_MAPPED = 32
JPEG = (6, 7, 33007, 34892)


class Pages:
    """Pages of equal size, in one file or several.

    Parameters
    ----------
    page_at : callable
        The page with a number.
    count : int
        How many there are.
    """

    def __init__(self, page_at: Callable[[int], Page], count: int) -> None:
        self._page_at = page_at
        # Memory maps are let go of when they are not used any more.
        self._mapped = functools.lru_cache(MAX_MAPPED)(mapped)
        self._count = count
        self.first = page_at(0)
        self.keyframe: tifffile.TiffPage = self.first.keyframe
        self.shape, self.dtype = tuple(self.keyframe.shape), np.dtype(self.keyframe.dtype)

    def source(self, lead: tuple[int, ...], axes: str) -> Source:
        """All pages as one array whose first axes, `lead`, count the pages."""
        shape = lead + self.shape
        self._check_claim()

        def read(box: Box) -> np.ndarray:
            numbers = np.arange(self._count).reshape(lead)[box[: len(lead)]]
            part = np.empty(lengths(box), self.dtype)
            for place in np.ndindex(numbers.shape):
                part[place] = self._read(int(numbers[place]), box[len(lead) :])
            return part

        return Source(shape, self.dtype, read, axes, self._chunks(lead))

    def _check_claim(self) -> None:
        """Of this file alone; each part of a page is checked again before it is decoded."""
        if self._page_at(self._count - 1).parent is not self.first.parent:
            return  # a set of files, which each bear a part of the claim
        claimed = self._count * math.prod(self.shape) * stored_bits(self.keyframe) // 8
        ratio = RATIOS.get(int(self.keyframe.compression), MAX_COMPRESSION_RATIO)
        check_file(claimed, self.first.parent.filehandle.size, ratio)

    def _chunks(self, lead: tuple[int, ...]) -> tuple[int, ...] | None:
        """What is decoded at once; None where that is all there is."""
        if _is_plain(self.first):
            return (1,) * (len(lead) + len(self.shape))
        part = tuple(min(a, b) for a, b in zip(_part(self.keyframe), self.keyframe.shaped, strict=True))
        if math.prod(lead) == 1 and part == tuple(self.keyframe.shaped):
            return None
        return (1,) * len(lead) + tuple(part[axis] for axis in _places(self.keyframe))

    def _read(self, number: int, box: Box) -> np.ndarray:
        page = self._page_at(number)
        key = page.keyframe
        if tuple(key.shape) != self.shape or np.dtype(key.dtype) != self.dtype:
            raise ValueError(
                f"page {number} has {key.shape} pixels of {key.dtype}, but the first has {self.shape} of {self.dtype}"
            )
        data, identity = self._mapped(Path(page.parent.filehandle.path))
        if _is_plain(page):
            dtype = self.dtype.newbyteorder(key.parent.byteorder)
            return view(data, self.shape, dtype, page.dataoffsets[0])[box]
        full = [slice(0, 1, 1)] * 5
        for axis, one in zip(_places(key), box, strict=True):
            full[axis] = one
        part = np.empty(lengths(tuple(full)), self.dtype)
        for index, place in _parts(key, full):
            segment = DECODED.get(
                (identity, page.offset, page.dataoffsets[0], index),
                functools.partial(_decode, page, index, data, self.dtype),
            )
            _put(part, full, segment, place)
        return part.reshape(lengths(box))


def mapped(path: Path) -> tuple[np.memmap, Hashable]:
    """Bytes of a file, and what tells it from others and from what it was before it was written anew."""
    stat = path.stat()
    return np.memmap(path, np.uint8, mode="r"), (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)


def view(data: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.ndarray:
    """Array of the values in a file from an offset on; ValueError if it does not hold them all."""
    needed = math.prod(shape) * dtype.itemsize
    if offset + needed > data.size:
        raise ValueError(f"its header claims {needed} bytes of pixels, but the file has {data.size}")
    return np.ndarray(shape, dtype, buffer=data, offset=offset)


def _is_plain(page: Page) -> bool:
    """Whether the values lie in the file one after the other."""
    # Of a page that is read by the header of another, tifffile takes it for granted.
    if not page.is_final:
        return False
    ends = [offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
    return len(ends) == 1 or page.keyframe.is_stk or page.keyframe.is_lsm or ends[:-1] == list(page.dataoffsets[1:])


def stored_bits(page: tifffile.TiffPage) -> int:
    """Bits of a value as it is stored."""
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _part(page: tifffile.TiffPage) -> tuple[int, int, int, int, int]:
    """Size of a tile or strip along the five axes of `shaped`: planes of samples, z, y, x, samples."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if page.is_tiled:
        return 1, page.tiledepth, page.tilelength, page.tilewidth, samples
    return 1, 1, min(page.rowsperstrip, page.imagelength), page.imagewidth, samples


def _places(page: tifffile.TiffPage) -> list[int]:
    """Which of the axes of `shaped` the axes of a page are."""
    known = {"S": 0 if page.planarconfig == 2 else 4, "Z": 1, "Y": 2, "X": 3}
    return [known[axis] for axis in page.axes]


def _parts(page: tifffile.TiffPage, box: list[slice]) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers of the tiles or strips that a box meets, and where they begin."""
    sizes = _part(page)
    counts = [-(-length // size) for length, size in zip(page.shaped, sizes, strict=True)]
    ranges = []
    for one, size in zip(box[:4], sizes[:4], strict=True):
        wanted = range(one.start, one.stop, one.step or 1)
        ranges.append(range(wanted[0] // size, wanted[-1] // size + 1) if len(wanted) else range(0))
    return [
        (
            ((s * counts[1] + z) * counts[2] + y) * counts[3] + x,
            (s * sizes[0], z * sizes[1], y * sizes[2], x * sizes[3], 0),
        )
        for s in ranges[0]
        for z in ranges[1]
        for y in ranges[2]
        for x in ranges[3]
    ]


def _decode(page: Page, index: int, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A tile or strip with the axes z, y, x, samples.

    Raises
    ------
    ValueError
        If it is missing, damaged or claims too much.
    """
    key = page.keyframe
    shape = _part(key)[1:]
    offset, size = (page.dataoffsets[index], page.databytecounts[index]) if index < len(page.dataoffsets) else (0, 0)
    if not (offset and size):
        # Tiles of nothing are left out by many programs; strips are not.
        if not key.is_tiled:
            raise ValueError(f"strip {index} of page {page.index} is missing")
        return np.broadcast_to(np.array(key.nodata, dtype), shape)
    if offset + size > data.size:
        raise ValueError("it ends before its pixels do")
    ratio = RATIOS.get(int(key.compression), MAX_COMPRESSION_RATIO)
    check_part(math.prod(shape) * stored_bits(key) // 8, size, ratio)
    more: dict[str, Any] = {}
    if key.compression in JPEG:
        more = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
    decoded, _, _ = key.decode(data[offset : offset + size].tobytes(), index, **more)
    if decoded is None:
        raise ValueError(f"part {index} of page {page.index} cannot be decoded")
    return decoded


def _put(part: np.ndarray, box: list[slice], segment: np.ndarray, place: tuple[int, ...]) -> None:
    """Copy what a box and a decoded part have in common."""
    into, out = [slice(None)], []
    for one, begin, length in zip(box[1:], place[1:], segment.shape, strict=True):
        step = one.step or 1
        first = max(0, -(-(begin - one.start) // step))
        last = min(len(range(one.start, one.stop, step)), -(-(begin + length - one.start) // step))
        into.append(slice(first, max(first, last)))
        out.append(slice(one.start + first * step - begin, length, step))
    # Planes of samples have parts of their own.
    step = box[0].step or 1
    number = (place[0] - box[0].start) // step
    if (place[0] - box[0].start) % step:
        return
    into[0] = slice(number, number + 1)
    wanted = part[tuple(into)]
    found = segment[tuple(out)][tuple(slice(0, n) for n in wanted.shape[1:])]
    if found.shape != wanted.shape[1:]:
        raise ValueError("a part of it holds fewer pixels than its header says")
    part[tuple(into)] = found
