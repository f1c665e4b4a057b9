"""Rule ``predict``: images and a model in, class probabilities out."""

from functools import partial
from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.datasets import Extent
from unet_core.config.options import Predict
from unet_core.engine import open_job
from unet_core.network.device import environments_of_gpus
from unet_core.predict.step import predict_samples
from unet_core.records import recorded

options, stamp, dask = snakemake.params.cfg, Path(snakemake.output.stamp), snakemake.params.dask
gpus = partial(environments_of_gpus, snakemake.resources)

with open_job("predict", snakemake.log[0], snakemake.threads, dask, gpus) as engine, recorded(snakemake.params.record):
    predict_samples(
        Predict.model_validate(options["predict"]),
        model=Path(snakemake.input.model),
        plans=[Path(path) for path in snakemake.input.plans],
        groundtruth=Path(snakemake.input.groundtruth),
        images=Path(snakemake.input.groundtruth).with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
        mask_threshold=options["mask_threshold"],
        region=[Extent.model_validate(extent) for extent in options.get("region", [])],
    )
