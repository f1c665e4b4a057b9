"""Training tiles straight from the stores: a random place, a random field, one read of what the field covers."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import IGNORE
from unet_core.config.options import Augment
from unet_core.network.tiles import Readable, read_mirrored
from unet_core.network.unet import sides
from unet_core.train.augment import CPU, random_positions, sample_at, vary_gray

Wanted = Callable[[np.ndarray], np.ndarray]

# Batches that are prepared while one is used.
PREFETCHED_BATCHES = 2
# So often a place is drawn anew where nothing is annotated; half as often where an object is wanted and there is none.
MAX_DRAWS = 100
# So far around a place, in pixels, what is wanted is looked for; in 3D, with all planes of the tile's output.
SEARCH_RADIUS, SEARCH_RADIUS_3D = 512, 128


@dataclass(frozen=True)
class TrainingSample:
    """One annotated sample: its arrays, the normalisation of its gray values, and its number of annotated pixels.

    Its true instances are for validation alone.
    """

    image: Readable
    target: Readable
    border: Readable
    offset: np.ndarray
    scale: np.ndarray
    annotated: int
    dataset: str = ""
    instances: Readable | None = None


class Batch(NamedTuple):
    """Tiles of one training step; in 3D with Z before Y."""

    image_NCYX: torch.Tensor
    target_NYX: torch.Tensor
    border_NYX: torch.Tensor


@dataclass(frozen=True)
class Sampler:
    """Draws batches, of which batch number n depends on the seed and n alone.

    So training can go on anywhere, in any number of processes.

    Parameters
    ----------
    samples : list of TrainingSample
        What tiles are cut from.
    tile : int or (int, int, int)
        Side of the input tile; in 3D its extent, with equal sides in planes.
    halo : (int, int, int)
        Voxels on each side of it of which only the image is needed, along z, y, x.
    batch : int
        Tiles per batch.
    seed : int
        Of all random numbers.
    augment : Augment
        How tiles are varied.
    foreground : float
        Share of tiles that are centred on a pixel of an object.
    balanced : bool
        Each data set gives as many tiles; else as many as it has annotated pixels.
    device : torch.device
        Where tiles are interpolated and varied.
    """

    samples: list[TrainingSample]
    tile: int | ZYX
    halo: ZYX
    batch: int
    seed: int
    augment: Augment
    foreground: float = 0.0
    balanced: bool = False
    device: torch.device = CPU

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Probability of each sample to be where a tile is cut from."""
        pixels = np.array([sample.annotated for sample in self.samples], dtype=np.float64)
        if self.balanced:
            names = [sample.dataset for sample in self.samples]
            pixels /= [sum(n for n, other in zip(pixels, names, strict=True) if other == name) or 1 for name in names]
        return pixels / pixels.sum()

    def draw(self, number: int, rank: int = 0, size: int = 1) -> Batch:
        """Batch number `number`, or the share of it of process `rank` of `size`: every `size`-th tile."""
        return _stack([self._tile(number, index) for index in range(rank, self.batch, size)])

    def batches(self, start: int, stop: int, rank: int = 0, size: int = 1, threads: int = 1) -> Generator[Batch]:
        """Batches `start` to `stop`, or the share of a process; threads prepare the next ones while one is used."""
        with _threads(threads) as pool:
            orders = (
                [pool.submit(self._tile, number, index) for index in range(rank, self.batch, size)]
                for number in range(start, stop)
            )
            coming: deque[list[Future[Batch]]] = deque(islice(orders, PREFETCHED_BATCHES))
            while coming:
                batch = _stack([tile.result() for tile in coming.popleft()])
                coming.extend(islice(orders, 1))
                yield batch

    def _tile(self, number: int, index: int) -> Batch:
        """One tile of a batch, without its first axis.

        The planes of a 3D tile are deformed by the same field, which turns and mirrors them; the order of the planes
        may be the other way round.
        """
        # A stream of random numbers for each tile: the batch is the same for any number of processes and threads.
        rng = np.random.default_rng([self.seed, number, index])
        flat, (depth, side, _), (above, around, _) = isinstance(self.tile, int), sides(self.tile), self.halo
        wanted = _objects if rng.random() < self.foreground else _anywhere
        for attempt in range(MAX_DRAWS):
            sample = self.samples[rng.choice(len(self.samples), p=self.shares)]
            place = self._place(sample, rng, wanted if attempt < MAX_DRAWS // 2 else _anywhere)
            if place is None:
                continue
            plane, y, x = place
            # The whole part of the place is added to integers: coordinates of large images do not fit float32.
            origin, centre = (int(y), int(x)), (y % 1, x % 1)
            turned = not flat and bool((rng.random() < 0.5) & self.augment.flip)
            positions = random_positions(rng, side, self.augment, centre, self.device)
            inner = positions[around : side - around, around : side - around]
            planes = range(plane - depth // 2, plane - depth // 2 + depth)
            kept = planes[above : depth - above]
            # 255 (ignore) must not be interpolated: nearest keeps values as they are.
            target = self._read(sample.target, kept, origin, inner, "nearest").long()
            if (target != IGNORE).any():
                break
            wanted = _annotated
        border = self._read(sample.border, kept, origin, inner, "bilinear")
        image = self._read(sample.image, planes, origin, positions, "bicubic", sample)
        if turned:
            target, border, image = (part.flip(-3) for part in (target, border, image))
        image = vary_gray(image.flatten(0, 1), rng, self.augment).reshape(image.shape)
        tile = Batch(image, target, torch.where(target == IGNORE, 0.0, border))
        return Batch(tile.image_NCYX[:, 0], tile.target_NYX[0], tile.border_NYX[0]) if flat else tile

    def _place(
        self, sample: TrainingSample, rng: np.random.Generator, wanted: Wanted
    ) -> tuple[int, float, float] | None:
        """Plane and centre of a tile: anywhere, or on a pixel near there that is wanted; None if there is none."""
        depth, height, width = sample.target.shape
        plane, y, x = int(rng.integers(depth)), rng.uniform(0, height - 1), rng.uniform(0, width - 1)
        if wanted is _anywhere:
            return plane, y, x
        reach = SEARCH_RADIUS if isinstance(self.tile, int) else SEARCH_RADIUS_3D
        across = sides(self.tile)[0] // 2 - self.halo[0]
        start, stop = (
            (plane - across, int(y) - reach, int(x) - reach),
            (plane + across + 1, int(y) + reach, int(x) + reach),
        )
        window = Box(start, stop).clip(sample.target.shape)
        planes, rows, columns = np.nonzero(wanted(sample.target.read(window)))
        if not rows.size:
            return None
        chosen, (first, top, left) = rng.integers(rows.size), window.start
        return int(first + planes[chosen]), float(top + rows[chosen]), float(left + columns[chosen])

    def _read(
        self,
        source: Readable,
        planes: range,
        origin: tuple[int, int],
        positions_YX2: torch.Tensor,
        mode: str,
        norm: TrainingSample | None = None,
    ) -> torch.Tensor:
        """Values at positions that count from `origin`, mirrored beyond the edges.

        Read is the smallest part of the planes that holds the positions.
        """
        # Bicubic interpolation looks two pixels farther.
        low = positions_YX2.amin(0).amin(0).floor() - 2
        x0, y0 = map(int, low.tolist())
        x1, y1 = map(int, (positions_YX2.amax(0).amax(0).ceil() + 3).tolist())
        y, x = origin
        box = Box((planes.start, y + y0, x + x0), (planes.stop, y + y1, x + x1))
        data = read_mirrored(source, box)
        values = data.astype(np.float32)
        if norm is not None:
            values = (values - norm.offset[:, None]) * norm.scale[:, None]
        # Planes are like channels here.
        found = sample_at(
            torch.from_numpy(values.reshape(-1, *data.shape[-2:])).to(self.device), positions_YX2 - low, mode
        )
        return found.view(*data.shape[:-2], *found.shape[1:])


def _anywhere(target: np.ndarray) -> np.ndarray:
    return np.ones(target.shape, dtype=bool)


def _annotated(target: np.ndarray) -> np.ndarray:
    return target != IGNORE


def _objects(target: np.ndarray) -> np.ndarray:
    return (target > 0) & (target != IGNORE)


def _stack(tiles: list[Batch]) -> Batch:
    return Batch(*(torch.stack(parts) for parts in zip(*tiles, strict=True)))


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that do arithmetic on one core each, beside the network."""
    usual, all_started = torch.get_num_threads(), threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, initializer=functools.partial(torch.set_num_threads, 1))
    try:
        for _ in range(count):
            pool.submit(all_started.wait)
        all_started.wait()
        # Each thread has a number of its own; this call is for threads to come, which take the last that was set
        # anywhere.
        torch.set_num_threads(usual)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
