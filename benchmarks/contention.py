"""How much a training step loses to other processes on the same cores, by how threads wait for each other.

OpenMP's threads may wait in a loop (active) or sleep (passive); the Snakefile sets passive.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

POLICIES = ("default", "active", "passive")
STEPS = 40


def measure() -> dict[str, float]:
    """Milliseconds of a small training step with two threads.

    Returns
    -------
    dict
        For each policy ``<policy>_alone_ms``, ``<policy>_beside_ms`` (median of three processes at once), and
        ``x_passive_beside``: how many times faster passive is than the default, beside others; ``frac_passive_alone``:
        time of passive over that of the default, alone.
    """
    found: dict[str, float] = {}
    print(f"{'policy':<10} {'alone':>8} {'one of three':>13}   ms a step")
    for policy in POLICIES:
        alone, beside = statistics.median(_at_once(policy, 1)), statistics.median(_at_once(policy, 3))
        found |= {f"{policy}_alone_ms": alone, f"{policy}_beside_ms": beside}
        print(f"{policy:<10} {alone:>8.1f} {beside:>13.1f}")
    found["x_passive_beside"] = found["default_beside_ms"] / found["passive_beside_ms"]
    found["frac_passive_alone"] = found["passive_alone_ms"] / found["default_alone_ms"]
    return found


def _at_once(policy: str, processes: int) -> list[float]:
    """Milliseconds of a step in each of several processes that run at once."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-m", "benchmarks.contention"]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(processes)]
    return [float(process.communicate()[0]) for process in started]


def _train() -> None:
    """Print the milliseconds of a step of a network of six convolutions."""
    import torch  # after the policy was set

    torch.set_num_threads(2)
    layers = [torch.nn.Conv2d(8 if number else 1, 8, 3) for number in range(6)]
    network, tile = torch.nn.Sequential(*layers), torch.rand(2, 1, 120, 120)
    network(tile).sum().backward()
    start = time.perf_counter()
    for _ in range(STEPS):
        network(tile).sum().backward()
    print((time.perf_counter() - start) / STEPS * 1000)


if __name__ == "__main__":
    _train()
