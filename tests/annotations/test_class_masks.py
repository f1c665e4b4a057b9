"""Binary masks, masks of classes, and exports of ilastik and Cellpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from skimage.measure import label

from tests.annotations.layers import objects_in
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.groundtruth.canvas import Canvas, paint_layers

SHAPE: ZYX = (1, 4, 6)
MASK = np.array([[1, 1, 0, 2, 2, 0], [1, 0, 0, 0, 0, 2], [0, 0, 3, 0, 0, 2], [1, 1, 3, 3, 0, 0]], np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255], [9, 9, 9]], np.uint8)


def test_parts_of_binary_masks_are_objects(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (MASK == 1) * np.uint8(255))
    ((_, found),) = objects_in("binary", tmp_path / "a.tif", SHAPE)
    np.testing.assert_array_equal(found, label(MASK == 1, connectivity=1))
    ((_, found),) = objects_in("binary", tmp_path / "a.tif", SHAPE, ignore_label=255)
    assert (found == -1).sum() == (MASK == 1).sum()


@pytest.mark.parametrize("alpha", [False, True])
def test_parts_of_each_colour_are_objects_of_its_class(tmp_path: Path, alpha: bool) -> None:
    rgb = COLOURS[MASK]
    path = tmp_path / "a.png"
    path.write_bytes(
        imagecodecs.png_encode(np.concatenate([rgb, np.full((4, 6, 1), 255, np.uint8)], axis=2) if alpha else rgb)
    )
    table = {"#FF0000": "cell", "#0080ff": "ignore", "#090909": "background"}
    found = dict(objects_in("colours", path, SHAPE, classes=table))
    assert set(found) == {"#ff0000", "#0080ff", "#090909"}
    for number, name in ((1, "#ff0000"), (2, "#0080ff"), (3, "#090909")):
        np.testing.assert_array_equal(found[name], label(number == MASK, connectivity=1))


def test_gray_masks_have_their_values_as_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MASK)
    assert [name for name, _ in objects_in("colours", tmp_path / "a.npy", SHAPE)] == ["1", "2", "3"]
    # Where 0 is in the table, it is not the background.
    assert [name for name, _ in objects_in("colours", tmp_path / "a.npy", SHAPE, classes={"0": "ignore"})] == [
        "0",
        "1",
        "2",
        "3",
    ]


def test_photos_are_no_masks_of_classes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.arange(30 * 30, dtype=np.uint16).reshape(30, 30))
    with pytest.raises(ValueError, match="a.tif: has 900 colours or values, but a mask of classes has few"):
        objects_in("colours", tmp_path / "a.tif", (1, 30, 30))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((3, 6, 3), np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match=r"b.tif: annotation has shape \(3, 6, 3\), but its image has \(4, 6\)"):
        objects_in("colours", tmp_path / "b.tif", SHAPE)


# ---- ilastik ----


def exported(path: Path, array: np.ndarray, axes: str | None, name: str = "exported_data") -> Path:
    """File as ilastik exports it: chunked and compressed, with the axes as vigra's JSON."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset(name, data=array, chunks=True, compression="gzip")
        if axes is not None:
            tags = [
                {"key": key, "typeFlags": 1 if key == "c" else 2, "resolution": 0, "description": ""} for key in axes
            ]
            data.attrs["axistags"] = json.dumps({"axes": tags})
    return path


@pytest.mark.parametrize("axes", ["yx", "xy", "yxc", "cyx", "tyxc", "tczyx", None])
def test_ilastik_writes_axes_in_any_order(tmp_path: Path, axes: str | None) -> None:
    order = axes or "yx"
    array = MASK.transpose(["yx".index(axis) for axis in order if axis in "yx"])
    array = np.expand_dims(array, tuple(i for i, axis in enumerate(order) if axis not in "yx")).astype(np.uint32)
    path = exported(tmp_path / "a_Object Identities.h5", array, axes)
    ((_, found),) = objects_in("ilastik", path, SHAPE)
    np.testing.assert_array_equal(found, MASK)


def test_ilastik_segmentations_are_masks_of_classes(tmp_path: Path) -> None:
    path = exported(tmp_path / "a.h5", MASK[..., None], "yxc")
    table = {"0": "ignore", "1": "cell", "2": "background"}
    found = dict(objects_in("ilastik", path, SHAPE, classes=table))
    assert set(found) == {"0", "1", "2", "3"}
    np.testing.assert_array_equal(found["1"], label(MASK == 1, connectivity=1))


def test_ilastik_volumes_and_time_points(tmp_path: Path) -> None:
    volume = np.stack([MASK, MASK[::-1]])
    source = Annotation(format="ilastik", path="unused")
    path = exported(tmp_path / "a.h5", volume[..., None], "zyxc")
    (layer,) = module_of("ilastik").read((path,), Image("a"), (2, 4, 6), source)
    np.testing.assert_array_equal(layer.position, np.flatnonzero(volume))
    path = exported(tmp_path / "b.h5", volume[..., None], "tyxc")
    (layer,) = module_of("ilastik").read((path,), Image("b", 1), SHAPE, source)
    np.testing.assert_array_equal(layer.position, np.flatnonzero(MASK[::-1]))


@pytest.mark.parametrize(
    ("array", "axes", "name", "text"),
    [
        (MASK, "yx", "other", "it has no array exported_data, but other"),
        (
            np.zeros((4, 6, 3), np.float32),
            "yxc",
            "exported_data",
            "it has 3 channels, as probabilities do; export 'Simple Segmentation'",
        ),
        (MASK[:2], "yx", "exported_data", r"it has \(1, 2, 6\) voxels \(z, y, x\), but the image has \(1, 4, 6\)"),
        (np.zeros((2, 4, 6), np.uint8), "tyx", "exported_data", "it has 2 time points"),
        (MASK, "zq", "exported_data", r"its axes are zq for the shape \(4, 6\)"),
        (np.zeros((2, 2, 4, 6), np.uint8), None, "exported_data", "its axes are not told"),
    ],
)
def test_ilastik_files_that_are_wrong_are_told(
    tmp_path: Path, array: Any, axes: str | None, name: str, text: str
) -> None:
    path = exported(tmp_path / "a.h5", array, axes, name)
    with pytest.raises(ValueError, match=f"a.h5: cannot be read as ilastik export .{text}"):
        objects_in("ilastik", path, SHAPE)


# ---- Cellpose ----


def test_cellpose_masks_are_label_images(tmp_path: Path) -> None:
    path = tmp_path / "a_cp_masks.png"
    path.write_bytes(imagecodecs.png_encode(MASK.astype(np.uint16)))
    assert module_of("cellpose").find(f"{tmp_path}/{{stem}}_cp_masks.png", [Image("a")]) == ({0: (path,)}, [])
    ((_, found),) = objects_in("cellpose", path, SHAPE)
    np.testing.assert_array_equal(found, MASK)


def test_pickles_of_cellpose_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="_seg.npy is a pickle, which is not read.*Save masks as PNG.*{stem}_cp_masks.png"
    ):
        Annotation(format="cellpose", path="masks/{stem}_seg.npy")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("name", ["labels", "binary", "colours", "cellpose"])
def test_no_pickle_is_ever_run(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "a.npy", {"masks": MASK, "more": Bomb()}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a.npy: holds Python objects"):
        objects_in(name, tmp_path / "a.npy", SHAPE)


def test_colours_of_the_table_are_the_same_in_upper_and_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.array([[0, 0, 0], [255, 171, 0], [0, 0, 0], [0, 0, 0]], np.uint8)[MASK]))
    raw = {"format": "colours", "path": str(path), "classes": {"#FFaB00": "dead"}}
    source, canvas = Annotation.model_validate(raw), Canvas(SHAPE, "error")
    layers = module_of("colours").read((path,), Image("a"), SHAPE, source)
    assert paint_layers(canvas, source, layers, ["cell", "dead"]) == []
    np.testing.assert_array_equal(canvas.classes[0], (MASK == 1) * 2)
    with pytest.raises(ValueError, match="a colour stands there twice"):
        Annotation.model_validate(raw | {"classes": {"#FFAB00": "dead", "#ffab00": "cell"}})
    kept = {"Tumor": "dead", "tumor": "cell"}
    assert Annotation.model_validate({"format": "geojson", "path": "a", "classes": kept}).classes == kept
