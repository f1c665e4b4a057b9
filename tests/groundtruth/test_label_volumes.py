"""Samples that are taken in pieces come out as those that are painted as a whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from unet_core.blocks import Box, Grid
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine
from unet_core.groundtruth import label_volumes
from unet_core.groundtruth.check.tally import Tally, inner_voxels
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.runtime import UserError
from unet_core.store.store import read_attributes

SHAPE = (19, 40, 1100)
# Of findings, what is not looked for in pieces.
WHOLE_OBJECTS = {"parts", "hole", "classes"}


def volume(seed: int, shape: tuple[int, ...] = SHAPE, last: int = 300) -> np.ndarray:
    """Objects with faces along all axes, through blocks and planes; some of one voxel, some thin."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for number in rng.permutation(np.arange(1, last + 1)):
        low = [int(rng.integers(n)) for n in shape]
        high = [a + int(rng.integers(1, 9)) for a in low]
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    return labels


def zarr_of(path: Path, array: np.ndarray, chunks: tuple[int, ...]) -> str:
    zarr.create_array(str(path), data=array, chunks=chunks)
    return str(path)


Convert = Callable[..., tuple[dict[str, bytes], dict[str, Any]]]


@pytest.fixture
def convert(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Convert a sample with these sources; gives the files of its labels and what was counted in them."""
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    np.save(tmp_path / "a.npy", image)

    def run(sources: list[dict[str, Any]], whole: int, **options: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
        monkeypatch.setattr(label_volumes, "MAX_WHOLE_VOXELS", whole)
        raw = {
            "images": f"{tmp_path}/a.npy",
            "axes": "zyx",
            "annotations": sources,
            "split": {"test": 0, "validation": 0},
        }
        cfg = Dataset.model_validate(raw | options)
        samples, problems = find_samples(cfg)
        assert not problems
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir()
        convert_groundtruth(cfg, Groundtruth(), samples, store=out / "v.zarr", stamp=out / "v.json", engine=engine)
        labels = out / "v.zarr" / samples[-1].name / "labels"
        files = {
            str(file.relative_to(labels)): file.read_bytes()
            for file in labels.rglob("*")
            if file.is_file() and "c" in file.parts
        }
        return files, read_attributes(labels / "instances")["details"]

    return run


def both(
    convert: Convert, sources: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, **options: Any
) -> dict[str, Any]:
    """Convert as a whole and in pieces, and compare; what was counted."""
    caplog.set_level(logging.INFO, "unet_core.groundtruth.step")
    files, details = convert(sources, 10**9, **options)
    assert "taken in pieces" not in caplog.text
    pieces, counted = convert(sources, 0, **options)
    assert "taken in pieces" in caplog.text and len(files) > 3
    assert pieces == files
    details["findings"] = [finding for finding in details["findings"] if finding[1] not in WHOLE_OBJECTS]
    assert counted == details
    return counted


@pytest.mark.parametrize("chunks", [(1, 40, 1100), (5, 16, 64), (19, 40, 300)])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"ignore_label": 7},
        {"border": 2.5},
        {"margin": 12},
        {"slices": [0, 8, 18]},
        {"slices": "painted"},
        {"class": "b"},
    ],
    ids=lambda keys: next(iter(keys), "plain"),
)
def test_pieces_give_the_same_files(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture, chunks: tuple[int, ...], keys: dict[str, Any]
) -> None:
    labels = volume(1)
    labels[5:8, 10:20, 1025:1030] = 301  # its border reaches across that of the blocks, at 1024
    labels[[3, 9]] = 0
    path = zarr_of(tmp_path / "labels.zarr", labels, chunks)
    counted = both(convert, [{"format": "labels", "path": path} | keys], caplog, classes=["cell", "b"])
    assert counted["objects"] > 50 and {finding[1] for finding in counted["findings"]} >= {"speck", "sliver"}


def test_areas_to_ignore_and_regions_are_taken_in_pieces_too(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [
        {"format": "labels", "path": zarr_of(tmp_path / "region.zarr", volume(2) > 0, (4, 40, 100)), "region": True},
        {"format": "labels", "path": zarr_of(tmp_path / "labels.zarr", volume(3), (4, 40, 100)), "border": 1},
        {"format": "labels", "path": zarr_of(tmp_path / "dust.zarr", volume(4, last=20), (4, 40, 100)), "ignore": True},
    ]
    assert both(convert, sources, caplog)["ignored"] > 1000


def test_numbers_far_apart_and_of_other_types_are_kept(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    labels = volume(5).astype(np.float64) * 14316557
    both(convert, [{"format": "labels", "path": zarr_of(tmp_path / "labels.zarr", labels, (8, 40, 300))}], caplog)


@pytest.mark.parametrize("kind", ["h5", "chunked h5", "tif", "npy", "ome-zarr"])
def test_all_files_of_which_parts_can_be_read_are_taken_in_pieces(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    labels, path = volume(6).astype(np.uint16), str(tmp_path / f"labels.{kind}")
    if kind.endswith("h5"):
        path = str(tmp_path / "labels.h5")
        with h5py.File(path, "w") as file:
            file.create_dataset("x/labels", data=labels, chunks=(4, 16, 64) if "chunked" in kind else None)
        path += ":x/labels"
    elif kind == "tif":
        tifffile.imwrite(path, labels, compression="zlib", photometric="minisblack")
    elif kind == "npy":
        np.save(path, labels)
    else:
        path = str(tmp_path / "labels.zarr")
        zarr_of(Path(path) / "0", labels[None, None], (1, 1, 4, 40, 100))
        ome = {
            "version": "0.5",
            "multiscales": [{"datasets": [{"path": "0"}], "axes": [{"name": axis} for axis in "tczyx"]}],
        }
        content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        (Path(path) / "zarr.json").write_text(json.dumps(content), encoding="utf-8")
    both(convert, [{"format": "labels", "path": path}], caplog)


def test_pages_of_a_time_series_are_taken_in_pieces(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, *SHAPE), np.uint8))
    path = zarr_of(tmp_path / "labels.zarr", np.stack([volume(7), volume(8)]), (1, 4, 40, 200))
    both(convert, [{"format": "labels", "path": path}], caplog, axes="tzyx")


def test_sources_that_may_overlap_are_painted_as_a_whole(
    tmp_path: Path, convert: Convert, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unet_core.groundtruth.step")
    first = volume(9)
    second = np.where(first == 0, volume(10), 0)
    sources = [
        {"format": "labels", "path": zarr_of(tmp_path / f"{i}.zarr", x, (8, 40, 300))}
        for i, x in enumerate((first, second))
    ]
    convert(sources, 0)
    assert "taken in pieces" not in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": -1}, r"labels\.zarr: labels must lie between 0 and 2\^32 - 1, but go from -1"),
        (
            {"shape": (18, 40, 1100)},
            r"labels\.zarr: annotation has shape \(18, 40, 1100\), but its image has \(19, 40, 1100\)",
        ),
        ({"slices": [3, 19]}, r"slices names plane 19, but the image has 19"),
    ],
)
def test_mistakes_are_told_and_nothing_is_done(
    tmp_path: Path, convert: Convert, change: dict[str, Any], message: str
) -> None:
    labels = volume(11).astype(np.int64)[: change.get("shape", SHAPE)[0]]
    labels[-1, -1, -1] = change.get("value", 0)
    source = {"format": "labels", "path": zarr_of(tmp_path / "labels.zarr", labels, (8, 40, 300))}
    with pytest.raises(UserError, match=message):
        convert([source | {key: change[key] for key in change if key == "slices"}], 0)
    state = read_attributes(tmp_path / "out0" / "v.zarr" / "a" / "labels" / "instances")
    assert not state.get("done")


def test_an_interrupted_conversion_goes_on_where_it_was(
    tmp_path: Path, engine: Engine, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zarr_of(tmp_path / "labels.zarr", volume(12), (8, 40, 300))
    expected, _ = convert([{"format": "labels", "path": path}], 0)
    (tmp_path / "out0").rename(tmp_path / "before")
    add, calls = Tally.add, []

    def stopped(self: Tally, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        add(self, *args)

    cfg = Dataset.model_validate(
        {
            "images": f"{tmp_path}/a.npy",
            "axes": "zyx",
            "annotations": [{"format": "labels", "path": path}],
            "split": {"test": 0, "validation": 0},
        }
    )
    arguments = {"store": tmp_path / "v.zarr", "stamp": tmp_path / "v.json", "engine": engine}
    monkeypatch.setattr(Tally, "add", stopped)
    with pytest.raises(UserError, match="the disk is gone"):
        convert_groundtruth(cfg, Groundtruth(), find_samples(cfg)[0], **arguments)
    monkeypatch.setattr(Tally, "add", add)
    labels = tmp_path / "v.zarr" / "a" / "labels"
    begun = {
        str(file.relative_to(labels)): file.stat().st_mtime_ns
        for file in labels.rglob("*")
        if "c" in file.parts and file.is_file()
    }
    assert begun and len(begun) < len(expected)
    convert_groundtruth(cfg, Groundtruth(), find_samples(cfg)[0], **arguments)
    assert {name: (labels / name).read_bytes() for name in expected} == expected
    assert all((labels / name).stat().st_mtime_ns == time for name, time in begun.items())


@pytest.mark.parametrize("factor", [1, 10**7])
@pytest.mark.parametrize("together", [1, 2**20])
def test_counts_do_not_depend_on_pieces(factor: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unet_core.groundtruth.check.tally.MAX_PENDING_ENTRIES", together)
    labels = (volume(13, (5, 30, 40), 200) * factor).astype(np.uint32)
    ignore = np.random.default_rng(0).integers(0, 2, labels.shape).astype(np.uint8)
    inner, tally = inner_voxels(labels), Tally((5, 30, 40))
    for box in Grid((5, 30, 40), (2, 7, 16)):
        tally.add(box, labels[box.slices], ignore[box.slices], inner[box.slices])
    tally.add(Box((0, 0, 0), (1, 1, 1)), np.zeros((1, 1, 1), np.uint32), np.zeros((1, 1, 1)), np.zeros((1, 1, 1), bool))
    counts = tally.counts()
    assert counts.number.tolist() == [number for number in np.unique(labels) if number]
    for row in zip(*counts, strict=True):
        mask = labels == row[0]
        assert row[1:] == (mask.sum(), (mask & (ignore == 0)).sum(), (mask & inner).sum(), np.flatnonzero(mask)[0])
    assert tally.ignored == ignore.sum()


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_of_labels_that_would_be_left_out_are_errors_of_pieces_too(
    tmp_path: Path, convert: Convert, channels: int
) -> None:
    several = np.stack([volume(1), *[volume(2)] * (channels - 1)], axis=-1)
    place = zarr_of(tmp_path / "l.zarr", several, (8, 20, 500, channels))
    for whole in (1, 2**30):
        with pytest.raises(UserError, match="has 2 channels" if channels == 2 else "is in colour"):
            convert([{"format": "labels", "path": place}], whole)
    gray = zarr_of(tmp_path / "g.zarr", np.stack([volume(1)] * 3, axis=-1), (8, 20, 500, 3))
    assert (
        convert([{"format": "labels", "path": gray}], 1)[0] == convert([{"format": "labels", "path": gray}], 2**30)[0]
    )
