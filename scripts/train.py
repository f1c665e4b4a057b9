"""Rule ``train``: data and plan in, a model folder out."""

from pathlib import Path

from unet_core.records import recorded
from unet_core.runtime import job_log
from unet_core.train.processes import join_processes, launch
from unet_core.train.step import adopt_model, run_job

options = snakemake.params.cfg
nodes = snakemake.resources.get("nodes", 1)
per_node = max(1, snakemake.resources.get("gpu", 0) // nodes)  # a process for each GPU that the job asked for
job = {
    "options": options["train"],
    "plan": snakemake.input.plan,
    "weights": list(snakemake.input.weights),
    "groundtruth": list(snakemake.input.groundtruth),
    "stamp": snakemake.output.stamp,
    "log": snakemake.log[0],
    "threads": max(1, snakemake.threads // per_node),
}

with job_log(Path(job["log"]), job["threads"]), recorded(snakemake.params.record):
    if options["bought"]:
        adopt_model(Path(options["bought"]["path"]), Path(job["stamp"]))
    elif nodes * per_node > 1:
        launch("unet_core.train.step", job, nodes=nodes, per_node=per_node)
    else:
        with join_processes() as processes:
            run_job(job, processes)
