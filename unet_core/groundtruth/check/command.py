"""What the last check of each annotated data set found, on one screen: ``python -m unet_core check CONFIG``.

Only the tables that the step groundtruth wrote are read, so that it takes seconds for thousands of samples.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from unet_core.config.datasets import ConfigError
from unet_core.config.parse import read_config
from unet_core.digest import hash_of_file
from unet_core.groundtruth.check.tables import CLASS_COLUMN, NEEDED_OF_FINDINGS, NEEDED_OF_SAMPLES, read_table
from unet_core.groundtruth.samples import expand
from unet_core.records import read_record
from unet_core.runtime import UserError

# Different values of one kind that a line lists.
MAX_VALUES = 3

Rows = list[dict[str, str]]


def main(arguments: list[str]) -> None:
    """Print what was checked and found; errors end with status 1, and a run that failed with its own status."""
    parser = argparse.ArgumentParser(prog="python -m unet_core check", description=main.__doc__)
    parser.add_argument("config", metavar="CONFIG", help="file with the configuration")
    parser.add_argument("--status", type=int, default=0, help="exit status of the Snakemake that made the check")
    given = parser.parse_args(arguments)
    try:
        cfg = read_config(Path(given.config))
    except ConfigError as error:
        # A run that failed has told the same.
        sys.exit(given.status or str(error))
    if given.status:
        print(f"The run ended with status {given.status}: its messages above say why. Below stands the last check.")
    annotated, errors = [name for name, dataset in cfg.datasets.items() if dataset.annotations], 0
    if not annotated:
        print("no data set has annotations: there is nothing to check")
    for name in annotated:
        try:
            lines, wrong = _shown(Path(expand(cfg.results)), name, dated=bool(given.status))
        except (FileNotFoundError, NotADirectoryError):
            print(f"{name}: was not checked yet")
            continue
        except UserError as error:
            lines, wrong = [f"{name}: {error}"], 1
        errors += wrong
        print("\n".join(lines))
    sys.exit(given.status or (1 if errors else 0))


def _shown(results: Path, name: str, dated: bool) -> tuple[list[str], int]:
    """Lines about a data set, and how many errors its check found; UserError where its tables are damaged."""
    tables, page = (
        [results / f"groundtruth/{name}.check/{table}.csv" for table in ("samples", "findings")],
        "check.html",
    )
    outputs = read_record(results, f"groundtruth/{name}").get("outputs", {})
    for path in tables:
        seen = outputs.get(path.relative_to(results).as_posix())
        if seen and hash_of_file(path) != seen[2]:
            raise UserError(f"{path} is damaged; delete it, and the next run writes it again")
    try:
        samples, findings = map(read_table, tables, (NEEDED_OF_SAMPLES, NEEDED_OF_FINDINGS))
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(tables[0].with_name(page).stat().st_mtime))
        lines = [f"{name}{f', written {written}' if dated else ''}: {_images(samples)}"]
        lines += [f"  {line}" for line in [*_annotations(samples), *_kinds(findings)]]
        errors = sum(row["level"] == "error" for row in findings)
    except (ValueError, LookupError, TypeError, csv.Error):
        stamp = tables[0].parent.with_suffix(".json")
        raise UserError(
            f"{tables[0].parent} is damaged; delete {stamp}, and the next run writes its tables again"
        ) from None
    return [*lines, f"  pictures: {tables[0].with_name(page)}" if findings else "  nothing to look at"], errors


def _images(samples: Rows) -> str:
    """How many images there are, and what they are like."""
    read = [row for row in samples if row.get("x")]
    parts = [f"{len(samples):,} images"]
    # Tables of release 0.1.0 do not say what images are like.
    if len(read) < len(samples) and "x" in samples[0]:
        parts[0] += f" ({len(samples) - len(read):,} of them not read)"
    sizes = (" x ".join(row[axis] for axis in ("z", "y", "x") if axis != "z" or row[axis] != "1") for row in read)
    parts.append(_listed(sizes, "{} px"))
    parts.append(_listed((row["type"] for row in read), "{}"))
    parts.append(_listed((row["channels"] for row in read), "{} channels").replace("1 channels", "1 channel"))
    steps = (
        " x ".join(f"{float(row[f'pixel_{axis}']):.4g}" for axis in ("z", "y", "x") if axis != "z" or row["z"] != "1")
        for row in read
    )
    parts.append(_listed(steps, "{} µm a pixel"))
    return ", ".join(part for part in parts if part)


def _listed(values: Iterable[str], form: str) -> str:
    """The most frequent values, with their counts where there are several."""
    counts = Counter(value for value in values if value)
    if not counts:
        return ""
    if len(counts) == 1:
        return form.format(*counts)
    shown = [f"{form.format(value)} ({count:,})" for value, count in counts.most_common(MAX_VALUES)]
    more = len(counts) - len(shown)
    return " or ".join(shown) + (f" or {more} others" if more else "")


def _annotations(samples: Rows) -> list[str]:
    """Objects with their classes, what is ignored, and the splits."""
    counted = [row for row in samples if row["objects"] != ""]
    missing = sum(row["split"] != "unannotated" for row in samples) - len(counted)
    lines = [f"objects: {sum(int(row['objects']) for row in counted):,} in {len(counted):,} annotated images"]
    classes = [column for column in (samples[0] if samples else {}) if column.startswith(CLASS_COLUMN)]
    if classes:
        totals = ((column, sum(int(row[column]) for row in counted if row[column])) for column in classes)
        lines[0] += f" ({', '.join(f'{column.removeprefix(CLASS_COLUMN)} {count:,}' for column, count in totals)})"
    known = [row for row in counted if row.get("ignored") and row.get("x")]
    voxels = [math.prod(int(row[axis]) for axis in "zyx") for row in known]
    ignored = sum(float(row["ignored"]) * count for row, count in zip(known, voxels, strict=True))
    lines[0] += f"; ignored: {100 * ignored / sum(voxels):.3g} % of their pixels" if voxels else ""
    lines[0] += f"; {missing:,} others were not converted, see the errors" if missing else ""
    splits = Counter(row["split"] for row in samples)
    order = [split for split in ("train", "validation", "test", "unannotated") if splits[split]]
    return [*lines, f"split: {', '.join(f'{split} {splits[split]:,}' for split in order)}"]


def _kinds(findings: Rows) -> list[str]:
    """A line for each kind of findings: how many there are, in how many samples, and the first."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in findings:
        groups.setdefault((row["level"], row["kind"]), []).append(row)
    lines = []
    for (level, kind), rows in groups.items():
        first, names = rows[0], {row["sample"] for row in rows if row["sample"]}
        place = f" (z {first['z']}, y {first['y']}, x {first['x']})" if first["z"] else ""
        count = f"{len(rows):,} in {len(names):,} images, as " if len(rows) > 1 and names else ""
        name = f"{first['sample']}{place}: " if first["sample"] else ""
        lines.append(f"{level}, {kind}: {count}{name}{first['text']}")
    return lines
