"""What a run would do and cost, before it starts: ``python -m unet_core estimate [CONFIGFILE]``.

Snakemake says which jobs it would start; digests say which samples these would find done
(`unet_core.estimate.workload`). Sizes come from the headers of the images; times and bytes from a rehearsal on a few
samples (`unet_core.estimate.rehearsal`), on this machine, now.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from unet_core.blocks import Grid
from unet_core.config.datasets import ConfigError
from unet_core.config.options import Config
from unet_core.config.parse import read_config
from unet_core.estimate.measure import Cost, process_start
from unet_core.estimate.rehearsal import Rehearsal, Stage, first_folds
from unet_core.estimate.stand_in import MAX_SAMPLE_VOXELS, Sized
from unet_core.estimate.workload import STEPS, PendingJob, Workload, pending, sizes, threads_of
from unet_core.groundtruth.samples import check_data, expand
from unet_core.instances.objects import SUFFIXES
from unet_core.network.device import device
from unet_core.runtime import UserError, available_cores
from unet_core.store.store import LABELS, Spec

# Steps that belong to a model.
MODEL_STEPS = ("plan", "train", "predict", "instances", "evaluate")
# Bytes per voxel while annotations are painted: labels of several types, and positions of the objects' voxels.
PAINTING_BYTES_PER_VOXEL = 24


@dataclass
class Row:
    """What all jobs of a step take; see `estimate`."""

    step: str
    jobs: int
    samples: int = 0
    blocks: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    inodes: int = 0
    memory: int = 0


def inodes_of(spec: Spec) -> int:
    """Files and folders of one result: metadata, and one file per shard at each resolution.

    Examples
    --------
    >>> inodes_of(Spec((1, 64, 64), "uint8", "labels"))
    5
    """
    if len(spec.grid) == 1:  # whose shards need no folders
        return 2 + 3 * spec.levels
    count, (depth, by, bx) = 2, spec.grid.block
    for level in range(spec.levels):
        shape = (spec.shape[0], -(-spec.shape[1] // 2**level), -(-spec.shape[2] // 2**level))
        z, y, x = Grid(shape, (depth, by >> level, bx >> level)).counts
        # The array with its metadata, and a folder for each but the last coordinate of a shard.
        count += 3 + (spec.channels is not None) + z + z * y + z * y * x
    return count


def inodes_of_job(job: PendingJob) -> int:
    """Files and folders that a job adds: its results, the folder of labels with its metadata, tables."""
    return sum(_inodes(job, item) for item in job.items)


def _inodes(job: PendingJob, item: Sized) -> int:
    array = job.array_of(item)
    alone, in_channels = inodes_of(array), inodes_of(array._replace(channels=item.shape[0]))
    match job.step:
        case "groundtruth":
            return in_channels + (2 + len(LABELS) * alone) * (item.sample.split != "unannotated")
        case "weights":  # results of several blocks have a file of records beside them
            return 2 * alone + 2 + (len(array.grid) > 1)
        case "predict":
            return in_channels
        case "instances":
            return alone + len(SUFFIXES)
        case "evaluate":
            return 1
    return 0


def rehearse(work: Workload, folder: Path, cores: int) -> Rehearsal:
    """Run the chain on a few samples of each data set that something is to be done for."""
    cfg = work.cfg
    keys = {
        job.key[0] if isinstance(job.key, tuple) else job.key for job in work.jobs.values() if job.step in MODEL_STEPS
    }
    models = [name for name in cfg.models if keys & {name, *cfg.networks_of(name)}]
    # Of the folds of a model the first stands for all.
    networks = list(dict.fromkeys(network for name in models for network in first_folds(cfg, name)))
    names = [job.key for job in work.jobs.values() if job.step in ("groundtruth", "weights")]
    names = list(dict.fromkeys([*names, *(name for network in networks for name in cfg.datasets_of(network))]))
    volumes = {
        name for network in networks if work.network(network).dimensions == 3 for name in cfg.datasets_of(network)
    }
    workers = {step: workers_of(step, cfg, cores) for step in STEPS}
    stage = Stage(cfg, folder, {name: work.sized[name] for name in names}, volumes, workers)
    for name in names:
        stage.groundtruth(name)
        if ("weights", name) in work.jobs or any(name in cfg.model_of(network).train_on for network in networks):
            stage.weights(name)
    for network in networks:
        path = cfg.model_of(network).path
        bought = Path(expand(path)) if path else None
        train_tile = None if bought else work.train_tile(network)
        stage.plan(network, work.network(network), train_tile, work.predict_tile(network), bought)
        alike = [] if bought else cfg.networks_of(network.partition(".")[0])
        if any(work.jobs[key].items for key in (("train", other) for other in alike) if key in work.jobs):
            stage.train(network, alike)
        else:
            stage.adopt(network, bought or work.results / "train" / network)
    for model in models:
        stage.ensemble(model)
        for name in cfg.models[model].predict_on:
            stage.predict(model, name)
            stage.instances(model, name)
            if cfg.datasets[name].annotations:
                stage.evaluate(model, name)
    if models:
        stage.report([pair for pair in work.pairs if pair[0] in models])
    return stage.found


def workers_of(step: str, cfg: Config, cores: int) -> int:
    """Blocks that a job of a step has in work at once."""
    return min(threads_of(step), cores) if cfg.dask.workers == "auto" else cfg.dask.workers


def estimate(work: Workload, costs: Rehearsal, starts: dict[str, float], cores: int) -> list[Row]:
    """Sums of all jobs, step by step.

    Parameters
    ----------
    work : Workload
        What is to be done.
    costs : Rehearsal
        What it costs.
    starts : dict
        Seconds of starting and ending the process of each step.
    cores : int
        Cores of the machine: so many threads of jobs run at once.
    """
    rows = []
    for step in STEPS:
        jobs = [job for job in work.jobs.values() if job.step == step]
        if not jobs:
            continue
        row, at_once = Row(step, len(jobs)), min(len(jobs), cores // min(threads_of(step), cores))
        workers = workers_of(step, work.cfg, cores)
        for job in jobs:
            cost = costs.costs.get((step, job.key), Cost())
            voxels = sum(item.voxels for item in job.items)
            row.samples += len(job.items)
            row.blocks += 0 if step == "train" else job.blocks
            row.seconds += (starts[step] + _seconds(job, work, cost)) / at_once
            row.bytes += cost.bytes_per_voxel * (1 if step in ("train", "report") else voxels)
            row.inodes += inodes_of_job(job)
            row.memory = max(row.memory, cost.memory + _painting(job, workers) * at_once)
        rows.append(row)
    return rows


def _seconds(job: PendingJob, work: Workload, cost: Cost) -> float:
    """Time of a job after its start."""
    voxels = sum(item.voxels for item in job.items)
    if job.step == "predict":
        voxels = sum(item.voxels * len(work.predictors(job.key, item)) for item in job.items)
    if job.step != "train":
        return cost.start + cost.per_voxel * voxels if job.items or job.step == "report" else 0.0
    if not job.items:
        return 0.0
    steps, cfg = work.steps(job.key), work.cfg.train_of(job.key)
    validated = sum(item.voxels for item in job.items if item.sample.split == "validation")
    return (
        cost.start
        + steps * cost.per_voxel
        + math.ceil(steps / cfg.validate_every) * cost.validation * max(validated, 1)
    )


def _painting(job: PendingJob, workers: int) -> int:
    """Bytes for the annotations of large samples, which the rehearsal has not met: they are painted in memory."""
    if job.step != "groundtruth":
        return 0
    voxels = sorted(item.voxels for item in job.items if item.sample.split != "unannotated")
    return sum(PAINTING_BYTES_PER_VOXEL * n for n in voxels[-workers:] if n > MAX_SAMPLE_VOXELS)


def warnings(rows: list[Row], results: Path) -> Iterator[str]:
    """What does not fit this machine, and what there is."""
    place = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    status, total = os.statvfs(place), psutil.virtual_memory().total
    free, needed = shutil.disk_usage(place).free, sum(row.bytes for row in rows)
    yield f"disk     {_bytes(needed)} of {_bytes(free)} free in {place}"
    if needed > free:
        yield f"WARNING: the results do not fit the disk: {_bytes(needed)} needed, {_bytes(free)} free in {place}"
    # Some file systems make inodes as they are needed, and state none.
    if status.f_files:
        count = sum(row.inodes for row in rows)
        yield f"inodes   {count:,} of {status.f_favail:,} free"
        if count > status.f_favail:
            yield f"WARNING: too many files for the file system of {place}: {count:,} needed, {status.f_favail:,} free"
    largest = max(rows, key=lambda row: row.memory)
    yield f"memory   {_bytes(largest.memory)} of {_bytes(total)}, in {largest.step}"
    for row in rows:
        if row.memory > total:
            yield (
                f"WARNING: {row.step} does not fit the memory: "
                f"{_bytes(row.memory)} needed, {_bytes(total)} in this machine"
            )


def table(rows: list[Row], accelerator: str) -> str:
    """The rows as text, with a sum."""
    lines = [
        f"{'step':<12}{'jobs':>6}{'samples':>9}{'blocks':>9}{'time':>10}  "
        f"{'on':<5}{'disk':>9}{'inodes':>10}{'memory':>9}"
    ]
    for row in rows:
        where = accelerator if row.step in ("train", "predict") else "CPU"
        lines.append(
            f"{row.step:<12}{row.jobs:>6,}{row.samples:>9,}{row.blocks:>9,}{_time(row.seconds):>10}  {where:<5}"
            f"{_bytes(row.bytes):>9}{row.inodes:>10,}{_bytes(row.memory):>9}"
        )
    seconds, size = sum(row.seconds for row in rows), sum(row.bytes for row in rows)
    count, most = sum(row.inodes for row in rows), max(row.memory for row in rows)
    lines.append(
        f"{'sum':<12}{sum(r.jobs for r in rows):>6,}{'':>18}{_time(seconds):>10}  "
        f"{'':<5}{_bytes(size):>9}{count:>10,}{_bytes(most):>9}"
    )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.3g} h"
    )


def _bytes(count: float) -> str:
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.3g} {unit}"
    return f"{count / 1000:.3g} kB"


def run(configfile: Path) -> list[Row]:
    """Print the estimate of a run with a configuration."""
    cfg = read_config(configfile)
    samples = check_data(cfg)
    started = time.perf_counter()
    jobs = pending(configfile)
    parsing = time.perf_counter() - started
    work = Workload(cfg, sizes(cfg, samples), jobs)
    if not work.jobs:
        print("estimate: nothing to be done")
        return []
    cores = available_cores()
    print(f"estimate: measuring a few samples of each data set on {cores} cores", flush=True)
    starts = {
        step: process_start(step, min(threads_of(step), cores))
        for step in dict.fromkeys(job.step for job in work.jobs.values())
    }
    # Progress lines of the steps say nothing here.
    with tempfile.TemporaryDirectory(prefix="unet-estimate-") as folder, contextlib.redirect_stderr(io.StringIO()):
        costs = rehearse(work, Path(folder), cores)
    rows = estimate(work, costs, starts, cores)
    print("measured:", *costs.measured, sep="\n  ")
    print(f"  start of a process of each step: {sum(starts.values()):.1f} s in all")
    print(f"\n{table(rows, 'GPU' if device().type != 'cpu' else 'CPU')}\n")
    total = parsing + sum(row.seconds for row in rows)
    print(f"time     {_time(total)} on this machine, {_time(parsing)} of it Snakemake's own")
    if work.may_be_empty():
        print("bound    predict takes less where predict.skip or region leave blocks empty: all count as computed here")
    print("\n".join(warnings(rows, Path(expand(cfg.results)))))
    return rows


def main(arguments: list[str]) -> None:
    """Estimate the run of a configuration, by default that of ``config.yaml``."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core estimate",
        description="What a run would do and take: jobs, time, disk and memory, measured here for about a minute.",
    )
    parser.add_argument(
        "config", metavar="CONFIG", nargs="?", type=Path, default=Path("config.yaml"), help="default %(default)s"
    )
    try:
        run(parser.parse_args(arguments).config)
    except (ConfigError, UserError) as error:
        sys.exit(f"estimate: {error}")
