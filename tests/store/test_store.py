"""Results appear whole, remember their digest, and are valid OME-NGFF."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from unet_core.blocks import Box
from unet_core.failures import explain
from unet_core.runtime import UserError
from unet_core.store.pyramid import halve_labels
from unet_core.store.removal import remove_others
from unet_core.store.store import Result, Spec, begin, details_if_done, finish, read_attributes
from unet_core.store.verify import verify

IMAGE = Spec((3, 300, 520), "uint16", "image", channels=2, pixel_size=(2.0, 0.5, 0.5), block=(2, 256, 256))
LABELS = Spec((3, 300, 520), "uint32", "labels", pixel_size=(2.0, 0.5, 0.5), block=(2, 256, 256))


def filled(path: Path, spec: Spec, digest: str = "d") -> np.ndarray:
    """Write random voxels block by block and finish."""
    lead = (spec.channels,) if spec.channels else ()
    data = np.random.default_rng(0).integers(0, 999, (*lead, *spec.shape)).astype(spec.dtype)
    result = begin(path, digest, spec, {"step": "test"})
    for index in range(len(result.grid)):
        result.write(index, data[(..., *result.grid.box(index).slices)], digest)
    finish(path, digest, {"count": 1})
    return data


@pytest.mark.parametrize("spec", [IMAGE, LABELS])
def test_what_was_written_is_read_again_from_any_box(tmp_path: Path, spec: Spec) -> None:
    data = filled(tmp_path / "a.zarr" / "s", spec)
    result = begin(tmp_path / "a.zarr" / "s", "d", spec, {})
    np.testing.assert_array_equal(result.read_all(), data)
    box = Box((1, 200, 100), (3, 290, 511))
    np.testing.assert_array_equal(result.read(box), data[(..., *box.slices)])


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize(("side", "levels"), [(520, 1), (1024, 1), (1025, 4)])
def test_a_result_of_one_block_has_no_folders_for_its_shards(
    tmp_path: Path, channels: int | None, side: int, levels: int
) -> None:
    sample = tmp_path / "a.zarr" / "s"
    data = filled(sample, Spec((3, 300, side), "uint16", "image", channels, block=(8, 2048, 2048)))
    shard = "c.0.0.0" if channels is None else "c.0.0.0.0"
    files = {path.relative_to(sample).as_posix() for path in sample.rglob("*") if path.is_file()}
    assert files == {"zarr.json"} | {f"{level}/{name}" for level in range(levels) for name in ("zarr.json", shard)}
    assert {path.name for path in sample.rglob("*") if path.is_dir()} == set(map(str, range(levels)))
    np.testing.assert_array_equal(zarr.open_array(sample / "0", mode="r")[:], data)
    np.testing.assert_array_equal(Result(sample).read_all(), data)
    if channels:
        Image.from_zarr(zarr.open_group(sample, mode="r"))


def folders_for_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made from now on has them, as results of former versions do."""
    monkeypatch.setattr(Spec, "separator", "/")


@pytest.mark.parametrize("finished", [True, False])
def test_a_result_of_one_block_of_a_former_version_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    spec, path = Spec((3, 300, 520), "uint32", "labels"), tmp_path / "a.zarr" / "s"
    with monkeypatch.context() as former:
        folders_for_shards(former)
        data = filled(path, spec) if finished else None
        begin(path, "d", spec, {})
    assert (path / "0" / "c" / "0" / "0" / "0").exists() == finished
    if data is None:  # it goes on in the folder that was begun
        data = filled(path, spec)
    assert (path / "0" / "c" / "0" / "0" / "0").exists() and not (path / "0" / "c.0.0.0").exists()
    assert details_if_done(path, "d") == {"count": 1}
    np.testing.assert_array_equal(begin(path, "d", spec, {}).read_all(), data)


@pytest.mark.parametrize("former", [True, False])
def test_the_blocks_of_another_digest_are_taken_over_where_their_names_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: bool
) -> None:
    spec, path = Spec((3, 300, 520), "uint32", "labels"), tmp_path / "a.zarr" / "s"
    with monkeypatch.context() as patch:
        if former:
            folders_for_shards(patch)
        data = filled(path, spec)
    result = begin(path, "other", spec, {}, keep=True)
    assert result.separator == "."
    assert list(result.missing_blocks()) == ([0] if former else [])
    if not former:
        np.testing.assert_array_equal(result.read_all(), data)
    assert not [name for name in path.rglob("*") if name.name == "c"]


def test_images_and_labels_are_valid_ome_ngff_with_pyramids(tmp_path: Path) -> None:
    sample = tmp_path / "a.zarr" / "näme with space"
    image, labels = filled(sample, IMAGE), filled(sample / "labels" / "cells", LABELS)
    metadata = Image.from_zarr(zarr.open_group(sample, mode="r"))
    scales = [d.coordinateTransformations[0].scale for d in metadata.attributes.ome.multiscales[0].datasets]
    assert scales == [[1.0, 2.0, 0.5, 0.5], [1.0, 2.0, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0]]
    ImageLabel.from_zarr(zarr.open_group(sample / "labels" / "cells", mode="r"))
    assert zarr.open_group(sample / "labels", mode="r").attrs["ome"]["labels"] == ["cells"]
    np.testing.assert_array_equal(
        zarr.open_array(sample / "labels" / "cells" / "2", mode="r")[:], halve_labels(halve_labels(labels))
    )
    even = image[:, :, :300, :520].reshape(2, 3, 150, 2, 260, 2).mean(axis=(3, 5), dtype=np.float32)
    np.testing.assert_array_equal(zarr.open_array(sample / "1", mode="r")[:], np.rint(even))


def test_empty_blocks_are_written_too(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    result = begin(path, "d", LABELS, {})
    assert len(list(result.missing_blocks())) == 12
    for index in list(result.missing_blocks()):
        result.write(index, np.zeros(result.grid.box(index).shape, np.uint32), "d")
    assert list(result.missing_blocks()) == []


def test_an_unfinished_result_goes_on_and_another_digest_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    result = begin(path, "d", LABELS, {})
    result.write(5, np.ones(result.grid.box(5).shape, np.uint32), "d")
    assert details_if_done(path, "d") is None
    assert 5 not in list(begin(path, "d", LABELS, {}).missing_blocks())
    assert 5 in list(begin(path, "other", LABELS, {}).missing_blocks())


def test_a_lost_shard_is_noticed_when_read_and_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "weights" / "a.zarr" / "s"
    filled(path, LABELS)
    assert details_if_done(path, "d") == {"count": 1} and details_if_done(path, "e") is None
    (path / "0" / "c" / "0" / "1" / "2").unlink()
    assert details_if_done(path, "d") is None
    with pytest.raises(UserError, match=r"block \(0, 1, 2\) is missing or cut short; run 'python"):
        begin(path, "d", LABELS, {}).read_all()


def test_a_look_at_a_finished_result_opens_no_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, IMAGE)
    monkeypatch.setattr("unet_core.store.result.zarr.open_array", None)
    assert details_if_done(path, "d") == {"count": 1}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("keep", [None, 0, 20])
def test_a_result_with_a_lost_or_cut_description_is_not_done(tmp_path: Path, level: int, keep: int | None) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, LABELS)
    description = path / str(level) / "zarr.json"
    if keep is None:
        description.unlink()
    else:
        description.write_bytes(description.read_bytes()[:keep])
    assert details_if_done(path, "d") is None


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_shard_that_is_cut_short_counts_as_missing(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, LABELS)
    shard = path / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:keep])
    result = begin(path, "d", LABELS, {})
    assert list(result.missing_blocks()) == [0] and details_if_done(path, "d") is None
    with pytest.raises(UserError, match="is missing or cut short"):
        result.read_all()


@pytest.mark.parametrize("place", [5, 1000, -30])
def test_a_flipped_bit_is_an_error_that_names_the_file(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, LABELS)
    shard = path / "0" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[place] ^= 16
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"missing or cut short|\(0/c/0/0/0: .*\); run 'python"):
        begin(path, "d", LABELS, {}).read(Box((0, 0, 0), (2, 256, 256)))


def test_a_writer_of_an_older_digest_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    old = begin(path, "old", LABELS, {})
    begin(path, "new", LABELS, {})
    with pytest.raises(UserError, match="made anew by another run"):
        old.write(0, np.zeros(old.grid.box(0).shape, np.uint32), "old")
    with pytest.raises(UserError, match="made anew by another run"):
        finish(path, "old", {})


def test_two_writers_of_one_digest_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    first = begin(path, "d", LABELS, {})
    second = begin(path, "d", LABELS, {})
    data = np.random.default_rng(1).integers(0, 9, LABELS.shape).astype(np.uint32)
    for index in range(len(first.grid)):
        for writer in (first, second):
            writer.write(index, data[first.grid.box(index).slices], "d")
    np.testing.assert_array_equal(first.read_all(), data)


def test_runs_that_begin_at_the_same_moment_share_the_result(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s" / "labels" / "cells"
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: begin(path, "d", LABELS, {}), range(8)))
    results[3].write(0, np.ones(results[3].grid.box(0).shape, np.uint32), "d")
    assert all(result.has_block(0) for result in results)
    assert sorted(p.name for p in path.parent.iterdir()) == ["cells", "zarr.json"]


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EACCES])
def test_a_result_of_another_run_that_is_gone_again_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path, rename, refused = tmp_path / "a.zarr" / "s", Path.rename, []

    def once_refused(self: Path, target: Path) -> Path:
        if target == path and not refused:
            refused.append(self)
            raise OSError(code, "as if another run had its result there, which a third one then removed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once_refused)
    if code == errno.EACCES:
        with pytest.raises(PermissionError):
            begin(path, "d", LABELS, {})
    else:
        assert begin(path, "d", LABELS, {}).path == path
    assert not list(path.parent.glob(".*"))


def test_what_another_run_has_just_begun_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename, others = tmp_path / "a.zarr" / "s", Path.rename, []
    begin(path, "old", LABELS, {})

    def late(self: Path, target: Path) -> Path:
        if target.suffix == ".trash" and not others:
            others.append(None)
            others[0] = begin(
                path, "d", LABELS, {}
            )  # the other run comes between our look at the old result and our taking it away
            others[0].write(0, np.ones(others[0].grid.box(0).shape, LABELS.dtype), "d")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert begin(path, "d", LABELS, {}).has_block(0) and others[0].has_block(0)
    assert not list(path.parent.glob(".*"))


def test_a_result_with_a_gap_is_not_called_done(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    result = begin(path, "d", LABELS, {})
    for index in range(len(result.grid)):
        result.write(index, np.zeros(result.grid.box(index).shape, LABELS.dtype), "d")
    result.shards_of(1)[0].unlink()
    with pytest.raises(UserError, match="block 1 is gone .* run snakemake again"):
        finish(path, "d", {})
    assert not read_attributes(path)["done"]


def test_a_damaged_result_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, LABELS)
    (path / f"{LABELS.levels - 1}" / "zarr.json").write_text("")
    result = begin(path, "d", LABELS, {})
    assert not result.has_block(0) and not list(path.parent.glob(".*"))
    assert filled(path, LABELS).max() > 0


def test_a_result_can_be_removed_while_another_run_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rmtree = tmp_path / "a.zarr" / "s", shutil.rmtree

    def twice(folder: Path, **options: object) -> None:
        rmtree(folder)
        rmtree(folder, **options)

    filled(path, LABELS, "old")
    monkeypatch.setattr(shutil, "rmtree", twice)
    assert not begin(path, "d", LABELS, {}).has_block(0)


@pytest.mark.parametrize("before", [None, "old"])
def test_runs_that_begin_the_same_result_at_once_all_get_it(tmp_path: Path, before: str | None) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns often, so that they meet in each other's ways
    try:
        for n in range(10):
            path = tmp_path / str(n) / "a.zarr" / "s" / "labels" / "cells"
            if before:
                begin(path, before, LABELS, {})
            with ThreadPoolExecutor(8) as pool:
                results = list(pool.map(lambda _, path=path: begin(path, "d", LABELS, {}), range(8)))
            results[3].write(0, np.ones(results[3].grid.box(0).shape, LABELS.dtype), "d")
            assert all(result.has_block(0) for result in results)
            assert sorted(found.name for found in path.parent.iterdir()) == ["cells", "zarr.json"]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EMFILE, errno.EIO])
def test_a_result_that_the_system_does_not_let_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.zarr" / "s"
    filled(path, LABELS)
    result, shard = Result(path), Result(path).shards_of(0)[0]
    files = {file: file.stat().st_ino for file in path.rglob("*")}

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    looks: list[Callable[[], object]] = [
        result.read_all,
        lambda: Result(path),
        lambda: read_attributes(path),
        lambda: details_if_done(path, "d"),
        lambda: begin(path, "d", LABELS, {}),
    ]
    monkeypatch.setattr("unet_core.store.shards._index_of", refuse)
    for module in ("store", "result"):
        monkeypatch.setattr(f"unet_core.store.{module}.read_group", refuse)
    for look in looks:
        with pytest.raises(OSError) as told:
            look()
        assert str(explain(told.value)).startswith(f"{shard if look == result.read_all else path}: ")
    monkeypatch.undo()
    monkeypatch.setattr("unet_core.store.shards._index_of", refuse)
    if number == errno.EIO:  # a part of the disk that fails
        assert {damage.what.split("]")[0] for damage in verify(tmp_path)[1]} == {"[Errno 5"}
    else:
        with pytest.raises(OSError):
            verify(tmp_path)
    assert {file: file.stat().st_ino for file in path.rglob("*")} == files


def test_a_missing_store_names_the_command_that_makes_it(tmp_path: Path) -> None:
    from unet_core.store.store import Result

    with pytest.raises(
        UserError, match="run 'python -m unet_core verify --mend .*predict/m/a.zarr', then snakemake again"
    ):
        Result(tmp_path / "predict" / "m" / "a.zarr" / "s")


def test_samples_that_are_gone_and_leftovers_are_removed(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    filled(store / "kept", LABELS)
    filled(store / "gone", LABELS)
    (store / ".kept.1234.trash").mkdir()
    assert sorted(remove_others(store, {"kept"})) == [".kept.1234.trash", "gone"]
    assert sorted(p.name for p in store.iterdir()) == ["kept", "zarr.json"]


def test_provenance_and_versions_stand_in_the_attributes(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr" / "s", LABELS)
    attributes = read_attributes(tmp_path / "a.zarr" / "s")
    assert attributes["provenance"]["step"] == "test" and "zarr" in attributes["provenance"]["versions"]


@pytest.mark.parametrize("when", ["begin", "write", "finish"])
def test_an_error_of_writing_names_the_file_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path, spec = tmp_path / "s.zarr" / "a", Spec((1, 20, 20), "uint8", "image", 1)
    if when != "begin":
        begin(path, "d", spec, {})
    if when == "finish":
        Result(path).write(0, np.ones((1, 1, 20, 20), np.uint8), "d")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError) as raised:
        if when == "begin":
            begin(path, "d", spec, {})
        elif when == "write":
            Result(path).write(0, np.ones((1, 1, 20, 20), np.uint8), "d")
        else:
            finish(path, "d", {})
    assert raised.value.errno == errno.ENOSPC and Path(raised.value.filename).is_relative_to(tmp_path / "s.zarr")
