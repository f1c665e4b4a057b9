"""MATLAB files with an array of labels: CoNSeP, HoVer-Net and Lizard (``inst_map``), NuInsSeg and others.

Files of MATLAB 5 to 7.2 (and of ``scipy.io.savemat``) and those of 7.3, which are HDF5. The array is ``inst_map``, or
the only one of two dimensions, or that whose name stands behind a colon: ``{stem}.mat:mask``.

With the key ``classes`` of the source, objects have the classes of ``class`` (by ``id``, as in Lizard), ``inst_type``
(in the order of the objects) or ``type_map`` (that of most of their pixels); where a file has none of these, the values
of the array are classes, and each connected part an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet_core.annotations import labels
from unet_core.annotations.colours import classes_of
from unet_core.annotations.layer import Found, Image, Images, Layer, as_labels, layer_of, one_image_each, one_plane
from unet_core.annotations.matfile import Arrays, arrays_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.images.readers import split_internal

# Arrays that hold no objects, but what is told of them.
INSTANCES, TYPES = "inst_map", ("type_map", "class_map")


def find(path: str, images: Images) -> Found:
    """Files by the position of their image; see `unet_core.annotations`."""
    one_image_each("matlab", images)
    return labels.find(path, images)


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer]:
    """The objects of one image; see `unet_core.annotations`."""
    for path in files:
        file, name = split_internal(str(path))
        size = one_plane("matlab", file, shape)
        with arrays_of(file) as arrays:
            values = as_labels(arrays.read(name or _only(arrays, file), size), file)[0]
            types = _types(arrays, values, size, file) if source.classes else None
        if types is not None:
            for type_ in sorted(set(types.values())):
                own = np.isin(values, [label for label, one in types.items() if one == type_])
                yield layer_of(np.where(own, values, 0)[None])._replace(class_name=str(type_))
        elif source.classes:
            yield from classes_of(values[None], set(source.classes), str(file))
        else:
            yield layer_of(values[None])


def _only(arrays: Arrays, file: Path) -> str:
    """The array with the objects, where the path does not name it."""
    if INSTANCES in arrays.shapes:
        return INSTANCES
    flat = [name for name, shape in arrays.shapes.items() if len(shape) == 2 and min(shape) > 1 and name not in TYPES]
    if len(flat) != 1:
        raise ValueError(
            f"{file}: has {'the arrays ' + ', '.join(flat) if flat else 'no array of two dimensions'}; "
            f"name one behind a colon, as in {file.name}:mask"
        )
    return flat[0]


def _types(arrays: Arrays, values: np.ndarray, size: tuple[int, int], file: Path) -> dict[int, int] | None:
    """Class of each object; None where the file has none."""
    objects = np.unique(values[values > 0]).tolist()
    if "class" in arrays.shapes and "id" in arrays.shapes:
        listed = dict(zip(_listed(arrays, "id", file), _listed(arrays, "class", file), strict=False))
        if missing := [label for label in objects if label not in listed]:
            raise ValueError(f"{file}: id does not name object {missing[0]} (and {len(missing) - 1} more)")
        return {label: listed[label] for label in objects}
    if "inst_type" in arrays.shapes:
        types = _listed(arrays, "inst_type", file)
        if len(types) != len(objects):
            raise ValueError(f"{file}: inst_type has {len(types)} values, but the array has {len(objects)} objects")
        return dict(zip(objects, types, strict=True))
    if name := next((name for name in TYPES if name in arrays.shapes), None):
        types_of = as_labels(arrays.read(name, size), file)[0]
        pairs, counts = np.unique(np.stack([values, types_of])[:, values > 0], axis=1, return_counts=True)
        # The last of those that count for an object: the most frequent, and of several the smallest.
        order = np.lexsort((-pairs[1].astype(np.int64), counts))
        return {int(label): int(type_) for label, type_ in pairs[:, order].T}
    return None


def _listed(arrays: Arrays, name: str, file: Path) -> list[int]:
    """Whole numbers of an array of one row or column."""
    shape = arrays.shapes[name]
    if len(shape) != 2 or (min(shape) > 1):
        raise ValueError(f"{file}: {name} has shape {shape}; needed is one row or column")
    return as_labels(arrays.read(name, None).ravel(), file)[0].tolist()
