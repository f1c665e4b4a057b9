"""Axes and channels of images, from what their files say and from their shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_core.images.readers import open_image
from unet_core.init.groups import Group
from unet_core.init.looks import Look

# Below this correlation of their gray values, neighbouring planes show different places: neither a volume nor a film.
MIN_CORRELATION = 0.4
FILM_WORDS, VOLUME_WORDS = {"film", "movie", "time", "timelapse", "frames", "video"}, {"stack", "zstack", "vol"}


class Axes(NamedTuple):
    """Axes of images.

    Attributes
    ----------
    axes : str or None
        None where they are yx anyway.
    why : str
        Where they come from.
    unsure : str
        What else they may be.
    channels : list of int or None
        Channels to use.
    why_channels : str
        Why not all.
    """

    axes: str | None
    why: str = ""
    unsure: str = ""
    channels: list[int] | None = None
    why_channels: str = ""


def axes_of(root: Path, images: Group, masks: Sequence[Look]) -> Axes:
    """Axes and channels of a group of images.

    Parameters
    ----------
    root : Path
        The folder that is looked through.
    images : Group
        Images.
    masks : sequence of Look
        Their masks, as far as these are images.
    """
    look = images.looks[0]
    told = look.header.axes
    if told and len(told) == len(look.shape) and {*"yx"} <= {*told} <= {*"tczyx"}:
        if len(told) == 2:
            return Axes(None)
        found = Axes(told, f"as the header of {images.files[0].text} says")
    elif len(look.shape) < 3:
        return Axes(None)
    else:
        found = _by_shape(root, images, masks)
    if look.colour_channels and found.axes and found.axes.endswith("c"):
        count = look.colour_channels
        if all(one.gray for one in images.looks):
            return found._replace(channels=[0], why_channels="gray that is stored as colours")
        if count == 4:
            return found._replace(channels=[0, 1, 2], why_channels="without transparency")
    return found


def _by_shape(root: Path, images: Group, masks: Sequence[Look]) -> Axes:
    look = images.looks[0]
    shape, count = look.shape, len(look.shape)
    why = f"from the shape {shape}"
    if look.colour_channels and count in (3, 4):
        if count == 3:
            return Axes("yxc", f"{why}: colours")
        return Axes("zyxc", why, "tyxc for a film in colours")
    flat = [mask.shape for mask in masks if len(mask.shape) == 2]
    if count == 3:
        if shape[1:] in flat:
            return Axes("cyx", f"{why}: masks have one plane", "")
        if shape[0] <= 4 and len(flat) == len(masks):
            return Axes("cyx", why, "zyx for a volume, tyx for a film")
        return _volume_or_film(root, images, why)
    if count == 4:
        first, second = shape[:2]
        if min(first, second) <= 4:
            axes = "czyx" if first <= second else "zcyx"
            return Axes(axes, why, f"{axes.replace('z', 't')} for a film")
        return Axes("tzyx", why, "each volume is a time point; zcyx or czyx if these are channels")
    return Axes("tczyx", why, "letters of t c z y x for each axis") if count == 5 else Axes(None)


def _volume_or_film(root: Path, images: Group, why: str) -> Axes:
    words = set(re.findall(r"[^\W\d_]+", images.files[0].text.lower()))
    if words & FILM_WORDS:
        return Axes("tyx", f"{why} and the name", "zyx for a volume")
    if not words & VOLUME_WORDS and (correlation := _correlation(root, images)) < MIN_CORRELATION:
        told = f"neighbouring pages are hardly alike (correlation {correlation:.2f}), so that each is an image"
        return Axes("tyx", f"{why}: {told}", "zyx for a volume")
    return Axes("zyx", why, "tyx for a film, or for pages that are images of their own; cyx for channels")


def _correlation(root: Path, images: Group) -> float:
    """Median correlation of neighbouring planes; 1 where it cannot be told."""
    found = []
    with open_image(root / images.files[0].text, images.internal) as opened:
        length = opened.shape[0]
        for plane in sorted({0, length // 3, length // 2, 2 * length // 3}):
            if plane + 1 < length:
                pair = np.asarray(opened[plane : plane + 2], np.float32).reshape(2, -1)
                if pair.std(1).all():
                    found.append(float(np.corrcoef(pair[0], pair[1]).flat[1]))
    return float(np.median(found)) if found else 1.0
