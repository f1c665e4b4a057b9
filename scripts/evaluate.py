"""Rule ``evaluate``: objects and truth in, scores out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.options import Evaluate
from unet_core.engine import open_job
from unet_core.evaluate.step import evaluate_samples
from unet_core.records import recorded

stamp, options = Path(snakemake.output.stamp), snakemake.params.cfg
groundtruth, instances = Path(snakemake.input.groundtruth), Path(snakemake.input.instances)

with (
    open_job("evaluate", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine,
    recorded(snakemake.params.record),
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
