"""Outlines of ImageJ's ROIs, against what its source says, calculated in another way."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from skimage.draw import polygon2mask

from unet_core.annotations import imagej, outlines
from unet_core.annotations.layer import Image, Layer, Told
from unet_core.config.datasets import Annotation

SIZE = (100, 120)
DIAMOND = [(25.0, 10.0), (40.0, 25.0), (25.0, 40.0), (10.0, 25.0)]
UNEVEN = [
    (20.0, 20.0),
    (90.5, 15.0),
    (95.0, 60.25),
    (60.0, 50.0),
    (58.0, 90.0),
    (30.0, 70.0),
    (28.0, 64.0),
    (40.0, 45.0),
]


def read(folder: Path, *rois: bytes | ImagejRoi, **options: Any) -> list[Layer | Told]:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number}.roi", roi if isinstance(roi, bytes) else roi.tobytes())
    source = Annotation.model_validate({"format": "imagej", "path": "unused"} | options)
    return [*imagej.read((folder / "a.zip",), Image("a"), (1, *SIZE), source)]


def mask_of(layer: Layer | Told) -> np.ndarray:
    assert isinstance(layer, Layer)
    mask = np.zeros(SIZE, bool)
    mask.flat[layer.position] = True
    return mask


def filled(ring: np.ndarray) -> np.ndarray:
    return polygon2mask(SIZE, np.asarray(ring)[:, ::-1] - 0.5)


def natural_spline(points: list[tuple[float, float]]) -> np.ndarray:
    """The closed curve: knots by square roots of distances, seven more points at either end, no curvature beyond.

    Second derivatives by a full system of equations, values by the formula of two of these.
    """
    n = len(points)
    more = min(7, n)
    order = [i % n for i in range(-more, n + more + 1)]
    xy = np.array(points)[order]
    knots = np.r_[0, np.cumsum(np.sqrt(np.hypot(*np.diff(xy, axis=0).T)))]
    system, right = np.eye(len(xy)), np.zeros((len(xy), 2))
    for i in range(1, len(xy) - 1):
        before, after = knots[i] - knots[i - 1], knots[i + 1] - knots[i]
        system[i, i - 1 : i + 2] = before / 6, (before + after) / 3, after / 6
        right[i] = (xy[i + 1] - xy[i]) / after - (xy[i] - xy[i - 1]) / before
    bend = np.linalg.solve(system, right)
    length = np.hypot(*np.diff(np.array([*points, points[0]]), axis=0).T).sum()
    curve = []
    for at in np.linspace(knots[more], knots[more + n], max(100, int(length / 2))):
        k = min(int(np.searchsorted(knots, at, "right")) - 1, more + n - 1)
        step = knots[k + 1] - knots[k]
        a, b = (knots[k + 1] - at) / step, (at - knots[k]) / step
        curve.append(a * xy[k] + b * xy[k + 1] + ((a**3 - a) * bend[k] + (b**3 - b) * bend[k + 1]) * step**2 / 6)
    return np.array(curve)


@pytest.mark.parametrize("points", [DIAMOND, UNEVEN, UNEVEN[:3], [(x / 2, y) for x, y in UNEVEN * 2]])
def test_splines_go_through_their_points_as_imagej_draws_them(points: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(outlines.spline(np.array(points)), natural_spline(points), atol=0.01)


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
def test_polygons_with_fit_spline_cover_the_curve_and_others_their_points(tmp_path: Path, kind: ROI_TYPE) -> None:
    rois = []
    for options in (ROI_OPTIONS.SPLINE_FIT, ROI_OPTIONS.NONE):
        rois.append(ImagejRoi.frompoints(np.array(UNEVEN, np.float32)))
        rois[-1].roitype = kind
        rois[-1].options |= options
    fitted, straight = map(mask_of, read(tmp_path, *rois))
    np.testing.assert_array_equal(fitted, filled(natural_spline(UNEVEN)))
    np.testing.assert_array_equal(straight, filled(np.array(UNEVEN)))
    assert (fitted != straight).sum() > 100


def test_four_points_with_fit_spline_make_a_rounded_shape(tmp_path: Path) -> None:
    roi = ImagejRoi.frompoints(np.array(DIAMOND).astype(int))
    roi.options |= ROI_OPTIONS.SPLINE_FIT
    ((layer,),) = [read(tmp_path, roi)]
    mask = mask_of(layer)
    # Between the diamond (450 pixels) and the circle through its points (707), nearer to the circle.
    assert 670 < mask.sum() < 707
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5 - 25
    assert (mask | (np.hypot(x, y) > 13.9)).all() and not mask[np.hypot(x, y) > 15.1].any()


def tilted(subtype: ROI_SUBTYPE, ends: tuple[float, ...], across: float) -> bytes:
    """A ROI with its axis and a number as ImageJ writes them, whose points are wrong: ImageJ passes them over."""
    roi = ImagejRoi.frompoints(np.array([(1, 1), (5, 1), (5, 4)], np.float32))
    roi.subtype = subtype
    roi.x1, roi.y1, roi.x2, roi.y2 = ends
    data = bytearray(roi.tobytes())
    data[52:56] = struct.pack(">f", across)
    return bytes(data)


def test_ellipses_of_the_tool_for_ellipses(tmp_path: Path) -> None:
    (layer,) = read(tmp_path, tilted(ROI_SUBTYPE.ELLIPSE, (20.5, 70, 80, 30.25), 0.4))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    along, across = np.array([80 - 20.5, 30.25 - 70]) / 2, np.array([70 - 30.25, 80 - 20.5]) / 2
    u = ((x - 50.25) * along[0] + (y - 50.125) * along[1]) / (along @ along)
    v = ((x - 50.25) * across[0] + (y - 50.125) * across[1]) / (across @ across) / 0.4
    # Of 72 corners the middles of the sides lie 0.1 % inside.
    assert mask_of(layer)[u**2 + v**2 < 0.998].all() and not mask_of(layer)[u**2 + v**2 > 1].any()


@pytest.mark.parametrize("ends", [(20.5, 70, 80, 30.25), (10, 50.25, 90, 50.25), (40.25, 10, 40.25, 80)])
def test_turned_rectangles(tmp_path: Path, ends: tuple[float, float, float, float]) -> None:
    (layer,) = read(tmp_path, tilted(ROI_SUBTYPE.ROTATED_RECT, ends, 21.25))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    start, axis = np.array(ends[:2]), np.subtract(ends[2:], ends[:2])
    length = np.hypot(*axis)
    along = ((x - start[0]) * axis[0] + (y - start[1]) * axis[1]) / length
    across = ((y - start[1]) * axis[0] - (x - start[0]) * axis[1]) / length
    np.testing.assert_array_equal(mask_of(layer), (along > 0) & (along < length) & (np.abs(across) < 21.25 / 2))


def composite(*path: float) -> ImagejRoi:
    roi = ImagejRoi(roitype=ROI_TYPE.RECT, left=0, top=0, right=SIZE[1], bottom=SIZE[0])
    roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    return roi


def test_composites_of_curves_cover_what_lies_under_these(tmp_path: Path) -> None:
    k = 4 / 3 * (np.sqrt(2) - 1) * 30  # four cubic curves that make a circle
    circle = [0, 80, 50, 3, 80, 50 + k, 50 + k, 80, 50, 80, 3, 50 - k, 80, 20, 50 + k, 20, 50]
    circle += [3, 20, 50 - k, 50 - k, 20, 50, 20, 3, 50 + k, 20, 80, 50 - k, 80, 50, 4]
    parabola = [0, 10, 10, 2, 30, 50, 50, 10, 4]
    hole = [0, 45, 45, 1, 55, 45, 1, 55, 55, 1, 45, 55, 4]
    ring, arch = map(mask_of, read(tmp_path, composite(*circle, *hole), composite(*parabola)))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    radius, inside = np.hypot(x - 50, y - 50), np.maximum(np.abs(x - 50), np.abs(y - 50)) < 5
    clear = np.abs(radius - 30) > 0.03
    np.testing.assert_array_equal(ring[clear], ((radius < 30) & ~inside)[clear])
    # x = 10 + 40 t, y = 10 + 80 t (1 - t)
    t = (x - 10) / 40
    below = 10 + 80 * t * (1 - t) - y
    clear = np.abs(below) > 0.02
    np.testing.assert_array_equal(arch[clear], ((y > 10) & (below > 0))[clear])


def test_paths_that_go_on_after_a_ring_without_a_move_begin_at_its_start(tmp_path: Path) -> None:
    (layer,) = read(tmp_path, composite(0, 10, 10, 1, 20, 10, 1, 20, 20, 4, 1, 10, 30, 1, 5, 30, 4))
    known = filled(np.array([(10, 10), (20, 10), (20, 20)])) | filled(np.array([(10, 10), (10, 30), (5, 30)]))
    np.testing.assert_array_equal(mask_of(layer), known)


@pytest.mark.parametrize(
    ("roi", "text"),
    [
        (composite(0, 1, 1, 7, 2, 2), r"composite outline cannot be read \(number 4 of its path \(7\)"),
        (composite(0, 1, 1, 3, 2, 2, 4, 4), r"composite outline cannot be read \(number 4 of its path \(3\)"),
        (composite(2, 2, 2, 4, 4), r"composite outline cannot be read \(number 1 of its path \(2\)"),
        (composite(float("nan")), r"composite outline cannot be read \(number 1 of its path \(nan\)"),
        (tilted(ROI_SUBTYPE.ELLIPSE, (1, 1, 5, 5), float("nan")), "its axes are no numbers"),
    ],
)
def test_outlines_that_cannot_be_drawn_are_told(tmp_path: Path, roi: bytes | ImagejRoi, text: str) -> None:
    with pytest.raises(ValueError, match=f"a.zip: ROI 0.roi: {text}|its {text}"):
        read(tmp_path, roi)


def test_splines_without_end_are_refused(tmp_path: Path) -> None:
    roi = ImagejRoi.frompoints(np.array([(1, 1), (9, 1), (5, 4)], np.float32))
    roi.subpixel_coordinates = np.array([(1, 1), (1e20, 1), (5, 4)], np.float32)
    roi.options |= ROI_OPTIONS.SPLINE_FIT
    with pytest.raises(ValueError, match="ROI 0.roi: its control points are too far from each other"):
        read(tmp_path, roi)


def test_groups_are_classes_where_the_source_names_classes(tmp_path: Path) -> None:
    rois = [ImagejRoi.frompoints(np.array(DIAMOND, np.float32)) for _ in range(3)]
    rois[0].group, rois[1].group = 2, 7
    classes = {"classes": {"2": "cell", "7": "ignore"}}
    assert [layer.class_name for layer in read(tmp_path, *rois, **classes) if isinstance(layer, Layer)] == [
        "2",
        "7",
        "0",
    ]
    assert {layer.class_name for layer in read(tmp_path, *rois) if isinstance(layer, Layer)} == {None}


def test_broken_rois_are_left_out_and_told_where_the_source_says_so(tmp_path: Path) -> None:
    good = ImagejRoi.frompoints(np.array(DIAMOND, np.float32))
    line = ImagejRoi(roitype=ROI_TYPE.LINE)
    with pytest.raises(ValueError, match="ROI 0.roi: is a line"):
        read(tmp_path, line, good)
    layer, told = read(tmp_path, line, good, b"Iout", line, line, line, broken="skip")
    assert mask_of(layer).sum() > 400 and isinstance(told, Told) and told.kind == "broken"
    assert f"{tmp_path / 'a.zip'}: 5 of 6 objects cannot be read" in told.text and "2 more" in told.text
    assert "ROI 0.roi: is a line" in told.text and "ROI 2.roi: cannot be read as ImageJ ROI" in told.text
    with pytest.raises(ValueError, match="2 of 2 objects cannot be read .*nothing is left"):
        read(tmp_path, line, line, broken="skip")


def test_rois_beyond_the_last_frame_of_a_film_belong_to_no_image(tmp_path: Path) -> None:
    places: list[dict[str, Any]] = [{"position": 0}, {"position": 5}, {"t": 2}, {"t": 3}]  # counted from 0
    rois = [ImagejRoi.frompoints(np.array(DIAMOND, np.float32), **place) for place in places]
    with zipfile.ZipFile(tmp_path / "film.zip", "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number}.roi", roi.tobytes())
        archive.writestr("9.roi", b"Iout")  # told when it is read
    film = [Image("film", time) for time in range(3)]
    found, strangers = imagej.find(f"{tmp_path}/{{stem}}.zip", film)
    assert set(found) == {0, 1, 2} and [text.partition(": ")[2] for text in strangers] == [
        "ROI 1.roi (in frame 6; the film has 3)",
        "ROI 3.roi (in frame 4; the film has 3)",
    ]
    assert imagej.find(f"{tmp_path}/{{stem}}.zip", [Image("film")])[1] == []


def test_rois_of_a_stack_that_imagej_takes_for_the_other_kind_are_told(tmp_path: Path) -> None:
    roi = ImagejRoi.frompoints(np.array(DIAMOND, np.float32), c=0, z=4, t=0)
    roi.tofile(tmp_path / "a.roi")
    source = Annotation(format="imagej", path="unused")
    with pytest.raises(ValueError, match="a.roi: is in slice 5, but the image has no slices"):
        list(imagej.read((tmp_path / "a.roi",), Image("a", 0), (1, *SIZE), source))
    (layer,) = imagej.read((tmp_path / "a.roi",), Image("a"), (6, *SIZE), source)
    assert isinstance(layer, Layer) and set((layer.position // (SIZE[0] * SIZE[1])).tolist()) == {4}
    roi.z_position, roi.t_position = 1, 5
    roi.tofile(tmp_path / "a.roi")
    with pytest.raises(ValueError, match="a.roi: is in frame 5, but the image has no frames"):
        list(imagej.read((tmp_path / "a.roi",), Image("a"), (6, *SIZE), source))


def test_rois_of_a_channel_alone_lie_in_a_plane_and_in_no_slice_of_a_volume(tmp_path: Path) -> None:
    ImagejRoi.frompoints(np.array(DIAMOND, np.float32), c=1).tofile(tmp_path / "a.roi")
    source = Annotation(format="imagej", path="unused")
    (layer,) = imagej.read((tmp_path / "a.roi",), Image("a"), (1, *SIZE), source)
    assert mask_of(layer).sum() > 400
    for image, shape in ((Image("a"), (6, *SIZE)), (Image("a", 0), (1, *SIZE))):
        with pytest.raises(ValueError, match="a.roi: has no position in the stack"):
            list(imagej.read((tmp_path / "a.roi",), image, shape, source))
