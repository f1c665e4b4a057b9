from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from unet_core.annotations.layer import Layer, Told, layer_of, object_of
from unet_core.blocks import Box, Grid
from unet_core.groundtruth.canvas import Canvas
from unet_core.groundtruth.check.lint import MAX_FINDINGS, MIN_SLIVER_VOXELS, Finding, findings_of, statistics_of
from unet_core.groundtruth.check.outliers import (
    absent_classes,
    batch_differences,
    by_film,
    duplicate_images,
    no_object,
    outliers,
)
from unet_core.groundtruth.check.tally import Counts, Tally, inner_voxels


def painted(*layers: Any, overlaps: str = "later") -> Canvas:
    """Layers are label arrays, or layers as they are."""
    arrays_ = [layer if isinstance(layer, Layer) else np.atleast_3d(np.asarray(layer, np.uint32)) for layer in layers]
    shape = next((array.shape for array in arrays_ if not isinstance(array, Layer)), (1, 6, 8))
    canvas = Canvas(shape, overlaps)
    for array in arrays_:
        canvas.add(array if isinstance(array, Layer) else layer_of(array), 1)
    return canvas


def counted(labels: np.ndarray, ignore: np.ndarray) -> Counts:
    tally = Tally(labels.shape)  # type: ignore[arg-type]
    for box in Grid(labels.shape, (1, 16, 32)):  # type: ignore[arg-type]
        tally.add(box, labels[box.slices], ignore[box.slices], inner_voxels(labels)[box.slices])
    return tally.counts()


def check(canvas: Canvas, gray: np.ndarray | None = None) -> list[Finding]:
    counts = counted(canvas.instances, canvas.ignore)
    return findings_of(counts, canvas.shape, canvas.instances[canvas.shape[0] // 2], gray, canvas)


def plane(text: str) -> np.ndarray:
    """Labels as drawn, a point for background."""
    return np.array([[[0 if letter == "." else int(letter) for letter in line] for line in text.split()]], np.uint32)


def found(*layers: Any, **options: Any) -> list[tuple[str, list[int] | None, str]]:
    return [(one.kind, one.voxel, one.text) for one in check(painted(*layers, **options))]


def test_nothing_is_found_in_proper_objects() -> None:
    assert found(plane("111..222 111..222 111..222 ........ 333..... 333.....")) == []
    assert found(np.zeros((1, 6, 8))) == []


def test_objects_in_parts_and_of_one_voxel() -> None:
    text = "11...222 11...222 ........ ..3..... ........ 11......"
    assert found(plane(text)) == [
        ("parts", [0, 0, 0], "object 1 is in 2 parts, the first of 4 voxels"),
        ("speck", [0, 3, 2], "object 3 is a single voxel"),
    ]
    # What touches at a corner is one part.
    assert found(plane("11...... 11...... ..11.... ..11.... ........ ........")) == []


def test_holes_of_one_object_that_are_not_ignored() -> None:
    ring = plane("........ .11111.. .1...1.. .1.2.1.. .1...1.. .11111..")
    # Around the nested object the gap belongs to two.
    assert [kind for kind, _, _ in found(ring)] == ["speck", "sliver"]
    ring[ring == 2] = 0
    assert ("hole", [0, 2, 2], "object 1 has a hole of 9 voxels") in found(ring)
    canvas = painted(ring)
    canvas.ignore[0, 2, 3] = 1
    assert "hole" not in [finding.kind for finding in check(canvas)]
    # At the border of the image nothing is enclosed.
    assert "hole" not in [kind for kind, _, _ in found(ring[:, 2:])]


def test_a_hole_in_a_volume_is_closed_on_all_sides() -> None:
    solid = np.ones((3, 5, 5), np.uint32)
    solid[1, 2, 2] = 0
    assert ("hole", [1, 2, 2], "object 1 has a hole of 1 voxels") in found(solid)
    solid[:, 2, 2] = 0
    assert "hole" not in [kind for kind, _, _ in found(solid)]


def test_thin_and_large_objects() -> None:
    assert found(plane("1....... 1....... 1....... 1....... ........ ........")) == []
    kinds = [kind for kind, _, _ in found(plane("11111111 11111111 ........ ........ ........ ........"))]
    # Beyond the image an object may go on.
    assert kinds == []
    text = "........ 11111111 11111111 ........ ........ ........"
    assert found(plane(text)) == [("sliver", [0, 1, 0], "object 1 has 16 voxels and is nowhere thicker than 2")]
    assert found(np.ones((1, 6, 8))) == [("large", [0, 0, 0], "object 1 covers 100 % of the image")]


def test_overlaps_name_the_objects_as_the_annotation_does() -> None:
    first, second = (object_of(np.arange(*ends), name=f"ROI {ends[0]}") for ends in ((0, 8), (6, 20)))
    ((kind, voxel, text),) = [one for one in found(first, second) if one[0] == "overlap"]
    assert (kind, voxel, text) == ("overlap", [0, 0, 6], "ROI 0 and ROI 6 share 2 voxels")
    assert (
        found(first, second)[0][0] == "overlap" and check(painted(first, second, overlaps="error"))[0].level == "error"
    )
    twice = [one for one in found(first, first) if one[0] == "duplicate"]
    assert twice == [("duplicate", [0, 0, 0], "ROI 0 is ROI 0 drawn again (they share 8 voxels, an IoU of 1.00)")]


def test_slight_overlaps_are_one_warning_with_their_number_and_the_largest() -> None:
    canvas = Canvas((1, 6, 8), "error", 0.25)
    for number, ends in enumerate([(0, 8), (7, 19), (16, 32)]):
        canvas.add(object_of(np.arange(*ends), name=f"ROI {number}"), 1)
    (finding,) = [one for one in check(canvas) if one.kind == "overlap"]
    assert finding == Finding(
        "warning",
        "overlap",
        [0, 2, 0],
        "2 pairs of objects overlap slightly, 4 voxels in all, which became those of the smaller object; "
        "the largest: ROI 1 and ROI 2 share 3 voxels, 25 % of the smaller",
    )
    canvas.add(object_of(np.arange(8, 12), name="nested"), 1)
    levels = [(one.level, one.text) for one in check(canvas) if one.kind == "overlap"]
    assert levels[0] == ("error", "ROI 1 and nested share 4 voxels") and levels[1][0] == "warning" and len(levels) == 2


@pytest.mark.parametrize(
    ("policy", "order", "text"),
    [
        ("later", (0, 1), "inner is wholly covered by objects that were drawn later"),
        ("smaller", (2, 3), "outer is wholly covered by smaller objects"),
        ("ignore", (1, 0), "inner lies wholly on other objects, where voxels of several objects are ignored"),
        ("error", (2, 4), "outer is wholly covered by objects that overlap it"),
    ],
)
def test_objects_of_which_others_leave_nothing_are_told(policy: str, order: tuple[int, int], text: str) -> None:
    rows = np.arange(48).reshape(6, 8)
    shapes = [
        [("inner", rows[1:3, 1:3])],
        [("outer", rows[:5, :5])],
        [("outer", rows[:4, :4])],
        [("one", rows[:2, :4]), ("two", rows[2:4, :4])],
        # All share no more than the tolerance with the outer one, and take all of it together.
        [(f"{y} {x}", rows[y : y + 2, x : x + 2]) for y in (0, 2) for x in (0, 2)],
    ]
    canvas = Canvas((1, 6, 8), policy, 1.0)
    for number in order:
        for name, positions in shapes[number]:
            canvas.add(object_of(positions.ravel(), name=name), 1)
    assert [one.text for one in check(canvas) if one.kind == "lost"] == [text]


def test_objects_under_the_ignore_mask_are_counted_and_what_is_lost_is_told_without_any_object() -> None:
    labels = plane("11..22.. 11..22.. ........ 33...... 33...... ........")
    for ignored, texts in (
        (np.s_[:, :2, 4:], ["object 2 lies wholly under the ignore mask"]),
        (np.s_[:, :2], ["2 of 3 objects lie wholly under the ignore mask, object 1 the first of them"]),
        (np.s_[:], ["all 3 objects lie under the ignore mask"]),
        (np.s_[:, 0], []),
    ):
        canvas = painted(labels)
        canvas.ignore[ignored] = 1
        assert [one.text for one in check(canvas) if one.kind == "ignored"] == texts
    empty = Canvas((1, 6, 8), "error")
    empty.told.append(Told("lost", "object 1 covers no centre of a pixel"))
    assert check(empty) == [Finding("warning", "lost", None, "object 1 covers no centre of a pixel")]


def test_a_label_that_looks_like_the_background_is_told() -> None:
    labels = np.ones((1, 20, 30), np.uint32)
    for number, (y, x) in enumerate([(2, 2), (2, 12), (9, 5), (12, 20)], start=2):
        labels[0, y : y + 5, x : x + 6] = number
    texts = [one.text for one in check(painted(labels)) if one.kind == "background"]
    assert texts == [
        "no pixel is 0, and object 1 touches 4 of the 4 others and all sides of the image: "
        "if it is the background, set background: 1 in the source of these label images"
    ]
    for change in (np.s_[:, 5, 5], np.s_[:, 0], np.s_[:, :, -1]):
        # With a pixel of 0, or another object at a side.
        other = labels.copy()
        other[change] = 0 if change == np.s_[:, 5, 5] else 9
        assert "background" not in [one.kind for one in check(painted(other))], change
    # Tissue without gaps: no label touches all others.
    tissue = np.repeat(np.repeat(np.arange(1, 13, dtype=np.uint32).reshape(1, 3, 4), 8, 1), 8, 2)
    assert "background" not in [one.kind for one in check(painted(tissue))]


def test_ignored_pixels_are_no_background() -> None:
    labels, ignore = np.ones((1, 9, 9), np.uint32), np.zeros((1, 9, 9), np.uint8)
    labels[0, 2:5, 2:5], labels[0, 6, 6], ignore[0, 6, 6] = 2, 0, 1
    tally = Tally((1, 9, 9))
    tally.add(Box((0, 0, 0), (1, 9, 9)), labels, ignore, inner_voxels(labels))
    assert tally.background == 0
    findings = findings_of(tally.counts(), (1, 9, 9), labels[0], background=tally.background)
    assert "background" in [one.kind for one in findings]


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint32, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 6)),
    st.integers(0, 2**32 - 1),
)
def test_classes_are_counted_piece_by_piece(labels: np.ndarray, seed: int) -> None:
    classes, ignore = (labels % 3).astype(np.uint8), np.random.default_rng(seed).integers(0, 2, labels.shape)
    tally = Tally(labels.shape)  # type: ignore[arg-type]
    for box in Grid(labels.shape, (1, 4, 5)):  # type: ignore[arg-type]
        inner = inner_voxels(labels)[box.slices]
        tally.add(box, labels[box.slices], ignore[box.slices], inner, classes[box.slices])
    known = (labels > 0) & (ignore == 0)
    assert tally.class_voxels[:3].tolist() == [np.count_nonzero(known & (classes == kind)) for kind in range(3)]
    assert tally.class_objects()[:3].tolist() == [
        np.unique(labels[known & (classes == kind)]).size for kind in range(3)
    ]
    assert tally.background == np.count_nonzero((labels == 0) & (ignore == 0))


@pytest.mark.parametrize(("last", "expected"), [(255, True), (254, False)])
def test_numbers_that_end_with_their_type(last: int, expected: bool) -> None:
    labels = np.zeros((1, 64, 64), np.uint32)
    labels.reshape(-1)[: 4 * last] = np.repeat(np.arange(1, last + 1), 4)
    assert ("overflow" in [kind for kind, _, _ in found(labels)]) == expected


def test_masks_of_classes_are_not_objects() -> None:
    dots = np.zeros((1, 40, 40), np.uint32)
    for y in range(0, 40, 5):
        dots[0, y : y + 3, 5:8] = dots[0, y : y + 3, 15:18] = 1
    assert ("classes", None) in [(kind, voxel) for kind, voxel, _ in found(dots)]


def test_many_findings_are_counted() -> None:
    labels = np.zeros((1, 40, 40), np.uint32)
    labels[0, ::4, ::4] = np.arange(1, 101).reshape(10, 10)
    specks = [text for kind, _, text in found(labels) if kind == "speck"]
    assert len(specks) == MAX_FINDINGS + 1 and specks[-1] == f"{100 - MAX_FINDINGS} more of this kind"


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.uint32, st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4))
)
def test_findings_are_those_of_scipy(labels: np.ndarray) -> None:
    kinds: dict[str, set[str]] = {}
    for finding in check(painted(labels)):
        kinds.setdefault(finding.kind, set()).add(" ".join(finding.text.split()[:2]))
    flat = len(labels) == 1
    known: dict[str, set[str]] = {}
    for number in np.unique(labels[labels > 0]):
        own, name = labels == number, f"object {number}"
        if ndimage.label(own, np.ones((3, 3, 3)))[1] > 1:
            known.setdefault("parts", set()).add(name)
        if own.sum() == 1:
            known.setdefault("speck", set()).add(name)
        cross = np.zeros((3, 3, 3), bool)
        cross[1, 1], cross[1, :, 1] = True, True
        if own.sum() >= MIN_SLIVER_VOXELS and not ndimage.binary_erosion(own, cross, border_value=1).any():
            known.setdefault("sliver", set()).add(name)
        if own.sum() > own.size / 2:
            known.setdefault("large", set()).add(name)
        filled = (
            ndimage.binary_fill_holes(own[0], ndimage.generate_binary_structure(2, 1))[None]
            if flat
            else ndimage.binary_fill_holes(own)
        )
        # Objects in the hole make it a nest, if they touch this one.
        gaps, count = ndimage.label(labels == 0, ndimage.generate_binary_structure(3, 1))
        for gap in range(1, count + 1):
            around = set(labels[ndimage.binary_dilation(gaps == gap, ndimage.generate_binary_structure(3, 1))]) - {0}
            if filled[gaps == gap].all() and around == {number}:
                known.setdefault("hole", set()).add(name)
    for kind in ("parts", "speck", "sliver", "large", "hole"):
        assert kinds.get(kind, set()) == known.get(kind, set()), kind


# ---- axes and scale ----

CHANGES = {
    "mirrored top to bottom": lambda labels: labels[:, ::-1],
    "mirrored left to right": lambda labels: labels[:, :, ::-1],
    "transposed": lambda labels: labels.transpose(0, 2, 1),
    "scaled by 2": lambda labels: np.pad(labels[:, ::2, ::2], ((0, 0), (0, 128), (0, 128))),
    "scaled by 1/2": lambda labels: np.repeat(np.repeat(labels, 2, 1), 2, 2)[:, :256, :256],
}


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """Labels of discs at random places, and a noisy image of them."""
    random = np.random.default_rng(0)
    labels = np.zeros((1, 256, 256), np.uint32)
    y, x = np.mgrid[:256, :256]
    for number, (cy, cx, radius) in enumerate(random.uniform((15, 15, 5), (241, 200, 14), (25, 3)), start=1):
        labels[0, (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = number
    return labels, 50 * (labels[0] > 0) + random.normal(100, 15, (256, 256))


@pytest.mark.parametrize("change", CHANGES)
def test_mirrored_turned_and_scaled_annotations_are_found(scene: tuple[np.ndarray, np.ndarray], change: str) -> None:
    labels, gray = scene
    texts = [finding.text for finding in check(painted(CHANGES[change](labels)), gray) if finding.kind == "misplaced"]
    assert len(texts) == 1 and f"where the annotation is {change} (" in texts[0]


def test_annotations_in_their_place_are_not_told(scene: tuple[np.ndarray, np.ndarray]) -> None:
    labels, gray = scene
    random = np.random.default_rng(1)
    for image in (gray, -gray, random.normal(0, 1, gray.shape), np.zeros_like(gray)):
        assert "misplaced" not in [finding.kind for finding in check(painted(labels), image)]


def test_real_annotations_are_found_mirrored_and_not_as_they_are(real_data: Path) -> None:
    for mask in sorted((real_data / "u373" / "01_GT" / "SEG").glob("*.tif"))[:4]:
        labels = tifffile.imread(mask).astype(np.uint32)[None]
        gray = tifffile.imread(real_data / "u373" / "01" / f"t{mask.stem[-3:]}.tif")
        for array, wanted in ((labels, False), (labels[:, ::-1], True)):
            assert ("misplaced" in [finding.kind for finding in check(painted(array), gray)]) == wanted


# ---- between samples ----


def test_statistics_are_of_what_is_annotated() -> None:
    labels, ignore = plane("11..22.. 11..22.. ........"), np.zeros((1, 3, 8), np.uint8)
    labels[0, 2, 0], ignore[0, :, 6:] = 1, 1
    gray = np.where(labels[0] > 0, 30.0, 10.0)
    values = statistics_of(counted(labels, ignore), 18, labels[0], ignore[0], gray)
    assert values == {"objects": 2, "area": 4.5, "density": 1e6 * 2 / 18, "contrast": pytest.approx(20 / gray.std())}
    none = labels * 0
    assert statistics_of(counted(none, ignore), 18, none[0], ignore[0], gray) == {
        "objects": 0,
        "area": None,
        "density": 0.0,
        "contrast": None,
    }


def statistics(areas: list[float]) -> dict[str, dict[str, Any]]:
    return {f"{n:02}": {"objects": 9, "area": area, "density": 5.0, "contrast": 1.0} for n, area in enumerate(areas)}


def test_empty_samples_and_other_scales() -> None:
    values = statistics([100, 110, 90, 105, 24, 520])
    values["none"] = {"objects": 0, "area": None, "density": 0.0, "contrast": None}
    assert [(name, one.kind) for name, one in outliers(values)] == [("none", "empty"), ("05", "scale")]
    assert outliers({"none": values["none"]}) == []


def test_empty_frames_of_a_film_are_one_finding() -> None:
    empty = {"objects": 0, "area": None}
    values: dict[str, Any] = {f"film_{n:04}": empty if n % 3 else {"objects": 2, "area": 9.0} for n in range(6)}
    values["single"] = empty
    found = by_film(outliers(values), {name: "film.tif" for name in values if name != "single"})
    assert [name for name, _ in found] == ["single", "film_0001"]
    assert found[0][1].text == "is annotated and has no object"
    assert found[1][1] == Finding(
        "warning",
        "empty",
        None,
        "4 of 6 frames of film.tif have no object, and are learnt as background; "
        "if they were not annotated, name those that were in samples of the source",
    )


def test_a_data_set_without_any_object_is_an_error() -> None:
    none = {"objects": 0, "ignored": 5}
    (finding,) = no_object({"a": none, "b": none | {"ignored": 0}})
    assert (finding.level, finding.kind) == ("error", "nothing")
    assert finding.text.startswith("no object in any of the 2 annotated images; 1 have ignored pixels; usual causes: ")
    assert all(word in finding.text for word in ("iscrowd", "mapped to ignore", "ignore_label", "coordinates"))
    assert no_object({"a": none, "b": {"objects": 1, "ignored": 0}}) == [] == no_object({})


def test_classes_that_the_training_samples_lack_are_told() -> None:
    counted = {
        "a": {"class_voxels": {"cell": 5, "dead": 0, "other": 0}},
        "b": {"class_voxels": {"cell": 5, "dead": 7, "other": 0}},
    }
    splits = {"a": "train", "b": "test"}
    texts = [finding.text for finding in absent_classes(counted, splits, ["cell", "dead", "other"])]
    assert texts == [
        "class dead has no pixel in the 1 images for training; 1 others have some (as b, test): it is not learnt",
        "class other has no pixel in the 1 images for training: it is not learnt",
    ]
    assert absent_classes(counted, {"a": "test", "b": "test"}, ["dead"]) == []
    # What an earlier release made was not counted by class.
    assert absent_classes(counted | {"c": {}}, splits | {"c": "train"}, ["dead"]) == []


def test_the_same_image_under_two_names() -> None:
    splits = {"a": "train", "b": "test", "c": "train"}
    assert duplicate_images({"a": "x", "b": "x", "c": "y"}, splits) == [
        ("b", Finding("warning", "twin", None, "is the same image as a, but a is in train and b in test"))
    ]


def test_a_batch_that_differs_is_told_once() -> None:
    random = np.random.default_rng(0)
    values = statistics([*random.normal(100, 10, 20), *random.normal(200, 20, 10)])
    batches = {name: "1" if number < 20 else "2" for number, name in enumerate(values)}
    (finding,) = batch_differences(values, batches)
    assert finding.kind == "drift" and finding.text.startswith("batch 2: median size of objects")
    assert batch_differences(statistics([*random.normal(100, 10, 30)]), batches) == []
    # Few samples say nothing.
    assert batch_differences(dict([*values.items()][17:24]), batches) == []
