from __future__ import annotations

import csv
import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import NO_POSITIONS, Layer, Told
from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine, local_engine
from unet_core.failures import explain
from unet_core.groundtruth.canvas import Canvas
from unet_core.groundtruth.intensities import Intensities
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.readers import open_image
from unet_core.method import VERSIONS
from unet_core.runtime import UserError
from unet_core.store.ngff import read_group, write_group
from unet_core.store.result import Overtaken
from unet_core.store.store import LABELS, Result, open_image_of, open_labels, read_attributes

Convert = Callable[..., dict[str, Any]]

A = np.array([[1, 0, 2], [1, 0, 2]], np.uint16)
B = np.array([[0, 5, 5], [0, 0, 5]], np.uint16)
NONE = np.zeros((2, 3), np.uint16)
GRAY = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with local_engine(2) as engine:
        yield engine


@pytest.fixture
def convert(tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture) -> Convert:
    """Convert a data set into `cells.zarr`; gives the stamp, to which `work` adds the last line of the log."""
    caplog.set_level(logging.INFO, "unet_core.groundtruth.step")

    def run(cfg: Dataset, overlaps: Any = "error", tolerance: float = 0.25) -> dict[str, Any]:
        samples, problems = find_samples(cfg)
        assert problems == []
        store, stamp = tmp_path / "cells.zarr", tmp_path / "cells.json"
        policy = Groundtruth(overlaps=overlaps, overlap_tolerance=tolerance)
        convert_groundtruth(cfg, policy, samples, store=store, stamp=stamp, engine=engine)
        work = [line for name, _, line in caplog.record_tuples if name == "unet_core.groundtruth.step"][
            -1
        ].removeprefix("groundtruth: ")
        return json.loads(stamp.read_text(encoding="utf-8")) | {"work": work}

    return run


def tif(path: Path, array: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    return path


def later(path: Path) -> None:
    """Give a file another time, since clocks of file systems may be coarse."""
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def table(path: Path, *rows: tuple[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("ImageId", "EncodedPixels"), *rows])
    return path


def dataset(folder: Path, *annotations: dict[str, Any], **options: Any) -> Dataset:
    """Images `images/*.tif`, by default with label images `masks/{stem}.tif`, all for training."""
    sources = list(annotations) or [{"format": "labels", "path": f"{folder}/masks/{{stem}}.tif"}]
    raw = {
        "images": f"{folder}/images/*.tif",
        "annotations": sources,
        "split": {"test": 0, "validation": 0},
        "unmatched": "allow",
    }
    return Dataset.model_validate(raw | options)


@pytest.fixture
def cells(tmp_path: Path) -> Dataset:
    """Samples a, b and c, annotated with `A`, `B` and nothing."""
    for number, (name, labels) in enumerate({"a": A, "b": B, "c": NONE}.items()):
        tif(tmp_path / "images" / f"{name}.tif", GRAY + number)
        tif(tmp_path / "masks" / f"{name}.tif", labels)
    return dataset(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("where", ["image", "labels"])
def test_what_cannot_be_written_is_no_fault_of_the_image_at_work(
    tmp_path: Path, cells: Dataset, convert: Convert, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    replace, calls = os.replace, []

    def refuse(*paths: Any, **folders: Any) -> None:
        here = Path(f"/proc/self/fd/{folders['dst_dir_fd']}").readlink() if folders.get("dst_dir_fd") else Path()
        if here.is_relative_to(tmp_path / "cells.zarr") and ("labels" in here.parts) == (where == "labels"):
            calls.append(here)
            if len(calls) > 2:  # what describes the first result
                raise OSError(number, os.strerror(number))
        replace(*paths, **folders)

    monkeypatch.setattr(os, "replace", refuse)
    # A stale handle is also what is said of a folder that another run has taken away.
    with pytest.raises(Overtaken if number == errno.ESTALE else OSError) as told:
        convert(cells)
    told_of = str(told.value) if number == errno.ESTALE else str(explain(told.value))
    assert f"{tmp_path}/cells.zarr/" in told_of and not (tmp_path / "cells.check").exists()
    monkeypatch.setattr(os, "replace", replace)
    assert sorted(convert(cells)["samples"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(image_of(tmp_path, "b")[0, 0], GRAY + 1)


def test_what_cannot_be_read_is_told_with_the_image(
    tmp_path: Path, cells: Dataset, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, *_: Any) -> Any:
        if path.name == "b.tif":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return open_image(path)

    monkeypatch.setattr("unet_core.groundtruth.images.open_image", failing)
    with pytest.raises(UserError, match=r"1 of 3 samples cannot be converted .*\n.*Input/output error.*images/b.tif"):
        convert(cells)


def image_of(folder: Path, sample: str) -> np.ndarray:
    return Result(folder / "cells.zarr" / sample).read_all()


def labels_of(folder: Path, sample: str) -> list[np.ndarray]:
    """Instances, classes and ignore mask."""
    return [result.read_all() for result in open_labels(folder / "cells.zarr", sample)]


def assert_labels(folder: Path, sample: str, instances: Any, classes: Any, ignore: Any) -> None:
    for name, values, known in zip(LABELS, labels_of(folder, sample), (instances, classes, ignore), strict=True):
        np.testing.assert_array_equal(values, np.reshape(known, values.shape), err_msg=name)


def snapshot(store: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def problems_of(convert: Convert, cfg: Dataset, **policy: Any) -> list[str]:
    """Lines of the error of a conversion."""
    with pytest.raises(UserError) as error:
        convert(cfg, **policy)
    return str(error.value).splitlines()


# ---- what is stored ----


def test_images_labels_classes_and_ignore_masks_are_stored(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    np.testing.assert_array_equal(image_of(tmp_path, "a"), GRAY[None, None], strict=True)
    instances, classes, ignore = labels_of(tmp_path, "a")
    np.testing.assert_array_equal(instances, A[None].astype(np.uint32), strict=True)
    np.testing.assert_array_equal(classes, np.array([[[1, 0, 1], [1, 0, 1]]], np.uint8), strict=True)
    np.testing.assert_array_equal(ignore, np.zeros((1, 2, 3), np.uint8), strict=True)
    np.testing.assert_array_equal(labels_of(tmp_path, "b")[0], B[None])


def test_the_stamp_names_store_classes_digests_shapes_and_counts(cells: Dataset, convert: Convert) -> None:
    stamp = convert(cells)
    assert stamp["work"] == "3 samples, 3 images and 3 annotations converted, 0 removed"
    assert (stamp["step"], stamp["store"], stamp["classes"]) == ("groundtruth", "cells.zarr", ["cell"])
    assert list(stamp["samples"]) == ["a", "b", "c"]
    assert [entry["objects"] for entry in stamp["samples"].values()] == [2, 1, 0]
    for entry in stamp["samples"].values():
        assert set(entry) == {"split", "image", "labels", "shape", "objects"}
        assert (entry["split"], entry["shape"]) == ("train", [1, 1, 2, 3])
    assert len({entry[kind] for entry in stamp["samples"].values() for kind in ("image", "labels")}) == 6


def test_the_store_remembers_where_its_content_comes_from(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    stamp = convert(cells, overlaps="later")
    image = read_attributes(tmp_path / "cells.zarr" / "a")
    assert (image["digest"], image["done"]) == (stamp["samples"]["a"]["image"], True)
    assert image["provenance"]["image"] == f"{tmp_path}/images/a.tif"
    assert image["provenance"]["config"]["classes"] == ["cell"]
    assert image["provenance"]["versions"]["zarr"] == zarr.__version__
    for name in LABELS:
        labels = read_attributes(tmp_path / "cells.zarr" / "a" / "labels" / name)
        assert (labels["digest"], labels["done"]) == (stamp["samples"]["a"]["labels"], True)
        counts = {key: labels["details"][key] for key in ("objects", "overlapping", "ignored")}
        assert counts == {"objects": 2, "overlapping": 0, "ignored": 0}
        assert labels["provenance"]["files"] == [f"{tmp_path}/masks/a.tif"]


def test_results_are_valid_ome_ngff(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells.model_copy(update={"pixel_size": cells.pixel_size.model_copy(update={"y": 0.5, "x": 0.25})}))
    image = Image.from_zarr(zarr.open_group(tmp_path / "cells.zarr" / "a", mode="r"))
    assert image.ome_attributes.multiscales[0].datasets[0].coordinateTransformations[0].scale == [1.0, 1.0, 0.5, 0.25]
    assert image.labels is not None
    assert set(image.labels.attributes.ome.labels) == set(LABELS)
    for name in LABELS:
        label = ImageLabel.from_zarr(zarr.open_group(tmp_path / "cells.zarr" / "a" / "labels" / name, mode="r"))
        assert [axis.name for axis in label.ome_attributes.multiscales[0].axes] == ["z", "y", "x"]


@pytest.mark.parametrize("name", ["Zellkern größe", "核 1.5x [2]", "labels", "0"])
def test_samples_may_have_any_name(tmp_path: Path, convert: Convert, name: str) -> None:
    tif(tmp_path / "images" / f"{name}.tif", GRAY)
    tif(tmp_path / "masks" / f"{name}.tif", A)
    for _ in range(2):
        stamp = convert(dataset(tmp_path))
        assert list(stamp["samples"]) == [name]
        np.testing.assert_array_equal(image_of(tmp_path, name), GRAY[None, None])
        assert_labels(tmp_path, name, A, A > 0, NONE)
    assert stamp["work"] == "1 samples, 0 images and 0 annotations converted, 0 removed"


def test_an_image_of_one_pixel(tmp_path: Path, convert: Convert) -> None:
    tif(tmp_path / "images" / "a.tif", np.array([[7]], np.uint8))
    tif(tmp_path / "masks" / "a.tif", np.array([[1]], np.uint8))
    assert convert(dataset(tmp_path))["samples"]["a"]["objects"] == 1
    assert image_of(tmp_path, "a").tolist() == [[[[7]]]]
    assert_labels(tmp_path, "a", 1, 1, 0)


def test_a_volume_of_several_blocks(tmp_path: Path, convert: Convert) -> None:
    volume = np.arange(9 * 2 * 3, dtype=np.uint16).reshape(9, 2, 3)
    tif(tmp_path / "images" / "a.tif", volume)
    tif(tmp_path / "masks" / "a.tif", volume % 5)
    stamp = convert(dataset(tmp_path, axes="zyx"))
    assert stamp["samples"]["a"]["shape"] == [1, 9, 2, 3]
    assert len(Result(tmp_path / "cells.zarr" / "a").grid) == 2
    np.testing.assert_array_equal(image_of(tmp_path, "a"), volume[None])
    assert_labels(tmp_path, "a", volume % 5, volume % 5 > 0, np.zeros(volume.shape))


@pytest.mark.parametrize(("channels", "kept"), [(None, [0, 1, 2]), ([2], [2]), ([1, 0], [1, 0])])
def test_chosen_channels_are_stored(
    tmp_path: Path, convert: Convert, channels: list[int] | None, kept: list[int]
) -> None:
    rgb = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", rgb, photometric="rgb")
    convert(dataset(tmp_path, axes="yxc", channels=channels, annotations=[]))
    np.testing.assert_array_equal(image_of(tmp_path, "a")[:, 0], rgb.transpose(2, 0, 1)[kept])


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        ("int8", "int8"),
        ("int16", "int16"),
        (">u2", "uint16"),
        ("int32", "float32"),
        ("uint64", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_small_integers_keep_their_type_and_wider_numbers_become_float32(
    tmp_path: Path, convert: Convert, dtype: str, stored: str
) -> None:
    image = np.array([[0, 1, 1], [1, 1, 0]], dtype)
    tif(tmp_path / "images" / "a.tif", image, byteorder=">" if dtype.startswith(">") else None)
    convert(dataset(tmp_path, annotations=[]))
    np.testing.assert_array_equal(image_of(tmp_path, "a"), image[None, None].astype(stored), strict=True)


def test_each_time_point_is_a_sample_with_its_own_labels(tmp_path: Path, convert: Convert) -> None:
    tif(tmp_path / "images" / "film.tif", np.stack([GRAY, GRAY + 1]))
    tif(tmp_path / "masks" / "film.tif", np.stack([A, B]))
    assert list(convert(dataset(tmp_path, axes="tyx"))["samples"]) == ["film_0000", "film_0001"]
    np.testing.assert_array_equal(image_of(tmp_path, "film_0001"), GRAY[None, None] + 1)
    assert_labels(tmp_path, "film_0000", A, A > 0, NONE)
    assert_labels(tmp_path, "film_0001", B, B > 0, NONE)


def test_objects_of_two_sources_have_different_numbers_and_classes(
    tmp_path: Path, cells: Dataset, convert: Convert
) -> None:
    tif(tmp_path / "more" / "a.tif", np.array([[0, 1, 0], [0, 2, 0]], np.uint8))
    more = {"format": "labels", "path": f"{tmp_path}/more/{{stem}}.tif", "class": "mitotic"}
    stamp = convert(
        dataset(tmp_path, cells.annotations[0].model_dump(by_alias=True), more, classes=["cell", "mitotic"])
    )
    assert_labels(tmp_path, "a", [[1, 3, 2], [1, 4, 2]], [[1, 2, 1], [1, 2, 1]], NONE)
    assert_labels(tmp_path, "b", B, B > 0, NONE)
    assert (stamp["classes"], stamp["samples"]["a"]["objects"]) == (["cell", "mitotic"], 4)


def test_nothing_is_kept_of_objects_under_ignored_areas(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    tif(tmp_path / "ignore" / "a.tif", np.array([[1, 1, 0], [1, 0, 0]], np.uint8))
    sources = [
        cells.annotations[0].model_dump(by_alias=True) | {"ignore_label": 5},
        {"format": "labels", "path": f"{tmp_path}/ignore/{{stem}}.tif", "ignore": True},
    ]
    stamp = convert(dataset(tmp_path, *sources))
    assert_labels(tmp_path, "a", [[0, 0, 2], [0, 0, 2]], [[0, 0, 1], [0, 0, 1]], [[1, 1, 0], [1, 0, 0]])
    assert_labels(tmp_path, "b", NONE, NONE, B > 0)
    assert [entry["objects"] for entry in stamp["samples"].values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("overlaps", "instances", "ignore"),
    [
        ("later", [1, 1, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0]),
        ("smaller", [1, 1, 2, 2, 3, 3], [0, 0, 0, 0, 0, 0]),
        ("ignore", [1, 1, 0, 0, 3, 3], [0, 0, 1, 1, 0, 0]),
    ],
)
def test_overlaps_are_resolved_by_the_policy(
    tmp_path: Path, convert: Convert, overlaps: str, instances: list[int], ignore: list[int]
) -> None:
    tif(tmp_path / "images" / "a.tif", GRAY.reshape(1, 6), metadata=None)
    for number, mask in enumerate(([1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1])):
        tif(tmp_path / "masks" / "a" / f"{number}.tif", np.array([mask], np.uint8), metadata=None)
    cfg = dataset(tmp_path, {"format": "masks", "path": f"{tmp_path}/masks/{{stem}}/*.tif"})
    convert(cfg, overlaps=overlaps)
    assert_labels(tmp_path, "a", instances, np.array(instances) > 0, ignore)
    assert read_attributes(tmp_path / "cells.zarr" / "a" / "labels" / "instances")["details"]["overlapping"] == 2


def test_real_overlaps_are_errors_by_default_and_those_of_all_samples_are_one_line(
    tmp_path: Path, cells: Dataset, convert: Convert
) -> None:
    cfg = dataset(tmp_path, *[cells.annotations[0].model_dump(by_alias=True)] * 2)
    assert problems_of(convert, cfg) == [
        f"2 of 3 samples cannot be converted (pictures: {tmp_path}/cells.check/check.html):",
        "  - a: 4 voxels belong to several objects (pairs: 2, the first object 1 and object 3; they share up to 100 % "
        "of the smaller object); mend the annotation, raise groundtruth.overlap_tolerance, or set groundtruth.overlaps "
        "to later, smaller or ignore (2 like this: a, b)",
    ]


def outlines(folder: Path, *spans: tuple[int, int, int, int]) -> Dataset:
    """Samples a and b of 12 x 12 pixels, annotated with boxes: first row and column, and those after the last."""
    for number, name in enumerate("ab"):
        tif(folder / "images" / f"{name}.tif", np.full((12, 12), number, np.uint8))
        shapes = [
            {"label": "cell", "points": [[left, top], [right, bottom]], "shape_type": "rectangle"}
            for top, left, bottom, right in spans
        ]
        (folder / f"{name}.json").write_text(json.dumps({"shapes": shapes}), encoding="utf-8")
    return dataset(folder, {"format": "labelme", "path": f"{folder}/{{stem}}.json"})


def test_slight_overlaps_pass_by_default_and_are_told_once(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = outlines(tmp_path, (0, 0, 6, 6), (5, 0, 10, 4), (0, 5, 3, 12))
    stamp = convert(cfg)
    assert [entry["objects"] for entry in stamp["samples"].values()] == [3, 3]
    expected = np.zeros((12, 12), int)
    expected[:6, :6], expected[5:10, :4], expected[:3, 5:12] = 1, 2, 3
    np.testing.assert_array_equal(labels_of(tmp_path, "b")[0][0], expected)
    (message,) = [text for text in caplog.messages if "belong to several objects" in text]
    assert message == (
        "groundtruth: 14 voxels of 2 samples (as a) belong to several objects; "
        "policy: error (up to 0.25 of the smaller object)"
    )
    table = (tmp_path / "cells.check" / "findings.csv").read_text(encoding="utf-8")
    assert table.count("warning,overlap,") == 2 and "2 pairs of objects overlap slightly, 7 voxels in all" in table
    # A lower tolerance stops at them.
    head, line = problems_of(convert, cfg, tolerance=0.15)
    assert head.startswith("2 of 2 samples") and "4 voxels belong to several objects (pairs: 1, " in line


def test_the_smaller_of_two_objects_that_overlap_slightly_keeps_its_pixels(tmp_path: Path, convert: Convert) -> None:
    convert(outlines(tmp_path, (0, 0, 4, 4), (3, 0, 11, 8)))
    expected = np.zeros((12, 12), int)
    expected[3:11, :8], expected[:4, :4] = 2, 1
    np.testing.assert_array_equal(labels_of(tmp_path, "a")[0][0], expected)


def test_an_object_inside_of_another_is_an_error_by_default(tmp_path: Path, convert: Convert) -> None:
    (line,) = problems_of(convert, outlines(tmp_path, (0, 0, 10, 10), (4, 4, 6, 6)))[1:]
    assert line.startswith("  - a: 4 voxels belong to several objects (pairs: 1, ") and line.endswith("this: a, b)")


def test_labels_of_release_0_1_0_keep_their_digest(tmp_path: Path, convert: Convert) -> None:
    """The digests were made by that release; they change with the version of the method alone."""
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "a.npy", np.arange(48, dtype=np.uint8).reshape(6, 8))
    np.save(tmp_path / "masks" / "a.npy", np.repeat(np.uint8([0, 1, 2]), 16).reshape(6, 8))
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.npy"}
    entry = convert(dataset(tmp_path, source, images=f"{tmp_path}/*.npy"))["samples"]["a"]
    digests = (entry["image"], entry["labels"])
    assert (digests == ("5ddc1b85b9935938b7ef", "b3bd22f3c578ab7d7ca5")) == (VERSIONS["groundtruth"] == 1)


def test_what_was_counted_of_each_class_is_kept(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    tif(tmp_path / "more" / "a.tif", np.array([[0, 1, 0], [0, 1, 0]], np.uint8))
    more = {"format": "labels", "path": f"{tmp_path}/more/{{stem}}.tif", "class": "dead"}
    convert(dataset(tmp_path, cells.annotations[0].model_dump(by_alias=True), more, classes=["cell", "dead"]))
    details = read_attributes(tmp_path / "cells.zarr" / "a" / "labels" / "instances")["details"]
    assert (details["class_objects"], details["class_voxels"]) == ({"cell": 2, "dead": 1}, {"cell": 4, "dead": 2})


def test_what_readers_tell_becomes_a_warning(
    tmp_path: Path, cells: Dataset, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any) -> Iterator[Layer | Told]:
        yield Told("spline", "ROI 1 has a fitted spline")
        yield Layer(np.array([0]), np.ones(1, np.uint32), NO_POSITIONS)

    monkeypatch.setattr(module_of("labels"), "read", read)
    convert(cells)
    table = (tmp_path / "cells.check" / "findings.csv").read_text(encoding="utf-8")
    assert "warning,spline,a,,,,ROI 1 has a fitted spline" in table
    assert "ROI 1 has a fitted spline" in (tmp_path / "cells.check" / "check.html").read_text(encoding="utf-8")


def test_the_smaller_object_wins_whatever_the_order_and_the_numbers() -> None:
    large = Layer(np.arange(5), np.full(5, 4_000_000_000, np.uint32), NO_POSITIONS)
    small = Layer(np.arange(4, 6), np.full(2, 7, np.uint32), NO_POSITIONS)
    for layers, expected in (
        ((large, small), [4_000_000_000] * 4 + [4_000_000_007] * 2),
        ((small, large), [4_000_000_007] * 4 + [7] * 2),
    ):
        canvas = Canvas((1, 1, 6), "smaller")
        for layer in layers:
            canvas.add(layer, 1)
        assert canvas.instances.ravel().tolist() == expected
        assert canvas.overlapping == 1


def test_objects_of_the_same_size_stay_with_the_earlier() -> None:
    canvas = Canvas((1, 1, 3), "smaller")
    canvas.add(Layer(np.array([0, 1]), np.ones(2, np.uint32), NO_POSITIONS), 1)
    canvas.add(Layer(np.array([1, 2]), np.ones(2, np.uint32), NO_POSITIONS), 2)
    assert (canvas.instances.ravel().tolist(), canvas.classes.ravel().tolist()) == ([1, 1, 2], [1, 1, 2])


def test_object_numbers_beyond_32_bits_are_an_error() -> None:
    canvas = Canvas((1, 1, 2), "error")
    canvas.add(Layer(np.array([0]), np.array([2**32 - 1], np.uint32), NO_POSITIONS), 1)
    with pytest.raises(ValueError, match=r"more than 2\^32 - 1 objects"):
        canvas.add(Layer(np.array([1]), np.array([1], np.uint32), NO_POSITIONS), 1)


# ---- intensities ----


def test_intensities_in_the_store_are_those_of_each_channel(tmp_path: Path, convert: Convert) -> None:
    image = np.random.default_rng(0).integers(0, 60000, (2, 30, 20)).astype(np.uint16)
    tif(tmp_path / "images" / "a.tif", image)
    convert(dataset(tmp_path, axes="cyx", annotations=[]))
    found = read_attributes(tmp_path / "cells.zarr" / "a")["details"]["intensities"]
    assert len(found) == 2
    for channel, statistics in zip(image, found, strict=True):
        assert statistics["mean"] == pytest.approx(channel.mean(), rel=1e-12)
        assert statistics["deviation"] == pytest.approx(channel.std(), rel=1e-12)
        assert statistics["percentiles"]["0"] == channel.min()
        assert statistics["percentiles"]["99.5"] == np.percentile(channel, 99.5, method="lower")
        assert statistics["percentiles"]["100"] == channel.max()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("count", [1, 2, 101, 1000])
def test_percentiles_of_integers_are_values_of_exact_rank(dtype: str, count: int) -> None:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(count).integers(limits.min, limits.max, count, endpoint=True).astype(dtype)
    statistics = Intensities(np.dtype(dtype), count)
    for part in np.array_split(values, 3):
        statistics.add(part)
    summary = statistics.summary()
    ordered = np.sort(values)
    expected = {level: float(ordered[int(Fraction(level) * (count - 1) / 100)]) for level in summary["percentiles"]}
    assert summary["percentiles"] == expected
    assert len(expected) == 105
    assert summary["mean"] == pytest.approx(values.mean(), abs=1e-9)
    assert summary["deviation"] == pytest.approx(values.std(), abs=1e-9)


def test_statistics_of_floating_point_numbers_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(1000, 2, (3, 40, 50)).astype(np.float32)
    statistics = Intensities(values.dtype, values.size)
    for plane in values:
        statistics.add(plane)
    summary = statistics.summary()
    assert summary["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert summary["deviation"] == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
    levels = [float(level) for level in summary["percentiles"]]
    np.testing.assert_array_equal(list(summary["percentiles"].values()), np.percentile(values, levels))


def test_statistics_of_a_constant_image() -> None:
    for dtype in ("uint8", "float32"):
        statistics = Intensities(np.dtype(dtype), 6)
        statistics.add(np.full((2, 3), 7, dtype))
        summary = statistics.summary()
        assert (summary["mean"], summary["deviation"], set(summary["percentiles"].values())) == (7.0, 0.0, {7.0})


# ---- what is done again ----


def test_a_second_run_writes_nothing(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    first = convert(cells)
    before = snapshot(tmp_path / "cells.zarr")
    for file in tmp_path.glob("*/*.tif"):
        later(file)
    second = convert(cells)
    assert second["work"] == "3 samples, 0 images and 0 annotations converted, 0 removed"
    assert second["samples"] == first["samples"]
    assert snapshot(tmp_path / "cells.zarr") == before


def test_a_changed_mask_converts_one_annotation(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    first = convert(cells)
    before = snapshot(tmp_path / "cells.zarr")
    later(tif(tmp_path / "masks" / "b.tif", A))
    second = convert(cells)
    assert second["work"] == "3 samples, 0 images and 1 annotations converted, 0 removed"
    assert_labels(tmp_path, "b", A, A > 0, NONE)
    assert {name for name in "abc" if first["samples"][name] != second["samples"][name]} == {"b"}
    after = snapshot(tmp_path / "cells.zarr")
    assert all("/b/labels/" in path for path in before if after.get(path) != before[path])


def test_samples_that_are_done_cost_no_task(
    tmp_path: Path, cells: Dataset, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(cells)
    later(tif(tmp_path / "masks" / "b.tif", A))
    given: list[str] = []
    run = Engine.run

    def watched(self: Engine, function: Any, items: Any, total: int, what: str) -> Any:
        given.extend(sample.name for (sample, *_), _ in items)
        return run(self, function, items, total, what)

    monkeypatch.setattr(Engine, "run", watched)
    convert(cells)
    assert given == ["b"]


def test_a_changed_image_converts_one_sample(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    later(tif(tmp_path / "images" / "b.tif", GRAY + 9))
    assert convert(cells)["work"] == "3 samples, 1 images and 1 annotations converted, 0 removed"
    np.testing.assert_array_equal(image_of(tmp_path, "b"), GRAY[None, None] + 9)
    assert_labels(tmp_path, "b", B, B > 0, NONE)


def test_a_changed_row_of_run_lengths_converts_one_annotation(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    path = table(tmp_path / "t.csv", ("a", "1 2"), ("b", "3 1"), ("a", "5 1"), ("c", ""))
    cfg = dataset(tmp_path, {"format": "rle", "path": str(path)})
    assert [entry["objects"] for entry in convert(cfg)["samples"].values()] == [2, 1, 0]
    # Rows of others move, and a row of b is new.
    later(table(path, ("c", ""), ("b", "3 1"), ("a", "1 2"), ("b", "6 1"), ("a", "5 1")))
    assert convert(cfg)["work"] == "3 samples, 0 images and 1 annotations converted, 0 removed"
    assert_labels(tmp_path, "b", [[0, 1, 0], [0, 0, 2]], [[0, 1, 0], [0, 0, 1]], NONE)


def test_a_new_sample_converts_only_itself(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    tif(tmp_path / "images" / "d.tif", GRAY)
    tif(tmp_path / "masks" / "d.tif", A)
    assert convert(cells)["work"] == "4 samples, 1 images and 1 annotations converted, 0 removed"


def test_a_sample_that_is_gone_is_removed_from_the_store(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    (tmp_path / "images" / "b.tif").unlink()
    stamp = convert(cells)
    assert stamp["work"] == "2 samples, 0 images and 0 annotations converted, 1 removed"
    assert list(stamp["samples"]) == ["a", "c"]
    assert sorted(path.name for path in (tmp_path / "cells.zarr").iterdir()) == ["a", "c", "zarr.json"]


def test_an_annotation_that_is_gone_takes_its_labels_along(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    (tmp_path / "masks" / "b.tif").unlink()
    stamp = convert(cells)
    assert stamp["work"] == "3 samples, 0 images and 0 annotations converted, 0 removed"
    assert (stamp["samples"]["b"]["split"], stamp["samples"]["b"]["labels"]) == ("unannotated", None)
    assert "objects" not in stamp["samples"]["b"]
    assert not (tmp_path / "cells.zarr" / "b" / "labels").exists()
    np.testing.assert_array_equal(image_of(tmp_path, "b"), GRAY[None, None] + 1)


def test_another_split_changes_the_stamp_and_nothing_else(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    before = snapshot(tmp_path / "cells.zarr")
    stamp = convert(dataset(tmp_path, split={"test": ["b"], "validation": ["c"]}))
    assert [entry["split"] for entry in stamp["samples"].values()] == ["train", "test", "validation"]
    assert snapshot(tmp_path / "cells.zarr") == before


@pytest.mark.parametrize(
    ("options", "images", "annotations"),
    [
        ({}, 0, 0),
        ({"weights": {"sigma": 3}}, 0, 0),
        ({"classes": ["cell", "other"]}, 0, 3),
        ({"pixel_size": {"x": 0.5}}, 3, 3),
        ({"channels": [0], "axes": "cyx"}, 3, 3),
    ],
)
def test_options_redo_what_they_touch(
    tmp_path: Path, cells: Dataset, convert: Convert, options: dict[str, Any], images: int, annotations: int
) -> None:
    for name in "abc":
        tif(tmp_path / "images" / f"{name}.tif", GRAY[None])
    cfg = dataset(tmp_path, axes="zyx")
    convert(cfg)
    assert (
        convert(dataset(tmp_path, **{"axes": "zyx"} | options))["work"]
        == f"3 samples, {images} images and {annotations} annotations converted, 0 removed"
    )


@pytest.mark.parametrize(
    "change", [{"format": "boundaries"}, {"class": "other"}, {"ignore": True}, {"ignore_label": 5}]
)
def test_another_reading_of_the_same_files_converts_the_annotations(
    tmp_path: Path, cells: Dataset, convert: Convert, change: Any
) -> None:
    source = cells.annotations[0].model_dump(by_alias=True)
    extra = {"format": "labels", "path": f"{tmp_path}/none/{{stem}}.tif"}
    for name in "abc":
        tif(tmp_path / "none" / f"{name}.tif", NONE)
    convert(dataset(tmp_path, source, extra, classes=["cell", "other"]))
    stamp = convert(dataset(tmp_path, source | change, extra, classes=["cell", "other"]))
    assert stamp["work"] == "3 samples, 0 images and 3 annotations converted, 0 removed"


def test_another_array_of_the_same_file_converts_image_or_annotation(tmp_path: Path, convert: Convert) -> None:
    (tmp_path / "images").mkdir()
    with h5py.File(tmp_path / "images" / "a.h5", "w") as file:
        file["raw"], file["raw2"], file["A"], file["B"] = GRAY, GRAY + 1, A, B
    work = []
    for raw, labels in (("raw", "A"), ("raw", "B"), ("raw2", "B")):
        cfg = dataset(
            tmp_path,
            {"format": "labels", "path": f"{tmp_path}/images/{{stem}}.h5:{labels}"},
            images=f"{tmp_path}/images/*.h5:{raw}",
        )
        work.append(convert(cfg)["work"])
    assert work == [f"1 samples, {images} images and 1 annotations converted, 0 removed" for images in (1, 0, 1)]
    np.testing.assert_array_equal(image_of(tmp_path, "a"), GRAY[None, None] + 1)
    assert_labels(tmp_path, "a", B, B > 0, NONE)


def test_another_policy_converts_the_annotations(cells: Dataset, convert: Convert) -> None:
    convert(cells)
    assert convert(cells, overlaps="later")["work"] == "3 samples, 0 images and 3 annotations converted, 0 removed"


@pytest.mark.parametrize("name", ["", "labels/instances", "labels/classes", "labels/ignore"])
@pytest.mark.parametrize("damage", ["shard", "unfinished", "metadata", "level"])
def test_a_sample_that_is_not_whole_is_converted_again(
    tmp_path: Path, cells: Dataset, convert: Convert, name: str, damage: str
) -> None:
    first = convert(cells)
    result = tmp_path / "cells.zarr" / "a" / name
    if damage == "shard":
        Result(result).shards_of(0)[0].unlink()
    elif damage == "metadata":
        (result / "zarr.json").unlink()
    elif damage == "level":
        (result / "0" / "zarr.json").unlink()
    else:
        attributes = read_group(result)
        assert attributes["unet"]["done"]
        write_group(result, attributes | {"unet": attributes["unet"] | {"done": False}})
    second = convert(cells)
    images = 1 if name == "" else 0
    # Where an image must be replaced as a whole, its labels go with it.
    annotations = 1 if name or damage in ("metadata", "level") else 0
    assert second["work"] == f"3 samples, {images} images and {annotations} annotations converted, 0 removed"
    assert second["samples"] == first["samples"]
    np.testing.assert_array_equal(image_of(tmp_path, "a"), GRAY[None, None])
    assert_labels(tmp_path, "a", A, A > 0, NONE)


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    convert(cells)
    (tmp_path / "cells.zarr" / ".b.0123.trash").mkdir()
    convert(cells)
    assert sorted(path.name for path in (tmp_path / "cells.zarr").iterdir()) == ["a", "b", "c", "zarr.json"]


# ---- mistakes ----


def test_problems_of_all_samples_make_one_message_and_the_others_are_kept(
    tmp_path: Path, cells: Dataset, convert: Convert
) -> None:
    tif(tmp_path / "masks" / "a.tif", np.zeros((3, 3), np.uint8))
    tif(tmp_path / "masks" / "b.tif", A - np.float32(0.5))
    for name in "de":
        tif(tmp_path / "images" / f"{name}.tif", GRAY)
        tif(tmp_path / "masks" / f"{name}.tif", A)
    damaged = tmp_path / "images" / "d.tif"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    head, *lines = problems_of(convert, cells)
    assert head == f"3 of 5 samples cannot be converted (pictures: {tmp_path}/cells.check/check.html):"
    assert lines == [
        f"  - a: {tmp_path}/masks/a.tif: annotation has shape (3, 3), but its image has (2, 3)",
        f"  - b: {tmp_path}/masks/b.tif: labels must lie between 0 and 2^32 - 1, but go from -0.5 to 1.5",
        f"  - d: {tmp_path}/images/d.tif: cannot be read as TIFF "
        "(its header claims 6 bytes of pixels, but the file has 260); is it complete?",
    ]
    assert not (tmp_path / "cells.json").exists()
    for name, array in (("a", A), ("b", B)):
        later(tif(tmp_path / "masks" / f"{name}.tif", array))
    later(tif(tmp_path / "images" / "d.tif", GRAY))
    assert convert(cells)["work"] == "5 samples, 1 images and 3 annotations converted, 0 removed"


def test_the_same_problem_of_many_samples_is_one_line(tmp_path: Path, convert: Convert) -> None:
    for number in range(7):
        tif(tmp_path / "images" / f"t{number}.tif", GRAY + number)
        tif(tmp_path / "masks" / f"t{number}.tif", np.zeros((3, 3 + number), np.uint8) if number else A)
    head, line = problems_of(convert, dataset(tmp_path))
    assert head.startswith("6 of 7 samples cannot be converted")
    assert line == (
        f"  - t1: {tmp_path}/masks/t1.tif: annotation has shape (3, 4), but its image has (2, 3) "
        "(6 like this: t1, t2, t3, t4, t5 and 1 more)"
    )


@pytest.mark.parametrize(
    ("image", "options", "problem"),
    [
        (
            np.array([[0.0, np.nan, np.inf]]),
            {},
            ": 2 pixels are NaN, infinite or beyond the range of float32; replace them",
        ),
        (np.array([[0.0, -1e300]]), {}, ": 1 pixels are NaN, infinite or beyond the range of float32; replace them"),
        (
            np.zeros((1, 2), np.complex64),
            {},
            ": pixels of type complex64; needed are integers or floating-point numbers",
        ),
        (np.zeros((2, 4, 5), np.uint8), {"axes": "yx"}, " has 3 axes (shape (2, 4, 5)), but axes says 'yx'"),
        (
            np.zeros((4, 5), np.uint8),
            {"axes": "zyx"},
            " has 2 axes (shape (4, 5)), but axes says 'zyx'; its header says that they are yx",
        ),
        (
            np.zeros((2, 4, 5), np.uint8),
            {"axes": "cyx", "channels": [0, 2]},
            " has 2 channels, but channels says [0, 2] (they count from 0)",
        ),
    ],
)
def test_images_that_cannot_be_used_are_told_with_the_file(
    tmp_path: Path, convert: Convert, image: np.ndarray, options: dict[str, Any], problem: str
) -> None:
    path = tif(tmp_path / "images" / "a.tif", image)
    assert problems_of(convert, dataset(tmp_path, annotations=[], **options)) == [
        f"1 of 1 samples cannot be converted (pictures: {tmp_path}/cells.check/check.html):",
        f"  - a: {path}{problem}",
    ]
    assert not (tmp_path / "cells.zarr" / "a").exists()


def test_a_run_length_that_leaves_its_image_is_told_with_table_line_and_sample(
    tmp_path: Path, cells: Dataset, convert: Convert
) -> None:
    path = table(tmp_path / "t.csv", ("a", "1 2"), ("b", "3 9"), ("c", ""))
    (line,) = problems_of(convert, dataset(tmp_path, {"format": "rle", "path": str(path)}))[1:]
    assert (
        line == f"  - b: {path}, line 3: the run '3 9' leaves the image of 2 x 3 pixels (runs count from 1, "
        "down the columns)"
    )


# ---- classes that the annotation names ----


def coco(path: Path, *categories: str) -> dict[str, Any]:
    """COCO file: in each of the images a, b, c one object of each category, side by side in the first row."""
    images = [{"id": number, "file_name": f"{name}.tif"} for number, name in enumerate("abc")]
    objects = [
        {"image_id": image["id"], "category_id": x, "segmentation": [[x, 0, x + 1, 0, x + 1, 1, x, 1]]}
        for image in images
        for x in range(len(categories))
    ]
    named = [{"id": number, "name": name} for number, name in enumerate(categories)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": named}), encoding="utf-8")
    return {"format": "coco", "path": str(path)}


def test_classes_of_the_annotation_are_matched_by_name(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    source = coco(tmp_path / "c.json", "dead", "cell")
    convert(dataset(tmp_path, source, classes=["cell", "dead"]))
    assert_labels(tmp_path, "b", [[1, 2, 0], [0, 0, 0]], [[2, 1, 0], [0, 0, 0]], NONE)
    convert(dataset(tmp_path, source | {"class": "dead"}, classes=["cell", "dead"]))
    assert_labels(tmp_path, "b", [[1, 2, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0]], NONE)


def test_unknown_classes_are_told_once_for_all_samples(tmp_path: Path, cells: Dataset, convert: Convert) -> None:
    (line,) = problems_of(
        convert, dataset(tmp_path, coco(tmp_path / "c.json", "dead", "cell", "other"), classes=["cell", "alive"])
    )[1:]
    assert line == (
        "  - annotations of a, b, c name the classes 'dead', 'other', but classes says cell, alive; "
        "add them there, map them with the classes of the source, or give it a class for all its objects"
    )


def test_objects_of_the_annotation_that_overlap_follow_the_policy(
    tmp_path: Path, cells: Dataset, convert: Convert
) -> None:
    source = coco(tmp_path / "c.json", "cell")
    text = Path(source["path"]).read_text(encoding="utf-8")
    document = json.loads(text)
    document["annotations"] += [{"image_id": 0, "category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}]
    Path(source["path"]).write_text(json.dumps(document), encoding="utf-8")
    assert "1 voxels belong to several objects" in problems_of(convert, dataset(tmp_path, source))[1]
    convert(dataset(tmp_path, source), overlaps="smaller")
    assert_labels(tmp_path, "a", [[1, 2, 0], [2, 2, 0]], [[1, 1, 0], [1, 1, 0]], NONE)
    # The others stay as they are: only what concerns an image counts.
    document["annotations"][-1]["segmentation"][0][2] = 3
    Path(source["path"]).write_text(json.dumps(document), encoding="utf-8")
    later(Path(source["path"]))
    assert (
        convert(dataset(tmp_path, source), overlaps="smaller")["work"]
        == "3 samples, 0 images and 1 annotations converted, 0 removed"
    )


def ome(path: Path, array: np.ndarray, size: float, **metadata: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {"PhysicalSizeX": size, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": size, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=sizes | metadata)


@pytest.mark.parametrize("in_place", ["never", "always"])
def test_pixel_sizes_and_channels_of_the_file_are_those_of_the_store(
    tmp_path: Path, convert: Convert, in_place: str
) -> None:
    stack = np.stack([GRAY, GRAY + 1, GRAY + 2])
    ome(tmp_path / "images" / "a.tif", stack, 250, axes="CYX", Channel={"Name": ["DAPI", "GFP", "TRITC"]})
    tif(tmp_path / "masks" / "a.tif", A)
    before = convert(dataset(tmp_path, channels=[2, 0], in_place=in_place))["samples"]["a"]
    image = open_image_of(tmp_path / "cells.zarr", "a")
    assert image.pixel_size == (1, 0.25, 0.25) and open_labels(tmp_path / "cells.zarr", "a")[0].pixel_size == (
        1,
        0.25,
        0.25,
    )
    np.testing.assert_array_equal(image.read(Box((0, 0, 0), image.shape)), stack[[2, 0], None])
    assert read_attributes(tmp_path / "cells.zarr" / "a")["details"]["channels"] == ["TRITC", "DAPI"]
    if in_place == "never":
        shown = Image.from_zarr(zarr.open_group(tmp_path / "cells.zarr" / "a", mode="r")).ome_attributes.omero[
            "channels"
        ]
        assert [(one["label"], one["window"]["start"], one["window"]["end"]) for one in shown] == [
            ("TRITC", 12, 52),
            ("DAPI", 10, 50),
        ]
    # The same pixels with another size: all that is in micrometres is made again.
    ome(tmp_path / "images" / "a.tif", stack, 500, axes="CYX", Channel={"Name": ["DAPI", "GFP", "TRITC"]})
    after = convert(dataset(tmp_path, channels=[2, 0], in_place=in_place))
    assert after["work"] == "1 samples, 1 images and 1 annotations converted, 0 removed"
    assert open_labels(tmp_path / "cells.zarr", "a")[0].pixel_size == (1, 0.5, 0.5)
    assert all(before[kind] != after["samples"]["a"][kind] for kind in ("image", "labels"))


def test_a_configured_size_counts_whatever_the_file_says(tmp_path: Path, convert: Convert) -> None:
    ome(tmp_path / "images" / "a.tif", GRAY, 250, axes="YX")
    tif(tmp_path / "masks" / "a.tif", A)
    convert(dataset(tmp_path, pixel_size={"y": 2, "x": 3}))
    assert Result(tmp_path / "cells.zarr" / "a").pixel_size == (1, 2, 3)


def test_axes_that_are_not_as_many_as_the_file_has_are_told_with_those_of_its_header(
    tmp_path: Path, convert: Convert
) -> None:
    ome(tmp_path / "images" / "a.tif", np.stack([GRAY, GRAY, GRAY]), 250, axes="ZYX")
    with pytest.raises(
        UserError,
        match=r"a\.tif has 3 axes \(shape \(3, 2, 3\)\), but axes says 'yx'; its header says that they are zyx",
    ):
        convert(Dataset(images=f"{tmp_path}/images/a.tif", axes="yx"))
