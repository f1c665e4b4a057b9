"""What is to be done is what the steps would find not done; sizes are those of the stores."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unet_core.blocks import ZYX
from unet_core.config.options import Config, Predict
from unet_core.config.parse import parse_config
from unet_core.engine import Engine
from unet_core.estimate import command as estimate
from unet_core.estimate import stand_in
from unet_core.estimate.command import Row, inodes_of, inodes_of_job, table, warnings
from unet_core.estimate.stand_in import Sized, choose_samples, piece_of, write_stand_in
from unet_core.estimate.workload import STEPS, PendingJob, Workload, sizes, threads_of
from unet_core.groundtruth.samples import Sample, check_data
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.step import make_instances
from unet_core.plan.step import make_plan
from unet_core.predict.step import predict_samples
from unet_core.runtime import UserError
from unet_core.store.store import Result, Spec, begin, finish
from unet_core.train.step import train_model
from unet_core.weights.step import make_weights

Started = dict[tuple[str, str], str]


def written(path: Path, spec: Spec) -> Result:
    result = begin(path, "d", spec, {})
    lead = () if spec.channels is None else (spec.channels,)
    for index in range(len(result.grid)):
        result.write(index, np.zeros((*lead, *result.grid.box(index).shape), spec.dtype), "d")
    finish(path, "d", {})
    return result


def sized(name: str, shape: tuple[int, int, int, int], split: str = "train") -> Sized:
    return Sized(Sample(name, Path(f"{name}.tif"), "", None, (), split), shape)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four images a, b, c, d with label images; d is for tests."""
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "labels"):
        Path(folder).mkdir()
    for number, name in enumerate("abcd"):
        labels = np.zeros((40, 50), np.uint16)
        labels[5:15, 5:15], labels[20:30, 20:30] = 1, 2
        tifffile.imwrite(f"images/{name}.tif", (labels * 50 + number).astype(np.uint8), photometric="minisblack")
        tifffile.imwrite(f"labels/{name}.tif", labels, photometric="minisblack")
    source = {"format": "labels", "path": "labels/{stem}.tif"}
    return parse_config(
        {
            "datasets": {
                "cells": {"images": "images/*.tif", "annotations": [source], "split": {"test": ["d"], "validation": 0}}
            },
            "train": {"network": {"depth": 1, "width": 2}, "steps": 1, "batch": 1},
        }
    )


def convert(cfg: Config, engine: Engine) -> None:
    truth, weights = Path("results/groundtruth/cells.json"), Path("results/weights/cells.json")
    dataset, store = cfg.datasets["cells"], truth.with_suffix(".zarr")
    convert_groundtruth(dataset, cfg.groundtruth, check_data(cfg)["cells"], store=store, stamp=truth, engine=engine)
    make_weights(
        cfg.weights,
        dataset,
        groundtruth=truth,
        truth_store=store,
        store=weights.with_suffix(".zarr"),
        stamp=weights,
        engine=engine,
    )


def segment(cfg: Config, engine: Engine) -> None:
    """The chain from the plan to the objects, after `convert`."""
    truth, weights, plan, model, predict, instances = (
        Path("results", step, *["cells"][: step in ("predict", "instances")], "cells.json")
        for step in ("groundtruth", "weights", "plan", "train", "predict", "instances")
    )
    groundtruth, results = {"cells": truth}, Path("results")
    make_plan(
        cfg.plan,
        cfg.train_of("cells"),
        cfg.predict,
        groundtruth=groundtruth,
        weights={"cells": weights},
        bought=None,
        results=results,
        stamp=plan,
    )
    train_model(
        cfg.train_of("cells"),
        plan=plan,
        weights={"cells": weights},
        groundtruth=groundtruth,
        results=results,
        folder=model.with_suffix(""),
        stamp=model,
    )
    predict_samples(
        cfg.predict_of("cells"),
        model=model,
        plans=[plan],
        groundtruth=truth,
        images=truth.with_suffix(".zarr"),
        store=predict.with_suffix(".zarr"),
        stamp=predict,
        engine=engine,
    )
    make_instances(
        cfg.instances_of("cells"),
        predict=predict,
        probabilities=predict.with_suffix(".zarr"),
        groundtruth=truth,
        store=instances.with_suffix(".zarr"),
        tables=instances.with_suffix(""),
        stamp=instances,
        engine=engine,
    )


def erase_a_pixel(name: str) -> None:
    """Change one annotation."""
    labels = tifffile.imread(f"labels/{name}.tif")
    labels[5, 5] = 0
    tifffile.imwrite(f"labels/{name}.tif", labels, photometric="minisblack")


def workload(cfg: Config, *steps: str) -> Workload:
    """What would be done if Snakemake started these steps."""
    files = {"predict": "cells/cells", "instances": "cells/cells", "evaluate": "cells/cells"}
    started: Started = {(step, f"results/{step}/{files.get(step, 'cells')}.json"): "missing" for step in steps}
    return Workload(cfg, sizes(cfg, check_data(cfg)), started)


def left(work: Workload) -> dict[str, str]:
    return {step: "".join(item.sample.name for item in job.items) for (step, _), job in work.jobs.items()}


@pytest.mark.parametrize(
    ("shape", "channels", "block"),
    [
        ((1, 64, 64), None, (8, 1024, 1024)),
        ((3, 700, 1300), 2, (2, 512, 512)),
        ((9, 2100, 260), None, (8, 1024, 1024)),
        ((3, 600, 700), 2, (8, 1024, 1024)),
    ],
)
def test_inodes_are_those_of_a_result(tmp_path: Path, shape: ZYX, channels: int | None, block: ZYX) -> None:
    spec = Spec(shape, "uint8", "image", channels, block=block)
    written(tmp_path / "a.zarr" / "s", spec)
    assert inodes_of(spec) == 1 + len(list((tmp_path / "a.zarr" / "s").rglob("*")))


def test_inodes_of_jobs_are_those_of_the_stores(project: Config, engine: Engine) -> None:
    work = workload(project, "groundtruth", "weights")
    convert(project, engine)
    for (step, name), job in work.jobs.items():
        assert inodes_of_job(job) == sum(
            len(list(path.rglob("*"))) + 1 for path in Path("results", step, f"{name}.zarr").glob("?")
        )


def test_each_rule_says_its_threads() -> None:
    assert [threads_of(step) for step in ("plan", "weights", "train")] == [1, 4, 16]
    assert all(threads_of(step) > 0 for step in STEPS)


def test_before_the_first_run_all_samples_are_left(project: Config) -> None:
    work = workload(project, "groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate")
    expected = {
        "groundtruth": "abcd",
        "weights": "abcd",
        "plan": "",
        "train": "abc",
        "predict": "abcd",
        "instances": "abcd",
        "evaluate": "d",
    }
    assert left(work) == expected and work.jobs["groundtruth", "cells"].blocks == 4


def test_only_what_changed_is_left(project: Config, engine: Engine) -> None:
    convert(project, engine)
    assert left(workload(project, "groundtruth", "weights")) == {"groundtruth": "", "weights": ""}
    erase_a_pixel("b")
    assert left(workload(project, "groundtruth", "weights")) == {"groundtruth": "b", "weights": "b"}
    other = parse_config(project.model_dump(by_alias=True) | {"weights": {"sigma": 3}})
    assert left(workload(other, "weights")) == {"weights": "abcd"}


def test_what_the_steps_have_done_is_not_left(project: Config, engine: Engine) -> None:
    steps = ("groundtruth", "weights", "train", "predict", "instances")
    convert(project, engine)
    segment(project, engine)
    nothing = dict.fromkeys(steps, "")
    assert left(workload(project, *steps)) == nothing
    # A table or a block that is gone is made again; a new annotation of a test sample touches no model.
    Path("results/instances/cells/cells/a.csv").unlink()
    shutil.rmtree("results/predict/cells/cells.zarr/c")
    erase_a_pixel("d")
    assert left(workload(project, *steps)) == nothing | {
        "groundtruth": "d",
        "weights": "d",
        "predict": "c",
        "instances": "a",
    }
    convert(project, engine)
    segment(project, engine)
    assert left(workload(project, *steps)) == nothing
    erase_a_pixel("b")
    assert left(workload(project, *steps)) == {
        "groundtruth": "b",
        "weights": "b",
        "train": "abc",
        "predict": "abcd",
        "instances": "abcd",
    }


def test_an_option_leaves_what_depends_on_it(project: Config, engine: Engine) -> None:
    convert(project, engine)
    segment(project, engine)

    def with_option(section: str, **options: Any) -> Config:
        raw = project.model_dump(by_alias=True)
        return parse_config(raw | {section: raw[section] | options})

    everything = {"train": "abc", "predict": "abcd", "instances": "abcd"}
    for other, done in (
        (with_option("train", learning_rate=0.5), ()),
        (with_option("predict", dtype="float16"), ("train",)),
        (with_option("instances", threshold=0.7), ("train", "predict")),
    ):
        assert left(workload(other, *everything)) == everything | dict.fromkeys(done, "")


def test_what_is_left_where_blocks_may_be_empty(project: Config, engine: Engine) -> None:
    raw = project.model_dump(by_alias=True)
    skips = parse_config(raw | {"predict": raw["predict"] | {"skip": {"below": 30}}})
    everything = {"train": "abc", "predict": "abcd", "instances": "abcd"}
    assert not workload(project, *everything).may_be_empty() and workload(skips, *everything).may_be_empty()
    convert(skips, engine)
    segment(skips, engine)
    assert left(workload(skips, *everything)) == dict.fromkeys(everything, "")
    assert left(workload(project, *everything)) == everything | {"train": ""}


def test_all_unreadable_images_are_told(project: Config) -> None:
    samples = check_data(project)
    for name in "ac":
        Path(f"images/{name}.tif").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)images/a.tif.*images/c.tif"):
        sizes(project, samples)


def test_samples_of_all_splits_near_the_mean_are_chosen() -> None:
    small, large = (1, 1, 100, 100), (1, 1, 300, 300)
    items = [
        sized(f"{split}{side}", shape, split)
        for split in ("train", "validation", "unannotated")
        for side, shape in ((1, small), (3, large))
    ]
    items += [sized(f"train{number}", (1, 1, 220, 220)) for number in range(10, 14)]
    chosen = choose_samples(items)
    assert len(chosen) == 5 and {item.sample.split for item in chosen} == {"train", "validation", "unannotated"}
    assert [item.shape[2] for item in chosen if item.sample.split == "train"] == [220, 220]


@pytest.mark.parametrize("axes", ["zyx", "czyx"])
def test_a_piece_of_a_large_image_is_a_sample_of_its_own(
    tmp_path: Path, axes: str, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    monkeypatch.setattr(stand_in, "PIECE_SHAPE", {2: (1, 32, 24)})
    data = np.random.default_rng(0).integers(0, 255, (2, 5, 60, 50)[-len(axes) :]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "big.tif", data, photometric="minisblack")
    cfg = parse_config(
        {
            "datasets": {
                "big": {
                    "images": f"{tmp_path}/big.tif",
                    "axes": axes,
                    "annotations": [{"format": "labels", "path": "x"}],
                }
            }
        }
    )
    whole = Sized(
        Sample("big", tmp_path / "big.tif", "", None, ((tmp_path / "x",),), "train", axes),
        (2 if "c" in axes else 1, 5, 60, 50),
    )
    piece = piece_of(whole, cfg.datasets["big"], tmp_path / "pieces", 0)
    assert piece.shape == (whole.shape[0], 1, 32, 24)
    dataset = cfg.datasets["big"].model_copy(
        update={
            "axes": "czyx",
            "annotations": [cfg.datasets["big"].annotations[0].model_copy(update={"path": "{stem}"})],
        }
    )
    store = tmp_path / "a.zarr"
    convert_groundtruth(dataset, cfg.groundtruth, [piece.sample], store=store, stamp=tmp_path / "a.json", engine=engine)
    expected = data.reshape(whole.shape)[:, 2:3, 14:46, 13:37]
    np.testing.assert_array_equal(Result(store / "big").read_all(), expected)
    assert Result(store / "big" / "labels" / "instances").read_all().any()


def test_pretended_probabilities_show_the_objects(tmp_path: Path) -> None:
    shape, truth = (1, 64, 64), tmp_path / "truth.zarr"
    for name in ("instances", "classes", "ignore"):
        result = written(truth / "s" / "labels" / name, Spec(shape, "uint8", "labels"))
        array = np.zeros(shape, np.uint8)
        array[:, 10:40, 20:50] = name != "ignore"
        result.write(0, array, "d")
    written(tmp_path / "p.zarr" / "s", Spec(shape, "uint8", "image", 1))
    write_stand_in(tmp_path / "p.zarr" / "s", truth, Predict(), None, 0)
    (cells,) = Result(tmp_path / "p.zarr" / "s").read_all()
    assert cells[0, 20:30, 30:40].min() > 200 and cells[0, 50:, :].max() < 50


def test_what_does_not_fit_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("groundtruth", 1, bytes=3e9, inodes=10, memory=10**9), Row("predict", 2, bytes=2e9, memory=10**15)]
    free: Any = type("Usage", (), {"free": 4 * 10**9})
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: free)
    text = "\n".join(warnings(rows, tmp_path / "results"))
    assert f"WARNING: the results do not fit the disk: 5 GB needed, 4 GB free in {tmp_path}" in text
    assert re.search(r"WARNING: predict does not fit the memory: 1e\+03 TB needed", text) and text.count("WARNING") == 2
    free.free = 6 * 10**9
    assert "WARNING" not in "\n".join(warnings(rows[:1], tmp_path))


def test_large_annotations_count_in_the_memory(project: Config) -> None:
    large = [sized("x", (1, 100, 2000, 2000)), sized("y", (1, 100, 2000, 2000)), sized("z", (1, 1, 20, 20))]
    assert estimate._painting(PendingJob("groundtruth", "cells", large), 4) == 2 * 24 * 400_000_000
    assert estimate._painting(PendingJob("groundtruth", "cells", large), 1) == 24 * 400_000_000
    assert estimate._painting(PendingJob("predict", "cells", large), 4) == 0


def test_the_table_has_a_sum() -> None:
    text = table([Row("train", 1, 5, 0, 7200.0, 2e6, 3, 5 * 10**9), Row("report", 1, seconds=3.0, bytes=1e6)], "GPU")
    assert re.search(r"train +1 +5 +0 +2 h  GPU +2 MB +3 +5 GB", text) and re.search(
        r"sum +2 +2 h +3 MB +3 +5 GB", text
    )
