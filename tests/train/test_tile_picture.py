from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from unet_core.pictures import FOUND_COLOUR, TRUTH_COLOUR
from unet_core.train.tile_picture import GAP, SIDE, tile_picture


def tile(
    side: int, halo: int, depth: int | None = None, ignored: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image whose gray values rise to the right, with a square object in the middle of the output."""
    inner = side - 2 * halo
    target = np.zeros((inner, inner), np.int64)
    target[inner // 4 : inner // 2, inner // 4 : inner // 2] = 1
    if ignored:
        target[:] = 255
    image, border = (
        np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32), (side, side)),
        np.zeros((inner, inner), np.float32),
    )
    border[-inner // 8 :] = 10
    if depth:
        other = np.stack([target * 0] * (depth // 2) + [target] + [target * 0] * (depth // 2))
        return np.stack([np.stack([image] * (depth + 2))] * 2), other, np.stack([border] * depth)
    return image[None], target, border


@pytest.mark.parametrize("depth", [None, 3])
def test_image_outlines_frame_and_weight_stand_where_they_belong(depth: int | None) -> None:
    picture = imagecodecs.png_decode(tile_picture([tile(100, 18, depth)] * 6, [1.0, 3.0]))
    assert picture.shape == (200 + GAP, 6 * 100 + 5 * GAP, 3)
    first = picture[:100, :100]
    assert (
        (first[18, 18:82] == FOUND_COLOUR).all()
        and (first[81, 18:82] == FOUND_COLOUR).all()
        and not (first[17] == FOUND_COLOUR).all(axis=-1).any()
    )
    outline = np.argwhere((first == TRUTH_COLOUR).all(axis=-1))
    assert outline.min() == 18 + 16 and outline.max() == 18 + 31
    assert first[0, 0].max() < 5 < 250 < first[0, -1].min()
    weight = picture[100 + GAP :, :100]
    assert (weight[:18] == 255).all() and (weight[82:] == 255).all()
    red = weight[18:82, 18:82].astype(int)
    assert (red[-8:, :, 0] > red[-8:, :, 2]).all() and (red[:4, :, 2] > red[:4, :, 0]).all()


def test_large_tiles_are_shown_smaller_and_what_is_ignored_is_gray() -> None:
    picture = imagecodecs.png_decode(tile_picture([tile(1000, 94, ignored=True)], [1.0, 1.0]))
    assert max(picture.shape[1], (picture.shape[0] - GAP) // 2) <= SIDE
    half = (picture.shape[0] - GAP) // 2
    assert (picture[half + GAP + half // 2, picture.shape[1] // 2] == 128).all()
