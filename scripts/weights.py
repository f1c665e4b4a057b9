"""Rule ``weights``: labels of a data set in, targets and border terms out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.datasets import Dataset, Weights
from unet_core.engine import open_job
from unet_core.records import recorded
from unet_core.weights.step import make_weights

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
groundtruth = Path(snakemake.input.groundtruth)

with (
    open_job("weights", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine,
    recorded(snakemake.params.record),
):
    make_weights(
        Weights.model_validate(options["weights"]),
        Dataset.model_validate(snakemake.params.dataset),
        groundtruth=groundtruth,
        truth_store=groundtruth.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
