"""Components found block by block are those of one piece, whatever the blocks and their order."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_core.blocks import Grid
from unet_core.images.readers import open_image
from unet_core.instances.components import (
    COMPONENT,
    build_forest,
    collect_objects,
    component_rows,
    contacts,
    faces_from,
    faces_of,
    layer_width,
    load_arrays,
    merge_components,
    number_objects,
    objects_by_block,
    run_lengths_from,
    save_arrays,
    save_part,
)  # fmt: skip
from unet_core.instances.run_lengths import encode_labels, label_mask, measure_run_lengths, paint_run_lengths

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
BLOCKS = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
CONNECTIVITY = st.sampled_from(["faces", "full"])


def in_one_piece(foreground: np.ndarray, connectivity: str, planes: bool = False) -> np.ndarray:
    structure = ndimage.generate_binary_structure(3, 1 if connectivity == "faces" else 3)
    if planes:
        structure[[0, 2]] = False
    return ndimage.label(foreground, structure)[0]


def no_channels(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty((0, *shape), np.uint8)


def by_blocks(
    foreground: np.ndarray, grid: Grid, connectivity: str, least: int = 1, planes: bool = False, seed: int = 0
) -> np.ndarray:
    """Labels of a mask, from blocks that are worked on in any order."""
    order = list(range(len(grid)))
    random.Random(seed).shuffle(order)
    run_lengths, found = {}, []
    for index in order:
        box = grid.box(index)
        run_lengths[index], count = label_mask(foreground[box.slices], connectivity, planes)
        measures = measure_run_lengths(run_lengths[index], count, box.shape, no_channels(box.shape))
        found.append((index, component_rows(measures, box.start, grid.shape)))
    result = np.zeros(foreground.shape, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        forest = build_forest(iter(found), grid, Path(folder))
        for index in order:
            for other, pairs in contacts(
                index, grid, lambda n: faces_of(run_lengths[n], grid.box(n).shape), connectivity, planes
            ):
                merge_components(forest, index, other, pairs)
        collect_objects(forest)
        labels, _, count = number_objects(
            forest, least, np.empty(0, np.int64), np.empty((0, 2), np.int64), Path(folder)
        )
        for index, box in enumerate(grid):
            block = np.zeros(box.shape, np.int64)
            paint_run_lengths(run_lengths[index], np.concatenate([[0], labels[forest.of_block(index)]]), block)
            result[box.slices] = block
        assert count == result.max(initial=0)
    return result


@given(SHAPES, BLOCKS, st.sampled_from([0.2, 0.4, 0.6]), CONNECTIVITY, st.booleans(), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_partition_is_that_of_one_piece_for_any_blocks_in_any_order(
    shape: tuple, block: tuple, density: float, connectivity: str, planes: bool, seed: int
) -> None:
    foreground = np.random.default_rng(seed).random(shape) < density
    expected = in_one_piece(foreground, connectivity, planes)
    np.testing.assert_array_equal(
        by_blocks(foreground, Grid(shape, block), connectivity, planes=planes, seed=seed), expected
    )


@given(SHAPES, BLOCKS, st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_objects_are_put_together_in_the_row_of_their_first_component(shape: tuple, block: tuple, seed: int) -> None:
    foreground, grid = np.random.default_rng(seed).random(shape) < 0.4, Grid(shape, block)
    expected = in_one_piece(foreground, "faces")
    boxes = ndimage.find_objects(expected)
    found = []
    for index, box in enumerate(grid):
        run_lengths, count = label_mask(foreground[box.slices], "faces")
        measures = measure_run_lengths(run_lengths, count, box.shape, no_channels(box.shape))
        found.append((index, run_lengths, component_rows(measures, box.start, shape)))
    with tempfile.TemporaryDirectory() as folder:
        forest = build_forest(((index, rows) for index, _, rows in found), grid, Path(folder))
        for index in range(len(grid)):
            for other, pairs in contacts(index, grid, lambda n: faces_of(found[n][1], grid.box(n).shape), "faces"):
                merge_components(forest, index, other, pairs)
        collect_objects(forest)
        groups = dict(objects_by_block(forest, grid, lambda rows: rows["voxels"] >= 2))
        assert all(np.all(np.diff(numbers) > 0) for numbers in groups.values())
        label = 0
        for n in np.flatnonzero(forest.roots == np.arange(len(forest.roots))):
            row, label = forest.components[n], label + 1
            place = np.unravel_index(row["first"], shape)
            assert expected[place] == label and row["voxels"] == (expected == label).sum()
            assert row["low"].tolist() == [s.start for s in boxes[label - 1]] and row["high"].tolist() == [
                s.stop for s in boxes[label - 1]
            ]
            home = next(
                index for index, _ in grid.boxes_in(grid.box(0)._replace(start=place, stop=tuple(p + 1 for p in place)))
            )
            assert (n in groups.get(home, [])) == (row["voxels"] >= 2)


def test_a_spiral_through_many_blocks_is_one_object() -> None:
    foreground = np.zeros((1, 31, 31), bool)
    for k in range(0, 15, 2):
        foreground[0, k, max(k - 2, 0) : 31 - k] = True
        foreground[0, k : 31 - k, 30 - k] = True
        foreground[0, 30 - k, k : 31 - k] = True
        foreground[0, k + 2 : 31 - k, k] = True
    assert in_one_piece(foreground, "faces").max() == 1
    assert by_blocks(foreground, Grid((1, 31, 31), (1, 4, 5)), "faces").max() == 1


def test_small_objects_are_removed_by_their_whole_size_and_numbers_stay_without_gaps() -> None:
    foreground = np.zeros((1, 1, 12), bool)
    foreground[0, 0, [0, 1, 2, 3, 5, 7, 8, 9]] = True
    labels = by_blocks(foreground, Grid((1, 1, 12), (1, 1, 2)), "faces", least=3)
    assert labels.ravel().tolist() == [1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 0, 0]


def test_pieces_and_objects_are_counted_together_in_raster_order(tmp_path: Path) -> None:
    rows = np.zeros(4, COMPONENT)
    rows["first"], rows["voxels"] = [0, 10, 20, 30], 5
    forest = build_forest(iter([(0, rows)]), Grid((1, 1, 100), (1, 1, 100)), tmp_path)
    collect_objects(forest)
    pieces = np.array([[60, 9], [15, 4], [10, 9], [25, 9]])
    labels, piece_labels, count = number_objects(forest, 5, np.array([1]), pieces, tmp_path)
    assert (labels.tolist(), piece_labels.tolist(), count) == ([1, 0, 3, 5], [6, 0, 2, 4], 6)


@given(SHAPES, CONNECTIVITY, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_runs_are_labelled_painted_found_and_measured(shape: tuple, connectivity: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, channels = rng.random(shape) < 0.5, rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    expected = in_one_piece(mask, connectivity)
    run_lengths, count = label_mask(mask, connectivity)
    painted = np.zeros(shape, np.uint32)
    paint_run_lengths(run_lengths, np.arange(count + 1), painted)
    np.testing.assert_array_equal(painted, expected)
    for one, other in zip(encode_labels(painted), run_lengths, strict=True):
        np.testing.assert_array_equal(one, other)
    found = measure_run_lengths(run_lengths, count, shape, channels)
    for k in range(count):
        place = np.argwhere(expected == k + 1)
        values = channels[:, expected == k + 1].astype(np.int64)
        assert (
            (found.first[k] == place[0]).all()
            and found.voxels[k] == len(place)
            and (found.sums[k] == place.sum(axis=0)).all()
        )
        assert (found.low[k] == place.min(axis=0)).all() and (found.high[k] == place.max(axis=0) + 1).all()
        assert (found.mass[k] == values.sum(axis=1)).all() and (found.top[k] == values.max(axis=1)).all()


@pytest.mark.parametrize("density", [0, 0.3, 1])
def test_what_is_kept_of_a_block_is_read_again_and_a_damaged_file_counts_as_missing(
    tmp_path: Path, density: float
) -> None:
    mask = np.random.default_rng(0).random((3, 5, 7)) < density
    run_lengths, count = label_mask(mask, "faces")
    save_part(tmp_path / "0.npz", run_lengths, mask.shape, {"more": np.arange(3)})
    arrays = load_arrays(tmp_path / "0.npz")
    assert arrays is not None and arrays["more"].tolist() == [0, 1, 2]
    labels = np.zeros(mask.shape, np.int64)
    paint_run_lengths(run_lengths_from(arrays), np.arange(count + 1), labels)
    for face, expected in zip(
        faces_from(arrays),
        (labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[..., 0], labels[..., -1]),
        strict=True,
    ):
        np.testing.assert_array_equal(face, expected)
    content = (tmp_path / "0.npz").read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "1.npz").write_bytes(content[:cut])
        assert load_arrays(tmp_path / "1.npz") is None
    assert load_arrays(tmp_path / "2.npz") is None and load_arrays(tmp_path / "0.npz", "other") is None


def test_one_layer_of_blocks_is_as_small_as_raster_order_allows() -> None:
    assert layer_width(Grid((10, 40, 60), (1, 10, 10))) == 6 and layer_width(Grid((1, 40, 60), (8, 10, 10))) == 6
    assert layer_width(Grid((10, 40, 60), (2, 10, 10))) == 24


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_threads_read_files_of_numpy_at_once(tmp_path: Path, kind: str) -> None:
    """Also where the garbage collector runs in the middle, and calls what lets another thread go on, as Dask does."""
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        save_arrays(path, **{f"a{number}": np.arange(10) for number in range(20)})
    else:
        np.save(path, np.zeros((20, 20), np.uint8))

    def read(_: int) -> bool:
        if kind == "npz":
            return load_arrays(path) is not None
        with open_image(path) as source:
            return source.shape == (20, 20)

    def lets_others(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(lets_others)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(400)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(lets_others)
