"""Step groundtruth: images and annotations in whatever format to one store per data set.

Each sample becomes an image (c z y x) with three label images beside it: ``instances`` (objects, unique in the sample),
``classes`` (0 background, then the data set's classes) and ``ignore`` (1 where nothing is learnt or scored).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.annotations import FORMATS
from unet_core.annotations.classes import UnknownClasses, told
from unet_core.annotations.layer import Layer
from unet_core.blocks import ZYX, Grid
from unet_core.config import Annotation, Dataset, Groundtruth
from unet_core.digest import FileHashes, code_digest, digest
from unet_core.engine import Engine
from unet_core.readers import CZYX, open_image, split_internal, to_czyx
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
        details = _convert_image(sample, cfg, path, image_digest)
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
    return digest(content, sample.internal, sample.page, cfg.axes, cfg.channels, cfg.pixel_size.model_dump(), code_digest("groundtruth"))


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


def _convert_image(sample: Sample, cfg: Dataset, path: Path, image_digest: str) -> dict[str, Any]:
    with open_image(sample.image, sample.internal) as opened:
        try:
            source = to_czyx(opened, cfg.axes, sample.page)
        except ValueError as error:
            raise ValueError(f"{sample.image} {error}") from None
        channels = cfg.channels or list(range(source.shape[0]))
        if max(channels) >= source.shape[0]:
            raise ValueError(f"{sample.image} has {source.shape[0]} channels, but channels says {channels} (they count from 0)")
        shape = source.shape[1:]
        if 0 in shape:
            raise ValueError(f"{sample.image} has no pixels (shape {shape})")
        spec = Spec(
            shape, _stored_type(source.dtype, sample), "image", len(channels), (cfg.pixel_size.z, cfg.pixel_size.y, cfg.pixel_size.x)
        )
        intensities = [Intensities(np.dtype(spec.dtype), math.prod(shape)) for _ in channels]
        _check_range(source, spec.grid, channels, sample)
        provenance = {"step": "groundtruth", "image": str(sample.image), "config": cfg.model_dump(mode="json", by_alias=True)}
        result = begin(path, image_digest, spec, provenance)
        # Statistics need all blocks, so that they are read again after an interruption; writing is what is saved.
        for index in range(len(result.grid)):
            data = source[result.grid.box(index).slices][channels].astype(spec.dtype)
            for channel, statistics in zip(data, intensities, strict=True):
                statistics.add(channel)
            if not result.has_block(index):
                result.write(index, data, image_digest)
    details = {"shape": [len(channels), *shape], "intensities": [statistics.summary() for statistics in intensities]}
    finish(path, image_digest, details)
    return details


def _stored_type(dtype: np.dtype, sample: Sample) -> str:
    """Type in the store: small integers and float32 stay, wider numbers become float32."""
    if dtype.kind == "b":
        return "uint8"
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        return dtype.newbyteorder("=").name
    if dtype.kind in "uif":
        return "float32"
    raise ValueError(f"{sample.image}: pixels of type {dtype}; needed are integers or floating-point numbers")


def _check_range(source: CZYX, grid: Grid, channels: list[int], sample: Sample) -> None:
    """Floating-point numbers must be finite, also as float32."""
    if source.dtype.kind != "f":
        return
    limit = np.finfo(np.float32).max
    bad = sum(int((~(np.abs(source[box.slices][channels]) <= limit)).sum()) for box in grid)
    if bad:
        raise ValueError(f"{sample.image}: {bad} pixels are NaN, infinite or beyond the range of float32; replace them")


class Intensities:
    """Statistics of one channel, gathered block by block.

    Exact for integers of up to 16 bits (a histogram); for floating-point numbers the percentiles are those of at most
    about four million regularly chosen pixels.
    """

    SAMPLED = 2**22

    def __init__(self, dtype: np.dtype, voxels: int) -> None:
        self._integer = dtype.kind in "ui"
        self._offset = int(np.iinfo(dtype).min) if self._integer else 0
        self._histogram = np.zeros(int(np.iinfo(dtype).max) - self._offset + 1 if self._integer else 0, np.int64)
        self._step = max(1, voxels // self.SAMPLED)
        self._values: list[np.ndarray] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Count in the voxels of one block."""
        flat = values.ravel()
        if self._integer:
            self._histogram += np.bincount(flat.astype(np.int64) - self._offset, minlength=self._histogram.size)
        else:
            self._values.append(flat[:: self._step].copy())
            self._count += flat.size
            self._sum += float(flat.sum(dtype=np.float64))
            self._squares += float(np.square(flat, dtype=np.float64).sum())

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, and the percentiles 0, 0.1, 0.5, 1, 2, ... 98, 99, 99.5, 99.9, 100."""
        levels = [0, 0.1, 0.5, *range(1, 100), 99.5, 99.9, 100]
        if self._integer:
            gray = np.arange(self._histogram.size) + self._offset
            count = int(self._histogram.sum())
            mean = float((self._histogram * gray).sum() / count)
            deviation = float(np.sqrt((self._histogram * (gray - mean) ** 2).sum() / count))
            rank = np.searchsorted(np.cumsum(self._histogram), np.array(levels) * (count - 1) / 100, side="right")
            percentiles = gray[np.minimum(rank, gray.size - 1)].astype(float)
        else:
            mean = self._sum / self._count
            deviation = float(np.sqrt(max(0.0, self._squares / self._count - mean**2)))
            percentiles = np.percentile(np.concatenate(self._values), levels)
        return {
            "mean": mean,
            "deviation": deviation,
            "percentiles": {str(level): float(v) for level, v in zip(levels, percentiles, strict=True)},
        }


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
