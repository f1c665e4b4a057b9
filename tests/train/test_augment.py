"""Augmentation against a slow reference in double precision: numpy and scipy, one pixel after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_core.config.options import Augment
from unet_core.train.augment import blur, random_positions, sample_at, vary_gray

STILL = {"rotation": False, "flip": False, "elastic_sigma": 0, "contrast": 0, "brightness": 0, "gamma": 0, "noise": 0}


def cubic(t: float, a: float = -0.75) -> float:
    """Kernel of cubic convolution (Keys 1981, with the a of most image libraries)."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def cubic_value(image: np.ndarray, y: float, x: float) -> float:
    """Value between pixels; beyond the image that of the nearest edge pixel."""
    total, (height, width) = 0.0, image.shape
    for i in range(math.floor(y) - 1, math.floor(y) + 3):
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            total += image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)] * cubic(y - i) * cubic(x - j)
    return total


def slow_positions(rng: np.random.Generator, size: int, cfg: Augment) -> np.ndarray:
    """The same field, (y, x) of each pixel."""
    angle = rng.uniform(0, 2 * math.pi) if cfg.rotation else rng.uniform() * 0
    zoom = cfg.scale ** rng.uniform(-1, 1)
    flips = [-1 if cfg.flip and r < 0.5 else 1 for r in rng.random(2)]
    moves = rng.normal(0, 1, (2, cfg.elastic_grid, cfg.elastic_grid)) * cfg.elastic_sigma
    turn = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    found = np.zeros((size, size, 2))
    for i in range(size):
        for j in range(size):
            y, x = (k * (cfg.elastic_grid - 1) / (size - 1) for k in (i, j))
            place = turn @ [i - (size - 1) / 2, j - (size - 1) / 2] * flips
            found[i, j] = place + [cubic_value(moves[0], y, x), cubic_value(moves[1], y, x)]
    return found


def slow_gray(image: np.ndarray, rng: np.random.Generator, cfg: Augment) -> np.ndarray:
    """The same variation of gray values."""
    contrast, brightness, gamma = (rng.uniform(-1, 1) * s for s in (cfg.contrast, cfg.brightness, cfg.gamma))
    noise_seed, noise, sigma = int(rng.integers(2**63 - 1)), rng.uniform() * cfg.noise, rng.uniform() * cfg.blur
    channels = [
        ndimage.gaussian_filter(channel, sigma, mode="nearest", truncate=4) for channel in image.astype(np.float64)
    ]
    image = np.stack(channels) if int(4 * sigma + 0.5) else image.astype(np.float64)
    low, high = image.min(), image.max()
    image = ((image - low) / (high - low)) ** math.exp(gamma) * (high - low) + low
    image = (image - image.mean()) * math.exp(contrast) + image.mean() + brightness
    return image + torch.randn(image.shape, generator=torch.Generator().manual_seed(noise_seed)).numpy() * noise


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(2, 24),
    st.integers(2, 6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 1.7]),
)
def test_positions_are_those_of_the_slow_reference(
    seed: int, size: int, nodes: int, rotation: bool, flip: bool, scale: float
) -> None:
    cfg = Augment(rotation=rotation, flip=flip, scale=scale, elastic_grid=nodes)
    expected = slow_positions(np.random.default_rng(seed), size, cfg)
    found = random_positions(np.random.default_rng(seed), size, cfg)
    np.testing.assert_allclose(found.numpy()[..., ::-1], expected, atol=2e-4)
    moved = random_positions(np.random.default_rng(seed), size, cfg, (0.25, 0.75))
    np.testing.assert_allclose(moved.numpy()[..., ::-1], expected + (0.25, 0.75), atol=2e-4)


def test_a_field_of_full_size_is_exact_to_a_thousandth_of_a_pixel() -> None:
    size, nodes = 572, np.arange(3)
    weights = np.array(
        [[cubic_value(np.eye(3)[node][:, None], i * 2 / (size - 1), 0) for node in nodes] for i in range(size)]
    )
    rng = np.random.default_rng(7)
    rng.uniform(size=2), rng.random(2)
    coarse = rng.normal(0, 1, (2, 3, 3)) * 10
    still = random_positions(np.random.default_rng(7), size, Augment(**STILL))
    moved = random_positions(np.random.default_rng(7), size, Augment(**STILL | {"elastic_sigma": 10})) - still
    np.testing.assert_allclose(moved.numpy()[..., 1], weights @ coarse[0] @ weights.T, atol=1e-3)
    np.testing.assert_allclose(moved.numpy()[..., 0], weights @ coarse[1] @ weights.T, atol=1e-3)


def test_without_deformation_positions_are_the_pixels_of_the_tile() -> None:
    positions = random_positions(np.random.default_rng(0), 5, Augment(**STILL))
    assert positions[0, 0].tolist() == [-2, -2] and positions[4, 1].tolist() == [-1, 2]


def test_elastic_displacements_have_the_deviation_that_was_asked_for() -> None:
    cfg = Augment(**STILL | {"elastic_sigma": 10})
    still = random_positions(np.random.default_rng(0), 3, Augment(**STILL))
    # A tile as small as the grid shows its nodes themselves.
    moved = torch.stack([random_positions(np.random.default_rng(seed), 3, cfg) - still for seed in range(300)])
    assert moved.std().item() == pytest.approx(10, rel=0.05) and moved.mean().abs() < 0.5


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_values_equal_those_of_scipy(mode: str, order: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(12, 17)).astype(np.float32)
    positions = rng.uniform(1, 10, (6, 6, 2)).astype(np.float32)
    ours = sample_at(torch.from_numpy(image)[None], torch.from_numpy(positions), mode)[0].numpy()
    theirs = ndimage.map_coordinates(image, positions.transpose(2, 0, 1)[::-1], order=order)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bicubic_values_are_those_of_cubic_convolution_also_beyond_the_edge() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(size=(2, 9, 13))
    positions = rng.uniform(0, 8, (7, 5, 2))
    ours = sample_at(
        torch.from_numpy(image.astype(np.float32)), torch.from_numpy(positions.astype(np.float32)), "bicubic"
    )
    expected = [[[cubic_value(channel, y, x) for x, y in row] for row in positions] for channel in image]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    "cfg", [Augment(), Augment(blur=3), Augment(contrast=1, brightness=1, gamma=1, noise=1, blur=1)]
)
@pytest.mark.parametrize("seed", range(4))
def test_gray_values_are_those_of_the_slow_reference(cfg: Augment, seed: int) -> None:
    image = np.random.default_rng(9).normal(size=(2, 30, 21)).astype(np.float32)
    ours = vary_gray(torch.from_numpy(image), np.random.default_rng(seed), cfg).numpy()
    np.testing.assert_allclose(ours, slow_gray(image, np.random.default_rng(seed), cfg), atol=2e-4)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 2.3, 15])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    image = np.random.default_rng(1).normal(size=(1, 12, 40)).astype(np.float32)
    expected = ndimage.gaussian_filter(image[0].astype(np.float64), sigma, mode="nearest", truncate=4)
    np.testing.assert_allclose(blur(torch.from_numpy(image), sigma)[0].numpy(), expected, atol=1e-5)


def test_all_randomness_comes_from_the_generator_and_the_image_stays_as_it_was() -> None:
    image = torch.rand(1, 8, 8)
    before = image.clone()
    first, second = (vary_gray(image, np.random.default_rng(5), Augment(blur=1)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(image, before)
    assert not torch.equal(first, vary_gray(image, np.random.default_rng(6), Augment(blur=1)))


def test_gray_values_stay_when_all_variations_are_off() -> None:
    image = torch.rand(2, 8, 8)
    assert torch.allclose(vary_gray(image, np.random.default_rng(0), Augment(**STILL)), image, atol=1e-6)


def test_a_constant_image_stays_finite() -> None:
    assert torch.isfinite(vary_gray(torch.zeros(1, 4, 4), np.random.default_rng(0), Augment())).all()
