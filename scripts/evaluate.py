"""Rule ``evaluate``: objects and truth in, scores out."""

from pathlib import Path

from unet_core.config import Evaluate
from unet_core.engine import open_engine
from unet_core.evaluate import evaluate_samples
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
workers = snakemake.threads if snakemake.params.workers == "auto" else snakemake.params.workers
groundtruth, instances = Path(snakemake.input.groundtruth), Path(snakemake.input.instances)

with job_log(Path(snakemake.log[0]), snakemake.threads), open_engine(workers) as engine:
    evaluate_samples(
        Evaluate.model_validate(options["evaluate"]),
        groundtruth=groundtruth,
        truth_store=groundtruth.with_suffix(".zarr"),
        instances=instances,
        instance_store=instances.with_suffix(".zarr"),
        folder=stamp.with_suffix(""),
        stamp=stamp,
        engine=engine,
    )
