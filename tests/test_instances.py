"""Objects are those of one piece, whatever the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_core.blocks import Box, Grid
from unet_core.components import describe_block, label_block, merge_parts, number_objects, whole_objects
from unet_core.config import Dataset, Instances
from unet_core.engine import Engine
from unet_core.instances import make_instances
from unet_core.runtime import read_json, write_stamp
from unet_core.split import split_object
from unet_core.store import Result, Spec, begin, finish

DATASET = Dataset(images="x.tif")


def in_raster_order(labels: np.ndarray) -> np.ndarray:
    """The same objects, numbered by their first voxel."""
    values, first = np.unique(labels, return_index=True)
    order = values[np.argsort(first)]
    lut = np.zeros(int(labels.max()) + 1, np.int64)
    lut[order[order > 0]] = np.arange(1, (order > 0).sum() + 1)
    return lut[labels]


def in_one_piece(foreground: np.ndarray, connectivity: str) -> np.ndarray:
    return ndimage.label(foreground, ndimage.generate_binary_structure(3, 1 if connectivity == "faces" else 3))[0]


def by_blocks(foreground: np.ndarray, block: tuple[int, int, int], connectivity: str, min_size: int = 0) -> np.ndarray:
    grid = Grid(foreground.shape, block)
    components, parts = [], []
    for write in grid:
        read = Box(write.start, (write.stop[0] + 1, write.stop[1] + 1, write.stop[2] + 1)).clip(foreground.shape)
        labels = label_block(foreground[read.slices], connectivity)
        parts.append(describe_block(labels, write, foreground.shape))
        components.append(labels[tuple(slice(n) for n in write.shape)])
    offsets, objects = merge_parts(parts, grid)
    final = number_objects(whole_objects(parts, objects), {}, min_size)[0][objects]
    result = np.zeros(foreground.shape, np.int64)
    for index, write in enumerate(grid):
        result[write.slices] = np.concatenate([[0], final[offsets[index] : offsets[index + 1]]])[components[index]]
    return result


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 5), st.integers(1, 16), st.integers(1, 16)),
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([0.2, 0.4, 0.6]),
    st.sampled_from(["faces", "full"]),
)
@settings(max_examples=200, deadline=None)
def test_the_partition_is_that_of_one_piece_for_any_blocks(
    seed: int, shape: tuple, block: tuple, density: float, connectivity: str
) -> None:
    foreground = np.random.default_rng(seed).random(shape) < density
    expected = in_raster_order(in_one_piece(foreground, connectivity))
    np.testing.assert_array_equal(by_blocks(foreground, block, connectivity), expected)


def test_a_spiral_through_many_blocks_is_one_object() -> None:
    foreground = np.zeros((1, 31, 31), bool)
    for k in range(0, 15, 2):
        foreground[0, k, max(k - 2, 0) : 31 - k] = True
        foreground[0, k : 31 - k, 30 - k] = True
        foreground[0, 30 - k, k : 31 - k] = True
        foreground[0, k + 2 : 31 - k, k] = True
    assert in_one_piece(foreground, "faces").max() == 1
    assert by_blocks(foreground, (1, 4, 5), "faces").max() == 1


def test_small_objects_are_removed_by_their_whole_size_and_numbers_stay_without_gaps() -> None:
    foreground = np.zeros((1, 1, 12), bool)
    foreground[0, 0, [0, 1, 2, 3, 5, 7, 8, 9]] = True
    assert by_blocks(foreground, (1, 1, 2), "faces", min_size=3).ravel().tolist() == [1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 0, 0]


def stored_probabilities(folder: Path, block: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Smooth random probabilities of background and two classes, as the step predict leaves them."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(3, 2, 600, 520)), (0, 0, 6, 6)) * 40
    probability = np.exp(noise) / np.exp(noise).sum(axis=0)
    stored = np.rint(probability * 255).astype(np.uint8)
    spec = Spec(stored.shape[1:], "uint8", "image", 3, (1.0, 1.0, 1.0), block)
    path = folder / "predict.zarr" / "s 1"
    result = begin(path, "p", spec, {})
    for index in result.missing_blocks():
        result.write(index, stored[(slice(None), *result.grid.box(index).slices)], "p")
    finish(path, "p", {})
    write_stamp(
        folder / "predict.json", {"step": "predict", "classes": ["cell", "debris"], "samples": {"s 1": {"split": "test", "digest": "p"}}}
    )
    return stored.astype(np.float32) / 255


def make(folder: Path, cfg: Instances, engine: Engine) -> tuple[np.ndarray, pd.DataFrame]:
    make_instances(
        cfg, DATASET, predict=folder / "predict.json", probabilities=folder / "predict.zarr", store=folder / "instances.zarr",
        tables=folder / "tables", stamp=folder / "instances.json", engine=engine,
    )  # fmt: skip
    return Result(folder / "instances.zarr" / "s 1").read_all(), pd.read_csv(folder / "tables" / "s 1.csv")


def split_in_one_piece(foreground: np.ndarray, cfg: Instances) -> np.ndarray:
    """Label the whole array, split each object, remove small pieces."""
    components = in_one_piece(foreground, cfg.connectivity)
    result, count = np.zeros(foreground.shape, np.int64), 0
    for label, box in enumerate(ndimage.find_objects(components), start=1):
        own = components[box] == label
        if own.sum() >= cfg.min_size:
            parts = split_object(own, (1.0, 1.0, 1.0), cfg.split or 0.0, cfg.connectivity) if cfg.split is not None else own.astype(int)
            result[box][own] = parts[own] + count
            count += int(parts.max())
    small = np.flatnonzero(np.bincount(result.ravel()) < cfg.min_size)
    result[np.isin(result, small)] = 0
    return in_raster_order(result)


@pytest.mark.parametrize("cfg", [Instances(), Instances(split=0.5, min_size=30, connectivity="full"), Instances(split=1.0)])
def test_stores_of_different_blocks_give_the_same_labels_and_tables(tmp_path: Path, engine: Engine, cfg: Instances) -> None:
    results = []
    for name, block in (("a", (1, 256, 256)), ("b", (2, 512, 256)), ("c", (2, 768, 768))):
        probability = stored_probabilities(tmp_path / name, block)
        results.append(make(tmp_path / name, cfg, engine))
    expected = split_in_one_piece(1 - probability[0] > cfg.threshold, cfg)
    for labels, table in results:
        np.testing.assert_array_equal(labels, expected)
        pd.testing.assert_frame_equal(table, results[0][1])


def test_an_object_that_is_too_large_is_left_whole(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_probabilities(tmp_path, (2, 768, 768))
    monkeypatch.setattr("unet_core.instances.LARGEST_BOX", 0)
    whole, _ = make(tmp_path, Instances(split=0.5), engine)
    expected, _ = make(tmp_path, Instances(), engine)
    np.testing.assert_array_equal(whole, expected)


def test_the_table_describes_each_object(tmp_path: Path, engine: Engine) -> None:
    probability = stored_probabilities(tmp_path, (1, 256, 256))
    labels, table = make(tmp_path, Instances(), engine)
    assert table["label"].tolist() == list(range(1, int(labels.max()) + 1))
    for row in table.to_dict("records")[::17]:
        z, y, x = np.nonzero(labels == row["label"])
        assert row["voxels"] == z.size
        assert [row["centroid_z"], row["centroid_y"], row["centroid_x"]] == pytest.approx([z.mean(), y.mean(), x.mean()], abs=1e-3)
        assert [row["start_y"], row["stop_y"], row["start_x"], row["stop_x"]] == [y.min(), y.max() + 1, x.min(), x.max() + 1]
        mean = probability[1:, z, y, x].mean(axis=1)
        assert row["class"] == ["cell", "debris"][mean.argmax()] and row["probability"] == pytest.approx(mean.max(), abs=1e-3)


def test_no_objects_and_a_second_run(tmp_path: Path, engine: Engine) -> None:
    stored_probabilities(tmp_path, (1, 256, 256))
    labels, table = make(tmp_path, Instances(min_size=10**6), engine)
    assert labels.max() == 0 and len(table) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "instances.zarr").rglob("*") if path.is_file()}
    make(tmp_path, Instances(min_size=10**6), engine)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "instances.zarr").rglob("*") if path.is_file()}
    assert read_json(tmp_path / "instances.json")["samples"]["s 1"]["objects"] == 0
