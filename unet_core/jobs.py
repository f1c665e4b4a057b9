"""Which jobs there are, what decides each of them, and which are stale.

What a job wants is compared with the record that it left (`unet_core.records`). Three things are distinguished:

- the options and source files that a part of its result depends on, over all steps before it;
- what the jobs before it gave, which may differ for the same options and files (a training on another machine);
- its output files themselves.

So a new image that nobody annotated converts and segments that image, and trains nothing; and results made from another
working directory, by another user, or moved, are judged like those of this one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.config.models import NO_FOLDER, networks_started_from
from unet_core.config.options import Config
from unet_core.config.section import plain
from unet_core.digest import FileHashes, digest
from unet_core.groundtruth.contents import wanted_of_files
from unet_core.groundtruth.samples import Sample, expand
from unet_core.images.readers import companions_of
from unet_core.method import method, method_of_instances
from unet_core.records import Source, is_as_seen, names_in, read_record, wanted_digest

# Output files beside the stamp that later steps read, below the folder of the stamp.
MODEL_FILES = ("best.safetensors", "model.json")
SCORE_FILES = ("images.csv", "images.parquet", "objects.csv", "objects.parquet")
# Those that people read and no later step does.
CHECK_FILES = ("batches.json", "findings.csv", "samples.csv", "check.html")
REPORT = tuple(
    f"report/{name}"
    for name in (
        "report.html",
        *("table.csv", "table.md", "table.tex", "table.parquet"),
        *("annotate_next.csv", "matrix.csv", "matrix.md", "pairs.csv"),
    )
)


class Job(NamedTuple):
    """One job of the workflow.

    Attributes
    ----------
    outputs : tuple of str
        Files below the results, the stamp first.
    options : dict
        What decides the result, beside its sources; builtins.
    parts : dict
        Part of the result -> what it is made from. Without parts of its own the result is ``all``.
    stores : tuple of str
        What must exist beside the outputs.
    beside : tuple of str
        Files that no later job reads: those that the job wrote must be as it wrote them, and are made again alone.
    """

    outputs: tuple[str, ...]
    options: dict[str, Any]
    parts: dict[str, list[Source]]
    stores: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


class Stale(NamedTuple):
    """Why a job is to be done.

    Attributes
    ----------
    why : str
        For people.
    open : bool
        Whether its result may come out otherwise for the same options and source files, so that all that is made from
        it is stale too.
    own : bool
        Whether its own options have changed.
    """

    why: str
    open: bool
    own: bool = False


class Jobs:
    """All jobs of a configuration, named by step and data set, model, or both: ``predict/hela/screen``.

    Parameters
    ----------
    cfg : Config
        The configuration.
    samples : dict, optional
        Data set -> its samples. Without them nothing can be said of what is stale; a job needs to know only itself.
    forced : callable
        Asked for rules and output files that are done in any case.
    """

    def __init__(
        self, cfg: Config, samples: dict[str, list[Sample]] | None = None, forced: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self.cfg, self.results, self._forced = cfg, Path(expand(cfg.results)), forced
        self._samples = samples or {}
        self._hashes: dict[Path, FileHashes] = {}
        self.pairs = [(model, dataset) for model in cfg.models for dataset in cfg.models[model].predict_on]

    # Names of jobs, and what is made from what.

    @functools.cached_property
    def all(self) -> dict[str, Job]:
        """Every job that the report rests on, in the order of the data."""
        found: dict[str, Job] = {}
        for name in self.cfg.datasets:
            found[f"groundtruth/{name}"] = self._groundtruth(name)
            found[f"weights/{name}"] = self._weights(name)
        for name in self.cfg.networks:
            found[f"plan/{name}"] = self._plan(name)
            found[f"train/{name}"] = self._train(name)
        for name in self.cfg.models:
            if name not in self.cfg.networks:
                members = [Source(f"train/{network}", "all") for network in self.cfg.networks_of(name)]
                found[f"train/{name}"] = Job((f"train/{name}.json",), {"code": method("ensemble")}, {"all": members})
        pairs = {name: job for pair in self.pairs for name, job in self._pair(*pair).items()}
        found |= {name: job for name, job in pairs.items() if name.startswith("predict/")}
        tuned = [model for model in self.cfg.models if self.cfg.instances_of(model).is_tuned]
        found |= {f"tune/{model}": self._tune(model) for model in tuned} | pairs
        for model in self.cfg.models:
            if scored := self.scored_by(model):
                sources = [Source(f"evaluate/{model}/{name}", "all") for name in scored]
                stamp = f"evaluate/history/{model}/gate.json"
                found[f"gate/{model}"] = Job((stamp,), {}, {"all": [Source(f"train/{model}", "all"), *sources]})
        return found | {"report": self._report()}

    def _groundtruth(self, name: str) -> Job:
        options: dict[str, Any] = {"dataset": plain(self.cfg.datasets[name])}
        options |= {"groundtruth": plain(self.cfg.groundtruth), "code": method("groundtruth")}
        parts: dict[str, list[Source]] = {part: [] for part in ("all", "images", "labels", "training")}
        beside = tuple(f"groundtruth/{name}.check/{file}" for file in CHECK_FILES)
        return Job((f"groundtruth/{name}.json",), options, parts, (f"groundtruth/{name}.zarr",), beside)

    def _weights(self, name: str) -> Job:
        options = {"classes": self.cfg.datasets[name].classes, "weights": plain(self.cfg.weights_of(name))}
        truth = f"groundtruth/{name}"
        parts = {"all": [Source(truth, "labels")], "training": [Source(truth, "training")]}
        stores = (f"weights/{name}.zarr",) if self.cfg.datasets[name].annotations else ()
        return Job((f"weights/{name}.json",), options | {"code": method("weights")}, parts, stores)

    def _plan(self, name: str) -> Job:
        sections = {"plan": self.cfg.plan_of(name), "train": self.cfg.train_of(name)}
        options: dict[str, Any] = {key: plain(section) for key, section in sections.items()}
        # How probabilities are computed and stored changes no plan, but for the tile.
        options["predict"] = {"tile": plain(self.cfg.predict_of(name))["tile"]}
        options |= {"bought": self.bought(name), "fold": self.cfg.fold_of(name), "code": method("plan")}
        learnt = [Source(f"weights/{dataset}", "training") for dataset in self.cfg.model_of(name).train_on]
        images = {dataset: Source(f"groundtruth/{dataset}", "images") for dataset in self.cfg.datasets_of(name)}
        if self.cfg.model_of(name).path and (before := self.started_from(name)):
            learnt.append(Source(f"train/{before}", "all"))
        parts = {"all": [*learnt, *images.values()], "training": learnt}
        parts |= {f"images of {dataset}": [*learnt, source] for dataset, source in images.items()}
        return Job((f"plan/{name}.json",), options, parts)

    def _train(self, name: str) -> Job:
        options = {"train": plain(self.cfg.train_of(name)), "bought": self.bought(name), "start": self.start(name)}
        datasets = self.cfg.model_of(name).train_on
        sources = [Source(f"plan/{name}", "training")]
        for dataset in datasets:
            sources += [Source(f"weights/{dataset}", "training"), Source(f"groundtruth/{dataset}", "training")]
        if before := self.started_from(name):
            sources.append(Source(f"train/{before}", "all"))
        files = () if options["bought"] else tuple(f"train/{name}/{file}" for file in MODEL_FILES)
        return Job((f"train/{name}.json", *files), options | {"code": method("train")}, {"all": sources})

    def _pair(self, model: str, dataset: str) -> dict[str, Job]:
        """Jobs of a model on a data set."""
        pair, truth, trained = f"{model}/{dataset}", f"groundtruth/{dataset}", Source(f"train/{model}", "all")
        plans = [Source(f"plan/{network}", f"images of {dataset}") for network in self.cfg.networks_of(model)]
        predict = {"predict": plain(self.cfg.predict_of(model)), "mask_threshold": self.cfg.mask_threshold(model)}
        # Only where there is one, so that what was made before there was such an option stays valid.
        predict |= {key: value for key, value in plain(self.cfg.datasets[dataset]).items() if key == "region"}
        cfg = self.cfg.instances_of(model)
        instances = {"instances": plain(cfg), "code": method_of_instances(cfg.split, cfg.min_size)}
        # Former versions measured nothing more: their tables get columns, and their labels stay.
        instances |= {"measures": method("measures")} if cfg.measure else {}
        more = [Source(truth, "images")] if "intensity" in cfg.measure else []
        more += [Source(f"tune/{model}", "all")] if cfg.is_tuned else []
        steps: dict[str, tuple[dict[str, Any], list[Source]]] = {
            "predict": (predict | {"code": method("predict")}, [trained, *plans, Source(truth, "images")]),
            "instances": (instances, [Source(f"predict/{pair}", "all"), *more]),
        }
        found = {
            f"{step}/{pair}": Job((f"{step}/{pair}.json",), options, {"all": sources}, (f"{step}/{pair}.zarr",))
            for step, (options, sources) in steps.items()
        }
        if self.cfg.datasets[dataset].annotations:
            # Not the gate, which changes no score.
            scores = {k: v for k, v in plain(self.cfg.evaluate).items() if k not in ("gate", "gate_margin")}
            options = {"evaluate": scores, "code": method("evaluate")}
            sources = [Source(f"instances/{pair}", "all"), Source(truth, "labels"), trained]
            files = (f"evaluate/{pair}/{file}" for file in SCORE_FILES)
            found[f"evaluate/{pair}"] = Job((f"evaluate/{pair}.json", *files), options, {"all": sources})
        return found

    def _tune(self, model: str) -> Job:
        """What ``auto`` in the section `instances` of a model stands for."""
        cfg = plain(self.cfg.instances_of(model))
        options = {"instances": {key: value for key, value in cfg.items() if key != "measure"}}
        datasets = self.cfg.tuned_by(model)
        sources = [Source(f"predict/{model}/{name}", "all") for name in datasets]
        sources += [Source(f"groundtruth/{name}", "training") for name in datasets]
        return Job((f"tune/{model}.json",), options | {"code": method("tune")}, {"all": sources})

    def _report(self) -> Job:
        rests_on = self.of_report()
        options = {"report": plain(self.cfg.report), "pairs": self.pairs, "jobs": rests_on, "code": method("report")}
        names = [f"{step}/{name}" for step, listed in rests_on.items() for name in listed]
        names += [f"train/{model}" for model, _ in self.pairs]
        sources = [Source(name, "all") for name in dict.fromkeys(names)]
        return Job(REPORT, options, {"all": sources}, beside=("report/config.yaml",))

    def of_report(self) -> dict[str, list[str]]:
        """Names of all jobs that the report rests on, by step.

        Their benchmarks are no inputs, so that what a job cost starts no job.
        """
        models = dict.fromkeys(model for model, _ in self.pairs)
        networks = [*dict.fromkeys(name for m in models for name in self.cfg.networks_of(m))]
        trained_on = dict.fromkeys(name for network in networks for name in self.cfg.model_of(network).train_on)
        pairs = [f"{model}/{dataset}" for model, dataset in self.pairs]
        tuned = [model for model in models if self.cfg.instances_of(model).is_tuned]
        return {
            "groundtruth": [*dict.fromkeys([*trained_on, *(name for _, name in self.pairs)])],
            "weights": [*trained_on],
            "plan": networks,
            "train": networks,
            "predict": pairs,
            **({"tune": tuned} if tuned else {}),
            "instances": pairs,
            "evaluate": [f"{model}/{name}" for model in self.cfg.models for name in self.scored_by(model)],
        }

    def scored_by(self, model: str) -> list[str]:
        """Annotated data sets that a model is applied to."""
        return [name for name in self.cfg.models[model].predict_on if self.cfg.datasets[name].annotations]

    # What lies outside of the configuration.

    def _content(self, cache: str, folder: Path) -> list[str]:
        hashes = self._hashes_of(Path(cache))
        return [hashes.of(folder / file) for file in MODEL_FILES[::-1] if (folder / file).is_file()]

    @functools.cache  # noqa: B019 (there is one for a process)
    def bought(self, network: str) -> dict[str, Any] | None:
        """Folder and content of a model that is not trained here; none for the others."""
        path = self.cfg.model_of(network).path
        if path is None:
            return None
        files = [] if self.started_from(network) else self._content(f"train/{network}.files.json", Path(expand(path)))
        return {"path": expand(path), "content": files}

    @functools.cache  # noqa: B019
    def start(self, network: str) -> list[str] | None:
        """Content of the model that training starts from, if `train.start` names one of elsewhere."""
        path = self.cfg.train_of(network).start
        if path in NO_FOLDER or self.started_from(network):
            return None
        return self._content(f"train/{network}.start.json", Path(expand(path)))

    def started_from(self, network: str) -> str | None:
        """Network of this configuration whose training is to end before another one starts from it, or is it."""
        return networks_started_from(self.cfg, network)

    def _hashes_of(self, cache: Path) -> FileHashes:
        return self._hashes.setdefault(cache, FileHashes(self.results / cache, companions_of))

    def save(self) -> None:
        """Keep the hashes of files that were read."""
        for hashes in self._hashes.values():
            hashes.save()

    # What is stale.

    @functools.cache  # noqa: B019
    def _wanted(self, name: str) -> dict[str, str]:
        """Digest of all that each part of a job's result depends on."""
        job = self.all[name]
        if name.startswith("groundtruth/"):
            dataset = name.partition("/")[2]
            hashes = self._hashes_of(Path(f"groundtruth/{dataset}.files.json"))
            cfg, hash_of = self.cfg.datasets[dataset], hashes.seen
            if cfg.in_place == "always":
                # How such a file looks is noted in the store, and noted again where it was touched.
                hash_of = functools.partial(hashes.seen, limit=-1)
            return wanted_of_files(cfg, self.cfg.groundtruth, self._samples[dataset], hash_of)
        return {
            part: wanted_digest(digest(job.options), {one: self._wanted(one.job)[one.part] for one in sources})
            for part, sources in job.parts.items()
        }

    @functools.cache  # noqa: B019
    def _record(self, name: str) -> dict[str, Any]:
        return read_record(self.results, name)

    @functools.cache  # noqa: B019
    def stale(self, name: str) -> Stale | None:
        """Why a job is to be done; None if what it would make is there."""
        job, record = self.all[name], self._record(name)
        if {name.partition("/")[0], *(str(self.results / path) for path in job.outputs)} & {*self._forced()}:
            return Stale("it is forced", open=True)
        missing = [path for path in (*job.outputs, *job.stores) if not (self.results / path).exists()]
        if missing:
            return Stale(f"{self.results / missing[0]} is missing", open=True)
        if not record:
            return Stale("it is not known what its result was made of", open=True)
        for path in job.outputs:
            if not is_as_seen(self.results / path, record["outputs"].get(path, [])):
                return Stale(f"{self.results / path} is not what the step wrote", open=True)
        for path in job.stores:
            if names_in(self.results / path) != record["stores"].get(path):
                return Stale(f"{self.results / path} has not the samples that the step wrote", open=True)
        return self._outdated(name, job, record) or self._follows(job, record) or self._beside(job, record)

    def _outdated(self, name: str, job: Job, record: dict[str, Any]) -> Stale | None:
        """Whether options or source files differ from those that a result was made of."""
        changed = [part for part, wanted in self._wanted(name).items() if record["wanted"].get(part) != wanted]
        if not changed:
            return None
        own = digest(job.options)
        if own != record.get("own"):
            return Stale("its options or its method have changed", open=False, own=True)
        sources = dict.fromkeys(source.job for part in changed for source in job.parts.get(part, []))
        if not sources:
            return Stale("images or annotations have changed", open=False)
        listed = [source for source in sources if self.stale(source)]
        return Stale(f"what it is made from has changed: {', '.join(listed or sources)}", open=False)

    def _follows(self, job: Job, record: dict[str, Any]) -> Stale | None:
        """Whether what a job is made from was, or is to be, made again and may have come out otherwise."""
        for source in dict.fromkeys(source for sources in job.parts.values() for source in sources):
            before = self._record(source.job).get("parts", {}).get(source.part)
            stale = self.stale(source.job)
            if before is None or record["used"].get("#".join(source)) != before:
                return Stale(f"{source.job} was made again", open=True)
            if stale is not None and stale.open:
                return Stale(f"{source.job} is to be made again", open=True)
        return None

    def _beside(self, job: Job, record: dict[str, Any]) -> Stale | None:
        """Whether a file that no later job reads is gone or damaged; former versions did not note it."""
        for path in job.beside:
            if path in record["outputs"] and not is_as_seen(self.results / path, record["outputs"][path]):
                return Stale(f"{self.results / path} is not what the step wrote", open=False)
        return None

    # What Snakemake is told.

    def described(self, name: str) -> dict[str, Any]:
        """A job as its script passes it to `records.recorded`."""
        job = self.all[name]
        parts = {part: list(map(list, sources)) for part, sources in job.parts.items()}
        return {
            "results": str(self.results),
            "name": name,
            "outputs": list(job.outputs),
            "stores": list(job.stores),
            "beside": list(job.beside),
            "own": digest(job.options),
            "parts": parts,
        }

    def ask(self, name: str, folder: Path) -> Path:
        """Write down that a job is asked for, if it is stale, and why.

        Snakemake starts jobs one of whose input files is newer than their outputs and has not the content of the time
        before: while the job is stale the file is of now, and never the same; else it is older than any output. What a
        job writes must be newer than all it reads: no stamp is left in the future, where a wrong clock has put it.
        """
        self._announce(folder)
        path, stale = folder / f"{name}.txt", self.stale(name)
        if stale is None:
            path.touch()
            _set_time(path, 1)
            return path
        path.write_text(f"{stale.why}\n{uuid.uuid4().hex}\n")
        now, sources = time.time(), [one.job for listed in self.all[name].parts.values() for one in listed]
        for output in (self.results / self.all[job].outputs[0] for job in (name, *sources)):
            if output.exists() and output.stat().st_mtime >= now - 1:
                with contextlib.suppress(OSError):  # those of another user, who has to run it
                    _set_time(output, now - 2)
        _set_time(path, now)
        return path

    @functools.cache  # noqa: B019
    def _announce(self, folder: Path) -> None:
        """Make the files of all jobs: Snakemake looks into a folder once, and calls missing what comes later."""
        for name in self.all:
            path = folder / f"{name}.txt"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                _set_time(path, 1)


def _set_time(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))
