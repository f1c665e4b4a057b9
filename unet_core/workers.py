"""Worker jobs in SLURM for the engine: encrypted, as many as the work needs, replaced where they are lost."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

from unet_core.config.cluster import Slurm
from unet_core.gpus import ASKED, gpus_of
from unet_core.runtime import ROOT, UserError
from unet_core.slurm import wait_for_controller

logger = logging.getLogger(__name__)

# Dask starts HTTP servers even where it is told not to, by default on port 8787 of all networks.
ANY_LOCAL_PORT = "127.0.0.1:0"
DASK_SETTINGS = {
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.worker.memory.terminate": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
# A worker job ends by itself when it has lost its step for so many seconds, however the step ended.
DEATH_TIMEOUT = 30
ALLOWED_FAILURES = 5
# Seconds between looks at the worker jobs, and before one that ended without reaching the step is replaced.
# (Dask replaces by itself those that it has known, 15 s after it lost them.)
POLL_SECONDS = 10
LOST_AFTER_SECONDS = 20
# Times that one is replaced: it may be a node that is not well, or all of them.
MAX_REPLACEMENTS = 2


@contextmanager
def silent(*names: str) -> Iterator[None]:
    """Keep loggers quiet. What Dask offers for this acts on handlers, which may be those of the job's log."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def worker_jobs(cfg: Slurm, step: str, logs: Path) -> Iterator[tuple[Client, Callable[[], None]]]:
    """Worker jobs in SLURM: encrypted, as many as the work needs, replaced before their time is over.

    They end with the context (scancel), and by themselves when they have lost its process for half a minute.

    Parameters
    ----------
    cfg : Slurm
        Options.
    step : str
        Named in the jobs' names and in messages.
    logs : Path
        Folder for their logs.

    Yields
    ------
    client : distributed.Client
        Connected to their scheduler.
    check : callable
        To be called every `POLL_SECONDS` seconds; replaces lost jobs, and raises `UserError` where all are lost.

    Raises
    ------
    UserError
        If this node has not the commands of SLURM, or SLURM refuses such jobs.
    """
    _require_commands(step)
    logs.mkdir(parents=True, exist_ok=True)
    settings = {
        **DASK_SETTINGS,
        # Until it is known how long a block takes, many of them are reason enough for many workers.
        "distributed.scheduler.unknown-task-duration": "60s",
        "distributed.adaptive.target-duration": "30s",
        # A worker may go for reasons that are not the block's: time limit, preemption, a lost node.
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES - 1,
    }
    # For the certificates: readable by this user alone, on the file system that the nodes share, gone with the context.
    with (
        tempfile.TemporaryDirectory(prefix="tls.", dir=logs) as private,
        dask.config.set(settings),
        silent("distributed", "distributed.client"),
        _cluster(cfg, step, logs, private) as cluster,
    ):
        _refuse_early(cluster.job_script(), step)
        cluster.adapt(minimum_jobs=cfg.minimum, maximum_jobs=cfg.maximum, interval="2s", wait_count=5)
        with Client(cluster) as client:
            jobs = f"{cfg.minimum} to {cfg.maximum} worker jobs"
            logger.info("%s: %s in SLURM (unet-%s), logs in %s", step, jobs, step, logs)
            yield client, _WorkerJobMonitor(client, cluster, logs, step)


def _cluster(cfg: Slurm, step: str, logs: Path, private: str) -> Any:
    """Dask's description of the worker jobs; none is started yet."""
    from dask_jobqueue import SLURMCluster  # takes a second, and only this place needs it

    return SLURMCluster(
        queue=cfg.partition,
        account=cfg.account,
        cores=cfg.cores,
        processes=1,
        memory=f"{cfg.memory_gb}GiB",
        walltime=f"{cfg.minutes // 60:02d}:{cfg.minutes % 60:02d}:00",
        job_name=f"unet-{step}",
        job_extra_directives=[*cfg.options, *([f"--gpus={cfg.gpus}"] if cfg.gpus else [])],
        job_script_prologue=_environment(cfg),
        # No nanny: where a worker dies its job ends, and another one takes its place.
        nanny=False,
        worker_extra_args=[
            "--lifetime",
            f"{_lifetime(cfg.minutes):.2f}m",
            "--lifetime-stagger",
            f"{0.1 * cfg.minutes:.1f}m",
            "--no-dashboard",
            "--dashboard-address",
            ANY_LOCAL_PORT,
        ],
        death_timeout=DEATH_TIMEOUT,
        local_directory=private,
        interface=cfg.interface,
        protocol="tls://",
        security=_security(Path(private)),
        log_directory=str(logs),
        scheduler_options={"dashboard": False, "dashboard_address": ANY_LOCAL_PORT},
        silence_logs=False,
    )


def _lifetime(minutes: float) -> float:
    """Minutes after which a worker lets another one take its place.

    Its clock begins when Python has started, which is up to a quarter of a minute after that of SLURM, and what it
    works on must end before SLURM's limit.
    """
    return max(0.5 * minutes, 0.8 * minutes - 0.25)


def _security(folder: Path) -> Security:
    """New certificates, for this run alone, as files that worker jobs read."""
    made = Security.temporary()
    files = {"ca": made.tls_ca_file, "cert": made.tls_worker_cert, "key": made.tls_worker_key}
    for name, text in files.items():
        (folder / f"{name}.pem").write_text(text)
    ca, cert, key = (str(folder / f"{name}.pem") for name in files)
    roles = {
        f"tls_{role}_{part}": path
        for role in ("scheduler", "worker", "client")
        for part, path in (("cert", cert), ("key", key))
    }
    return Security(tls_ca_file=ca, require_encryption=True, **roles)


def _gpus(cfg: Slurm) -> int:
    """GPUs of a worker job, those that its options of sbatch ask for too."""
    asked = [option.partition("=")[2] for option in cfg.options if option.startswith("--gres=")]
    return gpus_of({"gpu": cfg.gpus, "gres": ",".join(asked)})


def _environment(cfg: Slurm) -> list[str]:
    """Lines at the start of a worker job's script.

    They set the path of our code, its threads, the GPUs that it asked for, no HTTP servers, and memory from one pool
    (the Snakefile says why).
    """
    values = {
        f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": repr(value) for key, value in DASK_SETTINGS.items()
    }
    values |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(cfg.cores),
        ASKED: str(_gpus(cfg)),
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "1"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def _require_commands(step: str) -> None:
    """Refuse to begin where jobs of SLURM can neither be submitted nor looked at nor ended."""
    if missing := [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]:
        raise UserError(
            f"{step}: worker jobs in SLURM are asked for (dask.cluster: slurm), but {', '.join(missing)} cannot be "
            f"found on {socket.gethostname()}: put SLURM's commands on the PATH there (module load slurm, or ask the "
            "administrators of the cluster), or set dask.cluster: local"
        )


def _refuse_early(script: str, step: str) -> None:
    """Ask SLURM whether it would take a worker job: Dask would try again for ever.

    Raises
    ------
    UserError
        With SLURM's own words.
    """
    wait_for_controller()
    answer = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    if answer.returncode:
        said = "; ".join(answer.stderr.split("\n")).strip("; ")
        raise UserError(
            f"{step}: SLURM refuses worker jobs ({said}); change dask.slurm or dask.steps.{step} in the configuration"
        )


class _WorkerJobMonitor:
    """Replaces worker jobs that ended without reaching this job, and gives up after some.

    Dask would wait for such jobs for ever.
    """

    def __init__(self, client: Client, cluster: Any, logs: Path, step: str) -> None:
        self._client = client
        self._cluster = cluster
        self._logs = logs
        self._step = step
        # By the names that Dask gives: number of the job and when it was first seen to have ended; how often it was
        # replaced.
        self._ended: dict[str, tuple[str, float]] = {}
        self._replaced: Counter[str] = Counter()

    def __call__(self) -> None:
        # No reference to a job of Dask's is kept: it would wait for that one when it closes.
        jobs = {name: str(job.job_id) for name, job in list(self._cluster.workers.items())}
        queued = _queued_jobs()
        if queued is None:
            return  # SLURM does not answer just now
        reached = {worker["name"] for worker in self._client.scheduler_info()["workers"].values()}
        for name in reached:
            del self._replaced[name]
        now, before, self._ended = time.monotonic(), self._ended, {}
        for name, job in jobs.items():
            if name not in reached and job not in queued:
                self._ended[name] = before[name] if name in before and before[name][0] == job else (job, now)
        lost = {name for name, (_, since) in self._ended.items() if now - since > LOST_AFTER_SECONDS}
        hopeless = {name for name in lost if self._replaced[name] == MAX_REPLACEMENTS}
        if jobs and hopeless == set(jobs):
            raise UserError(
                f"{self._step}: worker jobs ended without reaching this job; their logs in {self._logs} say why"
            )
        for name in lost - hopeless:
            self._replaced[name] += 1
            logger.warning(
                "%s: a worker job ended without reaching this job; it is replaced, its log is in %s",
                self._step,
                self._logs,
            )
            self._cluster.loop.add_callback(self._forget, name, jobs[name])

    def _forget(self, name: str, job: str) -> None:
        """Make Dask, in its own thread, submit another job of this name, unless it has done so meanwhile."""
        if name in self._cluster.workers and str(self._cluster.workers[name].job_id) == job:
            del self._cluster.workers[name]


def _queued_jobs() -> set[str] | None:
    """Numbers of this user's jobs that wait or run; None if SLURM does not say."""
    # Variables such as SQUEUE_PARTITION would leave some out.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    command = ["squeue", "--me", "--noheader", "--format=%i"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=POLL_SECONDS, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    return set(listed.stdout.split())
