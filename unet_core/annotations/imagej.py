"""ImageJ ROIs: ``RoiSet.zip`` as the ROI manager saves it, or single ``.roi`` files.

Polygons, freehand and traced outlines, splines through their points, ovals, ellipses, rectangles, also turned, and
composites. In volumes and time series a ROI belongs to the slice at which it was drawn. With the key ``classes`` of the
source, as in ``{"1": cell, "2": dead}``, the number of a ROI's group is its class; 0 are those without a group.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet_core.annotations import labels, masks, outlines, raster
from unet_core.annotations.drawn import Drawn, beyond
from unet_core.annotations.layer import Found, Image, Images, Layer, Told, object_of
from unet_core.annotations.parsed import read_bytes
from unet_core.annotations.traced import Traced
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation
from unet_core.files import write_atomic

if TYPE_CHECKING:
    from roifile import ImagejRoi

# A ROI is some kilobytes; more than these is no set of ROIs, or one that was made to fill the memory.
MAX_ROI_BYTES, MAX_ROI_SET_BYTES = 2**27, 2**30


def find(path: str, images: Images) -> Found:
    """Files by the position of their image, and ROIs beyond the last frame; see `unet_core.annotations`."""
    found, strangers = (
        masks.find(path, images, "imagej with several files for an image")
        if "*" in Path(path).name
        else labels.find(path, images)
    )
    return found, [*strangers, *beyond(found, images, _frames)]


def read(files: tuple[Path, ...], image: Image, shape: ZYX, source: Annotation) -> Iterator[Layer | Told]:
    """The objects of one image, a layer each, since they may overlap; see `unet_core.annotations`."""
    for file in files:
        drawn = Drawn(source, shape[1:], str(file))
        for name, data in _members(file):
            where = f"{file}: ROI {name}"
            with drawn.object():
                roi = _decoded(data, where)
                plane, time = _slice_of(roi, shape, image.time, where)
                if time == image.time:
                    position = _pixels(roi, data, shape[1:], where) + plane * shape[1] * shape[2]
                    # Groups are classes for those who give them names.
                    yield object_of(position, str(roi.group) if source.classes else None, f"ROI {name}")
        yield from drawn.told()


def write(path: Path, objects: Iterable[Traced], classes: Sequence[str] = ()) -> None:
    """Write a ``RoiSet.zip`` with a ROI for each object of a plane; `read` gives the same pixels.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    objects : iterable of Traced
        The objects.
    classes : sequence of str
        Names of the classes, whose numbers from 1 are the groups of the ROIs; of one class ROIs have no group.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in objects:
            group = list(classes).index(one.class_name) + 1 if len(classes) > 1 and one.class_name else 0
            archive.writestr(f"{one.number:06}.roi", _encoded(one, group))
    write_atomic(path, content.getvalue())


def _encoded(one: Traced, group: int) -> bytes:
    """A traced outline as ImageJ's wand makes it, or a composite of several rings."""
    from roifile import ROI_TYPE, ImagejRoi

    rings = [ring for part in one.parts for ring in part]
    roi = ImagejRoi.frompoints(rings[0], name=str(one.number))
    roi.roitype = ROI_TYPE.TRACED
    if len(rings) > 1:
        (top, left), (height, width) = one.origin, one.mask.shape
        roi = ImagejRoi(
            roitype=ROI_TYPE.RECT, name=str(one.number), left=left, top=top, right=left + width, bottom=top + height
        )
        path = np.concatenate([outlines.path_of(ring) for ring in rings])
        roi.multi_coordinates, roi.shape_roi_size = path.astype(np.float32), len(path)
    roi.group = group
    return bytes(roi.tobytes())


def _decoded(data: bytes, where: str) -> ImagejRoi:
    from roifile import ImagejRoi

    try:
        return ImagejRoi.frombytes(data)
    except Exception as error:  # of many kinds, where the file is damaged
        raise ValueError(f"{where}: cannot be read as ImageJ ROI ({error}); is it complete?") from None


@functools.lru_cache(maxsize=4)
def _frames(file: Path, mtime_ns: int) -> list[tuple[str, int | None]]:
    """Names of the ROIs of a film, and their frames from 1; None where that cannot be read."""
    frames: list[tuple[str, int | None]] = []
    for name, data in _members(file):
        try:
            roi = _decoded(data, str(file))
            frames.append((f"ROI {name}", roi.t_position or roi.position))
        except ValueError:  # told when it is read
            frames.append((f"ROI {name}", None))
    return frames


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the ROIs of a file. Nothing is unpacked onto the disk."""
    if file.suffix.lower() == ".roi":
        yield file.name, read_bytes(file)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)]
            rois = [info for info in members if info.filename.lower().endswith(".roi")]
            if members and not rois:
                raise ValueError(f"no .roi in it, but {members[0].filename}")
            if sum(info.file_size for info in rois) > MAX_ROI_SET_BYTES or any(
                info.file_size > MAX_ROI_BYTES for info in rois
            ):
                raise ValueError(
                    f"its ROIs take more than {MAX_ROI_SET_BYTES} bytes, or one of them more than {MAX_ROI_BYTES}"
                )
            for info in rois:
                with archive.open(info) as member:
                    # Never more than was announced.
                    yield info.filename, member.read(info.file_size)
    except (
        OSError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        EOFError,
        IndexError,  # from zipfile, where a member has an empty name
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
    ) as error:
        text = str(error)
        raise ValueError(
            text if text.startswith(str(file)) else f"{file}: cannot be read as ZIP of ROIs ({text})"
        ) from None


def _is_hidden(name: str) -> bool:
    """Whether a member of an archive is what macOS adds to one, as ``__MACOSX/._1.roi``."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def _slice_of(roi: ImagejRoi, shape: ZYX, given: int | None, where: str) -> tuple[int, int | None]:
    """Plane and time point of a ROI, from 0. ImageJ counts from 1; 0 means that it has none."""
    volume, film = shape[0] > 1, given is not None
    if not volume and not film:
        return 0, None
    # An image that ImageJ takes for the other kind of stack would have all of its ROIs in one plane.
    for has, other, kind in ((volume, roi.z_position, "slice"), (film, roi.t_position, "frame")):
        if not has and other > 1:
            raise ValueError(
                f"{where}: is in {kind} {other}, but the image has no {kind}s; is the axis that ImageJ calls so "
                "another one in axes? (Image > Properties, or Re-order Hyperstack)"
            )
    # Where only one axis has slices, the position counts along it.
    plane = roi.z_position or (roi.position if not film else 0)
    time = roi.t_position or (roi.position if not volume else 0)
    if (volume and plane < 1) or (film and time < 1):
        raise ValueError(f"{where}: has no position in the stack; draw ROIs with 'associate with slice'")
    if volume and plane > shape[0]:
        raise ValueError(f"{where}: is in slice {plane}, but the image has {shape[0]}")
    return plane - 1 if volume else 0, time - 1 if film else None


def _pixels(roi: ImagejRoi, data: bytes, size: tuple[int, int], where: str) -> np.ndarray:
    """Flat positions of a ROI in its plane."""
    from roifile import ROI_SUBTYPE, ROI_TYPE

    if roi.subpixelrect:
        low, high = (roi.xd, roi.yd), (roi.xd + roi.widthd, roi.yd + roi.heightd)
    else:
        low, high = (roi.left, roi.top), (roi.right, roi.bottom)
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        raise ValueError(f"{where}: is a text or an image, and no area")
    if roi.roitype == ROI_TYPE.OVAL:
        radii = [(end - start) / 2 for start, end in zip(low, high, strict=True)]
        return raster.ellipse([start + radius for start, radius in zip(low, radii, strict=True)], radii, 0, size, where)
    if roi.multi_coordinates is not None:
        try:
            rings = outlines.rings(roi.multi_coordinates)
        except ValueError as error:
            raise ValueError(f"{where}: its composite outline cannot be read ({error})") from None
        return raster.polygon(rings, size, where)
    if roi.roitype == ROI_TYPE.RECT:
        if roi.rounded_rect_arc_size:
            raise ValueError(f"{where}: rectangles with round corners are not supported; make it a polygon")
        return raster.polygon([raster.box(low, high)], size, where)
    if roi.roitype in (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED):
        return raster.polygon([_outline(roi, data, where)], size, where)
    raise ValueError(f"{where}: is a {roi.roitype.name.lower()}, and no area")


def _outline(roi: ImagejRoi, data: bytes, where: str) -> np.ndarray:
    """Corners of the polygon that ImageJ fills for a ROI with points."""
    from roifile import ROI_OPTIONS, ROI_SUBTYPE

    ends = np.array([(roi.x1, roi.y1), (roi.x2, roi.y2)])
    if roi.subtype in (ROI_SUBTYPE.ELLIPSE, ROI_SUBTYPE.ROTATED_RECT) and (ends[0] != ends[1]).any():
        # The points that stand in the file too may be rounded; ImageJ passes them over.
        (across,) = struct.unpack(">f", data[52:56])
        if not np.isfinite([*ends.flat, across]).all():
            raise ValueError(f"{where}: its axes are no numbers; is the file complete?")
        return (outlines.ellipse if roi.subtype == ROI_SUBTYPE.ELLIPSE else outlines.turned_rectangle)(ends, across)
    points = np.asarray(roi.coordinates())
    if roi.options & ROI_OPTIONS.SPLINE_FIT and roi.version >= 218 and len(points) > 2:
        try:
            return outlines.spline(points)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return points
