from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.io import savemat

from tests.annotations.layers import objects_in
from unet_core.annotations import matlab
from unet_core.annotations.layer import Image
from unet_core.annotations.matfile import arrays_of

SHAPE = (1, 5, 7)
LABELS = np.zeros((5, 7), int)
LABELS[0:2, 0:3], LABELS[3:, 2:4], LABELS[1:4, 5] = 1, 2, 7


def written(folder: Path, content: dict[str, Any], **options: Any) -> Path:
    savemat(folder / "a.mat", content, **options)
    return folder / "a.mat"


def written73(folder: Path, content: dict[str, np.ndarray]) -> Path:
    """As MATLAB 7.3 writes it: HDF5 behind 512 bytes of its own, columns as rows."""
    with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
        for name, array in content.items():
            file.create_dataset(name, data=array.T, chunks=array.T.shape, compression="gzip")
    return folder / "a.mat"


@pytest.mark.parametrize("write", [written, written73])
def test_objects_are_those_of_the_array(tmp_path: Path, write: Any) -> None:
    for name in ("inst_map", "anything"):
        path = write(tmp_path, {name: LABELS.astype(np.float64), "type_map": LABELS > 1, "count": np.ones((1, 1))})
        ((_, found),) = objects_in("matlab", path, SHAPE)
        np.testing.assert_array_equal(found, LABELS)
    path = write(tmp_path, {"a": LABELS * 2, "b": LABELS})
    with pytest.raises(ValueError, match="a.mat: has the arrays a, b; name one behind a colon, as in a.mat:mask"):
        objects_in("matlab", path, SHAPE)
    ((_, found),) = objects_in("matlab", Path(f"{path}:b"), SHAPE)
    np.testing.assert_array_equal(found, LABELS)
    named = f"{tmp_path}/{{stem}}.mat:b"
    assert matlab.find(named, [Image("a"), Image("b")]) == ({0: (Path(f"{path}:b"),)}, [])


@settings(deadline=None)
@given(
    arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"]),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ),
    st.booleans(),
    st.text("ab_1", min_size=1, max_size=31).map(lambda name: "x" + name),
)
def test_arrays_are_those_that_scipy_wrote(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool, name: str
) -> None:
    folder = tmp_path_factory.mktemp("mat")
    others = {"cell": np.array([{"a": 1}, "text"], object), "text": "inst", "complex": np.array([1j]), "s": {"b": 2}}
    path = written(folder, others | {name: array}, do_compression=packed, long_field_names=True)
    with arrays_of(path) as found:
        assert found.shapes == {name: array.shape}
        np.testing.assert_array_equal(found.read(name, array.shape), array)  # type: ignore[arg-type]


def big_endian(array: np.ndarray) -> bytes:
    """A file of a machine with the other order of bytes."""
    body = (
        struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, *array.shape) + struct.pack(">HH4s", 1, 1, b"m")
    )
    body = body[:-8] + struct.pack(">I4s", 1 << 16 | 1, b"m\0\0\0")
    values = array.ravel("F").astype(">u2").tobytes()
    body += struct.pack(">II", 4, len(values)) + values + bytes(-len(values) % 8)
    return b" " * 124 + struct.pack(">H", 0x100) + b"MI" + struct.pack(">II", 14, len(body)) + body


def test_files_of_either_order_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(big_endian(LABELS))
    ((_, found),) = objects_in("matlab", tmp_path / "a.mat", SHAPE)
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize(
    "more",
    [
        {"inst_type": [[3], [1], [3]], "type_map": LABELS},
        {"id": [[7], [9], [1], [2]], "class": [[3], [8], [3], [1]], "bbox": np.ones((4, 4))},
        {"type_map": np.where(np.indices((5, 7))[1] == 0, 2, np.where(LABELS == 2, 1, 3))},
    ],
)
def test_objects_have_the_types_that_the_file_tells(tmp_path: Path, more: dict[str, Any]) -> None:
    path = written(tmp_path, {"inst_map": LABELS.astype(float)} | more)
    found = objects_in("matlab", path, SHAPE, classes={"1": "cell", "3": "cell"})
    assert [name for name, _ in found] == ["1", "3"]
    np.testing.assert_array_equal(found[0][1], np.where(LABELS == 2, 2, 0))
    np.testing.assert_array_equal(found[1][1], np.where(LABELS == 2, 0, LABELS))
    assert [name for name, _ in objects_in("matlab", path, SHAPE)] == [None]


def test_without_types_values_are_classes(tmp_path: Path) -> None:
    found = objects_in("matlab", written(tmp_path, {"mask": LABELS % 7 + 0.0}), SHAPE, classes={"1": "a", "2": "b"})
    assert [(name, array.max(), (array > 0).sum()) for name, array in found] == [("1", 1, 6), ("2", 1, 4)]


def lying(shape: tuple[int, int], length: int, kind: int = 2) -> bytes:
    """A file of one packed array whose values are said to be so many, and are zeros."""
    head = (
        struct.pack("<IIII", 6, 8, 9, 0) + struct.pack("<IIii", 5, 8, *shape) + struct.pack("<I4s", 1 << 16 | 1, b"m")
    )
    body = zlib.compress(struct.pack("<II", 14, 2**31) + head + struct.pack("<II", kind, length) + bytes(10**7))
    return b" " * 124 + struct.pack("<H", 0x100) + b"IM" + struct.pack("<II", 15, len(body)) + body


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no MATLAB file"),
        (b"x" * 300, "is no MATLAB file"),
        (lying((5, 7), 2**32 - 1), "array m cannot be read .it is cut short"),
        (lying((5, 7), 10**7), "array m cannot be read .it is cut short"),
        (lying((5, 7), 36), "array m cannot be read .it has 36 values for the shape"),
        (lying((5, 7), 35, 14), "array m cannot be read .its values are of type 14"),
        (lying((2**31 - 1, 2**31 - 1), 35), r"array m has shape .2147483647, 2147483647., but its image has .5, 7."),
        (lying((7, 5), 35), r"array m has shape .7, 5., but its image has .5, 7.; is it transposed"),
        (lying((-5, 7), 35), "cannot be read as a MATLAB file .the shape of an array is negative"),
        (lying((5, 7), 35)[:-30], "it is cut short"),
    ],
)
def test_files_that_are_something_else_or_lie_are_told(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.mat: .*{text}"):
        objects_in("matlab", tmp_path / "a.mat", SHAPE)


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        ({"cell": np.array([1, "a"], object)}, {}, "has no array of two dimensions"),
        ({"inst_map": LABELS + 0.5}, {}, "labels must be whole numbers"),
        (
            {"inst_map": LABELS, "inst_type": [[1], [2]]},
            {"classes": {"1": "a"}},
            "inst_type has 2 values, but .* 3 objects",
        ),
        ({"inst_map": LABELS, "id": [[1]], "class": [[1]]}, {"classes": {"1": "a"}}, "id does not name object 2"),
        (
            {"inst_map": LABELS, "inst_type": LABELS},
            {"classes": {"1": "a"}},
            "inst_type has shape .5, 7.; needed is one",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_told(
    tmp_path: Path, content: dict[str, Any], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=f"a.mat: {text}"):
        objects_in("matlab", written(tmp_path, content), SHAPE, **options)


def test_links_of_hdf5_to_other_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["m"] = LABELS.T
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["inst_map"] = h5py.ExternalLink("other.h5", "m")
    with pytest.raises(ValueError, match="a.mat: has no array of two dimensions"):
        objects_in("matlab", tmp_path / "a.mat", SHAPE)
    with pytest.raises(ValueError, match="a.mat: has no array of numbers inst_map, but none"):
        objects_in("matlab", Path(f"{tmp_path}/a.mat:inst_map"), SHAPE)
