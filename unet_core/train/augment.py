"""Augmentation: one random field of positions for image, target and border weights, then gray values.

All of it is arithmetic on tensors, the same on the CPU and on a GPU. Shape suffixes: C channel, Y X pixels;
``positions_YX2`` holds (x, y) in pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch.nn import functional

from unet_core.config.options import Augment

Tensor = torch.Tensor
CPU = torch.device("cpu")


def random_positions(
    rng: np.random.Generator,
    size: int,
    cfg: Augment,
    centre: tuple[float, float] = (0.0, 0.0),
    where: torch.device = CPU,
) -> Tensor:
    """Where each pixel of an augmented tile is read.

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
    centre : (float, float)
        Position (y, x) of the tile's centre.
    where : torch.device
        Where the positions are computed.

    Returns
    -------
    Tensor
        Positions (x, y), shape (size, size, 2), float32.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.1.
    """
    # All numbers are drawn in every call, so that switching one deformation off leaves the others as they were.
    angle = rng.uniform(0, 2 * math.pi) * cfg.rotation
    zoom = math.exp(rng.uniform(-1, 1) * math.log(cfg.scale))
    mirror_y, mirror_x = np.where((rng.random(2) < 0.5) & cfg.flip, -1.0, 1.0)
    coarse = rng.normal(0, 1, (2, cfg.elastic_grid, cfg.elastic_grid)) * cfg.elastic_sigma
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    y = _field(coarse[0], mirror_y * cos, -mirror_y * sin, centre[0])
    x = _field(coarse[1], mirror_x * sin, mirror_x * cos, centre[1])
    # A field is basis @ coefficients @ basis.T; the product with a basis for x and one for y side by side gives both at
    # once.
    basis = _basis(size, cfg.elastic_grid, where)
    columns = torch.zeros(2, basis.shape[1], size, 2, device=where)
    columns[0, ..., 0] = columns[1, ..., 1] = basis.T
    rows = basis @ torch.from_numpy(np.concatenate([x, y], axis=1).astype(np.float32)).to(where)
    return (rows @ columns.view(-1, 2 * size)).view(size, size, 2)


def _field(coarse: np.ndarray, along_y: float, along_x: float, shift: float) -> np.ndarray:
    """Coefficients, in the basis of `_basis`, of displacements plus an affine function of y and x.

    The displacements are given at the nodes of a grid.
    """
    nodes = len(coarse)
    field = np.zeros((nodes + 2, nodes + 2))
    field[:nodes, :nodes] = coarse
    field[nodes, nodes + 1], field[nodes + 1, nodes], field[nodes + 1, nodes + 1] = along_y, along_x, shift
    return field


@functools.lru_cache(maxsize=16)
def _basis(size: int, nodes: int, where: torch.device) -> Tensor:
    """Functions of one coordinate, of shape (size, nodes + 2).

    They are the weight of each node in bicubic interpolation, the coordinate, and 1.
    """
    unit = torch.eye(nodes, dtype=torch.float64)[None, :, :, None]
    # Along one axis alone; the first and last node lie on the first and last pixel.
    weights = functional.interpolate(unit, size=(size, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.cat([weights, axis[:, None], torch.ones(size, 1, dtype=torch.float64)], dim=1).float().to(where)


def sample_at(image_CYX: Tensor, positions_YX2: Tensor, mode: str) -> Tensor:
    """Values of an image at given positions.

    Parameters
    ----------
    image_CYX : Tensor
        Image, float32.
    positions_YX2 : Tensor
        (x, y) in pixels of `image_CYX`; positions outside get the value of the nearest edge pixel.
    mode : {"bicubic", "bilinear", "nearest"}
        Interpolation.

    Returns
    -------
    Tensor
        Shape (C, Y, X) of the positions.
    """
    height, width = image_CYX.shape[1:]
    # grid_sample wants -1 and 1 at the centres of the first and last pixel.
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], dtype=torch.float32, device=image_CYX.device)
    grid = positions_YX2 * scale
    grid -= 1
    return functional.grid_sample(image_CYX[None], grid[None], mode=mode, padding_mode="border", align_corners=True)[0]


def vary_gray(image_CYX: Tensor, rng: np.random.Generator, cfg: Augment) -> Tensor:
    """Random blur, gamma, contrast, brightness and noise; the image is taken as normalised.

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
    blur_sigma = rng.uniform(0, 1) * cfg.blur
    image_CYX = blur(image_CYX, blur_sigma) if cfg.blur > 0 else image_CYX.clone()
    if cfg.gamma > 0:
        low, high = image_CYX.amin(), image_CYX.amax()
        extent = (high - low).clamp(min=1e-6)
        image_CYX.sub_(low).div_(extent).pow_(gamma).mul_(extent).add_(low)
    shift = image_CYX.mean() * (1 - contrast) + brightness
    image_CYX.mul_(contrast).add_(shift)
    if cfg.noise > 0:
        # Drawn on the CPU, so that it is the same everywhere.
        noise = torch.randn(image_CYX.shape, generator=torch.Generator().manual_seed(noise_seed))
        image_CYX.add_(noise.to(image_CYX.device), alpha=noise_sigma)
    return image_CYX


def blur(image_CYX: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian that is cut at 4 sigma.

    Beyond its edges the image has the value of the nearest edge pixel.

    Parameters
    ----------
    image_CYX : Tensor
        Image, float32.
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    Tensor
        A new image of the same shape.
    """
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return image_CYX.clone()
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float().to(image_CYX.device)
    padded = functional.pad(image_CYX[:, None], (radius,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
