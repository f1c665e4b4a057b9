from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_core.patterns import Match, fits, matching, nfc


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def stems(found: list[Match]) -> dict[str, str | None]:
    return {match.path.name: match.stem for match in found}


NAMES = st.text("ab1_.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PARTS = st.text("ab1_.*?", min_size=1, max_size=3).filter(lambda name: name.strip("."))


@settings(deadline=None, max_examples=100)
@given(
    st.sets(st.tuples(NAMES, NAMES, NAMES), max_size=8),
    st.lists(st.one_of(PARTS, st.just("**")), min_size=1, max_size=4),
)
def test_patterns_find_what_glob_finds(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[str, str, str]], parts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("glob")
    for first, second, third in files:
        for path in (folder / f"f{first}" / f"g{second}" / third, folder / f"f{first}" / third, folder / third):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # What `**` at the end finds differs: the files below, which no pattern of ours asks for.
    if parts[-1] == "**":
        parts = [*parts, "*"]
    pattern = f"{folder}/{'/'.join(parts)}"
    wanted = {os.path.normpath(path) for path in glob.glob(pattern, recursive=True)}
    assert {str(match.path) for match in matching(pattern)} == wanted


def test_a_folder_with_brackets_is_a_name_before_it_is_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "plate [1]/a[2].tif", "plate 1/a2.tif", "plate [1]/b.tif")
    assert stems(matching(f"{tmp_path}/plate [1]/*.tif")) == {"a[2].tif": None, "b.tif": None}
    assert stems(matching(f"{tmp_path}/plate [1]/a[2].tif")) == {"a[2].tif": None}
    assert stems(matching(f"{tmp_path}/plate [12]/*.tif")) == {"a2.tif": None}


def test_the_stem_is_what_stands_in_its_place(tmp_path: Path) -> None:
    touch(tmp_path, "img_001.tif", "img_2.tif", "img_.tif", "mask_001.tif", "a/001_img.png")
    assert stems(matching(f"{tmp_path}/img_{{stem}}.tif")) == {"img_001.tif": "001", "img_2.tif": "2"}
    assert stems(matching(f"{tmp_path}/*/{{stem}}_img.*")) == {"001_img.png": "001"}
    assert [match.folders for match in matching(f"{tmp_path}/*/{{stem}}_img.*")] == [("a",)]


def test_the_stem_may_stand_several_times(tmp_path: Path) -> None:
    touch(tmp_path, "a/a_mask.png", "a/b_mask.png", "b/b_mask.png")
    found = matching(f"{tmp_path}/{{stem}}/{{stem}}_mask.png")
    assert [(match.path.relative_to(tmp_path).as_posix(), match.stem) for match in found] == [
        ("a/a_mask.png", "a"),
        ("b/b_mask.png", "b"),
    ]
    touch(tmp_path, "x-x.png", "x-y.png")
    assert stems(matching(f"{tmp_path}/{{stem}}-{{stem}}.png")) == {"x-x.png": "x"}


def test_beside_wildcards_the_stem_is_each_that_is_known(tmp_path: Path) -> None:
    touch(tmp_path, "a_b_1.png", "c_1.png")
    found = matching(f"{tmp_path}/{{stem}}_*.png", {"a", "a_b"})
    assert [(match.path.name, match.stem) for match in found] == [
        ("a_b_1.png", "a"),
        ("a_b_1.png", "a_b"),
        ("c_1.png", "c"),
    ]


def test_names_are_found_in_both_forms_of_unicode(tmp_path: Path) -> None:
    composed, apart = "gr\u00fcn", "gru\u0308n"
    touch(tmp_path, f"{apart}/{apart}.tif")
    assert nfc(apart) == composed
    found = matching(f"{tmp_path}/{composed}/{{stem}}.tif", {composed})
    assert [(match.path.name, match.stem) for match in found] == [(f"{apart}.tif", composed)]
    assert fits(apart, [composed]) and fits(composed, [f"{apart[:4]}*"])


def test_hidden_files_are_found_by_their_own_names_alone(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden/a.tif", "._a.tif", "a.tif")
    assert stems(matching(f"{tmp_path}/**/{{stem}}.tif")) == {"a.tif": "a"}
    assert stems(matching(f"{tmp_path}/.hidden/*.tif")) == {"a.tif": None}


def test_links_that_go_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.tif")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert [match.path.relative_to(tmp_path).as_posix() for match in matching(f"{tmp_path}/**/x.tif")] == ["a/x.tif"]


def test_relative_patterns_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.tif")
    monkeypatch.chdir(tmp_path)
    assert matching("*/{stem}.tif") == [Match(Path("a/x.tif"), "x", ("a",))]


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"images/{number}.tif" for number in range(100)))
    listed = list[str]()
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or real(path))
    assert len(matching(f"{tmp_path}/images/{{stem}}.tif", {str(number) for number in range(100)})) == 100
    assert listed == [f"{tmp_path}/images"]
