"""Rule ``ensemble``: stamps of several networks in, that of the model which is their mean out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.network.ensemble import write_ensemble
from unet_core.records import recorded
from unet_core.runtime import job_log

with job_log(Path(snakemake.log[0])), recorded(snakemake.params.record):
    write_ensemble([Path(path) for path in snakemake.input.networks], Path(snakemake.output.stamp))
