"""Thin and focal objects as points of known mass, projected in the Fourier domain.

Every point is a small solid ball or a Gaussian of one of a few radii. Points of one radius are
deposited bilinearly on the pixel grid and convolved with the exact projection of that ball:
the line integral of a solid ball of unit mass and radius a has the two-dimensional Fourier
transform ``3 (sin k a - k a cos k a) / (k a)^3`` (projection-slice theorem), a Gaussian of SD s
has ``exp(-(k s)^2 / 2)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

BALL_RADII = (0.7, 1.05, 1.5, 2.1, 2.9, 3.9, 5.0, 6.2, 8.0)
GAUSS_SIGMAS = (2.4, 3.6, 5.2, 8.0, 13.0)
CLASSES = len(BALL_RADII) + len(GAUSS_SIGMAS)
_LOG_BALL = np.log(np.array(BALL_RADII))
_LOG_GAUSS = np.log(np.array(GAUSS_SIGMAS))
_BALL_EDGES = (_LOG_BALL[1:] + _LOG_BALL[:-1]) / 2
_GAUSS_EDGES = (_LOG_GAUSS[1:] + _LOG_GAUSS[:-1]) / 2


@dataclass
class Points:
    """Point masses.

    Attributes:
        xyz: positions ``[N, 3]`` in mm.
        mass: attenuation times volume ``[N]`` in mm^2 (1/mm x mm^3); negative = less dense.
        kind: index ``[N]`` into the radius classes.
        frontal, lateral: whether the points belong to the view.
    """

    xyz: np.ndarray
    mass: np.ndarray
    kind: np.ndarray
    frontal: bool = True
    lateral: bool = True


def balls(xyz, radius, mass, **views) -> Points:
    """Solid balls; ``radius`` and ``mass`` broadcast over the points."""
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    kind = np.searchsorted(_BALL_EDGES, np.log(np.maximum(np.asarray(radius, float), 1e-6)))
    return Points(xyz, _spread(mass, len(xyz)), _spread(kind, len(xyz)).astype(np.int64), **views)


def gaussians(xyz, sigma, mass, **views) -> Points:
    """Gaussian blobs; ``sigma`` and ``mass`` broadcast over the points."""
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    kind = len(BALL_RADII) + np.searchsorted(_GAUSS_EDGES, np.log(np.asarray(sigma, float)))
    return Points(xyz, _spread(mass, len(xyz)), _spread(kind, len(xyz)).astype(np.int64), **views)


def tube(path, radius, mu, **views) -> Points:
    """A wire or pipe along a polyline ``[..., N, 3]``: mass per point = mu pi r^2 ds.

    The mass is that of a cylinder; the profile of the chain of balls is ``1 - (d / r)^2`` with
    its peak at .375 pi = 1.18 times the cylinder's.

    Args:
        path: points in mm along the last but one axis, spaced about a pixel; leading axes are
            separate tubes.
        radius: mm, broadcastable to ``[..., N]``.
        mu: attenuation in 1/mm, broadcastable likewise.
        views: ``frontal=False`` or ``lateral=False`` keeps the points out of a view.
    """
    path = np.asarray(path, np.float32)
    step = np.linalg.norm(np.diff(path, axis=-2), axis=-1)
    ds = np.concatenate([step[..., :1], step[..., 1:] + step[..., :-1], step[..., -1:]], -1) / 2
    ds[..., 0], ds[..., -1] = step[..., 0] / 2, step[..., -1] / 2
    radius = np.broadcast_to(np.asarray(radius, np.float32), ds.shape)
    mass = np.asarray(mu, np.float32) * np.pi * radius**2 * ds
    return balls(path.reshape(-1, 3), radius.ravel(), mass.ravel(), **views)


def hollow_tube(path, radius, mu, marrow: float = 0.92, **views) -> list[Points]:
    """A bone shaft: a tube minus ``marrow`` of an inner tube of .8 of its radius.

    Chains of balls have a parabolic profile, so with a marrow above .85 the rims are brighter
    than the middle, as the cortex of a rib is.
    """
    radius = np.asarray(radius, np.float32)
    mu = np.asarray(mu, np.float32)
    return [tube(path, radius, mu, **views), tube(path, 0.8 * radius, -marrow * mu, **views)]


def polyline(knots, spacing: float = 1.2) -> np.ndarray:
    """Smooth path ``[N, 3]`` through the knots (Catmull-Rom), about ``spacing`` mm apart."""
    knots = np.asarray(knots, float)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:]):
        count = max(2, int(np.linalg.norm(c - b) / spacing))
        t = np.linspace(0, 1, count, endpoint=False)[:, None]
        pieces.append(
            b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        )
    return np.concatenate([*pieces, knots[-1:]])


_K_MAX = 6.5  # 1/mm; beyond the corner frequency of the finest grid in use
_K_BINS = 6000


@lru_cache(maxsize=1)
def _kernels() -> np.ndarray:
    """Transfer functions ``[classes, bins]`` on an even grid of spatial frequencies."""
    k = np.linspace(0.0, _K_MAX, _K_BINS)
    columns = []
    for radius in BALL_RADII:
        ka = np.maximum(k * radius, 1e-3)
        columns.append(3 * (np.sin(ka) - ka * np.cos(ka)) / ka**3)
    columns += [np.exp(-0.5 * (k * sigma) ** 2) for sigma in GAUSS_SIGMAS]
    return np.stack(columns).astype(np.float32)


@lru_cache(maxsize=8)
def _frequencies(padded: int) -> np.ndarray:
    """Radial frequency ``[padded, padded // 2 + 1]`` in radians per pixel."""
    ky = 2 * np.pi * scipy.fft.fftfreq(padded)
    kx = 2 * np.pi * scipy.fft.rfftfreq(padded)
    return np.hypot(ky[:, None], kx[None]).astype(np.float32)


def project_points(
    u: np.ndarray,
    v: np.ndarray,
    mass: np.ndarray,
    kind: np.ndarray,
    origin: tuple[float, float],
    pixel: float,
    size: int,
    blur_mm: float = 0.0,
) -> np.ndarray:
    """Line integrals of the points, image ``[size, size]`` float32.

    Args:
        u: horizontal coordinate of each point, growing with the column (mm).
        v: height of each point, falling with the row (mm).
        mass, kind: as in :class:`Points`.
        origin: (u of the centre of column 0, v of the centre of row 0).
        pixel: pixel pitch in mm.
        size: rows and columns.
        blur_mm: SD of a Gaussian point-spread function shared by all points.
    """
    margin = int(np.ceil(15.0 / pixel))
    padded = scipy.fft.next_fast_len(size + 2 * margin, real=True)
    column = (np.asarray(u, np.float32) - np.float32(origin[0])) / np.float32(pixel) + margin
    row = (np.float32(origin[1]) - np.asarray(v, np.float32)) / np.float32(pixel) + margin
    keep = (column >= 0) & (column < padded - 1.001) & (row >= 0) & (row < padded - 1.001)
    column, row, mass, kind = column[keep], row[keep], mass[keep], kind[keep]
    c0, r0 = column.astype(np.int64), row.astype(np.int64)
    fc, fr = column - c0, row - r0
    if not len(kind):
        return np.zeros((size, size), np.float32)
    order = np.argsort(kind, kind="stable")
    column, row, mass, kind = column[order], row[order], mass[order], kind[order]
    c0, r0 = column.astype(np.int32), row.astype(np.int32)
    fc, fr = column - c0, row - r0
    base = r0 * np.int32(padded) + c0
    right, low = mass * fc, mass * fr
    both = right * fr
    corner = mass - right - low + both
    ends = np.searchsorted(kind, np.arange(CLASSES + 1))
    k = _frequencies(padded) * np.float32(1.0 / pixel)
    bins = np.minimum(k * np.float32((_K_BINS - 1) / _K_MAX) + 0.5, _K_BINS - 1).astype(np.int32)
    # one class at a time: the planes stay in the processor's cache
    spectrum = np.zeros(bins.shape, np.complex64)
    for index in range(CLASSES):
        part = slice(ends[index], ends[index + 1])
        if part.start == part.stop:
            continue
        at = base[part]
        plane = np.bincount(
            np.concatenate([at, at + 1, at + padded, at + padded + 1]),
            np.concatenate(
                [corner[part], right[part] - both[part], low[part] - both[part], both[part]]
            ),
            minlength=padded * padded,
        )
        plane = plane.astype(np.float32).reshape(padded, padded)
        spectrum += scipy.fft.rfft2(plane, workers=1) * _kernels()[index][bins]
    spectrum *= np.exp(np.float32(-0.5 * blur_mm**2) * k * k) / np.float32(pixel**2)
    image = scipy.fft.irfft2(spectrum, s=(padded, padded), workers=1)
    return image[margin : margin + size, margin : margin + size]


def _spread(value, count: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), (count,))
