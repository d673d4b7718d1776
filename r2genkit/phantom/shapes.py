"""Closed-form intervals of simple solids along parallel rays.

A ray is named by its two fixed coordinates; a convex solid cuts it in one interval, so every
primitive returns ``(low, high)`` arrays of the same shape, in mm along the ray, with
``low = +BIG, high = -BIG`` where the ray misses. Lengths of unions follow from intersections
(inclusion-exclusion), which are a maximum and a minimum.

Frame: x towards the patient's left, y up, z forward (anterior), all in mm. The frontal (PA) view
integrates along z, the lateral view along x.
"""

from __future__ import annotations

import numpy as np

BIG = np.float32(1e6)
Interval = tuple[np.ndarray, np.ndarray]


def length(interval: Interval) -> np.ndarray:
    """Length of one interval, 0 where empty."""
    return np.maximum(interval[1] - interval[0], 0.0)


def overlap(*intervals: Interval) -> np.ndarray:
    """Length of the intersection of the intervals, 0 where empty."""
    low, high = intervals[0]
    for other in intervals[1:]:
        low, high = np.maximum(low, other[0]), np.minimum(high, other[1])
    return np.maximum(high - low, 0.0)


def hull(*intervals: Interval) -> Interval:
    """Smallest interval that covers all; equals the union where the parts touch."""
    low, high = intervals[0]
    for other in intervals[1:]:
        low, high = np.minimum(low, other[0]), np.maximum(high, other[1])
    return low, high


def free_length(whole: Interval, *holes: Interval) -> np.ndarray:
    """Length of ``whole`` that none of up to three holes covers (inclusion-exclusion)."""
    total = length(whole)
    cuts = [(np.maximum(whole[0], low), np.minimum(whole[1], high)) for low, high in holes]
    for index, first in enumerate(cuts):
        total = total - length(first)
        for second_index in range(index + 1, len(cuts)):
            second = cuts[second_index]
            total = total + overlap(first, second)
            for third in cuts[second_index + 1 :]:
                total = total - overlap(first, second, third)
    return np.maximum(total, 0.0)


def superellipse(
    u: np.ndarray,
    centre_u: np.ndarray,
    half_u: np.ndarray,
    centre_ray: np.ndarray,
    half_ray: np.ndarray,
    exponent: float,
) -> Interval:
    """Interval of ``|(u - cu) / hu|^p + |(r - cr) / hr|^p <= 1`` along r.

    Args:
        u: fixed coordinate ``[H, W]`` of each ray.
        centre_u, half_u, centre_ray, half_ray: broadcastable to ``[H, W]`` (rows of a stack of
            cross-sections have shape ``[H, 1]``); a half-width of 0 means no section.
        exponent: p.
    """
    q = np.abs(u - centre_u) / np.maximum(half_u, 1e-3)
    rest = 1.0 - np.minimum(q, 1.0) ** np.float32(exponent)
    inside = rest > 0.0
    half = half_ray * rest ** np.float32(1.0 / exponent)
    return np.where(inside, centre_ray - half, BIG), np.where(inside, centre_ray + half, -BIG)


def paraboloid(
    u: np.ndarray,
    height: np.ndarray,
    centre_u: float,
    curve_u: float,
    centre_ray: float,
    curve_ray: float,
    top: float,
) -> Interval:
    """Interval of the solid below ``top - a (u - cu)^2 - b (r - cr)^2`` along r.

    Args:
        u: fixed coordinate across the ray ``[H, W]``.
        height: fixed coordinate along the paraboloid's axis, broadcastable to ``[H, W]``.
        centre_u, centre_ray: where the apex lies, in mm.
        curve_u, curve_ray: a and b, in 1/mm.
        top: height of the apex, in mm.
    """
    rest = (top - curve_u * (u - centre_u) ** 2 - height) / curve_ray
    inside = rest > 0.0
    half = np.sqrt(np.maximum(rest, 0.0))
    return np.where(inside, centre_ray - half, BIG), np.where(inside, centre_ray + half, -BIG)


def rotation(about_z: float, about_y: float = 0.0, about_x: float = 0.0) -> np.ndarray:
    """Rotation matrix ``[3, 3]``: about x first, then y, then z (rad)."""
    (cz, sz), (cy, sy), (cx, sx) = [(np.cos(a), np.sin(a)) for a in (about_z, about_y, about_x)]
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return rz @ ry @ rx


class Ellipsoid:
    """A rotated ellipsoid.

    Args:
        centre: ``[3]`` mm.
        semi: semi-axes ``[3]`` mm.
        matrix: rotation ``[3, 3]`` from the ellipsoid's own axes to the patient's, or None.
    """

    def __init__(self, centre, semi, matrix: np.ndarray | None = None) -> None:
        self.centre = np.asarray(centre, float)
        self.semi = np.asarray(semi, float)
        matrix = np.eye(3) if matrix is None else matrix
        self.form = matrix @ np.diag(self.semi**-2.0) @ matrix.T
        self.reach = np.sqrt(np.diag(matrix @ np.diag(self.semi**2.0) @ matrix.T))

    def contains(self, points: np.ndarray, grow: float = 1.0) -> np.ndarray:
        """Whether points ``[N, 3]`` lie inside the ellipsoid scaled by ``grow``."""
        offset = points - self.centre
        return np.einsum("ni,ij,nj->n", offset, self.form, offset) <= grow**2

    def interval(self, ray: int, u: np.ndarray, v: np.ndarray) -> Interval:
        """Interval along axis ``ray`` (0 = x, 2 = z).

        Args:
            ray: axis that the rays run along.
            u: the other horizontal coordinate ``[H, W]``.
            v: height y, broadcastable to ``[H, W]``.
        """
        across = 2 - ray
        q, c = self.form, self.centre
        du, dv = u - np.float32(c[across]), v - np.float32(c[1])
        a = np.float32(q[ray, ray])
        b = np.float32(q[ray, across]) * du + np.float32(q[ray, 1]) * dv
        rest = (
            np.float32(q[across, across]) * du * du
            + np.float32(2 * q[across, 1]) * du * dv
            + np.float32(q[1, 1]) * dv * dv
            - np.float32(1.0)
        )
        disc = b * b - a * rest
        inside = disc > 0.0
        root = np.sqrt(np.maximum(disc, 0.0))
        middle = np.float32(c[ray])
        return (
            np.where(inside, middle + (-b - root) / a, BIG),
            np.where(inside, middle + (-b + root) / a, -BIG),
        )

    def window(self, ray: int, u: np.ndarray, v: np.ndarray) -> tuple[slice, slice] | None:
        """Rows and columns of the grid that the ellipsoid can touch; None if it misses."""
        across = 2 - ray
        row = np.abs(v[:, 0] - self.centre[1]) <= self.reach[1]
        if not row.any():
            return None
        rows = slice(int(row.argmax()), len(row) - int(row[::-1].argmax()))
        column = (np.abs(u[rows] - self.centre[across]) <= self.reach[across]).any(axis=0)
        if not column.any():
            return None
        return rows, slice(int(column.argmax()), len(column) - int(column[::-1].argmax()))


def empty(shape: tuple[int, int]) -> Interval:
    """An interval that misses everywhere."""
    return np.full(shape, BIG, np.float32), np.full(shape, -BIG, np.float32)


def grow_hull(target: Interval, solid: Ellipsoid, ray: int, u: np.ndarray, v: np.ndarray) -> None:
    """Extend ``target`` in place to cover the ellipsoid, working on its window only."""
    window = solid.window(ray, u, v)
    if window is None:
        return
    low, high = solid.interval(ray, u[window], v[window[0]])
    np.minimum(target[0][window], low, out=target[0][window])
    np.maximum(target[1][window], high, out=target[1][window])
