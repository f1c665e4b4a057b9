"""Messages about many samples: those that are alike are one line."""

from __future__ import annotations

import pytest

from unet_core.annotations.classes import UnknownClasses, merged, problem_lines


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([("a", "is cut short")], ["a: is cut short"]),
        ([("a", "is cut short"), ("b", "is cut short")], ["a: is cut short (2 like this: a, b)"]),
        # Numbers and the name may differ, whatever stands around them.
        (
            [
                (f"t{n:03}", f"/data/t{n:03}_GT/man_seg{n:03}.tif: shape ({n}, {n}), from -{n}.5 to 1e+{n}")
                for n in (7, 10)
            ],
            ["t007: /data/t007_GT/man_seg007.tif: shape (7, 7), from -7.5 to 1e+7 (2 like this: t007, t010)"],
        ),
        (
            [("Zelle", "object 3 of 'Zelle' is broken"), ("Kern", "object 12 of 'Kern' is broken")],
            ["Zelle: object 3 of 'Zelle' is broken (2 like this: Zelle, Kern)"],
        ),
        # A name that is a word of the text is no name there.
        ([("b", "is a point"), ("a", "is a point")], ["b: is a point (2 like this: b, a)"]),
        ([("a", "a.tif: damaged"), ("b", "c.tif: damaged")], ["a: a.tif: damaged", "b: c.tif: damaged"]),
        # Other problems stay between those that are alike, in the order of the first of each.
        ([("a", "x 1"), ("b", "y"), ("c", "x 2")], ["a: x 1 (2 like this: a, c)", "b: y"]),
        ([(f"s{n}", "same") for n in range(8)], ["s0: same (8 like this: s0, s1, s2, s3, s4 and 3 more)"]),
        # The same name twice counts twice and is named once; lines without a name are told alone.
        ([("a", "x 1"), ("a", "x 2")], ["a: x 1 (2 like this: a)"]),
        ([("", "x 1"), ("", "x 2"), ("", "y")], ["x 1 (2 like this)", "y"]),
        # Signs of patterns in a name mean themselves.
        ([("a+(1)", "a+(1).tif: x"), ("b[2]", "b[2].tif: x")], ["a+(1): a+(1).tif: x (2 like this: a+(1), b[2])"]),
    ],
)
def test_lines_that_are_alike_are_one(lines: list[tuple[str, str]], expected: list[str]) -> None:
    assert merged(lines) == expected


def test_all_of_many_lines_are_counted() -> None:
    lines = [(f"img_{n}", f"masks/img_{n}.png: has {n} {'planes' if n % 3 else 'pages'}") for n in range(300)]
    (pages, planes) = merged(lines)
    assert "(100 like this: img_0, img_3, " in pages and "(200 like this: img_1, img_2, " in planes


def test_problems_of_samples_are_in_the_order_of_their_names_and_unknown_classes_come_last() -> None:
    problems = {
        "c": ValueError("is cut short"),
        "b": UnknownClasses(["dead"]),
        "a": ValueError("has 3 axes"),
        "d": ValueError("has 4 axes"),
    }
    lines = problem_lines(problems, ["cell"])
    assert lines[:2] == ["a: has 3 axes (2 like this: a, d)", "c: is cut short"]
    assert lines[2].startswith("annotations of b name the classes 'dead', but classes says cell; ") and len(lines) == 3
