"""The field of positions and the values that are read there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from unet_core.augment import random_positions, sample_at, vary_gray
from unet_core.config import Augment

STILL = {"rotation": False, "flip": False, "elastic_sigma": 0, "contrast": 0, "brightness": 0, "gamma": 0, "noise": 0}


def test_without_deformation_positions_are_the_pixels_of_the_tile() -> None:
    positions = random_positions(np.random.default_rng(0), 5, Augment(**STILL))
    assert positions[0, 0].tolist() == [-2, -2] and positions[4, 1].tolist() == [2, -1]


def test_rotation_keeps_distances_from_the_centre() -> None:
    positions = random_positions(np.random.default_rng(1), 9, Augment(**STILL | {"rotation": True}))
    still = random_positions(np.random.default_rng(1), 9, Augment(**STILL))
    assert torch.allclose(positions.norm(dim=-1), still.norm(dim=-1), atol=1e-5)
    assert not torch.allclose(positions, still)


def test_elastic_displacements_have_the_deviation_that_was_asked_for() -> None:
    cfg = Augment(**STILL | {"elastic_sigma": 10})
    still = random_positions(np.random.default_rng(0), 3, Augment(**STILL))
    # A tile as small as the grid shows its nodes themselves.
    moved = torch.stack([random_positions(np.random.default_rng(seed), 3, cfg) - still for seed in range(300)])
    assert moved.std().item() == pytest.approx(10, rel=0.05) and moved.mean().abs() < 0.5


def test_elastic_field_is_smooth() -> None:
    cfg = Augment(**STILL | {"elastic_sigma": 10})
    field = random_positions(np.random.default_rng(3), 201, cfg) - random_positions(np.random.default_rng(3), 201, Augment(**STILL))
    assert field.diff(dim=0).abs().max() < 1.5 and field.abs().max() > 5


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_values_equal_those_of_scipy(mode: str, order: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(12, 17)).astype(np.float32)
    positions = rng.uniform(1, 10, (6, 6, 2)).astype(np.float32)
    ours = sample_at(torch.from_numpy(image)[None], torch.from_numpy(positions), mode)[0].numpy()
    theirs = ndimage.map_coordinates(image, positions.transpose(2, 0, 1), order=order)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bicubic_values_are_those_of_cubic_convolution() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(size=(9, 9))
    y, x = 3.3, 4.75

    def kernel(t: float, a: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0

    expected = sum(image[i, j] * kernel(y - i) * kernel(x - j) for i in range(9) for j in range(9))
    source = torch.from_numpy(image.astype(np.float32))[None]
    values = sample_at(source, torch.tensor([[[y, x], [6.0, 2.0]]]), "bicubic")[0, 0]
    np.testing.assert_allclose(values.numpy(), [expected, image[6, 2]], atol=1e-4)


def test_all_randomness_comes_from_the_generator() -> None:
    image = torch.rand(1, 8, 8)
    first, second = (vary_gray(image, np.random.default_rng(5), Augment()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, vary_gray(image, np.random.default_rng(6), Augment()))


def test_gray_values_stay_when_all_variations_are_off() -> None:
    image = torch.rand(2, 8, 8)
    assert torch.allclose(vary_gray(image, np.random.default_rng(0), Augment(**STILL)), image, atol=1e-6)


def test_a_constant_image_stays_finite() -> None:
    assert torch.isfinite(vary_gray(torch.zeros(1, 4, 4), np.random.default_rng(0), Augment())).all()
