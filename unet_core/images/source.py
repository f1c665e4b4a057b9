"""An opened array that is read box by box, and views of it whose axes or values are others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.images.urls import masked

Box = tuple[slice, ...]


class Source(NamedTuple):
    """An array in a file.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of its values.
    read : callable
        From one slice per axis, each with a start, a stop and a positive step, to an array of as many axes.
    axes : str
        Letters of t c z y x, and q for a stack of unknown kind; empty where the file does not say.
    chunks : tuple of int or None
        What is decoded at once; None where no part can be read without the rest.
    white_is_zero : bool
        Whether the file says that low values are bright.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Box], np.ndarray]
    axes: str = ""
    chunks: tuple[int, ...] | None = None
    white_is_zero: bool = False


class RefusedError(ValueError):
    """A file that is not damaged but cannot be used as it is; the message is complete and names the file."""


class NotInstalledError(RefusedError, ImportError):
    """A file that is read by a library which is not installed; the message is complete and names the file."""


def _not_installed(path: Path, error: ImportError) -> NotInstalledError:
    package = error.name.partition(".")[0] if error.name else ""
    return NotInstalledError(
        f"{path}: is read by {package}, which is not installed here: pip install {package}"
        if package
        else f"{path}: is read by a library that is not installed here ({error})"
    )


@contextmanager
def passing_over_damage(path: Path) -> Iterator[None]:
    """End quietly where a damaged file raises errors, which are of many kinds: reading its pixels tells them.

    That a library is missing is no damage of a file, and must not be taken for one.
    """
    try:
        yield
    except NotInstalledError:
        raise
    except ImportError as error:
        raise _not_installed(path, error) from None
    except Exception:
        return


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of decoders of damaged files, which are of many kinds, into a ValueError that names the file."""
    try:
        yield
    except RefusedError:
        raise
    except ImportError as error:
        raise _not_installed(path, error) from None
    except Exception as error:
        text = masked((str(error).strip() or type(error).__name__).splitlines()[0], path)
        raise ValueError(f"{path}: cannot be read as {kind} ({text}); is it complete?") from None


def box_of(index: Any, shape: tuple[int, ...]) -> tuple[Box, tuple[int, ...]]:
    """Slices of an index of whole numbers and slices, one for each axis, and the axes that are to be taken away.

    Examples
    --------
    >>> box_of((..., 2, slice(None)), (4, 5, 6))
    ((slice(0, 4, 1), slice(2, 3, 1), slice(0, 6, 1)), (1,))
    """
    index = index if isinstance(index, tuple) else (index,)
    if any(one is Ellipsis for one in index):
        place = next(i for i, one in enumerate(index) if one is Ellipsis)
        index = (*index[:place], *[slice(None)] * (len(shape) - len(index) + 1), *index[place + 1 :])
    if len(index) > len(shape):
        raise IndexError(f"{len(index)} indices for an array of {len(shape)} axes")
    index = (*index, *[slice(None)] * (len(shape) - len(index)))
    box, single = [], []
    for axis, (one, length) in enumerate(zip(index, shape, strict=True)):
        if isinstance(one, slice):
            start, stop, step = one.indices(length)
            if step < 1:
                raise IndexError("arrays of files are read forwards")
            box.append(slice(start, max(start, stop), step))
        else:
            place = range(length)[int(one)]
            box.append(slice(place, place + 1, 1))
            single.append(axis)
    return tuple(box), tuple(single)


def lengths(box: Box) -> tuple[int, ...]:
    """Shape of a box."""
    return tuple(len(range(one.start, one.stop, one.step or 1)) for one in box)


def whole(shape: tuple[int, ...]) -> Box:
    """Box of a whole array."""
    return tuple(slice(0, length, 1) for length in shape)


def of_array(array: Any, axes: str = "", chunks: tuple[int, ...] | None = None, parts: bool = True) -> Source:
    """Source of something with shape, dtype and indexing; with `parts`, pieces of it can be read alone."""
    shape = tuple(array.shape)
    chunks = chunks if chunks is not None else (1,) * len(shape) if parts else None
    return Source(shape, np.dtype(array.dtype), lambda box: np.asarray(array[box]), axes, chunks)


def decoded_once(
    shape: tuple[int, ...], dtype: Any, decode: Callable[[], np.ndarray], axes: str = "", parts: bool = False
) -> Source:
    """Source of an array that is decoded as a whole when it is first asked for."""
    kept: list[np.ndarray] = []

    def read(box: Box) -> np.ndarray:
        if not kept:
            array = decode()
            if array.shape != shape:
                raise ValueError(f"it holds {array.shape} pixels and not {shape}, as its header says")
            kept.append(array)
        return kept[0][box]

    return Source(shape, np.dtype(dtype), read, axes, (1,) * len(shape) if parts else None)


def with_values(
    source: Source, function: Callable[[np.ndarray], np.ndarray], dtype: Any, samples: int | None = None
) -> Source:
    """View with other values; with `samples`, each value becomes as many, along a new last axis c."""
    if samples is None:
        return source._replace(dtype=np.dtype(dtype), read=lambda box: function(source.read(box)))
    return source._replace(
        shape=(*source.shape, samples),
        dtype=np.dtype(dtype),
        read=lambda box: function(source.read(box[:-1]))[..., box[-1]],
        axes=source.axes and f"{source.axes}c",
        chunks=None if source.chunks is None else (*source.chunks, samples),
    )


def oriented(source: Source, orientation: int) -> Source:
    """View that is as the tag Orientation (1 to 8) of TIFF and EXIF says how it is to be seen.

    Raises
    ------
    ValueError
        If the file does not say which axes are y and x, or the number is none of them.
    """
    if orientation == 1:
        return source
    if orientation not in range(2, 9) or not {"y", "x"} <= set(source.axes):
        raise ValueError(f"its orientation {orientation} is not known")
    y, x = source.axes.index("y"), source.axes.index("x")
    turned = orientation >= 5
    # Of the stored picture, before rows and columns are exchanged.
    flipped = {y} if orientation in (3, 4, 6, 7) else set()
    flipped |= {x} if orientation in (2, 3, 7, 8) else set()

    def exchanged(values: Any) -> tuple[Any, ...]:
        found = list(values)
        if turned:
            found[y], found[x] = found[x], found[y]
        return tuple(found)

    def read(box: Box) -> np.ndarray:
        inner, back = list(exchanged(box)), [slice(None)] * len(box)
        for axis in flipped:
            wanted, length = range(inner[axis].start, inner[axis].stop, inner[axis].step or 1), source.shape[axis]
            back[axis] = slice(None, None, -1)
            inner[axis] = (
                slice(length - 1 - wanted[-1], length - wanted[0], wanted.step) if len(wanted) else slice(0, 0, 1)
            )
        part = source.read(tuple(inner))[tuple(back)]
        return np.swapaxes(part, y, x) if turned else part

    chunks = None if source.chunks is None else exchanged(source.chunks)
    return source._replace(shape=exchanged(source.shape), read=read, chunks=chunks)


def with_samples_as_channels(source: Source) -> Source:
    """View in which samples (axis s) are channels (c); where there are both, they are one axis, samples running faster.

    The axis s is where a file keeps the colours of a pixel.
    """
    if "s" not in source.axes:
        return source
    if "c" not in source.axes:
        return source._replace(axes=source.axes.replace("s", "c"))
    s, c = source.axes.index("s"), source.axes.index("c")
    samples, left = source.shape[s], [i for i in range(len(source.shape)) if i != s]

    def read(box: Box) -> np.ndarray:
        # Axes of the box are those of the source but for s.
        outer = dict(zip(left, box, strict=True))
        wanted = range(outer[c].start, outer[c].stop, outer[c].step or 1)
        first, last = (wanted[0] // samples, wanted[-1] // samples + 1) if len(wanted) else (0, 0)
        inner = {**outer, c: slice(first, last, 1), s: slice(0, samples, 1)}
        part = np.moveaxis(source.read(tuple(inner[i] for i in range(len(source.shape)))), s, -1)
        place = left.index(c)
        part = np.moveaxis(part, -1, place + 1)
        part = part.reshape(*part.shape[:place], -1, *part.shape[place + 2 :])
        return np.take(part, [one - first * samples for one in wanted], axis=place)

    sizes = list(source.shape)
    sizes[c] *= samples
    chunks = None if source.chunks is None else [*source.chunks]
    if chunks is not None:
        chunks[c] *= samples
    return source._replace(
        shape=tuple(sizes[i] for i in left),
        read=read,
        axes="".join(source.axes[i] for i in left),
        chunks=None if chunks is None else tuple(chunks[i] for i in left),
    )
