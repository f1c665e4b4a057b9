from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from unet_core.images import tiff_pages
from unet_core.images.headers import header_of
from unet_core.images.readers import CZYX, image_shape, open_image, split_internal, to_czyx

STACK = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
NOISE = np.random.default_rng(0).integers(0, 2**16, (3, 32, 32)).astype(np.uint16)
ALL = (slice(None), slice(None), slice(None))


def read(path: Path, internal: str = "") -> np.ndarray:
    with open_image(path, internal) as array:
        assert image_shape(path, internal) == array.shape
        values: np.ndarray = array[...]
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        return values


def failure(path: Path, internal: str = "") -> str:
    """Message of the error, which must name the file."""
    with pytest.raises(ValueError) as error, open_image(path, internal) as array:
        array[...]
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Pages and parts of TIFF files that are decoded from now on."""
    decoded: list[tuple[int, int]] = []

    def decode(page: Any, index: int, *more: Any, real: Any = tiff_pages._decode) -> np.ndarray:
        decoded.append((page.index, index))
        return real(page, index, *more)

    monkeypatch.setattr(tiff_pages, "_decode", decode)
    return decoded


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.h5:volumes/raw", ("a/b.h5", "volumes/raw")),
        ("a/b.hdf5:raw", ("a/b.hdf5", "raw")),
        ("a/b.ome.zarr:0", ("a/b.ome.zarr", "0")),
        ("a/b.zarr", ("a/b.zarr", "")),
        ("a:b.tif", ("a:b.tif", "")),
        ("a/scan.tif:2", ("a/scan.tif", "2")),
        ("a/scan.ome.TIFF:10", ("a/scan.ome.TIFF", "10")),
        ("a/slide.svs:1", ("a/slide.svs", "1")),
        ("a/B.H5:raw", ("a/B.H5", "raw")),
        ("a/B.LIF:*", ("a/B.LIF", "*")),
        ("a.tif:b.tif", ("a.tif:b.tif", "")),
        ("C:/a.tif", ("C:/a.tif", "")),
        ("a.png:1", ("a.png:1", "")),
        ("C:/a/*.h5", ("C:/a/*.h5", "")),
    ],
)
def test_a_path_inside_a_file_follows_a_colon(path: str, expected: tuple[str, str]) -> None:
    assert split_internal(path) == (Path(expected[0]), expected[1])


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("image", [STACK[0], STACK, STACK[:1], STACK[None], NOISE], ids=lambda image: str(image.shape))
def test_tiff_files_keep_all_values(tmp_path: Path, image: np.ndarray, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read(path), image, strict=True)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", ">u2", "int32", "float32", "float64"])
def test_tiff_files_keep_the_type(tmp_path: Path, dtype: str) -> None:
    image = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    tifffile.imwrite(tmp_path / "a.tiff", image, byteorder=">" if dtype.startswith(">") else None)
    values = read(tmp_path / "a.tiff")
    assert values.dtype.newbyteorder("=") == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(values, image)


def test_tiff_with_pages_of_other_software_is_one_stack(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in STACK:
            file.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), STACK)


def test_imagej_hyperstacks_keep_their_axes(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), image)


def test_rgb_tiff_has_channels_last(tmp_path: Path) -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="zlib")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), image)


@pytest.mark.parametrize(
    "index", [(0,), (1, 2), (slice(1, 3),), (slice(None), slice(2, 9), slice(None, None, 2)), (2, slice(1, 2), 5), ...]
)
@pytest.mark.parametrize("lead", [(3,), (1, 3)])
def test_compressed_pages_are_indexed_like_an_array(tmp_path: Path, lead: tuple[int, ...], index: Any) -> None:
    image = NOISE.reshape(*lead, 32, 32)
    tifffile.imwrite(tmp_path / "a.tif", image, compression="lzw", photometric="minisblack")
    index = index if index is ... or len(lead) == 1 else (slice(None), *index)
    with open_image(tmp_path / "a.tif") as array:
        np.testing.assert_array_equal(array[index], image[index])


def test_compressed_pages_are_decoded_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, compression="zlib", photometric="minisblack")
    decoded = count_decoded(monkeypatch)
    assert image_shape(tmp_path / "a.tif") == (3, 32, 32)
    with open_image(tmp_path / "a.tif") as array:
        np.testing.assert_array_equal(CZYX(array, "tyx", 1)[ALL], NOISE[1][None, None])
        np.testing.assert_array_equal(CZYX(array, "tyx", 1)[ALL], NOISE[1][None, None])
    # Once, and no other page.
    assert decoded == [(1, 0)]


@pytest.mark.parametrize(
    "image",
    [
        np.array([[0, 255], [7, 8]], np.uint8),
        np.array([[0, 65535], [7, 8]], np.uint16),
        np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3),
        np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4),
        np.arange(2 * 5 * 3, dtype=np.uint16).reshape(2, 5, 3) * 2000,
    ],
    ids=lambda image: f"{image.shape}-{image.dtype}",
)
def test_png_files_keep_all_values(tmp_path: Path, image: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), image, strict=True)


def test_the_only_array_of_an_hdf5_file_needs_no_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volumes/raw"] = STACK
    np.testing.assert_array_equal(read(tmp_path / "a.h5"), STACK)


@pytest.mark.parametrize("internal", ["volumes/raw", "/volumes/raw", "volumes/raw/"])
def test_one_of_several_arrays_of_an_hdf5_file_is_named(tmp_path: Path, internal: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["volumes/raw"] = STACK
        file["volumes/labels"] = STACK + 1
    np.testing.assert_array_equal(read(tmp_path / "a.hdf5", internal), STACK)


@pytest.mark.parametrize("internal", ["", "raw", "volumes"])
def test_hdf5_without_the_name_of_an_array_lists_the_arrays(tmp_path: Path, internal: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volumes/raw"] = STACK
        file["volumes/labels"] = STACK
    assert (
        failure(tmp_path / "a.h5", internal)
        == "say which array, as in a.h5:volumes/labels; it has volumes/labels, volumes/raw"
    )


def test_hdf5_without_arrays_says_so(tmp_path: Path) -> None:
    h5py.File(tmp_path / "a.h5", "w").close()
    assert failure(tmp_path / "a.h5") == "say which array, as in a.h5:name; it has none"


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_array_is_read_whatever_its_version(tmp_path: Path, version: Any) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=STACK, zarr_format=version)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), STACK)


@pytest.mark.parametrize("version", [2, 3])
def test_the_finest_level_of_an_ome_zarr_image_is_read(tmp_path: Path, version: Any) -> None:
    multiscales = [{"axes": ["z", "y", "x"], "datasets": [{"path": "full"}, {"path": "half"}]}]
    attributes = (
        {"multiscales": multiscales} if version == 2 else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=version, attributes=attributes)
    group.create_array("full", data=STACK)
    group.create_array("half", data=STACK[:, ::2, ::2])
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), STACK)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "half"), STACK[:, ::2, ::2])


def test_an_ome_zarr_image_inside_a_group_is_named(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    image = group.create_group(
        "0", attributes={"ome": {"version": "0.5", "multiscales": [{"datasets": [{"path": "0"}]}]}}
    )
    image.create_array("0", data=STACK)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "0"), STACK)
    assert failure(tmp_path / "a.zarr") == "say which array, as in a.zarr:0; it has 0"
    with pytest.raises(ValueError, match="a.zarr: say which array, as in a.zarr:0; it has 0"):
        image_shape(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("axes", "page", "expected"),
    [
        ("yx", None, (1, 1, 3, 4)),
        ("xy", None, (1, 1, 4, 3)),
        ("zyx", None, (1, 2, 3, 4)),
        ("cyx", None, (2, 1, 3, 4)),
        ("yxc", None, (4, 1, 2, 3)),
        ("tyx", 1, (1, 1, 3, 4)),
        ("czyx", None, (2, 3, 4, 5)),
        ("zcyx", None, (3, 2, 4, 5)),
        ("tcyx", 0, (3, 1, 4, 5)),
        ("zyxt", 2, (1, 2, 3, 4)),
        ("tczyx", 1, (3, 4, 5, 6)),
        ("zxcty", 1, (4, 2, 6, 3)),
    ],
)
def test_any_axes_are_brought_to_c_z_y_x(axes: str, page: int | None, expected: tuple[int, ...]) -> None:
    size = {2: (3, 4), 3: (2, 3, 4), 4: (2, 3, 4, 5), 5: (2, 3, 4, 5, 6)}[len(axes)]
    array = np.arange(np.prod(size)).reshape(size)
    view = to_czyx(array, axes, page)
    assert view.shape == expected
    box = (slice(0, 1), slice(1, 3), slice(1, None))
    # Independent of the code under test: einsum orders the axes.
    left = axes.replace("t", "")
    one = array if page is None else np.take(array, page, axes.index("t"))
    known = np.einsum(f"{left}->{''.join(sorted(left, key='czyx'.index))}", one).reshape(expected)
    np.testing.assert_array_equal(view[ALL], known)
    np.testing.assert_array_equal(view[box], known[(slice(None), *box)])


@pytest.mark.parametrize("axes", ["yx", "tzyx"])
def test_axes_must_be_as_many_as_the_file_has(axes: str) -> None:
    with pytest.raises(ValueError, match=rf"has 3 axes \(shape \(2, 3, 4\)\), but axes says '{axes}'"):
        to_czyx(STACK, axes, None)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy", "a.h5", "a.zarr"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    assert failure(tmp_path / name) == "no such file"


def test_a_folder_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    assert failure(tmp_path / "masks") == f"is a folder; name a file in it, as in {tmp_path}/masks/{{stem}}.tif"


def test_an_unknown_kind_of_file_is_told_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    text = failure(tmp_path / "a.doc")
    assert text.startswith("unknown kind of image '.doc'; known are .tif, .tiff, ")
    assert all(ending in text for ending in (".png", ".jpg", ".npy", ".h5", ".zarr", ".lsm", ".svs", ".czi"))


@pytest.mark.parametrize("name", ["a.czi", "a.lif", "a.nd2"])
def test_formats_of_microscopes_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "bioio", None)
    (tmp_path / name).touch()
    assert "is read by bioio, which is not installed: pip install 'unet-core[bioio]'" in failure(tmp_path / name)


def test_czi_files_are_read_lazily_without_axes_of_length_one(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi", reason="bioio is an extra")
    czi = pytest.importorskip("pylibCZIrw.czi")
    image = np.arange(2 * 3 * 40 * 50, dtype=np.uint16).reshape(2, 3, 40, 50)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c, z in np.ndindex(2, 3):
            file.write(data=image[c, z, :, :, None], plane={"C": c, "Z": z, "T": 0})
    with open_image(tmp_path / "a.czi") as opened:
        assert (opened.shape, opened.dtype) == ((2, 3, 40, 50), np.uint16)
        np.testing.assert_array_equal(opened[1, 2, 3:9], image[1, 2, 3:9])
    (tmp_path / "a.czi").write_bytes((tmp_path / "a.czi").read_bytes()[:500])
    assert failure(tmp_path / "a.czi").startswith("cannot be read as CZI")


@pytest.mark.parametrize("channels", [1, 2])
def test_colours_of_czi_are_channels(tmp_path: Path, channels: int) -> None:
    pytest.importorskip("bioio_czi", reason="bioio is an extra")
    czi = pytest.importorskip("pylibCZIrw.czi")
    rgb = NOISE.astype(np.uint8).reshape(-1)[: channels * 3 * 20 * 25].reshape(channels, 20, 25, 3)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c in range(channels):  # the samples of a file are blue, green, red
            file.write(data=np.ascontiguousarray(rgb[c, ..., ::-1]), plane={"C": c, "Z": 0, "T": 0})
        file.write_metadata("a", scale_x=2e-7, scale_y=2e-7)
    expected, axes = (rgb[0], "yxc") if channels == 1 else (np.moveaxis(rgb, -1, 1).reshape(6, 20, 25), "cyx")
    np.testing.assert_array_equal(read(tmp_path / "a.czi"), expected)
    with open_image(tmp_path / "a.czi") as opened:
        assert opened.axes == axes
        np.testing.assert_array_equal(opened[2:9:2, 1:], expected[2:9:2, 1:])
    assert header_of(tmp_path / "a.czi").pixel_size == pytest.approx({"y": 0.2, "x": 0.2})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("image", [NOISE[0], NOISE], ids=["page", "pages"])
def test_a_truncated_tiff_is_an_error(tmp_path: Path, image: np.ndarray, compression: str | None, share: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, photometric="minisblack")
    with pytest.raises(ValueError), open_image(cut(tmp_path / "a.tif", share)) as array:
        array[...]


def test_a_tiff_that_lost_its_last_pages_is_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, compression="zlib", photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages[2].offset
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:end])
    assert failure(tmp_path / "a.tif") == "cannot be read as TIFF (its list of pages breaks off); is it complete?"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "h5"])
def test_truncated_png_and_hdf5_are_errors(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(NOISE[0]))
    else:
        with h5py.File(path, "w") as file:
            file["raw"] = NOISE
    text = failure(cut(path, share))
    assert text.startswith(f"cannot be read as {'PNG' if kind == 'png' else 'HDF5'} (") and text.endswith(
        "is it complete?"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"attributes": {"ome": {"multiscales": [{}]}}})])
def test_damaged_zarr_metadata_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(content)
    text = failure(tmp_path / "a.zarr")
    assert text.startswith("cannot be read as Zarr (") and text.endswith("is it complete?")


def test_a_truncated_chunk_of_a_zarr_array_is_an_error_that_names_the_array(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=NOISE)
    cut(next(path for path in (tmp_path / "a.zarr" / "c").rglob("*") if path.is_file()), 0.5)
    text = failure(tmp_path / "a.zarr")
    assert text.startswith("cannot be read as Zarr (") and text.endswith("is it complete?")


# ---- NPY ----


@pytest.mark.parametrize("array", [STACK, STACK[0].astype(">i4"), np.asfortranarray(STACK[0]), STACK[0] > 3, NOISE / 3])
def test_npy_files_are_read_without_loading_them(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "größe 1.npy", array)
    np.testing.assert_array_equal(read(tmp_path / "größe 1.npy"), array)


def test_npy_files_are_never_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was run",))

    np.save(tmp_path / "a.npy", np.array([Harmful()], object), allow_pickle=True)
    assert failure(tmp_path / "a.npy").startswith("holds Python objects, which are not read")
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_npy_files_that_are_cut_short_are_told(tmp_path: Path, share: float) -> None:
    np.save(tmp_path / "a.npy", NOISE)
    assert failure(cut(tmp_path / "a.npy", share)).startswith("cannot be read as NPY (")


def test_an_archive_of_arrays_is_no_npy_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=STACK)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert failure(tmp_path / "a.npy").startswith("cannot be read as NPY (")
