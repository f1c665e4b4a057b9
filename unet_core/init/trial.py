"""A proposed data set, tried: its samples are listed and some of its annotations painted, as the pipeline does it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastremap
from pydantic import ValidationError

from unet_core.annotations.classes import UnknownClasses
from unet_core.config.datasets import Annotation, Dataset
from unet_core.config.formats import DESCRIPTIONS
from unet_core.groundtruth.canvas import Canvas, paint
from unet_core.groundtruth.samples import Sample, find_samples
from unet_core.images.readers import open_image, to_czyx
from unet_core.init.groups import Group
from unet_core.init.sources import Source
from unet_core.init.survey import spread

# Annotated images of which the annotation is read: of images, and of drawn shapes.
READ, READ_SHAPES = 3, 20
# Voxels above which an image is not read for a trial.
MAX_VOXELS = 2**27
# Stands for the first class while the names of classes in annotations are not known.
UNNAMED = "unnamed"
TEST_WORDS, VALIDATION_WORDS = {"test", "testing", "heldout"}, {"val", "valid", "validation", "dev"}
# Names of samples that are listed in a split.
MAX_LISTED = 60


@dataclass
class Trial:
    """A proposed data set and what came out when it was tried.

    Attributes
    ----------
    images : Group
        The images.
    keys : dict
        The data set, as it stands in a configuration.
    sources : list of Source
        Its annotations.
    unsure : dict
        Key -> what else may be meant.
    why : dict
        Key -> where it comes from.
    problems : list of str
        What is wrong with it.
    notes : list of str
        What else has to be told.
    samples, annotated : int
        How many images it has, and how many of them are annotated.
    overlapping : int
        Pixels of several objects in the annotations that were read.
    objects : int
        Objects in these.
    used : list of Group
        Groups of files whose annotations it has.
    near : int
        How many folders images and annotations have in common.
    """

    images: Group
    keys: dict[str, Any]
    sources: list[Source] = field(default_factory=list)
    unsure: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: int = 0
    annotated: int = 0
    overlapping: int = 0
    objects: int = 0
    used: list[Group] = field(default_factory=list)
    near: int = 0

    @property
    def rank(self) -> tuple[bool, int, float, float]:
        """What makes it better than others: no problems, near its images, objects rather than areas, more images."""
        share = self.annotated / self.samples if self.samples else 0.0
        return not self.problems, self.near, max((source.rank for source in self.sources), default=0.0), share


def attempt(trial: Trial) -> Trial:
    """Try a data set: list its samples, mend what can be mended by options, and read some annotations."""
    trial.keys["annotations"] = [source.keys for source in trial.sources]
    if named := [name for source in trial.sources for name in source.classes]:
        trial.keys["classes"] = list(dict.fromkeys(named))
    try:
        samples = _settled(trial)
    except ValidationError as error:
        trial.problems.append(str(error.errors()[0]["msg"]))
        return trial
    except (ValueError, OSError) as error:
        trial.problems.append(str(error))
        return trial
    annotated = [sample for sample in samples if sample.split != "unannotated"]
    trial.samples, trial.annotated = len(samples), len(annotated)
    if trial.annotated and not trial.problems:
        _read(trial, annotated)
    return trial


def _settled(trial: Trial) -> list[Sample]:
    """The samples of the data set, after options were set for what is usual."""
    samples, problems = find_samples(Dataset.model_validate(trial.keys))
    if len(trial.sources) > 1:
        # Of files for many images those stay that have some of these.
        trial.keys["sources"] = "first"
        used = [source for source in trial.sources if _annotates(trial, source)]
        trial.sources = used or trial.sources[:1]
        trial.keys["annotations"] = [source.keys for source in trial.sources]
        if len(trial.sources) == 1:
            del trial.keys["sources"]
        samples, problems = find_samples(Dataset.model_validate(trial.keys))
    if any("unmatched: allow" in line for line in problems):
        trial.keys["unmatched"] = "allow"
        told = "; ".join(line.partition(": ")[2].rpartition("; add it")[0] for line in problems if "unmatched" in line)
        trial.unsure["unmatched"] = f"{told}; error tells this before any work"
        samples, problems = find_samples(Dataset.model_validate(trial.keys))
    if samples and _split_by_folders(trial, samples):
        samples, problems = find_samples(Dataset.model_validate(trial.keys))
    for _ in range(3):
        wrong = {line.partition(":")[0] for line in problems if line.startswith("split.")}
        if not wrong or not samples:
            break
        _split_small(trial, [sample for sample in samples if sample.split != "unannotated"], wrong)
        samples, problems = find_samples(Dataset.model_validate(trial.keys))
    trial.problems += problems
    return _with_training(trial, samples)


def _annotates(trial: Trial, source: Source) -> bool:
    """Whether a source has annotations of any of the images."""
    alone = trial.keys | {"annotations": [source.keys], "unmatched": "allow"}
    return any(sample.annotations[0] for sample in find_samples(Dataset.model_validate(alone))[0])


def _with_training(trial: Trial, samples: list[Sample]) -> list[Sample]:
    """The samples, some of which are for training where one is annotated."""
    for part in ("validation", "test"):
        annotated = [sample for sample in samples if sample.split != "unannotated"]
        if not annotated or any(sample.split == "train" for sample in annotated):
            break
        trial.keys.setdefault("split", {})[part] = 0
        trial.unsure["split"] = f"else none of the annotated images ({len(annotated)}) is for training; annotate more"
        samples = find_samples(Dataset.model_validate(trial.keys))[0]
    return samples


def _split_by_folders(trial: Trial, samples: Sequence[Sample]) -> bool:
    """Set splits as folders say, as in train/images and test/images; whether there are any."""
    differing = [depth for depth, part in enumerate(trial.images.folder) if part is None]
    parts: dict[str, list[str]] = {"test": [], "validation": []}
    for sample in samples:
        folders = sample.image.parts[-len(trial.images.folder) - 1 : -1] if trial.images.folder else ()
        words = {folders[depth].lower() for depth in differing}
        for part, known in (("test", TEST_WORDS), ("validation", VALIDATION_WORDS)):
            if words & known and sample.split != "unannotated":
                parts[part].append(sample.name)
    for part, names in parts.items():
        if not names:
            continue
        if patterns := _patterns(names, [sample.name for sample in samples]):
            trial.keys.setdefault("split", {})[part] = patterns
            trial.why["split"] = "from the names of the folders"
        else:
            trial.notes.append(
                f"there is a folder for {part}, but no few patterns fit the names of its {len(names)} images alone: "
                f"images go to {part} by chance; write a list of names into split"
            )
    return "split" in trial.keys


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Names, or a pattern that fits these and no others; empty where there are too many."""
    first = Path(names[0]).name
    common = next(
        first[:length] for length in range(len(first), -1, -1) if all(name.startswith(first[:length]) for name in names)
    )
    literal = not re.search(r"[*?\[]", common)
    if common and literal and {name for name in others if name.startswith(common)} == {*names} and len(names) > 3:
        return [f"{common}*"]
    return list(names) if len(names) <= MAX_LISTED else []


def _split_small(trial: Trial, annotated: Sequence[Sample], wrong: set[str]) -> None:
    """Splits where shares are none of the samples: the end of a film, or nothing."""
    split = trial.keys.setdefault("split", {})
    names = [sample.name for sample in annotated]
    if len(annotated) >= 4 and len({sample.group for sample in annotated}) == 1:
        test = max(1, round(0.2 * len(names)))
        validation = max(1, round(0.1 * len(names)))
        split |= {"test": names[-test:], "validation": names[-test - validation : -test]}
        trial.unsure["split"] = "all images are of one file, and neighbours look alike: its end is kept from training"
        return
    for part in ("test", "validation"):
        if f"split.{part}" in wrong or len(names) == 1:
            split[part] = 0
    empty = " and ".join(part for part in ("test", "validation") if split.get(part) == 0)
    trial.unsure["split"] = f"too few annotated images ({len(names)}) for {empty}; annotate more"


def _read(trial: Trial, annotated: Sequence[Sample]) -> None:
    """Paint the annotations of some samples, and note classes, overlaps and what goes wrong."""
    formats = {source.keys["format"] for source in trial.sources}
    with_names = any(DESCRIPTIONS[name].classes for name in formats) and "classes" not in trial.keys
    images = all(source.keys["format"] in ("labels", "binary", "boundaries", "colours") for source in trial.sources)
    chosen = spread(annotated, READ if images else READ_SHAPES)
    cfg = Dataset.model_validate(trial.keys | ({"classes": [UNNAMED]} if with_names else {}))
    names, unnamed, skipped, wrong = dict[str, None](), False, 0, list[str]()
    for sample in chosen:
        try:
            with open_image(sample.image, sample.internal) as opened:
                shape = to_czyx(opened, sample.axes, sample.time).shape[1:]
            if math.prod(shape) > MAX_VOXELS:
                skipped += 1
                continue
            try:
                canvas = paint(sample, cfg, "error", shape)
            except UnknownClasses as error:
                names |= dict.fromkeys(error.names)
                known = [UNNAMED, *(name for name in names if re.fullmatch(r"[\w-]+", name))]
                table = {name: UNNAMED for name in names if name not in known}
                canvas = paint(sample, _with_classes(cfg, known, table), "error", shape)
                unnamed |= bool((canvas.classes == 1).any()) and not table
            else:
                unnamed |= bool((canvas.classes == 1).any())
            _note(trial, canvas)
        except (ValueError, OSError) as error:
            wrong.append(str(error) if str(sample.image) in str(error) else f"{sample.name}: {error}")
    if wrong:
        more = f" (and {len(wrong) - 1} more of the {len(chosen)} that were read)" if len(wrong) > 1 else ""
        trial.problems.append(f"{wrong[0]}{more}")
    if skipped:
        trial.notes.append(f"{skipped} images of more than {MAX_VOXELS:,} voxels were not read")
    if with_names and names:
        _name_classes(trial, list(names), unnamed, len(chosen), len(annotated))
    if not trial.objects and not trial.problems and not skipped:
        trial.notes.append(f"no object in the {len(chosen)} annotations that were read")


def _with_classes(cfg: Dataset, classes: list[str], table: dict[str, str]) -> Dataset:
    sources = [one.model_copy(update={"classes": {**one.classes, **table}}) for one in cfg.annotations]
    return cfg.model_copy(update={"classes": classes, "annotations": sources})


def _note(trial: Trial, canvas: Canvas) -> None:
    trial.overlapping += canvas.overlapping
    trial.objects += int((fastremap.unique(canvas.instances) > 0).sum())


def _name_classes(trial: Trial, names: list[str], unnamed: bool, read: int, annotated: int) -> None:
    """Write the classes that annotations name into the data set."""
    classes, table = list[str](), dict[str, str]()
    for name in names:
        plain = re.sub(r"[^\w-]+", "_", name).strip("_") or f"class{len(classes) + 1}"
        if plain != name:
            table[name] = plain
        classes.append(plain)
    trial.keys["classes"] = list(dict.fromkeys([*(["cell"] if unnamed else []), *classes]))
    if table:
        for source in trial.sources:
            source.keys["classes"] = table
    trial.why["classes"] = "as the annotations name them"
    if read < annotated:
        trial.unsure["classes"] = f"those in the annotations of {read} of {annotated} images"


def fields_of(key: str) -> str:
    """What the configuration says of an option of a data set, or of a source of annotations."""
    model = Dataset if key in Dataset.model_fields else Annotation
    return model.model_fields["class_" if key == "class" else key].description or ""
