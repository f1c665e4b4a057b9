"""Label images: each object's pixels hold its number, 0 is background.

The path holds {stem} where there is one file per image; a file without it has one page per image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Image, Layer, as_labels, layer_of, read_volume
from unet_core.annotations.matching import one_file_each as find
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

__all__ = ["find", "layer_in", "read"]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    for file in files:
        yield layer_in(read_volume(file, image, shape), file, source)


def layer_in(values: np.ndarray, file: Path, source: Annotation) -> Layer:
    """The objects in an array of labels (z y x), all of a file or a part of it; ValueError if they cannot be labels."""
    return layer_of(*as_labels(values, file, source.ignore_label, source.background))
