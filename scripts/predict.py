"""Rule ``predict``: images and a model in, class probabilities out."""

from pathlib import Path

from unet_core.config.options import Dask, Predict
from unet_core.engine import open_engine
from unet_core.predict.step import predict_samples
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
log = Path(snakemake.log[0])
# Not a param: how blocks are worked on changes no result, and must not start a job.
dask = Dask.model_validate(snakemake.config.get("dask", {}))
groundtruth = Path(snakemake.input.groundtruth)

with (
    job_log(log, snakemake.threads),
    open_engine(dask, "predict", snakemake.threads, log.with_suffix(".workers")) as engine,
):
    predict_samples(
        Predict.model_validate(options["predict"]),
        model=Path(snakemake.input.model),
        plans=[Path(path) for path in snakemake.input.plans],
        groundtruth=groundtruth,
        images=groundtruth.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
        mask_threshold=options["mask_threshold"],
    )
