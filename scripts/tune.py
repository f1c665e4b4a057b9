"""Rule ``tune``: probabilities of samples that were not learnt from in, options of the step instances out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.instances import Instances
from unet_core.engine import open_job
from unet_core.instances.tuning import tune_instances
from unet_core.records import recorded

with (
    open_job("tune", snakemake.log[0], snakemake.threads, snakemake.params.dask) as engine,
    recorded(snakemake.params.record),
):
    tune_instances(
        Instances.model_validate(snakemake.params.cfg["instances"]),
        predict={Path(path).stem: Path(path) for path in snakemake.input.predict},
        groundtruth={Path(path).stem: Path(path) for path in snakemake.input.groundtruth},
        stamp=Path(snakemake.output.stamp),
        engine=engine,
    )
