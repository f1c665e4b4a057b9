"""Rule ``gate``: scores of a model in, permission to apply it to data sets without annotation out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.options import Evaluate
from unet_core.evaluate.gate import check_gate
from unet_core.records import recorded
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)

with job_log(Path(snakemake.log[0])), recorded(snakemake.params.record):
    check_gate(
        Evaluate.model_validate(snakemake.params.evaluate),
        model=Path(snakemake.input.model),
        evaluations={Path(path).stem: Path(path) for path in snakemake.input.evaluate},
        history=stamp.parent,
        stamp=stamp,
    )
