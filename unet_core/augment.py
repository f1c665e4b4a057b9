"""Augmentation: one random field of positions for image, target and border weights, then gray values.

Shape suffixes: C channel, Y X pixels; ``positions_YX2`` holds (y, x) in pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from unet_core.config import Augment

Tensor = torch.Tensor


def random_positions(rng: np.random.Generator, size: int, cfg: Augment) -> Tensor:
    """Where each pixel of an augmented tile is read, relative to the tile's centre.

    A rotation by any angle, flips, a scaling, and the elastic deformation of the paper: displacement vectors on a
    coarse grid, drawn from a Gaussian, interpolated bicubically for each pixel.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness.
    size : int
        Side of the tile in pixels.
    cfg : Augment
        Which deformations, and how strong.

    Returns
    -------
    Tensor
        Positions, shape (size, size, 2), float32.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.1.
    """
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    # All numbers are drawn in every call, so that switching one deformation off leaves the others as they were.
    angle = rng.uniform(0, 2 * math.pi) * cfg.rotation
    zoom = math.exp(rng.uniform(-1, 1) * math.log(cfg.scale))
    mirrors = np.where((rng.random(2) < 0.5) & cfg.flip, -1.0, 1.0)
    coarse = rng.normal(0, 1, (1, 2, cfg.elastic_grid, cfg.elastic_grid)) * cfg.elastic_sigma
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    positions = torch.stack([mirrors[0] * (cos * y - sin * x), mirrors[1] * (sin * y + cos * x)], dim=-1)
    if cfg.elastic_sigma > 0:
        fine = functional.interpolate(torch.from_numpy(coarse.astype(np.float32)), size=(size, size), mode="bicubic", align_corners=True)
        positions += fine[0].permute(1, 2, 0)
    return positions


def sample_at(image_CYX: Tensor, positions_YX2: Tensor, mode: str) -> Tensor:
    """Values of an image at given positions.

    Parameters
    ----------
    image_CYX : Tensor
        Image, float32.
    positions_YX2 : Tensor
        (y, x) in pixels of `image_CYX`; positions outside get the value of the nearest edge pixel.
    mode : {"bicubic", "bilinear", "nearest"}
        Interpolation.

    Returns
    -------
    Tensor
        Shape (C, Y, X) of the positions.
    """
    height, width = image_CYX.shape[1:]
    # grid_sample wants (x, y), -1 and 1 at the centres of the first and last pixel.
    extent = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float32, device=image_CYX.device)
    grid = positions_YX2.flip(-1) * (2 / extent) - 1
    return functional.grid_sample(image_CYX[None], grid[None], mode=mode, padding_mode="border", align_corners=True)[0]


def vary_gray(image_CYX: Tensor, rng: np.random.Generator, cfg: Augment) -> Tensor:
    """Random contrast, brightness, gamma and noise; the image is taken as normalised.

    Parameters
    ----------
    image_CYX : Tensor
        Normalised image, float32.
    rng : numpy.random.Generator
        Source of all randomness.
    cfg : Augment
        Strengths; 0 switches a variation off.

    Returns
    -------
    Tensor
        Image of the same shape.
    """
    contrast = math.exp(rng.uniform(-1, 1) * cfg.contrast)
    brightness = rng.uniform(-1, 1) * cfg.brightness
    gamma = math.exp(rng.uniform(-1, 1) * cfg.gamma)
    noise_seed = int(rng.integers(2**63 - 1))
    noise_sigma = rng.uniform(0, 1) * cfg.noise
    if cfg.gamma > 0:
        low, high = image_CYX.amin(), image_CYX.amax()
        extent = (high - low).clamp(min=1e-6)
        image_CYX = ((image_CYX - low) / extent) ** gamma * extent + low
    mean = image_CYX.mean()
    image_CYX = (image_CYX - mean) * contrast + mean + brightness
    if cfg.noise > 0:
        generator = torch.Generator().manual_seed(noise_seed)
        noise = torch.randn(image_CYX.shape, generator=generator)
        image_CYX = image_CYX + noise.to(image_CYX.device) * noise_sigma
    return image_CYX
