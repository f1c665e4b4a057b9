"""What each step costs on this machine, from runs of the steps themselves on a few samples in a temporary folder.

The first sample of a step pays what each job pays once (compilation, imports); the others give the cost of a voxel.
Instead of what a hardly trained network found, objects are made of probabilities that look like those of a trained one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.blocks import ZYX
from unet_core.config.folds import DIVIDED_SPLITS, HELD_OUT_SPLIT, split_in_training
from unet_core.config.options import Config, Network
from unet_core.engine import Engine, local_engine
from unet_core.estimate.measure import Cost, allocated, clock
from unet_core.estimate.stand_in import MAX_SAMPLE_VOXELS, PIECE_SHAPE, Sized, as_pieces, choose_samples, write_stand_in
from unet_core.evaluate.step import evaluate_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.step import make_instances
from unet_core.network.ensemble import write_ensemble
from unet_core.plan.step import make_plan
from unet_core.predict.step import predict_samples
from unet_core.report.step import make_report
from unet_core.runtime import read_json, write_stamp
from unet_core.train.step import adopt_model, train_model
from unet_core.weights.step import make_weights

# Training steps are timed over that long, or that many; prediction of more than one sample is not timed beyond.
TRAINING_S, MAX_STEPS, PREDICTION_S = 4.0, 256, 5.0


@dataclass
class Rehearsal:
    """The costs of each step, by data set, model, or (model, data set), and what was measured."""

    costs: dict[tuple[str, Any], Cost] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)


def first_folds(cfg: Config, model: str) -> list[str]:
    """Networks of a model, of those that are folds of one model only the first."""
    return list({network.partition(".")[0]: network for network in reversed(cfg.networks_of(model))}.values())[::-1]


class Stage:
    """The temporary folder with the chain on a few samples; use its methods in the order of the steps.

    Parameters
    ----------
    cfg : Config
        The whole configuration.
    folder : Path
        Temporary.
    sized : dict
        Data set -> its samples.
    volumes : set of str
        Data sets for which there is a 3D network.
    workers : dict
        Step -> blocks in work at once.
    """

    def __init__(
        self, cfg: Config, folder: Path, sized: dict[str, list[Sized]], volumes: set[str], workers: dict[str, int]
    ) -> None:
        self.cfg, self.folder, self.workers, self.found = cfg, folder, workers, Rehearsal()
        self.datasets = dict(cfg.datasets)
        self.picks = {name: choose_samples(items) for name, items in sized.items()}
        for name, picks in self.picks.items():
            if max(item.voxels for item in picks) > MAX_SAMPLE_VOXELS:
                dimensions = 3 if name in volumes else 2
                self.datasets[name], self.picks[name] = as_pieces(
                    cfg.datasets[name], picks, folder / "pieces" / name, dimensions
                )
                extent = " x ".join(map(str, PIECE_SHAPE[dimensions]))
                self.found.measured.append(f"{name}: pieces of {extent} px of its large images, with generated objects")

    def voxels(self, dataset: str, names: list[str]) -> int:
        """Voxels of some of the chosen samples of a data set."""
        return sum(item.voxels for item in self.picks[dataset] if item.sample.name in names)

    def stamp(self, step: str, *place: str) -> Path:
        """Stamp of a step for a data set, a network, or a model and a data set."""
        return self.folder / step / f"{'/'.join(place)}.json"

    def groundtruth(self, dataset: str) -> None:
        """Convert the chosen samples."""
        stamp, samples = self.stamp("groundtruth", dataset), [item.sample for item in self.picks[dataset]]

        def convert(names: list[str], engine: Engine) -> None:
            convert_groundtruth(
                self.datasets[dataset],
                self.cfg.groundtruth,
                [sample for sample in samples if sample.name in names],
                store=stamp.with_suffix(".zarr"),
                stamp=stamp,
                engine=engine,
            )

        self._rehearse("groundtruth", dataset, [sample.name for sample in samples], convert)

    def weights(self, dataset: str) -> None:
        """Weight maps of the chosen samples."""
        truth, stamp = self.stamp("groundtruth", dataset), self.stamp("weights", dataset)

        def make(names: list[str], engine: Engine) -> None:
            make_weights(
                self.cfg.weights_of(dataset),
                self.datasets[dataset],
                groundtruth=self._only(truth, names),
                truth_store=truth.with_suffix(".zarr"),
                store=stamp.with_suffix(".zarr"),
                stamp=stamp,
                engine=engine,
            )

        names = [item.sample.name for item in self.picks[dataset] if item.sample.split != "unannotated"]
        self._rehearse("weights", dataset, names, make)

    def plan(
        self, model: str, network: Network, train_tile: int | ZYX | None, predict_tile: int | ZYX, bought: Path | None
    ) -> None:
        """A plan with the network and the tiles of the real one."""
        train = self.cfg.train_of(model).model_copy(update={"network": network})
        predict = self.cfg.predict_of(model).model_copy(update={"tile": predict_tile})
        make_plan(
            self.cfg.plan_of(model),
            train.model_copy(update={"tile": train_tile, "steps": 1}) if train_tile else train,
            predict,
            groundtruth={name: self.stamp("groundtruth", name) for name in self.cfg.datasets_of(model)},
            weights={name: self.stamp("weights", name) for name in self.cfg.model_of(model).train_on},
            bought=bought,
            results=self.folder,
            stamp=self.stamp("plan", model),
            rehearsal=True,
        )

    def train(self, model: str, alike: list[str]) -> None:
        """Time a step of training and a validation, for a network and those like it.

        The time of a step comes from short trainings without validation, that of a validation from one with it.
        """
        cfg, cost, path = self.cfg.train_of(model), Cost(), self.stamp("plan", model)
        plan = read_json(path)
        write_stamp(path, plan | self._two_folds(model))
        first = self._train(model, 1, True, cost)
        once, more = self._train(model, 1, False, cost), 4
        longer = self._train(model, 1 + more, False, cost)
        while more < MAX_STEPS and longer - once < TRAINING_S:
            more *= 2
            longer = self._train(model, 1 + more, False, cost)
        validated = self._train(model, 2, True, cost)
        cost.per_voxel = max(longer - once, 0.0) / more
        cost.start = max(first + cost.per_voxel - validated, 0.0)
        seen = sum(
            item.voxels
            for key, item in self._annotated(model).items()
            if split_in_training(read_json(path), key, item.sample.split) == "validation"
        )
        write_stamp(path, plan)
        cost.validation = max(validated - 2 * cost.per_voxel, 0.0) / max(seen, 1)
        cost.bytes_per_voxel = allocated(self.folder / "train" / model)
        self.found.costs |= {("train", network): cost for network in alike}
        tile = plan["train_tile"]["value"]
        computed = read_json(self.folder / "train" / model / "model.json")["precision"][-1]["chosen"]
        steps = f"{more} steps of {cfg.batch} x {tile} px in {computed}"
        self.found.measured.append(f"train {model}: {steps}, and a validation")

    def _annotated(self, model: str) -> dict[str, Sized]:
        """Samples for training and validation, as ``<data set>/<sample>``."""
        items = [(name, item) for name in self.cfg.model_of(model).train_on for item in self.picks[name]]
        return {f"{name}/{item.sample.name}": item for name, item in items if item.sample.split in DIVIDED_SPLITS}

    def _two_folds(self, model: str) -> dict[str, Any]:
        """What the plan of a fold says, of the chosen samples: one is for validation, as far as there are several."""
        keys = list(self._annotated(model))
        folds = {key: 1 + (key != keys[-1]) for key in keys}
        return {"fold": 1, "folds": folds} if self.cfg.fold_of(model) and len(keys) > 1 else {}

    def _train(self, model: str, steps: int, validate: bool, cost: Cost) -> float:
        """Seconds of a training that has not been done with as many steps and samples."""
        plan_path, stamp = self.stamp("plan", model), self.stamp("train", model)
        plan = read_json(plan_path)
        plan["steps"]["value"] = steps
        write_stamp(plan_path, plan)
        splits, weights = {"train", "validation"} if validate else {"train"}, {}
        for name in self.cfg.model_of(model).train_on:
            whole = self.stamp("weights", name)
            samples = read_json(whole)["samples"].items()
            weights[name] = self._only(
                whole,
                [key for key, entry in samples if split_in_training(plan, f"{name}/{key}", entry["split"]) in splits],
            )
        with clock(cost) as seconds:
            train_model(
                self.cfg.train_of(model).model_copy(update={"validate_every": 10**9, "seed": steps}),
                plan=plan_path,
                weights=weights,
                groundtruth={name: self.stamp("groundtruth", name) for name in weights},
                results=self.folder,
                folder=stamp.with_suffix(""),
                stamp=stamp,
            )
        return seconds[0]

    def adopt(self, model: str, path: Path) -> None:
        """Take a model that is there: one trained elsewhere or earlier."""
        copy = self.folder / "train" / model
        shutil.copytree(path, copy)
        description = read_json(copy / "model.json")
        # The report shows a weight map of the first sample that the model was trained on.
        names = self.cfg.model_of(model).train_on
        description["trained_on"] = [f"{names[0]}/{self.picks[names[0]][0].sample.name}"] if names else []
        (copy / "model.json").write_text(json.dumps(description), encoding="utf-8")
        adopt_model(copy, self.stamp("train", model))

    def ensemble(self, model: str) -> None:
        """A model of several networks, of those that were trained or taken."""
        networks = first_folds(self.cfg, model)
        if networks != [model]:
            write_ensemble([self.stamp("train", network) for network in networks], self.stamp("train", model))

    def predict(self, model: str, dataset: str) -> None:
        """Predict the chosen samples (one, where it takes long); then put in what a trained network might say."""
        truth, stamp = self.stamp("groundtruth", dataset), self.stamp("predict", model, dataset)
        images, store, mask_threshold = (
            truth.with_suffix(".zarr"),
            stamp.with_suffix(".zarr"),
            self.cfg.mask_threshold(model),
        )
        # What stands in for a sample says nothing about how much of it is empty.
        cfg = self.cfg.predict_of(model).model_copy(update={"skip": None})
        networks = first_folds(self.cfg, model)

        def predict(names: list[str], engine: Engine) -> None:
            predict_samples(
                cfg,
                model=self.stamp("train", model),
                plans=[self.stamp("plan", network) for network in networks],
                groundtruth=self._only(truth, names),
                images=images,
                store=store,
                stamp=stamp,
                engine=engine,
                mask_threshold=mask_threshold,
            )

        names = [item.sample.name for item in self.picks[dataset] if item.sample.split in cfg.splits]
        cost = self._rehearse("predict", (model, dataset), names, predict, PREDICTION_S)
        predicted = list(read_json(stamp)["samples"])
        for seed, name in enumerate(predicted):
            write_stand_in(store / name, images, cfg, mask_threshold, seed)
        cost.per_voxel /= len(networks)
        cost.bytes_per_voxel = allocated(store) / max(self.voxels(dataset, predicted), 1)

    def instances(self, model: str, dataset: str) -> None:
        """Objects of the samples that were predicted."""
        predict, stamp = self.stamp("predict", model, dataset), self.stamp("instances", model, dataset)

        def make(names: list[str], engine: Engine) -> None:
            make_instances(
                self.cfg.instances_of(model),
                predict=self._only(predict, names),
                probabilities=predict.with_suffix(".zarr"),
                groundtruth=self.stamp("groundtruth", dataset),
                store=stamp.with_suffix(".zarr"),
                tables=stamp.with_suffix(""),
                stamp=stamp,
                engine=engine,
            )

        self._rehearse("instances", (model, dataset), list(read_json(predict)["samples"]), make)

    def evaluate(self, model: str, dataset: str) -> None:
        """Scores of the samples of which there are objects, whatever their split."""
        truth, instances = self.stamp("groundtruth", dataset), self.stamp("instances", model, dataset)
        stamp = self.stamp("evaluate", model, dataset)
        cfg = self.cfg.evaluate.model_copy(update={"splits": [*DIVIDED_SPLITS, "test", HELD_OUT_SPLIT]})

        def score(names: list[str], engine: Engine) -> None:
            evaluate_samples(
                cfg,
                model=self.stamp("train", model),
                groundtruth=truth,
                truth_store=truth.with_suffix(".zarr"),
                instances=self._only(instances, names),
                instance_store=instances.with_suffix(".zarr"),
                tables=instances.with_suffix(""),
                folder=stamp.with_suffix(""),
                history=self.folder / "evaluate" / "history" / model / f"{dataset}.jsonl",
                stamp=stamp,
                engine=engine,
            )

        annotated = {name for name, entry in read_json(truth)["samples"].items() if entry["labels"]}
        names = [name for name in read_json(instances)["samples"] if name in annotated]
        self._rehearse("evaluate", (model, dataset), names, score)

    def report(self, pairs: list[tuple[str, str]]) -> None:
        """Tables and page of the chosen samples."""
        stamps = {pair: self.stamp("evaluate", *pair) for pair in pairs}
        cost, folder = self.found.costs.setdefault(("report", ""), Cost()), self.folder / "report"
        with clock(cost) as seconds:
            make_report(
                self.cfg.report,
                evaluations={pair: path for pair, path in stamps.items() if path.is_file()},
                predictions=pairs,
                jobs={},
                config={},
                results=self.folder,
                folder=folder,
            )
        cost.start, cost.bytes_per_voxel = seconds[0], allocated(folder)

    def _rehearse(
        self,
        step: str,
        key: str | tuple[str, str],
        names: list[str],
        run: Callable[[list[str], Engine], None],
        limit: float = np.inf,
    ) -> Cost:
        """Time the first sample and then the others, unless the first took longer than `limit`."""
        place = key if isinstance(key, tuple) else (key,)
        stamp, dataset = self.stamp(step, *place), place[-1]
        cost = self.found.costs[step, key] = Cost()
        if not names:
            return cost
        with local_engine(self.workers[step]) as engine:
            with clock(cost) as seconds:
                run(names[:1], engine)
            first, voxels, done = seconds[0], self.voxels(dataset, names[:1]), names[:1]
            cost.per_voxel = first / voxels
            if len(names) > 1 and first < limit:
                with clock(cost) as seconds:
                    run(names, engine)
                done = names
                cost.per_voxel = seconds[0] / self.voxels(dataset, names[1:])
                cost.start = max(first - cost.per_voxel * voxels, 0.0)
        voxels = self.voxels(dataset, done)
        # The store, and a folder of tables or of other files beside it.
        cost.bytes_per_voxel = allocated(stamp.with_suffix(".zarr"), stamp.with_suffix("")) / voxels
        self.found.measured.append(f"{step} {'/'.join(place)}: {len(done)} samples, {voxels / 1e6:.3g} million voxels")
        return cost

    def _only(self, stamp: Path, names: list[str]) -> Path:
        """A copy of a stamp with some of its samples."""
        whole = read_json(stamp)
        part = self.folder / "parts" / stamp.name
        write_stamp(part, whole | {"samples": {name: whole["samples"][name] for name in names}})
        return part
