"""What looks wrong between the samples of a data set: each in the light of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet_core.groundtruth.check.lint import Finding

# Samples from which a comparison says something.
MIN_SAMPLES = 5
# Factor by which the objects of a sample may be larger or smaller than those of the others.
AREA_FACTOR = 5.0
# Two batches differ if chance would so in fewer cases than this, and their medians by more than the factor (contrast:
# difference).
MAX_P_VALUE, MEDIAN_FACTOR = 1e-3, 1.5

NamedFinding = tuple[str, Finding]


def outliers(statistics: Mapping[str, dict[str, Any]]) -> list[NamedFinding]:
    """Samples that are empty, or with objects of another size, beside the others.

    Parameters
    ----------
    statistics : mapping
        Sample -> what `unet_core.groundtruth.check.lint.statistics_of` gives.

    Examples
    --------
    >>> outliers({"a": {"objects": 3, "area": 9.0}, "b": {"objects": 0, "area": None}})
    [('b', Finding(level='warning', kind='empty', voxel=None, text='is annotated and has no object'))]
    """
    found = [
        (name, Finding("warning", "empty", None, "is annotated and has no object"))
        for name, values in statistics.items()
        if values["objects"] == 0 and any(other["objects"] for other in statistics.values())
    ]
    areas = {name: values["area"] for name, values in statistics.items() if values["area"]}
    if len(areas) < MIN_SAMPLES:
        return found
    middle = float(np.median(list(areas.values())))
    for name, area in areas.items():
        if not middle / AREA_FACTOR <= area <= middle * AREA_FACTOR:
            text = (
                f"objects have {area:g} voxels at the median, those of the other samples {middle:g}; "
                "was it annotated at another scale?"
            )
            found.append((name, Finding("warning", "scale", None, text)))
    return found


def duplicate_images(contents: Mapping[str, str], splits: Mapping[str, str]) -> list[NamedFinding]:
    """Samples that are the same image under several names.

    Parameters
    ----------
    contents, splits : mapping
        Sample -> what identifies its image, and its split.
    """
    names: dict[str, list[str]] = {}
    for name, content in contents.items():
        names.setdefault(content, []).append(name)
    found = []
    for first, *others in names.values():
        for other in others:
            text = f"is the same image as {first}"
            if splits[first] != splits[other]:
                text += f", but {first} is in {splits[first]} and {other} in {splits[other]}"
            found.append((other, Finding("warning", "twin", None, text)))
    return found


def batch_differences(statistics: Mapping[str, dict[str, Any]], batches: Mapping[str, str]) -> list[Finding]:
    """Batches of annotations whose objects differ from those of all others: in size, density or contrast.

    Parameters
    ----------
    statistics : mapping
        Sample -> what `unet_core.groundtruth.check.lint.statistics_of` gives.
    batches : mapping
        Sample -> name of its batch.
    """
    found = []
    for batch in dict.fromkeys(batches.values()):
        for key, meaning in (
            ("area", "median size of objects"),
            ("density", "objects per million voxels"),
            ("contrast", "contrast"),
        ):
            inside, outside = (
                [
                    values[key]
                    for name, values in statistics.items()
                    if values[key] is not None and (batches[name] == batch) == wanted
                ]
                for wanted in (True, False)
            )
            if text := _differ(inside, outside, key == "contrast"):
                found.append(Finding("warning", "drift", None, f"batch {batch}: {meaning} {text}"))
    # Of two batches each differs from the other: once is enough.
    return found[len(found) // 2 :] if len(set(batches.values())) == 2 else found


def _differ(inside: Sequence[float], outside: Sequence[float], signed: bool) -> str:
    if min(len(inside), len(outside)) < MIN_SAMPLES:
        return ""
    from scipy.stats import mannwhitneyu  # takes half a second, and few batches need it

    one, other = float(np.median(inside)), float(np.median(outside))
    far = abs(one - other) > MEDIAN_FACTOR / 2 if signed else max(one, other) > MEDIAN_FACTOR * min(one, other)
    chance = float(mannwhitneyu(inside, outside).pvalue)
    return f"{one:.3g}, of the others {other:.3g} (p = {chance:.1g})" if far and chance < MAX_P_VALUE else ""
