"""What the pixels of an image file look like: an image, numbers of objects, a mask, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import fastremap
import numpy as np
from scipy.ndimage import binary_erosion

from unet_core.images.headers import Header, header_of
from unet_core.images.readers import FILE_TYPES, open_image
from unet_core.patterns import ending_of

# Values that are looked at in each file, and bytes of files that must be decoded as a whole for that.
MAX_VALUES, MAX_DECODED = 2**23, 2**30
# In a mask most pixels of objects have the same value as their neighbour; in images noise makes them differ.
MIN_EQUAL = 0.66
# Colours of a mask of classes, and gray values of one.
MAX_COLOURS, MAX_CLASSES = 12, 8


@dataclass(frozen=True)
class Look:
    """What was seen in one array of a file.

    Attributes
    ----------
    kind : str
        image, labels, binary, smooth (binary with smoothed edges), colours; unseen where it is too large to be looked
        at.
    shape : tuple of int
        As images are read, of which those with palettes have colours.
    dtype : str
        Type of the values.
    header : Header
        What the file says of itself.
    file_type : str
        As TIFF.
    values : tuple of int
        Of masks, the values that occur, up to 1000; of colours the colours, as 0xRRGGBB.
    parts : int
        Of masks, connected parts of equal values beside background.
    zeros : int
        Of masks of two values, connected parts of 0.
    foreground : float
        Share of pixels of masks that are not 0.
    most : int
        The value of most pixels.
    colour_channels : int
        Of images with colours in their last axis, how many there are.
    gray : bool
        Whether these channels (but the transparency) are equal.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    header: Header
    file_type: str
    values: tuple[int, ...] = ()
    parts: int = 0
    zeros: int = 0
    foreground: float = 0.0
    most: int = 0
    colour_channels: int = 0
    gray: bool = False


def look_at(path: Path, internal: str = "") -> Look:
    """Look at the pixels of a file, or at some of them where it is large.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    with open_image(path, internal) as opened:
        shape, dtype = tuple(opened.shape), np.dtype(opened.dtype)
    with open_image(path, internal, stored=True) as opened:
        seen = Look("unseen", shape, str(dtype), header_of(path, internal), FILE_TYPES[ending_of(path).lower()])
        lazily = getattr(opened, "chunks", None) is not None
        if not lazily and math.prod(opened.shape) * np.dtype(opened.dtype).itemsize > MAX_DECODED:
            return seen
        # Colours by the shape as stored: a palette is no colour of a mask.
        coloured = colour_axis(tuple(opened.shape))
        values = _part(opened, coloured)
    if 0 in values.shape:
        raise ValueError(f"{path}: has no pixels (shape {shape})")
    seen = Look("image", shape, str(dtype), seen.header, seen.file_type, colour_channels=colour_axis(shape))
    if not coloured:
        return _mask_or_image(seen, values)
    colours = values[..., :3] if coloured > 2 else values[..., :1]
    if (colours == colours[..., :1]).all():
        return _mask_or_image(_with(seen, gray=True), colours[..., 0])
    packed = np.zeros(colours.shape[:-1], np.uint32)
    if values.dtype == np.uint8:
        packed = (colours.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32)
        found, counts = fastremap.unique(packed, return_counts=True)
        if found.size <= MAX_COLOURS:
            most = int(found[counts.argmax()])
            parts = _count_parts(packed, most)
            return _with(seen, kind="colours", values=tuple(found.tolist()), most=most, parts=parts)
    return seen


def colour_axis(shape: tuple[int, ...]) -> int:
    """How many colours the last axis of a shape has; 0 if it seems to be none of colours.

    Examples
    --------
    >>> colour_axis((64, 64, 3)), colour_axis((3, 64, 64))
    (3, 0)
    """
    return shape[-1] if len(shape) > 2 and shape[-1] in (2, 3, 4) and min(shape[-3:-1]) > 4 else 0


def _with(look: Look, **changes: Any) -> Look:
    return Look(**{**look.__dict__, **changes})


def _part(opened: Any, coloured: int) -> np.ndarray:
    """Values from the middle of an array: whole planes where these are small enough."""
    shape = opened.shape
    keep, spatial = [slice(0, length) for length in shape], len(shape) - bool(coloured)
    for axis in range(spatial):
        others = math.prod(part.stop - part.start for number, part in enumerate(keep) if number != axis)
        length = max(1 if axis < spatial - 2 else 64, MAX_VALUES // max(others, 1))
        if length < shape[axis]:
            start = (shape[axis] - length) // 2
            keep[axis] = slice(start, start + length)
    values: np.ndarray = opened[tuple(keep)]
    return values


def _mask_or_image(seen: Look, values: np.ndarray) -> Look:
    values = np.atleast_2d(values.squeeze())
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values % 1).any() or np.abs(values).max() >= 2**32:
            return seen
        values = values.astype(np.int64)
    if values.dtype.kind not in "biu":
        return seen
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    found, counts = fastremap.unique(values, return_counts=True)
    most = int(found[counts.argmax()])
    told = {
        "values": tuple(found[:1000].tolist() if found.size <= 1000 else [*found[:999].tolist(), int(found[-1])]),
        "foreground": float((values != 0).mean()),
        "most": most,
    }
    if found.size <= 2:
        zeros = _count_parts((values == 0).astype(np.uint8), 0)
        return _with(seen, kind="binary", parts=_count_parts(values, most), zeros=zeros, **told)
    if _smooth(values, found, counts):
        return _with(seen, kind="smooth", **told)
    if _share_of_equal(values, most) < MIN_EQUAL:
        return seen
    return _with(seen, kind="labels", parts=_count_parts(values, most), **told)


def _smooth(values: np.ndarray, found: np.ndarray, counts: np.ndarray) -> bool:
    """Whether most pixels are near the least or the largest value, and the others at edges between them."""
    low, high = float(found[0]), float(found[-1])
    if found.size < 4 or low < 0 or high < 16:
        return False
    near = 0.08 * (high - low)
    dark, bright = counts[found <= low + near].sum(), counts[found >= high - near].sum()
    between = counts.sum() - dark - bright
    others = counts[(found > low + near) & (found < high - near)]
    if not dark or 2 * bright < between or others.size < 2:
        return False
    # Beside the ends no value stands for an object: each has few pixels, or all lie in thin lines.
    edges = (values > low + near) & (values < high - near)
    inside = binary_erosion(edges, np.ones((1,) * (values.ndim - 2) + (3, 3))).sum()
    return bool((bright > between and others.max() * 4 < bright) or inside * 10 < between)


def _share_of_equal(values: np.ndarray, most: int) -> float:
    """Of pixels beside the most frequent value, how many are equal to a neighbour along x or y, whichever is more."""
    shares = []
    for axis in (-1, -2):
        moved = np.moveaxis(values, axis, 0)
        before, after = moved[:-1], moved[1:]
        objects = before != most
        shares.append(float((before == after)[objects].mean()) if objects.any() else 0.0)
    return max(shares)


def _count_parts(values: np.ndarray, most: int) -> int:
    """Connected parts of equal values beside the most frequent one, or beside 0 where there is 0."""
    background = 0 if (values == 0).any() else most
    planes = values.reshape(-1, *values.shape[-2:])
    # Of volumes a plane tells as much.
    plane = planes[len(planes) // 2]
    numbers = fastremap.renumber(np.where(plane == background, 0, plane.astype(np.int64) + 2**33))[0]
    return int(cc3d.connected_components(numbers.astype(np.uint32), connectivity=8, return_N=True)[1])


@dataclass(frozen=True)
class Masks:
    """What masks of several files have in common.

    Attributes
    ----------
    kind : str
        labels, binary, smooth, colours or classes (gray values that stand for classes).
    values : tuple of int
        All that occur, without the one to ignore.
    ignored : int or None
        A value that may mark pixels to ignore.
    background : int or None
        A value beside 0 that may be background.
    foreground : float
        Share of pixels that are not 0.
    inverted : bool
        Whether it is 0 that looks like objects.
    each : bool
        Of colours, whether each is one part in each file, as if it stood for an object.
    """

    kind: str
    values: tuple[int, ...]
    ignored: int | None = None
    background: int | None = None
    foreground: float = 0.0
    inverted: bool = False
    each: bool = False


def masks_of(looks: Sequence[Look]) -> Masks:
    """What masks of several files, of which each looked like one, have in common."""
    values = sorted({value for look in looks for value in look.values})
    kinds = {look.kind for look in looks}
    foreground = sum(look.foreground for look in looks) / len(looks)
    if "colours" in kinds:
        usual = looks[0].most if 0 not in values and len({look.most for look in looks}) == 1 else None
        expected = sum(len({*look.values} - {0, usual}) for look in looks)
        each = len({*values} - {0, usual}) > 2 and sum(look.parts for look in looks) <= expected
        return Masks("colours", tuple(values), None, usual, foreground, each=each)
    if "smooth" in kinds:
        return Masks("smooth", tuple(values), None, None, foreground)
    ignored = _ignored(values, looks)
    known = tuple(value for value in values if value != ignored)
    # Where nothing is 0, the least value is background if it has most pixels everywhere.
    background = known[0] if known and 0 not in known and all(look.most == known[0] for look in looks) else None
    objects = [value for value in known if value not in (0, background)]
    if len(known) <= 2 and len(objects) <= 1:
        parts, zeros = (sum(getattr(look, name) for look in looks) for name in ("parts", "zeros"))
        inverted = ignored is None and background is None and foreground > 0.5 and zeros > 2 * parts
        return Masks("binary", known, ignored, background, foreground, inverted)
    expected = sum(len(set(look.values) - {0, ignored, background}) for look in looks)
    parts = sum(look.parts for look in looks) - (len(looks) if ignored is not None else 0)
    several = len(objects) <= MAX_CLASSES and parts >= 2 * expected and parts > expected + 1
    return Masks("classes" if several else "labels", known, ignored, background, foreground)


def _ignored(values: Sequence[int], looks: Sequence[Look]) -> int | None:
    """A value that stands apart from the numbers of objects: -1, or the largest of a type."""
    if values[0] < 0:
        return values[0] if len(values) > 1 and values[1] >= 0 else None
    last = values[-1]
    objects = [value for value in values[:-1] if value]
    if len(objects) < 2 and objects != [1]:
        return None
    if last not in (2**8 - 1, 2**16 - 1, 2**32 - 1) or values[-2] * 2 > last:
        return None
    return last if sum(last in look.values for look in looks) * 2 >= len(looks) else None
