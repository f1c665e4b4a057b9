"""The tables of the check as CSV: their columns, and how they are written and read, without what the check needs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

FINDINGS = ["level", "kind", "sample", "z", "y", "x", "text", "files"]
# Of each sample, before columns with the objects of each class.
SAMPLES = [
    *("sample", "split", "batch", "objects", "area", "density", "contrast", "findings", "ignored"),
    *("channels", "z", "y", "x", "type", "pixel_z", "pixel_y", "pixel_x"),
]
CLASS_COLUMN = "objects of "


def write_table(columns: list[str], rows: list[list[Any]]) -> bytes:
    """A table as the content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue().encode()


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
