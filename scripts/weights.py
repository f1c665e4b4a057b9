"""Rule ``weights``: labels of a data set in, targets and border terms out."""

from pathlib import Path

from unet_core.config.datasets import Dataset, Weights
from unet_core.config.options import Dask
from unet_core.engine import open_engine
from unet_core.runtime import job_log
from unet_core.weights.step import make_weights

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
log = Path(snakemake.log[0])
# Not a param: how blocks are worked on changes no result, and must not start a job.
dask = Dask.model_validate(snakemake.config.get("dask", {}))
groundtruth = Path(snakemake.input.groundtruth)

with (
    job_log(log, snakemake.threads),
    open_engine(dask, "weights", snakemake.threads, log.with_suffix(".workers")) as engine,
):
    make_weights(
        Weights.model_validate(options["weights"]),
        Dataset.model_validate(options["dataset"]),
        groundtruth=groundtruth,
        truth_store=groundtruth.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
