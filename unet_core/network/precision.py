"""In which arithmetic a network is computed, where the options say ``precision: auto``: in the fastest by measurement.

On most GPUs, and on CPUs with AVX512-BF16 or AMX, bfloat16 takes less time than float32; on other CPUs up to twenty
times as much. Names tell this apart badly, and a measurement takes less than a second.
"""

from __future__ import annotations

import functools
import logging
import math
import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from unet_core.network.device import device_name
from unet_core.network.model import LOW_PRECISION, arithmetic, channels_last

logger = logging.getLogger(__name__)

Work = Literal["train", "predict"]
PRECISIONS = ("float32", *LOW_PRECISION)
SET = "set in the configuration"
# float32 is replaced by what takes less than 1 / so much of its time; what takes so much longer is warned of.
CLEARLY = 1.1
# Repeats of each measurement, and seconds after which there are no more.
REPEATS, SECONDS = 3, 0.3
# Tiles, channels and side of what is measured, by the dimensions: on a CPU so few that bfloat16 may take twenty times
# as long, on others so many that the device is busy.
CPU_WORK, OTHER_WORK = {2: (1, 32, 48), 3: (1, 32, 14)}, {2: (2, 64, 512), 3: (2, 32, 64)}


class Choice(NamedTuple):
    """Arithmetic of a network for some work, and why.

    Attributes
    ----------
    asked : {"auto", "float32", "bfloat16", "float16"}
        The option.
    chosen : {"float32", "bfloat16", "float16"}
        What is computed in.
    device : str
        Name of the GPU or of the processor.
    why : str
        The reason.
    ratio : float or None
        Time in low precision as a share of that in float32, where it was measured; infinite: the device refuses it.
    """

    asked: str
    chosen: str
    device: str
    why: str
    ratio: float | None = None

    def described(self) -> dict[str, Any]:
        """What is kept of it, as builtins."""
        return {"asked": self.asked, "chosen": self.chosen, "device": self.device, "why": self.why}

    def tell(self, work: Work) -> None:
        """Log it; warn of what was asked for and takes longer than float32 here."""
        if self.asked == "auto":
            logger.info("%s: %s, since %s", work, self.chosen, self.why)
        elif self.ratio is None or self.ratio <= CLEARLY:
            logger.info("%s: %s, as it is %s", work, self.chosen, self.why)
        else:
            told = compared(self.asked, self.ratio, self.device)
            logger.warning("%s: %s; set %s.precision to auto, which takes what is faster", work, told, work)


def choose(asked: str, work: Work, dimensions: int, where: torch.device) -> Choice:
    """Arithmetic for the convolutions of a network.

    Parameters
    ----------
    asked : {"auto", "float32", "bfloat16", "float16"}
        The option, which is obeyed unless it is auto.
    work : {"train", "predict"}
        What is computed: forward and backward, or forward.
    dimensions : {2, 3}
        Of the network.
    where : torch.device
        What computes.
    """
    here = hardware_name(where)
    if asked == "float32":
        return Choice(asked, asked, here, SET)
    low = asked if asked != "auto" else low_precision(where)
    ratio = time_ratio(low, work, dimensions, where)
    if asked != "auto":
        return Choice(asked, asked, here, SET, ratio)
    chosen = low if ratio * CLEARLY <= 1 else "float32"
    return Choice(asked, chosen, here, compared(low, ratio, here), ratio)


def compared(low: str, ratio: float, here: str) -> str:
    """How long a low precision takes, in words.

    Examples
    --------
    >>> compared("bfloat16", 17.58, "AMD EPYC")
    'bfloat16 takes 17.6 times as long as float32 on this device (AMD EPYC)'
    """
    if math.isinf(ratio):
        return f"{low} cannot be computed on this device ({here})"
    return f"{low} takes {ratio:.3g} times as long as float32 on this device ({here})"


def low_precision(where: torch.device) -> str:
    """What may take the place of float32: bfloat16, or float16 on GPUs that only emulate that (before Ampere)."""
    emulated = where.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "float16" if emulated else "bfloat16"


def hardware_name(where: torch.device) -> str:
    """Name of a GPU, or of the processor."""
    return device_name() if where.type != "cpu" else _processor_name()


@functools.cache
def _processor_name() -> str:
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8", errors="replace") if known.is_file() else ""
    found = re.search(r"^model name\s*:\s*(\S.*)$", text, re.M)
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine() or "CPU"


@functools.cache
def time_ratio(low: str, work: Work, dimensions: int, where: torch.device) -> float:
    """Time of convolutions in a low precision as a share of that in float32; infinite where the device refuses it.

    It is measured once in a process: both in turn, after a pass of each in which memory is taken and kernels are
    chosen, and the least time of each counts. Of a CPU it is the processor time of one thread, which hardly depends on
    what else is at work there.
    """
    if where.type != "cpu":
        return _ratio(low, work, dimensions, where, time.perf_counter)
    with ThreadPoolExecutor(1, "precision") as pool:
        return pool.submit(_ratio_in_one_thread, low, work, dimensions, where).result()


def _ratio_in_one_thread(low: str, work: Work, dimensions: int, where: torch.device) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _ratio(low, work, dimensions, where, time.thread_time)
    finally:
        torch.set_num_threads(threads)  # threads that begin later take over what was set last


def _ratio(low: str, work: Work, dimensions: int, where: torch.device, clock: Callable[[], float]) -> float:
    least = {"float32": math.inf, low: math.inf}
    try:
        timed = {precision: convolutions(precision, work, dimensions, where) for precision in least}
        for run in timed.values():
            run()
        end = time.perf_counter() + SECONDS
        for _ in range(REPEATS):
            for precision, run in timed.items():
                start = clock()
                run()
                least[precision] = min(least[precision], clock() - start)
            if time.perf_counter() > end:
                break
    except (RuntimeError, TypeError):  # not every device has every type
        return math.inf
    return least[low] / max(least["float32"], 1e-9)


def convolutions(precision: str, work: Work, dimensions: int, where: torch.device) -> Callable[[], None]:
    """Two convolutions of three pixels a side, as the steps compute them: a call returns when the device is done."""
    count, width, side = (CPU_WORK if where.type == "cpu" else OTHER_WORK)[dimensions]
    kind = torch.nn.Conv2d if dimensions == 2 else torch.nn.Conv3d
    net = torch.nn.Sequential(kind(width, width, 3), torch.nn.ReLU(), kind(width, width, 3)).to(where)
    tiles = channels_last(torch.zeros(count, width, *[side] * dimensions, device=where))
    if work == "predict":
        # There the weights themselves are of that type (`network_function`).
        kept = LOW_PRECISION.get(precision, torch.float32)
        net, tiles = net.to(kept), tiles.to(kept)

    def forward() -> None:
        with torch.inference_mode():
            float(net(tiles).sum())

    def forward_and_backward() -> None:
        with torch.enable_grad(), arithmetic(where, precision):
            scores = net(tiles)
        scores.float().sum().backward()
        float(torch.stack([parameter.grad.sum() for parameter in net.parameters() if parameter.grad is not None]).sum())

    return forward if work == "predict" else forward_and_backward
