"""Cellpose: the masks that it saves as ``<image>_cp_masks.png`` or ``.tif``, one label image per image.

``<image>_seg.npy`` is not read: it is a pickle, and reading it would run whatever code stands in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unet_core.annotations import labels
from unet_core.annotations.layer import Found, Images, Layer
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

WAY_OUT = (
    "is a pickle, which is not read, as it may run any code; in Cellpose choose 'Save masks as PNG/tif' (or run it "
    "with --save_tif), "
    "and set path to {stem}_cp_masks.png or .tif"
)


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    if path.endswith(".npy"):
        raise ValueError(f"path {path!r}: _seg.npy {WAY_OUT}")
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    return labels.read(files, image, shape, source)
