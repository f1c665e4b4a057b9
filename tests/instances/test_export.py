"""Labels come out as TIFF files that other tools read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unet_core.instances.export import export_labels
from unet_core.runtime import UserError
from unet_core.store.store import Spec, begin, finish

ROOT = Path(__file__).parents[2]


def stored_labels(
    store: Path, name: str, shape: tuple[int, int, int] = (1, 40, 50), largest: int = 9, done: bool = True
) -> np.ndarray:
    labels = np.random.default_rng(len(name)).integers(0, largest + 1, shape).astype(np.uint32)
    labels[0, 0, 0] = largest
    result = begin(store / name, "d", Spec(shape, "uint32", "labels", pixel_size=(2.0, 0.5, 0.25)), {})
    result.write(0, labels, "d")
    if done:
        finish(store / name, "d", {"objects": largest})
    return labels


@pytest.mark.parametrize(("shape", "axes"), [((1, 40, 50), "YX"), ((3, 40, 50), "ZYX"), ((1, 1, 1), "YX")])
@pytest.mark.parametrize(("largest", "dtype"), [(9, "uint16"), (2**16 - 1, "uint16"), (2**16, "uint32")])
def test_images_and_volumes_become_ome_tiff_with_their_pixel_size(
    tmp_path: Path, shape: tuple[int, int, int], axes: str, largest: int, dtype: str
) -> None:
    labels = stored_labels(tmp_path / "a.zarr", "näme 1", shape, largest)
    (path,) = export_labels(tmp_path / "a.zarr", tmp_path / "out")
    assert path == tmp_path / "out" / "näme 1.tif"
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        assert (
            file.is_ome
            and series.axes == axes
            and series.dtype == dtype
            and 'PhysicalSizeX="0.25"' in (file.ome_metadata or "")
        )
        np.testing.assert_array_equal(series.asarray(), labels[0] if shape[0] == 1 else labels)


def test_the_tracking_challenge_gets_its_names_by_the_command(tmp_path: Path) -> None:
    expected = {
        f"mask{number:03}.tif": stored_labels(tmp_path / "a.zarr", f"t{number:04}", (2, 30, 30))
        for number in (0, 7, 115)
    }
    command = [
        sys.executable,
        "-m",
        "unet_core",
        "export",
        str(tmp_path / "a.zarr"),
        str(tmp_path / "01_RES"),
        "--format",
        "ctc",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("export: 3 files")
    assert sorted(path.name for path in (tmp_path / "01_RES").iterdir()) == sorted(expected)
    for name, labels in expected.items():
        found = tifffile.imread(tmp_path / "01_RES" / name)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    ("names", "largest", "message"),
    [
        (["cell"], 5, "'cell' has no number"),
        (["a1", "b01"], 5, "'a1' and 'b01' have the same number"),
        (["t1"], 2**16, "65,536 objects; the Cell Tracking Challenge allows 65,535"),
    ],
)
def test_what_does_not_fit_the_tracking_challenge_is_told(
    tmp_path: Path, names: list[str], largest: int, message: str
) -> None:
    for name in names:
        stored_labels(tmp_path / "a.zarr", name, largest=largest)
    with pytest.raises(UserError, match=message):
        export_labels(tmp_path / "a.zarr", tmp_path / "out", "ctc")


def test_what_is_not_there_unfinished_or_no_labels_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unet_core", "export", str(tmp_path / "none.zarr"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith("export: ") and "has no samples" in done.stderr
    stored_labels(tmp_path / "a.zarr", "one", done=False)
    with pytest.raises(UserError, match="one is unfinished"):
        export_labels(tmp_path / "a.zarr", tmp_path / "out")
    begin(tmp_path / "b.zarr" / "two", "d", Spec((1, 9, 9), "uint8", "image"), {})
    with pytest.raises(UserError, match="two is no label image"):
        export_labels(tmp_path / "b.zarr", tmp_path / "out")
    for name in ("three", "four"):
        stored_labels(tmp_path / "c.zarr", name)
    (tmp_path / "c.zarr/four/zarr.json").unlink()
    with pytest.raises(UserError, match="four is missing or damaged; run 'python"):
        export_labels(tmp_path / "c.zarr", tmp_path / "out")
    shutil.rmtree(tmp_path / "c.zarr/four")
    (tmp_path / "c.json").write_text('{"step": "instances", "samples": {"three": {}, "four": {}}}')
    with pytest.raises(UserError, match="four is missing or damaged; run 'python"):
        export_labels(tmp_path / "c.zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()
