"""Line integrals of one patient in two views.

Organs are cut by every ray in closed-form intervals and combined as sets (lung minus heart minus
diaphragm), so borders, overlaps and silhouettes come out as they do on a radiograph; adding
densities of overlapping organs would count the overlaps twice. Bones, vessels and everything
thin are point clouds (:mod:`r2genkit.phantom.splat`). The spine is a function of the position
along and across its own curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from r2genkit.phantom.anatomy import (
    MU_AIR,
    MU_BLOOD,
    MU_FAT,
    MU_LUNG,
    MU_SOFT,
    PITCH,
    SIDES,
    SPINE_TOP,
    VERTEBRAE,
    Anatomy,
    Lung,
    spine_levels,
    vertebra_half_width,
)
from r2genkit.phantom.shapes import (
    BIG,
    Ellipsoid,
    Interval,
    empty,
    free_length,
    grow_hull,
    hull,
    length,
    overlap,
    paraboloid,
    rotation,
    superellipse,
)
from r2genkit.phantom.splat import Points, project_points

PROJECTIONS = ("frontal", "lateral")
FIELD_MM = 338.0
THIN_BELOW = 60
CENTRE_V = {"frontal": 14.0, "lateral": 8.0}
CENTRE_U = {"frontal": 0.0, "lateral": 4.0}
CONE = {"frontal": 3.0e-4, "lateral": 2.2e-4}


@dataclass
class Shell:
    """Something between lung and chest wall: the lung shrinks to a share of its section.

    Attributes:
        side: whose pleural space.
        share: heights [N] -> remaining share of the section's half-widths, 0 to 1.
        air: True for a pneumothorax (gap of air), False for fluid or thickened pleura.
    """

    side: str
    share: Callable[[np.ndarray], np.ndarray]
    air: bool = False


@dataclass
class Solid:
    """A single body added to the line integral.

    Attributes:
        ellipsoid: its shape.
        mu: attenuation on top of what is there, 1/mm (negative = less dense).
        above: only the part above this height counts (an air-fluid level); None = all of it.
        below: likewise.
    """

    ellipsoid: Ellipsoid
    mu: float
    above: float | None = None
    below: float | None = None


@dataclass
class Scene:
    """A patient with the additive findings in it.

    Attributes:
        anatomy: geometry, already deformed by findings.
        points, solids, shells: what findings add.
    """

    anatomy: Anatomy
    points: list[Points] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)
    shells: list[Shell] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    """Where the pixels of one view lie in the patient.

    Attributes:
        projection: "frontal" or "lateral".
        size: rows and columns.
        u: nominal horizontal coordinate of every pixel ``[size, size]`` (x or z, mm).
        v: nominal height of every row ``[size, 1]`` (mm).
        pixel: pixel pitch in screen mm.
        origin: screen position of pixel (0, 0).
        scale_u, scale_v, shear, along: patient to screen: u' = (u + shear v) scale_u,
            v' = v scale_v; path lengths along the ray grow by ``along``.
    """

    projection: str
    size: int
    u: np.ndarray
    v: np.ndarray
    pixel: float
    origin: tuple[float, float]
    scale_u: float
    scale_v: float
    shear: float
    along: float

    def to_pixels(self, xyz: np.ndarray) -> np.ndarray:
        """Columns and rows ``[N, 2]`` (fractional) of patient points ``[N, 3]``."""
        u, v = self.screen(np.asarray(xyz, float).reshape(-1, 3))
        return np.stack([(u - self.origin[0]) / self.pixel, (self.origin[1] - v) / self.pixel], 1)

    def screen(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Screen coordinates in mm of patient points, with cone-beam magnification."""
        x, y, z = xyz[:, 0], xyz[:, 1], xyz[:, 2]
        if self.projection == "frontal":
            grow = 1.0 - CONE["frontal"] * z
            return (x + self.shear * y) * self.scale_u * grow, y * self.scale_v * grow
        grow = 1.0 - CONE["lateral"] * x
        return -(z + self.shear * y) * self.scale_u * grow, y * self.scale_v * grow


def make_frame(anatomy: Anatomy, projection: str, size: int) -> Frame:
    """The pixel grid of a view, from the patient's pose and habitus."""
    n = anatomy.habitus.numbers
    zoom = n[f"zoom_{projection}"]
    pixel = FIELD_MM / size / zoom
    steps = (np.arange(size) - (size - 1) / 2) * pixel
    centre_u = CENTRE_U[projection] + n[f"shift_{projection}_u"]
    centre_v = CENTRE_V[projection] + n[f"shift_{projection}_v"]
    screen_u, screen_v = centre_u + steps, centre_v - steps
    frontal = projection == "frontal"
    scale_u = n["size"] * (n["width"] if frontal else n["depth"])
    along = n["size"] * (n["depth"] if frontal else n["width"])
    lean = n["lean_x"] if frontal else n["lean_z"]
    shear = lean + n[f"tilt_{projection}"]
    v = (screen_v / n["size"])[:, None].astype(np.float32)
    u = screen_u[None] / scale_u if frontal else -screen_u[None] / scale_u
    u = (u - shear * v).astype(np.float32)
    origin = (float(screen_u[0]), float(screen_v[0]))
    return Frame(projection, size, u, v, pixel, origin, scale_u, n["size"], shear, along)


_TORSO_Y = np.array(
    [-200, -140, -80, -20, 30, 60, 85, 105, 122, 136, 148, 160, 175, 190, 205, 235.0]
)
_TORSO_FRONTAL = np.array(
    [150, 150, 150, 151, 153, 156, 164, 174, 172, 155, 126, 95, 72, 61, 57, 57.0]
)
_TORSO_LATERAL = np.array(
    [146, 146, 146, 147, 147, 145, 140, 133, 122, 108, 92, 77, 65, 58, 55, 55.0]
)
_TORSO_FRONT = np.array([118, 114, 109, 104, 96, 87, 77, 66, 55, 46, 38, 30, 22, 20, 24, 30.0])
_TORSO_BACK = np.array(
    [-92, -96, -103, -111, -115, -115, -113, -110, -105, -99, -93, -86, -78, -72, -69, -70.0]
)


def _torso(a: Anatomy, frame: Frame) -> tuple[Interval, np.ndarray, np.ndarray]:
    """Interval of the trunk; also front surface z and half-width per row ``[H, 1]``."""
    n = a.habitus.numbers
    y = frame.v[:, 0].astype(float)
    fat = n["fat"]
    trunk = np.clip((150.0 - y) / 60.0, 0.25, 1.0)
    front = np.interp(y, _TORSO_Y, _TORSO_FRONT) + 0.55 * fat * trunk + a.front_shift(y)
    front = front + np.where(y < -40, (fat - 12.0) * 0.9 * np.clip((-40 - y) / 70, 0, 1), 0.0)
    front = front + 4.0 * n["abdomen"] * np.clip((-30 - y) / 90, 0, 1)
    back = np.interp(y, _TORSO_Y, _TORSO_BACK) - 0.45 * fat * trunk + a.back_shift(y)
    table = _TORSO_FRONTAL if frame.projection == "frontal" else _TORSO_LATERAL
    half_x = np.interp(y, _TORSO_Y, table) + 0.75 * fat * trunk + 3.0 * n["neck"] * (y > 150)
    centre_z, half_z = (front + back) / 2, (front - back) / 2
    column = [t.astype(np.float32)[:, None] for t in (half_x, centre_z, half_z)]
    half_x, centre_z, half_z = column
    bend = (0.35 * a.spine_x(y)).astype(np.float32)[:, None]
    if frame.projection == "frontal":
        interval = superellipse(frame.u, bend, half_x, centre_z, half_z, 2.7)
    else:
        interval = superellipse(frame.u, centre_z, half_z, bend, half_x, 2.3)
    return interval, front.astype(np.float32)[:, None], half_x


def _breasts(a: Anatomy, frame: Frame, torso: Interval, front: np.ndarray) -> np.ndarray:
    n = a.habitus.numbers
    out = np.zeros(frame.u.shape, np.float32)
    if not n["female"]:
        return out
    size = n["breast"]
    middle = -8.0 - 10.0 * n["breast_drop"] * 0.6 - 16.0 * size
    y = frame.v
    upper, lower = 62.0 + 14.0 * size, 34.0 + 12.0 * size
    q = ((y - middle) / np.where(y > middle, upper, lower)) ** 2
    wall = float(np.interp(middle, frame.v[::-1, 0], front[::-1, 0])) - 16.0
    height = 22.0 + 26.0 * size
    half_x = 50.0 + 12.0 * size
    for sign in (-1, 1):
        centre_x = sign * (74.0 + 3.0 * size)
        if frame.projection == "frontal":
            surface = wall + height * (1.0 - q - ((frame.u - centre_x) / half_x) ** 2)
            inside = torso[1] > -BIG / 2
            base = np.where(inside, torso[1], wall)
            out += np.maximum(surface - np.maximum(base, wall), 0.0)
        else:
            rest = 1.0 - q - np.maximum(frame.u - wall, 0.0) / height
            half = half_x * np.sqrt(np.maximum(rest, 0.0)) * (frame.u > wall)
            interval = (centre_x - half, centre_x + half)
            beyond = np.where(half > 0, length(interval) - overlap(interval, torso), 0.0)
            out += beyond * np.clip((frame.u - wall) / 20.0, 0.0, 1.0)
    return out


def _arms(a: Anatomy, frame: Frame) -> np.ndarray:
    """Path length in the upper arms: hanging in the frontal view, raised in the lateral one."""
    n = a.habitus.numbers
    out = np.zeros(frame.u.shape, np.float32)
    thick = 1.0 + 0.12 * np.log(n["fat"] / 12.0)
    for sign in (-1, 1):
        if frame.projection == "frontal":
            drop = 0.10 + 0.05 * n["arm_spread"]
            centre = sign * (174.0 + 2 * n["shoulder"] + 2 * drop * 0.95 * (118.0 - frame.v))
            radius = 41.0 * thick * np.clip((165.0 - frame.v) / 60.0, 0, 1) ** 0.5
            near = _span((np.abs(frame.u - centre) < 52.0).any(axis=0))
            offset = frame.u[:, near] - centre
            out[:, near] += 2.0 * np.sqrt(np.maximum(radius**2 - offset**2, 0.0))
        else:
            angle = 0.93 + 0.10 * n["arm"] + sign * 0.10 * (1 + 0.3 * n["arm_spread"])
            upper = _span(frame.v[:, 0] > 30.0)
            v, u = frame.v[upper] - 150.0, frame.u[upper] + 22.0
            along = v * np.sin(angle) + u * np.cos(angle)
            across = v * np.cos(angle) - u * np.sin(angle)
            radius = (50.0 - 0.06 * np.clip(along, 0, 200)) * thick
            onset = np.clip((along + 62.0) / 95.0, 0.0, 1.0)
            onset = onset * onset * (3.0 - 2.0 * onset)
            out[upper] += (
                1.25 * onset * np.maximum(1.0 - across**2 / radius**2, 0.0) ** 0.8 * radius
            )
    return out


def _row(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


def _mediastinum(a: Anatomy, frame: Frame) -> tuple[Interval, Interval, Interval]:
    """Intervals of heart, heart with great vessels, and spine with descending aorta."""
    ray = 2 if frame.projection == "frontal" else 0
    heart = empty(frame.u.shape)
    for solid in a.heart:
        grow_hull(heart, solid, ray, frame.u, frame.v)
    great = (heart[0].copy(), heart[1].copy())
    for solid in a.pedicle:
        grow_hull(great, solid, ray, frame.u, frame.v)
    y = frame.v[:, 0].astype(float)
    ax, az, radius = a.aorta(y)
    sx, sz = a.spine_x(y), a.spine_z(y) - 10.0
    sx = sx + a.habitus.numbers["yaw_frontal"] * sz
    half = vertebra_half_width(y) + 2.0
    if ray == 2:
        aorta = superellipse(frame.u, _row(ax), _row(radius), _row(az), _row(radius), 2.0)
        spine = superellipse(frame.u, _row(sx), _row(half), _row(sz), np.float32(26.0), 1.5)
    else:
        aorta = superellipse(frame.u, _row(az), _row(radius), _row(ax), _row(radius), 2.0)
        spine = superellipse(frame.u, _row(sz), np.float32(26.0), _row(sx), _row(half), 1.5)
    return heart, great, hull(aorta, spine)


def _lung_interval(
    lung: Lung, frame: Frame, share: np.ndarray, window
) -> tuple[Interval, Interval]:
    """Intervals of the lung's envelope and of the dome below it, on a window of the grid."""
    rows, columns = window
    u, v = frame.u[rows, columns], frame.v[rows]
    y = v[:, 0].astype(float)
    cx, hx, cz, hz = lung.sections(y)
    medial = cx - lung.sign * hx
    hx, hz = hx * share, hz * share
    cx = medial + lung.sign * hx
    if frame.projection == "frontal":
        envelope = superellipse(u, _row(cx), _row(hx), _row(cz), _row(hz), lung.exponent)
        dome = paraboloid(u, v, lung.dome_x, lung.dome_cx, lung.dome_z, lung.dome_cz, lung.dome_top)
    else:
        yaw = lung.anatomy.habitus.numbers["yaw_lateral"]
        cz = cz + yaw * lung.sign * 70.0
        envelope = superellipse(u, _row(cz), _row(hz), _row(cx), _row(hx), lung.exponent)
        dome = paraboloid(
            u,
            v,
            lung.dome_z + yaw * lung.sign * 70.0,
            lung.dome_cz,
            lung.dome_x,
            lung.dome_cx,
            lung.dome_top,
        )
    return envelope, dome


def _span(mask: np.ndarray) -> slice:
    if not mask.any():
        return slice(0, 0)
    return slice(int(mask.argmax()), len(mask) - int(mask[::-1].argmax()))


@dataclass
class Organs:
    """Analytic parts of one view, all ``[size, size]`` in mm of path (nominal).

    Attributes:
        trunk: soft tissue of trunk, arms and breasts.
        lung: aerated lung per side; gap: pleural air per side (zeros without pneumothorax).
        heart: heart; great: heart and great vessels; dorsal: spine and descending aorta.
        body: True where the ray meets the trunk.
        above: 1 above the central tendon of the diaphragm, 0 below; the heart ends there.
    """

    trunk: np.ndarray
    lung: dict[str, np.ndarray]
    gap: dict[str, np.ndarray]
    line: np.ndarray
    heart: np.ndarray
    great: np.ndarray
    dorsal: np.ndarray
    body: np.ndarray
    above: np.ndarray


def organs(a: Anatomy, frame: Frame, shells: list[Shell] = ()) -> Organs:
    """Cut every organ by every ray of the view."""
    shape = frame.u.shape
    torso, front, _ = _torso(a, frame)
    heart, great, dorsal = _mediastinum(a, frame)
    lung_path, gap_path = {}, {}
    line = np.zeros(shape, np.float32)
    y = frame.v[:, 0]
    for side, lung in a.lungs.items():
        rows = _span((y < lung.apex + 1.0) & (y > -185.0))
        if frame.projection == "frontal":
            middle = frame.u[rows].mean(axis=0) * lung.sign if rows.stop else frame.u[0]
            columns = _span(middle > -14.0)
        else:
            columns = slice(0, shape[1])
        window = (rows, columns)
        level = y[rows].astype(float)
        fluid = np.ones(len(level))
        air = np.ones(len(level))
        for shell in shells:
            if shell.side == side:
                if shell.air:
                    air = air * shell.share(level)
                else:
                    fluid = fluid * shell.share(level)
        if frame.projection == "frontal":
            holes = [(great[0][window], great[1][window]), (dorsal[0][window], dorsal[1][window])]
        else:
            middle = hull(great, dorsal)
            holes = [(middle[0][window], middle[1][window])]
        envelope, dome = _lung_interval(lung, frame, fluid, window)
        aerated = free_length(envelope, dome, *holes)
        gap = None
        if (air < 1.0).any():
            inner, _ = _lung_interval(lung, frame, fluid * air, window)
            collapsed = free_length(inner, dome, *holes)
            gap = np.maximum(aerated - collapsed, 0.0)
            core, _ = _lung_interval(lung, frame, np.maximum(fluid * air - 0.02, 0.0), window)
            pleura = np.maximum(collapsed - free_length(core, dome, *holes), 0.0)
            line[window] += pleura * _row((air < 0.995).astype(float))
            aerated = collapsed
        lung_path[side] = np.zeros(shape, np.float32)
        gap_path[side] = np.zeros(shape, np.float32)
        lung_path[side][window] = aerated
        if gap is not None:
            gap_path[side][window] = gap
    trunk = length(torso)
    arms = _arms(a, frame)
    if frame.projection == "frontal":
        trunk = np.maximum(trunk, arms)
    else:
        trunk = trunk + arms
    trunk = trunk + 0.9 * _breasts(a, frame, torso, front)
    body = trunk > 30.0
    tendon = np.mean([lung.dome_top for lung in a.lungs.values()]) - 4.0
    above = np.clip((frame.v - (tendon - 4.0)) / 16.0, 0.0, 1.0)
    return Organs(
        trunk, lung_path, gap_path, line, length(heart), length(great), length(dorsal), body, above
    )


def spine_image(a: Anatomy, frame: Frame) -> np.ndarray:
    """Line integral of the vertebral column ``[size, size]`` (attenuation, not length)."""
    out = np.zeros(frame.u.shape, np.float32)
    n = a.habitus.numbers
    y = frame.v[:, 0].astype(float)
    frontal = frame.projection == "frontal"
    sz = a.spine_z(y)
    if frontal:
        course = a.spine_x(y) + n["yaw_frontal"] * sz
        half = vertebra_half_width(y)
        reach = 62.0
    else:
        course = sz
        half = vertebra_half_width(y) * 0.86
        reach = 66.0
    slope = np.gradient(course, y) if len(y) > 1 else np.zeros_like(y)
    mean = course[None].mean()
    spread = np.abs(course - mean).max() + reach
    columns = _span((np.abs(frame.u - np.float32(mean)) < spread).any(axis=0))
    if columns.stop == columns.start:
        return out
    offset = frame.u[:, columns] - _row(course)
    t = offset / _row(half)
    height = frame.v + offset * _row(slope)
    shift = 60.0 * n["spine_shift"]
    s = (np.float32(SPINE_TOP + shift) - height) / np.float32(PITCH)
    number = np.floor(s)
    level = np.clip(number, 0, VERTEBRAE - 1).astype(np.int32)
    phase = s - number - np.float32(0.5)  # -.5 upper disc, +.5 lower disc
    grade, narrowing = spine_levels(a)
    below = np.append(narrowing[1:], narrowing[-1])
    limit = np.where(phase < 0, narrowing[level], below[level]).astype(np.float32) + np.float32(
        0.40
    )
    wedge = a.wedge[level].astype(np.float32)
    if frontal:
        limit = limit - np.where(phase < 0, 0.6 * wedge, 0.0)
    else:
        limit = limit - np.where(phase < 0, wedge * np.clip(0.55 + 0.45 * t, 0, 1), 0.15 * wedge)
    sclerosis = (1.0 + 0.38 * np.clip(grade, -1.5, 6.0))[level].astype(np.float32)
    inner = np.abs(phase)
    waist = 1.0 - 0.10 * np.maximum(1.0 - (inner / 0.4) ** 2, 0.0)
    tw = np.abs(t) / waist
    soft = np.float32(0.035)
    body = 1.0 / (1.0 + np.exp(np.clip((inner - limit) / soft, -30, 30)))
    body /= 1.0 + np.exp(np.clip((tw - 1.0) / np.float32(0.045), -30, 30))
    plate = np.exp(-(((inner - limit + 0.02) / 0.045) ** 2)) * (tw < 1.05)
    edge = np.exp(-(((tw - 0.97) / 0.07) ** 2)) * (inner < limit)
    bone = np.float32(n["bone"])
    if frontal:
        image = 0.12 * body + 0.09 * sclerosis * plate + 0.09 * edge
        ring = np.hypot((np.abs(t) - 0.60) * _row(half), (phase + 0.10) * PITCH)
        image += 0.13 * np.exp(-(((ring - 4.2) / 1.4) ** 2))
        spinous = np.hypot(offset / 3.2, (phase - 0.34) * PITCH / 6.5)
        image += 0.20 * np.exp(-(spinous**4)) * (1.2 - 0.7 * np.exp(-(spinous**2)))
        lamina = np.exp(-(((np.abs(t) - 0.32) / 0.28) ** 2) - ((phase - 0.16) / 0.2) ** 2)
        image += 0.06 * lamina
        process = np.exp(-(((phase + 0.05) * PITCH / 4.0) ** 2)) * np.clip((tw - 0.9) * 8, 0, 1)
        image += 0.10 * process * np.clip((2.0 - tw) * 3, 0, 1) * (height > -135)
        cord = np.exp(-((offset / _row(half * 1.1)) ** 2))
        image += 0.05 * cord
    else:
        image = 0.24 * body + 0.11 * sclerosis * plate + 0.11 * edge
        image = image + 0.05 * body * np.clip((inner - 0.1) * 3, 0, 1)
        pedicle = np.exp(-(((phase + 0.20) / 0.14) ** 2)) * np.clip((-t - 0.95) * 6, 0, 1)
        image = image + 0.11 * pedicle * np.clip((t + 1.95) * 5, 0, 1)
        articular = np.exp(-(((t + 1.95) / 0.30) ** 2))
        image = image + 0.10 * articular * (0.80 + 0.20 * np.cos(2 * np.pi * phase))
        down = phase - 0.30 - 0.22 * (-t - 2.3)
        spinous = np.exp(-((down / 0.15) ** 2)) * np.clip((-t - 2.1) * 4, 0, 1)
        image = image + 0.07 * spinous * np.clip((t + 3.7) * 4, 0, 1)
    out[:, columns] = image * bone
    return out


def solid_path(solid: Solid, frame: Frame) -> np.ndarray:
    """Line integral of one added body ``[size, size]``."""
    out = np.zeros(frame.u.shape, np.float32)
    _add_solid(out, solid, frame)
    return out


def _add_solid(out: np.ndarray, solid: Solid, frame: Frame) -> None:
    ray = 2 if frame.projection == "frontal" else 0
    window = solid.ellipsoid.window(ray, frame.u, frame.v)
    if window is None:
        return
    path = length(solid.ellipsoid.interval(ray, frame.u[window], frame.v[window[0]]))
    level = frame.v[window[0]]
    if solid.above is not None:
        path = path * np.clip((level - solid.above) / 1.5 + 0.5, 0, 1)
    if solid.below is not None:
        path = path * np.clip((solid.below - level) / 1.5 + 0.5, 0, 1)
    out[window] += path * np.float32(solid.mu)


def resident_solids(a: Anatomy) -> list[Solid]:
    """Bodies every patient has: hilar vessels, stomach bubble."""
    n = a.habitus.numbers
    out = [Solid(e, 0.66 * (MU_SOFT - MU_LUNG)) for e in a.hila]
    top = a.lungs["left"].dome_top
    size = 0.55 + 0.75 * n["stomach_size"]
    if n["stomach"] < 0.85:
        centre = (58 + 14 * n["stomach_level"], top - 14 - 13 * size, 6 + 14 * n["stomach_level"])
        bubble = Ellipsoid(centre, (30 * size, 15 * size + 3, 26 * size), rotation(-0.25))
        level = centre[1] - (2 + 10 * n["stomach_level"]) * size
        out.append(Solid(bubble, -0.0155, above=level))
    flexure = Ellipsoid(
        (98, top - 40 - 12 * n["stomach"], -8), (17, 13 + 6 * n["stomach_size"], 18)
    )
    out.append(Solid(flexure, -0.013 * n["stomach_size"]))
    return out


def gather(scene: Scene, frame: Frame, own_only: bool = False) -> np.ndarray:
    """Line integral of the point clouds of a scene; ``own_only`` leaves the anatomy out."""
    clouds = scene.points if own_only else [*scene.anatomy.points, *scene.points]
    clouds = [c for c in clouds if getattr(c, frame.projection) and len(c.mass)]
    if not clouds:
        return np.zeros((frame.size, frame.size), np.float32)
    xyz = np.concatenate([c.xyz for c in clouds]).astype(np.float32)
    mass = np.concatenate([c.mass for c in clouds])
    kind = np.concatenate([c.kind for c in clouds])
    if frame.size <= THIN_BELOW:  # a coarse film needs only every fourth point
        xyz, mass, kind = xyz[::4], 4.0 * mass[::4], kind[::4]
    u, v = frame.screen(xyz)
    return project_points(u, v, mass, kind, frame.origin, frame.pixel, frame.size, 0.35)


def own_integral(part: Scene, frame: Frame) -> np.ndarray:
    """What a finding alone adds to the line integrals ``[size, size]``, signed."""
    a = part.anatomy
    total = gather(part, frame, own_only=True).copy()
    for solid in part.solids:
        _add_solid(total, solid, frame)
    if part.shells:
        total += analytic(a, frame, organs(a, frame, part.shells))
        total -= analytic(a, frame, organs(a, frame))
    return total


def line_integral(scene: Scene, frame: Frame) -> np.ndarray:
    """Total attenuation along every ray ``[size, size]`` float32."""
    return line_integral_and_body(scene, frame)[0]


def line_integral_and_body(scene: Scene, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Total attenuation, and where the ray meets the patient (bool), both ``[size, size]``."""
    a = scene.anatomy
    o = organs(a, frame, scene.shells)
    total = analytic(a, frame, o)
    for solid in [*resident_solids(a), *scene.solids]:
        _add_solid(total, solid, frame)
    total += spine_image(a, frame)
    total += gather(scene, frame)
    return np.maximum(total, 0.0), o.body


def analytic(a: Anatomy, frame: Frame, o: Organs) -> np.ndarray:
    """Attenuation of trunk, lungs, pleural air and heart from their path lengths."""
    n = a.habitus.numbers
    lung = MU_LUNG * n["lung_mu"] * (1.0 - 0.018 * float(np.clip(a.traits["inflation"], -3, 5)))
    fat = float(np.clip(n["fat"] - 12.0, -8, 30)) * 1.2
    total = np.float32(MU_SOFT) * o.trunk + np.float32(MU_FAT * fat) * o.body
    for side in SIDES:
        total -= np.float32(MU_SOFT - lung) * o.lung[side]
        total -= np.float32(MU_SOFT - MU_AIR) * o.gap[side]
    total += np.float32(MU_BLOOD) * o.great * o.above
    total += np.float32(0.016) * o.line
    return np.maximum(total * np.float32(frame.along), 0.0)
