"""A few samples that stand for all of a data set.

Made-up objects and probabilities stand in for those that are not there yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from unet_core.config.datasets import Annotation, Dataset, PixelSize
from unet_core.config.options import Predict
from unet_core.demo import touching_objects
from unet_core.groundtruth.images import size_of
from unet_core.groundtruth.samples import Sample
from unet_core.images.readers import open_image, to_czyx
from unet_core.predict.probabilities import to_mask, to_stored
from unet_core.store.store import Result, open_labels, read_attributes

# Samples of more voxels are stood in for by a piece of their image, with generated objects.
MAX_SAMPLE_VOXELS = 2**23
REHEARSED_VOXELS, MAX_SAMPLES = 2**24, 5
# By the dimensions of the networks that it is for.
PIECE_SHAPE = {2: (1, 2048, 2048), 3: (64, 256, 256)}


@dataclass(frozen=True)
class Sized:
    """A sample, and the shape of its image: channels, z, y, x."""

    sample: Sample
    shape: tuple[int, int, int, int]

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return self.shape[1] * self.shape[2] * self.shape[3]


def choose_samples(sized: list[Sized]) -> list[Sized]:
    """A few samples, of each split in turn, whose sizes are near the mean."""
    mean = sum(item.voxels for item in sized) / len(sized)
    count = min(MAX_SAMPLES, max(2, int(REHEARSED_VOXELS // max(min(mean, MAX_SAMPLE_VOXELS), 1))))
    by_split = [
        sorted((item for item in sized if item.sample.split == split), key=lambda item: abs(item.voxels - mean))
        for split in ("train", "validation", "test", "unannotated")
    ]
    turns = [group[turn] for turn in range(len(sized)) for group in by_split if turn < len(group)]
    return turns[:count]


def as_pieces(cfg: Dataset, picks: list[Sized], folder: Path, dimensions: int) -> tuple[Dataset, list[Sized]]:
    """A data set of pieces of large images, and its samples, for networks of so many dimensions."""
    samples = [piece_of(item, cfg, folder, seed, dimensions) for seed, item in enumerate(picks)]
    source = Annotation(format="labels", path=f"{folder}/labels/{{stem}}.tif")
    size = PixelSize(**dict(zip("zyx", size_of(picks[0].sample, cfg), strict=True)))
    update = {"axes": "czyx", "channels": None, "pixel_size": size, "annotations": [source] if cfg.annotations else []}
    return cfg.model_copy(update=update), samples


def piece_of(sized: Sized, cfg: Dataset, folder: Path, seed: int, dimensions: int = 2) -> Sized:
    """A piece of a large image as a sample of its own, annotated with generated objects if the image is annotated."""
    sample, name = sized.sample, sized.sample.name
    with open_image(sample.image, sample.internal) as opened:
        view = to_czyx(opened, sample.axes, sample.time)
        extent = [min(n, limit) for n, limit in zip(sized.shape[1:], PIECE_SHAPE[dimensions], strict=True)]
        starts = [(n - e) // 2 for n, e in zip(sized.shape[1:], extent, strict=True)]
        z, y, x = (slice(a, a + e) for a, e in zip(starts, extent, strict=True))
        image = view[z, y, x][cfg.channels or slice(None)]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "images" / f"{name}.tif", image, photometric="minisblack")
    labels: tuple[tuple[Path, ...], ...] = ()
    if sample.split != "unannotated":
        tifffile.imwrite(folder / "labels" / f"{name}.tif", objects(image.shape[1:], seed)[0], photometric="minisblack")
        labels = ((folder / "labels" / f"{name}.tif",),)
    piece = Sample(name, folder / "images" / f"{name}.tif", "", None, labels, sample.split, "czyx")
    return Sized(piece, (image.shape[0], *image.shape[1:]))


def objects(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Generated objects (z, y, x), the same in each plane: a tile of them, repeated."""
    tile = touching_objects(np.random.default_rng(seed), (256, 256), radius=14, spacing=1.0)
    _, height, width = shape
    plane = np.tile(tile, (-(-height // 256), -(-width // 256)))[:height, :width]
    return np.broadcast_to(plane, shape)


def write_stand_in(path: Path, truth: Path, cfg: Predict, mask_threshold: float | None, seed: int) -> None:
    """Write probabilities as a trained network might give them: soft at borders, with errors here and there."""
    result = Result(path)
    if (truth / path.name / "labels").is_dir():
        instances, classes, _ = open_labels(truth, path.name)
        kinds = np.where(instances.read_all() > 0, classes.read_all(), 0)
    else:
        kinds = (objects(result.shape, seed) > 0).astype(np.uint8)
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, kinds.shape).astype(np.float32), (0, 2, 2))
    noise /= max(float(noise.std()), 1e-6)
    probability = np.zeros((result.channels or 1, *kinds.shape), np.float32)
    for number in range(probability.shape[0]):
        soft = ndimage.gaussian_filter((kinds == number + 1).astype(np.float32), (0, 2, 2))
        # Between the entropy of the hardly trained networks of the demo and that of well trained ones.
        probability[number] = 1 / (1 + np.exp(-14 * (soft - 0.5) - noise))
    digest = read_attributes(path)["digest"]
    stored = (
        to_stored(probability, cfg.dtype)
        if mask_threshold is None
        else to_mask(to_stored(probability, "uint8"), mask_threshold)
    )
    for index in range(len(result.grid)):
        result.write(index, stored[(..., *result.grid.box(index).slices)], digest)
