"""Snakemake that looks at the jobs of a cluster every three seconds: ``python tests/slurm/impatient.py ARGUMENTS``.

The executor for SLURM waits ten seconds longer after each look at which no job had ended, up to three minutes, which
suits jobs of hours. Tests would do nothing but wait.
"""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _sleep(_: RemoteExecutor) -> None:
    await asyncio.sleep(3)


if __name__ == "__main__":
    RemoteExecutor.sleep = _sleep
    sys.exit(main())
