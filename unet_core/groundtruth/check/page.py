"""The check of a data set's annotations as files: one table of findings, one of samples, and a page with pictures."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from unet_core.blocks import ZYX, Box
from unet_core.config.datasets import Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.digest import digest
from unet_core.files import write_atomic, write_changed
from unet_core.groundtruth.canvas import Canvas, paint
from unet_core.groundtruth.check.batches import batch_numbers
from unet_core.groundtruth.check.headers import header_findings
from unet_core.groundtruth.check.lint import Finding
from unet_core.groundtruth.check.outliers import (
    absent_classes,
    batch_differences,
    by_film,
    duplicate_images,
    no_object,
    outliers,
)
from unet_core.groundtruth.check.tables import CLASS_COLUMN, FINDINGS, SAMPLES, write_table
from unet_core.groundtruth.label_volumes import MAX_WHOLE_VOXELS
from unet_core.groundtruth.samples import Sample
from unet_core.runtime import UserError
from unet_core.store.store import Result, open_image_of

logger = logging.getLogger(__name__)

# Pictures on the page: of each kind, and in all.
MAX_PICTURES_PER_KIND, MAX_PICTURES = 12, 80
# Sides, in pixels, of a picture of one place, and of one of a sample as a whole.
PLACE_SIDE, WHOLE_SIDE = 128, 640
# Kinds of findings about the data set as a whole that stand in the log too.
LOGGED = ("nothing", "absent", "axes", "pixel_size")
MEANINGS = {
    "nothing": "a data set that is annotated and has no object",
    "file": "an image or annotation that cannot be read or does not fit",
    "class": "a name of a class that the data set does not have",
    "absent": "a class of the data set without a pixel in the samples for training",
    "chunks": "Zarr images of which files of chunks are not there",
    "lost": "an object that covers no pixel, or of which others leave none",
    "coordinates": "coordinates that look as if written as shares of the image (0..1)",
    "broken": "objects that cannot be read and were left out (broken: skip)",
    "grays": "a binary mask of more than two values",
    "ignored": "objects that lie wholly under the ignore mask",
    "background": "a label that looks like the background, in label images without 0",
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
    """Write ``findings.csv``, ``samples.csv`` and ``check.html``, but for those that stand there, whole, already.

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
    table = _sample_table(cfg, checked, batches, findings)
    wanted = digest(findings, table.decode(), cfg.classes, [[one.content, one.labels] for one in checked])
    samples = {one.sample.name: one.sample for one in checked}
    found = write_table(FINDINGS, [_row(name, finding, samples.get(name)) for name, finding in findings])
    for path, content in ((folder / "findings.csv", found), (folder / "samples.csv", table)):
        write_changed(path, content)
    # To paint the pictures takes longest: that they are the same is read from the page itself.
    if not _is_whole(page, wanted):
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
        html = environment.get_template("check.html.j2").render(
            dataset=store.stem,
            samples=len(checked),
            errors=sum(finding.level == "error" for _, finding in findings),
            kinds=Counter(finding.kind for _, finding in findings),
            meanings=MEANINGS,
            told="what the reader of the annotation tells",
            shown=_pictured(cfg, checked, findings, store),
            findings=len(findings),
        )
        write_atomic(page, html.encode() + _end(html.encode(), wanted))
    if findings:
        for _, finding in findings:
            if finding.kind in LOGGED:
                logger.warning("groundtruth: %s: %s", store.stem, finding.text)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(finding.kind for _, finding in findings).items())
        logger.warning(
            "groundtruth: the check of %s found %d things to look at (%s): %s", store.stem, len(findings), kinds, page
        )
    return page


def _end(html: bytes, wanted: str) -> bytes:
    """Last line of a page: the digest of all that it shows, and the checksum of what stands before."""
    return f"\n<!-- {wanted} {hashlib.blake2b(html, digest_size=10).hexdigest()} -->\n".encode()


def _is_whole(page: Path, wanted: str) -> bool:
    """Whether a page is there as it was written, and shows what is wanted."""
    content = page.read_bytes() if page.is_file() else b""
    html = content.rpartition(b"\n<!-- ")[0]
    return content == html + _end(html, wanted)


def _findings(cfg: Dataset, checked: list[Checked], batches: dict[str, str]) -> list[tuple[str, Finding]]:
    """All findings with their samples (empty: the data set), errors first."""
    counted = {one.sample.name: one.details for one in checked if "statistics" in one.details}
    statistics = {name: details["statistics"] for name, details in counted.items()}
    splits = {one.sample.name: one.sample.split for one in checked}
    films = {one.sample.name: one.sample.image.name for one in checked if one.sample.time is not None}
    found = [(one.sample.name, Finding(*finding)) for one in checked for finding in one.details.get("findings", [])]
    found += by_film(outliers(statistics), {name: film for name, film in films.items() if name in statistics})
    found += duplicate_images(
        {one.sample.name: digest(one.content, one.sample.internal, one.sample.time) for one in checked}, splits
    )
    whole = batch_differences(statistics, {name: batches[name] for name in statistics})
    # What could not be read may have objects.
    if len(counted) == sum(split != "unannotated" for split in splits.values()):
        whole += no_object(counted) or absent_classes(counted, splits, cfg.classes)
    whole += _unannotated(cfg, splits)
    details = [(one.sample, one.details["image"]) for one in checked if "image" in one.details]
    found += [("", finding) for finding in [*whole, *header_findings(cfg, details, len(checked))]]
    # Readers may tell of kinds that are not listed here.
    order = {kind: number for number, kind in enumerate(MEANINGS)}
    return sorted(found, key=lambda item: (item[1].level, order.get(item[1].kind, len(order)), item[1].kind, item[0]))


def _unannotated(cfg: Dataset, splits: dict[str, str]) -> list[Finding]:
    without = [name for name, split in splits.items() if split == "unannotated"]
    # In the Cell Tracking Challenge most frames have no mask.
    if not without or all(DESCRIPTIONS[source.format].sparse for source in cfg.annotations):
        return []
    listed = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    text = f"{len(without)} of {len(splits)} images have no annotation: {listed}"
    return [Finding("warning", "unannotated", None, text)]


def _batches(file: Path, checked: list[Checked]) -> dict[str, str]:
    """Batch of each annotated sample: the folder of its image, and at which check its annotation was new."""
    annotated = [one for one in checked if one.labels is not None]
    annotations = {one.sample.name: one.details["annotation"] for one in annotated}
    numbers = batch_numbers(file, annotations, {one.sample.name for one in checked})
    folders = len({one.sample.image.parent for one in checked}) > 1
    return {
        one.sample.name: f"{one.sample.image.parent.name}/{numbers[one.sample.name]}"
        if folders
        else str(numbers[one.sample.name])
        for one in annotated
    }


def _row(name: str, finding: Finding, sample: Sample | None) -> list[Any]:
    files = [str(file) for part in sample.annotations for file in part][:5] if sample else []
    z, y, x = finding.voxel or ("", "", "")
    return [finding.level, finding.kind, name, z, y, x, finding.text, ", ".join(files)]


def _sample_table(
    cfg: Dataset, checked: list[Checked], batches: dict[str, str], findings: list[tuple[str, Finding]]
) -> bytes:
    counts = Counter(name for name, _ in findings)
    rows = []
    for one in checked:
        details, image = one.details, one.details.get("image", {})
        shape, size = image.get("shape") or [""] * 4, image.get("pixel_size") or [""] * 3
        ignored = details["ignored"] / math.prod(shape[1:]) if "ignored" in details and shape[0] else ""
        rows.append(
            [
                *(one.sample.name, one.sample.split, batches.get(one.sample.name, "")),
                *(details.get("statistics", {}).get(key, "") for key in SAMPLES[3:7]),
                *(counts[one.sample.name], ignored, *shape, image.get("dtype") or "", *size),
                *(details.get("class_objects", {}).get(name, "") for name in cfg.classes),
            ]
        )
    return write_table([*SAMPLES, *(f"{CLASS_COLUMN}{name}" for name in cfg.classes)], rows)


def _pictured(
    cfg: Dataset, checked: list[Checked], findings: list[tuple[str, Finding]], store: Path
) -> list[dict[str, Any]]:
    """The findings that the page shows, with a picture where there is something to see."""
    by_name = {one.sample.name: one for one in checked}
    seen: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    # Samples with errors follow each other, so that each is painted once.
    painted: dict[str, Canvas] = {}
    for name, finding in findings:
        seen[finding.kind] += 1
        if seen[finding.kind] > MAX_PICTURES_PER_KIND or len(shown) == MAX_PICTURES:
            continue
        picture = None
        if name and finding.kind not in ("twin", "class"):
            one = by_name[name]
            try:
                if one.labels is None and name not in painted:
                    painted = {name: _paint(cfg, one, store)}
                picture = _picture(store, name, finding, painted.get(name))
            except (ValueError, OSError, UserError):
                pass  # an error says why there is nothing to see
        shown.append({"sample": name, "finding": finding, "picture": picture})
    return shown


def _paint(cfg: Dataset, one: Checked, store: Path) -> Canvas:
    """A sample with errors, as far as it can be painted; ValueError where it cannot, or is too large."""
    shape = open_image_of(store, one.sample.name).shape
    if math.prod(shape) > MAX_WHOLE_VOXELS:
        raise ValueError("too large to be painted for a picture")
    return paint(one.sample, cfg, "later", shape)


def _picture(store: Path, name: str, finding: Finding, canvas: Canvas | None) -> str:
    """Outlines on the image, of a place or of a plane; no more of the store is read than is shown."""
    # matplotlib takes a second to import, and most checks find nothing.
    from unet_core.groundtruth.check.figures import outline_picture

    image, labels = open_image_of(store, name), store / name / "labels" / "instances"
    if finding.voxel:
        box = _around(finding.voxel, image.shape)
        gray = image.read(box)[0, 0]
        objects = canvas.instances[box.slices][0] if canvas else Result(labels).read(box)[0]
        place = [at - start for at, start in zip(finding.voxel[1:], box.start[1:], strict=True)]
        return outline_picture(gray, objects, place, PLACE_SIDE)
    middle = image.shape[0] // 2
    gray = image.preview(middle, WHOLE_SIDE)[0]
    objects = canvas.instances[middle] if canvas else Result(labels).preview(middle, WHOLE_SIDE)
    # Image and labels may have been reduced in other ways.
    rows, columns = (np.arange(n) * m // n for n, m in zip(gray.shape, objects.shape, strict=True))
    return outline_picture(gray, objects[np.ix_(rows, columns)], None)


def _around(voxel: list[int], shape: ZYX) -> Box:
    """The surroundings of a voxel in its plane, moved so that they lie in the image."""
    sides = [min(PLACE_SIDE, length) for length in shape[1:]]
    y, x = (
        min(max(0, at - PLACE_SIDE // 2), length - side)
        for at, length, side in zip(voxel[1:], shape[1:], sides, strict=True)
    )
    return Box((voxel[0], y, x), (voxel[0] + 1, y + sides[0], x + sides[1]))
