"""Rule ``instances``: probabilities in, labels and tables of objects out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.instances import Instances
from unet_core.engine import open_job
from unet_core.instances.step import make_instances
from unet_core.records import recorded

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg
predict = Path(snakemake.input.predict)

with (
    open_job("instances", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine,
    recorded(snakemake.params.record),
):
    make_instances(
        Instances.model_validate(options["instances"]),
        predict=predict,
        probabilities=predict.with_suffix(".zarr"),
        groundtruth=Path(snakemake.input.groundtruth),
        store=stamp.with_suffix(".zarr"),
        tables=stamp.with_suffix(""),
        stamp=stamp,
        engine=engine,
        tuned=next(map(Path, snakemake.input.tuned), None),
    )
