"""The generated data is the same for the same seed, and its truth is what the images show."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from unet_core import demo
from unet_core.demo import fluorescence, phase_contrast, run_lengths, touching_objects, write_demo

FRAMES, ANNOTATED, IMAGES = 3, 2, 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_small(folder)
    return folder


def write_small(folder: Path, seed: int = 2015) -> None:
    """Write fewer and smaller images than the demo has."""
    sizes = {
        "CELL_FRAMES": FRAMES,
        "ANNOTATED_FRAMES": ANNOTATED,
        "CELL_SIDE": 128,
        "NUCLEI_IMAGES": IMAGES,
        "NUCLEI_SIDE": 64,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(demo, name, value)
        write_demo(folder, seed)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def decoded(runs: str, shape: tuple[int, int]) -> np.ndarray:
    """Mask of a run-length string, by its definition."""
    numbers = [int(word) for word in runs.split()]
    flat = np.zeros(shape[0] * shape[1], bool)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape, order="F")


def objects_of(table: Path) -> dict[str, list[str]]:
    objects: dict[str, list[str]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            objects.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
    return objects


def test_the_same_seed_gives_the_same_files_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "again")
    write_small(tmp_path / "other", seed=1)
    assert contents(tmp_path / "again") == contents(small)
    other = contents(tmp_path / "other")
    assert other.keys() == contents(small).keys() and not other.items() & contents(small).items()


def test_cells_are_a_cell_tracking_challenge_folder_with_frames_that_nobody_annotated(small: Path) -> None:
    frames, masks = (sorted((small / "cells").glob(pattern)) for pattern in ("01/t*.tif", "01_GT/SEG/man_seg*.tif"))
    assert [path.name for path in frames] == ["t000.tif", "t001.tif", "t002.tif"]
    assert [path.name for path in masks] == ["man_seg000.tif", "man_seg001.tif"]
    assert all((image.dtype, image.shape) == (np.uint8, (128, 128)) for image in map(tifffile.imread, frames))
    assert all((labels.dtype, labels.shape) == (np.uint16, (128, 128)) for labels in map(tifffile.imread, masks))


def test_run_lengths_of_the_table_decode_to_connected_objects_that_do_not_overlap(small: Path) -> None:
    objects = objects_of(small / "nuclei" / "masks.csv")
    assert sorted(objects) == sorted(path.stem for path in (small / "nuclei" / "images").glob("*.tif"))
    for rows in objects.values():
        masks = [decoded(runs, (64, 64)) for runs in rows]
        assert all(ndimage.label(mask)[1] == 1 for mask in masks)
        assert np.sum(masks, axis=0).max() == 1


def test_nuclei_are_brighter_than_what_is_around_them(small: Path) -> None:
    for name, rows in objects_of(small / "nuclei" / "masks.csv").items():
        image = tifffile.imread(small / "nuclei" / "images" / f"{name}.tif")
        inside = np.any([decoded(runs, (64, 64)) for runs in rows], axis=0)
        assert image.dtype == np.uint16 and image[inside].mean() > 1.5 * image[~inside].mean()


@pytest.mark.parametrize(
    ("seed", "spacing"), [(1, 0.9), (9, 0.9), (5, 0.6)], ids=["usual", "a fragment", "many fragments"]
)
def test_objects_are_connected_numbered_from_one_and_some_touch(seed: int, spacing: float) -> None:
    labels = touching_objects(np.random.default_rng(seed), (96, 80), radius=9, spacing=spacing)
    assert labels.shape == (96, 80) and labels.dtype == np.uint16
    count = int(labels.max())
    assert count >= 10 and np.unique(labels).tolist() == list(range(count + 1))
    assert all(ndimage.label(labels == label)[1] == 1 for label in range(1, count + 1))
    a, b = labels[:, :-1], labels[:, 1:]
    assert ((a != b) & (a > 0) & (b > 0)).any()


def test_run_lengths_decode_to_the_labels() -> None:
    labels = touching_objects(np.random.default_rng(0), (40, 50), radius=8, spacing=1)
    again = sum(
        label * decoded(run_lengths(labels == label), labels.shape) for label in range(1, int(labels.max()) + 1)
    )
    np.testing.assert_array_equal(again, labels)


def test_an_empty_mask_has_no_runs() -> None:
    assert run_lengths(np.zeros((2, 3), bool)) == ""


@pytest.mark.parametrize(("paint", "dtype"), [(phase_contrast, np.uint8), (fluorescence, np.uint16)])
def test_an_image_without_objects_can_be_painted(paint: object, dtype: type) -> None:
    image = paint(np.random.default_rng(0), np.zeros((32, 32), np.uint16))  # type: ignore[operator]
    assert image.shape == (32, 32) and image.dtype == dtype and image.std() > 0
