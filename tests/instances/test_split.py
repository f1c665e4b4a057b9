"""Cutting objects at necks."""

from __future__ import annotations

import numpy as np
import pytest

from unet_core.instances.split import split_object


def disks(*circles: tuple[int, int, int], shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 <= r**2 for cy, cx, r in circles], axis=0)[None]


def test_two_touching_disks_become_two_parts_of_their_size() -> None:
    mask = disks((20, 18, 11), (20, 38, 10))
    parts = split_object(mask, (1.0, 1.0, 1.0), 0.5, "faces")
    assert parts.max() == 2 and ((parts > 0) == mask).all()
    assert parts[0, 20, 18] != parts[0, 20, 38]
    left, right = disks((20, 18, 11)), disks((20, 38, 10))
    for part, disk in ((parts == parts[0, 20, 18], left), (parts == parts[0, 20, 38], right)):
        assert (part & disk).sum() / (part | disk).sum() > 0.93


@pytest.mark.parametrize(
    "mask", [disks((20, 30, 15)), np.ones((1, 1, 1), bool), np.ones((1, 5, 40), bool), np.ones((3, 4, 5), bool)]
)
def test_a_convex_object_stays_whole(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(split_object(mask, (1.0, 1.0, 1.0), 0.5, "faces"), mask.astype(int))


def test_a_hole_does_not_split() -> None:
    mask = disks((20, 30, 15))
    mask[0, 18:23, 28:33] = False
    assert split_object(mask, (1.0, 1.0, 1.0), 0.5, "faces").max() == 1


def test_a_larger_depth_splits_less() -> None:
    mask = disks((20, 18, 11), (20, 32, 11))
    counts = [split_object(mask, (1.0, 1.0, 1.0), depth, "faces").max() for depth in (0.5, 4.0, 100.0)]
    assert counts == [2, 1, 1]


def test_balls_in_anisotropic_voxels_are_split_in_3d() -> None:
    z, y, x = np.mgrid[:11, :30, :50]
    mask = ((2 * (z - 5)) ** 2 + (y - 15) ** 2 + (x - 14) ** 2 <= 81) | (
        (2 * (z - 5)) ** 2 + (y - 15) ** 2 + (x - 30) ** 2 <= 81
    )
    parts = split_object(mask, (2.0, 1.0, 1.0), 1.0, "full")
    assert parts.max() == 2 and ((parts > 0) == mask).all()


def test_voxels_that_touch_at_corners_alone_keep_a_label() -> None:
    mask = np.zeros((1, 12, 12), bool)
    mask[0, :6, :6] = mask[0, 6:, 6:] = True
    parts = split_object(mask, (1.0, 1.0, 1.0), 0.5, "full")
    assert ((parts > 0) == mask).all() and parts.max() == 2
