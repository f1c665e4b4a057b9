"""Boxes, grids of any size, and mirrored positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_core.blocks import ZYX, Box, Grid

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
BLOCKS = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
CORNERS = st.tuples(st.integers(-4, 12), st.integers(-4, 12), st.integers(-4, 12))


@given(SHAPES, BLOCKS)
@settings(deadline=None)
def test_blocks_cover_the_array_without_gap_or_overlap(shape: ZYX, block: ZYX) -> None:
    grid = Grid(shape, block)
    written = np.zeros(shape, int)
    for box in grid:
        assert all(0 < n <= b for n, b in zip(box.shape, block, strict=True))
        written[box.slices] += 1
    assert (written == 1).all() and len(list(grid)) == len(grid)


@given(SHAPES, BLOCKS, CORNERS, CORNERS)
@settings(deadline=None)
def test_boxes_in_a_box_are_those_that_share_voxels_with_it(shape: ZYX, block: ZYX, start: ZYX, stop: ZYX) -> None:
    grid, inside = Grid(shape, block), np.zeros(shape, bool)
    inside[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))] = True
    expected = [(index, box) for index, box in enumerate(grid) if inside[box.slices].any()]
    assert list(grid.boxes_in(Box(start, stop))) == expected


def test_a_grid_of_a_million_billion_blocks_costs_nothing() -> None:
    grid = Grid((10**5, 10**7, 10**7), (1, 100, 100))
    last = 10**15 - 1
    assert len(grid) == last + 1
    assert grid.box(last) == Box((10**5 - 1, 10**7 - 100, 10**7 - 100), (10**5, 10**7, 10**7))
    assert next(iter(grid)) == grid.box(0)
    assert [index for index, _ in grid.boxes_in(Box((0, 0, 99), (1, 1, 101)))] == [0, 1]


def test_boxes_grow_are_clipped_and_counted_from_another() -> None:
    box = Box((0, 2, 4), (1, 6, 9))
    assert box.shape == (1, 4, 5)
    assert box.grow((0, 3, 1)) == Box((0, -1, 3), (1, 9, 10))
    assert box.grow((0, 3, 1)).clip((1, 7, 20)) == Box((0, 0, 3), (1, 7, 10))
    assert box.within(box.grow((0, 3, 1))) == Box((0, 3, 1), (1, 7, 6))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_take_what_the_box_says(axis: int) -> None:
    index = np.indices((3, 4, 5))[axis]
    box = Box((1, 1, 2), (3, 2, 5))
    taken = index[box.slices]
    assert taken.shape == box.shape and (taken.min(), taken.max()) == (box.start[axis], box.stop[axis] - 1)
