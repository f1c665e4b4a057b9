"""What jobs cost, against the benchmarks that Snakemake itself writes, and against files that say nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from snakemake.benchmark import BenchmarkRecord, write_benchmark_records

from unet_core.report.cost import COLUMNS, cost_table, format_hours, job_cost


def write_by_snakemake(path: Path, *, extended: bool = True, sampled: bool = True, **resources: Any) -> None:
    """A benchmark of 2 hours with 5 hours of processor time and 3 GiB."""
    record = BenchmarkRecord(running_time=7200.0, cpu_time=18000.0, max_rss=3072.0, input=[])
    record.data_collected, record.process_gone = sampled, not sampled
    record.resources, record.wildcards, record.params = {"mem_mb": 8000} | resources, {}, {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_benchmark_records([record], str(path), extended)


def test_the_cost_of_a_job_without_and_with_gpus(tmp_path: Path) -> None:
    gres = {"gres": "gpu:a100:4", "nodes": 2}
    for resources, hours in (({}, 0.0), ({"gpu": 0}, 0.0), ({"gpu": 1}, 2.0), ({"gpu": 4}, 8.0), (gres, 16.0)):
        write_by_snakemake(tmp_path / "job.jsonl", **resources)
        assert job_cost(tmp_path / "job.jsonl") == {
            "wall_hours": 2.0,
            "cpu_hours": 5.0,
            "gpu_hours": hours,
            "peak_gb": 3.0,
        }


def test_what_a_benchmark_does_not_say_is_unknown_and_the_rest_is_kept(tmp_path: Path) -> None:
    write_by_snakemake(tmp_path / "short.jsonl", extended=False)
    short = job_cost(tmp_path / "short.jsonl")
    assert math.isnan(short["gpu_hours"]) and (short["wall_hours"], short["cpu_hours"], short["peak_gb"]) == (2, 5, 3)
    write_by_snakemake(tmp_path / "quick.jsonl", sampled=False, gpu=1)
    quick = job_cost(tmp_path / "quick.jsonl")
    assert (
        math.isnan(quick["cpu_hours"])
        and math.isnan(quick["peak_gb"])
        and (quick["wall_hours"], quick["gpu_hours"]) == (2, 2)
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 40,
        b"\xff\xfe",
        b'{"s": 3.1, "cpu_ti',
        b'{"s": 1.0}\n{"s": 2.0}',
        b"[1, 2]",
        b"null",
        b'{"s": "NA", "cpu_time": [1], "max_rss": {}, "resources": {"gpu": "two"}}',
        b'{"s": NaN, "cpu_time": -1, "max_rss": Infinity, "resources": 3}',
        b'{"s": 1' + b"0" * 400 + b', "cpu_time": true}',
    ],
)
def test_a_file_that_is_no_benchmark_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.jsonl").write_bytes(content)
    assert all(math.isnan(value) for value in job_cost(tmp_path / "job.jsonl").values())
    assert cost_table({"train": ["job"]}, tmp_path.parent)["measured"].tolist() == [0, 0]


def test_a_table_sums_hours_and_takes_the_largest_memory(tmp_path: Path) -> None:
    write_by_snakemake(tmp_path / "train" / "a.b.jsonl", gpu=2)
    (tmp_path / "predict" / "m").mkdir(parents=True)
    for name, seconds, memory in (("one", 3600, 512), ("two", 1800, 6144)):
        record = {"s": seconds, "cpu_time": 2 * seconds, "max_rss": memory, "resources": {}}
        (tmp_path / "predict" / "m" / f"{name}.jsonl").write_text(json.dumps(record))
    write_by_snakemake(tmp_path / "predict" / "m" / "of an earlier run.jsonl")
    table = cost_table(
        {"train": ["a.b"], "predict": ["m/one", "m/two", "m/never run"], "evaluate": ["m/never run"]}, tmp_path
    )
    assert list(table.columns) == ["step", "jobs", "measured", *COLUMNS]
    assert table.iloc[[0, 1, 3]].values.tolist() == [
        ["train", 1, 1, 2.0, 5.0, 4.0, 3.0],
        ["predict", 3, 2, 1.5, 3.0, 0.0, 6.0],
        ["total", 5, 3, 3.5, 8.0, 4.0, 6.0],
    ]
    assert table.iloc[2, :3].tolist() == ["evaluate", 1, 0] and table.iloc[2, 3:].isna().all()


def test_hours_are_shown_with_seconds() -> None:
    assert [format_hours(hours) for hours in (0, 0.4 / 3600, 59.6 / 3600, 1, 1234.5, math.nan)] == [
        "0:00:00",
        "0:00:00",
        "0:01:00",
        "1:00:00",
        "1234:30:00",
        "-",
    ]
