"""Training tiles: the right pixels, in the same place for image, target and weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.conftest import ArraySource
from tests.train.test_augment import cubic_value, slow_gray, slow_positions
from unet_core.blocks import Box
from unet_core.config.datasets import IGNORE
from unet_core.config.options import Augment
from unet_core.network.unet import halo, input_size, shape
from unet_core.train.sampling import Batch, Sampler, TrainingSample

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
    return TrainingSample(
        ArraySource(image), ArraySource(target), ArraySource(image[0] + 3), offset, scale, target.size
    )


def sampler(augment: Augment, samples: list[TrainingSample] | None = None, batch: int = 4) -> Sampler:
    return Sampler(
        samples or [sample()], tile=input_size(40, 2), halo=shape(2).halo, batch=batch, seed=3, augment=augment
    )


@pytest.mark.parametrize(
    "augment", [STILL, WILD.model_copy(update=dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0.0))]
)
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


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    usual = torch.get_num_threads()
    batches = sampler(WILD).batches(2, 7, threads=threads)
    for number, drawn in enumerate(batches, start=2):
        assert all(torch.equal(a, b) for a, b in zip(drawn, sampler(WILD).draw(number), strict=True))
    assert number == 6 and torch.get_num_threads() == usual


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    class Broken(ArraySource):
        def read(self, box: Box) -> np.ndarray:
            raise OSError("a disk is gone")

    given = dataclasses.replace(sample(), border=Broken(np.zeros((1, 60, 70), np.float32)))
    with pytest.raises(OSError, match="a disk is gone"):
        list(sampler(WILD, [given]).batches(0, 9))


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
    assert (
        batch.image_NCYX.shape == (4, 2, input_size(40, 2), input_size(40, 2))
        and torch.isfinite(batch.image_NCYX).all()
    )


def test_samples_are_drawn_in_proportion_to_their_area() -> None:
    small, large = sample((1, 20, 20)), sample((1, 60, 60))
    list(sampler(STILL, [small, large], batch=20).batches(0, 10))
    assert isinstance(small.image, ArraySource) and isinstance(large.image, ArraySource)
    assert len(large.image.boxes) / 200 == pytest.approx(0.9, abs=0.06)


def test_data_sets_may_be_balanced_and_each_sample_counts_as_its_annotated_pixels() -> None:
    sizes = {"a": (900, 300), "b": (400,), "c": (0,)}
    samples = [
        dataclasses.replace(sample(), dataset=name, annotated=n) for name, counts in sizes.items() for n in counts
    ]
    np.testing.assert_allclose(sampler(STILL, samples).shares, [900 / 1600, 300 / 1600, 400 / 1600, 0])
    balanced = dataclasses.replace(sampler(STILL, samples[:3]), balanced=True)
    np.testing.assert_allclose(balanced.shares, [0.5 * 0.75, 0.5 * 0.25, 0.5])


def test_a_share_of_the_tiles_is_centred_on_objects() -> None:
    given = sample((1, 400, 400))
    assert isinstance(given.target, ArraySource)
    given.target.array[:] = 0
    given.target.array[:, 190:196, 190:196] = 1
    given.target.array[:, 300:320, 100:120] = IGNORE
    share = dataclasses.replace(sampler(STILL, [given], batch=60), foreground=0.5).draw(0)
    centres = share.target_NYX[:, 19:21, 19:21].flatten(1) == 1
    assert 18 <= centres.any(dim=1).sum() <= 42
    assert (sampler(STILL, [given], batch=60).draw(0).target_NYX[:, 19:21, 19:21] == 1).flatten(1).any(dim=1).sum() < 5


def test_where_there_is_no_object_tiles_are_drawn_anywhere() -> None:
    given = sample()
    assert isinstance(given.target, ArraySource)
    given.target.array[:] = 0
    assert dataclasses.replace(sampler(STILL, [given]), foreground=1.0).draw(0).target_NYX.eq(0).all()


def test_tiles_show_what_is_annotated_in_sparse_annotations() -> None:
    given = sample((5, 300, 300))
    assert isinstance(given.target, ArraySource)
    given.target.array[[0, 1, 3, 4]] = IGNORE
    given.target.array[2, :, 20:] = IGNORE
    drawn = sampler(WILD, [given], batch=20).draw(0)
    assert (drawn.target_NYX != IGNORE).flatten(1).any(dim=1).all()


def test_tiles_of_huge_images_are_as_exact_as_those_of_small_ones() -> None:
    """Coordinates of a million pixels would lose a sixteenth of a pixel in float32."""
    y, x = np.mgrid[:300, :300]
    part = (np.sin(y / 9) + np.cos(x / 7)).astype(np.float32)

    class Shifted(ArraySource):
        def __init__(self, array: np.ndarray, by: int) -> None:
            super().__init__(array)
            self.by, self.shape = by, (1, 2**24, 2**24)

        def read(self, box: Box) -> np.ndarray:
            return self.array[
                ..., :, box.start[1] - self.by : box.stop[1] - self.by, box.start[2] - self.by : box.stop[2] - self.by
            ]

    def one(by: int) -> Batch:
        source = [Shifted(array, by) for array in (part[None, None], (part > 0).astype(np.uint8)[None], part[None])]
        given = dataclasses.replace(sample(), image=source[0], target=source[1], border=source[2])
        placed = sampler(WILD, [given], batch=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sampler, "_place", lambda *_: (0, by + 150.3, by + 149.6))
            return placed.draw(0)

    for near, far in zip(one(1000), one(2**24 - 1000), strict=True):
        torch.testing.assert_close(far, near, atol=1e-5, rtol=0)


def test_a_tile_is_what_the_slow_reference_makes_of_the_same_random_numbers() -> None:
    cfg, given = Augment(scale=1.2, elastic_sigma=4, blur=1), sample((1, 50, 60))
    drawn = dataclasses.replace(sampler(cfg, [given], batch=1), seed=5).draw(3)
    rng = np.random.default_rng([5, 3, 0])
    rng.random(), rng.choice(1, p=[1.0]), rng.integers(1)
    centre = [rng.uniform(0, 49), rng.uniform(0, 59)]
    positions = slow_positions(rng, input_size(40, 2), cfg) + centre
    assert isinstance(given.image, ArraySource) and isinstance(given.border, ArraySource)

    def mirrored(array: np.ndarray) -> np.ndarray:
        return np.pad(array, 60, mode="reflect")

    image = mirrored((given.image.array[0, 0] - 1.0) * 0.5)
    values = np.array([[cubic_value(image, y + 60, x + 60) for y, x in row] for row in positions])
    np.testing.assert_allclose(drawn.image_NCYX[0].numpy(), slow_gray(values[None], rng, cfg), atol=5e-4)
    inner = positions[halo(2) : -halo(2), halo(2) : -halo(2)].transpose(2, 0, 1) + 60
    border = ndimage.map_coordinates(mirrored(given.border.array[0]), inner, order=1)
    np.testing.assert_allclose(drawn.border_NYX[0].numpy(), border, atol=5e-4)
    target = ndimage.map_coordinates(mirrored((given.image.array[0, 0] > 0.2).astype(np.uint8)), inner, order=0)
    assert (drawn.target_NYX[0].numpy() == target).mean() > 0.995  # but where a pixel is as near as its neighbour


def test_only_what_the_field_covers_is_read() -> None:
    given = sample((1, 900, 900))
    list(sampler(WILD, [given]).batches(0, 3))
    assert isinstance(given.image, ArraySource)
    assert max(max(box.shape) for box in given.image.boxes) < 2.2 * input_size(40, 2)
