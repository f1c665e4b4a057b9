"""OME-TIFF whose pages lie in several files: a file per time point, channel or position, and one OME-XML for all."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from unet_core.images.source import RefusedError
from unet_core.images.tiff_pages import Page, Pages

if TYPE_CHECKING:
    import tifffile

# Files of a set that are open at the same time.
MAX_OPEN = 32
# Planes of an image that are believed: more than this many were never recorded, and a list of them would fill memory.
MAX_PLANES = 2**20


class OmeImage(NamedTuple):
    """An image as the OME-XML describes it.

    Attributes
    ----------
    axes : str
        Letters of the axes along which planes are counted, without those of length 1.
    lead : tuple of int
        Their lengths.
    planes : dict
        For the number of a plane, the name of its file and its position there.
    """

    axes: str
    lead: tuple[int, ...]
    planes: dict[int, tuple[str, int]]


def parsed(text: str | None) -> Element | None:
    """OME-XML as a tree; None where it is none, or not safe to read."""
    from defusedxml.ElementTree import fromstring

    try:
        return fromstring(text, forbid_dtd=True) if text else None
    except Exception:  # of many kinds, where it is damaged
        return None


def is_set_of_files(root: Element, path: Path) -> bool:
    """Whether pages, or the description itself, lie in other files."""
    if root.find("{*}BinaryOnly") is not None:
        return True
    own = root.get("UUID")
    uuids = [one for one in root.iter() if one.tag.endswith("}UUID")]
    return any(not _is_own(one, path, own) for one in uuids)


def check_counts(root: Element) -> None:
    """Raise an error if an OME-XML tells of more planes than can be."""
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        if kind == "Pixels":
            counts = [math.prod(int(element.get(f"Size{axis}", 1)) for axis in "ZCT")]
        elif kind == "TiffData":
            counts = [int(element.get(name, 1)) for name in ("PlaneCount", "NumPlanes")]
        else:
            continue
        if min(counts) < 0 or max(counts) > MAX_PLANES:
            raise ValueError(f"its OME-XML tells of {max(counts)} planes")


def open_set(path: Path, internal: str, stack: ExitStack) -> tuple[Pages, tuple[int, ...], str]:
    """Pages of the image that a file belongs to, the lengths of the axes that count them, and all axes.

    Parameters
    ----------
    path : Path
        One of the files.
    internal : str
        Number of the image among those of the set; needed where the file has planes of several.
    stack : ExitStack
        Closes the files at its end.

    Raises
    ------
    RefusedError
        If files or planes are missing, or the file has planes of several images.
    """
    _, image = _chosen(path, internal)
    names = {name for name, _ in image.planes.values()}
    missing = sorted(name for name in names if not (path.parent / name).is_file())
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise RefusedError(
            f"{path}: it is one of {len(names)} files of an image, and {shown} is missing from {path.parent}; "
            "put it there, or save the image as one file"
        )
    count = math.prod(image.lead)
    unknown = count - len(image.planes)
    if unknown:
        raise RefusedError(f"{path}: its OME-XML tells of {count} planes, but not where {unknown} of them lie")
    files = _Files(path)
    stack.callback(files.close)
    pages = Pages(lambda number: files.page(*image.planes[number]), count)
    return pages, image.lead, image.axes + pages.keyframe.axes


def files_of(path: Path, internal: str = "") -> tuple[list[Path], list[Path]]:
    """Files with planes of the image that a file belongs to, and files that describe it; those that are there.

    Parameters
    ----------
    path : Path
        One of the files.
    internal : str
        Number of the image among those of the set.
    """
    root, source = described(path)
    images = images_in(root, path, source)
    wanted = [images[i] for i in ([int(internal)] if internal else _here(images, path))]
    names = sorted({name for image in wanted for name, _ in image.planes.values()})
    found = [path.parent / name for name in names if (path.parent / name).is_file()]
    return found, [] if source == path else [source]


def times_of(path: Path) -> dict[Path, int]:
    """Time point of each file of a set that has a file for each; empty where it has none such."""
    _, image = _chosen(path, "")
    if "T" not in image.axes.upper():
        return {}
    axis = image.axes.upper().index("T")
    times: dict[str, set[int]] = {}
    for number, (name, _) in image.planes.items():
        times.setdefault(name, set()).add(int(np.unravel_index(number, image.lead)[axis]))
    found = {path.parent / name: min(several) for name, several in times.items()}
    alone = all(len(several) == 1 for several in times.values())
    return found if alone and len(set(found.values())) == len(found) else {}


def described(path: Path) -> tuple[Element, Path]:
    """The OME-XML that counts for a file, and the file that it lies in."""
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as file:
        root = parsed(file.ome_metadata)
    if root is None:
        raise ValueError("it has no OME-XML")
    elsewhere = root.find("{*}BinaryOnly")
    if elsewhere is None:
        return root, path
    name = plain(path, elsewhere.get("MetadataFile") or "")
    source = path.parent / name
    if not source.is_file():
        raise RefusedError(f"{path}: {name}, which describes it, is missing from {path.parent}; put it there")
    if source.suffix.lower() in (".tif", ".tiff", ".tf2", ".tf8", ".btf"):
        with tifffile.TiffFile(source, _multifile=False) as file:
            root = parsed(file.ome_metadata)
    else:
        root = parsed(source.read_text(encoding="utf-8"))
    if root is None or root.find("{*}BinaryOnly") is not None:
        raise RefusedError(f"{path}: {name}, which should describe it, has no OME-XML")
    return root, source


def images_in(root: Element, path: Path, source: Path) -> list[OmeImage]:
    """All images that an OME-XML describes.

    Parameters
    ----------
    root : Element
        The OME-XML.
    path : Path
        A file of the set.
    source : Path
        The file that the OME-XML lies in.
    """
    check_counts(root)
    names = {one.text: one.get("FileName") for one in root.iter() if one.tag.endswith("}UUID") and one.get("FileName")}
    told = set(names.values())
    if len(told) == 1 and source == path and path.name not in told and not _exists(path, told):
        names = {text: source.name for text, name in names.items() if plain(path, name or "")}  # it was renamed
    if root.get("UUID"):
        names.setdefault(root.get("UUID"), source.name)
    return [_image(pixels, path, source, names) for pixels in root.iter() if pixels.tag.endswith("}Pixels")]


def number_of(path: Path, internal: str) -> int:
    """Which of the images of a set a file belongs to, from 0; see `open_set`."""
    return _chosen(path, internal)[0]


def numbers_in(path: Path) -> list[int]:
    """Numbers of the images of a set of which a file has planes; of all where it has planes of none."""
    root, source = described(path)
    return _here(images_in(root, path, source), path)


def _here(images: list[OmeImage], path: Path) -> list[int]:
    here = [i for i, image in enumerate(images) if any(name == path.name for name, _ in image.planes.values())]
    return here or list(range(len(images)))


def _chosen(path: Path, internal: str) -> tuple[int, OmeImage]:
    root, source = described(path)
    images = images_in(root, path, source)
    if internal:
        if internal not in map(str, range(len(images))):
            raise RefusedError(f"{path}: has no image {internal}; its OME-XML tells of {len(images)}")
        return int(internal), images[int(internal)]
    here = _here(images, path)
    if not here:
        raise ValueError("its OME-XML tells of no image")
    if len(here) > 1:
        listed = ", ".join(map(str, here[:10]))
        raise RefusedError(
            f"{path} holds planes of {len(here)} images ({listed}); say which, as in {path.name}:{here[-1]}"
        )
    return here[0], images[here[0]]


def _image(pixels: Element, path: Path, source: Path, names: dict[str | None, str | None]) -> OmeImage:
    letters = "".join(reversed(pixels.get("DimensionOrder", "XYZCT")))[:-2]
    channels = [one for one in pixels if one.tag.endswith("}Channel")]
    samples = {int(one.get("SamplesPerPixel", 1)) for one in channels} or {1}
    if len(samples) > 1:
        raise RefusedError(f"{path}: its channels have different numbers of samples, which is not read")
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in letters}
    sizes["C"] //= samples.pop()
    shape = tuple(sizes[axis] for axis in letters)
    planes: dict[int, tuple[str, int]] = {}
    told_planes = 0
    for data in (one for one in pixels if one.tag.endswith("}TiffData")):
        uuid = next((one for one in data if one.tag.endswith("}UUID")), None)
        named = None if uuid is None else names.get(uuid.text) or uuid.get("FileName")
        if named is None and (uuid is not None or source.suffix.lower() == ".ome"):
            raise RefusedError(f"{path}: the OME-XML in {source.name} does not say in which files its planes lie")
        name = plain(path, named) if named else source.name
        first = tuple(int(data.get(f"First{axis}", 0)) for axis in letters)
        begin = int(np.ravel_multi_index(first, shape))
        ifd = int(data.get("IFD", 0))
        told = data.get("PlaneCount") or data.get("NumPlanes") or ("1" if "IFD" in data.attrib else "")
        count = int(told) if told else _pages_in(path.parent / name) - ifd
        told_planes += count
        if told_planes > 2 * MAX_PLANES:
            raise ValueError("its OME-XML tells of too many planes")
        for i in range(min(count, math.prod(shape) - begin)):
            planes[begin + i] = (name, ifd + i)
    left = [i for i, length in enumerate(shape) if length > 1]
    return OmeImage("".join(letters[i] for i in left), tuple(shape[i] for i in left), planes)


def plain(path: Path, name: str) -> str:
    """Name of a file beside another one; an error if it leads elsewhere."""
    if not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise RefusedError(f"{path}: its header names the file {name!r}, but only files of its own folder are read")
    return name


def _is_own(uuid: Element, path: Path, own: str | None) -> bool:
    return (uuid.text == own and own is not None) or uuid.get("FileName") == path.name


def _exists(path: Path, names: set[str | None]) -> bool:
    return any(name and not set(name) & set("/\\:\0") and (path.parent / name).is_file() for name in names)


def _pages_in(file: Path) -> int:
    import tifffile

    if not file.is_file():
        return 1
    with tifffile.TiffFile(file, _multifile=False) as opened:
        return len(opened.pages)


class _Files:
    """The files of a set beside one of them, of which the last ones stay open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: OrderedDict[str, tifffile.TiffFile] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, name: str, number: int) -> Page:
        """A page of one of the files; a ValueError if it has not so many."""
        import tifffile

        with self._lock:
            if name not in self._open:
                while len(self._open) >= MAX_OPEN:
                    self._open.popitem(last=False)[1].close()
                self._open[name] = tifffile.TiffFile(self._path.parent / name, _multifile=False)
            self._open.move_to_end(name)
            pages = self._open[name].pages
            if number >= len(pages):
                raise RefusedError(
                    f"{self._path}: {name} should have a plane at page {number}, but has {len(pages)} pages"
                )
            return pages[number].aspage()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
