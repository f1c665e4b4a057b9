"""Pictures as PNG, JPEG, BMP and GIF."""

from __future__ import annotations

import contextlib
import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_core.images.limits import check_file
from unet_core.images.source import RefusedError, Source, decoded_once, oriented, reading, with_values

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Colour types of PNG.
PNG_GRAY, PNG_RGB, PNG_PALETTE, PNG_GRAY_ALPHA, PNG_RGBA = 0, 2, 3, 4, 6
PNG_CHANNELS = {PNG_GRAY: 1, PNG_RGB: 3, PNG_PALETTE: 1, PNG_GRAY_ALPHA: 2, PNG_RGBA: 4}
# Bytes of pixels that a byte of a file may stand for.
DEFLATE_RATIO, PICTURE_RATIO = 1100, 2600
# Tag of EXIF that says how a picture was held.
ORIENTATION = 274


@contextmanager
def open_png(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """A PNG file: gray values and indices as they are stored, whatever their bits; palettes as colours.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Not used.
    stored : bool
        Whether indices of a palette are wanted, and no channel for pixels that are transparent by their values.
    """
    with reading(path, "PNG"):
        source = _png(path, path.read_bytes(), stored)
    yield source


def _png(path: Path, data: bytes, stored: bool) -> Source:
    import imagecodecs
    from PIL.PngImagePlugin import PngImageFile

    # IHDR: width, height, bits, colour type.
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("it has no header")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS[colour]
    check_file((-(-width * channels * bits // 8) + 1) * height, len(data), DEFLATE_RATIO)
    # Transparency of a palette, or of one gray value or colour.
    transparent = colour in (PNG_GRAY, PNG_RGB, PNG_PALETTE) and b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
    if colour == PNG_PALETTE:
        if stored:
            return decoded_once((height, width), np.uint8, lambda: _pixels(PngImageFile(io.BytesIO(data))), "yx")
        picture = PngImageFile(io.BytesIO(data))
        picture.info.pop("transparency", None) if not transparent else None
        return _palette((height, width), picture, transparent)
    dtype = np.dtype("uint16" if bits == 16 else "uint8")
    count = channels + transparent
    shape, axes = ((height, width), "yx") if count == 1 else ((height, width, count), "yxc")
    source = decoded_once(shape, dtype, lambda: imagecodecs.png_decode(data), axes)
    if bits < 8:  # the decoder scales them to 0 to 255
        factor = 255 // (2**bits - 1)
        scale = np.array([factor, 1][:count], np.uint8) if transparent else np.uint8(factor)
        source = source._replace(read=_divided(source, scale))
    if transparent and stored:
        return _without_last_channel(source)
    return source


def _divided(source: Source, scale: Any) -> Any:
    return lambda box: source.read(box) // (scale[box[-1]] if np.ndim(scale) else scale)


def _without_last_channel(source: Source) -> Source:
    left = source.shape[-1] - 1
    if left == 1:
        return Source(
            source.shape[:-1],
            source.dtype,
            lambda box: source.read((*box, slice(0, 1, 1)))[..., 0],
            source.axes[:-1],
            None,
        )
    return source._replace(shape=(*source.shape[:-1], left))


@contextmanager
def open_picture(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """A JPEG, BMP or GIF file; several frames of a GIF are a stack.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Not used.
    stored : bool
        Whether indices of a palette are wanted.

    Raises
    ------
    RefusedError
        If its colours are not read, or indices are asked for where there are several frames.
    """
    with contextlib.ExitStack() as stack:
        with reading(path, path.suffix[1:].upper()):
            from PIL.BmpImagePlugin import BmpImageFile
            from PIL.GifImagePlugin import GifImageFile
            from PIL.JpegImagePlugin import JpegImageFile

            kinds = {".bmp": BmpImageFile, ".gif": GifImageFile}
            # By its class, since `Image.open` has a limit of pixels of its own, for all threads together.
            picture = stack.enter_context(kinds.get(path.suffix.lower(), JpegImageFile)(path))
            frames = getattr(picture, "n_frames", 1) if path.suffix.lower() == ".gif" else 1
            shape = (picture.height, picture.width)
            size = path.stat().st_size
            check_file(math.prod(shape) * len(picture.getbands()) * frames, size, PICTURE_RATIO)
            source = _picture(path, picture, frames, stored)
            if path.suffix.lower() in (".jpg", ".jpeg"):
                source = oriented(source, picture.getexif().get(ORIENTATION, 1))
        yield source


def _picture(path: Path, picture: ImageFile, frames: int, stored: bool) -> Source:
    shape = (picture.height, picture.width)
    if frames > 1:
        if stored:
            raise RefusedError(f"{path}: has {frames} frames, whose values are not stored one by one; save it as TIFF")
        return decoded_once((frames, *shape, 3), np.uint8, lambda: _frames(picture, frames), "qyxc")
    if picture.mode == "P":
        # These kinds of files have no gray values but in a palette, whose order is that of the program.
        if stored and not _is_gray_picture(picture):
            return decoded_once(shape, np.uint8, lambda: _pixels(picture), "yx")
        return _palette(shape, picture, "transparency" in picture.info)
    if picture.mode in ("1", "L"):
        source = decoded_once(shape, np.bool_ if picture.mode == "1" else np.uint8, lambda: _pixels(picture), "yx")
        return with_values(source, lambda values: values.astype(np.uint8), np.uint8) if picture.mode == "1" else source
    if picture.mode in ("RGB", "RGBA"):
        return decoded_once((*shape, len(picture.mode)), np.uint8, lambda: _pixels(picture), "yxc")
    raise RefusedError(f"{path}: its colours are {picture.mode}, which are not read; save it as RGB")


def _is_gray_picture(picture: ImageFile) -> bool:
    """Whether the colours of a picture are gray values, each once."""
    used = np.unique(_pixels(picture))
    entries = np.array(picture.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    if used.size and used[-1] >= len(entries):
        return False
    colours = entries[used]
    return bool((colours == colours[:, :1]).all()) and np.unique(colours[:, 0]).size == used.size


def _palette(shape: tuple[int, ...], picture: ImageFile, transparent: bool) -> Source:
    """Colours of the palette of a picture; gray values where all of them are gray and none is transparent."""
    mode = "RGBA" if transparent else "RGB"

    def decode() -> np.ndarray:
        return np.asarray(picture.convert(mode))

    entries = np.array(picture.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    if not transparent and (entries == entries[:, :1]).all():
        return decoded_once(shape, np.uint8, lambda: decode()[..., 0], "yx")
    return decoded_once((*shape, len(mode)), np.uint8, decode, "yxc")


def _frames(picture: ImageFile, frames: int) -> np.ndarray:
    found = []
    for number in range(frames):
        picture.seek(number)
        found.append(np.asarray(picture.convert("RGB")))
    return np.stack(found)


def _pixels(picture: ImageFile) -> np.ndarray:
    picture.load()
    return np.asarray(picture)
