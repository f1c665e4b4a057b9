"""HDF5 and Zarr: which arrays a file holds, and whether all of what they are kept in is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from tests.images.test_readers import STACK, failure, read
from unet_core.images.headers import header_of
from unet_core.images.readers import arrays_in, members_of, missing_chunks, open_image

PLANES = np.random.default_rng(0).integers(0, 200, (3, 8, 9)).astype(np.uint8)


# ---- HDF5 ----


def virtual(folder: Path, names: list[str]) -> Path:
    """A file whose array is made of planes in other files."""
    layout = h5py.VirtualLayout((len(names), 8, 9), np.uint8)
    for number, name in enumerate(names):
        layout[number] = h5py.VirtualSource(name, "plane", (8, 9))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_virtual_dataset("all", layout, fillvalue=7)
    return folder / "a.h5"


def planes(folder: Path, names: list[str]) -> None:
    for name, plane in zip(names, PLANES, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        with h5py.File(folder / name, "w") as file:
            file["plane"] = plane


def test_virtual_arrays_are_read_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["p0.h5", "p1.h5", "inside/p2.h5"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    planes(tmp_path, names)
    path = virtual(tmp_path, names)
    np.testing.assert_array_equal(read(path), PLANES)
    assert members_of(path) == [path, *sorted(tmp_path / name for name in names)]
    # One in the working folder is not the one that is meant.
    (tmp_path / "p1.h5").rename(tmp_path / "elsewhere" / "p1.h5")
    assert failure(path) == f"its values lie in {tmp_path}/p1.h5, which is missing; put it there"
    assert members_of(path) == [path, tmp_path / "inside/p2.h5", tmp_path / "p0.h5"]


def test_virtual_arrays_of_virtual_arrays_are_looked_through(tmp_path: Path) -> None:
    planes(tmp_path, ["p0.h5"])
    layout = h5py.VirtualLayout((8, 9), np.uint8)
    layout[:] = h5py.VirtualSource("p0.h5", "plane", (8, 9))
    with h5py.File(tmp_path / "middle.h5", "w") as file:
        file.create_virtual_dataset("plane", layout)
    path = virtual(tmp_path, ["middle.h5"])
    np.testing.assert_array_equal(read(path), PLANES[:1])
    assert members_of(path) == [path, tmp_path / "middle.h5", tmp_path / "p0.h5"]
    (tmp_path / "p0.h5").unlink()
    assert "p0.h5, which is missing" in failure(path)


@pytest.mark.parametrize("name", ["../p0.h5", "/etc/p0.h5"])
def test_files_outside_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    planes(tmp_path, ["p0.h5"])
    path = virtual(tmp_path / "a", [name])
    assert "only files in its own folder" in failure(path) and members_of(path) == [path]
    with h5py.File(tmp_path / "a" / "b.h5", "w") as file:
        file.create_dataset("raw", (8, 9), np.uint8, external=[(name, 0, 72)])
    assert "only files in its own folder" in failure(tmp_path / "a" / "b.h5")


def test_a_file_without_the_array_that_is_wanted_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "p0.h5", "w") as file:
        file["other"] = PLANES[0]
    assert failure(virtual(tmp_path, ["p0.h5"])).endswith("p0.h5, which has no array plane")


def test_external_storage_lies_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    PLANES.tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", PLANES.shape, np.uint8, external=[("raw.bin", 0, PLANES.nbytes)])
    path = tmp_path / "a.h5"
    np.testing.assert_array_equal(read(path), PLANES)
    assert members_of(path) == [path, tmp_path / "raw.bin"]
    # In two pieces, the second of which begins later.
    raw = PLANES.tobytes()
    (tmp_path / "b0.bin").write_bytes(raw[:100])
    (tmp_path / "b1.bin").write_bytes(b"head" + raw[100:])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        places = [("b0.bin", 0, 100), ("b1.bin", 4, h5py.h5f.UNLIMITED)]
        file.create_dataset("raw", PLANES.shape, np.uint8, external=places)
    np.testing.assert_array_equal(read(tmp_path / "b.h5"), PLANES)
    (tmp_path / "b1.bin").write_bytes(raw[100:])
    assert "its header claims 216 bytes of pixels, but the files beside it have 212" in failure(tmp_path / "b.h5")
    (tmp_path / "raw.bin").unlink()
    assert failure(path) == f"its values lie in {tmp_path}/raw.bin, which is missing; put it there"


def test_arrays_of_hdf5_are_listed_where_there_are_several(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volumes/raw"] = STACK
    assert arrays_in(tmp_path / "a.h5") == []
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["volumes/labels"] = STACK
    assert arrays_in(tmp_path / "a.h5") == ["volumes/labels", "volumes/raw"]
    assert members_of(tmp_path / "a.h5") == [tmp_path / "a.h5"]


def test_axes_of_hdf5_are_those_of_its_tags(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = PLANES[None, ..., None]
        file["raw"].attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tzyxc"]})
    with open_image(tmp_path / "a.h5") as array:
        assert array.axes == header_of(tmp_path / "a.h5").axes == "tzyxc"
        np.testing.assert_array_equal(array[0, 1, ..., 0], PLANES[1])


# ---- Zarr ----


def image(group: zarr.Group, name: str, data: np.ndarray, axes: str = "zyx", **options: Any) -> None:
    """An OME-Zarr image in a group."""
    scales = [{"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}]}]
    inside = group.create_group(name, attributes=told(group, {"multiscales": scales}))
    inside.create_array("0", data=data, **options)


def told(group: zarr.Group, metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata if group.metadata.zarr_format == 2 else {"ome": {"version": "0.5"} | metadata}


@pytest.mark.parametrize("version", [2, 3])
def test_fields_of_a_plate_are_named(tmp_path: Path, version: Any) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    root.attrs.update(told(root, {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}))
    for number, well in enumerate(("A/1", "B/2")):
        row, column = well.split("/")
        inside = root.create_group(row).create_group(
            column, attributes=told(root, {"well": {"images": [{"path": "0"}]}})
        )
        image(inside, "0", PLANES + number)
    path = tmp_path / "a.zarr"
    assert arrays_in(path) == ["A/1/0", "B/2/0"]
    assert failure(path) == "say which array, as in a.zarr:A/1/0; it has A/1/0, B/2/0"
    np.testing.assert_array_equal(read(path, "B/2/0"), PLANES + 1)
    np.testing.assert_array_equal(read(path, "B/2"), PLANES + 1)  # a well with one field
    with open_image(path, "A/1/0") as array:
        assert array.axes == header_of(path, "A/1/0").axes == "zyx"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("listed", [False, True])
def test_images_of_bioformats2raw_are_named_or_the_only_one_is_read(tmp_path: Path, version: Any, listed: bool) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    root.attrs.update(told(root, {"bioformats2raw.layout": 3}))
    image(root, "0", PLANES[None, None], "tczyx")
    ome = root.create_group("OME", attributes=told(root, {"series": ["0"]}) if listed else {})
    path = tmp_path / "a.zarr"
    np.testing.assert_array_equal(read(path), PLANES[None, None])
    assert header_of(path).axes == "tczyx" and arrays_in(path) in (["0"], [])
    image(root, "1", PLANES + 1)
    if listed:
        ome.attrs.update(told(root, {"series": ["0", "1"]}))
    assert arrays_in(path) == ["0", "1"]
    assert failure(path) == "say which array, as in a.zarr:0; it has 0, 1"
    np.testing.assert_array_equal(read(path, "1"), PLANES + 1)


def test_several_images_in_one_group_are_asked_about(tmp_path: Path) -> None:
    scales = [{"axes": [{"name": axis} for axis in "zyx"], "datasets": [{"path": name}]} for name in ("raw", "smooth")]
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.attrs.update({"ome": {"version": "0.5", "multiscales": scales}})
    root.create_array("raw", data=PLANES)
    root.create_array("smooth", data=PLANES + 1)
    assert arrays_in(tmp_path / "a.zarr") == ["raw", "smooth"]
    assert failure(tmp_path / "a.zarr") == "say which array, as in a.zarr:raw; it has raw, smooth"
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "smooth"), PLANES + 1)


def test_arrays_of_a_plain_group_are_listed(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_group("volumes").create_array("raw", data=PLANES, dimension_names=["z", "y", "x"])
    image(root, "labels", PLANES)
    assert arrays_in(tmp_path / "a.zarr") == ["labels", "volumes/raw"]
    with open_image(tmp_path / "a.zarr", "volumes/raw") as array:
        assert array.axes == header_of(tmp_path / "a.zarr", "volumes/raw").axes == "zyx"


KINDS: list[dict[str, Any]] = [
    {"zarr_format": 2},
    {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    {"zarr_format": 3},
    {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    {"zarr_format": 3, "chunks": (1, 2, 3), "shards": (2, 4, 6)},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_chunks_that_are_missing_are_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=PLANES + 1, **({"chunks": (2, 4, 6)} | options))
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr")))
    assert len(files) == 8 and missing_chunks(path) == (0, 8)
    (path / "c.0.0.0.partial").touch()  # what an interrupted copy may leave
    files[3].unlink()
    files[5].unlink()
    assert missing_chunks(path) == (2, 8)
    np.testing.assert_array_equal(read(path) > 0, read(path) != 0)  # they are legal
    for file in files:
        file.unlink(missing_ok=True)
    assert missing_chunks(path) == (8, 8)
    assert failure(path) == "the array . has none of its chunks; was it copied whole?"
    with open_image(path, stored=True) as array:  # an annotation without objects
        assert not array[...].any()


def test_chunks_of_the_finest_level_and_of_empty_arrays_are_counted(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    image(root, "0", PLANES + 1, chunks=(1, 8, 9))
    assert missing_chunks(tmp_path / "a.zarr", "0") == missing_chunks(tmp_path / "a.zarr", "0/0") == (0, 3)
    shutil.rmtree(tmp_path / "a.zarr" / "0" / "0" / "c" / "1")
    assert missing_chunks(tmp_path / "a.zarr", "0") == (1, 3)
    zarr.create_array(tmp_path / "b.zarr", shape=(0, 5), dtype="u1")
    assert missing_chunks(tmp_path / "b.zarr") == (0, 0)
