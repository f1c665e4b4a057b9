"""Which jobs are stale: after any change, and after any accident, running them gives what a first run would give."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from unet_core.config.options import Config
from unet_core.config.parse import parse_config
from unet_core.digest import FileHashes, digest
from unet_core.groundtruth.contents import wanted_of_files
from unet_core.groundtruth.samples import check_data
from unet_core.jobs import Jobs
from unet_core.records import TRAINING_DECISIONS, read_record, record_path, recorded
from unet_core.runtime import write_stamp
from unet_core.sealed import seal

CONFIG: dict[str, Any] = {
    "datasets": {
        "cells": {
            "images": "data/cells/*.tif",
            "axes": "yx",
            "annotations": [{"format": "labels", "path": "data/cells_masks/{stem}.tif"}],
            "unmatched": "allow",
            "split": {"test": ["c0"], "validation": ["c1"]},
        },
        "screen": {"images": "data/screen/*.tif", "axes": "yx"},
    },
    "models": {
        "cells": {"train_on": ["cells"], "predict_on": ["cells", "screen"]},
        "tuned": {"train_on": ["cells"], "predict_on": ["cells"], "train": {"start": "results/train/cells"}},
    },
}
# What each kind of change alone makes stale; the report always is.
PAIRS = {
    f"{step}/{pair}" for step in ("predict", "instances") for pair in ("cells/cells", "cells/screen", "tuned/cells")
}
SCORES = {"evaluate/cells/cells", "evaluate/tuned/cells", "gate/cells", "gate/tuned"}
MODELS = {"plan/cells", "plan/tuned", "train/cells", "train/tuned"}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


class World:
    """A folder with data, a configuration and results, whose jobs write small files that hold all they depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, copy.deepcopy(CONFIG)
        for name, count in (("cells", 4), ("screen", 2)):
            for number in range(count):
                self.write(f"data/{name}/{name[0]}{number}.tif", f"image {name} {number}")
        for number in range(4):
            self.write(f"data/cells_masks/c{number}.tif", f"mask {number}")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def jobs(self, forced: tuple[str, ...] = ()) -> Jobs:
        os.chdir(self.folder)
        cfg = parse_config(copy.deepcopy(self.config))
        return Jobs(cfg, check_data(cfg), lambda: forced)

    def stale(self) -> set[str]:
        jobs = self.jobs()
        return {name for name in jobs.all if name != "weights/screen" and jobs.stale(name)}

    def run(self, until: str | None = None, killed_in: str | None = None) -> set[str]:
        """Do what is stale, as it was before the run; the jobs that were done."""
        jobs = self.jobs()
        todo = [name for name in jobs.all if name != "weights/screen" and jobs.stale(name)]
        jobs.save()
        done = set()
        for name in sorted(todo, key=lambda one: [*jobs.all].index(one)):
            if name.split("/")[0] == until:
                break
            try:
                with recorded(jobs.described(name)) as record:
                    make(name, jobs, Path("results"))
                    if name.startswith("groundtruth/"):
                        record.wanted = wanted_of(name, jobs)
                    if name == killed_in:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                break
            done.add(name)
        return done

    def fresh(self) -> dict[str, str]:
        """What a first run in an empty folder gives."""
        with tempfile.TemporaryDirectory() as other:
            for part in ("data",):
                shutil.copytree(self.folder / part, Path(other) / part)
            jobs = self.jobs()
            os.chdir(other)
            for name in jobs.all:
                if name != "weights/screen":
                    make(name, jobs, Path("results"))
            return outputs(jobs)

    def current(self) -> dict[str, str]:
        jobs = self.jobs()
        return outputs(jobs)


def outputs(jobs: Jobs) -> dict[str, str]:
    return {
        path: (jobs.results / path).read_text()
        for name, job in jobs.all.items()
        if name != "weights/screen"
        for path in (*job.outputs, *job.beside)
        if path in job.outputs or (jobs.results / path).exists()
    }


def wanted_of(name: str, jobs: Jobs) -> dict[str, str]:
    dataset = name.partition("/")[2]
    hashes = FileHashes(jobs.results / "groundtruth" / f"{dataset}.files.json")
    for sample in jobs._samples[dataset]:
        for path in (sample.image, *(file for part in sample.annotations for file in part)):
            hashes.of(path)
    hashes.save()
    return wanted_of_files(jobs.cfg.datasets[dataset], jobs.cfg.groundtruth, jobs._samples[dataset], hashes.seen)


def make(name: str, jobs: Jobs, results: Path) -> None:
    """Stand-ins of the steps, which depend on what the steps depend on, and on nothing else."""
    cfg: Config = jobs.cfg
    step, _, key = name.partition("/")

    def stamp(step: str, key: str) -> Any:
        return read(results / step / f"{key}.json")

    made: dict[str, Any]
    if step == "groundtruth":
        samples = {}
        for sample in jobs._samples[key]:
            labels = [[file.read_text() for file in part] for part in sample.annotations]
            has = sample.split != "unannotated"
            image = digest(sample.image.read_text(), cfg.datasets[key].channels)
            marks = digest(labels, cfg.groundtruth.overlaps, cfg.datasets[key].classes) if has else None
            samples[sample.name] = {"split": sample.split, "image": image, "labels": marks, "shape": [1, 1, 8, 8]}
        made = {"step": step, "classes": cfg.datasets[key].classes, "samples": samples}
    elif step == "weights":
        truth = stamp("groundtruth", key)["samples"]
        sigma = cfg.weights_of(key).sigma
        entries = {
            n: {"split": e["split"], "digest": digest(e["labels"], sigma)} for n, e in truth.items() if e["labels"]
        }
        made = {"step": step, "samples": entries}
    elif step == "plan":
        truths = {d: stamp("groundtruth", d)["samples"] for d in cfg.datasets_of(key)}
        norms = {f"{d}/{n}": digest(e["image"]) for d, entries in truths.items() for n, e in entries.items()}
        learnt = {d: trained_on(stamp("weights", d)["samples"]) for d in cfg.model_of(key).train_on}
        made = {"step": step, **dict.fromkeys(TRAINING_DECISIONS, ""), "class_weights": digest(learnt)}
        made |= {"steps": str(cfg.train_of(key).steps), "tile": str(cfg.predict_of(key).tile), "samples": norms}
    elif step == "train":
        plan = stamp("plan", key)
        used = {
            d: [trained_on(stamp(s, d)["samples"]) for s in ("groundtruth", "weights")]
            for d in cfg.model_of(key).train_on
        }
        before = jobs.started_from(key)
        weights = digest([plan[k] for k in TRAINING_DECISIONS], used, before and stamp("train", before)["weights"])
        for file in ("best.safetensors", "model.json"):
            (results / "train" / key).mkdir(parents=True, exist_ok=True)
            (results / "train" / key / file).write_text(weights)
        made = {"step": step, "weights": weights}
    elif step == "tune":
        truths = {d: trained_on(stamp("groundtruth", d)["samples"]) for d in cfg.tuned_by(key)}
        made = {"step": step, "chosen": digest(truths, [stamp("predict", f"{key}/{d}") for d in truths])}
    elif step in ("predict", "instances", "evaluate", "gate"):
        model, _, dataset = key.partition("/")
        if step == "predict":
            norms = stamp("plan", model)["samples"]
            weights = (results / "train" / model / "best.safetensors").read_text()
            truth = stamp("groundtruth", dataset)["samples"]
            made = {n: [e["split"], digest(e["image"], norms[f"{dataset}/{n}"], weights)] for n, e in truth.items()}
        elif step == "instances":
            chosen = stamp("tune", model)["chosen"] if cfg.instances_of(model).is_tuned else None
            made = {"from": stamp("predict", key), "size": chosen or cfg.instances_of(model).min_size}
        elif step == "evaluate":
            truth = {n: e["labels"] for n, e in stamp("groundtruth", dataset)["samples"].items() if e["labels"]}
            made = {"of": stamp("instances", key), "truth": truth, "at": list(cfg.evaluate.thresholds)}
        else:
            made = {"scores": [stamp("evaluate", f"{model}/{d}") for d in jobs.scored_by(model)]}
        made = {"step": step} | made
    else:
        made = {
            source.job: (results / jobs.all[source.job].outputs[0]).read_text()
            for source in jobs.all[name].parts["all"]
        }
    # Of a data set without annotations no batches are kept.
    beside = [path for path in jobs.all[name].beside if key != "screen" or "batches" not in path]
    for path in (*jobs.all[name].outputs, *beside):
        if step != "train" or path.endswith(f"{key}.json"):
            (results / path).parent.mkdir(parents=True, exist_ok=True)
            (results / path).write_text(json.dumps(made))
    for store in jobs.all[name].stores:
        (results / store).mkdir(parents=True, exist_ok=True)


def trained_on(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if entry["split"] in ("train", "validation")}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    world.run()
    assert world.stale() == set()
    return world


def test_what_each_change_makes_stale(world: World) -> None:
    def then(*stale: str) -> None:
        assert world.stale() - {"report"} == set(stale)
        assert ("report" in world.stale()) == bool(stale)
        world.run()
        assert world.stale() == set() and world.current() == world.fresh()

    world.write("data/screen/s9.tif", "a new image")  # of no model's training
    then("groundtruth/screen", "plan/cells", "predict/cells/screen", "instances/cells/screen")
    world.write("data/cells/c9.tif", "a new image that nobody annotated")
    pairs = {name for name in PAIRS if name.endswith("/cells")}
    then("groundtruth/cells", "plan/cells", "plan/tuned", *pairs, *SCORES)
    world.write("data/cells_masks/c0.tif", "another annotation of a test sample")
    then("groundtruth/cells", "weights/cells", *SCORES)
    world.write("data/cells_masks/c2.tif", "another annotation of a training sample")
    then("groundtruth/cells", "weights/cells", *MODELS, *PAIRS, *SCORES)
    world.config["instances"] = {"min_size": 7}
    then(*{name for name in PAIRS if name.startswith("instances")}, *SCORES)
    world.config["predict"] = {"tile": 100}
    then("plan/cells", "plan/tuned", *(MODELS - {"plan/cells", "plan/tuned"}), *PAIRS, *SCORES)
    world.config["dask"] = {"workers": 3}
    then()
    world.config["evaluate"] = {"gate_margin": 0.2}
    then()
    (world.folder / "results/instances/tuned/cells.json").unlink()
    then("instances/tuned/cells", "evaluate/tuned/cells", "gate/tuned")
    shutil.rmtree(world.folder / "results/predict/tuned/cells.zarr")
    then("predict/tuned/cells", "instances/tuned/cells", "evaluate/tuned/cells", "gate/tuned")
    world.write("results/train/tuned/best.safetensors", "others")
    then("train/tuned", "predict/tuned/cells", "instances/tuned/cells", "evaluate/tuned/cells", "gate/tuned")


def test_what_is_auto_is_chosen_again_where_validation_changes(world: World) -> None:
    world.config["models"]["cells"]["instances"] = {"threshold": "auto"}
    objects = {"instances/cells/cells", "instances/cells/screen", "evaluate/cells/cells", "gate/cells", "report"}
    assert world.stale() == {"tune/cells", *objects}
    for path, text, tuned in (
        ("data/cells_masks/c0.tif", "another annotation of a test sample", False),
        ("data/screen/s9.tif", "an image of another data set", False),
        ("data/cells_masks/c2.tif", "another annotation of a training sample", True),
        ("data/cells/c9.tif", "an image that nobody annotated", True),
    ):
        world.run()
        assert world.stale() == set() and world.current() == world.fresh()
        world.write(path, text)
        assert ("tune/cells" in world.stale()) == tuned and "tune/tuned" not in world.stale()
    world.run()
    (world.folder / "results/tune/cells.json").unlink()
    assert world.stale() == {"tune/cells", *objects}
    world.run()
    assert world.stale() == set()


def test_a_region_and_what_is_skipped_segment_anew_and_train_nothing(world: World) -> None:
    options = [world.jobs().all[f"predict/cells/{name}"].options for name in ("cells", "screen")]
    assert all("region" not in one and "skip" not in one["predict"] for one in options)
    for region in ([{"y": [0, 9]}], [{"y": [0, 8]}], []):
        world.config["datasets"]["screen"]["region"] = region
        assert world.stale() == {"predict/cells/screen", "instances/cells/screen", "report"}
        world.run()
        assert world.stale() == set() and world.current() == world.fresh()
    assert [world.jobs().all[f"predict/cells/{name}"].options for name in ("cells", "screen")] == options
    world.config["models"]["cells"]["predict"] = {"skip": {"below": 9}}
    pairs = {f"{step}/cells/{name}" for step in ("predict", "instances") for name in ("cells", "screen")}
    assert world.stale() == {*pairs, "evaluate/cells/cells", "gate/cells", "report"}


def test_other_measures_of_objects_predict_nothing(world: World) -> None:
    objects = {name for name in PAIRS if name.startswith("instances")}
    for measure in (["shape"], ["intensity"], []):
        world.config["instances"] = {"measure": measure}
        assert world.stale() == {*objects, *SCORES, "report"}
        world.run()
        assert world.stale() == set() and world.current() == world.fresh()
        images = [source.job for source in world.jobs().all["instances/cells/screen"].parts["all"]]
        assert ("groundtruth/screen" in images) == ("intensity" in measure)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("")])
@pytest.mark.parametrize(
    ("job", "file"),
    [
        *(("groundtruth/cells", f"cells.check/{one}") for one in ("batches.json", "findings.csv", "samples.csv")),
        ("groundtruth/cells", "cells.check/check.html"),
        ("groundtruth/screen", "screen.check/samples.csv"),
        ("report", "config.yaml"),
    ],
)
def test_a_damaged_file_that_no_job_reads_makes_its_own_job_stale_alone(
    world: World, job: str, file: str, harm: Any
) -> None:
    harm(world.folder / "results" / job.partition("/")[0] / file)
    assert world.stale() == world.run() == {job}
    assert world.stale() == set() and world.current() == world.fresh()


def test_records_of_former_versions_name_no_files_of_the_check_and_stay_valid(world: World) -> None:
    path = record_path(Path("results"), "groundtruth/cells")
    record = read(path)
    assert record.pop("checksum")
    record["outputs"] = {name: seen for name, seen in record["outputs"].items() if ".check/" not in name}
    path.write_text(json.dumps(record))
    assert world.stale() == set()
    shutil.rmtree(world.folder / "results/groundtruth/cells.check")
    assert world.stale() == set()


def test_no_flipped_bit_of_a_record_makes_a_job_pass_for_another(world: World) -> None:
    path = record_path(Path("results"), "weights/cells")
    whole, record = path.read_bytes(), read_record(Path("results"), "weights/cells")
    for bit in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        found = read_record(Path("results"), "weights/cells")
        assert not found or {key: found[key] for key in record} == record


def test_touched_moved_and_copied_results_make_nothing_stale(world: World) -> None:
    for number, path in enumerate(sorted(world.folder.rglob("*"))):
        os.utime(path, (1e9 - number, 1e9 - number))
    assert world.stale() == set()
    (world.folder / "results").rename(world.folder / "moved")
    shutil.copytree(world.folder / "moved", world.folder / "results", copy_function=shutil.copy)
    assert world.stale() == set()


def test_a_touched_image_is_looked_at_again_where_it_stays_in_place(world: World) -> None:
    image = world.folder / "data/cells/c3.tif"
    image.touch()
    assert world.stale() == set()
    world.config["datasets"]["cells"]["in_place"] = "always"
    world.run()
    image.touch()
    assert "groundtruth/cells" in world.stale()
    world.run()
    assert world.stale() == set()


def test_what_is_forced_is_stale_with_all_that_is_made_from_it(world: World) -> None:
    jobs = world.jobs(("train",))
    assert {name for name in MODELS | PAIRS if jobs.stale(name)} == {"train/cells", "train/tuned", *PAIRS}
    jobs = world.jobs(("results/instances/tuned/cells.json",))
    assert {name for name in jobs.all if name != "weights/screen" and jobs.stale(name)} == {
        *("instances/tuned/cells", "evaluate/tuned/cells", "gate/tuned", "report")
    }


def test_the_reason_is_told(world: World) -> None:
    world.config["instances"] = {"min_size": 7}
    world.write("data/cells_masks/c2.tif", "another")
    (world.folder / "results/train/tuned.json").unlink()
    record_path(Path("results"), "predict/cells/screen").write_text("{")
    jobs = world.jobs()
    told = {name: stale.why for name in jobs.all if (stale := jobs.stale(name))}
    assert told["groundtruth/cells"] == "images or annotations have changed"
    assert told["weights/cells"] == "what it is made from has changed: groundtruth/cells"
    assert told["instances/cells/screen"] == "its options or its method have changed"
    assert told["train/tuned"] == "results/train/tuned.json is missing"
    assert told["predict/cells/screen"] == "it is not known what its result was made of"


def test_an_asked_job_is_newer_than_its_outputs_whatever_the_clock_says(world: World) -> None:
    stamp, later = world.folder / "results/weights/cells.json", time.time() + 1e6
    os.utime(stamp, (later, later))
    assert world.jobs().ask("weights/cells", Path("asked")).stat().st_mtime < 100
    world.config["weights"] = {"sigma": 9}
    first = world.jobs().ask("weights/cells", Path("asked"))
    text = first.read_text()
    # Nor is it of the future, which no output of the job would be.
    assert stamp.stat().st_mtime < first.stat().st_mtime < time.time() + 1
    assert text.startswith("its options or its method have changed\n")
    assert world.jobs().ask("weights/cells", Path("asked")).read_text() != text


class Accidents(RuleBasedStateMachine):
    """Changes of data, options and results in any order, between runs that end early or not."""

    @initialize()
    def begin(self) -> None:
        self.before = Path.cwd()
        self.folder = Path(tempfile.mkdtemp())
        self.world, self.saved, self.number = World(self.folder), None, 0

    def teardown(self) -> None:
        os.chdir(self.before)
        shutil.rmtree(self.folder)

    @rule(name=st.sampled_from(["cells", "screen"]), which=st.integers(0, 5), new=st.integers(0, 2))
    def image(self, name: str, which: int, new: int) -> None:
        self.world.write(f"data/{name}/{name[0]}{which}.tif", f"image {new}")

    @rule(which=st.integers(0, 5), new=st.integers(0, 2))
    def mask(self, which: int, new: int) -> None:
        if (self.folder / f"data/cells/c{which}.tif").exists():
            self.world.write(f"data/cells_masks/c{which}.tif", f"mask {new}")

    @rule(which=st.integers(2, 5))
    def no_mask(self, which: int) -> None:
        if which != 2:  # one is left to learn from
            (self.folder / f"data/cells_masks/c{which}.tif").unlink(missing_ok=True)

    @rule(value=st.sampled_from([3, 4]), section=st.sampled_from(["weights", "instances", "train", "evaluate"]))
    def option(self, value: int, section: str) -> None:
        key = {"weights": "sigma", "instances": "min_size", "train": "steps", "evaluate": "thresholds"}[section]
        self.world.config[section] = {key: [0.5, 0.75, 0.5 + value / 10] if section == "evaluate" else value}

    @precondition(lambda self: (self.folder / "results").exists())
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        files = sorted(
            path for path in (self.folder / "results").rglob("*") if path.is_file() and "files.json" not in path.name
        )
        if files:
            path = data.draw(st.sampled_from(files))
            how = data.draw(st.sampled_from(["delete", "empty", "touch"]))
            if how == "touch":
                os.utime(path, (5, 5))
            elif how == "empty":
                path.write_text("")
            else:
                path.unlink()

    @rule()
    def save_results(self) -> None:
        if (self.folder / "results").exists():
            shutil.rmtree(self.folder / "saved", ignore_errors=True)
            shutil.copytree(self.folder / "results", self.folder / "saved")

    @rule()
    def restore_results(self) -> None:
        if (self.folder / "saved").exists():
            shutil.rmtree(self.folder / "results", ignore_errors=True)
            shutil.copytree(self.folder / "saved", self.folder / "results")

    @rule(until=st.sampled_from(["weights", "train", "instances", "report"]))
    def run_until(self, until: str) -> None:
        self.world.run(until)

    @rule(data=st.data())
    def killed_run(self, data: st.DataObject) -> None:
        self.world.run(killed_in=data.draw(st.sampled_from(sorted(self.world.jobs().all))))

    @rule()
    def run(self) -> None:
        self.world.run()
        assert self.world.stale() == set()
        assert self.world.current() == self.world.fresh()


Accidents.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestAccidents = Accidents.TestCase


def test_a_damaged_output_is_put_aside_before_its_step_takes_it_for_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = ["train/m.json", "train/m/best.safetensors", "train/m/model.json"]
    job = {"results": str(tmp_path), "name": "train/m", "outputs": outputs, "stores": [], "beside": []}
    job |= {"own": "", "parts": {"all": []}}
    stamp, weights, described = (tmp_path / name for name in outputs)

    def work() -> None:
        with recorded(job):
            write_stamp(stamp, {"step": "train"})
            for path in (weights, described):
                path.parent.mkdir(exist_ok=True)
                if not path.exists():  # as a step that finds its work done
                    path.write_text("as it was made")

    work()
    os.utime(weights, (1, 1))
    described.write_text("as IT was made")
    work()
    assert described.read_text() == weights.read_text() == "as it was made"
    assert (described.parent / "model.json.damaged").read_text() == "as IT was made"
    assert sorted(path.name for path in described.parent.iterdir()) == [
        "best.safetensors",
        "model.json",
        "model.json.damaged",
    ]
    assert "model.json is not what the step wrote; it is now model.json.damaged" in caplog.text
    # A record from elsewhere leads to no other file.
    other = tmp_path / "other"
    other.write_text("mine")
    record = json.loads((tmp_path / "records/train/m.json").read_text())
    record["outputs"]["other"] = [1, 1, "of another file"]
    (tmp_path / "records/train/m.json").write_text(seal({k: v for k, v in record.items() if k != "checksum"}))
    work()
    assert other.read_text() == "mine"
