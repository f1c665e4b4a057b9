"""Rule ``evaluate``: objects and truth in, scores out."""

from pathlib import Path

from unet_core.config.options import Dask, Evaluate
from unet_core.engine import open_engine
from unet_core.evaluate.step import evaluate_samples
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
log = Path(snakemake.log[0])
# Not a param: how blocks are worked on changes no result, and must not start a job.
dask = Dask.model_validate(snakemake.config.get("dask", {}))
groundtruth, instances = Path(snakemake.input.groundtruth), Path(snakemake.input.instances)

with (
    job_log(log, snakemake.threads),
    open_engine(dask, "evaluate", snakemake.threads, log.with_suffix(".workers")) as engine,
):
    evaluate_samples(
        Evaluate.model_validate(options["evaluate"]),
        model=Path(snakemake.input.model),
        groundtruth=groundtruth,
        truth_store=groundtruth.with_suffix(".zarr"),
        instances=instances,
        instance_store=instances.with_suffix(".zarr"),
        tables=instances.with_suffix(""),
        folder=stamp.with_suffix(""),
        history=stamp.parents[1] / "history" / stamp.parent.name / f"{stamp.stem}.jsonl",
        stamp=stamp,
        engine=engine,
    )
