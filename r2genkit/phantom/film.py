"""From line integrals to a film: scatter, exposure, tone curve, sharpness, noise, markers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from r2genkit.phantom.population import Population

COARSE = 56
"""Side length of the small grid on which scatter, exposure and tone curve are worked out."""

_DEEPEST_BORDER = (0.07, 0.07, 0.07, 0.045)  # left, top, right, bottom: the angles stay in the film


@dataclass(frozen=True)
class FilmDraws:
    """What is random about one film.

    Attributes:
        scatter: ratio of scattered to primary radiation.
        match: share of histogram matching in the tone curve.
        gamma: exponent of the target grey distribution; curve: its S-shape; low, high: its ends
            (0 to 1).
        contrast: gain of the unsharp mask; noise: SD of the noise; blur: SD in pixels at 224.
        vignette: relative fall-off across and down; marker: "L", "R" or ""; marker_place: its
            position (0 to 1, twice); marker_grey: its brightness.
        border: collimated share at left, top, right, bottom.
    """

    scatter: float
    match: float
    gamma: float
    curve: float
    low: float
    high: float
    contrast: float
    noise: float
    blur: float
    vignette: tuple[float, float]
    marker: str
    marker_place: tuple[float, float]
    marker_grey: float
    border: tuple[float, float, float, float]


def draw_film(rng: np.random.Generator, population: Population, projection: str) -> FilmDraws:
    """Draw a film's nuisance variables; always the same number of draws in the same order."""
    p = population
    u = rng.random(20)
    z = np.clip(rng.standard_normal(8), -2.2, 2.2)

    def between(limits: tuple[float, float], share: float) -> float:
        return limits[0] + (limits[1] - limits[0]) * share

    border = [0.0, 0.0, 0.0, 0.0]
    if u[8] < p.collimation:
        for index in range(4):
            border[index] = float(_DEEPEST_BORDER[index] * u[9 + index] * (u[13 + index] < 0.6))
    marker = ""
    if u[4] < p.marker:
        marker = "L" if u[5] < 0.75 or projection == "lateral" else "R"
    return FilmDraws(
        scatter=float(p.scatter * np.exp(0.2 * z[0])),
        match=between(p.film_match, float(u[0])),
        gamma=float(np.exp(p.film_gamma * z[1])),
        curve=float(0.36 * z[2]),
        low=float(np.clip(0.20 + 0.06 * z[3], 0.06, 0.34)),
        high=float(np.clip(0.90 + 0.050 * z[4], 0.78, 0.985)),
        contrast=between(p.local_contrast, float(u[1])),
        noise=between(p.noise, float(u[2])),
        blur=between(p.blur_px, float(u[3])),
        vignette=(float(0.03 * z[5]), float(0.03 * z[6])),
        marker=marker,
        marker_place=(float(u[6]), float(u[7])),
        marker_grey=float(0.75 + 0.25 * u[17]),
        border=tuple(border),
    )


@lru_cache(maxsize=8)
def _resize(size: int, coarse: int) -> np.ndarray:
    """Linear interpolation matrix ``[size, coarse]`` between pixel-centred grids."""
    where = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    left = np.minimum(where.astype(int), coarse - 2)
    share = where - left
    matrix = np.zeros((size, coarse), np.float32)
    matrix[np.arange(size), left] = 1 - share
    matrix[np.arange(size), left + 1] += share
    return matrix


@lru_cache(maxsize=8)
def _pool(size: int, coarse: int) -> np.ndarray:
    """Area-averaging matrix ``[coarse, size]``."""
    edges = np.linspace(0, size, coarse + 1)
    pixels = np.arange(size)
    share = np.clip(
        np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, 1
    )
    return (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


def exposure(attenuation: np.ndarray, scatter: float) -> np.ndarray:
    """Logarithm of the inverse detector signal, with scattered radiation.

    ``-log(exp(-L) + scatter * blur(exp(-L)) * k + 0.004)``; scatter flattens dense regions.
    """
    size = len(attenuation)
    signal = np.exp(-attenuation)
    pool = _pool(size, COARSE // 2)
    small = pool @ np.minimum(signal, 0.30) @ pool.T
    blurred = gaussian_filter(small, COARSE * 0.04, mode="nearest")
    up = _resize(size, COARSE // 2)
    return -np.log(signal + np.float32(scatter * 0.35) * (up @ blurred @ up.T) + np.float32(0.002))


def sharpen(image: np.ndarray, attenuation: np.ndarray, gain: float) -> np.ndarray:
    """Unsharp mask with two radii (about 3 and 8 % of the side): local contrast of digital film."""
    size = len(image)
    pool, up = _pool(size, COARSE), _resize(size, COARSE)
    small = pool @ image @ pool.T
    fine = up @ gaussian_filter(small, COARSE * 0.030, mode="nearest") @ up.T
    broad = up @ gaussian_filter(small, COARSE * 0.085, mode="nearest") @ up.T
    inside = np.clip(attenuation / np.float32(1.6), 0.0, 1.0)  # none in the air around the patient
    detail = np.float32(gain) * (image - fine) + np.float32(0.25 * gain) * (fine - broad)
    return image + inside * detail


def tone_curve(
    base: np.ndarray, body: np.ndarray, draws: FilmDraws
) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the monotone curve from exposure to grey value.

    The curve is worked out on ``base``, the exposure of the patient before focal findings are
    added, so a finding cannot shift the grey values of the rest of the film. It mixes a plain
    window with matching to the film's own target distribution, as automatic exposure and
    display processing do; with much matching, the share of dark pixels no longer tells how much
    lung there is.

    Args:
        base: exposure ``[C, C]`` on the small grid.
        body: True where the ray meets the patient ``[C, C]``.
        draws: the film.

    Returns:
        exposures and grey values (0 to 1) of the knots, both increasing ``[K]``.
    """
    inside = np.sort(base[body])
    share = np.array([0.0, 0.01, 0.04, *np.linspace(0.08, 0.96, 23), 0.985, 1.0])
    at = np.quantile(inside, share)
    ramp = share + draws.curve * share * (1 - share) * (1 - 2 * share)
    matched = draws.low + (draws.high - draws.low) * ramp ** (0.78 * draws.gamma)
    low, high = np.quantile(inside, [0.02, 0.97])
    window = np.clip((at - low) / max(high - low, 1e-3), 0, 1) ** (0.95 * draws.gamma)
    plain = draws.low + (draws.high - draws.low) * window
    grey = draws.match * matched + (1 - draws.match) * plain
    at = np.maximum.accumulate(at + np.arange(len(at)) * 1e-5)
    grey = np.maximum.accumulate(grey)
    outside = base[~body]
    air = float(np.quantile(outside, 0.6)) if outside.size > 20 else float(at[0]) - 1.5
    air = min(air, float(at[0]) - 0.3)
    dense = float(at[-1]) + 0.8
    return (
        np.concatenate([[air - 1.0, air], at, [dense]]),
        np.concatenate([[0.0, 0.03], grey, [min(grey[-1] + 0.06, 1.0)]]),
    )


_GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def develop(
    attenuation: np.ndarray,
    base: np.ndarray,
    body: np.ndarray,
    draws: FilmDraws,
    noise: np.ndarray,
    projection: str,
) -> np.ndarray:
    """The film.

    Args:
        attenuation: line integrals ``[S, S]``.
        base: line integrals of the patient without focal findings ``[COARSE, COARSE]``.
        body: where the small grid meets the patient ``[COARSE, COARSE]``.
        draws: the film's nuisance variables.
        noise: standard normal ``[S, S]``.
        projection: decides where the marker goes.

    Returns:
        ``[S, S]`` uint8, bright = dense.
    """
    size = len(attenuation)
    plain = sharpen(exposure(base, draws.scatter), base, draws.contrast)
    knots, greys = tone_curve(plain, body, draws)
    image = sharpen(exposure(attenuation, draws.scatter), attenuation, draws.contrast)
    grey = _lookup(image, knots, greys)
    grey = gaussian_filter(grey, draws.blur * size / 224, truncate=3.0)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    grey *= 1.0 + draws.vignette[0] * ramp[None] + draws.vignette[1] * ramp[:, None]
    grey += np.float32(draws.noise) * noise * (0.35 + grey)
    if draws.marker:
        _stamp(grey, draws, projection)
    left, top, right, bottom = (round(size * share) for share in draws.border)
    grey[:top] *= 0.08
    grey[size - bottom :] *= 0.08
    grey[:, :left] *= 0.08
    grey[:, size - right :] *= 0.08
    return (np.clip(grey, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _lookup(
    image: np.ndarray, knots: np.ndarray, greys: np.ndarray, steps: int = 2048
) -> np.ndarray:
    """Piecewise-linear curve through a table: as ``np.interp``, ten times faster on images."""
    low, high = float(knots[0]), float(knots[-1])
    table = np.interp(np.linspace(low, high, steps + 1), knots, greys).astype(np.float32)
    where = np.clip((image - np.float32(low)) * np.float32(steps / (high - low)), 0, steps - 1e-3)
    index = where.astype(np.int32)
    return table[index] + (where - index) * (table[index + 1] - table[index])


def _stamp(grey: np.ndarray, draws: FilmDraws, projection: str) -> None:
    size = len(grey)
    glyph = np.array([[int(c) for c in row] for row in _GLYPHS[draws.marker]], bool)
    scale = max(1, round(size / 112 * (0.7 + 0.5 * draws.marker_place[1])))
    glyph = np.kron(glyph, np.ones((scale, scale), bool))
    rows, columns = glyph.shape
    row = int((0.02 + 0.08 * draws.marker_place[0]) * size)
    inset = int((0.03 + 0.06 * draws.marker_place[1]) * size)
    right = draws.marker == "L" or projection == "lateral"
    column = size - inset - columns if right else inset
    patch = grey[row : row + rows, column : column + columns]
    patch[glyph] = np.maximum(patch[glyph], draws.marker_grey)
