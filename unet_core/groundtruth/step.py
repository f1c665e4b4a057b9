"""Step groundtruth: images and annotations in whatever format to one store per data set.

Each sample becomes an image (c z y x) with three label images beside it: ``instances`` (objects, unique in the sample),
``classes`` (0 background, then the data set's classes) and ``ignore`` (1 where nothing is learnt or scored).
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_core.annotations.classes import UnknownClasses, problem_lines
from unet_core.annotations.formats import module_of
from unet_core.config.datasets import Annotation, Dataset
from unet_core.config.options import Groundtruth
from unet_core.digest import FileHashes, digest
from unet_core.engine import Engine
from unet_core.groundtruth.absent import missing
from unet_core.groundtruth.check.lint import Finding, findings_of, statistics_of
from unet_core.groundtruth.check.page import Checked, write_check
from unet_core.groundtruth.check.tally import Tally
from unet_core.groundtruth.contents import Item, Looks, files_with_parts, looks_of, with_contents
from unet_core.groundtruth.images import check_unchanged, convert_image, refresh_reference
from unet_core.groundtruth.label_volumes import open_annotations
from unet_core.groundtruth.samples import Sample
from unet_core.images.readers import companions_of, is_url, split_internal
from unet_core.images.urls import masked
from unet_core.method import method
from unet_core.runtime import UserError, write_stamp
from unet_core.store.removal import remove, remove_others
from unet_core.store.result import Overtaken
from unet_core.store.store import LABELS, Result, Spec, begin, details_if_done, finish, open_image_of

logger = logging.getLogger(__name__)

TYPES = {"instances": "uint32", "classes": "uint8", "ignore": "uint8"}


class Outcome(NamedTuple):
    """What became of a sample.

    Its entry for the stamp, what was counted in it, what was converted, and the problem with it.
    """

    entry: dict[str, Any]
    details: dict[str, Any]
    converted: list[str]
    problem: Exception | None = None


def convert_groundtruth(
    cfg: Dataset, policy: Groundtruth, samples: list[Sample], *, store: Path, stamp: Path, engine: Engine
) -> None:
    """Bring all samples of a data set into the store; what stands there already with the same content stays.

    Parameters
    ----------
    cfg : Dataset
        The data set.
    policy : Groundtruth
        What to do with overlaps.
    samples : list of Sample
        Its samples.
    store : Path
        ``<results>/groundtruth/<data set>.zarr``.
    stamp : Path
        The step's output file.
    engine : Engine
        Where samples are worked on.

    Raises
    ------
    UserError
        One message for the mistakes of all samples; samples without mistakes are kept.
    """
    redone = remove_others(store, {sample.name for sample in samples})
    hashes = hashes_of(stamp)
    hashes.learn(one for sample in samples for one in files_with_parts(sample))
    items, outcomes = list[Item](), dict[str, Outcome]()
    for sample in samples:
        hashed = _hashed(sample, hashes)
        if isinstance(hashed, Outcome):
            outcomes[sample.name] = hashed
        else:
            items.append(hashed)
    hashes.save(forget=True)
    for item in items:
        if done := _outcome_if_done(item, cfg, policy, store):
            refresh_reference(item[0], cfg, store / item[0].name, looks_of(item[0], hashes).image)
            outcomes[item[0].name] = done
    waiting = [(item, looks_of(item[0], hashes)) for item in items if item[0].name not in outcomes]
    convert = functools.partial(_convert, cfg=cfg, policy=policy, store=store)
    for (item, _), outcome in engine.run(convert, waiting, len(waiting), "groundtruth"):
        outcomes[item[0].name] = outcome
    problems = {name: outcome.problem for name, outcome in outcomes.items() if outcome.problem is not None}
    checked = [
        Checked(item[0], item[1], outcomes[item[0].name].entry.get("labels"), outcomes[item[0].name].details)
        for item in items
    ]
    page = write_check(cfg, checked, store, stamp.with_suffix(".check"))
    if problems:
        listed = "\n".join(f"  - {line}" for line in problem_lines(problems, cfg.classes))
        raise UserError(f"{len(problems)} of {len(samples)} samples cannot be converted (pictures: {page}):\n{listed}")
    _tell_overlaps(outcomes, policy)
    converted = [part for outcome in outcomes.values() for part in outcome.converted]
    entries = {name: outcome.entry for name, outcome in outcomes.items()}
    logger.info(
        "groundtruth: %d samples, %d images and %d annotations converted, %d removed",
        len(samples),
        converted.count("image"),
        converted.count("labels"),
        len(redone),
    )
    write_stamp(
        stamp,
        {"step": "groundtruth", "store": store.name, "classes": cfg.classes, "samples": dict(sorted(entries.items()))},
    )


def hashes_of(stamp: Path) -> FileHashes:
    """Hashes of the files of a data set, kept beside its stamp."""
    return FileHashes(stamp.with_suffix(".files.json"), companions_of)


def _tell_overlaps(outcomes: dict[str, Outcome], policy: Groundtruth) -> None:
    """Warn once of voxels that belong to several objects, however many samples have some."""
    counts = {name: outcome.details.get("overlapping", 0) for name, outcome in sorted(outcomes.items())}
    overlapping = [name for name, count in counts.items() if count]
    if overlapping:
        how = f" (up to {policy.overlap_tolerance:g} of the smaller object)" if policy.overlaps == "error" else ""
        logger.warning(
            "groundtruth: %d voxels of %d samples (as %s) belong to several objects; policy: %s%s",
            sum(counts.values()),
            len(overlapping),
            overlapping[0],
            policy.overlaps,
            how,
        )


def _hashed(sample: Sample, hashes: FileHashes) -> Item | Outcome:
    """A sample with the hashes of its files, or what is wrong with one of them."""
    try:
        item = with_contents(sample, hashes.of)
    except Exception as error:  # of many kinds, where what is behind a URL cannot be reached
        if is_url(sample.image):
            text = f"{sample.image}: {masked(str(error) or type(error).__name__, sample.image)}"
        elif isinstance(error, OSError) and error.filename:
            file = Path(error.filename)
            text = missing([file]) or f"{file}: {error.strerror}; mend this and run snakemake again"
        else:
            raise
        return _failed(Outcome({}, {}, []), ValueError(text), [])
    assert item is not None  # only what is not to be read may be unknown
    return item


def entry_if_done(item: Item, cfg: Dataset, policy: Groundtruth, store: Path) -> dict[str, Any] | None:
    """Entry of a sample for the stamp, if all of it is done for the same content.

    Small files alone are looked at, without Dask.
    """
    outcome = _outcome_if_done(item, cfg, policy, store)
    return None if outcome is None else outcome.entry


def _outcome_if_done(item: Item, cfg: Dataset, policy: Groundtruth, store: Path) -> Outcome | None:
    sample, image_content, annotation_content = item
    path, image_digest = store / sample.name, image_digest_of(sample, image_content, cfg)
    details = details_if_done(path, image_digest)
    if details is None:
        return None
    if sample.split == "unannotated":
        done = Outcome(_entry(sample, image_digest, details["shape"]), {"image": _compared_details(details)}, [])
        return None if (path / "labels").exists() else done
    try:
        parts = _parts(sample, annotation_content, cfg)
    except (ValueError, OSError):  # told by the conversion
        return None
    labels_digest = _labels_digest(sample, parts, cfg, policy, details)
    counts = _labels_if_done(path, labels_digest)
    if counts is None:
        return None
    return Outcome(
        _entry(sample, image_digest, details["shape"], labels_digest, counts),
        counts | {"image": _compared_details(details), "annotation": digest(parts)},
        [],
    )


def _convert(hashed: tuple[Item, Looks], cfg: Dataset, policy: Groundtruth, store: Path) -> Outcome:
    """What became of a sample, or the problem with it."""
    (sample, image_content, annotation_content), looks = hashed
    path, image_digest = store / sample.name, image_digest_of(sample, image_content, cfg)
    done = Outcome({}, {}, [])
    try:
        image = details_if_done(path, image_digest)
        if image is None:
            image = convert_image(sample, cfg, path, image_digest, looks.image)
            done = done._replace(converted=["image"])
        else:
            refresh_reference(sample, cfg, path, looks.image)
        done = done._replace(details={"image": _compared_details(image)})
        if sample.split == "unannotated":
            # The annotation of this sample was taken away.
            remove(path / "labels")
            return done._replace(entry=_entry(sample, image_digest, image["shape"]))
        parts = _parts(sample, annotation_content, cfg)
        labels_digest = _labels_digest(sample, parts, cfg, policy, image)
        counts = _labels_if_done(path, labels_digest)
        if counts is None:
            counts = _convert_labels(sample, cfg, policy, store, labels_digest, image, looks)
            if "conflict" in counts:
                return _failed(done, ValueError(counts["conflict"]), counts["findings"])
            done = done._replace(converted=[*done.converted, "labels"])
        return done._replace(
            entry=_entry(sample, image_digest, image["shape"], labels_digest, counts),
            details=done.details | counts | {"annotation": digest(parts)},
        )
    except UnknownClasses as error:
        text = f"names the classes {', '.join(map(repr, error.names))}, but classes says {', '.join(cfg.classes)}"
        return _failed(done, error, [Finding("error", "class", None, text)])
    except (ValueError, OSError) as error:
        if isinstance(error, Overtaken) or _is_of(store, error):
            raise  # as where the disk is full: no fault of the image that was at work
        # Errors of libraries may not travel between processes; their text does.
        return _failed(done, ValueError(str(error)), [Finding("error", "file", None, str(error))])


def _is_of(store: Path, error: Exception) -> bool:
    """Whether an error of the system is one of a file of the results."""
    name = error.filename if isinstance(error, OSError) else None
    return name is not None and Path(os.fsdecode(name)).is_relative_to(store)


def _failed(done: Outcome, problem: Exception, findings: list[Finding]) -> Outcome:
    return done._replace(details=done.details | {"findings": findings}, problem=problem)


def _compared_details(details: dict[str, Any]) -> dict[str, Any]:
    """Those details of an image that are compared between samples, and counted."""
    return {key: details.get(key) for key in ("header", "pixel_size", "shape", "dtype", "absent_chunks")}


def _entry(
    sample: Sample,
    image_digest: str,
    shape: list[int],
    labels_digest: str | None = None,
    counts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    entry = {"split": sample.split, "image": image_digest, "labels": labels_digest, "shape": shape}
    if sample.group not in ("", sample.name):
        entry["group"] = sample.group
    return entry if counts is None else entry | {"objects": counts["objects"]}


def image_digest_of(sample: Sample, content: str, cfg: Dataset) -> str:
    """Digest of the image of a sample in the store, from that of its file."""
    return digest(
        content,
        sample.internal,
        sample.time,
        sample.axes,
        cfg.channels,
        cfg.pixel_size.model_dump(),
        cfg.in_place,
        method("groundtruth"),
    )


def _parts(sample: Sample, contents: tuple[str, ...], cfg: Dataset) -> list[Any]:
    """What of the annotation files concerns a sample, of each source that has some; `_labels_digest` takes it.

    It changes with what was annotated alone, and not with how it is read.
    """
    return [
        _part_of(sample, source, files, content)
        for source, files, content in zip(cfg.annotations, sample.annotations, contents, strict=True)
        if files
    ]


def _labels_digest(sample: Sample, parts: list[Any], cfg: Dataset, policy: Groundtruth, image: dict[str, Any]) -> str:
    sources = [source for source, files in zip(cfg.annotations, sample.annotations, strict=True) if files]
    read = [
        [source.model_dump(exclude={"path", "samples", "replaces"}), part]
        for source, part in zip(sources, parts, strict=True)
    ]
    # Annotations without axes of their own have those of the image; only unusual ones make others of the same values.
    order = [axis for axis in sample.axes if axis in "tzyx"]
    unusual = [] if order == sorted(order, key="tzyx".index) else [order]
    code = method("groundtruth")
    return digest(
        image["shape"], read, cfg.classes, sample.time, image["pixel_size"], policy.model_dump(), code, *unusual
    )


def _labels_if_done(path: Path, labels_digest: str) -> dict[str, Any] | None:
    """What was counted in the labels of a sample; None unless all of them are done."""
    counts = [details_if_done(path / "labels" / name, labels_digest) for name in LABELS]
    return None if None in counts else counts[0]


def _part_of(sample: Sample, source: Annotation, files: tuple[Path, ...], content: str) -> Any:
    """What of the annotation files concerns one sample: of a table for all images, its own rows."""
    if part_of := getattr(module_of(source.format), "content", None):
        return part_of(files, sample.annotated)
    return [content, [split_internal(str(file))[1] for file in files]]


def _convert_labels(
    sample: Sample,
    cfg: Dataset,
    policy: Groundtruth,
    store: Path,
    labels_digest: str,
    image: dict[str, Any],
    looks: Looks,
) -> dict[str, Any]:
    """Paint, check and store the labels of a sample.

    Returns
    -------
    dict
        What was counted, findings and statistics. Where objects overlap and may not, nothing is stored, and there are
        findings and ``conflict``, a message about it.
    """
    z, y, x = image["shape"][1:]
    specs = [Spec((z, y, x), TYPES[name], "labels", pixel_size=tuple(image["pixel_size"])) for name in LABELS]
    with open_annotations(sample, cfg, policy.overlaps, (z, y, x), policy.overlap_tolerance) as annotations:
        canvas, tally, results = annotations.canvas, Tally((z, y, x)), list[Result]()
        conflict = canvas.conflict() if canvas else None
        if conflict is None:
            provenance = _provenance(sample, cfg)
            results = [
                begin(store / sample.name / "labels" / name, labels_digest, spec, provenance)
                for name, spec in zip(LABELS, specs, strict=True)
            ]
        for piece in annotations.pieces(specs[0].grid):
            painted = piece.canvas
            tally.add(piece.box, painted.instances, painted.ignore, piece.inner, painted.classes)
            for array, result in zip(painted.stored(), results, strict=False):
                if not result.has_block(piece.number):
                    result.write(piece.number, array, labels_digest)
        gray = open_image_of(store, sample.name).read(annotations.window)[0, 0]
        seen, counted = annotations.paint(annotations.window), tally.counts()
    labels, ignore = seen.instances[0], seen.ignore[0]
    check_unchanged(looks.annotations)
    findings = findings_of(counted, (z, y, x), labels, gray, canvas, tally.background)
    if conflict is not None:
        return {"findings": findings, "conflict": conflict}
    if canvas is None:
        logger.info("groundtruth: %s is large: taken in pieces, not looked at for parts and holes", sample.name)
    statistics = statistics_of(counted, z * y * x - tally.ignored, labels, ignore, gray)
    counts = {
        "objects": statistics["objects"],
        "overlapping": canvas.overlapping if canvas else 0,
        "ignored": tally.ignored,
        "class_objects": _by_class(cfg, tally.class_objects()),
        "class_voxels": _by_class(cfg, tally.class_voxels),
    }
    more = {"findings": findings, "statistics": statistics}
    for name in LABELS:
        finish(store / sample.name / "labels" / name, labels_digest, counts | more if name == LABELS[0] else counts)
    return counts | more


def _by_class(cfg: Dataset, counts: np.ndarray) -> dict[str, int]:
    """Counts by the names of the classes, from those by number; 0 is the background."""
    return {name: int(counts[number]) for number, name in enumerate(cfg.classes, start=1)}


def _provenance(sample: Sample, cfg: Dataset) -> dict[str, Any]:
    return {
        "step": "groundtruth",
        "files": [str(file) for files in sample.annotations for file in files][:100],
        "config": cfg.model_dump(mode="json", by_alias=True),
    }
