from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from unet_core.annotations.layer import layer_of, object_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Dataset
from unet_core.groundtruth.canvas import Canvas, paint
from unet_core.groundtruth.samples import find_samples

SHAPE: ZYX = (1, 6, 8)


def drawn(folder: Path, *shapes: tuple[str, int, int, int, int], name: str = "a") -> str:
    """LabelMe file of boxes: label, first row and column, and those after the last."""
    listed = [
        {"label": label, "points": [[left, top], [right, bottom]], "shape_type": "rectangle"}
        for label, top, left, bottom, right in shapes
    ]
    (folder / f"{name}.json").write_text(json.dumps({"shapes": listed}), encoding="utf-8")
    return f"{folder}/{{stem}}.json"


def painted(folder: Path, *sources: dict[str, Any], shape: ZYX = SHAPE, **options: Any) -> Canvas:
    """The sample `a`, all sources painted."""
    tifffile.imwrite(folder / "a.tif", np.zeros(shape if shape[0] > 1 else shape[1:], np.uint8))
    raw = {
        "images": f"{folder}/a.tif",
        "axes": "yx" if shape[0] == 1 else "zyx",
        "annotations": list(sources),
        "unmatched": "allow",
    }
    cfg = Dataset.model_validate({"split": {"test": 0, "validation": 0}} | raw | options)
    (sample,), problems = find_samples(cfg)
    assert problems == []
    canvas = paint(sample, cfg, "error", shape)
    assert canvas.conflict() is None
    canvas.instances, canvas.classes, canvas.ignore = canvas.stored()
    return canvas


def test_classes_are_mapped_by_name(tmp_path: Path) -> None:
    path = drawn(
        tmp_path, ("Tumor", 0, 0, 2, 2), ("dead", 0, 3, 2, 5), ("Debris", 3, 0, 5, 2), ("Artefact", 3, 3, 5, 5)
    )
    source = {
        "format": "labelme",
        "path": path,
        "classes": {"Tumor": "cell", "Debris": "ignore", "Artefact": "background"},
    }
    canvas = painted(tmp_path, source, classes=["dead", "cell"])
    assert canvas.classes[0, 1].tolist() == [2, 2, 0, 1, 1, 0, 0, 0]
    assert canvas.ignore[0].sum() == 4 and canvas.ignore[0, 3:5, :2].all() and not canvas.instances[0, 3:].any()


def test_outside_of_annotated_regions_nothing_counts(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    objects = {"format": "labelme", "path": drawn(tmp_path, ("cell", 0, 0, 3, 3))}
    region = {
        "format": "labelme",
        "path": drawn(tmp_path / "r", ("Region", 0, 0, 6, 2), ("Region", 1, 1, 2, 5)),
        "region": True,
    }
    canvas = painted(tmp_path, objects, region)
    inside = np.zeros((6, 8), bool)
    inside[:, :2], inside[1, :5] = True, True
    np.testing.assert_array_equal(canvas.ignore[0] == 0, inside)
    cell = np.zeros((6, 8), bool)
    cell[:3, :3] = True
    np.testing.assert_array_equal(canvas.instances[0] > 0, cell & inside)


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.uint32, st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)),
    st.sampled_from([1, 2, 2.5, 3]),
)
def test_a_band_around_outlines_is_ignored(labels: np.ndarray, width: float) -> None:
    canvas = Canvas(labels.shape, "later")
    canvas.add(layer_of(labels), 1)
    canvas.ignore_outlines(0, width)
    known = np.zeros(labels.shape, bool)
    for z, y, x in np.ndindex(labels.shape):
        # Pixels next to the outline are at distance 1 from it, on either side.
        for v, u in np.ndindex(labels.shape[1:]):
            ends = [(v + dv, u + du) for dv, du in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            on = any(
                0 <= b < labels.shape[1] and 0 <= a < labels.shape[2] and labels[z, b, a] != labels[z, v, u]
                for b, a in ends
            )
            known[z, y, x] |= on and np.hypot(v - y, u - x) <= width - 1
    np.testing.assert_array_equal(canvas.ignore > 0, known)


def test_the_band_is_around_the_objects_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    sure = {"format": "labelme", "path": drawn(tmp_path, ("cell", 0, 0, 6, 2))}
    canvas = painted(
        tmp_path, sure, {"format": "labelme", "path": drawn(tmp_path / "b", ("cell", 0, 5, 6, 8)), "border": 1}
    )
    assert canvas.ignore[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("slices", "annotated"), [(None, [0, 1, 2, 3]), ("painted", [1]), ([0, 1], [0, 1])])
def test_slices_that_are_not_annotated_are_ignored(tmp_path: Path, slices: Any, annotated: list[int]) -> None:
    labels = np.zeros((4, 3, 3), np.uint8)
    labels[1, 1] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    canvas = painted(
        tmp_path, {"format": "labels", "path": f"{tmp_path}/labels.tif", "slices": slices}, shape=(4, 3, 3)
    )
    assert [plane for plane in range(4) if not canvas.ignore[plane].any()] == annotated
    assert canvas.ignore.sum() == 9 * (4 - len(annotated))


def test_slices_beyond_the_image_are_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros((4, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"slices names plane 4, but the image has 4 \(they count from 0\)"):
        painted(tmp_path, {"format": "labels", "path": f"{tmp_path}/labels.tif", "slices": [4]}, shape=(4, 3, 3))


def test_of_several_sources_the_first_may_count_alone(tmp_path: Path) -> None:
    for name in ("gold", "silver"):
        (tmp_path / name).mkdir()
    gold = {"format": "labelme", "path": drawn(tmp_path / "gold", ("cell", 0, 0, 2, 2))}
    silver = {"format": "labelme", "path": drawn(tmp_path / "silver", ("cell", 0, 0, 6, 8))}
    assert painted(tmp_path, gold, silver, sources="first").instances.sum() == 4
    (tmp_path / "gold" / "a.json").unlink()
    assert painted(tmp_path, gold, silver, sources="first").instances.sum() == 48


def test_a_source_may_annotate_some_samples(tmp_path: Path) -> None:
    path = drawn(tmp_path, ("cell", 0, 0, 2, 2))
    other = {"format": "labelme", "path": path, "samples": ["b*"]}
    assert painted(tmp_path, {"format": "labelme", "path": path, "samples": ["*a"]}, other).instances.sum() == 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ignore": True, "region": True}, "of ignore, region, class and classes a source may have one"),
        ({"class": "cell", "classes": {"a": "cell"}}, "of ignore, region, class and classes a source may have one"),
        ({"classes": {"a": "dead"}}, "annotation class 'dead' is not among classes: cell, ignore, background"),
        ({"slices": [-1]}, "greater than or equal to 0"),
        ({"border": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Dataset.model_validate({"images": "a", "annotations": [{"format": "labels", "path": "b"} | options]})


# ---- overlaps ----


def test_pairs_of_overlapping_objects_are_kept_with_their_names() -> None:
    canvas = Canvas((1, 1, 10), "later")
    for number, ends in enumerate([(0, 4), (2, 6), (3, 8)]):
        canvas.add(object_of(np.arange(*ends), name=f"ROI {number}"), 1)
    pairs = [
        (canvas.called(pair.earlier), canvas.called(pair.later), pair.voxels, pair.position, pair.iou)
        for pair in canvas.overlaps
    ]
    # What is painted over is no longer there to be overlapped.
    assert pairs == [("ROI 0", "ROI 1", 2, 2, 2 / 6), ("ROI 1", "ROI 2", 3, 3, 3 / 6)]
    assert canvas.overlapping == 5
    assert canvas.conflict() is None


def test_many_overlaps_are_counted_in_the_error() -> None:
    canvas = Canvas((1, 1, 10), "error")
    for _ in range(6):
        canvas.add(object_of(np.arange(3)), 1)
    conflict = canvas.conflict()
    assert conflict and re.match(
        r"15 voxels .* \(object 1 and object 2; .*; object 3 and object 4; 2 more pairs\)", conflict
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 6)), min_size=1, max_size=6),
    st.sampled_from(["error", "later", "smaller", "ignore"]),
)
def test_policies_are_those_of_one_voxel_at_a_time(spans: list[tuple[int, int]], policy: str) -> None:
    canvas = Canvas((1, 1, 20), policy)
    known = np.zeros(20, int)
    ignored = np.zeros(20, bool)
    for number, (start, length) in enumerate(spans, start=1):
        canvas.add(object_of(np.arange(start, start + length)), 1)
        for x in range(start, start + length):
            if known[x] and policy == "ignore":
                ignored[x] = True
            elif not known[x] or policy in ("later", "error") or length < spans[known[x] - 1][1]:
                known[x] = number
    np.testing.assert_array_equal(canvas.instances[0, 0], known)
    np.testing.assert_array_equal(canvas.ignore[0, 0] > 0, ignored)
