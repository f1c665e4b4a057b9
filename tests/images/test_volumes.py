"""NRRD, MRC and NIfTI, as their libraries write them and with headers written by hand."""

from __future__ import annotations

import bz2
import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

from unet_core.annotations.layer import Image, read_volume, stem_of
from unet_core.config.datasets import Dataset
from unet_core.groundtruth.listing import list_images
from unet_core.images.headers import EMPTY_HEADER, Header, header_of
from unet_core.images.readers import companions_of, image_shape, open_image
from unet_core.init.survey import File

RNG = np.random.default_rng(0)
# z y x
VOLUME = RNG.integers(-90, 90, (3, 4, 5)).astype(np.int16)


def read(path: Path, stored: bool = False) -> tuple[np.ndarray, str]:
    with open_image(path, "", stored) as array:
        values = array[...]
        part = tuple(slice(length // 2, length) for length in array.shape)
        np.testing.assert_array_equal(array[part], values[part])
        np.testing.assert_array_equal(array[0], values[0])
        assert values.dtype == array.dtype and values.dtype.isnative and values.shape == array.shape
        return np.array(values), array.axes


def has_parts(path: Path) -> bool:
    with open_image(path) as array:
        return array.chunks is not None


def nifti(path: Path, values: np.ndarray, unit: str = "mm", kind: Any = nibabel.Nifti1Image, **fields: Any) -> Path:
    """Values with the axes that the array has, from the slowest on."""
    image = kind(values.T, np.diag([0.5, 0.25, 2, 1]))
    image.header.set_xyzt_units(unit)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def mrc(path: Path, values: np.ndarray, size: Any = (20.0, 10.0, 5.0)) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(values)
        if size:
            file.voxel_size = size
    return path


def content_of(path: Path) -> bytearray:
    content = path.read_bytes()
    return bytearray(gzip.decompress(content) if path.suffix == ".gz" else content)


def put(path: Path, content: bytearray) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def header(path: Path, content: bytes, **fields: Any) -> Path:
    """A NRRD header written by hand, with the bytes of the values after it."""
    told = {"type": "int16", "dimension": 3, "sizes": "5 4 3", "endian": "little", "encoding": "raw"} | fields
    lines = ["NRRD0004", "# by hand", *(f"{name.replace('_', ' ')}: {value}" for name, value in told.items())]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + content)
    return path


# NIfTI


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "float32", "float64"])
def test_nifti_is_read_as_z_y_x(tmp_path: Path, name: str, kind: Any, dtype: str) -> None:
    values = np.abs(VOLUME).astype(dtype)
    path = nifti(tmp_path / name.lower(), values, kind=kind).rename(tmp_path / name)
    found, axes = read(path)
    assert axes == "zyx" and found.dtype == dtype and has_parts(path) == (name == "a.nii")
    np.testing.assert_array_equal(found, values)
    assert header_of(path) == Header("zyx", pytest.approx({"x": 500, "y": 250, "z": 2000}))


def test_nifti_of_the_other_byte_order(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        image = nibabel.Nifti1Image(VOLUME.T, np.eye(4), nibabel.Nifti1Header(endianness=">"))
        image.header.set_data_dtype(np.int16)
        nibabel.save(image, tmp_path / name)
        assert content_of(tmp_path / name)[:4] == struct.pack(">i", 348)
        np.testing.assert_array_equal(read(tmp_path / name)[0], VOLUME)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((4, 5), "yx", (4, 5)),
        ((2, 3, 4, 5), "tzyx", (2, 3, 4, 5)),
        ((1, 3, 4, 5), "zyx", (3, 4, 5)),
        ((3, 1, 3, 4, 5), "czyx", (3, 3, 4, 5)),
    ],
)
def test_axes_of_nifti(tmp_path: Path, shape: tuple[int, ...], axes: str, expected: tuple[int, ...]) -> None:
    values = RNG.integers(0, 99, shape).astype(np.uint8)
    found, told = read(nifti(tmp_path / "a.nii", values))
    assert told == axes
    np.testing.assert_array_equal(found, values.reshape(expected))


def test_colours_of_nifti_are_channels(tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (3, 4, 5, 3)).astype(np.uint8)
    fields = values.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    found, axes = read(nifti(tmp_path / "a.nii", fields))
    assert axes == "zyxc"
    np.testing.assert_array_equal(found, values)


def test_scaled_values_of_nifti(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME.T, np.eye(4))
    image.header.set_slope_inter(2, -1024)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        content = content_of(tmp_path / name)
        content[112:120] = struct.pack("<ff", 2, -1024)
        content[352:] = VOLUME.tobytes()
        put(tmp_path / name, content)
        expected = nibabel.load(tmp_path / name).get_fdata().T
        np.testing.assert_array_equal(expected, VOLUME * 2.0 - 1024)
        np.testing.assert_array_equal(read(tmp_path / name)[0], expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_labels_that_were_scaled_to_all_numbers_of_a_type_are_whole_numbers(tmp_path: Path, dtype: Any) -> None:
    labels = np.abs(VOLUME) % 7
    image = nibabel.Nifti1Image(labels.T.astype(np.float64), np.eye(4))
    image.header.set_data_dtype(dtype)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stored = nibabel.load(tmp_path / "a.nii.gz").dataobj.slope
    assert stored not in (0, 1)
    found = read_volume(tmp_path / "a.nii.gz", Image("a"), labels.shape)
    np.testing.assert_array_equal(found, labels)


def test_numbers_that_are_not_whole_stay_so(tmp_path: Path) -> None:
    values = np.array([[0, 0.5, 1.25], [2, 3, 100.75]])[None]
    image = nibabel.Nifti1Image(values.T, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read(tmp_path / "a.nii", stored=True)[0], values, atol=0.01)
    assert (read(tmp_path / "a.nii", stored=True)[0] % 1 != 0).sum() == 3


@pytest.mark.parametrize(("unit", "size"), [("micron", 0.5), ("mm", 500), ("unknown", None)])
def test_units_of_nifti(tmp_path: Path, unit: str, size: float | None) -> None:
    found = header_of(nifti(tmp_path / "a.nii", VOLUME, unit)).pixel_size
    assert found == ({} if size is None else pytest.approx({"x": size, "y": size / 2, "z": size * 4}))


def test_what_nifti_is_not_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VOLUME.T, np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii: its voxels lie in another file"):
        read(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"c\.nii.*type complex64"):
        read(nifti(tmp_path / "c.nii", VOLUME.astype(np.complex64)))
    with pytest.raises(ValueError, match=r"v\.nii: has 2 layers"):
        read(nifti(tmp_path / "v.nii", np.zeros((2, 1, 3, 4, 5), np.uint8)), stored=True)


# MRC


@pytest.mark.parametrize("name", ["a.mrc", "a.rec", "a.map", "a.st", "a.ali", "a.MRC"])
def test_mrc_is_read_as_z_y_x(tmp_path: Path, name: str) -> None:
    path = mrc(tmp_path / name, VOLUME)
    found, axes = read(path)
    assert axes == "zyx" and has_parts(path)
    np.testing.assert_array_equal(found, VOLUME)
    assert header_of(path) == Header("zyx", pytest.approx({"x": 2e-3, "y": 1e-3, "z": 5e-4}))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32", "float16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_byte_orders_of_mrc(tmp_path: Path, dtype: str, order: str) -> None:
    values = VOLUME.astype(dtype)
    found, _ = read(mrc(tmp_path / "a.mrc", values.astype(values.dtype.newbyteorder(order))))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_the_mode_tells_the_byte_order_where_the_stamp_is_wrong(tmp_path: Path) -> None:
    for order in "<>":
        path = mrc(tmp_path / "a.mrc", VOLUME.astype(f"{order}i2"))
        content = bytearray(path.read_bytes())
        content[212:216] = b"\0\0\0\0"
        path.write_bytes(content)
        np.testing.assert_array_equal(read(path)[0], VOLUME)
        path.unlink()


def test_bytes_of_imod_are_unsigned_where_its_flags_say_so(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    for stamp, flags, dtype in ((1146047817, 0, "u1"), (1146047817, 1, "i1"), (0, 0, "i1")):
        path = mrc(tmp_path / f"a{stamp}{flags}.mrc", values.view(np.int8))
        content = bytearray(path.read_bytes())
        content[152:160] = struct.pack("<ii", stamp, flags)
        path.write_bytes(content)
        np.testing.assert_array_equal(read(path)[0], values.view(dtype))


def test_mrc_with_an_extended_header_one_plane_and_stacks(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VOLUME)
        file.set_extended_header(np.zeros(160, "V1"))
    np.testing.assert_array_equal(read(tmp_path / "a.mrc")[0], VOLUME)
    found, axes = read(mrc(tmp_path / "b.mrc", VOLUME[0]))
    assert axes == "yx" and (found == VOLUME[0]).all()
    found, axes = read(mrc(tmp_path / "c.mrc", np.stack([VOLUME, VOLUME + 1])))
    assert axes == "qzyx" and (found == np.stack([VOLUME, VOLUME + 1])).all()
    assert header_of(mrc(tmp_path / "d.mrc", VOLUME, None)).pixel_size == {}


# NRRD


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i2", "<u2", "int32", "uint64", ">f4", "float64"])
def test_nrrd_is_read_as_z_y_x(tmp_path: Path, encoding: str, dtype: str) -> None:
    values = np.abs(VOLUME).astype(dtype)
    nrrd.write(str(tmp_path / "a.nrrd"), values.T, {"encoding": encoding, "endian": "little"})
    found, axes = read(tmp_path / "a.nrrd")
    assert axes == "zyx" and found.dtype == np.dtype(dtype).newbyteorder("=")
    assert has_parts(tmp_path / "a.nrrd") == (encoding == "raw")
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("compressed", [False, True])
def test_big_endian_nrrd_by_hand(tmp_path: Path, compressed: bool) -> None:
    content = VOLUME.astype(">i2").tobytes()
    path = header(
        tmp_path / "a.nrrd",
        gzip.compress(content) if compressed else content,
        endian="big",
        type="signed short",
        encoding="gz" if compressed else "raw",
    )
    np.testing.assert_array_equal(read(path)[0], VOLUME)


def test_bytes_and_lines_to_leave_out(tmp_path: Path) -> None:
    content = VOLUME.tobytes()
    for number, (before, fields) in enumerate(
        [
            (b"one\ntwo\n1234", {"line_skip": 2, "byte_skip": 4}),
            (b"any length", {"byte_skip": -1}),
            (None, {"line_skip": 1, "byte_skip": 3, "encoding": "gzip"}),
        ]
    ):
        full = b"line\n" + gzip.compress(b"123" + content) if before is None else before + content
        np.testing.assert_array_equal(read(header(tmp_path / f"{number}.nrrd", full, **fields))[0], VOLUME)


@pytest.mark.parametrize(
    ("shape", "fields", "axes"),
    [
        ((4, 5), {}, "yx"),
        ((4, 5, 3), {"kinds": ["RGB-color", "domain", "domain"]}, "yxc"),
        ((3, 4, 5, 3), {"kinds": ["vector", "space", "space", "space"]}, "zyxc"),
        ((3, 4, 5, 4), {"kinds": ["RGBA-color", "domain", "domain", "domain"]}, "zyxc"),
        ((2, 3, 4, 5), {"kinds": ["domain", "domain", "domain", "time"]}, "tzyx"),
        ((2, 4, 5), {"kinds": ["space", "space", "time"]}, "tyx"),
        ((2, 3, 4, 5), {"kinds": ["domain", "domain", "domain", "list"]}, "czyx"),
        ((2, 3, 4, 5), {}, "qzyx"),
    ],
)
def test_axes_of_nrrd(tmp_path: Path, shape: tuple[int, ...], fields: dict[str, Any], axes: str) -> None:
    values = RNG.integers(0, 99, shape).astype(np.uint8)
    nrrd.write(str(tmp_path / "a.nrrd"), values.T, fields)
    found, told = read(tmp_path / "a.nrrd")
    assert told == axes
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"space dimension": 3, "space directions": np.diag([0.5, -0.25, 2]), "space units": ["mm"] * 3}, 1e3),
        ({"space dimension": 3, "space directions": np.diag([0.5, 0.25, 2]), "space units": ["um"] * 3}, 1),
        ({"spacings": [0.5, 0.25, 2], "units": ["um"] * 3}, 1),
        ({"space": "left-posterior-superior", "space directions": np.diag([0.5, 0.25, 2])}, None),
        ({"spacings": [0.5, 0.25, 2]}, None),
        ({}, None),
    ],
)
def test_sizes_of_nrrd(tmp_path: Path, fields: dict[str, Any], sizes: float | None) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME.T, fields)
    expected = {} if sizes is None else {"x": 0.5 * sizes, "y": 0.25 * sizes, "z": 2 * sizes}
    assert header_of(tmp_path / "a.nrrd") == Header("zyx", pytest.approx(expected))


def test_sizes_beside_colours(tmp_path: Path) -> None:
    path = header(
        tmp_path / "a.nrrd",
        bytes(3 * 4 * 5),
        type="uchar",
        sizes="3 5 4",
        space_dimension=2,
        space_directions="none (0,0.5) (0.25,0)",
        space_units='"um" "um"',
    )
    assert header_of(path) == Header("yxc", {"x": 0.5, "y": 0.25})


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_values_in_a_file_of_their_own(tmp_path: Path, encoding: str) -> None:
    nrrd.write(str(tmp_path / "a.nhdr"), VOLUME.T, {"encoding": encoding}, detached_header=True)
    np.testing.assert_array_equal(read(tmp_path / "a.nhdr")[0], VOLUME)
    others = companions_of(tmp_path / "a.nhdr")
    assert others == [tmp_path / f"a.raw{'.gz' if encoding == 'gzip' else ''}"] and others[0].is_file()
    others[0].unlink()
    with pytest.raises(ValueError, match=r"a\.nhdr: its values lie in .*which is missing"):
        read(tmp_path / "a.nhdr")


def test_values_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(VOLUME.tobytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "secret")
    for name in ("../secret", str(tmp_path / "secret"), "link"):
        path = header(tmp_path / "in/a.nhdr", b"", data_file=name)
        with pytest.raises(ValueError, match=r"a\.nhdr: its values lie in .*only files in its own folder"):
            read(path)
        assert companions_of(path) == []


@pytest.mark.parametrize("name", ["LIST", "a%02d.raw 1 3 1"])
def test_values_in_several_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"a\.nhdr: its values lie in several files"):
        read(header(tmp_path / "a.nhdr", b"", data_file=name))


@pytest.mark.parametrize("fields", [{"type": "block", "block_size": 4}, {"encoding": "hex"}])
def test_what_nrrd_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a\.nrrd: has .*not read"):
        read(header(tmp_path / "a.nrrd", VOLUME.tobytes(), **fields))


def test_layers_of_a_segmentation_are_refused_and_not_left_out(tmp_path: Path) -> None:
    for count in (2, 4):
        path = tmp_path / f"a{count}.seg.nrrd"
        layers = np.zeros((3, 4, 5, count), np.uint8)
        nrrd.write(str(path), layers.T, {"kinds": ["list", "domain", "domain", "domain"]})
        with pytest.raises(ValueError, match=rf"has {count} layers, of which an annotation can have one"):
            read_volume(path, Image("a"), (3, 4, 5))


# All


def write(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".nrrd":
        nrrd.write(str(path), values.T, {"encoding": "gzip" if "gz" in path.stem else "raw"})
        return path
    return mrc(path, values) if path.suffix == ".mrc" else nifti(path, values)


KINDS = ["a.nii", "a.nii.gz", "a.mrc", "a.nrrd", "a_gz.nrrd"]


@pytest.mark.parametrize("name", KINDS)
def test_as_labels_of_an_image_in_tiff(tmp_path: Path, name: str) -> None:
    labels = np.abs(VOLUME)
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint8), metadata={"axes": "ZYX"}, imagej=True)
    found = read_volume(write(tmp_path / name, labels), Image("a", axes="zyx"), labels.shape)
    np.testing.assert_array_equal(found, labels)
    plane = write(tmp_path / f"plane_{name}", labels[:1])
    np.testing.assert_array_equal(read_volume(plane, Image("a", axes="yx"), (1, 4, 5))[0], labels[0])
    with pytest.raises(ValueError, match="annotation has shape"):
        read_volume(tmp_path / name, Image("a", axes="zyx"), (5, 4, 3))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("part", [0.0, 0.05, 0.6, 0.97])
def test_truncated_files_are_errors_that_name_them(tmp_path: Path, name: str, part: float) -> None:
    path = write(tmp_path / name, RNG.integers(0, 2**15, (9, 40, 50)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ValueError, match=name):
        read(path)
    assert part or header_of(path) == EMPTY_HEADER


@pytest.mark.parametrize("name", KINDS)
def test_damaged_headers_are_errors_that_name_the_file(tmp_path: Path, name: str) -> None:
    good = content_of(write(tmp_path / name, VOLUME))
    for _ in range(40):
        content = bytearray(good)
        for place in RNG.integers(0, 120, 6):
            content[place] = RNG.integers(256)
        put(tmp_path / name, content)
        try:
            read(tmp_path / name, stored=True)
        except ValueError as error:
            assert name in str(error)


def test_a_damaged_stream_is_told_by_its_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", VOLUME)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: cannot be read as NIfTI \(CRC"):
        read(path)


def test_small_files_that_claim_much_are_refused(tmp_path: Path) -> None:
    zeros = gzip.compress(bytes(1000))
    paths = [
        header(tmp_path / "a.nrrd", zeros, sizes="50000 50000 50", encoding="gzip"),
        header(tmp_path / "b.nrrd", bz2.compress(bytes(1000)), sizes="50000 50000 50", encoding="bzip2"),
        header(tmp_path / "c.nrrd", b"1 2 3", sizes="50000 50000 50", encoding="ascii"),
        header(tmp_path / "d.nrrd", bytes(1000), sizes="50000 50000 50"),
    ]
    for name in ("e.nii", "e.nii.gz"):
        path = nifti(tmp_path / name, VOLUME)
        content = content_of(path)
        content[40:48] = struct.pack("<4h", 3, 30000, 30000, 3000)
        put(path, content)
        paths.append(path)
    paths.append(mrc(tmp_path / "f.mrc", VOLUME))
    paths[-1].write_bytes(struct.pack("<3i", 30000, 30000, 3000) + paths[-1].read_bytes()[12:])
    for path in paths:
        with pytest.raises(ValueError, match=rf"{path.name}.*header claims"):
            read(path)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("a.nii.gz", "nibabel", "nibabel"), ("a.mrc", "mrcfile", "mrcfile"), ("a.nrrd", "nrrd", "pynrrd")],
)
def test_what_is_to_be_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    path = write(tmp_path / name, VOLUME)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{name}: .*{package}, which is not installed: pip install 'unet-core\[vol"):
        read(path)


def test_names_have_no_ending_of_two_parts(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.c.nii.gz"):
        nifti(tmp_path / name, VOLUME)
    images, problems = list_images(Dataset(images=str(tmp_path / "*.nii.gz")))
    assert not problems and [one.name for one in images] == ["a", "b.c"]
    assert [one.as_annotated.file for one in images] == ["a", "b.c"] and images[0].axes == "zyx"
    assert image_shape(tmp_path / "a.nii.gz") == VOLUME.shape
    assert stem_of("x/b.c.nii.gz") == "b.c" and stem_of("t.gz") == "t.gz"
    assert (File((), "b.c.nii.gz").stem, File((), "b.c.nii.gz").suffix) == ("b.c", ".nii.gz")
    with pytest.raises(ValueError, match=r"unknown kind of image '\.gz'"), open_image(_touched(tmp_path / "a.gz")):
        pass


def _touched(path: Path) -> Path:
    path.touch()
    return path
