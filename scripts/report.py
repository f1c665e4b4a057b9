"""Rule ``report``: scores and stores in, tables and one HTML page out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.config.options import Report
from unet_core.records import recorded
from unet_core.report.step import make_report
from unet_core.runtime import job_log

options = snakemake.params.cfg
stamps = [Path(path) for path in snakemake.input.stamps]

with job_log(Path(snakemake.log[0]), snakemake.threads), recorded(snakemake.params.record):
    make_report(
        Report.model_validate(options["report"]),
        evaluations={(path.parent.name, path.stem): path for path in stamps if path.parent.parent.name == "evaluate"},
        jobs=options["jobs"],
        config=snakemake.params.config,
        predictions=[(path.parent.name, path.stem) for path in stamps if path.parent.parent.name == "instances"],
        results=Path(snakemake.output.page).parent.parent,
        folder=Path(snakemake.output.page).parent,
    )
