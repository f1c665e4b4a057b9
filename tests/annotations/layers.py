"""What annotation formats read, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image, Told
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation


def objects_in(
    name: str, path: Path, shape: ZYX, stem: str = "a", **options: object
) -> list[tuple[str | None, np.ndarray]]:
    """Class and labels of each layer of an annotation of one plane; -1 where it is to be ignored."""
    found = []
    source = Annotation.model_validate({"format": name, "path": "unused"} | options)
    for layer in module_of(name).read((path,), Image(stem), shape, source):
        if isinstance(layer, Told):
            continue
        array = np.zeros(shape, np.int64)
        array.flat[layer.position], array.flat[layer.ignore] = layer.label, -1
        found.append((layer.class_name, array[0]))
    return found


def told_of(name: str, path: Path, shape: ZYX, stem: str = "a", **options: object) -> list[Told]:
    """What is told of an annotation beside its objects."""
    source = Annotation.model_validate({"format": name, "path": "unused"} | options)
    return [told for told in module_of(name).read((path,), Image(stem), shape, source) if isinstance(told, Told)]
