"""Files of microscopes (CZI, LIF, ND2), read by bioio, which is an extra of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.images.source import Box, NotInstalledError, Source, reading, with_samples_as_channels

VENDOR_FILE_TYPES = {".czi": "CZI", ".lif": "LIF", ".nd2": "ND2"}


@contextmanager
def open_vendor(path: Path, internal: str, stored: bool) -> Iterator[Source]:
    """One scene of a file, with the axes t c z y x but those of length 1 before y and x; colours are channels.

    Parameters
    ----------
    path : Path
        The file.
    internal : str
        Name of the scene; needed where there are several.
    stored : bool
        Not used: these files say nothing of what values mean.
    """
    kind = VENDOR_FILE_TYPES[path.suffix.lower()]
    try:
        import bioio
    except ImportError:
        raise NotInstalledError(
            f"{path}: {kind} is read by bioio, which is not installed: "
            "pip install 'unet-core[bioio]' (or convert it to OME-TIFF)"
        ) from None
    with reading(path, kind):
        image = bioio.BioImage(path)
        if internal:
            image.set_scene(internal)
        elif len(image.scenes) > 1:
            raise ValueError(f"say which scene, as in {path.name}:{image.scenes[0]}; it has {', '.join(image.scenes)}")
        source = source_of(image, blue_first=kind == "CZI")
    yield source


def scenes_of(path: Path) -> list[str]:
    """Names of the scenes of a file, where there are several."""
    import bioio

    scenes = list(bioio.BioImage(path).scenes)
    return scenes if len(scenes) > 1 else []


def source_of(image: Any, blue_first: bool = False) -> Source:
    """The opened scene of an image of bioio; samples of a pixel (axis S) are channels.

    Parameters
    ----------
    image : BioImage
        With the axes T C Z Y X, or T C Z Y X S.
    blue_first : bool
        Whether the samples of the file are blue, green, red.
    """
    letters = "TCZYXS" if "S" in image.dims.order else "TCZYX"
    sizes = dict(zip(letters.lower(), image.shape, strict=True))
    kept = [axis for axis, length in sizes.items() if length > 1 or axis in "yx"]
    lazy = None if "s" in kept else image.get_image_dask_data(letters)

    def read(box: Box) -> np.ndarray:
        wanted = dict(zip(kept, box, strict=True))
        full = {axis: wanted.get(axis, slice(0, 1, 1)) for axis in sizes}
        if lazy is None:
            # bioio-czi 3 repeats one sample where it reads lazily. What is asked for here is read alone, too.
            samples = full.pop("s")
            part = image.get_image_data(letters, **{axis.upper(): one for axis, one in full.items()})
            part = np.asarray(part)[..., ::-1][..., samples] if blue_first else np.asarray(part)[..., samples]
        else:
            # In this thread: a task that waits for tasks of its own could wait for ever.
            part = np.asarray(lazy[tuple(full.values())].compute(scheduler="synchronous"))
        return part.reshape([length for axis, length in zip(sizes, part.shape, strict=True) if axis in kept])

    shape = tuple(sizes[axis] for axis in kept)
    return with_samples_as_channels(Source(shape, np.dtype(image.dtype), read, "".join(kept), (1,) * len(shape)))
