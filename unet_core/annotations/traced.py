"""Outlines of labelled objects, for the formats that store shapes: along the sides of pixels, so that none is lost.

What `raster.polygon` covers of an outline is the object again, pixel by pixel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

Corner = tuple[int, int]


class Traced(NamedTuple):
    """An object of a plane.

    Attributes
    ----------
    number : int
        Its label.
    class_name : str or None
        Its class, where it is known.
    origin : tuple of int
        Row and column at which `mask` begins.
    mask : ndarray of bool, shape (y, x)
        Its pixels, in its bounding box.
    """

    number: int
    class_name: str | None
    origin: tuple[int, int]
    mask: np.ndarray

    @property
    def parts(self) -> list[list[np.ndarray]]:
        """Each part of the object that is connected over sides: its outline, then those of its holes.

        An outline has the corners x, y of pixels, in pixels of the whole image; the last is not the first again.
        """
        # Thousands of objects are of one part, which takes a labelling to find out.
        from scipy.ndimage import label

        components, count = label(self.mask)
        return [[ring + self.origin[::-1] for ring in _rings(components == number)] for number in range(1, count + 1)]


def traced(labels: np.ndarray, classes: Mapping[int, str] | None = None) -> Iterator[Traced]:
    """The objects of a plane, in the order of their labels.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (y, x)
        0 is background. Labels should be consecutive, or nearly so.
    classes : mapping, optional
        Label -> name of the class.
    """
    from scipy.ndimage import find_objects

    for number, box in enumerate(find_objects(labels.astype(np.int64, copy=False)), start=1):
        if box is not None:
            origin = box[0].start, box[1].start
            yield Traced(number, (classes or {}).get(number), origin, labels[box] == number)


def _rings(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of one part, the outer one first.

    Sides of pixels are followed with the object on the right. Where two pixels of the object meet at a corner alone,
    the way turns left: so it never comes to a corner twice, and holes that touch the outside are rings of their own.

    Examples
    --------
    >>> [ring.tolist() for ring in _rings(np.array([[True, True], [True, False]]))]
    [[[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]]
    """
    following = _sides(mask)
    rings = []
    while following:
        start = at = next(iter(following))
        ring, first, before = list[Corner](), following[start][0], (0, 0)
        while at != start or before == (0, 0):
            ways = following[at]
            left = before[1], -before[0]
            way = left if left in ways and len(ways) > 1 else ways[0]
            ways.remove(way)
            if not ways:
                del following[at]
            if way != before:
                ring.append(at)
            at, before = (at[0] + way[0], at[1] + way[1]), way
        # Where it began in the middle of a side, this is no corner.
        rings.append(np.array(ring[1:] if before == first else ring))
    # The outer one has the largest box.
    return sorted(rings, key=lambda ring: -int(np.ptp(ring, axis=0).prod()))


def _sides(mask: np.ndarray) -> dict[Corner, list[Corner]]:
    """From which corner (x, y) the sides of an object's pixels lead on in which direction, the object on the right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = defaultdict[Corner, list[Corner]](list)
    for beyond, (dx, dy), way in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (padded[1:-1, 2:], (1, 0), (0, 1)),  # right
        (padded[2:, 1:-1], (1, 1), (-1, 0)),  # below
        (padded[1:-1, :-2], (0, 1), (0, -1)),  # left
    ):
        for y, x in np.argwhere(inside & ~beyond).tolist():
            sides[x + dx, y + dy].append(way)
    return dict(sides)
