"""A proposed configuration for a folder of images and annotations: ``python -m unet_core init FOLDER``.

What the files are is told by their names and contents (`unet_core.init.groups`); which annotations belong to which
images is tried with the functions of the pipeline itself (`unet_core.init.trial`), so that what is proposed runs.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from unet_core.config.datasets import ConfigError
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.parse import parse_config
from unet_core.files import write_atomic
from unet_core.groundtruth.samples import check_data
from unet_core.images.headers import Header
from unet_core.init.axes import axes_of
from unet_core.init.groups import IMAGE_WORDS, Found, Group, find_groups
from unet_core.init.paths import below, image_paths, is_for_all, joined, ways
from unet_core.init.sources import Source, sources_of
from unet_core.init.survey import File, walk
from unet_core.init.text import WORDS, config_text, written
from unet_core.init.trial import TEST_WORDS, VALIDATION_WORDS, Trial, attempt
from unet_core.runtime import UserError

# Ways to pair images with annotations that are tried.
MAX_WAYS = 12
# Share of the images that must be annotated for a way to count.
MIN_ANNOTATED = 0.2


def propose(folder: str) -> tuple[dict[str, Trial], list[str]]:
    """Propose data sets for a folder.

    Parameters
    ----------
    folder : str
        The folder, as the user wrote it.

    Returns
    -------
    trials : dict
        Name of each data set -> what is proposed and what came out when it was tried.
    notes : list of str
        What was not understood.

    Raises
    ------
    UserError
        If there is no such folder, or there are no images in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder")
    files, notes = walk(root)
    found = find_groups(root, files)
    images = [group for group in found.groups if group.looks and not group.is_mask and not group.format]
    if not images:
        told = [*notes, *_left(found, found.groups), *_unread(found)]
        raise UserError("\n  ".join([f"{folder}: no images in it; nothing was written", *told]))
    known = {id(group) for group in images}
    annotations = [group for group in found.groups if id(group) not in known]
    text = below(root.resolve(), folder)
    trials: dict[str, Trial] = {}
    others: list[Trial] = []
    for group in images:
        tried = _tried(found, text, files, group, annotations)
        best = tried[0] if tried else _unannotated(found, text, files, group)
        for name, earlier in trials.items():
            shared = best.used and _any_in(best.used, earlier.used)
            if shared and not is_for_all(best.sources[0].keys["format"]):
                best.notes.append(f"has the annotations of {name} too; leave out one of the two if that is not meant")
        trials[_name(group, root.resolve(), trials)] = best
        others += tried[1:]
    used = [one for trial in trials.values() for one in trial.used]
    more = [other for other in others if other.used and not other.problems and not _any_in(other.used, used)]
    also = [
        f"{other.used[0].text} also fits {other.images.text} (format {other.sources[0].keys['format']}): not taken, "
        "since an image has one annotation, and what is taken tells objects apart better or lies nearer"
        for other in more
    ]
    named = [*used, *(one for other in more for one in other.used)]
    left = [group for group in annotations if not _any_in([group], named)]
    return trials, [*notes, *dict.fromkeys(also), *_left(found, left), *_unread(found)]


def _same_names(images: Group, group: Group) -> bool:
    return len({*images.stems} & {*group.stems}) * 2 >= len(group.stems)


def _any_in(some: Iterable[Group], groups: Iterable[Group]) -> bool:
    return bool({id(one) for one in some} & {id(one) for one in groups})


def _tried(found: Found, root: str, files: Sequence[File], images: Group, annotations: Iterable[Group]) -> list[Trial]:
    """Data sets of images with annotations that may belong to them; the best first."""
    trials = []
    sequence = images.files[0].folder
    for names in filter(None, [found.sequences.get(sequence) if None not in images.folder else None]):
        sources = [
            Source({"format": "ctc", "path": joined(root, (*sequence[:-1], name))}, "by the names of its folders")
            for name in sorted(names)
        ]
        trials.append(_new(found, root, files, images, ("", ""), sources, []))
    exact = [
        group
        for group in annotations
        for other in found.groups
        if other is not images and other.looks and not other.is_mask and _same_names(other, group)
    ]
    for way in ways(images, annotations, exact)[:MAX_WAYS]:
        if sources := sources_of(way, root):
            trials.append(_new(found, root, files, images, way.affix, sources, way.groups))
            trials[-1].near = way.near
    tried = [attempt(trial) for trial in trials]
    usable = [
        trial
        for trial in tried
        if trial.annotated
        and (trial.annotated >= MIN_ANNOTATED * trial.samples or trial.sources[0].keys["format"] == "ctc")
    ]
    return sorted(usable, key=lambda trial: trial.rank, reverse=True)


def _new(
    found: Found,
    root: str,
    files: Sequence[File],
    images: Group,
    affix: tuple[str, str],
    sources: list[Source],
    used: list[Group],
) -> Trial:
    """A data set that is not tried yet."""
    paths = image_paths(root, images, files, affix)
    keys = {"images": paths[0] if len(paths) == 1 else paths}
    trial = Trial(images, keys, sources, used=used, why={"images": _looks(images)})
    masks = [look for group in used for look in group.looks]
    axes = axes_of(found.root, images, masks)
    if axes.axes:
        trial.keys["axes"] = axes.axes
        trial.why["axes"] = axes.why
        if axes.unsure:
            trial.unsure["axes"] = axes.unsure
    if axes.channels:
        trial.keys["channels"], trial.why["channels"] = axes.channels, axes.why_channels
    return trial


def _unannotated(found: Found, root: str, files: Sequence[File], images: Group) -> Trial:
    trial = attempt(_new(found, root, files, images, ("", ""), [], []))
    del trial.keys["annotations"]
    trial.unsure["images"] = "no annotations were found for them: they are only segmented"
    return trial


def _looks(images: Group) -> str:
    """What images are, in a few words."""
    shapes = dict.fromkeys("x".join(map(str, look.shape)) for look in images.looks)
    types = dict.fromkeys(f"{look.file_type} of {look.dtype}" for look in images.looks)
    more = f" ({len(shapes)} sizes seen)" if len(shapes) > 1 else ""
    count = f"{len(images.files)} files" if len(images.files) > 1 else "1 file"
    return f"{count}, {', '.join(types)}, {next(iter(shapes))} pixels{more}"


def _name(group: Group, root: Path, taken: Iterable[str]) -> str:
    """Name for a data set: of the nearest folder that says something."""
    common = {*IMAGE_WORDS, *TEST_WORDS, *VALIDATION_WORDS, "train", "training", "data"}
    parts = [part for part in group.folder if part and part.lower() not in common]
    name = parts[-1] if parts else root.name
    if not re.search(r"[^\W\d_]", name):  # a number, as of a sequence
        name = f"{parts[-2] if len(parts) > 1 else root.name}_{name}"
    plain = re.sub(r"[^\w-]+", "_", name).strip("_")
    if not re.search(r"[^\W\d_]", plain) or plain.lower() in WORDS:
        plain = f"images_{plain}".strip("_")
    differs = [part for part in group.folder[:1] if part] + [part for part in group.affix if part]
    more = [re.sub(r"[^\w-]+", "_", part).strip("_") for part in differs]
    names = [plain, *(f"{plain}_{part}" for part in more if part and part != plain)]
    free = [name for name in names if name not in {*taken}]
    return free[0] if free else next(n for n in (f"{plain}_{i}" for i in range(2, 10**6)) if n not in {*taken})


def _left(found: Found, groups: Iterable[Group]) -> list[str]:
    """What was not understood, or belongs to nothing."""
    lines = []
    for group in groups:
        if not group.looks and not group.format:
            continue  # told by what could not be read
        what = f"annotations ({group.format})" if group.format else "masks"
        lines.append(f"{what} that belong to no images: {group.text}")
    if found.unknown:
        names = ", ".join(file.text for file in found.unknown[:5])
        more = f" and {len(found.unknown) - 5} more" if len(found.unknown) > 5 else ""
        files = f"{len(found.unknown)} files were" if len(found.unknown) > 1 else "1 file was"
        lines.append(f"{files} not understood: {names}{more}")
    return lines


def _unread(found: Found) -> list[str]:
    refused = DESCRIPTIONS["cellpose"].refused or ("", "")
    lines = []
    for group in found.groups:
        if all(name.endswith("_seg.npy") for name in group.names):
            lines.append(f"{group.text}: {refused[1]}")
        elif group.unread:
            more = f" (and {len(group.unread) - 1} more)" if len(group.unread) > 1 else ""
            lines.append(f"cannot be read: {group.unread[0]}{more}")
    return lines


def _summary(name: str, trial: Trial) -> list[str]:
    """What is told of a data set."""
    images, first = trial.images, trial.images.looks[0]
    lines = [
        f"data set {name}:",
        f"  images       {trial.samples} ({_looks(images)}): {written(trial.keys['images'])}",
        f"  axes         {trial.keys.get('axes', 'yx')}"
        + (f", {trial.why['axes']}" if "axes" in trial.why else "")
        + (f"; unsure: {trial.unsure['axes']}" if "axes" in trial.unsure else ""),
        f"  pixel size   {_pixel_size(first.header, trial.keys.get('axes', 'yx'))}",
    ]
    if not trial.sources:
        lines.append("  annotations  none found: the images are only segmented (unsure)")
    for source in trial.sources:
        lines.append(f"  annotations  {source.keys['format']}: {source.keys['path']} ({source.why})")
        lines += [f"               unsure: {key}: {text}" for key, text in source.unsure.items()]
    if trial.sources:
        lines.append(f"  matched      {trial.annotated} of {trial.samples}; {trial.objects} objects in those read")
        split = trial.keys.get("split")
        lines.append(f"  split        {written(split) if split else 'by shares: 0.2 for test, 0.1 for validation'}")
    told = {key: text for key, text in trial.unsure.items() if key not in ("axes", "images")}
    lines += [f"  unsure       {key}: {text}" for key, text in told.items()]
    lines += [f"  note         {note}" for note in trial.notes]
    return lines + [f"  problem      {problem}" for problem in trial.problems]


def _pixel_size(header: Header, axes: str) -> str:
    """What the header of a file says of the size of pixels, and what counts."""
    told = ", ".join(f"{axis} {size:g}" for axis, size in header.pixel_size.items())
    missing = [axis for axis in "zyx" if axis in axes and axis not in header.pixel_size]
    if not told:
        return "the files do not say it: 1 counts; set pixel_size"
    if missing:
        return f"the header says {told}, but not {', '.join(missing)}: 1 counts for all; set pixel_size"
    return f"{told} micrometres, from the header"


def run(folder: str, out: Path) -> str:
    """Write a proposed configuration for a folder, and say what was recognised.

    Parameters
    ----------
    folder : str
        Images and annotations.
    out : Path
        The configuration to write.

    Returns
    -------
    str
        What is printed.

    Raises
    ------
    UserError
        If the file exists, or there is nothing to propose.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists and is not overwritten; move it away, or name another file with --out")
    trials, notes = propose(folder)
    command = f"make check-annotations CONFIG={shlex.quote(str(out))}"
    text = config_text(trials, folder, command)
    lines = [line for name, trial in trials.items() for line in _summary(name, trial)]
    lines += [f"note: {note}" for note in notes]
    try:
        check_data(parse_config(yaml.safe_load(text)))
    except ConfigError as error:
        lines.append(f"not ready to run: {error}")
        text = "".join(f"# not ready to run: {line}\n" for line in str(error).splitlines()) + text
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text.encode())
    lines.append(f"wrote {out}; look at the lines with 'unsure' in it, then run: {command}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Propose a configuration for a folder, by default as ``config.yaml``."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core init", description="Propose a configuration for a folder of images and annotations."
    )
    parser.add_argument("folder", metavar="FOLDER", help="with images, and annotations in it or in folders below it")
    parser.add_argument(
        "--out", metavar="CONFIG", type=Path, default=Path("config.yaml"), help="file to write (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        print(run(options.folder, options.out))
    except UserError as error:
        sys.exit(str(error))
