"""Cell Tracking Challenge folders: ``01_GT/SEG/man_segNNN.tif`` (or ``01_ST``) holds the cells of frame NNN.

A frame without a mask is not annotated; it is not empty. Of a volume single slices may be annotated
(``man_seg_NNN_ZZZ.tif``): the others are ignored. Gold truth may leave out cells: where ``01_GT/TRA`` marks one that no
mask covers, all of the frame outside of its masks is ignored. A path that ends with TRA reads the markers as objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Found, Image, Images, Layer, as_labels, layer_of, read_volume
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

FILE_PREFIXES = {"SEG": "man_seg", "TRA": "man_track"}


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    folder = Path(path) if Path(path).name in FILE_PREFIXES else Path(path) / "SEG"
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; path must name a folder like 01_GT with SEG/man_seg*.tif in it")
    masks = _frames(folder)
    if not masks:
        raise ValueError(f"no {FILE_PREFIXES[folder.name]}NNN.tif in {folder}")
    tracks = _frames(folder.parent / "TRA") if folder.name == "SEG" and folder.parent.name.endswith("GT") else {}
    found: dict[int, tuple[Path, ...]] = {}
    owner: dict[int, Image] = {}
    for position, image in enumerate(images):
        stem, time = image.stem, image.time
        digits = re.search(r"(\d+)$", stem)
        frame = time if time is not None else int(digits.group(1)) if digits else None
        if frame is not None and frame in masks:
            found[position] = (*masks[frame], *tracks.get(frame, ()))
            first = owner.setdefault(frame, image)
            if (first.stem, first.folders) != (stem, image.folders):
                raise ValueError(
                    f"{masks[frame][0]} fits both images {first.stem!r} and {stem!r}, in /{'/'.join(first.folders)} "
                    f"and /{'/'.join(image.folders)}; "
                    "make each sequence a data set of its own"
                )
    return found, sorted(file.name for frame, files in masks.items() for file in files if frame not in owner)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    # Each mask file is one frame, also where the images of all frames are pages of one file.
    frame = image._replace(time=None)
    masks = [file for file in files if file.parent.name == "SEG"]
    slices = {_slice_of(file): file for file in masks}
    if not masks or None in slices:
        painted = as_labels(read_volume(masks[0] if masks else files[0], frame, shape), files[0])[0]
        ignore = np.zeros(shape, bool)
    else:
        painted, ignore = np.zeros(shape, np.uint32), np.ones(shape, bool)
        for plane, file in slices.items():
            if plane is None or plane >= shape[0]:
                raise ValueError(f"{file}: annotates slice {plane}, but the image has {shape[0]}")
            painted[plane], ignore[plane] = as_labels(read_volume(file, frame, (1, *shape[1:])), file)[0][0], False
    for file in files if masks else ():
        if file.parent.name == "TRA":
            markers = as_labels(read_volume(file, frame, shape), file)[0]
            markers[ignore] = 0
            if set(np.unique(markers).tolist()) - set(np.unique(markers[painted > 0]).tolist()) - {0}:
                ignore |= painted == 0
    yield layer_of(painted, ignore)


def _frames(folder: Path) -> dict[int, tuple[Path, ...]]:
    """Mask files of each frame."""
    frames: dict[int, tuple[Path, ...]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := re.fullmatch(rf"{FILE_PREFIXES[folder.name]}(\d+|_\d+_\d+)\.tiff?", file.name):
            frame = int(match.group(1).strip("_").partition("_")[0])
            frames[frame] = (*frames.get(frame, ()), file)
    return frames


def _slice_of(file: Path) -> int | None:
    match = re.search(r"\d_(\d+)\.tiff?$", file.name)
    return int(match.group(1)) if match else None
