"""Which samples a data set has, which are annotated, and to which split they belong: from names, before any work.

Nothing here reads pixels, so that mistakes are found when the workflow is parsed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unet_core.annotations.formats import FORMATS
from unet_core.config.datasets import ConfigError, Dataset, Split
from unet_core.config.folds import DIVIDED_SPLITS, divide_into_folds
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.options import Config
from unet_core.digest import FileHashes, digest
from unet_core.images.headers import header_of
from unet_core.images.readers import SUFFIXES, image_shape, is_url, split_internal

# File, internal path, time point and axes of a sample.
Placed = tuple[Path, str, int | None, str]


@dataclass(frozen=True)
class Sample:
    """One image or volume of a data set.

    Attributes
    ----------
    name : str
        File name without its ending; with the number of the time point where a file has several.
    image : Path
        The file.
    internal : str
        Path of the array inside it.
    time : int or None
        Position along t.
    annotations : tuple
        For each source of annotations, in the order of the configuration, the files with this sample's part; empty
        where the source has none.
    split : str
        train, validation, test, or unannotated.
    axes : str
        Of the file: as the configuration says, else as the header of the first file of the data set does.
    """

    name: str
    image: Path
    internal: str
    time: int | None
    annotations: tuple[tuple[Path, ...], ...]
    split: str
    axes: str = "yx"

    @property
    def stem(self) -> str:
        """File name of the image without its ending."""
        return self.image.stem


def find_samples(cfg: Dataset) -> tuple[list[Sample], list[str]]:
    """List the samples of a data set.

    Parameters
    ----------
    cfg : Dataset
        The data set's configuration.

    Returns
    -------
    samples : list of Sample
        In the order of their names.
    problems : list of str
        All that is wrong, one line each.
    """
    images, problems = _images(cfg)
    names = [_name(path, time) for path, _, time, _ in images]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        same = [str(path) for (path, *_), name in zip(images, names, strict=True) if name == twice[0]]
        problems.append(
            f"images: several files have the same name ({_some(twice)}; as {_some(same)}); "
            "make each folder a data set of its own, or rename files"
        )
    if problems or not images:
        return [], problems
    matches = [_match(cfg, number, images) for number in range(len(cfg.annotations))]
    matched = [found for found, _ in matches]
    problems += [f"annotations.{number}: {problem}" for number, (_, wrong) in enumerate(matches) for problem in wrong]
    if cfg.unmatched == "error":
        problems += _unannotated(cfg, matched, images)
    sources = [found or {} for found in matched]
    samples = []
    for position, ((path, internal, time, axes), name) in enumerate(zip(images, names, strict=True)):
        files = _counting(cfg, [source.get(position, ()) for source in sources])
        # Areas to ignore alone say nothing about objects.
        annotated = any(
            part and not (source.ignore or source.region) for part, source in zip(files, cfg.annotations, strict=True)
        )
        split = split_of(name, cfg.split) if annotated else "unannotated"
        samples.append(Sample(name, path, internal, time, files, split, axes))
    problems += _split_problems(cfg, samples)
    return sorted(samples, key=lambda sample: sample.name), problems


def check_data(cfg: Config) -> dict[str, list[Sample]]:
    """Samples of all data sets.

    Returns
    -------
    dict
        Data set -> its samples.

    Raises
    ------
    ConfigError
        One message for all that can be seen to be wrong without reading pixels.
    """
    unset = _unset(expand(cfg.results))
    found, problems = {}, [f"results: {unset}"] if unset else []
    for name, dataset in cfg.datasets.items():
        found[name], wrong = find_samples(dataset)
        problems += [f"datasets.{name}.{line}" for line in wrong]
    for name, model in cfg.models.items():
        bought = expand(model.path or "")
        if unset := _unset(bought):
            problems.append(f"models.{name}.path: {unset}")
        elif model.path and not (Path(bought) / "model.json").is_file():
            problems.append(f"models.{name}.path: {bought} has no model.json; it must be a folder of a trained model")
        splits = {sample.split for dataset in model.train_on for sample in found[dataset]}
        if model.folds and all(found[dataset] for dataset in model.train_on):
            try:
                divide_into_folds(
                    (s.name for dataset in model.train_on for s in found[dataset] if s.split in DIVIDED_SPLITS),
                    model.folds,
                )
            except ValueError as error:
                problems.append(f"models.{name}.folds: {error}")
        elif model.train_on and all(found[dataset] for dataset in model.train_on) and "train" not in splits:
            problems.append(
                f"models.{name}: no training sample in {', '.join(model.train_on)}; "
                "annotate more or lower the shares of split"
            )
    if problems:
        raise ConfigError(
            "the data is not as the configuration says:\n" + "\n".join(f"  - {line}" for line in problems)
        )
    return found


def content_of(samples: list[Sample], cache: Path) -> str:
    """Digest of the names and files of a data set: unchanged when files are only touched.

    Parameters
    ----------
    samples : list of Sample
        Of one data set.
    cache : Path
        Where the hashes of files are remembered. New files of more than 64 MiB count by size and time: they are read in
        the step groundtruth, and not while the workflow is parsed.
    """
    hashes = FileHashes(cache)
    files = {sample.image for sample in samples} | {file for s in samples for part in s.annotations for file in part}
    paths = sorted({split_internal(str(file))[0] for file in files})
    content = digest(
        [[s.name, s.time, s.split] for s in samples], [[str(path), hashes.of(path, limit=2**26)] for path in paths]
    )
    with contextlib.suppress(OSError):  # a folder that cannot be written costs only time
        hashes.save()
    return content


def split_of(name: str, split: Split) -> str:
    """Split of an annotated sample: by pattern, else by the hash of its name.

    With hashes, new samples never move old ones.
    """
    for part in ("test", "validation"):
        patterns = getattr(split, part)
        if isinstance(patterns, list) and _fits(name, patterns):
            return part
    share = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
    test = 0.0 if isinstance(split.test, list) else split.test
    validation = 0.0 if isinstance(split.validation, list) else split.validation
    return "test" if share < test else "validation" if share < test + validation else "train"


def expand(path: str) -> str:
    """Fill in ``~`` and environment variables of a path; a URL stays one."""
    filled = os.path.expandvars(os.path.expanduser(path))
    return filled if is_url(filled) else Path(filled).as_posix()


def _unset(path: str) -> str:
    """What is wrong with an expanded path in which an environment variable is left; empty if there is none."""
    unset = re.search(r"\$\w+|\$\{\w+\}", path)
    return f"the environment variable {unset.group()} in {path!r} is not set" if unset else ""


def _images(cfg: Dataset) -> tuple[list[Placed], list[str]]:
    """File, internal path, time point and axes of each sample, and all that is wrong."""
    axes, placed, problems = cfg.axes or "", list[Placed](), list[str]()
    for pattern in [cfg.images] if isinstance(cfg.images, str) else cfg.images:
        path, internal = split_internal(expand(pattern))
        unset = _unset(str(path))
        if unset and (is_url(path) or not path.exists()):
            problems.append(f"images: {unset}")
            continue
        # What is behind a URL is not asked for here: that may take long, and every job of a cluster would do it.
        files = (
            [path]
            if is_url(path) or path.exists()
            else sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        )
        if not files:
            problems.append(f"images: no file matches {str(path)!r} (working folder: {Path.cwd()})")
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                problems.append(f"images: {file}: unknown kind of image; known are {', '.join(SUFFIXES)}")
            elif is_url(file) and file.suffix.lower() != ".zarr":
                problems.append(f"images: {file}: behind a URL only OME-Zarr can be read; copy the file here first")
            else:
                # Of one file alone, since each job of a cluster would do it; and of none behind a URL, as above.
                told = "" if axes or is_url(file) else header_of(file, internal).axes
                axes = axes or ("" if "q" in told else told) or "yx"
                try:
                    times = range(_times(file, internal, axes)) if "t" in axes else [None]
                except (ValueError, OSError) as error:
                    problems.append(f"images: {error}")
                else:
                    placed += [(file, internal, time, axes) for time in times]
    return list(dict.fromkeys(placed)), problems


def _times(file: Path, internal: str, axes: str) -> int:
    """Time points of a file; ValueError if it has other axes."""
    shape = image_shape(file, internal)
    if len(shape) != len(axes):
        raise ValueError(f"{file} has {len(shape)} axes (shape {shape}), but axes says {axes!r}")
    return shape[axes.index("t")]


def _name(path: Path, time: int | None) -> str:
    return path.stem if time is None else f"{path.stem}_{time:04d}"


def _match(cfg: Dataset, number: int, images: list[Placed]) -> tuple[dict[int, tuple[Path, ...]] | None, list[str]]:
    """Files of one source of annotations for each image, by the image's position in the list, and what is wrong.

    There are no files, but None, if the source cannot be used.
    """
    source = cfg.annotations[number]
    place = expand(source.path)
    if unset := _unset(place):
        return None, [unset]
    try:
        found, strangers = FORMATS[source.format].find(place, [(path.stem, time) for path, _, time, _ in images])
        if source.samples != ["*"]:
            found = {i: files for i, files in found.items() if _fits(_name(images[i][0], images[i][2]), source.samples)}
    except (ValueError, OSError) as error:
        return None, [str(error)]
    if cfg.unmatched == "error" and strangers:
        return found, [f"no image for {_some(strangers)}; add it, or set unmatched: allow"]
    return found, []


def _fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _unannotated(
    cfg: Dataset, matched: list[dict[int, tuple[Path, ...]] | None], images: list[Placed]
) -> Iterable[str]:
    """Images that a source should annotate and does not.

    In the Cell Tracking Challenge and for areas to ignore such images are usual.
    """
    asked = [
        (i, source, matched[i] or {})
        for i, source in enumerate(cfg.annotations)
        if not (source.ignore or source.region)
    ]
    anywhere = {position for _, _, found in asked for position in found}
    for number, source, own in asked:
        if DESCRIPTIONS[source.format].sparse or matched[number] is None:
            continue
        found = anywhere if cfg.sources == "first" else own
        wanted = [i for i, (path, _, time, _) in enumerate(images) if _fits(_name(path, time), source.samples)]
        without = [images[i][0].name for i in wanted if i not in found]
        if without:
            place = expand(source.path)
            yield (
                f"annotations.{number}: no annotation for {_some(without)} in {place}; add it, or set unmatched: allow"
            )


def _counting(cfg: Dataset, files: list[tuple[Path, ...]]) -> tuple[tuple[Path, ...], ...]:
    """Files of each source for one sample, of those that count."""
    objects = [i for i, source in enumerate(cfg.annotations) if files[i] and not (source.ignore or source.region)]
    counts = {*objects[:1]} if cfg.sources == "first" else {*objects}
    return tuple(
        part if i in counts or cfg.annotations[i].ignore or cfg.annotations[i].region else ()
        for i, part in enumerate(files)
    )


def _split_problems(cfg: Dataset, samples: list[Sample]) -> Iterable[str]:
    annotated = [sample for sample in samples if sample.split != "unannotated"]
    if cfg.annotations and not annotated:
        yield "annotations: none of the images is annotated"
        return
    for part in ("test", "validation"):
        wanted = getattr(cfg.split, part)
        if annotated and wanted and not any(sample.split == part for sample in annotated):
            how = (
                f"no annotated sample matches {wanted}"
                if isinstance(wanted, list)
                else f"a share of {wanted} is none of {len(annotated)} samples"
            )
            names = _some([sample.name for sample in annotated])
            yield f"split.{part}: {how}; give names (of: {names}), a larger share, or 0"


def _some(names: list[str]) -> str:
    shown = ", ".join(dict.fromkeys(names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
