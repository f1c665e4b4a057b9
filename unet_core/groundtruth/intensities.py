"""Statistics of gray values, gathered block by block."""

from __future__ import annotations

from typing import Any

import numpy as np


class Intensities:
    """Statistics of one channel, gathered block by block.

    Exact for integers of up to 16 bits (a histogram); for floating-point numbers the percentiles are those of at most
    about four million regularly chosen pixels.
    """

    SAMPLED = 2**22

    def __init__(self, dtype: np.dtype, voxels: int) -> None:
        self._integer = dtype.kind in "ui"
        self._offset = int(np.iinfo(dtype).min) if self._integer else 0
        self._histogram = np.zeros(int(np.iinfo(dtype).max) - self._offset + 1 if self._integer else 0, np.int64)
        self._step = max(1, voxels // self.SAMPLED)
        self._values: list[np.ndarray] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Count in the voxels of one block."""
        flat = values.ravel()
        if self._integer:
            self._histogram += np.bincount(flat.astype(np.int64) - self._offset, minlength=self._histogram.size)
        else:
            self._values.append(flat[:: self._step].copy())
            self._count += flat.size
            self._sum += float(flat.sum(dtype=np.float64))
            self._squares += float(np.square(flat, dtype=np.float64).sum())

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, and the percentiles 0, 0.1, 0.5, 1, 2, ... 98, 99, 99.5, 99.9, 100."""
        levels = [0, 0.1, 0.5, *range(1, 100), 99.5, 99.9, 100]
        if self._integer:
            gray = np.arange(self._histogram.size) + self._offset
            count = int(self._histogram.sum())
            mean = float((self._histogram * gray).sum() / count)
            deviation = float(np.sqrt((self._histogram * (gray - mean) ** 2).sum() / count))
            rank = np.searchsorted(np.cumsum(self._histogram), np.array(levels) * (count - 1) / 100, side="right")
            percentiles = gray[np.minimum(rank, gray.size - 1)].astype(float)
        else:
            mean = self._sum / self._count
            deviation = float(np.sqrt(max(0.0, self._squares / self._count - mean**2)))
            percentiles = np.percentile(np.concatenate(self._values), levels)
        return {
            "mean": mean,
            "deviation": deviation,
            "percentiles": {str(level): float(v) for level, v in zip(levels, percentiles, strict=True)},
        }
