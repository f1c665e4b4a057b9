from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from unet_core import digest as digest_module
from unet_core.digest import FileHashes, digest


def test_digests_of_equal_values_are_equal_whatever_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest((1, 2)) == digest([1, 2])


@pytest.mark.parametrize(
    ("one", "other"), [([1], [2]), ([1, 2], [2, 1]), ([1], ["1"]), ([[]], [None]), ([["a", "b"]], [["ab"]])]
)
def test_digests_of_different_values_differ(one: list[Any], other: list[Any]) -> None:
    assert digest(*one) != digest(*other)


def test_a_digest_is_the_same_in_each_run_and_version() -> None:
    assert digest("größe", 1, {"a": None}) == "9f6ffbead19a4293dcd6"


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    hashes = FileHashes(tmp_path / "cache.json")
    assert hashes.of(tmp_path / "a") == hashes.of(tmp_path / "b") != hashes.of(tmp_path / "c")


def test_a_file_that_was_not_touched_is_not_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", tmp_path / "folder" / "cache.json"
    file.write_bytes(b"x")
    os.utime(file, ns=(5, 5))
    hashes = FileHashes(cache)
    before = hashes.of(file)
    hashes.save()
    file.write_bytes(b"y")
    os.utime(file, ns=(5, 5))  # same size and time: only a reader would see the change
    assert FileHashes(cache).of(file) == before
    os.utime(file, ns=(6, 6))
    assert FileHashes(cache).of(file) != before


def test_a_touched_file_keeps_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    hashes = FileHashes(tmp_path / "cache.json")
    before = hashes.of(file)
    os.utime(file, ns=(1, 1))
    assert hashes.of(file) == before


def test_the_hash_of_a_folder_counts_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "chunk").write_bytes(b"x")
    hashes = FileHashes(tmp_path / "cache.json")
    seen = {hashes.of(folder)}
    (folder / "zarr.json").write_bytes(b"{}")
    seen.add(hashes.of(folder))
    (folder / "0" / "chunk").write_bytes(b"longer")
    seen.add(hashes.of(folder))
    (folder / "0" / "chunk").rename(folder / "0" / "another")
    seen.add(hashes.of(folder))
    assert len(seen) == 4


def test_a_moved_folder_keeps_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "chunk").write_bytes(b"x")
    hashes = FileHashes(tmp_path / "cache.json")
    before = hashes.of(tmp_path / "a.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    assert hashes.of(tmp_path / "b.zarr") == before


def test_size_and_time_stand_for_large_files_that_were_touched(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"xx")
    os.utime(file, ns=(5, 5))
    hashes = FileHashes(tmp_path / "cache.json")
    quick = hashes.of(file, limit=1)
    assert quick == hashes.of(file, limit=1)
    content = hashes.of(file, limit=2)
    assert content == hashes.of(file) != quick
    # Also once it was read: else a second run would find a change.
    assert hashes.of(file, limit=1) == quick


def test_size_and_time_stand_for_large_folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "z").mkdir(exist_ok=True)
        (tmp_path / "z" / name).write_bytes(b"xx")
        os.utime(tmp_path / "z" / name, ns=(5, 5))
    hashes = FileHashes(tmp_path / "cache.json")
    quick = hashes.of(tmp_path / "z", limit=3)
    assert hashes.of(tmp_path / "z", limit=4) == hashes.of(tmp_path / "z") != quick
    (tmp_path / "z" / "a").touch()
    assert hashes.of(tmp_path / "z", limit=3) != quick


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "7"])
def test_a_damaged_cache_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "cache.json").write_text(content)
    hashes = FileHashes(tmp_path / "cache.json")
    assert hashes.of(tmp_path / "a") == FileHashes(tmp_path / "none.json").of(tmp_path / "a")
    hashes.save()
    assert list(json.loads((tmp_path / "cache.json").read_text())) == [str(tmp_path / "a")]


def test_a_cache_without_news_is_not_written(tmp_path: Path) -> None:
    FileHashes(tmp_path / "cache.json").save()
    assert not (tmp_path / "cache.json").exists()


def test_many_files_are_hashed_as_each_of_them_is(tmp_path: Path) -> None:
    folder, cache = tmp_path / "a.zarr", tmp_path / "cache.json"
    (folder / "0").mkdir(parents=True)
    files = [tmp_path / f"{number}.bin" for number in range(20)]
    for number, file in enumerate([*files, folder / "zarr.json", folder / "0" / "c"]):
        file.write_bytes(bytes([number]) * (1000 * number + 1))
    paths = [*files, folder, tmp_path / "missing"]
    hashes = FileHashes(cache)
    hashes.learn((path, None) for path in paths)
    plain = FileHashes(tmp_path / "other.json")
    assert [FileHashes(cache).known(path) for path in paths[:-1]] == [plain.of(path) for path in paths[:-1]]
    with pytest.raises(FileNotFoundError):
        hashes.of(tmp_path / "missing")


def test_what_was_hashed_before_a_kill_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(9)]
    for file in files:
        file.write_bytes(file.name.encode())
    read, real = list[Path](), FileHashes._content

    def dies(self: FileHashes, path: Path, limit: int | None) -> str:
        if path == files[6]:
            raise KeyboardInterrupt
        read.append(path)
        return real(self, path, limit)

    monkeypatch.setattr(FileHashes, "_content", dies)
    with pytest.raises(KeyboardInterrupt):
        FileHashes(tmp_path / "cache.json").learn([(file, None) for file in files], threads=1, save_every=0)
    assert read[:6] == files[:6]
    monkeypatch.setattr(FileHashes, "_content", real)
    kept = FileHashes(tmp_path / "cache.json")
    assert [kept.known(file) is not None for file in files[:6]] == [True] * 6
    assert kept.known(files[6]) is None


def test_a_file_counts_with_its_companions_which_are_looked_for_once(tmp_path: Path) -> None:
    files = [tmp_path / f"film_T{number}.ome.tif" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    looked = list[Path]()

    def companions(path: Path) -> list[Path]:
        looked.append(path)
        return [file for file in files if file != path] if path in files else []

    cache = tmp_path / "cache.json"
    (tmp_path / "alone.tif").write_bytes(b"alone")
    plain = FileHashes(tmp_path / "plain.json")
    hashes = FileHashes(cache, companions)
    assert hashes.known(files[0]) is None
    assert hashes.of(tmp_path / "alone.tif") == plain.of(tmp_path / "alone.tif")
    before = hashes.of(files[0])
    assert before != plain.of(files[0]) and hashes.known(files[0]) == before
    hashes.save()
    looked.clear()
    again = FileHashes(cache, companions)
    assert again.of(files[0]) == before and again.of(tmp_path / "alone.tif") == plain.of(tmp_path / "alone.tif")
    assert looked == []
    files[2].write_bytes(b"changed")
    assert FileHashes(cache, companions).known(files[0]) is None
    assert FileHashes(cache, companions).of(files[0]) != before


def test_hashes_that_were_kept_without_companions_stay_valid(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"x")
    plain = FileHashes(tmp_path / "cache.json")
    before = plain.of(tmp_path / "a.tif")
    plain.save()
    assert FileHashes(tmp_path / "cache.json", lambda path: []).known(tmp_path / "a.tif") == before


def test_what_is_new_is_not_read_while_jobs_are_planned_and_what_was_touched_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = tmp_path / "known.tif", tmp_path / "new.tif"
    known.write_bytes(b"one")
    new.write_bytes(b"two")
    hashes = FileHashes(tmp_path / "cache.json")
    before = hashes.of(known)
    read: list[Path] = []
    real = digest_module.hash_of_file
    monkeypatch.setattr(digest_module, "hash_of_file", lambda path: read.append(path) or real(path))
    assert hashes.seen(known) == before and hashes.seen(new) != hashes.of(new)
    assert read == [new]  # by `of` alone
    os.utime(known, (5, 5))
    assert hashes.seen(known) == before and read == [new, known]
    os.utime(known, (6, 6))
    assert hashes.seen(known, limit=2) != before and read == [new, known]
