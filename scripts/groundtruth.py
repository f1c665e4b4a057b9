"""Rule ``groundtruth``: images and annotations of a data set in, one store out."""

from pathlib import Path

from unet_core.config.datasets import Dataset
from unet_core.config.options import Dask, Groundtruth
from unet_core.engine import open_engine
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
log = Path(snakemake.log[0])
# Not a param: how blocks are worked on changes no result, and must not start a job.
dask = Dask.model_validate(snakemake.config.get("dask", {}))

with (
    job_log(log, snakemake.threads),
    open_engine(dask, "groundtruth", snakemake.threads, log.with_suffix(".workers")) as engine,
):
    cfg = Dataset.model_validate(options["dataset"])
    convert_groundtruth(
        cfg,
        Groundtruth.model_validate(options["groundtruth"]),
        find_samples(cfg)[0],
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
