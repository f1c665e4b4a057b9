from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from unet_core.config.datasets import PixelSize
from unet_core.images.headers import EMPTY_HEADER, Header, header_of, voxel_size
from unet_core.store.store import Spec, begin

IMAGE = np.zeros((2, 3, 8, 9), np.uint8)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3)])
def test_ome_tiff_says_axes_and_sizes(tmp_path: Path, unit: str, factor: float) -> None:
    metadata = (
        {"axes": "CZYX"}
        | {f"PhysicalSize{axis}": 0.5 for axis in "XY"}
        | {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata=metadata | {"PhysicalSizeZ": 2.0})
    assert header_of(tmp_path / "a.ome.tif") == Header(
        "czyx", pytest.approx({"z": 2 * factor, "y": 0.5 * factor, "x": 0.5 * factor})
    )


def test_imagej_says_axes_and_sizes(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZCYX", "unit": "um", "spacing": 3.0},
    )
    assert header_of(tmp_path / "a.tif") == Header("zcyx", pytest.approx({"z": 3.0, "y": 0.5, "x": 0.25}))


@pytest.mark.parametrize(
    "options",
    [{"metadata": None}, {"imagej": True, "metadata": {"axes": "ZCYX"}}, {"imagej": True, "resolution": (4, 4)}],
)
def test_sizes_without_unit_are_not_believed(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="minisblack", **options)
    assert header_of(tmp_path / "a.tif").pixel_size == {}


def test_our_own_stores_say_axes_and_sizes(tmp_path: Path) -> None:
    begin(tmp_path / "a.zarr", "0", Spec((1, 8, 9), "uint8", "image", 2, (1.0, 0.5, 0.25)), {})
    assert header_of(tmp_path / "a.zarr") == Header("czyx", {"z": 1.0, "y": 0.5, "x": 0.25})


def test_hdf5_says_axes_and_sizes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = IMAGE
        file["raw"].attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file["raw"].attrs["axistags"] = json.dumps({"axes": [{"key": key, "typeFlags": 2} for key in "czyx"]})
        file["volume"] = IMAGE[0]
        file["volume"].attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file["plain"] = IMAGE
    assert header_of(tmp_path / "a.h5", "raw") == Header("czyx", {"z": 2.0, "y": 0.5, "x": 0.25})
    assert header_of(tmp_path / "a.h5", "volume") == Header("zyx", {"z": 2.0, "y": 0.5, "x": 0.25})
    assert header_of(tmp_path / "a.h5", "/plain") == header_of(tmp_path / "a.h5") == EMPTY_HEADER


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.png", "a.h5"])
def test_damaged_and_missing_files_say_nothing(tmp_path: Path, name: str) -> None:
    assert header_of(tmp_path / name) == EMPTY_HEADER
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "a.zarr").mkdir(exist_ok=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}", encoding="utf-8")
    assert header_of(tmp_path / name) == EMPTY_HEADER


def test_entities_in_ome_xml_are_not_resolved(tmp_path: Path) -> None:
    head = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "9">]>'
    text = f'{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">&x;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="minisblack", description=text, metadata=None)
    assert header_of(tmp_path / "a.ome.tif").pixel_size == {}


def zarr_image(folder: Path, metadata: dict[str, Any], version: str) -> Path:
    """The metadata of an OME-Zarr image, as other programs write them."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zattrs").write_text(json.dumps(metadata), encoding="utf-8")
    else:
        content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5"} | metadata}}
        (folder / "zarr.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def multiscales(unit: str | None, **more: Any) -> dict[str, Any]:
    space = [{"name": axis, "type": "space"} | ({"unit": unit} if unit else {}) for axis in "zyx"]
    levels = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 0.5 * 2**n, 0.5 * 2**n]}]}
        for n in (0, 1)
    ]
    return {"multiscales": [{"axes": [{"name": "c", "type": "channel"}, *space], "datasets": levels} | more]}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_says_axes_sizes_and_channels(tmp_path: Path, version: str) -> None:
    omero = {"omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}}
    path = zarr_image(tmp_path / "a.zarr", multiscales("nanometer") | omero, version)
    assert header_of(path) == Header("czyx", pytest.approx({"z": 2e-3, "y": 5e-4, "x": 5e-4}), ("DAPI", "GFP"))
    # One of its resolutions.
    assert header_of(path, "1").pixel_size == pytest.approx({"z": 2e-3, "y": 1e-3, "x": 1e-3})
    # A scale of all resolutions together counts too; without a unit nothing is believed.
    whole = multiscales("micrometer", coordinateTransformations=[{"type": "scale", "scale": [1, 1, 2, 2]}])
    assert header_of(zarr_image(tmp_path / "b.zarr", whole, version)).pixel_size == {"z": 2, "y": 1, "x": 1}
    assert header_of(zarr_image(tmp_path / "c.zarr", multiscales(None), version)) == Header("czyx", {})


def test_tiff_says_the_names_of_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata={"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    assert header_of(tmp_path / "a.ome.tif").channels == ("DAPI", "GFP")
    tifffile.imwrite(tmp_path / "b.tif", IMAGE[:, 0], imagej=True, metadata={"axes": "CYX", "Labels": ["DAPI", "GFP"]})
    assert header_of(tmp_path / "b.tif").channels == ("DAPI", "GFP")
    # Those of planes are no channels.
    tifffile.imwrite(tmp_path / "c.tif", IMAGE[:, 0], imagej=True, metadata={"axes": "ZYX", "Labels": ["one", "two"]})
    assert header_of(tmp_path / "c.tif").channels == ()


def test_czi_says_axes_sizes_and_channels(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi", reason="bioio is an extra")
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c, z in np.ndindex(2, 3):
            file.write(data=np.full((40, 50, 1), 7, np.uint16), plane={"C": c, "Z": z, "T": 0})
        file.write_metadata("a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=2e-7, scale_y=2e-7, scale_z=1e-6)
    assert header_of(tmp_path / "a.czi") == Header("czyx", pytest.approx({"z": 1, "y": 0.2, "x": 0.2}), ("DAPI", "GFP"))


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "1e400", "1e-300", "1e300", "many", "1_0", "9" * 5000])
def test_sizes_that_cannot_be_are_not_believed(tmp_path: Path, size: str) -> None:
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" '
        f'Type="uint8" SizeX="9" SizeY="8" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="{size}" '
        'PhysicalSizeY="0.001"><TiffData/>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE[0, 0], photometric="minisblack", description=text, metadata=None)
    assert "x" not in header_of(tmp_path / "a.ome.tif").pixel_size


def test_names_of_channels_are_cut_and_must_be_names(tmp_path: Path) -> None:
    for names, kept in (
        ([{"label": "x" * 10**6}], ("x" * 100,)),
        ([{"label": ["x"]}], ()),
        ([{"label": " "}], ()),
        ([{}], ()),
    ):
        path = zarr_image(tmp_path / "a.zarr", multiscales(None) | {"omero": {"channels": names}}, "0.5")
        assert header_of(path).channels == kept


def test_what_the_configuration_says_counts_before_the_file() -> None:
    header = Header("zyx", {"z": 3.0, "y": 0.5, "x": 0.5})
    assert voxel_size(PixelSize(), header, "zyx") == (3, 0.5, 0.5)
    assert voxel_size(PixelSize(y=2), header, "zyx") == (3, 2, 0.5)
    # Along an axis that the file does not have it says nothing.
    assert voxel_size(PixelSize(), header, "cyx") == (1, 0.5, 0.5)
    assert voxel_size(PixelSize(z=4), EMPTY_HEADER, "yx") == (4, 1, 1)
