"""The check of a data set's annotations as files: one table of findings, one of samples, and a page with pictures."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import yaml

from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.parse import parse_config
from unet_core.digest import digest
from unet_core.files import write_atomic
from unet_core.groundtruth.canvas import paint
from unet_core.groundtruth.check.lint import Finding
from unet_core.groundtruth.check.outliers import batch_differences, duplicate_images, outliers
from unet_core.groundtruth.label_volumes import MAX_WHOLE_VOXELS
from unet_core.groundtruth.samples import Sample, expand
from unet_core.runtime import UserError
from unet_core.store.store import Result, open_image_of

logger = logging.getLogger(__name__)

# Pictures on the page: of each kind, and in all.
MAX_PICTURES_PER_KIND, MAX_PICTURES = 12, 80
# Lines per data set in the terminal.
MAX_PRINTED_LINES = 20
FINDINGS = ["level", "kind", "sample", "z", "y", "x", "text", "files"]
MEANINGS = {
    "file": "an image or annotation that cannot be read or does not fit",
    "class": "a name of a class that the data set does not have",
    "overlap": "voxels that belong to two objects",
    "duplicate": "an object that is drawn twice",
    "parts": "an object in several parts that do not touch",
    "classes": "a mask of classes that was read as one of objects",
    "speck": "an object of a single voxel",
    "sliver": "an object that is nowhere thicker than two voxels",
    "hole": "background that one object encloses",
    "large": "an object that covers more than half of the image",
    "overflow": "numbers of objects that end where their type ends",
    "misplaced": "outlines that would lie on edges of the image if the annotation were mirrored, turned or scaled",
    "empty": "an annotated sample without any object",
    "scale": "objects much larger or smaller than in the other samples",
    "twin": "an image that is there twice",
    "drift": "a batch of annotations whose objects differ from the others",
    "axes": "images whose header tells other axes than the configuration, or than the first image where that is silent",
    "pixel_size": "images whose header tells another size of pixels than the configuration or than other images, "
    "or not all of it",
    "unannotated": "images without annotation",
}


class Checked(NamedTuple):
    """A sample with what was found and counted in it, and with what identifies its image and labels.

    The latter is None if they could not be made.
    """

    sample: Sample
    content: str
    labels: str | None
    details: dict[str, Any]


def write_check(cfg: Dataset, checked: list[Checked], store: Path, folder: Path) -> Path:
    """Write ``findings.csv``, ``samples.csv`` and ``check.html``, unless they stand there for the same findings.

    Parameters
    ----------
    cfg : Dataset
        The data set.
    checked : list of Checked
        Its samples.
    store : Path
        ``<results>/groundtruth/<data set>.zarr``, for the pictures.
    folder : Path
        Where the files go.

    Returns
    -------
    Path
        The page.
    """
    page = folder / "check.html"
    batches = _batches(folder / "batches.json", checked)
    findings = _findings(cfg, checked, batches)
    wanted = digest(findings, batches, cfg.classes, [[one.content, one.labels] for one in checked])
    # Read from the page itself, which is written last.
    if not (page.is_file() and wanted in page.read_text(encoding="utf-8")[-200:]):
        samples = {one.sample.name: one.sample for one in checked}
        write_atomic(
            folder / "findings.csv",
            _table(FINDINGS, [_row(name, finding, samples.get(name)) for name, finding in findings]),
        )
        write_atomic(folder / "samples.csv", _sample_table(checked, batches, findings))
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
        html = environment.get_template("check.html.j2").render(
            dataset=store.stem,
            samples=len(checked),
            errors=sum(finding.level == "error" for _, finding in findings),
            kinds=Counter(finding.kind for _, finding in findings),
            meanings=MEANINGS,
            shown=_pictured(cfg, checked, findings, store),
            findings=len(findings),
            digest=wanted,
        )
        write_atomic(page, html.encode())
    if findings:
        for _, finding in findings:
            if finding.kind in ("axes", "pixel_size"):
                logger.warning("groundtruth: %s: %s", store.stem, finding.text)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(finding.kind for _, finding in findings).items())
        logger.warning(
            "groundtruth: the check of %s found %d things to look at (%s): %s", store.stem, len(findings), kinds, page
        )
    return page


def _findings(cfg: Dataset, checked: list[Checked], batches: dict[str, str]) -> list[tuple[str, Finding]]:
    """All findings with their samples (empty: the data set), errors first."""
    statistics = {one.sample.name: one.details["statistics"] for one in checked if "statistics" in one.details}
    splits = {one.sample.name: one.sample.split for one in checked}
    found = [(one.sample.name, Finding(*finding)) for one in checked for finding in one.details.get("findings", [])]
    found += outliers(statistics)
    found += duplicate_images(
        {one.sample.name: digest(one.content, one.sample.internal, one.sample.time) for one in checked}, splits
    )
    found += [("", finding) for finding in batch_differences(statistics, {name: batches[name] for name in statistics})]
    without = [name for name, split in splits.items() if split == "unannotated"]
    # In the Cell Tracking Challenge most frames have no mask.
    if without and not all(DESCRIPTIONS[source.format].sparse for source in cfg.annotations):
        listed = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        found.append(
            (
                "",
                Finding(
                    "warning",
                    "unannotated",
                    None,
                    f"{len(without)} of {len(checked)} images have no annotation: {listed}",
                ),
            )
        )
    found += [("", finding) for finding in _headers(cfg, checked)]
    order = [*MEANINGS]
    return sorted(found, key=lambda item: (item[1].level, order.index(item[1].kind), item[0]))


def _headers(cfg: Dataset, checked: list[Checked]) -> list[Finding]:
    """One finding for each kind of contradiction between the headers of images and the axes or sizes that count."""
    details = [(one.sample, one.details["image"]) for one in checked if "image" in one.details]
    kinds = {
        "axes": _axes(cfg, details),
        "pixel_size": _contradicting(cfg, details) | _incomplete(cfg, details) | _uneven(details),
    }
    return [
        Finding("warning", kind, None, f"{len(names)} of {len(checked)} images (as {names[0]}) {text}")
        for kind, found in kinds.items()
        for text, names in found.items()
        if names
    ]


ImageDetails = list[tuple[Sample, dict[str, Any]]]


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


def _batches(file: Path, checked: list[Checked]) -> dict[str, str]:
    """Batch of each annotated sample: the folder of its image, and at which check its annotation was new."""
    try:
        known: dict[str, list[Any]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    latest = max((number for _, number in known.values()), default=0) + 1
    annotated = [one for one in checked if one.labels is not None]
    numbers = {
        one.sample.name: known[one.sample.name]
        if known.get(one.sample.name, [None])[0] == one.labels
        else [one.labels, latest]
        for one in annotated
    }
    if numbers != known:
        write_atomic(file, json.dumps(numbers, indent=0).encode())
    folders = len({one.sample.image.parent for one in checked}) > 1
    return {
        one.sample.name: f"{one.sample.image.parent.name}/{numbers[one.sample.name][1]}"
        if folders
        else str(numbers[one.sample.name][1])
        for one in annotated
    }


def _row(name: str, finding: Finding, sample: Sample | None) -> list[Any]:
    files = [str(file) for part in sample.annotations for file in part][:5] if sample else []
    z, y, x = finding.voxel or ("", "", "")
    return [finding.level, finding.kind, name, z, y, x, finding.text, ", ".join(files)]


def _sample_table(checked: list[Checked], batches: dict[str, str], findings: list[tuple[str, Finding]]) -> bytes:
    counts = Counter(name for name, _ in findings)
    keys = ["objects", "area", "density", "contrast"]
    rows = [
        [
            one.sample.name,
            one.sample.split,
            batches.get(one.sample.name, ""),
            *(one.details.get("statistics", {}).get(key, "") for key in keys),
            counts[one.sample.name],
        ]
        for one in checked
    ]
    return _table(["sample", "split", "batch", *keys, "findings"], rows)


def _table(columns: list[str], rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue().encode()


def _pictured(
    cfg: Dataset, checked: list[Checked], findings: list[tuple[str, Finding]], store: Path
) -> list[dict[str, Any]]:
    """The findings that the page shows, with a picture where there is something to see."""
    by_name = {one.sample.name: one for one in checked}
    seen: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    # Samples follow each other, so that a sample is painted once.
    planes: dict[tuple[str, int | None], Any] = {}
    for name, finding in findings:
        seen[finding.kind] += 1
        if seen[finding.kind] > MAX_PICTURES_PER_KIND or len(shown) == MAX_PICTURES:
            continue
        picture = None
        if name and finding.kind not in ("twin", "class"):
            plane = finding.voxel[0] if finding.voxel else None
            if (name, plane) not in planes:
                planes = {(name, plane): _plane(cfg, by_name[name], store, plane)}
            picture = _picture(planes[name, plane], finding)
        shown.append({"sample": name, "finding": finding, "picture": picture})
    return shown


def _plane(cfg: Dataset, one: Checked, store: Path, plane: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Gray values and objects of a plane; of samples with errors as far as they can be painted."""
    path = store / one.sample.name
    try:
        image = open_image_of(store, one.sample.name)
        middle = image.shape[0] // 2 if plane is None else plane
        box = Box((middle, 0, 0), (middle + 1, *image.shape[1:]))
        if one.labels is None and math.prod(image.shape) > MAX_WHOLE_VOXELS:
            return None
        if one.labels is not None:
            labels = Result(path / "labels" / "instances").read(box)[0]
        else:
            labels = paint(one.sample, cfg, "later", image.shape).instances[middle]
        return image.read(box)[0, 0], labels
    except (ValueError, OSError, UserError):
        return None


def _picture(plane: tuple[np.ndarray, np.ndarray] | None, finding: Finding) -> str | None:
    # matplotlib takes a second to import, and most checks find nothing.
    from unet_core.groundtruth.check.figures import outline_picture

    return None if plane is None else outline_picture(*plane, finding.voxel[1:] if finding.voxel else None)


def main(arguments: list[str]) -> None:
    """Print what the last check of each annotated data set found; errors end with status 1."""
    if len(arguments) != 1:
        sys.exit("usage: python -m unet_core check CONFIG")
    path = arguments[0]
    cfg = parse_config(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    errors = 0
    for name in (name for name, dataset in cfg.datasets.items() if dataset.annotations):
        folder = Path(expand(cfg.results)) / "groundtruth" / f"{name}.check"
        try:
            with (folder / "findings.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError:
            print(f"{name}: was not checked yet")
            continue
        errors += sum(row["level"] == "error" for row in rows)
        print(f"{name}: {len(rows)} things to look at{': ' + str(folder / 'check.html') if rows else ''}")
        for row in rows[:MAX_PRINTED_LINES]:
            place = f" (z {row['z']}, y {row['y']}, x {row['x']})" if row["z"] else ""
            print(f"  {row['level']}, {row['kind']}: {row['sample']}{place} {row['text']}".rstrip())
        if len(rows) > MAX_PRINTED_LINES:
            print(f"  and {len(rows) - MAX_PRINTED_LINES} more, in {folder / 'findings.csv'}")
    sys.exit(1 if errors else 0)
