"""What the files of images say against the configuration, what differs between them, and what they lack."""

from __future__ import annotations

from typing import Any

from unet_core.config.datasets import Dataset
from unet_core.groundtruth.check.lint import Finding
from unet_core.groundtruth.samples import Sample

ImageDetails = list[tuple[Sample, dict[str, Any]]]


def header_findings(cfg: Dataset, details: ImageDetails, total: int) -> list[Finding]:
    """One finding for each kind of contradiction between the headers of images and the axes or sizes that count.

    Parameters
    ----------
    cfg : Dataset
        The data set.
    details : list of (Sample, dict)
        Samples, and ``header`` and ``pixel_size`` of their images.
    total : int
        Number of the data set's images, of which some may not have been read.
    """
    kinds = {
        "axes": _axes(cfg, details),
        "pixel_size": _contradicting(cfg, details) | _incomplete(cfg, details) | _uneven(details),
        "chunks": _absent(details),
    }
    return [
        Finding("warning", kind, None, f"{len(names)} of {total} images (as {names[0]}) {text}")
        for kind, found in kinds.items()
        for text, names in found.items()
        if names
    ]


def _absent(details: ImageDetails) -> dict[str, list[str]]:
    """Zarr images of which chunks are not there."""
    found = [(sample.name, image["absent_chunks"]) for sample, image in details if image.get("absent_chunks")]
    if not found:
        return {}
    missing, total = found[0][1]
    text = (
        f"lack chunks ({missing} of {total} files), which are read as the fill value; that is right where the program "
        "that wrote them leaves out what is empty, and not where a copy was interrupted"
    )
    return {text: [name for name, _ in found]}


def _axes(cfg: Dataset, details: ImageDetails) -> dict[str, list[str]]:
    said = {sample.name: image["header"]["axes"] for sample, image in details}
    other = [
        sample
        for sample, _ in details
        if len(said[sample.name]) == len(sample.axes) and said[sample.name] != sample.axes
    ]
    if not other:
        return {}
    counts = "axes is" if cfg.axes else "those of the first image are"
    text = f"say that their axes are {said[other[0].name]}, but {counts} {other[0].axes}, which counts"
    return {text: [sample.name for sample in other]}


def _contradicting(cfg: Dataset, details: ImageDetails) -> dict[str, list[str]]:
    """Images whose header says another size than the configuration."""
    found = []
    for sample, image in details:
        own = {
            axis: (getattr(cfg.pixel_size, axis), size)
            for axis, size in image["header"]["pixel_size"].items()
            if axis in sample.axes
        }
        if any(size and _differ(size, said) for size, said in own.values()):
            found.append((sample.name, _size({axis: said for axis, (_, said) in own.items()})))
    text = (
        f"say that pixel_size is {found[0][1]} (micrometres), which is not that of the configuration; "
        "the configuration counts"
        if found
        else ""
    )
    return {text: [name for name, _ in found]}


def _incomplete(cfg: Dataset, details: ImageDetails) -> dict[str, list[str]]:
    """Images whose header says the pixel size along some axes and not along others.

    Only axes count whose size the configuration does not say either.
    """
    found = []
    for sample, image in details:
        sizes = {axis: size for axis, size in image["header"]["pixel_size"].items() if axis in sample.axes}
        asked = {axis for axis in "zyx" if axis in sample.axes and getattr(cfg.pixel_size, axis) is None}
        if asked & set(sizes) and asked - set(sizes):
            found.append((sample.name, _size(sizes)))
    text = (
        f"say of pixel_size no more than {found[0][1]} (micrometres), which does not count alone; say all in pixel_size"
        if found
        else ""
    )
    return {text: [name for name, _ in found]}


def _uneven(details: ImageDetails) -> dict[str, list[str]]:
    """Images whose pixels are of another size than those of the first one."""
    if not details:
        return {}
    first = details[0][1]["pixel_size"]
    found = [
        (sample.name, image["pixel_size"]) for sample, image in details if any(map(_differ, image["pixel_size"], first))
    ]
    if not found:
        return {}
    sizes = [_size(dict(zip("zyx", size, strict=True))) for size in (found[0][1], first)]
    text = (
        f"have pixels of {sizes[0]} micrometres, but those of {details[0][0].name} have {sizes[1]}; "
        "each counts as its file says"
    )
    return {f"{text}: if all have one size, say it in pixel_size": [name for name, _ in found]}


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1) > 0.01


def _size(sizes: dict[str, float]) -> str:
    """Sizes of pixels as they stand in a configuration."""
    return f"{{{', '.join(f'{axis}: {size:.4g}' for axis, size in sorted(sizes.items(), reverse=True))}}}"
