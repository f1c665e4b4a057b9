"""Rule ``groundtruth``: images and annotations of a data set in, one store out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import open_job
from unet_core.groundtruth.contents import wanted_of_files
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth, hashes_of
from unet_core.records import recorded

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg

with (
    open_job("groundtruth", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine,
    recorded(snakemake.params.record) as record,
):
    cfg, policy = Dataset.model_validate(options["dataset"]), Groundtruth.model_validate(options["groundtruth"])
    samples = find_samples(cfg)[0]
    convert_groundtruth(cfg, policy, samples, store=stamp.with_suffix(".zarr"), stamp=stamp, engine=engine)
    # Only now all files are known by their content.
    record.wanted = wanted_of_files(cfg, policy, samples, hashes_of(stamp).seen)
