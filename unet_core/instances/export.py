"""Labels as TIFF files, for tools that do not open OME-Zarr.

``python -m unet_core export results/instances/<model>/<data set>.zarr FOLDER`` writes ``<sample>.tif`` for each sample,
and with ``--format ctc`` ``maskNNN.tif``, as the Cell Tracking Challenge wants results, NNN being the last number in
the name of the sample. There is no ``res_track.txt``: objects are not followed over time.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from unet_core.blocks import Box
from unet_core.files import open_atomic
from unet_core.runtime import UserError, read_json
from unet_core.store.result import repair
from unet_core.store.store import Result, read_attributes
from unet_core.store.verify import results_of

# Of the Cell Tracking Challenge, and what every viewer opens.
LARGEST_16 = 2**16 - 1


def export_labels(store: Path, folder: Path, kind: str = "tiff") -> list[Path]:
    """Write the labels of all samples of a store as TIFF files, plane by plane.

    Parameters
    ----------
    store : Path
        ``<results>/instances/<model>/<data set>.zarr``.
    folder : Path
        Gets the files; those of the same names are replaced.
    kind : {"tiff", "ctc"}
        ``<sample>.tif``, OME-TIFF with the pixel size, of 16 bits where the labels fit, else 32; or ``maskNNN.tif`` of
        16 bits.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    UserError
        If there are no samples, one is unfinished, or it does not fit the format.
    """
    # Also samples that are gone, if the stamp beside the store names them.
    samples = [path for path in results_of(store) if path.parent == store] if store.suffix == ".zarr" else []
    if not samples:
        raise UserError(f"{store} has no samples; name a store of objects, as in results/instances/hela/hela.zarr")
    for path in samples:
        attributes = read_attributes(path)
        if not attributes or "done" not in attributes:
            raise UserError(f"{path} is missing or damaged; {repair(path)}")
        if attributes.get("kind") != "labels":
            raise UserError(
                f"{path} is no label image; name a store of objects, as in results/instances/hela/hela.zarr"
            )
        if not attributes["done"]:
            raise UserError(f"{path} is unfinished; run snakemake to the end first")
    names = _mask_names([path.name for path in samples]) if kind == "ctc" else [f"{path.name}.tif" for path in samples]
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(path, folder / name, kind) for path, name in zip(samples, names, strict=True)]


def _mask_names(samples: list[str]) -> list[str]:
    """``maskNNN.tif`` for each sample, of as many digits as the largest number needs."""
    numbers: dict[int, str] = {}
    for name in samples:
        digits = re.findall(r"\d+", name)
        if not digits:
            raise UserError(
                f"sample {name!r} has no number in its name, which the Cell Tracking Challenge needs; use --format tiff"
            )
        number = int(digits[-1])
        if number in numbers:
            raise UserError(
                f"samples {numbers[number]!r} and {name!r} have the same number; use --format tiff, "
                "or one data set per video"
            )
        numbers[number] = name
    width = max(3, len(str(max(numbers))))
    return [f"mask{number:0{width}}.tif" for number in numbers]


def _write(path: Path, target: Path, kind: str) -> Path:
    result, count = Result(path), read_attributes(path)["details"]["objects"]
    if kind == "ctc" and count > LARGEST_16:
        raise UserError(
            f"{path.name} has {count:,} objects; the Cell Tracking Challenge allows {LARGEST_16:,}; use --format tiff"
        )
    if count >= 2**32:
        raise UserError(f"{path.name} has {count:,} objects, too many for TIFF viewers; open {path} itself")
    dtype = np.dtype(np.uint16 if count <= LARGEST_16 else np.uint32)
    depth, height, width = result.shape
    shape = (height, width) if depth == 1 else result.shape
    with open_atomic(target) as file:
        tifffile.imwrite(
            file, _planes(result, dtype), shape=shape, dtype=dtype, compression="zlib", photometric="minisblack",
            bigtiff=depth * height * width * dtype.itemsize > 2**32 - 2**25, ome=kind == "tiff",
            metadata=_physical(path, depth) if kind == "tiff" else None,
        )  # fmt: skip
    return target


def _planes(result: Result, dtype: np.dtype) -> Iterator[np.ndarray]:
    depth, height, width = result.shape
    for z in range(depth):
        yield result.read(Box((z, 0, 0), (z + 1, height, width)))[0].astype(dtype)


def _physical(path: Path, depth: int) -> dict[str, Any]:
    """Axes and pixel size, for OME-TIFF."""
    multiscale = read_json(path / "zarr.json")["attributes"]["ome"]["multiscales"][0]
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", scale, strict=True)}
    return {"axes": "YX" if depth == 1 else "ZYX", **sizes, **{f"{name}Unit": "µm" for name in sizes}}


def main(arguments: list[str]) -> None:
    """Read the command line, and export."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core export", description="Labels of all samples of a store as TIFF files."
    )
    parser.add_argument("store", type=Path, help="results/instances/<model>/<data set>.zarr")
    parser.add_argument("folder", type=Path, help="gets the files")
    parser.add_argument(
        "--format",
        choices=("tiff", "ctc"),
        default="tiff",
        help="<sample>.tif, or maskNNN.tif of the Cell Tracking Challenge",
    )
    asked = parser.parse_args(arguments)
    try:
        made = export_labels(asked.store, asked.folder, asked.format)
    except UserError as error:
        sys.exit(f"export: {error}")
    print(f"export: {len(made)} files in {asked.folder}")
    if not (stamp := asked.store.with_suffix(".json")).is_file():
        print(f"export: {stamp} is not there: if the run that makes it has not ended, samples are missing")
