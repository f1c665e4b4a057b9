"""Files of microscopes (CZI, LIF, ND2), read by bioio, which is an extra of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.images.source import Box, Source, reading, with_samples_as_channels

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
        raise ValueError(
            f"{path}: {kind} is read by bioio, which is not installed: "
            "pip install 'unet-core[bioio]' (or convert it to OME-TIFF)"
        ) from None
    with reading(path, kind):
        image = bioio.BioImage(path)
        if internal:
            image.set_scene(internal)
        elif len(image.scenes) > 1:
            raise ValueError(f"say which scene, as in {path.name}:{image.scenes[0]}; it has {', '.join(image.scenes)}")
        source = source_of(image)
    yield source


def scenes_of(path: Path) -> list[str]:
    """Names of the scenes of a file, where there are several."""
    import bioio

    scenes = list(bioio.BioImage(path).scenes)
    return scenes if len(scenes) > 1 else []


def source_of(image: Any) -> Source:
    """The opened scene of an image of bioio; samples of a pixel (axis S) are channels."""
    letters = "TCZYXS" if "S" in image.dims.order else "TCZYX"
    lazy = image.get_image_dask_data(letters)
    sizes = dict(zip(letters.lower(), lazy.shape, strict=True))
    kept = [axis for axis, length in sizes.items() if length > 1 or axis in "yx"]
    lazy = lazy[tuple(slice(None) if axis in kept else 0 for axis in sizes)]

    def read(box: Box) -> np.ndarray:
        # In this thread: a task that waits for tasks of its own could wait for ever.
        return np.asarray(lazy[box].compute(scheduler="synchronous"))

    shape = tuple(lazy.shape)
    return with_samples_as_channels(Source(shape, np.dtype(lazy.dtype), read, "".join(kept), (1,) * len(shape)))
