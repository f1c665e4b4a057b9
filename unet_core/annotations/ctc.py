"""Cell Tracking Challenge folders: ``01_GT/SEG/man_segNNN.tif`` holds the cells of frame NNN.

A frame without a mask is not annotated; it is not empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unet_core.annotations import labels
from unet_core.annotations.layer import Found, Images, Layer
from unet_core.blocks import ZYX
from unet_core.config import Annotation


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    folder = Path(path) if Path(path).name == "SEG" else Path(path) / "SEG"
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; path must name a folder like 01_GT with SEG/man_seg*.tif in it")
    masks = {int(match.group(1)): file for file in folder.iterdir() if (match := re.fullmatch(r"man_seg(\d+)\.tiff?", file.name))}
    if not masks:
        raise ValueError(f"no man_segNNN.tif in {folder}")
    found: dict[int, tuple[Path, ...]] = {}
    owner: dict[Path, str] = {}
    for position, (stem, page) in enumerate(images):
        digits = re.search(r"(\d+)$", stem)
        frame = page if page is not None else int(digits.group(1)) if digits else None
        if frame in masks:
            found[position] = (masks[frame],)
            if owner.setdefault(masks[frame], stem) != stem:
                raise ValueError(
                    f"{masks[frame]} fits both images {owner[masks[frame]]!r} and {stem!r}; make each sequence a data set of its own"
                )
    return found, sorted(file.name for file in masks.values() if file not in owner)


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    # Each mask file is one frame, also where the images of all frames are pages of one file.
    return labels.read(files, (image[0], None), shape, source)
