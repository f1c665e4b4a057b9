"""Measures of objects are those of scikit-image on the whole array, wherever blocks begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops, regionprops_table

from tests.instances.test_step import make, smooth_probabilities, store_probabilities
from unet_core.blocks import Box, Grid
from unet_core.config.datasets import Dataset
from unet_core.config.instances import Instances
from unet_core.config.options import Groundtruth
from unet_core.engine import Engine
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.instances.hull import corner_rows, hull_sizes
from unet_core.instances.intensity import intensity_columns, intensity_rows, suffixes
from unet_core.instances.measures import numbered
from unet_core.instances.morphology import halo_of, shape_columns, shape_rows
from unet_core.instances.objects import former_parts
from unet_core.instances.run_lengths import encode_labels
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Spec, begin, finish, read_attributes

# Our columns, and what scikit-image calls them.
NAMES = {
    "equivalent_diameter_um": "equivalent_diameter_area",
    "extent": "extent",
    "axis_major_um": "axis_major_length",
    "axis_minor_um": "axis_minor_length",
}
FLAT = {"eccentricity": "eccentricity", "perimeter_um": "perimeter", "euler_number": "euler_number"}
FLAT |= {"solidity": "solidity", "orientation": "orientation"}
INTENSITY = ("mean", "min", "max", "std")


def expected(labels: np.ndarray, image: np.ndarray, size: tuple[float, float, float]) -> pd.DataFrame:
    """By scikit-image, with our names; what it does not know or refuses is counted."""
    flat = len(labels) == 1
    names = NAMES | (FLAT if flat else {})
    if flat and size[1] != size[2]:
        del names["perimeter_um"]
    channels = [f"intensity_{what}" for what in INTENSITY]
    gray = np.moveaxis(image[:, 0] if flat else image, 0, -1).astype(np.float64)
    table = regionprops_table(
        labels[0] if flat else labels, gray, properties=["label", *names.values(), *channels],
        spacing=size[1:] if flat else size,
    )  # fmt: skip
    found = pd.DataFrame({name: table[theirs] for name, theirs in {"label": "label", **names}.items()})
    for channel, values in enumerate(image):
        for what in INTENSITY:
            found[f"intensity_{what}_{channel}"] = table[f"intensity_{what}-{channel}"]
        found[f"intensity_sum_{channel}"] = [values[labels == n].sum(dtype=np.float64) for n in found["label"]]
    if not flat:
        found["surface_um2"] = [surface(labels == n, size) for n in found["label"]]
        found["axis_middle_um"] = [middle_axis(labels == n, size) for n in found["label"]]
    return found


def surface(mask: np.ndarray, size: tuple[float, float, float]) -> float:
    faces = [np.abs(np.diff(np.pad(mask, 1).astype(int), axis=axis)).sum() for axis in range(3)]
    return float(faces[0] * size[1] * size[2] + faces[1] * size[0] * size[2] + faces[2] * size[0] * size[1])


def middle_axis(mask: np.ndarray, size: tuple[float, float, float]) -> float:
    """An ellipsoid with half axis a has the variance a^2 / 5 along it."""
    places = np.argwhere(mask) * size
    return float(2 * np.sqrt(5 * max(0, np.linalg.eigvalsh(np.cov(places.T, bias=True))[1])))


def compare(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert found["label"].tolist() == wanted["label"].tolist()
    for name in wanted:
        ours, theirs = found[name].to_numpy(float), wanted[name].to_numpy(float)
        if name == "orientation":  # an axis has two ends, and a round object none
            ours, theirs = np.where(np.isnan(ours), theirs, ours), theirs
            apart = np.abs(np.sin(ours - theirs))
            assert (apart < 1e-6).all()
        else:  # they find 1e-8 for the axes of flat objects, and of round ones the difference of equal numbers
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6, err_msg=name)


def measured_in_blocks(
    labels: np.ndarray, image: np.ndarray, size: tuple[float, float, float], block: tuple[int, int, int], far: int = 0
) -> pd.DataFrame:
    """What the step does with its blocks, without files; the array begins at (far, far, far)."""
    flat, halo = len(labels) == 1, halo_of(labels.shape)
    around = np.pad(labels, [(h, h) for h in halo])
    rows: dict[str, list[np.ndarray]] = {"shape": [], "hull": [], "gray": []}
    for index, box in enumerate(Grid(labels.shape, block)):
        run_lengths, present = numbered(encode_labels(labels[box.slices]))
        start = (far * (not flat) + box.start[0], far + box.start[1], far + box.start[2])
        own = around[Box(box.start, tuple(b + 2 * h for b, h in zip(box.stop, halo, strict=True))).slices]
        rows["shape"].append(shape_rows(run_lengths, present, index, start, own, halo))
        rows["gray"].append(intensity_rows(run_lengths, present, index, image[(slice(None), *box.slices)]))
        if flat:
            rows["hull"].append(corner_rows(run_lengths, present, *start[1:]))
    # In the order in which blocks happen to be done.
    parts = {kind: np.concatenate(found[::-1]) for kind, found in rows.items() if found}
    props = regionprops(labels[0] if flat else labels)
    box_voxels, voxels = (np.array([prop[name] for prop in props]) for name in ("area_bbox", "area"))
    columns = {"label": np.array([prop["label"] for prop in props])}
    columns |= shape_columns(parts["shape"], flat, size, box_voxels)
    columns |= intensity_columns(parts["gray"], suffixes([], 2))
    return pd.DataFrame(columns | ({"solidity": voxels / hull_sizes(parts["hull"])} if flat else {}))


SIZES = [(2.0, 0.5, 0.5), (0.7, 1.0, 0.3)]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from([(1, 13, 17), (1, 1, 9), (1, 24, 20), (5, 7, 9)]),
    block=st.tuples(st.integers(1, 5), st.integers(1, 24), st.integers(1, 24)),
    count=st.integers(1, 4),
    size=st.sampled_from(SIZES),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    seed=st.integers(0, 2**16),
)
def test_measures_are_those_of_the_whole_array_for_any_blocks(
    shape: tuple[int, int, int], block: tuple[int, int, int], count: int, size: Any, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Objects of any shape: in parts, with holes, one pixel wide, and side by side.
    labels = (rng.integers(1, count + 1, shape) * (rng.random(shape) < rng.uniform(0.05, 1))).astype(np.uint32)
    labels[..., : shape[2] // 2] = np.where(labels[..., : shape[2] // 2] > 0, 1, 0)
    if not labels.any():
        return
    image = rng.integers(0, 200, (2, *shape)).astype(dtype)
    found = measured_in_blocks(labels, image, size, block)
    compare(found, expected(labels, image, size))
    whole = measured_in_blocks(labels, image, size, shape)
    np.testing.assert_allclose(found.to_numpy(float), whole.to_numpy(float), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 40, 50), (8, 20, 22)])
def test_no_digits_are_lost_far_from_the_origin_and_far_from_zero(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(shape) < 0.7, 1 + np.indices(shape)[2] // 16, 0).astype(np.uint32)
    image = (1e6 + rng.random((2, *shape))).astype(np.float32)
    block = (3, 16, 9)
    near, there = (measured_in_blocks(labels, image, (1, 1, 1), block, far) for far in (0, 10**5))
    np.testing.assert_allclose(near.to_numpy(float), there.to_numpy(float), rtol=1e-9, atol=1e-12)
    compare(near, expected(labels, image, (1, 1, 1)))


def test_channels_are_named_where_each_has_a_name_of_its_own() -> None:
    assert suffixes(["DAPI", "anti  GFP\n"], 2) == ["_DAPI", "_anti_GFP"]
    assert suffixes(["a", "a"], 2) == suffixes(["a", " "], 2) == suffixes(["a"], 2) == suffixes([], 2) == ["_0", "_1"]
    assert suffixes([], 1) == [""] and suffixes(["DAPI"], 1) == ["_DAPI"]


def store_image(folder: Path, image: np.ndarray, size: tuple[float, float, float], digest: str = "d") -> None:
    path = folder / "groundtruth.zarr" / "s 1"
    result = begin(path, digest, Spec(image.shape[1:], str(image.dtype), "image", len(image), size), {})
    for index in result.missing_blocks():
        result.write(index, image[(slice(None), *result.grid.box(index).slices)], digest)
    finish(path, digest, {})
    write_stamp(folder / "groundtruth.json", {"samples": {"s 1": {"image": digest}}})


@pytest.mark.parametrize(
    ("shape", "cfg"),
    [
        ((1, 300, 520), Instances(threshold=0.6, fill="planes", split=0.5, min_size=5)),
        ((1, 300, 520), Instances(threshold=0.7)),
        ((3, 280, 270), Instances(threshold=0.6, fill="volume")),
    ],
)
def test_the_tables_have_the_measures_of_the_labels_whatever_the_blocks(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], cfg: Instances
) -> None:
    monkeypatch.setattr("unet_core.instances.objects.OBJECTS_PER_FILE", 7)  # so that the tables have many parts
    size = (2.0, 0.5, 0.5)
    image = np.random.default_rng(0).integers(0, 60000, (2, *shape)).astype(np.uint16)
    tables = []
    for block in ((1, 256, 256), (2, 512, 768)):
        home = tmp_path / str(block[0])
        store_probabilities(home, smooth_probabilities(shape, 5, 0), block, size)
        store_image(home, image, size)
        labels, table = make(home, cfg, engine)
        tables.append(table)
        compare(table, expected(labels, image, size))
    assert len(tables[0]) > 7
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-9, atol=1e-9)
    columns = list(tables[0])
    assert columns.index("border") + 1 == columns.index("equivalent_diameter_um")


@pytest.mark.parametrize("shape", [(1, 40, 30), (3, 40, 30)])
def test_a_sample_without_objects_has_a_table_without_rows_and_all_columns(
    tmp_path: Path, engine: Engine, shape: tuple[int, int, int]
) -> None:
    names = []
    for value in (0, 200):
        home = tmp_path / str(value)
        store_probabilities(home, np.full((2, *shape), value // 2, np.uint8), (4, 256, 256))
        store_image(home, np.ones((2, *shape), np.float32), (1, 1, 1))
        _, table = make(home, Instances(), engine)
        assert len(table) == (value > 0)
        names.append(list(table))
    assert names[0] == names[1] and len(names[0]) > 30


def states(folder: Path, pattern: str) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_other_measures_keep_the_labels_and_the_other_columns(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for labels of a former version, which measured nothing."""
    shape, size = (1, 300, 520), (1.0, 0.5, 0.25)
    store_probabilities(tmp_path, smooth_probabilities(shape, 5, 0), (1, 256, 256), size)
    store_image(tmp_path, np.ones((1, *shape), np.uint8), size)
    _, plain = make(tmp_path, Instances(measure=[]), engine)
    shards = states(tmp_path / "instances.zarr", "c*/**/*")
    made = read_json(tmp_path / "instances.json")
    monkeypatch.setattr("unet_core.instances.step.number_block", None)  # would make labels
    for measure in (["shape"], ["intensity"], ["intensity", "shape"], []):
        _, table = make(tmp_path, Instances(measure=measure), engine)
        pd.testing.assert_frame_equal(table[list(plain)], plain)
        assert ("extent" in table) == ("shape" in measure) and ("intensity_sum" in table) == ("intensity" in measure)
        if "shape" in measure:  # of pixels that are not square
            assert table["perimeter_um"].isna().all() and table["axis_major_um"].notna().all()
        assert states(tmp_path / "instances.zarr", "c*/**/*") == shards and shards
        assert read_json(tmp_path / "instances.json") == made
        before = states(tmp_path, "*")
        make(tmp_path, Instances(measure=measure[::-1]), engine)
        before.pop(tmp_path / "instances.json")
        assert before.items() <= states(tmp_path, "*").items()


@pytest.mark.parametrize("harm", ["damaged", "parts of another size"])
def test_a_table_that_is_of_no_use_is_made_again_from_the_probabilities(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    store_probabilities(tmp_path, smooth_probabilities((1, 300, 520), 5, 0), (1, 256, 256))
    make(tmp_path, Instances(measure=[]), engine)
    path = tmp_path / "tables" / "s 1.parquet"
    if harm == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        monkeypatch.setattr("unet_core.instances.objects.OBJECTS_PER_FILE", 7)
    details = read_attributes(tmp_path / "instances.zarr" / "s 1")["details"]
    assert former_parts(path, details) is None
    _, table = make(tmp_path, Instances(), engine)
    details = read_attributes(tmp_path / "instances.zarr" / "s 1")["details"]
    assert former_parts(path, details) is not None and "extent" in table
    # Former versions noted no checksums: what is in such a table is not known.
    assert former_parts(path, {"objects": len(table)}) is None


def test_gray_values_of_another_image_are_measured_anew(tmp_path: Path, engine: Engine) -> None:
    shape = (1, 300, 280)
    store_probabilities(tmp_path, smooth_probabilities(shape, 5, 0), (1, 256, 256))
    for digest, value in (("d", 3), ("e", 4)):
        store_image(tmp_path, np.full((1, *shape), value, np.uint8), (1, 1, 1), digest)
        _, table = make(tmp_path, Instances(), engine)
        assert (table["intensity_mean"] == value).all() and len(table) > 3
    write_stamp(tmp_path / "groundtruth.json", {"samples": {"s 1": {"image": "f"}}})
    with pytest.raises(UserError, match="is not what .* says"):  # the image there is still the one before
        make(tmp_path, Instances(), engine)
    write_stamp(tmp_path / "groundtruth.json", {"samples": {}})
    with pytest.raises(UserError, match="has no longer 1 of the samples .* s 1; run snakemake again"):
        make(tmp_path, Instances(), engine)


@pytest.mark.parametrize("in_place", ["never", "always"])
def test_gray_values_are_those_of_the_file_with_the_names_of_its_channels(
    tmp_path: Path, engine: Engine, in_place: str
) -> None:
    shape = (300, 280)
    image = np.random.default_rng(0).integers(0, 60000, (2, *shape)).astype(np.uint16)
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "anti GFP"]}}
    tifffile.imwrite(tmp_path / "s 1.ome.tif", image, metadata=names, photometric="minisblack", tile=(64, 64))
    dataset = Dataset(images=f"{tmp_path}/*.tif", in_place=in_place)
    samples, problems = find_samples(dataset)
    assert not problems
    truth = tmp_path / "groundtruth.zarr"
    convert_groundtruth(dataset, Groundtruth(), samples, store=truth, stamp=truth.with_suffix(".json"), engine=engine)
    (name,) = read_json(truth.with_suffix(".json"))["samples"]
    store_probabilities(tmp_path, smooth_probabilities((1, *shape), 5, 0), (1, 256, 256), name=name)
    labels, table = make(tmp_path, Instances(), engine, name)
    wanted = expected(labels, image[:, None], (1, 1, 1))
    for channel, own in enumerate(("DAPI", "anti_GFP")):
        for what in (*INTENSITY, "sum"):
            np.testing.assert_allclose(table[f"intensity_{what}_{own}"], wanted[f"intensity_{what}_{channel}"], 1e-9)
