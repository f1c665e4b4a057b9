from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from skimage.draw import polygon2mask

from unet_core.annotations import imagej
from unet_core.annotations.layer import Image
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

SHAPE: ZYX = (1, 6, 8)
SOURCE = Annotation(format="imagej", path="unused")
REAL = Path(os.environ.get("UNET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cryonuseg_imagejroi"
TRIANGLE = [(1, 1), (6, 1), (1, 5.5)]


def zipped(path: Path, *rois: ImagejRoi, names: Any = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(names[number] if names else f"{number}.roi", roi.tobytes())
    return path


def drawn(kind: ROI_TYPE, **fields: Any) -> ImagejRoi:
    roi = ImagejRoi(roitype=kind, left=1, top=2, right=6, bottom=5)
    for name, value in fields.items():
        setattr(roi, name, value)
    return roi


def read(path: Path, shape: ZYX = SHAPE, page: int | None = None) -> list[np.ndarray]:
    masks = []
    for layer in imagej.read((path,), Image("a", page), shape, SOURCE):
        masks.append(np.zeros(shape, bool))
        masks[-1].flat[layer.position] = True
        assert (layer.label == 1).all() and not layer.ignore.size and layer.class_name is None
    return masks


def test_zips_and_single_rois_are_found_by_the_name_of_the_image(tmp_path: Path) -> None:
    zipped(tmp_path / "größe 1.zip")
    (tmp_path / "b").mkdir()
    for name in ("2.roi", "1.roi"):
        ImagejRoi.frompoints(TRIANGLE).tofile(tmp_path / "b" / name)
    images = [Image("größe 1"), Image("b")]
    assert imagej.find(f"{tmp_path}/{{stem}}.zip", images) == ({0: (tmp_path / "größe 1.zip",)}, [])
    assert imagej.find(f"{tmp_path}/{{stem}}/*.roi", images) == (
        {1: (tmp_path / "b" / "1.roi", tmp_path / "b" / "2.roi")},
        [],
    )
    assert len(read(tmp_path / "b" / "1.roi")) == 1 and read(tmp_path / "größe 1.zip") == []


@pytest.mark.parametrize("points", [TRIANGLE, [(1, 1), (6, 1), (6, 4)], [(1.25, 0.5), (7.75, 1.5), (3.5, 5.75)]])
def test_polygons_cover_the_pixels_whose_centres_they_hold(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    (mask,) = read(zipped(tmp_path / "a.zip", ImagejRoi.frompoints(np.array(points, np.float32))))
    np.testing.assert_array_equal(mask[0], polygon2mask(SHAPE[1:], np.array(points)[:, ::-1] - 0.5))


def test_rectangles_and_ovals(tmp_path: Path) -> None:
    rectangle, oval = read(zipped(tmp_path / "a.zip", drawn(ROI_TYPE.RECT), drawn(ROI_TYPE.OVAL)))
    known = np.zeros(SHAPE, bool)
    known[0, 2:5, 1:6] = True
    np.testing.assert_array_equal(rectangle, known)
    y, x = np.mgrid[:6, :8] + 0.5
    np.testing.assert_array_equal(oval[0], ((x - 3.5) / 2.5) ** 2 + ((y - 3.5) / 1.5) ** 2 <= 1)


def test_rectangles_and_ovals_with_parts_of_pixels(tmp_path: Path) -> None:
    parts = {
        "version": 227,
        "options": ROI_OPTIONS.SUB_PIXEL_RESOLUTION,
        "xd": 0.6,
        "yd": 1.4,
        "widthd": 3.0,
        "heightd": 2.0,
    }
    (rectangle,) = read(zipped(tmp_path / "a.zip", drawn(ROI_TYPE.RECT, **parts)))
    known = np.zeros(SHAPE, bool)
    known[0, 1:3, 1:4] = True
    np.testing.assert_array_equal(rectangle, known)


def test_composites_have_holes(tmp_path: Path) -> None:
    path = [0, 1, 1, 1, 7, 1, 1, 7, 5, 1, 1, 5, 4, 0, 2, 2, 1, 4, 2, 1, 4, 4, 1, 2, 4, 4]
    roi = drawn(ROI_TYPE.RECT, multi_coordinates=np.array(path, np.float32), shape_roi_size=len(path))
    (mask,) = read(zipped(tmp_path / "a.zip", roi))
    known = np.zeros(SHAPE, bool)
    known[0, 1:5, 1:7] = True
    known[0, 2:4, 2:4] = False
    np.testing.assert_array_equal(mask, known)


def test_rois_of_a_volume_lie_in_their_slice(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", drawn(ROI_TYPE.RECT, position=2), ImagejRoi.frompoints(TRIANGLE, z=2))
    first, second = read(path, (3, 6, 8))
    assert first[1].sum() == first.sum() == 15 and second[2].sum() == second.sum() > 0  # frompoints counts from 0
    with pytest.raises(ValueError, match="ROI 0.roi: is in slice 5, but the image has 3"):
        read(zipped(tmp_path / "b.zip", drawn(ROI_TYPE.RECT, position=5)), (3, 6, 8))
    with pytest.raises(ValueError, match="b.zip: ROI 0.roi: has no position in the stack"):
        read(zipped(tmp_path / "b.zip", drawn(ROI_TYPE.RECT)), (3, 6, 8))


def test_rois_of_a_film_belong_to_their_time_point(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", drawn(ROI_TYPE.RECT, position=1), drawn(ROI_TYPE.OVAL, position=3))
    assert [len(read(path, page=page)) for page in range(3)] == [1, 0, 1]


def test_rois_of_a_film_of_volumes_have_slice_and_time_point(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ImagejRoi.frompoints(TRIANGLE, z=1, t=2))
    assert [len(read(path, (3, 6, 8), page)) for page in range(3)] == [0, 0, 1]
    ((first, second, third),) = read(path, (3, 6, 8), 2)
    assert second.any() and not first.any() and not third.any()
    for half in (
        drawn(ROI_TYPE.RECT, position=2),
        ImagejRoi.frompoints(TRIANGLE, z=1, position=2),
        ImagejRoi.frompoints(TRIANGLE, t=1),
    ):
        with pytest.raises(ValueError, match="has no position in the stack"):
            read(zipped(tmp_path / "b.zip", half), (3, 6, 8), 0)


@pytest.mark.parametrize(
    ("roi", "text"),
    [
        (drawn(ROI_TYPE.LINE), "ROI 0.roi: is a line, and no area"),
        (drawn(ROI_TYPE.RECT, subtype=ROI_SUBTYPE.TEXT, version=218), "ROI 0.roi: "),
        (drawn(ROI_TYPE.RECT, rounded_rect_arc_size=5), "ROI 0.roi: rectangles with round corners are not supported"),
        (drawn(ROI_TYPE.RECT, left=100, right=120), "ROI 0.roi: lies outside of the image of 6 x 8 pixels"),
    ],
)
def test_rois_that_are_no_areas_are_told(tmp_path: Path, roi: ImagejRoi, text: str) -> None:
    with pytest.raises(ValueError, match=f"a.zip: {text}"):
        read(zipped(tmp_path / "a.zip", roi))


def test_files_that_are_cut_short_or_something_else_are_told(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ImagejRoi.frompoints(TRIANGLE))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="a.zip: cannot be read as ZIP of ROIs"):
        read(path)
    for content in (b"", b"Iout" * 3, b"x" * 500, ImagejRoi.frompoints(TRIANGLE).tobytes()[:70]):
        (tmp_path / "a.roi").write_bytes(content)
        with pytest.raises(ValueError, match="a.roi: ROI a.roi: cannot be read as ImageJ ROI .*is it complete"):
            read(tmp_path / "a.roi")
    with pytest.raises(ValueError, match="a.zip: cannot be read as ZIP of ROIs .no .roi in it, but notes.txt"):
        read(zipped(path, drawn(ROI_TYPE.RECT), names=["notes.txt"]))


def test_zips_write_nothing_and_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    path = zipped(
        folder / "a.zip", drawn(ROI_TYPE.RECT), drawn(ROI_TYPE.RECT), names=["../../out.roi", "__MACOSX/._0.roi"]
    )
    assert len(read(path)) == 1
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    monkeypatch.setattr(imagej, "MAX_ROI_BYTES", 50)
    with pytest.raises(ValueError, match="its ROIs take more than"):
        read(path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_real_rois_of_a_histology_tile() -> None:
    objects = read(REAL / "RoiSet.zip", (1, 512, 512))
    assert len(objects) == 117
    # The manager names a ROI by the centre of its bounding box.
    names = [name for name, _ in imagej._members(REAL / "RoiSet.zip")]
    for name, mask in zip(names, objects, strict=True):
        rows, columns = np.nonzero(mask[0])
        y, x = (int(part) for part in name.removesuffix(".roi").split("-")[:2])
        assert (
            abs((rows.min() + rows.max() + 1) / 2 - y) <= 1.5
            and abs((columns.min() + columns.max() + 1) / 2 - x) <= 1.5
        )


def test_hidden_files_that_macos_adds_to_a_zip_are_passed_over(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ImagejRoi.frompoints(TRIANGLE), names=["set/1.roi"])
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/set/._1.roi", "set/._1.roi", "._1.roi", ".DS_Store"):
            archive.writestr(name, b"Mac OS X")
    assert len(read(path)) == 1
