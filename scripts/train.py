"""Rule ``train``: data and plan in, a model folder out."""

from pathlib import Path

import unet_core.starting  # noqa: F401 (first)
from unet_core.gpus import expect_gpus, nodes_of
from unet_core.records import recorded
from unet_core.runtime import job_log
from unet_core.train.processes import launch
from unet_core.train.step import adopt_model, run_alone

options = snakemake.params.cfg
job = {
    "options": options["train"],
    "plan": snakemake.input.plan,
    "weights": list(snakemake.input.weights),
    "groundtruth": list(snakemake.input.groundtruth),
    "stamp": snakemake.output.stamp,
    "log": snakemake.log[0],
}

with job_log(Path(job["log"]), snakemake.threads), recorded(snakemake.params.record):
    nodes, per_node = nodes_of(snakemake.resources), max(1, expect_gpus(snakemake.resources))  # one for each GPU
    job["threads"] = max(1, snakemake.threads // per_node)
    if options["bought"]:
        adopt_model(Path(options["bought"]["path"]), Path(job["stamp"]))
    elif nodes * per_node > 1:
        launch("unet_core.train.step", job, nodes=nodes, per_node=per_node, cores=snakemake.threads)
    else:
        run_alone(job)
