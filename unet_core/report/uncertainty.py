"""Which images to annotate next: those whose probabilities are the least sure of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_core.blocks import Box, Grid
from unet_core.predict.probabilities import with_background
from unet_core.runtime import read_json
from unet_core.store.store import Result

# Entropy, as a share of the highest one, from which a voxel is uncertain; and share of an image that a few uncertain
# voxels must stand up to. Both were chosen on three public data sets (docs/metrics.md).
UNCERTAIN_ENTROPY, DAMPING = 0.25, 0.001
# Voxels of an image that are looked at, in boxes of one plane.
MAX_VOXELS, BOX_SIDE = 2**21, 512


class Uncertainty(NamedTuple):
    """What makes an image worth annotating; may be added up.

    Attributes
    ----------
    voxels, uncertain : int
        Voxels that were looked at, and the uncertain ones of them.
    entropy : float
        Sum over the uncertain ones.
    """

    voxels: int
    uncertain: int
    entropy: float

    @property
    def score(self) -> float:
        """Mean entropy of the uncertain voxels, damped where they are few: 0 (sure of all) to 1."""
        return self.entropy / (self.uncertain + DAMPING * self.voxels) if self.uncertain else 0.0


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each voxel as a share of the highest one.

    Parameters
    ----------
    probabilities : ndarray of float, shape (classes, ...)
        Of each class, background first.

    Returns
    -------
    ndarray of float32, shape (...)

    Examples
    --------
    >>> entropy(np.array([[0.5, 1.0], [0.5, 0.0]])).tolist()
    [1.0, 0.0]
    """
    parts = probabilities.astype(np.float32)
    logs = np.log2(parts, where=parts > 0, out=np.zeros_like(parts))
    # Not the negative sum, which would be -0 where a class is sure.
    return (0 - (parts * logs).sum(axis=0)) / np.float32(np.log2(len(parts)))


def measure_uncertainty(probabilities: np.ndarray) -> Uncertainty:
    """What some voxels add; the argument is as for `entropy`."""
    values = entropy(probabilities)
    uncertain = values > UNCERTAIN_ENTROPY
    return Uncertainty(values.size, int(uncertain.sum()), float(values[uncertain].sum(dtype=np.float64)))


def sampled_boxes(shape: tuple[int, int, int], most: int = MAX_VOXELS) -> list[Box]:
    """Boxes of one plane, regularly spread over an image, of at most about `most` voxels together."""
    grid = Grid(shape, (1, min(BOX_SIDE, shape[1]), min(BOX_SIDE, shape[2])))
    count = max(1, min(len(grid), most // (grid.block[1] * grid.block[2])))
    # The middle of each part: of a volume also one place lies inside.
    return [grid.box((2 * index + 1) * len(grid) // (2 * count)) for index in range(count)]


def uncertainty_of_result(result: Result) -> tuple[Uncertainty, int]:
    """What makes a sample worth annotating, and its least certain plane of those that were looked at.

    Parameters
    ----------
    result : Result
        Its probabilities. Of large ones regularly spread places are read, one by one.
    """
    whole, by_plane = Uncertainty(0, 0, 0.0), dict[int, Uncertainty]()
    for box in sampled_boxes(result.shape):
        found = measure_uncertainty(with_background(result.read(box)[:, 0]))
        plane = box.start[0]
        by_plane[plane] = Uncertainty(*np.add(by_plane.get(plane, (0, 0, 0.0)), found).tolist())
        whole = Uncertainty(*np.add(whole, found).tolist())
    return whole, max(by_plane, key=lambda plane: by_plane[plane].score)


def annotate_next(pairs: Sequence[tuple[str, str]], results: Path) -> pd.DataFrame:
    """The samples without annotation of each model and data set, the least certain first.

    There are none where no probabilities are stored.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Models and the data sets that they were applied to.
    results : Path
        Folder of all results.

    Returns
    -------
    DataFrame
        model, dataset, rank, sample, uncertainty (`Uncertainty.score`), uncertain_share (of the voxels that were
        looked at) and plane (the least certain).
    """
    rows = []
    for model, dataset in pairs:
        stamp = read_json(results / "predict" / model / f"{dataset}.json")
        if stamp["dtype"] == "mask":
            continue
        found = [
            (name, *uncertainty_of_result(Result(results / "predict" / model / f"{dataset}.zarr" / name)))
            for name, entry in stamp["samples"].items()
            if entry["split"] == "unannotated"
        ]
        found.sort(key=lambda item: (-item[1].score, item[0]))
        rows += [
            (model, dataset, rank, name, own.score, own.uncertain / own.voxels, plane)
            for rank, (name, own, plane) in enumerate(found, 1)
        ]
    return pd.DataFrame(rows, columns=["model", "dataset", "rank", "sample", "uncertainty", "uncertain_share", "plane"])
