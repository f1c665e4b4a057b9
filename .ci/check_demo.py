"""The demo ended as the README says: a page, and models that found most objects."""

import csv
from pathlib import Path

REPORT = Path(__file__).parent.parent / "results" / "report"


def test_the_demo_left_a_page_and_a_good_table() -> None:
    """Far below what the demo reaches, and far above what an untrained model does."""
    rows = {row["dataset"]: row for row in csv.DictReader((REPORT / "table.csv").read_text().splitlines())}
    assert set(rows) == {"cells", "nuclei"}
    assert all(float(row["iou"]) > 0.75 and float(row["ap50"]) > 0.5 for row in rows.values()), rows
    assert "data:image/" in (REPORT / "report.html").read_text()
