"""Folders of many layouts: what is proposed for them is accepted by the pipeline, and has the objects they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from roifile import ImagejRoi

from tests.annotations import scene
from unet_core.config.options import Config
from unet_core.config.parse import parse_config
from unet_core.demo import run_lengths
from unet_core.groundtruth.canvas import paint
from unet_core.groundtruth.samples import check_data
from unet_core.images.readers import open_image, to_czyx
from unet_core.init.command import main, run
from unet_core.runtime import UserError

HEIGHT, WIDTH = 40, 48


def image(seed: int, *shape: int) -> np.ndarray:
    """Noise, as of a camera."""
    return np.random.default_rng(seed).normal(100, 20, shape or (HEIGHT, WIDTH)).astype(np.uint8)


def labels(seed: int) -> np.ndarray:
    """Five objects, of which the first two touch; others for each seed."""
    found = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, left in enumerate((2, 10, 20, 30, 38), start=1):
        found[4 + seed : 30 - number, left : left + 8 - 2 * (number > 1)] = number
    return found


def apart(seed: int) -> np.ndarray:
    """Objects that do not touch."""
    found = labels(seed)
    found[:, 9] = 0
    return found


def write(path: Path, array: np.ndarray) -> None:
    """An array as the file that its name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack")


class Case(NamedTuple):
    """What is to be proposed: keys of the data set, of its source, and objects of the samples by name."""

    keys: dict[str, Any]
    source: dict[str, Any]
    objects: dict[str, np.ndarray]


def by_folder(folder: Path) -> Case:
    for n in range(3):
        write(folder / "images" / f"a{n}.tif", image(n))
        write(folder / "masks" / f"a{n}.tif", labels(n))
    source = {"format": "labels", "path": "data/masks/{stem}.tif"}
    return Case({"images": "data/images/*.tif"}, source, {f"a{n}": labels(n) for n in range(3)})


def odd_names(folder: Path) -> Case:
    place = folder / "plate [1] #2: é" / "$X no"
    for n in range(3):
        write(place / "raw" / f"img[{n}] *, #x: ü.tif", image(n))
        write(place / "seg" / f"img[{n}] *, #x: ü_seg.png", labels(n).astype(np.uint8))
    start = "data/plate [1] #2: é/[$]X no"
    source = {"format": "labels", "path": f"{start}/seg/{{stem}}_seg.png"}
    return Case({"images": f"{start}/raw/*.tif"}, source, {f"img[{n}] *, #x: ü": labels(n) for n in range(3)})


def cellpose(folder: Path) -> Case:
    for n in range(3):
        write(folder / f"x{n}_img.png", image(n))
        write(folder / f"x{n}_cp_masks.png", labels(n))
    source = {"format": "cellpose", "path": "data/{stem}_cp_masks.png"}
    return Case({"images": "data/{stem}_img.png"}, source, {f"x{n}": labels(n) for n in range(3)})


def beside(folder: Path) -> Case:
    for n in range(3):
        write(folder / f"c{n}.tif", image(n))
        write(folder / f"c{n}_mask.tif", labels(n))
    source = {"format": "labels", "path": "data/{stem}_mask.tif"}
    return Case({"images": "data/*[0-9].tif"}, source, {f"c{n}": labels(n) for n in range(3)})


def nested(folder: Path) -> Case:
    for n in range(3):
        write(folder / f"case{n}" / "image.tif", image(n))
        write(folder / f"case{n}" / "mask.tif", labels(n))
    source = {"format": "labels", "path": "data/*/mask.tif"}
    return Case({"images": "data/*/image.tif"}, source, {f"case{n}_image": labels(n) for n in range(3)})


def split_folders(folder: Path) -> Case:
    for n, part in enumerate(("train", "train", "val", "test")):
        write(folder / part / "images" / f"s{n}.png", image(n))
        write(folder / part / "labels" / f"s{n}.png", labels(n))
    source = {"format": "labels", "path": "data/*/labels/{stem}.png"}
    keys = {"images": "data/*/images/*.png", "split": {"test": ["s3"], "validation": ["s2"]}}
    return Case(keys, source, {f"s{n}": labels(n) for n in range(4)})


def dsb(folder: Path) -> Case:
    for n in range(3):
        write(folder / f"id{n}" / "images" / f"id{n}.png", np.repeat(image(n)[..., None], 3, -1))
        for number in range(1, 6):
            mask = (labels(n) == number) * np.uint8(255)
            write(folder / f"id{n}" / "masks" / f"m{number}{n}.png", mask)
    source = {"format": "masks", "path": "data/{stem}/masks/*.png"}
    keys = {"images": "data/*/images/*.png", "axes": "yxc", "channels": [0]}
    return Case(keys, source, {f"id{n}": labels(n) for n in range(3)})


def ctc(folder: Path) -> Case:
    for n in range(3):
        write(folder / "01" / f"t00{n}.tif", image(n))
        write(folder / "01_GT" / "SEG" / f"man_seg00{n}.tif", labels(n))
    return Case(
        {"images": "data/01/*.tif"}, {"format": "ctc", "path": "data/01_GT"}, {f"t00{n}": labels(n) for n in range(3)}
    )


def volume(folder: Path) -> Case:
    planes = np.stack([image(0)] * 6).astype(np.float32) + np.arange(6)[:, None, None]
    write(folder / "train-image.tif", planes.astype(np.uint8))
    write(folder / "train-labels.tif", np.stack([labels(0)] * 6))
    source = {"format": "labels", "path": "data/train-labels.tif"}
    keys = {"images": "data/train-image.tif", "axes": "zyx", "split": {"test": 0, "validation": 0}}
    return Case(keys, source, {"train-image": np.stack([labels(0)] * 6)})


def pages(folder: Path) -> Case:
    write(folder / "img.tif", image(0, 5, HEIGHT, WIDTH))
    write(folder / "gt.tif", np.stack([labels(n) for n in range(5)]))
    keys = {"images": "data/img.tif", "axes": "tyx", "split": {"test": ["img_0004"], "validation": ["img_0003"]}}
    source = {"format": "labels", "path": "data/gt.tif"}
    return Case(keys, source, {f"img_000{n}": labels(n) for n in range(5)})


def hdf5(folder: Path) -> Case:
    for n in range(2):
        with h5py.File(folder / f"v{n}.h5", "w") as file:
            file["raw"], file["label"] = np.stack([image(n)] * 6), np.stack([labels(n)] * 6)
            file["raw"].attrs["element_size_um"] = (1, 0.5, 0.5)
    source = {"format": "labels", "path": "data/{stem}.h5:label"}
    keys = {"images": "data/*.h5:raw", "axes": "zyx", "split": {"validation": 0}}
    return Case(keys, source, {f"v{n}": np.stack([labels(n)] * 6) for n in range(2)})


def ome_zarr(folder: Path) -> Case:
    for n in range(2):
        root = zarr.open_group(folder / f"w{n}.zarr", mode="w", zarr_format=2)
        for group, data in ((root, image(n)), (root.create_group("labels/cells"), labels(n))):
            group.create_array("0", data=data)
            axes = [{"name": axis, "type": "space"} for axis in "yx"]
            group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    source = {"format": "labels", "path": "data/{stem}.zarr:labels/cells"}
    keys = {"images": "data/*.zarr", "split": {"validation": 0}}
    return Case(keys, source, {f"w{n}": labels(n) for n in range(2)})


def masks(folder: Path, drawn: Callable[[int], np.ndarray], objects: Callable[[int], np.ndarray], **keys: Any) -> Case:
    """Images, and masks that a function draws."""
    for n in range(3):
        write(folder / "imgs" / f"a{n}.png", image(n))
        write(folder / "labels" / f"a{n}.png", drawn(n))
    return Case(
        {"images": "data/imgs/*.png"},
        {"path": "data/labels/{stem}.png"} | keys,
        {f"a{n}": objects(n) for n in range(3)},
    )


def binary(folder: Path) -> Case:
    return masks(folder, lambda n: (apart(n) > 0) * np.uint8(255), apart, format="binary")


def boundaries(folder: Path) -> Case:
    def cells(n: int) -> np.ndarray:
        found = np.zeros((HEIGHT, WIDTH), np.uint16)
        found[: 15 + n, :20], found[17 + n :, :20], found[:, 22:] = 1, 2, 3
        return found

    return masks(folder, lambda n: (cells(n) > 0) * np.uint8(255), cells, format="boundaries")


def smooth(folder: Path) -> Case:
    def drawn(n: int) -> np.ndarray:
        found = (apart(n) > 0) * 255.0
        found[:, [8, 10, 38]] = 0
        for axis in (0, 1):
            found = (np.roll(found, 1, axis) + 4 * found + np.roll(found, -1, axis)) / 6
        return found.round().astype(np.uint8)

    return masks(folder, drawn, lambda n: label_above(drawn(n), 127), format="binary", threshold=127)


def label_above(values: np.ndarray, threshold: int) -> np.ndarray:
    """Connected parts of values above a threshold."""
    from skimage.measure import label

    return label(values > threshold, connectivity=1)


def colours(folder: Path) -> Case:
    def drawn(n: int) -> np.ndarray:
        table = np.array([[0, 0, 0], *[[255, 0, 0], [0, 0, 255]] * 3], np.uint8)
        return table[apart(n)]

    case = masks(folder, drawn, apart, format="colours", classes={"#0000ff": "class1", "#ff0000": "class2"})
    return case._replace(keys=case.keys | {"classes": ["class1", "class2"]})


def gray_classes(folder: Path) -> Case:
    def drawn(n: int) -> np.ndarray:
        return np.array([0, 1, 2, 1, 2, 1], np.uint8)[apart(n)]

    case = masks(folder, drawn, apart, format="colours", classes={"1": "class1", "2": "class2"})
    return case._replace(keys=case.keys | {"classes": ["class1", "class2"]})


def ignored(folder: Path) -> Case:
    def drawn(n: int) -> np.ndarray:
        found = labels(n).astype(np.int16)
        found[34:] = -1
        return found

    for n in range(3):
        write(folder / "imgs" / f"a{n}.tif", image(n))
        write(folder / "annot" / f"a{n}.tif", drawn(n))
    source = {"format": "labels", "path": "data/annot/{stem}.tif", "ignore_label": -1}
    return Case({"images": "data/imgs/*.tif"}, source, {f"a{n}": labels(n) for n in range(3)})


def dense(folder: Path) -> Case:
    return masks(folder, lambda n: labels(n) + np.uint16(1), labels, format="labels", background=1)


def table(folder: Path) -> Case:
    rows = ["ImageId,EncodedPixels"]
    for n in range(3):
        write(folder / "images" / f"k{n}.tif", image(n, HEIGHT, WIDTH, 3))
        rows += [f"k{n},{run_lengths(labels(n) == number)}" for number in range(1, 6)]
    (folder / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    source = {"format": "rle", "path": "data/train.csv"}
    return Case({"images": "data/images/*.tif", "axes": "yxc"}, source, {f"k{n}": labels(n) for n in range(3)})


def prefixes(folder: Path) -> Case:
    for n in range(3):
        write(folder / f"img_{n}.tif", image(n))
        write(folder / f"mask_{n}.tif", labels(n))
    source = {"format": "labels", "path": "data/mask_{stem}.tif"}
    return Case({"images": "data/img_{stem}.tif"}, source, {str(n): labels(n) for n in range(3)})


def folder_of_rois(folder: Path) -> Case:
    objects = {}
    for n in range(3):
        write(folder / "img" / f"a{n}.tif", image(n))
        (folder / "rois" / f"a{n}").mkdir(parents=True)
        objects[f"a{n}"] = np.zeros((HEIGHT, WIDTH), np.uint16)
        for number, left in enumerate((2, 12, 22), start=1):
            box = [(left, 3), (left + 6, 3), (left + 6, 9 + n), (left, 9 + n)]
            roi = ImagejRoi.frompoints(np.array(box, np.float32))
            (folder / "rois" / f"a{n}" / f"{number}.roi").write_bytes(roi.tobytes())
            objects[f"a{n}"][3 : 9 + n, left : left + 6] = number
    return Case({"images": "data/img/*.tif"}, {"format": "imagej", "path": "data/rois/{stem}/*.roi"}, objects)


def inverted(folder: Path) -> Case:
    return masks(folder, lambda n: (apart(n) == 0) * np.uint8(255), apart, format="binary", background=255)


def colours_of_objects(folder: Path) -> Case:
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
    keys = ["#0000ff", "#00ff00", "#00ffff", "#ff0000", "#ffff00"]
    case = masks(folder, lambda n: table[labels(n)], labels, format="colours", classes=dict.fromkeys(keys, "cell"))
    return case._replace(keys=case.keys | {"classes": ["cell"]})


LAYOUTS = (
    *(prefixes, folder_of_rois, inverted, colours_of_objects),
    *(by_folder, odd_names, cellpose, beside, nested, split_folders, dsb, ctc, volume, pages, hdf5, ome_zarr),
    *(binary, boundaries, smooth, colours, gray_classes, ignored, dense, table),
)


def proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, dict[str, Any], str]:
    """What is written for the folder data, as the pipeline reads it and as YAML has it, and what is printed."""
    monkeypatch.chdir(tmp_path)
    printed = run("data", Path("config.yaml"))
    raw = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    return parse_config(raw), raw, printed


def painted(cfg: Config, name: str) -> dict[str, np.ndarray]:
    """Objects of each annotated sample of a data set."""
    found = {}
    for sample in check_data(cfg)[name]:
        if sample.split == "unannotated":
            continue
        with open_image(sample.image, sample.internal) as opened:
            shape = to_czyx(opened, sample.axes, sample.time).shape[1:]
        found[sample.name] = paint(sample, cfg.datasets[name], cfg.groundtruth.overlaps, shape).stored()[0].squeeze()
    return found


def same_objects(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether label images have the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return one.shape == other.shape and all(len(np.unique(row)) == pairs.shape[1] for row in pairs)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_layout_is_recognised_and_has_its_objects(
    layout: Callable[[Path], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    case = layout(folder)
    cfg, raw, printed = proposed(tmp_path, monkeypatch)
    (name,) = raw["datasets"]
    keys = raw["datasets"][name]
    (source,) = keys.pop("annotations")
    assert keys == case.keys and source == case.source
    found = painted(cfg, name)
    assert set(found) == set(case.objects)
    assert all(same_objects(found[sample], objects) for sample, objects in case.objects.items())
    assert f"matched      {len(found)} of {len(found)}" in printed and "problem" not in printed


@pytest.mark.parametrize(
    "name", [name for name in scene.WRITERS if name not in ("binary", "boundaries", "ctc", "cellpose")]
)
def test_each_format_is_told_by_its_content(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / f"{scene.STEM}.tif", image(0, scene.HEIGHT, scene.WIDTH))
    scene.WRITERS[name](folder)
    cfg, raw, _ = proposed(tmp_path, monkeypatch)
    (dataset,) = raw["datasets"].values()
    assert dataset["annotations"][0]["format"] == name
    # MATLAB's types count where `classes` asks for them.
    if name != "matlab" and "classes" not in scene.LOSSES.get(name, ()):
        numbers = {"colours": {"class1", "class2", "class3"}, "yolo": {"0", "1"}}
        named = numbers.get(name, {"cell", "dead"})
        assert named <= set(dataset["classes"]) <= named | {"debris", "2"}
    assert all(objects.any() for objects in painted(cfg, "data").values())


def test_images_without_objects_add_no_class_and_their_empty_files_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        write(tmp_path / "data" / "images" / f"a{n}.png", image(n))
        (tmp_path / "data" / "labels").mkdir(exist_ok=True)
        text = "1 0.1 0.1 0.6 0.1 0.6 0.6\n" if n else ""
        (tmp_path / "data" / "labels" / f"a{n}.txt").write_text(text, encoding="utf-8")
    cfg, raw, told = proposed(tmp_path, monkeypatch)
    assert raw["datasets"]["data"]["classes"] == ["1"] and "not understood" not in told
    assert [bool(objects.any()) for objects in painted(cfg, "data").values()] == [False, True, True, True]


@pytest.mark.parametrize("ending", [".h5", ".hdf", ".HDF5"])
def test_arrays_are_found_in_files_of_every_ending_of_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / "data").mkdir()
    for n in range(3):
        with h5py.File(tmp_path / "data" / f"v{n}{ending}", "w") as file:
            file["volumes/raw"], file["volumes/labels/ids"] = image(n), labels(n)
    cfg, raw, _ = proposed(tmp_path, monkeypatch)
    assert raw["datasets"]["data"]["images"] == f"data/*{ending}:volumes/raw"
    assert [objects.tolist() for objects in painted(cfg, "data").values()] == [labels(n).tolist() for n in range(3)]


def test_files_for_the_images_of_a_folder_each_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    for n, part in enumerate(("train", "valid", "test")):
        write(tmp_path / "data" / part / f"r{n}.png", image(n))
        document = {
            "images": [{"id": 1, "file_name": f"r{n}.png", "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square]}],
            "categories": [{"id": 1, "name": "cell"}],
        }
        (tmp_path / "data" / part / "_annotations.coco.json").write_text(json.dumps(document), encoding="utf-8")
    cfg, raw, _ = proposed(tmp_path, monkeypatch)
    dataset = raw["datasets"]["data"]
    assert [source["path"].split("/")[1] for source in dataset["annotations"]] == ["test", "train", "valid"]
    assert dataset["split"] == {"test": ["r2"], "validation": ["r1"]} and dataset["sources"] == "first"
    assert [objects.sum() for objects in painted(cfg, "data").values()] == [100] * 3


def test_each_sequence_is_a_data_set_gold_before_silver_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sequence in ("01", "02"):
        for n in range(3):
            write(tmp_path / "data" / sequence / f"t00{n}.tif", image(n))
            for truth in ("GT", "ST")[n > 0 :]:
                write(tmp_path / "data" / f"{sequence}_{truth}" / "SEG" / f"man_seg00{n}.tif", labels(n))
    cfg, raw, _ = proposed(tmp_path, monkeypatch)
    assert set(raw["datasets"]) == {"data_01", "data_02"}
    dataset = raw["datasets"]["data_02"]
    assert [source["path"] for source in dataset["annotations"]] == ["data/02_GT", "data/02_ST"]
    assert dataset["sources"] == "first" and len(painted(cfg, "data_02")) == 3


def test_two_images_in_a_file_above_folders_of_others_stay_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(2):
        write(tmp_path / "data/a/images" / f"a{n}.tif", image(n))
        write(tmp_path / "data/a/masks" / f"a{n}.tif", labels(n))
    with h5py.File(tmp_path / "data/v.h5", "w") as file:
        file["one"], file["two"] = image(3), image(4)
    _, raw, _ = proposed(tmp_path, monkeypatch)
    assert {one["images"] for one in raw["datasets"].values()} == {
        "data/a/images/*.tif",
        "data/v.h5:one",
        "data/v.h5:two",
    }


def test_folders_without_annotations_are_a_data_set_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        write(tmp_path / "data" / "train" / "images" / f"a{n}.tif", image(n))
        write(tmp_path / "data" / "train" / "masks" / f"a{n}.tif", labels(n))
        write(tmp_path / "data" / "test" / "images" / f"b{n}.tif", image(n))
    _, raw, _ = proposed(tmp_path, monkeypatch)
    datasets = {one["images"]: one.get("annotations") for one in raw["datasets"].values()}
    source = {"format": "labels", "path": "data/train/masks/{stem}.tif"}
    assert datasets == {"data/train/images/*.tif": [source], "data/test/images/*.tif": None}


def test_masks_of_another_size_are_proposed_with_the_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write(tmp_path / "data" / "images" / f"a{n}.tif", image(n))
        write(tmp_path / "data" / "masks" / f"a{n}.tif", labels(n)[:20])
    _, raw, printed = proposed(tmp_path, monkeypatch)
    assert raw["datasets"]["data"]["annotations"][0]["path"] == "data/masks/{stem}.tif"
    told = "annotation has shape (20, 48), but its image has (40, 48) (and 2 more of the 3 that were read)"
    assert told in printed and printed.count("annotation has shape") == 1
    assert "problem: a0: data/masks/a0.tif" in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_large_folders_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    by_folder(tmp_path / "data")
    write(tmp_path / "data" / "zz" / "a.tif", image(0))
    monkeypatch.setattr("unet_core.init.survey.MAX_NAMES", 7)
    _, raw, printed = proposed(tmp_path, monkeypatch)
    assert list(raw["datasets"]) == ["data"] and "only the first" in printed


def test_unsure_things_are_marked_and_options_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    pages(tmp_path / "data")
    _, _, printed = proposed(tmp_path, monkeypatch)
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "# unsure: zyx for a volume\n    axes: tyx" in text and "unsure: zyx for a volume" in printed
    assert "make check-annotations CONFIG=config.yaml" in text and "CONFIG=config.yaml" in printed
    assert "1 counts" in printed


def test_of_two_folders_of_masks_that_of_objects_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write(tmp_path / "data" / "images" / f"a{n}.tif", image(n))
        write(tmp_path / "data" / "instances" / f"a{n}.tif", labels(n))
        write(tmp_path / "data" / "semantic" / f"a{n}.tif", (labels(n) > 0).astype(np.uint8))
    _, raw, printed = proposed(tmp_path, monkeypatch)
    assert raw["datasets"]["data"]["annotations"] == [{"format": "labels", "path": "data/instances/{stem}.tif"}]
    assert "semantic/a0.tif and 2 more also fits" in printed and "not taken" in printed


def test_images_without_annotation_are_allowed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    by_folder(tmp_path / "data")
    for n in (7, 8):
        write(tmp_path / "data" / "images" / f"b{n}.tif", image(n))
    cfg, raw, printed = proposed(tmp_path, monkeypatch)
    assert raw["datasets"]["data"]["unmatched"] == "allow" and len(painted(cfg, "data")) == 3
    assert "matched      3 of 5" in printed and "b7.tif, b8.tif" in printed


def test_overlapping_objects_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    by_image = [{"id": n, "file_name": f"a{n}.tif", "height": HEIGHT, "width": WIDTH} for n in range(3)]
    boxes = [[2, 2, 12, 2, 12, 12, 2, 12], [8, 2, 20, 2, 20, 12, 8, 12]]
    drawn = [
        {"id": 2 * n + k, "image_id": n, "category_id": 1, "segmentation": [box]}
        for n in range(3)
        for k, box in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "T cell"}]
    document = {"images": by_image, "annotations": drawn, "categories": categories}
    (tmp_path / "data" / "all.json").write_text(json.dumps(document), encoding="utf-8")
    for n in range(3):
        write(tmp_path / "data" / f"a{n}.tif", image(n))
    cfg, raw, _ = proposed(tmp_path, monkeypatch)
    assert raw["groundtruth"] == {"overlaps": "ignore"} and len(painted(cfg, "data")) == 3
    # Names of classes that a configuration cannot have are mapped.
    assert raw["datasets"]["data"]["classes"] == ["T_cell"]
    assert raw["datasets"]["data"]["annotations"][0]["classes"] == {"T cell": "T_cell"}
    assert f"{3 * 4 * 10} pixels in data" in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_images_alone_are_a_data_set_without_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write(tmp_path / "data" / f"a{n}.tif", image(n))
    (tmp_path / "data" / "notes.docx").write_bytes(b"words")
    monkeypatch.chdir(tmp_path)
    printed = run("data", Path("config.yaml"))
    text = Path("config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["datasets"] == {"data": {"images": "data/*.tif"}}
    assert "unsure: no annotations were found" in text and "not ready to run" in text
    assert "1 file was not understood: notes.docx" in printed
    # With a model it runs.
    bought = {"bought": {"path": "model", "predict_on": ["data"]}}
    assert parse_config(yaml.safe_load(text) | {"models": bought}).datasets["data"].annotations == []


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    by_folder(tmp_path / "data")
    (tmp_path / "data" / "masks" / "a1.tif").write_bytes(b"II*\0damaged")
    monkeypatch.chdir(tmp_path)
    printed = run("data", Path("config.yaml"))
    assert "cannot be read: data/masks/a1.tif" in printed and "problem      data/masks/a1.tif" in printed.replace(
        "a1: ", ""
    )
    assert "# problem: " in Path("config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["nothing", "unknown", "damaged"])
def test_folders_without_images_are_errors(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    if content == "unknown":
        (tmp_path / "data" / "a.docx").write_bytes(b"words")
    if content == "damaged":
        (tmp_path / "data" / "a.tif").write_bytes(b"II*\0damaged")
    monkeypatch.chdir(tmp_path)
    told = {"nothing": "no images in it", "unknown": "not understood: a.docx", "damaged": "cannot be read: data/a.tif"}
    with pytest.raises(UserError, match=told[content]):
        run("data", Path("config.yaml"))
    assert not Path("config.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    by_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="config.yaml exists and is not overwritten"):
        main(["data"])
    with pytest.raises(SystemExit, match="no such folder"):
        main(["nowhere", "--out", "other.yaml"])
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert Path("config.yaml").read_text(encoding="utf-8") == "mine" and not Path("other.yaml").exists()
    main(["data", "--out", "other.yaml"])
    assert Path("other.yaml").is_file()
