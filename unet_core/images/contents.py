"""What of an image file counts as its content: all of it, an array of Zarr, or one image or time point of a TIFF file.

Of a file of which this cannot be told, all of it counts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.digest import Part, digest
from unet_core.images import zarr_images
from unet_core.images.headers import header_of
from unet_core.images.in_place import pieces
from unet_core.images.readers import CZYX, open_image, to_czyx
from unet_core.images.signatures import kind_of, signature_of

Hashed = Callable[[list[Path]], list[str]]


def part_of(path: Path, internal: str, axes: str, time: int | None) -> Part | None:
    """What of an image file a sample reads; None where all of it counts.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Path of the array, or number of the image, inside it.
    axes : str
        Its axes.
    time : int or None
        Position along t.
    """
    kind = kind_of(path)
    if kind == "Zarr":
        return ZarrPart(internal)
    return ImageFrame(internal, axes, time) if kind == "TIFF" and (internal or time is not None) else None


class ZarrPart(NamedTuple):
    """An array of Zarr: its chunks, and what is read of its metadata.

    Attributes
    ----------
    internal : str
        Which one, as `zarr_images.located` takes it.
    """

    internal: str

    @property
    def name(self) -> str:
        """Its name in caches."""
        return f"zarr {self.internal}"

    def seen(self, path: Path) -> Any:
        """See `signatures.signature_of`."""
        return signature_of(path, self.internal)

    def contents(self, path: Path, parts: Sequence[ZarrPart], hashed: Hashed) -> list[str | None]:
        """Hash of each array; see `unet_core.digest.Part`."""
        return [_of_zarr(path, part.internal, hashed) for part in parts]


def _of_zarr(path: Path, internal: str, hashed: Hashed) -> str:
    try:
        described, chunks = zarr_images.content_of(path, internal)
    except (OSError, ImportError):
        raise
    except Exception as error:  # of many kinds, where its description is damaged; reading its pixels tells that
        return digest("damaged", str(error))
    names = [chunk.relative_to(path).as_posix() for chunk in chunks]
    return digest(described, header_of(path, internal), digest(names), hashed(chunks) if chunks else [])


class ImageFrame(NamedTuple):
    """A time point, or one of several images, of a TIFF file.

    Its pixels count, and what the file says of them: not how they are packed, nor how many others there are.

    Attributes
    ----------
    internal : str
        Number of the image.
    axes : str
        Axes of the file.
    time : int or None
        Position along t.
    """

    internal: str
    axes: str
    time: int | None

    @property
    def name(self) -> str:
        """Its name in caches."""
        return f"{self.internal} {self.axes} {self.time}"

    def seen(self, path: Path) -> Any:
        """See `signatures.signature_of`."""
        return signature_of(path)

    def contents(self, path: Path, parts: Sequence[ImageFrame], hashed: Hashed) -> list[str | None]:
        """Hash of each time point; see `unet_core.digest.Part`."""
        found: dict[ImageFrame, str] = {}
        for internal, axes in dict.fromkeys((part.internal, part.axes) for part in parts):
            with contextlib.suppress(ValueError, LookupError), open_image(path, internal) as opened:
                header = header_of(path, internal)
                for part in (one for one in parts if one[:2] == (internal, axes)):
                    with contextlib.suppress(ValueError, LookupError):
                        found[part] = digest(header, hash_of_view(to_czyx(opened, axes, part.time)))
        return [found.get(part) for part in parts]


def hash_of_view(view: CZYX) -> str:
    """Hash of the pixels of one sample, read in pieces."""
    pixels, whole = hashlib.blake2b(digest_size=10), 2**62
    for box in pieces(view.shape[1:], view.chunk, whole):
        pixels.update(view[box.slices].tobytes())
    return digest(view.shape, view.dtype.str, pixels.hexdigest())
