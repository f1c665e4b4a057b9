from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine
from unet_core.groundtruth.check.command import main
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.runtime import UserError
from unet_core.store.store import Result

Convert = Callable[..., list[tuple[str, str, str]]]

RING = np.zeros((30, 40), np.uint16)
RING[5:15, 5:15], RING[8:12, 8:12] = 1, 0
DISC = np.zeros((30, 40), np.uint16)
DISC[10:20, 10:30] = 3


def rows(folder: Path, table: str = "findings.csv") -> list[dict[str, str]]:
    with (folder / "cells.check" / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tif(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")
    return path


def write(folder: Path, **masks: np.ndarray) -> None:
    for number, (name, mask) in enumerate(masks.items()):
        tif(
            folder / "images" / f"{name}.tif",
            (np.random.default_rng(list(name.encode())).normal(100, 10, mask.shape) + number).astype(np.uint8),
        )
        tif(folder / "masks" / f"{name}.tif", mask)


@pytest.fixture
def convert(tmp_path: Path, engine: Engine) -> Convert:
    """Convert the data set of `write`; gives level, kind and sample of the findings."""

    def run(**options: Any) -> list[tuple[str, str, str]]:
        raw = {"images": f"{tmp_path}/images/*.tif", "unmatched": "allow", "split": {"test": 0, "validation": 0}}
        cfg = Dataset.model_validate(
            {"annotations": [{"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif"}]} | raw | options
        )
        samples = find_samples(cfg)[0]
        convert_groundtruth(
            cfg, Groundtruth(), samples, store=tmp_path / "cells.zarr", stamp=tmp_path / "cells.json", engine=engine
        )
        return [(row["level"], row["kind"], row["sample"]) for row in rows(tmp_path)]

    return run


def test_findings_are_in_a_table_and_pictures_on_a_page(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=RING, b=DISC, c=DISC * 0)
    assert convert() == [("warning", "hole", "a"), ("warning", "empty", "c")]
    (hole, _) = rows(tmp_path)
    assert (hole["z"], hole["y"], hole["x"]) == ("0", "8", "8") and hole["files"] == f"{tmp_path}/masks/a.tif"
    page = (tmp_path / "cells.check" / "check.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 2 and "object 1 has a hole of 16 voxels" in page and "http" not in page
    samples = rows(tmp_path, "samples.csv")
    assert [(row["sample"], row["objects"], row["area"], row["findings"]) for row in samples] == [
        ("a", "1", "84.0", "1"),
        ("b", "1", "200.0", "0"),
        ("c", "0", "", "1"),
    ]


def test_a_page_is_there_where_nothing_is_found(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC)
    assert convert() == []
    assert "Nothing to look at in 1 samples" in (tmp_path / "cells.check" / "check.html").read_text(encoding="utf-8")


def test_errors_stop_and_are_on_the_page_with_pictures(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=RING, b=DISC, c=DISC)
    tif(tmp_path / "masks" / "c.tif", DISC[:10])
    twice = [{"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif"}] * 2
    with pytest.raises(UserError, match=r"3 of 3 samples cannot be converted \(pictures: .*cells.check/check.html\)"):
        convert(annotations=twice)
    listed = [(row["level"], row["kind"], row["sample"], row["text"]) for row in rows(tmp_path)]
    assert listed[:2] == [
        ("error", "file", "c", f"{tmp_path}/masks/c.tif: annotation has shape (10, 40), but its image has (30, 40)"),
        ("error", "duplicate", "a", "object 2 is object 1 drawn again (they share 84 voxels, an IoU of 1.00)"),
    ]
    assert ("error", "duplicate", "b") in [row[:3] for row in listed]
    assert (tmp_path / "cells.check" / "check.html").read_text(encoding="utf-8").count("data:image/") >= 2
    assert not (tmp_path / "cells.json").exists()


def test_unknown_classes_are_errors(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC)
    shape = {"label": "dead", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon"}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape]}), encoding="utf-8")
    with pytest.raises(UserError):
        convert(annotations=[{"format": "labelme", "path": f"{tmp_path}/{{stem}}.json"}])
    assert [(row["kind"], row["text"]) for row in rows(tmp_path)] == [
        ("class", "names the classes 'dead', but classes says cell")
    ]


def test_nothing_is_written_again_for_the_same_findings(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=RING, b=DISC)
    files = ["check.html", "findings.csv", "samples.csv", "batches.json"]
    convert()
    before = [(tmp_path / "cells.check" / name).stat().st_mtime_ns for name in files]
    convert()
    assert [(tmp_path / "cells.check" / name).stat().st_mtime_ns for name in files] == before
    # A page that was deleted comes back, without a look at the annotations.
    (tmp_path / "cells.check" / "check.html").unlink()
    assert convert() == [("warning", "hole", "a")] and (tmp_path / "cells.check" / "check.html").is_file()


def test_later_annotations_are_a_batch_of_their_own(tmp_path: Path, convert: Convert) -> None:
    small = {f"s{n}": np.zeros((60, 60), np.uint16) for n in range(9)}
    for number, mask in enumerate(small.values()):
        mask[10 : 15 + number % 3, 10:15] = 1
    write(tmp_path, **small)
    assert convert() == []
    large = {f"u{n}": np.zeros((60, 60), np.uint16) for n in range(9)}
    for number, mask in enumerate(large.values()):
        mask[10 : 19 + number % 3, 10:19] = 1
    write(tmp_path, **large)
    assert convert() == [("warning", "drift", "")]
    assert rows(tmp_path)[0]["text"].startswith("batch 2: median size of objects 90, of the others 30")
    assert {row["sample"][0]: row["batch"] for row in rows(tmp_path, "samples.csv")} == {"s": "1", "u": "2"}


def test_images_without_annotation_are_listed(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC, b=DISC)
    (tmp_path / "masks" / "b.tif").unlink()
    assert convert() == [("warning", "unannotated", "")]
    assert rows(tmp_path)[0]["text"] == "1 of 2 images have no annotation: b"


def test_the_same_image_twice_is_found(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC, b=RING)
    tif(tmp_path / "images" / "b.tif", tifffile.imread(tmp_path / "images" / "a.tif"))
    assert ("warning", "twin", "b") in convert()


def test_the_terminal_lists_findings_of_all_data_sets(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a=RING)
    convert()
    (tmp_path / "results" / "groundtruth").mkdir(parents=True)
    (tmp_path / "cells.check").rename(tmp_path / "results" / "groundtruth" / "cells.check")
    source = {"images": "unused", "annotations": [{"format": "labels", "path": "unused"}]}
    config = {"results": f"{tmp_path}/results", "datasets": {"cells": source, "new": source}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit) as status:
        main([f"{tmp_path}/config.yaml"])
    assert status.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"cells: 1 things to look at: {tmp_path}/results/groundtruth/cells.check/check.html",
        "  warning, hole: a (z 0, y 8, x 8) object 1 has a hole of 16 voxels",
        "new: was not checked yet",
    ]


def test_headers_that_say_otherwise_are_told_once(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, a=DISC, b=RING)
    for name in "ab":
        gray = tifffile.imread(tmp_path / "images" / f"{name}.tif")
        tifffile.imwrite(
            tmp_path / "images" / f"{name}.tif", gray, imagej=True, resolution=(2, 2), metadata={"unit": "um"}
        )
    assert ("warning", "pixel_size", "") in convert(pixel_size={"x": 1})
    (text,) = [row["text"] for row in rows(tmp_path) if row["kind"] == "pixel_size"]
    assert text.startswith("2 of 2 images (as a) say that pixel_size is {y: 0.5, x: 0.5} (micrometres)")
    assert f"groundtruth: cells: {text}" in caplog.messages
    assert "pixel_size" not in [kind for _, kind, _ in convert()]
    assert "pixel_size" not in [kind for _, kind, _ in convert(pixel_size={"y": 0.502, "x": 0.498})]
    assert "pixel_size" not in [kind for _, kind, _ in convert(pixel_size={"y": 0.5, "x": 0.5})]


def with_size(path: Path, array: np.ndarray, size: float, **metadata: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, imagej=True, metadata={"unit": "um"} | metadata, resolution=(1 / size, 1 / size))


def texts_of(folder: Path, kind: str) -> list[str]:
    return [row["text"] for row in rows(folder) if row["kind"] == kind]


def test_images_whose_pixels_differ_are_told_once_and_each_keeps_its_own(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC, b=DISC, c=DISC, d=DISC)
    for name, size in {"a": 0.5, "b": 0.501, "c": 0.25, "d": None}.items():
        if size:
            with_size(tmp_path / "images" / f"{name}.tif", tifffile.imread(tmp_path / "images" / f"{name}.tif"), size)
    convert()
    (text,) = texts_of(tmp_path, "pixel_size")
    assert text == (
        "2 of 4 images (as c) have pixels of {z: 1, y: 0.25, x: 0.25} micrometres, but those of a have {z: 1, y: 0.5, "
        "x: 0.5}; "
        "each counts as its file says: if all have one size, say it in pixel_size"
    )
    sizes = {name: Result(tmp_path / "cells.zarr" / name / "labels" / "instances").pixel_size for name in "acd"}
    assert sizes == {"a": pytest.approx((1, 0.5, 0.5)), "c": pytest.approx((1, 0.25, 0.25)), "d": (1, 1, 1)}
    convert(pixel_size={"z": 1, "y": 0.5, "x": 0.5})
    assert [text.split(" say")[0] for text in texts_of(tmp_path, "pixel_size")] == ["1 of 4 images (as c)"]


def test_a_size_that_leaves_out_an_axis_does_not_count_and_is_told(tmp_path: Path, convert: Convert) -> None:
    volume = np.repeat(DISC[None], 3, axis=0)
    with_size(tmp_path / "images" / "a.tif", volume.astype(np.uint8), 0.5, axes="ZYX")
    tif(tmp_path / "masks" / "a.tif", volume)
    convert()
    (text,) = texts_of(tmp_path, "pixel_size")
    assert text.startswith("1 of 1 images (as a) say of pixel_size no more than {y: 0.5, x: 0.5} (micrometres)")
    assert Result(tmp_path / "cells.zarr" / "a").pixel_size == (1, 1, 1)
    convert(pixel_size={"z": 2})
    assert not texts_of(tmp_path, "pixel_size")
    assert Result(tmp_path / "cells.zarr" / "a").pixel_size == pytest.approx((2, 0.5, 0.5))


def test_axes_that_differ_from_those_of_the_first_image_are_told(tmp_path: Path, convert: Convert) -> None:
    volume = np.repeat(DISC[None], 3, axis=0)
    for name, axes in {"a": "ZYX", "b": "CYX"}.items():
        with_size(tmp_path / "images" / f"{name}.tif", volume.astype(np.uint8), 1.0, axes=axes, spacing=1.0)
        tif(tmp_path / "masks" / f"{name}.tif", volume)
    convert()
    assert texts_of(tmp_path, "axes") == [
        "1 of 2 images (as b) say that their axes are cyx, but those of the first image are zyx, which counts"
    ]
    convert(axes="zyx")
    assert texts_of(tmp_path, "axes") == [
        "1 of 2 images (as b) say that their axes are cyx, but axes is zyx, which counts"
    ]
