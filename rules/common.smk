"""Configuration, checked before any work, and the functions that say what each rule needs."""

import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from unet_core.config.datasets import ConfigError
from unet_core.config.parse import parse_config
from unet_core.config.section import plain
from unet_core.groundtruth.samples import check_data
from unet_core.jobs import Jobs
from unet_core.lock import Locked, lock_results
from unet_core.method import method

try:
    cfg = parse_config(config)
    # The process of a job need not look at the data: the run that starts it has done so.
    samples = check_data(cfg) if workflow.is_main_process else None
except ConfigError as error:
    raise WorkflowError(str(error)) from None


def forced():
    """Rules and files named by --forcerun; known only after this file was read."""
    return workflow.dag_settings.forcerun or ()


jobs = Jobs(cfg, samples, forced)


pathvars:
    results=jobs.results.as_posix(),


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),


# Where networks are planned and trained, the wildcard `model` stands for a network.
# A model of several networks has none of its own name.
NETWORKS = "|".join(map(re.escape, cfg.networks))
SEVERAL = "|".join(name for name in cfg.models if name not in cfg.networks) or "(?!)"


def hold_results():
    """Keep other runs from the results, and the hashes of what was read."""
    try:
        if workflow.execution_settings.lock:
            lock_results(jobs.results)
        jobs.save()
    except (Locked, OSError) as error:
        raise WorkflowError(str(error)) from None


# Here the run that starts jobs writes down which are stale. Snakemake would find out neither from another working
# directory, nor with results that were copied, nor which part of a stamp matters to a job.
ASKED = Path(".snakemake/asked")


def job_of(step, wildcards):
    """Name of a job in `jobs`."""
    named = [wildcards[key] for key in ("model", "dataset") if key in wildcards.keys()]
    return "/".join([step, *named])


def asked(step):
    """File that is newer than the outputs of a job if the job is stale."""

    def ask(wildcards):
        name = job_of(step, wildcards)
        if samples is None:
            return (ASKED / f"{name}.txt").as_posix()
        if name not in jobs.all:
            raise WorkflowError(
                f"the configuration asks for no {name}; see predict_on of the models "
                "(scores need annotations, too)"
            )
        return jobs.ask(name, ASKED).as_posix()

    return ask


def after(step, needs):
    """Stamps that a job waits for; they start it if it is stale, and whatever their times are, not otherwise."""

    def stamps(wildcards):
        stale = samples is None or jobs.stale(job_of(step, wildcards))
        if callable(needs):
            return [stamp if stale else ancient(stamp) for stamp in needs(wildcards)]
        return needs if stale else ancient(needs)

    return stamps


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


def network_before(wildcards):
    """Stamp of the network of this configuration that training starts from, if there is one."""
    before = jobs.started_from(wildcards.model)
    return [f"<results>/train/{before}.json"] if before else []


def network_taken(wildcards):
    """The same where the model is that network itself, whose description its plan follows."""
    return network_before(wildcards) if cfg.model_of(wildcards.model).path else []


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
        for name in jobs.scored_by(wildcards.model)
    ]


def predictions_to_tune_by(wildcards):
    """Probabilities by which a model's auto options are chosen."""
    return [
        f"<results>/predict/{wildcards.model}/{name}.json"
        for name in cfg.tuned_by(wildcards.model)
    ]


def truths_to_tune_by(wildcards):
    """Groundtruth of the same data sets."""
    return [
        f"<results>/groundtruth/{name}.json" for name in cfg.tuned_by(wildcards.model)
    ]


def tuned_before(wildcards):
    """What is chosen of a model's options, where something is auto."""
    tuned = cfg.instances_of(wildcards.model).is_tuned
    return [f"<results>/tune/{wildcards.model}.json"] if tuned else []


def gate_before(wildcards):
    """The gate of a model that is scored, before a data set without annotation."""
    gated = not cfg.datasets[wildcards.dataset].annotations
    if gated and evaluations_of_model(wildcards):
        return [f"<results>/evaluate/history/{wildcards.model}/gate.json"]
    return []


def stamps_of_report(wildcards):
    """Stamps of all jobs that the report rests on, so that a result that is gone is noticed."""
    return [
        f"<results>/{jobs.all[source.job].outputs[0]}"
        for source in jobs.all["report"].parts["all"]
    ]


def options(step):
    """What decides the result of a job, beside what it is made from."""

    def of_job(wildcards):
        return jobs.all[job_of(step, wildcards)].options

    return of_job


def record(step):
    """What a job notes of itself when it has ended."""

    # Snakemake compares no param whose function asks for threads, input or output.
    def of_job(wildcards, threads):
        return jobs.described(job_of(step, wildcards))

    return of_job


# These say to a job what changes no result, and start none.


def dask_options(wildcards, threads):
    """Where and how blocks are worked on."""
    return plain(cfg.dask)


def dataset_options(wildcards, threads):
    """The section of a data set, of which classes alone decide weights."""
    return plain(cfg.datasets[wildcards.dataset])


def gate_options(wildcards, threads):
    """What the gate allows, beside how scores are computed."""
    return plain(cfg.evaluate)


def whole_config(wildcards, threads):
    """The configuration, to be kept beside the report."""
    return dict(config)
