"""What files of annotations mean: sources of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unet_core.init.groups import OBJECT_WORDS, Group
from unet_core.init.looks import Masks, masks_of
from unet_core.init.paths import Way, is_for_all, joined

# Share of pixels above which a mask shows what is between membranes rather than single objects.
MIN_INTERIOR = 0.6
SEEN = {
    "labels": "whole numbers, the same in all of an object",
    "binary": "two values: objects that touch are one",
    "smooth": "two values and smoothed edges between them: objects that touch are one",
    "colours": "few colours, one for each class: objects of a class that touch are one",
    "classes": "few gray values with several objects each, so that they are classes: "
    "objects of a class that touch are one",
}


@dataclass
class Source:
    """A source of annotations as it may stand in a configuration.

    Attributes
    ----------
    keys : dict
        What stands in the configuration.
    why : str
        What it was recognised by.
    unsure : dict
        Key -> what else may be meant.
    classes : list of str
        Names of classes that it needs.
    rank : float
        How much it says of objects: of several sources of the same images the first by this is taken.
    """

    keys: dict[str, Any]
    why: str
    unsure: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    rank: float = 2.0


def sources_of(way: Way, root: str) -> list[Source]:
    """Sources that the annotations of a way are; none where they are nothing that is known."""
    group = way.groups[0]
    path = joined(root, way.path, group.internal if group.format != "ilastik" else "")
    if is_for_all(group.format):
        files = [file for one in way.groups for file in one.files]
        texts = [joined(root, (*file.folder, file.name)) for file in files]
        return [Source({"format": group.format, "path": text}, "by its content") for text in texts]
    if group.format and group.format != "ilastik":
        return [Source({"format": group.format, "path": path}, "by the content of the files")]
    if group.format == "ilastik":
        return [_ilastik(path, way)]
    looks = [look for one in way.groups for look in one.looks]
    if not looks or any(look.kind in ("image", "unseen") for look in looks):
        return []
    if way.many:
        one_object = all(look.kind == "binary" for look in looks)
        return [Source({"format": "masks", "path": path}, "a file for each object, of two values")] * one_object
    return [_of_pixels(path, masks_of(looks), group)]


def _ilastik(path: str, way: Way) -> Source:
    if any("segmentation" in name.lower() for group in way.groups for name in group.names):
        table = {"1": "cell", "2": "background"}
        return Source(
            {"format": "ilastik", "path": path, "classes": table},
            "an array exported_data of classes",
            {"classes": "which of ilastik's labels is which"},
            ["cell"],
            1.0,
        )
    return Source({"format": "ilastik", "path": path}, "an array exported_data of whole numbers")


def _of_pixels(path: str, masks: Masks, group: Group) -> Source:
    """The source for masks with one file per image."""
    words = 0.5 if any(word in group.text.lower() for word in OBJECT_WORDS) else 0.0
    if masks.kind in ("colours", "classes"):
        return _classes(path, masks)
    source = Source({"format": "labels", "path": path}, SEEN[masks.kind], rank=2.0 + words)
    if masks.kind != "labels":
        source.keys["format"] = "binary"
        source.rank = 1.0 + words
        if masks.kind == "smooth":
            source.keys["threshold"] = (masks.values[0] + masks.values[-1]) // 2
            source.unsure["threshold"] = "the middle between the two values"
        elif masks.inverted:
            source.keys["background"] = masks.values[-1]
            source.unsure["background"] = (
                f"{masks.foreground:.0%} of the pixels have this value, and those that are 0 lie in many parts; "
                "without it, 0 is background"
            )
        elif masks.foreground > MIN_INTERIOR and masks.background is None:
            source.keys["format"] = "boundaries"
            source.unsure["format"] = (
                f"{masks.foreground:.0%} of the pixels are not 0, as between membranes; binary for masks of objects"
            )
    elif group.affix[1].endswith("_cp_masks") or all(stem.endswith("_cp_masks") for stem in group.stems):
        source.keys["format"] = "cellpose"
    if masks.background is not None:
        source.keys["background"] = masks.background
        source.unsure["background"] = "no pixel is 0, and most have this value; without it, this is an object too"
    if masks.ignored is not None:
        source.keys["ignore_label"] = masks.ignored
        source.unsure["ignore_label"] = "this value stands apart from the numbers of the objects"
    return source


def _classes(path: str, masks: Masks) -> Source:
    form = "#{:06x}" if masks.kind == "colours" else "{}"
    values = [value for value in masks.values if value not in (0, masks.background)]
    names = {form.format(value): f"class{number}" for number, value in enumerate(values, start=1)}
    table = dict(names)
    if masks.background:
        table[form.format(masks.background)] = "background"
    if masks.ignored is not None:
        table[form.format(masks.ignored)] = "ignore"
    unsure = "names of the classes; ignore and background are such, too"
    if masks.each:
        table = {key: "background" if name == "background" else "cell" for key, name in table.items()}
        names = dict.fromkeys(names, "cell")
        unsure = "each colour is one part in each file, as of an object; if colours are classes, name these"
    return Source(
        {"format": "colours", "path": path, "classes": table},
        SEEN[masks.kind],
        {"classes": unsure},
        list(names.values()),
        1.0,
    )
