"""What of its files counts as the content of a sample, and how they looked when it was read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.annotations.layer import Image, view_of
from unet_core.blocks import ZYX
from unet_core.config.datasets import Dataset
from unet_core.config.folds import DIVIDED_SPLITS
from unet_core.config.options import Groundtruth
from unet_core.config.section import plain
from unet_core.digest import FileHashes, Part, digest
from unet_core.groundtruth.samples import Sample
from unet_core.images.contents import Hashed, ZarrPart, hash_of_view, part_of
from unet_core.images.readers import image_shape, open_image, split_internal
from unet_core.images.signatures import kind_of, signature_of
from unet_core.method import method

# A sample with the hashes of its image and of the annotation files of each source.
Item = tuple[Sample, str, tuple[str, ...]]
HashOf = Callable[[Path, Part | None], str | None]
# Keys of a data set that say which files and samples there are, and not how these are read.
NOT_READ = ("images", "unmatched", "split", "weights", "region")


def with_contents(sample: Sample, hash_of: HashOf) -> Item | None:
    """A sample with the hashes of what is read of its files; None where the hash of one is None, not known.

    Parameters
    ----------
    sample : Sample
        The sample.
    hash_of : callable
        `FileHashes.of`, which reads what is not known, or `FileHashes.known`.
    """
    image = image_content(sample, hash_of)
    sources = [[hash_of(*_file_and_part(file, sample)) for file in files] for files in sample.annotations]
    if image is None or any(None in contents for contents in sources):
        return None
    return sample, image, tuple(map(digest, sources))


def image_content(sample: Sample, hash_of: HashOf) -> str | None:
    """Hash of what is read of the image of a sample."""
    return hash_of(sample.image, part_of(sample.image, sample.internal, sample.axes, sample.time))


def files_with_parts(sample: Sample) -> Iterator[tuple[Path, Part | None]]:
    """The image and the annotation files of a sample, each with what of it counts."""
    yield sample.image, part_of(sample.image, sample.internal, sample.axes, sample.time)
    for files in sample.annotations:
        for file in files:
            yield _file_and_part(file, sample)


class Looks(NamedTuple):
    """How the files of a sample looked when they were hashed; see `signatures.changed`."""

    image: list[list[Any]]
    annotations: list[list[Any]]


def looks_of(sample: Sample, hashes: FileHashes) -> Looks:
    """How the files of a sample looked when they were hashed."""
    image, *annotations = [hashes.looks(path, part) for path, part in files_with_parts(sample)]
    return Looks(image, [one for looks in annotations for one in looks])


def _file_and_part(file: Path, sample: Sample) -> tuple[Path, Part | None]:
    path, internal = split_internal(str(file))
    kind = kind_of(path)
    if kind == "Zarr":
        return path, ZarrPart(internal)
    if kind == "TIFF" and (internal or sample.annotated.time is not None):
        return path, MaskFrame(internal, sample.annotated, sample.image, sample.internal, sample.axes)
    return path, None


class MaskFrame(NamedTuple):
    """The page of a TIFF file that annotates one time point, or one of several images of the file.

    Its values count, and the colours that a palette gives them.

    Attributes
    ----------
    internal : str
        Number of the image.
    image : Image
        The image that it annotates.
    file : Path
        The file of that image, whose shape says which axes those of the annotation are.
    array : str
        The array in this file.
    axes : str
        Its axes.
    """

    internal: str
    image: Image
    file: Path
    array: str
    axes: str

    @property
    def name(self) -> str:
        """Its name in caches."""
        return f"mask {self.internal} {self.image.axes} {self.image.header} {self.image.time}"

    def seen(self, path: Path) -> Any:
        """See `signatures.signature_of`."""
        return signature_of(path)

    def contents(self, path: Path, parts: Sequence[MaskFrame], hashed: Hashed) -> list[str | None]:
        """Hash of each page; see `unet_core.digest.Part`."""
        found = [_hashes_of(path, parts, stored) for stored in (True, False)]
        pairs = [[one.get(part) for one in found] for part in parts]
        return [None if None in pair else digest(pair) for pair in pairs]


def _hashes_of(path: Path, parts: Sequence[MaskFrame], stored: bool) -> dict[MaskFrame, str]:
    """Hashes of pages as they are stored, or with the colours of a palette; of those that fit their images."""
    found: dict[MaskFrame, str] = {}
    shapes: dict[tuple[Path, str, str], ZYX] = {}
    for internal in dict.fromkeys(part.internal for part in parts):
        with contextlib.suppress(ValueError, LookupError), open_image(path, internal, stored) as opened:
            for part in (one for one in parts if one.internal == internal):
                with contextlib.suppress(ValueError, LookupError):
                    where = part[2:]
                    shape = shapes.setdefault(where, shapes.get(where) or _spatial(*where))
                    view = view_of(opened, path, part.image, shape)
                    found[part] = digest(opened.white_is_zero, hash_of_view(view))
    return found


def _spatial(file: Path, internal: str, axes: str) -> ZYX:
    """Extent of an image along z, y, x."""
    size = dict(zip(axes, image_shape(file, internal), strict=True))
    return size.get("z", 1), size["y"], size["x"]


def wanted_of_files(
    cfg: Dataset, policy: Groundtruth, samples: list[Sample], hash_of: Callable[[Path, Part | None], str]
) -> dict[str, str]:
    """Digest of all that each part of a converted data set depends on: options, and files of its samples.

    Parameters
    ----------
    cfg : Dataset
        The data set.
    policy : Groundtruth
        Options of the step.
    samples : list of Sample
        Its samples.
    hash_of : callable
        `FileHashes.seen`.
    """
    code = method("groundtruth")
    images, annotated = [], []
    for sample in samples:
        content, *marks = [hash_of(path, part) for path, part in files_with_parts(sample)]
        images.append([sample.name, sample.internal, sample.time, sample.axes, sample.split, content])
        if sample.split != "unannotated":
            arrays = [[split_internal(str(file))[1] for file in files] for files in sample.annotations]
            annotated.append([*images[-1], sample.group, arrays, marks])
    shown = {key: value for key, value in plain(cfg).items() if key in ("channels", "pixel_size", "in_place")}
    rest = {key: value for key, value in plain(cfg).items() if key not in NOT_READ}
    learnt = [one for one in annotated if one[4] in DIVIDED_SPLITS]
    parts = {
        "images": digest(code, shown, images),
        "labels": digest(code, rest, plain(policy), annotated),
        "training": digest(code, rest, plain(policy), learnt),
    }
    return parts | {"all": digest(parts)}
