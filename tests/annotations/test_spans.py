from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_core.annotations import spans

FILE = Path("c.json")
TEXT = st.text(st.sampled_from('a"\\{}[]:,é\u2028 \n'), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ELEMENT = st.dictionaries(TEXT, VALUE, max_size=3) | st.lists(VALUE, max_size=3)


@settings(deadline=None)
@given(
    st.dictionaries(TEXT, st.lists(ELEMENT, max_size=4) | st.dictionaries(TEXT, VALUE, max_size=3) | TEXT, max_size=4),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.sampled_from([3, spans.PIECE]),
)
def test_elements_are_those_that_a_parser_of_json_finds(
    document: dict[str, Any], indent: int | None, plain: bool, piece: int
) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=plain).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "PIECE", piece)
        found = spans.lists_in(data, FILE, "COCO")
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    assert {
        key: [json.loads(data[start:end]) for start, end in places[1:].tolist()] for key, places in found.items()
    } == lists
    assert {key: json.loads(data[slice(*places[0].tolist())]) for key, places in found.items()} == lists


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": [{}]',
        '{"a": [{}]}}',
        '{"a": [{}]} {}',
        '{"a": ["{}]}',
        '{"a": [1, 2]}',
        '{"a": [{}, 1]}',
        '{"a": [{} {}]}',
        '{"a": [{},]}',
        "{[{}]}",
        "x{}",
        "[" * 10**5 + "]" * 10**5,
    ],
)
def test_files_that_are_cut_short_or_something_else_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="c.json: is no COCO file .*is it complete"):
        spans.lists_in(text.encode(), FILE, "COCO")
