"""Draws figure 3 of the U-Net paper from public images: ``python -m docs.weight_map [OUTPUT.png]``.

The variable UNET_DATA names the folder of the images.
"""

import os
import sys
from pathlib import Path

import numpy as np
import tifffile

from unet_core.blocks import Box
from unet_core.config.datasets import Weights
from unet_core.groundtruth.check.figures import weight_figure
from unet_core.weights.step import target_and_border

HERE = Path(__file__).parent
DATA = Path(os.environ.get("UNET_DATA", HERE.parents[1] / "shared" / "data"))
IMAGES = {
    # The frame in which two cells come closest; large cells and far apart, hence the large sigma.
    "PhC-C2DH-U373, frame 112, sigma 20": ("u373/01/t112.tif", "u373/01_GT/SEG/man_seg112.tif", 20),
    "nuclei (StarDist's example), sigma 5": ("stardist2d/img2d.tif", "stardist2d/mask2d.tif", 5),
}

# With w_c = 1 (plan.class_weights: none), so that the border term is seen.
rows = []
for name, (image, annotation, sigma) in IMAGES.items():
    labels = tifffile.imread(DATA / annotation).astype(np.uint32)[None]
    cfg = Weights(sigma=sigma)
    target, border = target_and_border(
        labels, labels > 0, np.zeros_like(labels), Box((0, 0, 0), labels.shape), (1.0, 1.0, 1.0), cfg
    )
    rows.append((name, tifffile.imread(DATA / image), labels[0], target[0], 1 + border[0]))
output = Path(sys.argv[1]) if sys.argv[1:] else HERE / "weight_map.png"
output.write_bytes(weight_figure(rows))
