"""GPUs that a job asked for: counted from its resources, and told to the processes and worker jobs that it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from unet_core.runtime import UserError

# GPUs that a job asked for on each of its nodes. Scripts set it, and so do worker jobs.
ASKED = "UNET_GPUS"
# At 1 a job that asked for GPUs and has none may compute on the CPU.
ALLOW_CPU = "UNET_ALLOW_CPU"
# Generic resources of SLURM that are parts of GPUs: however many of them are one GPU to a process.
SHARES = ("shard", "mps")


def gpus_of(resources: Mapping[str, Any]) -> int:
    """GPUs of a job on all its nodes, from its resources as Snakemake's executor for SLURM (2.8) understands them.

    Parameters
    ----------
    resources : mapping
        `gpu`: on all nodes together, by default 1 with a `gpu_model`; `gres`: on each node, as "gpu:4", "gpu:a100:4"
        or "shard:2", several with commas; `nodes`. Where both kinds are given, the larger number counts.

    Raises
    ------
    UserError
        If one that counts is no whole number.

    Examples
    --------
    >>> gpus_of({"gpu": 4}), gpus_of({"gres": "gpu:a100:4", "nodes": 2}), gpus_of({"mem_mb": 8000})
    (4, 8, 0)
    """
    by_model = 1 if resources.get("gpu_model") else 0
    total = _number(resources, "gpu", by_model)
    each = sum(map(_gpus_of_gres, str(resources.get("gres") or "").split(",")))
    return max(0, total, each * nodes_of(resources))


def gpus_per_node(resources: Mapping[str, Any]) -> int:
    """GPUs of a job on each of its nodes; where they cannot be shared equally, on that with the most."""
    return math.ceil(gpus_of(resources) / nodes_of(resources))


def expect_gpus(resources: Mapping[str, Any]) -> int:
    """Tell this process, and those that it starts, which GPUs its job asked for; their number on each node."""
    number = gpus_per_node(resources)
    os.environ[ASKED] = str(number)
    return number


def expected_gpus() -> int:
    """GPUs that the job of this process asked for on each node."""
    return int(os.environ.get(ASKED) or 0)


def nodes_of(resources: Mapping[str, Any]) -> int:
    """Nodes of a job.

    Raises
    ------
    UserError
        If it is no whole number.
    """
    return max(1, _number(resources, "nodes", 1))


def _number(resources: Mapping[str, Any], name: str, default: int) -> int:
    value = resources.get(name, default)
    try:
        # Benchmarks are read with floats for whole numbers.
        number = int(value or 0)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and value != number):
        raise UserError(
            f"this job has {value!r} for the resource {name}, which is no whole number; mend it where it is set: in "
            "the profile (set-resources, default-resources), or by --set-resources RULE:gpu=2"
        )
    return number


def _gpus_of_gres(entry: str) -> int:
    """GPUs of one generic resource: gpu, gpu:2, gpu:a100, gpu:a100:2, shard:2."""
    name, *rest = entry.strip().split(":")
    number = int(rest[-1]) if rest and rest[-1].isdecimal() else 1
    if name in SHARES:
        return min(number, 1)
    return number if name == "gpu" else 0
