"""Scores of public pairs of label images, against the values that independent tools gave for them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unet_core.metrics.contingency import Contingency, contingency
from unet_core.metrics.det import Detection, count_operations, detection_score
from unet_core.metrics.matching import Matching, average_precision, f1, match, panoptic_quality, precision, recall, segmentation_quality
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
        for score in seg_scores(contingency(tifffile.imread(path), tifffile.imread(result / path.name.replace("man_seg", "mask"))))
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
        count_operations(contingency(tifffile.imread(path), tifffile.imread(folder / "res" / f"mask{path.stem[-3:]}.tif")))
        for path in sorted((folder / "GT" / truth).glob("man_*.tif"))
    ]
    total = functools.reduce(Detection.__add__, counts)
    assert detection_score(total) == 1 and total.objects > 0


def test_seg_of_real_nuclei(pairs: list[Contingency], expected: dict[str, Any]) -> None:
    scores = np.concatenate([seg_scores(table) for table in pairs])
    assert (scores.mean(), scores.size) == (pytest.approx(expected["dsb_pairs"]["SEG"], abs=1e-12), expected["dsb_pairs"]["objects"])


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
