"""What is written to be corrected is, uncorrected, what the model found; done files count before all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from tests.annotations.layers import objects_in
from tests.annotations.test_written import scene
from tests.view.stores import store
from unet_core.config.datasets import Dataset
from unet_core.config.options import Config
from unet_core.config.parse import parse_config
from unet_core.correct.command import correct, main
from unet_core.correct.folder import FORMATS
from unet_core.groundtruth.samples import find_samples
from unet_core.runtime import UserError
from unet_core.store.removal import remove

NAMES = ("p1/raw/a.tif", "p1/raw/b [2].tif", "p2/raw/ü c.tif")
CLASSES = ["cell", "dead"]


def results_of(folder: Path, names: tuple[str, ...] = NAMES, shape: tuple[int, ...] = (), **options: Any) -> Config:
    """A data set with the results of model m: the scene for each sample, in which odd labels are dead."""
    labels = scene() if not shape else np.ones(shape, np.uint32)
    labels = labels if labels.ndim == 3 else labels[None]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, labels.squeeze().astype(np.uint8))
    cfg = parse_config(
        {
            "results": str(folder / "results"),
            "datasets": {
                "d": {"images": f"{folder}/**/raw/*.tif", "axes": "zyx" if len(labels) > 1 else "yx"} | options
            },
            "models": {"m": {"path": str(folder), "predict_on": ["d"]}},
        }
    )
    samples = find_samples(cfg.datasets["d"])[0]
    for sample in samples:
        image = np.stack([labels, labels * 2]).astype(np.uint16)
        store(folder / f"results/groundtruth/d.zarr/{sample.name}", image, "image")
        store(folder / f"results/instances/m/d.zarr/{sample.name}", labels, "labels", objects=int(labels.max()))
        numbers = np.unique(labels[labels > 0])
        table = pd.DataFrame({"label": numbers, "class": [CLASSES[number % 2] for number in numbers]})
        (folder / "results/instances/m/d").mkdir(exist_ok=True)
        table.to_parquet(folder / f"results/instances/m/d/{sample.name}.parquet")
    ranks = {"model": "m", "dataset": "d", "rank": [2, 1, 3], "sample": [sample.name for sample in samples]}
    (folder / "results/report").mkdir()
    pd.DataFrame(ranks | {"uncertainty": 0.5}).to_csv(folder / "results/report/annotate_next.csv", index=False)
    return cfg


def source_in(told: str) -> dict[str, Any]:
    """The first source of the printed lines of YAML."""
    lines = yaml.safe_load(told[told.index("\ndatasets:") : told.index("\nand run")])
    source: dict[str, Any] = lines["datasets"]["d"]["annotations"][0]
    return source


@pytest.mark.parametrize("kind", FORMATS)
def test_done_files_are_the_objects_again_and_annotate_their_images(tmp_path: Path, kind: str) -> None:
    classes = ["cell"] if kind == "labels" else CLASSES
    cfg, folder = results_of(tmp_path, classes=classes), tmp_path / "to correct"
    told = correct(cfg, "m", "d", folder, kind, best=2)
    # The second and the first of the samples, by their rank.
    files = sorted((folder / "to_do").iterdir())
    assert len(files) == (1 if kind == "coco" else 2) and "add d to train_on" in told
    for file in files:
        file.rename(folder / "done" / file.name)
    source = source_in(told)
    assert source["replaces"] and (folder / "HOW_TO.txt").read_text().startswith("Objects")
    raw = {"images": f"{tmp_path}/**/raw/*.tif", "axes": "yx", "annotations": [source], "classes": classes}
    samples, problems = find_samples(Dataset.model_validate(raw | {"split": {"test": 0, "validation": 0}}))
    assert problems == [] and [one.split for one in samples] == ["train", "train", "unannotated"]
    for sample in samples[:2]:
        options = {key: value for key, value in source.items() if key not in ("format", "path", "replaces")}
        found = objects_in(kind, sample.annotations[0][0], (1, *scene().shape), sample.stem, **options)
        whole = np.zeros(scene().shape, np.uint32)
        for class_name, mask in found:
            if kind == "labels":
                whole = mask
                continue
            (number,) = np.unique(scene()[mask > 0])
            whole[mask > 0] = number
            assert options.get("classes", {}).get(class_name, class_name) == CLASSES[number % 2]
        np.testing.assert_array_equal(whole, scene())


@pytest.mark.parametrize("kind", ["labels", "labelme"])
def test_the_image_lies_where_the_tool_looks_for_it(tmp_path: Path, kind: str) -> None:
    correct(results_of(tmp_path), "m", "d", tmp_path / "c", kind, best=3)
    images = sorted((tmp_path / "c/images").iterdir())
    assert [path.stem for path in images] == ["a", "b [2]", "ü c"]
    if kind == "labelme":
        document = json.loads((tmp_path / "c/to_do/b [2].json").read_text())
        picture = imagecodecs.png_decode((tmp_path / "c/to_do" / document["imagePath"]).read_bytes())
        assert picture.shape == scene().shape and picture.dtype == np.uint8
    else:
        with tifffile.TiffFile(images[1]) as file:
            assert file.series[0].axes == "CYX" and 'PhysicalSizeX="0.25"' in str(file.ome_metadata)
            np.testing.assert_array_equal(file.series[0].asarray()[1], scene() * 2)


def test_a_picture_of_three_channels_keeps_its_colours(tmp_path: Path) -> None:
    cfg = results_of(tmp_path)
    image = np.zeros((3, 1, *scene().shape), np.uint16)
    image[0], image[1, :, :15], image[2, :, 15:] = 1000, 500, 500
    remove(tmp_path / "results/groundtruth/d.zarr/a")
    store(tmp_path / "results/groundtruth/d.zarr/a", image, "image")
    correct(cfg, "m", "d", tmp_path / "c", "labelme", 1, ["a"])
    picture = imagecodecs.png_decode((tmp_path / "c/images/a.png").read_bytes())
    assert picture.shape == (*scene().shape, 3)
    assert picture[0, 0].tolist() == [255, 127, 0] and picture[-1, 0].tolist() == [255, 0, 127]


def test_volumes_are_corrected_as_labels_and_refused_as_shapes(tmp_path: Path) -> None:
    cfg = results_of(tmp_path, shape=(2, 9, 8))
    told = correct(cfg, "m", "d", tmp_path / "c", "labels", best=1)
    (written,) = (tmp_path / "c/to_do").iterdir()
    assert tifffile.imread(written).shape == (2, 9, 8) and "1 files" in told
    with pytest.raises(UserError, match=r"3 of 3 samples \(as .*\) are volumes, which format geojson cannot hold"):
        correct(cfg, "m", "d", tmp_path / "e", "geojson", best=10)
    assert not (tmp_path / "e").exists()


def test_images_of_one_name_lie_in_the_folder_that_tells_them_apart(tmp_path: Path) -> None:
    cfg = results_of(tmp_path, ("p1/raw/a.tif", "p2/raw/a.tif", "p2/raw/b.tif"))
    told = correct(cfg, "m", "d", tmp_path / "c", "labels", best=10)
    files = sorted(path.relative_to(tmp_path / "c/to_do").as_posix() for path in (tmp_path / "c/to_do").rglob("*.tif"))
    assert files == ["p1/a.tif", "p2/a.tif", "p2/b.tif"]
    (tmp_path / "c/done/p2").mkdir()
    (tmp_path / "c/to_do/p2/a.tif").rename(tmp_path / "c/done/p2/a.tif")
    raw = {"images": f"{tmp_path}/**/raw/*.tif", "axes": "yx", "annotations": [source_in(told)]}
    samples, problems = find_samples(Dataset.model_validate(raw | {"split": {"test": 0, "validation": 0}}))
    assert problems == [] and [(one.name, one.split) for one in samples if one.split == "train"] == [("p2_a", "train")]


def test_what_was_begun_stays_and_other_sources_follow(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks/a.tif", scene().astype(np.uint16))
    annotations = [{"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif", "border": 2.0}]
    cfg, folder = results_of(tmp_path, annotations=annotations, unmatched="allow"), tmp_path / "c"
    correct(cfg, "m", "d", folder, "labels", 10, ["a"])
    edited = np.zeros(scene().shape, np.uint16)
    tifffile.imwrite(folder / "to_do/a.tif", edited)
    told = correct(cfg, "m", "d", folder, "labels", 10, ["a", "b [2]"])
    assert "1 files in" in told and "1 (as a) were there already" in told
    assert not tifffile.imread(folder / "to_do/a.tif").any() and (folder / "to_do/b [2].tif").exists()
    sources = yaml.safe_load(told[told.index("\ndatasets:") : told.index("\nand run")])["datasets"]["d"]["annotations"]
    assert [one["path"] for one in sources] == [f"{folder}/done/{{stem}}.tif", annotations[0]["path"]]
    assert sources[1] == annotations[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n", "d", "labels", 1, None), "model 'n' is not applied to a data set 'd'; there are m d"),
        (("m", "d", "labels", 1, ["x"]), r"1 samples \(as x\) are not in data set d"),
        (("m", "d", "labels", 1, None), "labels have no classes"),
    ],
)
def test_what_cannot_be_corrected_is_told(tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    model, dataset, kind, best, names = arguments
    cfg = results_of(tmp_path, classes=CLASSES)
    with pytest.raises(UserError, match=message):
        correct(cfg, model, dataset, tmp_path / "c", kind, best, names)
    assert not (tmp_path / "c").exists()


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="correct: .*none.yaml: cannot be read"):
        main(["m", "d", "--to", str(tmp_path / "c"), "--config", str(tmp_path / "none.yaml")])
    cfg = results_of(tmp_path)
    (tmp_path / "results/report/annotate_next.csv").unlink()
    with pytest.raises(UserError, match="annotate_next.csv is missing; run snakemake first"):
        correct(cfg, "m", "d", tmp_path / "c", "labels", best=1)
