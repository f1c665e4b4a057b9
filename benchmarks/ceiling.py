"""How good objects can be whose network has learnt the target of training without a fault, in volumes.

The annotations of two public volumes in UNET_DATA: cells that touch everywhere (plantseg, planes 1.57 pixels apart) and
nuclei (stardist3d, planes 2 pixels apart). Touching objects are separated as in the step weights, and the connected
components of what is left are scored against the annotation: what the ridge takes away, and what it does not part, is
lost for any network. Seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import tifffile
from scipy import ndimage

from unet_core.config.datasets import Weights
from unet_core.metrics.contingency import contingency
from unet_core.metrics.matching import average_precision, match
from unet_core.weights.distance import Spacing, separate

WIDTHS = (1.0, Weights().separation, 3.0)


def measure() -> dict[str, float]:
    """Score the targets and print the table.

    Returns
    -------
    dict
        <volume>_<score>_<width>: ap50 and ap75 of the components for widths of the ridge, in pixels along x, and
        vanished, the objects of which nothing is left.
    """
    figures = {}
    print(f"{'volume':<12} {'ridge':>6} {'objects':>8} {'parts':>6} {'vanished':>9} {'ap50':>6} {'ap75':>6}")
    for name, (labels, spacing) in volumes(Path(os.environ.get("UNET_DATA", "../shared/data"))).items():
        objects = len(np.unique(labels)) - 1
        for width in WIDTHS:
            apart = separate(labels, spacing, width)
            parts, count = ndimage.label(apart)
            table = contingency(labels, parts.astype(np.uint32))
            ap50, ap75 = (average_precision(match(table, threshold)) for threshold in (0.5, 0.75))
            vanished = objects - len(np.unique(apart[apart > 0]))
            print(f"{name:<12} {width:>6g} {objects:>8} {count:>6} {vanished:>9} {ap50:>6.3f} {ap75:>6.3f}")
            found = {"ap50": round(ap50, 3), "ap75": round(ap75, 3), "vanished": vanished}
            figures |= {f"{name}_{score}_{width:g}": value for score, value in found.items()}
    return figures


def volumes(data: Path) -> dict[str, tuple[np.ndarray, Spacing]]:
    """Labels and distances of voxels, in pixels along x, of each volume."""
    with h5py.File(data / "plantseg" / "sample_ovule.h5") as file:
        cells, (z, y, x) = file["label"][:], file["label"].attrs["element_size_um"]
    nuclei = tifffile.imread(data / "stardist3d" / "mask3d.tif")
    return {
        "plantseg": (cells.astype(np.uint32), (float(z / x), float(y / x), 1.0)),
        "stardist3d": (nuclei.astype(np.uint32), (2.0, 1.0, 1.0)),
    }
