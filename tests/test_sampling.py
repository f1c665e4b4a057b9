"""Training tiles: the right pixels, in the same place for image, target and weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import ArraySource
from unet_core.config import IGNORE, Augment
from unet_core.sampling import Sampler, TrainingSample
from unet_core.unet import halo, input_size

STILL = Augment(rotation=False, flip=False, elastic_sigma=0, contrast=0, brightness=0, gamma=0, noise=0)
WILD = Augment(scale=1.3)


def sample(shape: tuple[int, int, int] = (1, 60, 70), channels: int = 1, seed: int = 0) -> TrainingSample:
    """A smooth image whose target is a threshold of it, and whose border weight is a linear function of it."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    wave = np.sin(y / 9 + seed) + np.cos(x / 7)
    image = np.broadcast_to(wave, (channels, *shape)).astype(np.float32)
    target = (image[0] > 0.2).astype(np.uint8)
    scale = np.full((channels, 1, 1), 0.5, np.float32)
    offset = np.full((channels, 1, 1), 1.0, np.float32)
    return TrainingSample(ArraySource(image), ArraySource(target), ArraySource(image[0] + 3), offset, scale)


def sampler(augment: Augment, samples: list[TrainingSample] | None = None, batch: int = 4) -> Sampler:
    return Sampler(samples or [sample()], tile=input_size(40, 2), depth=2, batch=batch, seed=3, augment=augment)


@pytest.mark.parametrize("augment", [STILL, WILD.model_copy(update=dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0.0))])
def test_image_target_and_weights_are_moved_by_the_same_field(augment: Augment) -> None:
    batch = sampler(augment).draw(0)
    h = halo(2)
    centre = batch.image_NCYX[:, 0, h:-h, h:-h] / 0.5 + 1.0
    assert batch.target_NYX.shape == centre.shape == (4, 40, 40)
    # Bilinear and bicubic interpolation differ a little, most at mirrored edges; one pixel aside would be 0.07.
    assert (batch.border_NYX - centre - 3).abs().median() < 0.01
    clear = (centre - 0.2).abs() > 0.15
    assert clear.float().mean() > 0.7
    assert torch.equal((centre > 0.2)[clear], (batch.target_NYX == 1)[clear])


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    one, other = sampler(WILD), sampler(WILD)
    list(one.batches(0, 3))
    for drawn, expected in zip(other.batches(5, 7), (one.draw(5), one.draw(6)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert not torch.equal(one.draw(5).image_NCYX, one.draw(6).image_NCYX)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_tiles_of_a_batch(size: int) -> None:
    whole = sampler(WILD, batch=4).draw(2)
    for rank in range(size):
        share = sampler(WILD, batch=4).draw(2, rank, size)
        assert all(torch.equal(part, full[rank::size]) for part, full in zip(share, whole, strict=True))


def test_ignored_pixels_keep_their_mark_and_have_no_weight() -> None:
    given = sample()
    assert isinstance(given.target, ArraySource)
    given.target.array[:, 20:40, 20:40] = IGNORE
    batch = sampler(WILD, [given]).draw(0)
    assert set(batch.target_NYX.unique().tolist()) == {0, 1, IGNORE}
    assert (batch.border_NYX[batch.target_NYX == IGNORE] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 300), (4, 30, 30)])
def test_images_of_any_size_give_whole_tiles(shape: tuple[int, int, int]) -> None:
    batch = sampler(WILD, [sample(shape, channels=2)]).draw(1)
    assert batch.image_NCYX.shape == (4, 2, input_size(40, 2), input_size(40, 2)) and torch.isfinite(batch.image_NCYX).all()


def test_samples_are_drawn_in_proportion_to_their_area() -> None:
    small, large = sample((1, 20, 20)), sample((1, 60, 60))
    list(sampler(STILL, [small, large], batch=20).batches(0, 10))
    assert isinstance(small.image, ArraySource) and isinstance(large.image, ArraySource)
    assert len(large.image.boxes) / 200 == pytest.approx(0.9, abs=0.06)


def test_only_what_the_field_covers_is_read() -> None:
    given = sample((1, 900, 900))
    list(sampler(WILD, [given]).batches(0, 3))
    assert isinstance(given.image, ArraySource)
    assert max(max(box.shape) for box in given.image.boxes) < 2.2 * input_size(40, 2)
