"""Label images: each object's pixels hold its number, 0 is background.

The path holds {stem} where there is one file per image; a file without it has one page per image.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Found, Images, Layer, as_labels, layer_of, read_volume
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.images.readers import split_internal


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    if "{stem}" not in path and len({stem for stem, _ in images}) > 1:
        raise ValueError(f"path {path!r} is one file for many images; write {{stem}} where the image's name stands")
    found: dict[int, tuple[Path, ...]] = {}
    for position, (stem, _) in enumerate(images):
        file = Path(path.replace("{stem}", stem))
        if split_internal(str(file))[0].exists():
            found[position] = (file,)
    return found, unmatched_files(path, {stem for stem, _ in images})


def unmatched_files(path: str, stems: set[str]) -> list[str]:
    """Files (or folders) that fit the pattern but belong to none of the images."""
    head, stem, tail = split_internal(path)[0].as_posix().partition("{stem}")
    if not stem or "{stem}" in tail:
        return []
    files = glob.glob(f"{glob.escape(head)}*{glob.escape(tail)}")
    return sorted(file for file in files if file[len(head) : len(file) - len(tail)] not in stems)


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    for file in files:
        yield layer_in(read_volume(file, image[1], shape), file, source)


def layer_in(values: np.ndarray, file: Path, source: Annotation) -> Layer:
    """The objects in an array of labels (z y x), all of a file or a part of it; ValueError if they cannot be labels."""
    labels = as_labels(values, file)
    ignore = labels == source.ignore_label if source.ignore_label is not None else None
    if ignore is not None:
        labels[ignore] = 0
    return layer_of(labels, ignore)
