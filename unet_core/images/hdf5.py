"""HDF5 files: their arrays, and the other files that these are kept in."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_core.images.source import RefusedError, Source, of_array, reading

if TYPE_CHECKING:
    import h5py

# How many files refer to files that refer to files.
MAX_DEPTH = 8


@contextmanager
def open_hdf5(path: Path, internal: str, stored: bool = False) -> Iterator[Source]:
    """One array of a file.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Name of the array; needed where there are several.
    stored : bool
        Not used: HDF5 says nothing of what values mean.

    Raises
    ------
    RefusedError
        If another file that holds its values is missing, or lies outside of the folder of the file.
    """
    with dataset(path, internal) as array:
        with reading(path, "HDF5"):
            check_files(path, array, path)
            source = _external(path, array) if array.external else of_array(array, axes_of(array), array.chunks)
        yield source


@contextmanager
def dataset(path: Path, internal: str) -> Iterator[h5py.Dataset]:
    """The array (`h5py.Dataset`) of a file: the named one, or the only one."""
    with contextlib.ExitStack() as stack:
        with reading(path, "HDF5"):
            import h5py

            file = stack.enter_context(h5py.File(path, "r"))
            arrays = _images(file)
            name = internal.strip("/") or (arrays[0] if len(arrays) == 1 else "")
            array = within(file, name)
        if array is None:
            elsewhere = _links_elsewhere(file)
            hint = (
                f"; {', '.join(elsewhere)} lie in other files, which are to be named in its place" if elsewhere else ""
            )
            raise ValueError(which_array(path, arrays) + hint)
        yield array


def arrays_in(path: Path) -> list[str]:
    """Names of the arrays of a file, where there are several."""
    import h5py

    with h5py.File(path, "r") as file:
        arrays = _images(file)
    return arrays if len(arrays) > 1 else []


def axes_of(array: h5py.Dataset) -> str:
    """Axes of an array as ilastik (`axistags`) writes them, or z y x where Fiji or PlantSeg wrote the size along these.

    Empty where the file does not say.
    """
    tags = array.attrs.get("axistags")
    if tags:
        try:
            axes = "".join(axis["key"] for axis in json.loads(tags)["axes"])
        except (ValueError, TypeError, KeyError):  # written by hand or damaged: it does not say
            axes = ""
    else:
        axes = "zyx" if array.attrs.get("element_size_um") is not None and array.ndim == 3 else ""
    return axes if len(axes) == array.ndim and set(axes) <= set("tczyx") else ""


def files_of(path: Path) -> list[Path]:
    """Other files that hold values of the arrays of a file; those that are there."""
    import h5py

    found, folder = dict[Path, None](), path.parent.resolve()

    def look(at: Path, arrays: list[h5py.Dataset], depth: int) -> None:
        for array in arrays:
            for other, name in _sources(at, array):
                if not other.is_file() or not other.resolve().is_relative_to(folder):
                    continue
                found[other] = None
                if name is not None and depth < MAX_DEPTH:
                    with h5py.File(other, "r") as file:
                        look(other, [file[name]] if name in file else [], depth + 1)

    with h5py.File(path, "r") as file:
        look(path, [file[name] for name in _arrays(file)], 0)
    return sorted(found)


def which_array(path: Path, inside: list[str]) -> str:
    """Message that asks which array of a file is meant."""
    example = inside[0] if inside else "name"
    return f"{path}: say which array, as in {path.name}:{example}; it has {', '.join(inside) or 'none'}"


def _arrays(file: h5py.File) -> list[str]:
    import h5py

    arrays: list[str] = []
    file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
    return arrays


def _images(file: h5py.File) -> list[str]:
    """Names of the arrays that may be images: numbers along two axes or more; of all where there are none."""
    arrays = _arrays(file)
    return [name for name in arrays if file[name].ndim > 1 and file[name].dtype.kind in "biuf"] or arrays


def within(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The array with a name, also behind a link in the file itself; None if it is none, or in another file."""
    import h5py

    node, waiting = file["/"], [part for part in name.split("/") if part]
    if not waiting:
        return None
    for _ in range(MAX_DEPTH * 8):
        if not waiting:
            return node if isinstance(node, h5py.Dataset) else None
        part, *waiting = waiting
        # By the names in the group: links that lead nowhere are not "in" it.
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) and part in set(node) else None
        if isinstance(link, h5py.SoftLink):
            node = file["/"] if link.path.startswith("/") else node
            waiting = [one for one in link.path.split("/") if one] + waiting
        elif isinstance(link, h5py.HardLink):
            node = node[part]
        else:
            return None
    return None


def _links_elsewhere(file: h5py.File) -> list[str]:
    """Names at the top of a file that are links to other files."""
    import h5py

    return [name for name in file if isinstance(file.get(name, getlink=True), h5py.ExternalLink)]


def _external(path: Path, array: h5py.Dataset) -> Source:
    """An array that lies in other files as bytes, which HDF5 would look for in the working folder of the program."""
    pieces, needed = list[np.ndarray](), math.prod(array.shape) * array.dtype.itemsize
    for name, offset, size in array.external:
        left = needed - sum(piece.size for piece in pieces)
        pieces.append(np.memmap(path.parent / name, np.uint8, mode="r")[offset : offset + min(size, left)])
    found = sum(piece.size for piece in pieces)
    if found < needed:
        raise ValueError(f"its header claims {needed} bytes of pixels, but the files beside it have {found}")
    whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return of_array(np.ndarray(array.shape, array.dtype, buffer=whole), axes_of(array))


def _sources(path: Path, array: Any) -> list[tuple[Path, str | None]]:
    """Other files that an array is kept in, with the array there; None for bytes without a structure."""
    found: list[tuple[Path, str | None]] = []
    if array.is_virtual:
        found += [
            (path.parent / source.file_name, source.dset_name)
            for source in array.virtual_sources()
            if source.file_name != "."
        ]
    found += [(path.parent / name, None) for name, _, _ in array.external or ()]
    return list(dict.fromkeys(found))


def check_files(path: Path, array: h5py.Dataset, at: Path, depth: int = 0) -> None:
    """Raise an error if files that hold the values of an array are missing, which would read as its fill value.

    Parameters
    ----------
    path : Path
        The file that is read.
    array : Dataset
        An array in it, or in a file that it refers to.
    at : Path
        The file of the array.
    depth : int
        Files between the two.
    """
    import h5py

    folder, sources = path.parent.resolve(), _sources(at, array)
    outside = [other for other, _ in sources if not other.resolve().is_relative_to(folder)]
    if outside:
        raise RefusedError(
            f"{path}: its values lie in {_some(outside)}, but only files in its own folder {folder} are read"
        )
    missing = [other for other, _ in sources if not other.is_file()]
    if missing:
        raise RefusedError(f"{path}: its values lie in {_some(missing)}, which is missing; put it there")
    if depth > MAX_DEPTH or (depth and array.external):
        raise RefusedError(f"{path}: its values lie in files of files, which are not read; copy them into one array")
    for other, name in sources:
        if name is not None:
            with h5py.File(other, "r") as file:
                if not isinstance(file.get(name), h5py.Dataset):
                    raise RefusedError(f"{path}: its values lie in {other}, which has no array {name}")
                check_files(path, file[name], other, depth + 1)


def _some(files: list[Path]) -> str:
    shown = ", ".join(dict.fromkeys(str(file) for file in files[:3]))
    return f"{shown} and {len(files) - 3} more" if len(files) > 3 else shown
