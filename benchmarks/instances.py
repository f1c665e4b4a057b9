"""Objects from probabilities, block by block: time beside dask-image and cc3d, and memory from 0.1 to 4 gigavoxels.

Objects are smooth random blobs, connected by faces. All work on two threads; cc3d has one.

- labels in memory: 256 x 512 x 512 voxels in 16 blocks of 64 x 256 x 256, from a mask to an array of labels; cc3d gets
  the mask in one piece. The results must be the same.
- store to store: the same volume from stored probabilities. The step instances (labels with pyramid, tables of
  objects); dask-image (labels alone, written by Dask); cc3d in one piece (labels with pyramid, and its statistics of
  objects).
- memory: peak of a process that runs the step instances on 0.13 and on 4.3 gigavoxels, in blocks of 64 x 512 x 512,
  with all that the process has imported. Both hold the same pattern, again and again.

Goals: 20 times as fast as dask-image; at most twice the time of cc3d; memory flat within 10 %.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cc3d
import dask
import numpy as np
from scipy import ndimage

from benchmarks._memory import peak_mb
from unet_core.blocks import Grid
from unet_core.config.instances import Instances
from unet_core.engine import local_engine
from unet_core.instances.components import (
    build_forest,
    collect_objects,
    component_rows,
    contacts,
    faces_of,
    merge_components,
    number_objects,
)
from unet_core.instances.run_lengths import label_mask, measure_run_lengths, paint_run_lengths
from unet_core.instances.step import make_instances
from unet_core.runtime import write_stamp
from unet_core.store.store import Result, Spec, begin, finish

ROOT = Path(__file__).parent.parent
THREADS, REPEATS = 2, 5
SHAPE, BLOCK = (256, 512, 512), (64, 256, 256)
LARGE_BLOCK, SMALL, LARGE = (64, 512, 512), (128, 1024, 1024), (1024, 2048, 2048)


def measure() -> dict[str, float]:
    """Run the benchmark and print its table.

    Returns
    -------
    dict
        x_dask_image, frac_cc3d: labels in memory, how many times as fast as dask-image, and time as a fraction of that
        of cc3d; x_dask_image_store, frac_cc3d_store: the same from store to store; rss_ratio: peak memory at 4.3 over
        that at 0.13 gigavoxels; and the times (medians, in seconds) and memories behind them.
    """
    with tempfile.TemporaryDirectory(prefix="unet-instances-") as temporary:
        folder = Path(temporary)
        figures = _in_memory(folder) | _store_to_store(folder) | _memory(folder)
    figures["x_dask_image"] = figures.get("dask_image_s", np.nan) / figures["ours_s"]
    figures["frac_cc3d"] = figures["ours_s"] / figures["cc3d_s"]
    figures["x_dask_image_store"] = figures.get("dask_image_store_s", np.nan) / figures["ours_store_s"]
    figures["frac_cc3d_store"] = figures["ours_store_s"] / figures["cc3d_store_s"]
    figures["rss_ratio"] = figures["rss_large_mb"] / figures["rss_small_mb"]
    print(f"\n{'what':<72} {'figure':>8}  goal")
    for key, text, goal in ROWS:
        print(f"{text:<72} {figures.get(key, np.nan):>8.3g}  {goal}")
    return {key: float(f"{value:.4g}") for key, value in figures.items() if value == value}


ROWS = (
    ("ours_s", "labels in memory (s)", ""),
    ("dask_image_s", "    dask_image.ndmeasure.label (s)", ""),
    ("cc3d_s", "    cc3d in one piece (s)", ""),
    ("x_dask_image", "    times as fast as dask-image", "20"),
    ("frac_cc3d", "    time / that of cc3d", "2"),
    ("ours_store_s", "store to store, with pyramid and tables (s)", ""),
    ("dask_image_store_s", "    dask-image, labels alone (s)", ""),
    ("cc3d_store_s", "    cc3d in one piece, with pyramid and statistics (s)", ""),
    ("x_dask_image_store", "    times as fast as dask-image", ""),
    ("frac_cc3d_store", "    time / that of cc3d", ""),
    ("rss_small_mb", "peak memory, 0.13 gigavoxels (MB)", ""),
    ("rss_large_mb", "    4.3 gigavoxels (MB)", ""),
    ("mvox_per_s", "    megavoxels per second at 4.3 gigavoxels", ""),
    ("rss_ratio", "    large / small", "1.1"),
)


def label_in_blocks(mask: np.ndarray, block: tuple[int, int, int], folder: Path) -> np.ndarray:
    """Labels of a mask by the functions of the step instances, without its stores."""
    grid = Grid(mask.shape, block)

    def find(index: int):  # type: ignore[no-untyped-def]
        box = grid.box(index)
        run_lengths, count = label_mask(mask[box.slices], "faces")
        found = measure_run_lengths(run_lengths, count, box.shape, np.empty((0, *box.shape), np.uint8))
        return run_lengths, faces_of(run_lengths, box.shape), component_rows(found, box.start, grid.shape)

    result = np.zeros(mask.shape, np.uint32)

    def write(index: int) -> None:
        part = np.zeros(grid.box(index).shape, np.uint32)
        paint_run_lengths(found[index][0], np.concatenate([[0], labels[forest.of_block(index)]]), part)
        result[grid.box(index).slices] = part

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(find, range(len(grid))))
        forest = build_forest(((index, rows) for index, (_, _, rows) in enumerate(found)), grid, folder)
        joined = pool.map(lambda index: contacts(index, grid, lambda n: found[n][1], "faces"), range(len(grid)))
        for index, pairs in enumerate(joined):
            for other, both in pairs:
                merge_components(forest, index, other, both)
        collect_objects(forest)
        labels, _, _ = number_objects(forest, 1, np.empty(0, np.int64), np.empty((0, 2), np.int64), folder)
        list(pool.map(write, range(len(grid))))
    return result


def _pattern() -> np.ndarray:
    """Foreground probability of blobs, as uint8; it goes on where it is repeated."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 256, 256)), 3, mode="wrap")
    return np.rint(255 / (1 + np.exp(-4 * (noise / noise.std() - 1)))).astype(np.uint8)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _medians(works: dict[str, Callable[[], object]], repeats: dict[str, int]) -> dict[str, float]:
    """Median time of each, one after the other in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {key: [] for key in works}
    for turn in range(REPEATS + 1):
        for key, work in works.items():
            if turn <= repeats.get(key, REPEATS):
                seconds = _seconds(work)
                times[key] += [seconds] if turn else []
        print(f"instances: round {turn} of {REPEATS}", flush=True)
    return {key: statistics.median(values) for key, values in times.items()}


def _in_memory(folder: Path) -> dict[str, float]:
    mask = np.tile(_pattern(), [a // b for a, b in zip(SHAPE, (64, 256, 256), strict=True)]) > 127
    one_piece = cc3d.connected_components(mask, connectivity=6, binary_image=True, out_dtype=np.uint32)
    if (label_in_blocks(mask, BLOCK, folder) != one_piece).any():
        sys.exit("the labels differ from those of cc3d")
    print(f"instances: {one_piece.max():,} objects, {mask.mean():.0%} of the voxels", flush=True)
    works: dict[str, Callable[[], object]] = {
        "ours_s": lambda: label_in_blocks(mask, BLOCK, folder),
        "cc3d_s": lambda: cc3d.connected_components(mask, connectivity=6, binary_image=True, out_dtype=np.uint32),
    }
    if importlib.util.find_spec("dask_image"):
        import dask.array as da
        from dask_image.ndmeasure import label

        works["dask_image_s"] = lambda: label(da.from_array(mask, chunks=BLOCK))[0].compute()
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        return _medians(works, {"dask_image_s": 2})


def _store_to_store(folder: Path) -> dict[str, float]:
    _store_probabilities(folder, SHAPE, BLOCK)
    source = folder / "predict.zarr" / "s"

    def ours() -> None:
        shutil.rmtree(folder / "instances.zarr", ignore_errors=True)
        with local_engine(THREADS) as engine:
            _run(folder, engine)

    def one_piece() -> None:
        shutil.rmtree(folder / "cc3d.zarr", ignore_errors=True)
        stored = Result(source).read_all()
        labels = cc3d.connected_components(stored[0] > 127, connectivity=6, binary_image=True, out_dtype=np.uint32)
        cc3d.statistics(labels)
        result = begin(folder / "cc3d.zarr" / "s", "d", Spec(SHAPE, "uint32", "labels", block=BLOCK), {})
        with ThreadPoolExecutor(THREADS) as pool:
            list(
                pool.map(
                    lambda index: result.write(index, labels[result.grid.box(index).slices], "d"),
                    range(len(result.grid)),
                )
            )

    works: dict[str, Callable[[], object]] = {"ours_store_s": ours, "cc3d_store_s": one_piece}
    if importlib.util.find_spec("dask_image"):
        import dask.array as da
        from dask_image.ndmeasure import label

        def with_dask() -> None:
            shutil.rmtree(folder / "dask.zarr", ignore_errors=True)
            foreground = da.from_zarr(source / "0", chunks=(1, *BLOCK))[0]
            label(foreground > 127)[0].astype(np.uint32).to_zarr(folder / "dask.zarr")

        works["dask_image_store_s"] = with_dask
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        return _medians(works, {"dask_image_store_s": 2})


def _memory(folder: Path) -> dict[str, float]:
    figures = {}
    for name, shape in (("small", SMALL), ("large", LARGE)):
        place = folder / name
        _store_probabilities(place, shape, LARGE_BLOCK)
        print(f"instances: the step on {np.prod(shape) / 1e9:.2g} gigavoxels", flush=True)
        code = f"from benchmarks.instances import run_alone; run_alone({str(place)!r})"
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        seconds, figures[f"rss_{name}_mb"] = map(float, said.split())
        figures["mvox_per_s"] = np.prod(shape) / 1e6 / seconds
        shutil.rmtree(place)
    return figures


def run_alone(folder: str) -> None:
    """Run the step and print its seconds and the peak memory of this process in MB."""
    with local_engine(THREADS) as engine:
        seconds = _seconds(lambda: _run(Path(folder), engine))
    print(seconds, peak_mb())


def _run(folder: Path, engine) -> None:  # type: ignore[no-untyped-def]
    make_instances(
        Instances(measure=[]), predict=folder / "predict.json", probabilities=folder / "predict.zarr",
        groundtruth=folder / "groundtruth.json", store=folder / "instances.zarr", tables=folder / "tables",
        stamp=folder / "instances.json", engine=engine,
    )  # fmt: skip


def _store_probabilities(folder: Path, shape: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    """Probabilities of the pattern, as the step predict leaves them; all blocks are copies of the first."""
    path = folder / "predict.zarr" / "s"
    result = begin(path, "p", Spec(shape, "uint8", "image", 1, block=block), {})
    pattern = _pattern()
    first = np.tile(pattern, [a // b for a, b in zip(block, pattern.shape, strict=True)])
    result.write(0, first[None], "p")
    for level in sorted(path.glob("[0-9]")):
        for index in range(1, len(result.grid)):
            copy = level.joinpath("c", "0", *map(str, result.grid.position(index)))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(level / "c" / "0" / "0" / "0" / "0", copy)
    finish(path, "p", {})
    write_stamp(
        folder / "predict.json",
        {"step": "predict", "classes": ["cell"], "dtype": "uint8", "samples": {"s": {"split": "test", "digest": "p"}}},
    )
