"""A trained model as a package of the BioImage Model Zoo: ``python -m unet_core share MODEL PACKAGE.zip``.

The package holds the weights, the network as one file of source code, normalisation and softmax as steps before and
after, and a tile with the values that belong to it. It needs the extra `share` (bioimageio.core).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet_core.blocks import Box
from unet_core.config.models import model_problem
from unet_core.config.options import Network
from unet_core.network import unet
from unet_core.network.model import SavedModel, read_model
from unet_core.network.tiles import read_mirrored
from unet_core.network.unet import SameSizeUNet
from unet_core.runtime import UserError
from unet_core.store.store import open_image_of

PAPER_CITATION = (
    "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015",
    "10.1007/978-3-319-24574-4_28",
)


def share_model(
    model: Path, package: Path, *, name: str, authors: list[str], licence: str, sample: Path | None = None
) -> None:
    """Write a package of the BioImage Model Zoo, after a test that it gives what this pipeline gives.

    Parameters
    ----------
    model : Path
        Folder of the model.
    package : Path
        The ZIP file.
    name : str
        What the model is called.
    authors : list of str
        Names.
    licence : str
        SPDX identifier, as CC-BY-4.0.
    sample : Path, optional
        A sample in a store of the step groundtruth, for the tile that is part of the package; by default the first that
        the model was trained on.

    Raises
    ------
    UserError
        If bioimageio.core is not installed, or its test of the package fails.
    """
    folds = sorted(model.parent.glob(f"{model.name}.fold*/model.json"))
    if folds and not (model / "model.json").is_file():
        listed = ", ".join(str(path.parent) for path in folds)
        raise UserError(
            f"{model.name} is the mean of several networks, and a package holds one; share each by itself: {listed}"
        )
    if wrong := model_problem(model):
        raise UserError(wrong)
    saved = read_model(model)
    description = saved.description
    if Network.model_validate(description["network"]).dimensions == 3:
        raise UserError(
            f"the network in {model} is 3D; packages are made of 2D ones alone: "
            "give the folder itself (docs/training.md)"
        )
    try:
        from bioimageio.core import test_model
        from bioimageio.spec import save_bioimageio_package
    except ImportError:
        raise UserError("sharing needs bioimageio.core; install it with: pip install 'unet-core[share]'") from None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_files(folder, saved, _tile(model, description, sample), name)
        save_bioimageio_package(_describe(folder, description, name, authors, licence), output_path=package)
        summary = test_model(package, weight_format="pytorch_state_dict")
    if summary.status != "passed":
        raise UserError(f"bioimageio.core does not accept {package}:\n{summary.format()}")


def margins(network: Network) -> tuple[int, int]:
    """Halo, as a multiple of the pixels that are pooled together, and the smallest side of a tile."""
    axis = unet.shape_of(network).y
    group, halo = axis.step, unet.halo(*axis)
    halo = -(-halo // group) * group
    return halo, 2 * halo + group


def _tile(model: Path, description: dict[str, Any], sample: Path | None) -> np.ndarray:
    """Gray values (c, y, x) from the middle of a sample."""
    if sample is None:
        if not description.get("trained_on"):
            raise UserError(f"{model}/model.json names no sample that it was trained on; name one with --sample")
        dataset, _, name = description["trained_on"][0].partition("/")
        sample = model.parent.parent / "groundtruth" / f"{dataset}.zarr" / name
    image = open_image_of(sample.parent, sample.name)
    _, side = margins(Network.model_validate(description["network"]))
    z, y, x = ((n - part) // 2 for n, part in zip(image.shape, (1, side, side), strict=True))
    return read_mirrored(image, Box((z, y, x), (z + 1, y + side, x + side)))[:, 0].astype(np.float32)


def normalised(tile_CYX: np.ndarray, normalisation: dict[str, Any]) -> np.ndarray:
    """A tile as the package normalises it, by the tile's own statistics.

    The pipeline takes the statistics of the whole sample instead.
    """
    if normalisation["normalisation"] == "mean_std":
        low, extent = tile_CYX.mean(axis=(1, 2)), tile_CYX.std(axis=(1, 2))
    else:
        low, high = (np.percentile(tile_CYX, level, axis=(1, 2)) for level in normalisation["percentiles"])
        extent = high - low
    return ((tile_CYX - low[:, None, None]) / (extent[:, None, None] + 1e-6)).astype(np.float32)


def _write_files(folder: Path, saved: SavedModel, tile_CYX: np.ndarray, name: str) -> None:
    """What the package is made of."""
    description = saved.description
    net = SameSizeUNet(description["channels"], len(description["classes"]) + 1, **description["network"]).eval()
    net.load_state_dict(saved.tensors())
    torch.save(net.state_dict(), folder / "weights.pt")
    with torch.inference_mode():
        scores = net(torch.from_numpy(normalised(tile_CYX, description["normalisation"]))[None])
    np.save(folder / "input.npy", tile_CYX[None])
    np.save(folder / "output.npy", scores.softmax(dim=1).numpy())
    (folder / "unet.py").write_text(Path(unet.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    _draw_cover(tile_CYX[0], 1 - scores.softmax(dim=1)[0, 0].numpy(), folder / "cover.png")
    best = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in description.get("best", {}).items())
    least = ", ".join(f"{extent:.4g}" for extent in description.get("least_extent", []))
    faint = (
        f"## Images without objects\n\nThe network learnt from images whose gray values extend over {least} at least "
        "(by channel, between the values that become 0 and 1). The package stretches every image to its full range: in "
        "one with less, noise may be taken for objects.\n\n"
    )
    (folder / "README.md").write_text(
        f"# {name}\n\nA U-Net that gives the probability of background, {', '.join(description['classes'])} for each "
        f"pixel.\n\n{faint if least else ''}"
        f"## Validation\n\nChosen by its validation: {best or 'not known'}. "
        "Compare the objects that you find in annotated images of "
        "your own, by SEG or by average precision at IoU 0.5.\n",
        encoding="utf-8",
    )


def _draw_cover(gray: np.ndarray, foreground: np.ndarray, path: Path) -> None:
    import imagecodecs

    low, high = np.percentile(gray, [1, 99])
    left = np.clip((gray - low) / max(high - low, 1e-6), 0, 1)
    path.write_bytes(imagecodecs.png_encode(np.rint(255 * np.concatenate([left, foreground], axis=1)).astype(np.uint8)))


def _axes(network: Network, description: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Axes of what the network takes and of what it gives."""
    halo, smallest = margins(network)
    size = {"min": smallest, "step": 2**network.depth}
    channels = [f"channel{number}" for number in range(description["channels"])]
    classes = ["background", *description["classes"]]
    axes_in: list[dict[str, Any]] = [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": channels}]
    axes_out: list[dict[str, Any]] = [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": classes}]
    for axis in "yx":
        axes_in.append({"type": "space", "id": axis, "size": size})
        axes_out.append({"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}, "halo": halo})
    return axes_in, axes_out


def _describe(folder: Path, description: dict[str, Any], name: str, authors: list[str], licence: str) -> Any:
    """The description that stands in the package's ``rdf.yaml``."""
    from bioimageio.spec.model import v0_5 as bmz

    network = Network.model_validate(description["network"])
    axes_in, axes_out = _axes(network, description)
    image: dict[str, Any] = {
        "id": "image",
        "axes": axes_in,
        "test_tensor": {"source": folder / "input.npy"},
        "data": {"type": "float32"},
    }
    image["pad"] = {"mode": "reflect"}  # beyond the edges, as here
    kwargs = network.model_dump() | {"channels": description["channels"], "classes": len(description["classes"]) + 1}
    return bmz.ModelDescr.model_validate(
        {
            "type": "model",
            "format_version": bmz.ModelDescr.implemented_format_version,
            "name": name,
            "description": f"U-Net of depth {network.depth} for {', '.join(description['classes'])}",
            "authors": [{"name": author} for author in authors],
            "cite": [{"text": PAPER_CITATION[0], "doi": PAPER_CITATION[1]}],
            "license": licence,
            "tags": ["unet", "semantic-segmentation", "pytorch", "2d"],
            "documentation": {"source": folder / "README.md"},
            "covers": [{"source": folder / "cover.png"}],
            "inputs": [
                image
                | {"preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}, _scaling(description)]}
            ],
            "outputs": [
                {
                    "id": "probabilities",
                    "axes": axes_out,
                    "test_tensor": {"source": folder / "output.npy"},
                    "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
                }
            ],
            "weights": {
                "pytorch_state_dict": {
                    "source": folder / "weights.pt",
                    "architecture": {"source": folder / "unet.py", "callable": "SameSizeUNet", "kwargs": kwargs},
                    "pytorch_version": torch.__version__.partition("+")[0],
                }
            },
        }
    )


def _scaling(description: dict[str, Any]) -> dict[str, Any]:
    rule = description["normalisation"]
    if rule["normalisation"] == "mean_std":
        return {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
    low, high = rule["percentiles"]
    return {"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": low, "max_percentile": high}}


def main(arguments: list[str]) -> None:
    """Entry of ``python -m unet_core share``."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core share", description="package a trained model for the BioImage Model Zoo"
    )
    parser.add_argument("model", type=Path, help="folder of the model, as results/train/cells")
    parser.add_argument("package", type=Path, help="ZIP file to write")
    parser.add_argument("--name", help="name of the model; default: that of its folder")
    parser.add_argument("--author", action="append", required=True, help="name of an author; may be repeated")
    parser.add_argument("--licence", default="CC-BY-4.0", help="SPDX identifier; default: CC-BY-4.0")
    parser.add_argument("--sample", type=Path, help="sample for the test tile, as results/groundtruth/cells.zarr/t000")
    given = parser.parse_args(arguments)
    name = given.name or f"U-Net {given.model.name}"
    try:
        share_model(
            given.model, given.package, name=name, authors=given.author, licence=given.licence, sample=given.sample
        )
    except UserError as error:
        sys.exit(f"share: {error}")
    print(f"{given.package}: tested with bioimageio.core")
