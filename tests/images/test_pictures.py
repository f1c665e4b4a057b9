"""PNG, JPEG, BMP and GIF: values as they are stored, palettes as colours unless they are annotations."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.images.test_readers import cut, failure
from unet_core.images import limits
from unet_core.images.headers import header_of
from unet_core.images.readers import open_image

RNG = np.random.default_rng(0)


def read(path: Path, stored: bool = False) -> tuple[np.ndarray, str]:
    with open_image(path, stored=stored) as array:
        values = array[...]
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        box = tuple(slice(1, 4, 2) for _ in array.shape)
        np.testing.assert_array_equal(array[box], values[box])
        assert stored or header_of(path).axes == array.axes
        return values, array.axes


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, bits: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG file of values (y, x or y, x, c), written by the standard."""
    flat = values.reshape(len(values), -1).astype(">u2" if bits == 16 else np.uint8)
    if bits < 8:
        per = 8 // bits
        flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % per))).reshape(len(flat), -1, per)
        flat = (flat << (8 - bits * (1 + np.arange(per)))).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in flat)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stored", [False, True])
def test_gray_png_of_all_bits_keeps_its_values(tmp_path: Path, bits: int, stored: bool) -> None:
    image = RNG.integers(0, 2**bits, (9, 13)).astype(np.uint16 if bits == 16 else np.uint8)
    (tmp_path / "a.png").write_bytes(png(image, bits, 0))
    values, axes = read(tmp_path / "a.png", stored)
    np.testing.assert_array_equal(values, image, strict=True)
    assert axes == "yx"


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_a_transparent_gray_value_is_a_channel_of_images_alone(tmp_path: Path, bits: int) -> None:
    image = RNG.integers(0, 2**bits, (9, 13)).astype(np.uint16 if bits == 16 else np.uint8)
    (tmp_path / "a.png").write_bytes(png(image, bits, 0, tRNS=struct.pack(">H", 1)))
    values, axes = read(tmp_path / "a.png")
    assert axes == "yxc"
    np.testing.assert_array_equal(values[..., 0], image)
    np.testing.assert_array_equal(values[..., 1] == 0, image == 1)
    np.testing.assert_array_equal(read(tmp_path / "a.png", stored=True)[0], image)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_palette_is_colours_of_images_and_indices_of_annotations(tmp_path: Path, bits: int, interlaced: bool) -> None:
    image = RNG.integers(0, 2**bits, (9, 13)).astype(np.uint8)
    table = RNG.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    if interlaced:
        picture = Image.new("P", (13, 9))
        picture.putdata(image.ravel().tolist())
        picture.putpalette(table.ravel().tolist())
        picture.save(tmp_path / "a.png", bits=bits, interlace=1)
    else:
        (tmp_path / "a.png").write_bytes(png(image, bits, 3, PLTE=table.tobytes()))
    values, axes = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, table[image], strict=True)
    assert axes == "yxc"
    values, axes = read(tmp_path / "a.png", stored=True)
    np.testing.assert_array_equal(values, image, strict=True)
    assert axes == "yx"
    (tmp_path / "b.png").write_bytes(png(image, bits, 3, PLTE=table.tobytes(), tRNS=bytes([7])))
    values, axes = read(tmp_path / "b.png")
    np.testing.assert_array_equal(values[..., :3], table[image])
    np.testing.assert_array_equal(values[..., 3], np.where(image == 0, 7, 255))
    np.testing.assert_array_equal(read(tmp_path / "b.png", stored=True)[0], image)


def test_a_gray_palette_is_gray_values(tmp_path: Path) -> None:
    image = RNG.integers(0, 4, (9, 13)).astype(np.uint8)
    gray = np.array([9, 200, 50, 3], np.uint8)
    (tmp_path / "a.png").write_bytes(png(image, 2, 3, PLTE=np.repeat(gray, 3).tobytes()))
    values, axes = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, gray[image])
    assert axes == "yx"


@pytest.mark.parametrize(("bits", "colour", "channels"), [(8, 2, 3), (16, 2, 3), (8, 4, 2), (8, 6, 4), (16, 6, 4)])
def test_colours_of_png_are_channels(tmp_path: Path, bits: int, colour: int, channels: int) -> None:
    image = RNG.integers(0, 2**bits, (9, 13, channels)).astype(np.uint16 if bits == 16 else np.uint8)
    (tmp_path / "a.png").write_bytes(png(image, bits, colour))
    values, axes = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, image, strict=True)
    assert axes == "yxc"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_empty_png_masks_are_read(tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOOR", 2**10)
    (tmp_path / "a.png").write_bytes(png(np.zeros((3000, 3000), np.uint8), bits, 0))
    assert not read(tmp_path / "a.png")[0].any()


def test_png_that_claims_much_is_refused(tmp_path: Path) -> None:
    data = png(np.zeros((9, 13), np.uint8), 8, 0)
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(data[:8] + chunk(b"IHDR", head) + data[33:])
    assert "claims" in failure(tmp_path / "a.png")


# ---- JPEG, BMP, GIF ----


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_are_read(tmp_path: Path, kind: str, mode: str) -> None:
    y, x = np.mgrid[:40, :56].astype(np.uint8)
    image = x + y if mode == "L" else np.stack([x + 50, 2 * y, x + y], axis=-1)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(image).save(path)
    values, axes = read(path)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(values, np.asarray(picture.convert(mode)))
    assert axes == ("yx" if mode == "L" else "yxc")
    if kind == "bmp":
        np.testing.assert_array_equal(values, image)
    with pytest.raises(ValueError, match="cannot be read as"):
        read(cut(path, 0.6))


@pytest.mark.parametrize("kind", ["bmp", "gif"])
def test_palettes_of_pictures_are_colours_or_indices(tmp_path: Path, kind: str) -> None:
    image = RNG.integers(0, 200, (9, 13)).astype(np.uint8)
    table = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    picture = Image.new("P", (13, 9))
    picture.putdata(image.ravel().tolist())
    picture.putpalette(table.ravel().tolist())
    picture.save(tmp_path / f"a.{kind}", **({"optimize": False} if kind == "gif" else {}))
    np.testing.assert_array_equal(read(tmp_path / f"a.{kind}")[0], table[image])
    np.testing.assert_array_equal(read(tmp_path / f"a.{kind}", stored=True)[0], image)


def test_masks_of_bits_are_0_and_1(tmp_path: Path) -> None:
    mask = RNG.integers(0, 2, (9, 13)).astype(bool)
    Image.fromarray(mask).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read(tmp_path / "a.bmp")[0] > 0, mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    y, x = np.mgrid[:40, :56].astype(np.uint8)
    exif: Any = Image.Exif()
    exif[274] = orientation
    Image.fromarray(2 * x + 3 * y).save(tmp_path / "a.jpg", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    np.testing.assert_array_equal(read(tmp_path / "a.jpg")[0], expected)


def test_frames_of_a_gif_are_a_stack(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (3, 9, 13)).astype(np.uint8)
    first, *more = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.gif", save_all=True, append_images=more)
    values, axes = read(tmp_path / "a.gif")
    np.testing.assert_array_equal(values, np.repeat(frames[..., None], 3, axis=-1))
    assert axes == "qyxc"
    with pytest.raises(ValueError, match=r"a\.gif: has 3 frames"):
        read(tmp_path / "a.gif", stored=True)


def test_colours_of_print_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (13, 9)).save(tmp_path / "a.jpg")
    assert failure(tmp_path / "a.jpg") == "its colours are CMYK, which are not read; save it as RGB"


def test_pictures_that_claim_much_are_refused(tmp_path: Path) -> None:
    for kind in ("jpg", "gif"):
        Image.new("L", (13, 9)).save(tmp_path / f"a.{kind}")
        data = (tmp_path / f"a.{kind}").read_bytes()
        old, new = (
            (struct.pack(">HH", 9, 13), struct.pack(">HH", 60_000, 60_000))
            if kind == "jpg"
            else (struct.pack("<HH", 13, 9), struct.pack("<HH", 60_000, 60_000))
        )
        (tmp_path / f"a.{kind}").write_bytes(data.replace(old, new))
        assert "claims" in failure(tmp_path / f"a.{kind}")
