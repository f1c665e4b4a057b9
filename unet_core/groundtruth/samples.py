"""Which samples a data set has, which are annotated, and to which split they belong: from names, before any work.

Nothing here reads pixels, so that mistakes are found when the workflow is parsed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image
from unet_core.config.datasets import ConfigError, Dataset, Split
from unet_core.config.folds import DIVIDED_SPLITS, divide_into_folds
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.models import check_models
from unet_core.config.options import Config
from unet_core.groundtruth.absent import missing
from unet_core.groundtruth.listing import Placed, expand, list_images, some
from unet_core.images.readers import is_url, split_internal
from unet_core.images.source import NotInstalledError
from unet_core.images.urls import unset_variable, written_secret
from unet_core.patterns import fits, matching, names_first, nfc, on_disk

__all__ = ["Sample", "check_data", "expand", "find_samples", "split_of"]

# Files of a source for each image by its position, annotations of no image, and why the source cannot be used.
Matched = tuple[dict[int, tuple[Path, ...]] | None, list[str], str | None]


@dataclass(frozen=True)
class Sample:
    """One image or volume of a data set.

    Attributes
    ----------
    name : str
        File name without its ending; with the path inside the file, folders and the number of the time point where
        these tell samples apart.
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
    annotated : Image
        The image as its annotations know it.
    group : str
        Samples of the same group are never in different splits by chance.
    """

    name: str
    image: Path
    internal: str
    time: int | None
    annotations: tuple[tuple[Path, ...], ...]
    split: str
    axes: str = "yx"
    annotated: Image = Image("")
    group: str = ""

    @property
    def stem(self) -> str:
        """What ``{stem}`` stands for in the paths of its annotations."""
        return self.annotated.stem or self.image.stem


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
    try:
        images, problems = list_images(cfg)
    except NotInstalledError as error:
        return [], [f"images: {error}"]
    if problems or not images:
        return [], problems
    problems += _names_of_none(cfg, [image.name for image in images])
    cfg = _names_first(cfg, {image.name for image in images})
    listed, matches = images, [_match(cfg, number, images) for number in range(len(cfg.annotations))]
    masks = _annotations_among(images, matches)
    if masks and len(masks) < len(images):
        images = [image for number, image in enumerate(images) if number not in masks]
        matches = [_match(cfg, number, images) for number in range(len(cfg.annotations))]
    groups, ungrouped = _groups(cfg.split, images)
    if ungrouped:
        problems.append(
            f"split.group: {cfg.split.group!r} fits none of {some(ungrouped)}; it is compared with names of samples, "
            "or, where it has a /, with the ends of their paths"
        )
    matched = [found for found, _, _ in matches]
    problems += [f"annotations.{number}: {wrong}" for number, (_, _, wrong) in enumerate(matches) if wrong]
    problems += _own_images(matched, images)
    if cfg.unmatched == "error":
        problems += _strangers(matches, listed)
        problems += _unannotated(cfg, matched, images)
    sources = [found or {} for found in matched]
    samples = []
    for position, (image, group) in enumerate(zip(images, groups, strict=True)):
        files = _counting(cfg, [source.get(position, ()) for source in sources])
        # Areas to ignore alone say nothing about objects.
        annotated = any(
            part and not (source.ignore or source.region) for part, source in zip(files, cfg.annotations, strict=True)
        )
        split = split_of(image.name, cfg.split, group) if annotated else "unannotated"
        where = (image.path, image.internal, image.time, files, split, image.axes)
        samples.append(Sample(image.name, *where, image.as_annotated, group))
    samples = _at_least_one(cfg.split, samples)
    problems += _split_problems(cfg, samples)
    return sorted(samples, key=lambda sample: sample.name), problems


def _names_first(cfg: Dataset, names: set[str]) -> Dataset:
    """The data set with its patterns for names of samples as `names_first` has them."""
    parts = {part: getattr(cfg.split, part) for part in ("test", "validation")}
    split = {part: names_first(listed, names) for part, listed in parts.items() if isinstance(listed, list)}
    sources = [one.model_copy(update={"samples": names_first(one.samples, names)}) for one in cfg.annotations]
    return cfg.model_copy(update={"split": cfg.split.model_copy(update=split), "annotations": sources})


def _names_of_none(cfg: Dataset, names: list[str]) -> Iterable[str]:
    """Names and patterns of samples that fit no image: misspelt ones would leave samples in other splits."""
    # Where none of a split fits, `_split_problems` tells it.
    lists = {f"split.{part}": getattr(cfg.split, part) for part in ("test", "validation") if cfg.annotations}
    if cfg.unmatched == "error":
        lists |= {f"annotations.{number}.samples": source.samples for number, source in enumerate(cfg.annotations)}
    known = {nfc(name) for name in names}
    for place, listed in lists.items():
        several = listed if isinstance(listed, list) else []
        # Names are looked up, and patterns alone compared with each of them.
        without = [one for one in several if nfc(one) not in known and not any(fits(name, [one]) for name in names)]
        if without and (len(without) < len(several) or not place.startswith("split")):
            yield f"{place}: no image has the name {some(without)}; names are: {some(sorted(names))}"


def _annotations_among(images: list[Placed], matches: list[Matched]) -> set[int]:
    """Positions of images that annotate another image, and thus are none themselves: masks beside their images."""
    own = [_place_of(image.path, image.internal) for image in images]
    owners: dict[str, set[str]] = defaultdict(set)
    for found, _, _ in matches:
        for position, files in (found or {}).items():
            for file in files:
                owners[_place_of(file)].add(own[position])
    return {number for number, place in enumerate(own) if owners.get(place) and place not in owners[place]}


def _own_images(matched: list[dict[int, tuple[Path, ...]] | None], images: list[Placed]) -> Iterable[str]:
    """Annotations that are the image itself."""
    for number, found in enumerate(matched):
        same = {
            str(images[position].path): None
            for position, files in (found or {}).items()
            if _place_of(images[position].path, images[position].internal) in map(_place_of, files)
        }
        if same:
            yield f"annotations.{number}: path finds the images themselves ({some([*same])}); write that of their masks"


def _place_of(path: Path, internal: str = "") -> str:
    """Where an image or annotation is, the same however its path is written."""
    text = f"{path}:{internal}" if internal else str(path)
    return text if is_url(path) else os.path.abspath(text)


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
    refused = _wrong_results(cfg.results)
    found, problems = {}, [f"results: {refused}"] if refused else []
    for name, dataset in cfg.datasets.items():
        found[name], wrong = find_samples(dataset)
        problems += [f"datasets.{name}.{line}" for line in wrong]
    problems += check_models(cfg)
    for name, model in cfg.models.items():
        splits = {sample.split for dataset in model.train_on for sample in found[dataset]}
        if model.folds and all(found[dataset] for dataset in model.train_on):
            try:
                learnt = [s for dataset in model.train_on for s in found[dataset] if s.split in DIVIDED_SPLITS]
                divide_into_folds({sample.name: sample.group for sample in learnt}, model.folds)
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


def _wrong_results(results: str) -> str:
    """What is wrong with the folder of results; empty if nothing is."""
    if is_url(results):
        return f"{results} is a URL, but results must be in a folder; store them there and copy them afterwards"
    return unset_variable(expand(results))


def split_of(name: str, split: Split, group: str | None = None) -> str:
    """Split of an annotated sample: by pattern, else by the hash of its group.

    With hashes, new samples never move old ones.

    Parameters
    ----------
    name : str
        Name of the sample.
    split : Split
        Patterns and shares.
    group : str, optional
        What its hash is made of; default: the name.
    """
    for part in ("test", "validation"):
        patterns = getattr(split, part)
        if isinstance(patterns, list) and fits(name, patterns):
            return part
    share = _place(group or name)
    test = 0.0 if isinstance(split.test, list) else split.test
    validation = 0.0 if isinstance(split.validation, list) else split.validation
    return "test" if share < test else "validation" if share < test + validation else "train"


def _place(group: str) -> float:
    """Where a group lies between 0 and 1, by the hash of its name."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / 2**64


def _at_least_one(split: Split, samples: list[Sample]) -> list[Sample]:
    """The samples, with a group in each split that has a share, where there are groups enough.

    By hash a small data set may get none. Then it is the group whose hash is the smallest of those for training, so
    that it is the same one whatever else is annotated, until the share gets a group by hash.
    """
    for part in ("test", "validation"):
        share, annotated = getattr(split, part), [one for one in samples if one.split != "unannotated"]
        if isinstance(share, list) or not share or any(one.split == part for one in annotated):
            continue
        elsewhere = {one.group for one in annotated if one.split != "train"}
        free = sorted({one.group for one in annotated} - elsewhere, key=_place)
        if len(free) > 1:
            samples = [
                replace(one, split=part) if one.group == free[0] and one.split == "train" else one for one in samples
            ]
    return samples


def _groups(split: Split, images: list[Placed]) -> tuple[list[str], list[str]]:
    """Group of each image, and the names of those that have none."""
    if split.group == "sample":
        return [image.name for image in images], []
    if split.group == "file":
        return [image.file_name for image in images], []
    groups = list[str]()
    ungrouped = list[str]()
    expression = _group_expression(split.group)
    for image in images:
        text = image.path.absolute().as_posix() if "/" in split.group else image.name
        if found := expression.fullmatch(nfc(text)):
            groups.append(found.group("group"))
        else:
            groups.append(image.name)
            ungrouped.append(image.name)
    return groups, ungrouped


def _group_expression(pattern: str) -> re.Pattern[str]:
    """The pattern of groups as a regular expression: for a whole name, or for the end of a path."""
    signs = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{group}": "(?P<group>[^/]+?)"}
    parts = re.split(r"(\*\*|\*|\?|\{group\})", nfc(pattern))
    expression = "".join(signs.get(part, re.escape(part)) for part in parts)
    return re.compile(f"(?:.*/)?{expression}" if "/" in pattern else expression, re.DOTALL)


def _match(cfg: Dataset, number: int, images: list[Placed]) -> Matched:
    """Files of one source of annotations for each image, by the image's position in the list.

    Returns
    -------
    found : dict or None
        None if the source cannot be used.
    strangers : list of str
        Annotations that belong to no image.
    problem : str or None
        Why the source cannot be used.
    """
    source = cfg.annotations[number]
    if wrong := unset_variable(place := expand(source.path)) or written_secret(place):
        return None, [], wrong
    place = place if is_url(place) else on_disk(place)
    try:
        if lost := missing([split_internal(place)[0]]):
            return None, [], lost
        found, strangers = module_of(source.format).find(place, [image.as_annotated for image in images])
        found = {i: files for i, files in found.items() if fits(images[i].name, source.samples)}
        if lost := missing(split_internal(str(file))[0] for files in found.values() for file in files):
            return None, [], lost
    except (ValueError, OSError) as error:
        return None, [], missing(match.path for match in matching(str(split_internal(place)[0]))) or str(error)
    except ImportError as error:
        return None, [], f"{place}: is read by {error.name}, which is not installed here: pip install {error.name}"
    return found, strangers, None


def _strangers(matches: list[Matched], images: list[Placed]) -> Iterable[str]:
    """Annotations without an image, that are neither of another source nor images themselves."""
    known = {str(image.path) for image in images}
    known |= {str(file) for found, _, _ in matches for files in (found or {}).values() for file in files}
    for number, (_, strangers, _) in enumerate(matches):
        if left := [stranger for stranger in strangers if stranger not in known]:
            yield f"annotations.{number}: no image for {some(left)}; add it, or set unmatched: allow"


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
    replaced = {position for _, source, found in asked if source.replaces for position in found}
    for number, source, own in asked:
        # Of corrections there are some.
        if DESCRIPTIONS[source.format].sparse or source.replaces or matched[number] is None:
            continue
        found = anywhere if cfg.sources == "first" else replaced | own.keys()
        wanted = [i for i, image in enumerate(images) if fits(image.name, source.samples)]
        without = [images[i].path.name for i in wanted if i not in found]
        if without:
            place = f"{some(without)} in {expand(source.path)}"
            yield f"annotations.{number}: no annotation for {place}; add it, or set unmatched: allow"


def _counting(cfg: Dataset, files: list[tuple[Path, ...]]) -> tuple[tuple[Path, ...], ...]:
    """Files of each source for one sample, of those that count."""
    objects = [i for i, source in enumerate(cfg.annotations) if files[i] and not (source.ignore or source.region)]
    replacing = [i for i in objects if cfg.annotations[i].replaces]
    counts = {*(replacing or objects)[:1]} if replacing or cfg.sources == "first" else {*objects}
    return tuple(
        part if i in counts or cfg.annotations[i].ignore or cfg.annotations[i].region else ()
        for i, part in enumerate(files)
    )


def _split_problems(cfg: Dataset, samples: list[Sample]) -> Iterable[str]:
    annotated = [sample for sample in samples if sample.split != "unannotated"]
    if cfg.annotations and not annotated:
        yield "annotations: none of the images is annotated"
        return
    names = some([sample.name for sample in annotated])
    groups = list(dict.fromkeys(sample.group for sample in annotated))
    for part in ("test", "validation"):
        wanted = getattr(cfg.split, part)
        if not annotated or not wanted or any(sample.split == part for sample in annotated):
            continue
        if isinstance(wanted, list):
            yield f"split.{part}: no annotated sample matches {wanted}; give names (of: {names}), a share, or 0"
        elif len(groups) < len(annotated):
            yield (
                f"split.{part}: a share of {wanted} is none of {len(groups)} groups of samples ({some(groups)}), which "
                f"are kept together; give names (of: {names}), set split.group to sample, though neighbours look alike "
                "and scores may then be too good, or set it to 0"
            )
        else:
            yield (
                f"split.{part}: a share of {wanted} is none of {len(annotated)} samples; annotate more, give names "
                f"(of: {names}), or set it to 0"
            )
