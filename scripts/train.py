"""Rule ``train``: data and plan in, a model folder out."""

from pathlib import Path

from unet_core.config import Train
from unet_core.runtime import job_log
from unet_core.train import adopt_model, train_model

stamp = Path(snakemake.output.stamp)
options = snakemake.params.cfg

with job_log(Path(snakemake.log[0]), snakemake.threads):
    if options["bought"]:
        adopt_model(Path(options["bought"]["path"]), stamp)
    else:
        train_model(
            Train.model_validate(options["train"]),
            plan=Path(snakemake.input.plan),
            weights={Path(path).stem: Path(path) for path in snakemake.input.weights},
            groundtruth={Path(path).stem: Path(path) for path in snakemake.input.groundtruth},
            results=stamp.parent.parent,
            folder=stamp.with_suffix(""),
            stamp=stamp,
        )
