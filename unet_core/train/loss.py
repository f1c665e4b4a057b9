"""Pixel-wise softmax with weighted cross-entropy (paper, equation 1)."""

from __future__ import annotations

import torch
from torch.nn import functional

from unet_core.config.datasets import IGNORE


def weighted_cross_entropy(
    scores_NKYX: torch.Tensor, target_NYX: torch.Tensor, class_weights_K: torch.Tensor, border_NYX: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of w(x) * -log p(x) over the pixels that are not ignored, with w = w_c + border term, and their number.

    The paper sums over the pixels of its single tile. Training divides the sum by the number of annotated pixels, so
    that the learning rate does not depend on tile size, batch size or ignored area; it gets both, since with several
    processes the number counts the tiles of all of them.

    Parameters
    ----------
    scores_NKYX : Tensor
        Class scores before the softmax.
    target_NYX : Tensor
        Class of each pixel (int64); 255 = ignored.
    class_weights_K : Tensor
        w_c, the weight of each class.
    border_NYX : Tensor
        Border term w0 exp(-(d1 + d2)^2 / (2 sigma^2)) of each pixel.

    Returns
    -------
    Tensor, Tensor
        Sum and number, scalars; both 0 where all pixels are ignored.
    """
    valid = target_NYX != IGNORE
    safe = torch.where(valid, target_NYX, 0)
    nll = functional.cross_entropy(scores_NKYX.float(), safe, reduction="none")
    weight = (class_weights_K[safe] + border_NYX) * valid
    return (weight * nll).sum(), valid.sum()
