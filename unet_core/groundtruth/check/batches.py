"""Which annotations came together: batches, which the check compares, are remembered from one check to the next."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_core.files import write_changed
from unet_core.sealed import keep_aside, seal, unseal

logger = logging.getLogger(__name__)

# Before what identifies an annotation. Without it stands the digest of its labels, as release 0.1.0 wrote it.
MARK = "annotation "
# Key of the entries in the file; until there was a checksum beside them, they were all of it.
SAMPLES = "samples"


def batch_numbers(file: Path, annotations: Mapping[str, str], seen: set[str]) -> dict[str, int]:
    """At which check the annotation of each sample was new, from 1; what is new now gets the next number.

    What identifies an annotation does not change with the version of the method, nor with options: else an update would
    make one batch of all.

    Parameters
    ----------
    file : Path
        Where the numbers are remembered. One that is damaged is kept aside, and counts as empty, as a missing one does.
    annotations : mapping
        Sample -> what identifies its annotation, for those that were read.
    seen : set of str
        All samples of the data set. Those whose annotation could not be read now keep their place in the file.
    """
    known = _known(file)
    # By digests of labels nothing can be compared any more.
    old = {name: number for name, (mark, number) in known.items() if not mark.startswith(MARK)}
    latest = max((number for _, number in known.values()), default=0) + 1
    kept = {name: entry for name, entry in known.items() if name in seen}
    numbers = dict(kept)
    for name, annotation in annotations.items():
        mark = MARK + annotation
        if name in old:
            numbers[name] = [mark, old[name]]
        elif known.get(name, [None])[0] != mark:
            numbers[name] = [mark, latest]
    if numbers or file.exists():
        write_changed(file, seal({SAMPLES: numbers}, indent=0).encode())
    return {name: numbers[name][1] for name in annotations}


def _known(file: Path) -> dict[str, list[Any]]:
    """Sample -> what identifies its annotation, and the number of its batch."""
    try:
        content = unseal(file.read_bytes())
        known = content.get(SAMPLES) if content.keys() == {SAMPLES} else content
        if isinstance(known, list):  # a sample of this name, the only one of its data set
            known = content
        if not isinstance(known, dict) or not all(map(_is_entry, known.values())):
            raise ValueError("its entries are no batches")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        logger.warning(
            "groundtruth: %s is damaged (%s) and kept as %s: which annotations came together is not known any more, "
            "their batches begin anew; if there is a backup, put it in its place and run snakemake again",
            *(file, error, keep_aside(file).name),
        )
        return {}
    return known


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [str, int]
