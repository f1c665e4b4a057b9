"""A model that is given away computes elsewhere what it computes here."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ArraySource
from unet_core.blocks import Box
from unet_core.config.options import Network
from unet_core.network import share, unet
from unet_core.network.model import build, load_network, network_function, save_checkpoint, weights_digest
from unet_core.network.tiles import predict_box
from unet_core.network.unet import SameSizeUNet
from unet_core.runtime import UserError

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
NETWORKS = [Network(depth=2, width=4, norm="batch"), Network(depth=2, width=4, up_kernel=3, final_kernel=3)]
RULES = [{"normalisation": "percentile", "percentiles": [1, 99]}, {"normalisation": "mean_std", "percentiles": [1, 99]}]


def trained(folder: Path, network: Network, rule: dict[str, Any]) -> dict[str, Any]:
    """A model folder with random weights."""
    torch.manual_seed(1)
    net = build(network, 2, 2)
    for name, tensor in net.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    save_checkpoint(folder / "best.safetensors", dict(net.state_dict()), {})
    description = {
        "network": network.model_dump(),
        "channels": 2,
        "classes": ["cell"],
        "normalisation": rule,
        "trained_on": ["d/one"],
        "least_extent": [40.0, 50.5],
    }
    (folder / "model.json").write_text(json.dumps(description | {"best": {"step": 5.0, "validation_loss": 0.25}}))
    return description


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_of_same_size_is_the_overlap_tile_strategy(network: Network) -> None:
    torch.manual_seed(0)
    net = SameSizeUNet(1, 2, **network.model_dump()).eval()
    image = np.random.default_rng(0).normal(size=(1, 1, 96, 83)).astype(np.float32)
    plain = build(network, 1, 2).eval()
    plain.load_state_dict(net.state_dict())
    function = network_function(plain, [0.0], [1.0], "float32")
    whole = predict_box(ArraySource(image), Box((0, 0, 0), (1, 96, 83)), function, shape=net.shape, largest=1000)
    with torch.inference_mode():
        np.testing.assert_allclose(net(torch.from_numpy(image)).softmax(dim=1)[0].numpy(), whole[:, 0], atol=1e-5)


@pytest.mark.parametrize(("network", "rule"), list(zip(NETWORKS, RULES, strict=True)))
@pytest.mark.filterwarnings("ignore")
def test_a_package_for_the_model_zoo_runs_to_the_same_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Network, rule: dict[str, Any]
) -> None:
    core = pytest.importorskip("bioimageio.core", reason="needs the extra share: pip install 'unet-core[share]'")
    from bioimageio.core.digest_spec import create_sample_for_model

    description = trained(tmp_path / "m", network, rule)
    image = np.random.default_rng(0).integers(0, 4000, (2, 1, 132, 140)).astype(np.uint16)
    monkeypatch.setattr(share, "open_image_of", lambda store, name: ArraySource(image))
    share.share_model(
        tmp_path / "m", tmp_path / "m.zip", name="Cells of a test", authors=["A. Nobody"], licence="CC-BY-4.0"
    )
    with zipfile.ZipFile(tmp_path / "m.zip") as package:
        assert {"weights.pt", "unet.py", "README.md", "cover.png"} <= {Path(name).name for name in package.namelist()}
        (readme,) = (name for name in package.namelist() if name.endswith("README.md"))
        assert "whose gray values extend over 40, 50.5 at least" in package.read(readme).decode()
    # The whole image, against this pipeline with the statistics of the whole image.
    pixels = image[:, 0].astype(np.float32)
    if rule["normalisation"] == "mean_std":
        low, extent = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
    else:
        low, high = (np.percentile(pixels, level, axis=(1, 2)) for level in rule["percentiles"])
        extent = high - low
    function = network_function(
        load_network(tmp_path / "m", weights_digest(tmp_path / "m")), low.tolist(), (1 / extent).tolist(), "float32"
    )
    shape = unet.shape_of(Network.model_validate(description["network"]))
    ours = predict_box(ArraySource(image), Box((0, 0, 0), (1, 132, 140)), function, shape=shape, largest=500)[:, 0]
    model = core.load_model(tmp_path / "m.zip")
    given = create_sample_for_model(model, inputs={"image": pixels[None]})
    # Its default is to mirror the image before it takes statistics, which the network here does by itself.
    pipeline = core.create_prediction_pipeline(model)
    found = pipeline.predict_sample_without_blocking(given, skip_input_padding=True, skip_output_cropping=True)
    np.testing.assert_allclose(np.asarray(found.members["probabilities"].data)[0], ours, atol=1e-4)


def test_without_bioimageio_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, NETWORKS[0], RULES[0])
    monkeypatch.setitem(__import__("sys").modules, "bioimageio.core", None)
    with pytest.raises(UserError, match=r"pip install 'unet-core\[share\]'"):
        share.share_model(tmp_path, tmp_path / "m.zip", name="x", authors=["y"], licence="MIT")


def test_ten_lines_of_torch_load_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that stand in the docs."""
    trained(tmp_path / "results/train/cells", NETWORKS[0], RULES[0])
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    assert len(code.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"image": np.random.default_rng(0).random((2, 76, 76))}
    exec(code, found)
    cells = tmp_path / "results/train/cells"
    function = network_function(load_network(cells, weights_digest(cells)), [0.0] * 2, [1.0] * 2, "float32")
    np.testing.assert_allclose(found["probabilities"][0].numpy(), function(found["image"][None])[0], atol=1e-6)
