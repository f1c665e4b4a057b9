"""Which annotations came together: batches, which the check compares, are remembered from one check to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_core.files import write_atomic

# Before what identifies an annotation. Without it stands the digest of its labels, as release 0.1.0 wrote it.
MARK = "annotation "


def batch_numbers(file: Path, annotations: Mapping[str, str], seen: set[str]) -> dict[str, int]:
    """At which check the annotation of each sample was new, from 1; what is new now gets the next number.

    What identifies an annotation does not change with the version of the method, nor with options: else an update would
    make one batch of all.

    Parameters
    ----------
    file : Path
        Where the numbers are remembered; one that is missing or damaged counts as empty.
    annotations : mapping
        Sample -> what identifies its annotation, for those that were read.
    seen : set of str
        All samples of the data set. Those whose annotation could not be read now keep their place in the file.
    """
    try:
        known: dict[str, list[Any]] = json.loads(file.read_text(encoding="utf-8"))
        # By digests of labels nothing can be compared any more.
        old = {name: number for name, (mark, number) in known.items() if not mark.startswith(MARK)}
        latest = max((number for _, number in known.values()), default=0) + 1
    except (OSError, ValueError, TypeError, AttributeError):
        known, old, latest = {}, {}, 1
    kept = {name: entry for name, entry in known.items() if name in seen}
    numbers = dict(kept)
    for name, annotation in annotations.items():
        mark = MARK + annotation
        if name in old:
            numbers[name] = [mark, old[name]]
        elif known.get(name, [None])[0] != mark:
            numbers[name] = [mark, latest]
    if numbers != known:
        write_atomic(file, json.dumps(numbers, indent=0).encode())
    return {name: numbers[name][1] for name in annotations}
