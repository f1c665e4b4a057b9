"""Peak memory of a process, for the benchmarks that measure it."""

from __future__ import annotations

import re
from pathlib import Path


def peak_mb() -> float:
    """Peak memory of this process in MB; not ru_maxrss, which begins with that of the process that started this one."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / 1e6
