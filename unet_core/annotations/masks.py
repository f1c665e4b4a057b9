"""Folders of masks: one image file per object, its pixels nonzero. The path is like ``data/{stem}/masks/*.png``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Found, Image, Images, Layer, Told, object_of, one_image_each, read_volume
from unet_core.annotations.matching import files_of, unique_owners
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.patterns import STEM, matching, nfc


def find(path: str, images: Images, name: str = "masks") -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    if STEM not in path and "*" not in str(Path(path).parent):
        raise ValueError(f"path {path!r} must hold {STEM} where the image's name stands, as in data/{STEM}/masks/*.png")
    one_image_each(name, images)
    found, strangers = files_of(path, images)
    unique_owners(found, images)
    parts = Path(path).parts
    last = next((number for number, part in enumerate(parts) if STEM in part), len(parts) - 1)
    if last == len(parts) - 1:
        return found, strangers
    # All masks of an image lie in one folder, which tells more than a hundred of them.
    stems = {nfc(image.stem) for image in images}
    folders = [match for match in matching(str(Path(*parts[: last + 1])), stems) if match.path.is_dir()]
    return found, [str(match.path) for match in folders if match.stem not in stems]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    import fastremap

    gray = list[tuple[int, str]]()
    for file in files:
        values = read_volume(file, image, shape)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ValueError(f"{file}: {int(np.isnan(values).sum())} pixels are NaN; write 0 where there is no object")
        yield object_of(np.flatnonzero(values), name=file.name)
        if (count := fastremap.unique(values).size) > 2:
            gray.append((count, file.name))
    if gray:
        count, name = gray[0]
        yield Told(
            "grays",
            f"{len(gray)} of {len(files)} masks have more than two values, as {name} ({count}), and all but 0 are "
            "object: objects are too large if masks were smoothed, or saved as JPEG; save them with two values",
        )
