"""What the jobs of a run cost, read from the benchmarks that Snakemake leaves beside the results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from unet_core.gpus import gpus_of

HOURS = ["wall_hours", "cpu_hours", "gpu_hours"]
COLUMNS = [*HOURS, "peak_gb"]


def job_cost(path: Path) -> dict[str, float]:
    """What one job cost.

    Parameters
    ----------
    path : Path
        Benchmark of the job (JSON, one record), as Snakemake writes it at the end of a job.

    Returns
    -------
    dict
        `wall_hours`, `cpu_hours`, `gpu_hours` (wall time times the GPUs that the job asked for) and `peak_gb` (largest
        resident memory, GiB). What the file does not say is NaN; a file that is missing or damaged says nothing.

    Notes
    -----
    Only extended benchmarks hold the resources of the job. They are those that it was given, on whatever machine
    it ran.
    """
    try:
        # As floats, whole numbers of any length are harmless.
        record = json.loads(path.read_text(encoding="utf-8"), parse_int=float)
    except (OSError, ValueError):
        record = None
    record = record if isinstance(record, dict) else {}
    wall, gpus = _number(record.get("s")) / 3600, _gpus(record.get("resources"))
    values = (wall, _number(record.get("cpu_time")) / 3600, wall * gpus, _number(record.get("max_rss")) / 1024)
    return dict(zip(COLUMNS, values, strict=True))


def cost_table(jobs: dict[str, list[str]], folder: Path) -> pd.DataFrame:
    """What each step cost, and all together.

    Parameters
    ----------
    jobs : dict
        Step -> names of its jobs: model, data set, or model/data set.
    folder : Path
        Holds the benchmarks, as ``<step>/<job>.jsonl``.

    Returns
    -------
    DataFrame
        A row per step and a last one, `total`: `step`, `jobs`, `measured` (jobs whose cost is known), and the columns
        of `job_cost`. Hours are sums over the jobs that were measured, memory is that of the largest job; NaN where
        nothing is known.
    """
    rows = [
        {"step": step, **job_cost(folder / step / f"{name}.jsonl")} for step, names in jobs.items() for name in names
    ]
    table = pd.DataFrame(rows, columns=["step", *COLUMNS])
    parts = [*table.groupby("step", sort=False), ("total", table)]
    return pd.DataFrame([{"step": step, **_together(part)} for step, part in parts])


def format_hours(hours: float) -> str:
    """Hours as h:mm:ss, which reads well from a demo to a cluster; a dash where they are unknown.

    Examples
    --------
    >>> format_hours(100.51)
    '100:30:36'
    """
    if math.isnan(hours):
        return "-"
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _together(jobs: pd.DataFrame) -> dict[str, float]:
    hours = {name: jobs[name].sum(min_count=1) for name in HOURS}
    return {"jobs": len(jobs), "measured": int(jobs["wall_hours"].count()), **hours, "peak_gb": jobs["peak_gb"].max()}


def _gpus(resources: Any) -> float:
    """GPUs of a job; NaN where its benchmark says nothing of resources, or what cannot be."""
    try:
        return float(gpus_of(resources))
    except (AttributeError, TypeError, ValueError, OverflowError):
        return math.nan


def _number(value: Any) -> float:
    """The value if it can be an amount, else NaN: Snakemake writes NA for what it could not measure."""
    return value if isinstance(value, float) and 0 <= value < math.inf else math.nan
