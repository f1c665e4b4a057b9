"""Which jobs Snakemake would start, and which samples these would find not done.

The answers come from digests and headers, without doing any of the work.
"""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_core.blocks import ZYX
from unet_core.config.folds import DIVIDED, divided, may_predict, predicted_as, seen_as
from unet_core.config.options import Config, Network, Train
from unet_core.digest import FileHashes, digest
from unet_core.estimate.stand_in import Sized
from unet_core.groundtruth.images import size_of
from unet_core.groundtruth.samples import Sample, expand
from unet_core.groundtruth.step import entry_if_done, image_digest_of
from unet_core.images.readers import image_shape, split_internal
from unet_core.instances.step import wanted_digest as objects_digest
from unet_core.network import unet
from unet_core.plan import step as plan
from unet_core.plan import tiles as plan_tiles
from unet_core.predict.step import wanted_digest as probabilities_digest
from unet_core.runtime import UserError, read_json
from unet_core.store.store import BLOCK, Spec, details_if_done
from unet_core.weights.step import block_of
from unet_core.weights.step import wanted_digest as weights_digest

ROOT = Path(__file__).parents[2]


@dataclass
class Job:
    """A job that Snakemake would start.

    Attributes
    ----------
    step : str
        Its rule.
    key : str or (str, str)
        Data set, model, or (model, data set); empty for the report.
    items : list of Sized
        Samples that it would find not done; for training all samples, or none if the model stays as it is.
    block : tuple of int
        Block of its results.
    """

    step: str
    key: Any
    items: list[Sized]
    block: ZYX = BLOCK

    @property
    def blocks(self) -> int:
        """Blocks to be written."""
        shapes = [item.shape[1:] for item in self.items]
        blocks = [block_of(shape) if self.step == "weights" else self.block for shape in shapes]
        return sum(
            len(Spec(shape, "uint8", "labels", block=block).grid) for shape, block in zip(shapes, blocks, strict=True)
        )


def pending(configfile: Path) -> dict[tuple[str, str], str]:
    """Jobs that Snakemake would start, from its summary: (rule, output file) -> why, as Snakemake names it.

    Raises
    ------
    UserError
        With Snakemake's message if it finds a mistake.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--summary",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--configfile",
        str(configfile),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip())
    table = itertools.dropwhile(lambda line: not line.startswith("output_file\t"), done.stdout.splitlines())
    return {
        (row["rule"], row["output_file"]): row["status"]
        for row in csv.DictReader(table, delimiter="\t")
        if row["plan"] != "no update"
    }


def sizes(cfg: Config, samples: dict[str, list[Sample]]) -> dict[str, list[Sized]]:
    """Shapes of all samples, from the headers of their files.

    Raises
    ------
    UserError
        One message for all files that cannot be read.
    """
    problems: dict[str, None] = {}
    found: dict[str, list[Sized]] = {}
    for name, dataset in cfg.datasets.items():
        known: dict[tuple[Path, str], tuple[int, ...]] = {}
        for sample in samples[name]:
            try:
                shape = known.setdefault((sample.image, sample.internal), ()) or image_shape(
                    sample.image, sample.internal
                )
                known[sample.image, sample.internal] = shape
                size = dict(zip(sample.axes, shape, strict=True))
            except (ValueError, OSError) as error:
                problems[f"  - {name}: {sample.image}: {error}"] = None
                continue
            channels = len(dataset.channels) if dataset.channels else size.get("c", 1)
            found.setdefault(name, []).append(Sized(sample, (channels, size.get("z", 1), size["y"], size["x"])))
    if problems:
        raise UserError("these images cannot be read:\n" + "\n".join(problems))
    return found


class Workload:
    """Which samples each job would find not done.

    Parameters
    ----------
    cfg : Config
        The whole configuration.
    sized : dict
        Data set -> its samples.
    started : dict
        From `pending`.
    """

    def __init__(self, cfg: Config, sized: dict[str, list[Sized]], started: dict[tuple[str, str], str]) -> None:
        self.cfg, self.sized, self.started = cfg, sized, started
        self.results = Path(expand(cfg.results))
        # Network -> what its plan says of folds.
        self.folds = {network: self._folds(network) for network in cfg.networks}
        self.jobs: dict[tuple[str, Any], Job] = {}
        # Of samples that are done: their digests; of images, also where the annotation is not done.
        self.labels: dict[str, dict[str, str]] = {}
        self.images: dict[str, dict[str, str]] = {}
        for name in sized:
            self._add("groundtruth", name, self._images_left(name))
            self._add("weights", name, self._labels_left(name))
        for name in cfg.networks:
            self._add("plan", name, [])
            self._add("train", name, [] if cfg.model_of(name).path or self.is_kept(name) else self.training(name))
        for pair in self.pairs:
            model, name = pair
            block = self.block(max(cfg.networks_of(model), key=self._planes_together))
            self._add("predict", pair, self._left("predict", pair), block)
            self._add("instances", pair, self._left("instances", pair), block)
            self._add("evaluate", pair, [item for item in sized[name] if self._is_scored(pair, item)], block)
        self._add("report", "", [])

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Models, and the data sets that they are applied to."""
        return [(model, name) for model in self.cfg.models for name in self.cfg.models[model].predict_on]

    def training(self, network: str) -> list[Sized]:
        """Training and validation samples of a network, in the splits in which it sees them."""
        return [item for _, item in self._training(network)]

    def _training(self, network: str) -> Iterator[tuple[str, Sized]]:
        for name in self.cfg.model_of(network).train_on:
            for item in self.sized[name]:
                split = seen_as(self.folds[network], f"{name}/{item.sample.name}", item.sample.split)
                if split in DIVIDED:
                    yield name, replace(item, sample=replace(item.sample, split=split))

    def _folds(self, network: str) -> dict[str, Any]:
        fold = self.cfg.fold_of(network)
        if not fold:
            return {}
        splits = {
            name: {"samples": {item.sample.name: {"split": item.sample.split} for item in self.sized[name]}}
            for name in self.cfg.model_of(network).train_on
        }
        return {"fold": fold[0], "folds": divided(splits, fold[1])}

    def predictors(self, pair: tuple[str, str], item: Sized) -> list[dict[str, Any]]:
        """What the plans of the networks by which a model predicts a sample say of folds."""
        folds = [self.folds[network] for network in self.cfg.networks_of(pair[0])]
        return [found for found in folds if may_predict(found, f"{pair[1]}/{item.sample.name}")]

    def _is_scored(self, pair: tuple[str, str], item: Sized) -> bool:
        sample = item.sample
        return (
            predicted_as(self.predictors(pair, item), f"{pair[1]}/{sample.name}", sample.split)
            in self.cfg.evaluate.splits
        )

    def _planes_together(self, network: str) -> int:
        return unet.shape_of(self.network(network)).z.step

    def network(self, model: str) -> Network:
        """A network that is trained here, as the plan would decide it, or was elsewhere."""
        if path := self.cfg.model_of(model).path:
            return Network.model_validate(read_json(Path(expand(path)) / "model.json")["network"])
        trained = [(name, item) for name, item in self._training(model) if item.sample.split == "train"]
        first = {name: item.sample for name, item in reversed(trained)}
        sizes = [size_of(sample, self.cfg.datasets[name]) for name, sample in first.items()]
        ratios = [z / math.sqrt(y * x) for z, y, x in sizes]
        return plan.decided_network(
            self.cfg.train_of(model).network, ratios, max(item.shape[1] for _, item in trained)
        )[0]

    def predict_tile(self, model: str) -> int | ZYX:
        """Side (in 3D extent) of the tile that the plan would choose for prediction."""
        items = [item for name in self.cfg.datasets_of(model) for item in self.sized[name]]
        longest, planes = max(max(item.shape[2:]) for item in items), max(item.shape[1] for item in items)
        memory = plan_tiles.allowed_memory(self.cfg.plan_of(model))
        return plan_tiles.prediction_tile(
            self.cfg.predict_of(model), self.network(model), items[0].shape[0], memory, longest, planes
        )[0]

    def train_tile(self, model: str) -> int | ZYX:
        """Side (in 3D extent) of the tile that the plan would choose for training."""
        items = [item for item in self.training(model) if item.sample.split == "train"]
        longest, planes = max(max(item.shape[2:]) for item in items), max(item.shape[1] for item in items)
        return plan_tiles.training_tile(self._train(model), longest, planes)[0]

    def _train(self, model: str) -> Train:
        return self.cfg.train_of(model).model_copy(update={"network": self.network(model)})

    def steps(self, model: str) -> int:
        """Steps of training; without the areas to ignore, which are not known before the conversion."""
        cfg = self._train(model)
        pixels = sum(item.voxels for item in self.training(model) if item.sample.split == "train")
        return plan.training_steps(
            cfg, pixels, plan_tiles.outputs_of(self.train_tile(model), unet.shape_of(cfg.network))
        )[0]

    def block(self, model: str) -> ZYX:
        """Block of the probabilities."""
        z, y, x = plan_tiles.prediction_block(self.predict_tile(model), self.network(model))
        return z, y, x

    def is_kept(self, model: str) -> bool:
        """Whether a trained model has the options and the data that it would be trained with again."""
        try:
            description = read_json(self.results / "train" / model / "model.json")
        except UserError:
            return False
        names = {f"{name}/{item.sample.name}" for name, item in self._training(model)}
        left = {
            f"{job.key}/{item.sample.name}"
            for job in self.jobs.values()
            if job.step in ("groundtruth", "weights")
            for item in job.items
        }
        changed = {self.why("train", model), self.why("plan", model)} & {
            "params changed",
            "rule implementation changed",
        }
        same = description.get("config") == self.cfg.train_of(model).model_dump(mode="json")
        return same and not changed and description.get("trained_on") == sorted(names) and not names & left

    def why(self, step: str, key: Any) -> str | None:
        """Why Snakemake would start a job; None if it would not."""
        place = key if isinstance(key, tuple) else (key,)
        file = "report/report.html" if step == "report" else f"{step}/{'/'.join(place)}.json"
        return self.started.get((step, (self.results / file).as_posix()))

    def _add(self, step: str, key: Any, items: list[Sized], block: ZYX = BLOCK) -> None:
        if self.why(step, key) is not None:
            self.jobs[step, key] = Job(step, key, items, block)

    def _images_left(self, name: str) -> list[Sized]:
        stamp = self.results / "groundtruth" / f"{name}.json"
        if self.why("groundtruth", name) is None:
            # A data set that no model needs was never converted.
            entries = read_json(stamp)["samples"] if stamp.is_file() else {}
            self.images[name] = {sample: entry["image"] for sample, entry in entries.items()}
            self.labels[name] = {sample: entry["labels"] for sample, entry in entries.items()}
            return []
        self.images[name], self.labels[name] = {}, {}
        hashes = FileHashes(stamp.with_suffix(".files.json"))
        return [
            item
            for item in self.sized[name]
            if not self._is_converted(name, item.sample, hashes, stamp.with_suffix(".zarr"))
        ]

    def _is_converted(self, name: str, sample: Sample, hashes: FileHashes, store: Path) -> bool:
        cfg, image = self.cfg.datasets[name], hashes.known(sample.image)
        if image is None:
            return False
        self.images[name][sample.name] = image_digest_of(sample, image, cfg)
        sources = [[hashes.known(split_internal(str(file))[0]) for file in files] for files in sample.annotations]
        if any(None in contents for contents in sources):
            return False
        entry = entry_if_done((sample, image, tuple(map(digest, sources))), cfg, self.cfg.groundtruth, store)
        if entry is None:
            return False
        self.labels[name][sample.name] = entry["labels"]
        return True

    def _labels_left(self, name: str) -> list[Sized]:
        cfg, store = self.cfg.weights_of(name), self.results / "weights" / f"{name}.zarr"

        def is_done(sample: Sample) -> bool:
            labels = self.labels[name].get(sample.name)
            wanted = weights_digest(labels, cfg) if labels else ""
            return all(
                details_if_done(path, wanted) is not None
                for path in (store / sample.name, store / sample.name / "labels" / "target")
            )

        return [item for item in self.sized[name] if item.sample.split != "unannotated" and not is_done(item.sample)]

    def _left(self, step: str, pair: tuple[str, str]) -> list[Sized]:
        """Samples without the probabilities, or the objects, of what is known of image and model now."""
        model, name = pair
        cfg, networks = self.cfg.predict_of(model), self.cfg.networks_of(model)
        items = [item for item in self.sized[name] if item.sample.split in cfg.splits]
        trainings = [job.items for job in self.jobs.values() if job.step == "train" and job.key in networks]
        if any(trainings) or any(self.why("plan", network) == "params changed" for network in networks):
            return items
        try:
            plans, stamps = (
                [read_json(self.results / part / f"{network}.json") for network in networks]
                for part in ("plan", "train")
            )
        except UserError:
            return items

        def is_done(sample: Sample) -> bool:
            image, key = self.images[name].get(sample.name), f"{name}/{sample.name}"
            if image is None or any(key not in plan["samples"] for plan in plans):
                return False
            used = [
                (stamp["weights"], plan) for stamp, plan in zip(stamps, plans, strict=True) if may_predict(plan, key)
            ]
            wanted = probabilities_digest(image, key, used, cfg, self.cfg.mask_threshold(model))
            if step == "instances":
                wanted = objects_digest(wanted, self.cfg.instances_of(model), plans[0]["classes"])
            return details_if_done(self.results / step / model / f"{name}.zarr" / sample.name, wanted) is not None

        return [item for item in items if not is_done(item.sample)]
