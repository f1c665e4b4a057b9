"""Images that stay where they lie give the same voxels as a copy, from any file that can be read in parts."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import local_engine
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.in_place import InPlace, pieces
from unet_core.images.readers import path_of
from unet_core.runtime import UserError
from unet_core.store.store import Result, open_image_of

SIZES = {"t": 2, "c": 2, "z": 3, "y": 37, "x": 41}
AXES = ["yx", "zyx", "xzyc", "tczyx"]
KINDS = ["memory map", "compressed pages", "tiles", "npy", "hdf5", "hdf5 chunks", "zarr 2", "zarr 3", "zarr 3 shards"]


# Python's own server cannot give a part of a file.
SERVER = """
import socket, sys
from aiohttp import web
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
app = web.Application()
app.router.add_static("/", sys.argv[1])
web.run_app(app, sock=listening, print=None)
"""


def voxels(axes: str, dtype: str = "uint16") -> np.ndarray:
    shape = tuple(SIZES[axis] for axis in axes)
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def write(folder: Path, kind: str, array: np.ndarray) -> str:
    """A file of some kind; what to call it in the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("memory map", "compressed pages", "tiles"):
        options = {
            "memory map": {},
            "compressed pages": {"compression": "zlib"},
            "tiles": {"compression": "zlib", "tile": (16, 16)},
        }[kind]
        tifffile.imwrite(
            folder / "a.tif", array, photometric="minisblack", metadata={"axes": "QQQQQ"[: array.ndim]}, **options
        )
        return str(folder / "a.tif")
    if kind == "npy":
        np.save(folder / "a.npy", array)
        return str(folder / "a.npy")
    if kind.startswith("hdf5"):
        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset(
                "raw", data=array, chunks=tuple(min(n, 16) for n in array.shape) if "chunks" in kind else None
            )
        return f"{folder / 'a.h5'}:raw"
    version = 2 if kind == "zarr 2" else 3
    root = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=version)
    chunks = (1,) * (array.ndim - 2) + (16, 16)
    shards = (1,) * (array.ndim - 2) + (32, 32) if "shards" in kind else None
    root.create_array("0", data=array, chunks=chunks, shards=shards)
    scales = [{"datasets": [{"path": "0", "coordinateTransformations": []}], "axes": []}]
    root.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}})
    return str(folder / "a.zarr")


def convert(folder: Path, **options: object) -> Path:
    """Run the step on one data set; the store."""
    cfg = Dataset.model_validate({"split": {"test": 0, "validation": 0}} | options)
    samples, problems = find_samples(cfg)
    assert not problems
    with local_engine(1) as engine:
        convert_groundtruth(
            cfg, Groundtruth(), samples, store=folder / "d.zarr", stamp=folder / "d.json", engine=engine
        )
    return folder / "d.zarr"


# A single compressed page is decoded as a whole, and so it is copied.
@pytest.mark.parametrize(
    ("kind", "axes"), [pair for pair in itertools.product(KINDS, AXES) if pair != ("compressed pages", "yx")]
)
def test_voxels_and_statistics_are_those_of_a_copy(tmp_path: Path, kind: str, axes: str) -> None:
    path = write(tmp_path / "in", kind, voxels(axes))
    copied, there = (convert(tmp_path / how, images=path, axes=axes, in_place=how) for how in ("never", "always"))
    names = sorted(p.name for p in copied.iterdir() if p.is_dir())
    assert len(names) == (2 if "t" in axes else 1)
    for name in names:
        copy, image = Result(copied / name), open_image_of(there, name)
        assert (
            isinstance(image, InPlace)
            and image.shape == copy.shape
            and image.dtype == copy.dtype
            and image.channels == copy.channels
        )
        np.testing.assert_array_equal(image.read(Box((0, 0, 0), image.shape)), copy.read_all())
        box = Box((0, 5, 7), (1, 30, 20))
        np.testing.assert_array_equal(image.read(box), copy.read(box))
        np.testing.assert_array_equal(image.preview(0, 20), copy.read_all()[:, 0, ::3, ::3])
    assert not list(there.glob("*/0"))


def test_few_bytes_are_copied_and_many_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "memory map", voxels("zyx"))
    assert isinstance(open_image_of(convert(tmp_path / "1", images=path, axes="zyx"), "a"), Result)
    monkeypatch.setattr("unet_core.groundtruth.images.MAX_COPIED_BYTES", 1000)
    assert isinstance(open_image_of(convert(tmp_path / "2", images=path, axes="zyx"), "a"), InPlace)


def test_what_cannot_be_read_in_parts_is_copied_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("yx"), compression="zlib", rowsperstrip=37)
    monkeypatch.setattr("unet_core.groundtruth.images.MAX_COPIED_BYTES", 1000)
    assert isinstance(open_image_of(convert(tmp_path / "1", images=str(tmp_path / "a.tif")), "a"), Result)
    with pytest.raises(UserError, match=r"a\.tif: no part of it can be read .* in_place: never"):
        convert(tmp_path / "2", images=str(tmp_path / "a.tif"), in_place="always")


def test_a_choice_that_changes_replaces_what_stands_there(tmp_path: Path) -> None:
    path = write(tmp_path, "npy", voxels("yx"))
    for how, kind in (("always", InPlace), ("never", Result), ("always", InPlace)):
        assert isinstance(open_image_of(convert(tmp_path, images=path, in_place=how), "a"), kind)


def test_a_file_that_is_gone_or_holds_nan_is_named_when_it_is_read(tmp_path: Path) -> None:
    array = voxels("yx", "float32")
    np.save(tmp_path / "a.npy", array)
    store = convert(tmp_path, images=str(tmp_path / "a.npy"), in_place="always")
    array[3, 4] = np.nan
    before = (tmp_path / "a.npy").stat().st_mtime_ns
    np.save(tmp_path / "a.npy", array)
    os.utime(tmp_path / "a.npy", ns=(before, before))
    with pytest.raises(UserError, match=r"a\.npy: not all pixels .* are finite"):
        open_image_of(store, "a").read(Box((0, 0, 0), (1, 8, 8)))
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "b.npy", voxels("yx"))
    store = convert(tmp_path / "b", images=str(tmp_path / "b" / "b.npy"), in_place="always")
    (tmp_path / "b" / "b.npy").rename(tmp_path / "b" / "c.npy")
    image = open_image_of(store, "b")
    assert isinstance(image, InPlace)
    image._reference["axes"] = "xy"  # not the file that is open already
    with pytest.raises(UserError, match=r"b\.npy.*used where it lies"):
        image.read(Box((0, 0, 0), (1, 8, 8)))


@pytest.mark.parametrize("how", ["never", "always"])
def test_images_in_place_are_what_their_files_say(tmp_path: Path, how: str) -> None:
    """Inverted, one of several in a file, or one of a set: the reference is opened as the file was."""
    (tmp_path / "in").mkdir()
    plain, files = voxels("zyx", "uint8"), tmp_path / "in"
    tifffile.imwrite(files / "white.tif", plain, photometric="miniswhite", compression="zlib")
    with tifffile.TiffWriter(files / "two.tif") as file:
        file.write(plain[0, :9, :9], photometric="minisblack")
        file.write(plain, photometric="minisblack", compression="zlib")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="41" SizeY="37" SizeZ="3" SizeC="1" SizeT="1">'
        + "".join(
            f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="s{z}.ome.tif">u{z}</UUID></TiffData>'
            for z in range(3)
        )
        + "</Pixels></Image></OME>"
    )
    for z in range(3):
        tifffile.imwrite(
            files / f"s{z}.ome.tif",
            plain[z],
            photometric="minisblack",
            description=xml,
            metadata=None,
            compression="zlib",
            rowsperstrip=9,
        )
    for number, (name, expected) in enumerate(
        [("white.tif", 255 - plain), ("two.tif:1", plain), ("s1.ome.tif", plain)]
    ):
        store = convert(tmp_path / str(number), images=str(files / name), axes="zyx", in_place=how)
        image = open_image_of(store, name.split(":")[0].removesuffix(".tif"))
        assert isinstance(image, InPlace if how == "always" else Result)
        np.testing.assert_array_equal(image.read(Box((1, 5, 2), (3, 30, 41))), expected[None, 1:3, 5:30, 2:])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL under which it can be read."""

    (tmp_path / "www").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "www")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield tmp_path / "www", f"http://127.0.0.1:{port}"
        process.kill()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secrets = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in (secrets | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # those of another server
    fsspec.filesystem("s3").mkdir(f"images{port}")
    yield f"s3://images{port}"
    server.stop()


ZARR_KINDS = ["zarr 2", "zarr 3", "zarr 3 shards"]


def check_a_part_of(url: str, folder: Path, array: np.ndarray) -> None:
    store = convert(folder, images=url, axes="zyx", in_place="always")
    np.testing.assert_array_equal(open_image_of(store, "a").read(Box((1, 0, 2), (3, 37, 41))), array[None, 1:3, :, 2:])


@pytest.mark.parametrize("kind", ZARR_KINDS)
def test_an_image_behind_a_url_is_read_there(tmp_path: Path, server: tuple[Path, str], kind: str) -> None:
    folder, url = server
    write(folder, kind, voxels("zyx"))
    check_a_part_of(f"{url}/a.zarr", tmp_path, voxels("zyx"))


@pytest.mark.parametrize("kind", ZARR_KINDS)
def test_an_image_in_a_bucket_is_read_there(tmp_path: Path, bucket: str, kind: str) -> None:
    fsspec.filesystem("s3").put(write(tmp_path / "in", kind, voxels("zyx")), f"{bucket}/a.zarr", recursive=True)
    check_a_part_of(f"{bucket}/a.zarr", tmp_path, voxels("zyx"))
    with pytest.raises(UserError, match=r"s3://images\d+/b\.zarr"):
        convert(tmp_path / "none", images=f"{bucket}/b.zarr", axes="zyx")


def test_a_url_that_leads_nowhere_or_to_another_kind_of_file_is_named(tmp_path: Path, server: tuple[Path, str]) -> None:
    with pytest.raises(UserError, match=r"1 of 1 samples cannot be converted .*:\n.*http://.*/b\.zarr"):
        convert(tmp_path, images=f"{server[1]}/b.zarr", axes="zyx")
    _, problems = find_samples(Dataset(images=f"{server[1]}/b.tif"))
    assert "behind a URL only OME-Zarr" in problems[0]
    assert str(path_of(f"{server[1]}/b.zarr")) == f"{server[1]}/b.zarr"


@given(
    shape=st.tuples(*[st.integers(1, 5000)] * 3),
    chunk=st.none() | st.tuples(*[st.integers(1, 512)] * 3),
    most=st.integers(1, 10**9),
)
def test_pieces_lie_inside_and_are_all_there_is_of_a_small_image(
    shape: tuple[int, int, int], chunk: tuple[int, int, int] | None, most: int
) -> None:
    found = pieces(shape, chunk, most)
    assert len(set(found)) == len(found) >= 1
    assert all(box == box.clip(shape) and min(box.shape) > 0 for box in found)
    assert len(found) == 1 or sum(np.prod(box.shape, dtype=np.int64) for box in found) <= most
    if most >= 8 * np.prod(np.maximum(shape, 1024), dtype=np.int64):
        assert sum(np.prod(box.shape, dtype=np.int64) for box in found) == np.prod(shape, dtype=np.int64)
