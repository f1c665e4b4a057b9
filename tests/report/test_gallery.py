"""Pictures of the report: which objects and images are shown, and what the layers show."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_core import pictures
from unet_core.blocks import Box
from unet_core.metrics.contingency import contingency
from unet_core.metrics.errors import object_errors
from unet_core.report import charts
from unet_core.report.gallery import Places, kinds_of, object_views, sample_view, tile_view, worst_objects
from unet_core.runtime import write_stamp
from unet_core.store.store import Result, Spec, begin, write_reference
from unet_core.train.tile_picture import tile_picture

DECODE = {"png": imagecodecs.png_decode, "webp": imagecodecs.webp_decode, "jpeg": imagecodecs.jpeg8_decode}


def decoded(uri: str) -> np.ndarray:
    kind, _, data = uri.removeprefix("data:image/").partition(";base64,")
    return np.asarray(DECODE[kind](base64.b64decode(data)))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_colour_of_each_pixel_is_what_became_of_its_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = (np.kron(rng.integers(0, 4, (4, 4)), np.ones((3, 3), int)) * 10**10 for _ in range(2))
    found = np.roll(found, rng.integers(0, 3), axis=1)
    objects = object_errors(contingency(truth, found))
    shown, names = kinds_of(truth, found, objects), ["", *pictures.KIND_COLOURS]
    true = {row["label"]: row["kind"] for row in objects.to_dict("records") if row["label"]}
    spurious = set(objects.loc[objects["kind"] == "spurious", "match"])
    for position in np.ndindex(truth.shape):
        expected = true[truth[position]] if truth[position] else "spurious" if found[position] in spurious else ""
        assert names[shown[position]] == expected


def test_the_worst_objects_are_the_unmatched_ones_with_the_most_wrong_voxels() -> None:
    table = pd.DataFrame(
        {
            "label": [1, 2, 3, 0, 4],
            "voxels": [9000, 100, 100, 30, 50],
            "best_iou": [0.6, 0.0, 0.4, 0.1, 0.9],
            "kind": ["matched", "missed", "split", "spurious", "matched"],
        }
    )
    assert worst_objects(table, 4)["label"].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (40, 30, 3), (40, 30, 4)])
def test_pictures_are_what_they_were(shape: tuple[int, ...], exact: bool) -> None:
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
    picture = np.broadcast_to(
        (ramp * 3 % 200).astype(np.uint8).reshape(*shape[:2], *[1] * (len(shape) - 2)), shape
    ).copy()
    if len(shape) == 3 and shape[2] == 4:
        if not exact:
            pytest.skip("pictures with losses have no opacity")
        picture[..., 3] = 255
        picture[:5] = 0
    again = decoded(pictures.data_uri(picture, exact)).astype(int)
    if again.ndim < picture.ndim or (again.ndim == 3 and picture.ndim == 3 and again.shape != picture.shape):
        picture = picture[..., : again.shape[-1]] if again.ndim == 3 else picture[..., 0]
    if again.ndim > picture.ndim:
        picture = np.repeat(picture[..., None], again.shape[-1], axis=2)
    if exact:
        np.testing.assert_array_equal(again, picture)
    else:
        assert np.abs(again - picture).mean() < 8


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_images_can_be_shown(value: int) -> None:
    assert np.unique(pictures.stretch_contrast(np.full((5, 4), value, np.uint16))).size == 1


def test_a_weight_without_a_value_is_gray_and_the_ends_are_blue_and_red() -> None:
    colours = pictures.jet(np.array([[np.nan, 1.0, 5.0]]), 1.0, 5.0)
    assert colours.tolist() == [[[128, 128, 128], [0, 0, 127], [127, 0, 0]]]


def test_previews_of_any_image_stay_small(tmp_path: Path) -> None:
    spec = Spec((1, 256, 9000), "uint16", "labels", block=(1, 256, 9216))
    result = begin(tmp_path / "large.zarr" / "a", "d", spec, {})
    data = np.zeros((1, 256, 9000), np.uint16)
    data[..., 4000:] = 5
    result.write(0, data, "d")
    shown = Result(tmp_path / "large.zarr" / "a").preview(0, 640)
    assert max(shown.shape) <= 640 and set(np.unique(shown)) == {0, 5}
    np.testing.assert_array_equal(
        Result(tmp_path / "large.zarr" / "a").read(Box((0, 0, 0), (1, 1, 9000)))[0, 0], data[0, 0]
    )


def test_curves_without_validation_are_one_chart() -> None:
    (chart,) = charts.learning_curves({"step": [1, 2], "train_loss": [0.5, 0.001]})
    assert chart.caption.startswith("weighted cross-entropy") and "currentColor" in chart.svg


def test_names_in_charts_are_unique_on_a_page_and_nothing_is_fetched() -> None:
    one = charts.overlap_chart(np.array([0.1, 0.9])).svg
    other = charts.overlap_chart(np.array([0.2])).svg
    ids = [set(part.split('"')[0] for part in svg.split(' id="')[1:]) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert "://" not in one and "<style" not in one and "<metadata" not in one


def test_charts_of_nothing_can_be_drawn() -> None:
    charts.size_chart({"found": charts.count_sizes(np.empty(0, np.int64))})
    charts.score_chart({"SEG": np.array([np.nan, np.nan])})


class Volume(NamedTuple):
    places: Places
    truth: np.ndarray
    found: np.ndarray


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A volume whose image lies in place, with an object in plane 6 that was found too large, and a missed one."""
    truth = np.zeros((9, 700, 1500), np.uint16)
    truth[5:8, 100:150, 200:260], truth[2, 600:620, 1400:1480] = 1, 2
    found = np.roll(truth * (truth == 1), 10, axis=2)
    image = np.broadcast_to(200 * (np.arange(1500) >= 1200), truth.shape).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    reference = {
        "file": str(tmp_path / "image.npy"),
        "internal": "",
        "axes": "zyx",
        "page": None,
        "channels": [0],
        "dtype": "uint8",
        "pixel_size": [1, 1, 1],
    }
    write_reference(tmp_path / "groundtruth/d.zarr/a", "d", reference | {"shape": list(truth.shape)}, {}, {})
    for part, labels in (("instances", truth), ("classes", truth > 0), ("ignore", truth < 0)):
        write(tmp_path / f"groundtruth/d.zarr/a/labels/{part}", labels.astype(np.uint16), "labels")
    write(tmp_path / "instances/m/d.zarr/a", found, "labels")
    write(tmp_path / "predict/m/d.zarr/a", (found > 0)[None].astype(np.uint8) * 255, "image")
    write_stamp(tmp_path / "predict/m/d.json", {"dtype": "uint8"})
    return Volume(Places(tmp_path, "m", "d"), truth, found)


def write(path: Path, data: np.ndarray, kind: Any) -> None:
    shape = data.shape[-3:]
    result = begin(
        path, "d", Spec((shape[0], shape[1], shape[2]), str(data.dtype), kind, 1 if data.ndim == 4 else None), {}
    )
    for index in range(len(result.grid)):
        result.write(index, data[(..., *result.grid.box(index).slices)], "d")


def test_all_layers_of_a_volume_show_the_same_part_of_its_fullest_plane(volume: Volume) -> None:
    objects = object_errors(contingency(volume.truth, volume.found))
    view = sample_view(volume.places, "a", objects, "note")
    assert list(view.layers) == ["image", "probability", "errors", "truth", "result"] and view.note.startswith(
        "note, plane 5 of 9"
    )
    assert all(decoded(layer).shape[:2] == view.size for layer in view.layers.values()) and max(view.size) <= 640
    # The bright fifth on the right, though the image is scaled otherwise than the labels.
    bright = decoded(view.layers["image"]).reshape(*view.size, -1)[..., 0].mean(axis=0) > 127
    assert bright.tolist() == [column >= 300 for column in range(375)]
    errors = decoded(view.layers["errors"])
    rows, columns = np.nonzero(errors[..., 3])
    # Where the object lies, at a quarter of the resolution.
    assert set(map(tuple, errors[rows, columns][:, :3])) == {pictures.KIND_COLOURS["matched"]}
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 37, 50, 64)


def test_objects_are_found_by_their_label_where_no_table_knows_them(volume: Volume, tmp_path: Path) -> None:
    objects = object_errors(contingency(volume.truth, volume.found)).assign(sample="a")
    view, other = object_views(volume.places, worst_objects(objects, 2), tmp_path)
    assert (
        view.title == "missed" and view.note == "a, label 2: 1,600 voxels, best IoU 0.00" and other.title == "matched"
    )
    picture = decoded(view.layers["image"])[..., :3]
    assert picture.shape[:2] == view.size
    # The outline of the object in question, in the middle of the picture.
    rows, columns = np.nonzero((picture == pictures.SPOT_COLOUR).all(axis=2))
    assert (np.ptp(rows), np.ptp(columns)) == (19, 79) and columns.min() > 10 and columns.max() < view.size[1] - 10


@pytest.mark.parametrize(
    "content",
    [None, b"", tile_picture([(np.zeros((1, 9, 9)), np.zeros((5, 5), np.int64), np.zeros((5, 5)))], [1, 1])[:60]],
)
def test_a_picture_of_tiles_that_is_missing_or_damaged_is_left_out(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tiles.png").write_bytes(content)
    assert tile_view(tmp_path / "tiles.png") is None
