"""Rule ``weights``: labels of a data set in, targets and border terms out."""

from pathlib import Path

from unet_core.config import Dataset, Weights
from unet_core.engine import open_engine
from unet_core.runtime import job_log
from unet_core.weights import make_weights

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
workers = snakemake.threads if snakemake.params.workers == "auto" else snakemake.params.workers
groundtruth = Path(snakemake.input.groundtruth)

with job_log(Path(snakemake.log[0]), snakemake.threads), open_engine(workers) as engine:
    make_weights(
        Weights.model_validate(options["weights"]),
        Dataset.model_validate(options["dataset"]),
        groundtruth=groundtruth,
        truth_store=groundtruth.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
