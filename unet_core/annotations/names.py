"""Names of images in a file that annotates many: which of them is that of an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from unet_core.annotations.layer import Image, Images, stem_of
from unet_core.patterns import OME, nfc


class _Fit(NamedTuple):
    """How well a name in the file fits an image: folders in common, and whether it has no others."""

    common: int
    whole: bool


class Names:
    """The names of the images in a file.

    An image has the name whose last part is its own, without the ending. Where several have, folders count: the name
    with which the image has most folders in common, from the last one on. Names may be URLs, or written as in these.

    Parameters
    ----------
    names : iterable of str
        As they stand in the file.
    file : Path
        The file, for errors.

    Raises
    ------
    ValueError
        If two images have the same name and the same folders.
    """

    def __init__(self, names: Iterable[str], file: Path) -> None:
        self._names = [*names]
        self._file = file
        self._parts = [parts_of(name) for name in self._names]
        self._plain, self._decoded = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        seen: dict[tuple[str, ...], str] = {}
        for index, (name, parts) in enumerate(zip(self._names, self._parts, strict=True)):
            if parts in seen:
                raise ValueError(f"{file}: two images have the name {stem_of(name)!r} ({seen[parts]}, {name})")
            seen[parts] = name
            self._plain[parts[-1]].append(index)
            if "%" in parts[-1]:
                self._decoded[unquote(parts[-1])].append(index)

    def of(self, image: Image) -> int:
        """Position of the name of an image that `match` found; ValueError if there is none, or several fit."""
        candidates = self._candidates(image)
        best = self._best(image, candidates)
        if best is None:
            raise ValueError(self._ambiguous(image, candidates) if candidates else f"{self._file}: has no {image.stem}")
        return best

    def match(self, images: Images) -> tuple[dict[int, tuple[Path, ...]], list[str]]:
        """What `find` gives: the file for each image in it, by the image's position, and names of no image.

        Raises
        ------
        ValueError
            If several names fit an image, or several images a name, and folders do not tell which.
        """
        claims = defaultdict[int, list[tuple[_Fit, int]]](list)
        undecided = []
        for position, image in enumerate(images):
            candidates = self._candidates(image)
            best = self._best(image, candidates)
            if best is not None:
                claims[best].append((self._fit(image, best), position))
            elif candidates:
                undecided.append((image, candidates))
        for image, candidates in undecided:
            if not set(candidates) <= set(claims):
                raise ValueError(self._ambiguous(image, candidates))
        found: dict[int, tuple[Path, ...]] = {}
        for index, several in claims.items():
            most = max(fit for fit, _ in several)
            owners = [position for fit, position in several if fit == most]
            if len({images[position].stem for position in owners}) < len(owners):
                raise ValueError(
                    f"{self._file}: {self._names[index]} fits several images of this name; "
                    "make each folder a data set of its own, or write the folders into the names"
                )
            found |= dict.fromkeys(owners, (self._file,))
        strangers = [index for index in range(len(self._names)) if index not in claims]
        return found, sorted(self._shown(index) for index in strangers)

    def _candidates(self, image: Image) -> list[int]:
        for stem in (image.file or image.stem, image.stem):
            name = nfc(stem)
            short = name.removesuffix(OME)
            for known in (name, f"{name}{OME}", short):
                if found := self._plain.get(known) or self._decoded.get(known):
                    return found
        return []

    def _best(self, image: Image, candidates: list[int]) -> int | None:
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        fits = [self._fit(image, index) for index in candidates]
        most = max(fits)
        return None if most == _Fit(0, False) or fits.count(most) > 1 else candidates[fits.index(most)]

    def _fit(self, image: Image, index: int) -> _Fit:
        folders, common = self._parts[index][:-1], 0
        own = [nfc(folder) for folder in image.folders]
        while common < min(len(folders), len(own)) and unquote(folders[-1 - common]) == own[-1 - common]:
            common += 1
        return _Fit(common, common == len(folders))

    def _ambiguous(self, image: Image, candidates: list[int]) -> str:
        names = ", ".join(self._names[index] for index in candidates[:5])
        return (
            f"{self._file}: two images have the name {image.stem!r} ({names}), and their folders do not tell which is "
            "meant; make each folder a data set of its own"
        )

    def _shown(self, index: int) -> str:
        """What the image of a name is called: with folders where these tell it from others."""
        stem = self._parts[index][-1]
        return self._names[index] if len(self._plain[stem]) > 1 else stem


def parts_of(name: str) -> tuple[str, ...]:
    """Folders of a name, and its last part without the ending of an image file."""
    path = urlsplit(name).path if "://" in name else name
    *folders, last = nfc(path).replace("\\", "/").split("/")
    return (*(folder for folder in folders if folder not in ("", ".")), stem_of(last))
