"""The layers as napari shows them, without a screen; skipped where napari is not installed (the extra ``view``)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.view.stores import SIZE, store, write_truth
from unet_core.report.gallery import Places
from unet_core.view.layers import ERRORS, layers_of
from unet_core.view.napari_window import Browser


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_napari_takes_the_layers_and_keys_lead_from_sample_to_sample(tmp_path: Path) -> None:
    components = pytest.importorskip("napari.components")
    truth = np.zeros((2, 1100, 1200), np.uint32)
    truth[1, 100:200, 200:300] = 7
    for name, labels in (("a", truth), ("b", truth[:1, :90, :80])):
        store(tmp_path / f"groundtruth/d.zarr/{name}", np.stack([labels > 0, labels > 9]).astype(np.uint8), "image")
        write_truth(tmp_path, name, labels)
        store(tmp_path / f"instances/m/d.zarr/{name}", labels * 0, "labels")
    viewer = components.ViewerModel()
    layers = functools.partial(layers_of, Places(tmp_path, "m", "d"), classes=["cell"])
    browser = Browser(viewer, ["a", "b"], lambda name: layers(name))
    errors = viewer.layers[-1]
    assert [layer.name for layer in viewer.layers][:4] == ["image 0", "image 1", "result", "truth"]
    assert errors.name == "errors (1 missed)" and all(tuple(layer.scale) == SIZE for layer in viewer.layers)
    assert all(layer.multiscale and str(layer.units[0]) == "micrometer" for layer in viewer.layers)
    errors.visible = True
    viewer.dims.set_point(0, 2.0)
    # In the middle of the object, in micrometres.
    assert errors.get_value((2.0, 75.0, 62.5), world=True)[1] == ERRORS["missed"]
    assert viewer.layers["truth"].get_value((2.0, 75.0, 62.5), world=True)[1] == 7
    viewer.layers["truth"].visible = False
    keys = {str(key): action for key, action in viewer.keymap.items()}
    keys["PageDown"](viewer)
    assert browser.position == 1 and viewer.title == "b (2 of 2)" and viewer.layers[0].ndim == 2
    assert not viewer.layers["truth"].visible and viewer.layers[-1].visible  # as they were
    keys["PageDown"](viewer)
    keys["PageUp"](viewer)
    assert browser.position == 1
