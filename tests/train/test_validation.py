"""Scores of a validation against brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.conftest import ArraySource
from tests.train.test_sampling import sample
from unet_core.config.options import Network
from unet_core.network.model import build
from unet_core.network.unet import input_size
from unet_core.train import validation
from unet_core.train.validation import count_objects, validate

NETWORK = Network(depth=2, width=4, dropout=0.3, norm="batch")


def test_objects_are_counted_as_by_brute_force() -> None:
    truth = np.zeros((1, 12, 30), np.uint32)
    truth[0, 1:5, 1:5], truth[0, 1:5, 10:14], truth[0, 8:11, 20:29] = 7, 8, 9
    found = np.zeros((12, 30), bool)
    found[1:5, 2:6] = True  # 12 of 20 pixels: IoU 0.6
    found[2:4, 10:14] = True  # half of the object: too little for SEG, and IoU 0.5
    found[8:11, 0:3] = True  # nothing is there
    ignore = np.zeros_like(truth, bool)
    ignore[0, 8:11, 18:] = True
    found[8:10, 20:22] = True  # in an area to be ignored
    probability = np.stack([1.0 - found, found])[:, None]
    seg, true, matched, others = count_objects(probability, truth, ignore)
    assert (seg, true, matched, others) == (pytest.approx(0.6), 2, 2, 1)


@pytest.mark.parametrize("block", [(1, 1024, 1024), (1, 16, 32)])
def test_scores_of_a_network_are_sums_over_blocks(block: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_BLOCK", {2: block})
    given = sample((2, 50, 44))
    assert isinstance(given.target, ArraySource)
    # One true object in each plane of a block, all of it; the network finds all or nothing of it.
    given = dataclasses.replace(given, instances=ArraySource(np.ones((2, 50, 44), np.uint32)))
    torch.manual_seed(0)
    net = build(NETWORK, 1, 2)
    net.head.bias.data[:] = torch.tensor([-100.0, 100.0])
    scores = validate(net, [given], torch.ones(2), input_size(40, 2), "float32")
    assert scores["validation_seg"] == scores["validation_ap50"] == 1.0
    net.head.bias.data[:] = torch.tensor([100.0, -100.0])
    scores = validate(net, [given], torch.ones(2), input_size(40, 2), "float32")
    assert scores["validation_seg"] == scores["validation_ap50"] == scores["validation_iou"] == 0.0


def test_samples_without_instances_have_no_scores_of_objects() -> None:
    net = build(NETWORK, 1, 2)
    assert validate(net, [sample()], torch.ones(2), input_size(40, 2), "float32").keys() == {
        "validation_loss",
        "validation_iou",
    }
