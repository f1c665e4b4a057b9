"""Probabilities from images, store to store: beside the network alone, beside MONAI, and memory from 1 to 16 GB.

On two threads in bfloat16, each measurement in a process of its own, in rounds.

- wide network: 16 to 256 channels, depth 4. The network alone, fed with tiles in memory, at the best of the tiles that
  the step tries; the step predict on 64 Mpx from store to store (8192 x 8192 pixels of 8 bits), and on 8 such planes;
  MONAI's sliding window on 16 Mpx in memory (512 pixels, Gaussian, overlap 0.25 and 0.5), with the same weights and
  padded convolutions, as it is run and with the setting of the memory allocator that the step uses.
- narrow network: 4 to 16 channels, depth 2. The network alone, and the step on a volume of 1 GB.
- memory: peak of the process that runs the step on volumes of 1 and of 16 GB, with a network of 2 and 4 channels, depth
  1.
- exact: float32, the step in tiles and blocks against the network on the image in one piece.

Goals: 95 % of the rate of the network alone; 1.5 and 2.5 times that of MONAI; memory flat within 10 %; difference below
1e-5.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from unet_core.blocks import Grid
from unet_core.config.options import Network, Predict
from unet_core.engine import local_engine
from unet_core.network import unet
from unet_core.network.model import build, load_network, save_checkpoint, weights_digest
from unet_core.plan.tiles import prediction_block
from unet_core.predict.calibration import candidate_tiles
from unet_core.predict.step import predict_samples
from unet_core.runtime import write_stamp
from unet_core.store.store import Result, Spec, begin, finish

ROOT = Path(__file__).parent.parent
THREADS, ROUNDS = 2, 3
# Of the network alone: tiles that are tried, the largest first, and seconds for which the best are measured again.
BARE_TILES, SUSTAINED = 6, 8.0
PLANES = 8
WIDE, NARROW, THIN = (Network(depth=depth, width=width, dropout=0.0) for depth, width in ((4, 16), (2, 4), (1, 2)))
PLANE, SMALL, LARGE = (1, 8192, 8192), (64, 4096, 4096), (1024, 4096, 4096)
SIDE, OUTPUT = 4096, 2048


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        frac_bare_forward, frac_bare_forward_long, frac_bare_forward_narrow: rate from store to store over that of the
        network alone; x_monai_025, x_monai_050: how many times as fast as MONAI as it is run, x_monai_025_same,
        x_monai_050_same: with the same allocator; rss_ratio: peak memory at 16 over that at 1 GB; max_abs_diff; and the
        rates (medians, in megapixels per second) and memories behind them.
    """
    with tempfile.TemporaryDirectory(prefix="unet-predict-") as temporary:
        folder = Path(temporary)
        figures = (
            _wide(folder / "wide")
            | _narrow(folder / "narrow")
            | _memory(folder)
            | {"max_abs_diff": _difference(folder / "exact")}
        )
    for key in ("monai_025", "monai_050", "monai_025_same", "monai_050_same"):
        if key in figures:
            figures[f"x_{key}"] = figures["ours"] / figures[key]
    figures["rss_ratio"] = figures["rss_large_mb"] / figures["rss_small_mb"]
    print(f"\n{'what':<72} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<72} {figures.get(key, np.nan):>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("bare", "16 to 256 channels, the network alone (Mpx/s)", ""),
    ("ours", "    store to store, 64 Mpx", ""),
    ("frac_bare_forward", "    share of the network alone", "0.95"),
    ("ours_long", f"    store to store, {PLANES} x 64 Mpx", ""),
    ("frac_bare_forward_long", "    share of the network alone", ""),
    ("monai_025", "    MONAI, overlap 0.25, in memory (Mpx/s)", ""),
    ("x_monai_025", "        ours is so many times as fast", "1.5"),
    ("x_monai_025_same", "        the same allocator", ""),
    ("monai_050", "    MONAI, overlap 0.5 (Mpx/s)", ""),
    ("x_monai_050", "        ours is so many times as fast", "2.5"),
    ("x_monai_050_same", "        the same allocator", ""),
    ("bare_narrow", "4 to 16 channels, the network alone (Mpx/s)", ""),
    ("ours_narrow", "    store to store, 1 GB", ""),
    ("frac_bare_forward_narrow", "    share of the network alone", "0.95"),
    ("rss_small_mb", "peak memory at 1 GB (MB)", ""),
    ("rss_large_mb", "    at 16 GB (MB)", ""),
    ("rss_ratio", "    large / small", "1.1"),
    ("max_abs_diff", "largest difference from one piece, float32", "1e-5"),
)


def _wide(folder: Path) -> dict[str, float]:
    prepare(folder, WIDE, PLANE)
    prepare(folder / "long", WIDE, (PLANES, *PLANE[1:]))
    works = {"bare": "run_bare", "ours": "run_ours", "ours_long": "run_ours"}
    if importlib.util.find_spec("monai"):
        works |= {
            f"monai_{overlap}{same}": f"run_monai_{overlap}{same}"
            for same in ("", "_same")
            for overlap in ("025", "050")
        }
    rates: dict[str, list[float]] = {key: [] for key in works}
    for turn in range(ROUNDS):
        for key, function in works.items():
            rates[key].append(_alone(function, folder / "long" if key == "ours_long" else folder)[0])
            print(f"predict: round {turn + 1} of {ROUNDS}: {key} {rates[key][-1]:.3g} Mpx/s", flush=True)
    shares = {f"frac_bare_forward{which}": _ratio(rates[f"ours{which}"], rates["bare"]) for which in ("", "_long")}
    return {key: statistics.median(values) for key, values in rates.items()} | shares


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios of each round: what is measured one after the other shares the mood of the machine."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _narrow(folder: Path) -> dict[str, float]:
    prepare(folder, NARROW, SMALL)
    bare, ours = [], []
    for turn in range(ROUNDS):
        bare.append(_alone("run_bare", folder)[0])
        ours.append(_alone("run_ours", folder)[0])
        print(f"predict: round {turn + 1} of {ROUNDS}: narrow {bare[-1]:.3g} and {ours[-1]:.3g} Mpx/s", flush=True)
    shutil.rmtree(folder)
    medians = {"bare_narrow": statistics.median(bare), "ours_narrow": statistics.median(ours)}
    return medians | {"frac_bare_forward_narrow": _ratio(ours, bare)}


def _memory(folder: Path) -> dict[str, float]:
    figures = {}
    for name, shape in (("small", SMALL), ("large", LARGE)):
        prepare(folder / name, THIN, shape)
        figures[f"ours_thin_{name}"], figures[f"rss_{name}_mb"] = _alone("run_ours", folder / name)
        print(f"predict: {np.prod(shape) / 1e9:.3g} GB, peak {figures[f'rss_{name}_mb']:.0f} MB", flush=True)
        shutil.rmtree(folder / name)
    return figures


def _difference(folder: Path) -> float:
    """Largest difference of the step from the network on the image in one piece, mirrored at its edges."""
    prepare(folder, WIDE, (1, 1024, 1024), tile=unet.input_size(400, WIDE.depth), block=[1, 512, 512])
    run_ours(str(folder), Predict(dtype="float32"))
    found = Result(folder / "out" / "data.zarr" / "s").read_all()[:, 0]
    image = Result(folder / "data.zarr" / "s").read_all()[0, 0].astype(np.float32) / 255
    halo = unet.halo(WIDE.depth)
    side = unet.input_size(1024, WIDE.depth)
    padded = np.pad(image, (halo, side - 1024 - halo), mode="reflect")
    net = load_network(folder / "model", weights_digest(folder / "model"))
    with torch.inference_mode():
        whole = net(torch.from_numpy(padded)[None, None]).softmax(dim=1)[0, 1:, :1024, :1024].numpy()
    return float(np.abs(found - whole).max())


def _alone(function: str, folder: Path) -> list[float]:
    """Megapixels per second, and peak memory in MB, of one function here in a process of its own."""
    code = f"import benchmarks.predict as b; print(b.{function}({str(folder)!r}), b.peak_mb())"
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    if "monai" not in function or function.endswith("same"):
        environment["MALLOC_ARENA_MAX"] = "1"  # as in the Snakefile
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return [float(word) for word in said.split()[-2:]]


def run_bare(folder: str) -> float:
    """The network alone, at the best tile, by all threads together or by each on a tile of its own."""
    net = load_network(Path(folder) / "model", weights_digest(Path(folder) / "model"), "bfloat16")
    tiles = [tile for tile, _ in candidate_tiles((1, OUTPUT, OUTPUT), unet.input_size(OUTPUT, net.depth), net.shape)]
    rates = {
        (tile, lanes): _forward_rate(net, tile, lanes, 0.5) for tile in tiles[:BARE_TILES] for lanes in (1, THREADS)
    }
    # The best of short times is that of a lucky moment: it is measured again for as long as the step takes.
    return max(_forward_rate(net, *way, seconds=SUSTAINED) for way in sorted(rates, key=lambda way: rates[way])[-2:])


def _forward_rate(net: unet.UNet, tile: int, lanes: int, seconds: float) -> float:
    """Megapixels per second of a network on one and the same tile, from so many threads."""
    count = math.ceil(OUTPUT / unet.output_size(tile, net.depth))

    def calls_per_second(_: int) -> float:
        image = torch.rand(1, 1, tile, tile).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            net(image)
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() < start + seconds:
                net(image)
                calls += 1
        return calls / (time.perf_counter() - start)

    with ThreadPoolExecutor(lanes, initializer=lambda: torch.set_num_threads(THREADS // lanes)) as pool:
        return sum(pool.map(calls_per_second, range(lanes))) * (OUTPUT / count) ** 2 / 1e6


def run_ours(folder: str, cfg: Predict | None = None) -> float:
    """The step predict, store to store."""
    torch.set_num_threads(THREADS)
    place = Path(folder)
    shutil.rmtree(place / "out", ignore_errors=True)
    with local_engine(max(3, THREADS)) as engine:
        start = time.perf_counter()
        predict_samples(
            cfg or Predict(precision="bfloat16"), model=place / "model.json", plans=[place / "plan.json"],
            groundtruth=place / "data.json", images=place / "data.zarr", store=place / "out" / "data.zarr",
            stamp=place / "out" / "data.json", engine=engine,
        )  # fmt: skip
        took = time.perf_counter() - start
    return math.prod(Result(place / "out" / "data.zarr" / "s").shape) / took / 1e6


def run_monai_025(folder: str) -> float:
    """MONAI's sliding window with its defaults."""
    return _monai(folder, 0.25)


def run_monai_050(folder: str) -> float:
    """The same with the overlap that nnU-Net has."""
    return _monai(folder, 0.5)


def run_monai_025_same(folder: str) -> float:
    """As `run_monai_025`, with the allocator of `load_network`."""
    load_network(Path(folder) / "model", weights_digest(Path(folder) / "model"))
    return _monai(folder, 0.25)


def run_monai_050_same(folder: str) -> float:
    """As `run_monai_050`, with the allocator of `load_network`."""
    load_network(Path(folder) / "model", weights_digest(Path(folder) / "model"))
    return _monai(folder, 0.5)


def _monai(folder: str, overlap: float) -> float:
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    net = copy.deepcopy(build(WIDE, 1, 2)).eval().to(torch.bfloat16)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.padding = (1, 1)
    image = torch.rand(1, 1, SIDE, SIDE).to(torch.bfloat16)

    def probabilities(tiles: torch.Tensor) -> torch.Tensor:
        return net(tiles.contiguous(memory_format=torch.channels_last)).float().softmax(dim=1)

    with torch.inference_mode():
        sliding_window_inference(image[..., :600, :600], (512, 512), 1, probabilities, overlap=overlap, mode="gaussian")
        took = _seconds(
            lambda: sliding_window_inference(image, (512, 512), 1, probabilities, overlap=overlap, mode="gaussian")
        )
    return SIDE**2 / took / 1e6


def _seconds(work) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def prepare(
    folder: Path, network: Network, shape: tuple[int, int, int], tile: int | None = None, block: list[int] | None = None
) -> None:
    """A stored image, a random model and a plan; all blocks of the image are links to the first."""
    path = folder / "data.zarr" / "s"
    result = begin(path, "i", Spec(shape, "uint8", "image", 1), {})
    first: Grid = result.grid
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(1, 1, *first.block[1:])), (0, 0, 8, 8), mode="wrap")
    counts = rng.poisson(30 + 60 * np.clip(blobs / blobs.std(), 0, 2), (1, *first.block))
    result.write(0, counts.astype(np.uint8), "i")
    for index in range(1, len(result.grid)):
        for origin, link in zip(result.shards_of(0), result.shards_of(index), strict=True):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(origin)
    finish(path, "i", {})
    write_stamp(folder / "data.json", {"samples": {"s": {"split": "test", "image": "i", "labels": None}}})
    torch.manual_seed(0)
    save_checkpoint(folder / "model" / "best.safetensors", dict(build(network, 1, 2).state_dict()), {})
    write_stamp(folder / "model" / "model.json", {"network": network.model_dump(), "channels": 1, "classes": ["cell"]})
    write_stamp(folder / "model.json", {"model": str(folder / "model"), "weights": weights_digest(folder / "model")})
    tile = tile or unet.input_size(OUTPUT, network.depth)
    plan = {
        "classes": ["cell"],
        "network": network.model_dump(),
        "predict_tile": {"value": tile},
        "predict_block": {"value": block or prediction_block(tile, network)},
        "samples": {"data/s": {"offset": [0.0], "scale": [1 / 255]}},
    }
    write_stamp(folder / "plan.json", plan)
