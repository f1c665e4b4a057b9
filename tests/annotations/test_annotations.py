from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label

from unet_core.annotations import binary, ctc, labels, masks, rle
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image, Layer, as_labels, read_volume
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.demo import run_lengths

PLANE: ZYX = (1, 2, 3)
IMAGE = Image("a")
TWO = np.array([[1, 0, 2], [1, 0, 2]], np.uint16)


def tif(path: Path, array: Any, dtype: Any = np.uint16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.asarray(array, dtype), photometric="minisblack")
    return path


def table(path: Path, *rows: tuple[str, ...], columns: tuple[str, ...] = rle.COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def source(form: str, **options: Any) -> Annotation:
    return Annotation.model_validate({"format": form, "path": "unused"} | options)


def read(
    form: str, files: tuple[Path, ...], shape: ZYX = PLANE, image: Image = IMAGE, **options: Any
) -> list[np.ndarray]:
    """Objects of each layer as an array; ignored voxels are -1."""
    found = module_of(form).read(files, image, shape, source(form, **options))
    return [as_array(layer, shape) for layer in found if isinstance(layer, Layer)]


def as_array(layer: Layer, shape: ZYX) -> np.ndarray:
    assert (layer.position.dtype, layer.label.dtype, layer.ignore.dtype) == (np.int64, np.uint32, np.int64)
    array = np.zeros(shape, np.int64)
    array.flat[layer.position] = layer.label
    array.flat[layer.ignore] = -1
    return array


def assert_layers(layers: list[np.ndarray], *expected: Any) -> None:
    assert len(layers) == len(expected)
    for layer, known in zip(layers, expected, strict=True):
        np.testing.assert_array_equal(layer, np.reshape(known, layer.shape))


# ---- label images ----


def test_labels_find_the_file_of_each_image_by_its_stem(tmp_path: Path) -> None:
    for name in ("a_mask.tif", "c_mask.tif", "stranger_mask.tif", "other.tif"):
        tif(tmp_path / name, TWO)
    found, strangers = labels.find(f"{tmp_path}/{{stem}}_mask.tif", [Image("a"), Image("b"), Image("c")])
    assert found == {0: (tmp_path / "a_mask.tif",), 2: (tmp_path / "c_mask.tif",)}
    assert strangers == [f"{tmp_path}/stranger_mask.tif"]


@pytest.mark.parametrize("folder", ["masks", "masks [1]", "m*sks", "größe"])
def test_labels_find_strangers_in_folders_of_any_name(tmp_path: Path, folder: str) -> None:
    for name in ("a [1].tif", "b.tif"):
        tif(tmp_path / folder / name, TWO)
    found, strangers = labels.find(f"{tmp_path}/{folder}/{{stem}}.tif", [Image("a [1]")])
    assert found == {0: (tmp_path / folder / "a [1].tif",)}
    assert strangers == [f"{tmp_path}/{folder}/b.tif"]


def test_labels_in_one_file_for_all_time_points(tmp_path: Path) -> None:
    path = tif(tmp_path / "labels.tif", [TWO, TWO * 3])
    assert labels.find(str(path), [Image("film", 0), Image("film", 1)]) == ({0: (path,), 1: (path,)}, [])
    assert_layers(read("labels", (path,), image=Image("film", 1)), TWO * 3)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_in_npy_files(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", TWO.astype(dtype))
    found, strangers = labels.find(f"{tmp_path}/{{stem}}.npy", [Image("a")])
    assert (found, strangers) == ({0: (tmp_path / "a.npy",)}, [])
    assert_layers(read("labels", found[0]), TWO)


def test_labels_in_one_file_for_many_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"path 'all.tif' is one file for many images; write \{stem\} where the image's name stands"
    ):
        labels.find("all.tif", [Image("a"), Image("b")])


@pytest.mark.parametrize("path", ["{stem}.h5:labels", "all.h5:{stem}/labels"])
def test_labels_may_lie_inside_hdf5_files(tmp_path: Path, path: str) -> None:
    for name, inside in (("a.h5", "labels"), ("all.h5", "a/labels")):
        with h5py.File(tmp_path / name, "w") as file:
            file[inside] = TWO
            file["raw"] = TWO
    found, _ = labels.find(f"{tmp_path}/{path}", [Image("a")])
    assert_layers(read("labels", found[0]), TWO)


def test_labels_keep_the_numbers_of_the_annotator(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[0, 7, 7], [2**32 - 1, 0, 7]], np.uint32)
    assert_layers(read("labels", (path,)), [[0, 7, 7], [2**32 - 1, 0, 7]])


def test_labels_with_ignored_pixels(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[1, 255, 0], [1, 255, 2]])
    assert_layers(read("labels", (path,), ignore_label=255), [[1, -1, 0], [1, -1, 2]])


def test_labels_of_a_volume(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [TWO, TWO[::-1]])
    assert_layers(read("labels", (path,), (2, 2, 3)), [TWO, TWO[::-1]])


@pytest.mark.parametrize("array", [np.zeros((2, 3), bool), np.zeros((1, 2, 3), np.uint8), np.zeros((2, 3), np.float32)])
def test_an_empty_label_image_is_an_annotation_without_objects(tmp_path: Path, array: np.ndarray) -> None:
    assert_layers(read("labels", (tif(tmp_path / "a.tif", array, array.dtype),)), np.zeros(PLANE))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float32", "float64"])
def test_labels_may_be_of_any_type_that_holds_whole_numbers(dtype: str) -> None:
    values = as_labels(np.array([0, 1, 1], dtype), Path("a"))[0]
    np.testing.assert_array_equal(values, np.array([0, 1, 1], np.uint32), strict=True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([0, -1], np.int16), r"a: labels must lie between 0 and 2\^32 - 1, but go from -1 to 0"),
        (np.array([0, 2**32], np.int64), r"a: labels must lie between 0 and 2\^32 - 1, but go from 0 to 4294967296"),
        (np.array([2**64 - 1], np.uint64), r"a: labels must lie between 0 and 2\^32 - 1"),
        (np.array([0, np.nan]), "a: 1 pixels are NaN or infinite, which are no labels"),
        (np.array([0, np.inf]), "a: 1 pixels are NaN or infinite, which are no labels"),
        (np.array([0, 0.5]), "a: labels must be whole numbers"),
        (np.array([1j]), "a: labels of type complex128; needed are whole numbers"),
    ],
)
def test_values_that_are_no_labels_are_errors_that_name_the_file(values: np.ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        as_labels(values, Path("a"))


@pytest.mark.parametrize(
    ("size", "shape", "text"),
    [
        ((3, 2), (1, 2, 3), r"annotation has shape \(3, 2\), but its image has \(2, 3\)"),
        ((5, 2, 3), (1, 2, 3), r"annotation has shape \(5, 2, 3\), but its image has \(2, 3\)"),
        ((2, 3), (2, 2, 3), r"annotation has shape \(2, 3\), but its image has \(2, 2, 3\)"),
        ((3, 2, 3), (2, 2, 3), r"annotation has shape \(3, 2, 3\), but its image has \(2, 2, 3\)"),
    ],
)
def test_annotations_of_another_shape_are_errors_that_name_the_file(
    tmp_path: Path, size: tuple[int, ...], shape: ZYX, text: str
) -> None:
    path = tif(tmp_path / "a.tif", np.zeros(size))
    with pytest.raises(ValueError, match=f"a.tif: {text}"):
        read_volume(path, IMAGE, shape)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((2, 2, 3), r"annotation has 2 pages, but its image has more \(page 2 is missing\)"),
        ((2, 3), r"annotation has shape \(2, 3\), but its image is time point 2 of a film; it needs a page for each"),
        ((4, 2, 2), r"annotation has shape \(2, 2\), but its image has \(2, 3\)"),
    ],
)
def test_annotations_with_other_pages_than_the_image_are_errors(
    tmp_path: Path, size: tuple[int, ...], text: str
) -> None:
    path = tif(tmp_path / "a.tif", np.zeros(size))
    with pytest.raises(ValueError, match=f"a.tif: {text}"):
        read_volume(path, Image("a", 2), (1, 2, 3))


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ((6, 4), "; is it transposed?"),
        ((2, 3), "; is it of an image scaled by 0.5?"),
        ((12, 18), "; is it of an image scaled by 3?"),
        ((5, 4), ""),
    ],
)
def test_what_may_have_happened_to_an_annotation_of_another_shape_is_told(
    tmp_path: Path, size: tuple[int, int], hint: str
) -> None:
    with pytest.raises(ValueError) as error:
        read_volume(tif(tmp_path / "a.tif", np.zeros(size)), IMAGE, (1, 4, 6))
    assert str(error.value).endswith(f"but its image has (4, 6){hint}")


def test_labels_in_ome_zarr_may_have_axes_of_length_one(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr" / "labels" / "cells")
    group.create_array("0", data=np.stack([TWO, TWO * 3])[None, None])
    axes = [{"name": name} for name in "tczyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    found, _ = labels.find(f"{tmp_path}/{{stem}}.zarr:labels/cells", [Image("a")])
    assert_layers(read("labels", found[0], (2, 2, 3)), [TWO, TWO * 3])


# ---- Cell Tracking Challenge ----


@pytest.mark.parametrize("path", ["01_GT", "01_GT/SEG"])
def test_ctc_finds_masks_by_the_number_of_the_frame(tmp_path: Path, path: str) -> None:
    for name in ("man_seg001.tif", "man_seg0007.tif", "notes.txt", "man_seg_1.tif"):
        tif(tmp_path / "01_GT" / "SEG" / name, TWO)
    found, strangers = ctc.find(f"{tmp_path}/{path}", [Image("t000"), Image("t001"), Image("nothing")])
    assert found == {1: (tmp_path / "01_GT" / "SEG" / "man_seg001.tif",)}
    assert strangers == ["man_seg0007.tif"]


def test_ctc_finds_masks_by_the_page_of_a_film(tmp_path: Path) -> None:
    mask = tif(tmp_path / "SEG" / "man_seg001.tif", TWO)
    found, strangers = ctc.find(str(tmp_path), [Image("film5", 0), Image("film5", 1)])
    assert (found, strangers) == ({1: (mask,)}, [])
    assert_layers(read("ctc", found[1], image=Image("film5", 1)), TWO)


def test_ctc_masks_that_fit_two_images_are_an_error(tmp_path: Path) -> None:
    tif(tmp_path / "SEG" / "man_seg001.tif", TWO)
    with pytest.raises(
        ValueError,
        match="man_seg001.tif fits both images 'a001' and 'b001', .* make each sequence a data set of its own",
    ):
        ctc.find(str(tmp_path), [Image("a001"), Image("b001")])


def test_ctc_masks_of_one_sequence_are_not_those_of_another_with_the_same_names(tmp_path: Path) -> None:
    tif(tmp_path / "SEG" / "man_seg001.tif", TWO)
    sequences = [Image("t001", folders=("data", folder)) for folder in ("01", "02")]
    with pytest.raises(ValueError, match="'t001' and 't001', in /data/01 and /data/02; make each sequence"):
        ctc.find(str(tmp_path), sequences)


def test_ctc_without_folder_or_masks_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder .*SEG; path must name a folder like 01_GT"):
        ctc.find(str(tmp_path), [Image("t000")])
    (tmp_path / "SEG").mkdir()
    with pytest.raises(ValueError, match="no man_segNNN.tif in .*SEG"):
        ctc.find(str(tmp_path), [Image("t000")])


# ---- run-lengths ----


def test_rle_finds_the_rows_of_each_image(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv", ("a", "1 2"), ("c.png", "1 1"), ("a", "4 1"), ("cell 1.5x", ""), ("v1.0.tif", "2 1")
    )
    found, strangers = rle.find(str(path), [Image("a"), Image("b"), Image("cell 1.5x"), Image("v1.0")])
    assert (found, strangers) == ({0: (path,), 2: (path,), 3: (path,)}, ["c"])
    assert rle.content((path,), Image("a")) == ["1 2", "4 1"]


def test_rle_counts_down_the_columns_from_one(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ("a", "1 3 6 1"), ("b", "1 1"), ("a", "4 1"))
    assert_layers(read("rle", (path,)), [[1, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("cell", ["", "  "])
def test_rle_with_an_empty_cell_is_an_annotation_without_objects(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path / "t.csv", ("a", cell))
    assert rle.find(str(path), [Image("a")]) == ({0: (path,)}, [])
    assert read("rle", (path,)) == []


def test_rle_reads_a_table_that_was_changed_anew(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ("a", "1 2"))
    assert rle.content((path,), Image("a")) == ["1 2"]
    table(path, ("a", "1 2"), ("a", "5 1"))
    os.utime(path, ns=(1, 1))  # clocks of file systems may be coarse
    assert rle.content((path,), Image("a")) == ["1 2", "5 1"]


def test_rle_reads_cells_of_any_length(tmp_path: Path) -> None:
    mask = np.indices((500, 200)).sum(axis=0) % 2
    path = table(tmp_path / "t.csv", ("a", run_lengths(mask)))
    assert path.stat().st_size > 2**17
    assert_layers(read("rle", (path,), (1, 500, 200)), mask)


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_decoded_run_lengths_are_the_mask(mask: np.ndarray) -> None:
    position = rle.decode(run_lengths(mask), (1, *mask.shape), "here")
    np.testing.assert_array_equal(position, np.flatnonzero(mask), strict=True)


def test_runs_may_meet_overlap_and_stand_in_any_order() -> None:
    np.testing.assert_array_equal(rle.decode("5 2 1 2 2 1", (1, 2, 3), "here"), [0, 2, 3, 5])


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ("1 2 3", "here: EncodedPixels must be pairs of start and length; there are 3 numbers"),
        ("1 a", "here: EncodedPixels must be whole numbers, as in '1 3 10 2' (is: '1 a')"),
        ("1.0 2", "here: EncodedPixels must be whole numbers, as in '1 3 10 2' (is: '1.0 2')"),
        (
            "1 99999999999999999999",
            "here: EncodedPixels must be whole numbers, as in '1 3 10 2' (is: '1 99999999999999999999')",
        ),
        ("1 1 0 2", "here: the run '0 2' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)"),
        ("1 0", "here: the run '1 0' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)"),
        ("3 -1", "here: the run '3 -1' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)"),
        ("1 1 6 2", "here: the run '6 2' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)"),
        ("7 1", "here: the run '7 1' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)"),
        (
            f"{2**63 - 1} 9",
            f"here: the run '{2**63 - 1} 9' leaves the image of 2 x 3 pixels (runs count from 1, down the columns)",
        ),
    ],
)
def test_wrong_runs_are_errors_with_the_place_and_the_run(runs: str, text: str) -> None:
    with pytest.raises(ValueError) as error:
        rle.decode(runs, PLANE, "here")
    assert str(error.value) == text


def test_rle_errors_name_table_and_line(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ("b", "1 1"), ("a", "1 1"), ("a", "1"))
    with pytest.raises(ValueError, match="t.csv, line 4: EncodedPixels must be pairs"):
        read("rle", (path,))


def test_rle_is_for_planes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="here: run-lengths are for 2D images, but the image has 3 planes"):
        rle.decode("1 1", (3, 2, 3), "here")


def test_rle_without_its_columns_or_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file .*t.csv"):
        rle.find(f"{tmp_path}/t.csv", [Image("a")])
    path = table(tmp_path / "t.csv", ("a", "1 1"), columns=("id", "runs"))
    with pytest.raises(ValueError, match="t.csv: needs the columns ImageId, EncodedPixels .*; it has id, runs"):
        rle.find(str(path), [Image("a")])
    path.write_text("")
    with pytest.raises(ValueError, match="t.csv: needs the columns ImageId, EncodedPixels .*; it has none"):
        rle.find(str(path), [Image("a")])


def test_rle_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"ImageId,EncodedPixels\n\xff,1 1\n")
    with pytest.raises(ValueError, match="t.csv: cannot be read as a table in UTF-8"):
        rle.find(f"{tmp_path}/t.csv", [Image("a")])


def test_rle_allows_a_byte_order_mark_more_columns_and_short_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffEncodedPixels,ImageId,Usage\n1 1,a,x\n1 1\n", encoding="utf-8")
    assert rle.find(f"{tmp_path}/t.csv", [Image("a")]) == ({0: (tmp_path / "t.csv",)}, [""])


# ---- folders of masks ----


def test_masks_find_the_files_of_each_image(tmp_path: Path) -> None:
    for name in ("a/masks/1.png", "a/masks/2.png", "b [1]/masks/1.png", "c/other/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "table.csv").touch()
    found, strangers = masks.find(f"{tmp_path}/{{stem}}/masks/*.png", [Image("a"), Image("b [1]")])
    assert found == {
        0: (tmp_path / "a" / "masks" / "1.png", tmp_path / "a" / "masks" / "2.png"),
        1: (tmp_path / "b [1]" / "masks" / "1.png",),
    }
    assert strangers == [f"{tmp_path}/c"]


def test_masks_of_all_images_may_lie_in_one_folder(tmp_path: Path) -> None:
    for name in ("a_1.png", "a_2.png", "b_1.png"):
        (tmp_path / name).touch()
    found, strangers = masks.find(f"{tmp_path}/{{stem}}_*.png", [Image("a"), Image("b")])
    assert {position: len(files) for position, files in found.items()} == {0: 2, 1: 1}
    assert strangers == []


def test_masks_that_fit_two_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a_b_1.png").touch()
    with pytest.raises(
        ValueError, match="a_b_1.png fits both images 'a' and 'a_b'; put the masks of each image into a folder {stem}"
    ):
        masks.find(f"{tmp_path}/{{stem}}_*.png", [Image("a"), Image("a_b")])


def test_masks_need_the_stem_in_their_path() -> None:
    with pytest.raises(ValueError, match=r"path 'masks/\*.png' must hold {stem} where the image's name stands"):
        masks.find("masks/*.png", [Image("a")])


def test_masks_are_a_layer_each_and_may_overlap(tmp_path: Path) -> None:
    for number, mask in enumerate(([[255, 255, 0], [0, 0, 0]], [[0, 7, 7], [0, 0, 0]], np.zeros((2, 3)))):
        (tmp_path / f"{number}.png").write_bytes(imagecodecs.png_encode(np.array(mask, np.uint8)))
    files = tuple(tmp_path / f"{number}.png" for number in range(3))
    assert_layers(read("masks", files), [[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]], np.zeros(PLANE))


def test_a_mask_of_another_shape_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1.tif: annotation has shape \(3, 3\), but its image has \(2, 3\)"):
        read("masks", (tif(tmp_path / "0.tif", TWO), tif(tmp_path / "1.tif", np.zeros((3, 3)))))


@pytest.mark.parametrize("form", ["rle", "masks"])
def test_formats_for_single_images_do_not_annotate_films(tmp_path: Path, form: str) -> None:
    table(tmp_path / "film", ("film", "1 1"))
    with pytest.raises(
        ValueError, match=f"format {form} annotates one image per file, but axes has a t; use format labels or ctc"
    ):
        module_of(form).find(
            f"{tmp_path}/{'{stem}' if form == 'masks' else 'film'}", [Image("film", 0), Image("film", 1)]
        )


# ---- boundary maps ----


def test_interiors_that_touch_at_a_corner_are_two_objects(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[255, 255, 0], [0, 0, 255], [255, 0, 255]])
    assert_layers(read("boundaries", (path,), (1, 3, 3)), [[1, 1, 0], [0, 0, 2], [3, 0, 2]])


def test_interiors_of_a_volume_are_connected_across_planes(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[[255, 0, 0]], [[255, 0, 255]]])
    assert_layers(read("boundaries", (path,), (2, 1, 3)), [[[1, 0, 0]], [[1, 0, 2]]])


def test_boundaries_in_one_file_for_all_pages(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [np.full((2, 3), 255), [[255, 0, 255], [255, 0, 255]]])
    assert binary.find(str(path), [Image("film", 0), Image("film", 1)]) == ({0: (path,), 1: (path,)}, [])
    assert_layers(read("boundaries", (path,), image=Image("film", 1)), TWO)


def test_ignored_pixels_divide_interiors(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[255, 9, 255], [0, 0, 255]])
    assert_layers(read("boundaries", (path,), ignore_label=9), [[1, -1, 2], [0, 0, 2]])


@pytest.mark.parametrize(("value", "objects"), [(0, 0), (255, 1)])
def test_boundary_maps_of_one_value(tmp_path: Path, value: int, objects: int) -> None:
    path = tif(tmp_path / "a.tif", np.full((2, 3), value))
    assert_layers(read("boundaries", (path,)), np.full(PLANE, objects))


# ---- values, axes and colours of label images ----


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int8", -1),
        ("int16", -1),
        ("int64", -1),
        ("float32", -1),
        ("uint64", 2**64 - 3),
        ("uint32", 2**32 - 1),
        ("u1", 0),
    ],
)
def test_any_whole_number_may_mark_ignored_pixels(tmp_path: Path, dtype: str, value: int) -> None:
    array = np.array([[1, value, 2], [1, value, 3]], dtype)
    np.save(tmp_path / "a.npy", array)
    assert_layers(read("labels", (tmp_path / "a.npy",), ignore_label=value), [[1, -1, 2], [1, -1, 3]])


def test_a_value_that_the_type_cannot_hold_ignores_nothing(tmp_path: Path) -> None:
    assert_layers(read("labels", (tif(tmp_path / "a.tif", TWO),), ignore_label=-1), TWO)
    assert_layers(read("labels", (tif(tmp_path / "b.tif", TWO),), ignore_label=2**64), TWO)


def test_values_below_0_are_told_with_what_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"go from -1 to 2; is one of them ignore_label or background\?"):
        read("labels", (tif(tmp_path / "a.tif", [[1, -1, 2], [0, 0, 0]], np.int16),))


@pytest.mark.parametrize("form", ["labels", "cellpose"])
def test_another_number_may_be_the_background_of_labels(tmp_path: Path, form: str) -> None:
    path = tif(tmp_path / "a.tif", [[1, 1, 2], [5, 1, 0]])
    assert_layers(read(form, (path,), background=1), [[0, 0, 2], [5, 0, 0]])


@pytest.mark.parametrize("form", ["binary", "boundaries"])
def test_masks_may_be_dark_on_white(tmp_path: Path, form: str) -> None:
    path = tif(tmp_path / "a.tif", [[255, 255, 0], [0, 255, 0]])
    assert_layers(read(form, (path,), background=255), [[0, 0, 1], [2, 0, 1]])


def test_values_above_a_threshold_are_objects(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[200, 90, 140], [0, 20, 0]])
    assert_layers(read("binary", (path,), threshold=127), [[1, 0, 2], [0, 0, 0]])
    assert_layers(read("binary", (path,), threshold=127, ignore_label=20), [[1, 0, 2], [0, -1, 0]])
    np.save(tmp_path / "a.npy", np.array([[0.9, 0.2, 0.51], [0, 0, 0.5]]))
    assert_layers(read("binary", (tmp_path / "a.npy",), threshold=0.5), [[1, 0, 2], [0, 0, 0]])


def test_a_binary_mask_of_many_values_is_told(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", [[200, 90, 140], [0, 20, 0]])
    told, _ = module_of("binary").read((path,), IMAGE, PLANE, source("binary"))
    assert told.kind == "grays"
    assert told.text.startswith("a.tif has 5 different values, and all but 0 are object;")
    assert "threshold: 100" in told.text
    assert len([*module_of("binary").read((path,), IMAGE, PLANE, source("binary", threshold=100))]) == 1
    two = tif(tmp_path / "b.tif", [[255, 7, 0], [0, 0, 0]])
    assert len([*module_of("binary").read((two,), IMAGE, PLANE, source("binary", ignore_label=7))]) == 1


@pytest.mark.parametrize(("connectivity", "corners"), [(4, False), (6, False), (8, True), (26, True)])
@pytest.mark.parametrize("form", ["binary", "boundaries"])
@pytest.mark.parametrize("depth", [1, 3])
def test_parts_are_connected_as_in_scikit_image(
    tmp_path: Path, connectivity: int, corners: bool, form: str, depth: int
) -> None:
    mask = np.random.default_rng(1).random((depth, 9, 11)) > 0.7
    path = tif(tmp_path / "a.tif", np.squeeze(mask * np.uint8(255)))
    (found,) = read(form, (path,), mask.shape, connectivity=connectivity)
    wanted = label(mask, connectivity=3 if corners else 1)
    assert (found > 0).sum() == mask.sum() and found.max() == wanted.max()
    assert len(np.unique(np.stack([found[mask], wanted[mask]]), axis=1).T) == wanted.max()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": "coco", "background": 1}, "background has no meaning for format coco"),
        ({"format": "labels", "threshold": 1}, "threshold has no meaning for format labels"),
        ({"format": "binary", "threshold": 1, "background": 1}, "threshold and background exclude each other"),
        ({"format": "labels", "connectivity": 8}, "connectivity has no meaning for format labels"),
    ],
)
def test_options_that_a_format_does_not_know_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Annotation.model_validate({"path": "a"} | options)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("form", ["labels", "binary", "masks"])
def test_gray_saved_as_rgb_is_gray(tmp_path: Path, form: str, channels: int) -> None:
    rgb = np.repeat(TWO[..., None].astype(np.uint8), 3, axis=2)
    rgb = np.concatenate([rgb, np.full((2, 3, channels - 3), 255, np.uint8)], axis=2)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(rgb))
    assert_layers(read(form, (path,)), (TWO > 0) if form == "masks" else TWO)


@pytest.mark.parametrize("form", ["labels", "binary", "masks", "boundaries", "cellpose"])
def test_masks_in_colour_are_an_error_that_names_the_format_for_them(tmp_path: Path, form: str) -> None:
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0] = 255, 0, 0
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(rgb))
    with pytest.raises(ValueError, match="a.png: is in colour, .* use format colours"):
        read(form, (tmp_path / "a.png",))


@pytest.mark.parametrize("axes", ["zyx", "xyz", "yxz", "zxy", "xzy", "yzx"])
def test_annotations_have_the_axes_of_their_image(tmp_path: Path, axes: str) -> None:
    """A cube, whose shape tells nothing of its axes."""
    cube = np.arange(27).reshape(3, 3, 3) % 5
    np.save(tmp_path / "a.npy", cube.transpose(["zyx".index(axis) for axis in axes]))
    assert_layers(read("labels", (tmp_path / "a.npy",), (3, 3, 3), Image("a", axes=axes)), cube)
    film = cube.transpose(["zyx".index(axis) for axis in axes])
    np.save(tmp_path / "b.npy", film)
    as_film = axes.replace("z", "t")
    assert_layers(read("labels", (tmp_path / "b.npy",), (1, 3, 3), Image("b", 2, as_film)), cube[2])


def test_planes_have_the_axes_of_their_image_and_channels_do_not_matter(tmp_path: Path) -> None:
    square = np.arange(9).reshape(3, 3)
    np.save(tmp_path / "a.npy", square.T)
    for axes in ("xy", "cxy", "xyc", "txy"):
        assert_layers(read("labels", (tmp_path / "a.npy",), (1, 3, 3), Image("a", axes=axes)), square)
