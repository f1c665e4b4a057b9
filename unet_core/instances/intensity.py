"""Gray values of objects: mean, extremes, deviation and sum of each channel of the image."""

from __future__ import annotations

import numpy as np

from unet_core.compiled import compiled
from unet_core.instances.moments import HEAD, combine, in_order
from unet_core.instances.run_lengths import RunLengths

# Types for which the loop is compiled; other integers become float32 if that holds them, all else float64.
COMPILED_TYPES = ("uint8", "uint16", "float32")


def intensity_type(channels: int) -> np.dtype:
    """One row per object and block: what `intensity_rows` gives."""
    names = ("sum", "mean", "second", "low", "high")
    return np.dtype([*HEAD, *((name, "<f8", (channels,)) for name in names)])


def intensity_rows(run_lengths: RunLengths, present: np.ndarray, block: int, image: np.ndarray) -> np.ndarray:
    """Gray values of the objects of a block.

    Parameters
    ----------
    run_lengths : RunLengths
        Of the block; its labels are places in `present`, from 1.
    present : ndarray of int64
        Labels of the objects in the block.
    block : int
        Number of the block.
    image : ndarray, shape (channels, z, y, x)
        Gray values of the block.

    Returns
    -------
    ndarray of `intensity_type`
    """
    flat = image.reshape(len(image), -1, image.shape[-1])
    if flat.dtype.name not in COMPILED_TYPES:
        flat = flat.astype(np.float32 if flat.dtype.itemsize <= 2 else np.float64)
    voxels, shift, first, second, low, high = _gray_values(*run_lengths, len(present), flat)
    rows = np.empty(len(present), intensity_type(len(image)))
    rows["label"], rows["block"], rows["voxels"], rows["low"], rows["high"] = present, block, voxels, low, high
    number = voxels[:, None]
    rows["sum"], rows["mean"] = number * shift + first, shift + first / number
    rows["second"] = np.maximum(second - first * first / number, 0)
    return rows


def intensity_columns(rows: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Columns of the table of objects from the rows of all blocks, sorted by label.

    Parameters
    ----------
    rows : ndarray
        From `intensity_rows`.
    names : list of str
        What the columns of each channel end in; see `suffixes`.
    """
    rows, begin = in_order(rows)
    columns: dict[str, np.ndarray] = {}
    for channel, name in enumerate(names):
        own = {field: rows[field][:, channel] for field in ("sum", "mean", "second", "low", "high")}
        voxels, mean, second = combine(rows["voxels"], own["mean"][:, None], own["second"][:, None, None], begin)
        if begin.size:
            own["sum"], own["low"], own["high"] = (
                how.reduceat(own[field], begin)
                for how, field in ((np.add, "sum"), (np.minimum, "low"), (np.maximum, "high"))
            )
        columns |= {
            f"intensity_mean{name}": mean[:, 0],
            f"intensity_min{name}": own["low"],
            f"intensity_max{name}": own["high"],
            f"intensity_std{name}": np.sqrt(second[:, 0, 0] / np.maximum(voxels, 1)),
            f"intensity_sum{name}": own["sum"],
        }
    return columns


def suffixes(names: list[str], channels: int) -> list[str]:
    """What the columns of each channel end in: nothing for a lone one without a name, else its name or number.

    Examples
    --------
    >>> suffixes(["DAPI", "anti GFP"], 2), suffixes([], 2), suffixes([], 1)
    (['_DAPI', '_anti_GFP'], ['_0', '_1'], [''])
    """
    names = ["_".join(name.split()) for name in names]
    if len(names) == channels and all(names) and len(set(names)) == channels:
        return [f"_{name}" for name in names]
    return [""] if channels == 1 else [f"_{number}" for number in range(channels)]


@compiled
def _gray_values(rows, start, stop, label, count, image):  # type: ignore[no-untyped-def]
    """Size, first gray value, sums of the differences to it and of their squares, minimum and maximum of each label."""
    channels = len(image)
    voxels = np.zeros(count, np.int64)
    shift, first, second = np.zeros((count, channels)), np.zeros((count, channels)), np.zeros((count, channels))
    low, high = np.full((count, channels), np.inf), np.full((count, channels), -np.inf)
    for r in range(rows.size - 1):
        for n in range(rows[r], rows[r + 1]):
            k = label[n] - 1
            for c in range(channels):
                if voxels[k] == 0:
                    shift[k, c] = image[c, r, start[n]]
                origin, total, squares = shift[k, c], 0.0, 0.0
                smallest = image[c, r, start[n]]
                largest = smallest
                for x in range(start[n], stop[n]):
                    value = image[c, r, x]
                    apart = np.float64(value) - origin
                    total += apart
                    squares += apart * apart
                    smallest, largest = min(smallest, value), max(largest, value)
                first[k, c] += total
                second[k, c] += squares
                low[k, c], high[k, c] = min(low[k, c], smallest), max(high[k, c], largest)
            voxels[k] += stop[n] - start[n]
    return voxels, shift, first, second, low, high
