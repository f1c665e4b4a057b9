"""Cross-validation: who is in which fold, and that no sample is predicted by a network that has seen it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.test_workflow import CONFIG, Project
from unet_core.config.datasets import ConfigError
from unet_core.config.folds import (
    divide_into_folds,
    folds_of_samples,
    holds_out,
    may_predict,
    split_in_scores,
    split_in_training,
)
from unet_core.config.parse import parse_config
from unet_core.estimate.workload import Workload, pending, sizes
from unet_core.groundtruth.samples import check_data
from unet_core.runtime import read_json

NAMES = st.sets(st.text("abcdefgh0123456789", min_size=1, max_size=6), min_size=2, max_size=60)


def alone(names: Iterable[str]) -> dict[str, str]:
    """Each sample as a group of its own."""
    return {name: name for name in names}


def test_samples_of_a_group_are_in_one_fold() -> None:
    groups = {f"film{film}_{frame:04d}": f"film{film}" for film in range(7) for frame in range(5)}
    found = divide_into_folds(groups, 3)
    assert set(found) == set(groups) and set(found.values()) == {1, 2, 3}
    assert len({(groups[name], fold) for name, fold in found.items()}) == 7
    with pytest.raises(
        ValueError, match="8 folds need at least 8 .* there are 35 in 7 groups, which are kept together"
    ):
        divide_into_folds(groups, 8)
    stamps = {"films": {"samples": {name: {"split": "train", "group": group} for name, group in groups.items()}}}
    assert folds_of_samples(stamps, 3) == {f"films/{name}": fold for name, fold in found.items()}


@given(NAMES, st.integers(2, 8), st.randoms())
def test_each_sample_is_in_one_fold_and_no_fold_has_less_than_half_of_its_share(
    names: set[str], count: int, random: Any
) -> None:
    if len(names) < count:
        with pytest.raises(
            ValueError, match=f"{count} folds need at least {count} annotated samples .* there are {len(names)}"
        ):
            divide_into_folds(alone(names), count)
        return
    found = divide_into_folds(alone(names), count)
    sizes = Counter(found.values())
    assert set(found) == names and set(sizes) == set(range(1, count + 1))
    assert min(sizes.values()) >= max(1, len(names) // (2 * count))
    shuffled = sorted(names)
    random.shuffle(shuffled)
    assert divide_into_folds(alone(shuffled), count) == found


def test_new_samples_move_no_old_ones() -> None:
    names = [f"image {number}" for number in range(400)]
    before = divide_into_folds(alone(names[:100]), 5)
    assert before == {name: fold for name, fold in divide_into_folds(alone(names), 5).items() if name in before}
    # So many that folds are about as large as each other.
    assert max(Counter(divide_into_folds(alone(names), 5).values()).values()) < 110


def test_patterns_divide_as_they_say_and_all_that_is_wrong_with_them_is_told() -> None:
    assert divide_into_folds(alone(["a1", "a2", "b1"]), [["a1"], ["a*", "b*"]]) == {"a1": 1, "a2": 2, "b1": 2}
    with pytest.raises(ValueError, match="sample 'c1' is in none of the folds"):
        divide_into_folds(alone(["a1", "c1"]), [["a*"], ["b*"]])
    with pytest.raises(ValueError, match=r"no sample is in fold 2 \(b\*\); samples are: a1, a2"):
        divide_into_folds(alone(["a1", "a2"]), [["a*"], ["b*"]])


@given(NAMES, st.integers(2, 5), st.data())
def test_a_sample_is_predicted_by_exactly_the_network_that_was_not_trained_on_it(
    names: set[str], count: int, data: Any
) -> None:
    splits = {
        name: data.draw(st.sampled_from(["train", "validation", "test", "unannotated"])) for name in sorted(names)
    }
    stamp = {"cells": {"samples": {name: {"split": split} for name, split in splits.items()}}}
    if sum(split in ("train", "validation") for split in splits.values()) < count:
        return
    plans = [{"fold": number, "folds": folds_of_samples(stamp, count)} for number in range(1, count + 1)]
    for name, split in splits.items():
        key = f"cells/{name}"
        seen = [split_in_training(plan, key, split) for plan in plans]
        used = [may_predict(plan, key) for plan in plans]
        if split in ("train", "validation"):
            assert sorted(seen) == ["train"] * (count - 1) + ["validation"]
            assert used == [part == "validation" for part in seen] == [holds_out(plan, key) for plan in plans]
        else:
            assert all(used) and set(seen) == {split}
        asked = [plan for plan, is_used in zip(plans, used, strict=True) if is_used]
        assert (split_in_scores(asked, key, split) == "cross-validation") == (split in ("train", "validation"))
        # A network without folds may have seen it.
        assert (
            split_in_scores([*asked, {}], key, split) == split
            and may_predict({}, key)
            and split_in_training({}, key, split) == split
        )


def test_samples_of_the_same_name_in_two_data_sets_are_in_the_same_fold() -> None:
    stamps = {d: {"samples": {f"s{n}": {"split": "train"} for n in range(9)}} for d in ("raw", "blurred")}
    found = folds_of_samples(stamps, 3)
    assert len(found) == 18 and all(found[f"raw/s{n}"] == found[f"blurred/s{n}"] for n in range(9))


CELLS = {"images": "x.tif", "annotations": [{"format": "labels", "path": "y.tif"}]}


def models(**given: Any) -> dict[str, Any]:
    return {"datasets": {"cells": CELLS, "more": CELLS, "other": CELLS | {"classes": ["x"]}}, "models": given}


def test_folds_and_ensembles_are_networks_with_the_options_of_their_model() -> None:
    cfg = parse_config(
        models(
            cells={"folds": 2, "train": {"steps": 5}},
            more={},
            old={"path": "p", "predict_on": ["more"]},
            all={"ensemble": ["cells", "old"]},
        )
    )
    assert cfg.networks == ["cells.fold1", "cells.fold2", "more", "old"]
    assert cfg.networks_of("all") == ["cells.fold1", "cells.fold2", "old"] and cfg.networks_of("more") == ["more"]
    assert cfg.models["all"].predict_on == ["cells", "more"] and cfg.models["all"].train_on == []
    assert (
        cfg.train_of("cells.fold2").steps == 5 and cfg.fold_of("cells.fold2") == (2, 2) and cfg.fold_of("more") is None
    )
    assert cfg.datasets_of("cells.fold1") == ["cells", "more"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cells": {"folds": 1}}, "models.cells.folds: must be greater than or equal to 2"),
        ({"cells": {"folds": [["a"]]}}, "models.cells.folds: "),
        ({"m": {"path": "p", "folds": 2, "predict_on": ["cells"]}}, "models.m: path and folds exclude each other"),
        ({"cells": {}, "m": {"ensemble": ["cels"]}}, "models.m.ensemble: no model 'cels'; there are: cells"),
        ({"cells": {}, "m": {"ensemble": ["cells", "cells"]}}, "models.m.ensemble: each model may be named only once"),
        (
            {"cells": {}, "m": {"ensemble": ["cells"], "train_on": ["cells"]}},
            "models.m: ensemble and train_on exclude each other",
        ),
        (
            {"cells": {}, "m": {"ensemble": ["cells"], "predict": {"tile": 200}}},
            "models.m.predict.tile: has no meaning for an ensemble",
        ),
        ({"m": {"ensemble": ["m"]}}, "models.m.ensemble: 'm' is an ensemble itself"),
        (
            {"cells": {}, "other": {}, "m": {"ensemble": ["cells", "other"]}},
            "models.m.ensemble: the models must have the same classes",
        ),
        (
            {"cells": {"folds": 2, "predict": {"splits": ["test"]}}},
            "models.cells: predict.splits leaves out train, validation, which evaluate.splits wants to score",
        ),
    ],
)
def test_mistakes_are_told_with_what_to_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(models(**given))
    assert message in str(error.value)


def test_too_few_samples_for_the_folds_are_told_before_any_work(tmp_path: Path) -> None:
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 9), np.uint8))
    source = {"format": "labels", "path": f"{tmp_path}/{{stem}}.tif"}
    dataset = {"images": f"{tmp_path}/*.tif", "annotations": [source], "split": {"test": 0, "validation": 0}}
    cfg = parse_config({"datasets": {"cells": dataset}, "models": {"cells": {"folds": 3}}})
    with pytest.raises(
        ConfigError, match="models.cells.folds: 3 folds need at least 3 annotated samples .* there are 2"
    ):
        check_data(cfg)


def weights_times(project: Project) -> dict[str, int]:
    return {
        path.parent.name: path.stat().st_mtime_ns for path in project.folder.glob("results/train/*/best.safetensors")
    }


def foreseen() -> dict[tuple[str, Any], Any]:
    """The jobs that an estimate foresees in this folder."""
    cfg = parse_config(yaml.safe_load(Path("config.yaml").read_text()))
    return Workload(cfg, sizes(cfg, check_data(cfg)), pending(Path("config.yaml"))).jobs


@pytest.mark.slow
def test_a_model_with_folds_goes_through_the_whole_chain_and_does_again_what_a_change_touches(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        for source in (f"01/t{number:03d}.tif", f"01_GT/SEG/man_seg{number:03d}.tif"):
            target = tmp_path / "data" / "cells" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(target, tifffile.imread(demo / "cells" / source)[:110, :120])
    annotation = tmp_path / "data/cells/01_GT/SEG/man_seg006.tif"
    annotation.rename(tmp_path / "later.tif")
    project, config = Project(tmp_path), json.loads(json.dumps(CONFIG))
    config["datasets"]["cells"]["split"]["validation"] = 0
    config["models"] = {"cells": {"folds": [["t000", "t003"], ["t00*"]]}}
    project.configure(config)
    monkeypatch.chdir(tmp_path)

    jobs = foreseen()
    assert [len(jobs["train", f"cells.fold{fold}"].items) for fold in (1, 2)] == [4, 4]
    assert len(jobs["evaluate", ("cells", "cells")].items) == 6 and len(jobs["predict", ("cells", "cells")].items) == 7
    project.run()
    stamp = read_json(tmp_path / "results/predict/cells/cells.json")
    splits = {name: entry["split"] for name, entry in stamp["samples"].items()}
    assert splits == {"t006": "unannotated"} | dict.fromkeys(["t001", "t002"], "test") | {
        name: "cross-validation" for name in ("t000", "t003", "t004", "t005")
    }
    _, *lines = [line.split(",") for line in project.table().splitlines()]
    assert [line[:4] for line in lines] == [
        ["cells", "cells", "test", "2"],
        ["cells", "cells", "cross-validation", "4"],
    ]
    for number, held_out in ((1, {"t000", "t003"}), (2, {"t004", "t005"})):
        plan, model = (
            read_json(tmp_path / f"results/{part}")
            for part in (f"plan/cells.fold{number}.json", f"train/cells.fold{number}/model.json")
        )
        assert {key.partition("/")[2] for key in model["samples"] if holds_out(plan, key)} == held_out and len(
            model["samples"]
        ) == 4
    page = (tmp_path / "results/report/report.html").read_text()
    assert "Network cells.fold1" in page and "The mean of 2 networks: cells.fold1, cells.fold2." in page

    assert "Nothing to be done" in project.run()
    both = project.run(
        "--dry-run", "--config", "models={cells: {folds: [[t000, t003], [t00*]]}, both: {ensemble: [cells]}}"
    )
    assert (
        project.jobs(both) == {"predict", "instances", "evaluate", "report"}
        and "ensemble: both, the mean of several" in both
    )
    before = weights_times(project)
    # One for the second fold trains both: the first network learns from it, the second is validated on it.
    (tmp_path / "later.tif").rename(annotation)
    jobs = foreseen()
    assert len(jobs["train", "cells.fold1"].items) == 5 and len(jobs["evaluate", ("cells", "cells")].items) == 7
    project.run()
    assert all(time > before[name] for name, time in weights_times(project).items())
    assert read_json(tmp_path / "results/predict/cells/cells.json")["samples"]["t006"]["split"] == "cross-validation"
