"""One result as an array of voxels: read box by box, written block by block.

Whatever is written goes through a descriptor of the result's folder under which its digest was just read: see
"Crashes" in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import google_crc32c
import numpy as np
import zarr

from unet_core.blocks import ZYX, Box, Grid
from unet_core.failures import explain
from unet_core.files import name_below, open_folder
from unet_core.runtime import UserError
from unet_core.store.ngff import chunk_shape, read_array, read_group
from unet_core.store.pyramid import halve_image, halve_labels
from unet_core.store.shards import PLACE_BYTES, CutShort, has_no_chunk, read_index, read_part, write_shard

CHUNK = 256
BLOCK: ZYX = (8, 1024, 1024)
LEVELS = 4
# What the system says of a folder that was deleted meanwhile, or moved with one above it.
GONE = (errno.ENOENT, errno.ESTALE)

Kind = Literal["image", "labels"]


class Overtaken(UserError):
    """Another run has put its own result in the place of this one's: no fault of what is read."""


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
    def separator(self) -> str:
        """What stands between the numbers in the name of a shard: a lone one needs no folder for each axis."""
        return "." if len(self.grid) == 1 else "/"

    @property
    def levels(self) -> int:
        """Number of resolutions; each halves y and x until they fit one chunk.

        A small image has the finest alone: it is seen at once, and there may be a million of them.
        """
        if len(self.grid) == 1 and max(self.shape[1:]) <= BLOCK[1]:
            return 1
        return 1 + sum(max(self.shape[1:]) > CHUNK * 2**level for level in range(LEVELS - 1))


class Result:
    """A result under construction or done, for reading and writing boxes of voxels (z, y, x).

    Parameters
    ----------
    path : Path
        Folder of the result.
    folder : int, optional
        Descriptor of that folder, if it is open.

    Attributes
    ----------
    digest, generation : str or None
        Of the folder that was opened; see `store.begin`.
    separator : str
        See `Spec.separator`.
    """

    def __init__(self, path: Path, folder: int | None = None) -> None:
        self.path = path
        try:
            # All descriptions are those of one folder, also where another run puts a new one in its place.
            with open_folder(path) if folder is None else contextlib.nullcontext(folder) as here:
                attributes = read_group(Path(), here)
                levels = attributes["ome"]["multiscales"][0]["datasets"]
                finest, *coarser = [read_array(str(level), here, path) for level in range(len(levels))]
            self.pixel_size: tuple[float, float, float] = _last3(levels[0]["coordinateTransformations"][0]["scale"])
            shards, chunks = chunk_shape(finest["chunk_grid"]), chunk_shape(finest["codecs"][0])
            ours = attributes.get("unet", {})
            # Results of former versions have folders for a lone shard, too.
            self.separator: str = finest["chunk_key_encoding"]["configuration"]["separator"]
            crcs = [array["crc"] for array in (finest, *coarser)]
            if ours.get("arrays", crcs) != crcs:
                raise ValueError("the description of an array is damaged")
        except (OSError, LookupError, ValueError) as error:
            pass_refusal(error, path)
            raise UserError(f"{path} is missing or damaged ({error}); {repair(path)}") from error
        self.kind, self.digest, self.generation = (ours.get(key) for key in ("kind", "digest", "generation"))
        self.has_channels = len(finest["shape"]) == 4
        self.grid = Grid(_last3(finest["shape"]), _last3(shards))
        self.shape: ZYX = self.grid.shape
        self._shards, self._chunks = shards, chunks
        self._counts = tuple(n // c for n, c in zip(shards, chunks, strict=True))
        self.chunks_per_shard = math.prod(self._counts)
        self.dtype = np.dtype(finest["data_type"])
        self.chunk_bytes = math.prod(chunks) * self.dtype.itemsize
        self.levels = 1 + len(coarser)
        self.channels: int | None = finest["shape"][0] if self.has_channels else None

    def read(self, box: Box, level: int = 0) -> np.ndarray:
        """Voxels of a box inside the array, shape ([c,] z, y, x), at the finest resolution or at a coarser one.

        Raises
        ------
        UserError
            If a shard is missing (Zarr alone would return zeros) or unreadable.
        """
        lead = self._shards[:-3]
        out = np.empty((*lead, *box.shape), self.dtype)
        chunks = (*self._chunks[:-2], *(c >> level for c in self._chunks[-2:]))
        for index, block in self._grid_at(level).boxes_in(box):
            part, shard = block.overlap(box), self.path / self._shard(index, level)
            wanted = (*(slice(0, n) for n in lead), *part.within(block).slices)
            try:
                read_part(
                    shard,
                    wanted,
                    chunks,
                    self._counts,
                    out[(..., *part.within(box).slices)],
                    self.place(index, level),
                )
            except (FileNotFoundError, NotADirectoryError, CutShort):
                raise UserError(
                    f"{self.path}: block {self.grid.position(index)} is missing or cut short; {repair(self.path)}"
                ) from None
            except (ValueError, OSError) as error:
                pass_refusal(error, shard)
                where = shard.relative_to(self.path)
                raise UserError(f"cannot read {box} of {self.path} ({where}: {error}); {repair(self.path)}") from None
        return out

    def _grid_at(self, level: int) -> Grid:
        """Blocks at a resolution: each has the number that it has at the finest one."""
        (z, y, x), (depth, by, bx) = self.grid.shape, self.grid.block
        return Grid((z, -(-y // 2**level), -(-x // 2**level)), (depth, by >> level, bx >> level))

    def shape_at(self, level: int) -> ZYX:
        """Extent along z, y, x at a resolution."""
        return self._grid_at(level).shape

    def read_all(self) -> np.ndarray:
        """All voxels."""
        return self.read(Box((0, 0, 0), self.shape))

    def preview(self, plane: int, limit: int = 1024) -> np.ndarray:
        """One z plane at the finest resolution whose sides are within `limit`.

        Where no resolution is that small, every n-th pixel of the coarsest is taken.
        """
        levels = [zarr.open_array(self.path / str(level), mode="r") for level in range(self.levels)]
        level = next((a for a in levels if max(a.shape[-2:]) <= limit), levels[-1])
        step = -(-max(level.shape[-2:]) // limit)
        return np.asarray(level[..., plane, ::step, ::step])

    def has_block(self, index: int, folder: int | None = None) -> bool:
        """Whether block number `index` was written, and its shard is not cut short.

        Asked is the folder at the path of the result, or the one of a descriptor.
        """
        shard = self._shard(index)
        return read_index(self.path / shard if folder is None else shard, self.chunks_per_shard, folder) is not None

    def is_empty(self, index: int) -> bool:
        """Whether block number `index` was written without data: see `write`."""
        shard = read_index(self.path / self._shard(index), self.chunks_per_shard)
        return shard is not None and has_no_chunk(shard)

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
        return [self.path / self._shard(index, level) for level in range(self.levels)]

    def missing_blocks(self, folder: int | None = None) -> Iterator[int]:
        """Numbers of the blocks that were not written yet; see `has_block`."""
        return (index for index in range(len(self.grid)) if not self.has_block(index, folder))

    def write(self, index: int, data: np.ndarray | None, digest: str) -> int:
        """Write a block, coarse levels first, so that the shard of the finest level says that all is there.

        Parameters
        ----------
        index : int
            Number of the block.
        data : ndarray or None
            Its voxels, shape ([c,] z, y, x). None: the block is *empty*, which is to be told from one whose voxels came
            out as 0 (`is_empty`); all of its voxels are read as 0, and it takes next to no space.
        digest : str
            What the writer computes; refused if the result has been begun anew with another digest meanwhile.

        Returns
        -------
        int
            What `checksum` says of these shards, from what was written: the files may be those of another run by now.
        """
        with open_for_writing(self.path, digest) as (folder, _):
            if Result(self.path, folder)._layout() != self._layout():
                raise made_anew(self.path)
            pyramid = [None] * self.levels if data is None else self._pyramid(data)
            written: list[list[bytes]] = []
            for level in reversed(range(self.levels)):
                chunk, shard = [*self._chunks[:-2], *(c >> level for c in self._chunks[-2:])], self._shard(index, level)
                place = self.place(index, level)
                written.append(write_shard(Path(shard), pyramid[level], chunk, self._counts, folder, place))
        return functools.reduce(google_crc32c.extend, (part for parts in reversed(written) for part in parts), 0)

    def _pyramid(self, data: np.ndarray) -> list[np.ndarray]:
        """A block at all resolutions."""
        pyramid = [data.astype(self.dtype, copy=False)]
        for _ in range(1, self.levels):
            pyramid.append(halve_labels(pyramid[-1]) if self.kind == "labels" else halve_image(pyramid[-1]))
        return pyramid

    def _layout(self) -> tuple[Any, ...]:
        """What decides which voxels go into which shard."""
        return self.grid, self.levels, self.dtype, self._shards, self._chunks, self.separator

    def place(self, index: int, level: int) -> bytes:
        """What the shard of a block begins with, so that it is not taken for that of another one.

        It depends on where the block lies in the store, and on the resolution.
        """
        within = self.path.relative_to(store_of(self.path)).as_posix()
        return hashlib.blake2b(f"{within}/{self._shard(index, level)}".encode(), digest_size=PLACE_BYTES).digest()

    def _shard(self, index: int, level: int = 0) -> str:
        """File of a block below the folder of the result."""
        lead = (0,) if self.has_channels else ()
        return f"{level}/{self.separator.join(map(str, ('c', *lead, *self.grid.position(index))))}"


def pass_refusal(error: Exception, path: Path, but: Sequence[int] = ()) -> None:
    """Raise an error of the system (no permission, a failing disk) as what it is: the file may be whole.

    Parameters
    ----------
    error : Exception
        Of reading.
    path : Path
        What was read: the file, or the folder that it lies in.
    but : sequence of int
        Numbers of errors (errno) that are not raised.
    """
    if isinstance(error, OSError) and error.errno not in but and explain(error):
        name_below(error, path)
        raise error


@contextlib.contextmanager
def open_for_writing(path: Path, digest: str, generation: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Descriptor of a result's folder, and the attributes of its group, for one who computes that digest.

    A folder has one digest and one generation for its whole life. So what is written through the descriptor never gets
    into a result of another digest: that has another folder, and this one may lie in the trash by now. Where a
    generation is given, it must be that one.

    Raises
    ------
    UserError
        If the result was begun anew, before or meanwhile, or is damaged.
    """
    try:
        with open_folder(path) as folder:
            try:
                attributes = read_group(Path(), folder)
                found = attributes["unet"]["digest"], attributes["unet"].get("generation")
            except (LookupError, ValueError) as error:
                raise UserError(f"{path} is missing or damaged ({error}); {repair(path)}") from None
            if found != (digest, generation or found[1]):
                raise made_anew(path)
            yield folder, attributes
    except OSError as error:
        if error.errno not in GONE:
            name_below(error, path)
            raise
        raise made_anew(path) from None


def made_anew(path: Path) -> Overtaken:
    """What a run is told that is no longer the one that makes a result."""
    return Overtaken(f"{path} is being made anew by another run with other settings or data; this run stops")


def repair(path: Path) -> str:
    """Which commands make again what is missing or damaged of a result, and nothing else."""
    return mending(store_of(path))


def mending(folder: Path) -> str:
    """The same of all that lies below a folder of results, or of a step in it."""
    # By itself a run sees neither flipped bits nor what is missing inside of a store: it looks at times and names.
    return (
        f"run 'python -m unet_core verify --mend {shlex.quote(str(folder))}', then snakemake again, which makes again "
        "what is damaged, and nothing else"
    )


def store_of(path: Path) -> Path:
    """The store that a result belongs to."""
    return next(parent for parent in (path, *path.parents) if parent.suffix == ".zarr")


def _last3(values: Sequence[int]) -> ZYX:
    z, y, x = values[-3:]
    return (z, y, x)
