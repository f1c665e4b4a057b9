"""Rule ``instances``: probabilities in, labels and tables of objects out."""

from pathlib import Path

from unet_core.config import Dataset, Instances
from unet_core.engine import open_engine
from unet_core.instances import make_instances
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
workers = snakemake.threads if snakemake.params.workers == "auto" else snakemake.params.workers
predict = Path(snakemake.input.predict)

with job_log(Path(snakemake.log[0]), snakemake.threads), open_engine(workers) as engine:
    make_instances(
        Instances.model_validate(options["instances"]),
        Dataset.model_validate(options["dataset"]),
        predict=predict,
        probabilities=predict.with_suffix(".zarr"),
        store=stamp.with_suffix(".zarr"),
        tables=stamp.with_suffix(""),
        stamp=stamp,
        engine=engine,
    )
