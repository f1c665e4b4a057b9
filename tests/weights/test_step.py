"""The weight map is the paper's, and does not depend on blocks; blocks are made again only where labels changed."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from skimage.segmentation import find_boundaries

from tests.weights.test_distance import SPACINGS, distances_one_by_one, random_labels
from unet_core.blocks import ZYX, Box, Grid
from unet_core.config.datasets import IGNORE, Dataset, Weights
from unet_core.engine import Engine, local_engine
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Result, Spec, begin, finish, open_weights, read_attributes
from unet_core.weights import step as weights
from unet_core.weights.step import border_term, cutoff, halo, make_weights, near_cutoff, target_and_border

CFG = Weights(sigma=2.0, tolerance=1e-4)
EVERYTHING = Weights(sigma=2.0, tolerance=1e-4, near=0.9, near_sigma=3.0, inside="border", dtype="float16")
DATASET = Dataset(images="none")


def whole(
    labels: np.ndarray, cfg: Weights, spacing: tuple = (1.0, 1.0, 1.0), ignore: np.ndarray | None = None
) -> tuple:
    classes = (labels > 0).astype(np.uint8)
    none = np.zeros(labels.shape, np.uint8)
    return target_and_border(
        labels, classes, none if ignore is None else ignore, Box((0, 0, 0), labels.shape), spacing, cfg
    )


@given(
    st.integers(0, 10**6),
    st.integers(0, 10),
    st.sampled_from([(1, 40, 33), (4, 20, 24)]),
    st.sampled_from(SPACINGS),
    st.sampled_from(["none", "object", "border"]),
)
@settings(max_examples=80, deadline=None)
def test_border_term_equals_the_formula_with_one_transform_per_object(
    seed: int, objects: int, shape: ZYX, spacing: tuple, inside: str
) -> None:
    cfg = Weights(sigma=2.0, tolerance=1e-4, inside=inside)
    labels = random_labels(seed, shape, objects)
    inner = find_boundaries(labels[0], mode="inner") if shape[0] == 1 else find_boundaries(labels, mode="inner")
    seeds = np.where(inner.reshape(shape), labels, 0) if inside == "border" else labels
    d1, d2 = distances_one_by_one(seeds, spacing)[:2]
    expected = cfg.w0 * np.exp(-((d1 + d2) ** 2) / (2 * cfg.sigma**2))
    if inside == "none":
        expected[labels > 0] = 0
    border = border_term(labels, spacing, cfg)
    above = expected > cfg.tolerance * (1 + 1e-3)
    assert np.abs(border - expected)[above].max(initial=0) <= 1e-6 * cfg.w0
    assert border[~above].max(initial=0) <= cfg.tolerance * (1 + 1e-3)


@given(st.integers(0, 10**6), st.integers(0, 6), st.sampled_from(SPACINGS))
@settings(max_examples=40, deadline=None)
def test_with_class_weights_of_a_tenth_and_one_the_map_is_that_of_the_fiji_plugin(
    seed: int, objects: int, spacing: tuple
) -> None:
    cfg = Weights(w0=50, sigma=1.5, near=0.9, near_sigma=4, tolerance=1e-5)
    labels = random_labels(seed, (2, 30, 30), objects)
    d1, d2 = distances_one_by_one(labels, spacing)[:2]
    # As in its source: ratio + (1 - ratio) * wa + factor * we in the background, 1 in objects.
    background = 0.1 + 0.9 * np.exp(-(d1**2) / (2 * 4**2)) + 50 * np.exp(-((d1 + d2) ** 2) / (2 * 1.5**2))
    w_c = np.array([0.1, 1.0])[(labels > 0).astype(int)]
    np.testing.assert_allclose(w_c + border_term(labels, spacing, cfg), np.where(labels > 0, 1, background), atol=3e-5)


def test_the_cutoffs_are_where_the_terms_fall_to_the_tolerance() -> None:
    assert CFG.w0 * np.exp(-(cutoff(CFG) ** 2) / (2 * CFG.sigma**2)) == pytest.approx(CFG.tolerance)
    assert 0.9 * np.exp(-(near_cutoff(EVERYTHING) ** 2) / (2 * 3**2)) == pytest.approx(CFG.tolerance)
    assert cutoff(Weights(w0=0)) == near_cutoff(CFG) == 0
    assert halo(EVERYTHING, (2.0, 1.0, 1.0))[1] > near_cutoff(EVERYTHING) > cutoff(EVERYTHING)


@pytest.mark.parametrize(
    "cfg", [CFG, EVERYTHING, CFG.model_copy(update={"inside": "object"})], ids=["paper", "everything", "object"]
)
@pytest.mark.parametrize("block", [(1, 5, 7), (2, 16, 4), (9, 40, 40)])
@pytest.mark.parametrize("objects", [3, 14])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.0, 3.7, 1.0)])
def test_blocks_with_their_halo_give_the_same_map_bit_for_bit(
    block: ZYX, cfg: Weights, objects: int, spacing: tuple[float, float, float]
) -> None:
    labels = random_labels(3, (4, 37, 33), objects)
    labels[:, 20:30, :] = 5  # crosses blocks, and is larger than most
    labels[1] = np.where(labels[1] > 0, labels[1], 6)  # touches all of those above and below
    classes, ignore = (labels > 0).astype(np.uint8), np.zeros(labels.shape, np.uint8)
    ignore[:, 5:9, 5:9] = 1
    expected = whole(labels, cfg, spacing, ignore)
    for write in Grid(labels.shape, block):
        read = write.grow(halo(cfg, spacing)).clip(labels.shape)
        inner = write.within(read)
        part = target_and_border(labels[read.slices], classes[write.slices], ignore[write.slices], inner, spacing, cfg)
        for ours, all_of_it in zip(part, expected, strict=True):
            np.testing.assert_array_equal(ours, all_of_it[write.slices])


def test_touching_objects_are_separated_and_the_ridge_weighs_most() -> None:
    labels = np.zeros((1, 9, 12), np.uint32)
    labels[0, 2:7, 1:6], labels[0, 2:7, 6:11] = 7, 9
    target, border = whole(labels, CFG)
    assert target[0, 4].tolist() == [0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0]
    assert border[0, 4, 5] == border[0, 4, 6] == pytest.approx(10 * np.exp(-(3**2) / 8)) == border.max()


def test_ignored_voxels_have_target_255_and_no_weight() -> None:
    labels = np.zeros((1, 1, 7), np.uint32)
    labels[0, 0, [1, 5]] = 1, 2
    target, border = whole(labels, CFG, ignore=np.array([[[0, 0, 0, 1, 0, 1, 0]]]))
    assert target.ravel().tolist() == [0, 1, 0, IGNORE, 0, IGNORE, 0]
    assert border.ravel()[3] == 0 and border.ravel()[2] > 0
    target, border = whole(labels, EVERYTHING, ignore=np.ones(labels.shape))
    assert (target == IGNORE).all() and not border.any()


@pytest.mark.parametrize("inside", ["none", "object", "border"])
@pytest.mark.parametrize("labels", [np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((2, 3, 4)), np.ones((1, 4, 4))])
def test_without_a_second_object_there_is_no_border_term(labels: np.ndarray, inside: str) -> None:
    border = border_term(labels.astype(np.uint32), (1.0, 1.0, 1.0), Weights(inside=inside))
    assert border.tolist() == np.zeros(labels.shape).tolist()


def test_objects_of_one_pixel_with_the_highest_labels_have_a_border_term() -> None:
    labels = np.zeros((1, 1, 5), np.uint32)
    labels[0, 0, [0, 4]] = 2**32 - 1, 2**32 - 2
    border = border_term(labels, (1.0, 1.0, 1.0), CFG)
    np.testing.assert_allclose(border[0, 0, 1:4], 10 * np.exp(-(4**2) / 8), rtol=1e-6)


def test_float16_must_be_able_to_hold_the_term() -> None:
    with pytest.raises(ValidationError, match="use float32"):
        Weights(w0=70000, dtype="float16")


def test_an_option_that_changes_nothing_leaves_the_digest_as_it_is(project: Project) -> None:
    project.write(np.ones((1, 3, 4), np.uint32), "x")
    digests = {weights.weight_map_digest("x", Weights(near_sigma=sigma), project.truth, "s") for sigma in (1, 2)}
    assert len(digests) == 1
    digests |= {
        weights.weight_map_digest("x", cfg, project.truth, "s")
        for cfg in (Weights(near=1), Weights(inside="object"), Weights(dtype="float16"))
    }
    assert len(digests) == 4


class Project:
    """A data set, mostly of one sample, in a temporary folder: its labels are written, and its weights made."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self.truth, self.store = folder / "groundtruth" / "cells.zarr", folder / "weights" / "cells.zarr"
        self.samples: dict[str, dict[str, Any]] = {}

    def write(
        self, labels: np.ndarray, digest: str, size: tuple[float, float, float] = (1.0, 1.0, 1.0), sample: str = "s"
    ) -> None:
        arrays = {
            "instances": labels,
            "classes": (labels > 0).astype(np.uint8),
            "ignore": np.zeros(labels.shape, np.uint8),
        }
        for name, array in arrays.items():
            path = self.truth / sample / "labels" / name
            result = begin(path, digest, Spec(labels.shape, array.dtype.name, "labels", pixel_size=size), {})
            for index, box in enumerate(result.grid):
                result.write(index, array[box.slices], digest)
            finish(path, digest, {})
        self.samples[sample] = {"split": "train", "labels": digest, "shape": list(labels.shape)}
        write_stamp(self.truth.with_suffix(".json"), {"step": "groundtruth", "samples": self.samples})

    def make(self, cfg: Weights = CFG, sample: str = "s") -> tuple[np.ndarray, np.ndarray]:
        stamp = self.store.with_suffix(".json")
        arguments = {
            "groundtruth": self.truth.with_suffix(".json"),
            "truth_store": self.truth,
            "store": self.store,
            "stamp": stamp,
        }
        make_weights(cfg, DATASET, **arguments, engine=self.engine)
        target, border = (result.read_all() for result in open_weights(self.store, sample))
        counts = read_json(stamp)["samples"][sample]["class_pixels"]
        assert counts == np.bincount(target.ravel(), minlength=256)[:2].tolist()
        return target, border

    def times(self) -> dict[str, int]:
        """When each shard was written, at all resolutions of border term and target."""
        return {str(path): path.stat().st_mtime_ns for path in self.store.glob("s/**/c/*/*/*")}


class InOrder:
    """An engine that works on one item after the other, in the thread that asks."""

    workers = 1

    def in_thread(self, stop: threading.Event) -> InOrder:
        return self

    def run(
        self, function: Callable[[Any], Any], items: Iterable[Any], total: int, what: str
    ) -> Iterator[tuple[Any, Any]]:
        return ((item, function(item)) for item in items)


def shards_of(project: Project, *positions: str) -> set[str]:
    """Shards of blocks, at both resolutions."""
    folders = [project.store / "s", project.store / "s" / "labels" / "target"]
    return {
        str(folder / str(level) / "c" / "0" / position)
        for folder in folders
        for level in (0, 1, 2)
        for position in positions
    }


@pytest.fixture
def project(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(weights, "BLOCK", (8, 256, 256))
    yield Project(tmp_path, engine)


def labels_of_16_blocks() -> np.ndarray:
    """Many small objects, and one that goes through all blocks of a row."""
    labels = random_labels(0, (1, 1000, 900), 4000)
    labels[0, 600:640] = 7
    return labels


def test_the_stored_map_does_not_depend_on_blocks(project: Project) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    for cfg in (CFG, EVERYTHING):
        for stored, expected in zip(project.make(cfg), whole(labels, cfg), strict=True):
            np.testing.assert_array_equal(stored, expected)
            assert stored.dtype == expected.dtype
    assert zarr.open_array(project.store / "s" / "0", mode="r").dtype == np.float16


def test_distances_are_those_of_the_size_of_pixels_in_the_store(project: Project) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    project.make()
    before = project.times()
    project.write(labels, "two", size=(1.0, 0.5, 0.25))
    _, border = project.make()
    np.testing.assert_array_equal(
        border,
        target_and_border(
            labels,
            (labels > 0).astype(np.uint8),
            np.zeros(labels.shape, np.uint8),
            Box((0, 0, 0), labels.shape),
            (4, 2, 1),
            CFG,
        )[1],
    )
    assert not set(before.items()) & set(project.times().items())


def test_planes_of_a_store_that_lie_far_apart_are_parted(project: Project) -> None:
    labels = np.zeros((4, 20, 20), np.uint32)
    labels[:2, 4:16, 4:16], labels[2:, 4:16, 4:16] = 1, 2
    for size, expected in (((1.57, 1.0, 1.0), [1, 1, 0, 1]), ((1.0, 1.0, 1.0), [1, 0, 0, 1])):
        project.write(labels, str(size), size=size)
        target, _ = project.make()
        assert target[:, 10, 10].tolist() == expected


def test_objects_of_which_a_ridge_leaves_nothing_are_told(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    labels = np.zeros((1, 20, 600), np.uint32)
    labels[0, 5:9, 10:20] = 1
    labels[0, 9:10, 10:20] = 2  # between two others
    labels[0, 10:14, 10:20] = 3
    labels[0, 5:9, 300:302] = 4  # touches nothing
    labels[0, 15:19, 250:270], labels[0, 15:19, 270] = 5, 6  # over a border of blocks
    project.write(labels, "one")
    project.make()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1 and told[0].startswith("weights: 2 objects in 1 samples (s) are not learnt")
    caplog.clear()
    project.write(np.where(np.isin(labels, [2, 6]), 0, labels), "two")
    project.make()
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


# The block of rows 256 to 511 and columns 512 to 767 is at 0/1/2; the halo is 12 voxels.
@pytest.mark.parametrize(
    ("y", "x", "blocks"),
    [
        (380, 600, {"1/2"}),
        (260, 600, {"1/2", "0/2"}),
        (500, 760, {"1/2", "1/3", "2/2", "2/3"}),
        (2, 2, {"0/0"}),
    ],
)
def test_after_a_change_only_the_blocks_within_the_halo_are_made_again(
    project: Project, y: int, x: int, blocks: set[str]
) -> None:
    assert max(halo(CFG, (1, 1, 1))) == 12
    labels = labels_of_16_blocks()
    labels[0, y : y + 3, x : x + 3] = 2**31
    project.write(labels, "one")
    project.make()
    before = project.times()
    assert len(before) == 16 * 2 * 3
    labels[0, y : y + 3, x : x + 3] = 0
    project.write(labels, "two")
    made = project.make()
    after = project.times()
    assert {path for path, time in after.items() if time != before[path]} == shards_of(project, *blocks)
    for stored, expected in zip(made, whole(labels, CFG), strict=True):
        np.testing.assert_array_equal(stored, expected)


def test_a_changed_option_makes_all_blocks_again(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    with caplog.at_level(logging.INFO):
        project.make()
        project.make()
        project.make(CFG.model_copy(update={"sigma": 3.0}))
    records = [record for record in caplog.records if record.name == "unet_core.weights.step"]
    messages = [record.getMessage() for record in records if record.levelno == logging.INFO]
    assert messages == [
        "weights of s: 16 of 16 blocks made",
        "weights: 1 samples, 1 made",
        "weights: 1 samples, 0 made",
        "weights of s: 16 of 16 blocks made",
        "weights: 1 samples, 1 made",
    ]


@pytest.mark.parametrize("back", [False, True])
def test_an_interrupted_run_goes_on_and_leaves_nothing_of_other_labels(
    project: Project, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    project.make()
    changed = np.roll(labels, 40, axis=1)
    project.write(changed, "two")
    real, calls = weights._make_block, []

    @functools.wraps(real)
    def dying(*arguments: Any, **options: Any) -> Any:
        done = real(*arguments, **options)
        calls.append(arguments)
        # After the shards were written, before the record was.
        if len(calls) >= 7:
            raise RuntimeError("killed")
        return done

    monkeypatch.setattr(weights, "_make_block", dying)
    with pytest.raises(RuntimeError, match="killed"):
        project.make()
    monkeypatch.setattr(weights, "_make_block", real)
    if back:
        project.write(labels, "one")
    for stored, expected in zip(project.make(), whole(labels if back else changed, CFG), strict=True):
        np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_weights_of_other_labels_than_the_stamp_says_are_not_done(
    project: Project, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    project.engine = InOrder()  # type: ignore[assignment]
    stamp, real = project.truth.with_suffix(".json").read_bytes(), weights._make_block

    def another() -> None:
        project.write(np.roll(labels, 40, axis=1), "two")
        project.truth.with_suffix(".json").write_bytes(stamp)

    @functools.wraps(real)
    def replaced(item: Any, **options: Any) -> Any:
        made = real(item, **options)
        if item[0] == 15:
            another()
        return made

    if when == "before":
        another()
    else:
        monkeypatch.setattr(weights, "_make_block", replaced)
    with pytest.raises(UserError, match="instances is not what .* says: another run makes it anew, or has; run snake"):
        project.make()
    assert not read_attributes(project.store / "s").get("done")


def test_a_record_says_what_a_run_wrote_and_nothing_of_what_another_one_put_there(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer run replaces the shards between the last write of an older one and the note about it."""
    labels, changed = labels_of_16_blocks(), np.roll(labels_of_16_blocks(), 40, axis=1)
    project.engine = InOrder()  # type: ignore[assignment]
    project.write(labels, "one")
    write, other = Result.write, []

    def overtaken(self: Result, index: int, data: np.ndarray, digest: str) -> int:
        done = write(self, index, data, digest)
        if index == 15 and self.path.name == "target" and not other:
            other.append(self)
            project.write(changed, "two")
            project.make()
        return done

    monkeypatch.setattr(Result, "write", overtaken)
    with pytest.raises(UserError):
        project.make()
    for stored, expected in zip(project.make(), whole(changed, CFG), strict=True):
        np.testing.assert_array_equal(stored, expected)
    # Back to what the older run knew.
    project.write(labels, "one")
    for stored, expected in zip(project.make(), whole(labels, CFG), strict=True):
        np.testing.assert_array_equal(stored, expected)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def exchange(path: Path) -> None:
    """A whole shard, but not the one that was made."""
    path.write_bytes(path.with_name("3").read_bytes())


@pytest.mark.parametrize("harm", [cut_short, exchange, Path.unlink])
@pytest.mark.parametrize("level", ["0", "1"])
def test_a_damaged_shard_is_not_kept_when_labels_change_elsewhere(
    project: Project, harm: Callable[[Path], None], level: str
) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    project.make()
    harm(project.store / "s" / level / "c" / "0" / "2" / "1")
    before = project.times()
    labels[0, 0:4, 0:4] = 3
    project.write(labels, "two")
    made = project.make()
    after = project.times()
    assert {path for path, time in after.items() if time != before.get(path)} == shards_of(project, "0/0", "2/1")
    for stored, expected in zip(made, whole(labels, CFG), strict=True):
        np.testing.assert_array_equal(stored, expected)


def test_records_that_are_gone_or_foreign_count_for_nothing(project: Project) -> None:
    labels = labels_of_16_blocks()
    project.write(labels, "one")
    project.make()
    records = project.store.with_suffix("") / "s.blocks"
    assert records.stat().st_size == 16 * 16
    for content in (b"", b"x" * 256):
        records.write_bytes(content)
        labels[0, 0, 0] += 1
        project.write(labels, f"with {content!r}")
        for stored, expected in zip(project.make(), whole(labels, CFG), strict=True):
            np.testing.assert_array_equal(stored, expected)


def test_a_sample_of_one_block_needs_no_record_and_follows_its_labels(project: Project) -> None:
    for seed in (1, 2):
        labels = random_labels(seed, (1, 60, 70), 30)
        project.write(labels, f"seed {seed}")
        for stored, expected in zip(project.make(), whole(labels, CFG), strict=True):
            np.testing.assert_array_equal(stored, expected)
    assert not project.store.with_suffix("").exists()


def test_another_shape_replaces_the_map(project: Project) -> None:
    for shape in ((1, 300, 300), (1, 300, 301), (20, 300, 300)):
        labels = random_labels(4, shape, 300)
        project.write(labels, str(shape))
        for stored, expected in zip(project.make(), whole(labels, CFG), strict=True):
            np.testing.assert_array_equal(stored, expected)


def write_small(project: Project, count: int) -> dict[str, np.ndarray]:
    """Samples of one block each."""
    labels = {
        f"s{number}": np.roll(labels_of_16_blocks()[:, :200, :150], 9 * number, axis=1) for number in range(count)
    }
    for name, array in labels.items():
        project.write(array, f"labels {name}", sample=name)
    return labels


def assert_made(project: Project, labels: dict[str, np.ndarray]) -> None:
    for name, array in labels.items():
        for stored, expected in zip(project.make(sample=name), whole(array, CFG), strict=True):
            np.testing.assert_array_equal(stored, expected)


def test_small_samples_are_made_side_by_side_and_noted_in_their_order(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_small(project, 4)
    together, later, real = threading.Barrier(2, timeout=120), threading.Event(), weights._make_block

    @functools.wraps(real)
    def meeting(item: Any, **options: Any) -> Any:
        together.wait()
        if options["name"] == "s0":
            assert later.wait(timeout=120)
        made = real(item, **options)
        if options["name"] == "s1":
            later.set()
        return made

    monkeypatch.setattr(weights, "_make_block", meeting)
    project.make(sample="s0")
    assert list(read_json(project.store.with_suffix(".json"))["samples"]) == list(labels)
    monkeypatch.setattr(weights, "_make_block", real)
    assert_made(project, labels)


@pytest.mark.parametrize("how", ["other labels", "killed"])
def test_samples_that_were_made_before_an_error_stay_and_the_next_run_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "unet_core.weights.step")
    labels, real = write_small(project, 9), weights._make_block
    stamp = project.truth.with_suffix(".json").read_bytes()
    message = "instances is not what .* says: another run makes it anew, or has; run snakemake again"

    @functools.wraps(real)
    def ending(item: Any, **options: Any) -> Any:
        made = real(item, **options)
        if options["name"] == "s7":
            if how == "killed":
                raise RuntimeError("killed")
            project.write(labels["s0"], "other", sample="s7")
            project.truth.with_suffix(".json").write_bytes(stamp)
        return made

    monkeypatch.setattr(weights, "_make_block", ending)
    shared, expected = project.engine, "^killed$" if how == "killed" else message
    # What is at work at the moment of the error ends with the engine; in the process of a step that is at once.
    with pytest.raises((RuntimeError, UserError), match=expected), local_engine(2) as project.engine:
        project.make(sample="s0")
    project.engine = shared
    done = [name for name in labels if read_attributes(project.store / name).get("done")]
    assert len(done) >= 4 and "s7" not in done  # no more than twice as many samples as workers were in flight
    monkeypatch.setattr(weights, "_make_block", real)
    project.write(labels["s7"], "labels s7", sample="s7")
    project.make(sample="s7")
    assert caplog.messages[-1] == f"weights: 9 samples, {9 - len(done)} made"
    assert_made(project, labels)
