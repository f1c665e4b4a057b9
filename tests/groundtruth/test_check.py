from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine
from unet_core.groundtruth.check import lint, page
from unet_core.groundtruth.check.batches import batch_numbers
from unet_core.groundtruth.check.command import main
from unet_core.groundtruth.check.lint import Finding
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.in_place import InPlace
from unet_core.method import VERSIONS
from unet_core.records import record_path, see
from unet_core.runtime import UserError
from unet_core.sealed import seal
from unet_core.store.store import Result

Convert = Callable[..., list[tuple[str, str, str]]]

RING = np.zeros((30, 40), np.uint16)
RING[5:15, 5:15], RING[8:12, 8:12] = 1, 0
DISC = np.zeros((30, 40), np.uint16)
DISC[10:20, 10:30] = 3


def rows(folder: Path, table: str = "findings.csv") -> list[dict[str, str]]:
    with (folder / "cells.check" / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def texts_of(folder: Path, kind: str) -> list[str]:
    return [row["text"] for row in rows(folder) if row["kind"] == kind]


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


# ---- the data set as a whole ----


def test_a_data_set_without_any_object_is_an_error_of_the_check(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, a=DISC, b=DISC)
    ignored = [{"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif", "ignore_label": 3}]
    assert convert(annotations=ignored) == [("error", "nothing", "")]
    (text,) = texts_of(tmp_path, "nothing")
    assert text.startswith("no object in any of the 2 annotated images; 2 have ignored pixels; usual causes: ")
    assert f"groundtruth: cells: {text}" in caplog.messages
    assert convert() == []
    # Images that could not be read may have objects.
    tif(tmp_path / "masks" / "b.tif", DISC[:10])
    with pytest.raises(UserError):
        convert(annotations=ignored)
    assert [row["kind"] for row in rows(tmp_path)] == ["file"]


def test_a_class_that_is_not_in_the_training_samples_is_told(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=DISC, b=RING)
    source = {"format": "colours", "path": f"{tmp_path}/masks/{{stem}}.tif", "classes": {"3": "cell", "1": "dead"}}
    options = {"annotations": [source], "classes": ["cell", "dead"]}
    assert "absent" not in [kind for _, kind, _ in convert(**options)]
    assert ("warning", "absent", "") in convert(**options, split={"test": ["b"], "validation": 0})
    assert texts_of(tmp_path, "absent") == [
        "class dead has no pixel in the 1 images for training; 1 others have some (as b, test): it is not learnt"
    ]
    columns = [(row["objects of cell"], row["objects of dead"]) for row in rows(tmp_path, "samples.csv")]
    assert columns == [("1", "0"), ("0", "1")]


def test_frames_without_an_object_are_told_by_film(tmp_path: Path, convert: Convert) -> None:
    frames = np.stack([DISC, DISC * 0, DISC * 0, DISC])
    gray = np.random.default_rng(0).normal(100, 10, frames.shape).astype(np.uint8)
    tif(tmp_path / "images" / "film.tif", gray)
    tif(tmp_path / "masks" / "film.tif", frames)
    assert convert(axes="tyx") == [("warning", "empty", "film_0001")]
    assert texts_of(tmp_path, "empty")[0].startswith("2 of 4 frames of film.tif have no object, and are learnt as")


# ---- batches ----


def batches_of(folder: Path) -> dict[str, str]:
    return {row["sample"]: row["batch"] for row in rows(folder, "samples.csv")}


def test_batches_outlast_a_new_version_of_the_method_and_other_options(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a=RING, b=DISC)
    convert()
    write(tmp_path, c=DISC)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}
    monkeypatch.setitem(VERSIONS, "groundtruth", VERSIONS["groundtruth"] + 1)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif", "border": 1}
    convert(annotations=[source], pixel_size={"y": 2, "x": 2})
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}
    # What is annotated anew is a batch of its own.
    tif(tmp_path / "masks" / "a.tif", RING * 2)
    convert()
    assert batches_of(tmp_path) == {"a": "3", "b": "1", "c": "2"}


def test_a_sample_that_could_not_be_read_for_a_while_keeps_its_batch(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=RING, b=DISC)
    convert()
    whole = (tmp_path / "masks" / "b.tif").read_bytes()
    (tmp_path / "masks" / "b.tif").write_bytes(whole[:-100])
    write(tmp_path, c=DISC)
    with pytest.raises(UserError):
        convert()
    (tmp_path / "masks" / "b.tif").write_bytes(whole)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}


def test_batches_of_release_0_1_0_are_taken_over(tmp_path: Path, convert: Convert) -> None:
    write(tmp_path, a=RING, b=DISC)
    (tmp_path / "cells.check").mkdir()
    # It kept the digests of labels, which change with the version.
    (tmp_path / "cells.check" / "batches.json").write_text('{"a": ["0e37fa", 1], "b": ["5d3c1b", 2]}', encoding="utf-8")
    convert()
    write(tmp_path, c=DISC)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize("name", ["findings.csv", "samples.csv", "check.html"])
def test_damage_of_each_file_of_the_check_is_mended_by_the_step(tmp_path: Path, convert: Convert, name: str) -> None:
    write(tmp_path, a=RING, b=DISC)
    convert()
    path = tmp_path / "cells.check" / name
    whole, stores = path.read_bytes(), times_of(tmp_path / "cells.zarr")
    for place in (0, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        convert()
        assert path.read_bytes() == whole
    assert times_of(tmp_path / "cells.zarr") == stores


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_damaged_batches_are_told_kept_aside_and_begin_anew(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, a=RING, b=DISC)
    convert()
    write(tmp_path, c=DISC)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}
    path = tmp_path / "cells.check" / "batches.json"
    whole = path.read_text()
    harmed = whole.replace("\n2\n", "\n3\n")
    assert harmed != whole
    path.write_text(harmed)
    caplog.clear()
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "1"}
    (told,) = [record.message for record in caplog.records if "is damaged" in record.message]
    assert told.startswith(f"groundtruth: {path} is damaged (its checksum is another one) and kept as")
    aside = path.with_name("batches.json.damaged")
    assert aside.read_text() == harmed and aside.name in told and "\n" not in told
    # As the message says.
    path.write_text(whole)
    convert()
    assert batches_of(tmp_path) == {"a": "1", "b": "1", "c": "2"}


def test_any_bit_of_the_batches_is_missed(tmp_path: Path) -> None:
    path, annotations = tmp_path / "batches.json", {"a": "3f", "samples": "5c"}
    batch_numbers(path, annotations, {*annotations})
    expected = batch_numbers(path, annotations | {"c": "77"}, {*annotations, "c"})
    assert expected == {"a": 1, "samples": 1, "c": 2}
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        numbers = batch_numbers(path, annotations | {"c": "77"}, {*annotations, "c"})
        aside = path.with_name("batches.json.damaged")
        assert numbers == (dict.fromkeys(numbers, 1) if aside.exists() else expected), (bit // 8, bit % 8)
        aside.unlink(missing_ok=True)


@pytest.mark.parametrize("former", [{"samples": ["annotation 1", 4]}, {"checksum": ["annotation 2", 4]}])
def test_batches_of_former_versions_are_read_and_get_a_checksum(tmp_path: Path, former: dict[str, list[Any]]) -> None:
    path, (name, (mark, _)) = tmp_path / "batches.json", *former.items()
    path.write_text(json.dumps(former))
    annotations = {name: mark.removeprefix("annotation ")}
    assert batch_numbers(path, annotations, {name}) == {name: 4}
    written = json.loads(path.read_text())
    assert written["samples"] == former and isinstance(written["checksum"], str)
    assert batch_numbers(path, annotations, {name}) == {name: 4}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [1, 2]}', '{"a": ["annotation x", "y"]}'])
def test_a_damaged_file_of_batches_counts_as_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / "batches.json").write_text(text, encoding="utf-8")
    assert batch_numbers(tmp_path / "batches.json", {"a": "x"}, {"a"}) == {"a": 1}


# ---- pictures ----


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("in_place", ["never", "always"])
def test_no_more_is_read_for_a_picture_than_it_shows(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, in_place: str, fails: bool
) -> None:
    holes = np.zeros((1500, 1300), np.uint16)
    for number, (y, x) in enumerate([(0, 0), (700, 640), (1400, 1200), (1480, 20)], start=1):
        holes[y : y + 20, x : x + 20] = number
        holes[y + 5 : y + 9, x + 5 : x + 9] = 0
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.random.default_rng(0).integers(0, 255, holes.shape, np.uint8))
    np.save(tmp_path / "masks" / "a.npy", holes)
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.npy"}
    # Painted over one another, so that nothing is stored.
    options = {"annotations": [source] * (1 + fails), "images": f"{tmp_path}/images/*.npy", "in_place": in_place}
    read: list[int] = []
    drawing = False
    for kind in (Result, InPlace):

        def counted(self: Any, box: Box, own: Any = kind.read) -> np.ndarray:
            read.extend([math.prod(box.shape)] * drawing)
            return own(self, box)

        monkeypatch.setattr(kind, "read", counted)
    pictured = page._pictured

    def watched(*arguments: Any) -> Any:
        nonlocal drawing
        drawing = True
        shown = pictured(*arguments)
        drawing = False
        return shown

    monkeypatch.setattr(page, "_pictured", watched)
    if fails:
        with pytest.raises(UserError):
            convert(**options)
    else:
        assert convert(**options) == [("warning", "hole", "a")] * 4
    html = (tmp_path / "cells.check" / "check.html").read_text(encoding="utf-8")
    assert html.count("data:image/") == 4 * (1 + fails)
    assert read == [128 * 128] * 8


def test_a_picture_of_a_place_shows_its_surroundings(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((300, 200), np.uint16)
    mask[285:297, 3:15], mask[288:292, 6:10] = 7, 0
    write(tmp_path, a=mask)
    shown: list[Any] = []

    def drawn(image: np.ndarray, labels: np.ndarray, place: Any, side: int = 128) -> str:
        shown.append((image, labels, place))
        return "data:image/png;base64,"

    monkeypatch.setattr("unet_core.groundtruth.check.figures.outline_picture", drawn)
    assert convert() == [("warning", "hole", "a")]
    ((image, labels, place),) = shown
    np.testing.assert_array_equal(labels, mask[172:300, :128])
    np.testing.assert_array_equal(image, tifffile.imread(tmp_path / "images" / "a.tif")[172:300, :128])
    assert place == [288 - 172, 6]


@pytest.mark.parametrize("in_place", ["never", "always"])
def test_a_picture_of_a_sample_as_a_whole_has_labels_in_their_place(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, in_place: str
) -> None:
    mask = np.zeros((900, 700), np.uint16)
    mask[100:500, 200:400] = 1
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", (mask * 200).astype(np.uint8))
    tif(tmp_path / "masks" / "a.tif", mask)
    shown: list[Any] = []

    def drawn(image: np.ndarray, labels: np.ndarray, place: Any, side: int = 128) -> str:
        shown.append((image, labels, place))
        return "data:image/png;base64,"

    monkeypatch.setattr("unet_core.groundtruth.check.figures.outline_picture", drawn)
    monkeypatch.setattr(lint, "_misplaced", lambda *given: [Finding("warning", "misplaced", None, "as a whole")])
    convert(images=f"{tmp_path}/images/*.npy", in_place=in_place)
    ((image, labels, place),) = shown
    assert max(image.shape) <= 640 and image.shape == labels.shape and place is None
    assert ((image > 0) == (labels > 0)).mean() > 0.98


# ---- the terminal ----


def checked(folder: Path, convert: Convert, *others: str) -> str:
    """Path of a configuration whose data set `cells` was converted, with others beside it."""
    (folder / "results" / "groundtruth").mkdir(parents=True)
    (folder / "cells.check").rename(folder / "results" / "groundtruth" / "cells.check")
    source = {"images": "unused", "annotations": [{"format": "labels", "path": "unused"}]}
    config = {"results": f"{folder}/results", "datasets": dict.fromkeys(["cells", *others], source)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return f"{folder}/config.yaml"


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, list[str]]:
    """Exit status and lines of the command."""
    with pytest.raises(SystemExit) as status:
        main(arguments)
    return status.value.code, capsys.readouterr().out.splitlines()


def test_the_terminal_shows_all_data_sets_on_one_screen(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a=RING, b=RING, c=DISC, d=np.pad(DISC, 5), e=DISC)
    (tmp_path / "masks" / "e.tif").unlink()
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif", "ignore_label": 3}
    convert(annotations=[source], classes=["cell", "dead"], split={"test": ["b"], "validation": 0})
    config = checked(tmp_path, convert, "new")
    ignored = 100 * 400 / (3 * 1200 + 40 * 50)
    assert printed([config], capsys) == (
        0,
        [
            "cells: 5 images, 30 x 40 px (4) or 40 x 50 px (1), uint8, 1 channel, 1 x 1 µm a pixel",
            f"  objects: 2 in 4 annotated images (cell 2, dead 0); ignored: {ignored:.3g} % of their pixels",
            "  split: train 3, test 1, unannotated 1",
            "  warning, absent: class dead has no pixel in the 3 images for training: it is not learnt",
            "  warning, hole: 2 in 2 images, as a (z 0, y 8, x 8): object 1 has a hole of 16 voxels",
            "  warning, empty: 2 in 2 images, as c: is annotated and has no object",
            "  warning, unannotated: 1 of 5 images have no annotation: e",
            f"  pictures: {tmp_path}/results/groundtruth/cells.check/check.html",
            "new: was not checked yet",
        ],
    )


def test_after_a_run_that_failed_its_status_is_handed_on_and_the_check_is_dated(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a=RING, b=DISC)
    tif(tmp_path / "masks" / "b.tif", DISC[:10])
    with pytest.raises(UserError):
        convert()
    config = checked(tmp_path, convert)
    status, lines = printed([config, "--status", "3"], capsys)
    assert status == 3 and lines[0].startswith("The run ended with status 3: its messages above say why.")
    assert lines[1].startswith("cells, written 20") and lines[2].endswith("1 others were not converted, see the errors")
    assert lines[4].startswith("  error, file: b: ") and "nothing to look at" not in " ".join(lines)
    # By itself, errors end with 1.
    assert printed([config], capsys)[0] == 1


@pytest.mark.parametrize("known", [True, False])
def test_damaged_tables_are_told_and_not_shown(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    write(tmp_path, a=RING)
    convert()
    config = checked(tmp_path, convert)
    table = tmp_path / "results/groundtruth/cells.check/samples.csv"
    outputs = {"groundtruth/cells.check/samples.csv": see(table)} if known else {}
    record = {"wanted": {}, "stores": {}, "parts": {}, "used": {}, "outputs": outputs}
    record_path(tmp_path / "results", "groundtruth/cells").parent.mkdir(parents=True)
    record_path(tmp_path / "results", "groundtruth/cells").write_text(seal(record))
    assert printed([config], capsys)[0] == 0
    row = table.read_text()
    for harmed in (row.replace("a,train,1,1,", "a,train,1,2,"), row.replace("a,train,1,1,", "a,train,1,q,")):
        assert harmed != row
        table.write_text(harmed)
        status, lines = printed([config], capsys)
        if known:
            assert lines == [f"cells: {table} is damaged; delete it, and the next run writes it again"]
        elif "1,q," in harmed:
            assert lines[0].endswith("cells.json, and the next run writes its tables again")
        assert status == int(known or "1,q," in harmed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "datasets: {a: {image: b}}",
            "config.yaml: the configuration has mistakes:\n  - datasets.a.images: missing",
        ),
        ("a: [b", "config.yaml: is no YAML ("),
        ("- a", "config.yaml: must hold keys with values"),
        ("", "config.yaml: must hold keys with values"),
        (None, "config.yaml: cannot be read (No such file or directory)"),
        (b"a: \xff", "config.yaml: cannot be read ("),
    ],
)
def test_a_wrong_configuration_is_a_message_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes | None, message: str
) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, lines = printed([str(path)], capsys)
    assert message in status and not lines
    # A run that failed has told it.
    assert printed([str(path), "--status", "2"], capsys) == (2, [])


def test_the_screen_of_many_samples_needs_their_tables_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], convert: Convert
) -> None:
    write(tmp_path, a=RING)
    convert()
    config = checked(tmp_path, convert)
    folder = tmp_path / "results" / "groundtruth" / "cells.check"
    for name in ("samples.csv", "findings.csv"):
        head, line = (folder / name).read_text(encoding="utf-8").splitlines()
        (folder / name).write_text("\n".join([head, *[line] * 10_000]) + "\n", encoding="utf-8")
    status, lines = printed([config], capsys)
    assert status == 0 and lines[1].startswith("  objects: 10,000 in 10,000 annotated images (cell 10,000)")
    assert lines[3].startswith("  warning, hole: 10,000 in 1 images, as a (z 0, y 8, x 8)") and len(lines) == 5


@pytest.mark.parametrize("status", [0, 3])
def test_make_hands_the_status_of_the_run_on(tmp_path: Path, status: int) -> None:
    root = Path(__file__).parent.parent.parent
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(root / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/snakemake").write_text(f"#!/bin/sh\nexit {status}\n")
    # What the command itself is given and gives back.
    (tmp_path / ".venv/bin/python").write_text('#!/bin/sh\necho "$@"\nexit "${6:-1}"\n')
    for tool in ("snakemake", "python"):
        (tmp_path / ".venv/bin" / tool).chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    call = ["make", "--silent", "check-annotations", "CONFIG=my own.yaml"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"-m unet_core check my own.yaml --status {status}"]
    assert (done.returncode == 0) == (status == 0)


# ---- headers ----


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
