"""Images that stay where they lie: read box by box from the user's own file, like results are."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import Any

import numpy as np

from unet_core.blocks import ZYX, Box, Grid
from unet_core.images.readers import CZYX, open_image, path_of, to_czyx
from unet_core.images.signatures import changed
from unet_core.runtime import UserError

# Files that a thread keeps open: the next block is mostly of the same one.
MAX_OPEN_FILES = 4
# Voxels of the boxes in which an image is looked through, where its own chunks are smaller.
MIN_PIECE: ZYX = (1, 1024, 1024)

_opened = threading.local()


class InPlace:
    """An image in a file of the user, opened by its description in the store.

    It reads boxes of voxels (z, y, x) like `store.Result`.

    Parameters
    ----------
    reference : dict
        file (a path as the configuration has it: a relative one begins in the working directory), internal, axes, page,
        channels, dtype (of the voxels that are handed out), shape (z, y, x), pixel_size (micrometres along z, y, x),
        and seen: how its files looked when the step groundtruth read them (`FileHashes.looks`).
    """

    def __init__(self, reference: dict[str, Any]) -> None:
        self._reference = reference
        z, y, x = reference["shape"]
        self.shape: ZYX = (z, y, x)
        self.channels = len(reference["channels"])
        self.pixel_size: tuple[float, float, float] = tuple(reference["pixel_size"])
        self.dtype = np.dtype(reference["dtype"])
        a, b, c = reference.get("chunk", (1, 1, 1))
        self.chunk: ZYX = (a, b, c)

    def read(self, box: Box, step: int = 1) -> np.ndarray:
        """Voxels of a box inside the image, shape (c, z, y, x); with a step every n-th one along y and x.

        Raises
        ------
        UserError
            If the file is missing, damaged, not what the step groundtruth looked at, or holds a number that is not
            finite.
        """
        z, *yx = box.slices
        y, x = (slice(one.start, one.stop, step) for one in yx)
        return self._part((z, y, x))

    def preview(self, plane: int, limit: int = 1024) -> np.ndarray:
        """Every n-th pixel of one z plane, so that its sides are within `limit`."""
        step = -(-max(self.shape[1:]) // limit)
        return self._part((slice(plane, plane + 1), slice(0, None, step), slice(0, None, step)))[:, 0]

    def _part(self, zyx: tuple[slice, slice, slice]) -> np.ndarray:
        file = self._reference["file"]
        try:
            part = _view(self._reference)[zyx][self._reference["channels"]]
        except UserError:
            raise
        except (ValueError, OSError) as error:
            raise UserError(f"{error}; the image is used where it lies: put {file} back as it was") from None
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise UserError(f"{file}: not all pixels at {zyx} are finite numbers; replace them")
        return part.astype(self.dtype, copy=False)


def _view(reference: dict[str, Any]) -> CZYX:
    """The opened file; each thread has its own, since not all libraries share them between threads."""
    files: OrderedDict[str, tuple[ExitStack, CZYX]] = _opened.__dict__.setdefault("files", OrderedDict())
    key = repr(reference)
    # A file that is open is looked at for each block, its companions and a folder when it is opened.
    looks = reference.get("seen", ())
    looks = [one for one in looks[:1] if isinstance(one[2], list)] if key in files else looks
    if looks and path_of(reference["file"]).exists() and (others := changed(looks)):  # of one that is gone, see below
        raise UserError(f"{others[0]} changed since the step groundtruth looked at it; run snakemake again")
    if key not in files:
        while len(files) >= MAX_OPEN_FILES:
            files.popitem(last=False)[1][0].close()
        with ExitStack() as stack:
            array = stack.enter_context(open_image(path_of(reference["file"]), reference["internal"]))
            files[key] = (stack.pop_all(), to_czyx(array, reference["axes"], reference["page"]))
    files.move_to_end(key)
    return files[key][1]


def pieces(shape: ZYX, chunk: ZYX | None, most: int) -> list[Box]:
    """Regularly chosen boxes of an image, of at most about `most` voxels together, for statistics of its gray values.

    Parameters
    ----------
    shape : tuple of int
        Of the image along z, y, x.
    chunk : tuple of int or None
        What the file decodes at once.
    most : int
        Voxels.
    """
    z, y, x = (max(a, -(-p // a) * a) if a else p for a, p in zip(chunk or (0, 0, 0), MIN_PIECE, strict=True))
    grid = Grid(shape, (min(z, shape[0]), min(y, shape[1]), min(x, shape[2])))
    count = max(1, min(len(grid), most // math.prod(grid.block)))
    return [grid.box(index * len(grid) // count) for index in range(count)]
