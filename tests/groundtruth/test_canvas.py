from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from roifile import ImagejRoi

from unet_core.annotations.layer import Told, layer_of, object_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Annotation, Dataset
from unet_core.groundtruth.canvas import Canvas, paint, paint_layers
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


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("margin", [0, 1, 4, 5, 6, 50])
def test_a_margin_without_objects_is_ignored(tmp_path: Path, margin: int, depth: int) -> None:
    labels = np.zeros((depth, 10, 14), np.uint8)
    labels[:, 2:6, 3:5] = 1  # reaches into a margin of 3 and more
    labels[0, 0, 0] = 2
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    (tmp_path / "other").mkdir()
    labels[...] = 0
    labels[-1, 9, 13] = 1
    tifffile.imwrite(tmp_path / "other" / "labels.tif", labels, photometric="minisblack")
    sources = [{"format": "labels", "path": f"{tmp_path}/{name}labels.tif"} for name in ("", "other/")]
    canvas = painted(tmp_path, sources[0] | {"margin": margin}, sources[1], shape=labels.shape)
    objects = canvas.instances > 0
    assert objects.sum() == depth * 8 + 2  # of both sources, whole
    inside = np.zeros(labels.shape, bool)
    inside[:, margin : max(10 - margin, 0), margin : max(14 - margin, 0)] = True  # planes have no margin
    np.testing.assert_array_equal(canvas.ignore > 0, ~inside & ~objects)


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
    assert conflict and re.match(r"15 voxels .* \(pairs: 5, the first object 1 and object 2; .* 100 % of", conflict)


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


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 8)), min_size=2, max_size=2),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_of_slight_overlaps_the_smaller_object_gets_the_voxels(spans: list[tuple[int, int]], tolerance: float) -> None:
    canvas = Canvas((1, 1, 20), "error", tolerance)
    for start, length in spans:
        canvas.add(object_of(np.arange(start, start + length)), 1)
    one, other = (set(range(start, start + length)) for start, length in spans)
    shared, smaller = one & other, min(len(one), len(other))
    slight = len(shared) <= tolerance * smaller and len(shared) < 0.8 * len(one | other)
    assert (canvas.conflict() is None) == (slight or not shared)
    first_keeps = slight and len(one) <= len(other)
    known = [1 if x in one and (first_keeps or x not in other) else 2 if x in other else 0 for x in range(20)]
    assert canvas.instances[0, 0].tolist() == known


def test_slight_and_real_overlaps_are_told_apart_in_the_error() -> None:
    canvas = Canvas((1, 1, 40), "error", 0.25)
    for number, ends in enumerate([(0, 8), (7, 16), (10, 14)]):
        canvas.add(object_of(np.arange(*ends), name=f"ROI {number}"), 1)
    assert canvas.conflict() == (
        "4 voxels belong to several objects (pairs: 1, the first ROI 1 and ROI 2; they share up to 100 % of the "
        "smaller object); mend the annotation, raise groundtruth.overlap_tolerance, or set groundtruth.overlaps to "
        "later, smaller or ignore"
    )
    assert [pair.slight for pair in canvas.overlaps] == [True, False]


def test_the_same_object_twice_is_an_error_whatever_the_tolerance() -> None:
    canvas = Canvas((1, 1, 10), "error", 1.0)
    for _ in range(2):
        canvas.add(object_of(np.arange(5)), 1)
    assert canvas.conflict()


# ---- objects that are lost ----

# A square of 3 pixels, and a triangle that covers no centre of a pixel.
SQUARE, TINY = [(0.0, 0.0), (3.0, 0.0), (3.0, 3.0), (0.0, 3.0)], [(4.6, 4.6), (5.4, 4.6), (5.0, 4.9)]


def geojson(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    made = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*shape, shape[0]]]}} for shape in shapes
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": made}), encoding="utf-8")
    return f"{folder}/{{stem}}.geojson"


def coco(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    objects = [
        {"id": n, "image_id": 0, "segmentation": [[value for point in shape for value in point]]}
        for n, shape in enumerate(shapes)
    ]
    document = {"images": [{"id": 0, "file_name": "a.tif"}], "annotations": objects}
    (folder / "a.coco.json").write_text(json.dumps(document), encoding="utf-8")
    return f"{folder}/a.coco.json"


def labelme(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    made = [{"label": "cell", "points": shape, "shape_type": "polygon"} for shape in shapes]
    (folder / "a.json").write_text(json.dumps({"shapes": made}), encoding="utf-8")
    return f"{folder}/{{stem}}.json"


def cvat(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    points = [";".join(f"{x},{y}" for x, y in shape) for shape in shapes]
    polygons = "".join(f'<polygon label="cell" points="{text}"/>' for text in points)
    text = f'<annotations><image id="0" name="a.tif" width="8" height="6">{polygons}</image></annotations>'
    (folder / "a.xml").write_text(text, encoding="utf-8")
    return f"{folder}/a.xml"


def aperio(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    regions = "".join(
        f'<Region Id="{number}" Type="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in shape)
        + "</Vertices></Region>"
        for number, shape in enumerate(shapes, start=1)
    )
    text = f'<Annotations><Annotation Name="Layer 1"><Regions>{regions}</Regions></Annotation></Annotations>'
    (folder / "a.aperio.xml").write_text(text, encoding="utf-8")
    return f"{folder}/{{stem}}.aperio.xml"


def napari(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    rows = ["index,shape-type,vertex-index,axis-0,axis-1"]
    # The middle of a pixel is a whole number in napari.
    rows += [f"{n},polygon,{i},{y - 0.5},{x - 0.5}" for n, shape in enumerate(shapes) for i, (x, y) in enumerate(shape)]
    (folder / "a.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"{folder}/{{stem}}.csv"


def imagej(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, shape in enumerate(shapes):
            archive.writestr(f"{number}.roi", ImagejRoi.frompoints(np.array(shape, np.float32)).tobytes())
    return f"{folder}/{{stem}}.zip"


def masks(folder: Path, shapes: list[list[tuple[float, float]]]) -> str:
    (folder / "a").mkdir()
    for number, shape in enumerate(shapes):
        mask = np.zeros(SHAPE[1:], np.uint8)
        mask[:3, :3] = 255 * (shape is SQUARE)
        tifffile.imwrite(folder / "a" / f"{number}.tif", mask)
    return f"{folder}/{{stem}}/*.tif"


WRITERS = [geojson, coco, labelme, cvat, aperio, napari, imagej, masks]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_an_object_without_a_pixel_is_told_in_every_format(tmp_path: Path, write: Callable[..., str]) -> None:
    path = write(tmp_path, [SQUARE, TINY])
    canvas = painted(tmp_path, {"format": write.__name__, "path": path, "class": "cell"})
    assert np.count_nonzero(canvas.instances) == 9
    (told,) = canvas.told
    assert told.kind == "lost" and told.text.endswith("is empty" if write is masks else "covers no centre of a pixel")
    # The name is not that of the object with pixels.
    assert not told.text.startswith(f"{canvas.called(1)} ")


def test_where_several_files_annotate_a_sample_the_lost_object_is_named_with_its_file(tmp_path: Path) -> None:
    sources = [
        {"format": "geojson", "path": geojson(tmp_path, [SQUARE, TINY])},
        {"format": "labelme", "path": drawn(tmp_path, ("cell", 4, 4, 6, 6))},
    ]
    assert [told.text for told in painted(tmp_path, *sources).told] == [
        "object 2 of a.geojson covers no centre of a pixel"
    ]


def test_what_is_left_out_on_purpose_is_not_lost(tmp_path: Path) -> None:
    path = labelme(tmp_path, [SQUARE, TINY])
    source = {"format": "labelme", "path": path, "classes": {"cell": "background"}}
    assert painted(tmp_path, source).told == []


@pytest.mark.parametrize(
    "write", [one for one in WRITERS if one not in (masks, imagej)], ids=lambda write: write.__name__
)
def test_coordinates_that_are_shares_of_the_image_are_told(tmp_path: Path, write: Callable[..., str]) -> None:
    shares = [[(x / 8, y / 6) for x, y in shape] for shape in (TINY, [(6.0, 4.0), (8.0, 4.0), (7.0, 6.0)])]
    path = write(tmp_path, shares)
    canvas = painted(tmp_path, {"format": write.__name__, "path": path, "class": "cell"})
    assert [told.kind for told in canvas.told] == ["coordinates", "lost", "lost"]
    assert "all coordinates lie between 0 and 1, but the image has 6 x 8 pixels" in canvas.told[0].text


def test_what_readers_tell_is_kept(tmp_path: Path) -> None:
    canvas = Canvas(SHAPE, "error")
    source = Annotation(format="labels", path="unused")
    told = Told("spline", "ROI 1 has a fitted spline")
    paint_layers(canvas, source, [told, object_of(np.arange(3), name="ROI 1")], ["cell"])
    assert canvas.told == [told] and canvas.instances.sum() == 3
