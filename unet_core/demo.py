"""Generated microscopy with known truth, written as a microscope and an annotator would leave it.

``python -m unet_core demo FOLDER`` makes two data sets: *cells*, touching cells in phase contrast as a Cell Tracking
Challenge folder in which not every frame is annotated; and *nuclei*, fluorescent nuclei of varied brightness with
Kaggle's table of run-lengths.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

CELL_FRAMES, ANNOTATED_FRAMES, CELL_SIDE = 16, 12, 256
NUCLEI_IMAGES, NUCLEI_SIDE = 20, 192


def touching_objects(rng: np.random.Generator, shape: tuple[int, int], radius: float, spacing: float) -> np.ndarray:
    """Label image of irregular round objects, many of which touch.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness.
    shape : tuple of int
        Extent along y and x in pixels.
    radius : float
        Mean radius of the objects in pixels.
    spacing : float
        Mean distance of their centres in units of twice the radius; objects touch below 1.

    Returns
    -------
    ndarray of uint16, shape (y, x)
        Objects, numbered from 1; each is connected.
    """
    step = 2 * radius * spacing
    grid = np.stack(np.meshgrid(*(np.arange(-step, n + step, step) for n in shape), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    centres = grid + rng.normal(0, 0.22 * step, grid.shape)
    centres = centres[rng.random(len(centres)) < 0.75]
    radii = radius * rng.lognormal(0, 0.18, len(centres))
    # Smooth noise bends the coordinates, so that outlines are irregular.
    y, x = np.mgrid[: shape[0], : shape[1]] + _smooth_noise(rng, (2, *shape), 0.8 * radius) * radius / 6
    relative = np.hypot(y[None] - centres[:, 0, None, None], x[None] - centres[:, 1, None, None]) / radii[:, None, None]
    nearest = relative.argmin(axis=0)
    labels = np.where(relative.min(axis=0) < 1, nearest + 1, 0)
    return _largest_components(labels)


def phase_contrast(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Gray values of cells in phase contrast: dark bodies with texture, bright halos, uneven light, noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness.
    labels : ndarray of integers, shape (y, x)
        Cells.

    Returns
    -------
    ndarray of uint8, shape (y, x)
    """
    inside = np.zeros(labels.shape)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            # Depth below the cell's own border, also where it touches another cell.
            inside[box] = np.maximum(
                inside[box], ndimage.distance_transform_edt(np.pad(labels[box] == label, 1))[1:-1, 1:-1]
            )
    outside = ndimage.distance_transform_edt(labels == 0)
    body = np.where(labels > 0, -0.3 + 0.55 * np.exp(-inside / 2) + 0.12 * _smooth_noise(rng, labels.shape, 2.5), 0)
    halo = np.where(labels == 0, 0.45 * np.exp(-outside / 4), 0)
    light = 0.15 * _smooth_noise(rng, labels.shape, labels.shape[0] / 4)
    image = ndimage.gaussian_filter(body + halo, 1.0) + light + rng.normal(0, 0.05, labels.shape)
    return np.clip(110 + 120 * image, 0, 255).astype(np.uint8)


def fluorescence(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Gray values of stained nuclei: each of its own brightness, blurred by the optics, with shot noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness.
    labels : ndarray of integers, shape (y, x)
        Nuclei.

    Returns
    -------
    ndarray of uint16, shape (y, x)
    """
    brightness = np.concatenate([[0], rng.lognormal(0, 0.5, int(labels.max(initial=0)))])
    texture = 1 + 0.2 * _smooth_noise(rng, labels.shape, 2)
    signal = ndimage.gaussian_filter(brightness[labels] * texture, 1.2)
    background = 0.15 + 0.05 * _smooth_noise(rng, labels.shape, labels.shape[0] / 3)
    return np.clip(
        rng.poisson(200 * np.clip(signal + background, 0, None)) + rng.normal(100, 4, labels.shape), 0, 65535
    ).astype(np.uint16)


def run_lengths(mask: np.ndarray) -> str:
    """Kaggle's run-length string of a mask: start and length, down the columns, from 1.

    Examples
    --------
    >>> run_lengths(np.array([[1, 0], [0, 1], [1, 1]]))
    '1 1 3 1 5 2'
    """
    column_major = np.concatenate([[0], mask.T.ravel() != 0, [0]]).astype(np.int8)
    change = np.flatnonzero(np.diff(column_major))
    return " ".join(f"{start + 1} {stop - start}" for start, stop in zip(change[::2], change[1::2], strict=True))


def write_demo(folder: Path, seed: int = 2015) -> None:
    """Write both data sets.

    Parameters
    ----------
    folder : Path
        Gets ``cells/01``, ``cells/01_GT/SEG``, ``nuclei/images`` and ``nuclei/masks.csv``.
    seed : int
        The same seed gives the same files.
    """
    rng = np.random.default_rng(seed)
    for number in range(CELL_FRAMES):
        labels = touching_objects(rng, (CELL_SIDE, CELL_SIDE), radius=17, spacing=0.9)
        _write_tiff(folder / "cells" / "01" / f"t{number:03d}.tif", phase_contrast(rng, labels), "zlib")
        if number < ANNOTATED_FRAMES:
            _write_tiff(folder / "cells" / "01_GT" / "SEG" / f"man_seg{number:03d}.tif", labels, "lzw")
    rows = [("ImageId", "EncodedPixels")]
    for number in range(NUCLEI_IMAGES):
        labels = touching_objects(rng, (NUCLEI_SIDE, NUCLEI_SIDE), radius=10, spacing=1.15)
        name = f"nuclei_{number:02d}"
        _write_tiff(folder / "nuclei" / "images" / f"{name}.tif", fluorescence(rng, labels), None)
        rows += [(name, run_lengths(labels == label)) for label in range(1, int(labels.max()) + 1)]
    with (folder / "nuclei" / "masks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian random field of mean 0 and deviation 1; leading axes beyond two are independent."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0,) * (len(shape) - 2) + (sigma, sigma), mode="wrap")
    return noise / noise.std()


def _largest_components(labels: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of each object, and number objects from 1."""
    kept = np.zeros(labels.shape, np.uint16)
    count = 0
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, number = ndimage.label(labels[box] == label)
        sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        if sizes.size and sizes.max() >= 20:
            count += 1
            kept[box][parts == sizes.argmax() + 1] = count
    return kept


def _write_tiff(path: Path, image: np.ndarray, compression: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, compression=compression, photometric="minisblack")


def main(arguments: list[str]) -> None:
    """Generate the data of the demo."""
    parser = argparse.ArgumentParser(prog="python -m unet_core demo", description="Generate the data of the demo.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="gets two data sets, cells and nuclei")
    write_demo(parser.parse_args(arguments).folder)
