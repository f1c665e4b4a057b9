"""Axes that the configuration says, against annotations of images and stacks that are square or cubic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from unet_core.config.datasets import Dataset
from unet_core.groundtruth.canvas import paint
from unet_core.groundtruth.samples import find_samples
from unet_core.images.readers import open_image, to_czyx

CUBE = np.zeros((8, 8, 8), np.uint8)
CUBE[0, 2:5, 1:3], CUBE[4:, 6:, 5] = 1, 2


def written(path: Path, array: np.ndarray, way: str) -> None:
    if way == "npy":
        np.save(path, array)
    elif way == "png":
        Picture.fromarray(array).save(path)
    else:
        metadata: dict[str, Any] = {"axes": "ZYX"[-array.ndim :]}
        options = {"ome": True} if way == "ome.tif" else {"imagej": True} if way == "ij.tif" else {}
        tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata if options else None, **options)


def painted(folder: Path, axes: str, image: np.ndarray, labels: np.ndarray, ways: tuple[str, str]) -> None:
    """The same pixels are object in image and annotation, each z y x as it is read."""
    endings = ["." + way.removeprefix("ij.") for way in ways]
    for name, array, way, ending in (("raw", image, ways[0], endings[0]), ("seg", labels, ways[1], endings[1])):
        (folder / name).mkdir(exist_ok=True)
        written(folder / name / f"a{ending}", array, way)
    cfg = Dataset.model_validate(
        {
            "images": f"{folder}/raw/*{endings[0]}",
            "axes": axes,
            "split": {"test": 0, "validation": 0},
            "annotations": [{"format": "labels", "path": f"{folder}/seg/{{stem}}{endings[1]}"}],
        }
    )
    samples, problems = find_samples(cfg)
    assert problems == []
    with open_image(samples[0].image) as opened:
        view = to_czyx(opened, samples[0].axes, None)
        pixels = view[tuple(slice(0, n) for n in view.shape[1:])][0]  # type: ignore[index]
    found = paint(samples[0], cfg, "error", view.shape[1:]).instances
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("axes", ["xyz", "zxy", "yzx", "zyx"])
@pytest.mark.parametrize("way", ["tif", "ij.tif", "ome.tif", "npy"])
def test_cubes_of_the_same_kind_of_file_have_the_same_axes(tmp_path: Path, axes: str, way: str) -> None:
    painted(tmp_path, axes, CUBE, CUBE, (way, way))


@pytest.mark.parametrize("way", ["tif", "ome.tif", "npy", "png"])
def test_squares_of_the_same_kind_of_file_have_the_same_axes(tmp_path: Path, way: str) -> None:
    painted(tmp_path, "xy", CUBE[0], CUBE[0], (way, way))


@pytest.mark.parametrize("way", ["ij.tif", "ome.tif"])
def test_axes_that_only_the_annotation_tells_count(tmp_path: Path, way: str) -> None:
    painted(tmp_path, "xyz", CUBE.transpose(2, 1, 0), CUBE, ("npy", way))
