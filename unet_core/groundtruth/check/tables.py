"""The tables of the check as CSV: their columns, and how they are written and read, without what the check needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

FINDINGS = ["level", "kind", "sample", "z", "y", "x", "text", "files"]
# Of each sample, before columns with the objects of each class.
SAMPLES = [
    *("sample", "split", "batch", "objects", "area", "density", "contrast", "findings", "ignored"),
    *("channels", "z", "y", "x", "type", "pixel_z", "pixel_y", "pixel_x"),
]
# Columns that those of release 0.1.0 have, too.
NEEDED_OF_SAMPLES, NEEDED_OF_FINDINGS = SAMPLES[:2], FINDINGS[:3]
CLASS_COLUMN = "objects of "


def write_table(columns: list[str], rows: list[list[Any]]) -> bytes:
    """A table as the content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue().encode()


def read_table(path: Path, needed: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file; ValueError where it has not all needed columns."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {*needed} <= {*(reader.fieldnames or ())}:
            raise ValueError(f"{path} has not the columns {', '.join(needed)}")
        return list(reader)
