"""Augmentation of a training tile on one core, against batchgeneratorsv2 and MONAI.

A 572 x 572 image with target and border weights: elastic deformation and rotation by the same random field, then gamma,
contrast, brightness and noise of the image, all of it in each call. Ours interpolates the image by cubic convolution,
the peers bilinearly, as is usual with them; target and weights by nearest neighbour and bilinearly everywhere. Calls
alternate, so that all meet the same machine; figures are medians.

The peers come with ``pip install batchgeneratorsv2 monai`` (extra `bench`); what is not installed is left out.

Goals: at most 40 % of the time of batchgeneratorsv2, and 12 % of that of MONAI.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from unet_core.config.options import Augment
from unet_core.train.augment import random_positions, sample_at, vary_gray

SIDE, ROUNDS = 572, 40
Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        frac_batchgenerators, frac_monai: our time over theirs; ours_ms, batchgenerators_ms, monai_ms: the times.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = _times(_arrays(), _candidates())
    finally:
        torch.set_num_threads(usual)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'who':<18} {'ms':>7} {'ours / theirs':>14}  goal")
    for name, seconds in medians.items():
        goal = {"batchgenerators": "0.40", "monai": "0.12"}.get(name, "")
        print(f"{name:<18} {1000 * seconds:>7.2f} {medians['ours'] / seconds:>14.3f}  {goal}")
    figures = {f"{name}_ms": 1000 * seconds for name, seconds in medians.items()}
    figures |= {f"frac_{name}": medians["ours"] / seconds for name, seconds in medians.items() if name != "ours"}
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def _arrays() -> Arrays:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, SIDE, SIDE), dtype=np.float32))
    target = torch.from_numpy((rng.random((1, SIDE, SIDE)) > 0.7).astype(np.float32))
    return image, target, torch.from_numpy(rng.random((1, SIDE, SIDE), dtype=np.float32))


def _times(arrays: Arrays, candidates: dict[str, Callable[..., None]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(ROUNDS + 3):
        for name, run in candidates.items():
            start = time.perf_counter()
            run(*arrays)
            if number >= 3:  # the first calls compile and fill caches
                times[name].append(time.perf_counter() - start)
    return times


def _candidates() -> dict[str, Callable[..., None]]:
    found: dict[str, Callable[..., None]] = {"ours": _ours()}
    for name, package, make in (("batchgenerators", "batchgeneratorsv2", _batchgenerators), ("monai", "monai", _monai)):
        if importlib.util.find_spec(package):
            found[name] = make()
        else:
            print(f"augment: {package} is not installed, and left out")
    return found


def _ours() -> Callable[..., None]:
    rng, cfg, middle = np.random.default_rng(0), Augment(), (SIDE - 1) / 2

    def run(image: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> None:
        positions = random_positions(rng, SIDE, cfg, (middle, middle))
        sample_at(target, positions, "nearest")
        sample_at(weights, positions, "bilinear")
        vary_gray(sample_at(image, positions, "bicubic"), rng, cfg)

    return run


def _batchgenerators() -> Callable[..., None]:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    steps = ComposeTransforms(
        [
            SpatialTransform(
                (SIDE, SIDE),
                0,
                False,
                p_elastic_deform=1,
                elastic_deform_scale=(0.1, 0.1),
                elastic_deform_magnitude=(10, 10),
                p_rotation=1,
                mode_seg="nearest",
            ),
            GammaTransform(
                BGContrast((0.8, 1.2)), p_invert_image=0, synchronize_channels=True, p_per_channel=1, p_retain_stats=0
            ),
            ContrastTransform(BGContrast((0.8, 1.2)), preserve_range=False, synchronize_channels=True),
            MultiplicativeBrightnessTransform(BGContrast((0.9, 1.1)), synchronize_channels=True),
            GaussianNoiseTransform((0, 0.05), synchronize_channels=True),
        ]
    )

    def run(image: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> None:
        steps(image=image.clone(), segmentation=target.clone(), regression_target=weights.clone())

    return run


def _monai() -> Callable[..., None]:
    from monai import transforms

    keys = ("image", "target", "weights")
    steps = transforms.Compose(
        [
            transforms.Rand2DElasticd(
                keys,
                spacing=(SIDE / 2, SIDE / 2),
                magnitude_range=(10, 10),
                prob=1,
                rotate_range=np.pi,
                mode=("bilinear", "nearest", "bilinear"),
                padding_mode="border",
            ),
            transforms.RandAdjustContrastd("image", prob=1, gamma=(0.8, 1.2)),
            transforms.RandScaleIntensityFixedMeand("image", factors=0.2, prob=1),
            transforms.RandShiftIntensityd("image", offsets=0.1, prob=1),
            transforms.RandGaussianNoised("image", prob=1, std=0.05),
        ]
    )

    def run(*arrays: torch.Tensor) -> None:
        steps(dict(zip(keys, arrays, strict=True)))

    return run
