"""What comes through the cache is what is in the array, however little it may keep."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import ArraySource
from unet_core.blocks import Box
from unet_core.network.cached import Cache, Cached

RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(0, 255, (2, 3, 700, 530)).astype(np.uint8), RNG.random((1, 300, 900)).astype(np.float32)]


def boxes(shape: tuple[int, ...], count: int) -> list[Box]:
    found = []
    for _ in range(count):
        a, b = (np.sort(RNG.integers(0, n + 1, 2)) for n in shape[-2:])
        z, start, stop = (
            int(RNG.integers(shape[-3])),
            (min(a[0], shape[-2] - 1), min(b[0], shape[-1] - 1)),
            (a[1], b[1]),
        )
        found.append(
            Box((z, *map(int, start)), (z + 1, *(max(int(i) + 1, int(j)) for i, j in zip(start, stop, strict=True))))
        )
    return found


@pytest.mark.parametrize("limit", [0, 300_000, 2**40])
def test_any_box_is_what_is_in_the_array(limit: int) -> None:
    cache = Cache(limit)
    arrays = [Cached(ArraySource(array), cache) for array in ARRAYS]
    with ThreadPoolExecutor(4) as pool:
        for array, cached in zip(ARRAYS, arrays, strict=True):
            asked = boxes(array.shape, 60)
            for box, found in zip(asked, pool.map(cached.read, asked), strict=True):
                np.testing.assert_array_equal(found, array[(..., *box.slices)])
    assert sum(chunk.nbytes for chunk in cache._chunks.values()) == cache._bytes <= limit


def test_what_was_read_is_not_read_again_and_no_more_than_whole_chunks() -> None:
    source = ArraySource(ARRAYS[0])
    cached = Cached(source, Cache())
    for _ in range(3):
        cached.read(Box((1, 200, 300), (2, 300, 310)))
    cached.read(Box((1, 0, 256), (2, 512, 512)))
    assert source.boxes == [Box((1, 0, 256), (2, 512, 512))]


def test_a_change_of_what_was_read_does_not_reach_the_cache() -> None:
    cached = Cached(ArraySource(ARRAYS[0]), Cache())
    box = Box((0, 0, 0), (1, 256, 256))
    for _ in range(2):
        found = cached.read(box)
        np.testing.assert_array_equal(found, ARRAYS[0][(..., *box.slices)])
    found[:] = 0
    np.testing.assert_array_equal(cached.read(box), ARRAYS[0][(..., *box.slices)])
