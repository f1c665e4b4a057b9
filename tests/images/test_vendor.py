"""What bioio gives of microscopes' files; bioio itself is an extra."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pytest

from unet_core.images.vendor import source_of

RNG = np.random.default_rng(0)


class Opened:
    """An opened scene, as bioio has it."""

    def __init__(self, image: np.ndarray, order: str) -> None:
        self.dims = self
        self.order, self._image = order, image
        self.shape, self.dtype = image.shape, image.dtype

    def get_image_dask_data(self, order: str) -> Any:
        assert order == self.order
        return dask.array.from_array(self._image, chunks=-1)

    def get_image_data(self, order: str, **box: slice) -> np.ndarray:
        assert order == self.order
        return self._image[tuple(box.get(axis, slice(None)) for axis in order)]


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((1, 1, 1, 8, 9), "yx", lambda image: image[0, 0, 0]),
        ((2, 3, 1, 8, 9), "tcyx", lambda image: image[:, :, 0]),
        ((1, 1, 1, 8, 9, 3), "yxc", lambda image: image[0, 0, 0]),
        ((1, 1, 4, 8, 9, 3), "zyxc", lambda image: image[0, 0]),
        ((1, 2, 1, 8, 9, 3), "cyx", lambda image: np.moveaxis(image[0, :, 0], -1, 1).reshape(6, 8, 9)),
        ((1, 1, 1, 8, 9, 1), "yx", lambda image: image[0, 0, 0, ..., 0]),
    ],
)
def test_samples_of_pixels_are_channels(shape: tuple[int, ...], axes: str, expected: Any) -> None:
    image = RNG.integers(0, 200, shape).astype(np.uint8)
    source = source_of(Opened(image, "TCZYXS"[: len(shape)]))
    assert source.axes == axes
    wanted = expected(image)
    assert source.shape == wanted.shape
    box = tuple(slice(0, length, 1) for length in source.shape)
    np.testing.assert_array_equal(source.read(box), wanted)
    box = tuple(slice(length // 2, length, 2) for length in source.shape)
    np.testing.assert_array_equal(source.read(box), wanted[box])


def test_blue_first_is_turned_round() -> None:
    image = RNG.integers(0, 200, (1, 1, 1, 8, 9, 3)).astype(np.uint8)
    source = source_of(Opened(image, "TCZYXS"), blue_first=True)
    box = (slice(0, 8, 1), slice(0, 9, 1), slice(0, 3, 1))
    np.testing.assert_array_equal(source.read(box), image[0, 0, 0, ..., ::-1])
    np.testing.assert_array_equal(source.read((*box[:2], slice(0, 1, 1))), image[0, 0, 0, ..., 2:])
