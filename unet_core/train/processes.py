"""Training in several processes, one per GPU, and in time before a job ends: who am I, sums over all, signals."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from unet_core.network.device import device, require_gpus
from unet_core.runtime import (
    END_SIGNALS,
    Stopped,
    UserError,
    available_cores,
    code_path,
    end_at_once_if_urged,
    handle_signals,
)

logger = logging.getLogger(__name__)

# How processes exchange tensors, by the type of their device.
BACKENDS = {"cuda": "nccl", "xpu": "xccl"}
# SLURM's warning before the time limit (by --signal=USR1@60); preemption, scancel and Ctrl-C.
STOP_SIGNALS = (signal.SIGUSR1, *END_SIGNALS)
# Options of torchrun: it would die of SLURM's warning, and the processes with the job, unsaved. So it hands such
# signals on, and gives the processes so many seconds to save.
TORCHRUN = {
    "PET_SIGNALS_TO_HANDLE": ",".join(signal.Signals(number).name for number in (*STOP_SIGNALS, signal.SIGHUP)),
    "PET_SHUTDOWN_TIMEOUT": "120",
}


@dataclass(frozen=True)
class Processes:
    """Those that train together, and which of them runs here; by default one alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes, the same in each."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the tensors of the first: statistics of a normalisation differ after each step."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def of_first(self, number: int) -> int:
        """A number as the first process has it, the same in each."""
        return int(self.sum(torch.tensor(0 if self.rank else number)).item())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = Processes()


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that `launch` started, if any, with the GPU of this one."""
    where = device()
    if where.type != "cpu":
        torch.accelerator.set_device_index(where)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes(device=where)
        return
    dist.init_process_group(BACKENDS.get(where.type, "gloo"))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), where)
    finally:
        dist.destroy_process_group()


class StopRequest:
    """Whether a signal has told this process to stop; use `watch_signals`."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._came: list[int] = []

    def _remember(self, number: int, _frame: object) -> None:
        self._came.append(number)
        end_at_once_if_urged(self._came)
        if self.by is None:
            self.by = signal.Signals(number)
            logger.info("train: %s: stops after this step, when all is saved", self.by.name)

    def anywhere(self, processes: Processes) -> bool:
        """Whether any of the processes was told, the same answer in each."""
        return bool(processes.sum(torch.tensor(self.by is not None, dtype=torch.int32)).item())


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Remember signals that announce the end of the job, instead of dying of them."""
    warned = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield warned  # only the main thread may handle signals
        return
    before = handle_signals(STOP_SIGNALS, warned._remember)
    try:
        yield warned
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(module: str, job: dict[str, Any], *, nodes: int, per_node: int, cores: int) -> None:
    """Run a Python module by torchrun: `per_node` processes here, or on each node of this SLURM job by srun.

    Parameters
    ----------
    module : str
        Run as a program.
    job : dict
        Its argument, given as JSON.
    nodes, per_node, cores : int
        Nodes of the job, processes on each, and the cores that these share.

    Raises
    ------
    UserError
        If a process fails; it has written what happened. If a signal ended the training. If GPUs are missing.
    """
    require_gpus()
    before, meeting = _on_nodes(nodes, cores) if nodes > 1 else ([], ["--standalone"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(per_node), *meeting]
    command = [*before, *torchrun, "-m", module, json.dumps(job)]
    with watch_signals() as warned:  # torchrun and the processes get them too, and stop in their own time
        code = subprocess.call(command, env=os.environ | TORCHRUN | {"PYTHONPATH": code_path()})
    if code and warned.by:
        raise Stopped(f"stopped by {warned.by.name}; run again to go on from what the processes saved", warned.by)
    if code:
        raise UserError(
            f"training in {nodes * per_node} processes ended with code {code}; see above what the first of them said"
        )


def _on_nodes(nodes: int, cores: int) -> tuple[list[str], list[str]]:
    """What starts torchrun on each node of this SLURM job, and how those that it starts there find each other."""
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(f"training on {nodes} nodes needs a SLURM job; set nodes to 1, or use the profile slurm")
    here = socket.gethostname()
    if shutil.which("srun") is None:
        raise UserError(
            f"training on {nodes} nodes needs srun, which cannot be found on {here}: put SLURM's commands on the PATH "
            "there, or set nodes to 1"
        )
    # To a task that does not ask for cores srun gives one, whatever the job has.
    cores = min(cores, available_cores())
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cores}"]
    with socket.socket() as free:
        free.bind(("", 0))
        place = f"{here}:{free.getsockname()[1]}"
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", os.environ["SLURM_JOB_ID"], "--rdzv-endpoint", place]
    return [*srun, "--kill-on-bad-exit=1"], ["--nnodes", str(nodes), *meeting]
