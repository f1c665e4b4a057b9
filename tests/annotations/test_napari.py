from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations import napari
from unet_core.annotations.layer import Image, Layer
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation

SHAPE: ZYX = (1, 16, 20)
SOURCE = Annotation(format="napari", path="unused")
# As napari 0.9.2 wrote it (napari_builtins.io): polygon, rectangle and ellipse.
WRITTEN = """index,shape-type,vertex-index,axis-0,axis-1
0,polygon,0,1.5,1.5
0,polygon,1,1.5,9.5
0,polygon,2,9.5,9.5
1,rectangle,0,2.0,12.0
1,rectangle,1,2.0,17.0
1,rectangle,2,8.0,17.0
1,rectangle,3,8.0,12.0
2,ellipse,0,10.0,4.0
2,ellipse,1,10.0,10.0
2,ellipse,2,14.0,10.0
2,ellipse,3,14.0,4.0
"""
VOLUME = """index,shape-type,vertex-index,axis-0,axis-1,axis-2
0,polygon,0,4.0,1.0,1.0
0,polygon,1,4.0,1.0,6.0
0,polygon,2,4.0,5.0,6.0
"""


def written(folder: Path, text: str) -> Path:
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return folder / "a.csv"


def test_shapes_of_a_file_that_napari_wrote(tmp_path: Path) -> None:
    path = written(tmp_path, WRITTEN)
    assert napari.find(f"{tmp_path}/{{stem}}.csv", [Image("a"), Image("b")]) == ({0: (path,)}, [])
    (_, triangle), (_, rectangle), (_, ellipse) = objects_in("napari", path, SHAPE)
    # Centres of pixels have whole numbers.
    y, x = np.mgrid[:16, :20]
    np.testing.assert_array_equal(triangle, (y > 1.5) & (x < 9.5) & (x - 1.5 >= y - 1.5))
    np.testing.assert_array_equal(rectangle, (y >= 2) & (y < 8) & (x >= 12) & (x < 17))
    np.testing.assert_array_equal(ellipse, ((y - 12) / 2) ** 2 + ((x - 7) / 3) ** 2 <= 1)


def test_turned_ellipses(tmp_path: Path) -> None:
    corners = [(2.0, 8.0), (6.0, 12.0), (12.0, 6.0), (8.0, 2.0)]
    lines = "".join(f"0,ellipse,{n},{y},{x}\n" for n, (y, x) in enumerate(corners))
    ((_, found),) = objects_in(
        "napari", written(tmp_path, "index,shape-type,vertex-index,axis-0,axis-1\n" + lines), SHAPE
    )
    y, x = np.mgrid[:16, :20] - np.array([7, 7]).reshape(2, 1, 1)
    along, across = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    distance = (along / np.hypot(2, 2)) ** 2 + (across / np.hypot(3, 3)) ** 2
    # Centres on the edge itself may be rounded to either side.
    clear = np.abs(distance - 1) > 1e-9
    np.testing.assert_array_equal(found[clear], distance[clear] <= 1)


def test_shapes_belong_to_their_plane_or_time_point(tmp_path: Path) -> None:
    path = written(tmp_path, VOLUME)
    (layer,) = napari.read((path,), Image("a"), (6, 8, 8), SOURCE)
    assert set((layer.position // 64).tolist()) == {4}
    found = [napari.read((path,), Image("a", page), (1, 8, 8), SOURCE) for page in (3, 4)]
    assert [len([*shapes]) for shapes in found] == [0, 1]
    # In a 2D image the leading axis says nothing.
    assert len([*napari.read((path,), Image("a"), (1, 8, 8), SOURCE)]) == 1


@pytest.mark.parametrize(
    ("text", "shape", "problem"),
    [
        (WRITTEN.replace("ellipse", "path"), SHAPE, "shape 2: is a path, and no area"),
        (WRITTEN.replace("17.0", "nan"), SHAPE, "shape 1: must lie in one plane, and its coordinates must be finite"),
        (WRITTEN.replace("17.0", "wide"), SHAPE, "line 6: coordinates must be numbers"),
        (WRITTEN[:-8], SHAPE, "line 12: coordinates must be numbers; is the file complete"),
        (WRITTEN.replace("0,polygon,2,9.5,9.5\n", ""), SHAPE, "shape 0: a polygon needs at least 3 points"),
        (WRITTEN.replace("10.0,4.0", "10.0,6.0"), SHAPE, "shape 2: its box is skewed"),
        (WRITTEN, (4, 16, 20), "shape 0: has 2 axes, but the image has 3"),
        (VOLUME, (4, 16, 20), "shape 0: lies in plane 4, but the image has 4"),
        (VOLUME.replace("4.0,5.0", "3.0,5.0"), (6, 16, 20), "shape 0: must lie in one plane"),
        ("a,b\n1,2\n", SHAPE, "is no table of napari shapes"),
        ("", SHAPE, "is no table of napari shapes"),
    ],
)
def test_files_that_are_wrong_are_told_with_shape_or_line(tmp_path: Path, text: str, shape: ZYX, problem: str) -> None:
    with pytest.raises(ValueError, match=f"a.csv: {problem}"):
        objects_in("napari", written(tmp_path, text), shape)


def line(index: int, *places: float) -> str:
    """A square of 4 x 4 pixels at some place along axes before y and x."""
    lead = "".join(f"{place}," for place in places)
    corners = [(1, 1), (1, 5), (5, 5), (5, 1)]
    return "".join(f"{index},polygon,{n},{lead}{y},{x}\n" for n, (y, x) in enumerate(corners))


def header(axes: int) -> str:
    return ",".join(["index", "shape-type", "vertex-index", *(f"axis-{n}" for n in range(axes))]) + "\n"


@pytest.mark.parametrize(
    ("axes", "shape", "places", "frame", "plane"),
    [
        ("tyx", (1, 16, 20), (2,), 2, 0),
        ("tzyx", (1, 16, 20), (2, 0), 2, 0),
        ("tzyx", (5, 16, 20), (2, 3), 2, 3),
        ("ztyx", (5, 16, 20), (3, 2), 2, 3),
        ("tcyx", (1, 16, 20), (2, 1), 2, 0),
        ("tcyx", (1, 16, 20), (2,), 2, 0),
        ("tzcyx", (5, 16, 20), (2, 3, 0), 2, 3),
        ("tyx", (1, 16, 20), (0, 2), 2, 0),
    ],
)
def test_axes_before_the_plane_are_those_of_the_file(
    tmp_path: Path, axes: str, shape: ZYX, places: tuple[float, ...], frame: int, plane: int
) -> None:
    path = written(tmp_path, header(len(places) + 2) + line(0, *places))
    found = {}
    for time in range(4):
        for layer in napari.read((path,), Image("a", time, axes), shape, SOURCE):
            assert isinstance(layer, Layer)
            found[time] = set((layer.position // (16 * 20)).tolist())
    assert found == {frame: {plane}}


@pytest.mark.parametrize(("axes", "places"), [("", (1, 3)), ("tyx", (1, 3)), ("tzyx", (1, 3))])
def test_shapes_beyond_the_last_frame_of_a_film_belong_to_no_image(
    tmp_path: Path, axes: str, places: tuple[int, int]
) -> None:
    lead = (0,) if axes == "tzyx" else ()
    path = written(tmp_path, header(3 + len(lead)) + "".join(line(n, place, *lead) for n, place in enumerate(places)))
    film = [Image("a", time, axes) for time in range(3)]
    found, strangers = napari.find(f"{tmp_path}/{{stem}}.csv", film)
    assert set(found) == {0, 1, 2} and strangers == [f"{path}: shape 1 (in frame 4; the film has 3)"]


def test_broken_shapes_are_left_out_and_told_where_the_source_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, WRITTEN.replace("17.0", "wide"))
    assert len(objects_in("napari", path, SHAPE, broken="skip")) == 2
    (told,) = told_of("napari", path, SHAPE, broken="skip")
    assert told.kind == "broken" and "1 of 3 objects cannot be read" in told.text and "line 6" in told.text


def test_shapes_whose_coordinates_are_fractions_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, header(2) + "0,polygon,0,0.1,0.2\n0,polygon,1,0.9,0.2\n0,polygon,2,0.5,1.0\n")
    (told,) = told_of("napari", path, SHAPE)
    assert told.kind == "coordinates" and "16 x 20" in told.text and told_of("napari", path, (1, 2, 2)) == []
    assert told_of("napari", written(tmp_path, WRITTEN), SHAPE) == []
