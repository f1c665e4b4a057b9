"""Paths of a configuration for groups of files: patterns that find them, and how they stand beside each other."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from unet_core.config.formats import DESCRIPTIONS
from unet_core.init.groups import Group
from unet_core.init.survey import Affix, File, affixes
from unet_core.patterns import STEM, has_wildcards, nfc


def escaped(text: str) -> str:
    """Text whose signs stand for themselves in a pattern.

    Examples
    --------
    >>> escaped("plate [1] $x")
    'plate [[]1] [$]x'
    """
    return re.sub(r"([*?[]|\$(?=[\w{]))", r"[\1]", text)


def joined(root: str, parts: Iterable[str], internal: str = "") -> str:
    """Path of parts in the folder that was looked through, which stands for itself in it."""
    parts = [*parts]
    if any(has_wildcards(part) or STEM in part for part in parts):
        root = escaped(root) if "$" in root else root
    whole = "/".join([root, *parts] if root not in ("", ".") else parts)
    return f"{whole}:{internal}" if internal else whole


def image_paths(root: str, group: Group, files: Iterable[File], affix: Affix) -> list[str]:
    """Paths or patterns that find the images of a group and nothing else.

    Parameters
    ----------
    root : str
        The folder that was looked through.
    group : Group
        Images.
    files : iterable of File
        All files there.
    affix : tuple of str
        What stands around ``{stem}``; empty where it is the whole name.
    """
    folders = ["*" if part is None else _folder(part) for part in group.folder]
    own = {file for file in group.files}
    near = [file for file in files if _in(file, group.folder) and not file.name.startswith(".")]
    if any(affix):
        patterns = [f"{escaped(affix[0])}{STEM}{escaped(affix[1])}{escaped(group.suffix)}"]
    elif len(group.names) == 1:
        patterns = [group.names[0] if None not in group.folder else escaped(group.names[0])]
        if "$" in patterns[0]:
            patterns = [escaped(group.names[0])]
    else:
        ending = escaped(group.suffix)
        before, after = _common(group.stems, group.affix)
        patterns = [f"*{ending}", f"{escaped(before)}*{escaped(after)}{ending}"]
        others = {nfc(file.stem) for file in near if file.suffix == group.suffix and file not in own}
        lasts, firsts = "".join({stem[-1] for stem in others}), "".join({stem[0] for stem in others})
        patterns += [f"*[0-9]{ending}"]
        patterns += [f"{start}{ending}" for start in (f"*[!{lasts}]", f"[!{firsts}]*") if _plain(lasts + firsts)]
    for pattern in patterns:
        shown = pattern.replace(STEM, "*")
        if {file for file in near if fnmatch.fnmatchcase(nfc(file.name), nfc(shown))} == own or shown == file_of(group):
            return [joined(root, (*folders, pattern), internal) for internal in (group.internal, *group.more)]
    return [
        joined(root, (*map(_folder, file.folder), _folder(file.name)), internal)
        for file in group.files
        for internal in (group.internal, *group.more)
    ]


def file_of(group: Group) -> str:
    """The name of the files of a group, if all have the same."""
    return group.names[0] if len(group.names) == 1 else ""


def _plain(letters: str) -> bool:
    return bool(letters) and not set(letters) & set("]!^-[*?$")


def _folder(name: str) -> str:
    """Name of a folder or file, which counts as such before it counts as a pattern."""
    return escaped(name) if "$" in name else name


def _common(stems: list[str], affix: Affix) -> Affix:
    return affix if any(affix) and all(s.startswith(affix[0]) and s.endswith(affix[1]) for s in stems) else ("", "")


def _in(file: File, folder: tuple[str | None, ...]) -> bool:
    return len(file.folder) == len(folder) and all(
        part is None or part == name for part, name in zip(folder, file.folder, strict=True)
    )


class Way:
    """A way in which groups of annotations may belong to images.

    Attributes
    ----------
    images : Group
        The images.
    affix : tuple of str
        What stands around ``{stem}`` in the names of the images.
    paths : list of str
        Paths of the sources below the folder that was looked through, as parts.
    groups : list of Group
        The annotations.
    many : bool
        Whether an image has several files.
    """

    def __init__(self, images: Group, affix: Affix, path: tuple[str, ...], many: bool) -> None:
        self.images, self.affix, self.path, self.many = images, affix, path, many
        self.groups: list[Group] = []

    @property
    def count(self) -> int:
        """Files of annotations."""
        return sum(len(group.files) for group in self.groups)

    @property
    def near(self) -> int:
        """How many folders images and annotations have in common."""
        near = 0
        for one, other in zip(self.images.folder, self.groups[0].folder, strict=False):
            if one not in (None, other):
                break
            near += 1
        return near


def ways(images: Group, annotations: Iterable[Group], elsewhere: Iterable[Group] = ()) -> list[Way]:
    """The ways in which annotations may belong to images, by names of files and folders; the nearest first.

    Parameters
    ----------
    images : Group
        The images.
    annotations : iterable of Group
        All annotations.
    elsewhere : iterable of Group
        Those of them that have the very names of other images, and thus belong to these.
    """
    away = {id(group) for group in elsewhere}
    found: dict[tuple[Affix, tuple[str, ...], str, str], Way] = {}
    stems = {nfc(stem) for stem in images.stems}
    wild = {file.folder[depth] for file in images.files for depth, part in enumerate(images.folder) if part is None}
    for group in annotations:
        if not group.files or (not group.looks and not group.format):
            continue
        folders = tuple(_generalised(group.folder, stems, wild))
        if is_for_all(group.format):
            together = found.setdefault((("", ""), (), group.format, ""), Way(images, ("", ""), (), True))
            together.groups.append(group)
            continue
        for affix, name, many in _names(images, group, folders):
            if id(group) in away and STEM not in folders and any((*affix, *name.split(STEM)[:1])):
                continue
            key = (affix, (*folders, name), group.format, group.internal)
            way = found.setdefault(key, Way(images, affix, (*folders, name), many))
            way.groups.append(group)
    return sorted(found.values(), key=lambda way: (-way.near, -way.count, way.path))


def _generalised(folder: tuple[str | None, ...], stems: set[str], wild: set[str]) -> Iterator[str]:
    """Folders of annotations, where they are those of images as what stands for these."""
    for part in folder:
        name = part or ""
        if nfc(name) in stems and (name not in wild or len(stems) > 1):
            yield STEM
        else:
            yield "*" if name in wild else _folder(name)


def _names(images: Group, group: Group, folders: tuple[str, ...]) -> Iterator[tuple[Affix, str, bool]]:
    """Affix of the images, part of a path for the names of annotations, and whether an image has several of them."""
    ending = escaped(group.suffix)
    per_image = STEM in folders or "*" in folders
    if group.internal and group.files == images.files:
        yield ("", ""), STEM + ending, False
        return
    pair = affixes(images.stems, group.stems)
    if pair is not None and STEM not in folders and not (len(group.files) == len(images.stems) == 1):
        (own, (before, after)) = pair
        yield own, f"{escaped(before)}{STEM}{escaped(after)}{ending}", False
    elif len(group.files) == 1:
        yield ("", ""), escaped(group.files[0].name) if per_image else _folder(group.files[0].name), False
    if per_image and (len(group.files) > 1 or (group.is_mask and STEM in folders) or group.suffix == ".roi"):
        yield ("", ""), "*" + ending, True


def is_for_all(name: str) -> bool:
    """Whether a format has one file for many images."""
    return name in ("coco", "cvat", "rle") and name in DESCRIPTIONS


def below(root: Path, text: str) -> str:
    """Path of the folder that is looked through, as a configuration has it.

    It is relative where it lies below the working folder, or where the user wrote it so.

    Parameters
    ----------
    root : Path
        The folder.
    text : str
        What the user wrote for it.
    """
    if not Path(text).is_absolute():
        return Path(text).as_posix()
    here = Path.cwd()
    return root.relative_to(here).as_posix() if root.is_relative_to(here) else root.as_posix()
