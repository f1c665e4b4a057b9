"""Objects are those of one piece, whatever the blocks."""

from __future__ import annotations

import functools
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.instances.test_split import joined_one_by_one
from unet_core.config.instances import Instances
from unet_core.engine import Engine, local_engine
from unet_core.instances import passes, step
from unet_core.instances.split import split_object
from unet_core.instances.step import make_instances, objects_digest
from unet_core.predict.probabilities import to_mask
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.removal import remove_others
from unet_core.store.store import Result, Spec, begin, finish, read_attributes


def in_raster_order(labels: np.ndarray) -> np.ndarray:
    """The same objects, numbered by their first voxel."""
    values, first = np.unique(labels, return_index=True)
    order = values[np.argsort(first)]
    lut = np.zeros(int(labels.max()) + 1, np.int64)
    lut[order[order > 0]] = np.arange(1, (order > 0).sum() + 1)
    return lut[labels]


def in_one_piece(foreground: np.ndarray, connectivity: str) -> np.ndarray:
    return ndimage.label(foreground, ndimage.generate_binary_structure(3, 1 if connectivity == "faces" else 3))[0]


def filled_in_one_piece(labels: np.ndarray, cfg: Instances) -> np.ndarray:
    """Fill each object alone, by scipy.

    A pixel in several filled objects belongs to the one whose filled area is the smallest.
    """
    result, smallest = labels.copy(), np.full(labels.shape, np.inf)
    planes = cfg.fill == "planes" or len(labels) == 1
    own, dual = (
        ndimage.generate_binary_structure(2 if planes else 3, n)
        for n in ((1, 3) if cfg.connectivity == "faces" else (3, 1))
    )
    for label in range(1, labels.max() + 1):
        for place in range(len(labels)) if planes else [slice(None)]:
            parts, count = ndimage.label(labels[place] == label, own)
            for part in range(1, count + 1):
                filled = ndimage.binary_fill_holes(parts == part, dual)
                won = filled & (labels[place] == 0) & (filled.sum() < smallest[place])
                result[place][won] = label
                smallest[place][won] = filled.sum()
    return result


def all_in_one_piece(probability: np.ndarray, cfg: Instances, exact: bool = True) -> np.ndarray:
    """Label the whole array, remove small objects, fill holes, split each object, join small pieces."""
    foreground = (
        np.minimum(np.rint(255 * probability).sum(axis=0) / 255, 1).astype(np.float32)
        if exact
        else probability.sum(axis=0)
    )
    labels = in_one_piece(foreground > cfg.threshold, cfg.connectivity)
    labels[np.isin(labels, np.flatnonzero(np.bincount(labels.ravel()) < cfg.min_size))] = 0
    if cfg.fill != "none":
        labels = filled_in_one_piece(labels, cfg)
    if cfg.split is not None:
        result, count = np.zeros(labels.shape, np.int64), 0
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is not None:
                own = labels[box] == label
                by = foreground[box] if cfg.split_by == "probability" else None
                parts = split_object(own, (1.0, 1.0, 1.0), cfg.split, cfg.connectivity, by)
                parts = joined_one_by_one(parts, cfg.min_size, cfg.connectivity)
                result[box][own] = parts[own] + count
                count += int(parts.max())
        labels = result
    return in_raster_order(labels)


def smooth_probabilities(shape: tuple[int, int, int], sigma: float, seed: int, background: float = 0.5) -> np.ndarray:
    """Smooth random probabilities of two classes beside the background, as uint8."""
    noise = np.random.default_rng(seed).normal(size=(3, *shape))
    noise = np.stack([ndimage.gaussian_filter(channel, (min(sigma, 1), sigma, sigma)) for channel in noise])
    noise /= noise.std()
    noise[0] += background
    probability = np.exp(4 * noise)
    return np.rint(probability / probability.sum(axis=0) * 255).astype(np.uint8)[1:]


def store_probabilities(
    folder: Path,
    stored: np.ndarray,
    block: tuple[int, int, int],
    size: tuple[float, float, float] = (1, 1, 1),
    mask: bool = False,
    name: str = "s 1",
) -> np.ndarray:
    """Keep probabilities, or a mask, as the step predict leaves them; gives them as fractions."""
    path = folder / "predict.zarr" / name
    result = begin(path, "p", Spec(stored.shape[1:], str(stored.dtype), "image", 2, size, block), {})
    for index in result.missing_blocks():
        result.write(index, stored[(slice(None), *result.grid.box(index).slices)], "p")
    finish(path, "p", {})
    samples = {name: {"split": "test", "digest": "p"}}
    write_stamp(
        folder / "predict.json",
        {
            "step": "predict",
            "classes": ["cell", "debris"],
            "dtype": "mask" if mask else str(stored.dtype),
            "samples": samples,
        },
    )
    return stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)


def make(folder: Path, cfg: Instances, engine: Engine, name: str = "s 1") -> tuple[np.ndarray, pd.DataFrame]:
    truth = folder / "groundtruth.json"
    if not truth.exists():  # there is no image whose gray values could be measured
        cfg = cfg.model_copy(update={"measure": [kind for kind in cfg.measure if kind == "shape"]})
    make_instances(
        cfg, predict=folder / "predict.json", probabilities=folder / "predict.zarr", groundtruth=truth,
        store=folder / "instances.zarr", tables=folder / "tables", stamp=folder / "instances.json", engine=engine,
    )  # fmt: skip
    return Result(folder / "instances.zarr" / name).read_all(), pd.read_csv(folder / "tables" / f"{name}.csv")


class Shuffled:
    """An engine that works on items in random order, up to eight after the first that waits."""

    workers = 1

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def in_thread(self, stop: threading.Event) -> Shuffled:
        return self

    def run(
        self, function: Callable[[Any], Any], items: Iterable[Any], total: int, what: str
    ) -> Iterator[tuple[Any, Any]]:
        waiting, rest = [], iter(items)
        while True:
            waiting += islice(rest, 8 - len(waiting))
            if not waiting:
                return
            item = waiting.pop(self._random.randrange(len(waiting)))
            yield item, function(item)


OPTIONS = st.builds(
    Instances,
    threshold=st.sampled_from([0.4, 0.6]),
    min_size=st.sampled_from([0, 4, 15]),
    fill=st.sampled_from(["none", "planes", "volume"]),
    split=st.sampled_from([None, None, 0.05]),
    split_by=st.sampled_from(["distance", "probability"]),
    connectivity=st.sampled_from(["faces", "full"]),
)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 3), st.sampled_from([8, 16]), st.sampled_from([8, 24])),
    OPTIONS, st.sampled_from([0, 0.5]), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_objects_are_those_of_one_piece_for_any_options_blocks_and_order(
    shape: tuple, block: tuple, cfg: Instances, background: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("unet_core.store.result.CHUNK", 8)
        patch.setattr("unet_core.store.store.CHUNK", 8)  # so that small images have many blocks
        probability = store_probabilities(Path(folder), smooth_probabilities(shape, 0.7, seed, background), block)
        labels, table = make(Path(folder), cfg, Shuffled(seed))
        np.testing.assert_array_equal(labels, all_in_one_piece(probability, cfg))
        assert table["label"].tolist() == list(range(1, int(labels.max()) + 1))
        assert table["voxels"].tolist() == np.bincount(labels.ravel())[1:].tolist()
        assert sorted(path.name for path in (Path(folder) / "instances.zarr").iterdir()) == ["s 1", "zarr.json"]


@pytest.mark.parametrize(
    "cfg",
    [
        Instances(),
        Instances(split=0.5, min_size=30, connectivity="full", fill="volume"),
        Instances(split=0.2, split_by="probability", fill="planes"),
    ],
)
def test_stores_of_different_blocks_give_the_same_labels_and_tables(
    tmp_path: Path, engine: Engine, cfg: Instances
) -> None:
    results = []
    for name, block in (("a", (1, 256, 256)), ("b", (2, 512, 256)), ("c", (2, 768, 768))):
        probability = store_probabilities(tmp_path / name, smooth_probabilities((2, 530, 270), 6, 0), block)
        results.append(make(tmp_path / name, cfg, engine))
    expected = all_in_one_piece(probability, cfg)
    for labels, table in results:
        np.testing.assert_array_equal(labels, expected)
        pd.testing.assert_frame_equal(table, results[0][1])


def test_half_precision_counts_as_what_it_says(tmp_path: Path, engine: Engine) -> None:
    stored = (smooth_probabilities((2, 300, 300), 6, 0) / 255).astype(np.float16)
    probability = store_probabilities(tmp_path, stored, (1, 256, 256))
    labels, table = make(tmp_path, Instances(), engine)
    np.testing.assert_array_equal(labels, all_in_one_piece(probability, Instances(), exact=False))
    own = probability[:, labels == 3]
    assert table["probability"][2] == pytest.approx(own.mean(axis=1).max(), abs=1e-4)


@pytest.mark.parametrize(("shape", "fill"), [((1, 20, 36), "planes"), ((5, 20, 36), "planes"), ((5, 20, 36), "volume")])
def test_holes_are_filled_wherever_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple, fill: str
) -> None:
    monkeypatch.setattr("unet_core.store.result.CHUNK", 8)
    monkeypatch.setattr("unet_core.store.store.CHUNK", 8)
    foreground = np.ones(shape, bool)
    for x in range(1, 34):  # also across the borders of blocks, which are at 8, 16, 24 and 32
        foreground[1 if fill == "volume" else slice(None), 1 + 2 * (x % 9), x : x + 2] = False
    store_probabilities(tmp_path, np.stack([foreground, foreground & False]).astype(np.uint8) * 255, (2, 8, 8))
    labels, table = make(tmp_path, Instances(fill=fill), Shuffled(0))
    assert (labels == 1).all() and table["voxels"].tolist() == [labels.size]


@pytest.mark.parametrize("connectivity", ["faces", "full"])
def test_a_ring_is_filled_but_what_lies_in_it_stays_itself(tmp_path: Path, connectivity: str) -> None:
    """Two rings one in the other with a disk and a speck inside, and an arc that ends at the border."""
    y, x = np.mgrid[:100, :120]
    far = np.hypot(y - 50, x - 50)
    foreground = ((far < 40) & (far > 36)) | ((far < 20) & (far > 17)) | (far < 5) | (np.hypot(y - 28, x - 50) < 1.5)
    foreground |= abs(np.hypot(y, x - 110) - 15) < 2
    stored = np.stack([foreground, foreground * 0])[:, None].astype(np.uint8) * 255
    store_probabilities(tmp_path, stored, (1, 256, 256))
    cfg = Instances(fill="volume", min_size=20, connectivity=connectivity)
    labels, _ = make(tmp_path, cfg, Shuffled(0))
    expected = np.select([far < 5, far < 20, far < 40], [4, 3, 2], 0)
    expected[abs(np.hypot(y, x - 110) - 15) < 2] = 1
    np.testing.assert_array_equal(labels[0], expected)


def test_an_object_that_is_too_large_is_left_whole(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_probabilities(tmp_path, smooth_probabilities((2, 300, 300), 6, 0), (2, 768, 768))
    monkeypatch.setattr("unet_core.instances.step.MAX_BOX_VOXELS", 0)
    whole, _ = make(tmp_path, Instances(split=0.5), engine)
    expected, _ = make(tmp_path, Instances(), engine)
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("shape", [(1, 300, 520), (4, 300, 520)])
@pytest.mark.parametrize("fill", ["none", "volume"])
def test_the_tables_describe_each_object(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], fill: str
) -> None:
    monkeypatch.setattr("unet_core.instances.objects.OBJECTS_PER_FILE", 7)  # so that the tables have many parts
    size = (2.0, 0.5, 0.25)
    probability = store_probabilities(tmp_path, smooth_probabilities(shape, 6, 0), (1, 256, 256), size)
    labels, table = make(tmp_path, Instances(fill=fill, threshold=0.8), engine)
    assert table["label"].tolist() == list(range(1, int(labels.max()) + 1)) and len(table) > 14
    for row in table.to_dict("records"):
        place = np.argwhere(labels == row["label"])
        low, high, centre = place.min(axis=0), place.max(axis=0) + 1, place.mean(axis=0)
        assert row["voxels"] == len(place)
        assert [row[f"centroid_{axis}"] for axis in "zyx"] == pytest.approx(centre, abs=1e-4)
        assert [row[f"centroid_{axis}_um"] for axis in "zyx"] == pytest.approx(centre * size, abs=1e-4)
        assert [row[f"start_{axis}"] for axis in "zyx"] == low.tolist() and [
            row[f"stop_{axis}"] for axis in "zyx"
        ] == high.tolist()
        own = probability[:, labels == row["label"]]
        best = own.mean(axis=1).argmax()
        assert row["class"] == ["cell", "debris"][best]
        assert [row["probability"], row["max_probability"]] == pytest.approx(
            [own[best].mean(), own[best].max()], abs=1e-4
        )
        flat = shape[0] == 1
        assert row["area_um2" if flat else "volume_um3"] == pytest.approx(len(place) * np.prod(size[flat:]))
        assert row["border"] == ((low == 0) | (high == shape))[flat:].any()
    assert 0 < table["border"].sum() < len(table)
    parquet = pyarrow.parquet.ParquetFile(tmp_path / "tables" / "s 1.parquet")
    assert parquet.num_row_groups == -(-len(table) // 7)
    pd.testing.assert_frame_equal(parquet.read().to_pandas(), table, check_dtype=False)


@pytest.mark.parametrize(
    "cfg", [Instances(threshold=0.7), Instances(threshold=0.8, fill="planes", split=1.5, min_size=9)]
)
def test_a_mask_gives_the_objects_of_the_probabilities(tmp_path: Path, engine: Engine, cfg: Instances) -> None:
    stored = smooth_probabilities((2, 300, 300), 6, 0)
    store_probabilities(tmp_path / "whole", stored, (1, 256, 256))
    store_probabilities(tmp_path / "mask", to_mask(stored, cfg.threshold), (1, 256, 256), mask=True)
    (labels, table), (same, without) = (make(tmp_path / kind, cfg, engine) for kind in ("whole", "mask"))
    np.testing.assert_array_equal(labels, same)
    assert (
        len(table) > 9
        and list(table) == list(without)
        and without[["probability", "max_probability"]].isna().all(axis=None)
    )
    for column in set(table) - {"probability", "max_probability", "class"}:
        assert (table[column] == without[column]).all(), column
    voxels = [np.bincount(labels[mask > 0], minlength=len(table) + 1)[1:] for mask in to_mask(stored, cfg.threshold)]
    assert (without["class"] == np.where(voxels[1] > voxels[0], "debris", "cell")).all()


def test_no_objects_and_a_second_run(tmp_path: Path, engine: Engine) -> None:
    store_probabilities(tmp_path, smooth_probabilities((2, 300, 300), 6, 0), (1, 256, 256))
    labels, table = make(tmp_path, Instances(min_size=10**6), engine)
    assert labels.max() == 0 and len(table) == 0 and labels.dtype == np.uint32
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "instances.zarr").rglob("*") if path.is_file()}
    make(tmp_path, Instances(min_size=10**6), engine)
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "instances.zarr").rglob("*") if path.is_file()
    }
    assert read_json(tmp_path / "instances.json")["samples"]["s 1"]["objects"] == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_is_gone_is_made_again(tmp_path: Path, engine: Engine, suffix: str) -> None:
    store_probabilities(tmp_path, smooth_probabilities((2, 300, 300), 6, 0), (1, 256, 256))
    expected = make(tmp_path, Instances(), engine)
    (tmp_path / "tables" / f"s 1{suffix}").unlink()
    again = make(tmp_path, Instances(), engine)
    np.testing.assert_array_equal(again[0], expected[0])
    pd.testing.assert_frame_equal(again[1], expected[1])
    assert (tmp_path / "tables" / f"s 1{suffix}").is_file()


def contents(folder: Path) -> dict[str, bytes]:
    """Labels and tables, without the provenance, which names the folder."""
    files = [*(folder / "instances.zarr").rglob("*"), *(folder / "tables").rglob("*")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file() and path.name != "zarr.json"
    }


KILLED = """
import os, random, sys, time
from pathlib import Path
from tests.instances.test_step import CUT, Shuffled, make
chance = random.Random(int(sys.argv[2]))
for attempt in range(6):
    child = os.fork()
    if not child:
        make(Path(sys.argv[1]), CUT, Shuffled(attempt))
        os._exit(0)
    time.sleep(chance.uniform(0.05, 1.5 if attempt else 3))
    os.kill(child, 9)
    os.waitpid(child, 0)
"""
CUT = Instances(split=0.5, min_size=30, fill="planes")


def test_runs_that_are_killed_at_any_moment_end_as_one_that_is_not(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        store_probabilities(tmp_path / name, smooth_probabilities((3, 600, 520), 6, 0), (1, 256, 256))
    make(tmp_path / "whole", CUT, Shuffled(0))
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "0"], cwd=Path(__file__).parents[2], check=True
    )
    make(tmp_path / "killed", CUT, Shuffled(1))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


class Ended(Exception):
    """The run is over before its time."""


class Brief(Shuffled):
    """An engine that ends with an error after some items."""

    def __init__(self, items: int) -> None:
        super().__init__(0)
        self._left = items

    def run(
        self, function: Callable[[Any], Any], items: Iterable[Any], total: int, what: str
    ) -> Iterator[tuple[Any, Any]]:
        for found in super().run(function, items, total, what):
            self._left -= 1
            if self._left < 0:
                raise Ended
            yield found


def test_what_a_run_left_behind_is_used_made_again_where_it_is_damaged_and_dropped_where_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        store_probabilities(tmp_path / name, smooth_probabilities((2, 600, 520), 6, 0), (1, 256, 256))
    make(tmp_path / "whole", CUT, Shuffled(0))
    for cfg in (Instances(), CUT):
        for folder in (tmp_path / "cut").rglob("*.parts/**"):
            os.utime(folder, (0, 0))  # what is at work is changed lately
        with pytest.raises(Ended):
            make(tmp_path / "cut", cfg, Brief(40))
    (left,) = (tmp_path / "cut" / "instances.zarr").glob(".*.parts")
    files = sorted((left / "objects").iterdir())
    assert len(files) == 18
    files[3].write_bytes(files[3].read_bytes()[:99])
    files[4].unlink()
    found: list[int] = []
    finding = passes._find_objects
    monkeypatch.setattr(passes, "_find_objects", lambda index, *rest: found.append(index) or finding(index, *rest))
    make(tmp_path / "cut", CUT, Shuffled(0))
    assert len(found) == 2 and contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_that_begins_keeps_what_another_has_just_begun(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other begins between two steps of this one: after it has looked what there is, and before it removes."""
    store_probabilities(tmp_path, smooth_probabilities((1, 40, 40), 6, 0), (1, 256, 256))
    parts = f".s 1.{objects_digest('p', CUT, ['cell', 'debris'])}.1x256x256.parts"
    names = parts, ".s 1.older.1x256x256.parts", ".s 1.at-work.1x256x256.parts"
    other, old, at_work = (tmp_path / "instances.zarr" / name / "run.other" for name in names)
    seen = []

    def begun_meanwhile(*arguments: Any) -> list[str]:
        for folder in (other, old, at_work):
            folder.mkdir(parents=True)
        for folder in (other, other.parent, old, old.parent, at_work.parent):
            os.utime(folder, (0, 0))
        gone = remove_others(*arguments)
        seen.append((other.is_dir(), old.is_dir(), at_work.is_dir()))
        return gone

    monkeypatch.setattr("unet_core.instances.step.remove_others", begun_meanwhile)
    make(tmp_path, CUT, engine)
    assert seen == [(True, False, True)]


def test_two_runs_at_once_do_no_harm(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store_probabilities(tmp_path / name, smooth_probabilities((2, 300, 300), 6, 0), (1, 256, 256))
    make(tmp_path / "one", CUT, Shuffled(0))
    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(make, tmp_path / "two", CUT, Shuffled(seed)) for seed in range(2)]:
            result.result()
    # The slower one may leave notes behind, if the faster one has removed its own already; a run clears them away when
    # they are old.
    for folder in (tmp_path / "two").rglob("*.parts/**"):
        os.utime(folder, (0, 0))
    make(tmp_path / "two", CUT, Shuffled(0))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "two" / "instances.zarr").iterdir()) == ["s 1", "zarr.json"]


def store_small(folder: Path, count: int) -> None:
    """Samples of one block each."""
    samples = {}
    for number in range(count):
        store_probabilities(folder, smooth_probabilities((1, 40, 40), 4, number), (1, 256, 256), name=f"small {number}")
        samples[f"small {number}"] = {"split": "test", "digest": "p"}
    write_stamp(
        folder / "predict.json",
        {"step": "predict", "classes": ["cell", "debris"], "dtype": "uint8", "samples": samples},
    )


def make_small(folder: Path, engine: Engine) -> dict[str, bytes]:
    """Make their objects; gives the stamp, the tables and the labels."""
    make_instances(
        CUT.model_copy(update={"measure": ["shape"]}), predict=folder / "predict.json",
        probabilities=folder / "predict.zarr", groundtruth=folder / "groundtruth.json",
        store=folder / "instances.zarr", tables=folder / "tables", stamp=folder / "instances.json", engine=engine,
    )  # fmt: skip
    paths = [folder / "instances.json", *(folder / "tables").iterdir(), *(folder / "instances.zarr").glob("*/0/c.*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_small_samples_are_made_side_by_side_and_give_the_same(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one by one", "together"):
        store_small(tmp_path / name, 4)
    expected = make_small(tmp_path / "one by one", Shuffled(0))  # type: ignore[arg-type]
    assert len(expected) == 1 + 4 * 3
    together, later, real = threading.Barrier(2, timeout=120), threading.Event(), step.number_block

    @functools.wraps(real)
    def meeting(item: Any, work: passes.Work) -> Any:
        together.wait()
        if work.target.name == "small 0":
            assert later.wait(timeout=120)
        rows = real(item, work)
        if work.target.name == "small 1":
            later.set()
        return rows

    monkeypatch.setattr(step, "number_block", meeting)
    assert make_small(tmp_path / "together", engine) == expected
    assert not list((tmp_path / "together" / "instances.zarr").glob(".*.parts"))


@pytest.mark.parametrize("message", ["small 7: a fault of the disk", "killed"])
def test_small_samples_that_were_made_before_an_error_stay_and_the_next_run_goes_on(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    caplog.set_level(logging.INFO, "unet_core.instances.step")
    for name in ("whole", "cut"):
        store_small(tmp_path / name, 9)
    expected, real = make_small(tmp_path / "whole", engine), step.number_block

    @functools.wraps(real)
    def ending(item: Any, work: passes.Work) -> Any:
        rows = real(item, work)
        if work.target.name == "small 7":
            raise RuntimeError(message) if message == "killed" else UserError(message)
        return rows

    monkeypatch.setattr(step, "number_block", ending)
    # What is at work at the moment of the error ends with the engine; in the process of a step that is at once.
    with pytest.raises((RuntimeError, UserError), match=f"^{message}$"), local_engine(2) as ended:
        make_small(tmp_path / "cut", ended)
    store = tmp_path / "cut" / "instances.zarr"
    done = [n for n in range(9) if read_attributes(store / f"small {n}").get("done")]
    assert len(done) >= 4 and 7 not in done  # no more than twice as many samples as workers were in flight
    monkeypatch.setattr(step, "number_block", real)
    assert make_small(tmp_path / "cut", engine) == expected
    assert caplog.messages[-1].startswith(f"instances: 9 samples, {9 - len(done)} made")
