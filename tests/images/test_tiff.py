"""TIFF files are read as what they are: all of their pages, and values with the meaning that headers give them."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tests.images.test_readers import count_decoded, failure
from unet_core.images import decoded, limits
from unet_core.images.headers import header_of
from unet_core.images.readers import arrays_in, open_image

RNG = np.random.default_rng(0)
PAGES = RNG.integers(0, 200, (5, 40, 48)).astype(np.uint8)
SMALL = RNG.integers(0, 200, (20, 24)).astype(np.uint8)


def read(path: Path, internal: str = "", stored: bool = False) -> tuple[np.ndarray, str]:
    with open_image(path, internal, stored) as array:
        values = array[...]
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        assert array.axes == header_of(path, internal).axes or stored
        return values, array.axes


def write(path: Path, pages: Any, **options: Any) -> Path:
    """Pages one by one, as other programs write them."""
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, contiguous=False, **({"photometric": "minisblack", "metadata": None} | options))
    return path


# ---- several images ----


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_appended_pages_are_one_stack(tmp_path: Path, count: int, compression: str | None) -> None:
    pages = RNG.integers(0, 99, (count, 9, 8)).astype(np.uint16)
    for page in pages:  # each a series of its own
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, compression=compression)
    values, axes = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(values, pages)
    assert axes == "qyx" and arrays_in(tmp_path / "a.tif") == []
    np.testing.assert_array_equal(read(write(tmp_path / "b.tif", pages, compression=compression))[0], pages)


def test_appended_stacks_are_one_stack_of_stacks(tmp_path: Path) -> None:
    for number in (0, 1):
        tifffile.imwrite(
            tmp_path / "a.tif", PAGES + number, append=True, photometric="minisblack", metadata={"axes": "ZYX"}
        )
    values, axes = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(values, np.stack([PAGES, PAGES + 1]))
    assert axes == "qzyx"


@pytest.mark.parametrize("position", [1, 3, 7, 10])
def test_pages_of_other_compressions_keep_their_place(tmp_path: Path, position: int) -> None:
    pages = RNG.integers(0, 99, (12, 9, 8)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, page in enumerate(pages):
            file.write(
                page,
                contiguous=False,
                metadata=None,
                photometric="minisblack",
                compression="zlib" if number == position else "lzw" if number % 2 else None,
            )
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], pages)


def test_images_of_different_size_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", [SMALL, PAGES[0]])
    with pytest.raises(ValueError) as error, open_image(tmp_path / "a.tif"):
        pass
    assert str(error.value) == (
        f"{tmp_path}/a.tif holds 2 images of different size (0: 20 x 24 uint8, 1: 40 x 48 uint8); "
        "say which, as in a.tif:1"
    )
    assert arrays_in(tmp_path / "a.tif") == ["0", "1"]
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "0")[0], SMALL)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "1")[0], PAGES[0])
    assert failure(tmp_path / "a.tif", "2").startswith("has no image 2; it has 0: 20 x 24 uint8, 1: 40 x 48 uint8")


@pytest.mark.parametrize("position", [1, 2, 5, 9])
def test_a_page_of_another_size_among_many_is_not_read_as_one_of_them(tmp_path: Path, position: int) -> None:
    pages = [np.full((9, 8), number, np.uint8) for number in range(12)]
    pages[position] = np.full((7, 6), 99, np.uint8)
    write(tmp_path / "a.tif", pages)
    with pytest.raises(ValueError, match="holds 2 images of different size"), open_image(tmp_path / "a.tif"):
        pass
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "1")[0], pages[position])


def test_smaller_copies_and_masks_are_no_images(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PAGES[0][::3, ::3], subfiletype=1, metadata=None, photometric="minisblack")
        file.write(PAGES[0] > 50, subfiletype=4, metadata=None)
        file.write(PAGES[0], metadata=None, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], PAGES[0])
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as file:  # levels of a pyramid
        file.write(PAGES[0], subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        file.write(PAGES[0][::2, ::2], subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(read(tmp_path / "b.ome.tif")[0], PAGES[0])


def test_positions_of_an_ome_tiff_are_no_stack(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for page, size in zip(PAGES[:2], (0.5, 0.25), strict=True):
            file.write(page, metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size})
    with pytest.raises(ValueError, match=r"holds 2 images of equal size .* as in a.ome.tif:1"):
        read(tmp_path / "a.ome.tif")
    assert arrays_in(tmp_path / "a.ome.tif") == ["0", "1"]
    for number, size in ((0, 0.5), (1, 0.25)):
        np.testing.assert_array_equal(read(tmp_path / "a.ome.tif", str(number))[0], PAGES[number])
        assert header_of(tmp_path / "a.ome.tif", str(number)).pixel_size == {"y": size, "x": size}


def test_pages_that_a_header_does_not_speak_of_are_told(tmp_path: Path) -> None:
    text = "ImageJ=1.53t\nimages=3\nslices=3\n"
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in PAGES:
            file.write(page, contiguous=False, compression="zlib", description=text, metadata=None)
    with pytest.raises(ValueError, match="holds 2 images .*0: 3 x 40 x 48 uint8, 1: 2 x 40 x 48 uint8"):
        read(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "0")[0], PAGES[:3])
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "1")[0], PAGES[3:])


def test_slides_are_their_largest_image(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 255, (64, 80, 3)).astype(np.uint8)
    text = "Aperio Image Library v1\n|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(rgb, tile=(16, 16), description=text, photometric="rgb", metadata=None)
        file.write(rgb[::8, ::8], description=text, photometric="rgb", metadata=None)
        file.write(rgb[::2, ::2], tile=(16, 16), description=text, photometric="rgb", metadata=None)
        file.write(rgb[:9, :9], description=text, subfiletype=1, photometric="rgb", metadata=None)
    values, axes = read(tmp_path / "a.svs")
    np.testing.assert_array_equal(values, rgb)
    assert axes == "yxc" and header_of(tmp_path / "a.svs").pixel_size == {"y": 0.5, "x": 0.5}


# ---- axes ----


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((8, 9), {}, "yx"),
        ((3, 8, 9), {}, "qyx"),
        ((2, 3, 8, 9), {}, ""),
        ((3, 8, 9), {"metadata": {"axes": "TYX"}}, "tyx"),
        ((8, 9, 3), {"photometric": "rgb"}, "yxc"),
        ((8, 9, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "yxc"),
        ((3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}, "cyx"),
        ((2, 8, 9, 3), {"photometric": "rgb"}, "qyxc"),
        ((2, 3, 8, 9), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "zcyx"),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_axes_are_those_that_the_file_tells(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], axes: str, compression: str | None
) -> None:
    if options.get("imagej") and compression:
        pytest.skip("ImageJ does not compress")
    image = RNG.integers(0, 200, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, **({"photometric": "minisblack"} | options))
    values, told = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(values, image)
    assert told == axes


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_several_channels_are_one_axis(tmp_path: Path, planar: str) -> None:
    image = RNG.integers(0, 200, (2, 8, 9, 3)).astype(np.uint8)  # c y x s
    pages, axes = (image, "CYXS") if planar == "contig" else (image.transpose(0, 3, 1, 2), "CSYX")
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        pages,
        photometric="rgb",
        planarconfig=planar,
        metadata={"axes": axes},
        compression="lzw",
    )
    values, told = read(tmp_path / "a.ome.tif")
    expected = np.concatenate(list(image), axis=-1).transpose(2, 0, 1)
    assert told == "cyx"
    np.testing.assert_array_equal(values, expected)
    with open_image(tmp_path / "a.ome.tif") as opened:
        for c in itertools.product(range(6), range(1, 7)):
            np.testing.assert_array_equal(opened[slice(*c), 2:5, ::2], expected[slice(*c), 2:5, ::2])


def lsm_info(x: int, y: int, z: int, size: float) -> bytes:
    """The header that Zeiss writes into LSM files, as far as it is needed."""
    head = struct.pack("<2I5i", 0x0300494C, 600, x, y, z, 1, 1)
    head += struct.pack("<3i", 2, 0, 0)  # uint8, thumbnail
    head += struct.pack("<6d", size, size, 2 * size, 0, 0, 0)
    return head + bytes(600 - len(head))


def test_lsm_says_axes_and_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.lsm") as file:
        for number, page in enumerate(PAGES[:3]):
            tags = [(34412, 1, 600, lsm_info(48, 40, 3, 2e-7), True)] if number == 0 else []
            file.write(page, contiguous=False, metadata=None, photometric="minisblack", extratags=tags)
            file.write(page[::4, ::4], contiguous=False, metadata=None, photometric="minisblack", subfiletype=1)
    values, axes = read(tmp_path / "a.lsm")
    np.testing.assert_array_equal(values, PAGES[:3])
    assert axes == "zyx"
    assert header_of(tmp_path / "a.lsm").pixel_size == pytest.approx({"z": 0.4, "y": 0.2, "x": 0.2})


# ---- what values mean ----


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "uint32", "int16"])
def test_white_is_zero_is_turned_round_but_for_annotations(tmp_path: Path, dtype: str, compression: str | None) -> None:
    image = RNG.integers(0, 100, (3, 8, 9)).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="miniswhite",
        compression=compression,
        byteorder=">" if ">" in dtype else None,
    )
    most = {"uint8": 255, ">u2": 65535, "uint32": 2**32 - 1, "int16": -1}[dtype]
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0].astype(np.int64), most - image.astype(np.int64))
    np.testing.assert_array_equal(read(tmp_path / "a.tif", stored=True)[0], image)
    for stored in (False, True):
        with open_image(tmp_path / "a.tif", "", stored) as opened:
            assert opened.white_is_zero


def test_white_is_zero_says_nothing_of_masks_of_bits_and_is_refused_of_floats(tmp_path: Path) -> None:
    mask = PAGES[0] > 100
    for compression in (None, "zlib", "packbits"):
        tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite", compression=compression)
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], mask)
    tifffile.imwrite(tmp_path / "b.tif", PAGES[0] / 2, photometric="miniswhite")
    assert "0 is white" in failure(tmp_path / "b.tif")
    np.testing.assert_array_equal(read(tmp_path / "b.tif", stored=True)[0], PAGES[0] / 2)


@pytest.mark.parametrize("bits", [2, 4, 12, 14])
def test_packed_bits_are_values(tmp_path: Path, bits: int) -> None:
    image = RNG.integers(0, 2**bits, (7, 9)).astype(np.uint8 if bits <= 8 else np.uint16)
    for photometric, expected in (("minisblack", image), ("miniswhite", 2**bits - 1 - image)):
        tifffile.imwrite(
            tmp_path / "a.tif",
            image,
            bitspersample=bits,
            photometric=photometric,
        )
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_palettes_are_colours_of_images_and_indices_of_annotations(tmp_path: Path, dtype: str) -> None:
    count = 2 ** (8 * np.dtype(dtype).itemsize)
    table = RNG.integers(0, 256, (3, count)).astype(np.uint16)
    image = RNG.integers(0, min(count, 500), (8, 9)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="palette", colormap=table * 257, metadata=None)
    values, axes = read(tmp_path / "a.tif")
    assert axes == "yxc"
    np.testing.assert_array_equal(values, table.T[image])
    np.testing.assert_array_equal(read(tmp_path / "a.tif", stored=True)[0], image)
    gray = np.tile(table[:1], (3, 1))
    tifffile.imwrite(tmp_path / "b.tif", image, photometric="palette", colormap=gray * 257, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "b.tif")[0], table[0][image])


def test_palettes_of_pillow_are_read(tmp_path: Path) -> None:
    image = Image.new("P", (24, 20))
    image.putdata((SMALL % 7).ravel().tolist())
    table = RNG.integers(0, 256, (7, 3)).astype(np.uint8)
    image.putpalette(table.ravel().tolist())
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], table[SMALL % 7])
    np.testing.assert_array_equal(read(tmp_path / "a.tif", stored=True)[0], SMALL % 7)


def test_imagej_shows_gray_values_in_the_colours_of_a_palette(tmp_path: Path) -> None:
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    text = "ImageJ=1.53t\nmin=0.0\nmax=255.0\n"
    tifffile.imwrite(tmp_path / "a.tif", SMALL, photometric="palette", colormap=table, metadata=None, description=text)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], SMALL)


@pytest.mark.parametrize(
    ("photometric", "samples", "name"), [("separated", 4, "CMYK"), ("cielab", 3, "CIELab"), ("icclab", 3, "ICCLab")]
)
def test_colours_that_are_not_read_are_named(tmp_path: Path, photometric: str, samples: int, name: str) -> None:
    image = RNG.integers(0, 255, (8, 9, samples)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric, metadata=None, planarconfig="contig")
    assert f"its colours are {name}, which are not read; save it as RGB" in failure(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", stored=True)[0], image)


def test_ycbcr_becomes_rgb(tmp_path: Path) -> None:
    rgb = np.broadcast_to(np.array([200, 40, 90], np.uint8), (16, 16, 3))
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", ycbcr, photometric="ycbcr", metadata=None, subsampling=(1, 1))
    tifffile.imwrite(tmp_path / "b.tif", rgb, photometric="rgb", compression="jpeg", metadata=None)
    Image.fromarray(rgb).save(tmp_path / "c.tif", compression="jpeg")
    for name in ("a.tif", "b.tif", "c.tif"):
        np.testing.assert_allclose(read(tmp_path / name)[0].astype(int), rgb, atol=3)
    with open_image(tmp_path / "a.tif") as opened:
        np.testing.assert_allclose(opened[..., 1:2].astype(int), rgb[..., 1:2], atol=3)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.complex64))
    assert failure(tmp_path / "a.tif").startswith("pixels of type complex64; needed are")


@pytest.mark.parametrize("dtype", ["int8", "int32", "float16", "float32", "float64", "uint64"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_all_kinds_of_numbers_are_kept(tmp_path: Path, dtype: str, compression: str | None) -> None:
    image = (RNG.integers(0, 100, (7, 9)) - (0 if dtype.startswith("u") else 50)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image, strict=True)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bits_in_the_other_order_are_read(tmp_path: Path, compression: str | None) -> None:
    turned = np.frombuffer(imagecodecs.bitorder_decode(SMALL.tobytes()), np.uint8).reshape(SMALL.shape)
    # Tag FillOrder: the lowest bit comes first. It is written under another number, since tifffile does not write it.
    data = io.BytesIO()
    tifffile.imwrite(data, turned, metadata=None, photometric="minisblack", extratags=[(60266, 3, 1, 2, True)])
    if compression:
        packed = imagecodecs.bitorder_encode(imagecodecs.zlib_encode(SMALL.tobytes()))
        data = io.BytesIO()
        with tifffile.TiffWriter(data) as file:
            file.write(
                iter([packed]),
                shape=SMALL.shape,
                dtype=np.uint8,
                compression="zlib",
                rowsperstrip=20,
                metadata=None,
                photometric="minisblack",
                extratags=[(60266, 3, 1, 2, True)],
            )
    content = data.getvalue().replace(struct.pack("<HHI", 60266, 3, 1), struct.pack("<HHI", 266, 3, 1))
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], SMALL)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_header_says(tmp_path: Path, orientation: int, compression: str | None) -> None:
    tags = [(274, 3, 1, orientation, True)]
    rgb = RNG.integers(0, 255, (5, 7, 3)).astype(np.uint8)
    for name, image in (("gray", SMALL), ("rgb", rgb)):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path,
            image,
            metadata=None,
            extratags=tags,
            compression=compression,
            photometric="rgb" if image.ndim == 3 else "minisblack",
        )
        exif = Image.Exif()
        exif[274] = orientation
        picture = io.BytesIO()
        Image.fromarray(image).save(picture, "png", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(picture)))
        np.testing.assert_array_equal(read(path)[0], expected)
        with open_image(path) as opened:
            for box in ((slice(1, 4), slice(2, 5)), (slice(0, 5, 2), slice(1, 5, 3)), (2, slice(1, 3)), (1, 2)):
                np.testing.assert_array_equal(opened[box], expected[box])


# ---- reading in pieces ----


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 7}, {"rowsperstrip": 40}])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("shape", [(40, 48), (3, 40, 48), (40, 48, 3), (2, 40, 48, 3)])
def test_pieces_are_those_of_the_whole(
    tmp_path: Path, shape: tuple[int, ...], compression: str | None, options: dict[str, Any]
) -> None:
    image = RNG.integers(0, 2**16, shape).astype(np.uint16)
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    for planar in ("contig", "separate") if photometric == "rgb" else ("contig",):
        pages = image if planar == "contig" else np.moveaxis(image, -1, -3)
        tifffile.imwrite(
            tmp_path / f"{planar}.tif",
            pages,
            photometric=photometric,
            planarconfig=planar if photometric == "rgb" else None,
            compression=compression,
            **options,
        )
        with open_image(tmp_path / f"{planar}.tif") as opened:
            np.testing.assert_array_equal(opened[...], pages, strict=True)
            for _ in range(20):
                ends = [sorted(RNG.integers(0, length + 1, 2)) for length in pages.shape]
                box = tuple(slice(int(a), int(b), int(RNG.integers(1, 4))) for a, b in ends)
                np.testing.assert_array_equal(opened[box], pages[box], strict=True)


def test_a_part_is_decoded_once_for_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PAGES, compression="zlib", photometric="minisblack", rowsperstrip=40)
    tifffile.imwrite(tmp_path / "b.tif", PAGES[0], compression="zlib", photometric="minisblack", rowsperstrip=40)
    seen = count_decoded(monkeypatch)
    for _ in range(2):  # closing the file forgets nothing
        with open_image(tmp_path / "a.tif") as opened:
            for z, y, x in itertools.product(range(5), range(0, 40, 8), range(0, 48, 8)):
                box = (z, slice(y, y + 8), slice(x, x + 8))
                np.testing.assert_array_equal(opened[box], PAGES[box])
    assert seen == [(z, 0) for z in range(5)]
    with open_image(tmp_path / "b.tif") as opened:
        assert opened.chunks is None  # nothing can be read without the rest
        for y in range(40):
            np.testing.assert_array_equal(opened[y], PAGES[0][y])
    assert seen[5:] == [(0, 0)]


def test_what_was_decoded_before_a_file_was_written_anew_is_not_given(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "a.tif", PAGES[:2] + number, compression="zlib")
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], PAGES[:2] + number)


def test_what_is_kept_is_bounded() -> None:
    kept = decoded.Decoded(1000)
    made: list[int] = []

    def make(number: int, size: int) -> np.ndarray:
        made.append(number)
        return np.full(size, number, np.uint8)

    for number in (0, 1, 2, 0, 3, 0, 1):
        assert (kept.get(number, lambda number=number: make(number, 300)) == number).all()
    assert made == [0, 1, 2, 3, 1]  # 3 do not fit together with a fourth: 1 was the oldest
    kept.get(9, lambda: make(9, 5000))
    kept.get(9, lambda: make(9, 5000))
    assert made[5:] == [9]
    kept.let_go()
    kept.get(9, lambda: make(9, 5000))
    assert made[5:] == [9, 9]


# ---- what headers claim ----

EMPTY = [
    ("packbits", np.uint8),
    ("packbits", bool),
    ("lzw", np.uint8),
    ("zlib", bool),
    ("zstd", np.uint8),
    ("zstd", bool),
    ("lzma", np.uint8),
    ("jpegxl", np.uint8),
    ("jpeg2000", np.uint16),
    ("lerc", np.uint16),
    ("png", np.uint8),
    ("jpeg", np.uint8),
    (None, bool),
]


@pytest.mark.parametrize(("compression", "dtype"), EMPTY)
@pytest.mark.parametrize("rows", [128, 2048])
def test_empty_images_of_all_codecs_are_read(
    tmp_path: Path, compression: str | None, dtype: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FLOOR", 2**10)  # so that small images are large
    image = np.zeros((2048, 1024), dtype)
    options = {"compressionargs": {"effort": 1}} if compression == "jpegxl" else {}
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        compression=compression,
        rowsperstrip=rows,
        photometric="minisblack",
        metadata=None,
        **options,
    )
    with open_image(tmp_path / "a.tif", stored=True) as opened:
        assert opened.shape == image.shape and not opened[...].any()


def test_empty_images_of_fax_codecs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOOR", 2**10)
    image = Image.new("1", (2048, 1024), 1)
    for compression in ("group3", "group4", "tiff_ccitt"):
        image.save(tmp_path / "a.tif", compression=compression)
        with open_image(tmp_path / "a.tif", stored=True) as opened:
            assert opened.shape == (1024, 2048) and len(np.unique(opened[...])) == 1


@pytest.mark.parametrize("compression", [None, "zlib", "zstd", "lerc", "lzw"])
def test_small_files_that_claim_much_are_refused_before_memory_is_asked_for(
    tmp_path: Path, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SMALL, compression=compression, metadata=None, rowsperstrip=20)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for tag, value in ((256, 200_000), (257, 200_000), (278, 200_000)):
            at = file.pages.first.tags[tag]
            struct.pack_into("<I" if at.dtype == 4 else "<H", data, at.valueoffset, value if at.dtype == 4 else 65000)
    (tmp_path / "a.tif").write_bytes(data)
    monkeypatch.setattr(limits, "FLOOR", 2**20)
    assert "claims" in failure(tmp_path / "a.tif")


def test_a_strip_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SMALL, compression="zlib", metadata=None, rowsperstrip=5)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = file.pages.first.tags[279]
        struct.pack_into(f"<{4 if at.dtype == 4 else 8}s", data, at.valueoffset + (4 if at.dtype == 4 else 2), bytes(4))
    (tmp_path / "a.tif").write_bytes(data)
    assert "is missing" in failure(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("codec", ["jpeg", "jpegxl", "jpeg2000", "webp", "zstd", "lzma"])
def test_tiles_of_slides_are_those_that_tifffile_decodes(tmp_path: Path, codec: str, options: dict[str, Any]) -> None:
    y, x = np.mgrid[:70, :90].astype(np.uint8)
    rgb = np.stack([2 * x, 3 * y, x + y], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgb, compression=codec, photometric="rgb", metadata=None, **options)
    expected = tifffile.imread(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as opened:
        np.testing.assert_array_equal(opened[...], expected)
        np.testing.assert_array_equal(opened[30:69:3, 5:80, 1], expected[30:69:3, 5:80, 1])


def test_tiles_that_are_left_out_are_empty(tmp_path: Path) -> None:
    packed = imagecodecs.zlib_encode(PAGES[0, :16, :16].tobytes())
    tiles = [packed if number == 1 else b"" for number in range(4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(
            iter(tiles), shape=(32, 32), dtype=np.uint8, tile=(16, 16), compression="zlib", photometric="minisblack"
        )
    expected = np.zeros((32, 32), np.uint8)
    expected[:16, 16:] = PAGES[0, :16, :16]
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], expected)


def test_bigtiff_and_its_endings_are_read(tmp_path: Path) -> None:
    for ending in ("btf", "tf8", "tf2", "tif"):
        path = tmp_path / f"a.{ending}"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            for page in PAGES:
                file.write(page, contiguous=False, metadata=None, photometric="minisblack", compression="zlib")
        np.testing.assert_array_equal(read(path)[0], PAGES)


def test_a_page_whose_strips_lie_apart_is_read_by_them(tmp_path: Path) -> None:
    """Pages that tifffile reads by the header of the first one, whose strips follow each other."""
    pages = [PAGES[number % 5].copy() for number in range(9)]
    write(tmp_path / "a.tif", pages, rowsperstrip=20)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for number in (2, 5):  # the second strip of a page is moved to the end of the file
            page = file.pages[number].aspage()
            tag, (first, second) = page.tags[273], page.dataoffsets
            strip = bytes(data[second : second + page.databytecounts[1]])
            data[second : second + len(strip)] = bytes(len(strip))
            struct.pack_into("<2I", data, tag.valueoffset, first, len(data))
            data += strip
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], np.stack(pages))
