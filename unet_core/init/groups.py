"""Files of a folder as groups: images of one kind, their masks, files of an annotation format."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unet_core.images.headers import header_of
from unet_core.images.readers import HDF5_FILE_TYPES, SUFFIXES
from unet_core.init.contents import format_of
from unet_core.init.looks import Look, look_at
from unet_core.init.survey import IMAGE_WORDS, MASK_WORDS, Affix, File, by_folder, parts_of, spread
from unet_core.patterns import nfc

# Files of a group that are looked at; one where there are many folders, as with one for the masks of each image.
LOOKED_AT, MANY_FOLDERS = 4, 100
# Files of a group whose annotation format is found out one by one.
OPENED = 50

# Of several kinds of masks the one with words like these shows objects.
OBJECT_WORDS = ("instance", "instances", "objects", "cells", "nuclei")


@dataclass(frozen=True)
class Group:
    """Files of one kind.

    Attributes
    ----------
    files : tuple of File
        In the order of their paths.
    folder : tuple of (str or None)
        Names of the folders on the way; None where they differ.
    affix : tuple of str
        What stands before and after the part of the names that tells the files apart, where the folder has other files
        of the same ending.
    alone : bool
        Whether no other file in these folders has this ending.
    internal : str
        Path of the array inside the files.
    more : tuple of str
        Paths of other arrays in them that are images of the same kind, as scenes.
    format : str
        Annotation format that the content of the files told; empty for images.
    looks : tuple of Look
        What some of the files look like.
    unread : tuple of str
        What is wrong with files that could not be looked at.
    """

    files: tuple[File, ...]
    folder: tuple[str | None, ...]
    affix: Affix = ("", "")
    alone: bool = True
    internal: str = ""
    more: tuple[str, ...] = ()
    format: str = ""
    looks: tuple[Look, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """Ending of the files."""
        return self.files[0].suffix

    @property
    def names(self) -> list[str]:
        """Different names of its files."""
        return list(dict.fromkeys(file.name for file in self.files))

    @property
    def stems(self) -> list[str]:
        """Different names of its files without endings, in NFC."""
        return list(dict.fromkeys(nfc(file.stem) for file in self.files))

    @property
    def hint(self) -> int:
        """What names say: 1 masks, -1 images, 0 nothing."""
        texts = [self.internal, "".join(self.affix), self.names[0] if len(self.names) == 1 else ""]
        for text in (*texts, *reversed([part or "" for part in self.folder])):
            words = set(re.findall(r"[^\W\d_]+", text.lower()))
            if words & {*MASK_WORDS} or words & {*IMAGE_WORDS}:
                return 1 if words & {*MASK_WORDS} else -1
        return 0

    @property
    def is_mask(self) -> bool:
        """Whether its pixels, and else its names, say that it is no image."""
        masks = sum(look.kind not in ("image", "unseen") for look in self.looks)
        return masks * 2 > len(self.looks) and self.hint >= 0

    @property
    def text(self) -> str:
        """Its first file, and how many there are."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0].text}{':' + self.internal if self.internal else ''}{more}"


@dataclass
class Found:
    """What was found in a folder.

    Attributes
    ----------
    root : Path
        The folder.
    groups : list of Group
        Images, masks and annotations.
    sequences : dict
        Folder of a sequence of the Cell Tracking Challenge -> names of the folders of its truth.
    unknown : list of File
        Files that are none of these.
    """

    root: Path
    groups: list[Group] = field(default_factory=list)
    sequences: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    unknown: list[File] = field(default_factory=list)


def find_groups(root: Path, files: Sequence[File]) -> Found:
    """Group the files of a folder, and look at some of each group."""
    found = Found(root, sequences=_sequences(files))
    truths = {(*sequence[:-1], truth) for sequence, names in found.sequences.items() for truth in names}
    rest = [file for file in files if not any(file.folder[: len(truth)] == truth for truth in truths)]
    folders = by_folder(rest)
    looked_at = LOOKED_AT if len(folders) <= MANY_FOLDERS else 1
    for (folder, suffix), members in folders.items():
        if suffix.lower() not in SUFFIXES:
            found.groups += _annotations(found, folder, members)
        else:
            found.groups += _split(root, folder, members, looked_at)
    # Sequences stay data sets of their own, since their frames have the same numbers.
    sequences = [group for group in found.groups if group.folder in found.sequences]
    rest_of_them = [group for group in found.groups if group.folder not in found.sequences]
    found.groups = [*sequences, *_merged(rest_of_them, files)]
    return found


def _sequences(files: Iterable[File]) -> dict[tuple[str, ...], list[str]]:
    """Sequences of the Cell Tracking Challenge: folders beside which there are masks, as 01 and 01_GT/SEG."""
    folders = {file.folder for file in files}
    truths = {
        file.folder[:-1]
        for file in files
        if len(file.folder) > 1 and file.folder[-1] == "SEG" and re.fullmatch(r"man_seg_?\d.*\.tiff?", file.name)
    }
    sequences: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for truth in sorted(truths):
        if (name := truth[-1])[-3:] in ("_GT", "_ST") and (*truth[:-1], name[:-3]) in folders:
            sequences[*truth[:-1], name[:-3]].append(name)
    return dict(sequences)


def _annotations(found: Found, folder: tuple[str, ...], files: list[File]) -> Iterator[Group]:
    """Files that are no images, by the annotation format that their content tells."""
    formats: dict[str, list[File]] = defaultdict(list)
    opened = {file: _format(found.root, file) for file in spread(files, OPENED)}
    usual = max(opened.values(), key=list(opened.values()).count)
    for file in files:
        formats[opened.get(file, usual)].append(file)
    unknown = formats.pop("", [])
    if len(formats) == 1:  # an empty file beside them says that an image has no objects
        (members,) = formats.values()
        empty = [file for file in unknown if (found.root / file.text).stat().st_size == 0]
        members[:] = sorted([*members, *empty])
        unknown = [file for file in unknown if file not in empty]
    found.unknown += unknown
    for name, members in formats.items():
        yield Group(tuple(members), folder, format=name)


def _format(root: Path, file: File) -> str:
    try:
        return format_of(root / file.text) or ""
    except OSError:
        return ""


def _split(root: Path, folder: tuple[str, ...], files: list[File], looked_at: int) -> Iterator[Group]:
    """Images in one folder with the same ending, by what differs in their names, or inside of the files."""
    inside = arrays_inside(root / files[0].text)
    if len(inside) > 1 and all(name.isdigit() for name in inside):
        yield _looked_at(root, Group(tuple(files), folder, internal=inside[0], more=tuple(inside[1:])))
        return
    if len(inside) > 1 or files[0].suffix.lower() == ".zarr":
        yield from (_looked_at(root, Group(tuple(files), folder, internal=name)) for name in inside)
        return
    by_stem = {nfc(file.stem): file for file in files}
    parts = [
        _looked_at(root, Group(tuple(by_stem[stem] for stem in sorted(stems)), folder, affix, alone=False))
        for affix, stems in parts_of(list(by_stem)).items()
    ]
    # What differs in names is two kinds of images only if it is seen, or said.
    if len({part.is_mask for part in parts}) > 1:
        yield from parts
        return
    whole = _looked_at(root, Group(tuple(files), folder), looked_at)
    if 1 < len(files) <= LOOKED_AT:
        single = [_looked_at(root, Group((file,), folder, alone=False)) for file in files]
        if len({one.is_mask for one in single}) > 1:
            yield from single
            return
    yield whole


def _looked_at(root: Path, group: Group, count: int = LOOKED_AT) -> Group:
    """A group with what some of its files look like."""
    looks, unread = list[Look](), list[str]()
    for file in spread(group.files, count):
        try:
            looks.append(look_at(root / file.text, group.internal))
        except (ValueError, OSError) as error:
            unread.append(str(error))
    ilastik = group.internal in ("", "exported_data") and any(
        "exported_data" in arrays_inside(root / file.text) for file in group.files[:1]
    )
    is_labels = bool(looks) and all(look.kind != "image" for look in looks)
    return replace(
        group, looks=tuple(looks), unread=tuple(unread), format="ilastik" if ilastik and is_labels else group.format
    )


def arrays_inside(path: Path) -> list[str]:
    """Paths of the images in an HDF5 file, or of the image and its labels in an OME-Zarr; a single one has none."""
    if path.suffix.lower() in HDF5_FILE_TYPES:
        import h5py

        arrays: list[str] = []
        try:
            with h5py.File(path, "r") as file:
                file.visititems(lambda name, item: arrays.append(name) if getattr(item, "ndim", 0) > 1 else None)
        except (OSError, RuntimeError):  # told by the look at it
            return []
        return arrays
    return _inside_zarr(path) if path.suffix.lower() == ".zarr" and path.is_dir() else []


def _inside_zarr(path: Path) -> list[str]:
    """The image of an OME-Zarr and its labels; where it is none, the images and arrays in it."""
    if header_of(path).axes or (path / ".zarray").exists() or "array" in _node_type(path):
        labels = path / "labels"
        named = sorted(entry.name for entry in labels.iterdir() if entry.is_dir()) if labels.is_dir() else []
        return ["", *(f"labels/{name}" for name in named)]
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    metadata = (".zarray", ".zattrs", "zarr.json")
    return [name for name in folders if any((path / name / one).is_file() for one in metadata)] or [""]


def _node_type(path: Path) -> str:
    try:
        return str(json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("node_type"))
    except (OSError, ValueError, AttributeError):
        return ""


def _merged(groups: list[Group], files: Sequence[File]) -> list[Group]:
    """The groups, those of images in sibling folders with the same content put together.

    Masks stay by folder: their paths follow from those of the images.
    """
    contents: dict[tuple[str, ...], set[tuple[tuple[str, ...], str]]] = defaultdict(set)
    for file in files:
        for depth in range(1, len(file.folder) + 1):
            contents[file.folder[:depth]].add((file.folder[depth:], file.suffix))
    images = [group for group in groups if group.looks and not group.is_mask and not group.format]
    known = {id(group) for group in images}
    others = [group for group in groups if id(group) not in known]
    for depth in range(max((len(group.folder) for group in images), default=0)):
        together: dict[tuple[object, ...], list[Group]] = defaultdict(list)
        for group in images:
            if depth >= len(group.folder):
                together[(id(group),)].append(group)
                continue
            elsewhere = (*group.folder[:depth], None, *group.folder[depth + 1 :])
            inside = frozenset(contents[group.files[0].folder[: depth + 1]])
            look = group.looks[0]
            kind = (group.suffix, group.affix, group.internal, len(look.shape), look.colour_channels)
            name = group.names[0] if len(group.names) == 1 and not group.alone else ""
            together[elsewhere, inside, kind, name].append(group)
        images = [
            one
            if len(same) == 1
            else replace(
                one,
                files=tuple(sorted(file for group in same for file in group.files)),
                folder=(*one.folder[:depth], None, *one.folder[depth + 1 :]),
                looks=tuple(spread([look for group in same for look in group.looks], LOOKED_AT)),
                unread=tuple(text for group in same for text in group.unread),
            )
            for same in together.values()
            for one in same[:1]
        ]
    return [*images, *others]
