"""Cutting objects at necks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_core.instances.split import join_small_parts, split_object


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


def shared_border(parts: np.ndarray, one: int, other: int, connectivity: str) -> int:
    """Pairs of neighbouring voxels, one in each of two parts, by counting around each voxel of one."""
    around = ndimage.generate_binary_structure(3, 1 if connectivity == "faces" else 3).astype(int)
    return int(ndimage.convolve((parts == other).astype(int), around, mode="constant")[parts == one].sum())


def joined_one_by_one(parts: np.ndarray, least: int, connectivity: str) -> np.ndarray:
    """Small parts joined one after the other, each time from the array itself."""
    parts = parts.copy()
    while True:
        numbers, voxels = np.unique(parts[parts > 0], return_counts=True)
        if len(numbers) <= 1 or voxels.min() >= least:
            return parts
        small = numbers[voxels.argmin()]
        rest = numbers[numbers != small]
        borders = [shared_border(parts, small, other, connectivity) for other in rest]
        if not any(borders):
            return parts  # not one object
        parts[parts == small] = rest[int(np.argmax(borders))]


@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 12, 14), (4, 8, 7)]),
    st.integers(1, 60),
    st.integers(1, 25),
    st.sampled_from(["faces", "full"]),
)
@settings(max_examples=60, deadline=None)
def test_small_parts_are_joined_as_one_after_the_other(
    seed: int, shape: tuple[int, int, int], least: int, count: int, connectivity: str
) -> None:
    rng = np.random.default_rng(seed)
    # The parts nearest to random places, in a blob with holes.
    places = rng.random((count, 3)) * shape
    voxels = np.stack(np.indices(shape), axis=-1)[..., None, :]
    parts = ((voxels - places) ** 2).sum(axis=-1).argmin(axis=-1) + 1
    blob = ndimage.gaussian_filter(rng.normal(size=shape), 1) > -0.1
    structure = ndimage.generate_binary_structure(3, 1 if connectivity == "faces" else 3)
    blobs = ndimage.label(blob, structure)[0]
    parts = np.where((blobs > 0) & (blobs == np.bincount(blobs.ravel())[1:].argmax() + 1), parts, 0).astype(np.int32)
    joined = join_small_parts(parts, least, connectivity)
    expected = joined_one_by_one(parts, least, connectivity)
    assert ((joined > 0) == (parts > 0)).all()
    np.testing.assert_array_equal(joined, np.unique(expected, return_inverse=True)[1].reshape(shape))


def test_a_lobe_that_is_too_small_stays_part_of_its_nucleus() -> None:
    mask = disks((20, 18, 11), (20, 38, 10), (20, 51, 4))
    parts = split_object(mask, (1.0, 1.0, 1.0), 0.5, "faces")
    assert parts.max() == 3
    joined = join_small_parts(parts, 60, "faces")
    assert joined.max() == 2 and ((joined > 0) == mask).all()
    assert joined[0, 20, 51] == joined[0, 20, 38] != joined[0, 20, 18]
    assert join_small_parts(parts, 10**6, "faces").max() == 1
