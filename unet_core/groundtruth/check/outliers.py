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


def by_film(found: Sequence[NamedFinding], films: Mapping[str, str]) -> list[NamedFinding]:
    """Findings of which the empty frames of a film are one, at the first of them.

    Parameters
    ----------
    found : sequence of (str, Finding)
        What `outliers` gives.
    films : mapping
        Annotated sample that is a frame of a film -> name of the film.
    """
    frames: dict[str, list[str]] = {}
    for name, finding in found:
        if finding.kind == "empty" and name in films:
            frames.setdefault(films[name], []).append(name)
    others = [(name, one) for name, one in found if one.kind != "empty" or name not in films]
    for film, names in frames.items():
        total = sum(other == film for other in films.values())
        text = (
            f"{len(names)} of {total} frames of {film} have no object, and are learnt as background; "
            "if they were not annotated, name those that were in samples of the source"
        )
        others.append((names[0], Finding("warning", "empty", None, text)))
    return others


def no_object(counted: Mapping[str, dict[str, Any]]) -> list[Finding]:
    """An error where a data set is annotated, and no sample has an object.

    Parameters
    ----------
    counted : mapping
        Annotated sample -> what was counted in it, with ``objects`` and ``ignored`` (voxels).
    """
    if not counted or any(details["objects"] for details in counted.values()):
        return []
    ignoring = sum(bool(details["ignored"]) for details in counted.values())
    seen = f"; {ignoring} have ignored pixels" if ignoring else ""
    text = (
        f"no object in any of the {len(counted)} annotated images{seen}; usual causes: all objects are iscrowd (COCO), "
        "or of classes that are mapped to ignore or background; a wrong ignore_label, ignore or region; empty masks; "
        "coordinates that are not in pixels"
    )
    return [Finding("error", "nothing", None, text)]


def absent_classes(
    counted: Mapping[str, dict[str, Any]], splits: Mapping[str, str], classes: Sequence[str]
) -> list[Finding]:
    """Classes without a voxel in the samples for training.

    Parameters
    ----------
    counted : mapping
        Annotated sample -> what was counted in it, with ``class_voxels`` by class. Results of release 0.1.0 lack it;
        nothing can be said of them.
    splits : mapping
        Sample -> its split.
    classes : sequence of str
        Of the data set.
    """
    training = [name for name in counted if splits[name] == "train"]
    if not training or not all("class_voxels" in details for details in counted.values()):
        return []
    found = []
    for name in classes:
        having = [sample for sample, details in counted.items() if details["class_voxels"].get(name)]
        if not any(splits[sample] == "train" for sample in having):
            where = f"; {len(having)} others have some (as {having[0]}, {splits[having[0]]})" if having else ""
            text = f"class {name} has no pixel in the {len(training)} images for training{where}: it is not learnt"
            found.append(Finding("warning", "absent", None, text))
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
