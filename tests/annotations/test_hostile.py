"""Files that were made to fill the memory, to run for ever or to reach other files, and damaged ones."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roifile import ImagejRoi

from tests.annotations import hostile, scene
from tests.annotations.hostile import SHAPE
from tests.forked import run_function
from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image, Layer
from unet_core.config.datasets import Annotation

ROOT = Path(__file__).parents[2]
JSON, XML = ("coco", "geojson", "labelme"), ("cvat", "aperio")


def png(height: int, width: int, data: bytes = b"") -> bytes:
    """A gray PNG whose header claims a size."""
    parts = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(data)),
            (b"IEND", b""),
        )
    )
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(height: int, width: int, compression: int = 1) -> bytes:
    """A TIFF whose header claims a size, with hardly any pixels."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.zeros((16, 16), np.uint8), photometric="minisblack", compression="zlib" if compression != 1 else None
    )
    data = bytearray(buffer.getvalue())
    for tag, value in ((256, width), (257, height), (278, height)):
        at = max(data.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def npy(shape: tuple[int, ...]) -> bytes:
    """A NPY file whose header claims a shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def hdf5(shape: tuple[int, ...], name: str = "exported_data") -> bytes:
    """An HDF5 file with an array of a shape that was never written."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset(name, shape=shape, dtype="u1", chunks=(64, 64))
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    """A ZIP file, well compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def lying(data: bytes) -> bytes:
    """A ZIP file whose directory says that its member is small."""
    at = data.rfind(b"PK\x01\x02")
    return data[: at + 24] + struct.pack("<I", 64) + data[at + 28 :]


def geo(points: Any) -> bytes:
    """A GeoJSON file of one polygon."""
    geometry = {"type": "Polygon", "coordinates": [points]}
    return json.dumps({"features": [{"type": "Feature", "geometry": geometry}]}).encode()


def of_coco(segmentation: Any, **image: Any) -> bytes:
    """A COCO file of one object."""
    images = [{"id": 1, "file_name": "a.png"} | image]
    return json.dumps(
        {"images": images, "annotations": [{"id": 5, "image_id": 1, "segmentation": segmentation}]}
    ).encode()


def of_labelme(shape: dict[str, Any]) -> bytes:
    """A LabelMe file of one shape."""
    return json.dumps({"shapes": [{"label": "cell", "points": [[0, 0], [30, 30]]} | shape]}).encode()


def of_cvat(shape: str, size: str = 'width="50" height="40"') -> bytes:
    """A CVAT file of one shape."""
    return f'<annotations><image id="0" name="a.png" {size}>{shape}</image></annotations>'.encode()


def mat(shape: tuple[int, int], length: int) -> bytes:
    """A MATLAB file of one packed array that claims a shape and so many bytes of values, and has zeros."""
    head = (
        struct.pack("<IIII", 6, 8, 9, 0) + struct.pack("<IIii", 5, 8, *shape) + struct.pack("<I4s", 1 << 16 | 1, b"m")
    )
    first, zeros = zlib.compressobj(), zlib.compressobj(wbits=-15)
    body = first.compress(struct.pack("<II", 14, 2**31) + head + struct.pack("<II", 2, length))
    body += first.flush(zlib.Z_FULL_FLUSH) + (zeros.compress(bytes(2**24)) + zeros.flush(zlib.Z_FULL_FLUSH)) * 128
    return b" " * 124 + struct.pack("<H", 0x100) + b"IM" + struct.pack("<II", 15, len(body)) + body


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BILLION = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotations>&l11;</annotations>'.encode()
OUTSIDE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>'
NAN = (
    b"<Annotations><Annotation><Regions><Region><Vertices><Vertex X='nan' Y='1'/></Vertices>"
    b"</Region></Regions></Annotation></Annotations>"
)
ZIGZAG = [[n % 2 * 40, n % 2 * 40] for n in range(1_500_000)]
ROI = ImagejRoi.frompoints(np.array([(1, 1), (6, 1), (1, 5.5)], np.float32)).tobytes()

# Format, name of the file, what is in it, and what the error says.
CASES: dict[str, tuple[str, str, Callable[[], bytes], str]] = {
    **{f"deep {name}": (name, "a.json", lambda: b'{"shapes":' + b"[" * 1_000_000, "is no .* file") for name in JSON},
    **{
        f"deep and closed {name}": (name, "a.json", lambda: b"[" * 1_000_000 + b"]" * 1_000_000, "is no .* file")
        for name in JSON
    },
    **{f"deep {name}": (name, "a.xml", lambda: b"<a>" * 1_000_000, "is no .* file") for name in XML},
    **{
        f"billion laughs {name}": (name, "a.xml", lambda: BILLION, "document type or entities, which are refused")
        for name in XML
    },
    **{
        f"foreign entity {name}": (name, "a.xml", lambda: OUTSIDE, "document type or entities, which are refused")
        for name in XML
    },
    "zip bomb": (
        "imagej",
        "a.zip",
        lambda: archive(**{f"{n}.roi": bytes(2**27 + 1) for n in range(3)}),
        "its ROIs take more than",
    ),
    "zip that lies": ("imagej", "a.zip", lambda: lying(archive(**{"1.roi": ROI + bytes(2**27)})), "cannot be read as"),
    "zip in zip": (
        "imagej",
        "a.zip",
        lambda: archive(**{"b.zip": archive(a=bytes(2**20))}),
        "no .roi in it, but b.zip",
    ),
    "zip of nothing": ("imagej", "a.zip", lambda: b"PK", "cannot be read as ZIP"),
    "roi of many points": (
        "imagej",
        "a.roi",
        lambda: ROI[:16] + b"\xff\xff" + ROI[18:],
        "ImageJ ROI|points|finite|outside",
    ),
    "rle past the end": (
        "rle",
        "a.csv",
        lambda: b"ImageId,EncodedPixels\na,1999 9\n",
        "line 2: the run '1999 9' leaves the image",
    ),
    "rle of a billion": (
        "rle",
        "a.csv",
        lambda: b"ImageId,EncodedPixels\na,1 1000000000000\n",
        "line 2: the run '1 1000000000000' leaves",
    ),
    "rle of long numbers": (
        "rle",
        "a.csv",
        lambda: b"ImageId,EncodedPixels\na,1 " + b"9" * 5000 + b"\n",
        "line 2: .*whole numbers",
    ),
    "rle of overflow": (
        "rle",
        "a.csv",
        lambda: b"ImageId,EncodedPixels\na,9223372036854775807 9223372036854775807\n",
        "line 2: the run",
    ),
    "coco runs past the end": (
        "coco",
        "a.json",
        lambda: of_coco({"size": [40, 50], "counts": [1, 10**12]}),
        "annotation 5: the run",
    ),
    "coco runs overflow": (
        "coco",
        "a.json",
        lambda: of_coco({"size": [40, 50], "counts": [2**63 - 1] * 3 + [2003]}),
        "annotation 5: the run",
    ),
    "coco huge": (
        "coco",
        "a.json",
        lambda: of_coco([[0, 0, 9, 0, 9, 9]], height=10**9, width=10**9),
        "a.png has 1000000000",
    ),
    "coco compressed runs": (
        "coco",
        "a.json",
        lambda: of_coco({"size": [40, 50], "counts": "o" * 10**6}),
        "annotation 5: 'o' in the",
    ),
    "coco infinite": ("coco", "a.json", lambda: of_coco([[0, 0, 1e999, 0, 9, 9]]), "is no COCO file|finite"),
    "nan in json": ("geojson", "a.geojson", lambda: geo([[0, 0], [float("nan"), 3], [4, 4]]), "object 1: .*"),
    "two points": (
        "geojson",
        "a.geojson",
        lambda: geo([[0, 0], [5, 5]]),
        "object 1: a polygon needs at least 3 points",
    ),
    "far away": (
        "geojson",
        "a.geojson",
        lambda: geo([[1e300, 0], [2e300, 5], [1e300, 9]]),
        "object 1: coordinates must be finite",
    ),
    "zigzag": (
        "geojson",
        "a.geojson",
        lambda: geo(ZIGZAG),
        "object 1: its outline crosses the rows of the image .* times",
    ),
    "text for points": (
        "geojson",
        "a.geojson",
        lambda: geo("x" * 10**6),
        "object 1: coordinates are none of a Polygon",
    ),
    "labelme bomb": (
        "labelme",
        "a.json",
        lambda: of_labelme({"shape_type": "mask", "mask": base64.b64encode(png(40000, 40000)).decode()}),
        r"shape 1 \(cell\): its mask cannot be read .it is no PNG of 31 x 31 pixels",
    ),
    "labelme claims": (
        "labelme",
        "a.json",
        lambda: of_labelme({"shape_type": "mask", "points": [[0, 0], [99999, 99999]], "mask": ""}),
        r"shape 1 \(cell\): its mask from 0, 0 to 99999, 99999 leaves the image",
    ),
    "labelme circle": (
        "labelme",
        "a.json",
        lambda: of_labelme({"shape_type": "circle", "points": [[0, 0], [1e308, 1e308]]}),
        "shape 1 .cell",
    ),
    "cvat mask": (
        "cvat",
        "a.xml",
        lambda: of_cvat('<mask rle="5" left="0" top="0" width="99999" height="99999"/>'),
        "shape 1 .*leaves",
    ),
    "cvat runs": (
        "cvat",
        "a.xml",
        lambda: of_cvat('<mask rle="1,99999999999" left="0" top="0" width="9" height="9"/>'),
        "shape 1 .*the run",
    ),
    "cvat nan": (
        "cvat",
        "a.xml",
        lambda: of_cvat('<polygon points="nan,1;2,2;3,3"/>'),
        "shape 1 .polygon .: coordinates must be finite",
    ),
    "cvat huge": ("cvat", "a.xml", lambda: of_cvat("", 'width="1e99" height="9"'), "a.png has 9 x"),
    "cvat size": ("cvat", "a.xml", lambda: of_cvat("", 'width="inf" height="9"'), "width must be a number"),
    "aperio nan": (
        "aperio",
        "a.xml",
        lambda: NAN,
        "layer 1, region 1: X must be a number",
    ),
    "napari nan": (
        "napari",
        "a.csv",
        lambda: b"index,shape-type,vertex-index,axis-0,axis-1\n0,polygon,0,nan,1\n",
        "shape 0: must lie",
    ),
    "napari huge": (
        "napari",
        "a.csv",
        lambda: (
            b"index,shape-type,vertex-index,axis-0,axis-1\n"
            + b"".join(b"0,ellipse,%d,1e300,%d\n" % (n, n) for n in range(4))
        ),
        "shape 0: ",
    ),
    **{
        f"{kind} that claims 10^9 pixels as {name}": (name, f"a{ending}", content, "pixels|claims|shape|mmap")
        for name in ("labels", "colours")
        for kind, ending, content in (
            ("PNG", ".png", lambda: png(40000, 40000)),
            ("full PNG", ".png", lambda: png(30000, 30000, bytes(30001) * 1000)),
            ("TIFF", ".tif", lambda: tiff(40000, 40000)),
            ("compressed TIFF", ".tif", lambda: tiff(40000, 40000, 8)),
            ("NPY", ".npy", lambda: npy((40000, 40000))),
            ("HDF5", ".h5", lambda: hdf5((40000, 40000))),
        )
    },
    "coco deep inside": (
        "coco",
        "a.json",
        lambda: b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [' + b"[" * 10**6 + b"]" * 10**6 + b"]}",
        "annotation number 1: ",
    ),
    "coco of quotation marks": (
        "coco",
        "a.json",
        lambda: b'{"images": [{"id": 1, "file_name": "' + b'\\"' * 10**6 + b'"}], "annotations": []',
        "is no COCO file",
    ),
    "yolo huge": ("yolo", "a.txt", lambda: b"0 " + b"1e300 " * 9 + b"1e999\n", "line 1: .*finite"),
    "yolo of overflow": ("yolo", "a.txt", lambda: b"9e99 " + b"0.1 0.2 " * 9, "line 1: must begin with the number"),
    "yolo zigzag": (
        "yolo",
        "a.txt",
        lambda: b"0 " + b"0.1 0.1 0.9 0.9 " * 750_000,
        "line 1: its outline crosses the rows of the image .* times",
    ),
    "matlab bomb": ("matlab", "a.mat", lambda: mat((40, 50), 2**32 - 1), "array m cannot be read .it is cut short"),
    "matlab claims": ("matlab", "a.mat", lambda: mat((40000, 40000), 1600000000), "array m has shape .40000, 40000."),
    "matlab of an HDF5 that claims": ("matlab", "a.mat", lambda: hdf5((40000, 40000)), "has shape .40000, 40000."),
    "ilastik": ("ilastik", "a.h5", lambda: hdf5((40000, 40000)), "it has .1, 40000, 40000. voxels"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_hostile_files_end_in_an_error_that_names_the_file_within_a_gigabyte(tmp_path: Path, case: str) -> None:
    name, file, content, text = CASES[case]
    (tmp_path / file).write_bytes(content())
    # The limit is far above what is needed, for a busy machine; what runs for ever is caught.
    done = run_function(hostile.main, [name, str(tmp_path / file)], ROOT, 300)
    assert done.returncode == 0, done.stdout[-2000:]
    # Libraries may have warned before.
    told = done.stdout.partition(f"ValueError: {tmp_path / file}")[2]
    assert told and re.search(text, done.stdout), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_members_of_archives_are_never_written_and_never_leave_the_archive(tmp_path: Path) -> None:
    (tmp_path / "rois").mkdir()
    names = ("../escaped.roi", "/escaped.roi", "C:\\escaped.roi", "a/../../escaped.roi")
    (tmp_path / "rois" / "a.zip").write_bytes(archive(**dict.fromkeys(names, ROI)))
    source = Annotation(format="imagej", path="unused")
    assert len([*module_of("imagej").read((tmp_path / "rois" / "a.zip",), Image("a"), SHAPE, source)]) == 4
    assert [path.name for path in tmp_path.rglob("*")] == ["rois", "a.zip"] and not Path("/escaped.roi").exists()


def test_names_of_images_in_tables_reach_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(of_coco([[0, 0, 9, 0, 9, 9]], file_name="../../../etc/passwd"))
    found, strangers = module_of("coco").find(str(tmp_path / "c.json"), [Image("a"), Image("passwd")])
    assert (found, strangers) == ({1: (tmp_path / "c.json",)}, [])


# ---- damaged files ----


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Path, bytes]]]:
    """Files of the scene in each format, with their contents."""
    files = {}
    for name, write in scene.WRITERS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        files[name] = [(path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()][:1]
    return files


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", sorted(scene.WRITERS))
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    kept=st.just(1.0) | st.floats(0, 1),
)
def test_damaged_files_are_read_or_end_in_an_error_that_names_them(
    written: dict[str, list[tuple[Path, bytes]]], name: str, changes: list[tuple[float, int]], kept: float
) -> None:
    ((path, content),) = written[name]
    damaged = bytearray(content)
    for at, value in changes:
        damaged[int(at * len(damaged))] = value
    path.write_bytes(damaged[: int(kept * len(damaged))])
    image = Image("t007" if name == "ctc" else scene.STEM)
    source = Annotation.model_validate({"format": name, "path": "unused"})
    try:
        read = module_of(name).read((path,), image, (1, scene.HEIGHT, scene.WIDTH), source)
        layers = [layer for layer in read if isinstance(layer, Layer)]
        assert all(
            (layer.position >= 0).all() and (layer.position < scene.HEIGHT * scene.WIDTH).all() for layer in layers
        )
    except ValueError as error:
        assert path.name in str(error)
    except KeyError as error:
        # The image is no longer in the table, which `find` tells.
        assert image.stem in str(error) and name in ("rle", "coco", "cvat")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.floats(width=32, allow_nan=True, allow_infinity=True)] * 2), max_size=12),
    st.sampled_from(["polygon", "rectangle", "circle"]),
)
def test_any_points_are_painted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], kind: str
) -> None:
    path = tmp_path_factory.mktemp("p") / "a.json"
    path.write_bytes(of_labelme({"points": points, "shape_type": kind}))
    source = Annotation(format="labelme", path="unused")
    try:
        for layer in module_of("labelme").read((path,), Image("a"), SHAPE, source):
            assert (np.diff(layer.position) > 0).all() and set(layer.position) <= set(range(SHAPE[1] * SHAPE[2]))
    except ValueError as error:
        assert "a.json" in str(error)


def test_the_png_writer_of_this_test_is_right() -> None:
    np.testing.assert_array_equal(
        imagecodecs.png_decode(png(2, 3, bytes([0, 1, 2, 3, 0, 4, 5, 6]))), [[1, 2, 3], [4, 5, 6]]
    )
