from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.annotations.layers import objects_in
from unet_core.annotations import napari
from unet_core.blocks import ZYX

SHAPE: ZYX = (1, 16, 20)
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
    assert napari.find(f"{tmp_path}/{{stem}}.csv", [("a", None), ("b", None)]) == ({0: (path,)}, [])
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
    (layer,) = napari.read((path,), ("a", None), (6, 8, 8), None)  # type: ignore[arg-type]
    assert set((layer.position // 64).tolist()) == {4}
    found = [napari.read((path,), ("a", page), (1, 8, 8), None) for page in (3, 4)]  # type: ignore[arg-type]
    assert [len([*shapes]) for shapes in found] == [0, 1]
    # In a 2D image the leading axis says nothing.
    assert len([*napari.read((path,), ("a", None), (1, 8, 8), None)]) == 1  # type: ignore[arg-type]


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
