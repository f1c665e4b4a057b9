"""Rule ``predict``: images and a model in, class probabilities out."""

from pathlib import Path

from unet_core.config import Dataset, Predict
from unet_core.engine import open_engine
from unet_core.predict import predict_samples
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
workers = snakemake.threads if snakemake.params.workers == "auto" else snakemake.params.workers
groundtruth = Path(snakemake.input.groundtruth)

with job_log(Path(snakemake.log[0]), snakemake.threads), open_engine(workers) as engine:
    predict_samples(
        Predict.model_validate(options["predict"]),
        Dataset.model_validate(options["dataset"]),
        model=Path(snakemake.input.model),
        plan=Path(snakemake.input.plan),
        groundtruth=groundtruth,
        images=groundtruth.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        stamp=stamp,
        engine=engine,
    )
