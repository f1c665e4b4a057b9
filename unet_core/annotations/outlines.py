"""Outlines of ImageJ's ROIs whose files hold less than the outline: splines, ellipses, turned rectangles, paths.

Each function gives the polygon that ImageJ fills, so that the same pixels are covered as on its screen. What ImageJ
does stands in its public source (``ij/gui/PolygonRoi.java``, ``EllipseRoi.java``, ``RotatedRectRoi.java``,
``ShapeRoi.java`` and ``ij/measure/SplineFitter.java`` of github.com/imagej/ImageJ).
"""

from __future__ import annotations

import numpy as np

# Points with which a closed spline is continued at its ends, corners of an ellipse, and fewest points of a spline.
CONTINUED, ELLIPSE_CORNERS, FEWEST_POINTS = 7, 72, 100
# More points than these make no outline that a person drew or a program traced.
MOST_POINTS = 2**22
# Steps with which a curve of a path is drawn: off by less than a hundredth of a pixel for curves of 1,000 pixels.
STEPS = 64


def spline(points: np.ndarray) -> np.ndarray:
    """The closed curve that "Fit Spline" draws through the control points of a polygon.

    ImageJ interpolates x and y by cubic splines of a parameter that grows by the square root of the distance from
    point to point. It closes the curve by going on for seven points at either end (or for all of a smaller polygon),
    beyond which the second derivatives are 0, and draws straight lines between at least 100 points on it, one for two
    pixels of the polygon's length.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Control points x, y in pixels, n of at least 3.

    Returns
    -------
    ndarray, shape (m, 2)
        Corners of the polygon that is filled.

    Raises
    ------
    ValueError
        If coordinates are not finite, or the outline is longer than any that a person draws.
    """
    closed = np.vstack([points, points[:1]]).astype(np.float64)
    distance = np.hypot(*np.diff(closed, axis=0).T)
    length = float(distance.sum())
    if not np.isfinite(length) or length > 2 * MOST_POINTS:
        raise ValueError("its control points are too far from each other for a spline")
    knots = np.r_[0, np.cumsum(np.maximum(np.sqrt(distance), 1e-3))]
    more = min(CONTINUED, len(points))
    longer = np.r_[knots[-1 - more : -1] - knots[-1], knots, knots[1 : more + 1] + knots[-1]]
    through = np.vstack([closed[-1 - more : -1], closed, closed[1 : more + 1]])
    from scipy.interpolate import CubicSpline

    return CubicSpline(longer, through, bc_type="natural")(
        np.linspace(0, knots[-1], max(FEWEST_POINTS, int(length / 2)))
    )


def ellipse(ends: np.ndarray, ratio: float) -> np.ndarray:
    """The 72 corners that ImageJ gives an ellipse of the tool "Elliptical selection".

    Parameters
    ----------
    ends : ndarray, shape (2, 2)
        Both ends of the major axis, x and y in pixels.
    ratio : float
        Minor axis over major axis; it counts as one of 0 to 1.

    Returns
    -------
    ndarray, shape (72, 2)
        Corners x, y.
    """
    along = (ends[1] - ends[0]) / 2
    across = np.array([-along[1], along[0]]) * min(max(ratio, 0.0), 1.0)
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)[:, None]
    return ends.mean(axis=0) + np.cos(angle) * along + np.sin(angle) * across


def turned_rectangle(ends: np.ndarray, width: float) -> np.ndarray:
    """Corners of a rectangle of the tool "Rotated rectangle".

    Parameters
    ----------
    ends : ndarray, shape (2, 2)
        Middles of two opposite sides, x and y in pixels.
    width : float
        Length of these sides in pixels.

    Returns
    -------
    ndarray, shape (4, 2)
        Corners x, y.
    """
    along = ends[1] - ends[0]
    across = np.array([-along[1], along[0]]) * (width / 2 / np.hypot(*along))
    return np.array([ends[0] + across, ends[1] + across, ends[1] - across, ends[0] - across])


def rings(path: np.ndarray) -> list[np.ndarray]:
    """Rings of a composite ROI, whose file holds a path of Java: moves, lines, curves and ends of rings.

    Parameters
    ----------
    path : ndarray, 1D
        Commands, each with its coordinates: 0 move (x, y), 1 line (x, y), 2 quadratic curve (x, y of a control point
        and of the end), 3 cubic curve (two control points and the end), 4 close.

    Returns
    -------
    list of ndarray, shape (n, 2)
        Rings of at least three points; curves are made of short lines.

    Raises
    ------
    ValueError
        If the path is cut short, or a command has no meaning.
    """
    values, at = path.astype(np.float64).tolist(), 0
    found, ring = list[list[list[float]]](), list[list[float]]()
    numbers = {0: 2, 1: 2, 2: 4, 3: 6, 4: 0}
    while at < len(values):
        command, count = values[at], numbers.get(values[at])
        end = at + 1 + (count or 0)
        if count is None or end > len(values) or (count > 2 and not ring):
            raise ValueError(f"number {at + 1} of its path ({command:g}) has no meaning there; is the file complete?")
        drawn = [values[start : start + 2] for start in range(at + 1, end, 2)]
        if command == 0:
            found.append(ring)
            ring = drawn
        elif count > 2:
            ring += _curve(np.array([ring[-1], *drawn]))
        elif command == 4:
            found.append(ring)
            ring = ring[:1]  # where a path that goes on without a move begins anew
        else:
            ring += drawn
        at = end
    return [np.array(one) for one in [*found, ring] if len(one) > 2]


def path_of(ring: np.ndarray) -> np.ndarray:
    """A ring of a composite ROI as `rings` reads it: a move to its first point, lines to the others, and its end.

    Examples
    --------
    >>> path_of(np.array([[1, 2], [3, 2], [3, 4]])).tolist()
    [0, 1, 2, 1, 3, 2, 1, 3, 4, 4]
    """
    commands = np.ones((len(ring), 1), ring.dtype)
    commands[0] = 0
    return np.append(np.hstack([commands, ring]).ravel(), 4)


def _curve(control: np.ndarray) -> list[list[float]]:
    """Points of a Bezier curve after its first, by de Casteljau's rule."""
    share = np.linspace(0, 1, STEPS + 1)[1:, None, None]
    points = np.repeat(control[None], STEPS, axis=0)
    while points.shape[1] > 1:
        points = points[:, :-1] * (1 - share) + points[:, 1:] * share
    return points[:, 0].tolist()
