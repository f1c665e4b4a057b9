"""Rule ``instances``: probabilities in, labels and tables of objects out."""

from pathlib import Path

from unet_core.config.options import Dask, Instances
from unet_core.engine import open_engine
from unet_core.instances.step import make_instances
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
log = Path(snakemake.log[0])
# Not a param: how blocks are worked on changes no result, and must not start a job.
dask = Dask.model_validate(snakemake.config.get("dask", {}))
predict = Path(snakemake.input.predict)

with (
    job_log(log, snakemake.threads),
    open_engine(dask, "instances", snakemake.threads, log.with_suffix(".workers")) as engine,
):
    make_instances(
        Instances.model_validate(options["instances"]),
        predict=predict,
        probabilities=predict.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        tables=stamp.with_suffix(""),
        stamp=stamp,
        engine=engine,
    )
