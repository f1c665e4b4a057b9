"""ilastik exports as HDF5: object identities, where each object has its number, or masks of classes.

Masks of classes come from ilastik's simple segmentation and from its labels.

With the key ``classes`` of the source, as in ``{"1": cell, "2": background}``, values are classes, and each connected
part an object; without, values are objects. Where labels were painted here and there, ``{"0": ignore}`` ignores the
rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations.colours import classes_of
from unet_core.annotations.layer import Image, Layer, as_labels, layer_of
from unet_core.annotations.matching import one_file_each as find
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.images.hdf5 import check_files, within
from unet_core.images.readers import split_internal

__all__ = ["find", "read"]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    for file in files:
        values = as_labels(_exported(file, image.time, shape), file)[0]
        if source.classes:
            yield from classes_of(values, set(source.classes), str(file))
        else:
            yield layer_of(values)


def _exported(path: Path, time: int | None, shape: ZYX) -> np.ndarray:
    """The exported array as z y x, by the axes that ilastik writes beside it."""
    import h5py

    file, internal = split_internal(str(path))
    try:
        with h5py.File(file, "r") as opened:
            data = within(opened, internal.strip("/") or "exported_data")
            if data is None:
                raise ValueError(f"it has no array {internal or 'exported_data'}, but {', '.join(opened) or 'nothing'}")
            check_files(file, data, file)
            if data.external:
                raise ValueError("its values lie in files of bytes beside it; export it into one file")
            axes = (
                [axis["key"] for axis in json.loads(data.attrs["axistags"])["axes"]]
                if "axistags" in data.attrs
                else None
            )
            if axes is None:
                axes = list("zyx"[-data.ndim :]) if data.ndim in (2, 3) else []
            if len(axes) != data.ndim or not {"y", "x"} <= set(axes) <= set("tczyx"):
                raise ValueError(f"its axes are {''.join(axes) or 'not told'} for the shape {data.shape}")
            size = dict(zip(axes, data.shape, strict=True))
            found = (size.get("z", 1), size["y"], size["x"])
            if size.get("c", 1) != 1:
                raise ValueError(
                    f"it has {size['c']} channels, as probabilities do; export 'Simple Segmentation' or 'Object "
                    "Identities'"
                )
            if found != shape:
                raise ValueError(f"it has {found} voxels (z, y, x), but the image has {shape}")
            if (time or 0) >= size.get("t", 1) or (time is None and size.get("t", 1) > 1):
                raise ValueError(f"it has {size.get('t', 1)} time points, which does not fit the image")
            array = np.asarray(data[tuple({"t": time or 0, "c": 0}.get(axis, slice(None)) for axis in axes)])
    except (OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as ilastik export ({error})") from None
    left = [axis for axis in axes if axis in "zyx"]
    return array.transpose([left.index(axis) for axis in "zyx" if axis in left]).reshape(shape)
