"""Arrays that keep what was read of them last in memory, within a limit for all of them together."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from unet_core.blocks import ZYX, Box, Grid
from unet_core.network.tiles import Readable

# The chunks of our stores: to read one pixel of them is to read all of them.
CHUNK: ZYX = (1, 256, 256)
CACHE_BYTES = 64 * 2**20


class Cache:
    """Chunks that were read last, of any number of arrays; several threads may read.

    Parameters
    ----------
    limit : int
        Bytes that the chunks may take.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._chunks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: tuple[int, int]) -> np.ndarray | None:
        """A chunk that is there, which is then the last used."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
            return self._chunks.get(key)

    def keep(self, key: tuple[int, int], chunk: np.ndarray) -> None:
        """Add a chunk, in the place of those that were not used for longest."""
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self._bytes += chunk.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes


class Cached:
    """An array whose chunks stay in a cache.

    Parameters
    ----------
    source : Readable
        What is read; it must not change.
    cache : Cache
        Shared with other arrays.
    """

    def __init__(self, source: Readable, cache: Cache) -> None:
        self.shape = source.shape
        self._source, self._cache, self._grid = source, cache, Grid(source.shape, CHUNK)

    def read(self, box: Box) -> np.ndarray:
        """Voxels of a box inside the array, by whole chunks."""
        wanted = list(self._grid.boxes_in(box))
        chunks = [self._cache.find((id(self), index)) for index, _ in wanted]
        if all(chunk is not None for chunk in chunks):
            first = chunks[0]
            assert first is not None
            found = np.empty((*first.shape[:-3], *box.shape), first.dtype)
            for (_, place), chunk in zip(wanted, chunks, strict=True):
                assert chunk is not None
                shared = Box(_largest(place.start, box.start), _smallest(place.stop, box.stop))
                found[(..., *shared.within(box).slices)] = chunk[(..., *shared.within(place).slices)]
            return found
        whole = Box(wanted[0][1].start, wanted[-1][1].stop)
        data = self._source.read(whole)
        for (index, place), chunk in zip(wanted, chunks, strict=True):
            if chunk is None:
                self._cache.keep((id(self), index), data[(..., *place.within(whole).slices)].copy())
        return data[(..., *box.within(whole).slices)]


def _largest(a: ZYX, b: ZYX) -> ZYX:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])


def _smallest(a: ZYX, b: ZYX) -> ZYX:
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])
