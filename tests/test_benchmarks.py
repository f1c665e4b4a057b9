from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_without_a_name_each_benchmark_is_listed_with_what_it_measures() -> None:
    lines = dict(line.split(maxsplit=1) for line in run().stdout.splitlines())
    assert set(lines) == {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    assert lines["rerun"].startswith("What a run costs that has nothing to do")


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    done = run("nothing")
    assert done.returncode != 0 and "rerun" in done.stderr and not done.stdout
