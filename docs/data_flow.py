"""Draws the data flow of the eight steps: ``python -m docs.data_flow`` writes ``docs/data_flow.svg``."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

OUTPUT = Path(__file__).with_suffix(".svg")


class Step(NamedTuple):
    """What comes into a step and goes out, where it lies below the folder of results, and which steps read it."""

    name: str
    comes_in: tuple[str, ...]
    goes_out: tuple[str, ...]
    place: str
    readers: tuple[str, ...]


STEPS = (
    Step(
        "groundtruth",
        ("your images and annotations,", "in the formats you have"),
        ("one store per data set:", "image, instances, classes, ignore mask"),
        "groundtruth/<data set>.zarr",
        ("weights", "plan", "train", "predict", "instances", "evaluate"),
    ),
    Step(
        "weights",
        ("instances, classes, ignore mask",),
        ("training target,", "border term of the weight map"),
        "weights/<data set>.zarr",
        ("plan", "train"),
    ),
    Step(
        "plan",
        ("statistics of the samples",),
        ("normalisation, class weights, tiles,", "steps, each with its reason"),
        "plan/<model>.json",
        ("train", "predict"),
    ),
    Step(
        "train",
        ("image, target, border term, plan",),
        ("model: weights of the network,", "description, learning curves"),
        "train/<model>/",
        ("predict", "evaluate"),
    ),
    Step(
        "predict",
        ("image, plan, model",),
        ("probabilities of the classes",),
        "predict/<model>/<data set>.zarr",
        ("instances",),
    ),
    Step(
        "instances",
        ("probabilities, image",),
        ("objects as label images,", "tables of objects"),
        "instances/<model>/<data set>.zarr, <data set>/",
        ("evaluate", "report"),
    ),
    Step(
        "evaluate",
        ("objects, and the instances,", "classes, ignore mask of the truth"),
        ("scores per object, image and data set,", "and their history"),
        "evaluate/<model>/<data set>/, evaluate/history/",
        ("report",),
    ),
    Step(
        "report",
        ("scores, and pictures from all stores",),
        ("tables and one page,", "which images to annotate next"),
        "report/report.html, table.csv, ...",
        (),
    ),
)

WIDTH, TOP, ROW = 880, 56, 84  # of the picture, above the first box, from box to box
BOX_X, BOX_WIDTH, BOX_HEIGHT = 340, 140, 48
IN_X, OUT_X = 16, BOX_X + BOX_WIDTH + 28
# Lines that pass over other boxes run left of these, each in a lane in which it meets no other.
LANES = {"groundtruth": 3, "weights": 1, "plan": 2, "train": 1, "instances": 2}
LANE = 20
# The picture brings its own background, so that it can be read on pages of any colour.
LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "soft": "#59636e", "box": "#ddf4ff", "edge": "#0969da"}
DARK = {"paper": "#0d1117", "ink": "#f0f6fc", "soft": "#9198a1", "box": "#121d2f", "edge": "#4493f8"}
STYLE = """
text { font: 13px system-ui, 'DejaVu Sans', sans-serif; }
.step { font-weight: 600; font-size: 15px; text-anchor: middle; }
.title { font-weight: 600; }
.place { font: 12px ui-monospace, 'DejaVu Sans Mono', monospace; }
.line { fill: none; }
.box, .line { stroke-width: 1.5; }
"""


def _colours(of: dict[str, str]) -> str:
    return f"""
.paper {{ fill: {of["paper"]}; }}
text {{ fill: {of["ink"]}; }}
.place {{ fill: {of["soft"]}; }}
.box {{ fill: {of["box"]}; }}
.box, .line {{ stroke: {of["edge"]}; }}
.head {{ fill: {of["edge"]}; }}
"""


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{of_kind}>{escape(words)}</text>'


def _head(x: float, y: float, direction: str) -> str:
    """Head of an arrow that ends at a point."""
    sides = {"down": "l-4.5 -8 h9 z", "right": "l-8 -4.5 v9 z"}
    return f'<path class="head" d="M{x:g} {y:g} {sides[direction]}"/>'


def _top(number: int) -> float:
    return TOP + number * ROW


def _box(number: int, step: Step) -> list[str]:
    """A step with the texts beside it."""
    y = _top(number)
    middle = y + BOX_HEIGHT / 2
    lines = [*((words, "") for words in step.goes_out), (step.place, "place")]
    comes_in = [(words, "") for words in step.comes_in]
    parts = [
        f'<rect class="box" x="{BOX_X}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>',
        _text(BOX_X + BOX_WIDTH / 2, middle + 5, step.name, "step"),
    ]
    for x, found in ((IN_X, comes_in), (OUT_X, lines)):
        first = middle + 5 - 9 * (len(found) - 1)
        parts += [_text(x, first + 18 * index, *line) for index, line in enumerate(found)]
    return parts


def _arrows(number: int, step: Step) -> list[str]:
    """Arrows from a step to those that read what it makes: straight down to the next, in a lane to the others."""
    numbers = {other.name: index for index, other in enumerate(STEPS)}
    readers = sorted(numbers[name] for name in step.readers)
    parts = []
    if number + 1 in readers:
        x, end = BOX_X + BOX_WIDTH / 2, _top(number + 1)
        parts += [f'<path class="line" d="M{x:g} {_top(number) + BOX_HEIGHT} V{end - 6}"/>', _head(x, end, "down")]
    far = [reader for reader in readers if reader > number + 1]
    if far:
        # The lanes reach a box at different heights: where two meet, both can be followed.
        x, shift = BOX_X - LANE * LANES[step.name], 12 * (LANES[step.name] - 2)
        start = _top(number) + BOX_HEIGHT - 6
        ends = [_top(reader) + BOX_HEIGHT / 2 - 6 + shift for reader in far]
        parts.append(f'<path class="line" d="M{BOX_X} {start} H{x} V{ends[-1]:g}"/>')
        for end in ends:
            parts += [f'<path class="line" d="M{x} {end:g} H{BOX_X - 6}"/>', _head(BOX_X, end, "right")]
    return parts


def draw() -> str:
    """The picture as SVG."""
    height = _top(len(STEPS)) - (ROW - BOX_HEIGHT) + 24
    titles = [
        _text(IN_X, 30, "what comes in", "title"),
        _text(BOX_X + BOX_WIDTH / 2, 30, "step", "step"),
        _text(OUT_X, 30, "what goes out, and where it lies under results/", "title"),
    ]
    drawn = [part for number, step in enumerate(STEPS) for part in _arrows(number, step) + _box(number, step)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            "<title>Data flow of the eight steps</title>",
            f"<style>{STYLE}{_colours(LIGHT)}@media (prefers-color-scheme: dark) {{{_colours(DARK)}}}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *titles,
            *drawn,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    OUTPUT.write_text(draw(), encoding="utf-8")
