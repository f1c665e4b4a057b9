"""What looks wrong in the annotation of one sample: from labels and gray values to findings, without files."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cc3d
import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude

from unet_core.blocks import ZYX
from unet_core.groundtruth.canvas import DUPLICATE_IOU, Canvas
from unet_core.groundtruth.check.tally import Counts, inner_voxels

# More findings of one kind in one sample are counted and not listed.
MAX_FINDINGS = 20
# Voxels from which an object that is nowhere thicker than two is a sliver.
MIN_SLIVER_VOXELS = 8
# Share of the image from which an object is suspiciously large.
LARGE_FRACTION = 0.5
# Share of the other objects that a background with a number of its own touches at least.
BACKGROUND_TOUCHES = 0.9
# Longest side, in pixels, of the image in which outlines are compared with edges.
EDGE_IMAGE_SIDE = 512


class Finding(NamedTuple):
    """Something that looks wrong in one sample.

    Attributes
    ----------
    level : str
        error, which stops, or warning.
    kind : str
        One word, the same in all samples.
    voxel : list of int or None
        Where, z y x; None for the sample as a whole.
    text : str
        What.
    """

    level: str
    kind: str
    voxel: list[int] | None
    text: str


def findings_of(
    counts: Counts,
    shape: ZYX,
    labels: np.ndarray,
    gray: np.ndarray | None = None,
    canvas: Canvas | None = None,
    background: int | None = None,
) -> list[Finding]:
    """All that looks wrong in a painted sample.

    Parameters
    ----------
    counts : Counts
        Of the objects, before those under the ignore mask are taken away.
    shape : tuple of int
        Of the sample along z, y, x.
    labels, gray : ndarray, shape (y, x)
        Objects and gray values of the middle plane, or of a part of it.
    canvas : Canvas, optional
        The sample as a whole. Without it overlaps, parts and holes, which need objects as a whole, are not looked for.
    background : int, optional
        Voxels of no object that are not ignored; default: those of no object.

    Returns
    -------
    list of Finding
        At most `MAX_FINDINGS` of each kind, and one that counts the others.
    """
    each = _Each(counts.number, counts.first, shape, canvas.called if canvas else "object {}".format)
    found = [] if canvas is None else [Finding("warning", told.kind, None, told.text) for told in canvas.told]
    if canvas is not None:
        found += [*_overlaps(canvas), *_covered(canvas, counts.number)]
    # What has no object may have lost them all.
    if not counts.number.size:
        return _shortened(found)
    found += _ignored(each, counts.kept)
    several = np.zeros(counts.number.size, bool)
    if canvas is not None:
        pieces, sizes = _parts(canvas)
        several = pieces > 1
        found += _in_parts(each, pieces, sizes)
    found += [*_by_size(each, counts.voxels, counts.inner), *_overflow(each, bool(several[-1]))]
    if canvas is not None:
        found += _holes(canvas)
    if (math.prod(shape) - int(counts.voxels.sum()) if background is None else background) == 0:
        found += _background(labels, each.called)
    if gray is not None:
        found += _misplaced(labels, gray)
    return _shortened(found)


def statistics_of(
    counts: Counts, annotated: int, labels: np.ndarray, ignore: np.ndarray, gray: np.ndarray | None = None
) -> dict[str, Any]:
    """What is compared between samples.

    Parameters
    ----------
    counts : Counts
        Of the objects.
    annotated : int
        Voxels that are not ignored.
    labels, ignore, gray : ndarray, shape (y, x)
        Objects, ignore mask and gray values of the middle plane, or of a part of it.

    Returns
    -------
    dict
        ``objects`` (count), ``area`` (median number of voxels), ``density`` (objects per million annotated voxels) and
        ``contrast`` (mean gray value of objects less that of the background, in standard deviations); None where there
        is none.
    """
    areas = counts.kept[counts.kept > 0]
    known, inside, contrast = ignore == 0, labels > 0, None
    if gray is not None and (known & inside).any() and (known & ~inside).any() and gray.std() > 0:
        contrast = float((gray[known & inside].mean() - gray[known & ~inside].mean()) / gray.std())
    return {
        "objects": int(areas.size),
        "area": float(np.median(areas)) if areas.size else None,
        "density": 1e6 * areas.size / annotated if annotated else None,
        "contrast": contrast,
    }


def _overlaps(canvas: Canvas) -> list[Finding]:
    """Pairs of objects that overlap; where these are errors, those that pass are told by one warning."""
    errors = canvas.policy == "error"
    found = []
    for pair in canvas.overlaps:
        if errors and pair.slight:
            continue
        earlier, later = canvas.called(pair.earlier), canvas.called(pair.later)
        kind, text = "overlap", f"{earlier} and {later} share {pair.voxels} voxels"
        if pair.iou >= DUPLICATE_IOU:
            kind, text = (
                "duplicate",
                f"{later} is {earlier} drawn again (they share {pair.voxels} voxels, an IoU of {pair.iou:.2f})",
            )
        found.append(Finding("error" if errors else "warning", kind, _at(pair.position, canvas.shape), text))
    slight = [pair for pair in canvas.overlaps if errors and pair.slight]
    if slight:
        most = max(slight, key=lambda pair: pair.voxels)
        text = (
            f"{len(slight)} pairs of objects overlap slightly, {sum(pair.voxels for pair in slight)} voxels in all, "
            f"which became those of the smaller object; the largest: {canvas.called(most.earlier)} and "
            f"{canvas.called(most.later)} share {most.voxels} voxels, {100 * most.share:.0f} % of the smaller"
        )
        found.append(Finding("warning", "overlap", _at(most.position, canvas.shape), text))
    return found


def _covered(canvas: Canvas, present: np.ndarray) -> list[Finding]:
    """Objects that were drawn, and of which nothing is left under others; none where overlaps stop the conversion."""
    if not canvas.overlaps or canvas.conflict() is not None:
        return []
    how = {
        "later": "is wholly covered by objects that were drawn later",
        "smaller": "is wholly covered by smaller objects",
        "error": "is wholly covered by objects that overlap it",
        "ignore": "lies wholly on other objects, where voxels of several objects are ignored",
    }[canvas.policy]
    return [
        Finding("warning", "lost", _at(canvas.drawn[number], canvas.shape), f"{canvas.called(number)} {how}")
        for number in sorted(set(canvas.drawn) - set(present.tolist()))
    ]


def _ignored(each: _Each, kept: np.ndarray) -> list[Finding]:
    """Objects that lie wholly under the ignore mask, counted: that may be meant for some, and seldom for all."""
    gone = np.flatnonzero(kept == 0)
    if not gone.size:
        return []
    at, name = _at(int(each.where[gone[0]]), each.shape), each.called(int(each.numbers[gone[0]]))
    if gone.size == 1:
        text = f"{name} lies wholly under the ignore mask"
    elif gone.size < kept.size:
        text = f"{gone.size} of {kept.size} objects lie wholly under the ignore mask, {name} the first of them"
    else:
        text = f"all {kept.size} objects lie under the ignore mask"
    return [Finding("warning", "ignored", at, text)]


def _background(labels: np.ndarray, called: Callable[[int], str]) -> list[Finding]:
    """An object that looks like the background of a plane without one: it touches the others and all sides."""
    sides = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    candidates = set.intersection(*(set(np.unique(side).tolist()) for side in sides)) - {0}
    others = np.count_nonzero(np.unique(labels)) - 1
    found = []
    for number in candidates if others else ():
        own = labels == number
        touching = [
            np.unique(labels[there][own[here] & ~own[there]])
            for before, after in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]))
            for here, there in ((before, after), (after, before))
        ]
        beside = int(np.count_nonzero(np.unique(np.concatenate(touching))))
        if beside >= BACKGROUND_TOUCHES * others:
            found.append((int(np.count_nonzero(own)), number, beside))
    if not found:
        return []
    _, number, beside = max(found)
    text = (
        f"no pixel is 0, and {called(number)} touches {beside} of the {others} others and all sides of the image: "
        f"if it is the background, set background: {number} in the source of these label images"
    )
    return [Finding("warning", "background", None, text)]


def _parts(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Of each object, in the order of their numbers, how many parts it has, and the voxels of the first of them."""
    parts = np.asarray(cc3d.connected_components(canvas.instances, connectivity=26), np.uint32).ravel()
    sizes = np.bincount(parts)[1:]
    owner = np.zeros(sizes.size + 1, np.uint32)
    owner[parts] = canvas.instances.ravel()
    _, first, pieces = np.unique(owner[1:], return_index=True, return_counts=True)
    return pieces, sizes[first]


def _in_parts(each: _Each, pieces: np.ndarray, sizes: np.ndarray) -> list[Finding]:
    """Objects in several parts, of so many pieces, the first of some size; and masks of classes."""
    several = pieces > 1
    found = each.of(several, "parts", lambda i: f"is in {pieces[i]} parts, the first of {sizes[i]} voxels")
    if several.all() and len(pieces) < 5 and pieces.max() > 5:
        text = "few numbers in many parts; if these are classes and not objects, use format binary or colours"
        found.append(Finding("warning", "classes", None, text))
    return found


class _Each(NamedTuple):
    """Objects with their numbers and what they are called.

    `where` holds the flat position of the first voxel of each, in a sample of the shape `shape`.
    """

    numbers: np.ndarray
    where: np.ndarray
    shape: ZYX
    called: Callable[[int], str]

    def of(self, chosen: np.ndarray, kind: str, text: Callable[[int], str]) -> list[Finding]:
        """A finding for each of the chosen objects."""
        found = [
            (i, _at(int(self.where[i]), self.shape), self.called(int(self.numbers[i])))
            for i in np.flatnonzero(chosen).tolist()
        ]
        return [Finding("warning", kind, voxel, f"{name} {text(i)}") for i, voxel, name in found]


def _by_size(each: _Each, areas: np.ndarray, inners: np.ndarray) -> list[Finding]:
    """Objects of one voxel, thin or large."""
    voxels = math.prod(each.shape)
    found = each.of(areas == 1, "speck", lambda i: "is a single voxel")
    found += each.of(
        (areas >= MIN_SLIVER_VOXELS) & (inners == 0),
        "sliver",
        lambda i: f"has {areas[i]} voxels and is nowhere thicker than 2",
    )
    return found + each.of(
        areas > LARGE_FRACTION * voxels, "large", lambda i: f"covers {100 * int(areas[i]) // voxels} % of the image"
    )


def _overflow(each: _Each, in_parts: bool) -> list[Finding]:
    """Numbers that end where their type does, where all are used or the last object is in several parts."""
    last = int(each.numbers[-1])
    if last not in (2**8 - 1, 2**16 - 1) or not (in_parts or len(each.numbers) == last):
        return []
    text = f"numbers of objects end at {last}, the largest that the file can hold; there may have been more"
    return [Finding("warning", "overflow", _at(int(each.where[-1]), each.shape), text)]


def _holes(canvas: Canvas) -> list[Finding]:
    """Background that is enclosed by one object."""
    labels, shape = canvas.instances, canvas.shape
    flat = shape[0] == 1
    empty = labels[0] == 0 if flat else labels == 0
    gaps = np.asarray(cc3d.connected_components(empty, connectivity=4 if flat else 6), np.uint32).reshape(shape)
    count = int(gaps.max())
    enclosed = np.ones(count + 1, bool)
    for axis in range(1 if flat else 0, 3):
        for face in (0, -1):
            enclosed[np.take(gaps, face, axis)] = False
    enclosed[np.unique(gaps[canvas.ignore > 0])] = False
    enclosed[0] = False
    if not enclosed.any():
        return []
    around = []
    for axis in range(3):
        gap_along, label_along = np.moveaxis(gaps, axis, 0), np.moveaxis(labels, axis, 0)
        for gap, label in ((gap_along[:-1], label_along[1:]), (gap_along[1:], label_along[:-1])):
            touching = enclosed[gap] & (label > 0)
            around.append(np.stack([gap[touching], label[touching]]))
    pairs = np.unique(np.concatenate(around, axis=1), axis=1)
    single, counts = np.unique(pairs[0], return_counts=True)
    position = np.flatnonzero(np.isin(gaps, single[counts == 1]))
    gap, first, sizes = np.unique(gaps.ravel()[position], return_index=True, return_counts=True)
    owner = pairs[1][np.searchsorted(pairs[0], gap)]
    return [
        Finding(
            "warning", "hole", _at(int(position[at]), shape), f"{canvas.called(int(label))} has a hole of {size} voxels"
        )
        for label, at, size in zip(owner, first, sizes, strict=True)
    ]


def _misplaced(labels: np.ndarray, gray: np.ndarray) -> list[Finding]:
    """Whether the outlines would lie on edges of the image if the annotation were mirrored, turned or scaled."""
    step = max(1, -(-max(labels.shape) // EDGE_IMAGE_SIDE))
    height, width = (length // step for length in labels.shape)
    blocks = gray[: height * step, : width * step].reshape(height, step, width, step)
    edges = gaussian_gradient_magnitude(blocks.mean(axis=(1, 3), dtype=np.float32), 1)
    labels = labels[step // 2 :: step, step // 2 :: step][:height, :width]
    ranks = _ranks(edges)
    own, pixels = _on_edges(labels, ranks)
    if pixels < 50:
        return []
    best, how = max((_on_edges(changed, ranks)[0], name) for name, changed in _changed(labels))
    # The mean of so many ranks, were they drawn at random, has this deviation; outlines are correlated along their
    # length.
    chance = math.sqrt(1 / 12 / pixels) * 4
    if best > 0.65 and best - own > max(0.1, 5 * chance):
        text = (
            f"outlines lie on edges of the image where the annotation is {how} "
            f"({best:.2f}, as it is {own:.2f}; 0.5 is chance)"
        )
        return [Finding("warning", "misplaced", None, text)]
    return []


def _ranks(values: np.ndarray) -> np.ndarray:
    """Share of values that are smaller than each value; values are >= 0 and count in steps of a hundredth.

    Ranks keep a few bright spots from deciding.
    """
    # `scipy.stats.rankdata` of these steps gives the same in 13 times the time, which would be half of a small image's.
    # The upper half of a positive float is in the order of its value, with 7 binary digits.
    steps = np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16
    counts = np.bincount(steps.ravel())
    return ((np.cumsum(counts) - counts / 2) / steps.size)[steps]


def _changed(labels: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The annotation as it would be if axes or scale had been mistaken, in the shape of the image."""
    height, width = labels.shape
    changed = [
        ("mirrored top to bottom", labels[::-1]),
        ("mirrored left to right", labels[:, ::-1]),
        ("turned by 180 degrees", labels[::-1, ::-1]),
    ]
    if height == width:
        turned = [
            ("transposed", labels.T),
            ("turned by 90 degrees", np.rot90(labels, -1)),
            ("turned by -90 degrees", np.rot90(labels)),
        ]
        changed += [*turned, ("transposed and turned by 180 degrees", labels[::-1, ::-1].T)]
    for factor in (2, 4):
        small = np.repeat(np.repeat(labels[: -(-height // factor), : -(-width // factor)], factor, 0), factor, 1)
        changed.append((f"scaled by {factor}", small[:height, :width]))
        # What does not fill the image says nothing of its background.
        reduced = np.zeros_like(labels)
        part = labels[::factor, ::factor]
        reduced[: part.shape[0], : part.shape[1]] = part
        changed.append((f"scaled by 1/{factor}", reduced))
    return changed


def _on_edges(labels: np.ndarray, ranks: np.ndarray) -> tuple[float, int]:
    """Mean rank of the gradient on outlines, 0.5 by chance, and the number of pixels on outlines."""
    outline = (labels > 0) & ~inner_voxels(labels[None])[0]
    pixels = int(np.count_nonzero(outline))
    return (float(ranks[outline].mean()), pixels) if pixels else (0.0, 0)


def _at(position: int, shape: tuple[int, ...]) -> list[int]:
    return [int(index) for index in np.unravel_index(position, shape)]


def _shortened(findings: list[Finding]) -> list[Finding]:
    shown: list[Finding] = []
    for kind in dict.fromkeys(finding.kind for finding in findings):
        same = [finding for finding in findings if finding.kind == kind]
        shown += same[:MAX_FINDINGS]
        if len(same) > MAX_FINDINGS:
            shown.append(Finding(same[0].level, kind, None, f"{len(same) - MAX_FINDINGS} more of this kind"))
    return shown
