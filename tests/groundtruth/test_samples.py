from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.config.test_models import write_model
from unet_core.config.datasets import ConfigError, Dataset, Split
from unet_core.config.options import Config, Groundtruth
from unet_core.config.parse import parse_config
from unet_core.digest import FileHashes
from unet_core.groundtruth.contents import wanted_of_files
from unet_core.groundtruth.samples import (
    Sample,
    _at_least_one,
    check_data,
    expand,
    find_samples,
    split_of,
)
from unet_core.images.readers import SUFFIXES, companions_of

ALL_TRAIN = {"test": 0, "validation": 0}
KNOWN_SPLITS = ["train", "test", "train", "validation", "test", "validation"]


def image(path: Path, shape: tuple[int, ...] = (2, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros(shape, np.uint8), photometric="minisblack")
    return path


def dataset(images: Any, **options: Any) -> Dataset:
    return Dataset.model_validate({"images": images, "split": ALL_TRAIN} | options)


def labels(folder: Path) -> list[dict[str, Any]]:
    return [{"format": "labels", "path": f"{folder}/{{stem}}.tif"}]


def config(*images: Path, **options: Any) -> Config:
    return parse_config(
        {"datasets": {"cells": {"images": [str(path) for path in images], "split": ALL_TRAIN} | options}}
    )


def names(cfg: Dataset) -> list[str]:
    samples, problems = find_samples(cfg)
    assert problems == []
    return [sample.name for sample in samples]


def problems(cfg: Dataset) -> list[str]:
    return find_samples(cfg)[1]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Images a, b, c in `images`, label images for them in `masks`."""
    for name in "abc":
        image(tmp_path / "images" / f"{name}.tif")
        image(tmp_path / "masks" / f"{name}.tif")
    return tmp_path


def test_a_pattern_a_list_and_a_file_name_find_images_in_the_order_of_their_names(three: Path) -> None:
    folder = three / "images"
    assert names(dataset(f"{folder}/*.tif")) == ["a", "b", "c"]
    assert names(dataset(f"{three}/**/images/*.tif")) == ["a", "b", "c"]
    assert names(dataset([f"{folder}/c.tif", f"{folder}/a.tif"])) == ["a", "c"]
    assert names(dataset(f"{folder}/b.tif")) == ["b"]


def test_an_image_that_is_listed_twice_is_one_sample(three: Path) -> None:
    assert names(dataset([f"{three}/images/*.tif", f"{three}/images/a.tif"])) == ["a", "b", "c"]


def test_an_image_that_several_patterns_or_a_link_to_its_folder_find_is_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image(Path("raw/a.tif"))
    image(Path("raw/b_img.tif"))
    (tmp_path / "link").symlink_to("raw")
    listed = ["raw/a.tif", f"{tmp_path}/raw/*.tif", "link/*.tif", "raw/../raw/*.tif", "raw/{stem}_img.tif"]
    assert names(dataset(listed)) == ["a", "b_img"]
    # A link to a file is another name, which may have an annotation of its own; the check tells twins.
    (tmp_path / "raw" / "c.tif").symlink_to("a.tif")
    assert names(dataset(listed)) == ["a", "b_img", "c"]
    # Relative and absolute paths may stand beside each other.
    image(Path("more/a.tif"))
    assert names(dataset([f"{tmp_path}/raw/a.tif", "more/a.tif"])) == ["more_a", "raw_a"]


def test_arrays_of_files_with_endings_in_upper_case_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.H5", "w") as file:
        file["raw"], file["labels"] = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    source = {"format": "labels", "path": f"{tmp_path}/{{stem}}.H5:labels"}
    samples, wrong = find_samples(dataset(f"{tmp_path}/*.H5:raw", annotations=[source]))
    assert wrong == []
    assert [(one.name, one.internal, one.annotations) for one in samples] == [
        ("a", "raw", ((tmp_path / "a.H5:labels",),))
    ]


def test_names_in_a_split_or_source_that_no_image_has_are_told(three: Path) -> None:
    options = {"annotations": labels(three / "masks"), "split": {"test": ["a", "d.tif", "x*"], "validation": 0}}
    cfg = dataset(f"{three}/images/*.tif", **options)
    assert problems(cfg)[-1] == "split.test: no image has the name d.tif, x*; names are: a, b, c"
    source = {"format": "labels", "path": "{stem}.png", "samples": ["A", "b"]}
    told = "annotations.0.samples: no image has the name A; names are: a, b, c"
    assert told in problems(dataset(f"{three}/images/*.tif", annotations=[source]))
    assert told not in problems(dataset(f"{three}/images/*.tif", annotations=[source], unmatched="allow"))


def test_names_may_have_spaces_points_brackets_and_unicode(tmp_path: Path) -> None:
    written = ["Zellkern größe", "cell 1.5x", "plate[1]", "核"]
    for name in written:
        image(tmp_path / "my images [1]" / f"{name}.tif")
        image(tmp_path / "my masks [1]" / f"{name}.tif")
    listed = [f"{tmp_path}/my images [1]/{name}.tif" for name in written]
    samples, wrong = find_samples(dataset(listed, annotations=labels(tmp_path / "my masks [1]")))
    assert wrong == []
    assert [sample.name for sample in samples] == sorted(written)
    assert [sample.annotations[0][0].stem for sample in samples] == sorted(written)


def test_names_that_are_too_long_for_the_files_named_after_them_are_told_in_bytes(tmp_path: Path) -> None:
    image(tmp_path / f"{'a' * 205}.tif")
    assert names(dataset(f"{tmp_path}/*.tif")) == ["a" * 205]
    image(tmp_path / f"{'é' * 103}.tif")
    (told,) = problems(dataset(f"{tmp_path}/*.tif"))
    assert "1 names of samples are too long" in told and "has 206 bytes" in told and "205 bytes at most" in told


def test_home_and_environment_variables_are_filled_in(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(three))
    monkeypatch.setenv("CELLS", "images")
    assert expand("~/$CELLS/*.tif") == f"{three}/images/*.tif"
    assert names(dataset("~/${CELLS}/*.tif")) == ["a", "b", "c"]


def test_an_unset_environment_variable_is_named(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    assert problems(dataset("$NOWHERE/*.tif")) == [
        "images: the environment variable $NOWHERE in '$NOWHERE/*.tif' is not set"
    ]
    cfg = dataset(f"{three}/images/*.tif", annotations=[{"format": "rle", "path": "${NOWHERE}/a.csv"}])
    assert problems(cfg)[0] == "annotations.0: the environment variable ${NOWHERE} in '${NOWHERE}/a.csv' is not set"


def test_an_unset_environment_variable_of_results_or_a_model_is_named(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    raw = {
        "results": "$NOWHERE/results",
        "datasets": {"cells": {"images": f"{three}/images/*.tif"}},
        "models": {"cells": {"path": "$NOWHERE/bought"}},
    }
    with pytest.raises(ConfigError) as error:
        check_data(parse_config(raw))
    assert str(error.value).splitlines()[1:] == [
        "  - results: the environment variable $NOWHERE in '$NOWHERE/results' is not set",
        "  - models.cells.path: the environment variable $NOWHERE in '$NOWHERE/bought' is not set",
    ]


def test_a_dollar_in_the_name_of_a_file_is_no_variable(tmp_path: Path) -> None:
    image(tmp_path / "a$b.tif")
    assert names(dataset(f"{tmp_path}/a$b.tif")) == ["a$b"]


def test_missing_images_are_told_with_pattern_and_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert problems(dataset(["a/*.tif", "b.tif"])) == [
        f"images: no file matches 'a/*.tif' (working folder: {tmp_path})",
        f"images: no file matches 'b.tif' (working folder: {tmp_path})",
    ]


def test_what_lies_where_a_pattern_finds_nothing_is_told(tmp_path: Path) -> None:
    image(tmp_path / "plates" / "a.tif")
    (line,) = problems(dataset(f"{tmp_path}/plates/*.png"))
    assert line.endswith(f"; {tmp_path}/plates has files that end with .tif")
    (line,) = problems(dataset(f"{tmp_path}/plate/*/*.png"))
    assert line.endswith(f"; there is a folder {tmp_path}, but no plate in it")


def test_unknown_kinds_of_images_are_told_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    assert problems(dataset(f"{tmp_path}/*")) == [
        f"images: {tmp_path}/a.doc: unknown kind of image; known are {', '.join(SUFFIXES)}"
    ]


def test_links_to_missing_files_are_told(three: Path) -> None:
    cfg = dataset(f"{three}/images/*.tif", annotations=labels(three / "masks"))
    for place, where in ((three / "masks", "annotations.0"), (three / "images", "images")):
        (place / "b.tif").unlink()
        (place / "b.tif").symlink_to("objects/b.tif")
        assert problems(cfg)[0] == (
            f"{where}: {place}/b.tif: no such file, but a link to one; get what is missing, as by datalad get or "
            "git annex get, or remove the link"
        )


def test_folders_and_empty_lists_are_no_images(tmp_path: Path) -> None:
    image(tmp_path / "raw" / "a.tif")
    assert problems(dataset([])) == ["images: the list is empty; name files, as in images/*.tif"]
    for pattern in (tmp_path / "raw", tmp_path / "*"):
        assert problems(dataset(str(pattern))) == [
            f"images: {tmp_path}/raw is a folder; name the files in it, as in {tmp_path}/raw/*.tif"
        ]


def test_files_of_the_same_name_have_their_folders_in_their_names(tmp_path: Path) -> None:
    for folder, numbers in (("01", (0, 1)), ("02", (0, 1, 2))):
        for number in numbers:
            image(tmp_path / folder / "raw" / f"t{number:03d}.tif")
    # Only those that have the same: the names of the others are as they were before there were two.
    assert names(dataset(f"{tmp_path}/*/raw/*.tif")) == ["01_t000", "01_t001", "02_t000", "02_t001", "t002"]
    assert names(dataset(f"{tmp_path}/01/**/*.tif")) == ["t000", "t001"]
    image(tmp_path / "02" / "raw" / "more" / "t002.tif")
    assert names(dataset(f"{tmp_path}/**/t002.tif")) == ["more_t002", "t002"]


def test_names_that_are_the_same_even_with_folders_are_an_error(tmp_path: Path) -> None:
    one, two = image(tmp_path / "a.tif"), image(tmp_path / "a.tiff")
    assert problems(dataset(f"{tmp_path}/*")) == [
        f"images: several images have the same name (a; as {one}, {two}); make them data sets of their own, or rename "
        "files"
    ]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_each_page_of_a_time_axis_is_a_sample(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(
        tmp_path / "film.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack", compression=compression
    )
    samples, wrong = find_samples(dataset(f"{tmp_path}/film.tif", axes="tyx"))
    assert wrong == []
    assert [(sample.name, sample.stem, sample.time) for sample in samples] == [
        ("film_0000", "film", 0),
        ("film_0001", "film", 1),
        ("film_0002", "film", 2),
    ]


def test_axes_that_do_not_fit_a_file_with_time_are_an_error_that_names_it(tmp_path: Path) -> None:
    film = image(tmp_path / "film.tif", (4, 5))
    assert problems(dataset(str(film), axes="tyx")) == [
        f"images: {film}: has 2 axes (shape (4, 5)), but axes says 'tyx'"
    ]
    for number in range(7):
        image(tmp_path / f"film{number}.tif", (4, 5 + number))
    (line,) = problems(dataset(f"{tmp_path}/film?.tif", axes="tyx"))
    assert line.startswith(
        f"images: {tmp_path}/film0.tif: has 2 axes (shape (4, 5)), but axes says 'tyx' (7 like this: "
    )
    assert line.endswith("and 2 more)")


def test_a_damaged_file_with_time_is_an_error_that_names_it(tmp_path: Path) -> None:
    film = tmp_path / "film.tif"
    film.write_bytes(b"II*\0")
    (line,) = problems(dataset(str(film), axes="tyx"))
    assert line.startswith(f"images: {film}: cannot be read as TIFF (") and line.endswith("is it complete?")


def test_paths_inside_a_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"x")
    samples, _ = find_samples(dataset(f"{tmp_path}/*.h5:volumes/raw"))
    assert [(sample.name, sample.internal) for sample in samples] == [("a", "volumes/raw")]


def test_shares_by_hash_do_not_move_samples_when_others_are_added() -> None:
    split = Split(test=0.3, validation=0.2)
    before = {f"t{number:03d}": split_of(f"t{number:03d}", split) for number in range(200)}
    # By hash alone: known answers, so that a data set keeps its split in later versions too.
    assert [before[name] for name in ("t000", "t001", "t002", "t003", "t004", "t005")] == KNOWN_SPLITS
    counts = [sum(part == name for part in before.values()) for name in ("train", "validation", "test")]
    assert 80 < counts[0] < 120 and 25 < counts[1] < 55 and 40 < counts[2] < 80


def test_splits_of_a_growing_data_set_stay(tmp_path: Path) -> None:
    def splits() -> dict[str, str]:
        samples, _ = find_samples(
            dataset(f"{tmp_path}/images/*.tif", annotations=labels(tmp_path / "masks"), split={"test": 0.5})
        )
        return {sample.name: sample.split for sample in samples}

    for number in (3, 5, 8, 11, 12):
        image(tmp_path / "images" / f"{number}.tif")
        image(tmp_path / "masks" / f"{number}.tif")
    before = splits()
    for number in (1, 4, 9, 20):
        image(tmp_path / "images" / f"{number}.tif")
        image(tmp_path / "masks" / f"{number}.tif")
    after = splits()
    assert len(after) == 9
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("t001", "test"), ("t002", "validation"), ("t012", "validation"), ("t030", "train"), ("T001", "train")],
)
def test_splits_by_pattern_come_before_shares(name: str, expected: str) -> None:
    assert split_of(name, Split(test=["t001", "x*"], validation=["t00?", "t01[2-4]"])) == expected


def test_a_pattern_for_the_test_split_with_a_share_for_validation() -> None:
    split = Split(test=["t001"], validation=1.0)
    assert (split_of("t001", split), split_of("t002", split)) == ("test", "validation")


def test_a_split_that_gets_no_sample_is_an_error_with_the_names_to_choose_from(three: Path) -> None:
    options: dict[str, Any] = {"annotations": labels(three / "masks")}
    assert problems(dataset(f"{three}/images/*.tif", split={"test": ["z*"], "validation": 0}, **options)) == [
        "split.test: no annotated sample matches ['z*']; give names (of: a, b, c), a share, or 0"
    ]


def test_a_share_gets_at_least_one_sample_and_training_keeps_one(three: Path) -> None:
    options: dict[str, Any] = {"annotations": labels(three / "masks")}

    def splits(images: str, **split: float) -> list[str]:
        samples, wrong = find_samples(
            dataset(f"{three}/images/{images}", split=split, **options | {"unmatched": "allow"})
        )
        assert wrong == []
        return sorted(sample.split for sample in samples)

    assert splits("*.tif", test=0, validation=1e-9) == ["train", "train", "validation"]
    assert splits("*.tif", test=1e-9, validation=1e-9) == ["test", "train", "validation"]
    assert splits("[ab].tif", test=1e-9, validation=0) == ["test", "train"]
    cfg = dataset(f"{three}/images/[ab].tif", split={"test": 1e-9, "validation": 1e-9}, unmatched="allow", **options)
    assert problems(cfg.model_copy(update={"unmatched": "allow"})) == [
        "split.validation: a share of 1e-09 is none of 2 samples; annotate more, give names (of: a, b), or set it to 0"
    ]


def test_any_set_of_twenty_images_can_be_divided_by_the_default_shares(tmp_path: Path) -> None:
    for trial in range(50):
        written = [f"{trial}_{number}" for number in range(20)]
        groups = {name: split_of(name, Split()) for name in written}
        samples = [Sample(name, tmp_path, "", None, (), split, group=name) for name, split in groups.items()]
        assert {one.split for one in _at_least_one(Split(), samples)} == {"train", "validation", "test"}


def test_frames_of_a_film_and_arrays_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    for film in range(12):
        image(tmp_path / "films" / f"film{film}.tif", (4, 5, 6))
        image(tmp_path / "masks" / f"film{film}.tif", (4, 5, 6))
    source = {"format": "labels", "path": f"{tmp_path}/masks/{{stem}}.tif"}
    options = {"axes": "tyx", "annotations": [source], "split": {"test": 0.3, "validation": 0.2}}
    samples, wrong = find_samples(dataset(f"{tmp_path}/films/*.tif", **options))
    assert wrong == [] and len(samples) == 48
    assert len({(sample.image, sample.split) for sample in samples}) == 12
    assert {sample.split for sample in samples} == {"train", "validation", "test"}
    assert {sample.group for sample in samples} == {f"film{film}" for film in range(12)}
    # Each frame for itself, where this is asked for.
    options["split"] |= {"group": "sample"}
    samples, wrong = find_samples(dataset(f"{tmp_path}/films/*.tif", **options))
    assert wrong == [] and len({(sample.image, sample.split) for sample in samples}) > 12
    assert {sample.name: split_of(sample.name, Split(test=0.3, validation=0.2)) for sample in samples} == {
        sample.name: sample.split for sample in samples
    }


def test_a_single_film_cannot_be_divided_by_shares_unless_this_is_asked_for(tmp_path: Path) -> None:
    image(tmp_path / "film.tif", (9, 5, 6))
    image(tmp_path / "masks.tif", (9, 5, 6))
    source = {"format": "labels", "path": f"{tmp_path}/masks.tif"}
    cfg = dataset(f"{tmp_path}/film.tif", axes="tyx", annotations=[source], split={"test": 0.2, "validation": 0})
    assert problems(cfg) == [
        "split.test: a share of 0.2 is none of 1 groups of samples (film), which are kept together; give names (of: "
        "film_0000, film_0001, film_0002, film_0003, film_0004 and 4 more), set split.group to sample, though "
        "neighbours look alike and scores may then be too good, or set it to 0"
    ]
    named = {"test": ["film_0008"], "validation": 0}
    assert problems(cfg.model_copy(update={"split": Split.model_validate(named)})) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{group}_*", {"p1": 2, "p2": 2, "p3": 2}),
        ("{group}_?", {"p1": 2, "p2": 2, "p3": 2}),
        ("*_{group}", {"a": 3, "b": 3}),
        ("{group}/*.tif", {"one": 4, "two": 2}),
        ("{group}/*/*.tif", {"fields": 6}),
        ("fields/**/{group}_*", {"p1": 2, "p2": 2, "p3": 2}),
    ],
)
def test_samples_are_grouped_by_a_pattern(tmp_path: Path, pattern: str, expected: dict[str, int]) -> None:
    for place in ("one/p1", "one/p2", "two/p3"):
        for field in "ab":
            image(tmp_path / "fields" / f"{place}_{field}.tif")
    samples, wrong = find_samples(dataset(f"{tmp_path}/fields/*/*.tif", split=ALL_TRAIN | {"group": pattern}))
    assert wrong == []
    assert Counter(sample.group for sample in samples) == expected


def test_samples_that_fit_no_group_are_told(three: Path) -> None:
    cfg = dataset(f"{three}/images/*.tif", split=ALL_TRAIN | {"group": "p{group}_*"})
    assert problems(cfg) == [
        "split.group: 'p{group}_*' fits none of a, b, c; it is compared with names of samples, or, where it has a /, "
        "with the ends of their paths"
    ]
    with pytest.raises(ValueError, match=r"must be file, sample, or a pattern with \{group\}"):
        Split(group="patient")


def test_a_data_set_without_training_samples_cannot_be_trained_on(three: Path) -> None:
    cfg = config(three / "images" / "*.tif", annotations=labels(three / "masks"), split={"test": 1, "validation": 0})
    with pytest.raises(
        ConfigError, match="models.cells: no training sample in cells; annotate more or lower the shares of split"
    ):
        check_data(cfg)


def test_a_data_set_without_annotations_is_unannotated(three: Path) -> None:
    samples, wrong = find_samples(dataset(f"{three}/images/*.tif"))
    assert wrong == []
    assert [(sample.split, sample.annotations) for sample in samples] == [("unannotated", ())] * 3


def test_images_without_annotation_are_an_error_unless_allowed(three: Path) -> None:
    (three / "masks" / "b.tif").unlink()
    cfg = dataset(f"{three}/images/*.tif", annotations=labels(three / "masks"))
    assert problems(cfg) == [
        f"annotations.0: no annotation for b.tif in {three}/masks/{{stem}}.tif; add it, or set unmatched: allow",
    ]
    samples, wrong = find_samples(cfg.model_copy(update={"unmatched": "allow"}))
    assert wrong == []
    assert {sample.name: sample.split for sample in samples} == {"a": "train", "b": "unannotated", "c": "train"}


def test_of_sources_by_precedence_one_must_annotate_each_image(three: Path) -> None:
    (three / "masks" / "b.tif").unlink()
    sources = [*labels(three / "masks"), {"format": "labels", "path": f"{three}/silver/{{stem}}.tif"}]
    image(three / "silver" / "b.tif")
    assert problems(dataset(f"{three}/images/*.tif", annotations=sources, sources="first")) == []
    (line, _) = problems(dataset(f"{three}/images/*.tif", annotations=sources))
    assert line.startswith("annotations.0: no annotation for b.tif")
    (three / "masks" / "c.tif").unlink()
    found = problems(dataset(f"{three}/images/*.tif", annotations=sources, sources="first"))
    assert [line[:37] for line in found] == [f"annotations.{n}: no annotation for c.tif"[:37] for n in (0, 1)]


@pytest.mark.parametrize("precedence", ["all", "first"])
def test_corrections_count_alone_for_the_samples_that_they_have(three: Path, precedence: str) -> None:
    (three / "masks" / "b.tif").unlink()
    for name in ("b", "c"):
        image(three / "done" / f"{name}.tif")
    sources = [
        *labels(three / "masks"),
        {"format": "labels", "path": f"{three}/areas/{{stem}}.tif", "ignore": True},
        *(source | {"replaces": True} for source in labels(three / "done")),
    ]
    for name in ("a", "b", "c"):
        image(three / "areas" / f"{name}.tif")
    samples, wrong = find_samples(dataset(f"{three}/images/*.tif", annotations=sources, sources=precedence))
    assert wrong == []
    counted = {one.name: [file.parent.name for files in one.annotations for file in files] for one in samples}
    assert counted == {"a": ["masks", "areas"], "b": ["areas", "done"], "c": ["areas", "done"]}
    # Of several corrections the first.
    image(three / "later" / "c.tif")
    later = [*(source | {"replaces": True} for source in labels(three / "later")), *sources]
    samples, wrong = find_samples(dataset(f"{three}/images/*.tif", annotations=later, sources=precedence))
    assert wrong == [] and [file.parent.name for files in samples[2].annotations for file in files] == [
        "later",
        "areas",
    ]
    with pytest.raises(ValueError, match="replaces is for sources of objects"):
        dataset("a.tif", annotations=[sources[1] | {"replaces": True}])


def test_a_source_must_annotate_the_samples_that_it_names(three: Path) -> None:
    (three / "masks" / "b.tif").unlink()
    (source,) = labels(three / "masks")
    assert problems(dataset(f"{three}/images/*.tif", annotations=[source | {"samples": ["a", "c"]}])) == []
    assert len(problems(dataset(f"{three}/images/*.tif", annotations=[source | {"samples": ["b"]}]))) == 2


def test_annotations_without_image_are_an_error_unless_allowed(three: Path) -> None:
    (three / "images" / "b.tif").unlink()
    cfg = dataset(f"{three}/images/*.tif", annotations=labels(three / "masks"))
    assert problems(cfg) == [f"annotations.0: no image for {three}/masks/b.tif; add it, or set unmatched: allow"]
    assert names(cfg.model_copy(update={"unmatched": "allow"})) == ["a", "c"]


def test_long_lists_of_unmatched_files_are_shortened(tmp_path: Path) -> None:
    for number in range(9):
        image(tmp_path / "images" / f"{number}.tif")
    image(tmp_path / "masks" / "0.tif")
    (line,) = problems(dataset(f"{tmp_path}/images/*.tif", annotations=labels(tmp_path / "masks")))
    assert "no annotation for 1.tif, 2.tif, 3.tif, 4.tif, 5.tif and 3 more in" in line


def test_frames_without_mask_are_unannotated_in_the_cell_tracking_challenge(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "01" / f"t{number:03d}.tif")
    for number in (1, 3):
        image(tmp_path / "01_GT" / "SEG" / f"man_seg{number:03d}.tif")
    samples, wrong = find_samples(
        dataset(f"{tmp_path}/01/t*.tif", annotations=[{"format": "ctc", "path": f"{tmp_path}/01_GT"}])
    )
    assert wrong == []
    assert [sample.split for sample in samples] == ["unannotated", "train", "unannotated", "train"]


def test_areas_to_ignore_are_no_annotation_of_objects(three: Path) -> None:
    (three / "masks" / "b.tif").unlink()
    for name in "ab":
        image(three / "ignore" / f"{name}.tif")
    sources = [*labels(three / "masks"), labels(three / "ignore")[0] | {"ignore": True}]
    samples, wrong = find_samples(dataset(f"{three}/images/*.tif", annotations=sources, unmatched="allow"))
    assert wrong == []
    assert {sample.name: (sample.split, [len(part) for part in sample.annotations]) for sample in samples} == {
        "a": ("train", [1, 1]),
        "b": ("unannotated", [0, 1]),
        "c": ("train", [1, 0]),
    }


def test_images_may_lack_areas_to_ignore(three: Path) -> None:
    image(three / "ignore" / "a.tif")
    sources = [*labels(three / "masks"), labels(three / "ignore")[0] | {"ignore": True}]
    assert names(dataset(f"{three}/images/*.tif", annotations=sources)) == ["a", "b", "c"]


def test_annotations_that_fit_no_image_at_all_are_an_error(three: Path) -> None:
    cfg = dataset(f"{three}/images/*.tif", annotations=labels(three / "nothing"), unmatched="allow")
    assert problems(cfg) == ["annotations: none of the images is annotated"]


def test_check_data_lists_the_problems_of_all_data_sets_and_models(three: Path) -> None:
    cells = {
        "images": f"{three}/images/*.tif",
        "annotations": labels(three / "masks"),
        "split": {"test": ["z"], "validation": 0},
    }
    raw = {
        "datasets": {"cells": cells, "gone": {"images": f"{three}/gone/*.tif"}},
        "models": {"bought": {"path": f"{three}/bought", "predict_on": ["cells"]}},
    }
    with pytest.raises(ConfigError) as error:
        check_data(parse_config(raw))
    assert str(error.value).splitlines() == [
        "the data is not as the configuration says:",
        "  - datasets.cells.split.test: no annotated sample matches ['z']; give names (of: a, b, c), a share, or 0",
        f"  - datasets.gone.images: no file matches '{three}/gone/*.tif' (working folder: {Path.cwd()}); there is a "
        f"folder {three}, but no gone in it",
        f"  - models.bought.path: there is no folder {three}/bought (working folder: {Path.cwd()})",
    ]


def test_check_data_gives_the_samples_of_all_data_sets(three: Path) -> None:
    write_model(three / "bought")
    cells = {"images": f"{three}/images/*.tif", "annotations": labels(three / "masks"), "split": ALL_TRAIN}
    raw = {
        "datasets": {"cells": cells, "more": {"images": f"{three}/images/a.tif"}},
        "models": {"cells": {}, "bought": {"path": f"{three}/bought", "predict_on": ["more"]}},
    }
    found = check_data(parse_config(raw))
    assert {name: [sample.name for sample in samples] for name, samples in found.items()} == {
        "cells": ["a", "b", "c"],
        "more": ["a"],
    }


def samples_of(folder: Path) -> list[Sample]:
    samples, wrong = find_samples(dataset(f"{folder}/images/*.tif", annotations=labels(folder / "masks")))
    assert wrong == []
    return samples


def content_of(samples: list[Sample], cache: Path) -> str:
    """Digest of what a data set is made of."""
    hashes = FileHashes(cache, companions_of)
    wanted = wanted_of_files(Dataset(images="-"), Groundtruth(), samples, hashes.of)
    hashes.save()
    return wanted["all"]


def test_content_stays_when_files_are_touched(three: Path) -> None:
    before = content_of(samples_of(three), three / "cache.json")
    for file in three.glob("*/*.tif"):
        os.utime(file, ns=(1, 1))
    assert content_of(samples_of(three), three / "cache.json") == before
    assert content_of(samples_of(three), three / "another_cache.json") == before


@pytest.mark.parametrize("change", ["image", "mask", "added", "removed", "split"])
def test_content_changes_with_files_samples_and_splits(three: Path, change: str) -> None:
    before = content_of(samples_of(three), three / "cache.json")
    if change == "image":
        image(three / "images" / "a.tif", (3, 3))
    elif change == "mask":
        image(three / "masks" / "a.tif", (3, 3))
    elif change == "added":
        image(three / "images" / "d.tif")
        image(three / "masks" / "d.tif")
    elif change == "removed":
        (three / "images" / "a.tif").unlink()
        (three / "masks" / "a.tif").unlink()
    samples = samples_of(three)
    if change == "split":
        samples, _ = find_samples(
            dataset(f"{three}/images/*.tif", annotations=labels(three / "masks"), split={"test": ["a"]})
        )
    assert content_of(samples, three / "cache.json") != before


def test_axes_are_those_of_the_first_file_unless_the_configuration_says_them(tmp_path: Path) -> None:
    for name, axes in {"a": "TYX", "b": "ZYX"}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((3, 4, 5), np.uint8), imagej=True, metadata={"axes": axes})
    found = find_samples(dataset(f"{tmp_path}/*.tif"))[0]
    assert [(sample.name, sample.time, sample.axes) for sample in found[2:4]] == [
        ("a_0002", 2, "tyx"),
        ("b_0000", 0, "tyx"),
    ]
    found = find_samples(dataset(f"{tmp_path}/*.tif", axes="zyx"))[0]
    assert [(sample.name, sample.time, sample.axes) for sample in found] == [("a", None, "zyx"), ("b", None, "zyx")]
    image(tmp_path / "plain.tif", (4, 5))
    assert find_samples(dataset(f"{tmp_path}/plain.tif"))[0][0].axes == "yx"


def ome_set(folder: Path, names: list[str], times: list[list[int]], gray: int = 10) -> list[Path]:
    """Files of one OME-TIFF film, each with the planes of some time points, whose values are those of the time."""
    folder.mkdir(parents=True, exist_ok=True)
    count = sum(map(len, times))
    planes = "".join(
        f'<TiffData FirstT="{time}" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
        for name, own in zip(names, times, strict=True)
        for ifd, time in enumerate(own)
    )
    for name, own in zip(names, times, strict=True):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{name}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="6" SizeY="5" '
            f'SizeZ="1" SizeC="1" SizeT="{count}"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}'
            "</Pixels></Image></OME>"
        )
        pixels = np.stack([np.full((5, 6), gray * (time + 1), np.uint8) for time in own])
        tifffile.imwrite(folder / name, pixels, description=xml, metadata=None, photometric="minisblack")
    return [folder / name for name in names]


NAMES = [f"film_T{time}.ome.tif" for time in range(3)]


def test_files_of_a_set_that_are_time_points_are_samples_of_their_own(tmp_path: Path) -> None:
    films = ome_set(tmp_path / "raw", NAMES, [[0], [1], [2]])
    for path in films:
        image(tmp_path / "seg" / path.name, (5, 6))
    cfg = dataset(f"{tmp_path}/raw/*.ome.tif", annotations=labels(tmp_path / "seg"))
    samples, wrong = find_samples(cfg)
    assert wrong == []
    assert [(one.name, one.image, one.time) for one in samples] == [
        (f"film_T{time}.ome", films[time], time) for time in range(3)
    ]
    assert [one.annotations[0][0].name for one in samples] == NAMES
    # Frames of a film, though in files of their own.
    assert {one.group for one in samples} == {"film_T0.ome"}


def test_a_named_file_of_a_set_stands_for_the_set_and_each_is_read_once(tmp_path: Path) -> None:
    ome_set(tmp_path / "raw", NAMES, [[0], [1], [2]])
    assert names(dataset(f"{tmp_path}/raw/film_T1.ome.tif")) == [f"film_T1.ome_{time:04d}" for time in range(3)]
    # Two files with several time points each: the set once, by the first.
    ome_set(tmp_path / "halves", ["a_1.ome.tif", "a_2.ome.tif"], [[0, 1], [2, 3]])
    assert names(dataset(f"{tmp_path}/halves/*.tif")) == [f"a_1.ome_{time:04d}" for time in range(4)]


def test_a_changed_file_of_a_set_changes_the_content_of_the_data_set(tmp_path: Path) -> None:
    films = ome_set(tmp_path / "raw", NAMES, [[0], [1], [2]])
    samples, _ = find_samples(dataset(str(films[0])))
    before = content_of(samples, tmp_path / "cache.json")
    assert content_of(samples, tmp_path / "cache.json") == before
    ome_set(tmp_path / "raw", NAMES[2:], [[0]], gray=99)
    assert content_of(samples, tmp_path / "cache.json") != before


def test_arrays_of_one_file_are_images_with_their_paths_in_their_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for name in ("s1", "fields/s2", "other"):
            file[name] = np.zeros((4, 5), np.uint8)
    for name in ("e_s1", "e_fields_s2"):
        image(tmp_path / "seg" / f"{name}.tif", (4, 5))
    listed = [f"{tmp_path}/e.h5:s1", f"{tmp_path}/e.h5:fields/s2"]
    samples, wrong = find_samples(dataset(listed, annotations=labels(tmp_path / "seg")))
    assert wrong == []
    assert [(one.name, one.internal, one.annotations[0][0].stem, one.group) for one in samples] == [
        ("e_fields_s2", "fields/s2", "e_fields_s2", "e"),
        ("e_s1", "s1", "e_s1", "e"),
    ]
    assert names(dataset(f"{tmp_path}/e.h5:*s?")) == ["e_fields_s2", "e_s1"]
    assert problems(dataset(f"{tmp_path}/e.h5:x*")) == [
        f"images: {tmp_path}/e.h5: nothing in it fits 'x*'; it has fields/s2, other, s1"
    ]


def test_an_axis_t_of_length_1_makes_no_film(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / "raw" / f"{name}.tif", (1, 4, 5))
        image(tmp_path / "seg" / f"{name}.tif", (4, 5))
    cfg = dataset(f"{tmp_path}/raw/*.tif", axes="tyx", annotations=labels(tmp_path / "seg"))
    samples, wrong = find_samples(cfg)
    assert wrong == [] and [(one.name, one.time) for one in samples] == [("a", None), ("b", None)]
    image(tmp_path / "raw" / "c.tif", (2, 4, 5))
    assert names(cfg.model_copy(update={"annotations": []})) == ["a_0000", "b_0000", "c_0000", "c_0001"]


def test_stacks_that_do_not_say_their_axes_are_told_with_what_to_write(tmp_path: Path) -> None:
    path = image(tmp_path / "a.tif", (3, 4, 5))
    assert problems(dataset(str(path))) == [
        f"images: {path} has 3 axes (shape (3, 4, 5)) and does not say which; write axes: zyx for a volume, tyx for a "
        "film, cyx or yxc for channels"
    ]
    assert names(dataset(str(path), axes="zyx")) == ["a"]


def test_rgb_needs_no_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    imagecodecs.imwrite(tmp_path / "b.png", np.zeros((4, 5, 3), np.uint8))
    for name in ("a.tif", "b.png"):
        samples, wrong = find_samples(dataset(f"{tmp_path}/{name}"))
        assert wrong == [] and samples[0].axes == "yxc"


def test_all_images_of_tiff_files_are_samples(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    plane = np.zeros((4, 5), np.uint8)
    with tifffile.TiffWriter(tmp_path / "images/a.tif") as file:
        file.write(plane)
        file.write(plane[:3])
    tifffile.imwrite(tmp_path / "images/b.tif", plane)
    found, problems = find_samples(Dataset.model_validate({"images": f"{tmp_path}/images/*.tif:*"}))
    assert (problems, [sample.name for sample in found]) == ([], ["a_0", "a_1", "b"])


def test_results_behind_a_url_are_refused_and_make_no_folder_of_that_name(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three)
    cells = {"images": "images/*.tif", "annotations": labels(Path("masks")), "split": {"test": 0}}
    raw = {"results": "s3://bucket/results", "datasets": {"cells": cells}}
    with pytest.raises(ConfigError, match="results: s3://bucket/results is a URL, but results must be in a folder"):
        check_data(parse_config(raw))
    assert not (three / "s3:").exists()
