"""Tables of run-lengths with the columns of several challenges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.annotations.layers import objects_in, told_of
from unet_core.annotations import rle
from unet_core.annotations.layer import Image
from unet_core.config.datasets import Annotation

SHAPE = (1, 6, 9)
MASKS = np.zeros((2, 6, 9), int)
MASKS[0, 1:4, 2:5] = MASKS[1, 4:, 6:] = 1


def runs(mask: np.ndarray, order: str) -> str:
    """Start and length of each run of a mask, from 1, down the columns (F) or along the rows (C)."""
    flat = np.r_[0, mask.ravel(order), 0]
    edges = np.flatnonzero(np.diff(flat)).reshape(-1, 2)
    return " ".join(f"{start + 1} {stop - start}" for start, stop in edges)


def table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    rle.find(str(path), [Image("a")])
    return path


@pytest.mark.parametrize(
    ("header", "before", "after", "order", "options"),
    [
        ("ImageId,EncodedPixels", "a,", "", "F", {}),
        ("id,rle", "a,", "", "F", {}),
        ("id,rle", "a,", "", "C", {"runs": "rows"}),
        ("id,encoding", "a,", "", "F", {}),
        ("image_id,rle", "a.png,", "", "C", {"runs": "rows"}),
        ("id,annotation,width,height,cell_type", "a,", ",9,6,astro", "C", {}),
        ("id,annotation,width,height,cell_type", "a,", ",9,6,astro", "F", {"runs": "columns"}),
        ("id,annotation", "a,", "", "F", {}),
        ("id,organ,img_height,img_width,rle", "a,lung,6,9,", "", "F", {}),
    ],
)
def test_tables_of_several_challenges_are_read(
    tmp_path: Path, header: str, before: str, after: str, order: str, options: dict[str, Any]
) -> None:
    path = table(tmp_path / "t.csv", header, *(before + runs(mask, order) + after for mask in MASKS))
    np.testing.assert_array_equal([array for _, array in objects_in("rle", path, SHAPE, **options)], MASKS)


def test_a_column_of_classes_is_read(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "ImageId,ClassId,EncodedPixels", f"a,3,{runs(MASKS[0], 'F')}", "a,,1 1", "b,4,1 1")
    assert [name for name, _ in objects_in("rle", path, SHAPE)] == ["3", None]
    before = rle.content((path,), Image("a"))
    other = table(
        tmp_path / "u.csv", "ImageId,ClassId,EncodedPixels", f"a,2,{runs(MASKS[0], 'F')}", "a,,1 1", "b,7,1 1"
    )
    assert before != rle.content((other,), Image("a")) and before[1] == "1 1"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["a,1 1,9,7"], "line 2: height is 7, but the image has 6 x 9 pixels"),
        (["a,1 1,6,9"], "line 2: height is 9, but the image has 6 x 9 pixels"),
        (["a,1 1,x,6"], "line 2: width is x, but the image has 6 x 9 pixels"),
        (["a,1 1,9,6", "a"], "line 3: ends before the run-lengths; is the file complete"),
        (
            ["a,54 2,9,6"],
            r"line 2: the run '54 2' leaves the image of 6 x 9 pixels \(runs count from 1, along the rows",
        ),
        (["a,0 2,9,6"], r"line 2: the run '0 2' leaves the image of 6 x 9 pixels \(runs count from 1, along the rows"),
    ],
)
def test_rows_that_are_wrong_are_told_or_left_out(tmp_path: Path, rows: list[str], text: str) -> None:
    path = table(tmp_path / "t.csv", "id,annotation,width,height", *rows)
    with pytest.raises(ValueError, match=f"t.csv, {text}"):
        objects_in("rle", path, SHAPE)
    path = table(tmp_path / "u.csv", "id,annotation,width,height", *rows, "a,3 2,9.0,6")
    assert objects_in("rle", path, SHAPE, broken="skip")[-1][1].sum() == 2
    (told,) = told_of("rle", path, SHAPE, broken="skip")
    assert told.kind == "broken" and f"{path}: a: 1 of {len(rows) + 1} objects cannot be read" in told.text


def test_runs_is_an_option_of_tables_alone() -> None:
    with pytest.raises(ValueError, match="runs has no meaning for format coco: only for rle"):
        Annotation.model_validate({"format": "coco", "path": "c.json", "runs": "rows"})
    assert "runs" not in Annotation(format="rle", path="t.csv").model_dump()
