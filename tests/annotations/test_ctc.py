from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.annotations.layers import objects_in
from unet_core.annotations import ctc
from unet_core.annotations.layer import Image, Layer

CELLS = np.zeros((6, 8), np.uint16)
CELLS[1:3, 1:3], CELLS[4:6, 5:8] = 1, 2


def tif(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")
    return path


def layer_in(folder: Path, shape: tuple[int, int, int]) -> Layer:
    found, strangers = ctc.find(str(folder), [Image("t000")])
    assert strangers == []
    (layer,) = ctc.read(found[0], Image("t000"), shape, None)  # type: ignore[arg-type]
    return layer


def test_silver_truth_is_read_like_gold(tmp_path: Path) -> None:
    tif(tmp_path / "01_ST" / "SEG" / "man_seg000.tif", CELLS)
    tif(tmp_path / "01_ST" / "TRA" / "man_track000.tif", CELLS * 0 + 7)
    layer = layer_in(tmp_path / "01_ST", (1, 6, 8))
    assert layer.position.size == np.count_nonzero(CELLS) and not layer.ignore.size


@pytest.mark.parametrize("extra", [False, True])
def test_frames_with_cells_that_have_markers_alone_are_annotated_in_their_masks(tmp_path: Path, extra: bool) -> None:
    markers = np.zeros_like(CELLS)
    markers[1, 1], markers[5, 6] = 11, 12
    markers[0, 6] = 13 * extra
    tif(tmp_path / "01_GT" / "SEG" / "man_seg000.tif", CELLS)
    tif(tmp_path / "01_GT" / "TRA" / "man_track000.tif", markers)
    layer = layer_in(tmp_path / "01_GT", (1, 6, 8))
    np.testing.assert_array_equal(layer.ignore, np.flatnonzero(CELLS == 0) if extra else [])


def test_single_slices_of_a_volume_are_annotated(tmp_path: Path) -> None:
    for plane in (1, 3):
        tif(tmp_path / "01_GT" / "SEG" / f"man_seg_000_{plane:03}.tif", CELLS * plane)
    layer = layer_in(tmp_path / "01_GT", (4, 6, 8))
    known = np.stack([CELLS * 0, CELLS, CELLS * 0, CELLS * 3])
    np.testing.assert_array_equal(layer.position, np.flatnonzero(known))
    np.testing.assert_array_equal(layer.label, known[known > 0])
    np.testing.assert_array_equal(np.unique(layer.ignore // 48), [0, 2])
    with pytest.raises(ValueError, match="man_seg_000_003.tif: annotates slice 3, but the image has 2"):
        layer_in(tmp_path / "01_GT", (2, 6, 8))


def test_markers_can_be_the_objects(tmp_path: Path) -> None:
    path = tif(tmp_path / "01_GT" / "TRA" / "man_track000.tif", CELLS)
    assert ctc.find(str(tmp_path / "01_GT" / "TRA"), [Image("t000")]) == ({0: (path,)}, [])
    ((_, found),) = objects_in("ctc", path, (1, 6, 8))
    np.testing.assert_array_equal(found, CELLS)
