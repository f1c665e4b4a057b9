"""The page and the tables of a small run of all steps: complete, safe against strange names, and self-contained."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from tests.report.test_gallery import DECODE
from unet_core.config.datasets import Annotation, Dataset, Split, Weights
from unet_core.config.instances import Instances
from unet_core.config.options import Evaluate, Groundtruth, Network, Plan, Predict, Report, Train
from unet_core.config.skip import Skip
from unet_core.demo import fluorescence, touching_objects
from unet_core.engine import Engine
from unet_core.evaluate.step import evaluate_samples
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.step import make_instances
from unet_core.plan.step import make_plan
from unet_core.predict.step import predict_samples
from unet_core.report.provenance import arithmetic
from unet_core.report.step import FIRST_COLUMNS, MEANINGS, TEXT_COLUMNS, make_report, markdown, score_table
from unet_core.report.summary import Matrix, Score
from unet_core.train.step import train_model
from unet_core.weights.step import make_weights

MODEL = "unet<i>&"
STRANGE = 'x<i>&"y'
CONFIG = {"datasets": {"cells": {"images": "$REPORT_DATA/*.tif"}}, "results": "</pre><script>"}


class Run:
    """All steps on generated images, with a network that learns next to nothing.

    *cells* has a test image of a strange name and one without objects, called NA; *held* is annotated but nothing of it
    is scored, and *screen* has no annotations.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.results, self._engine = folder / "results", engine
        splits = {"cells": Split(test=["x*", "NA"], validation=["v"]), "held": Split(test=0, validation=0)}
        self.datasets = {
            name: Dataset(
                images=f"{folder}/{name}/*.tif",
                annotations=[Annotation(format="labels", path=f"{folder}/{name}/masks/{{stem}}.tif")]
                if name in splits
                else [],
                split=splits.get(name, Split()),
            )
            for name in ("cells", "held", "screen")
        }
        rng = np.random.default_rng(0)
        for name in ("cells/t", "cells/v", f"cells/{STRANGE}", "cells/NA", "held/h", "screen/007"):
            image, labels = folder / f"{name}.tif", touching_objects(rng, (48, 64), radius=8, spacing=0.9)
            labels *= np.uint16(image.stem != "NA")
            (image.parent / "masks").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(image, fluorescence(rng, labels))
            if "screen" not in name:
                tifffile.imwrite(image.parent / "masks" / image.name, labels)

    def path(self, *parts: str) -> Path:
        return self.results.joinpath(*parts[:-1], f"{parts[-1]}.json")

    def store(self, *parts: str) -> Path:
        return self.path(*parts).with_suffix(".zarr")

    def all_steps(self) -> None:
        for name in self.datasets:
            self.groundtruth(name)
        self.model()
        for name in self.datasets:
            self.apply(name)
        benchmark = self.results / "benchmarks" / "train" / f"{MODEL}.jsonl"
        benchmark.parent.mkdir(parents=True)
        benchmark.write_text(json.dumps({"s": 5400.0, "cpu_time": 7261, "max_rss": 1536.0, "resources": {"gpu": 2}}))

    def groundtruth(self, name: str) -> None:
        samples, problems = find_samples(self.datasets[name])
        assert not problems
        store, stamp = self.store("groundtruth", name), self.path("groundtruth", name)
        convert_groundtruth(self.datasets[name], Groundtruth(), samples, store=store, stamp=stamp, engine=self._engine)

    def model(self) -> None:
        make_weights(
            Weights(),
            self.datasets["cells"],
            groundtruth=self.path("groundtruth", "cells"),
            truth_store=self.store("groundtruth", "cells"),
            store=self.store("weights", "cells"),
            stamp=self.path("weights", "cells"),
            engine=self._engine,
        )
        train = Train(network=Network(depth=1, width=2), steps=2, validate_every=1, warmup=0)
        truths, weights = (
            {name: self.path("groundtruth", name) for name in self.datasets},
            {"cells": self.path("weights", "cells")},
        )
        plan, stamp = self.path("plan", MODEL), self.path("train", MODEL)
        make_plan(
            Plan(), train, Predict(), groundtruth=truths, weights=weights, bought=None, results=self.results, stamp=plan
        )
        truths = {"cells": truths["cells"]}
        train_model(
            train,
            plan=plan,
            weights=weights,
            groundtruth=truths,
            results=self.results,
            folder=stamp.with_suffix(""),
            stamp=stamp,
        )

    def apply(self, name: str, dtype: str = "uint8", skip: Skip | None = None) -> None:
        truth = self.path("groundtruth", name)
        predict, instances = self.path("predict", MODEL, name), self.path("instances", MODEL, name)
        predict_samples(
            Predict(dtype=dtype, skip=skip),
            model=self.path("train", MODEL),
            plans=[self.path("plan", MODEL)],
            groundtruth=truth,
            images=truth.with_suffix(".zarr"),
            store=predict.with_suffix(".zarr"),
            stamp=predict,
            engine=self._engine,
            mask_threshold=0.5 if dtype == "mask" else None,
        )
        make_instances(
            Instances(min_size=4),
            predict=predict,
            probabilities=predict.with_suffix(".zarr"),
            groundtruth=truth,
            store=instances.with_suffix(".zarr"),
            tables=instances.with_suffix(""),
            stamp=instances,
            engine=self._engine,
        )
        if self.datasets[name].annotations:
            stamp = self.path("evaluate", MODEL, name)
            evaluate_samples(
                Evaluate(),
                model=self.path("train", MODEL),
                groundtruth=truth,
                truth_store=truth.with_suffix(".zarr"),
                instances=instances,
                instance_store=instances.with_suffix(".zarr"),
                tables=instances.with_suffix(""),
                folder=stamp.with_suffix(""),
                history=self.results / "evaluate" / "history" / MODEL / f"{name}.jsonl",
                stamp=stamp,
                engine=self._engine,
            )

    def report(self, *names: str, jobs: dict[str, list[str]] | None = None) -> Path:
        """Make the report of these data sets; its folder."""
        evaluations = {
            (MODEL, name): self.path("evaluate", MODEL, name) for name in names if self.datasets[name].annotations
        }
        folder = self.results / "report" / "-".join(names)
        predictions = [(MODEL, name) for name in names]
        options = {"jobs": jobs or {"train": [MODEL]}, "config": CONFIG, "results": self.results, "folder": folder}
        make_report(Report(previews=2), evaluations=evaluations, predictions=predictions, **options)
        return folder


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]


class Page(HTMLParser):
    """Elements of a page, and the text of each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[Element] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.elements[-1].tag, data.strip()))

    def images(self) -> list[dict[str, str | None]]:
        return [element.attributes for element in self.elements if element.tag == "img"]

    def text(self) -> str:
        return "\n".join(data for _, data in self.texts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Run:
    run = Run(tmp_path_factory.mktemp("run"), engine)
    run.all_steps()
    return run


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    return run.report("cells", "held", "screen")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(folder / "report.html")


def test_table_csv_holds_all_scores_and_begins_with_the_usual_columns(folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv")
    assert list(table.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    assert {"ap60", "f1_50", "pq90"} <= set(table.columns)
    assert table[["model", "dataset", "split", "n_images"]].values.tolist() == [[MODEL, "cells", "test", 2]]


def test_the_page_says_what_each_column_means(folder: Path, page: Page) -> None:
    columns = [
        column
        for column in pd.read_csv(folder / "table.csv").columns
        if column not in TEXT_COLUMNS | {"n_images", "n_objects"}
    ]
    named = {name for names in MEANINGS for name in names.split(", ")}
    # Ends of intervals mean the same for each measure. This data set has one class.
    shown = {re.sub(r"\d\d$", "NN", re.sub("_(low|high)$", "", column)) for column in columns}
    assert shown | {"class_apNN"} == named
    guide = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    described = {name for names in re.findall(r"^- \*\*(.+?)\*\*", guide, re.M) for name in names.split(", ")}
    assert named == described
    assert {"voi_split", "aji", "det", "v_rand", "v_info", "ap", "recall75"} <= set(columns) and all(
        n in page.text() for n in MEANINGS
    )


def test_table_md_holds_the_first_columns_aligned(folder: Path) -> None:
    lines = (folder / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == FIRST_COLUMNS
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1 and set(lines[1]) == {"|", "-"}


def test_table_tex_holds_the_first_columns_with_escaped_names(folder: Path) -> None:
    text = (folder / "table.tex").read_text()
    assert text.startswith("\\begin{tabular}{lll" + "r" * (len(FIRST_COLUMNS) - 3) + "}")
    assert "n\\_images" in text and "unet<i>\\&" in text and "ap60" not in text


def test_the_page_needs_no_other_file_and_no_network(page: Page) -> None:
    assert {element.tag for element in page.elements}.isdisjoint({"link", "iframe", "object"})
    attributes = [
        (name.split(":")[-1], value) for element in page.elements for name, value in element.attributes.items()
    ]
    links = [value for name, value in attributes if name in ("href", "srcset", "data")]
    assert links and all(link and link.startswith("#") for link in links)
    targets = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    assert {link[1:] for link in links if link} <= targets
    assert page.images()
    for image in page.images():
        kind, _, data = (image["src"] or "").partition(";base64,")
        picture = DECODE[kind.removeprefix("data:image/")]
        assert picture(base64.b64decode(data)).shape[:2] == (int(image["height"] or 0), int(image["width"] or 0))
    style = re.search("<style>(.*?)</style>", page.source, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert not re.search("(https?|file)://", page.source)


def test_only_the_script_of_the_page_may_run(page: Page) -> None:
    policy = next(
        e.attributes["content"] or ""
        for e in page.elements
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = re.findall("<script>(.*?)</script>", page.source, re.S)
    assert (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
        and "default-src 'none'" in policy
    )
    assert [element.tag for element in page.elements].count("script") == 1


def test_names_with_special_characters_are_text_and_not_markup(page: Page) -> None:
    assert "i" not in {element.tag for element in page.elements}
    assert f"Model {MODEL}" in page.text() and f"{MODEL} on cells" in page.text()
    place = page.texts.index(("b", STRANGE))
    assert page.texts[place + 1][1].startswith(": test, AP50 ")
    assert any(text == STRANGE for tag, text in page.texts if tag == "td")


def test_headings_are_in_order_and_pictures_and_tables_have_names(page: Page) -> None:
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    # The lowest layer of a picture is described; what lies on it is not read out again.
    bases = [image for image in page.images() if image.get("class") in ("image", None)]
    assert all("alt" in image for image in page.images()) and all(image["alt"] for image in bases)
    tags = [element.tag for element in page.elements]
    assert tags.count("table") == tags.count("caption") > 5
    charts = [element for element in page.elements if element.tag == "svg"]
    assert charts and all(chart.attributes["role"] == "img" and chart.attributes["aria-label"] for chart in charts)
    names = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(names) == len(set(names))


def test_the_page_shows_curves_images_with_layers_and_weight_maps(page: Page) -> None:
    charts = [element.attributes["aria-label"] or "" for element in page.elements if element.tag == "svg"]
    assert charts[:2] == ["weighted cross-entropy over steps of training", "scores of the validation over steps"]
    assert (
        any(chart.startswith("calibration: expected calibration error 0.") for chart in charts)
        and "sizes of objects" in charts
    )
    layers = [image.get("class") for image in page.images()]
    assert layers.pop(0) == "tiles" and "tiles" not in layers
    scored, others = ["image", "probability", "errors", "truth", "result"], ["image", "probability", "result"]
    # The image without objects has no errors if nothing was found in it.
    assert layers[:5] == scored and layers.count("truth") == 2 and layers.count("result") == 4
    assert any(layers[start : start + 3] == others for start in range(len(layers)))
    maps = [image["alt"] or "" for image in page.images() if image.get("class") is None]
    # Of two training samples, as `previews` says; there is one.
    assert (
        len(maps) % 3 == 0
        and maps[1].startswith("class to learn of cells: ")
        and re.search(r"\(blue\) to \S+ \(red\)", maps[2])
    )


def test_a_data_set_that_is_not_scored_is_shown_without_scores(page: Page) -> None:
    assert {": train", ": unannotated"} <= {text for _, text in page.texts}
    assert sum(text == "Scores of each image" for _, text in page.texts) == 1


def test_images_without_annotation_are_ranked(folder: Path, page: Page) -> None:
    table = pd.read_csv(folder / "annotate_next.csv", dtype={"sample": str})
    assert table[["model", "dataset", "rank", "sample"]].values.tolist() == [[MODEL, "screen", 1, "007"]]
    assert 0 < table["uncertainty"].item() <= 1 and 0 < table["uncertain_share"].item() <= 1
    assert sum(image.get("class") == "entropy" for image in page.images()) == 1


def test_the_page_says_how_to_repeat_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT_DATA", "/my data")
    folder = run.report("screen")
    page = Page(folder / "report.html")
    assert ("code", f"REPORT_DATA='/my data' snakemake --configfile {folder / 'config.yaml'}") in page.texts
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG and any(
        "</pre><script>" in text for _, text in page.texts
    )
    weights = json.loads(run.path("train", MODEL).read_text())["weights"]
    assert ("td", weights) in page.texts and ("td", "torch") in page.texts


def test_decisions_are_shown_with_their_reasons(page: Page) -> None:
    assert {"train_tile", "class_weights", "steps"} <= {text for tag, text in page.texts if tag == "td"}
    assert ("td", "set in the configuration") in page.texts
    memory = page.texts.index(("td", "predict_memory_gb")) + 1
    assert 0 < float(page.texts[memory][1]) < 0.001


def test_the_page_says_in_which_arithmetic_a_network_was_trained_and_applied(run: Run, page: Page) -> None:
    table = arithmetic([(MODEL, "cells")], run.results)
    trained, applied = table.to_dict("records")
    assert (trained["what"], applied["what"]) == (f"model {MODEL}", f"{MODEL} on cells")
    assert "times as long as float32 on this device" in trained["reason"]
    assert applied["reason"] == "measured on the device"
    assert {trained["precision"], applied["precision"]} <= {"float32", "bfloat16"}
    assert trained["device"] == applied["device"] and all(value in page.text() for value in trained.values())


def test_warnings_of_the_plan_are_shown_as_text(run: Run) -> None:
    plan = run.path("plan", MODEL)
    before = plan.read_bytes()
    try:
        plan.write_text(json.dumps(json.loads(before) | {"warnings": ["data set <b> has other pixels"]}))
        page = Page(run.report("screen") / "report.html")
    finally:
        plan.write_bytes(before)
    assert "Warning: data set <b> has other pixels." in " ".join(page.text().split())


def test_the_page_shows_what_each_step_cost_and_a_dash_for_what_is_unknown(run: Run, page: Page) -> None:
    train = ["1", "1", "1:30:00", "2:01:01", "3:00:00", "1.500"]
    assert _cost(page) == ["train", *train, "total", *train]
    page = Page(run.report("screen", jobs={"plan": [MODEL], "train": [MODEL]}) / "report.html")
    assert _cost(page) == ["plan", "1", "0", "-", "-", "-", "-", "train", *train, "total", "2", *train[1:]]


def _cost(page: Page) -> list[str]:
    begin, end = (page.texts.index(("h2", heading)) for heading in ("Cost", "Provenance"))
    return [text for tag, text in page.texts[begin:end] if tag == "td"]


def test_a_score_that_does_not_exist_is_a_dash(run: Run, page: Page) -> None:
    scores = pd.read_csv(run.results / "evaluate" / MODEL / "cells" / "images.csv", keep_default_na=False).set_index(
        "sample"
    )
    assert scores.loc["NA", "seg"] == "" and ("td", "NA") in page.texts and ("td", "-") in page.texts
    assert not {"nan", "None"} & {text for _, text in page.texts}


def test_a_report_of_data_sets_without_annotations_has_no_scores(run: Run) -> None:
    folder = run.report("screen")
    assert "Nothing was scored" in Page(folder / "report.html").text()
    for name, rows in (("table.csv", 1), ("table.md", 2)):
        assert len((folder / name).read_text().splitlines()) == rows
    with (folder / "table.csv").open(newline="") as file:
        assert next(csv.reader(file)) == FIRST_COLUMNS


def test_a_report_of_masks_shows_no_probabilities(run: Run) -> None:
    before = pd.read_csv(run.results / "evaluate" / MODEL / "cells" / "images.csv")
    try:
        for name in ("cells", "screen"):
            run.apply(name, "mask")
        folder = run.report("cells", "screen")
        after = pd.read_csv(run.results / "evaluate" / MODEL / "cells" / "images.csv")
    finally:
        for name in ("cells", "screen"):
            run.apply(name)
    pd.testing.assert_frame_equal(before, after)
    page = Page(folder / "report.html")
    layers = {image.get("class") for image in page.images()}
    assert "result" in layers and not {"probability", "entropy"} & layers and "calibration:" not in page.source
    assert pd.read_csv(folder / "annotate_next.csv").empty


def test_empty_blocks_are_counted_where_there_are_some(run: Run, page: Page) -> None:
    assert "Empty blocks" not in page.text()
    try:
        run.apply("cells", skip=Skip(below=0))
        run.apply("screen", skip=Skip(above=-1))
        page = Page(run.report("cells", "screen") / "report.html")
    finally:
        for name in ("cells", "screen"):
            run.apply(name)
    assert [text for _, text in page.texts if text.startswith("Empty blocks")] == ["Empty blocks: 1 of 1"]
    assert page.source.count("<caption>Blocks of the samples that have empty ones</caption>") == 1


def test_models_and_data_sets_are_a_matrix_where_there_are_several(
    run: Run, folder: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (folder / "matrix.md").read_text().splitlines()
    assert len(lines) == 3 and lines[2].startswith(f"| {MODEL} | ") and "**" not in lines[2]
    assert pd.read_csv(folder / "matrix.csv").columns.tolist() == ["model", "cells"]
    assert ("h3", "Models and data sets") not in page.texts
    score = Score(0.5, "0.500", "0.400–0.600", "", "", "same")
    matrix = Matrix(["<i>", "b"], ["cells"], [[score], [None]], {(0, 0)})
    monkeypatch.setattr("unet_core.report.step.matrix_of", lambda rows: matrix)
    again = Page(run.report("cells") / "report.html")
    start = again.texts.index(("h3", "Models and data sets"))
    shown = [text for tag, text in again.texts[start : start + 14] if tag in ("caption", "th", "td", "b", "span")]
    assert shown[0] == "ap50 on the test images of each data set" and {
        "<i>",
        "0.500",
        "0.400–0.600",
        "best",
        "-",
    } <= set(shown)


def test_data_sets_with_different_scores_share_one_table() -> None:
    scores = dict.fromkeys(FIRST_COLUMNS[3:], 0.5)
    table = score_table(
        {
            ("m", "a"): {"scores": {"test": scores | {"seg": None}}},
            ("m", "b"): {"scores": {"test": scores | {"ap95": 0.1}}},
        }
    )
    assert list(table.columns) == [*FIRST_COLUMNS, "ap95"]
    assert table["seg"].isna().tolist() == [True, False] and table["ap95"].isna().tolist() == [True, False]


def test_markdown_is_aligned() -> None:
    table = pd.DataFrame({"model": ["a", "longer"], "iou": ["0.5", "-"]})
    assert markdown(table) == "| model  | iou |\n|--------|-----|\n| a      | 0.5 |\n| longer | -   |\n"
