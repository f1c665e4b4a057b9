"""Connected components of an array that is seen block by block.

The components of a block are kept as run-lengths (`run_lengths`), joined over the blocks' faces, and put together.

What is known of all components stands in files of a scratch folder, which are mapped into memory: the system keeps of
them what fits, so that a volume of any size needs no more memory than a few of its blocks.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.blocks import ZYX, Grid
from unet_core.compiled import compiled
from unet_core.files import PARSING, make_room, naming, open_atomic
from unet_core.instances.run_lengths import Measures, RunLengths

# One row per component: its first voxel (raster number in the whole sample), size, bounding box, and the object before
# it.
COMPONENT = np.dtype([("first", "<i8"), ("voxels", "<i8"), ("low", "<i4", 3), ("high", "<i4", 3), ("owner", "<i8")])
# Labels on the first and on the last plane along z, y and x.
Faces = tuple[np.ndarray, ...]


def component_rows(found: Measures, start: ZYX, shape: ZYX) -> np.ndarray:
    """Rows of COMPONENT from the measurements of a block that starts at `start`, in a sample of `shape`."""
    rows = np.zeros(len(found.voxels), COMPONENT)
    rows["first"] = np.ravel_multi_index(tuple((found.first + np.array(start)).T), shape)
    rows["low"], rows["high"] = found.low + np.array(start), found.high + np.array(start)
    rows["voxels"], rows["owner"] = found.voxels, -1
    return rows


def faces_of(run_lengths: RunLengths, shape: ZYX) -> Faces:
    """Labels on the six faces of a block of `shape`."""
    return _six(_faces(*run_lengths, *shape), shape)


def save_part(path: Path, run_lengths: RunLengths, shape: ZYX, more: dict[str, np.ndarray]) -> None:
    """Write what is kept of a block of `shape`, whole or not at all.

    Kept are its run-lengths, the labels on its faces, and the arrays in `more`.
    """
    flat = _faces(*run_lengths, *shape)
    start = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    compact = run_lengths._replace(label=run_lengths.label.astype(np.int32))
    save_arrays(path, shape=np.array(shape), face_start=start, face_label=flat[start], **compact._asdict(), **more)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays into a file that appears whole or not at all, whatever ends the process."""
    # Not durable: a file that a power failure damages counts as missing, for `load_arrays`.
    with open_atomic(path, durable=False) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    """Some arrays of a file (without names: all); None where it is missing or damaged, so that it is to be made."""
    try:
        with path.open("rb") as file, np.load(file) as arrays, PARSING:
            return {name: arrays[name] for name in names or arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def run_lengths_from(arrays: dict[str, np.ndarray]) -> RunLengths:
    """Run-lengths of a block from its file."""
    return RunLengths(arrays["rows"], arrays["start"], arrays["stop"], arrays["label"].astype(np.int64))


def faces_from(arrays: dict[str, np.ndarray]) -> Faces:
    """Labels on the six faces of a block from the arrays shape, face_start and face_label of its file."""
    z, y, x = arrays["shape"].tolist()
    size = 2 * (z * y + y * x + x * z)
    return _six(np.repeat(arrays["face_label"], np.diff(arrays["face_start"], append=size)), (z, y, x))


def _six(flat: np.ndarray, shape: ZYX) -> Faces:
    """Six faces that stand one after the other."""
    z, y, x = shape
    shapes = [(y, x), (y, x), (z, x), (z, x), (z, y), (z, y)]
    ends = np.cumsum([a * b for a, b in shapes])[:-1]
    return tuple(face.reshape(shape) for face, shape in zip(np.split(flat, ends), shapes, strict=True))


def contacts(
    index: int, grid: Grid, faces: Callable[[int], Faces], connectivity: str, planes: bool = False
) -> list[tuple[int, np.ndarray]]:
    """Components of a block that are one with components of the blocks after it.

    Parameters
    ----------
    index : int
        Number of the block.
    grid : Grid
        The blocks.
    faces : callable
        Gives the faces of a block.
    connectivity : {"faces", "full"}
        Neighbours of a voxel.
    planes : bool
        Voxels in different z planes are no neighbours.

    Returns
    -------
    list of (int, ndarray of int64, shape (pairs, 2))
        Number of the other block, and labels in the one and in the other.
    """
    found = []
    own, place, slack = faces(index), grid.position(index), int(connectivity == "full")
    for direction in itertools.product((-1, 0, 1), repeat=3):
        there = tuple(p + d for p, d in zip(place, direction, strict=True))
        beside = sum(map(abs, direction)) == 1
        inside = all(0 <= t < n for t, n in zip(there, grid.counts, strict=True))
        if direction > (0, 0, 0) and inside and (beside or slack) and not (planes and direction[0]):
            other = int(np.ravel_multi_index(there, grid.counts))
            opposite = tuple(-d for d in direction)
            codes = _meeting(_side(own, direction), _side(faces(other), opposite), 0 if planes else slack, slack)
            pairs = np.unique(codes)
            if pairs.size:
                found.append((other, np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)))
    return found


def _side(faces: Faces, direction: tuple[int, ...]) -> np.ndarray:
    """Labels on the face, edge or corner of a block that lies in a direction.

    They are an array of two axes; z, if it is one of them, is the first.
    """
    axis = next(i for i, d in enumerate(direction) if d)
    plane = faces[2 * axis + (direction[axis] > 0)]
    ends = {-1: slice(0, 1), 0: slice(None), 1: slice(-1, None)}
    return np.ascontiguousarray(plane[tuple(ends[d] for i, d in enumerate(direction) if i != axis)])


class Forest(NamedTuple):
    """Components of all blocks, and which of them are one object.

    They are counted through in raster order of their first voxels.

    Attributes
    ----------
    offsets : ndarray of int64
        Number of components before each block.
    ids : ndarray of int64
        Number of each component, block by block.
    components : ndarray of COMPONENT
        By number; from `collect_objects` on, the row of an object's first component is that of the object.
    roots : ndarray of int64
        By number: from `collect_objects` on, the first component of the object.
    """

    offsets: np.ndarray
    ids: np.ndarray
    components: np.ndarray
    roots: np.ndarray

    def of_block(self, index: int) -> np.ndarray:
        """Numbers of the components of a block."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def share(self, *arrays: np.ndarray) -> None:
        """Write what was changed of mapped files, so that workers on other machines see it.

        A sample of one block stays with one worker, and files that soon are deleted need not reach the disk.
        """
        for array in arrays:
            if isinstance(array, np.memmap) and len(self.offsets) > 2:
                array.flush()


def build_forest(found: Iterable[tuple[int, np.ndarray]], grid: Grid, folder: Path) -> Forest:
    """Number the components of all blocks, each a tree of its own in a disjoint-set forest.

    Blocks whose voxels lie between each other in raster order, a layer of blocks, are held in memory together.

    Parameters
    ----------
    found : iterable of (int, ndarray of COMPONENT)
        Number of each block and its components, in any order.
    grid : Grid
        The blocks.
    folder : Path
        Gets the files; it must exist.
    """
    width = layer_width(grid)
    waiting: dict[int, np.ndarray] = {}
    counts, done, following = np.zeros(len(grid), np.int64), 0, 0
    with naming(folder), (folder / "ids").open("wb") as ids, (folder / "components").open("wb") as components:
        for index, rows in found:
            waiting[index] = rows
            counts[index] = len(rows)
            while following < len(grid) and all(n in waiting for n in range(following, following + width)):
                layer = np.concatenate([waiting.pop(n) for n in range(following, following + width)])
                order = np.argsort(layer["first"], kind="stable")
                rank = np.empty(len(layer), np.int64)
                rank[order] = np.arange(done, done + len(layer))
                # Not `tofile`, whose errors do not tell that the disk is full.
                ids.write(rank.tobytes())
                components.write(layer[order].tobytes())
                done, following = done + len(layer), following + width
        (folder / "offsets").write_bytes(np.concatenate([[0], np.cumsum(counts)]).tobytes())
    mapped(folder / "roots", np.dtype("<i8"), done)[:] = np.arange(done)
    return open_forest(folder, "r+")


def open_forest(folder: Path, mode: str = "r") -> Forest:
    """The forest that was planted in a folder."""
    kinds = {"ids": np.dtype("<i8"), "components": COMPONENT, "roots": np.dtype("<i8")}
    return Forest(
        np.fromfile(folder / "offsets", np.int64),
        *(mapped(folder / name, kind, mode=mode) for name, kind in kinds.items()),
    )


def mapped(path: Path, kind: np.dtype, size: int | None = None, mode: str = "r") -> np.ndarray:
    """A file as an array; with `size`, a new one of zeros."""
    if size is not None:
        make_room(path, size * kind.itemsize)
        mode = "r+"
    # An empty file cannot be mapped.
    return np.memmap(path, kind, mode) if path.stat().st_size else np.empty(0, kind)  # type: ignore[call-overload]


def layer_width(grid: Grid) -> int:
    """Number of blocks, one after the other, whose voxels lie between each other in raster order."""
    _, rows, columns = grid.counts
    return columns if grid.block[0] == 1 or grid.shape[0] == 1 else rows * columns


def merge_components(forest: Forest, index: int, other: int, pairs: np.ndarray) -> None:
    """Note that components of two blocks belong to one object; `pairs` are those of `contacts`."""
    _merge(forest.roots, forest.of_block(index)[pairs[:, 0] - 1], forest.of_block(other)[pairs[:, 1] - 1])


def collect_objects(forest: Forest) -> None:
    """Add up the components of each object in the row of its first component."""
    rows = forest.components
    _collect(forest.roots, rows["voxels"], rows["low"], rows["high"])
    forest.share(forest.roots, rows)


def objects_by_block(
    forest: Forest, grid: Grid, wanted: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers of the objects that begin in each block, of those that are wanted.

    Parameters
    ----------
    forest : Forest
        After `collect_objects`.
    grid : Grid
        The blocks.
    wanted : callable
        Which of some rows of COMPONENT, as a mask.
    """
    width = layer_width(grid)
    for begin in range(0, len(grid), width):
        a, b = forest.offsets[begin], forest.offsets[begin + width]
        numbers = np.arange(a, b)
        numbers = numbers[(forest.roots[a:b] == numbers) & wanted(forest.components[a:b])]
        zyx = np.unravel_index(forest.components["first"][numbers], grid.shape)
        block = np.ravel_multi_index(tuple(p // n for p, n in zip(zyx, grid.block, strict=True)), grid.counts)
        for index in np.unique(block):
            yield int(index), numbers[block == index]


def number_objects(
    forest: Forest, least: int, split: np.ndarray, pieces: np.ndarray, folder: Path
) -> tuple[np.ndarray, np.ndarray, int]:
    """Final labels 1, 2, ... in raster order of first voxels.

    Parameters
    ----------
    forest : Forest
        After `collect_objects`.
    least : int
        Objects and pieces of fewer voxels get 0.
    split : ndarray of int64
        Numbers of the objects whose pieces get labels instead, sorted.
    pieces : ndarray of int64, shape (pieces, 2)
        First voxel and size of each piece of these objects.
    folder : Path
        Gets the file of labels.

    Returns
    -------
    labels : ndarray of int64
        By number of the component.
    piece_labels : ndarray of int64
    count : int
        Number of labels.
    """
    labels, piece_labels = (
        mapped(folder / "labels", np.dtype("<i8"), len(forest.roots)),
        np.zeros(len(pieces), np.int64),
    )
    order = np.flatnonzero(pieces[:, 1] >= least)
    order = order[np.argsort(pieces[order, 0], kind="stable")]
    rows = forest.components
    ordered, count = _number(forest.roots, rows["first"], rows["voxels"], least, split, pieces[order, 0], labels)
    piece_labels[order] = ordered
    forest.share(labels)
    return labels, piece_labels, count


@compiled
def _faces(rows, start, stop, label, depth, height, width):  # type: ignore[no-untyped-def]
    """Labels on the six faces of a block, one face after the other."""
    z1, y0 = height * width, 2 * height * width
    y1 = y0 + depth * width
    x0 = y1 + depth * width
    x1 = x0 + depth * height
    faces = np.zeros(x1 + depth * height, np.uint32)
    for r in range(rows.size - 1):
        z, y = r // height, r % height
        for n in range(rows[r], rows[r + 1]):
            a, b, value = start[n], stop[n], label[n]
            if z == 0:
                faces[y * width + a : y * width + b] = value
            if z == depth - 1:
                faces[z1 + y * width + a : z1 + y * width + b] = value
            if y == 0:
                faces[y0 + z * width + a : y0 + z * width + b] = value
            if y == height - 1:
                faces[y1 + z * width + a : y1 + z * width + b] = value
            if a == 0:
                faces[x0 + r] = value
            if b == width:
                faces[x1 + r] = value
    return faces


@compiled
def _meeting(a, b, slack_y, slack_x):  # type: ignore[no-untyped-def]
    """Pairs of labels on two sides that lie against each other, also when shifted by slack.

    A pair is coded as 2**32 times one label plus the other.
    """
    height, width = a.shape
    found, count = np.empty(1024, np.int64), 0
    for dy in range(-slack_y, slack_y + 1):
        for dx in range(-slack_x, slack_x + 1):
            before = -1
            for y in range(max(0, -dy), min(height, height - dy)):
                for x in range(max(0, -dx), min(width, width - dx)):
                    if a[y, x] == 0 or b[y + dy, x + dx] == 0:
                        continue
                    code = (np.int64(a[y, x]) << 32) + b[y + dy, x + dx]
                    if code != before:
                        if count == found.size:
                            found = np.concatenate((found, found))
                        found[count] = before = code
                        count += 1
    return found[:count]


@compiled
def _root(roots, n):  # type: ignore[no-untyped-def]
    while roots[n] != n:
        roots[n] = roots[roots[n]]
        n = roots[n]
    return n


@compiled
def _merge(roots, left, right):  # type: ignore[no-untyped-def]
    for k in range(left.size):
        a, b = _root(roots, left[k]), _root(roots, right[k])
        roots[max(a, b)] = min(a, b)


@compiled
def _collect(roots, voxels, low, high):  # type: ignore[no-untyped-def]
    for n in range(roots.size):
        # What a component points to comes before it, and points to its root already.
        root = roots[roots[n]]
        roots[n] = root
        if root != n:
            voxels[root] += voxels[n]
            for axis in range(3):
                low[root, axis] = min(low[root, axis], low[n, axis])
                high[root, axis] = max(high[root, axis], high[n, axis])


@compiled
def _number(roots, first, voxels, least, split, pieces, labels):  # type: ignore[no-untyped-def]
    """Count objects and pieces in the order of their first voxels."""
    piece_labels = np.zeros(pieces.size, np.int64)
    s = p = count = 0
    for n in range(roots.size):
        if roots[n] != n:
            labels[n] = labels[roots[n]]
            continue
        while p < pieces.size and pieces[p] < first[n]:
            count += 1
            piece_labels[p] = count
            p += 1
        if s < split.size and split[s] == n:
            s += 1
        elif voxels[n] >= least:
            count += 1
            labels[n] = count
    for q in range(p, pieces.size):
        count += 1
        piece_labels[q] = count
    return piece_labels, count
