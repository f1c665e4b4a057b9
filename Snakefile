"""U-Net pipeline for microscopy: the table of contents, in the order in which data flows.

A configuration given with --configfile replaces config.yaml; --config changes single keys.
"""

import os
import signal
from pathlib import Path

# One pool of memory for all threads, also in the jobs. With a pool for each thread, the C library gives the memory of a
# tile back to the system, and gets it again, zeroed, for the next tile.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
# Threads of a network that wait for one another sleep: where other processes want the cores too, waiting in a loop
# takes them from those that are waited for, and a training step takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# SLURM's warning before the time limit is for training; it would kill the Snakemake around it.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


# The front page of `snakemake --report`.
report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/groundtruth.smk"
include: "rules/weights.smk"
include: "rules/plan.smk"
include: "rules/train.smk"
include: "rules/predict.smk"
include: "rules/instances.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


onstart:
    hold_results()
    if workflow.executor_plugin.name == "slurm":
        from unet_core.slurm import outlast_controller, watch_preempted

        outlast_controller()
        watch_preempted(Path.cwd())


rule all:
    default_target: True
    input:
        stamps_of_report,
        "<results>/report/report.html",
    localrule: True
