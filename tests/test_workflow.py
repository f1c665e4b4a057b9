"""The whole chain through Snakemake: what is done again after a change, after a kill, and what a user is told."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml

from tests.conftest import made_once
from tests.forked import run_function, run_snakemake
from tests.test_lock import held
from unet_core.__main__ import main
from unet_core.config.parse import parse_config
from unet_core.estimate import command as estimate
from unet_core.estimate.measure import allocated, process_start
from unet_core.estimate.workload import Workload, pending, sizes
from unet_core.groundtruth.samples import check_data
from unet_core.instances.objects import check_table
from unet_core.network.model import read_model
from unet_core.runtime import UserError, read_json
from unet_core.store.pins import pin
from unet_core.store.store import Result, Spec, begin, finish, open_weights, read_attributes

ROOT = Path(__file__).parent.parent
SNAKEMAKE = [
    sys.executable,
    "-m",
    "snakemake",
    "--snakefile",
    str(ROOT / "Snakefile"),
    "--configfile",
    "config.yaml",
    "--cores",
    "2",
]
STEPS = ("groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate", "report")

pytestmark = pytest.mark.workflow

CONFIG: dict[str, Any] = {
    "datasets": {
        "cells": {
            "images": "data/cells/01/t*.tif",
            "annotations": [{"format": "ctc", "path": "data/cells/01_GT"}],
            "split": {"test": ["t001", "t002"], "validation": ["t003"]},
        }
    },
    "models": {"cells": {}},
    "weights": {"sigma": 3},
    "train": {
        "network": {"depth": 2, "width": 4, "dropout": 0},
        "tile": 92,
        "batch": 2,
        "steps": 12,
        "validate_every": 4,
        "learning_rate": 0.01,
        "precision": "float32",
    },
    "predict": {"precision": "float32"},
}


class Project:
    """A folder with data and configuration, on which Snakemake is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def configure(self, config: dict[str, Any]) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def run(self, *arguments: str, fails: bool = False, forked: bool = True) -> str:
        """Run to the end, in forks or as a user would; the output of terminal and logs."""
        if forked:
            done = run_snakemake([*SNAKEMAKE[3:], *arguments], self.folder)
        else:
            done = subprocess.run(
                [*SNAKEMAKE, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300
            )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def verify(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m unet_core verify``."""
        return run_function(main, [["verify", *arguments, "results"]], self.folder)

    def follow(self, message: str) -> None:
        """Do what a message says is to be done before the next run: its command, and what is to be deleted."""
        commands = {*re.findall(r"run 'python -m unet_core (.+?)'", message)}
        for command in commands:
            done = run_function(main, [shlex.split(command)], self.folder)
            assert done.returncode == 0, done.stdout
        paths = {*re.findall(r"(\S+) is (?:damaged|not valid JSON)[^;]*; delete it", message)}
        paths |= {*re.findall(r"delete (?:the folder )?(\S*/\S+) (?:and|before)", message)}
        for path in (self.folder / name for name in paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        assert commands or paths, message

    def jobs(self, output: str) -> set[str]:
        """Steps of which Snakemake started jobs."""
        return set(re.findall(r"^(?:Job \d+: )(\w+):", output, re.M)) & {*STEPS, "tune"}

    def counts(self, output: str) -> dict[str, str]:
        """What each step says that it did."""
        return {step: found[-1] for step in STEPS if (found := re.findall(rf"\d\d {step}: (.+)", output))}

    def files(self, step: str) -> dict[str, int]:
        """Times of all files of a step's stores."""
        folder = self.folder / "results" / step
        return {
            str(p.relative_to(folder)): p.stat().st_mtime_ns
            for p in folder.rglob("*")
            if p.is_file() and ".zarr" in str(p)
        }

    def cost(self, results: str = "results") -> dict[str, list[str]]:
        """Rows of the table of costs on the page: step -> jobs, measured, wall, CPU and GPU hours, memory."""
        page = (self.folder / results / "report" / "report.html").read_text()
        rows = [
            re.findall("<td[^>]*>(.*?)</td>", row)
            for row in page[page.index('<h2 id="cost">') : page.index('<h2 id="provenance">')].splitlines()
        ]
        return {cells[0]: cells[1:] for cells in rows if cells}

    def table(self) -> str:
        return (self.folder / "results" / "report" / "table.csv").read_text()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Project:
    """A project after its first run; tests work on copies."""
    return Project(made_once(tmp_path_factory, "finished", lambda folder: make_finished(folder, demo)))


def make_finished(folder: Path, demo: Path) -> None:
    """Seven small images of the demo, of which one has no annotation, and a run to the end."""
    for number in range(7):
        for source in (f"01/t{number:03d}.tif", f"01_GT/SEG/man_seg{number:03d}.tif"):
            target = folder / "data" / "cells" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(target, tifffile.imread(demo / "cells" / source)[:150, :130])
    (folder / "data/cells/01_GT/SEG/man_seg006.tif").unlink()
    project = Project(folder)
    project.configure(CONFIG)
    output = project.run()
    assert project.jobs(output) == set(STEPS)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, times of files included."""
    shutil.copytree(finished.folder, tmp_path / "project", copy_function=shutil.copy2)
    return Project(tmp_path / "project")


def edit_annotation(project: Project, frame: int) -> None:
    path = project.folder / "data" / "cells" / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif"
    labels = tifffile.imread(path)
    labels[labels == np.unique(labels)[-1]] = 0
    tifffile.imwrite(path, labels)


def test_the_report_has_the_table_and_the_page(finished: Project) -> None:
    header = finished.table().splitlines()[0].split(",")
    assert header[:5] == ["model", "dataset", "split", "n_images", "n_objects"]
    assert {"iou", "seg", "ap50", "ap75", "pixel_error", "rand_error"} <= set(header)
    assert finished.table().splitlines()[1].startswith("cells,cells,test,2,")
    page = (finished.folder / "results/report/report.html").read_text()
    assert "data:image/" in page and not re.search(r'(src|href)="(?!data:|#)', page)
    ranking = (finished.folder / "results/report/annotate_next.csv").read_text()
    assert "annotate_next" in page and ranking.splitlines()[1].startswith("cells,cells,1,t006,")


def test_the_page_shows_what_each_step_cost(finished: Project) -> None:
    cost = finished.cost()
    assert list(cost) == [*STEPS[:-1], "total"]
    assert all(cells[:2] == ["1", "1"] for step, cells in cost.items() if step != "total") and cost["total"][:2] == [
        "7",
        "7",
    ]
    assert cost["total"][2] > "0:00:00" and cost["total"][4] == "0:00:00" and 0 < float(cost["total"][5]) < 100


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
def test_a_job_that_asked_for_gpus_and_has_none_says_so(project: Project) -> None:
    for step in ("train", "predict"):
        shutil.rmtree(project.folder / "results" / step)
    for asked, step in (("train:gres='gpu:a100:2'", "train"), ("predict:gpu=1", "predict")):
        output = project.run("--set-resources", asked, fails=True)
        assert re.search(r"\d\d the job asked for [12] GPUs? on each node, but on \S+ torch sees none: ", output)
        assert "UNET_ALLOW_CPU=1" in output and "please report" not in output
        assert f"Error in rule {step}:" in output


def test_lost_and_damaged_benchmarks_start_no_job_and_are_not_measured(project: Project) -> None:
    benchmarks = project.folder / "results" / "benchmarks"
    (benchmarks / "train/cells.jsonl").unlink()
    (benchmarks / "plan/cells.jsonl").write_bytes(b"\0" * 99)
    assert "Nothing to be done" in project.run()
    # What a job may use decides no result either, but its benchmark knows it.
    output = project.run("--forcerun", "instances", "report", "--set-resources", "instances:gpu=2", forked=False)
    assert project.counts(output)["instances"] == "7 samples, 0 made" and "train" not in project.jobs(output)
    cost = project.cost()
    assert cost["train"] == cost["plan"] == ["1", "0", "-", "-", "-", "-"] and cost["total"][:2] == ["7", "5"]
    assert cost["instances"][4] > "0:00:00" and cost["instances"][4] == cost["total"][4]


def test_the_report_of_snakemake_holds_page_and_tables_with_their_captions(project: Project) -> None:
    project.run("--report", "all.zip")
    project.run("--report", "all.html")
    with zipfile.ZipFile(project.folder / "all.zip") as archive:
        held = {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
        page = archive.read("all/report.html").decode()
    names = ("report.html", "table.csv", "table.md", "annotate_next.csv")
    assert held == {name: (project.folder / "results/report" / name).read_bytes() for name in names}
    captions = [
        line for path in (ROOT / "rules/captions").glob("[!w]*.rst") for line in path.read_text().split("\n") if line
    ]
    for text in (page, (project.folder / "all.html").read_text()):
        assert (
            all(caption in text for caption in captions)
            and len(captions) == 4
            and '<h1 class=\\"title\\">U-Net for microscopy' in text
        )
        assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=.?https?:", text), (
            "it can be read without internet"
        )


def test_a_second_run_does_nothing(project: Project) -> None:
    assert "Nothing to be done" in project.run()


def test_without_the_memory_of_snakemake_the_same_jobs_are_done(project: Project) -> None:
    shutil.rmtree(project.folder / ".snakemake")
    assert "Nothing to be done" in project.run()
    shutil.rmtree(project.folder / ".snakemake")
    project.configure(CONFIG | {"evaluate": {"thresholds": [0.5, 0.75]}})
    assert project.jobs(project.run()) == {"evaluate", "report"}


def test_results_that_were_moved_are_judged_as_before(project: Project) -> None:
    (project.folder / "results").rename(project.folder / "moved")
    project.configure(CONFIG | {"results": "moved"})
    assert "Nothing to be done" in project.run()
    # The model that is applied is the one that was moved, not one that stands where it was before.
    shutil.copytree(project.folder / "moved/train", project.folder / "results/train")
    (project.folder / "results/train/cells/best.safetensors").write_bytes(b"")
    project.configure(CONFIG | {"results": "moved", "predict": {"dtype": "float16"}})
    assert project.jobs(project.run()) == {"predict", "instances", "evaluate", "report"}


def test_a_dry_run_makes_no_results(project: Project) -> None:
    (project.folder / "results").rename(project.folder / "kept")
    assert project.jobs(project.run("--dry-run")) == set(STEPS)
    assert not (project.folder / "results").exists()


@pytest.mark.parametrize("model", ["", "cells/"])
def test_several_files_may_be_asked_for_by_name_in_a_new_working_folder(project: Project, model: str) -> None:
    more = CONFIG["datasets"]["cells"] | {"images": "data/cells/01/t00[0-3].tif", "unmatched": "allow"}
    models = {"cells": {"train_on": ["cells"], "predict_on": ["cells", "more"]}}
    project.configure(CONFIG | {"datasets": CONFIG["datasets"] | {"more": more}, "models": models})
    shutil.rmtree(project.folder / ".snakemake")
    shutil.rmtree(project.folder / "results")
    step = "predict" if model else "groundtruth"
    files = [f"results/{step}/{model}{name}.json" for name in ("cells", "more")]
    assert step in project.jobs(project.run("--dry-run", "--", *files))


def test_a_file_that_no_model_is_to_make_is_refused_with_the_reason(project: Project) -> None:
    more = CONFIG["datasets"]["cells"] | {"images": "data/cells/01/t00[0-3].tif", "unmatched": "allow"}
    models = {"cells": {"train_on": ["cells"], "predict_on": ["cells"]}}
    project.configure(CONFIG | {"datasets": CONFIG["datasets"] | {"more": more}, "models": models})
    output = project.run("--dry-run", "--", "results/predict/cells/more.json", fails=True)
    assert "the configuration asks for no predict/cells/more; see predict_on of the models" in output


@pytest.mark.parametrize("step", ["groundtruth", "weights", "predict", "instances"])
def test_damage_that_verify_mends_is_made_again_by_the_next_run_alone(
    finished: Project, project: Project, step: str
) -> None:
    store = (
        project.folder / "results" / step / ("cells/cells.zarr" if step in ("predict", "instances") else "cells.zarr")
    )
    shard = Result(store / "t004").shards_of(0)[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:20] + bytes([255 - whole[20]]) + whole[21:])
    assert project.verify().returncode == 1
    assert project.verify("--mend").returncode == 0 and not shard.exists()
    counts = project.counts(project.run())
    assert "train" not in counts or counts["train"] == "nothing has changed"
    assert shard.read_bytes() == whole and project.table() == finished.table()


@pytest.mark.parametrize("ahead", [1.0, 1e6])
def test_results_of_the_future_are_made_again_where_they_are_stale(project: Project, ahead: float) -> None:
    later = time.time() + ahead
    for path in (project.folder / "results").rglob("*.json"):
        os.utime(path, (later, later))
    assert "Nothing to be done" in project.run()
    project.configure(CONFIG | {"instances": {"min_size": 40}})
    assert project.jobs(project.run()) == {"instances", "evaluate", "report"}
    assert "Nothing to be done" in project.run()


def flip(path: Path) -> bytes:
    """Change a bit in the middle of a file; what it was before."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    return whole


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_table_of_objects_is_found_and_made_again(finished: Project, project: Project, suffix: str) -> None:
    path = project.folder / f"results/instances/cells/cells/t001{suffix}"
    whole = flip(path)
    found = project.verify()
    assert found.returncode == 1 and f"t001{suffix}: damaged" in found.stdout
    # Nothing of it gets into scores or report.
    project.configure(CONFIG | {"evaluate": {"thresholds": [0.5, 0.75]}, "report": {"previews": 3}})
    told = project.run(fails=True)
    assert f"t001{suffix} is damaged; run 'python" in told
    project.configure(CONFIG)
    project.follow(told)
    assert project.counts(project.run())["instances"] == "7 samples, 1 made"
    assert path.read_bytes() == whole and project.table() == finished.table()


@pytest.mark.parametrize("how", ["flipped", "deleted"])
def test_damaged_tables_of_scores_are_written_again_by_the_next_run(project: Project, how: str) -> None:
    folder = project.folder / "results/evaluate/cells/cells"
    whole = {folder / f"{name}.{suffix}": b"" for name in ("images", "objects") for suffix in ("csv", "parquet")}
    for path in whole:
        status = path.stat()
        whole[path] = flip(path) if how == "flipped" else path.read_bytes()
        if how == "deleted":
            path.unlink()
        # Each of them alone starts the step.
        assert project.jobs(project.run("--dry-run")) >= {"evaluate"}
        if path != list(whole)[-1]:
            path.write_bytes(whole[path])
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert "Nothing to be done" in project.run("--dry-run")
    for path in list(whole)[:-1]:
        flip(path) if how == "flipped" else path.unlink()
    assert project.jobs(project.run()) >= {"evaluate"}
    assert {path: path.read_bytes() for path in whole} == whole


def test_damage_beside_the_stores_that_no_time_tells_is_found_and_its_own_jobs_make_it_again(project: Project) -> None:
    check = [
        f"groundtruth/cells.check/{name}" for name in ("batches.json", "findings.csv", "samples.csv", "check.html")
    ]
    scores = ["evaluate/cells/cells/images.csv", "evaluate/history/cells/cells.jsonl"]
    stores, whole = project.files("groundtruth"), dict[Path, bytes]()
    for names, steps in ((check, {"groundtruth"}), (scores, {"evaluate", "report"})):
        for path in (project.folder / "results" / name for name in names):
            status = path.stat()
            whole[path] = flip(path)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert "Nothing to be done" in project.run("--dry-run")
        found = project.verify()
        assert found.returncode == 1 and all(f"results/{name}: damaged" in found.stdout for name in names)
        assert f"{len(names)} files damaged" in found.stdout
        assert project.verify("--mend").returncode == 0
        assert project.jobs(project.run()) == steps
        assert project.verify().returncode == 0
        assert "Nothing to be done" in project.run()
    lines = project.folder / "results" / scores[1]
    before, after = json.loads(whole.pop(lines)), json.loads(lines.read_text())
    assert {path: path.read_bytes() for path in whole} == whole and project.files("groundtruth") == stores
    assert (before["digest"], before["images"]) == (after["digest"], after["images"])


def test_counts_of_a_sample_that_are_damaged_are_counted_again(finished: Project, project: Project) -> None:
    path = project.folder / "results/evaluate/cells/cells/samples/t001.json"
    whole = path.read_text()
    kept = json.loads(whole)
    kept["counts"]["detection"][0] += 1
    path.write_text(json.dumps(kept))
    (project.folder / "results/evaluate/cells/cells.json").unlink()
    assert project.counts(project.run())["evaluate"] == "2 samples, 1 scored"
    assert path.read_text() == whole and project.table() == finished.table()


@pytest.mark.parametrize("part", ["groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate"])
def test_a_step_whose_results_were_deleted_is_done_again(finished: Project, project: Project, part: str) -> None:
    shutil.rmtree(project.folder / "results" / part)
    assert part in project.jobs(project.run("--dry-run"))


def test_a_run_that_ends_before_the_report_leaves_it_stale(project: Project) -> None:
    project.configure(CONFIG | {"instances": {"min_size": 40}})
    assert project.jobs(project.run("--until", "evaluate")) == {"instances", "evaluate"}
    assert project.jobs(project.run()) == {"report"}


def test_a_network_that_starts_from_another_waits_for_it_and_follows_it(project: Project) -> None:
    tuned = {"train_on": ["cells"], "predict_on": ["cells"], "train": {"start": "results/train/cells", "steps": 4}}
    project.configure(CONFIG | {"models": {"tuned": tuned, "cells": {}}})
    target = ("--", "results/train/tuned.json")
    assert "starts from results/train/cells" in project.run(*target)
    assert "Nothing to be done" in project.run(*target)
    project.configure(CONFIG | {"models": {"tuned": tuned, "cells": {"train": {"learning_rate": 0.02}}}})
    assert len(re.findall(r"train: starts from", project.run(*target))) == 2
    assert "Nothing to be done" in project.run(*target)


def test_a_run_beside_another_one_in_the_same_results_is_refused(project: Project) -> None:
    project.configure(CONFIG | {"evaluate": {"thresholds": [0.5, 0.75]}})
    with held(project.folder / "results"):
        output = project.run(fails=True)
        assert "in use by another run" in output and "--nolock" in output and "Traceback" not in output
        assert project.jobs(project.run("--dry-run")) == {"evaluate", "report"}
    assert project.jobs(project.run()) == {"evaluate", "report"}


def test_touched_files_change_nothing(project: Project) -> None:
    for path in (project.folder / "data").rglob("*.tif"):
        path.touch()
    assert "Nothing to be done" in project.run()


def test_a_changed_training_annotation_redoes_one_sample_and_the_model(project: Project) -> None:
    before = {step: project.files(step) for step in ("groundtruth", "weights")}
    edit_annotation(project, 0)
    output = project.run()
    counts = project.counts(output)
    assert counts["groundtruth"] == "7 samples, 0 images and 1 annotations converted, 0 removed"
    assert counts["weights"] == "6 samples, 1 made"
    assert re.search(r"train: \d+ training and", output) and counts["evaluate"] == "2 samples, 2 scored"
    for step, old in before.items():
        new = project.files(step)
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        assert changed and all(name.startswith("cells.zarr/t000/") for name in changed), changed


def test_a_changed_test_annotation_is_scored_again_and_trains_and_predicts_nothing(project: Project) -> None:
    before = {step: project.files(step) for step in ("predict", "instances")}
    weights = (project.folder / "results/train/cells/best.safetensors").stat().st_mtime_ns
    edit_annotation(project, 1)
    counts = project.counts(project.run())
    assert counts["groundtruth"].startswith("7 samples, 0 images and 1 annotations converted")
    assert counts["weights"] == "6 samples, 1 made" and counts["evaluate"] == "2 samples, 1 scored"
    assert (project.folder / "results/train/cells/best.safetensors").stat().st_mtime_ns == weights
    assert before == {step: project.files(step) for step in ("predict", "instances")}


def test_a_corrected_result_is_learnt_from_and_no_other_sample_is_touched(project: Project) -> None:
    before = {step: project.files(step) for step in ("groundtruth", "weights")}
    model = (project.folder / "results/train/cells/best.safetensors").read_bytes()
    done = run_function(main, [["correct", "cells", "cells", "--to", "corrected", "--best", "1"]], project.folder)
    lines = done.stdout[done.stdout.index("\ndatasets:") : done.stdout.index("\nand run")]
    config = CONFIG | {"datasets": {"cells": CONFIG["datasets"]["cells"] | yaml.safe_load(lines)["datasets"]["cells"]}}
    project.configure(config)
    # Nothing counts before it is done.
    counts = project.counts(project.run())
    assert counts["groundtruth"] == "7 samples, 0 images and 0 annotations converted, 0 removed"
    assert all(project.files(step) == files for step, files in before.items())
    assert (project.folder / "results/train/cells/best.safetensors").read_bytes() == model
    labels = tifffile.imread(project.folder / "corrected/to_do/t006.tif")
    labels[labels == labels.max()] = 0
    labels[:20, :20] = labels.max() + 1
    tifffile.imwrite(project.folder / "corrected/done/t006.tif", labels)
    output = project.run()
    counts = project.counts(output)
    assert counts["groundtruth"] == "7 samples, 0 images and 1 annotations converted, 0 removed"
    assert counts["weights"] == "7 samples, 1 made" and project.jobs(output) == set(STEPS)
    assert (project.folder / "results/train/cells/best.safetensors").read_bytes() != model
    for step, old in before.items():
        new = project.files(step)
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        assert changed and all(name.startswith("cells.zarr/t006/") for name in changed), changed
    stored = Result(project.folder / "results/groundtruth/cells.zarr/t006/labels/instances").read_all()[0]
    pairs = {*zip(stored.ravel().tolist(), labels.ravel().tolist(), strict=True)}
    assert len(pairs) == len(np.unique(stored)) == len(np.unique(labels)) and (0, 0) in pairs
    assert "Nothing to be done" in project.run()


def test_a_failed_training_with_other_options_leaves_no_trace_when_they_are_taken_back(project: Project) -> None:
    table = project.table()
    project.configure(CONFIG | {"train": CONFIG["train"] | {"learning_rate": 1e30}})
    assert "the loss became" in project.run(fails=True)
    project.configure(CONFIG)
    assert project.counts(project.run())["train"] != "nothing has changed"
    assert project.table() == table


def test_a_new_image_without_annotation_is_segmented_and_trains_nothing(project: Project) -> None:
    shutil.copy(project.folder / "data/cells/01/t000.tif", project.folder / "data/cells/01/t020.tif")
    output = project.run()
    counts = project.counts(output)
    assert project.jobs(output) == {"groundtruth", "plan", "predict", "instances", "evaluate", "report"}
    assert counts["groundtruth"].startswith("8 samples, 1 images and 0 annotations")
    assert counts["predict"] == "8 samples, 1 segmented"
    assert "Nothing to be done" in project.run()


@pytest.mark.parametrize(
    ("section", "key", "value", "redone"),
    [
        ("evaluate", "thresholds", [0.5, 0.75], {"evaluate", "report"}),
        ("instances", "min_size", 40, {"instances", "evaluate", "report"}),
        ("predict", "dtype", "float16", {"predict", "instances", "evaluate", "report"}),
        ("predict", "tile", 100, {"plan", "train", "predict", "instances", "evaluate", "report"}),
        ("report", "previews", 1, {"report"}),
    ],
)
def test_a_changed_section_redoes_its_step_and_what_follows(
    project: Project, section: str, key: str, value: Any, redone: set[str]
) -> None:
    project.configure(CONFIG | {section: CONFIG.get(section, {}) | {key: value}})
    assert project.jobs(project.run("--dry-run")) == redone
    if "train" in redone:
        assert project.counts(project.run())["train"] == "nothing has changed"


def test_new_software_starts_a_job_only_where_the_version_of_a_method_is_another_one(project: Project) -> None:
    copy = project.folder / "pipeline"
    copy.mkdir()
    shutil.copy(ROOT / "Snakefile", copy)
    for part in ("rules", "scripts", "envs", "unet_core", "profiles"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    # Every file is newer than all results, and says something else.
    for path in [copy / "Snakefile", *copy.rglob("*.smk"), *copy.rglob("*.py")]:
        path.write_text(path.read_text() + "\n# Another comment.\n")
    arguments = ["--snakefile", str(copy / "Snakefile")]
    assert "Nothing to be done" in project.run(*arguments, forked=False)
    versions = copy / "unet_core" / "method.py"
    versions.write_text(versions.read_text().replace('"evaluate": 1', '"evaluate": 2'))
    output = project.run(*arguments, forked=False)
    assert {"evaluate", "report"} == project.jobs(output)
    assert project.counts(output)["evaluate"] == "2 samples, 2 scored"


# The tests of weights, predict and instances kill these steps by themselves.
@pytest.mark.parametrize("step", ["groundtruth", "train", "predict", "evaluate"])
def test_a_run_that_was_killed_in_a_step_ends_in_the_same_table(finished: Project, project: Project, step: str) -> None:
    for later in STEPS[STEPS.index(step) :]:
        shutil.rmtree(project.folder / "results" / later)
    process = subprocess.Popen(
        [*SNAKEMAKE, "--quiet", "rules"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = {"train": "train/cells"}.get(step, step)
    deadline = time.monotonic() + 120
    while (
        not (project.folder / "results" / started).exists() and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    project.run("--unlock")
    project.run("--rerun-incomplete")
    assert project.table() == finished.table()


def test_a_store_that_was_removed_by_hand_is_noticed_and_made_again(project: Project) -> None:
    table, gone = project.table(), project.folder / "results/predict/cells/cells.zarr/t001"
    shutil.rmtree(gone)
    counts = project.counts(project.run())
    assert counts["predict"] == "7 samples, 1 segmented"
    assert gone.is_dir() and project.table() == table and "Nothing to be done" in project.run()


def test_a_step_says_what_is_gone_of_the_step_before(project: Project) -> None:
    project.configure(CONFIG | {"instances": {"min_size": 40}})
    assert project.jobs(project.run("--until", "predict")) == set()
    shutil.rmtree(project.folder / "results/predict/cells/cells.zarr/t001")
    (project.folder / "results/predict/cells/cells.zarr/t001").mkdir()
    told = project.run(fails=True)
    assert re.search(r"predict/cells/cells.zarr/t001 is missing or damaged; run 'python", told)
    project.follow(told)
    assert project.counts(project.run())["predict"] == "7 samples, 1 segmented"


def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file without changing its time, as a failing disk does."""
    status = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flipped(content: bytes) -> bytes:
    """One bit of it changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def told_by(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(UserError) as told:
        function(*arguments)
    return str(told.value)


def test_who_follows_the_messages_about_damaged_results_has_them_made_again_and_nothing_else(
    finished: Project, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    truth, weights, predict, instances = (
        Path(f"results/{step}cells.zarr") for step in ("groundtruth/", "weights/", "predict/cells/", "instances/cells/")
    )
    tables, check = instances.with_suffix(""), truth.with_suffix(".check") / "samples.csv"
    spoil(truth / "t000/zarr.json", lambda _: b"{}")
    spoil(weights / "t005/labels/target/zarr.json", lambda content: content[:-9])
    spoil(predict / "t001/0/zarr.json", lambda _: b"")
    spoil(predict / "t002/0/c.0.0.0.0", lambda content: content[:-9])
    spoil(predict / "t003/0/c.0.0.0.0", flipped)
    (predict / "t004/zarr.json").unlink()
    begin(predict / "t005", "other", Spec((1, 150, 130), "uint8", "image", 1), {})
    (tables / "t005.csv").unlink()
    spoil(tables / "t006.parquet", flipped)
    assert "Nothing to be done" in project.run("--dry-run")
    messages = [
        told_by(pin, truth / "t000", "d", truth),
        told_by(open_weights, weights, "t005"),
        told_by(Result, predict / "t001"),
        told_by(Result(predict / "t002").read_all),
        told_by(Result(predict / "t003").read_all),
        told_by(Result, predict / "t004"),
        told_by(pin, predict / "t005", "d", predict.with_suffix(".json")),
        told_by(check_table, tables / "t005.csv"),
        told_by(check_table, tables / "t006.parquet"),
    ]
    spoil(check, flipped)
    with pytest.raises(SystemExit):
        main(["check", "config.yaml"])
    messages.append(capsys.readouterr().out)
    for message in messages:
        project.follow(message)
    output, stores = (
        project.run(),
        [Path("results") / step for step in ("groundtruth", "weights", "predict", "instances")],
    )
    assert project.counts(output) | {"plan": "", "report": ""} == {
        "groundtruth": "7 samples, 1 images and 1 annotations converted, 0 removed",
        "weights": "6 samples, 1 made",
        "plan": "",
        "train": "nothing has changed",
        "predict": "7 samples, 5 segmented",
        "instances": "7 samples, 2 made",
        "evaluate": "2 samples, 0 scored",
        "report": "",
    }
    for folder in stores:
        for path in (finished.folder / folder).rglob("*"):
            if path.is_file() and path.suffix in ("", ".csv", ".parquet"):
                assert path.read_bytes() == (project.folder / path.relative_to(finished.folder)).read_bytes(), path
    assert project.verify().returncode == 0 and project.table() == finished.table()


def test_who_follows_the_messages_about_a_damaged_plan_and_model_has_them_made_again(
    finished: Project, project: Project
) -> None:
    plan, model = project.folder / "results/plan/cells.json", project.folder / "results/train/cells"
    spoil(model / "best.safetensors", flipped)
    assert "Nothing to be done" in project.run("--dry-run")
    shutil.rmtree(project.folder / "results/predict")
    told = project.run(fails=True)
    assert "the model in results/train/cells is not the one that was asked for" in told
    advice = told[told.index("; run 'python") :].partition("\n")[0]
    (model / "model.json").unlink()
    assert told_by(read_model, model).replace(f"{project.folder}/", "").endswith(advice)
    project.follow(told)
    spoil(plan, lambda content: content[:-2] + b"  ")
    project.follow(told_by(read_json, plan))
    assert project.counts(project.run())["train"].startswith("step 12 of 12")
    assert project.table() == finished.table() and project.verify().returncode == 0


def test_who_follows_the_message_about_objects_of_another_image_has_them_made_again(
    finished: Project, project: Project
) -> None:
    path = project.folder / "results/instances/cells/cells.zarr/t001"
    attributes = read_attributes(path)
    shutil.rmtree(path)
    spec = Spec((1, 150, 131), "uint32", "labels")
    begin(path, attributes["digest"], spec, {}).write(0, np.zeros(spec.shape, np.uint32), attributes["digest"])
    finish(path, attributes["digest"], attributes["details"])
    project.configure(CONFIG | {"evaluate": {"thresholds": [0.5, 0.75]}})
    told = project.run(fails=True)
    assert "t001 has shape (1, 150, 131), but its truth (1, 150, 130)" in told
    project.configure(CONFIG)
    project.follow(told)
    assert project.counts(project.run())["instances"] == "7 samples, 1 made" and project.table() == finished.table()


def test_what_is_auto_is_chosen_by_validation_and_told(project: Project) -> None:
    auto = {"instances": {"threshold": "auto", "split": "auto", "min_size": "auto"}}
    project.configure(CONFIG | auto)
    objects = {"instances", "evaluate", "report"}
    assert project.jobs(project.run()) == {"tune", *objects}
    found = json.loads((project.folder / "results/tune/cells.json").read_text())
    assert found["by"] == ["cells/t003"] and found["objects"] > 0 and found["score"] >= found["before"]
    page = (project.folder / "results/report/report.html").read_text()
    told = f"threshold {found['chosen']['threshold']}, min_size {found['chosen']['min_size']}, split "
    assert f"Objects: {told}" in page and "Settings that were tried" in page
    tables = project.files("instances")
    # The numbers that were chosen make the same objects.
    project.configure(CONFIG | {"instances": found["chosen"]})
    assert project.jobs(project.run()) == objects and project.files("instances") == tables
    assert "Settings that were tried" not in (project.folder / "results/report/report.html").read_text()
    project.configure(CONFIG | auto)
    assert project.jobs(project.run()) == objects  # what was chosen before still stands
    assert "Nothing to be done" in project.run()
    edit_annotation(project, 1)  # of a test sample
    assert "tune" not in project.jobs(project.run("--dry-run"))
    edit_annotation(project, 3)
    assert {"tune", *objects} < project.jobs(project.run("--dry-run"))


def test_auto_without_samples_to_choose_by_is_refused(project: Project) -> None:
    for changed, told in (
        ({"predict": {"dtype": "mask"}}, "threshold is auto, but predict.dtype mask stores no probabilities"),
        ({"predict": {"splits": ["test", "unannotated"]}}, "predict.splits leaves out validation"),
    ):
        project.configure(CONFIG | {"instances": {"threshold": "auto"}} | changed)
        assert told in project.run("--dry-run", fails=True)


def test_masks_give_the_objects_of_the_probabilities_and_take_less_disk(project: Project) -> None:
    before, shards = project.table(), "results/predict/cells/cells.zarr/*/0/c.*"
    size = sum(path.stat().st_size for path in project.folder.glob(shards))
    masks = CONFIG["predict"] | {"dtype": "mask"}
    project.configure(CONFIG | {"predict": masks})
    output = project.run()
    assert project.counts(output)["predict"] == "7 samples, 7 segmented"
    assert project.table() == before
    assert 0 < sum(path.stat().st_size for path in project.folder.glob(shards)) < size
    # Masks are of one threshold.
    project.configure(CONFIG | {"predict": masks, "instances": {"threshold": 0.6}})
    assert project.counts(project.run())["predict"] == "7 samples, 7 segmented"


def test_a_region_and_what_is_skipped_are_left_empty_and_told(project: Project) -> None:
    plain = {"images": "data/cells/01/t00[0-2].tif"}
    whole = CONFIG["datasets"] | {"whole": plain, "part": plain | {"region": [{"y": [0, 40], "x": [20, 130]}]}}
    models = {"cells": {"predict_on": ["cells", "whole", "part"]}}
    project.configure(CONFIG | {"datasets": whole, "models": models})
    assert "train" not in project.jobs(project.run("--config", "gate=off"))
    found = [project.folder / f"results/predict/cells/{name}.zarr/t001" for name in ("whole", "part")]
    first, second = (Result(path).read_all()[0, 0] for path in found)
    expected = np.zeros_like(first)
    expected[:40, 20:130] = first[:40, 20:130]
    np.testing.assert_array_equal(second, expected)
    # Data sets with and without annotations in one run, also where the scores of the first are new.
    project.configure(CONFIG | {"datasets": whole, "models": models, "predict": {"skip": {"above": -1}}})
    output = project.run("--config", "gate=off")
    assert project.jobs(output) == {"predict", "instances", "evaluate", "report"}
    for name, count in (("cells", 7), ("whole", 3), ("part", 3)):
        log = (project.folder / f"results/logs/predict/cells/{name}.log").read_text()
        assert f"{count} samples, {count} segmented, {count} of {count} blocks are empty" in log
    assert "Empty blocks: 3 of 3" in (project.folder / "results/report/report.html").read_text()
    assert "Nothing to be done" in project.run("--config", "gate=off")


def test_a_model_trained_elsewhere_is_applied_without_training(project: Project) -> None:
    shutil.copytree(project.folder / "results/train/cells", project.folder / "bought")
    config = json.loads(json.dumps(CONFIG)) | {
        "results": "elsewhere",
        "models": {"old": {"path": "bought", "predict_on": ["cells"]}},
    }
    project.configure(config)
    output = project.run()
    assert project.jobs(output) == {"groundtruth", "plan", "train", "predict", "instances", "evaluate", "report"}
    assert project.cost("elsewhere")["total"][:2] == ["6", "6"] and "weights" not in project.cost("elsewhere")
    row = (project.folder / "elsewhere/report/table.csv").read_text().splitlines()[1].split(",")
    assert row[0] == "old" and row[2:] == project.table().splitlines()[1].split(",")[2:]
    # Other weights in the same folder are noticed.
    shutil.copy(project.folder / "results/train/cells/last.safetensors", project.folder / "bought/last.safetensors")
    assert "Nothing to be done" in project.run()
    description = project.folder / "bought/model.json"
    description.write_text(description.read_text().replace('"trained_on"', '"learnt_from"'))
    assert project.counts(project.run())["predict"] == "7 samples, 7 segmented"


def test_the_estimate_foresees_jobs_and_sizes_of_the_first_run(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_core.estimate.rehearsal.TRAINING_S", 0.5)
    # The start of one process is measured; eight would take longer than all of the rest.
    start = process_start("weights", 1)
    monkeypatch.setattr("unet_core.estimate.command.process_start", lambda *_: start)
    shutil.copytree(finished.folder / "data", tmp_path / "data")
    Project(tmp_path).configure(CONFIG)
    monkeypatch.chdir(tmp_path)
    rows = {row.step: row for row in estimate.run(Path("config.yaml"))}
    assert list(rows) == list(STEPS) and all(row.jobs == 1 and row.seconds > 0 for row in rows.values())
    assert [rows[step].samples for step in ("groundtruth", "weights", "train", "predict", "evaluate")] == [
        7,
        6,
        4,
        7,
        2,
    ]
    results = finished.folder / "results"
    for step in ("groundtruth", "weights", "train", "instances"):
        assert rows[step].bytes == pytest.approx(allocated(results / step), rel=0.25), step
    for step in ("groundtruth", "weights", "predict", "instances"):
        found = sum(
            1
            for path in (results / step).rglob("*")
            if any(part.startswith("t0") for part in path.relative_to(results).parts)
        )
        assert rows[step].inodes == found, step
    left = {path.name for path in (tmp_path / "results").iterdir()} if (tmp_path / "results").exists() else set()
    assert left <= {"groundtruth"}, "nothing but hashes of files is left behind"


def test_the_estimate_counts_what_a_change_leaves_to_do(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("unet_core.estimate.command.process_start", lambda *_: 1.0)
    assert estimate.run(Path("config.yaml")) == [] and "nothing to be done" in capsys.readouterr().out
    edit_annotation(project, 1)
    rows = {row.step: row for row in estimate.run(Path("config.yaml"))}
    assert {step: row.samples for step, row in rows.items() if row.samples} == {
        "groundtruth": 1,
        "weights": 1,
        "evaluate": 2,
    }
    assert set(rows) == {"groundtruth", "weights", "evaluate", "report"}
    edit_annotation(project, 0)
    cfg = parse_config(CONFIG)
    jobs = Workload(cfg, sizes(cfg, check_data(cfg)), pending(Path("config.yaml"))).jobs
    assert {step: len(job.items) for (step, _), job in jobs.items() if job.items} == {
        "groundtruth": 2,
        "weights": 2,
        "train": 4,
        "predict": 7,
        "instances": 7,
        "evaluate": 2,
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train": {"stepz": 3}}, "train.stepz: unknown key; did you mean steps?"),
        ({"models": {"x": {"train_on": ["nowhere"]}}}, "models.x.train_on: no data set 'nowhere'; there are: cells"),
    ],
)
def test_mistakes_in_the_configuration_are_told_without_a_traceback(
    project: Project, change: dict[str, Any], told: str
) -> None:
    project.configure(CONFIG | change)
    output = project.run("--dry-run", fails=True)
    assert told in output and "Traceback" not in output


def test_all_mistakes_in_the_data_are_told_before_any_work(project: Project) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["datasets"]["cells"]["split"]["test"] = ["t9*"]
    config["datasets"]["lost"] = {"images": "nowhere/*.tif"}
    project.configure(config | {"results": "new"})
    output = project.run(fails=True)
    assert "datasets.cells.split.test: no annotated sample matches ['t9*']" in output
    assert "datasets.lost.images: no file matches 'nowhere/*.tif'" in output
    assert not (project.folder / "new").exists() and "Traceback" not in output


def test_unreadable_and_unfitting_files_are_told_in_one_message_and_nothing_is_taken_for_done(project: Project) -> None:
    image = project.folder / "data/cells/01/t004.tif"
    image.write_bytes(image.read_bytes()[:300])
    tifffile.imwrite(project.folder / "data/cells/01_GT/SEG/man_seg005.tif", np.zeros((3, 3), np.uint16))
    output = project.run(fails=True)
    assert "2 of 7 samples cannot be converted" in output
    assert re.search(r"t004.tif: cannot be read|t004.tif.*TIFF", output) and re.search(
        r"annotation has shape \(3, 3\), but its image has", output
    )
    assert not (project.folder / "results/groundtruth/cells.json").exists()


def test_a_model_that_is_worse_than_the_one_before_is_stopped_before_a_data_set_without_annotation(
    project: Project,
) -> None:
    history = project.folder / "results/evaluate/history/cells"
    line = json.loads((history / "cells.jsonl").read_text())
    # As former versions wrote it, without checksums.
    del line["checksum"], line["images"]
    images = pd.read_csv(history / "cells" / f"{line['digest']}.csv")
    # A model before this one, which made no mistake.
    images["iou_over"] = images["iou_under"]
    images.to_csv(history / "cells" / "better.csv", index=False)
    lines = [line | {"digest": "better", "weights": "before"}, line]
    (history / "cells.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    screen = {"screen": {"images": "data/cells/01/t00[01].tif"}}
    models = {"cells": {"train_on": ["cells"], "predict_on": ["cells", "screen"]}}
    project.configure(CONFIG | {"datasets": CONFIG["datasets"] | screen, "models": models})
    output = project.run("--", "results/predict/cells/screen.json", fails=True)
    assert "model cells is worse than the one it replaces: iou on cells" in output and "Traceback" not in output
    assert (
        "snakemake --config gate=off" in output and not (project.folder / "results/predict/cells/screen.zarr").exists()
    )
    gate = str((history / "gate.json").relative_to(project.folder))
    assert "accepted, though worse" in project.run("--config", "gate=off", "--", gate)
    # It is passed for good, and new scores alone start no segmentation.
    assert project.jobs(project.run("--dry-run", "--", "results/predict/cells/screen.json")) == {"predict"}
    output = project.run("--dry-run", "--config", "evaluate={thresholds: [0.5, 0.75]}", "--", gate)
    assert project.jobs(output) == {"evaluate"} and "gate: cells" in output
