"""What counts is what is read: of an OME-Zarr an array, of a film its frames; and images in place are found again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.digest import FileHashes
from unet_core.engine import Engine, local_engine
from unet_core.groundtruth.contents import with_contents
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.contents import ZarrPart
from unet_core.images.readers import companions_of
from unet_core.runtime import UserError
from unet_core.store.store import open_image_of, read_attributes

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 200, (5, 20, 24)).astype(np.uint16)
MASKS = (FRAMES > 150).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with local_engine(1) as engine:
        yield engine


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Convert a data set in the working directory, a folder of its own; what was done, as the log says."""
    caplog.set_level(logging.INFO, "unet_core.groundtruth.step")
    monkeypatch.chdir(tmp_path)

    def convert(**options: object) -> str:
        cfg = Dataset.model_validate({"split": {"test": 0, "validation": 0}} | options)
        samples, problems = find_samples(cfg)
        assert problems == []
        store, stamp = Path("d.zarr"), Path("d.json")
        convert_groundtruth(cfg, Groundtruth(overlaps="later"), samples, store=store, stamp=stamp, engine=engine)
        hashes = FileHashes(stamp.with_suffix(".files.json"), companions_of)
        read = {sample.name: with_contents(sample, hashes.of) for sample in samples}
        assert {sample.name: with_contents(sample, hashes.known) for sample in samples} == read
        lines = [line for name, _, line in caplog.record_tuples if name == "unet_core.groundtruth.step"]
        return lines[-1].removeprefix("groundtruth: ").removesuffix(", 0 removed")

    return convert


FILMS = {
    "plain": {},
    "imagej": {"imagej": True, "metadata": {"axes": "TYX", "unit": "um", "fps": 2.0}},
    "compressed": {"compression": "zlib"},
    "one by one": {},
}


def film(path: Path, frames: np.ndarray, kind: str) -> None:
    if kind == "one by one":
        with tifffile.TiffWriter(path) as file:
            for frame in frames:
                file.write(frame, photometric="minisblack", contiguous=False, compression="zlib")
    elif kind.startswith("ome"):
        tifffile.imwrite(path, frames, photometric="minisblack", ome=True, metadata={"axes": "TYX"})
    else:
        tifffile.imwrite(path, frames, photometric="minisblack", **FILMS[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*FILMS, "ome"])
def test_a_frame_that_is_appended_to_a_film_and_its_masks_leaves_the_others_as_they_are(
    tmp_path: Path, run: Run, kind: str
) -> None:
    options = {"images": "film.tif", "axes": "tyx", "annotations": [{"format": "labels", "path": "{stem}_mask.tif"}]}
    for count, expected in (
        (4, "4 samples, 4 images and 4 annotations converted"),
        (5, "5 samples, 1 images and 1 annotations converted"),
    ):
        film(tmp_path / "film.tif", FRAMES[:count], kind)
        film(tmp_path / "film_mask.tif", MASKS[:count], kind)
        assert run(**options) == expected
    changed = FRAMES.copy()
    changed[2, 3, 4] += 1
    film(tmp_path / "film.tif", changed, kind)
    assert "1 images" in run(**options)
    masks = MASKS.copy()
    masks[1, 3, 4] = 3
    film(tmp_path / "film_mask.tif", masks, kind)
    assert run(**options) == "5 samples, 0 images and 1 annotations converted"


def test_one_of_several_images_of_a_file_counts_without_the_others(tmp_path: Path, run: Run) -> None:
    for other, expected in ((0, "1 images"), (1, "0 images")):
        with tifffile.TiffWriter(tmp_path / "scan.tif") as file:
            file.write(FRAMES[other, :9], photometric="minisblack")
            file.write(FRAMES[2], photometric="minisblack")
        assert expected in run(images="scan.tif:1")
    tifffile.imwrite(tmp_path / "scan.tif", FRAMES[2, :9], photometric="minisblack")
    tifffile.imwrite(tmp_path / "scan.tif", FRAMES[3], photometric="minisblack", append=True)
    assert "1 images" in run(images="scan.tif:1")


def test_the_palette_of_a_stack_of_masks_counts(tmp_path: Path, run: Run) -> None:
    tifffile.imwrite(tmp_path / "film.tif", FRAMES[:2], photometric="minisblack")
    options = {
        "images": "film.tif",
        "axes": "tyx",
        "classes": ["cell"],
        "annotations": [{"format": "colours", "path": "mask.tif", "classes": {"#ff0000": "cell"}}],
    }
    for colours, expected in (([0, 255], "2 annotations"), ([0, 255], "0 annotations"), ([255, 0], "2 annotations")):
        palette = np.zeros((3, 256), np.uint16)
        palette[0, :2] = np.array(colours) * 257
        with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
            for mask in MASKS[:2]:
                file.write(mask, photometric="palette", colormap=palette, contiguous=False)
        assert expected in run(**options)


def test_hashes_of_files_of_one_image_are_those_of_the_whole_file_as_they_always_were(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FRAMES[0])
    tifffile.imwrite(tmp_path / "b.tif", FRAMES[0])
    tifffile.imwrite(tmp_path / "c.tif", FRAMES)
    hashes = FileHashes(tmp_path / "cache.json", companions_of)
    for name, axes in (("a.npy", "yx"), ("b.tif", "yx"), ("c.tif", "zyx")):
        (sample,), _ = find_samples(Dataset(images=str(tmp_path / name), axes=axes))
        item = with_contents(sample, hashes.of)
        assert item is not None and item[1] == hashes.of(tmp_path / name)


KINDS = ["zarr 2", "zarr 3", "zarr 3 shards"]


def write_zarr(path: Path, kind: str) -> None:
    """An image of two levels, with labels in their usual place."""
    version = 2 if kind == "zarr 2" else 3
    root = zarr.open_group(path, mode="w", zarr_format=version)
    shards = (16, 16) if "shards" in kind else None
    for name, array in (("0", FRAMES[0]), ("1", FRAMES[0, ::2, ::2]), ("labels/cells/0", MASKS[0])):
        root.create_array(name, data=array, chunks=(8, 8), shards=shards)
    describe(root, 0.5)


def describe(root: zarr.Group, size: float, **more: object) -> None:
    transformed = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [size * 2**level] * 2}]}
        for level in range(2)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    image = {"datasets": transformed, "axes": axes, "version": "0.5"}
    attributes = {"multiscales": [image], **more}
    is_old = root.metadata.zarr_format == 2
    root.attrs.update(attributes if is_old else {"ome": {"version": "0.5", **attributes}})


def edit(path: Path, value: int) -> None:
    array = zarr.open_array(path, mode="r+")
    array[3, 4] = value


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_ome_zarr_counts_what_is_read_of_it(tmp_path: Path, run: Run, kind: str) -> None:
    path = tmp_path / "in/a.zarr"
    write_zarr(path, kind)
    options = {"images": "in/*.zarr", "annotations": [{"format": "labels", "path": "in/{stem}.zarr:labels/cells/0"}]}
    assert run(**options) == "1 samples, 1 images and 1 annotations converted"
    for folder in (path, path / "0", path / "labels"):
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "notes.txt").write_bytes(b"x")
    edit(path / "1", 7)
    root = zarr.open_group(path, mode="r+")
    describe(root, 0.5, omero={"channels": [{"color": "ff0000"}]})
    root.create_array("labels/nuclei/0", data=MASKS[1], chunks=(8, 8))
    assert run(**options) == "1 samples, 0 images and 0 annotations converted"
    edit(path / "labels/cells/0", 5)
    assert run(**options) == "1 samples, 0 images and 1 annotations converted"
    edit(path / "0", 199)
    assert "1 images" in run(**options)
    describe(root, 0.25)
    assert "1 images" in run(**options)
    shutil.copytree(path, tmp_path / "b.zarr")
    shutil.rmtree(path)
    shutil.move(tmp_path / "b.zarr", path)
    assert run(**options) == "1 samples, 0 images and 0 annotations converted"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"shape": 3}', '{"shape": [20], "chunks": [0]}', '{"shape": [4], "chunk_grid": {"name": "odd"}}'],
)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_damaged_descriptions_of_a_folder_are_no_errors_of_its_hash(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "a.zarr").mkdir()
    file = tmp_path / "a.zarr" / name
    file.write_text(text)
    hashes, part = FileHashes(tmp_path / "cache.json"), ZarrPart("")
    assert hashes.known(tmp_path / "a.zarr", part) is None
    before = hashes.of(tmp_path / "a.zarr", part)
    hashes.save()
    assert FileHashes(tmp_path / "cache.json").known(tmp_path / "a.zarr", part) == before
    array = zarr.create_array(tmp_path / "a.zarr", data=MASKS[0], overwrite=True)
    assert array.ndim == 2 and FileHashes(tmp_path / "cache.json").of(tmp_path / "a.zarr", part) != before


def test_a_file_of_a_set_of_ome_tiff_that_is_added_leaves_the_frames_of_the_others(tmp_path: Path, run: Run) -> None:
    for count, expected in ((2, "2 images"), (3, "1 images")):
        told = "".join(
            f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="f{t}.ome.tif">u{t}</UUID></TiffData>'
            for t in range(count)
        )
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            f'DimensionOrder="XYZCT" Type="uint16" SizeX="24" SizeY="20" SizeZ="1" SizeC="1" SizeT="{count}">{told}'
            "</Pixels></Image></OME>"
        )
        for t in range(count):
            path = tmp_path / f"f{t}.ome.tif"
            tifffile.imwrite(path, FRAMES[t], photometric="minisblack", description=xml, metadata=None)
        assert expected in run(images="f*.ome.tif", axes="tyx", in_place="always")


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_of_an_image_that_is_gone_or_written_over_is_noticed(tmp_path: Path, run: Run, kind: str) -> None:
    write_zarr(tmp_path / "a.zarr", kind)
    run(images="a.zarr")
    (sample,), _ = find_samples(Dataset(images="a.zarr"))
    chunks = sorted(file for file in (tmp_path / "a.zarr/0").rglob("*") if file.is_file() and "zarr" not in file.name)
    chunks = [file for file in chunks if not file.name.startswith(".")]
    other = chunks[-1].read_bytes()
    chunks[-1].write_bytes(other[:-1] + bytes([other[-1] ^ 1]))
    os.utime(chunks[-1], ns=(5, 5))
    assert with_contents(sample, FileHashes(Path("d.files.json")).known) is None
    chunks[-1].write_bytes(other)
    assert "0 images" in run(images="a.zarr")
    chunks[0].unlink()
    assert with_contents(sample, FileHashes(Path("d.files.json")).known) is None


def test_a_folder_of_many_chunks_is_not_walked_to_tell_that_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, part = tmp_path / "a.zarr", ZarrPart("")
    zarr.create_array(path, shape=(1, 60, 60), dtype=np.uint8, chunks=(1, 1, 1))
    for y in range(60):
        (path / f"c/0/{y}").mkdir(parents=True)
        for x in range(60):
            (path / f"c/0/{y}/{x}").write_bytes(b"x")
    hashes = FileHashes(tmp_path / "cache.json")
    before = hashes.of(path, part)
    hashes.save()
    looked, real = list[Path](), Path.stat

    def watched(self: Path, **options: bool) -> os.stat_result:
        if self.is_relative_to(path):
            looked.append(self)
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", watched)
    monkeypatch.setattr("unet_core.images.zarr_images._chunks", None)
    assert FileHashes(tmp_path / "cache.json").known(path, part) == before
    assert len(looked) < 1000
    (path / "c/0/33/new").write_bytes(b"x")  # a file that appears changes the time of its folder
    assert FileHashes(tmp_path / "cache.json").known(path, part) is None


def test_hashes_of_chunks_that_a_killed_run_read_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(1, 201, dtype=np.uint8), chunks=(1,))
    from unet_core import digest

    class Killed(BaseException):
        pass

    read, real = list[Path](), digest.hash_of_file

    def dies(path: Path) -> str:
        if len(read) == 150:
            raise Killed
        read.append(path)
        return real(path)

    monkeypatch.setattr(digest, "hash_of_file", dies)
    with pytest.raises(Killed):
        FileHashes(tmp_path / "c.json").learn([(tmp_path / "a.zarr", ZarrPart(""))], threads=1, save_every=0)
    read.clear()
    hashes = FileHashes(tmp_path / "c.json")
    found = hashes.of(tmp_path / "a.zarr", ZarrPart(""))
    assert len(read) == 72  # of 200 two batches of 64 were kept
    monkeypatch.setattr(digest, "hash_of_file", real)
    assert found == FileHashes(tmp_path / "other.json").of(tmp_path / "a.zarr", ZarrPart(""))


def test_entries_that_no_sample_needs_are_forgotten(tmp_path: Path, run: Run) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", FRAMES[0])
    run(images="*.npy")
    (tmp_path / "b.npy").unlink()
    run(images="*.npy")
    run(images="*.npy")
    assert list(json.loads(Path("d.files.json").read_text())) == ["a.npy"]


PLACES = {"images": "in/*.npy", "in_place": "always"}


def in_place(folder: Path, value: int = 7) -> Path:
    (folder / "in").mkdir(exist_ok=True)
    np.save(folder / "in/a.npy", np.full((9, 9), value, np.uint8))
    return folder / "in/a.npy"


def values() -> set[int]:
    return set(np.unique(open_image_of(Path("d.zarr"), "a").read(Box((0, 0, 0), (1, 9, 9)))).tolist())


def test_images_in_place_of_a_project_that_was_moved_or_copied_are_its_own(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place(tmp_path)
    run(**PLACES)
    assert read_attributes(Path("d.zarr/a"))["reference"]["file"] == "in/a.npy"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("in", "d.zarr"):
        shutil.copytree(name, copy / name)
    in_place(tmp_path, 9)
    monkeypatch.chdir(copy)
    assert values() == {7}


def test_an_image_in_place_that_changed_is_not_read_and_one_that_was_touched_is_read_again(
    tmp_path: Path, run: Run
) -> None:
    path = in_place(tmp_path)
    run(**PLACES)
    os.utime(path, ns=(5, 5))
    with pytest.raises(UserError, match=r"in/a\.npy changed since the step groundtruth looked .*; run snakemake again"):
        values()
    assert run(**PLACES) == "1 samples, 0 images and 0 annotations converted"
    assert values() == {7}
    in_place(tmp_path, 9)
    with pytest.raises(UserError, match="changed since"):
        values()
    assert "1 images" in run(**PLACES) and values() == {9}


def test_a_place_that_the_configuration_says_otherwise_is_noted_without_more_work(tmp_path: Path, run: Run) -> None:
    in_place(tmp_path)
    run(**PLACES)
    shutil.move("in", "elsewhere")
    assert run(**PLACES | {"images": "elsewhere/*.npy"}) == "1 samples, 0 images and 0 annotations converted"
    reference = read_attributes(Path("d.zarr/a"))["reference"]
    assert reference["file"] == "elsewhere/a.npy" and values() == {7}


def test_a_place_noted_before_looks_were_kept_is_still_read(tmp_path: Path, run: Run) -> None:
    path = in_place(tmp_path)
    run(**PLACES)
    file = Path("d.zarr/a/zarr.json")
    group = json.loads(file.read_text())
    reference = group["attributes"]["unet"]["reference"]
    del reference["seen"]
    reference["file"] = str(path)
    del group["attributes"]["unet"]["checksum"]
    file.write_text(json.dumps(group))
    os.utime(path, ns=(5, 5))
    assert values() == {7}


@pytest.mark.parametrize("how", ["never", "always"])
@pytest.mark.parametrize("what", ["image", "mask"])
def test_a_file_that_changes_between_its_hash_and_its_reading_is_told_and_nothing_is_done(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    from unet_core.groundtruth import step

    file = in_place(tmp_path)
    Path("masks").mkdir()
    np.save("masks/a.npy", np.ones((9, 9), np.uint8))
    options = PLACES | {"in_place": how, "annotations": [{"format": "labels", "path": "masks/{stem}.npy"}]}
    real, other = step._convert, file if what == "image" else Path("masks/a.npy")

    def late(hashed: object, **more: object) -> object:
        os.utime(other, ns=(5, 5))
        return real(hashed, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "_convert", late)
    with pytest.raises(UserError, match=r"a\.npy: changed while it was read; run snakemake again"):
        run(**options)
    monkeypatch.setattr(step, "_convert", real)
    assert run(**options).endswith(f"{int(what == 'image')} images and 1 annotations converted")


def test_a_file_that_vanishes_before_it_is_hashed_is_a_problem_of_its_sample(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unet_core.groundtruth import step

    for name in "ab":
        np.save(tmp_path / f"{name}.npy", FRAMES[0])
    real = step.with_contents

    def late(sample: object, hash_of: object) -> object:
        (tmp_path / "b.npy").unlink(missing_ok=True)
        return real(sample, hash_of)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "with_contents", late)
    monkeypatch.setattr(FileHashes, "learn", lambda *_: None)
    with pytest.raises(UserError, match=r"1 of 2 samples cannot .*\n.*b\.npy: No such file or directory; .*again"):
        run(images="*.npy")
    assert read_attributes(Path("d.zarr/a"))["done"]
