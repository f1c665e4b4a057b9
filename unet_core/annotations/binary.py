"""Binary masks, and boundary maps (ISBI 2012): background and membranes are 0, objects anything else.

Each connected part is an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.layer import Image, Layer, Told, as_labels, equal, layer_of, read_volume
from unet_core.annotations.matching import one_file_each as find
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

__all__ = ["find", "read"]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image; see `unet_core.annotations`."""
    import cc3d
    import fastremap

    for file in files:
        values = read_volume(file, image, shape)
        ignore = None if source.ignore_label is None else equal(values, source.ignore_label)
        inside = values > source.threshold if source.threshold is not None else ~equal(values, source.background or 0)
        if ignore is not None:
            inside &= ~ignore
        if source.threshold is None:
            labels = as_labels(values, file, source.ignore_label, source.background)[0]
            grays = fastremap.unique(values if ignore is None else values[~ignore]).size
            if grays > 2:
                yield Told(
                    "grays",
                    f"{file.name} has {grays} different values, and all but {source.background or 0} are object; "
                    "smooth edges join neighbours: if it was smoothed, or saved as JPEG, set threshold, as in "
                    f"threshold: {int(labels.max()) // 2}; if values are numbers of objects, use format labels",
                )
        # Over faces, a thin diagonal membrane still separates two cells.
        parts = cc3d.connected_components(inside, connectivity=6 if source.connectivity < 8 else 26)
        yield layer_of(np.asarray(parts, np.uint32), ignore)
