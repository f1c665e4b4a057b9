"""Which files of a folder annotate which image: by names, and by the folders that wildcards stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from unet_core.annotations.layer import Found, Image, Images
from unet_core.images.readers import SUFFIXES, is_url, open_image, path_of, split_internal
from unet_core.patterns import OME, STEM, Match, ending_of, has_wildcards, matching, nfc


def one_file_each(path: str, images: Images) -> Found:
    """Files of a format with one file per image, or of one file for all that has a page for each time point.

    Parameters
    ----------
    path : str
        With ``{stem}`` where the image's name stands, and with wildcards for folders that are also the image's.
    images : list of Image
        The images.

    Returns
    -------
    found : dict
        Position of an image in the list -> its file.
    strangers : list of str
        Files that fit the pattern and belong to none of the images.

    Raises
    ------
    ValueError
        If the path is one file for many images, or several files fit an image.
    """
    if STEM not in path and not has_wildcards(path) and len({image.stem for image in images}) > 1:
        raise ValueError(f"path {path!r} is one file for many images; write {STEM} where the image's name stands")
    files, strangers = files_of(path, images)
    found: dict[int, tuple[Path, ...]] = {}
    if STEM in str(split_internal(path)[0]):
        files = _longest_names(files, images)
    for position, several in files.items():
        if len(several) > 1:
            raise ValueError(
                f"both {several[0]} and {several[1]} fit image {images[position].stem!r}; "
                "write a path that fits one of them"
            )
        found[position] = several
    return found, [*strangers, *_pages_beyond(found, images)]


def _pages_beyond(found: dict[int, tuple[Path, ...]], images: Images) -> list[str]:
    """Files with more time points than the films that they annotate: which frame a page is of is not certain then."""
    films: dict[Path, Image] = {}
    for position, files in found.items():
        image = images[position]
        if image.time is not None:
            films |= {file: image for file in files if file not in films or image.time > (films[file].time or 0)}
    beyond = []
    for path, image in films.items():
        file, internal = split_internal(str(path))
        if is_url(file) or ending_of(file).lower() not in SUFFIXES:
            continue
        try:
            with open_image(file, internal, stored=True) as opened:
                shape, axes = opened.shape, opened.axes.replace("q", "t")
        except (ValueError, OSError):  # told when it is read
            continue
        if "t" not in axes:
            axes = "".join(axis for axis in image.axes if axis in "tzyx")
        frames = (image.time or 0) + 1
        if len(axes) == len(shape) and shape[axes.index("t")] > frames:
            beyond.append(f"{path} from page {frames + 1} on (it has {shape[axes.index('t')]}, its film {frames})")
    return beyond


def files_of(path: str, images: Images) -> Found:
    """Files that fit the path of a source for each image, any number of them; see `one_file_each`.

    The name of an image counts with and without ``.ome`` at its end. Where several images have the same name, a file
    belongs to those whose folders have the names for which its wildcards stand. Folders are listed once, whatever the
    number of images.
    """
    place, internal = split_internal(path)
    text = str(place)
    if is_url(place) or (STEM not in text and not has_wildcards(text)) or place.exists():
        plain = _plain(path, images)
        _check_folders(plain, images)
        return plain, []
    named = _by_name(images)
    # Names that images in several folders have, which the folders of a file tell apart.
    shared = {stem for stem, same in named.items() if len({images[position].folders for position in same}) > 1}
    places = _by_folder(images, {stem: named[stem] for stem in shared} if STEM in text else {None: range(len(images))})
    belongs: dict[int, list[Match]] = defaultdict(list)
    strangers = list[str]()
    for match in matching(text, named):
        owners = (
            _of_folders(match, images, places)
            if match.stem is None or match.stem in shared
            else named.get(match.stem, [])
        )
        for position in owners:
            belongs[position].append(match)
        if not owners and match.stem is not None:
            strangers.append(str(match.path))
    found = {
        position: tuple(
            _with_internal(match.path, internal, images[position])
            for match in _nearest(matches, images[position], nfc(images[position].stem) in shared)
        )
        for position, matches in belongs.items()
    }
    _check_folders(found, images)
    return found, strangers


def _check_folders(found: dict[int, tuple[Path, ...]], images: Images) -> None:
    """Raise ValueError where a file would annotate images of one name in several folders, of which it shows one."""
    owner: dict[Path, Image] = {}
    for position, files in found.items():
        image = images[position]
        for file in files:
            first = owner.setdefault(file, image)
            if first.folders != image.folders and nfc(first.stem) == nfc(image.stem):
                raise ValueError(
                    f"{file} fits the images {image.stem!r} in /{'/'.join(first.folders)} and in "
                    f"/{'/'.join(image.folders)}; write wildcards for folders, as in */seg/{STEM}.png, "
                    "or make each folder a data set of its own"
                )


def _longest_names(found: dict[int, tuple[Path, ...]], images: Images) -> dict[int, tuple[Path, ...]]:
    """Each file for the images with the longest name that fits it: s10_mask is of s10 and not of s1.

    Raises
    ------
    ValueError
        If images of other names that are as long fit it too.
    """
    owners: dict[Path, set[str]] = defaultdict(set)
    for position, files in found.items():
        for file in files:
            owners[file].add(nfc(images[position].stem))
    longest: dict[Path, str] = {}
    for file, stems in owners.items():
        *_, before, last = ["", *sorted(sorted(stems), key=len)]
        if len(before) == len(last):
            raise ValueError(f"{file} fits both images {before!r} and {last!r}; write a path that fits one of them")
        longest[file] = last
    own = {
        position: tuple(file for file in files if longest[file] == nfc(images[position].stem))
        for position, files in found.items()
    }
    return {position: files for position, files in own.items() if files}


def unique_owners(found: dict[int, tuple[Path, ...]], images: Images) -> None:
    """Raise ValueError where a file fits the names of several images, of which it can show one alone."""
    owner: dict[Path, str] = {}
    for position, files in found.items():
        for file in files:
            stem = images[position].stem
            if owner.setdefault(file, stem) != stem:
                raise ValueError(
                    f"{file} fits both images {owner[file]!r} and {stem!r}; put the masks of each image into a folder "
                    f"{STEM}"
                )


def _plain(path: str, images: Images) -> dict[int, tuple[Path, ...]]:
    """Files of a path that names one for each image without any pattern, if they exist."""
    found: dict[int, tuple[Path, ...]] = {}
    for position, image in enumerate(images):
        file = path.replace(STEM, image.stem)
        if split_internal(file)[0].exists():
            found[position] = (path_of(file) if is_url(file) else Path(file),)
    return found


def _by_name(images: Images) -> dict[str, list[int]]:
    """Positions of the images by what ``{stem}`` may stand for."""
    named: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(images):
        named[nfc(image.stem)].append(position)
    for position, image in enumerate(images):
        stem = nfc(image.stem)
        other = stem[: -len(OME)] if stem.lower().endswith(OME) else stem + OME
        if other not in named or _same_name(named[other], images, stem):
            named[other].append(position)
    return dict(named)


def _same_name(positions: Collection[int], images: Images, stem: str) -> bool:
    """Whether images have this name with the other ending alone: an image of just the other name keeps it."""
    return all(nfc(images[position].stem) == stem for position in positions)


def _by_folder(images: Images, named: Mapping[str | None, Iterable[int]]) -> dict[tuple[str | None, str], list[int]]:
    """Positions of the images by what ``{stem}`` may stand for, or None, and the name of a folder above them."""
    places: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for stem, same in named.items():
        for position in same:
            for folder in dict.fromkeys(map(nfc, images[position].folders)):
                places[stem, folder].append(position)
    return places


def _of_folders(match: Match, images: Images, places: dict[tuple[str | None, str], list[int]]) -> list[int]:
    """Positions of the images of a name in whose path the folders of a file stand.

    Of its folders that which the fewest images have tells which ones to look at, so that the time does not grow with
    the number of images of the same name.
    """
    if not match.folders:
        return sorted({position for (stem, _), same in places.items() if stem == match.stem for position in same})
    same = min((places.get((match.stem, nfc(folder)), []) for folder in match.folders), key=len)
    return [position for position in same if _in_order(match.folders, images[position].folders)]


def _in_order(some: tuple[str, ...], folders: tuple[str, ...]) -> bool:
    """Whether names stand among the folders of an image, in this order."""
    rest = iter(map(nfc, folders))
    return all(nfc(name) in rest for name in some)


def _nearest(matches: list[Match], image: Image, by_folders: bool) -> list[Match]:
    """Those of the files for an image with its own name, and where folders count those with most of its folders."""
    exact = [match for match in matches if match.stem is None or match.stem == nfc(image.stem)] or matches
    most = max(len(match.folders) for match in exact)
    return [match for match in exact if len(match.folders) == most] if by_folders or exact[0].stem is None else exact


def _with_internal(file: Path, internal: str, image: Image) -> Path:
    return Path(f"{file}:{internal.replace(STEM, image.stem)}") if internal else file
