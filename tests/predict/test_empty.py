"""Blocks that are left empty: which, by brute force over the whole image, and that all else comes out as without it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tests.predict.test_step import NETWORK, NORM, contents
from unet_core.blocks import ZYX, Box, Grid
from unet_core.config.datasets import Extent
from unet_core.config.options import Network, Predict
from unet_core.digest import digest
from unet_core.engine import Engine
from unet_core.images.in_place import InPlace
from unet_core.method import method
from unet_core.network.ensemble import write_ensemble
from unet_core.network.model import build, save_checkpoint, weights_digest
from unet_core.network.unet import input_size
from unet_core.predict import empty, step
from unet_core.predict.probabilities import with_background
from unet_core.predict.step import predict_samples
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.store import Result, Spec, begin, details_if_done, finish, read_attributes, write_reference
from unet_core.store.verify import verify

NETWORK_3D = Network(depth=1, width=2, dropout=0.0, dimensions=3, flat_levels=0)
SKIP = {"skip": {"below": 12}}
# Sides of images with four resolutions, with three and with two; the last have ends that no 4 x 4 pixels fit.
SHAPES = [(1, 600, 1100), (2, 300, 530), (1, 271, 509)]


def volume(shape: ZYX, channels: int = 1) -> np.ndarray:
    """Dark noise, with a bright piece in the first block, one right behind a border of blocks, and lonely pixels."""
    image = np.random.default_rng(0).integers(0, 6, (channels, *shape)).astype(np.uint8)
    image[-1, 0, 40:90, 30:200] += 120
    image[0, -1, 257:265, 100:120] = 90
    image[0, 0, -1, -1], image[0, 0, 100, -20] = 60, 90
    return image


def put(folder: Path, image: np.ndarray, in_place: bool = False) -> None:
    """The image as the step groundtruth would leave it."""
    path, shape = folder / "data.zarr" / "a", image.shape[1:]
    if in_place:
        np.save(folder / "a.npy", image)
        channels = list(range(len(image)))
        reference = {"file": str(folder / "a.npy"), "internal": "", "axes": "czyx", "page": None, "channels": channels}
        reference |= {"dtype": str(image.dtype), "shape": list(shape), "pixel_size": [1.0, 1.0, 1.0]}
        write_reference(path, "i", reference, {}, {})
        return
    result = begin(path, "i", Spec(shape, str(image.dtype), "image", len(image), block=(8, 512, 512)), {})
    for index in result.missing_blocks():
        result.write(index, image[(slice(None), *result.grid.box(index).slices)], "i")
    finish(path, "i", {})


def network(folder: Path, name: str, shape: Network, channels: int, block: ZYX) -> None:
    """A random network, its plan and its stamp."""
    torch.manual_seed(len(name))
    model = folder / name
    save_checkpoint(model / "best.safetensors", dict(build(shape, channels, 2).state_dict()), {})
    write_stamp(model / "model.json", {"network": shape.model_dump(), "channels": channels, "classes": ["cell"]})
    write_stamp(folder / f"{name}.json", {"model": str(model), "weights": weights_digest(model)})
    side = input_size(100, shape.depth)
    norm = {key: values * channels for key, values in NORM.items()}
    write_stamp(
        folder / f"{name}.plan.json",
        {
            "classes": ["cell"],
            "network": shape.model_dump(),
            "predict_tile": {"value": side if shape.dimensions == 2 else [input_size(8, shape.depth), side, side]},
            "predict_block": {"value": list(block)},
            "samples": {"data/a": norm},
        },
    )


class Case:
    """An image, one or several networks, and what predict makes of them."""

    def __init__(
        self,
        folder: Path,
        image: np.ndarray,
        *networks: Network,
        in_place: bool = False,
        block: ZYX = (1, 256, 256),
    ) -> None:
        self.folder, self.image = folder, image
        folder.mkdir(exist_ok=True)
        put(folder, image, in_place)
        write_stamp(folder / "data.json", {"samples": {"a": {"split": "test", "image": "i", "labels": None}}})
        self.names = ["n" * number for number, _ in enumerate(networks or (NETWORK,), 1)]
        for name, shape in zip(self.names, networks or (NETWORK,), strict=True):
            network(folder, name, shape, len(image), block)
        write_ensemble([folder / f"{name}.json" for name in self.names], folder / "model.json")

    def predict(
        self, engine: Engine, out: str = "out", mask_threshold: float | None = None, region: Any = (), **options: Any
    ) -> Result:
        predict_samples(
            Predict.model_validate({"dtype": "float32", "precision": "float32"} | options),
            model=self.folder / "model.json",
            plans=[self.folder / f"{name}.plan.json" for name in self.names],
            groundtruth=self.folder / "data.json",
            images=self.folder / "data.zarr",
            store=self.folder / out / "data.zarr",
            stamp=self.folder / f"{out}.json",
            engine=engine,
            mask_threshold=mask_threshold,
            region=[Extent.model_validate(one) for one in region],
        )
        return Result(self.folder / out / "data.zarr" / "a")

    def entry(self, out: str = "out") -> dict[str, Any]:
        return read_json(self.folder / f"{out}.json")["samples"]["a"]


def quarter(image: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 pixels (the last one twice at an odd end), rounded half up, and of these once more."""
    for _ in range(2):
        low = [np.arange(0, n, 2) for n in image.shape[-2:]]
        rows, columns = ([at, np.minimum(at + 1, n - 1)] for at, n in zip(low, image.shape[-2:], strict=True))
        four = [image[..., y[:, None], x].astype(int) for y, x in product(rows, columns)]
        image = (sum(four) + 2) // 4
    return image


def blank_blocks(image: np.ndarray, grid: Grid, blank: Callable[[np.ndarray], np.ndarray]) -> set[int]:
    """Blocks in and around which each pixel of the reduced image is blank."""
    seen = np.pad(blank(quarter(image)).all(axis=0), 1, constant_values=True)
    found = set()
    for index, ((z, y, x), (z_stop, y_stop, x_stop)) in enumerate(grid):
        rows, columns = slice(y // 4, -(-y_stop // 4) + 2), slice(x // 4, -(-x_stop // 4) + 2)
        if seen[z : z_stop + 2, rows, columns].all():
            found.add(index)
    return found


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Box]:
    """Boxes that networks are asked for, from now on."""
    boxes: list[Box] = []
    real = step.predict_box

    def noted(source: Any, box: Box, *arguments: Any, **more: Any) -> np.ndarray:
        boxes.append(box)
        return real(source, box, *arguments, **more)

    monkeypatch.setattr("unet_core.predict.step.predict_box", noted)
    return boxes


def compare(case: Case, result: Result, plain: Result, blank: set[int]) -> None:
    """Empty blocks are those that are expected, and certain background; the others are byte for byte those of plain."""
    assert {index for index in range(len(result.grid)) if result.is_empty(index)} == blank
    for index, box in enumerate(result.grid):
        files = [[path.read_bytes() for path in one.shards_of(index)] for one in (result, plain)]
        assert index in blank or files[0] == files[1]
        if index in blank:
            stored = result.read(box)
            assert not stored.any() and (with_background(stored)[0] == 1).all()
    entry = case.entry()
    assert (entry["empty"], entry["blocks"]) == (len(blank), len(result.grid))
    assert max(entry.get("audit", {}).get(place, 0) for place in ("across", "inside")) <= 1e-5


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_is_asked_for_blocks_with_something_in_them_alone(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, shape: ZYX, in_place: bool
) -> None:
    case = Case(tmp_path, volume(shape), in_place=in_place)
    plain = case.predict(engine, "plain")
    boxes = asked(monkeypatch)
    result = case.predict(engine, **SKIP)
    blank = blank_blocks(case.image, result.grid, lambda gray: gray < 12)
    assert 0 < len(blank) < len(result.grid)
    compare(case, result, plain, blank)
    blocks = [box for box in boxes if box in set(result.grid)]
    assert sorted(blocks) == [box for index, box in enumerate(result.grid) if index not in blank]
    assert "empty" not in case.entry("plain") and "empty" not in read_attributes(plain.path)["details"]


@pytest.mark.parametrize(
    ("options", "threshold"), [({"dtype": "uint8"}, None), ({"dtype": "float16"}, None), ({"dtype": "mask"}, 0.4)]
)
def test_each_type_has_certain_background_in_empty_blocks(
    tmp_path: Path, engine: Engine, options: dict[str, Any], threshold: float | None
) -> None:
    case = Case(tmp_path, volume((1, 300, 530)))
    plain = case.predict(engine, "plain", threshold, **options)
    result = case.predict(engine, "out", threshold, **options, **SKIP)
    compare(case, result, plain, blank_blocks(case.image, result.grid, lambda gray: gray < 12))


def test_bright_background_is_left_empty_by_above(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, 255 - volume((1, 600, 1100)))
    plain = case.predict(engine, "plain")
    result = case.predict(engine, skip={"above": 240})
    blank = blank_blocks(case.image, result.grid, lambda gray: gray > 240)
    assert 0 < len(blank) < len(result.grid)
    compare(case, result, plain, blank)


def test_blocks_of_a_3d_network_and_several_channels(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((10, 270, 300), 2), NETWORK_3D, block=(8, 256, 256))
    plain = case.predict(engine, "plain")
    result = case.predict(engine, **SKIP)
    blank = blank_blocks(case.image, result.grid, lambda gray: gray < 12)
    # What is bright in the second channel alone counts too.
    assert not result.is_empty(0) and len(blank) < len(blank_blocks(case.image[:1], result.grid, lambda g: g < 12))
    compare(case, result, plain, blank)


def test_several_kinds_of_networks_are_left_unasked_alike(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, volume((1, 300, 530)), NETWORK, Network(depth=1, width=3, dropout=0.0))
    plain = case.predict(engine, "plain")
    boxes = asked(monkeypatch)
    result = case.predict(engine, **SKIP)
    blank = blank_blocks(case.image, result.grid, lambda gray: gray < 12)
    compare(case, result, plain, blank)
    assert all(boxes.count(box) == (0 if index in blank else 2) for index, box in enumerate(result.grid))


def test_floating_point_images_in_their_own_units(tmp_path: Path, engine: Engine) -> None:
    image = volume((1, 600, 1100)).astype(np.float32) / 1000 - 0.5
    stored, in_place = (Case(tmp_path / str(there), image, in_place=there) for there in (False, True))
    results = [case.predict(engine, skip={"below": -0.49}) for case in (stored, in_place)]
    found = [[result.is_empty(index) for index in range(len(result.grid))] for result in results]
    assert found[0] == found[1] and not found[0][0] and 0 < sum(found[0]) < len(found[0])


def test_a_volume_of_many_empty_blocks_takes_no_time_of_the_network_and_no_space(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.zeros((1, 40, 512, 512), np.uint8)
    image[0, 27, 300:400, 300:400] = 200
    case = Case(tmp_path, image)
    boxes = asked(monkeypatch)
    with caplog.at_level(logging.INFO):
        result = case.predict(engine, dtype="uint8", **SKIP)
    # The planes beside the bright one are looked at with it.
    assert {box.start for box in boxes if box.shape == (1, 256, 256)} == {(z, 256, 256) for z in (26, 27, 28)}
    assert "predict: 1 samples, 1 segmented, 157 of 160 blocks are empty" in caplog.text
    assert sum(path.stat().st_size for path in result.path.rglob("0/c/0/0/*/*")) < 4 * 100
    case.predict(engine, dtype="uint8", **SKIP)
    assert case.entry()["empty"] == 157


@pytest.mark.parametrize(("below", "count"), [(500, 6), (0, 0)])
def test_all_blocks_or_none_may_be_empty(tmp_path: Path, engine: Engine, below: float, count: int) -> None:
    case = Case(tmp_path, volume((1, 300, 530)))
    if count:  # no network is loaded
        (tmp_path / "n" / "best.safetensors").unlink()
        result = case.predict(engine, skip={"below": below})
        assert not result.read_all().any() and "audit" not in case.entry()
    else:
        plain = case.predict(engine, "plain")
        compare(case, case.predict(engine, skip={"below": below}), plain, set())
    assert (case.entry()["empty"], case.entry()["blocks"]) == (count, 6)


def test_a_run_that_ended_early_goes_on_and_counts_all_empty_blocks(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, volume((2, 600, 1100)))
    whole = case.predict(engine, **SKIP)
    expected, files = case.entry(), contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    calls, real = list[Box](), step.predict_box

    def ends(source: Any, box: Box, *arguments: Any, **more: Any) -> np.ndarray:
        calls.append(box)
        if len(calls) >= 3:
            raise ZeroDivisionError
        return real(source, box, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr("unet_core.predict.step.predict_box", ends)
        with pytest.raises(ZeroDivisionError):
            case.predict(engine, **SKIP)
    left = set(Result(whole.path).missing_blocks())
    # What a worker has in hand yet has a name with a dot in front.
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("c/*/*/*/[!.]*")}
    assert 0 < len(left) < len(whole.grid)
    case.predict(engine, **SKIP)
    assert case.entry() == expected and contents(tmp_path / "out") == files
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_lost_empty_blocks_are_made_again(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 300, 530)))
    result = case.predict(engine, **SKIP)
    files, index = contents(tmp_path / "out"), next(i for i in range(6) if result.is_empty(i))
    result.shards_of(index)[0].unlink()
    assert details_if_done(result.path, str(result.digest)) is None
    case.predict(engine, **SKIP)
    assert contents(tmp_path / "out") == files


def test_the_audit_of_seams_still_sees_what_differs(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 72 blocks two that meet are computed: their border is found, and looked at."""
    image = np.zeros((1, 1, 2048, 2304), np.uint8)
    image[0, 0, 1030:1100, 700:1000] = 99
    case, real = Case(tmp_path, image), step.predict_box

    def careless(source: Any, box: Box, *arguments: Any, **more: Any) -> np.ndarray:
        found = real(source, box, *arguments, **more)
        if box.shape[1:] == (256, 256):
            found[..., -1] = 1 - found[..., -1]
        return found

    monkeypatch.setattr("unet_core.predict.step.predict_box", careless)
    case.predict(engine, **SKIP)
    assert case.entry()["empty"] == 70 and case.entry()["audit"]["across"] > 0.1


def test_without_the_option_results_are_those_of_before(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 300, 530)))
    case.predict(engine, "plain")
    networks = [[weights_digest(tmp_path / "n"), NORM]]
    assert case.entry("plain")["digest"] == digest("i", networks, "float32", "none", "float32", None, method("predict"))
    wanted = [{}, {"skip": {"below": 12}}, {"skip": {"below": 13}}, {"skip": {"above": 12}}]
    wanted += [{"region": [{"y": (0, 9)}]}, {"region": [{"x": (0, 9)}]}]
    found = []
    for options in wanted:
        case.predict(engine, **options)
        found.append(case.entry()["digest"])
    assert len(set(found)) == len(wanted) and found[0] == case.entry("plain")["digest"]


def test_a_lost_coarse_shard_of_the_image_is_an_error(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 600, 1100)))
    Result(tmp_path / "data.zarr" / "a").shards_of(0)[2].unlink()
    with pytest.raises(UserError, match=r"block \(0, 0, 0\) is missing or cut short; run 'python -m unet_core verify"):
        case.predict(engine, **SKIP)


def test_other_readers_see_zeros_and_verify_finds_exchanged_shards(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 600, 1100)))
    result = case.predict(engine, **SKIP)
    for level in range(result.levels):
        read = np.asarray(zarr.open_array(result.path / str(level), mode="r")[:])
        box = Box((0, 0, 0), (1, *read.shape[-2:]))
        np.testing.assert_array_equal(read, result.read(box, level))
    assert not verify(tmp_path / "out" / "data.zarr")[1]
    one, other = (result.shards_of(i)[0] for i in [i for i in range(len(result.grid)) if result.is_empty(i)][:2])
    shutil.copy(one, other)
    assert [damage.file for damage in verify(tmp_path / "out" / "data.zarr")[1]] == [other]


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_compared_is_the_same_in_a_store_and_in_place(tmp_path: Path, in_place: bool) -> None:
    image = np.random.default_rng(1).integers(0, 65535, (2, 3, 603, 1101)).astype(np.uint16)
    put(tmp_path, image, in_place)
    path = tmp_path / "data.zarr" / "a"
    source = InPlace(read_attributes(path)["reference"]) if in_place else Result(path)
    wide = image.astype(np.float64)
    for _ in range(2):
        wide = np.pad(wide, [(0, 0), (0, 0), *((0, n % 2) for n in wide.shape[-2:])], mode="edge")
        wide = np.rint(wide.reshape(2, 3, wide.shape[2] // 2, 2, -1, 2).mean(axis=(3, 5)))
    found = empty.reduced(source, Box((0, 252, 508), (3, 603, 1101)))
    np.testing.assert_array_equal(found, wide[:, :, 63:, 127:])


def inside(shape: ZYX, region: list[dict[str, Any]]) -> np.ndarray:
    """Voxels in one of the boxes, one by one."""
    places = np.indices(shape)
    spans = [[(places[i], one[axis]) for i, axis in enumerate("zyx") if axis in one] for one in region]
    return np.any([np.all([(at >= a) & (at < b) for at, (a, b) in axes], axis=0) for axes in spans], axis=0)


@pytest.mark.parametrize(
    "region",
    [
        [{"y": (10, 280), "x": (300, 9000)}],
        [{"z": (1, 2), "x": (0, 256)}, {"y": (0, 3)}],
        [{"z": (0, 9)}],
        [{"y": (20, 90), "x": (20, 90)}, {"y": (50, 300), "x": (60, 70)}],
    ],
)
def test_what_lies_outside_of_the_region_is_background_whatever_the_blocks(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, region: list[dict[str, Any]]
) -> None:
    shape = (2, 300, 530)
    case, larger = Case(tmp_path / "a", volume(shape)), Case(tmp_path / "b", volume(shape), block=(8, 512, 512))
    plain = case.predict(engine, "plain").read_all()
    boxes = asked(monkeypatch)
    result = case.predict(engine, region=region)
    there = inside(shape, region)
    np.testing.assert_array_equal(result.read_all(), np.where(there, plain, 0))
    met = [bool(there[box.slices].any()) for box in result.grid]
    assert [not result.is_empty(index) for index in range(len(result.grid))] == met
    assert sorted(box for box in boxes if box in set(result.grid)) == [
        box for box, wanted in zip(result.grid, met, strict=True) if wanted
    ]
    assert (case.entry()["empty"], case.entry()["blocks"]) == (met.count(False), len(met))
    assert all(case.entry().get("audit", {}).get(place, 0) <= 1e-5 for place in ("across", "inside"))
    other = larger.predict(engine, region=region)
    assert other.grid != result.grid
    np.testing.assert_allclose(other.read_all(), result.read_all(), atol=1e-5)


def test_region_and_skip_together(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 600, 1100)))
    region = [{"y": (0, 290)}]
    plain = case.predict(engine, "plain", region=region)
    result = case.predict(engine, region=region, **SKIP)
    blank = blank_blocks(case.image, result.grid, lambda gray: gray < 12)
    compare(case, result, plain, blank | {i for i in range(len(plain.grid)) if plain.is_empty(i)})


def test_a_region_beside_an_image_is_told_with_its_size(tmp_path: Path, engine: Engine) -> None:
    case = Case(tmp_path, volume((1, 300, 530)))
    with pytest.raises(
        UserError, match=r"no box of it meets the image a, which has 1 planes \(z\) of 300 x 530 pixels"
    ):
        case.predict(engine, region=[{"y": (300, 400)}, {"z": (1, 2)}])
    assert not (tmp_path / "out.json").exists()
