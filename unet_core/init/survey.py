"""What lies in a folder: names of files, grouped by folder, ending, and what their names have around a common part."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from unet_core.images.readers import SUFFIXES
from unet_core.patterns import ending_of, name_without_ending, nfc
from unet_core.records import FOLDER, holds_results

# Names that are listed before a folder counts as too large to be looked through.
MAX_NAMES = 100_000
# Names that are compared to find what differs between those of images and of masks.
COMPARED = 60
# Parts of a name, words and numbers, that are put together in all ways.
MAX_TOKENS = 14
SEPARATORS = "_-. "

# Words in names of masks, and in those of images.
MASK_WORDS = (
    *("mask", "masks", "label", "labels", "seg", "segs", "segmentation", "segmentations", "gt", "groundtruth"),
    *("truth", "annot", "annotation", "annotations", "annotated", "instance", "instances", "target", "targets"),
    *("manual", "objects", "semantic", "outlines", "lab", "labs", "membranes", "boundaries"),
)
IMAGE_WORDS = (
    *("image", "images", "img", "imgs", "raw", "input", "inputs", "frame", "frames", "volume", "volumes", "picture"),
    *("pictures", "photo", "photos", "im", "ims", "source", "src", "original", "originals"),
)

Affix = tuple[str, str]
Item = TypeVar("Item")


class File(NamedTuple):
    """A file below the folder that is looked through.

    Attributes
    ----------
    folder : tuple of str
        Names of the folders on the way to it.
    name : str
        Its name.
    """

    folder: tuple[str, ...]
    name: str

    @property
    def suffix(self) -> str:
        """Its ending, as written."""
        return ending_of(self.name)

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return name_without_ending(self.name)

    @property
    def text(self) -> str:
        """Path from the folder that is looked through."""
        return "/".join((*self.folder, self.name))


def walk(root: Path) -> tuple[list[File], list[str]]:
    """Files below a folder, in the order of their paths, and what has to be told.

    Names that begin with a point are left out; folders that are images (OME-Zarr) count as files.
    """
    found, notes, unwritable = list[File](), list[str](), list[str]()
    seen, waiting = set[str](), list[tuple[str, ...]]([()])
    names = 0
    while waiting and names < MAX_NAMES:
        folder = waiting.pop()
        real = os.path.realpath(root.joinpath(*folder))
        if real in seen:
            continue
        seen.add(real)
        try:
            listed = sorted(os.scandir(root.joinpath(*folder)), key=lambda entry: entry.name)
        except OSError as error:
            notes.append(f"{root.joinpath(*folder)} cannot be listed ({error.strerror})")
            continue
        if any(entry.name == FOLDER for entry in listed) and holds_results(root.joinpath(*folder)):
            notes.append(f"{root.joinpath(*folder)} holds results of this pipeline, and was not looked into")
            continue
        below = []
        for entry in listed:
            names += 1
            if entry.name.startswith("."):
                continue
            if not _writable(entry.name):
                unwritable.append(repr(entry.name))
            elif entry.is_dir() and Path(entry.name).suffix.lower() not in SUFFIXES:
                below.append((*folder, entry.name))
            else:
                found.append(File(folder, entry.name))
        waiting += reversed(below)
    if waiting:
        notes.append(f"only the first {names} names of {root} were looked at; run init on a folder in it")
    if unwritable:
        notes.append(
            f"{len(unwritable)} names have signs that no configuration can hold ({unwritable[0]}): rename these files"
        )
    return sorted(found), notes


def _writable(name: str) -> bool:
    """Whether a name can stand in a configuration: without line breaks, and in UTF-8."""
    return all(unicodedata.category(sign) not in ("Cc", "Cs", "Zl", "Zp") for sign in name)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Some of many items, the first and the last among them.

    Examples
    --------
    >>> spread(range(100), 3), spread([1, 2], 3)
    ([0, 50, 99], [1, 2])
    """
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / max(count - 1, 1))] for number in range(count)]


def by_folder(files: Iterable[File]) -> dict[tuple[tuple[str, ...], str], list[File]]:
    """Files by their folder and ending."""
    groups: dict[tuple[tuple[str, ...], str], list[File]] = defaultdict(list)
    for file in files:
        groups[file.folder, file.suffix].append(file)
    return dict(groups)


def affixes(stems: Collection[str], others: Collection[str], differ: bool = False) -> tuple[Affix, Affix] | None:
    """What stands before and after the part that names of two kinds of files have in common.

    Parameters
    ----------
    stems, others : collection of str
        Names without endings.
    differ : bool
        Whether the same affixes on both sides are none, as in one folder that has both kinds.

    Returns
    -------
    tuple or None
        Affixes of the first and of the second, where most of them, or of the fewer of them, have such a part.

    Examples
    --------
    >>> affixes(["a1_img", "b_img"], ["a1_cp_masks", "b_cp_masks"])
    (('', '_img'), ('', '_cp_masks'))
    >>> affixes(["a", "b"], ["b", "a", "c"]), affixes(["a"], ["b"])
    ((('', ''), ('', '')), None)
    """
    stems, others = sorted(map(nfc, stems)), sorted(map(nfc, others))
    if not differ and len(set(stems) & set(others)) * 2 > min(len(stems), len(others)):
        return ("", ""), ("", "")
    index: dict[str, list[Affix]] = defaultdict(list)
    for other in spread(others, 20 * COMPARED):
        for base, affix in _cuts(other):
            index[base].append(affix)
    counted: Counter[tuple[Affix, Affix]] = Counter()
    compared = spread(stems, COMPARED)
    for stem in compared:
        for base, affix in _cuts(stem):
            same = index.get(base, [])
            if len(same) <= COMPARED:
                counted.update((affix, other) for other in same if affix != other and _tells(affix, other))
    if not counted:
        return None
    best = max(counted, key=lambda pair: (counted[pair], -sum(len(part) for affix in pair for part in affix), pair))
    # One of three kinds in a folder makes a third of its names.
    enough = counted[best] * 2 >= (len(compared) * 0.4 if differ else min(len(compared), len(others)))
    return best if enough else None


def _tells(affix: Affix, other: Affix) -> bool:
    """Whether affixes differ by words, and not by numbers as those of images of a series do.

    Letters beside a number, as in a1 and b1, are only words where they are known ones.
    """
    letters = [re.sub(r"[\W\d_]", "", "".join(part)).lower() for part in (affix, other)]
    if not any(letters) or letters[0] == letters[1]:
        return False
    separate = all(
        (not before or before[-1] in SEPARATORS) and (not after or after[0] in SEPARATORS)
        for before, after in (affix, other)
    )
    words = {word for part in (*affix, *other) for word in re.findall(r"[^\W\d_]+", part.lower())}
    return separate or bool(words & {*MASK_WORDS, *IMAGE_WORDS})


def _cuts(stem: str) -> Iterator[tuple[str, Affix]]:
    """Parts of a name that may be common to several, with what stands around them."""
    tokens = re.findall(r"[^\W\d_]+|\d+|[\W_]", stem)
    if len(tokens) > MAX_TOKENS:  # as hashes, in which numbers and letters alternate
        tokens = re.findall(r"[^_\-. ]+|[_\-. ]", stem)[: 2 * MAX_TOKENS]
        tokens[-1] = stem[len("".join(tokens[:-1])) :]
    for start in range(len(tokens)):
        for stop in range(start + 1, len(tokens) + 1):
            if all(tokens[end] not in SEPARATORS for end in (start, stop - 1)) or stop - start == len(tokens):
                yield "".join(tokens[start:stop]), ("".join(tokens[:start]), "".join(tokens[stop:]))


def base_of(stem: str, affix: Affix) -> str | None:
    """A name without what stands before and after; None if it does not have that.

    Examples
    --------
    >>> base_of("a_img", ("", "_img")), base_of("a", ("", "_img"))
    ('a', None)
    """
    stem, (before, after) = nfc(stem), affix
    inner = len(stem) - len(before) - len(after)
    fits = stem.startswith(before) and stem.endswith(after) and inner > 0
    return stem[len(before) : len(before) + inner] if fits else None


def parts_of(stems: Sequence[str]) -> dict[Affix, list[str]]:
    """Names in one folder by the kinds of their affixes, as images and their masks; empty where all are of one kind."""
    pair = affixes(stems, stems, differ=True)
    if pair is None:
        return {}
    parts: dict[Affix, list[str]] = {}
    left = list(stems)
    # Where one kind has no affix, it is what the others leave.
    for affix in sorted(pair, key=lambda one: -len("".join(one))):
        parts[affix] = [stem for stem in left if base_of(stem, affix)]
        left = [stem for stem in left if stem not in set(parts[affix])]
    bases = {base for stem in parts[pair[0]] if (base := base_of(stem, pair[0]))}
    while left and (more := affixes(bases, left)) and more[0] == ("", "") and more[1] not in parts:
        parts[more[1]] = [stem for stem in left if base_of(stem, more[1]) in bases]
        left = [stem for stem in left if stem not in set(parts[more[1]])]
    return parts if not left else {}
