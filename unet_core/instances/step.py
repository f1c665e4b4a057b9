"""Step instances: probabilities to objects with labels unique in the whole sample, the same for any block size.

Passes over the blocks, whose findings stand in files of a scratch folder beside the result until it is done. *Describe*
finds the connected components of each block; *join* compares neighbouring blocks on their faces: components that meet
are one object. Holes are found in the same way, as components of what is around the objects. *Split*, an option, looks
at each object as a whole, in its bounding box, wherever block borders lie. *Number* writes the labels, in raster order
of the objects' first voxels, and measures the objects. *Measure* adds what `instances.measure` asks for.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.config.instances import FixedInstances, Instances
from unet_core.digest import digest
from unet_core.engine import Engine, Runner, run_samples
from unet_core.instances.components import (
    Forest,
    build_forest,
    collect_objects,
    merge_components,
    number_objects,
    objects_by_block,
)
from unet_core.instances.measures import Measurements, Measuring, measures_digest
from unet_core.instances.objects import (
    SUFFIXES,
    RowsByLabel,
    box_voxels,
    former_parts,
    measured_type,
    object_table,
    put_together,
    ranges_of,
    with_columns,
    write_tables,
)
from unet_core.instances.passes import MAX_BOX_VOXELS, Work, describe, join, number_block, split_objects
from unet_core.instances.tuning import settled
from unet_core.method import method_of_instances
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.store.pins import Pin, pin
from unet_core.store.removal import also_removed, changed_lately, remove, remove_other_files, remove_others
from unet_core.store.result import made_anew
from unet_core.store.store import Result, Spec, begin, details_if_done, finish, read_attributes

logger = logging.getLogger(__name__)

# Stored value that stands for a probability of 1, for each `predict.dtype`.
VALUE_OF_ONE = {"uint8": 255.0, "float16": 1.0, "float32": 1.0, "mask": None}


def make_instances(
    cfg: Instances,
    *,
    predict: Path,
    probabilities: Path,
    groundtruth: Path,
    store: Path,
    tables: Path,
    stamp: Path,
    engine: Engine,
    tuned: Path | None = None,
) -> None:
    """Make the objects of all segmented samples of a data set; what stands there for the same probabilities stays.

    Parameters
    ----------
    cfg : Instances
        Options of this model.
    predict, probabilities : Path
        Stamp and store of the step predict.
    groundtruth : Path
        Stamp of the data set's groundtruth, beside its store; not read unless gray values are measured.
    store : Path
        ``<results>/instances/<model>/<data set>.zarr``.
    tables : Path
        Folder that gets two tables of objects per sample, ``<sample>.csv`` and ``<sample>.parquet``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where blocks are worked on.
    tuned : Path, optional
        Stamp of the rule tune, which has what is ``auto``.
    """
    cfg = settled(cfg, tuned)
    predicted = read_json(predict)
    classes, unit = predicted["classes"], VALUE_OF_ONE[predicted["dtype"]]
    samples = predicted["samples"]
    images = _images(cfg, groundtruth, samples)
    wanted = {
        name: Wanted(objects_digest(entry["digest"], cfg, classes), measures_digest(cfg, images[name]))
        for name, entry in samples.items()
    }
    done = {name: objects_if_done(name, wanted[name], store, tables) for name in samples}
    # What an unfinished run has found out is of use as long as it is about the same objects.
    useful = {(name, wanted[name].labels) for name, details in done.items() if details is None}

    def of_use(folder: str) -> bool:
        parts = _parts_of(folder)
        return parts is not None and (parts in useful or changed_lately(store / folder))

    removed = len(remove_others(store, set(samples), of_use))
    for suffix in SUFFIXES:
        remove_other_files(tables, suffix, set(samples))
    missing = [name for name in samples if done[name] is None]

    def pinned() -> Iterator[Pending]:
        for name in missing:
            source = pin(probabilities / name, samples[name]["digest"], predict)
            image = pin(groundtruth.with_suffix(".zarr") / name, images[name], groundtruth) if images[name] else None
            yield Pending(name, wanted[name], source, image)

    make = functools.partial(_make_or_find, cfg=cfg, classes=classes, unit=unit, store=store, tables=tables)
    for sample, details in run_samples(engine, make, pinned(), _blocks, len(missing), "instances"):
        done[sample.name] = details
    entries = {
        name: {"split": entry["split"], "digest": wanted[name].labels, "objects": (done[name] or {})["objects"]}
        for name, entry in samples.items()
    }
    logger.info("instances: %d samples, %d made%s", len(samples), len(missing), also_removed(removed))
    write_stamp(stamp, {"step": "instances", "store": store.name, "samples": entries})


def _parts_of(folder: str) -> tuple[str, str] | None:
    """Sample and digest of a folder with what unfinished runs have found out; see `_make_sample`."""
    name, *rest = folder.removeprefix(".").rsplit(".", 3)
    return (name, rest[0]) if len(rest) == 3 and rest[2] == "parts" else None


def _images(cfg: Instances, groundtruth: Path, samples: Iterable[str]) -> dict[str, str]:
    """Digest of the image of each sample; empty where gray values are not measured."""
    if "intensity" not in cfg.measure:
        return dict.fromkeys(samples, "")
    entries = read_json(groundtruth)["samples"]
    if gone := [name for name in samples if name not in entries]:
        raise UserError(
            f"{groundtruth} has no longer {len(gone)} of the samples that were segmented, the first of them {gone[0]}; "
            "run snakemake again"
        )
    return {name: entries[name]["image"] for name in samples}


class Wanted(NamedTuple):
    """Digests of the objects of a sample, and of what was measured of them beside the columns that are always there."""

    labels: str
    measures: str | None


def objects_digest(probabilities: str, cfg: FixedInstances, classes: list[str]) -> str:
    """Digest of the objects of a sample from that of its probabilities."""
    options = cfg.model_dump(exclude={"measure", "best_by"})
    return digest(probabilities, options, classes, method_of_instances(cfg.split, cfg.min_size))


def objects_if_done(name: str, wanted: Wanted, store: Path, tables: Path) -> dict[str, Any] | None:
    """What was counted in a sample if its objects and their tables are done with these digests."""
    details = details_if_done(store / name, wanted.labels)
    if not details or details.get("measures") != wanted.measures:
        return None
    return details if all((tables / f"{name}{suffix}").is_file() for suffix in SUFFIXES) else None


class Pending(NamedTuple):
    """A sample whose objects are to be made: their digests, its probabilities, and its image if that is measured."""

    name: str
    wanted: Wanted
    probabilities: Pin
    image: Pin | None


def _blocks(sample: Pending) -> int:
    return len(sample.probabilities.open().grid)


def _make_or_find(
    sample: Pending,
    runner: Runner,
    cfg: FixedInstances,
    classes: list[str],
    unit: float | None,
    store: Path,
    tables: Path,
) -> dict[str, Any]:
    """Objects of a sample, also where another run was faster."""
    try:
        return _make_sample(sample, cfg, classes, unit, store, tables, runner)
    except FileNotFoundError as error:  # another run has removed what both had found out
        details = objects_if_done(sample.name, sample.wanted, store, tables)
        if details is None:
            raise UserError(
                f"{store / sample.name}: another run removed what this one had found ({error}); run snakemake again"
            ) from None
        return details


def _make_sample(
    sample: Pending,
    cfg: FixedInstances,
    classes: list[str],
    unit: float | None,
    store: Path,
    tables: Path,
    runner: Runner,
) -> dict[str, Any]:
    name, wanted, probabilities, image = sample
    source = probabilities.open()
    block = "x".join(map(str, source.grid.block))
    kept = store / f".{name}.{wanted.labels}.{block}.parts"
    kept.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="run.", dir=kept))
    z, y, x = source.pixel_size
    work = Work(probabilities, store / name, cfg, wanted.labels, (z / x, y / x, 1.0), kept, run)
    done = details_if_done(work.target, wanted.labels)
    parts = former_parts(tables / f"{name}.parquet", done) if done else None
    count = done["objects"] if done else 0
    if parts is None:
        count, rows = _labelled(work, source, runner, len(classes))
        parts = [functools.partial(_part, rows, n, classes, source, unit) for n in ranges_of(count)]
        probabilities.check()
    measured = Measurements(Measuring(work.target, wanted.labels, "shape" in cfg.measure, image), run)
    measured.gather(runner)
    if read_attributes(work.target).get("digest") != wanted.labels:  # the tables are those of another run now
        raise made_anew(work.target)
    files = write_tables(tables / name, (_measured(read(), n, measured) for n, read in enumerate(parts)), run)
    details = {"objects": count, "files": files}
    try:
        finish(store / name, wanted.labels, details | ({"measures": wanted.measures} if wanted.measures else {}))
    except UserError:
        for suffix in SUFFIXES:  # whose objects they describe is open
            (tables / f"{name}{suffix}").unlink(missing_ok=True)
        raise
    remove(kept)
    return {"objects": count}


def _measured(part: Any, number: int, measured: Measurements) -> Any:
    """Table of a range of labels with what `instances.measure` asks for."""
    return with_columns(part, measured.columns(number, part["voxels"].to_numpy(), box_voxels(part)))


def _part(rows: RowsByLabel, number: int, classes: list[str], source: Result, unit: float | None) -> Any:
    """Table of a range of labels, without what `instances.measure` asks for."""
    return object_table(put_together(rows.of(number)), classes, source.shape, source.pixel_size, unit)


def _labelled(work: Work, source: Result, runner: Runner, classes: int) -> tuple[int, RowsByLabel]:
    """Make the labels; gives the number of objects, and what is known of them in each block."""
    objects = _components("objects", work, source, runner)
    if work.cfg.fill != "none":
        _components("holes", work, source, runner)
    split, pieces, groups = _split(objects, work, source, runner)
    _, piece_labels, count = number_objects(objects, work.least, split, pieces, work.run / "objects")
    dtype = "uint32" if count < 2**32 else "uint64"
    spec = Spec(source.shape, dtype, "labels", pixel_size=source.pixel_size, block=source.grid.block)
    _begin(work, spec, source)
    by_block: dict[int, list[tuple[int, np.ndarray]]] = {}
    for group, blocks, part in groups:
        for index in blocks.tolist():
            by_block.setdefault(index, []).append((group, piece_labels[part]))
    items = ((index, by_block.pop(index, [])) for index in range(len(source.grid)))
    found = RowsByLabel(work.run, "measured", measured_type(classes))
    what = f"instances {work.target.name}, number"
    for _, rows in runner.run(functools.partial(number_block, work=work), items, len(source.grid), what):
        found.add(rows)
    return count, found


def _components(kind: str, work: Work, source: Result, runner: Runner) -> Forest:
    """Components of the whole sample: of the foreground ("objects"), or of what is around it ("holes")."""
    grid, folder = source.grid, work.run / kind
    folder.mkdir()
    finding = functools.partial(describe, work=work, kind=kind)
    forest = build_forest(
        runner.run(finding, range(len(grid)), len(grid), f"instances {source.path.name}, describe {kind}"), grid, folder
    )
    joining = functools.partial(join, work=work, kind=kind)
    for index, found in runner.run(joining, range(len(grid)), len(grid), f"instances {source.path.name}, join {kind}"):
        for other, pairs in found:
            merge_components(forest, index, other, pairs)
    collect_objects(forest)
    return forest


def _split(
    objects: Forest, work: Work, source: Result, runner: Runner
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, np.ndarray, slice]]]:
    """Numbers of the objects that fall into pieces; first voxel and size of all pieces; and where they are.

    The latter for each block in which such objects begin: its number, the blocks they reach into, and which pieces are
    theirs.
    """
    split, pieces, groups = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)], []
    if work.cfg.split is not None:
        too_large = 0

        def wanted(rows: np.ndarray) -> np.ndarray:
            nonlocal too_large
            enough = rows["voxels"] >= work.least
            large = np.prod(rows["high"] - rows["low"].astype(np.int64), axis=1) > MAX_BOX_VOXELS
            too_large += int((enough & large).sum())
            return enough & ~large

        splitting = functools.partial(split_objects, work=work)
        items, total = objects_by_block(objects, source.grid, wanted), 0
        for (index, _), found in runner.run(splitting, items, len(source.grid), f"instances {source.path.name}, split"):
            if len(found.split):
                split.append(found.split)
                pieces.append(found.pieces)
                groups.append((index, found.blocks, slice(total, total + len(found.pieces))))
                total += len(found.pieces)
        if too_large:
            logger.warning(
                "%s: %d objects are too large to be split (bounding box above %d voxels)",
                source.path.name,
                too_large,
                MAX_BOX_VOXELS,
            )
    return np.sort(np.concatenate(split)), np.concatenate(pieces), groups


def _begin(work: Work, spec: Spec, source: Result) -> None:
    provenance = {"step": "instances", "config": work.cfg.model_dump(mode="json"), "probabilities": str(source.path)}
    if begin(work.target, work.wanted, spec, provenance).grid != source.grid:
        # Unfinished, from probabilities that were stored in other blocks.
        remove(work.target)
        begin(work.target, work.wanted, spec, provenance)
