"""Weighted cross-entropy against its formula."""

from __future__ import annotations

import torch

from unet_core.config.datasets import IGNORE
from unet_core.train.loss import weighted_cross_entropy


def test_loss_is_the_weighted_sum_over_annotated_pixels_and_counts_them() -> None:
    torch.manual_seed(0)
    scores, border = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    target = torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = IGNORE
    class_weights = torch.tensor([0.5, 1.0, 2.0])
    total, count = 0.0, 0
    for n in range(2):
        for y in range(4):
            for x in range(5):
                label = int(target[n, y, x])
                if label != IGNORE:
                    p = torch.softmax(scores[n, :, y, x].double(), dim=0)[label]
                    total += float((class_weights[label] + border[n, y, x]) * -torch.log(p))
                    count += 1
    loss, pixels = weighted_cross_entropy(scores, target, class_weights, border)
    assert abs(loss.item() - total) < 1e-4 and pixels.item() == count


def test_ignored_pixels_change_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 3, 3, requires_grad=True)
    target = torch.tensor([[[0, 1, IGNORE]] * 3])
    border = torch.zeros(1, 3, 3)
    loss, _ = weighted_cross_entropy(scores, target, torch.ones(2), border)
    loss.backward()
    assert scores.grad is not None and (scores.grad[..., 2] == 0).all() and (scores.grad[..., :2] != 0).all()
    changed = scores.detach().clone()
    changed[..., 2] = 100
    border[..., 2] = 100
    assert weighted_cross_entropy(changed, target, torch.ones(2), border)[0].item() == loss.item()


def test_a_tile_that_is_all_ignored_has_loss_0() -> None:
    target = torch.full((1, 2, 2), IGNORE)
    loss, pixels = weighted_cross_entropy(torch.randn(1, 2, 2, 2), target, torch.ones(2), torch.zeros(1, 2, 2))
    assert loss.item() == pixels.item() == 0
