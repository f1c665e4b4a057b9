"""Which jobs Snakemake would start, and which samples these would find not done.

The answers come from digests and headers, without doing any of the work.
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_core.blocks import ZYX
from unet_core.config.folds import DIVIDED_SPLITS, folds_of_samples, may_predict, split_in_scores, split_in_training
from unet_core.config.options import Config, Network, Train
from unet_core.digest import FileHashes
from unet_core.estimate.stand_in import Sized
from unet_core.groundtruth.contents import image_content, with_contents
from unet_core.groundtruth.images import size_of
from unet_core.groundtruth.samples import Sample, expand
from unet_core.groundtruth.step import entry_if_done, image_digest_of
from unet_core.images.readers import companions_of, image_shape
from unet_core.instances.measures import measures_digest
from unet_core.instances.step import Wanted, objects_digest, objects_if_done
from unet_core.instances.tuning import settled
from unet_core.jobs import Jobs
from unet_core.network import unet
from unet_core.plan import step as plan
from unet_core.plan import tiles as plan_tiles
from unet_core.predict.empty import boxes_of
from unet_core.predict.members import Member, probabilities_digest, read_members
from unet_core.runtime import UserError, read_json
from unet_core.store.store import BLOCK, Spec, details_if_done
from unet_core.train.step import is_trained, sample_digest, training_digest
from unet_core.weights.step import block_of, class_pixels_if_done, weight_map_digest

ROOT = Path(__file__).parents[2]
STEPS = ("groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate", "report")


@dataclass
class PendingJob:
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
        return sum(len(self.array_of(item).grid) for item in self.items)

    def array_of(self, item: Sized) -> Spec:
        """Array of one channel that the job writes, or reads, for a sample."""
        shape = item.shape[1:]
        return Spec(shape, "uint8", "labels", block=block_of(shape) if self.step == "weights" else self.block)


def threads_of(step: str) -> int:
    """Threads that the rule of a step asks for.

    Examples
    --------
    >>> threads_of("plan")
    1
    """
    rule = (ROOT / "rules" / f"{step}.smk").read_text(encoding="utf-8")
    return int(re.findall(r"^    threads: (\d+)$", rule, re.MULTILINE)[0])


def pending(configfile: Path) -> dict[tuple[str, str], str]:
    """Jobs that Snakemake would start, from its summary: (rule, output file) -> why, as Snakemake names it.

    Raises
    ------
    UserError
        With Snakemake's message if it finds a mistake.
    """
    files = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(configfile)]
    command = [sys.executable, "-m", "snakemake", "--summary", *files]
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
    # The time points of an image are samples of one file.
    shape_of = functools.lru_cache(1)(image_shape)
    for name, dataset in cfg.datasets.items():
        for sample in samples[name]:
            try:
                size = dict(zip(sample.axes, shape_of(sample.image, sample.internal), strict=True))
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
        self._jobs = Jobs(cfg, {name: [item.sample for item in items] for name, items in sized.items()})
        # Network -> what its plan says of folds.
        self.folds = {network: self._folds(network) for network in cfg.networks}
        self.jobs: dict[tuple[str, Any], PendingJob] = {}
        # Data set -> sample -> digest of its labels, if it is done; of its image, if its file is known.
        self.labels: dict[str, dict[str, str | None]] = {}
        self.images: dict[str, dict[str, str]] = {}
        for name in sized:
            self._add("groundtruth", name, self._unconverted(name))
            self._add("weights", name, self._unweighted(name))
        for name in cfg.networks:
            self._add("plan", name, [])
            self._add("train", name, [] if self._is_kept(name) else self.training(name))
        for pair in self.pairs:
            model, name = pair
            block = self.block(max(cfg.networks_of(model), key=self._planes_together))
            for step, items in zip(("predict", "instances"), self._unsegmented(pair), strict=True):
                self._add(step, pair, items, block)
            self._add("evaluate", pair, [item for item in sized[name] if self._is_scored(pair, item)], block)
        self._add("report", "", [])

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Models, and the data sets that they are applied to."""
        return [(model, name) for model in self.cfg.models for name in self.cfg.models[model].predict_on]

    def may_be_empty(self) -> bool:
        """Whether jobs would leave out blocks, of which nothing is known before they look at the images."""
        pairs = [key for step, key in self.jobs if step == "predict"]
        return any(self.cfg.predict_of(model).skip or self.cfg.datasets[name].region for model, name in pairs)

    def training(self, network: str) -> list[Sized]:
        """Training and validation samples of a network, in the splits in which it sees them."""
        return [item for _, item in self._training(network)]

    def _training(self, network: str) -> Iterator[tuple[str, Sized]]:
        for name in self.cfg.model_of(network).train_on:
            for item in self.sized[name]:
                split = split_in_training(self.folds[network], f"{name}/{item.sample.name}", item.sample.split)
                if split in DIVIDED_SPLITS:
                    yield name, replace(item, sample=replace(item.sample, split=split))

    def _folds(self, network: str) -> dict[str, Any]:
        fold = self.cfg.fold_of(network)
        if not fold:
            return {}
        splits = {
            name: {"samples": {item.sample.name: {"split": item.sample.split} for item in self.sized[name]}}
            for name in self.cfg.model_of(network).train_on
        }
        return {"fold": fold[0], "folds": folds_of_samples(splits, fold[1])}

    def predictors(self, pair: tuple[str, str], item: Sized) -> list[dict[str, Any]]:
        """What the plans of the networks by which a model predicts a sample say of folds."""
        folds = [self.folds[network] for network in self.cfg.networks_of(pair[0])]
        return [found for found in folds if may_predict(found, f"{pair[1]}/{item.sample.name}")]

    def _is_scored(self, pair: tuple[str, str], item: Sized) -> bool:
        sample = item.sample
        return (
            split_in_scores(self.predictors(pair, item), f"{pair[1]}/{sample.name}", sample.split)
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
        ratios = [plan_tiles.anisotropy(size_of(sample, self.cfg.datasets[name])) for name, sample in first.items()]
        _, planes = plan_tiles.extent_of(item.shape[1:] for _, item in trained)
        return plan.decided_network(self.cfg.train_of(model).network, ratios, planes)[0]

    def predict_tile(self, model: str) -> int | ZYX:
        """Side (in 3D extent) of the tile that the plan would choose for prediction."""
        shapes = [item.shape for name in self.cfg.datasets_of(model) for item in self.sized[name]]
        extent = plan_tiles.extent_of(shape[1:] for shape in shapes)
        cfg, network, channels = self.cfg.predict_of(model), self.network(model), shapes[0][0]
        return plan_tiles.prediction_tile(cfg, network, channels, self.cfg.plan_of(model), *extent)[0]

    def train_tile(self, model: str) -> int | ZYX:
        """Side (in 3D extent) of the tile that the plan would choose for training."""
        shapes = (item.shape[1:] for item in self.training(model) if item.sample.split == "train")
        return plan_tiles.training_tile(self._train(model), *plan_tiles.extent_of(shapes))[0]

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

    def _is_kept(self, network: str) -> bool:
        """Whether a network was trained elsewhere, or with the options and data of now, by the plan that there is."""
        if self.why("train", network) is None or self.cfg.model_of(network).path:
            return True
        if self._is_planned_otherwise(network):
            return False
        used = {}
        try:
            decided = read_json(self._stamp("plan", network))
            for name, item in self._training(network):
                sample, key = item.sample, f"{name}/{item.sample.name}"
                image, labels = self.images[name].get(sample.name), self.labels[name].get(sample.name)
                if image is None or labels is None or key not in decided["samples"]:
                    return False
                truth = self._stamp("groundtruth", name).with_suffix(".zarr")
                weights = weight_map_digest(labels, self.cfg.weights_of(name), truth, sample.name)
                used[key] = sample_digest(sample.split, image, weights, decided["samples"][key])
            wanted = training_digest(self.cfg.train_of(network), decided, used)
            return is_trained(self.results / "train" / network, wanted)
        except UserError:  # there is no plan, or not the model that training would start from
            return False

    def _is_planned_otherwise(self, network: str) -> bool:
        """Whether the plan of a network is to be made with other options."""
        stale = self._jobs.stale(f"plan/{network}")
        return stale is not None and stale.own

    def why(self, step: str, key: Any) -> str | None:
        """Why Snakemake would start a job; None if it would not."""
        place = key if isinstance(key, tuple) else (key,)
        output = self.results / "report" / "report.html" if step == "report" else self._stamp(step, *place)
        return self.started.get((step, output.as_posix()))

    def _stamp(self, step: str, *place: str) -> Path:
        return self.results / step / f"{'/'.join(place)}.json"

    def _add(self, step: str, key: Any, items: list[Sized], block: ZYX = BLOCK) -> None:
        if self.why(step, key) is not None:
            self.jobs[step, key] = PendingJob(step, key, items, block)

    def _unconverted(self, name: str) -> list[Sized]:
        """Samples whose image or annotation is not converted; digests of the others are noted."""
        stamp, store = self._stamp("groundtruth", name), self._stamp("groundtruth", name).with_suffix(".zarr")
        if self.why("groundtruth", name) is None:
            # A data set that no model needs was never converted.
            entries = read_json(stamp)["samples"] if stamp.is_file() else {}
            self.images[name] = {sample: entry["image"] for sample, entry in entries.items()}
            self.labels[name] = {sample: entry["labels"] for sample, entry in entries.items()}
            return []
        cfg = self.cfg.datasets[name]
        known = FileHashes(stamp.with_suffix(".files.json"), companions_of).known
        samples = [item.sample for item in self.sized[name]]
        self.images[name] = {
            sample.name: image_digest_of(sample, content, cfg)
            for sample in samples
            if (content := image_content(sample, known))
        }
        self.labels[name] = {
            sample.name: entry["labels"]
            for sample in samples
            if (item := with_contents(sample, known))
            and (entry := entry_if_done(item, cfg, self.cfg.groundtruth, store))
        }
        return [item for item in self.sized[name] if item.sample.name not in self.labels[name]]

    def _unweighted(self, name: str) -> list[Sized]:
        """Annotated samples without the weights of what is known of their labels now."""
        cfg = self.cfg.weights_of(name)
        truth, store = (self._stamp(step, name).with_suffix(".zarr") for step in ("groundtruth", "weights"))

        def is_done(sample: Sample) -> bool:
            labels = self.labels[name].get(sample.name)
            try:
                wanted = weight_map_digest(labels, cfg, truth, sample.name) if labels else ""
            except UserError:  # its labels are damaged, and made again
                return False
            return class_pixels_if_done(store / sample.name, wanted) is not None

        return [item for item in self.sized[name] if item.sample.split != "unannotated" and not is_done(item.sample)]

    def _members(self, model: str) -> list[Member]:
        """Networks of a model; none if one of them is to be trained, or planned with other options."""
        networks = self.cfg.networks_of(model)
        trained = any(job.items for job in self.jobs.values() if job.step == "train" and job.key in networks)
        if trained or any(map(self._is_planned_otherwise, networks)):
            return []
        stamps = [(self._stamp("train", network), [self._stamp("plan", network)]) for network in networks]
        try:
            return [member for model, plans in stamps for member in read_members(model, plans)]
        except UserError:
            return []

    def _unsegmented(self, pair: tuple[str, str]) -> tuple[list[Sized], list[Sized]]:
        """Samples without the probabilities, and those without the objects, of the images and the model of now."""
        model, dataset = pair
        cfg, members = self.cfg.predict_of(model), self._members(model)
        threshold, region = self.cfg.mask_threshold(model), boxes_of(self.cfg.datasets[dataset].region)
        # Of samples whose probabilities can be done.
        probabilities = {
            name: probabilities_digest(image, f"{dataset}/{name}", members, cfg, threshold, region)
            for name, image in self.images[dataset].items()
            if members and all(f"{dataset}/{name}" in member.plan["samples"] for member in members)
        }
        options, images = settled(self.cfg.instances_of(model), self._stamp("tune", model)), self.images[dataset]
        objects = {
            name: Wanted(
                objects_digest(wanted, options, members[0].plan["classes"]), measures_digest(options, images[name])
            )
            for name, wanted in probabilities.items()
        }
        predict, instances = (self._stamp(step, model, dataset) for step in ("predict", "instances"))
        stored, store, tables = predict.with_suffix(".zarr"), instances.with_suffix(".zarr"), instances.with_suffix("")
        items = {item.sample.name: item for item in self.sized[dataset] if item.sample.split in cfg.splits}
        return (
            [
                item
                for name, item in items.items()
                if details_if_done(stored / name, probabilities.get(name, "")) is None
            ],
            [
                item
                for name, item in items.items()
                if name not in objects or objects_if_done(name, objects[name], store, tables) is None
            ],
        )
