"""The JSON files of Zarr v3 and OME-NGFF 0.5: of groups, of arrays in shards, of images with several resolutions.

They are written here and not by zarr-python, which takes several milliseconds for each array and each change of
attributes: data sets have thousands of small samples with four results each. Tests compare both. A file appears whole
or not at all. Where a descriptor of a folder is given (`within`, from `files.open_folder`), paths are below it.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from unet_core.files import open_below, write_atomic
from unet_core.store.shards import COMPRESSION_LEVEL

METADATA_FILE = "zarr.json"
CHECKSUM = "checksum"
NGFF_VERSION = "0.5"


def write_group(folder: Path, attributes: dict[str, Any], within: int | None = None) -> None:
    """Make a folder a Zarr group with these attributes, or replace those of a group.

    Ours (``unet``) get a checksum, of themselves and of the resolutions; what viewers add does not count.
    """
    if "unet" in attributes:
        attributes = attributes | {"unet": attributes["unet"] | {CHECKSUM: _checksum(attributes)}}
    _put(folder / METADATA_FILE, {"attributes": attributes, "zarr_format": 3, "node_type": "group"}, within)


def read_group(folder: Path, within: int | None = None) -> dict[str, Any]:
    """Attributes of a group.

    Raises
    ------
    OSError, ValueError, LookupError
        If it is missing or damaged.
    """
    content = _get(f"{folder}/{METADATA_FILE}", within)
    attributes = content["attributes"]
    if not isinstance(attributes, dict) or (content["zarr_format"], content["node_type"]) != (3, "group"):
        raise ValueError("its description is damaged")
    ours = attributes.get("unet", {})
    # Those of former versions have none.
    if CHECKSUM in ours and ours[CHECKSUM] != _checksum(attributes):
        raise ValueError("its attributes are damaged: they are not those of their checksum")
    return attributes


def _checksum(attributes: dict[str, Any]) -> int:
    # Not the generation either, so that what is made twice is the same but for that.
    ours = {key: value for key, value in attributes["unet"].items() if key not in (CHECKSUM, "generation")}
    content = [ours, attributes.get("ome", {}).get("multiscales")]
    return google_crc32c.value(json.dumps(content, sort_keys=True).encode())


def write_array(
    folder: Path,
    shape: Sequence[int],
    shards: Sequence[int],
    chunks: Sequence[int],
    dtype: str,
    names: Sequence[str],
    within: int | None = None,
    separator: str = "/",
) -> int:
    """Make a folder a Zarr array without any voxels: zeros, in shards of chunks that are compressed by Zstandard.

    The separator is that of the names of shards: with "/" each axis is a folder. Returned is the CRC-32C of its
    description.
    """
    wide = np.dtype(dtype).itemsize > 1
    of_bytes = {"name": "bytes"} | ({"configuration": {"endian": "little"}} if wide else {})
    chunk_codecs = [of_bytes, {"name": "zstd", "configuration": {"level": COMPRESSION_LEVEL, "checksum": True}}]
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": list(chunks),
        "codecs": chunk_codecs,
        "index_codecs": index_codecs,
        "index_location": "end",
    }
    description = {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": 0.0 if np.dtype(dtype).kind == "f" else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(names),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return _put(folder / METADATA_FILE, description, within)


def read_array(folder: Path | str, within: int | None = None, result: Path = Path()) -> dict[str, Any]:
    """Description of an array, not to be changed, with the CRC-32C of its file as ``crc``; see `read_group` for errors.

    With a descriptor, `result` is the path of its folder: what was read there stays in memory.
    """
    file = f"{folder}/{METADATA_FILE}"
    status = os.stat(file, dir_fd=within)  # noqa: PTH116
    return _array(_File((str(result), status.st_ino, status.st_mtime_ns, status.st_size), file, within))


@dataclass(frozen=True)
class _File:
    """A file as it is now; the descriptor by which it is opened says nothing about it."""

    state: tuple[str, int, int, int]
    name: str
    within: int | None = field(compare=False)


@functools.lru_cache(maxsize=1024)
def _array(file: _File) -> dict[str, Any]:
    """Description of an array, kept in memory as long as its file stays the same.

    Each block needs it, and opening takes long on network file systems.
    """
    with open_below(file.name, file.within) as opened:
        content = opened.read()
    return json.loads(content.decode()) | {"crc": google_crc32c.value(content)}


def chunk_shape(part: dict[str, Any]) -> tuple[int, ...]:
    """Shape that the grid or the sharding codec in the description of an array states."""
    return tuple(part["configuration"]["chunk_shape"])


def multiscale(
    name: str, levels: int, pixel_size: tuple[float, float, float], channels: bool, labels: bool
) -> dict[str, Any]:
    """OME-NGFF 0.5 metadata of an image with several resolutions.

    Parameters
    ----------
    name : str
        Of the image.
    levels : int
        Resolutions; each halves y and x.
    pixel_size : tuple of float
        Micrometres along z, y, x at the finest one.
    channels : bool
        Whether the arrays have an axis of channels.
    labels : bool
        Whether it is a label image.
    """
    lead = [1.0] if channels else []
    axes = [{"name": "c", "type": "channel"}] if channels else []
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    z, y, x = pixel_size
    datasets = []
    for level in range(levels):
        f = 2**level
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [*lead, z, y * f, x * f]}]
        if level and not labels:
            # A coarse pixel is the mean of f x f fine ones: its centre lies (f - 1) / 2 fine pixels farther.
            transforms.append(
                {"type": "translation", "translation": [0.0 for _ in lead] + [0.0, y * (f - 1) / 2, x * (f - 1) / 2]}
            )
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    ome: dict[str, Any] = {"version": NGFF_VERSION, "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}
    return ome | ({"image-label": {"version": NGFF_VERSION}} if labels else {})


def _get(file: str, within: int | None) -> Any:
    # Of a step that has nothing to do, this is most of the work; paths of pathlib would double it, and files of text
    # are slower.
    with open_below(file, within) as opened:
        return json.loads(opened.read().decode())


def _put(path: Path, content: dict[str, Any], within: int | None) -> int:
    # Not durable: a description that a power failure damages is no JSON, and its result is made again.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    write_atomic(path, text, durable=False, folder=within)
    return google_crc32c.value(text)
