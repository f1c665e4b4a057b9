"""Rule ``groundtruth``: images and annotations of a data set in, one store out."""

from pathlib import Path

from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import open_job
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg

with open_job("groundtruth", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine:
    cfg = Dataset.model_validate(options["dataset"])
    convert_groundtruth(
        cfg,
        Groundtruth.model_validate(options["groundtruth"]),
        find_samples(cfg)[0],
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
