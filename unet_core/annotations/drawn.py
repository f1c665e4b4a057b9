"""What the formats of drawn objects share: objects that cannot be read, coordinates, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from unet_core.annotations.layer import Images, Told, modified
from unet_core.config.datasets import Annotation

# Of many objects with a problem so many are shown.
SHOWN = 3


class Drawn:
    """The drawn objects of one image while they are read.

    Parameters
    ----------
    source : Annotation
        Whether objects that cannot be read are an error or left out (``broken``).
    size : tuple of int
        Height and width of the image.
    where : str
        Names the files in messages.
    """

    def __init__(self, source: Annotation, size: tuple[int, int], where: str) -> None:
        self._skip = source.broken == "skip"
        self._size, self._where = size, where
        self._objects = 0
        self._problems: list[str] = []
        self._low, self._high = np.inf, -np.inf

    @contextmanager
    def object(self) -> Iterator[None]:
        """Read one object inside of this: a ValueError is remembered where broken objects are left out."""
        self._objects += 1
        try:
            yield
        except ValueError as error:
            if not self._skip:
                raise
            self._problems.append(str(error))

    def saw(self, points: ArrayLike) -> ArrayLike:
        """Take note of the coordinates of an object, in any form of array; they come back as they are."""
        values = np.asarray(points, np.float64)
        if values.size:
            self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        return points

    def told(self) -> Iterator[Told]:
        """What is to be told once all objects were read.

        Raises
        ------
        ValueError
            If objects that cannot be read are left out, and none is left: the image is not empty.
        """
        if self._problems:
            first, more = "; ".join(self._problems[:SHOWN]), len(self._problems) - SHOWN
            text = f"{len(self._problems)} of {self._objects} objects cannot be read ({first}" + (
                f"; and {more} more)" if more > 0 else ")"
            )
            if len(self._problems) == self._objects:
                raise ValueError(f"{self._where}: {text}, so that nothing is left; mend the file, or leave it out")
            yield Told("broken", f"{self._where}: {text}; they are left out, as broken: skip says")
        if 0 <= self._low <= self._high <= 1 and max(self._size) > 2:
            yield Told(
                "coordinates",
                f"{self._where}: all coordinates lie between 0 and 1, but the image has {self._size[0]} x "
                f"{self._size[1]} pixels; they must be in pixels and look like fractions of the image: "
                "multiply x by its width and y by its height",
            )


def complete(parts: list[np.ndarray | None]) -> list[np.ndarray]:
    """The parts of an object; none if one of them, which is None then, could not be read."""
    known = [part for part in parts if part is not None]
    return known if len(known) == len(parts) else []


def beyond(
    found: dict[int, tuple[Path, ...]],
    images: Images,
    frames: Callable[[Path, int], Iterable[tuple[str, int | None]]],
) -> list[str]:
    """Objects of films that lie beyond the last frame, which no image would ask for.

    Parameters
    ----------
    found : dict
        Files by the position of their image.
    images : list
        The images.
    frames : callable
        Gives, of a file and the time when it was written, the name of each object and its frame from 1, or None where
        it has none that can be read.

    Returns
    -------
    list of str
        File, object and frame of each.
    """
    last: dict[Path, int] = {}
    for position, files in found.items():
        time = images[position].time
        if time is not None:
            last |= {file: max(last.get(file, 0), time + 1) for file in files}
    return [
        f"{file}: {name} (in frame {frame}; the film has {count})"
        for file, count in last.items()
        for name, frame in frames(file, modified(file))
        if frame is not None and frame > count
    ]
