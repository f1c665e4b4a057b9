"""The folder of corrections: images, what is to be corrected, and what is done.

::

    images/<name>.tif    what the annotation tool opens
    to_do/<name>.tif     the objects that were found
    done/                whither the user moves what is corrected: it alone counts
    HOW_TO.txt
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile

from unet_core.annotations import coco
from unet_core.annotations.traced import Traced
from unet_core.blocks import Box
from unet_core.files import open_atomic, write_atomic, write_changed
from unet_core.groundtruth.samples import Sample
from unet_core.images.in_place import InPlace
from unet_core.instances.export import SHAPES, check_shapes, objects_of, write_labels, write_shapes
from unet_core.pictures import stretch_contrast
from unet_core.runtime import UserError
from unet_core.store.store import Result, open_image_of

FORMATS = ("labels", *SHAPES)
# Of COCO one file has all images.
COCO_FILE = "annotations.json"
# Formats whose tools open pictures of 8 bits alone.
OF_PICTURES = ("labelme", "coco")
TOOLS = {
    "labels": """napari: open images/NAME.tif and to_do/NAME.tif, right-click the second layer > Convert to Labels,
  correct it with brush, eraser and fill, and save the layer as done/NAME.tif (File > Save Selected Layers).
Fiji with Labkit, and Cellpose (File > Load masks), open and save the same files.""",
    "imagej": """Fiji: open images/NAME.tif, then drag to_do/NAME.zip onto the window: the ROI Manager opens.
  Correct the ROIs (Update after a change, Add for a new one, Delete), and save them as done/NAME.zip (More > Save).""",
    "geojson": """QuPath: open images/NAME.tif, then File > Import objects > to_do/NAME.geojson.
  Correct the annotations, and File > Export objects as GeoJSON, all objects, as done/NAME.geojson.""",
    "labelme": """LabelMe: 'labelme to_do' opens the files with their images. Correct the shapes and save;
  move NAME.json from to_do to done when it is finished.""",
    "coco": """CVAT: make a task of the files in images, then upload to_do/annotations.json (Menu > Upload annotations,
  COCO 1.0). Correct the shapes, and export those jobs that are finished as COCO 1.0; put the file there is in it
  (annotations/*.json) into done as annotations.json. All images that it lists count as annotated.""",
}


class Written(NamedTuple):
    """Names of the samples whose files were written, and of those that had one already, which stay as they are."""

    new: list[str]
    old: list[str]


def places_of(samples: Sequence[Sample]) -> dict[str, PurePosixPath]:
    """Where the files of each sample lie in the folders, without their ending: by ``{stem}``, or a folder and that.

    Where images in several folders have the same name, it is the nearest folder that tells all of them apart, since a
    wildcard in the path of annotations stands for a folder of the image.

    Raises
    ------
    UserError
        If no folder does.
    """
    stems = [sample.stem for sample in samples]
    if len({*stems}) == len(stems):
        return {sample.name: PurePosixPath(sample.stem) for sample in samples}
    for above in range(1, min(len(sample.annotated.folders) for sample in samples) + 1):
        places = [PurePosixPath(sample.annotated.folders[-above], sample.stem) for sample in samples]
        if len({*places}) == len(places):
            return {sample.name: place for sample, place in zip(samples, places, strict=True)}
    raise UserError("several images have the same name, and no single folder tells them apart; rename them")


def fill(
    folder: Path,
    kind: str,
    stores: Mapping[str, Path],
    places: Mapping[str, PurePosixPath],
    images: Path,
    classes: Sequence[str],
) -> Written:
    """Write images and objects of samples that have none in the folder yet.

    Parameters
    ----------
    folder : Path
        The folder of corrections.
    kind : str
        One of `FORMATS`.
    stores : mapping
        Sample -> folder of its objects.
    places : mapping
        From `places_of`.
    images : Path
        Store of the step groundtruth.
    classes : sequence of str
        Of the data set. A class of the model that is not among them is not written.

    Raises
    ------
    UserError
        If samples do not fit the format; then nothing is written.
    """
    if kind == "labels" and len(classes) > 1:
        raise UserError("labels have no classes, and the data set has several; use --format geojson, imagej or another")
    if kind != "labels":
        check_shapes([*stores.values()], kind)
    ending = SHAPES.get(kind, ".tif")
    to_do, done = folder / "to_do", folder / "done"
    if kind == "coco" and (to_do / COCO_FILE).exists():
        raise UserError(f"{to_do / COCO_FILE} is there already, perhaps with corrections; name another folder")
    old = [name for name in stores if any(_file(place, places[name], ending).exists() for place in (to_do, done))]
    new = [name for name in stores if name not in old]
    done.mkdir(parents=True, exist_ok=True)
    shapes = list[coco.Written]()
    for name in new:
        suffix = ".png" if kind in OF_PICTURES else ".tif"
        picture = _file(folder / "images", places[name], suffix)
        _write_image(open_image_of(images, name), picture)
        target = _file(to_do, places[name], ending)
        if kind == "labels":
            write_labels(stores[name], target)
            continue
        objects, size = [_of_classes(one, classes) for one in objects_of(stores[name])], Result(stores[name]).shape[1:]
        if kind == "coco":
            shapes.append(coco.Written(f"{places[name]}.png", size, objects))
        else:
            up = "../" * len(target.relative_to(folder).parents[:-1])
            write_shapes(kind, target, objects, size, classes, up + picture.relative_to(folder).as_posix())
    if shapes:
        coco.write(to_do / COCO_FILE, shapes, classes)
    write_changed(folder / "HOW_TO.txt", how_to(kind).encode())
    return Written(new, old)


def how_to(kind: str) -> str:
    """What stands in the folder for those who correct."""
    return f"""Objects that a model found, to be corrected.

{TOOLS[kind]}

Draw all objects of an image, also those that were missed, and delete the wrong ones: what is not drawn is background.
A file counts once it lies in the folder done, under the name that it has in to_do (with its folder, if it has one).
Then run snakemake again, with the lines that the command printed in the configuration.
"""


def _file(folder: Path, place: PurePosixPath, ending: str) -> Path:
    return folder / place.parent / (place.name + ending)


def _of_classes(one: Traced, classes: Sequence[str]) -> Traced:
    return one if one.class_name in classes else one._replace(class_name=None)


def _write_image(image: Result | InPlace, path: Path) -> None:
    """An image as OME-TIFF with all channels and planes, or as a picture of its first plane."""
    depth, height, width = image.shape
    if path.suffix == ".png":
        channels = image.read(Box((0, 0, 0), (1, height, width)))[:, 0]
        # Channels of a picture keep their colours: the contrast is that of all of them.
        picture = stretch_contrast(np.moveaxis(channels, 0, -1) if len(channels) == 3 else channels[0])
        write_atomic(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(picture))))
        return
    count = image.channels or 1
    axes = [axis for axis, n in zip("CZYX", (count, depth, 2, 2), strict=True) if n > 1]
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", image.pixel_size, strict=True)}
    metadata = {"axes": "".join(axes), **sizes, **{f"{name}Unit": "µm" for name in sizes}}
    shape = tuple(n for axis, n in zip("CZYX", (count, depth, height, width), strict=True) if axis in axes)
    with open_atomic(path) as file:
        tifffile.imwrite(
            file, _planes(image, count), shape=shape, dtype=image.dtype, compression="zlib", photometric="minisblack",
            bigtiff=count * depth * height * width * image.dtype.itemsize > 2**32 - 2**25, ome=True, metadata=metadata,
        )  # fmt: skip


def _planes(image: Result | InPlace, channels: int) -> Iterator[np.ndarray]:
    depth, height, width = image.shape
    for channel in range(channels):
        for z in range(depth):
            yield image.read(Box((z, 0, 0), (z + 1, height, width)))[channel, 0]
