"""COCO: one JSON file for all images, with polygons or run-lengths; ``iscrowd`` marks areas to ignore.

Images are found by their ``file_name``, and by its folders where several have the same; the names of the categories are
the classes. What the file says of an object is read and checked when its image is.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from unet_core.annotations import raster
from unet_core.annotations.drawn import Drawn
from unet_core.annotations.layer import (
    Found,
    Image,
    Images,
    Layer,
    Told,
    as_ignored,
    modified,
    object_of,
    one_image_each,
    one_plane,
)
from unet_core.annotations.names import Names
from unet_core.annotations.parsed import BOM, Record, read_bytes, told
from unet_core.annotations.spans import lists_in
from unet_core.annotations.traced import Traced
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.files import write_atomic


class _Runs(Record):
    size: tuple[int, int]
    counts: list[int] | str


class _Object(Record):
    id: int | str | None = ""
    image_id: int | str
    category_id: int | str | None = None
    segmentation: list[list[float]] | _Runs | None = None
    iscrowd: int | None = 0


class _Image(Record):
    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class _Category(Record):
    id: int | str
    name: str


_IMAGES, _CATEGORIES = TypeAdapter(list[_Image]), TypeAdapter(list[_Category])


class _Of(Record):
    image_id: int | str


class _Index(NamedTuple):
    """What of a file is kept: all but the objects, whose places in bytes stand in `spans`."""

    images: list[_Image]
    names: Names
    categories: dict[str, str]
    spans: np.ndarray


class _Grouped(NamedTuple):
    """Objects of each image, by their number in the file, from 0, and what is wrong with those of no image."""

    of: dict[str, list[int]]
    lost: list[str]


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("coco", images)
    file = Path(path)
    return _index(file, modified(file)).names.match(images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        size = one_plane("coco", file, shape)
        index = _index(file, modified(file))
        known = index.images[index.names.of(image)]
        if (known.height or size[0], known.width or size[1]) != size:
            raise ValueError(
                f"{file}: {known.file_name} has {known.height} x {known.width} pixels there, but the image has {size}"
            )
        yield from _of_no_image(file, source)
        drawn = Drawn(source, size, f"{file}: {known.file_name}")
        for number, text in _texts(file, known):
            with drawn.object():
                found = _object(text, number, file)
                where = f"{file}: {_called(found, number)}"
                name = _class_of(found, index, where)
                position = _pixels(found.segmentation, size, where, drawn)
                yield as_ignored(position) if found.iscrowd else object_of(position, name, _called(found, number))
        yield from drawn.told()


def content(files: tuple[Path, ...], image: Image) -> list[object]:
    """What of the files concerns one image: what its digest is made of."""
    parts: list[object] = []
    for file in files:
        index = _index(file, modified(file))
        known = index.images[index.names.of(image)]
        part = [known.height, known.width, [_digested(*item, index, file) for item in _texts(file, known)]]
        # What is of no image is told with each of them.
        lost = _grouped(file, modified(file)).lost
        parts.append([*part, len(lost), lost[0]] if lost else part)
    return parts


def _digested(number: int, text: bytes, index: _Index, file: Path) -> tuple[str, str | None]:
    try:
        found = _object(text, number, file)
    except ValueError:  # told when it is read
        return text.decode(errors="replace"), None
    return found.model_dump_json(), index.categories.get(str(found.category_id))


class Written(NamedTuple):
    """An image that `write` puts into a file: its name, height and width, and objects."""

    name: str
    size: tuple[int, int]
    objects: Iterable[Traced]


def write(path: Path, images: Iterable[Written], classes: Sequence[str]) -> None:
    """Write the objects of several images, which `read` gives again with the same pixels and classes.

    An object is its outline, or several where it is in parts, or run-lengths where it has holes, which polygons of COCO
    cannot have.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    images : iterable of Written
        The images, one after the other.
    classes : sequence of str
        Names of the categories; an object whose class is not known is of the first.
    """
    listed, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for image_id, (name, size, objects) in enumerate(images, start=1):
        listed.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for one in objects:
            parts, (top, left), (height, width) = one.parts, one.origin, one.mask.shape
            segmentation: Any = [part[0].ravel().tolist() for part in parts]
            if any(len(part) > 1 for part in parts):
                segmentation = {"size": list(size), "counts": _runs_of(one, size)}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": list(classes).index(one.class_name or classes[0]) + 1,
                    "segmentation": segmentation,
                    "bbox": [left, top, width, height],
                    "area": int(one.mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    document = {"images": listed, "annotations": annotations, "categories": categories}
    write_atomic(path, json.dumps(document, ensure_ascii=False).encode())


def _runs_of(one: Traced, size: tuple[int, int]) -> list[int]:
    """Alternating run-lengths down the columns of the image, background first."""
    (top, left), (_, width) = one.origin, one.mask.shape
    columns = np.zeros((width, size[0]), bool)
    columns[:, top : top + one.mask.shape[0]] = one.mask.T
    ends = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * size[0]
    return np.diff(ends, prepend=0, append=size[0] * size[1]).tolist()


def counts_of(text: str, where: str) -> list[int]:
    """Run-lengths of COCO's compressed form: five bits to a character.

    From the third on, a run-length is stored as its difference to the last but one.

    Examples
    --------
    >>> counts_of("52203", "example")
    [5, 2, 2, 2, 5]
    """
    if text.startswith(("b'", 'b"')):
        raise ValueError(f"{where}: its counts are the text of Python's bytes; write them with counts.decode()")
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{where}: {character!r} in the compressed run-lengths has no meaning")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError(f"{where}: the compressed run-lengths are cut short")
    return counts


def _pixels(
    segmentation: list[list[float]] | _Runs | None, size: tuple[int, int], where: str, drawn: Drawn
) -> np.ndarray:
    """Positions of an object: the union of its polygons, or its run-lengths, which go down the columns."""
    if isinstance(segmentation, _Runs):
        if segmentation.size != size:
            raise ValueError(f"{where}: run-lengths for {segmentation.size} pixels, but the image has {size}")
        counts = segmentation.counts if isinstance(segmentation.counts, list) else counts_of(segmentation.counts, where)
        return raster.transpose_positions(raster.decode_alternating(counts, size, where), size)
    if not segmentation:
        raise ValueError(f"{where}: has no segmentation (a bounding box alone says nothing about pixels)")
    if any(len(ring) % 2 for ring in segmentation):
        raise ValueError(f"{where}: a polygon must be a list x, y, x, y, ...")
    for ring in segmentation:
        drawn.saw(ring)
    return raster.polygons([[np.reshape(ring, (-1, 2))] for ring in segmentation], size, where)


def _called(found: _Object, number: int) -> str:
    return f"annotation {found.id}" if found.id not in ("", None) else f"annotation number {number + 1}"


def _class_of(found: _Object, index: _Index, where: str) -> str | None:
    if found.category_id is None:
        return None
    if str(found.category_id) not in index.categories:
        raise ValueError(f"{where} is of category {found.category_id}, which is not among the categories")
    return index.categories[str(found.category_id)]


def _of_no_image(file: Path, source: Annotation) -> Iterator[Told]:
    """Tell of the objects that belong to no image; ValueError unless these may be left out."""
    lost = _grouped(file, modified(file)).lost
    if lost and source.broken == "error":
        raise ValueError(lost[0] + (f" (and {len(lost) - 1} more of this kind)" if len(lost) > 1 else ""))
    if lost:
        yield Told("broken", f"{len(lost)} annotations belong to no image and are left out; the first: {lost[0]}")


def _texts(file: Path, known: _Image) -> list[tuple[int, bytes]]:
    """Number and text of each object of an image."""
    written = modified(file)
    spans = _index(file, written).spans
    texts = []
    try:
        with file.open("rb") as opened:
            for number in _grouped(file, written).of.get(str(known.id), []):
                start, end = spans[number].tolist()
                opened.seek(start)
                texts.append((number, opened.read(end - start)))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    return texts


def _object(text: bytes, number: int, file: Path) -> _Object:
    """One object; ValueError if it is none."""
    try:
        return _Object.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{file}: {_name_of(text, number)}: {told(error)}") from None


@functools.lru_cache(maxsize=4)
def _index(file: Path, mtime_ns: int) -> _Index:
    """Images, categories, and where each object stands: what is needed before any object is read."""
    data = read_bytes(file)
    mark = len(data) - len(data.removeprefix(BOM))
    lists = lists_in(data[mark:] if mark else data, file, "COCO")
    if missing := [key for key in ("images", "annotations") if key not in lists]:
        raise ValueError(f"{file}: is no COCO file (it has no list {' and no list '.join(missing)}); is it complete?")

    def part(key: str) -> bytes:
        start, end = lists[key][0].tolist() if key in lists else (0, 0)
        return data[start + mark : end + mark] or b"[]"

    try:
        images = _IMAGES.validate_json(part("images"))
        categories = _CATEGORIES.validate_json(part("categories"))
    except ValidationError as error:
        raise ValueError(f"{file}: is no COCO file ({told(error)}); is it complete?") from None
    for kind, listed in (
        ("images", images),
        ("categories", {(str(one.id), one.name): one for one in categories}.values()),
    ):
        twice, count = Counter([*(str(one.id) for one in listed), ""]).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{file}: two {kind} have the id {twice}")
    names = {str(category.id): category.name for category in categories}
    return _Index(images, Names((image.file_name for image in images), file), names, lists["annotations"][1:] + mark)


@functools.lru_cache(maxsize=4)
def _grouped(file: Path, mtime_ns: int) -> _Grouped:
    """Which objects are of which image."""
    index, data = _index(file, mtime_ns), read_bytes(file)
    grouped = _Grouped({str(image.id): [] for image in index.images}, [])
    for number, (start, end) in enumerate(index.spans.tolist()):
        text = data[start:end]
        try:
            image_id = str(_Of.model_validate_json(text).image_id)
            grouped.of[image_id].append(number)
        except ValidationError as error:
            grouped.lost.append(f"{file}: {_name_of(text, number)}: {told(error)}")
        except KeyError:
            grouped.lost.append(
                f"{file}: {_name_of(text, number)} is of image {image_id}, which is not among the images"
            )
    return grouped


def _name_of(text: bytes, number: int) -> str:
    """What an object that cannot be read is called."""
    try:
        return f"annotation {json.loads(text)['id']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"annotation number {number + 1}"
