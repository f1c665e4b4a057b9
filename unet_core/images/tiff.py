"""TIFF files: which images they hold, and what their pixels mean."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unet_core.images import ome_tiff
from unet_core.images.decoded import DECODED
from unet_core.images.limits import check_file
from unet_core.images.source import RefusedError, Source, decoded_once, oriented, reading, with_samples_as_channels
from unet_core.images.tiff_colours import with_meaning
from unet_core.images.tiff_pages import Page, Pages, mapped, stored_bits, view

if TYPE_CHECKING:
    import tifffile

# Kinds of slides, whose first and largest image is the one that is meant: others are a label, a map or a thumbnail.
SLIDES = ("svs", "ndpi", "qpi", "avs", "bif", "scn", "philips")
# Tags that must be the same for pages that are read by the header of the first one.
HEADER_TAGS = (256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 339)
REDUCED, MASK = 1, 4


class TiffImage(NamedTuple):
    """An image of a TIFF file.

    Attributes
    ----------
    number : int
        What names it, as in ``scan.tif:1``.
    axes : str
        As tifffile has them.
    shape : tuple of int
        Along these.
    page_at : callable
        Page by its number.
    pages : int
        How many there are.
    series : TiffPageSeries or None
        What tifffile has of it, where its pages are not read one by one.
    """

    number: int
    axes: str
    shape: tuple[int, ...]
    page_at: Callable[[int], Page]
    pages: int
    series: tifffile.TiffPageSeries | None = None


@contextmanager
def open_tiff(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """One image of a file.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Number of the image; needed where there are several.
    stored : bool
        Whether values are wanted as they are stored: indices of palettes, and low ones where these are white.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(DECODED.let_go)
        with reading(path, "TIFF"):
            file, is_set = stack.enter_context(opened(path))
            if is_set:
                pages, lead, axes = ome_tiff.open_set(path, internal, stack)
                source = pages.source(lead, axes)
            else:
                image = chosen(path, images_in(file), internal)
                pages = Pages(image.page_at, image.pages)
                source = _source(path, image, pages)
            source = source._replace(axes=usual_axes(source.axes))
            source = with_samples_as_channels(with_meaning(path, source, pages.keyframe, stored))
            source = oriented(source, int(pages.keyframe.tags.valueof(274) or 1))
        yield source._replace(axes="" if "s" in source.axes else source.axes)


@contextmanager
def opened(path: Path) -> Iterator[tuple[tifffile.TiffFile, bool]]:
    """The file, and whether its OME-XML tells of pages in other files."""
    import tifffile

    # tifffile would open all files of a set for each of them, and show what is missing as black.
    with tifffile.TiffFile(path, _multifile=False) as file:
        _check_pages(file)
        root = ome_tiff.parsed(file.ome_metadata) if file.is_ome else None
        if file.is_ome and root is None:
            file.is_ome = False
        if root is not None:
            ome_tiff.check_counts(root)
        yield file, root is not None and ome_tiff.is_set_of_files(root, path)


def numbers_in(path: Path) -> list[str]:
    """Numbers of the images of a file, where one of them has to be named."""
    with opened(path) as (file, is_set):
        numbers = ome_tiff.numbers_in(path) if is_set else [image.number for image in images_in(file)]
    return [str(number) for number in numbers] if len(numbers) > 1 else []


def chosen(path: Path, images: list[TiffImage], internal: str) -> TiffImage:
    """The image that is named, or the only one.

    Raises
    ------
    RefusedError
        If there is none, or there are several; the message lists them.
    """
    if internal:
        for image in images:
            if str(image.number) == internal.strip("/"):
                return image
        raise RefusedError(f"{path}: has no image {internal}; it has {_listed(images)}")
    if len(images) == 1:
        return images[0]
    if not images:
        raise ValueError("it has no image")
    size = "equal" if len({_described(image) for image in images}) == 1 else "different"
    raise RefusedError(
        f"{path} holds {len(images)} images of {size} size ({_listed(images)}); say which, "
        f"as in {path.name}:{images[-1].number}"
    )


def _listed(images: list[TiffImage]) -> str:
    shown = ", ".join(f"{image.number}: {_described(image)}" for image in images[:10])
    return f"{shown} and {len(images) - 10} more" if len(images) > 10 else shown


def _described(image: TiffImage) -> str:
    return f"{' x '.join(map(str, image.shape))} {image.page_at(0).keyframe.dtype}"


def images_in(file: tifffile.TiffFile) -> list[TiffImage]:
    """Images of one file, without levels, masks and thumbnails; pages that were appended one by one are one image."""
    tags = _tags_of_pages(file)
    if len(tags) > 2 and not _alike(tags):
        file.is_uniform = False  # tifffile looks at a few pages only
    all_series = file.series
    if any(series.dtype is None for series in all_series):
        raise ValueError("values of a kind that is not known")
    shown = [series for series in all_series if not _is_aside(series)] or list(all_series)
    if shown and shown[0].kind in SLIDES:
        return [_image(all_series, max(shown, key=lambda series: math.prod(series.shape)))]
    if not shown:
        return []
    if shown[0].kind == "lsm":
        return [_image(all_series, shown[0])]
    extra = _left_out(file, all_series, tags)
    if shown[0].kind in ("shaped", "generic", "uniform") and len(shown) > 1 and not extra:
        stacked = _stacked(file, shown)
        if stacked is not None:
            return [stacked]
    images = [_image(all_series, series) for series in shown]
    # What no header speaks of is an image of its own, for each size.
    for indices in extra:
        pages = [file.pages[index].aspage() for index in indices]
        axes, shape = pages[0].axes, tuple(pages[0].shape)
        axes, shape = (axes, shape) if len(pages) == 1 else (f"I{axes}", (len(pages), *shape))
        images.append(TiffImage(len(all_series) + len(images) - len(shown), axes, shape, pages.__getitem__, len(pages)))
    return images


def _image(all_series: list[tifffile.TiffPageSeries], series: tifffile.TiffPageSeries) -> TiffImage:
    def page_at(number: int) -> Page:
        page = series[number]
        if page is None:
            raise ValueError(f"page {number} is missing")
        return page

    path = Path(all_series[0].keyframe.parent.filehandle.path)
    strangers = {name for name in map(str, _files(series)) if Path(name).parent != path.parent}
    if strangers:
        raise RefusedError(f"{path}: its pages lie in {min(strangers)}, but only files of its own folder are read")
    missing = sum(page is None for page in series.pages)
    if missing:
        raise RefusedError(f"{path}: its header tells of {len(series)} pages, but {missing} of them are missing")
    number = next(i for i, one in enumerate(all_series) if one is series)
    return TiffImage(number, series.axes, tuple(series.shape), page_at, len(series), series)


def _files(series: tifffile.TiffPageSeries) -> set[Path]:
    return {Path(page.parent.filehandle.path) for page in series.pages if page is not None}


def files_of(path: Path) -> list[Path]:
    """Files with pages of the images of a file: several where Micro-Manager wrote a stack that is no OME-TIFF set."""
    with opened(path) as (file, is_set):
        if is_set:
            planes, descriptions = ome_tiff.files_of(path)
            return planes + descriptions
        found = {one for series in file.series for one in _files(series)} if file.is_micromanager else set()
    return sorted(one for one in found if one.parent == path.absolute().parent)


def _is_aside(series: tifffile.TiffPageSeries) -> bool:
    """Whether a series is a smaller copy, a mask, or shows the slide."""
    page = series.keyframe
    name = (series.name or "").lower().removesuffix(" image")
    return page.is_reduced or page.is_mask or name in ("label", "macro", "map", "thumbnail")


def _stacked(file: tifffile.TiffFile, shown: list[tifffile.TiffPageSeries]) -> TiffImage | None:
    """All pages in the order of the file as one stack, where they have equal size and type."""
    pages: list[Page] = [page for series in shown for page in series]
    if any(page is None or page.parent is not file or len(page.treeindex) > 1 for page in pages):
        return None
    if len({(tuple(page.keyframe.shape), np.dtype(page.keyframe.dtype)) for page in pages}) > 1:
        return None
    shapes = {tuple(series.shape) for series in shown}
    pages.sort(key=lambda page: page.index)
    page = pages[0].keyframe
    if shapes == {tuple(page.shape)} or shown[0].kind != "shaped":
        return TiffImage(0, f"I{page.axes}", (len(pages), *page.shape), pages.__getitem__, len(pages))
    if len(shapes) > 1 or any(len(series) * math.prod(page.shape) != math.prod(series.shape) for series in shown):
        return None
    return TiffImage(0, f"I{shown[0].axes}", (len(shown), *shown[0].shape), pages.__getitem__, len(pages))


def _left_out(
    file: tifffile.TiffFile, all_series: list[tifffile.TiffPageSeries], tags: list[dict[int, Any]]
) -> list[list[int]]:
    """Pages that belong to no series and are no smaller copies or masks, grouped by their sizes."""
    if all_series[0].kind not in ("shaped", "generic", "uniform", "imagej", "ome"):
        return []
    used: set[int] = set()
    for series in all_series:
        for level in series.levels:
            wanted = max(1, math.prod(level.shape) // max(1, math.prod(level.keyframe.shape)))
            first = level.pages[0]
            if len(level.pages) == 1 and first is not None:
                used |= set(range(first.treeindex[0], first.treeindex[0] + wanted))
            used |= {page.treeindex[0] for page in list(level.pages)[:wanted] if page is not None}
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(tags):
        kind = _value(file, one.get(254))
        if index not in used and not kind & (REDUCED | MASK):
            groups.setdefault(tuple(_signature(one)), []).append(index)
    return list(groups.values())


def _check_pages(file: tifffile.TiffFile) -> None:
    """Raise an error if the chain of pages breaks off; tifffile gives the pages before silently."""
    len(file.pages)  # follows the chain to its end
    file.filehandle.seek(file.pages.next_page_offset or 0)
    if file.filehandle.read(file.tiff.offsetsize) != bytes(file.tiff.offsetsize):
        raise ValueError("its list of pages breaks off")


def _tags_of_pages(file: tifffile.TiffFile) -> list[dict[int, tuple[int, int, bytes]]]:
    """Type, count and bytes of the tags of all pages; none of files whose lists of pages are of another kind."""
    tiff, found = file.tiff, list[dict[int, tuple[int, int, bytes]]]()
    if tiff.is_ndpi:
        return found
    data, _ = mapped(Path(file.filehandle.path))
    at = 16 - tiff.offsetsize if tiff.offsetsize == 8 else 4
    seen: set[int] = set()
    while True:
        (start,) = struct.unpack(tiff.offsetformat, data[at : at + tiff.offsetsize].tobytes())
        if not start or start in seen:
            return found
        seen.add(start)
        (count,) = struct.unpack(tiff.tagnoformat, data[start : start + tiff.tagnosize].tobytes())
        begin, at = start + tiff.tagnosize, start + tiff.tagnosize + count * tiff.tagsize
        raw, tags = data[begin:at].tobytes(), dict[int, tuple[int, int, bytes]]()
        for place in range(0, len(raw), tiff.tagsize):
            tag, kind = struct.unpack_from(f"{tiff.byteorder}HH", raw, place)
            (length,) = struct.unpack_from(tiff.offsetformat, raw, place + 4)
            tags[tag] = (kind, length, raw[place + 4 + tiff.offsetsize : place + tiff.tagsize])
        found.append(tags)


def _signature(tags: dict[int, tuple[int, int, bytes]]) -> Iterator[Any]:
    """What must be the same for two pages to be read alike."""
    for tag in HEADER_TAGS:
        kind, count, value = tags.get(tag, (0, 0, b""))
        yield (kind, count, value if count == 1 else b"")


def _alike(tags: list[dict[int, tuple[int, int, bytes]]]) -> bool:
    return len({tuple(_signature(one)) for one in tags}) == 1


def _value(file: tifffile.TiffFile, tag: tuple[int, int, bytes] | None) -> int:
    """A whole number of a tag; 0 if it is not there."""
    if tag is None:
        return 0
    return struct.unpack_from(f"{file.tiff.byteorder}{'H' if tag[0] == 3 else 'I'}", tag[2])[0]


def usual_axes(axes: str) -> str:
    """Letters of t c z y x, s for samples, and q for a stack of unknown kind; empty if several are unknown.

    Examples
    --------
    >>> usual_axes("TCYXS"), usual_axes("IYX"), usual_axes("QQYX")
    ('tcyxs', 'qyx', '')
    """
    letters = re.sub("[^tczyxs]", "q", axes.lower())
    return letters if len(set(letters)) == len(letters) and {"y", "x"} <= set(letters) else ""


def _source(path: Path, image: TiffImage, pages: Pages) -> Source:
    """The pixels of an image as they are stored."""
    series = image.series
    lead = image.shape[: len(image.shape) - len(pages.shape)]
    if series is not None and series.dataoffset is not None:
        data, _ = mapped(path)
        dtype = np.dtype(series.dtype).newbyteorder(pages.keyframe.parent.byteorder)
        array = view(data, image.shape, dtype, series.dataoffset)
        return Source(image.shape, dtype, array.__getitem__, image.axes, (1,) * len(image.shape))
    if image.shape == lead + pages.shape and image.pages >= math.prod(lead):
        return Pages(image.page_at, math.prod(lead)).source(lead, image.axes)
    if series is None:
        raise ValueError(f"its header tells of {image.shape} pixels, and its pages have {pages.shape}")
    check_file(math.prod(image.shape) * stored_bits(pages.keyframe) // 8, path.stat().st_size)
    return decoded_once(image.shape, series.dtype, series.asarray, image.axes)
