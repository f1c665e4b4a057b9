"""Validation: scores of whole samples by the overlap-tile strategy, as in prediction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from scipy import ndimage

from unet_core.blocks import Grid
from unet_core.config.datasets import IGNORE
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import match
from unet_core.metrics.seg import seg_scores
from unet_core.network.model import network_function
from unet_core.network.tiles import predict_box
from unet_core.network.unet import NO_POOLING, UNet
from unet_core.train.processes import SINGLE_PROCESS, Processes
from unet_core.train.sampling import TrainingSample

# Objects are looked for in pieces of this size, by the dimensions of the network, so that memory stays small whatever
# the size of a sample.
VALIDATION_BLOCK = {2: (1, 1024, 1024), 3: (64, 512, 512)}


def validate(
    net: UNet,
    samples: list[TrainingSample],
    class_weights: torch.Tensor,
    tile: int | Sequence[int],
    precision: str,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """Weighted loss, foreground IoU, SEG and AP at IoU 0.5 of whole samples.

    Objects are connected pixels, by a face, that are rather foreground than background. Those that the border of a
    piece of 1024 x 1024 pixels (in 3D 64 x 512 x 512) cuts count in each piece.

    Parameters
    ----------
    net : UNet
        Network; left in evaluation mode.
    samples : list of TrainingSample
        What to validate on; may be empty.
    class_weights : Tensor
        w_c.
    tile : int or (int, int, int)
        Largest side of an input tile; in 3D its extent.
    precision : {"float32", "bfloat16", "float16"}
        Arithmetic of the network.
    processes : Processes
        This process among those that share the work.

    Returns
    -------
    dict
        `validation_loss`, `validation_iou`; `validation_seg` and `validation_ap50` where the samples have instances;
        empty without samples.
    """
    net.eval()
    w_c = class_weights.cpu().numpy()
    z, y, x = VALIDATION_BLOCK[2 if net.shape.z == NO_POOLING else 3]
    piece = (max(z, net.shape.z.step), y, x)
    pixels, objects = np.zeros(4), np.zeros(4)
    processes.share(net.buffers())
    # Pieces of all samples in turn, so that each process has some where samples are small.
    pieces = ((sample, box) for sample in samples for box in Grid(sample.target.shape, piece))
    for sample, box in islice(pieces, processes.rank, None, processes.size):
        function = network_function(net, sample.offset.ravel().tolist(), sample.scale.ravel().tolist(), precision)
        probability = predict_box(sample.image, box, function, shape=net.shape, largest=tile)
        target = sample.target.read(box)
        pixels += count_pixels(probability, target, sample.border.read(box), w_c)
        if sample.instances is not None:
            objects += count_objects(probability, sample.instances.read(box), target == IGNORE)
    loss, annotated, both, either, seg, true, matched, missed_or_wrong = processes.sum(
        torch.from_numpy(np.concatenate([pixels, objects]))
    ).tolist()
    scores: dict[str, float] = {}
    if annotated:
        scores = {"validation_loss": loss / annotated, "validation_iou": both / either if either else 1.0}
    if annotated and all(sample.instances is not None for sample in samples):
        scores["validation_seg"] = seg / true if true else 1.0
        scores["validation_ap50"] = matched / (matched + missed_or_wrong) if matched + missed_or_wrong else 1.0
    return scores


def count_pixels(probability_KZYX: np.ndarray, target: np.ndarray, border: np.ndarray, w_c: np.ndarray) -> np.ndarray:
    """Sums over the annotated pixels of a block.

    The weighted loss, the number of pixels, and intersection and union of the foreground.
    """
    valid = target != IGNORE
    truth = np.where(valid, target, 0)
    chosen = np.take_along_axis(probability_KZYX, truth[None].astype(np.int64), axis=0)[0]
    losses = ((w_c[truth] + border) * -np.log(np.maximum(chosen, 1e-7)))[valid]
    foreground = probability_KZYX[0] < 0.5
    both, either = (foreground & (truth > 0))[valid], (foreground | (truth > 0))[valid]
    return np.array([losses.sum(dtype=np.float64), valid.sum(), both.sum(), either.sum()], dtype=np.float64)


def count_objects(probability_KZYX: np.ndarray, instances: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """Counts of the objects of a block.

    The sum of SEG, true objects, matches at IoU 0.5, and true and found objects without match.
    """
    found, _ = ndimage.label(probability_KZYX[0] < 0.5)
    table = contingency(instances, found.astype(np.uint32), ignore)
    seg, pairs = seg_scores(table), match(table, 0.5)
    return np.array([seg.sum(), seg.size, pairs.tp, pairs.fp + pairs.fn], dtype=np.float64)
