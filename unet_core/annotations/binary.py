"""Binary masks, and boundary maps (ISBI 2012): background and membranes are 0, objects anything else.

Each part that is connected over faces is an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cc3d
import numpy as np

from unet_core.annotations.labels import find
from unet_core.annotations.layer import Layer, as_labels, layer_of, read_volume
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

__all__ = ["find", "read"]


def read(files: tuple[Path, ...], image: tuple[str, int | None], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    for file in files:
        values = as_labels(read_volume(file, image[1], shape), file)
        ignore = values == source.ignore_label if source.ignore_label is not None else None
        if ignore is not None:
            values[ignore] = 0
        # Neighbours share a face: a thin diagonal membrane still separates two cells.
        interiors = cc3d.connected_components(values > 0, connectivity=6)
        yield layer_of(interiors.astype(np.uint32), ignore)
