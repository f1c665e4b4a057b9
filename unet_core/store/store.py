"""Results in Zarr v3 as OME-NGFF 0.5: one multiscale image per result, with its digest beside it.

An image grows block by block.

A result is a folder ``<store>.zarr/<sample>[/labels/<name>]``. It is *never run* (no folder), *unfinished* (its digest
stands in the attributes, ``done`` is false), or *done*. Blocks write whole shards, and a shard appears whole or not at
all (written aside and renamed), so an unfinished result goes on where it was: a shard of the finest level that exists
is a block that is done. Blocks without any object have shards too.
"""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import google_crc32c
import numpy as np
import zarr

from unet_core.blocks import ZYX, Box, Grid
from unet_core.files import temporary_path
from unet_core.images.in_place import InPlace
from unet_core.runtime import UserError, versions
from unet_core.store.ngff import chunk_shape, multiscale, read_array, read_group, write_array, write_group
from unet_core.store.pyramid import halve_image, halve_labels
from unet_core.store.removal import move_to_trash, remove
from unet_core.store.shards import CutShort, read_index, read_part, write_shard

CHUNK = 256
# Looks at a result that other runs begin or replace at the same moment.
MAX_ATTEMPTS = 20
BLOCK: ZYX = (8, 1024, 1024)
LEVELS = 4
STEPS = ("groundtruth", "weights", "predict", "instances")
LABELS = ("instances", "classes", "ignore")

Kind = Literal["image", "labels"]


class Spec(NamedTuple):
    """What a result is: everything that must be known to create its arrays."""

    shape: ZYX
    dtype: str
    kind: Kind
    channels: int | None = None
    pixel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    block: ZYX = BLOCK

    @property
    def grid(self) -> Grid:
        """Blocks of the finest level: each is one shard, and no larger than the array needs."""
        z, y, x = (min(b, -(-n // c) * c) for b, n, c in zip(self.block, self.shape, (1, CHUNK, CHUNK), strict=True))
        return Grid(self.shape, (z, y, x))

    @property
    def levels(self) -> int:
        """Number of resolutions; each halves y and x until they fit one chunk."""
        return 1 + sum(max(self.shape[1:]) > CHUNK * 2**level for level in range(LEVELS - 1))


class Result:
    """A result under construction or done, for reading and writing boxes of voxels (z, y, x).

    Parameters
    ----------
    path : Path
        Folder of the result.
    attributes : dict, optional
        Of its group, if they were just read.
    """

    def __init__(self, path: Path, attributes: dict[str, Any] | None = None) -> None:
        self.path = path
        try:
            levels = (attributes or read_group(path))["ome"]["multiscales"][0]["datasets"]
            finest, *coarser = [read_array(path / str(level)) for level in range(len(levels))]
            self.pixel_size: tuple[float, float, float] = _last3(levels[0]["coordinateTransformations"][0]["scale"])
            shards, chunks = chunk_shape(finest["chunk_grid"]), chunk_shape(finest["codecs"][0])
        except (OSError, LookupError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({error}); {_repair(path)}") from None
        self.has_channels = len(finest["shape"]) == 4
        self.grid = Grid(_last3(finest["shape"]), _last3(shards))
        self.shape: ZYX = self.grid.shape
        self._shards, self._chunks = shards, chunks
        self._counts = tuple(n // c for n, c in zip(shards, chunks, strict=True))
        self.chunks_per_shard = math.prod(self._counts)
        self.dtype = np.dtype(finest["data_type"])
        self.chunk_bytes = math.prod(chunks) * self.dtype.itemsize
        self._n_levels = 1 + len(coarser)
        self.channels: int | None = finest["shape"][0] if self.has_channels else None

    def read(self, box: Box) -> np.ndarray:
        """Voxels of a box inside the array, shape ([c,] z, y, x).

        Raises
        ------
        UserError
            If a shard is missing (Zarr alone would return zeros) or unreadable.
        """
        lead = self._shards[:-3]
        out = np.empty((*lead, *box.shape), self.dtype)
        for index, block in self.grid.boxes_in(box):
            part = block.overlap(box)
            wanted = (*(slice(0, n) for n in lead), *part.within(block).slices)
            try:
                read_part(self._shard(index), wanted, self._chunks, self._counts, out[(..., *part.within(box).slices)])
            except (FileNotFoundError, NotADirectoryError, CutShort):
                raise UserError(
                    f"{self.path}: block {self.grid.position(index)} is missing or cut short; {_repair(self.path)}"
                ) from None
            except (ValueError, OSError) as error:
                raise UserError(
                    f"cannot read {box} of {self.path} ({error}); delete the damaged file {self._shard(index)}, "
                    f"then {_repair(self.path)}"
                ) from None
        return out

    def read_all(self) -> np.ndarray:
        """All voxels."""
        return self.read(Box((0, 0, 0), self.shape))

    def preview(self, plane: int, limit: int = 1024) -> np.ndarray:
        """One z plane at the finest resolution whose sides are within `limit`.

        Where no resolution is that small, every n-th pixel of the coarsest is taken.
        """
        levels = [zarr.open_array(self.path / str(level), mode="r") for level in range(self._n_levels)]
        level = next((a for a in levels if max(a.shape[-2:]) <= limit), levels[-1])
        step = -(-max(level.shape[-2:]) // limit)
        return np.asarray(level[..., plane, ::step, ::step])

    def has_block(self, index: int) -> bool:
        """Whether block number `index` was written, and its shard is not cut short."""
        return read_index(self._shard(index), self.chunks_per_shard) is not None

    def checksum(self, index: int) -> int:
        """CRC-32C of the shards of block number `index`, at all resolutions; 0 if one is missing or cut short."""
        if not self.has_block(index):
            return 0
        value = 0
        for shard in self.shards_of(index):
            try:
                value = google_crc32c.extend(value, shard.read_bytes())
            except FileNotFoundError:
                return 0
        return value

    def shards_of(self, index: int) -> list[Path]:
        """Files of block number `index`, the finest resolution first."""
        return [self._shard(index, level) for level in range(self._n_levels)]

    def missing_blocks(self) -> Iterator[int]:
        """Numbers of the blocks that were not written yet."""
        return (index for index in range(len(self.grid)) if not self.has_block(index))

    def write(self, index: int, data: np.ndarray, digest: str) -> None:
        """Write a block, coarse levels first, so that the shard of the finest level says that all is there.

        Parameters
        ----------
        index : int
            Number of the block.
        data : ndarray
            Its voxels, shape ([c,] z, y, x).
        digest : str
            What the writer computes; refused if the result has been begun anew with another digest meanwhile.
        """
        attributes = read_attributes(self.path)
        if attributes.get("digest") != digest:
            raise UserError(
                f"{self.path} is being made anew by another run with other settings or data; this run stops"
            )
        pyramid = [data.astype(self.dtype, copy=False)]
        for _ in range(1, self._n_levels):
            pyramid.append(halve_labels(pyramid[-1]) if attributes["kind"] == "labels" else halve_image(pyramid[-1]))
        for level in reversed(range(self._n_levels)):
            chunk = [*self._chunks[:-2], *(c >> level for c in self._chunks[-2:])]
            write_shard(self._shard(index, level), pyramid[level], chunk, self._counts)

    def _shard(self, index: int, level: int = 0) -> Path:
        position = self.grid.position(index)
        lead = "/0" if self.has_channels else ""
        return self.path / f"{level}/c{lead}/{'/'.join(map(str, position))}"


def _repair(path: Path) -> str:
    """Which command makes a missing result again."""
    above = [parent.name for parent in _store_of(path).parents]
    step = next((name for name in above if name in STEPS), "groundtruth")
    return f"'snakemake --forcerun {step}' makes it again (only what is missing)"


def begin(path: Path, digest: str, spec: Spec, provenance: dict[str, Any], keep: bool = False) -> Result:
    """Open a result for writing: go on with an unfinished one of the same digest, replace any other.

    Parameters
    ----------
    path : Path
        Folder of the result, below a store.
    digest : str
        Hash of all that determines the result.
    spec : Spec
        Shape, type and blocks.
    provenance : dict
        Step, configuration and inputs, kept in the attributes beside the versions of the software.
    keep : bool
        Keep the blocks of another digest, if shape, type and blocks are the same: the step looks at each of them
        itself, and `Result.has_block` does not say that it is done.

    Returns
    -------
    Result
    """
    for _ in range(MAX_ATTEMPTS):
        if (result := _begin(path, digest, spec, provenance, keep)) is not None:
            return result
    raise UserError(f"other runs replace {path} again and again; let one of them end, then run again")


def _begin(path: Path, digest: str, spec: Spec, provenance: dict[str, Any], keep: bool) -> Result | None:
    """As `begin`; None where another run came between, so that one has to look again."""
    if (result := _begun(path, digest, spec)) is not None:
        return result
    unet: dict[str, Any] = {"digest": digest, "done": False, "kind": spec.kind, "details": {}}
    unet["provenance"] = provenance | {"versions": versions()}
    if keep and _is_like(path, spec):
        write_group(path, {"ome": _ome(path, spec), "unet": unet})
        return _begun(path, digest, spec)
    if trash := move_to_trash(path):
        if _begun(trash, digest, spec) is not None:  # what another run has just made is given back
            with contextlib.suppress(OSError):
                trash.rename(path)
                return None
        shutil.rmtree(trash, ignore_errors=True)  # another run may be cleaning up
    _make_parents(path)
    # Made aside and renamed, so that another run that begins the same result sees all of it or nothing.
    temporary = temporary_path(path)
    try:
        for level in range(spec.levels):
            _create_level(temporary, spec, level)
        write_group(temporary, {"ome": _ome(path, spec), "unet": unet})
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return None  # another run was faster
    return _begun(path, digest, spec)


def _begun(path: Path, digest: str, spec: Spec) -> Result | None:
    """The result of this digest; None if there is none, it is damaged, or another run has just taken it away."""
    if read_attributes(path).get("digest") == digest and all(
        (path / str(n) / "zarr.json").is_file() for n in range(spec.levels)
    ):
        with contextlib.suppress(UserError):
            return Result(path)
    return None


def _is_like(path: Path, spec: Spec) -> bool:
    """Whether a result has the shape, type, blocks and resolutions that one of `spec` would have."""
    try:
        found = Result(path)
        here = [read_array(path / str(level)) for level in range(spec.levels)]
        metadata = read_group(path)["ome"]
    except (UserError, OSError, LookupError, ValueError):
        return False
    same = (found.grid, found.dtype, found.channels) == (spec.grid, np.dtype(spec.dtype), spec.channels)
    return same and len(here) == spec.levels and metadata == _ome(path, spec)


def write_reference(
    path: Path, digest: str, reference: dict[str, Any], details: dict[str, Any], provenance: dict[str, Any]
) -> None:
    """Note where an image lies instead of copying it, as a result that is done.

    What else stands in the result's folder is deleted, labels excepted.

    Parameters
    ----------
    path : Path
        Folder of the result.
    digest : str
        Hash of all that determines the image.
    reference : dict
        What `in_place.InPlace` needs.
    details : dict
        What the step counted in it.
    provenance : dict
        As in `begin`.
    """
    if "reference" not in read_attributes(path):
        remove(path)
    _make_parents(path)
    unet: dict[str, Any] = {"digest": digest, "done": True, "kind": "image", "reference": reference, "details": details}
    write_group(path, {"unet": unet | {"provenance": provenance | {"versions": versions()}}})


def open_image_of(store: Path, sample: str) -> Result | InPlace:
    """Image of a sample, from the store of the step groundtruth or from where it lies."""
    reference = read_attributes(store / sample).get("reference")
    return InPlace(reference) if reference else Result(store / sample)


def finish(path: Path, digest: str, details: dict[str, Any], channels: list[dict[str, Any]] | None = None) -> None:
    """Mark a result as done, and keep what the step counted in it.

    `channels` says how viewers should show its channels (OME-NGFF, ``omero``).
    """
    try:
        attributes = read_group(path)
        unet = attributes["unet"]
    except (OSError, LookupError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); {_repair(path)}") from None
    if unet["digest"] != digest:
        raise UserError(f"{path} is being made anew by another run with other settings or data; this run stops")
    if "reference" not in unet and (gap := next(Result(path, attributes).missing_blocks(), None)) is not None:
        raise UserError(
            f"{path}: block {gap} is gone (another run began it anew, or its file was deleted); run snakemake again"
        )
    if channels:
        attributes["ome"]["omero"] = {"channels": channels}
    write_group(path, attributes | {"unet": unet | {"done": True, "details": details}})


def details_if_done(path: Path, digest: str) -> dict[str, Any] | None:
    """What was counted in a finished result of that digest; None if there is none, or a shard of it is missing."""
    try:
        attributes = read_group(path)
        unet = attributes["unet"]
        if unet["digest"] != digest or not unet["done"]:
            return None
        whole = "reference" in unet or next(Result(path, attributes).missing_blocks(), None) is None
        return unet["details"] if whole else None
    except (OSError, LookupError, ValueError):  # a description is gone
        return None


def read_attributes(path: Path) -> dict[str, Any]:
    """Our attributes of a result (digest, done, kind, details, provenance); empty if there is no result."""
    try:
        return read_group(path)["unet"]
    except (OSError, LookupError, ValueError):
        return {}


def open_labels(store: Path, sample: str) -> tuple[Result, Result, Result]:
    """Instances, classes and ignore mask of a sample, from the store of the step groundtruth."""
    instances, classes, ignore = (Result(store / sample / "labels" / name) for name in LABELS)
    return instances, classes, ignore


def open_weights(store: Path, sample: str) -> tuple[Result, Result]:
    """Target and border term of a sample, from the store of the step weights."""
    return Result(store / sample / "labels" / "target"), Result(store / sample)


def _store_of(path: Path) -> Path:
    """The store that a result belongs to."""
    return next(parent for parent in (path, *path.parents) if parent.suffix == ".zarr")


def _make_parents(path: Path) -> None:
    """Make each folder between the store and the result a Zarr group; list label images as OME-NGFF wants."""
    store = _store_of(path)
    parts = path.relative_to(store).parts
    for depth in range(len(parts)):
        folder = store.joinpath(*parts[:depth])
        if not (folder / "zarr.json").is_file():
            write_group(folder, {})
    if path.parent.name == "labels":
        attributes = read_group(path.parent)
        listed = set(attributes.get("ome", {}).get("labels", []))
        if path.name not in listed:
            write_group(path.parent, attributes | {"ome": {"version": "0.5", "labels": sorted(listed | {path.name})}})


def _ome(path: Path, spec: Spec) -> dict[str, Any]:
    return multiscale(path.name, spec.levels, spec.pixel_size, spec.channels is not None, spec.kind == "labels")


def _create_level(path: Path, spec: Spec, level: int) -> None:
    y, x = (-(-n // 2**level) for n in spec.shape[1:])
    z, by, bx = spec.grid.block
    lead, names = ((spec.channels,), ["c"]) if spec.channels is not None else ((), [])
    shards, chunks = (*lead, z, by >> level, bx >> level), (*(1 for _ in lead), 1, CHUNK >> level, CHUNK >> level)
    write_array(path / str(level), (*lead, spec.shape[0], y, x), shards, chunks, spec.dtype, [*names, "z", "y", "x"])


def _last3(values: Sequence[int]) -> ZYX:
    z, y, x = values[-3:]
    return (z, y, x)
