"""Model folders: weights as safetensors, what else is needed to apply them as JSON."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from unet_core.config import Network
from unet_core.runtime import UserError, read_json, write_atomic
from unet_core.unet import UNet

# Arithmetic of the network, where it is not float32.
LOW_PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """The accelerator of this process if there is one, else the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def arithmetic(where: torch.device, precision: str) -> torch.autocast:
    """Context in which the network computes with float32, bfloat16 or float16."""
    return torch.autocast(where.type, LOW_PRECISION.get(precision, torch.bfloat16), enabled=precision in LOW_PRECISION)


def build(network: Network, channels: int, classes: int) -> UNet:
    """A U-Net with new weights, on the CPU."""
    options = network.model_dump()
    net = UNet(channels, classes, **options)
    # The stubs of torch do not know memory formats of modules.
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON state as one safetensors file, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint.

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, json.loads((file.metadata() or {}).get("state", "{}"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; 'snakemake --forcerun train' makes it again") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run 'snakemake --forcerun train'") from error


def weights_digest(folder: Path) -> str:
    """Hash of a model's best weights and of its description."""
    hasher = hashlib.blake2b(digest_size=10)
    for name in ("best.safetensors", "model.json"):
        try:
            hasher.update((folder / name).read_bytes())
        except FileNotFoundError:
            raise UserError(f"{folder / name} is missing; 'snakemake --forcerun train' makes it again") from None
    return hasher.hexdigest()


def network_function(net: UNet, offset: list[float], scale: list[float], precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Class probabilities of a tile as a function from arrays to arrays: normalise, network, softmax.

    Parameters
    ----------
    net : UNet
        Network in evaluation mode, on its device.
    offset, scale : list of float
        Normalisation of the sample's channels.
    precision : {"float32", "bfloat16", "float16"}
        Arithmetic of the network; the softmax is in float32.

    Returns
    -------
    callable
        Tile (c, y, x) of gray values -> probabilities (k, y, x), float32.
    """
    where = next(net.parameters()).device
    shift = np.array(offset, np.float32)[:, None, None]
    factor = np.array(scale, np.float32)[:, None, None]

    def apply(tile_CYX: np.ndarray) -> np.ndarray:
        normalised = torch.from_numpy((tile_CYX.astype(np.float32) - shift) * factor).to(where)
        try:
            with torch.inference_mode(), arithmetic(where, precision):
                scores = net(normalised[None].contiguous(memory_format=torch.channels_last))
        except torch.OutOfMemoryError:
            raise UserError(f"a tile of {max(tile_CYX.shape)} px does not fit the GPU; lower plan.memory_gb or predict.tile") from None
        return scores.float().softmax(dim=1)[0].cpu().numpy()

    return apply


@functools.lru_cache(maxsize=2)
def load_network(folder: Path, digest: str) -> UNet:
    """Network of a model folder with its best weights, ready to be applied; kept for the next block.

    Parameters
    ----------
    folder : Path
        With ``model.json`` and ``best.safetensors``.
    digest : str
        The weights' digest: other weights in the same folder are loaded anew.
    """
    description = read_json(folder / "model.json")
    net = build(Network.model_validate(description["network"]), description["channels"], len(description["classes"]) + 1)
    tensors, _ = load_checkpoint(folder / "best.safetensors")
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{folder}/best.safetensors does not fit model.json: {error}") from None
    return net.eval().to(device())
