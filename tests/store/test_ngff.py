"""What is written here is what zarr-python writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.codecs import ZstdCodec

from unet_core.store.ngff import read_array, read_group, write_array, write_group


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "uint64", "float16", "float32"])
def test_descriptions_of_arrays_are_those_of_zarr(tmp_path: Path, dtype: str) -> None:
    shape, shards, chunks, names = (2, 3, 300, 500), (2, 1, 256, 512), (1, 1, 256, 256), ["c", "z", "y", "x"]
    write_array(tmp_path / "ours", shape, shards, chunks, dtype, names)
    zarr.create_array(
        tmp_path / "theirs", shape=shape, shards=shards, chunks=chunks, dtype=dtype, fill_value=0,
        dimension_names=names,
        compressors=ZstdCodec(level=3, checksum=True),
    )  # fmt: skip
    ours, theirs = (read_array(tmp_path / name) for name in ("ours", "theirs"))
    assert ours | {"crc": 0} == theirs | {"crc": 0}
    assert zarr.open_array(tmp_path / "ours", mode="r")[:].sum() == 0


def test_groups_are_those_of_zarr(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"ome": {"labels": ["a"]}, "unet": {"done": True, "ü": [1.5, None]}}
    write_group(tmp_path / "ours", attributes)
    attributes["unet"]["checksum"] = read_group(tmp_path / "ours")["unet"]["checksum"]
    zarr.create_group(tmp_path / "theirs", attributes=attributes)
    ours, theirs = (json.loads((tmp_path / name / "zarr.json").read_text()) for name in ("ours", "theirs"))
    assert {**ours} == {key: theirs[key] for key in ours}
    assert read_group(tmp_path / "theirs") == attributes == dict(zarr.open_group(tmp_path / "ours", mode="r").attrs)


def test_what_is_no_group_is_an_error_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"attributes": 3}'):
        (tmp_path / "zarr.json").write_text(content)
        with pytest.raises((OSError, ValueError, LookupError, TypeError)):
            read_group(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        write_group(tmp_path / "g", {"x": float("nan")})
    assert not list(tmp_path.rglob("*.partial"))
