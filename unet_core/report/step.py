"""Step report: one table of all scores, and one self-contained HTML page with pictures.

The table is written as CSV, Parquet, Markdown and LaTeX.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from unet_core.config.options import Report
from unet_core.files import write_atomic
from unet_core.pictures import KIND_COLOURS
from unet_core.report import provenance
from unet_core.report.cost import HOURS, cost_table, format_hours
from unet_core.report.gallery import Places, short
from unet_core.report.pairs import SHOWN, compare_models, pairs_of
from unet_core.report.sections import (
    MAX_ROWS,
    TEXT_COLUMNS,
    annotation_views,
    describe_model,
    describe_pair,
    describe_tuning,
    weight_maps,
)
from unet_core.report.summary import MATRIX_MEASURE, matrix_of, matrix_tables, measures_of, summary_rows
from unet_core.report.uncertainty import annotate_next
from unet_core.runtime import read_json

logger = logging.getLogger(__name__)

FIRST_COLUMNS = [
    "model",
    "dataset",
    "split",
    "n_images",
    "n_objects",
    "iou",
    "dice",
    "seg",
    "ap50",
    "ap75",
    "pixel_error",
    "rand_error",
]
MEANINGS = {
    "iou, dice": "foreground, pixel by pixel: intersection over union, and Dice coefficient (with a class: "
    "of it alone)",
    "class_apNN": "the same as apNN, but an object counts as found only with its own class; "
    "apNN_CLASS and pqNN_CLASS are those of the objects of one class",
    "seg": "Cell Tracking Challenge: mean Jaccard index of annotated objects with the found object covering more than "
    "half of each, else 0",
    "apNN": "average precision: tp / (tp + fp + fn) of objects matched at an IoU of at least NN %",
    "precisionNN, recallNN, f1_NN": "share of found objects that match, share of annotated ones that do, and F1, "
    "at the same matching",
    "pqNN, sqNN, rqNN": "panoptic quality and its factors: mean IoU of the matches, "
    "and recognition quality (which equals F1)",
    "ap": "mean of AP over the IoU thresholds 0.50, 0.55 ... 0.95",
    "pixel_error": "share of pixels whose foreground is wrong (ISBI 2012)",
    "rand_error": "adapted Rand error over annotated objects, mean of images",
    "voi_split, voi_merge": "variation of information over annotated objects, in bits (0 is best): splits and merges, "
    "mean of images",
    "aji": "aggregated Jaccard index, mean of images",
    "v_rand, v_info": "F scores of ISBI 2012 over annotated objects, mean of images, borders as they are",
    "v_rand_thin, v_info_thin": "the same after borders of the result were thinned, as in ISBI 2012",
    "warping_error": "share of pixels that moving borders cannot mend: objects split, merged, lost or made (ISBI 2012)",
    "boundary_f1": "F1 of boundary voxels within evaluate.boundary_tolerance of the other boundary",
    "hausdorff": "95 % Hausdorff distance of boundaries in micrometres (0 is best), mean of images",
    "det": "Cell Tracking Challenge: 1 - cost of mending the result / cost of drawing it all, "
    "with annotated masks as markers",
}


def score_table(evaluations: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    """One row per model, data set and split.

    Parameters
    ----------
    evaluations : dict
        (model, data set) -> stamp of the step evaluate.
    """
    rows = [
        {"model": model, "dataset": dataset, "split": split, **scores}
        for (model, dataset), stamp in evaluations.items()
        for split, scores in stamp["scores"].items()
    ]
    table = pd.DataFrame(rows, columns=None if rows else FIRST_COLUMNS)
    return table[[*FIRST_COLUMNS, *(column for column in table.columns if column not in FIRST_COLUMNS)]]


def make_report(
    cfg: Report,
    *,
    evaluations: dict[tuple[str, str], Path],
    predictions: list[tuple[str, str]],
    jobs: dict[str, list[str]],
    config: dict[str, Any],
    results: Path,
    folder: Path,
) -> None:
    """Write tables and page.

    Parameters
    ----------
    cfg : Report
        Options.
    evaluations : dict
        (model, data set) -> stamp of the step evaluate, for annotated data sets.
    predictions : list of (str, str)
        All pairs of model and data set that were segmented.
    jobs : dict
        Step -> names of its jobs, whose cost is shown.
    config : dict
        The whole configuration of the run, as the user gave it.
    results : Path
        Folder of all results.
    folder : Path
        Gets ``table.csv`` and ``table.parquet`` (all scores), ``table.md`` and ``table.tex`` (the first columns),
        ``matrix.csv`` and ``matrix.md`` (AP50 on the test images, models by data sets), ``pairs.csv`` (the best model
        of each data set compared with the others), ``annotate_next.csv``,
        ``config.yaml`` (the configuration that repeats the run) and ``report.html``.
    """
    stamps = {key: read_json(path) for key, path in evaluations.items()}
    table = score_table(stamps)
    shown = table.map(_shown)
    write_tables(table, shown[FIRST_COLUMNS], folder)
    ranking = annotate_next(predictions, results)
    write_atomic(folder / "annotate_next.csv", ranking.to_csv(index=False, float_format="%.5f").encode())
    text = provenance.config_text(config)
    write_atomic(folder / "config.yaml", text.encode())
    names = list(dict.fromkeys(model for model, _ in predictions))
    models = [
        describe_model(name, results)
        | {
            "tuned": describe_tuning(name, results) if name in jobs.get("tune", ()) else None,
            "datasets": [
                describe_pair(Places(results, name, d), cfg.previews, len(predictions))
                for m, d in predictions
                if m == name
            ],
        }
        for name in names
    ]
    summary = summary_rows(stamps, results / "evaluate" / "history")
    matrix = matrix_of(summary)
    numbers, texts = matrix_tables(matrix)
    write_atomic(folder / "matrix.csv", numbers.to_csv(index=False, float_format="%.5f").encode())
    write_atomic(folder / "matrix.md", markdown(texts).encode())
    pairs = compare_models(stamps, results / "evaluate" / "history")
    write_atomic(folder / "pairs.csv", pairs.to_csv(index=False, float_format="%.5f").encode())
    page = _render(
        summary=summary,
        matrix=matrix if len(matrix.models) > 1 or len(matrix.datasets) > 1 else None,
        matrix_measure=MATRIX_MEASURE,
        pairs=pairs_of(pairs),
        pair_measures=SHOWN,
        measures=measures_of(stamps),
        table=shown,
        meanings=MEANINGS,
        models=models,
        ranking=ranking.head(MAX_ROWS),
        next_views=annotation_views(ranking, results),
        weights=weight_maps(names, cfg.previews, results),
        cost=_shown_cost(cost_table(jobs, results / "benchmarks")),
        software=provenance.software(predictions, results),
        arithmetic=provenance.arithmetic(predictions, results),
        digests=provenance.digests(predictions, results),
        config=text,
        command=provenance.command(text, folder / "config.yaml"),
    )
    write_atomic(folder / "report.html", page.encode())
    logger.info("report: %s\n%s", folder / "report.html", markdown(shown[FIRST_COLUMNS]))


def write_tables(table: pd.DataFrame, shown: pd.DataFrame, folder: Path) -> None:
    """Write all scores as CSV and Parquet, and the first columns as Markdown and LaTeX."""
    write_atomic(folder / "table.csv", table.to_csv(index=False, float_format="%.5f").encode())
    numbers = {column: float for column in table.columns if column not in TEXT_COLUMNS | {"n_images", "n_objects"}}
    write_atomic(folder / "table.parquet", table.astype(numbers).to_parquet(index=False))
    write_atomic(folder / "table.md", markdown(shown).encode())
    columns = "lll" + "r" * (len(shown.columns) - 3)
    write_atomic(folder / "table.tex", shown.to_latex(index=False, escape=True, column_format=columns).encode())


def _render(**content: Any) -> str:
    """The page, which runs its own script, known by its hash, and nothing else.

    Neither other scripts nor anything from a network may run.
    """
    here = Path(__file__).parent
    script = (here / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": _shown, "short": short}
    return environment.get_template("report.html.j2").render(
        content,
        texts=TEXT_COLUMNS,
        kinds=KIND_COLOURS,
        rows=MAX_ROWS,
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def markdown(table: pd.DataFrame) -> str:
    """Table of text as Markdown, its columns aligned."""
    cells = [
        [str(column) for column in table.columns],
        *([str(value) for value in row] for row in table.itertuples(index=False)),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _shown(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _shown_cost(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(format_hours) for name in HOURS}).map(_shown)
