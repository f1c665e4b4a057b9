"""Scores of public pairs of label images, against the values that independent tools gave for them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.test_matching import Pair, label_pairs
from unet_core.metrics.contingency import Contingency, contingency
from unet_core.metrics.det import Detection, count_operations, detection_score
from unet_core.metrics.matching import (
    Matching,
    average_precision,
    f1,
    match,
    matchings,
    panoptic_quality,
    precision,
    recall,
    segmentation_quality,
)
from unet_core.metrics.mean_ap import THRESHOLDS as MEAN_AP
from unet_core.metrics.seg import seg_scores

THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


@pytest.fixture(scope="module")
def oracle(real_data: Path) -> Path:
    folder = real_data / "metric_oracle"
    if not folder.is_dir():
        pytest.skip(f"no known scores: {folder} does not exist")
    return folder


@pytest.fixture(scope="module")
def expected(oracle: Path) -> dict[str, Any]:
    return json.loads((oracle / "expected.json").read_text())


@pytest.fixture(scope="module")
def pairs(oracle: Path) -> list[Contingency]:
    return [
        contingency(tifffile.imread(path), tifffile.imread(path.with_name(path.name.replace("gt", "pred"))))
        for path in sorted((oracle / "dsb_pairs").glob("*_gt.tif"))
    ]


def seg_of_folders(truth: Path, result: Path) -> tuple[float, int]:
    """SEG and number of objects of a Cell Tracking Challenge sequence."""
    scores = [
        score
        for path in sorted(truth.glob("man_seg*.tif"))
        for score in seg_scores(
            contingency(tifffile.imread(path), tifffile.imread(result / path.name.replace("man_seg", "mask")))
        )
    ]
    return float(np.mean(scores)), len(scores)


def test_seg_of_a_real_sequence(real_data: Path, oracle: Path, expected: dict[str, Any]) -> None:
    known = expected["u373_01_silver_vs_gold"]
    seg, objects = seg_of_folders(real_data / "u373" / "01_GT" / "SEG", oracle / "u373_01_ST_as_result")
    assert (seg, objects) == (pytest.approx(known["SEG"], abs=1e-12), known["objects"])


def test_seg_of_a_relabelled_sequence_is_one(oracle: Path) -> None:
    seg, objects = seg_of_folders(oracle / "java_test_data" / "GT" / "SEG", oracle / "java_test_data" / "res")
    assert seg == 1 and objects > 0


@pytest.mark.parametrize("truth", ["SEG", "TRA"])
def test_det_of_a_relabelled_sequence_is_one(truth: str, oracle: Path) -> None:
    folder = oracle / "java_test_data"
    counts = [
        count_operations(
            contingency(tifffile.imread(path), tifffile.imread(folder / "res" / f"mask{path.stem[-3:]}.tif"))
        )
        for path in sorted((folder / "GT" / truth).glob("man_*.tif"))
    ]
    total = functools.reduce(Detection.__add__, counts)
    assert detection_score(total) == 1 and total.objects > 0


def test_seg_of_real_nuclei(pairs: list[Contingency], expected: dict[str, Any]) -> None:
    scores = np.concatenate([seg_scores(table) for table in pairs])
    assert (scores.mean(), scores.size) == (
        pytest.approx(expected["dsb_pairs"]["SEG"], abs=1e-12),
        expected["dsb_pairs"]["objects"],
    )


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_matching_of_real_nuclei(threshold: float, pairs: list[Contingency], expected: dict[str, Any]) -> None:
    known = expected["dsb_pairs"][f"iou>={threshold}"]
    result = functools.reduce(Matching.__add__, (match(table, threshold) for table in pairs))
    scores = {
        "tp": result.tp,
        "fp": result.fp,
        "fn": result.fn,
        "precision": precision(result),
        "recall": recall(result),
        "accuracy": average_precision(result),
        "f1": f1(result),
        "panoptic_quality": panoptic_quality(result),
        "mean_matched_score": segmentation_quality(result),
    }
    # The known values are rounded to six digits.
    assert scores == pytest.approx(known, abs=5.1e-7)


def test_matching_equals_that_of_stardist_on_real_nuclei(oracle: Path) -> None:
    theirs = pytest.importorskip("stardist.matching", reason="StarDist is not installed (pip install '.[bench]')")
    images = label_pairs_of(oracle / "dsb_pairs")
    for truth, found in images:
        ours = matchings(contingency(truth, found), MEAN_AP)
        for threshold, counts, known in zip(MEAN_AP, ours, theirs.matching(truth, found, thresh=MEAN_AP), strict=True):
            assert (counts.tp, counts.fp, counts.fn) == (known.tp, known.fp, known.fn), threshold
            assert panoptic_quality(counts) == pytest.approx(known.panoptic_quality, abs=1e-6)


def test_seg_and_det_equal_those_of_py_ctcmetrics_on_real_nuclei(oracle: Path) -> None:
    metrics = pytest.importorskip(
        "ctc_metrics.metrics", reason="py-ctcmetrics is not installed (pip install '.[bench]')"
    )
    match_files = pytest.importorskip("ctc_metrics.utils.representations").match
    tables, ious, labels = [], [], []
    splits, found_nothing, found_too_much = 0, 0, 0
    for path in sorted((oracle / "dsb_pairs").glob("*_gt.tif")):
        result = path.with_name(path.name.replace("gt", "pred"))
        tables.append(contingency(tifffile.imread(path), tifffile.imread(result)))
        reference, computed, mapped_reference, mapped_computed, iou = match_files(str(path), str(result))
        labels.append(reference)
        ious.append(iou)
        partners = np.unique(mapped_computed)
        splits += len(mapped_computed) - partners.size
        found_nothing += len(reference) - len(mapped_reference)
        found_too_much += len(computed) - partners.size
    seg = np.concatenate([seg_scores(table) for table in tables])
    assert seg.mean() == pytest.approx(metrics.seg(labels, ious), abs=1e-9)
    counts = functools.reduce(Detection.__add__, map(count_operations, tables))
    assert counts[:3] == (splits, found_nothing, found_too_much)
    det = metrics.det(NS=splits, FN=found_nothing, FP=found_too_much, num_vertices=sum(map(len, labels)))
    assert detection_score(counts) == pytest.approx(det, abs=1e-12)


@given(label_pairs(1), st.sampled_from([(0.5001, 0.7, 0.9)]))
@settings(max_examples=50, deadline=None)
def test_matching_equals_that_of_stardist_on_small_arrays(pair: Pair, thresholds: tuple[float, ...]) -> None:
    theirs = pytest.importorskip("stardist.matching", reason="StarDist is not installed (pip install '.[bench]')")
    known = theirs.matching(*pair, thresh=thresholds)
    assert [counts[:3] for counts in matchings(contingency(*pair), thresholds)] == [(k.tp, k.fp, k.fn) for k in known]


def label_pairs_of(folder: Path) -> list[Pair]:
    return [
        (tifffile.imread(path), tifffile.imread(path.with_name(path.name.replace("gt", "pred"))))
        for path in sorted(folder.glob("*_gt.tif"))
    ]
