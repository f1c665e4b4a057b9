"""Objects as files, for tools that do not open OME-Zarr.

``python -m unet_core export results/instances/<model>/<data set>.zarr FOLDER`` writes ``<sample>.tif`` for each sample,
and with ``--format ctc`` ``maskNNN.tif``, as the Cell Tracking Challenge wants results, NNN being the last number in
the name of the sample. There is no ``res_track.txt``: objects are not followed over time. The other formats are those
of shapes, with the class of each object, which the readers in `unet_core.annotations` read again.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from unet_core.annotations import coco, geojson, imagej, labelme
from unet_core.annotations.traced import Traced, traced
from unet_core.blocks import Box
from unet_core.files import open_atomic
from unet_core.instances.objects import check_table
from unet_core.runtime import UserError, read_json
from unet_core.store.result import repair
from unet_core.store.store import Result, read_attributes
from unet_core.store.verify import results_of

# Of the Cell Tracking Challenge, and what every viewer opens.
LARGEST_16 = 2**16 - 1
# How files of each format of shapes end; those of COCO hold all samples.
SHAPES = {"imagej": ".zip", "geojson": ".geojson", "labelme": ".json", "coco": ".json"}
# Pixels of the largest sample whose shapes are traced: they are in memory at once, and such files are no longer opened.
MAX_TRACED_PIXELS = 2**28


def export_labels(store: Path, folder: Path, kind: str = "tiff") -> list[Path]:
    """Write the objects of all samples of a store as files.

    Parameters
    ----------
    store : Path
        ``<results>/instances/<model>/<data set>.zarr``.
    folder : Path
        Gets the files; those of the same names are replaced.
    kind : {"tiff", "ctc", "imagej", "geojson", "labelme", "coco"}
        ``<sample>.tif``, OME-TIFF with the pixel size, of 16 bits where the labels fit, else 32; ``maskNNN.tif`` of 16
        bits; or shapes of planes, a file for each sample, or of COCO one for all.

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
    check_objects(samples)
    if kind in SHAPES:
        check_shapes(samples, kind)
        return _write_shapes(samples, folder, kind)
    names = _mask_names([path.name for path in samples]) if kind == "ctc" else [f"{path.name}.tif" for path in samples]
    return [write_labels(path, folder / name, kind) for path, name in zip(samples, names, strict=True)]


def check_objects(samples: Sequence[Path]) -> None:
    """Raise a `UserError` where a folder holds no objects that are done."""
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


def check_shapes(samples: Sequence[Path], kind: str) -> None:
    """Raise one `UserError` for all samples that a format of shapes cannot hold: volumes, and very large images."""
    shapes = {path.name: Result(path).shape for path in samples}
    volumes = [name for name, shape in shapes.items() if shape[0] > 1]
    large = [name for name, shape in shapes.items() if math.prod(shape) > MAX_TRACED_PIXELS]
    for what, wrong in (("volumes", volumes), (f"of more than {MAX_TRACED_PIXELS:,} pixels", large)):
        if wrong:
            raise UserError(
                f"{len(wrong)} of {len(samples)} samples (as {wrong[0]}) are {what}, which format {kind} cannot hold; "
                "write labels as TIFF"
            )


def objects_of(path: Path) -> list[Traced]:
    """The objects of a sample of one plane, with their classes where the table of objects lies beside its store."""
    table = path.parent.with_suffix("") / f"{path.name}.parquet"
    classes: dict[int, str] = {}
    if table.is_file():
        rows = pd.read_parquet(check_table(table), columns=["label", "class"])
        classes = dict(zip(rows["label"].tolist(), rows["class"].tolist(), strict=True))
    return list(traced(Result(path).read_all()[0], classes))


def write_shapes(
    kind: str, path: Path, objects: Sequence[Traced], size: tuple[int, int], classes: Sequence[str], image: str
) -> Path:
    """Write the objects of a sample in a format of shapes that has a file for each.

    Parameters
    ----------
    kind : {"imagej", "geojson", "labelme"}
        The format.
    path : Path
        The file.
    objects : sequence of Traced
        From `objects_of`.
    size : tuple of int
        Height and width of the image.
    classes : sequence of str
        Names of all classes, at least one.
    image : str
        Where the image lies, as seen from the folder of the file.
    """
    if kind == "imagej":
        imagej.write(path, objects, classes)
    elif kind == "geojson":
        geojson.write(path, objects)
    else:
        labelme.write(path, objects, size, image, classes[0])
    return path


def _write_shapes(samples: Sequence[Path], folder: Path, kind: str) -> list[Path]:
    found = {path: objects_of(path) for path in samples}
    sizes = {path: Result(path).shape[1:] for path in samples}
    classes = sorted({one.class_name for objects in found.values() for one in objects if one.class_name}) or ["object"]
    if kind == "coco":
        target = folder / "annotations.json"
        images = (coco.Written(f"{path.name}.png", sizes[path], objects) for path, objects in found.items())
        coco.write(target, images, classes)
        return [target]
    return [
        write_shapes(kind, folder / (path.name + SHAPES[kind]), objects, sizes[path], classes, f"{path.name}.png")
        for path, objects in found.items()
    ]


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


def write_labels(path: Path, target: Path, kind: str = "tiff") -> Path:
    """Write the labels of one sample, plane by plane; see `export_labels`."""
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
        prog="python -m unet_core export", description="Objects of all samples of a store as files."
    )
    parser.add_argument("store", type=Path, help="results/instances/<model>/<data set>.zarr")
    parser.add_argument("folder", type=Path, help="gets the files")
    parser.add_argument(
        "--format",
        choices=("tiff", "ctc", *SHAPES),
        default="tiff",
        help="<sample>.tif, maskNNN.tif of the Cell Tracking Challenge, or shapes of 2D images: ImageJ's RoiSet, "
        "GeoJSON of QuPath, LabelMe, or COCO",
    )
    asked = parser.parse_args(arguments)
    try:
        made = export_labels(asked.store, asked.folder, asked.format)
    except UserError as error:
        sys.exit(f"export: {error}")
    print(f"export: {len(made)} files in {asked.folder}")
    if not (stamp := asked.store.with_suffix(".json")).is_file():
        print(f"export: {stamp} is not there: if the run that makes it has not ended, samples are missing")
