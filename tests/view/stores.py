"""Small results, as the steps leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unet_core.runtime import write_stamp
from unet_core.store.store import Spec, begin, finish, write_reference

SIZE = (2.0, 0.5, 0.25)


def store(path: Path, data: np.ndarray, kind: Any, block: tuple[int, int, int] = (8, 1024, 1024), **more: Any) -> None:
    """Write a result that is done; channels come first."""
    z, y, x = data.shape[-3:]
    channels = data.shape[0] if data.ndim == 4 else None
    result = begin(path, "d", Spec((z, y, x), str(data.dtype), kind, channels, SIZE, block), {})
    for index in range(len(result.grid)):
        result.write(index, data[(..., *result.grid.box(index).slices)], "d")
    finish(path, "d", more)


def write_truth(results: Path, name: str, truth: np.ndarray, ignore: np.ndarray | None = None) -> None:
    """Annotation of sample `name` of data set ``d``."""
    ignore = np.zeros(truth.shape, np.uint8) if ignore is None else ignore
    for part, labels in (("instances", truth), ("classes", (truth > 0).astype(np.uint8)), ("ignore", ignore)):
        store(results / f"groundtruth/d.zarr/{name}/labels/{part}", labels, "labels", ignored=int(ignore.sum()))


def refer(results: Path, name: str, file: Path, shape: tuple[int, int, int], channels: int = 1) -> None:
    """An image that stays where it lies, as .npy."""
    reference = {
        "file": str(file), "internal": "", "axes": "czyx", "page": None, "channels": list(range(channels)),
        "dtype": "uint8", "pixel_size": list(SIZE), "shape": list(shape),
    }  # fmt: skip
    write_reference(results / f"groundtruth/d.zarr/{name}", "d", reference, {}, {})


def write_stamps(results: Path, names: list[str], classes: tuple[str, ...] = ("cell",), models: Any = ("m",)) -> None:
    """What says which samples, classes and models there are."""
    samples = {name: {"split": "test"} for name in names}
    write_stamp(results / "groundtruth/d.json", {"step": "groundtruth", "classes": list(classes), "samples": samples})
    write_stamp(results / "groundtruth/d.files.json", {})
    for model in models:
        write_stamp(results / f"predict/{model}/d.json", {"step": "predict", "dtype": "uint8", "samples": samples})
