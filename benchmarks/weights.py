"""Border weight maps: speed, memory and error, against one distance transform per object.

Speed is measured in memory and from store to store.

Cells are discs of different sizes around jittered points of a grid, cut where they meet, with separation 2, sigma 5,
tolerance 1e-4:

- 1024 x 1024 pixels with 400 cells: all that the step computes, on one core, against the recipe found in most public
  code, one distance transform per object, of which the two smallest values are kept: by stacking and sorting them all
  (3.4 GB), or one after the other. Both with scipy, the latter also with `edt` (extra `bench`). With ``pip install
  --no-deps cellseg-models-pytorch`` also the function of that package, on 512 x 512 pixels with 100 cells: it stacks
  them several times.
- 8192 x 8192 pixels with 1,000 and 32,000 cells in memory, in the blocks of the step, on all cores; the latter also
  from store to store (read, computed, written with their pyramids, Dask included).
- Peak memory from store to store at 0.1 and 4 gigapixels, each in a process of its own; the labels repeat every 4096
  pixels.
- 256 x 512 x 512 voxels with 2,000 objects, in memory.

Goals: 1,000 times the recipe; 20 Mpx/s on 2 cores; cost per pixel within 20 % from 1,000 to 32,000 cells; 80 % of the
rate in memory from store to store; flat memory; 5 Mvoxel/s in 3D; error at most 1e-6 of w0.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zarr
from scipy import ndimage

from benchmarks._memory import peak_mb
from unet_core.blocks import ZYX, Box, Grid
from unet_core.compiled import compiled
from unet_core.config.datasets import Dataset, Weights
from unet_core.engine import local_engine
from unet_core.runtime import write_stamp
from unet_core.store.shards import COMPRESSION_LEVEL, read_part, write_shard
from unet_core.store.store import Spec, begin, finish
from unet_core.weights.distance import separate
from unet_core.weights.step import block_of, border_term, halo, make_weights, target_and_border

CFG, ONES = Weights(), (1.0, 1.0, 1.0)
CORES = len(os.sched_getaffinity(0))
PERIOD, REPEATS = 4096, 3
# Read: labels, class, ignore mask; written: border term, target.
BYTES_PER_PIXEL = 4 + 1 + 1 + 4 + 1


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        x_scipy_per_object, x_scipy_running, x_edt_running, x_cellseg_models: how many times faster than one distance
        transform per object, sorted, or with the two smallest kept one after the other; mpx_per_s, mpx_per_s_1000:
        rates in memory at 32,000 and 1,000 cells, cost_ratio_objects: their quotient; store_mpx_per_s,
        frac_store_of_memory: rate from store to store, alone and over that in memory; rss_mb, rss_ratio: peak memory at
        4 gigapixels, alone and over that at 0.1; cpu_ns_per_px, cpu_ns_per_px_1000, cpu_ns_per_px_stored: CPU time of
        the same, of all threads; mvox_per_s_3d, cpu_ns_per_voxel_3d; max_abs_error: against scipy, in units of w0;
        copy_gb_per_s, frac_of_copy: bytes that numpy copies per second (read and written), and the share of it that the
        step's reading and writing would be; first_call_s, later_call_s: first use in a process, with and without
        compiling; chunk_ms, zarr_chunk_ms: writing and reading a chunk of 256 x 256 background pixels with
        `unet_core.store.shards` and with zarr-python.
    """
    figures = _start() | _per_chunk() | _against_peers() | _in_memory_and_stored() | _peak_memory() | _volume()
    figures["frac_of_copy"] = figures["mpx_per_s"] * BYTES_PER_PIXEL / 1e3 / figures["copy_gb_per_s"]
    print(f"\n{'what':<76} {'figure':>9}  goal")
    for key, text, goal in ROWS:
        if key in figures:
            print(f"{text:<76} {figures[key]:>9.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


ROWS = (
    ("x_scipy_per_object", "1024 x 1024, 400 cells: times as fast as one scipy transform per cell, sorted", "1000"),
    ("x_scipy_running", "    as one scipy transform per cell, the two smallest kept", ""),
    ("x_edt_running", "    as one edt transform per cell, the two smallest kept", ""),
    ("x_cellseg_models", "    as cellseg-models-pytorch (512 x 512, 100 cells)", ""),
    ("max_abs_error", "    largest difference from scipy, over w0", "1e-6"),
    ("mpx_per_s", f"8192 x 8192, 32,000 cells, in memory on {CORES} cores (Mpx/s)", "20"),
    ("mpx_per_s_1000", "    with 1,000 cells (Mpx/s)", ""),
    ("cost_ratio_objects", "    cost per pixel of 32,000 cells over 1,000", "0.8 to 1.2"),
    ("store_mpx_per_s", "    from store to store (Mpx/s)", "16"),
    ("frac_store_of_memory", "    over the rate in memory", "0.8"),
    ("cpu_ns_per_px", "    CPU time per pixel in memory, which other work on the machine changes less (ns)", "100"),
    ("cpu_ns_per_px_1000", "        with 1,000 cells (ns)", ""),
    ("cpu_ns_per_px_stored", "        from store to store (ns)", ""),
    ("copy_gb_per_s", "    bytes read and written by numpy's copy on as many cores (GB/s)", ""),
    ("frac_of_copy", "    share of it at 11 bytes per pixel", ""),
    ("rss_mb", "peak memory at 4 gigapixels, from store to store (MB)", ""),
    ("rss_ratio", "    over that at 0.1 gigapixels", "1"),
    ("mvox_per_s_3d", f"256 x 512 x 512, 2,000 objects, in memory on {CORES} cores (Mvoxel/s)", "5"),
    ("cpu_ns_per_voxel_3d", "    CPU time per voxel (ns)", "400"),
    ("chunk_ms", "one chunk of background written and read (ms)", ""),
    ("zarr_chunk_ms", "    by zarr-python (ms)", ""),
    ("first_call_s", "first use in a process that compiles (s)", ""),
    ("later_call_s", "    in one that finds the machine code (s)", ""),
)


def _start() -> dict[str, float]:
    """What a process pays for the first block, of 8 x 8 pixels, once without and once with machine code at hand."""
    code = (
        "import time, numpy as np; from unet_core.weights.step import border_term; "
        "from unet_core.weights.distance import separate; "
        "from unet_core.config.options import Weights; labels = np.zeros((1, 8, 8), np.uint32); "
        "start = time.perf_counter(); "
        "border_term(separate(labels, (1, 1, 1), 2), (1, 1, 1), Weights()); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory(prefix="unet-numba-") as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        runs = [
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
    return dict(zip(("first_call_s", "later_call_s"), (float(run.stdout) for run in runs), strict=True))


def _per_chunk() -> dict[str, float]:
    """Milliseconds for each of the 16 chunks of a block that compresses easily, so that the cost per chunk is left."""
    block, chunk, counts = np.zeros((1, 1024, 1024), np.uint8), (1, 256, 256), (1, 4, 4)
    whole, out = tuple(slice(0, n) for n in block.shape), np.empty_like(block)
    with tempfile.TemporaryDirectory(prefix="unet-chunks-") as folder:
        codec = zarr.codecs.ZstdCodec(level=COMPRESSION_LEVEL, checksum=True)
        array = zarr.create_array(
            folder, shape=block.shape, shards=block.shape, chunks=chunk, dtype="uint8", compressors=codec
        )
        array = array.with_config({"write_empty_chunks": True})

        def by_zarr() -> None:
            array[:] = block
            out[:] = array[:]

        def by_us() -> None:
            write_shard(Path(folder) / "c" / "0" / "0" / "0", block, chunk, counts)
            read_part(Path(folder) / "c" / "0" / "0" / "0", whole, chunk, counts, out)

        times = {name: _best(step, 10 * REPEATS) for name, step in (("zarr_chunk_ms", by_zarr), ("chunk_ms", by_us))}
    return {name: seconds / math.prod(counts) * 1e3 for name, seconds in times.items()}


def _against_peers() -> dict[str, float]:
    labels = cells((1024, 1024), 400)
    apart = separate(labels, ONES, CFG.separation)
    _say(f"{len(np.unique(apart)) - 1} cells on 1024 x 1024, one distance transform each")
    blank = np.zeros(labels.shape, np.uint8)
    ours = _best(lambda: _map(labels, labels > 0, blank, Box((0, 0, 0), labels.shape)), 5 * REPEATS)
    stacked = _timed(lambda: _stacked(apart))[0]
    seconds, expected = _timed(lambda: _one_by_one(apart, ndimage.distance_transform_edt))
    border, above = border_term(apart, ONES, CFG), expected > CFG.tolerance * (1 + 1e-3)
    figures = {"x_scipy_per_object": stacked / ours, "x_scipy_running": seconds / ours}
    figures["max_abs_error"] = float(np.abs(border - expected)[above].max() / CFG.w0)
    if importlib.util.find_spec("edt"):
        import edt

        figures["x_edt_running"] = _timed(lambda: _one_by_one(apart, edt.edt))[0] / ours
    if peer := _cellseg_models():
        small = cells((512, 512), 100)
        apart, blank = separate(small, ONES, CFG.separation), np.zeros(small.shape, np.uint8)
        ours = _best(lambda: _map(small, small > 0, blank, Box((0, 0, 0), small.shape)), 5 * REPEATS)
        figures["x_cellseg_models"] = _timed(lambda: peer.gen_weight_maps(apart[0], CFG.sigma, CFG.w0))[0] / ours
    return figures


def _stacked(labels: np.ndarray) -> np.ndarray:
    """Border term by one distance transform per object, all of them sorted: the recipe of most public code."""
    objects = np.unique(labels[labels > 0])
    distances = np.empty((*labels.shape[1:], len(objects)))
    for number, label in enumerate(objects):
        distances[..., number] = ndimage.distance_transform_edt(labels[0] != label)
    distances.sort(axis=2)
    return CFG.w0 * np.exp(-((distances[..., 0] + distances[..., 1]) ** 2) / (2 * CFG.sigma**2)) * (labels[0] == 0)


def _one_by_one(labels: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Border term by one distance transform per object, with little memory."""
    nearest, second = np.full(labels.shape, np.inf), np.full(labels.shape, np.inf)
    for label in np.unique(labels[labels > 0]):
        distance = transform(labels[0] != label)[None]
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    border = CFG.w0 * np.exp(-((nearest + second) ** 2) / (2 * CFG.sigma**2))
    border[labels > 0] = 0
    return border


def _cellseg_models() -> ModuleType | None:
    """The one module of that package that is needed; the others want more than it."""
    package = importlib.util.find_spec("cellseg_models_pytorch")
    if package is None or package.origin is None:
        return None
    spec = importlib.util.spec_from_file_location(
        "edge_weights", Path(package.origin).parent / "transforms" / "functional" / "edge_weights.py"
    )
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _in_memory_and_stored() -> dict[str, float]:
    """Rates at 8192 x 8192."""
    shape, megapixels = (1, 8192, 8192), 8192 * 8192 / 1e6
    _say("8192 x 8192, in memory and from store to store")
    rates, cpu = {}, {}
    for count in (1000, 32000):
        labels = cells(shape[1:], count)
        rates[count] = megapixels / _best(lambda labels=labels: _all_blocks(labels))
        cpu[count] = _best(lambda labels=labels: _all_blocks(labels), 1, time.process_time)
    with tempfile.TemporaryDirectory(prefix="unet-weights-") as folder:
        truth = _write_labels(Path(folder), labels)
        cpu_before = time.process_time()
        stored = megapixels / min(_store_to_store(Path(folder), truth, f"weights{number}") for number in range(REPEATS))
        cpu_stored = (time.process_time() - cpu_before) / REPEATS
    source, target = np.ones(2**27, np.uint8), np.empty(2**27, np.uint8)
    parts = [slice(n * source.size // CORES, (n + 1) * source.size // CORES) for n in range(CORES)]
    with ThreadPoolExecutor(CORES) as pool:
        copy = _best(lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
    return {
        "mpx_per_s": rates[32000],
        "mpx_per_s_1000": rates[1000],
        "cost_ratio_objects": rates[1000] / rates[32000],
        "store_mpx_per_s": stored,
        "frac_store_of_memory": stored / rates[32000],
        "cpu_ns_per_px": cpu[32000] / megapixels * 1e3,
        "cpu_ns_per_px_1000": cpu[1000] / megapixels * 1e3,
        "cpu_ns_per_px_stored": cpu_stored / megapixels * 1e3,
        "copy_gb_per_s": 2 * source.size / copy / 1e9,
    }


def _peak_memory() -> dict[str, float]:
    peaks = []
    for side in (10240, 65536):
        _say(f"{side} x {side} from store to store")
        with tempfile.TemporaryDirectory(prefix="unet-weights-") as folder:
            arguments = [sys.executable, "-m", "benchmarks.weights", folder, str(side)]
            peaks.append(float(subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout))
    return {"rss_mb": peaks[1], "rss_ratio": peaks[1] / peaks[0]}


def _peak_of(folder: Path, side: int) -> None:
    """Print the peak of memory of the step on labels that repeat themselves, in MB; for a process of its own."""
    truth = _repeat_labels(folder, cells((PERIOD, PERIOD), 8000), (1, side, side))
    _store_to_store(folder, truth, "weights")
    print(peak_mb())


def _volume() -> dict[str, float]:
    shape = (256, 512, 512)
    _say("256 x 512 x 512 with 2,000 objects")
    rng, labels = np.random.default_rng(0), np.zeros(shape, np.uint32)
    grid = np.indices((31, 31, 31)) - 15
    for label in range(1, 2001):
        radius = rng.integers(10, 16)
        ball = (grid**2).sum(axis=0) <= radius**2
        start = [rng.integers(0, n - 31) for n in shape]
        labels[tuple(slice(s, s + 31) for s in start)][ball] = label
    cpu = _best(lambda: _all_blocks(labels), 1, time.process_time)
    rate = math.prod(shape) / 1e6 / _best(lambda: _all_blocks(labels), REPEATS - 1)
    return {"mvox_per_s_3d": rate, "cpu_ns_per_voxel_3d": cpu / math.prod(shape) * 1e9}


def _all_blocks(labels: np.ndarray) -> None:
    """The step's array functions on all blocks of an array in memory, on all cores."""
    classes, ignore = (labels > 0).astype(np.uint8), np.zeros(labels.shape, np.uint8)
    target, border = np.empty(labels.shape, np.uint8), np.empty(labels.shape, np.float32)
    reach = halo(CFG, ONES)

    def block(write: Box) -> None:
        read = write.grow(reach).clip(labels.shape)
        part = _map(labels[read.slices], classes[write.slices], ignore[write.slices], write.within(read))
        target[write.slices], border[write.slices] = part

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(block, Grid(labels.shape, block_of(labels.shape))))


def _map(labels: np.ndarray, classes: np.ndarray, ignore: np.ndarray, inner: Box) -> tuple[np.ndarray, np.ndarray]:
    return target_and_border(labels, classes, ignore, inner, ONES, CFG)


def cells(shape: tuple[int, int], count: int) -> np.ndarray:
    """Discs of different sizes that touch, shape (1, y, x); they go on at the opposite edges of the image."""
    rows = round(math.sqrt(count * shape[0] / shape[1]))
    columns = round(count / rows)
    rng = np.random.default_rng(0)
    labels = np.empty((1, *shape), np.uint32)
    _paint(rng.uniform(0.25, 0.75, (2, rows, columns)), rng.uniform(0.4, 0.6, (rows, columns)), labels)
    return labels


@compiled
def _paint(places, radii, labels):  # type: ignore[no-untyped-def]
    """Give each pixel the label of the nearest point whose disc it is in, looking at the grid cells around it."""
    _, height, width = labels.shape
    _, rows, columns = places.shape
    dy, dx = height / rows, width / columns
    for y in range(height):
        for x in range(width):
            least, found = np.inf, 0
            for i in range(int(y / dy) - 1, int(y / dy) + 2):
                for j in range(int(x / dx) - 1, int(x / dx) + 2):
                    a, b = i % rows, j % columns
                    distance = math.hypot(y / dy - i - places[0, a, b], x / dx - j - places[1, a, b])
                    if distance < min(least, radii[a, b]):
                        least, found = distance, a * columns + b + 1
            labels[0, y, x] = found


def _write_labels(folder: Path, labels: np.ndarray) -> Path:
    """Store of the step groundtruth with one sample."""
    arrays = {"instances": labels, "classes": (labels > 0).astype(np.uint8), "ignore": np.zeros(labels.shape, np.uint8)}
    for name, array in arrays.items():
        path = folder / "groundtruth" / "cells.zarr" / "s" / "labels" / name
        result = begin(path, "labels", Spec(array.shape, array.dtype.name, "labels"), {})
        for index, box in enumerate(result.grid):
            result.write(index, array[box.slices], "labels")
        finish(path, "labels", {})
    stamp = folder / "groundtruth" / "cells.json"
    write_stamp(stamp, {"step": "groundtruth", "samples": {"s": {"split": "train", "labels": "labels"}}})
    return stamp


def _repeat_labels(folder: Path, labels: np.ndarray, shape: ZYX) -> Path:
    """The same for labels that repeat: shards of the first period stand for all.

    So gigapixels take no time and no disk.
    """
    once = _write_labels(folder / "once", labels)
    for name, dtype in (("instances", "uint32"), ("classes", "uint8"), ("ignore", "uint8")):
        part = Path("cells.zarr") / "s" / "labels" / name
        path = folder / "groundtruth" / part
        result = begin(path, "labels", Spec(shape, dtype, "labels"), {})
        for index in range(len(result.grid)):
            _, y, x = result.grid.position(index)
            n = PERIOD // result.grid.block[1]
            for level in range(Spec(shape, dtype, "labels").levels):
                there = path / str(level) / "c" / "0" / str(y) / str(x)
                there.parent.mkdir(parents=True, exist_ok=True)
                os.link(once.parent / part / str(level) / "c" / "0" / str(y % n) / str(x % n), there)
        finish(path, "labels", {})
    stamp = folder / "groundtruth" / "cells.json"
    write_stamp(stamp, {"step": "groundtruth", "samples": {"s": {"split": "train", "labels": "labels"}}})
    return stamp


def _store_to_store(folder: Path, truth: Path, name: str) -> float:
    """Seconds of the step, the start of Dask excepted."""
    arguments: dict[str, Any] = {"groundtruth": truth, "truth_store": truth.with_suffix(".zarr")}
    with _quiet(), local_engine(CORES) as engine:
        store, stamp = folder / name / "cells.zarr", folder / name / "cells.json"
        start = time.perf_counter()
        make_weights(CFG, Dataset(images="none"), **arguments, store=store, stamp=stamp, engine=engine)
        return time.perf_counter() - start


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress lines among those of the benchmark."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        yield


def _timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    start = clock()
    value = function()
    return clock() - start, value


def _best(function: Callable[[], Any], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter) -> float:
    """Shortest of several times: what else the machine does only adds to it."""
    return min(_timed(function, clock)[0] for _ in range(repeats))


def _say(text: str) -> None:
    print(f"weights: {text}", flush=True)


if __name__ == "__main__":
    _peak_of(Path(sys.argv[1]), int(sys.argv[2]))
