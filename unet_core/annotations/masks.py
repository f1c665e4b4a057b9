"""Folders of masks: one image file per object, its pixels nonzero. The path is like ``data/{stem}/masks/*.png``."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.labels import unmatched_files
from unet_core.annotations.layer import Found, Images, Layer, object_of, one_image_each, read_volume
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation


def find(path: str, images: Images, name: str = "masks") -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    if "{stem}" not in path:
        raise ValueError(
            f"path {path!r} must hold {{stem}} where the image's name stands, as in data/{{stem}}/masks/*.png"
        )
    one_image_each(name, images)
    before, _, after = path.partition("{stem}")
    found: dict[int, tuple[Path, ...]] = {}
    owner: dict[str, str] = {}
    for position, (stem, _) in enumerate(images):
        files = sorted(
            glob.glob(f"{glob.escape(before)}{glob.escape(stem)}{after.replace('{stem}', glob.escape(stem))}")
        )
        for file in files:
            if owner.setdefault(file, stem) != stem:
                raise ValueError(
                    f"{file} fits both images {owner[file]!r} and {stem!r}; put the masks of each image into a folder "
                    f"{{stem}}"
                )
        if files:
            found[position] = tuple(Path(file) for file in files)
    folders = (
        unmatched_files(f"{before}{{stem}}", {stem for stem, _ in images})
        if before.endswith("/") and after.startswith("/")
        else []
    )
    return found, [folder for folder in folders if Path(folder).is_dir()]


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        yield object_of(np.flatnonzero(read_volume(file, None, shape)), name=file.name)
