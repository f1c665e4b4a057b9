"""Where the network computes: the accelerator of a process, else the CPU, unless the job asked for a GPU."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import torch

from unet_core.gpus import ALLOW_CPU, ASKED, expect_gpus, expected_gpus
from unet_core.runtime import UserError

# By these a process is shown some devices of its node and not the others; SLURM sets them.
SHOWN = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
# The one of them that counts the devices that torch may see, by the kind of device.
INDICES = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "hip": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",),
}
# What SLURM shows to a job that has no GPU, in its older versions.
NONE_SHOWN = ("", "-1", "NoDevFiles")


def device() -> torch.device:
    """The accelerator of this process if there is one that torch knows (CUDA, ROCm, XPU, MPS), else the CPU.

    Raises
    ------
    UserError
        If there is none, and the job asked for GPUs.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        require_gpus()
        return torch.device("cpu")
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))


def device_name() -> str:
    """Kind of the device: cpu, or what the GPU is called; its type where torch knows no name (mps)."""
    where = device()
    name_of = getattr(getattr(torch, where.type, None), "get_device_name", None)
    return str(name_of(where)) if name_of else where.type


def environments_of_gpus(resources: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What shows each GPU of a job to a process of its own; empty where one process will do.

    Parameters
    ----------
    resources : mapping
        Of the job, as in `gpus_of`; `require_gpus` knows of them, too, from then on.

    Returns
    -------
    dict
        Name of the device, as ``cuda:1``, -> what the environment of its process has more than that of this one.

    Raises
    ------
    UserError
        If there are fewer GPUs than the job asked for, or if it is not clear how many these are.
    """
    number = expect_gpus(resources)
    if number < 2:
        return {}
    require_gpus()
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return {}  # it may compute on the CPU
    names = INDICES["hip" if torch.version.hip else found.type]
    name = next((name for name in names if name in os.environ), names[0])
    shown = os.environ[name].split(",") if name in os.environ else list(map(str, range(number)))
    # Each process sees one, the first, and none can do without it.
    own = {ASKED: "1", "LOCAL_RANK": "0"}
    return {f"{found.type}:{n}": {name: one.strip(), **own} for n, one in enumerate(shown[:number])}


def require_gpus() -> None:
    """Refuse to go on where torch sees fewer GPUs on this node than the job asked for (`expect_gpus`).

    Raises
    ------
    UserError
        Which says why, as far as torch knows it.
    """
    asked, seen = expected_gpus(), torch.accelerator.device_count()
    allowed = os.environ.get(ALLOW_CPU) == "1" and not seen
    if seen >= asked or allowed:
        return
    whose = f"the job asked for {asked} GPU{'s' if asked > 1 else ''} on each node, but on {socket.gethostname()}"
    if seen:
        raise UserError(f"{whose} torch sees {seen} ({_shown()}); ask for as many as the node gives (gpu, gres)")
    raise UserError(
        f"{whose} torch sees none: {_why_none()}. To compute on the CPU, ask for no GPU (the resource gpu: 0, and no "
        f"gres; for worker jobs dask.slurm.gpus: 0), or set {ALLOW_CPU}=1 in the environment"
    )


def _why_none() -> str:
    """Why torch sees no GPU, and what to do about it."""
    names = {"cuda": "CUDA", "hip": "ROCm", "xpu": "XPU"}
    builds = [f"{called} {number}" for name, called in names.items() if (number := getattr(torch.version, name, None))]
    if not builds:
        return (
            f"torch {torch.__version__} is a build for CPUs alone; install one for the GPU "
            "(https://pytorch.org/get-started/locally)"
        )
    if any(os.environ.get(name) in NONE_SHOWN for name in SHOWN):
        return f"it is shown none ({_shown()}); see whether SLURM gave the job its GPUs (scontrol show job)"
    return f"torch {torch.__version__} ({builds[0]}) says: {_words_of_torch()} ({_shown()}); does nvidia-smi run there?"


def _shown() -> str:
    """The variables by which devices are shown to this process."""
    found = [f"{name}={value!r}" for name in SHOWN if (value := os.environ.get(name)) is not None]
    return ", ".join(found) or f"{SHOWN[0]} is not set"


def _words_of_torch() -> str:
    """What torch says where it is made to look for a GPU, as on a node without a driver."""
    try:
        (torch.xpu if getattr(torch.version, "xpu", None) else torch.cuda).init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].rstrip(". ")
    return "no GPU is available"
