"""Configuration, checked before any work, and the functions that say what each rule needs."""

import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from unet_core.config.datasets import ConfigError
from unet_core.digest import FileHashes
from unet_core.method import method
from unet_core.config.parse import parse_config
from unet_core.groundtruth.samples import check_data, content_of, expand

try:
    cfg = parse_config(config)
    samples = check_data(cfg)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

PAIRS = [
    (model, dataset) for model in cfg.models for dataset in cfg.models[model].predict_on
]


pathvars:
    results=expand(cfg.results),


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),


# Where networks are planned and trained, the wildcard `model` stands for a network.
# A model of several networks has none of its own name.
NETWORKS = "|".join(map(re.escape, cfg.networks))
SEVERAL = "|".join(name for name in cfg.models if name not in cfg.networks) or "(?!)"


def truths_of_model(wildcards):
    """Groundtruth of all data sets that a network is trained on or applied to."""
    return [
        f"<results>/groundtruth/{name}.json"
        for name in cfg.datasets_of(wildcards.model)
    ]


def truths_to_train_on(wildcards):
    """Groundtruth of the data sets that a network is trained on."""
    return [
        f"<results>/groundtruth/{name}.json"
        for name in cfg.model_of(wildcards.model).train_on
    ]


def networks_of_model(wildcards):
    """Stamps of the networks whose mean a model is."""
    return [f"<results>/train/{name}.json" for name in cfg.networks_of(wildcards.model)]


def plans_of_model(wildcards):
    """Plans of these networks, in the same order."""
    return [f"<results>/plan/{name}.json" for name in cfg.networks_of(wildcards.model)]


def truths_to_check(wildcards):
    """Groundtruth of all data sets that have annotations."""
    return [
        f"<results>/groundtruth/{name}.json"
        for name, dataset in cfg.datasets.items()
        if dataset.annotations
    ]


def weights_of_model(wildcards):
    """Weights of the data sets that a network is trained on."""
    return [
        f"<results>/weights/{name}.json"
        for name in cfg.model_of(wildcards.model).train_on
    ]


def evaluations_of_model(wildcards):
    """Scores of the annotated data sets that a model is applied to."""
    return [
        f"<results>/evaluate/{wildcards.model}/{name}.json"
        for name in cfg.models[wildcards.model].predict_on
        if cfg.datasets[name].annotations
    ]


def gate_before(wildcards):
    """The gate of a model that is scored, before a data set without annotation."""
    gated = not cfg.datasets[wildcards.dataset].annotations
    if gated and evaluations_of_model(wildcards):
        return [f"<results>/evaluate/history/{wildcards.model}/gate.json"]
    return []


def stamps_of_report(wildcards):
    """Scores of annotated data sets, objects of the others."""
    step = {
        name: "evaluate" if dataset.annotations else "instances"
        for name, dataset in cfg.datasets.items()
    }
    return [
        f"<results>/{step[dataset]}/{model}/{dataset}.json" for model, dataset in PAIRS
    ]


def jobs_of_report():
    """Names of all jobs that the report rests on, by step.

    Their benchmarks are no inputs, so that what a job cost starts no job.
    """
    models = dict.fromkeys(model for model, _ in PAIRS)
    networks = [*dict.fromkeys(name for m in models for name in cfg.networks_of(m))]
    trained_on = dict.fromkeys(
        name for network in networks for name in cfg.model_of(network).train_on
    )
    pairs = [f"{model}/{dataset}" for model, dataset in PAIRS]
    return {
        "groundtruth": [*dict.fromkeys([*trained_on, *(name for _, name in PAIRS)])],
        "weights": [*trained_on],
        "plan": networks,
        "train": networks,
        "predict": pairs,
        "instances": pairs,
        "evaluate": [
            f"{model}/{name}" for model, name in PAIRS if cfg.datasets[name].annotations
        ],
    }


def plain(section):
    """A section as builtins: only these are compared with the previous run."""
    return section.model_dump(mode="json", by_alias=True)


def groundtruth_options(wildcards):
    """What decides the conversion of a data set.

    Its files count by their content, so that touching them changes nothing.
    """
    name = wildcards.dataset
    content = content_of(
        samples[name], Path(expand(cfg.results)) / "groundtruth" / f"{name}.files.json"
    )
    options = {
        "dataset": plain(cfg.datasets[name]),
        "groundtruth": plain(cfg.groundtruth),
    }
    return options | {"files": content, "code": method("groundtruth")}


def weights_options(wildcards):
    """What decides the weight maps of a data set, beside its labels."""
    dataset = plain(cfg.datasets[wildcards.dataset])
    return {
        "dataset": dataset,
        "weights": plain(cfg.weights_of(wildcards.dataset)),
        "code": method("weights"),
    }


def bought_model(name):
    """Folder and content of a model that is not trained here; none for the others."""
    path = cfg.model_of(name).path
    if path is None:
        return None
    hashes = FileHashes(Path(expand(cfg.results)) / "train" / f"{name}.files.json")
    files = [Path(expand(path)) / file for file in ("model.json", "best.safetensors")]
    return {
        "path": expand(path),
        "content": [hashes.of(file) for file in files if file.is_file()],
    }


def start_of(name):
    """Content of the model that training starts from, if `train.start` names one."""
    path = Path(expand(cfg.train_of(name).start))
    if str(path) in ("previous", "new"):
        return None
    hashes = FileHashes(Path(expand(cfg.results)) / "train" / f"{name}.start.json")
    return [
        hashes.of(path / file)
        for file in ("model.json", "best.safetensors")
        if (path / file).is_file()
    ]


def plan_options(wildcards):
    """What decides a plan, beside the data."""
    name = wildcards.model
    sections = {
        "plan": cfg.plan_of(name),
        "train": cfg.train_of(name),
    }
    options = {key: plain(section) for key, section in sections.items()}
    # How probabilities are computed and stored changes no plan, but for the tile.
    options["predict"] = {"tile": plain(cfg.predict_of(name))["tile"]}
    options |= {"bought": bought_model(name), "fold": cfg.fold_of(name)}
    return options | {"code": method("plan")}


def train_options(wildcards):
    """What decides a model, beside its data and plan."""
    name = wildcards.model
    options = {
        "train": plain(cfg.train_of(name)),
        "bought": bought_model(name),
        "start": start_of(name),
    }
    return options | {"code": method("train")}


def predict_options(wildcards):
    """What decides probabilities, beside image and model."""
    return {
        "predict": plain(cfg.predict_of(wildcards.model)),
        "mask_threshold": cfg.mask_threshold(wildcards.model),
        "code": method("predict"),
    }


def instances_options(wildcards):
    """What decides objects, beside probabilities."""
    return {
        "instances": plain(cfg.instances_of(wildcards.model)),
        "code": method("instances"),
    }


def evaluate_options(wildcards):
    """What decides scores, beside objects and truth: not the gate, which changes none."""
    options = {
        key: value
        for key, value in plain(cfg.evaluate).items()
        if key not in ("gate", "gate_margin")
    }
    return {"evaluate": options, "code": method("evaluate")}


def report_options(wildcards):
    """What decides the report, beside scores and stores."""
    options = {"report": plain(cfg.report), "pairs": PAIRS, "jobs": jobs_of_report()}
    return options | {"code": method("report")}


# Snakemake compares no param whose function asks for threads, input or output. So these say to a job what changes no
# result, and start none.


def dask_options(wildcards, threads):
    """Where and how blocks are worked on."""
    return plain(cfg.dask)


def gate_options(wildcards, threads):
    """What the gate allows, beside how scores are computed."""
    return plain(cfg.evaluate)


def whole_config(wildcards, threads):
    """The configuration, to be kept beside the report."""
    return dict(config)
