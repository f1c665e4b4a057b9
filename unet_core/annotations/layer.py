"""What every annotation format is brought to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.blocks import ZYX
from unet_core.images.readers import CZYX, SUFFIXES, open_image, split_internal
from unet_core.patterns import ending_of, nfc


class Image(NamedTuple):
    """An image as its annotations know it.

    Attributes
    ----------
    stem : str
        What ``{stem}`` stands for: its file name without the ending, or what ``{stem}`` stood for in the path of the
        images; with the path inside the file where several arrays of one file are images.
    time : int or None
        Time point in the file, where it has several.
    axes : str
        Of the file, of t c z y x; empty where they are not known.
    folders : tuple of str
        Names of the folders above it, the nearest last.
    file : str
        Its file name without the ending, by which files that annotate many images know it; empty where it is the stem.
    header : str
        Axes as its own file has them, where the configuration says that their order is another.
    """

    stem: str
    time: int | None = None
    axes: str = ""
    folders: tuple[str, ...] = ()
    file: str = ""
    header: str = ""


class Told(NamedTuple):
    """Something to tell of an annotation that was read, which becomes a warning of the check.

    Attributes
    ----------
    kind : str
        One word, the same for all samples.
    text : str
        What.
    """

    kind: str
    text: str


Images = list[Image]
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
    >>> stem_of("train/cell 1.5x.PNG"), stem_of("cell 1.5x"), stem_of("cell.nii.gz")
    ('cell 1.5x', 'cell 1.5x', 'cell')
    """
    name = nfc(name.replace("\\", "/").rpartition("/")[2])
    ending = ending_of(name)
    return name.removesuffix(ending) if ending.lower() in SUFFIXES else name


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
    if any(image.time is not None for image in images):
        raise ValueError(
            f"format {name} annotates one image per file, but axes has a t; use format labels or ctc, "
            "or one file per time point"
        )


def read_volume(path: Path, image: Image, shape: ZYX) -> np.ndarray:
    """One annotation image as an array z, y, x of its own type.

    Parameters
    ----------
    path : Path
        Image file.
    image : Image
        The image that it annotates: of a file with several time points the image's own counts, and where the file does
        not say its axes they are those of the image.
    shape : tuple of int
        Shape of the image that it annotates.

    Raises
    ------
    ValueError
        If it cannot be read, its shape is not that of the image, or it is in colour.
    """
    with opened_view(path, image, shape) as opened:
        z, y, x = (slice(0, n) for n in shape)
        return gray_of(opened[z, y, x], opened, path)


def gray_of(values: np.ndarray, view: CZYX, path: Path) -> np.ndarray:
    """The one channel of an annotation image that holds its values; gray saved as RGB, or with transparency, is gray.

    Parameters
    ----------
    values : ndarray, shape (c, z, y, x)
        All of the image, or a box of it.
    view : CZYX
        What they were read from.
    path : Path
        The file.

    Returns
    -------
    ndarray, shape (z, y, x)

    Raises
    ------
    ValueError
        If it is in colour, or its channels are layers of which only one could be read.
    """
    if len(values) > 2 and (values[:1] != values[:3]).any():
        raise ValueError(
            f"{path}: is in colour, and its colours are no numbers of objects; use format colours, whose key "
            'classes is the table of colours, as in {"#ff0000": cell}, or save it in gray; '
            "if its channels or pages are layers of labels, save each as a file of its own, to be a source of its own"
        )
    if len(values) in (2, 4) and not _is_alpha(values[-1], view, path):
        raise ValueError(
            f"{path}: has {len(values)} channels, and the last is no transparency; only one can be read: save each "
            "as a file of its own, to be a source of its own"
        )
    return values[0]


def _is_alpha(channel: np.ndarray, view: CZYX, path: Path) -> bool:
    """Whether the last of two or four channels is transparency, and not a second layer of labels."""
    if path.suffix.lower() in (".png", ".gif") or not channel.size or (channel == channel.flat[0]).all():
        return True
    if not view.axes.endswith("c") or channel.dtype.kind not in "bu":
        return False
    most = 1 if channel.dtype.kind == "b" else np.iinfo(channel.dtype).max
    return bool(((channel == 0) | (channel == most)).all())


@contextmanager
def opened_view(path: Path, image: Image, shape: ZYX, stored: bool = True) -> Iterator[CZYX]:
    """View of an opened annotation image, to be read box by box; see `read_volume`.

    It has one channel, or up to four where it has colours or transparency; `gray_of` gives the one that counts.
    With `stored`, values are as they are in the file, as indices of palettes.
    """
    file, internal = split_internal(str(path))
    with open_image(file, internal, stored) as opened:
        yield view_of(opened, path, image, shape)


def view_of(opened: Any, path: Path, image: Image, shape: ZYX) -> CZYX:
    """View of an annotation image that is open, for one of the images that it annotates; see `opened_view`."""
    # Checked before pixels are read: what a header claims may not fit into memory.
    axes = _axes(opened.shape, opened.axes, image, shape)
    if axes is None:
        raise ValueError(f"{path}: {_misfit(opened.shape, image, shape)}")
    size = dict(zip(axes, opened.shape, strict=True))
    if image.time is not None and image.time >= size["t"]:
        raise ValueError(
            f"{path}: annotation has {size['t']} pages, but its image has more (page {image.time} is missing)"
        )
    return CZYX(opened, axes, image.time or 0)


def _axes(found: tuple[int, ...], told: str, image: Image, shape: ZYX) -> str | None:
    """Axes of an annotation image that make it fit its image; None if there are none.

    First those that its file tells count, then those of the image, then the usual order. Where the configuration says
    other axes of the image than its file does, what an annotation's file says means the same other axes.
    """
    film = image.time is not None
    order = [axis for axis in image.axes if axis in "tzyx"]
    usual = ["t" if film else "", "z" if shape[0] > 1 else "", "y", "x"]
    meant = dict(zip(image.header, image.axes, strict=False))
    guesses = ["".join(meant[axis] for axis in told)] if told and set(told) <= set(meant) else []
    guesses += [told.replace("q", "t" if film else "z")] if set(told) <= set("qtczyx") else []
    for spatial in (order, usual):
        wanted = [axis for axis in spatial if axis and (axis != "t" or film) and (axis != "z" or shape[0] > 1)]
        plain = "".join(wanted)
        guesses += [plain, f"{plain}c", f"c{plain}"]
        # As in OME-Zarr, whose labels may have all of t c z y x, and in the order of ImageJ.
        guesses += ["".join(axis for axis in "tczyx" if axis in full) for full in ("tzyx", "tczyx", "zyx", "czyx")]
        guesses += ["zcyx", "tzcyx"]
    for axes in guesses:
        if _fits(axes, found, film, shape):
            return axes
    return None


def _fits(axes: str, found: tuple[int, ...], film: bool, shape: ZYX) -> bool:
    if len(axes) != len(found) or len(set(axes)) < len(axes) or (film and "t" not in axes):
        return False
    size = dict(zip(axes, found, strict=True))
    channels = size.get("c", 1)
    return (
        (size.get("z", 1), size.get("y"), size.get("x")) == shape
        and (film or size.get("t", 1) == 1)
        and (channels == 1 or (channels in (2, 3, 4) and "c" in (axes[0], axes[-1])))
    )


def _misfit(found: tuple[int, ...], image: Image, shape: ZYX) -> str:
    """What is wrong with the shape of an annotation."""
    if image.time is not None and len(found) < 3:
        return (
            f"annotation has shape {found}, but its image is time point {image.time} of a film; "
            "it needs a page for each time point"
        )
    plain = found if image.time is None else found[1:]
    while len(plain) > 2 and plain[0] == 1:
        plain = plain[1:]
    wanted = shape if shape[0] > 1 else shape[1:]
    return f"annotation has shape {plain}, but its image has {wanted}{_hint(plain, shape)}"


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


def as_labels(
    array: np.ndarray, path: Path, ignored: int | None = None, background: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Label image as uint32, and where it holds the value of what is to be ignored.

    Parameters
    ----------
    array : ndarray
        Values of the file, of its own type.
    path : Path
        Names the file in errors.
    ignored : int, optional
        Value of ignored pixels: any whole number, as -1 or 2^64 - 3, which are no numbers of objects.
    background : int, optional
        Value that is background beside 0: any whole number, too.

    Returns
    -------
    labels : ndarray of uint32
        0 where a pixel is ignored or background.
    ignore : ndarray of bool or None
        None where no value is to be ignored.

    Raises
    ------
    ValueError
        If other values are negative, no whole numbers, or beyond 2^32 - 1.
    """
    kind = array.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"{path}: labels of type {array.dtype}; needed are whole numbers")
    ignore = None if ignored is None else equal(array, ignored)
    if kind == "b":
        labels = array.astype(np.uint32)
        if background is not None:
            labels[equal(array, background)] = 0
    else:
        known = array
        for blank in (ignore, equal(array, background) if background else None):
            if blank is not None and blank.any():
                known = np.where(blank, np.zeros((), array.dtype), known)
        if kind == "f" and not np.isfinite(known).all():
            raise ValueError(
                f"{path}: {int((~np.isfinite(known)).sum())} pixels are NaN or infinite, which are no labels; "
                "replace them, background by 0"
            )
        if known.size and not (known.min() >= 0 and known.max() < 2**32):
            hint = "; is one of them ignore_label or background?" if known.min() == -1 or known.max() >= 2**32 else ""
            raise ValueError(
                f"{path}: labels must lie between 0 and 2^32 - 1, but go from {known.min()} to {known.max()}{hint}"
            )
        if kind == "f" and (known % 1).any():
            raise ValueError(
                f"{path}: labels must be whole numbers, but some are fractions; was it scaled or smoothed? "
                "Masks with smooth edges are read by format binary with threshold"
            )
        labels = known.astype(np.uint32)
    if ignore is not None:
        labels[ignore] = 0
    return labels, ignore


def equal(array: np.ndarray, value: int) -> np.ndarray:
    """Where an array holds a value, which may not be one of its type."""
    if array.dtype.kind == "b":  # as whole numbers: 255 is not True
        array = array.astype(np.uint8)
    if array.dtype.kind in "iu" and not np.iinfo(array.dtype).min <= value <= np.iinfo(array.dtype).max:
        return np.zeros(array.shape, bool)
    if array.dtype.kind == "f":
        return array == float(value)
    return np.asarray(array == array.dtype.type(value))


def layer_of(labels: np.ndarray, ignore: np.ndarray | None = None) -> Layer:
    """Layer of a label array."""
    position = np.flatnonzero(labels)
    return Layer(position, labels.ravel()[position], NO_POSITIONS if ignore is None else np.flatnonzero(ignore))
