"""Model folders: weights as safetensors, what else is needed to apply them as JSON."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch

from unet_core.config.models import DESCRIPTION, WEIGHTS, model_problem
from unet_core.config.options import Network
from unet_core.files import write_atomic
from unet_core.network.device import device
from unet_core.network.tiles import LANES
from unet_core.network.unet import NO_POOLING, UNet
from unet_core.records import FOLDER
from unet_core.runtime import UserError
from unet_core.store.result import mending

# By the dimensions of a network.
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
# Rows of a tile whose probabilities are computed at once on a CPU.
ROWS_AT_ONCE = 64
# Arithmetic of the network, where it is not float32.
LOW_PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def arithmetic(where: torch.device, precision: str) -> torch.autocast:
    """Context in which the network computes with float32, bfloat16 or float16."""
    return torch.autocast(where.type, LOW_PRECISION.get(precision, torch.bfloat16), enabled=precision in LOW_PRECISION)


def build(network: Network, channels: int, classes: int) -> UNet:
    """A U-Net with new weights, on the CPU."""
    options = network.model_dump()
    net = UNet(channels, classes, **options)
    # The stubs of torch do not know memory formats of modules.
    return net.to(memory_format=CHANNELS_LAST[network.dimensions])  # type: ignore[call-overload]


def channels_last(tiles: torch.Tensor) -> torch.Tensor:
    """Tiles (n, c, [z,] y, x) with their channels side by side in memory."""
    return tiles.contiguous(memory_format=CHANNELS_LAST[tiles.dim() - 2])


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
    return _tensors_and_state(path, _bytes_of(path))


def checkpoint_state(path: Path) -> dict[str, Any]:
    """State of a checkpoint without its tensors; empty where there is none that can be read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {}).get("state", "{}"))
    except (OSError, safetensors.SafetensorError, ValueError):
        return {}
    return dict(state)


def _is_made_here(folder: Path) -> bool:
    """Whether a model lies where the step train makes those of a configuration."""
    return folder.parent.name == "train" and (folder.parents[1] / FOLDER).is_dir()


def _repair(path: Path) -> str:
    """What to do about a file of a model that is not whole: only a run that has made it can make it again."""
    return mending(path.parent) if _is_made_here(path.parent) else "put a whole one in its place"


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; {_repair(path)}") from None


def _tensors_and_state(path: Path, data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What the bytes of a checkpoint hold."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header.get("__metadata__", {}).get("state", "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {_repair(path)}") from error


class SavedModel(NamedTuple):
    """What lay in a model folder at one time: its files are read once, so that the digest is that of what is used."""

    folder: Path
    description: dict[str, Any]
    weights: bytes
    digest: str

    def tensors(self) -> dict[str, torch.Tensor]:
        """The best weights, by their names in the network."""
        return _tensors_and_state(self.folder / WEIGHTS, self.weights)[0]

    def network(self, precision: str = "float32") -> UNet:
        """The network with its best weights, ready to be applied, with weights of this type."""
        keep_freed_memory()
        net = build(
            Network.model_validate(self.description["network"]),
            self.description["channels"],
            len(self.description["classes"]) + 1,
        )
        try:
            net.load_state_dict(self.tensors())
        except RuntimeError as error:
            path = self.folder / WEIGHTS
            raise UserError(f"{path} does not fit {DESCRIPTION} ({error}); {_repair(path)}") from None
        return net.eval().to(device(), getattr(torch, precision))


def read_model(folder: Path, key: str | None = None) -> SavedModel:
    """Read the files of a model.

    Parameters
    ----------
    folder : Path
        With ``model.json`` and ``best.safetensors``.
    key : str, optional
        What of the configuration names it, where it is none that this run makes.

    Raises
    ------
    UserError
        If a file is missing or damaged; with `key` it says what is wrong there, as `check_models` does before a run.
    """
    if key and (wrong := model_problem(folder)):
        raise UserError(f"{key}: {wrong}")
    weights, text = _bytes_of(folder / WEIGHTS), _bytes_of(folder / DESCRIPTION)
    try:
        description = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{folder / DESCRIPTION} is not valid JSON ({error}); {_repair(folder / DESCRIPTION)}"
        ) from None
    return SavedModel(folder, description, weights, _hash(weights, text))


def _hash(weights: bytes, description: bytes) -> str:
    hasher = hashlib.blake2b(weights, digest_size=10)
    hasher.update(_without_measured(description))
    return hasher.hexdigest()


def _without_measured(description: bytes) -> bytes:
    """A description without the arithmetic, whose reason is a measurement: the same training is to have one digest."""
    with contextlib.suppress(ValueError):
        described = json.loads(description)
        if isinstance(described, dict) and described.pop("precision", None) is not None:
            return json.dumps(described, indent=1, ensure_ascii=False).encode()
    return description


def weights_digest(folder: Path) -> str:
    """Hash of a model's best weights and of its description, but for what says in which arithmetic it was trained."""
    return _hash(_bytes_of(folder / WEIGHTS), _bytes_of(folder / DESCRIPTION))


class TooLarge(MemoryError):
    """The tiles do not fit the memory of the device."""


def network_function(
    net: UNet,
    offset: list[float],
    scale: list[float],
    precision: str,
    average: str = "none",
    dtype: str = "float32",
    others: Sequence[UNet] = (),
    background: bool = True,
) -> Callable[[np.ndarray], np.ndarray]:
    """Class probabilities of tiles as a function from arrays to arrays: normalise, network, softmax, mean, type.

    All of it is done on the device of the network, so that gray values go there, and what is stored comes back.

    Parameters
    ----------
    net : UNet
        Network in evaluation mode, on its device.
    offset, scale : list of float
        Normalisation of the sample's channels.
    precision : {"float32", "bfloat16", "float16"}
        Arithmetic of the network; softmax and mean are in float32.
    average : {"none", "flips", "dihedral"}
        Mean over the tile alone; its 4 mirror images along y and x; the 8 symmetries of the square: the tile and 7
        rotated or mirrored copies (paper, table 1). In 3D each of these, and each mirrored along z. Tiles pair the same
        pixels in poolings from either end, so that the mean does not depend on them either.
    dtype : {"uint8", "float16", "float32"}
        How probabilities are stored; uint8: 0..255.
    others : sequence of UNet
        Networks of the same shape, as `net` in mode and type: the mean of the probabilities of all is taken, in
        float32.
    background : bool
        Whether the background is among the classes, as the first.

    Returns
    -------
    callable
        Tiles (n, c, y, x) of gray values -> probabilities (n, k, y, x), in 3D with z before y; raises `TooLarge`.
    """
    parameter = next(net.parameters())
    where, half = parameter.device, getattr(torch, precision)
    first = 0 if background else 1
    axes = (1,) * (2 if net.shape.z == NO_POOLING else 3)
    shift, factor = (
        torch.tensor(values, dtype=torch.float32, device=where).view(-1, *axes) for values in (offset, scale)
    )

    def scores_of(image_NCYX: torch.Tensor, network: UNet = net) -> torch.Tensor:
        with arithmetic(where, precision if half != parameter.dtype else "float32"):
            scores: torch.Tensor = network(channels_last(image_NCYX.to(parameter.dtype)))
            return scores

    def probabilities_of(network: UNet, image_NCYX: torch.Tensor) -> torch.Tensor:
        def function(copy: torch.Tensor) -> torch.Tensor:
            return scores_of(copy, network).float().softmax(dim=1)

        return function(image_NCYX) if average == "none" else _mean_over_copies(function, image_NCYX, average)

    def apply(tiles_NCYX: np.ndarray) -> np.ndarray:
        try:
            with torch.inference_mode(), _own_stream(where):
                image = (torch.from_numpy(tiles_NCYX).to(where).float() - shift) * factor
                if others or average != "none":
                    total = probabilities_of(net, image)
                    for network in others:
                        total += probabilities_of(network, image)
                    return _as_type(total.div_(1 + len(others))[:, first:], dtype).cpu().numpy()
                scores = scores_of(image)
                # In rows that fit a CPU's cache this takes a third of the time.
                rows = ROWS_AT_ONCE if where.type == "cpu" else scores.shape[-2]
                parts = [
                    _as_type(part.contiguous().float().softmax(dim=1)[:, first:], dtype)
                    for part in scores.split(rows, dim=-2)
                ]
                return torch.cat(parts, dim=-2).cpu().numpy()
        except torch.OutOfMemoryError:
            raise TooLarge(f"{len(tiles_NCYX)} tiles of {' x '.join(map(str, tiles_NCYX.shape[2:]))} px") from None

    return apply


def _as_type(probability: torch.Tensor, dtype: str) -> torch.Tensor:
    """Probabilities as they are stored; their memory is used again."""
    return probability.mul_(255).round_().to(torch.uint8) if dtype == "uint8" else probability.to(getattr(torch, dtype))


def _mean_over_copies(
    function: Callable[[torch.Tensor], torch.Tensor], image_NCYX: torch.Tensor, average: str
) -> torch.Tensor:
    """Mean of a function's values over mirrored and rotated copies, each turned back."""
    total: torch.Tensor | None = None
    mirrors: list[tuple[int, ...]] = [(), (-2,), (-1,), (-2, -1)]
    if image_NCYX.dim() == 5:
        mirrors += [(-3, *axes) for axes in mirrors]
    symmetries = list(itertools.product((False, True) if average == "dihedral" else (False,), mirrors))
    for swap, axes in symmetries:
        values = function((image_NCYX.transpose(-2, -1) if swap else image_NCYX).flip(axes)).flip(axes)
        values = values.transpose(-2, -1) if swap else values
        total = values.clone() if total is None else total.add_(values)
    assert total is not None
    return total.div_(len(symmetries))


def in_lane(function: Callable[[np.ndarray], np.ndarray], tiles: np.ndarray) -> np.ndarray:
    """Value of a function of tiles, computed in one of the threads that have the device to themselves (`LANES`)."""
    return _lanes().submit(function, tiles).result()


@functools.cache
def _lanes() -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    lanes = min(LANES, threads) if device().type == "cpu" else LANES
    shares = iter([max(1, threads * (n + 1) // lanes - threads * n // lanes) for n in range(lanes)])
    return ThreadPoolExecutor(lanes, "lane", lambda: torch.set_num_threads(next(shares)))


_streams = threading.local()


@contextlib.contextmanager
def _own_stream(where: torch.device) -> Iterator[None]:
    """A stream of work for each thread, so that a GPU copies for one while it computes for another."""
    if where.type != "cuda":
        yield
        return
    if not hasattr(_streams, "own"):
        _streams.own = torch.cuda.Stream(where)
    with torch.cuda.stream(_streams.own):
        yield


def keep_freed_memory() -> None:
    """On a CPU, let the C library keep what one tile freed for the next tile.

    It would give the memory back to the system, and each page would be zeroed again.

    At tiles of 1,500 px this is up to a third of the time (``python -m benchmarks predict``); a step of training frees
    and takes as many.
    """
    if device().type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_MAX, M_TRIM_THRESHOLD
        mallopt(-4, 0)
        mallopt(-1, -1)


# Enough for the folds of a model that is the mean of them.
@functools.lru_cache(maxsize=16)
def load_network(folder: Path, digest: str, precision: str = "float32") -> UNet:
    """Network of a model folder with its best weights, ready to be applied; kept for the next block.

    Parameters
    ----------
    folder : Path
        With ``model.json`` and ``best.safetensors``.
    digest : str
        Of the weights that are asked for (`weights_digest`).
    precision : {"float32", "bfloat16", "float16"}
        Type of its weights.

    Raises
    ------
    UserError
        If other weights lie there, or none.
    """
    model = read_model(folder)
    if model.digest != digest:
        model.tensors()  # damaged ones are told as such
        again = f"run snakemake again, and if it says so again, {_repair(folder / WEIGHTS)}"
        raise UserError(
            f"the model in {folder} is not the one that was asked for (weights {model.digest}, not {digest}): it has "
            f"changed since this run began, or is damaged; {mending(folder) if _is_made_here(folder) else again}"
        )
    return model.network(precision)
