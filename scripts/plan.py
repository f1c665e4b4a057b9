"""Rule ``plan``: statistics of the data of a model in, decisions out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.options import Plan, Predict, Train
from unet_core.plan.step import make_plan
from unet_core.records import recorded
from unet_core.runtime import job_log

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg

with job_log(Path(snakemake.log[0]), snakemake.threads), recorded(snakemake.params.record):
    make_plan(
        Plan.model_validate(options["plan"]),
        Train.model_validate(options["train"]),
        Predict.model_validate(options["predict"]),
        groundtruth={Path(path).stem: Path(path) for path in snakemake.input.groundtruth},
        weights={Path(path).stem: Path(path) for path in snakemake.input.weights},
        bought=Path(options["bought"]["path"]) if options["bought"] else None,
        fold=options["fold"],
        results=stamp.parent.parent,
        stamp=stamp,
    )
