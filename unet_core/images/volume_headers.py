"""What headers of NRRD, MRC and NIfTI say: where the values lie, and what they are.

The libraries that read these headers are an extra.
"""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.images.source import NotInstalledError, RefusedError
from unet_core.patterns import ending_of

VOLUME_FILE_TYPES = {
    **dict.fromkeys((".nrrd", ".nhdr"), "NRRD"),
    **dict.fromkeys((".mrc", ".rec", ".map", ".st", ".ali"), "MRC"),
    **dict.fromkeys((".nii", ".nii.gz"), "NIfTI"),
}
# Names of the packages that read the headers.
LIBRARIES = {"NRRD": "pynrrd", "MRC": "mrcfile", "NIfTI": "nibabel"}
# Bytes that a text header may have.
MAX_HEADER = 2**24
NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
NRRD_CODINGS = {
    "raw": "",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("ascii", "text", "txt"), "text"),
}
# Kinds of axes of NRRD that are places in space; `time` is one of time, and all others are of values of one place.
SPATIAL_KINDS = ("domain", "space", "???", "none")
# Of MRC: what IMOD writes to say that its flags follow, and the flag that bytes are signed.
IMOD_STAMP, IMOD_SIGNED = 1146047817, 1


class Volume(NamedTuple):
    """Where the values of a file lie, and what its header says of them.

    Attributes
    ----------
    file : Path
        The file with the values.
    shape : tuple of int
        The last axis is the one that runs fastest in the file.
    dtype : dtype
        As stored, with its byte order.
    axes : str
        As those of a `Source`.
    start : int
        Bytes of the file before the values, or before what is compressed.
    skip : int
        Bytes before the values after they are decompressed.
    coding : str
        gzip, bzip2, text, or empty for values as they are in memory.
    sizes : dict
        Size of a voxel along an axis, with its unit.
    scale : tuple of float or None
        Factor, and what is added after it, that make values of those stored.
    layers : bool
        Whether an axis c is a list of images, and not of colours.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    start: int
    skip: int = 0
    coding: str = ""
    sizes: dict[str, tuple[float, str]] = {}
    scale: tuple[float, float] | None = None
    layers: bool = False


def described(path: Path) -> Volume:
    """What the header of a file says."""
    kind = VOLUME_FILE_TYPES[ending_of(path).lower()]
    try:
        library = _library(kind)
    except ImportError:
        raise NotInstalledError(
            f"{path}: {kind} is read by {LIBRARIES[kind]}, which is not installed: "
            "pip install 'unet-core[volumes]' (or convert it to OME-TIFF)"
        ) from None
    return {"NRRD": _nrrd, "MRC": _mrc, "NIfTI": _nifti}[kind](path, library)


def _library(kind: str) -> Any:
    if kind == "NRRD":
        import nrrd

        return nrrd
    if kind == "MRC":
        import mrcfile

        return mrcfile
    import nibabel

    return nibabel


def files_of(path: Path) -> list[Path]:
    """Other files that hold values of a file; those that are there."""
    file = described(path).file
    return [file] if file != path else []


def _mrc(path: Path, mrcfile: Any) -> Volume:
    """MRC2014 and what IMOD writes; the first axis of the file runs fastest and is x."""
    with path.open("rb") as file:
        content = file.read(mrcfile.dtypes.HEADER_DTYPE.itemsize)
    if len(content) < mrcfile.dtypes.HEADER_DTYPE.itemsize:
        raise ValueError("its header is not complete")
    if content[208:211] != b"MAP":
        raise ValueError("it has no MAP where MRC files have it")
    header = _mrc_header(content, mrcfile)
    dtype = mrcfile.utils.data_dtype_from_header(header)
    # In extra2, words 39 and 40 of the header; before IMOD had flags, its bytes were unsigned.
    stamp, flags = np.frombuffer(content, header.nx.dtype, 2, 152)
    if dtype == np.int8 and stamp == IMOD_STAMP and not flags & IMOD_SIGNED:
        dtype = np.dtype(np.uint8)
    if min(header.nx, header.ny, header.nz) < 1 or header.nsymbt < 0:
        raise ValueError(f"it has no voxels: its header says {header.nx} x {header.ny} x {header.nz}")
    if mrcfile.utils.spacegroup_is_volume_stack(header.ispg) and (header.mz < 1 or header.nz % header.mz):
        raise ValueError(f"its {header.nz} planes are no volumes of {header.mz} planes, as its header says")
    shape = mrcfile.utils.data_shape_from_header(header)
    # Which side of the cell an axis of the file is; some programs leave it out.
    order = [int(header[name]) for name in ("mapc", "mapr", "maps")]
    order = order if sorted(order) == [1, 2, 3] else [1, 2, 3]
    sizes = {
        axis: (float(header.cella["xyz"[side - 1]]) / count, "angstrom")
        for axis, side in zip("xyz", order, strict=True)
        if (count := int(header["m" + "xyz"[side - 1]])) > 0
    }
    start = len(content) + int(header.nsymbt)
    return Volume(path, shape, dtype, "qzyx"[-len(shape) :], start, sizes=sizes)


def _mrc_header(content: bytes, mrcfile: Any) -> Any:
    """The header in the byte order of its stamp, or in that in which its mode is one, as mrcfile has it."""
    try:
        order = mrcfile.utils.byte_order_from_machine_stamp(content[212:216])
    except ValueError:
        order = "<"
    for one in (order, "<" if order == ">" else ">"):
        # Without axes, so that fields are arrays, which keep their byte order.
        header = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(one)).reshape(()).view(np.recarray)
        if int(header.mode) in range(2**15):
            return header
    raise ValueError("its header has no mode")


def _nifti(path: Path, nibabel: Any) -> Volume:
    """NIfTI-1 and 2 in one file; axes of length 1 after z are left out."""
    with path.open("rb") as file:
        coding = "gzip" if file.read(2) == b"\x1f\x8b" else ""
    with gzip.open(path) if coding else path.open("rb") as stream:
        content = stream.read(540)
    sizes = [int.from_bytes(content[:4], order) for order in ("little", "big")]
    kind = nibabel.Nifti2Header if 540 in sizes else nibabel.Nifti1Header
    length = kind.template_dtype.itemsize
    if not {348, 540} & set(sizes) or len(content) < length:
        raise ValueError("it does not begin with a header of NIfTI")
    header = kind(content[:length], check=False)  # which would log what it mends
    if not bytes(header["magic"]).startswith(b"n+"):
        raise RefusedError(f"{path}: its voxels lie in another file (.img); save it as one file, .nii or .nii.gz")
    shape = tuple(int(one) for one in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # vectors of places
        shape, letters = (*shape[:3], shape[4]), "xyzc"
    elif len(shape) in (2, 3, 4, 5):
        letters = "xyztc"[: len(shape)]
    else:
        raise RefusedError(f"{path}: has {len(shape)} axes, which are not read; save it with x y z and time")
    axes, dtype = letters[::-1], header.get_data_dtype()
    slope, inter = header.get_slope_inter()
    scale = None if slope is None or (slope, inter or 0) == (1, 0) else (float(slope), float(inter or 0))
    stored = shape[::-1]
    if dtype.names:  # colours
        stored, axes, dtype, scale = (*stored, len(dtype.names)), axes + "c", np.dtype(np.uint8), None
    # Of units that are none, nothing is known of sizes.
    unit = {1: "m", 2: "mm", 3: "micron"}.get(int(header["xyzt_units"]) % 8, "")
    spacing = {axis: (abs(float(size)), unit) for axis, size in zip("xyz", header["pixdim"][1:4], strict=True)}
    sizes_told = {axis: size for axis, size in spacing.items() if axis in axes}
    offset = int(header.get_data_offset()) or header.single_vox_offset
    if offset < length:
        raise ValueError(f"its header says that its voxels begin at byte {offset}, which is in the header")
    start, skip = (0, offset) if coding else (offset, 0)
    return Volume(path, stored, dtype, axes, start, skip, coding, sizes_told, scale)


def _nrrd(path: Path, nrrd: Any) -> Volume:
    """NRRD with its values, or with a file of them."""
    lines, end = _nrrd_lines(path)
    header = nrrd.read_header(lines)
    missing = [name for name in ("dimension", "type", "encoding", "sizes") if name not in header]
    if missing:
        raise ValueError(f"its header does not say {', '.join(missing)}")
    shape = tuple(int(size) for size in header["sizes"])
    if len(shape) != header["dimension"]:
        raise ValueError(f"its header says {header['dimension']} axes and {len(shape)} sizes")
    encoding, type_name = header["encoding"].lower(), " ".join(header["type"].lower().split())
    if encoding not in NRRD_CODINGS or type_name not in NRRD_TYPES:
        what = f"values of type {type_name}" if encoding in NRRD_CODINGS else f"the encoding {encoding}"
        raise RefusedError(f"{path}: has {what}, which is not read; save it as numbers, raw or gzip")
    coding, dtype = NRRD_CODINGS[encoding], np.dtype(NRRD_TYPES[type_name])
    if dtype.itemsize > 1 and coding != "text":
        endian = str(header.get("endian", "")).lower()
        if endian not in ("little", "big"):
            raise ValueError(f"its header does not say whether its values are little or big endian ({endian!r})")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    detached = header.get("data file", header.get("datafile"))
    file = path if detached is None else _detached(path, detached)
    claimed = math.prod(shape) * dtype.itemsize
    start, skip = _nrrd_start(header, file, end if detached is None else 0, coding, claimed)
    letters, layers = _nrrd_axes(header, len(shape))
    sizes = {axis: size for axis, size in zip(letters, _nrrd_sizes(header, len(shape)), strict=False) if axis in "xyz"}
    axes = letters[::-1]
    return Volume(file, shape[::-1], dtype, axes, start, skip, coding, sizes, layers=layers)


def _nrrd_lines(path: Path) -> tuple[list[bytes], int]:
    """Lines of the header, and where it ends."""
    lines = list[bytes]()
    with path.open("rb") as file:
        while line := file.readline(MAX_HEADER):
            if not lines and not line.startswith(b"NRRD"):
                raise ValueError("it does not begin as NRRD does")
            if file.tell() > MAX_HEADER:
                raise ValueError(f"its header does not end after {MAX_HEADER} bytes")
            if not line.strip():
                break
            if re.match(rb"data ?file: *(LIST|.*%0?\d*d)", line):
                raise RefusedError(f"{path}: its values lie in several files, which are not read; save it as one file")
            lines.append(line)
        if not lines:
            raise ValueError("it is empty")
        return lines, file.tell()


def _detached(path: Path, name: str) -> Path:
    """The file of the values of a header, which must lie in the folder of the header."""
    file, folder = path.parent / name, path.parent.resolve()
    if not file.resolve().is_relative_to(folder):
        raise RefusedError(f"{path}: its values lie in {file}, but only files in its own folder {folder} are read")
    if not file.is_file():
        raise RefusedError(f"{path}: its values lie in {file}, which is missing; put it there")
    return file


def _nrrd_start(header: Any, file: Path, start: int, coding: str, claimed: int) -> tuple[int, int]:
    """Bytes before the values or what is compressed, and bytes to leave out after it is decompressed."""
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if lines < 0 or skip < -1 or (skip == -1 and coding):
        raise ValueError(f"its header says to leave out {lines} lines and {skip} bytes")
    with file.open("rb") as opened:
        opened.seek(start)
        for _ in range(lines):
            if not opened.readline():
                raise ValueError(f"it has fewer than the {lines} lines that its header says to leave out")
        start = opened.tell()
    if skip == -1:  # the values are the last bytes
        start, skip = max(start, file.stat().st_size - claimed), 0
    return (start, skip) if coding in ("gzip", "bzip2") else (start + skip, 0)


def _nrrd_axes(header: Any, count: int) -> tuple[str, bool]:
    """Letters of the axes, the fastest first, empty where they are not known; and whether c is a list of images."""
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    if len(kinds) != count:
        directions = header.get("space directions")
        told = directions is not None and len(directions) == count
        flat = [told and _length(direction) is None for direction in directions] if told else [False] * count
        kinds = ["list" if one else "domain" for one in flat]
    letters, spatial = "", iter("xyzq")
    for kind in kinds:
        letters += next(spatial, "?") if kind in SPATIAL_KINDS else "t" if kind == "time" else "c"
    known = len(set(letters)) == count and "?" not in letters and {"x", "y"} <= set(letters)
    return (letters if known else ""), "list" in kinds


def _length(direction: Any) -> float | None:
    """Length of a direction in space; None for an axis that has none."""
    if direction is None or np.isnan(direction).any():
        return None
    return float(np.linalg.norm(direction))


def _nrrd_sizes(header: Any, count: int) -> list[tuple[float, str]]:
    """Size along each axis of the file with its unit; 0 where it is not said."""
    directions = header.get("space directions")
    if directions is not None and len(directions) == count:
        units = {str(unit) for unit in header.get("space units", [])}
        unit = units.pop() if len(units) == 1 else ""
        return [(_length(direction) or 0.0, unit) for direction in directions]
    spacings, each = header.get("spacings", []), [str(unit) for unit in header.get("units", [])]
    if len(spacings) != count or len(each) != count:
        return []
    return [(abs(float(size)), unit) for size, unit in zip(spacings, each, strict=True)]
