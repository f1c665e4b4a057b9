"""Shapes of objects: axes, outline or surface and the like, as `skimage.measure.regionprops` defines them."""

from __future__ import annotations

import numpy as np

from unet_core.blocks import ZYX
from unet_core.compiled import compiled
from unet_core.instances.moments import HEAD, combine, in_order
from unet_core.instances.run_lengths import RunLengths

# One row per object and block. Pixels of the outline by the way it goes on from them (straight, diagonal, both), and
# 4 times the Euler number, of images; faces to voxels of no or another object along z, y and x, of volumes.
SHAPE = np.dtype(
    [
        *HEAD,
        ("mean", "<f8", (3,)),
        ("second", "<f8", (3, 3)),
        ("outline", "<i8", (3,)),
        ("quads", "<i8"),
        ("faces", "<i8", (3,)),
    ]
)
# Length of the outline at a pixel from which it goes straight on, diagonally, and both.
STEPS = np.array([1.0, np.sqrt(2), (1 + np.sqrt(2)) / 2])
# Variances below this part of the total one are 0 but for rounding.
ROUNDING = 1e-12


def halo_of(shape: ZYX) -> ZYX:
    """Voxels around a block that its measures need: whether a neighbour is on the outline depends on its own."""
    return (0, 2, 2) if shape[0] == 1 else (1, 1, 1)


def shape_rows(
    run_lengths: RunLengths, present: np.ndarray, block: int, start: ZYX, around: np.ndarray, halo: ZYX
) -> np.ndarray:
    """Shape of the objects of a block, as far as they lie in it.

    Parameters
    ----------
    run_lengths : RunLengths
        Of the block; its labels are places in `present`, from 1.
    present : ndarray of int64
        Labels of the objects in the block.
    block : int
        Number of the block.
    start : tuple of int
        First voxel of the block.
    around : ndarray, shape (z, y, x)
        Labels of the block and `halo` voxels around it; 0 outside of the image.
    halo : tuple of int
        See `halo_of`.

    Returns
    -------
    ndarray of SHAPE
    """
    count, height = len(present), around.shape[1] - 2 * halo[1]
    rows = np.zeros(count, SHAPE)
    voxels, first, sums, second = _moments(*run_lengths, count, height)
    rows["label"], rows["block"], rows["voxels"] = present, block, voxels
    apart = sums / voxels[:, None]
    rows["mean"] = first + apart + np.array(start)
    rows["second"] = second - sums[:, :, None] * apart[:, None, :]
    if halo[0]:
        rows["faces"] = _faces(*run_lengths, count, height, around)
    else:
        rows["outline"], rows["quads"] = _outlines(*run_lengths, count, around[0])
    return rows


def shape_columns(
    rows: np.ndarray, flat: bool, pixel_size: tuple[float, float, float], box: np.ndarray
) -> dict[str, np.ndarray]:
    """Columns of the table of objects from the rows of all blocks, sorted by label; nan where a value has no meaning.

    Parameters
    ----------
    rows : ndarray of SHAPE
        From `shape_rows`.
    flat : bool
        Whether the sample is an image, not a volume.
    pixel_size : tuple of float
        Micrometres along z, y, x.
    box : ndarray of int64, shape (objects,)
        Voxels of each object's bounding box.

    Notes
    -----
    All lengths are in micrometres. The axes are those of the ellipse or ellipsoid that has the same second moments, a
    voxel being a point at its centre. The perimeter of pixels that are not square has no value.
    """
    rows, begin = in_order(rows)
    size = np.array(pixel_size)
    voxels, _, second = combine(rows["voxels"], rows["mean"], rows["second"], begin)
    covariance = second / np.maximum(voxels, 1)[:, None, None] * (size[:, None] * size)
    counts = {
        name: np.add.reduceat(rows[name], begin) if begin.size else rows[name] for name in ("outline", "quads", "faces")
    }
    if not flat:
        # A face lies across the two other axes.
        faces = counts["faces"] @ (np.prod(size) / size)
        return {
            "equivalent_diameter_um": np.cbrt(6 * voxels * np.prod(size) / np.pi),
            "extent": voxels / box,
            **_axes(covariance, 20.0, ("axis_major_um", "axis_middle_um", "axis_minor_um")),
            "surface_um2": faces,
        }
    covariance = covariance[:, 1:, 1:]
    axes = _axes(covariance, 16.0, ("axis_major_um", "axis_minor_um"))
    major, minor = axes.values()
    thin = np.divide(minor, major, out=np.ones_like(major), where=major > 0)
    square = bool(np.isclose(size[1], size[2], rtol=1e-6))
    return {
        "equivalent_diameter_um": np.sqrt(4 * voxels * size[1] * size[2] / np.pi),
        "extent": voxels / box,
        **axes,
        "eccentricity": np.sqrt(1 - thin**2),
        "orientation": _orientation(covariance),
        "perimeter_um": counts["outline"] @ STEPS * (size[1] if square else np.nan),
        "euler_number": counts["quads"] // 4,
    }


def _axes(covariance: np.ndarray, factor: float, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Lengths of the axes, the longest first; `factor` is the square of an axis over the variance along it."""
    along = np.linalg.eigvalsh(covariance)[:, ::-1]
    along = np.where(along > ROUNDING * along[:, :1], along, 0)
    return dict(zip(names, np.sqrt(factor * along).T, strict=True))


def _orientation(covariance: np.ndarray) -> np.ndarray:
    """Angle between the y axis and the major axis, radians in (-pi/2, pi/2]; nan for objects without a direction."""
    most = covariance[:, 0, 0] + covariance[:, 1, 1]
    difference, both = covariance[:, 0, 0] - covariance[:, 1, 1], 2 * covariance[:, 0, 1]
    difference, both = (np.where(np.abs(value) > ROUNDING * most, value, 0.0) for value in (difference, both))
    return np.where((difference == 0) & (both == 0), np.nan, np.arctan2(both, difference) / 2)


@compiled
def _moments(rows, start, stop, label, count, height):  # type: ignore[no-untyped-def]
    """Size, first voxel, and sums of the positions relative to it and of their products; exact."""
    voxels, first = np.zeros(count, np.int64), np.zeros((count, 3), np.int64)
    sums, second = np.zeros((count, 3), np.int64), np.zeros((count, 3, 3), np.int64)
    for r in range(rows.size - 1):
        for n in range(rows[r], rows[r + 1]):
            k = label[n] - 1
            if voxels[k] == 0:
                first[k, 0], first[k, 1], first[k, 2] = r // height, r % height, start[n]
            z, y = r // height - first[k, 0], r % height - first[k, 1]
            a, b = start[n] - first[k, 2], stop[n] - first[k, 2]
            length = b - a
            # Sums of x and of its squares from a to b - 1.
            total = (a + b - 1) * length // 2
            squares = ((b - 1) * b * (2 * b - 1) - (a - 1) * a * (2 * a - 1)) // 6
            voxels[k] += length
            sums[k, 0] += z * length
            sums[k, 1] += y * length
            sums[k, 2] += total
            second[k, 0, 0] += z * z * length
            second[k, 1, 1] += y * y * length
            second[k, 2, 2] += squares
            second[k, 0, 1] += z * y * length
            second[k, 0, 2] += z * total
            second[k, 1, 2] += y * total
    for i in range(3):
        for j in range(i):
            second[:, i, j] = second[:, j, i]
    return voxels, first, sums, second


@compiled
def _on_outline(labels, y, x, own):  # type: ignore[no-untyped-def]
    """Whether a pixel is of an object and one beside it is not."""
    if labels[y, x] != own:
        return False
    return labels[y - 1, x] != own or labels[y + 1, x] != own or labels[y, x - 1] != own or labels[y, x + 1] != own


@compiled
def _quads(labels, y, x, own):  # type: ignore[no-untyped-def]
    """What the squares of 2 x 2 pixels whose first pixel of an object this is add to 4 times its Euler number.

    One pixel adds 1, two on a diagonal -2, three -1 (Gray 1971): pixels that share a corner are neighbours.
    """
    up, left, right = labels[y - 1, x] == own, labels[y, x - 1] == own, labels[y, x + 1] == own
    below, below_left, below_right = labels[y + 1, x] == own, labels[y + 1, x - 1] == own, labels[y + 1, x + 1] == own
    found = 0
    if not (up or left or labels[y - 1, x - 1] == own):
        found += 1
    if not (up or right or labels[y - 1, x + 1] == own):
        found += 1
    if not left:
        if below_left:
            found += -1 if below else -2
        elif not below:
            found += 1
    if right and below:
        found -= 0 if below_right else 1
    elif below_right:
        found += -1 if right or below else -2
    elif not (right or below):
        found += 1
    return found


@compiled
def _outlines(rows, start, stop, label, count, labels):  # type: ignore[no-untyped-def]
    """Pixels of the outline by the way it goes on from them, and 4 times the Euler number, of each label.

    The ways are those of `skimage.measure.perimeter` with 4 neighbours (Benkrid, Crookes, Benkrid 2000).
    """
    outline, quads = np.zeros((count, 3), np.int64), np.zeros(count, np.int64)
    for r in range(rows.size - 1):
        y = r + 2
        for n in range(rows[r], rows[r + 1]):
            k = label[n] - 1
            own = labels[y, start[n] + 2]
            for x in range(start[n] + 2, stop[n] + 2):
                if not _on_outline(labels, y, x, own):
                    quads[k] -= labels[y + 1, x + 1] != own
                    continue
                quads[k] += _quads(labels, y, x, own)
                beside, across = 0, 0
                for d in (-1, 1):
                    beside += _on_outline(labels, y + d, x, own) + _on_outline(labels, y, x + d, own)
                    across += _on_outline(labels, y + d, x - 1, own) + _on_outline(labels, y + d, x + 1, own)
                if (beside == 2 or beside == 3) and across <= 2:
                    outline[k, 0] += 1
                elif (beside == 0 and across == 2) or (beside == 1 and across == 3):
                    outline[k, 1] += 1
                elif beside == 1 and (across == 1 or across == 2):
                    outline[k, 2] += 1
    return outline, quads


@compiled
def _faces(rows, start, stop, label, count, height, labels):  # type: ignore[no-untyped-def]
    """Faces of each label to voxels that are not its own, along z, y and x."""
    found = np.zeros((count, 3), np.int64)
    for r in range(rows.size - 1):
        z, y = r // height + 1, r % height + 1
        for n in range(rows[r], rows[r + 1]):
            k = label[n] - 1
            a, b = start[n] + 1, stop[n] + 1
            own = labels[z, y, a]
            found[k, 2] += (labels[z, y, a - 1] != own) + (labels[z, y, b] != own)
            for x in range(a, b):
                found[k, 0] += (labels[z - 1, y, x] != own) + (labels[z + 1, y, x] != own)
                found[k, 1] += (labels[z, y - 1, x] != own) + (labels[z, y + 1, x] != own)
    return found
