"""Which images a data set has: files, arrays inside of them and time points, with a name for each."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from unet_core.annotations.classes import merged
from unet_core.annotations.layer import Image
from unet_core.config.datasets import Dataset
from unet_core.groundtruth.absent import missing
from unet_core.images.headers import header_of
from unet_core.images.readers import (
    SUFFIXES,
    arrays_in,
    image_shape,
    is_url,
    set_of,
    split_internal,
    times_of_set,
)
from unet_core.images.urls import VARIABLE, masked, unset_variable, written_secret
from unet_core.patterns import OME, ending_of, fits, has_wildcards, matching, name_without_ending, nfc

# File systems take names of 255 bytes. The longest that follow from the name of a sample are those of files that are
# not in their place yet, as `.NAME.parquet.` with 32 digits and `.partial`.
MAX_NAME_BYTES = 255 - 50


@dataclass(frozen=True)
class Placed:
    """An image of a data set.

    Attributes
    ----------
    path : Path
        The file.
    internal : str
        Path of the array inside it.
    time : int or None
        Position along t; None where the files of the data set have one time point each.
    axes : str
        Of the file.
    stem : str
        What ``{stem}`` stands for in the paths of annotations: the file's name without its ending, or what ``{stem}``
        stood for in the path of the images; with `internal` where several arrays of the file are images.
    name : str
        The stem; with folders where several images have the same, and with the time point.
    file_name : str
        What its file is called among those of the data set: the same for all images of a file or of a set of files.
    own_file : bool
        Whether the time point has a file of its own, which then has the name of the sample.
    header : str
        Axes as its file has them, where the configuration says that y, x and z are in an unusual order.
    """

    path: Path
    internal: str
    time: int | None
    axes: str
    stem: str
    name: str = ""
    file_name: str = ""
    own_file: bool = False
    header: str = ""

    @property
    def as_annotated(self) -> Image:
        """The image as annotations know it."""
        folders = () if is_url(self.path) else self.path.absolute().parent.parts[1:]
        time = None if self.own_file else self.time
        return Image(nfc(self.stem), time, self.axes, folders, nfc(name_without_ending(self.path)), self.header)


def list_images(cfg: Dataset) -> tuple[list[Placed], list[str]]:
    """List the images of a data set.

    Parameters
    ----------
    cfg : Dataset
        The data set's configuration.

    Returns
    -------
    images : list of Placed
        In the order of the configuration; each once, with names that differ.
    problems : list of str
        All that is wrong, one line each.
    """
    found, problems = _arrays(cfg)
    spatial = [axis for axis in cfg.axes or "" if axis in "zyx"]
    if spatial != sorted(spatial, reverse=True):
        found = [replace(one, header=_header(one)) for one in found]
    axes, told = _axes(cfg, found)
    placed, wrong = _times(_once(found, axes), axes)
    problems += [f"images: {line}" for line in [*told, *merged(wrong)]]
    named = _named(list(dict.fromkeys(placed)))
    names: dict[str, list[str]] = defaultdict(list)
    for image in named:
        names[image.name].append(str(image.path))
    twice = {name: paths for name, paths in names.items() if len(paths) > 1}
    if twice:
        problems.append(
            f"images: several images have the same name ({some(list(twice))}; as {some(next(iter(twice.values())))}); "
            "make them data sets of their own, or rename files"
        )
    if long := [name for name in names if len(os.fsencode(name)) > MAX_NAME_BYTES]:
        first = f"{long[0][:40]}... has {len(os.fsencode(long[0]))} bytes"
        problems.append(
            f"images: {len(long)} names of samples are too long ({first}): files are named after them, so that they "
            f"may have {MAX_NAME_BYTES} bytes at most; rename the files"
        )
    return named, problems


def expand(path: str) -> str:
    """Fill in ``~`` and environment variables of a path; those of a URL, which may be secret, stay as they are."""
    if is_url(path):
        return path
    filled = os.path.expandvars(os.path.expanduser(path))
    if not is_url(filled):
        return Path(filled).as_posix()
    # The kind of URL has to be known, and no more of it.
    return VARIABLE.sub(lambda found: os.path.expandvars(found[0]), path, count=1)


def some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    shown = ", ".join(dict.fromkeys(names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _arrays(cfg: Dataset) -> tuple[list[Placed], list[str]]:
    """Files of the data set and the arrays inside them, and all that is wrong."""
    found, problems, unknown = list[Placed](), list[str](), list[str]()
    patterns = [cfg.images] if isinstance(cfg.images, str) else cfg.images
    if not patterns:
        problems.append("images: the list is empty; name files, as in images/*.tif")
    for pattern in patterns:
        path, internal = split_internal(expand(pattern))
        wrong = unset_variable(str(path)) or written_secret(str(path))
        if wrong and (is_url(path) or not path.exists()):
            problems.append(f"images: {wrong}")
            continue
        # What is behind a URL is not asked for here: that may take long, and every job of a cluster would do it.
        files = (
            [(path, None)]
            if is_url(path) or path.exists()
            else [(match.path, match.stem) for match in matching(str(path))]
        )
        if not files:
            problems.append(f"images: no file matches {str(path)!r} (working folder: {Path.cwd()}){_hint(str(path))}")
        if lost := missing(file for file, _ in files):
            problems.append(f"images: {lost}")
            continue
        for file, stem in files:
            if ending_of(file).lower() not in SUFFIXES and not is_url(file) and file.is_dir():
                problems.append(f"images: {file} is a folder; name the files in it, as in {file / '*.tif'}")
            elif ending_of(file).lower() not in SUFFIXES:
                unknown.append(masked(str(file)))
            elif is_url(file) and file.suffix.lower() != ".zarr":
                problems.append(
                    f"images: {masked(str(file))}: behind a URL only OME-Zarr can be read; copy the file here first"
                )
            elif has_wildcards(internal) and not is_url(file):
                present = arrays_in(file)
                # All images of a file that has one are that one.
                inside = [name for name in present or [""] if fits(name, [internal])]
                found += [_placed(file, name, stem) for name in inside]
                if not inside:
                    has = some(present) or "one image"
                    problems.append(f"images: {file}: nothing in it fits {internal!r}; it has {has}")
            else:
                found.append(_placed(file, internal, stem))
    if unknown:
        kinds = ", ".join(dict.fromkeys(ending_of(file).lower() or "none" for file in unknown))
        problems.append(
            f"images: {len(unknown)} files are of an unknown kind ({kinds}; {some(unknown)}); known are "
            f"{', '.join(SUFFIXES)}; write a pattern that leaves them out, as in *.tif"
            if len(unknown) > 1
            else f"images: {unknown[0]}: unknown kind of image; known are {', '.join(SUFFIXES)}"
        )
    return _with_internal(_each_once(found)), problems


def _each_once(found: list[Placed]) -> list[Placed]:
    """Images without those that were found before, by another pattern or through a link to a folder.

    Two names of one file, as a link beside it has, are two images.
    """
    real = {
        folder: folder if is_url(folder) else Path(os.path.realpath(folder))
        for folder in {one.path.parent for one in found}
    }
    once: dict[tuple[Path, str], Placed] = {}
    for one in found:
        once.setdefault((real[one.path.parent] / one.path.name, one.internal.strip("/")), one)
    return list(once.values())


def _placed(file: Path, internal: str, stem: str | None) -> Placed:
    name = stem or name_without_ending(file)
    return Placed(file, internal, None, "", name, file_name=name)


def _hint(pattern: str) -> str:
    """What may have happened to a pattern that finds nothing."""
    folder = Path(pattern)
    while folder != folder.parent and not folder.is_dir() and not matching(str(folder)):
        folder = folder.parent
    if folder == Path(pattern).parent:
        files = [file for file in folder.iterdir() if not file.name.startswith(".")] if folder.is_dir() else []
        kinds = sorted({ending_of(file) for file in files if ending_of(file)})
        return f"; {folder} has files that end with {', '.join(kinds[:10])}" if kinds and folder.name else ""
    absent = Path(pattern).relative_to(folder).parts[0]
    return f"; there is a folder {folder}, but no {absent} in it" if folder.name else ""


def _with_internal(found: list[Placed]) -> list[Placed]:
    """The path inside a file becomes part of the stem where several of its arrays are images."""
    inside: dict[Path, set[str]] = defaultdict(set)
    for one in found:
        inside[one.path].add(one.internal)
    return [
        replace(one, stem="_".join([one.stem, *re.split(r"[/:\\]+", one.internal.strip("/"))]))
        if len(inside[one.path]) > 1 and one.internal
        else one
        for one in found
    ]


def _once(found: list[Placed], axes: str) -> list[Placed]:
    """Each set of files of which each says that it holds the whole (OME-TIFF) once, by the first that was named.

    Where several were named and each is a time point, each is an image of its own.
    """
    once, seen = list[Placed](), set[Path]()
    at: dict[Path, list[Placed]] = defaultdict(list)
    for one in found:
        at[one.path].append(one)
    for one in dict.fromkeys(found):
        if not _may_be_of_a_set(one.path, axes):
            once.append(one)
        elif one.path not in seen:
            members = dict.fromkeys(set_of(one.path))
            if len(members) < 2:  # of one file several arrays may be images
                once.append(one)
                continue
            named = [other for member in members for other in at.get(member, ())]
            times = times_of_set(one.path) if len(named) > 1 else {}
            seen |= set(members)
            if all(other.path in times for other in named):
                first = one.file_name
                once += [replace(other, time=times[other.path], own_file=True, file_name=first) for other in named]
            else:
                once.append(one)
    return list(dict.fromkeys(once))


def _may_be_of_a_set(path: Path, axes: str) -> bool:
    """Whether a file is looked into for other files that it belongs to, which takes time for each of many."""
    return not is_url(path) and (f"{OME}." in path.name.lower() or "_mmstack" in path.name.lower() or "t" in axes)


def _header(one: Placed) -> str:
    """Axes as a file has them, to tell what those of its annotations mean; of none behind a URL, as above."""
    return "" if is_url(one.path) else header_of(one.path, one.internal).axes


def _axes(cfg: Dataset, found: list[Placed]) -> tuple[str, list[str]]:
    """Axes of all files: of the configuration, else of the first file; and what is wrong with these."""
    if cfg.axes or not found:
        return cfg.axes or "yx", []
    first = found[0]
    # Of one file alone, since each job of a cluster would do it; and of none behind a URL, as above.
    axes = "" if is_url(first.path) else header_of(first.path, first.internal).axes
    if axes and "q" not in axes:
        return axes, []
    try:
        shape = () if is_url(first.path) else image_shape(first.path, first.internal)
    except (ValueError, OSError):  # told by the conversion
        return "yx", []
    if len(shape) <= 2:
        return "yx", []
    ways = {3: "zyx for a volume, tyx for a film, cyx or yxc for channels", 4: "czyx, zcyx, tzyx or tcyx"}
    return "yx", [
        f"{first.path} has {len(shape)} axes (shape {shape}) and does not say which; write axes: "
        f"{ways.get(len(shape), 'with a letter of t c z y x for each')}"
    ]


def _times(found: list[Placed], axes: str) -> tuple[list[Placed], list[tuple[str, str]]]:
    """A sample for each time point, where the files of the data set are films; and what is wrong with which file."""
    problems = list[tuple[str, str]]()
    if "t" not in axes:
        return [replace(one, axes=axes) for one in found], problems
    lengths = list[int]()
    for one in found:
        try:
            lengths.append(1 if one.own_file else _length(one.path, one.internal, axes))
        except (ValueError, OSError) as error:
            lengths.append(0)
            problems.append((str(one.path), str(error).removeprefix(f"{one.path}: ")))
    # An axis t of length 1, which some tools always write, makes no film.
    is_film = max(lengths, default=0) > 1
    placed = list[Placed]()
    for one, length in zip(found, lengths, strict=True):
        times = [one.time] if one.own_file or not is_film else range(length)
        placed += [replace(one, axes=axes, time=time) for time in times if length]
    return placed, problems


def _length(file: Path, internal: str, axes: str) -> int:
    """Time points of a file; ValueError if it has other axes."""
    shape = image_shape(file, internal)
    if len(shape) != len(axes):
        raise ValueError(f"has {len(shape)} axes (shape {shape}), but axes says {axes!r}")
    return shape[axes.index("t")]


def _named(placed: list[Placed]) -> list[Placed]:
    """The images with names: their stems, with folders where several have the same."""
    same: dict[tuple[str, int | None], list[Placed]] = defaultdict(list)
    for image in placed:
        same[image.stem, image.time].append(image)
    folders = dict[Placed, tuple[str, ...]]()
    for images in same.values():
        if len(images) > 1:
            folders |= dict(zip(images, _distinct(images), strict=True))
    return [
        replace(
            image,
            name="_".join([*folders.get(image, ()), image.stem])
            + ("" if image.time is None or image.own_file else f"_{image.time:04d}"),
            file_name="_".join([*folders.get(image, ()), image.file_name]),
        )
        for image in placed
    ]


def _distinct(images: list[Placed]) -> Iterable[tuple[str, ...]]:
    """Names of folders of each image, without those that all have in common."""
    parts = [_folders(image.path) for image in images]
    depths = {len(one) for one in parts}
    if len(depths) == 1:
        differ = [len(set(level)) > 1 for level in zip(*parts, strict=True)]
        return [tuple(name for name, tells in zip(one, differ, strict=True) if tells) for one in parts]
    common = len(os.path.commonprefix(parts))
    return [one[common:] for one in parts]


def _folders(path: Path) -> tuple[str, ...]:
    """Names of the folders above a file, the same however its path is written."""
    return path.parent.parts if is_url(path) else Path(os.path.abspath(path.parent)).parts
