"""Normalisation of gray values: which of them become 0 and 1."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from unet_core.config.options import Plan

# Of the images to learn from, so large a part may be exceptions, if their extent is below this part of the middle one.
RARE_PART, LEAST_PART = 0.05, 0.25
# How much more than these an image may be stretched: an exposure half as long shows the same objects.
FAINTER = 0.5


def normalisation(intensities: list[dict[str, Any]], cfg: Plan, least: Sequence[float] = ()) -> dict[str, list[float]]:
    """Offset and scale of each channel of a sample: normalised = (gray value - offset) * scale.

    Parameters
    ----------
    intensities : list of dict
        Statistics of each channel, as the step groundtruth keeps them.
    cfg : Plan
        Rule and percentiles.
    least : sequence of float, optional
        Least extent of gray values of each channel, from `least_extents`: less is not stretched to the full range, so
        that noise alone stays faint.

    Returns
    -------
    dict
        Lists `offset` and `scale`; a constant channel becomes 0.
    """
    offsets, scales = [], []
    for number, channel in enumerate(intensities):
        low, extent = _range(channel, cfg)
        offsets.append(low)
        scales.append(1 / max([extent, *least[number : number + 1]]) if extent > 0 else 0.0)
    return {"offset": offsets, "scale": scales}


def least_extents(
    learnt: Sequence[Sequence[list[dict[str, Any]]]], cfg: Plan, channels: int
) -> tuple[list[float], str]:
    """Least extent of gray values of each channel, and the reason for it.

    An image that shows nothing is noise. Stretched to the range of the others, it would look like nothing that a
    network has learnt from. So no image is stretched more than twice as much as the faintest one to learn from that
    shows objects. One in twenty may be an exception, and does not count where its extent is below a quarter of the
    middle one. Data sets may have gray values of other ranges: that of the least extent counts.

    Parameters
    ----------
    learnt : sequence of sequence of list of dict
        Of each data set that is trained on, the statistics of each channel of the samples with objects.
    cfg : Plan
        Rule and percentiles.
    channels : int
        How many there are.
    """
    known = [samples for samples in learnt if samples]
    if not known:
        return [0.0] * channels, "no sample to learn from shows objects"
    least = [
        FAINTER * min(_least([_range(sample[channel], cfg)[1] for sample in samples]) for samples in known)
        for channel in range(channels)
    ]
    return least, f"half of the smallest of {sum(map(len, known))} samples with objects, but for rare exceptions"


def _least(extents: list[float]) -> float:
    """The smallest of some extents that is no exception."""
    # A constant image shows nothing, whatever was drawn in it.
    ordered = sorted(extent for extent in extents if extent > 0) or [0.0]
    usual = ordered[int(RARE_PART * len(ordered))]
    return min(usual, max(ordered[0], LEAST_PART * statistics.median(ordered)))


def faint(intensities: list[dict[str, Any]], cfg: Plan, least: Sequence[float]) -> bool:
    """Whether all channels of a sample have less than the least extent."""
    return all(_range(channel, cfg)[1] < extent for channel, extent in zip(intensities, least, strict=True))


def _range(channel: dict[str, Any], cfg: Plan) -> tuple[float, float]:
    """Gray value that becomes 0, and the extent of those that are stretched to 1."""
    if cfg.normalisation == "mean_std":
        return channel["mean"], channel["deviation"]
    low, high = (_percentile(channel["percentiles"], level) for level in cfg.percentiles)
    # Sparse bright objects on a constant background: fall back on the whole range.
    return low, (high - low) or channel["percentiles"]["100"] - low


def _percentile(percentiles: dict[str, float], level: float) -> float:
    """Percentile at any level, linear between those that were kept."""
    levels = sorted((float(key), value) for key, value in percentiles.items())
    for (a, low), (b, high) in zip(levels, levels[1:], strict=False):
        if a <= level <= b:
            return low + (high - low) * (level - a) / (b - a)
    raise ValueError(f"percentile {level} is not between 0 and 100")
