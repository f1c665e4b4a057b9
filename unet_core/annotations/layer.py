"""What every annotation format is brought to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.blocks import ZYX
from unet_core.images.readers import CZYX, SUFFIXES, open_image, split_internal

Images = list[tuple[str, int | None]]
Found = tuple[dict[int, tuple[Path, ...]], list[str]]


class Layer(NamedTuple):
    """Objects that do not overlap each other.

    Attributes
    ----------
    position : ndarray of int64
        Flat (C order) positions of the object voxels in the z, y, x array.
    label : ndarray of uint32
        Object of each of these voxels, from 1.
    ignore : ndarray of int64
        Flat positions of voxels that are neither learnt nor scored.
    class_name : str or None
        What the annotation calls the class of these objects; None where it does not say.
    name : str or None
        What the annotation calls the object, for messages, where the layer is one object that has a name of its own.
    """

    position: np.ndarray
    label: np.ndarray
    ignore: np.ndarray
    class_name: str | None = None
    name: str | None = None


NO_POSITIONS = np.empty(0, np.int64)


def object_of(position: np.ndarray, class_name: str | None = None, name: str | None = None) -> Layer:
    """Layer of one object."""
    return Layer(position, np.ones(position.size, np.uint32), NO_POSITIONS, class_name, name)


def as_ignored(position: np.ndarray) -> Layer:
    """Layer of an area to ignore."""
    return Layer(NO_POSITIONS, np.empty(0, np.uint32), position)


def stem_of(name: str) -> str:
    """Name of an image without folder and without the ending of an image file; other points belong to the name.

    Examples
    --------
    >>> stem_of("train/cell 1.5x.PNG"), stem_of("cell 1.5x")
    ('cell 1.5x', 'cell 1.5x')
    """
    name = name.replace("\\", "/").rpartition("/")[2]
    head, point, ending = name.rpartition(".")
    return head if point and f".{ending.lower()}" in SUFFIXES else name


def matched(file: Path, images: Images, annotated: set[str]) -> Found:
    """What `find` gives for one file with the annotations of many images."""
    found: dict[int, tuple[Path, ...]] = {
        position: (file,) for position, (stem, _) in enumerate(images) if stem in annotated
    }
    return found, sorted(annotated - {stem for stem, _ in images})


def modified(file: Path) -> int:
    """When a file was last written, in nanoseconds; ValueError if there is none."""
    if not file.is_file():
        raise ValueError(f"no file {file}")
    return file.stat().st_mtime_ns


def one_plane(name: str, file: Path, shape: ZYX) -> tuple[int, int]:
    """Height and width of an image; ValueError for a volume, which a format does not know."""
    if shape[0] != 1:
        raise ValueError(f"{file}: format {name} is for 2D images, but the image has {shape[0]} planes")
    return shape[1:]


def one_image_each(name: str, images: Images) -> None:
    """Raise ValueError where images are time points of a file, which a format cannot tell apart."""
    if any(time is not None for _, time in images):
        raise ValueError(
            f"format {name} annotates one image per file, but axes has a t; use format labels or ctc, "
            "or one file per time point"
        )


def read_volume(path: Path, time: int | None, shape: ZYX) -> np.ndarray:
    """One annotation image as an array z, y, x of its own type.

    Parameters
    ----------
    path : Path
        Image file.
    time : int or None
        Time point, along the first axis of a file that has several.
    shape : tuple of int
        Shape of the image that it annotates.

    Raises
    ------
    ValueError
        If it cannot be read, or its shape is not that of the image.
    """
    with opened_view(path, time, shape) as opened:
        z, y, x = (slice(0, n) for n in shape)
        return opened[z, y, x][0]


@contextmanager
def opened_view(path: Path, time: int | None, shape: ZYX) -> Iterator[CZYX]:
    """View of an opened annotation image, to be read box by box; see `read_volume`."""
    file, internal = split_internal(str(path))
    with open_image(file, internal, stored=True) as opened:
        if time is not None and time >= opened.shape[0]:
            raise ValueError(
                f"{path}: annotation has {opened.shape[0]} pages, but its image has more (page {time} is missing)"
            )
        # Checked before pixels are read: what a header claims may not fit into memory.
        found = opened.shape if time is None else opened.shape[1:]
        plain = found
        while len(plain) > 2 and plain[0] == 1:  # as in OME-Zarr, whose labels may have all of t c z y x
            plain = plain[1:]
        if plain != (shape if shape[0] > 1 else shape[1:]) or len(found) > 5 - (time is not None):
            hint = _hint(plain, shape)
            raise ValueError(
                f"{path}: annotation has shape {found}, but its image has {shape if shape[0] > 1 else shape[1:]}{hint}"
            )
        axes = "czyx"[-len(found) :] if time is not None else "tczyx"[-len(found) :]
        yield CZYX(opened, axes if time is None else f"t{axes}", time or 0)


def _hint(found: tuple[int, ...], shape: ZYX) -> str:
    """What may have happened to an annotation of another shape."""
    wanted = shape[3 - len(found) :] if len(found) in (2, 3) else ()
    if not wanted or 0 in found or 0 in wanted:
        return ""
    if found[-2:] == wanted[:-3:-1]:
        return "; is it transposed?"
    factors = {one / other for one, other in zip(found[-2:], wanted[-2:], strict=True)}
    factor = factors.pop()
    return f"; is it of an image scaled by {factor:g}?" if not factors and factor != 1 else ""


def as_labels(array: np.ndarray, path: Path) -> np.ndarray:
    """Label image as uint32.

    Raises
    ------
    ValueError
        If values are negative, no whole numbers, or beyond 2^32 - 1.
    """
    if array.dtype == bool:
        return array.astype(np.uint32)
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"{path}: labels of type {array.dtype}; needed are whole numbers")
    if array.size and not (np.isfinite(array).all() and array.min() >= 0 and array.max() < 2**32):
        raise ValueError(f"{path}: labels must lie between 0 and 2^32 - 1, but go from {array.min()} to {array.max()}")
    if np.issubdtype(array.dtype, np.floating) and (array % 1).any():
        raise ValueError(f"{path}: labels must be whole numbers")
    return array.astype(np.uint32)


def layer_of(labels: np.ndarray, ignore: np.ndarray | None = None) -> Layer:
    """Layer of a label array."""
    position = np.flatnonzero(labels)
    return Layer(position, labels.ravel()[position], NO_POSITIONS if ignore is None else np.flatnonzero(ignore))
