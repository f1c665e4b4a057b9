"""Step groundtruth: images and annotations in whatever format to one store per data set.

Each sample becomes an image (c z y x) with three label images beside it: ``instances`` (objects, unique in the sample),
``classes`` (0 background, then the data set's classes) and ``ignore`` (1 where nothing is learnt or scored).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.annotations import FORMATS
from unet_core.annotations.classes import UnknownClasses, told
from unet_core.annotations.layer import Layer
from unet_core.blocks import ZYX
from unet_core.config import Annotation, Dataset, Groundtruth
from unet_core.digest import FileHashes, code_digest, digest
from unet_core.engine import Engine
from unet_core.images import convert_image
from unet_core.readers import split_internal
from unet_core.runtime import UserError, write_stamp
from unet_core.samples import Sample
from unet_core.store import LABELS, Spec, begin, details_if_done, finish, remove, remove_others

logger = logging.getLogger(__name__)

TYPES = {"instances": "uint32", "classes": "uint8", "ignore": "uint8"}

# A sample with the hashes of its image and of the annotation files of each source.
Item = tuple[Sample, str, tuple[str, ...]]


class Canvas:
    """Label arrays of one sample while its annotations are painted, with a policy for overlaps.

    Parameters
    ----------
    shape : tuple of int
        Extent along z, y, x.
    overlaps : {"error", "later", "smaller", "ignore"}
        What becomes of voxels that belong to several objects.
    """

    def __init__(self, shape: ZYX, overlaps: str) -> None:
        self.instances = np.zeros(shape, np.uint32)
        self.classes = np.zeros(shape, np.uint8)
        self.ignore = np.zeros(shape, np.uint8)
        self.overlapping = 0
        self._overlaps = overlaps
        self._last = 0

    def add(self, layer: Layer, class_number: int) -> None:
        """Paint a layer of objects of one class.

        Raises
        ------
        ValueError
            If overlaps are errors and there are some, or the objects' numbers exceed 2^32 - 1.
        """
        instances, classes, ignore = self.instances.ravel(), self.classes.ravel(), self.ignore.ravel()
        ignore[layer.ignore] = 1
        if not layer.position.size:
            return
        if self._last + int(layer.label.max()) >= 2**32:
            raise ValueError("more than 2^32 - 1 objects, or object numbers that large")
        # The first source keeps the annotator's numbers; later ones count on.
        position, label = layer.position, layer.label + np.uint32(self._last)
        taken = instances[position] > 0
        if taken.any():
            keep = self._resolve(position, label, taken)
            position, label = position[keep], label[keep]
        instances[position] = label
        classes[position] = class_number
        self._last = max(self._last, int(label.max(initial=0)))

    def add_ignored(self, layer: Layer) -> None:
        """Mark the objects of a layer as areas to ignore."""
        self.ignore.ravel()[layer.position] = 1
        self.ignore.ravel()[layer.ignore] = 1

    def clear_ignored(self) -> None:
        """Take away objects' voxels under the ignore mask: nothing may be learnt from them."""
        self.instances[self.ignore > 0] = 0
        self.classes[self.ignore > 0] = 0

    def _resolve(self, position: np.ndarray, label: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Which voxels of a new layer are painted, where others are taken."""
        count = int(taken.sum())
        self.overlapping += count
        if self._overlaps == "error":
            raise ValueError(
                f"{count} voxels belong to several objects; mend the annotation, or set groundtruth.overlaps to later, smaller or ignore"
            )
        if self._overlaps == "ignore":
            self.ignore.ravel()[position[taken]] = 1
            return ~taken
        if self._overlaps == "later":
            return np.ones(position.size, bool)
        resolved = ~taken
        resolved[taken] = _sizes(label[taken], label) < _sizes(self.instances.ravel()[position[taken]], self.instances[self.instances > 0])
        return resolved


def _sizes(labels: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each label stands in another array, which holds them all."""
    # Not bincount: annotators' numbers may be billions.
    numbers, counts = np.unique(among, return_counts=True)
    return counts[np.searchsorted(numbers, labels)]


def convert_groundtruth(cfg: Dataset, policy: Groundtruth, samples: list[Sample], *, store: Path, stamp: Path, engine: Engine) -> None:
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
    hashes = FileHashes(stamp.with_suffix(".files.json"))
    items = [(sample, hashes.of(sample.image), tuple(_hash_all(hashes, files) for files in sample.annotations)) for sample in samples]
    hashes.save()
    entries = {item[0].name: entry for item in items if (entry := entry_if_done(item, cfg, policy, store))}
    waiting = [item for item in items if item[0].name not in entries]
    convert = functools.partial(_convert_or_tell, cfg=cfg, policy=policy, store=store)
    converted, problems = [], {}
    for item, (entry, parts, problem) in engine.run(convert, waiting, len(waiting), "groundtruth"):
        entries[item[0].name] = entry
        converted += parts
        if problem is not None:
            problems[item[0].name] = problem
    if problems:
        listed = "\n".join(f"  - {line}" for line in told(problems, cfg.classes))
        raise UserError(f"{len(problems)} of {len(samples)} samples cannot be converted:\n{listed}")
    logger.info(
        "groundtruth: %d samples, %d images and %d annotations converted, %d removed",
        len(samples),
        converted.count("image"),
        converted.count("labels"),
        len(redone),
    )
    write_stamp(stamp, {"step": "groundtruth", "store": store.name, "classes": cfg.classes, "samples": dict(sorted(entries.items()))})


def _hash_all(hashes: FileHashes, files: tuple[Path, ...]) -> str:
    return digest([hashes.of(split_internal(str(file))[0]) for file in files])


def entry_if_done(item: Item, cfg: Dataset, policy: Groundtruth, store: Path) -> dict[str, Any] | None:
    """Entry of a sample for the stamp if all of it is done for the same content: a look at small files, without Dask."""
    sample, image_content, annotation_content = item
    path, image_digest = store / sample.name, image_digest_of(sample, image_content, cfg)
    details = details_if_done(path, image_digest)
    if details is None:
        return None
    if sample.split == "unannotated":
        return None if (path / "labels").exists() else _entry(sample, image_digest, details["shape"])
    try:
        labels_digest = _labels_digest(sample, annotation_content, cfg, policy, details["shape"])
    except (ValueError, OSError):  # told by the conversion
        return None
    counts = _labels_if_done(path, labels_digest)
    return None if counts is None else _entry(sample, image_digest, details["shape"], labels_digest, counts)


def _convert_or_tell(item: Item, cfg: Dataset, policy: Groundtruth, store: Path) -> tuple[dict[str, Any], list[str], Exception | None]:
    """Entry of a sample for the stamp, or the problem with it."""
    converted: list[str] = []
    try:
        return _convert(item, cfg, policy, store, converted), converted, None
    except UnknownClasses as error:
        return {}, converted, error
    except (ValueError, OSError) as error:
        # Errors of libraries may not travel between processes; their text does.
        return {}, converted, ValueError(str(error))


def _convert(item: Item, cfg: Dataset, policy: Groundtruth, store: Path, converted: list[str]) -> dict[str, Any]:
    sample, image_content, annotation_content = item
    path, image_digest = store / sample.name, image_digest_of(sample, image_content, cfg)
    details = details_if_done(path, image_digest)
    if details is None:
        details = convert_image(sample, cfg, path, image_digest)
        converted.append("image")
    if sample.split == "unannotated":
        # The annotation of this sample was taken away.
        remove(path / "labels")
        return _entry(sample, image_digest, details["shape"])
    labels_digest = _labels_digest(sample, annotation_content, cfg, policy, details["shape"])
    counts = _labels_if_done(path, labels_digest)
    if counts is None:
        counts = _convert_labels(sample, cfg, policy, path, labels_digest, tuple(details["shape"][-3:]))
        converted.append("labels")
    return _entry(sample, image_digest, details["shape"], labels_digest, counts)


def _entry(
    sample: Sample, image_digest: str, shape: list[int], labels_digest: str | None = None, counts: dict[str, Any] | None = None
) -> dict[str, Any]:
    entry = {"split": sample.split, "image": image_digest, "labels": labels_digest, "shape": shape}
    return entry if counts is None else entry | {"objects": counts["objects"]}


def image_digest_of(sample: Sample, content: str, cfg: Dataset) -> str:
    """Digest of the image of a sample in the store, from that of its file."""
    return digest(
        content, sample.internal, sample.page, cfg.axes, cfg.channels, cfg.pixel_size.model_dump(), cfg.in_place, code_digest("groundtruth")
    )


def _labels_digest(sample: Sample, contents: tuple[str, ...], cfg: Dataset, policy: Groundtruth, shape: list[int]) -> str:
    parts = [
        [source.format, source.class_, source.ignore, source.ignore_label, _part_of(sample, source, files, content)]
        for source, files, content in zip(cfg.annotations, sample.annotations, contents, strict=True)
        if files
    ]
    code, pixel_size = code_digest("groundtruth"), cfg.pixel_size.model_dump()
    return digest(shape, parts, cfg.classes, sample.page, pixel_size, policy.model_dump(), code)


def _labels_if_done(path: Path, labels_digest: str) -> dict[str, Any] | None:
    """What was counted in the labels of a sample; None unless all of them are done."""
    counts = [details_if_done(path / "labels" / name, labels_digest) for name in LABELS]
    return None if None in counts else counts[0]


def _part_of(sample: Sample, source: Annotation, files: tuple[Path, ...], content: str) -> Any:
    """What of the annotation files concerns one sample: of a table for all images, its own rows."""
    if part_of := getattr(FORMATS[source.format], "content", None):
        return part_of(files, (sample.stem, sample.page))
    return [content, [split_internal(str(file))[1] for file in files]]


def read_annotation(sample: Sample, cfg: Dataset, policy: Groundtruth, shape: ZYX) -> Canvas:
    """Paint all annotations of one sample.

    Parameters
    ----------
    sample : Sample
        With the files that annotate it.
    cfg : Dataset
        Sources of annotations and classes.
    policy : Groundtruth
        What to do with overlaps.
    shape : tuple of int
        Shape of the image along z, y, x.

    Returns
    -------
    Canvas

    Raises
    ------
    ValueError
        If an annotation cannot be read, does not fit its image, or objects overlap and may not; `UnknownClasses` if it
        names classes that the data set does not have.
    """
    canvas = Canvas(shape, policy.overlaps)
    unknown: dict[str, None] = {}
    for source, files in zip(cfg.annotations, sample.annotations, strict=True):
        for layer in _layers(sample, source.format, files, shape, source):
            if source.ignore:
                canvas.add_ignored(layer)
                continue
            name = source.class_ or layer.class_name or cfg.classes[0]
            if name not in cfg.classes:
                unknown[name] = None
            elif not unknown:
                canvas.add(layer, cfg.classes.index(name) + 1)
    if unknown:
        raise UnknownClasses(list(unknown))
    canvas.clear_ignored()
    return canvas


def _layers(sample: Sample, name: str, files: tuple[Path, ...], shape: ZYX, source: Annotation) -> Iterator[Layer]:
    return FORMATS[name].read(files, (sample.stem, sample.page), shape, source) if files else iter(())


def _convert_labels(sample: Sample, cfg: Dataset, policy: Groundtruth, path: Path, labels_digest: str, shape: ZYX) -> dict[str, Any]:
    canvas = read_annotation(sample, cfg, policy, shape)
    if canvas.overlapping:
        logger.warning("%s: %d voxels belong to several objects; policy: %s", sample.name, canvas.overlapping, policy.overlaps)
    details = {
        "objects": int(np.unique(canvas.instances[canvas.instances > 0]).size),
        "overlapping": canvas.overlapping,
        "ignored": int(canvas.ignore.sum()),
    }
    provenance = {
        "step": "groundtruth",
        "files": [str(file) for files in sample.annotations for file in files][:100],
        "config": cfg.model_dump(mode="json", by_alias=True),
    }
    pixel_size = (cfg.pixel_size.z, cfg.pixel_size.y, cfg.pixel_size.x)
    for name in LABELS:
        result = begin(path / "labels" / name, labels_digest, Spec(shape, TYPES[name], "labels", pixel_size=pixel_size), provenance)
        array = getattr(canvas, name)
        for index in result.missing_blocks():
            result.write(index, array[result.grid.box(index).slices], labels_digest)
        finish(path / "labels" / name, labels_digest, details)
    return details
