from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unet_core.headers import NOTHING, Header, header_of
from unet_core.store import Spec, begin

IMAGE = np.zeros((2, 3, 8, 9), np.uint8)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3)])
def test_ome_tiff_says_axes_and_sizes(tmp_path: Path, unit: str, factor: float) -> None:
    metadata = {"axes": "CZYX"} | {f"PhysicalSize{axis}": 0.5 for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata=metadata | {"PhysicalSizeZ": 2.0})
    assert header_of(tmp_path / "a.ome.tif") == Header("czyx", pytest.approx({"z": 2 * factor, "y": 0.5 * factor, "x": 0.5 * factor}))


def test_imagej_says_axes_and_sizes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, resolution=(4, 2), metadata={"axes": "ZCYX", "unit": "um", "spacing": 3.0})
    assert header_of(tmp_path / "a.tif") == Header("zcyx", pytest.approx({"z": 3.0, "y": 0.5, "x": 0.25}))


@pytest.mark.parametrize(
    "options", [{"metadata": None}, {"imagej": True, "metadata": {"axes": "ZCYX"}}, {"imagej": True, "resolution": (4, 4)}]
)
def test_sizes_without_unit_are_not_believed(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="minisblack", **options)
    assert header_of(tmp_path / "a.tif").pixel_size == {}


def test_our_own_stores_say_axes_and_sizes(tmp_path: Path) -> None:
    begin(tmp_path / "a.zarr", "0", Spec((1, 8, 9), "uint8", "image", 2, (1.0, 0.5, 0.25)), {})
    assert header_of(tmp_path / "a.zarr") == Header("czyx", {"z": 1.0, "y": 0.5, "x": 0.25})


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.png", "a.h5"])
def test_damaged_and_missing_files_say_nothing(tmp_path: Path, name: str) -> None:
    assert header_of(tmp_path / name) == NOTHING
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "a.zarr").mkdir(exist_ok=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}", encoding="utf-8")
    assert header_of(tmp_path / name) == NOTHING


def test_entities_in_ome_xml_are_not_resolved(tmp_path: Path) -> None:
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "9">]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">&x;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="minisblack", description=text, metadata=None)
    assert header_of(tmp_path / "a.ome.tif").pixel_size == {}
