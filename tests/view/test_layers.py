"""What a viewer shows of a sample is what its stores hold, in micrometres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.measure import label

from tests.view.stores import SIZE, refer, store, write_truth
from unet_core.pictures import KIND_COLOURS
from unet_core.report.gallery import Places
from unet_core.runtime import UserError
from unet_core.store.store import Spec, begin
from unet_core.view.layers import ERRORS, Layer, layers_of

RNG = np.random.default_rng(1)
CHANNELS = [{"percentiles": {"1": 3.0, "99.9": 250.0}}, {"percentiles": {"1": 7.0, "99.9": 7.0}}]


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_a_plane_has_two_axes_and_a_layer_for_each_channel_and_class(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (2, 1, 40, 50)).astype(np.uint8)
    probability = RNG.integers(0, 255, (2, 1, 40, 50)).astype(np.uint8)
    truth = label(RNG.random((1, 40, 50)) > 0.7).astype(np.uint32)
    places = Places(tmp_path, "m", "d")
    store(tmp_path / "groundtruth/d.zarr/ä b", image, "image", channels=["DAPI"], intensities=CHANNELS)
    write_truth(tmp_path, "ä b", truth, np.ones(truth.shape, np.uint8))
    store(tmp_path / "predict/m/d.zarr/ä b", probability, "image")
    store(tmp_path / "instances/m/d.zarr/ä b", truth, "labels")
    made = layers_of(places, "ä b", ["cell", "débris"])
    names = ["image DAPI", "image 1", "probability of cell", "probability of débris", "result", "truth"]
    layers = by_name(made.layers)
    assert list(layers) == [*names, "classes of truth", "ignored", "errors (none)"] and made.absent == []
    assert all(layer.scale == SIZE[1:] and len(layer.levels) == 1 for layer in made.layers)
    shown = [np.asarray(layers[name].levels[0]) for name in names]
    np.testing.assert_array_equal(shown[:2], image[:, 0])
    np.testing.assert_allclose(shown[2:4], probability[:, 0] / 255, atol=1e-6)
    np.testing.assert_array_equal(shown[4:], [truth[0]] * 2)
    assert len({layers[name].shown["colormap"] for name in names[:2]}) == 2
    # A constant channel can be shown, too.
    assert [layers[name].shown["contrast_limits"] for name in names[:2]] == [(3.0, 250.0), (7.0, 8.0)]
    # Some of a layer, as viewers ask for it.
    np.testing.assert_array_equal(np.asarray(layers["image 1"].levels[0][5:30:3, 7]), image[1, 0, 5:30:3, 7])


def test_a_volume_has_the_resolutions_of_its_store(tmp_path: Path) -> None:
    truth = np.zeros((3, 300, 1100), np.uint32)
    truth[1, 12:200, 900:1088] = 4
    store(tmp_path / "groundtruth/d.zarr/a", (truth > 0)[None].astype(np.uint16), "image")
    write_truth(tmp_path, "a", truth)
    made = layers_of(Places(tmp_path, "", "d"), "a", ["cell"])
    layers = by_name(made.layers)
    assert list(layers) == ["image", "truth"] and layers["truth"].kind == "labels" and layers["truth"].contour
    assert [line.partition(":")[0] for line in made.absent] == ["probabilities", "result"]
    for layer in made.layers:
        assert layer.scale == SIZE
        assert [level.shape for level in layer.levels] == [(3, 300, 1100), (3, 150, 550), (3, 75, 275), (3, 38, 138)]
    np.testing.assert_array_equal(np.asarray(layers["truth"].levels[0]), truth)
    np.testing.assert_array_equal(np.asarray(layers["truth"].levels[1]), truth[:, ::2, ::2])
    np.testing.assert_array_equal(np.asarray(layers["image"].levels[2]), truth[:, ::4, ::4] > 0)


def test_an_image_in_place_is_thinned_for_a_first_look(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (2, 2, 1030, 2051)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    refer(tmp_path, "a", tmp_path / "image.npy", (2, 1030, 2051), channels=2)
    made = layers_of(Places(tmp_path, "m", "d"), "a", ["cell"])
    assert [layer.name for layer in made.layers] == ["image 0", "image 1"] and made.absent[-1] == "truth: not annotated"
    for channel, layer in enumerate(made.layers):
        assert layer.scale == SIZE and [level.shape[1:] for level in layer.levels] == [
            (1030, 2051),
            (515, 1026),
            (258, 513),
        ]
        for number, level in enumerate(layer.levels):
            np.testing.assert_array_equal(np.asarray(level), image[channel, :, :: 2**number, :: 2**number])
    (tmp_path / "image.npy").rename(tmp_path / "other.npy")
    refer(tmp_path, "b", tmp_path / "image.npy", (2, 1030, 2051))
    with pytest.raises(UserError, match="image.npy"):
        layers_of(Places(tmp_path, "m", "d"), "b", []).layers[0].levels[0][0, :9, :9].compute()


def test_errors_are_missed_and_spurious_objects_at_all_resolutions(tmp_path: Path) -> None:
    truth, found, ignore = (np.zeros((1, 1200, 1300), dtype) for dtype in (np.uint32, np.uint32, np.uint8))
    truth[0, :40, :40], found[0, 2:40, :40] = 1, 9  # matched
    truth[0, 96:144, 1000:1200] = 2  # missed
    found[0, 600:704, 8:80] = 3  # spurious
    found[0, 1100:1120, 8:80], ignore[0, 1000:] = 4, 1  # nobody knows
    store(tmp_path / "groundtruth/d.zarr/a", (truth > 0)[None].astype(np.uint8), "image")
    write_truth(tmp_path, "a", truth, ignore)
    # Smaller blocks have more resolutions.
    store(tmp_path / "instances/m/d.zarr/a", found, "labels", (1, 512, 512))
    made = layers_of(Places(tmp_path, "m", "d"), "a", ["cell"])
    layer = made.layers[-1]
    assert layer.name == "errors (1 missed, 1 spurious)" and not layer.shown["visible"]
    expected = np.where(truth == 2, ERRORS["missed"], np.where(found == 3, ERRORS["spurious"], 0))[0]
    assert len(layer.levels) > 1
    for number, level in enumerate(layer.levels):
        np.testing.assert_array_equal(np.asarray(level), expected[:: 2**number, :: 2**number])
    features, colours = layer.shown["features"], layer.shown["colormap"]
    told = dict(zip(features["index"], features["error"], strict=True))
    assert told[ERRORS["missed"]] == "missed" and "matched" not in told.values()
    assert np.allclose(colours[ERRORS["spurious"]][:3], np.array(KIND_COLOURS["spurious"]) / 255)
    small = layers_of(Places(tmp_path, "m", "d"), "a", ["cell"], compared=10**6)
    assert not any(layer.name.startswith("errors") for layer in small.layers)
    assert small.absent[-1].startswith("errors: the sample is too large")


def test_what_is_unfinished_is_not_shown(tmp_path: Path) -> None:
    store(tmp_path / "groundtruth/d.zarr/a", np.ones((1, 1, 9, 9), np.uint8), "image")
    begin(tmp_path / "instances/m/d.zarr/a", "d", Spec((1, 9, 9), "uint32", "labels"), {})
    made = layers_of(Places(tmp_path, "m", "d"), "a", ["cell"])
    assert [layer.name for layer in made.layers] == ["image"]
    with pytest.raises(UserError, match="missing"):
        layers_of(Places(tmp_path, "m", "d"), "b", ["cell"])
