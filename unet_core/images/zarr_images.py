"""OME-Zarr and Zarr: which images a folder holds, and whether their chunks are there."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.images.hdf5 import which_array
from unet_core.images.source import RefusedError, Source, of_array, reading
from unet_core.images.urls import filled

# Groups of a folder that are looked through for images.
MAX_GROUPS, MAX_DEPTH = 1000, 5
# Chunks, and folders of them, that are looked at to tell whether an array changed.
MAX_LOOKS = 400
_DESCRIPTIONS = ("zarr.json", ".zattrs", ".zarray")


class ZarrArray(NamedTuple):
    """An array, found.

    Attributes
    ----------
    folder : Path
        Of the array.
    header : dict
        Its metadata.
    image : dict or None
        The image of OME-NGFF that it belongs to.
    dataset : dict or None
        What that image says of it.
    group : dict
        Metadata of the group of the image.
    """

    folder: Path
    header: dict[str, Any]
    image: dict[str, Any] | None
    dataset: dict[str, Any] | None
    group: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.header["shape"])

    @property
    def axes(self) -> str:
        """Its axes; empty where they are not told."""
        told = (self.image or {}).get("axes") or self.header.get("dimension_names") or []
        if self.image is not None and not told and len(self.header.get("shape", ())) == 5:
            told = list("tczyx")  # OME-NGFF before 0.3 has always these, and does not write them
        names = [axis.get("name") if isinstance(axis, dict) else axis for axis in told]
        axes = "".join(
            name.lower() if isinstance(name, str) and name.lower() in set("tczyx") else "?" for name in names
        )
        fits = len(axes) == len(self.header.get("shape", axes)) and len(set(axes)) == len(axes)
        return axes if fits and "?" not in axes else ""


@contextmanager
def open_zarr(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """One array of a folder: itself, the finest level of an image, or the one that is named.

    Parameters
    ----------
    path : Path
        The folder, or what a URL names.
    internal : str
        The image or array in it; needed where there are several.
    stored : bool
        Whether it may be empty: an annotation without objects has no chunks, an image without chunks has lost them.
    """
    found = located(path, internal)
    with reading(path, "Zarr"):
        import zarr

        if not stored and 0 not in found.shape and "://" not in str(path) and not any(True for _ in _chunks(found)):
            raise RefusedError(f"{path}: the array {_inside(path, found)} has none of its chunks; was it copied whole?")
        folder = filled(found.folder)
        options = getattr(folder, "storage_options", None)
        array = zarr.open_array(str(folder), mode="r", storage_options=options)
        source = of_array(array, found.axes, array.chunks)
    yield source


def located(path: Path, internal: str, header_only: bool = False) -> ZarrArray:
    """Where an array lies, and what is said of it.

    Parameters
    ----------
    path : Path
        The folder.
    internal : str
        The image or array in it.
    header_only : bool
        Whether an image will do whose array is not there.

    Raises
    ------
    ValueError
        If it is not there, or there are several; the message lists them.
    """
    internal = internal.strip("/")
    node = path / internal
    with reading(path, "Zarr"):
        group = attributes(node)
        multiscales = group.get("multiscales")
        image = dataset = None
        if multiscales:
            if len(multiscales) > 1:
                raise RefusedError(_ask(path, internal, [one["datasets"][0]["path"] for one in multiscales]))
            image, dataset = multiscales[0], multiscales[0]["datasets"][0]
            node /= dataset["path"]
        header = _json(node / "zarr.json") or _json(node / ".zarray")
        if not multiscales:
            image, dataset, group = _image_of(path, internal)
        if "shape" not in header and image is None and "://" not in str(path):
            inside = arrays_in(path, internal, of_layout=True)
            if len(inside) == 1:
                return located(path, inside[0])
    if "shape" not in header and not (header_only and image):
        raise ValueError(which_array(path, [] if "://" in str(path) else _listed(path)))
    return ZarrArray(node, header, image, dataset, group)


def arrays_in(path: Path, internal: str = "", of_layout: bool = False) -> list[str]:
    """Names of the images in a folder, or else its arrays; none where it is one image.

    Parameters
    ----------
    path : Path
        The folder.
    internal : str
        A group in it, to which they belong.
    of_layout : bool
        Only those that the group itself names: of a plate, a well, or a file of several images (bioformats2raw).
    """
    node = path / internal
    group = attributes(node)
    prefix = f"{internal}/" if internal else ""
    multiscales = group.get("multiscales")
    if multiscales:
        return [f"{prefix}{one['datasets'][0]['path']}" for one in multiscales] if len(multiscales) > 1 else []
    if "plate" in group:
        wells = [one["path"] for one in group["plate"]["wells"]]
        named = [f"{prefix}{well}/{one}" for well in wells for one in _fields(node / well)]
    elif "well" in group:
        named = [f"{prefix}{one}" for one in _fields(node)]
    elif "bioformats2raw.layout" in group:
        series = attributes(node / "OME").get("series")
        numbered = [child.name for child in node.iterdir() if child.name.isdigit()] if node.is_dir() else []
        named = [f"{prefix}{one}" for one in series or sorted(numbered, key=int)]
    else:
        named = []
    return named if of_layout or named else _below(path, internal)


def missing_chunks(path: Path, internal: str = "") -> tuple[int, int]:
    """How many chunks (of sharded arrays: shards) are missing, and how many there should be.

    Missing chunks are legal in Zarr and read as the fill value; an interrupted copy leaves chunks out, too.

    Parameters
    ----------
    path : Path
        The folder; of a URL none is said to be missing.
    internal : str
        The image or array in it.

    Raises
    ------
    ValueError
        If there is no such array.
    """
    found = located(path, internal)
    total = math.prod(_counts(found))
    if "://" in str(path):
        return 0, total
    return total - sum(1 for _ in _chunks(found)), total


def content_of(path: Path, internal: str) -> tuple[dict[str, Any], list[Path]]:
    """What describes the pixels of an array, and the files of its chunks in a fixed order.

    Files of other arrays beside it, of viewers and of the system are none of it.
    """
    found = located(path, internal)
    described = {
        key: value for key, value in found.header.items() if key not in ("attributes", "consolidated_metadata")
    }
    return described, [found.folder / key for key in sorted(_chunks(found))]


def looks_of(path: Path, internal: str) -> list[Any]:
    """What tells, mostly, whether an array changed, without looking at each of its files.

    These are size and time of the files that describe it, of up to `MAX_LOOKS` of its chunks, regularly chosen, and the
    times of the folders that they lie in: these change with each file that appears, goes, or is renamed into its place,
    as Zarr's libraries write. Not noticed is a chunk of a larger array, or one in a folder that none of the chosen
    chunks lies in, that is written over in its place.
    """
    try:
        found = located(path, internal)
        files = [path / name for name in _DESCRIPTIONS]
        for node in (*reversed(found.folder.relative_to(path).parents), found.folder.relative_to(path)):
            files += [path / node / name for name in _DESCRIPTIONS]
        chunks = chosen_chunks(found, MAX_LOOKS)
    except Exception:  # of many kinds, where its description is damaged; reading its pixels tells that
        return ["damaged", *(_look(path / name) for name in ("", *_DESCRIPTIONS))]
    folders = {found.folder: None} | {folder: None for file in chunks for folder in _folders(file, found.folder)}
    looked = [_look(file) for file in (*dict.fromkeys(files), *chunks)]
    return [*looked, *(_look(folder)[1:] for folder in [*folders][:MAX_LOOKS])]


def chosen_chunks(found: ZarrArray, most: int) -> list[Path]:
    """Where regularly chosen chunks of an array lie, whether they are there or not."""
    prefix, separator = _keys(found.header)
    counts = _counts(found)
    total = math.prod(counts)
    chosen = range(total) if total <= most else [number * total // most for number in range(most)]
    return [found.folder / (prefix + separator.join(map(str, _position(number, counts)))) for number in chosen]


def _position(number: int, counts: list[int]) -> list[int]:
    position = []
    for count in reversed(counts):
        number, rest = divmod(number, count)
        position.append(rest)
    return position[::-1]


def _folders(file: Path, top: Path) -> Iterator[Path]:
    """Folders that a chunk lies in, up to that of its array."""
    for folder in file.parents:
        if folder == top:
            return
        yield folder


def _look(file: Path) -> list[int]:
    """Size and time; of a file that is not there, none."""
    try:
        status = file.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def attributes(node: Path) -> dict[str, Any]:
    """OME-NGFF metadata of a group, version 0.5 or earlier."""
    found = _json(node / "zarr.json").get("attributes") or _json(node / ".zattrs")
    return found.get("ome", found)


def _grid(header: dict[str, Any]) -> tuple[int, ...]:
    """Shape of what is one file."""
    return tuple(header["chunks"] if "chunks" in header else header["chunk_grid"]["configuration"]["chunk_shape"])


def _counts(found: ZarrArray) -> list[int]:
    """Files of chunks along each axis."""
    return [-(-length // part) for length, part in zip(found.shape, _grid(found.header), strict=True)]


def _keys(header: dict[str, Any]) -> tuple[str, str]:
    """How names of chunks begin, and what is between their numbers."""
    if "chunks" in header:
        return "", header.get("dimension_separator", ".")
    encoding = header.get("chunk_key_encoding", {"name": "default"})
    is_default = encoding.get("name", "default") == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    return f"c{separator}" if is_default else "", separator


def _chunks(found: ZarrArray) -> Iterator[str]:
    """Files of chunks that are there and in the array."""
    before, separator = _keys(found.header)
    counts = _counts(found)
    pattern = re.compile(re.escape(before) + re.escape(separator).join(["([0-9]+)"] * len(counts)))
    for folder, _, names in os.walk(found.folder):
        inside = os.path.relpath(folder, found.folder).replace(os.sep, "/")
        for name in names:
            key = pattern.fullmatch(name if inside == "." else f"{inside}/{name}")
            if key and all(int(one) < count for one, count in zip(key.groups(), counts, strict=True)):
                yield key.group()


def _image_of(path: Path, internal: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any]]:
    """Image, level and group that an array belongs to."""
    parts = internal.split("/") if internal else []
    for depth in range(len(parts) - 1, -1, -1):
        group = attributes(path.joinpath(*parts[:depth]))
        for image in group.get("multiscales", []):
            for dataset in image["datasets"]:
                if dataset["path"].strip("/") == "/".join(parts[depth:]):
                    return image, dataset, group
    return None, None, {}


def _ask(path: Path, internal: str, names: list[str]) -> str:
    return which_array(path, [f"{internal}/{name}" if internal else name for name in names])


def _fields(well: Path) -> list[str]:
    return [f"{one['path']}" for one in attributes(well).get("well", {}).get("images", [])]


def _below(path: Path, internal: str) -> list[str]:
    """Images and arrays below a group, those of an image not counted alone."""
    found: list[str] = []
    waiting = [(path / internal, 0)]
    for node, depth in waiting:
        if len(waiting) > MAX_GROUPS:
            break
        header = _json(node / "zarr.json") or _json(node / ".zarray")
        if "shape" in header or attributes(node).get("multiscales"):
            if node != path:
                found.append(node.relative_to(path).as_posix())
        elif depth < MAX_DEPTH and node.is_dir():
            waiting += [(child, depth + 1) for child in sorted(node.iterdir()) if child.is_dir()]
    return sorted(found)


def _listed(path: Path) -> list[str]:
    """What can be named, for a message; folders where nothing is found."""
    if not path.is_dir():
        return []
    return arrays_in(path) or sorted(child.name for child in path.iterdir() if child.is_dir())


def _inside(path: Path, found: ZarrArray) -> str:
    return found.folder.relative_to(path).as_posix()


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(filled(file).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
