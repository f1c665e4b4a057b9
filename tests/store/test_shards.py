"""Shards are those of zarr-python: each reads what the other wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from unet_core.store.shards import read_index, read_part, write_shard

CHUNK, COUNTS = (1, 16, 16), (2, 2, 3)


def create(path: Path, shape: tuple[int, ...], dtype: str) -> zarr.Array:
    shards = tuple(c * n for c, n in zip(CHUNK, COUNTS, strict=True))
    codec = ZstdCodec(level=3, checksum=True)
    array = zarr.create_array(
        path, shape=shape, shards=shards, chunks=CHUNK, dtype=dtype, compressors=codec, fill_value=0, overwrite=True
    )
    return array.with_config({"write_empty_chunks": True})


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 2), st.integers(1, 32), st.integers(1, 48)),
    st.sampled_from(["uint8", "uint32", "float16", "float32"]),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_zarr_reads_what_is_written_here_and_the_reverse(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, ...], dtype: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    ours, theirs = create(folder / "ours", shape, dtype), create(folder / "theirs", shape, dtype)
    write_shard(folder / "ours" / "c" / "0" / "0" / "0", voxels, CHUNK, COUNTS)
    theirs[:] = voxels
    np.testing.assert_array_equal(ours[:], voxels)
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    wanted = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    for name in ("ours", "theirs"):
        out = np.empty(tuple(s.stop - s.start for s in wanted), dtype)
        read_part(folder / name / "c" / "0" / "0" / "0", wanted, CHUNK, COUNTS, out)
        np.testing.assert_array_equal(out, voxels[wanted])


def test_chunks_that_are_not_there_are_zero(tmp_path: Path) -> None:
    array = create(tmp_path / "a", (2, 32, 48), "uint8").with_config({"write_empty_chunks": False})
    array[0, :16, :16] = 7
    out = np.full((2, 32, 48), 9, np.uint8)
    read_part(tmp_path / "a" / "c" / "0" / "0" / "0", (slice(0, 2), slice(0, 32), slice(0, 48)), CHUNK, COUNTS, out)
    np.testing.assert_array_equal(out, array[:])
    assert out.sum() == 7 * 256


@pytest.mark.parametrize("place", [3, -10, -1])
def test_a_flipped_bit_is_an_error(tmp_path: Path, place: int) -> None:
    path = tmp_path / "shard"
    write_shard(path, np.random.default_rng(0).integers(0, 9, (2, 32, 48)), CHUNK, COUNTS)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        read_part(path, (slice(0, 2), slice(0, 32), slice(0, 48)), CHUNK, COUNTS, np.empty((2, 32, 48), np.int64))


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    with pytest.raises(OSError):
        write_shard(path, np.zeros((1, 16, 16)), CHUNK, COUNTS)
    assert list(tmp_path.iterdir()) == [path] and read_index(tmp_path / "none", 12) is None
