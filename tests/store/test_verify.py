"""Whatever harms a store is found, and only what is harmed is computed again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.predict.test_step import predict, prepare
from unet_core.digest import hash_of_file
from unet_core.engine import Engine
from unet_core.files import temporary_path, write_atomic
from unet_core.records import record_path, recorded
from unet_core.runtime import UserError
from unet_core.sealed import seal
from unet_core.store.shards import check_shard, read_part, write_shard
from unet_core.store.store import LABELS, Result, Spec, begin, finish, read_attributes, write_reference
from unet_core.store.verify import mend, verify


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # not 16: Zstandard has a bit that means nothing
    path.write_bytes(content)


def shards_of(folder: Path, level: str = "0") -> list[Path]:
    return sorted(path for path in (folder / level).rglob("c/*/*/*/[!.]*") if path.is_file())


@pytest.mark.parametrize(("harm", "what"), [(cut, "cut short"), (flip, "damaged"), (Path.unlink, "missing")])
@pytest.mark.parametrize("level", ["0", "1"])
def test_a_harmed_shard_is_found_and_it_alone_is_made_again(
    tmp_path: Path, engine: Engine, level: str, harm: object, what: str
) -> None:
    prepare(tmp_path)
    result = predict(tmp_path, engine)
    whole = result.read_all()
    states, damages = verify(tmp_path / "out")
    assert [(state.done, state.written, state.blocks) for state in states] == [(True, 6, 6)] and damages == []
    times = {path: path.stat().st_mtime_ns for path in shards_of(result.path)}
    harmed = shards_of(result.path, level)[2]
    harm(harmed)  # type: ignore[operator]
    _, damages = verify(tmp_path / "out" / "data.zarr")
    assert [(damage.file, damage.what.split(" (")[0]) for damage in damages] == [(harmed, what)]
    stamp = tmp_path / "out" / "data.json"
    stamp.write_text("{}")
    assert mend(damages) == {stamp} and not stamp.exists()
    np.testing.assert_array_equal(predict(tmp_path, engine).read_all(), whole)
    assert verify(tmp_path)[1] == []
    changed = [path for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert [path.relative_to(result.path / "0") for path in changed] == [harmed.relative_to(result.path / level)]


@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json"])
def test_a_description_that_is_damaged_costs_the_result(tmp_path: Path, engine: Engine, file: str) -> None:
    prepare(tmp_path)
    result = predict(tmp_path, engine)
    whole = result.read_all()
    (result.path / file).write_text("{")
    _, damages = verify(tmp_path / "out")
    assert [(damage.result, damage.block) for damage in damages] == [(result.path, None)]
    mend(damages)
    np.testing.assert_array_equal(predict(tmp_path, engine).read_all(), whole)


def test_unfinished_results_are_told_apart_from_damaged_ones(tmp_path: Path) -> None:
    result = begin(tmp_path / "a.zarr" / "s" / "labels" / "classes", "d", Spec((1, 300, 600), "uint8", "labels"), {})
    assert verify(tmp_path)[0][-1][1:] == (False, 0, 1) and verify(tmp_path)[1] == []
    result.write(0, np.zeros((1, 300, 600), np.uint8), "d")
    # A block without objects is written too.
    assert verify(tmp_path)[0][-1][1:] == (False, 1, 1) and verify(tmp_path)[1] == []
    flip(result.shards_of(0)[0])
    assert len(verify(tmp_path)[1]) == 1


def test_an_image_in_place_has_nothing_to_verify(tmp_path: Path) -> None:
    write_reference(tmp_path / "a.zarr" / "s", "d", {"file": "x.tif"}, {}, {})
    assert read_attributes(tmp_path / "a.zarr" / "s")["done"]
    with pytest.raises(UserError, match="has no stores"):
        verify(tmp_path)


def test_any_flipped_bit_is_found_unless_the_voxels_are_the_same(tmp_path: Path) -> None:
    path, chunk, counts = tmp_path / "shard", (1, 4, 4), (1, 2, 1)
    voxels = np.random.default_rng(0).integers(0, 99, (1, 8, 4)).astype(np.uint8)
    write_shard(path, voxels, chunk, counts)
    content = path.read_bytes()
    found = 0
    for bit in range(8 * len(content)):
        harmed = bytearray(content)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        try:
            check_shard(path, 2, 16)
        except ValueError:
            found += 1
            continue
        out = np.empty_like(voxels)
        read_part(path, (slice(0, 1), slice(0, 8), slice(0, 4)), chunk, counts, out)
        np.testing.assert_array_equal(out, voxels)
    assert found > 0.95 * 8 * len(content)


def test_the_command_tells_mends_and_ends_with_a_status(tmp_path: Path, engine: Engine) -> None:
    prepare(tmp_path)
    result = predict(tmp_path, engine)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "unet_core", "verify", *arguments],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )

    assert "1 results, 1 done, 0 unfinished, 0 files damaged" in run(str(tmp_path / "out")).stdout
    flip(shards_of(result.path)[0])
    old, young = (temporary_path(shards_of(result.path)[0]) for _ in range(2))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    completed = run(str(tmp_path / "out"))
    assert (
        completed.returncode == 1
        and "--mend" in completed.stderr
        and str(shards_of(result.path)[0]) in completed.stdout
    )
    assert old.exists() and run("--mend", str(tmp_path / "out")).returncode == 0
    assert young.exists() and not old.exists()
    shutil.rmtree(tmp_path / "out")
    assert "does not exist" in run(str(tmp_path / "out")).stderr


def test_shards_that_were_swapped_are_found_and_not_read(tmp_path: Path) -> None:
    """Each of them is whole, and so are all its checksums."""
    spec = Spec((1, 600, 600), "uint8", "image", 1, block=(1, 256, 256))
    for name in ("a", "b"):
        result = begin(tmp_path / "s.zarr" / name, "d", spec, {})
        for index in range(len(result.grid)):
            result.write(index, np.full((1, *result.grid.box(index).shape), index + 1, np.uint8), "d")
        finish(tmp_path / "s.zarr" / name, "d", {})
    assert verify(tmp_path)[1] == []
    (first, *_), (second, *_) = result.shards_of(0), result.shards_of(4)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    assert {(damage.block, damage.what) for damage in verify(tmp_path)[1]} == {
        (0, "it is that of another block"),
        (4, "it is that of another block"),
    }
    with pytest.raises(UserError, match="it is that of another block"):
        result.read_all()
    # Of another sample, at the same place.
    first.write_bytes(Result(tmp_path / "s.zarr" / "a").shards_of(0)[0].read_bytes())
    assert [damage.block for damage in verify(tmp_path)[1]] == [0, 4]


def test_any_bit_of_our_attributes_and_of_the_descriptions_of_arrays_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr" / "a"
    result = begin(path, "d", Spec((1, 20, 20), "uint8", "image", 1), {"step": "predict"})
    result.write(0, np.ones((1, 1, 20, 20), np.uint8), "d")
    finish(path, "d", {"count": 3, "mean": [0.5, 17.25]})
    for file in (path / "zarr.json", path / "0" / "zarr.json"):
        text = file.read_bytes()
        begun = text.index(b'"unet"') if file.parent == path else 0
        # A generation is a number like any other, and without the word checksum it is one of a former version.
        spans = [re.search(pattern, text) for pattern in (rb'"generation": "\w+"', rb'"checksum"')]
        meaningless = [found.span() for found in spans if found]
        for place in range(begun, len(text)):
            if any(first <= place < last for first, last in meaningless):
                continue
            file.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
            found = verify(tmp_path)[1]
            assert found or json.loads(file.read_bytes()) == json.loads(text), text[place - 20 : place + 20]
        file.write_bytes(text)
    assert verify(tmp_path)[1] == []


def test_what_viewers_add_to_attributes_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr" / "a"
    begin(path, "d", Spec((1, 20, 20), "uint8", "image", 1), {}).write(0, np.ones((1, 1, 20, 20), np.uint8), "d")
    finish(path, "d", {})
    group = zarr.open_group(path, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": []}}  # type: ignore[dict-item]
    assert verify(tmp_path)[1] == []


def stored(folder: Path) -> Path:
    """A store with a sample that has label images, one that has none and one that stays in place, and its stamp."""
    store = folder / "s.zarr"
    for path in (store / "a", store / "labels", *(store / "a" / "labels" / name for name in LABELS)):
        kind = "labels" if path.parent.name == "labels" else "image"
        result = begin(path, "d", Spec((1, 20, 20), "uint8", kind), {})  # type: ignore[arg-type]
        result.write(0, np.ones((1, 20, 20), np.uint8), "d")
        finish(path, "d", {})
    write_reference(store / "c", "d", {"file": "x.tif"}, {}, {})
    samples = {"a": {"labels": "d"}, "labels": {"labels": None}, "c": {"labels": None}}
    store.with_suffix(".json").write_text(json.dumps({"step": "groundtruth", "samples": samples}))
    return store


@pytest.mark.parametrize(
    "harm", ["", "{}", "flip", "delete", "of an array", "of another folder", "strange", "strange labels"]
)
@pytest.mark.parametrize("folder", ["", "a/labels"])
def test_a_damaged_description_of_a_folder_is_found_and_written_again(tmp_path: Path, folder: str, harm: str) -> None:
    store = stored(tmp_path)
    assert verify(tmp_path)[1] == []
    file = store / folder / "zarr.json"
    content = file.read_bytes()
    others = {"of an array": store / "a" / "0" / "zarr.json", "of another folder": store / "zarr.json"}
    if harm == "of another folder" and not folder:
        others[harm] = store / "a" / "labels" / "zarr.json"
    ome = {"strange": [3], "strange labels": {"version": "0.5", "labels": 3}}
    if harm == "delete":
        file.unlink()
    elif harm in ome:
        file.write_text(json.dumps({"attributes": {"ome": ome[harm]}, "zarr_format": 3, "node_type": "group"}))
    elif harm == "flip":
        file.write_bytes(content.replace(b"attributes", b"attribUtes"))
    else:
        file.write_bytes(others[harm].read_bytes() if harm in others else harm.encode())
    damages = verify(tmp_path)[1]
    assert [(damage.result, damage.file) for damage in damages] == [(None, file)]
    assert mend(damages) == set() and verify(tmp_path)[1] == []
    assert file.read_bytes() == content and store.with_suffix(".json").exists()


def test_any_bit_of_a_list_of_label_images_is_missed(tmp_path: Path) -> None:
    file = stored(tmp_path) / "a" / "labels" / "zarr.json"
    text = file.read_bytes()
    for place in range(len(text)):
        file.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        assert len(verify(tmp_path)[1]) == 1, text[place - 20 : place + 20]


ALL_LABELS = {f"a/labels/{name}" for name in LABELS}


@pytest.mark.parametrize(
    ("gone", "lost"),
    [
        ("a", {"a", *ALL_LABELS}),
        ("a/labels", ALL_LABELS),
        ("a/labels/classes", {"a/labels/classes"}),
        ("labels", {"labels"}),
        ("c", {"c"}),
    ],
)
def test_results_that_the_stamp_names_and_that_are_gone_are_missing(tmp_path: Path, gone: str, lost: set[str]) -> None:
    store = stored(tmp_path)
    shutil.rmtree(store / gone)
    damages = verify(tmp_path)[1]
    assert {damage.result for damage in damages} - {None} == {store / name for name in lost}
    assert mend(damages) == {store.with_suffix(".json")} and not store.with_suffix(".json").exists()


@pytest.mark.parametrize("harmed", ["a", "a/labels/classes", "labels", "c"])
def test_a_result_without_its_description_is_missing(tmp_path: Path, harmed: str) -> None:
    store = stored(tmp_path)
    (store / harmed / "zarr.json").unlink()
    damages = verify(tmp_path)[1]
    assert {damage.result for damage in damages} == {store / harmed}
    assert mend(damages) == {store.with_suffix(".json")}


@pytest.mark.parametrize("name", ["../other", "../../other", "/{folder}/other", ".", "..", ".hidden", "a/b", ""])
def test_a_stamp_from_elsewhere_leads_to_nothing_outside_of_its_store(tmp_path: Path, name: str) -> None:
    store = stored(tmp_path / "results")
    for other in (tmp_path / "other", tmp_path / "results" / "other", store / ".hidden"):
        other.mkdir()
        (other / "kept").touch()
    stamp = store.with_suffix(".json")
    stamp.write_text(json.dumps({"step": "weights", "samples": {name.replace("{folder}", str(tmp_path)): {}}}))
    damages = verify(tmp_path)[1]
    assert damages == [] and mend(damages) == set()
    assert len([*tmp_path.rglob("kept")]) == 3


def test_unfinished_label_images_that_are_not_yet_listed_are_no_damage(tmp_path: Path) -> None:
    store = stored(tmp_path)
    begin(store / "a" / "labels" / "more", "d", Spec((1, 20, 20), "uint8", "labels"), {})
    begin(store / "b" / "labels" / "more", "d", Spec((1, 20, 20), "uint8", "labels"), {})
    assert verify(tmp_path)[1] == []


# ---- files beside the stores ----


def left_by_a_job(results: Path, name: str, *files: str) -> list[Path]:
    """Files of a job that has ended well, the stamp first; their record stands beside."""
    outputs = [f"{name}.json", *(f"{name}/{file}" for file in files)]
    job = {"results": str(results), "name": name, "outputs": outputs[:1], "beside": outputs[1:]}
    with recorded(job | {"stores": [], "own": "", "parts": {"all": []}}):
        for number, output in enumerate(outputs):
            write_atomic(results / output, json.dumps({"step": "evaluate", "number": number}).encode())
    return [results / output for output in outputs]


def flip_unseen(path: Path) -> None:
    """As a disk does it: time and size stay."""
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def found_in(folder: Path) -> list[tuple[Path, str]]:
    return [(damage.file, damage.what) for damage in verify(folder)[1]]


@pytest.mark.parametrize("folder", ["", "evaluate", "evaluate/m"])
def test_files_that_records_name_are_read_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = left_by_a_job(Path("results"), "evaluate/m/cells", "images.csv", "objects.csv")
    others = left_by_a_job(Path("results"), "train/m", "model.json")
    asked = Path("results", folder)
    assert found_in(asked) == []
    for path in (*files, others[1]):
        flip_unseen(path)
    wrong = "damaged (it is not what its step wrote)"
    expected = [(path, wrong) for path in (*files, *([others[1]] if not folder else []))]
    assert found_in(asked) == expected
    files[1].unlink()
    assert (files[1], "missing") in found_in(asked)
    mend(verify(asked)[1])
    assert not any(path.exists() for path in files) and others[1].exists() == bool(folder)
    # What has no stamp is to be made again: nothing of it is missing.
    assert [path for path, _ in found_in(asked)] == ([] if folder else [others[1]])
    monkeypatch.chdir(asked)
    assert len(found_in(Path())) == len(found_in(Path.cwd()))


def test_a_damaged_record_is_found_and_costs_no_file(tmp_path: Path) -> None:
    files = left_by_a_job(tmp_path, "train/m", "best.safetensors")
    record = record_path(tmp_path, "train/m")
    text = record.read_text()
    seen = json.loads(text)["outputs"]["train/m/best.safetensors"][2]
    record.write_text(text.replace(seen, seen[::-1]))
    assert found_in(tmp_path) == [(record, "damaged")]
    mend(verify(tmp_path)[1])
    assert all(path.exists() for path in files) and not record.exists()


@pytest.mark.parametrize("name", ["../kept", "train/../../kept", "{folder}/kept"])
def test_a_record_from_elsewhere_leads_to_nothing_outside_of_the_results(tmp_path: Path, name: str) -> None:
    left_by_a_job(tmp_path / "results", "train/m")
    (tmp_path / "kept").write_text("it")
    record = record_path(tmp_path / "results", "train/m")
    content = json.loads(record.read_text())
    del content["checksum"]
    content["outputs"][name.replace("{folder}", str(tmp_path))] = [1, 1, "another"]
    record.write_text(json.dumps(content))
    assert found_in(tmp_path / "results") == []


def test_batches_of_annotations_are_kept_aside_and_a_backup_of_them_is_no_damage(tmp_path: Path) -> None:
    (batches,) = left_by_a_job(tmp_path, "groundtruth/cells.check/batches")
    batches.write_text(seal({"samples": {"a": ["annotation 1", 1]}}))
    assert found_in(tmp_path) == []
    batches.write_text(batches.read_text().replace("1]", "2]"))
    assert found_in(tmp_path) == [(batches, "damaged (its checksum is another one)")]
    assert mend(verify(tmp_path)[1]) == set() and not batches.exists()
    assert json.loads(batches.with_name("batches.json.damaged").read_text())["samples"] == {"a": ["annotation 1", 2]}


def test_histories_of_evaluations_are_compared_with_their_checksums(tmp_path: Path) -> None:
    left_by_a_job(tmp_path, "evaluate/m/cells")
    history = tmp_path / "evaluate/history/m"
    tables = [history / "cells" / f"{name}.csv" for name in ("one", "two")]
    for path in tables:
        write_atomic(path, path.name.encode())
    lines = [seal({"digest": path.stem, "images": hash_of_file(path), "iou": 0.5}) for path in tables]
    (history / "cells.jsonl").write_text("\n".join([*lines, '{"digest": "of a former version"}', ""]))
    (history / "accepted.json").write_text(seal({"weights": "w1"}))
    assert found_in(tmp_path) == []
    stamp = tmp_path / "evaluate/m/cells.json"
    flip(tables[0])
    assert found_in(tmp_path) == [(tables[0], "damaged (its checksum is another one)")]
    assert mend(verify(tmp_path)[1]) == {stamp} and not tables[0].exists() and not stamp.exists()
    (history / "cells.jsonl").write_text("\n".join([lines[0].replace("0.5", "0.6"), lines[1]]))
    assert found_in(tmp_path) == [(history / "cells.jsonl", "damaged (1 of 2 lines)")]
    # The step that reads it writes it without the line, and tells it.
    assert mend(verify(tmp_path)[1]) == {stamp} and (history / "cells.jsonl").exists()
    # The latest one alone can be made again.
    (history / "cells.jsonl").write_text("\n".join(lines))
    tables[1].unlink()
    assert found_in(tmp_path) == [(tables[1], "missing")] and mend(verify(tmp_path)[1]) == {stamp}
    (history / "cells.jsonl").unlink()
    (history / "accepted.json").write_text(seal({"weights": "w1"}).replace("w1", "w2"))
    assert found_in(tmp_path) == [(history / "accepted.json", "damaged (its checksum is another one)")]
    assert mend(verify(tmp_path)[1]) == set() and not (history / "accepted.json").exists()
