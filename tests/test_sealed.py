"""JSON with its own checksum: whatever bit is wrong, nothing is read that was not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unet_core.sealed import keep_aside, seal, unseal, unseal_lines

VALUE: dict[str, Any] = {"time": "2026", "scores": {"test": {"iou": 0.25, "seg": None}}, "n": [1, 2e-7], "é": True}


@pytest.mark.parametrize("indent", [None, 0, 1])
def test_any_flipped_bit_is_found_or_changes_no_value(indent: int | None) -> None:
    whole, found = seal(VALUE, indent).encode(), 0
    assert unseal(whole) == VALUE
    for bit in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        try:
            value = unseal(bytes(harmed))
        except ValueError as error:
            assert str(error) in ("it cannot be read", "its checksum is another one")
            found += 1
        else:  # such as another name of the checksum
            assert {key: value[key] for key in VALUE} == VALUE
    assert found > 0.9 * 8 * len(whole) - 8 * len("checksum")


def test_keys_and_tuples_are_sealed_as_they_are_read() -> None:
    assert unseal(seal({"a": {1: (2, 3)}})) == {"a": {"1": [2, 3]}}
    with pytest.raises(ValueError, match="JSON"):
        seal({"a": float("nan")})


def test_lines_that_are_damaged_are_counted_and_cost_no_others(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert unseal_lines(path) == ([], 0)
    path.write_bytes(b"".join([seal({"n": 1}).encode(), b"\n\xff\n[]\n", b'{"n": 2}\n', seal({"n": 3}).encode()]))
    assert unseal_lines(path) == ([{"n": 1}, {"n": 2}, {"n": 3}], 2)


def test_a_copy_that_is_kept_replaces_an_earlier_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "a.json").write_text(text)
        assert keep_aside(tmp_path / "a.json") == tmp_path / "a.json.damaged"
        assert (tmp_path / "a.json.damaged").read_text() == (tmp_path / "a.json").read_text() == text
