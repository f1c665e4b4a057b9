"""Training tiles straight from the stores: a random place, a random field, one read of what the field covers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from unet_core import unet
from unet_core.augment import random_positions, sample_at, vary_gray
from unet_core.blocks import Box
from unet_core.config import IGNORE, Augment
from unet_core.tiles import Readable, read_mirrored


@dataclass(frozen=True)
class TrainingSample:
    """One annotated sample: where its arrays are read and how its gray values are normalised."""

    image: Readable
    target: Readable
    border: Readable
    offset: np.ndarray
    scale: np.ndarray


class Batch(NamedTuple):
    """Tiles of one training step."""

    image_NCYX: torch.Tensor
    target_NYX: torch.Tensor
    border_NYX: torch.Tensor


@dataclass(frozen=True)
class Sampler:
    """Draws batches; batch number n depends on the seed and n alone, so that training can go on anywhere, in any number of processes."""

    samples: list[TrainingSample]
    tile: int
    depth: int
    batch: int
    seed: int
    augment: Augment

    def draw(self, number: int, rank: int = 0, size: int = 1) -> Batch:
        """Batch number `number`, or the share of it of process `rank` of `size`: every `size`-th tile."""
        voxels = np.array([np.prod(sample.target.shape) for sample in self.samples], dtype=np.float64)
        tiles = []
        for index in range(rank, self.batch, size):
            # A stream of random numbers for each tile: the batch is the same for any number of processes.
            rng = np.random.default_rng([self.seed, number, index])
            # Each pixel of the training set is equally likely to be the centre of a tile.
            chosen = rng.choice(len(self.samples), p=voxels / voxels.sum())
            tiles.append(self._tile(self.samples[chosen], rng))
        return Batch(*(torch.stack(parts) for parts in zip(*tiles, strict=True)))

    def batches(self, start: int, stop: int, rank: int = 0, size: int = 1) -> Iterator[Batch]:
        """Batches `start` to `stop`, or the share of a process; the next one is prepared while one is used."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(self.draw, start, rank, size)
            for number in range(start, stop):
                batch = coming.result()
                if number + 1 < stop:
                    coming = pool.submit(self.draw, number + 1, rank, size)
                yield batch

    def _tile(self, sample: TrainingSample, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        depth, height, width = sample.target.shape
        plane = int(rng.integers(depth))
        centre = torch.tensor([rng.uniform(0, height - 1), rng.uniform(0, width - 1)], dtype=torch.float32)
        positions = random_positions(rng, self.tile, self.augment) + centre
        halo = unet.halo(self.depth)
        inner = positions[halo:-halo, halo:-halo]
        gray, start = _covering(sample.image, positions, plane)
        normalised = (gray.astype(np.float32) - sample.offset) * sample.scale
        image = sample_at(torch.from_numpy(normalised), positions - start, "bicubic")
        classes, start = _covering(sample.target, inner, plane)
        # 255 (ignore) must not be interpolated: nearest keeps values as they are.
        target = sample_at(torch.from_numpy(classes[None].astype(np.float32)), inner - start, "nearest")[0].long()
        weights, start = _covering(sample.border, inner, plane)
        border = sample_at(torch.from_numpy(weights[None].astype(np.float32)), inner - start, "bilinear")[0]
        return vary_gray(image, rng, self.augment), target, torch.where(target == IGNORE, 0.0, border)


def _covering(source: Readable, positions_YX2: torch.Tensor, plane: int) -> tuple[np.ndarray, torch.Tensor]:
    """Smallest part of a plane that interpolation at the positions needs, mirrored beyond its edges, and its start."""
    # Bicubic interpolation looks two pixels farther.
    low = positions_YX2.amin(dim=(0, 1)).floor().long() - 2
    high = positions_YX2.amax(dim=(0, 1)).ceil().long() + 3
    box = Box((plane, int(low[0]), int(low[1])), (plane + 1, int(high[0]), int(high[1])))
    data = read_mirrored(source, box)
    return data[..., 0, :, :], low.float()
