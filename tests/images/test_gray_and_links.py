"""Files of which the pixels are where they are not looked for first: palettes of grays, links, pages of masks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture

from unet_core.images.headers import header_of
from unet_core.images.readers import arrays_in, open_image, split_internal

GRAY = np.array([[0, 255, 255], [7, 0, 0]], np.uint8)


def stored(path: Path, internal: str = "") -> np.ndarray:
    with open_image(path, internal, stored=True) as opened:
        return opened[...]


@pytest.mark.parametrize("kind", ["gif", "bmp"])
def test_palettes_of_grays_are_gray_values_in_files_that_have_no_others(tmp_path: Path, kind: str) -> None:
    Picture.fromarray(GRAY).save(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(stored(tmp_path / f"a.{kind}"), GRAY)


@pytest.mark.parametrize("kind", ["gif", "bmp"])
def test_masks_whose_palette_begins_with_white_are_not_inverted(tmp_path: Path, kind: str) -> None:
    picture = Picture.fromarray((GRAY == 0).astype(np.uint8))
    picture.putpalette(bytes([255, 255, 255, 0, 0, 0]))
    picture.save(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(stored(tmp_path / f"a.{kind}"), np.where(GRAY > 0, 255, 0))


@pytest.mark.parametrize("kind", ["gif", "bmp", "png"])
@pytest.mark.parametrize("colours", [[0, 0, 0, 255, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_other_palettes_of_annotations_are_numbers(tmp_path: Path, kind: str, colours: list[int]) -> None:
    if kind == "gif" and not any(colours):
        pytest.skip("Pillow joins equal colours of a GIF when it writes them")
    picture = Picture.fromarray((GRAY > 0).astype(np.uint8))
    picture.putpalette(bytes(colours))
    picture.save(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(stored(tmp_path / f"a.{kind}"), GRAY > 0)


def test_links_in_a_file_lead_to_its_arrays_and_others_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/raw"] = GRAY
        file["link"], file["far"] = h5py.SoftLink("/group/raw"), h5py.SoftLink("/shortcut/raw")
        file["shortcut"], file["nowhere"], file["round"] = (
            h5py.SoftLink("group"),
            h5py.SoftLink("/none"),
            h5py.SoftLink("/round"),
        )
    for name in ("group/raw", "link", "far", "shortcut/raw", ""):
        np.testing.assert_array_equal(stored(tmp_path / "a.h5", name), GRAY)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["outside"] = h5py.ExternalLink("a.h5", "/group/raw")
    for path, name in (("a.h5", "nowhere"), ("a.h5", "round"), ("b.h5", "outside"), ("b.h5", "")):
        with pytest.raises(ValueError, match="say which array") as error:
            stored(tmp_path / path, name)
        assert ("outside lie in other files" in str(error.value)) == (path == "b.h5")


def test_numbers_and_texts_beside_an_array_are_no_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["size"], file["name"], file["times"] = GRAY, 0.5, "cells", np.arange(3)
    assert arrays_in(tmp_path / "a.h5") == []
    np.testing.assert_array_equal(stored(tmp_path / "a.h5"), GRAY)
    np.testing.assert_array_equal(stored(tmp_path / "a.h5", "times"), np.arange(3))


@pytest.mark.parametrize("tags", ["{", "3", '{"axes": [{"name": "x"}]}', "[]"])
def test_axistags_that_are_damaged_tell_no_axes(tmp_path: Path, tags: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = GRAY
        file["raw"].attrs["axistags"] = tags
    with open_image(tmp_path / "a.h5") as opened:
        assert opened.axes == ""
        np.testing.assert_array_equal(opened[...], GRAY)


@pytest.mark.parametrize("shaped", [True, False])
def test_no_page_is_lost_where_all_are_marked_as_smaller_copies(tmp_path: Path, shaped: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in range(3):
            more = {} if shaped else {"metadata": None}
            file.write(GRAY + number, photometric="minisblack", subfiletype=1, contiguous=False, **more)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), [GRAY, GRAY + 1, GRAY + 2])


def test_all_images_of_a_tiff_file_may_be_asked_for() -> None:
    assert split_internal("a/b.tif:*") == (Path("a/b.tif"), "*")


@pytest.mark.parametrize(
    ("version", "axes"),
    [("0.2", None), ("0.3", list("tczyx")), ("0.4", [{"name": name} for name in "tczyx"]), ("0.3", list("TCZYX"))],
)
def test_axes_of_old_versions_of_ome_zarr(tmp_path: Path, version: str, axes: list[object] | None) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(1, 2, 3, 4, 5)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=values, chunks=values.shape)
    image: dict[str, object] = {"version": version, "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [image if axes is None else image | {"axes": axes}]
    with open_image(tmp_path / "a.zarr") as opened:
        assert opened.axes == "tczyx"
        np.testing.assert_array_equal(opened[...], values)
    assert header_of(tmp_path / "a.zarr").axes == "tczyx"


def test_names_of_dimensions_may_be_in_capitals(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=GRAY, dimension_names=("Y", "X"))
    with open_image(tmp_path / "a.zarr") as opened:
        assert opened.axes == "yx"
