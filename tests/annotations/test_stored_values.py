"""What the values and channels of annotation images mean, in files of several kinds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture
from skimage.measure import label

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image, Layer
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

SHAPE: ZYX = (1, 6, 8)
LABELS = np.zeros((6, 8), np.uint16)
LABELS[1:3, 1:4], LABELS[4:, 5:], LABELS[0, 7] = 1, 2, 3
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [128, 128, 128], [255, 255, 255]], np.uint8)
TABLE = {"#ff0000": "cell", "#808080": "ignore", "#ffffff": "cell"}
NAMES = {"#ff0000": 1, "#808080": 2, "#ffffff": 3}


def saved(folder: Path, kind: str, array: np.ndarray) -> Path:
    """The array in a file of a kind."""
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["labels"] = array
    elif kind == "zarr":
        zarr.create_array(str(path), data=array)
    elif kind == "tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        Picture.fromarray(array).save(path)
    return path


# ---- channels ----


@pytest.mark.parametrize("kind", ["npy", "h5", "zarr", "tif"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("form", ["labels", "binary", "cellpose", "masks"])
def test_a_second_layer_of_labels_is_not_left_out_silently(
    tmp_path: Path, kind: str, last: bool, count: int, form: str
) -> None:
    layers = np.stack([LABELS] * (count - 1) + [np.roll(LABELS, 1, axis=1)])
    path = saved(tmp_path, kind, layers.transpose(1, 2, 0) if last else layers)
    with pytest.raises(
        ValueError, match=f"{path.name}: has {count} channels, and the last is no transparency; .* save"
    ):
        objects_in(form, path, SHAPE)


def test_masks_of_two_channels_are_no_transparency(tmp_path: Path) -> None:
    both = np.stack([LABELS > 0, LABELS == 1]).astype(np.uint8) * 255
    with pytest.raises(ValueError, match="has 2 channels"):
        objects_in("binary", saved(tmp_path, "tif", both), SHAPE)


@pytest.mark.parametrize("alpha", ["whole", "objects"])
@pytest.mark.parametrize(("kind", "count"), [("png", 2), ("png", 4), ("tif", 2), ("tif", 4), ("npy", 4)])
def test_transparency_is_passed_over(tmp_path: Path, kind: str, count: int, alpha: str) -> None:
    gray = LABELS.astype(np.uint8)
    opaque = np.full_like(gray, 255) if alpha == "whole" else np.where(gray > 0, 255, 0).astype(np.uint8)
    path = saved(tmp_path, kind, np.stack([gray] * (count - 1) + [opaque], axis=-1))
    ((_, found),) = objects_in("labels", path, SHAPE)
    np.testing.assert_array_equal(found, LABELS)


# ---- values ----


@pytest.mark.parametrize("kind", ["npy", "h5", "zarr", "tif"])
@pytest.mark.parametrize("form", ["labels", "binary"])
def test_a_value_that_bits_cannot_hold_ignores_none_of_them(tmp_path: Path, kind: str, form: str) -> None:
    path = saved(tmp_path, kind, LABELS == 1)
    for options in ({"ignore_label": 255}, {"background": 255}, {}):
        ((_, found),) = objects_in(form, path, SHAPE, **options)
        known = np.ones((6, 8)) if (form, options) == ("binary", {"background": 255}) else LABELS == 1
        np.testing.assert_array_equal(found, known, err_msg=str(options))
    ((_, found),) = objects_in(form, path, SHAPE, ignore_label=1)
    np.testing.assert_array_equal(found, np.where(LABELS == 1, -1, 0))


@pytest.mark.parametrize("dtype", ["int16", "int64", "float32"])
def test_background_may_be_negative(tmp_path: Path, dtype: str) -> None:
    path = saved(tmp_path, "npy", np.where(LABELS > 0, LABELS.astype(np.int64), -1).astype(dtype))
    ((_, found),) = objects_in("labels", path, SHAPE, background=-1)
    np.testing.assert_array_equal(found, LABELS)
    ((_, found),) = objects_in("binary", path, SHAPE, background=-1)
    np.testing.assert_array_equal(found, label(LABELS > 0, connectivity=1))


def test_masks_of_fractions_may_have_pixels_to_ignore(tmp_path: Path) -> None:
    soft = np.where(LABELS > 0, 0.8, 0.2).astype(np.float32)
    soft[3] = -1
    path = saved(tmp_path, "npy", soft)
    ((_, found),) = objects_in("binary", path, SHAPE, threshold=0.5, ignore_label=-1)
    np.testing.assert_array_equal(found, np.where(soft == -1, -1, label(LABELS > 0, connectivity=1)))
    with pytest.raises(ValueError, match="whole numbers, but some are fractions; .* format binary with threshold"):
        objects_in("binary", path, SHAPE, ignore_label=-1)


# ---- colours ----


def colour_files(folder: Path) -> list[Path]:
    rgb = PALETTE[LABELS]
    indexed = Picture.fromarray(LABELS.astype(np.uint8))
    indexed.putpalette(PALETTE.tobytes())
    paths = [folder / name for name in ("a.png", "b.png", "c.tif", "d.tif", "e.bmp")]
    Picture.fromarray(rgb).save(paths[0])
    indexed.save(paths[1])
    tifffile.imwrite(paths[2], rgb, photometric="rgb")
    tifffile.imwrite(paths[3], rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    Picture.fromarray(rgb).save(paths[4])
    return paths


def test_colours_are_read_from_files_of_all_kinds(tmp_path: Path) -> None:
    for path in colour_files(tmp_path):
        found = dict(objects_in("colours", path, SHAPE, classes=TABLE))
        assert set(found) == set(NAMES), path.name
        for name, number in NAMES.items():
            np.testing.assert_array_equal(found[name] > 0, number == LABELS, err_msg=path.name)


@pytest.mark.parametrize("film", [False, True])
def test_colours_of_volumes_and_films(tmp_path: Path, film: bool) -> None:
    stack = np.stack([LABELS, LABELS[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", PALETTE[stack], photometric="rgb")
    source = Annotation.model_validate({"format": "colours", "path": "unused", "classes": TABLE})
    image = Image("a", 1, "tyx") if film else Image("a", None, "zyx")
    known, shape = (stack[1:], SHAPE) if film else (stack, (2, 6, 8))
    layers = list(module_of("colours").read((tmp_path / "a.tif",), image, shape, source))
    assert [layer.class_name for layer in layers if isinstance(layer, Layer)] == ["#808080", "#ff0000", "#ffffff"]
    for layer in layers:
        assert isinstance(layer, Layer)
        np.testing.assert_array_equal(layer.position, np.flatnonzero(known == NAMES[layer.class_name or ""]))


@pytest.mark.parametrize("kind", ["gray", "palette"])
def test_gray_is_a_colour_where_the_table_has_colours(tmp_path: Path, kind: str) -> None:
    """A mask of which only gray parts were painted may be saved in gray."""
    gray = np.where(LABELS == 1, 128, 0).astype(np.uint8)
    picture = Picture.fromarray(gray if kind == "gray" else gray // 128)
    if kind == "palette":
        picture.putpalette(bytes([0, 0, 0, 128, 128, 128]))
    picture.save(tmp_path / "a.png")
    ((name, found),) = objects_in("colours", tmp_path / "a.png", SHAPE, classes=TABLE)
    assert name == "#808080"
    np.testing.assert_array_equal(found, LABELS == 1)


def test_gray_saved_as_rgb_has_numbers_of_classes(tmp_path: Path) -> None:
    Picture.fromarray(np.stack([LABELS.astype(np.uint8)] * 3, axis=-1)).save(tmp_path / "a.png")
    found = dict(objects_in("colours", tmp_path / "a.png", SHAPE, classes={"1": "cell", "2": "cell", "3": "ignore"}))
    for number in (1, 2, 3):
        np.testing.assert_array_equal(found[str(number)], number == LABELS)


def test_masks_of_objects_that_are_smeared_are_told(tmp_path: Path) -> None:
    """Values near 0 count as object, as in masks that were saved as JPEG."""
    smeared = np.where(LABELS > 0, 255, 0).astype(np.uint8)
    smeared[3] = 2
    ((_, found),) = objects_in("masks", saved(tmp_path, "png", smeared), SHAPE)
    np.testing.assert_array_equal(found, smeared > 0)
    (told,) = told_of("masks", tmp_path / "a.png", SHAPE)
    assert told.kind == "grays"
    assert told.text.startswith("1 of 1 masks have more than two values, as a.png (3)")
    for clean in (LABELS == 1, np.where(LABELS == 1, 255, 0).astype(np.uint8), np.ones((6, 8), np.uint8)):
        assert told_of("masks", saved(tmp_path, "png", clean), SHAPE) == []


@pytest.mark.parametrize("kind", ["npy", "zarr", "h5"])
def test_axes_of_length_one_may_stand_in_the_order_of_imagej(tmp_path: Path, kind: str) -> None:
    stack = np.stack([LABELS, LABELS[::-1], LABELS[:, ::-1]])
    source = Annotation(format="labels", path="unused")
    path = saved(tmp_path, kind, stack[None, :, None])
    (layer,) = module_of("labels").read((path,), Image("a", None, "zyx"), stack.shape, source)
    np.testing.assert_array_equal(layer.position, np.flatnonzero(stack))
    np.testing.assert_array_equal(layer.label, stack[stack > 0])


@pytest.mark.parametrize("form", ["ilastik", "labels"])
@pytest.mark.parametrize("kind", ["virtual", "external", "link"])
def test_values_in_other_files_that_are_missing_are_no_empty_annotation(tmp_path: Path, form: str, kind: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout((6, 8), np.uint16)
            layout[:] = h5py.VirtualSource("gone.h5", "x", shape=(6, 8))
            file.create_virtual_dataset("exported_data", layout)
        elif kind == "external":
            file.create_dataset("exported_data", (6, 8), np.uint16, external=[("gone.raw", 0, 96)])
        else:
            file["exported_data"] = h5py.ExternalLink("gone.h5", "/x")
    text = "no array exported_data|say which array" if kind == "link" else "its values lie in .*gone.* missing"
    with pytest.raises(ValueError, match=text):
        objects_in(form, tmp_path / "a.h5", SHAPE)


def test_ilastik_exports_are_read_from_files_in_their_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        with h5py.File(folder / "values.h5", "w") as file:
            file["x"] = LABELS
    for name, there in (("values.h5", True), ("../values.h5", False)):
        layout = h5py.VirtualLayout((6, 8), np.uint16)
        layout[:] = h5py.VirtualSource(name, "x", shape=(6, 8))
        with h5py.File(tmp_path / "in/a.h5", "w") as file:
            file.create_virtual_dataset("exported_data", layout)
        if there:
            ((_, found),) = objects_in("ilastik", tmp_path / "in/a.h5", SHAPE)
            np.testing.assert_array_equal(found, LABELS)
        else:
            with pytest.raises(ValueError, match="only files in its own folder"):
                objects_in("ilastik", tmp_path / "in/a.h5", SHAPE)


def test_masks_of_an_object_have_no_nan(tmp_path: Path) -> None:
    path = saved(tmp_path, "npy", np.where(LABELS == 1, 1.0, np.nan))
    with pytest.raises(ValueError, match=r"a.npy: 42 pixels are NaN; write 0"):
        objects_in("masks", path, SHAPE)
