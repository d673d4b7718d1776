"""From placed findings to shifted traits and added objects.

A finding does one of two things. It *shifts a trait* of the anatomy (heart size, inflation,
kyphosis, ...), in units of that trait's spread among normals: the film of a mild case lies inside
the range of the healthy. Or it *adds* something: points (nodules, wires, infiltrates), bodies
(hernia, pacemaker) or a change of the pleural space (effusion, pneumothorax).

Each finding draws from a stream of its own, so removing one leaves all others where they were.
Focal objects are drawn about 1.7 times their usual size, because a 3 mm granuloma covers two
pixels of a 224-pixel film.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.errors import KitError
from r2genkit.phantom.anatomy import (
    HILUM,
    MU_LUNG,
    MU_SOFT,
    PITCH,
    SIDES,
    VERTEBRAE,
    Anatomy,
    Habitus,
    build,
    sternum_z,
    vertebra_half_width,
)
from r2genkit.phantom.placement import PlacedFinding
from r2genkit.phantom.projection import Scene, Shell, Solid
from r2genkit.phantom.shapes import Ellipsoid, rotation
from r2genkit.phantom.splat import Points, balls, gaussians, polyline, tube
from r2genkit.seeds import numpy_rng

SHIFT = {"borderline": 1.3, "mild": 2.0, "moderate": 2.9, "large": 3.6, "severe": 4.0}
"""Shift of a trait by severity, in SDs of the healthy; no severity coded counts as moderate."""

LOAD = {"borderline": 0.4, "mild": 0.6, "moderate": 1.0, "large": 1.5, "severe": 1.6}
"""Amount of an added object by severity, relative to moderate."""

_SOFT_IN_LUNG = MU_SOFT - MU_LUNG


@dataclass
class Effects:
    """What the findings of a patient do to the anatomy before it is built.

    Attributes:
        healthy: the patient's traits without findings.
        shifts: additions to the traits.
        wedge: loss of anterior height per vertebra (fraction of the pitch).
        rib_steps: displaced rib fractures (side, rib, position, step in mm).
    """

    healthy: dict[str, float]
    shifts: Counter = field(default_factory=Counter)
    wedge: np.ndarray = field(default_factory=lambda: np.zeros(VERTEBRAE))
    rib_steps: list = field(default_factory=list)


def severity_shift(severity: str | None) -> float:
    """SDs by which a severity moves its trait."""
    return SHIFT[severity or "moderate"]


def severity_load(severity: str | None) -> float:
    """Relative amount of an added object."""
    return LOAD[severity or "moderate"]


def sides_of(finding: PlacedFinding, rng: np.random.Generator) -> list[str]:
    """Sides a finding occupies; a midline one that needs a side draws it."""
    drawn = "right" if rng.random() < 0.5 else "left"
    if finding.side == "bilateral":
        return ["right", "left"]
    return [finding.side] if finding.side in SIDES else [drawn]


def stream_names(study_id: str, findings: Sequence[PlacedFinding]) -> list[str]:
    """Name of each finding's random stream.

    The name holds what the finding is, not its index, so that leaving a finding out never moves
    another one.
    """
    seen: Counter = Counter()
    names = []
    for f in findings:
        key = f"{f.name}/{f.side}/{f.place}/{f.severity}/{f.multiple}/{f.raw}"
        names.append(f"phantom/{study_id}/findings/{key}/{seen[key]}")
        seen[key] += 1
    return names


# ---------------------------------------------------------------------------------------------
# traits

Trait = Callable[[PlacedFinding, float, np.random.Generator, Effects], None]


def _shift(trait: str, sign: float = 1.0, factor: float = 1.0) -> Trait:
    def apply(finding, amount, rng, effects):
        effects.shifts[trait] += sign * factor * amount

    return apply


def _elevated_diaphragm(finding, amount, rng, effects) -> None:
    for side in sides_of(finding, rng):
        effects.shifts[f"dome_{side}"] += 1.55 * amount


def _volume_loss(finding, amount, rng, effects) -> None:
    for side in sides_of(finding, rng):
        effects.shifts[f"dome_{side}"] += 0.35 * amount


def _scoliosis(finding, amount, rng, effects) -> None:
    # the coded side is the side of the convexity
    draw = rng.random()
    sign = {"left": 1.0, "right": -1.0}.get(finding.side, 1.0 if draw < 0.5 else -1.0)
    base = effects.healthy["scoliosis"]  # the patient's own slight curve must not cancel it
    effects.shifts["scoliosis"] += sign * (amount + abs(base)) - base


def _wedge_fracture(finding, amount, rng, effects) -> None:
    draws = rng.random((3, 3))
    count = 2 if finding.multiple else 1
    for draw in draws[:count]:
        level = int(6 + np.floor(7 * draw[0]))
        effects.wedge[level] = max(
            effects.wedge[level], 0.10 + 0.075 * amount * (0.7 + 0.6 * draw[1])
        )
    effects.shifts["kyphosis"] += 0.35 * amount


def _rib_fracture(finding, amount, rng, effects) -> None:
    side = sides_of(finding, rng)
    draws = rng.random((4, 4))
    count = 3 if finding.multiple else 2
    first = int(4 + np.floor(4 * draws[0, 0]))
    for index in range(count):
        which = side[index % len(side)]
        position = 0.34 + 0.20 * draws[0, 1] + 0.03 * (draws[index, 2] - 0.5)
        step = (4.5 + 4.0 * draws[index, 3]) * (1 if draws[0, 2] < 0.5 else -1)
        effects.rib_steps.append((which, first + index, position, step))


def _congestion(finding, amount, rng, effects) -> None:
    effects.shifts["vascularity"] += 1.15 * amount
    effects.shifts["reticulation"] += 0.35 * amount


def _hilar(finding, amount, rng, effects) -> None:
    effects.shifts["hila"] += 0.4 * amount


_TRAITS: dict[str, Trait] = {
    "cardiomegaly": _shift("heart"),
    "hyperinflation": _shift("inflation"),
    "hypoinflation": _shift("inflation", -1.0),
    "tortuous_aorta": _shift("aorta"),
    "degen_spine": _shift("degeneration"),
    "interstitial": _shift("reticulation", 1.0, 1.1),
    "kyphosis": _shift("kyphosis"),
    "wide_mediastinum": _shift("mediastinum", 1.0, 1.2),
    "elev_diaphragm": _elevated_diaphragm,
    "atelectasis": _volume_loss,
    "scoliosis": _scoliosis,
    "wedge_fracture": _wedge_fracture,
    "rib_fracture": _rib_fracture,
    "congestion": _congestion,
    "hilar_prominence": _hilar,
}

# ---------------------------------------------------------------------------------------------
# added objects

Adder = Callable[[PlacedFinding, float, np.random.Generator, Scene], None]


def _by(point: np.ndarray, step: Sequence[float], times: float = 1.0) -> np.ndarray:
    return np.asarray(point, float) + times * np.asarray(step, float)


def _places(finding: PlacedFinding, few: int, many: int, rng) -> list[tuple[str, str]]:
    """(side, place) of each object of a finding, alternating sides when bilateral."""
    sides = sides_of(finding, rng)
    extra = int(rng.integers(0, 3))
    count = many + extra if finding.multiple else max(few, len(sides))
    return [(sides[index % len(sides)], finding.place) for index in range(count)]


def _calc_granuloma(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 4, rng):
        centre = scene.anatomy.lung_point(rng, side, place)
        radius = 4.0 + 2.0 * rng.random()
        turn = rng.standard_normal(3)
        scene.solids.append(
            Solid(Ellipsoid(centre, radius * np.array([1, 0.9, 1.05]), rotation(*turn)), 0.15)
        )


def _nodule(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 4, rng):
        centre = scene.anatomy.lung_point(rng, side, place)
        radius = (8.0 + 5.0 * rng.random()) * (0.8 + 0.25 * min(load, 1.6))
        offsets = rng.standard_normal((3, 3)) * radius * 0.28
        for offset, share in zip(offsets, (1.0, 0.8, 0.7)):
            scene.solids.append(
                Solid(Ellipsoid(centre + offset, np.full(3, radius * share)), 2.5 * _SOFT_IN_LUNG)
            )
        core = gaussians(centre + 0.5 * offsets, 3.6, 1.2 * _SOFT_IN_LUNG * radius**3)
        scene.points.append(core)


def _calc_node(finding, load, rng, scene) -> None:
    a = scene.anatomy
    for side in sides_of(finding, rng):
        hilum = HILUM[side].copy()
        if finding.place not in ("hilum",) and finding.side == "midline":
            hilum = np.array([-14.0 if side == "right" else 18.0, 64.0, -14.0])
        hilum[0] += 0.4 * float(a.spine_x(hilum[1]))
        draws = rng.standard_normal((5, 3))
        radii = 3.2 + 1.8 * rng.random(5)
        for draw, radius in list(zip(draws, radii))[: 5 if finding.multiple else 4]:
            centre = hilum + draw * np.array([6.0, 10.0, 6.0])
            scene.solids.append(Solid(Ellipsoid(centre, np.full(3, radius)), 0.095))


def _airspace(scene, rng, side, place, count, spread, sigma, strength) -> None:
    """A patch of filled airspace: textured blobs that stay within the lung."""
    a = scene.anatomy
    lung = a.lungs[side]
    centre = a.lung_point(rng, side, place)
    offsets = rng.standard_normal((count, 3)) * spread
    size = rng.uniform(*sigma, count)
    weight = 0.6 + 0.8 * rng.random(count)
    xyz = centre + offsets
    good = lung.contains(xyz, 0.97)
    for solid in a.heart:
        good &= ~solid.contains(xyz, 0.97)
    volume = (2 * np.pi) ** 1.5 * size**3
    # enough mass for the patch to reach its share of soft-tissue density on average
    space = (2 * np.pi) ** 1.5 * np.prod(spread) * 2.2
    mass = strength * _SOFT_IN_LUNG * space * volume * weight / max((volume * weight).sum(), 1.0)
    scene.points.append(gaussians(xyz[good], size[good], mass[good]))


def _opacity(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 3, rng):
        scale = (0.85 + 0.35 * rng.random()) * (0.75 + 0.25 * load)
        spread = np.array([15.0, 13.0, 14.0]) * scale
        _airspace(scene, rng, side, place, 70, spread, (3.0, 6.0), 1.15 * (0.7 + 0.3 * load))


def _consolidation(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 3, rng):
        scale = (0.9 + 0.35 * rng.random()) * (0.8 + 0.25 * load)
        spread = np.array([20.0, 18.0, 19.0]) * scale
        _airspace(scene, rng, side, place, 110, spread, (3.5, 7.5), 0.92 * (0.75 + 0.25 * load))


def _streak(a: Anatomy, rng, side, place, span, radius, tilt, mu) -> Points:
    """A band of collapsed or scarred lung: a plate seen partly on edge."""
    lung = a.lungs[side]
    centre = a.lung_point(rng, side, place)
    angle = tilt * rng.standard_normal()
    depth = rng.uniform(-0.5, 0.5)
    bow = 3.5 * rng.standard_normal()
    s = np.linspace(-0.5, 0.5, int(span / 1.2))
    path = centre + np.stack(
        [
            span * s * np.cos(angle),
            span * s * np.sin(angle) + bow * (1 - (2 * s) ** 2),
            span * s * depth,
        ],
        axis=1,
    )
    good = lung.contains(path, 0.985)
    thick = radius * (1.0 - 0.55 * np.abs(2 * s) ** 2)
    rows = []
    for shift in (-1.2, 0.0, 1.2):  # a plate, deeper than it is tall
        moved = path + np.array([0.0, 0.25 * shift * radius, shift * 2.2 * radius])
        rows.append(tube(moved, thick, mu * (good + 0.0)))
    xyz = np.concatenate([r.xyz for r in rows])
    return Points(
        xyz, np.concatenate([r.mass for r in rows]), np.concatenate([r.kind for r in rows])
    )


def _atelectasis(finding, load, rng, scene) -> None:
    sides = sides_of(finding, rng)
    place = finding.place or "base"
    extra = int(rng.integers(0, 3))
    for side in sides:
        for _ in range(3 + extra if finding.multiple or load > 1 else 2 + min(extra, 1)):
            span = rng.uniform(42, 78)
            radius = rng.uniform(2.4, 3.6) * (0.8 + 0.2 * load)
            scene.points.append(_streak(scene.anatomy, rng, side, place, span, radius, 0.22, 0.024))
        scale = 0.7 + 0.3 * load
        _airspace(scene, rng, side, place, 40, np.array([15, 7, 13]) * scale, (3.0, 5.0), 0.7)


def _scar(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 2, rng):
        for _ in range(2):
            span = rng.uniform(26, 46)
            radius = rng.uniform(1.7, 2.4)
            scene.points.append(
                _streak(scene.anatomy, rng, side, place or "apex", span, radius, 0.9, 0.058)
            )


def _aortic_calc(finding, load, rng, scene) -> None:
    a = scene.anatomy
    arch = a.pedicle[3]
    jitter = rng.standard_normal(3)
    start = 0.15 + 0.1 * jitter[0]
    phi = np.linspace(start, start + 2.1 + 0.25 * jitter[1], 46)
    patch = 0.35 + 0.65 * (np.sin(np.linspace(0, 7 + jitter[2], 46) + 2 * jitter[2]) > -0.35)
    for depth in np.linspace(-0.55, 0.45, 7):
        ring = np.sqrt(1 - depth**2)
        path = arch.centre + np.stack(
            [
                0.97 * arch.semi[0] * np.cos(phi) * ring,
                0.97 * arch.semi[1] * np.sin(phi) * ring,
                np.full_like(phi, arch.semi[2] * depth),
            ],
            axis=1,
        )
        scene.points.append(tube(path, 1.15, 0.18 * load**0.5 * patch))
    y = np.linspace(a.arch_y - 20, a.arch_y - 95, 60)
    x, z, radius = a.aorta(y)
    wall = patch[np.linspace(0, 45, 60).astype(int)] * (np.sin(y / 9 + jitter[0]) > -0.5)
    for angle in (0.0, 0.5, -0.5, np.pi):
        path = np.stack([x + radius * np.cos(angle), y, z + radius * np.sin(angle)], axis=1)
        scene.points.append(tube(path, 1.1, 0.15 * load**0.5 * wall))


def _congestion_haze(finding, load, rng, scene) -> None:
    a = scene.anatomy
    for side, sign in SIDES.items():
        count = 70
        draws = rng.standard_normal((count, 3)) * np.array([17.0, 24.0, 18.0])
        xyz = HILUM[side] + np.array([sign * 14.0, -4.0, 0.0]) + draws
        keep = a.lungs[side].contains(xyz, 0.97)
        scene.points.append(gaussians(xyz[keep], 8.0, 0.34 * load * 8.0**3 * 0.0105))
        lines = rng.random((12, 3))
        for draw in lines:  # septal lines at the base, running to the pleura
            lung = a.lungs[side]
            y = lung.dome_top - 18 + 42 * draw[0]
            cx, hx, cz, hz = (float(v) for v in lung.sections(np.array(y)))
            z = cz + hz * 0.7 * (draw[1] - 0.5)
            reach = hx * max(1 - abs((z - cz) / hz) ** 2.5, 0.05) ** 0.4
            edge = cx + sign * reach
            path = np.array([edge, y, z]) - np.linspace(0, 15 + 8 * draw[2], 18)[:, None] * [
                sign,
                0,
                0,
            ]
            scene.points.append(tube(path, 1.05, 0.034 * load))


def _effusion(finding, load, rng, scene) -> None:
    draws = rng.random(4)
    for index, side in enumerate(sides_of(finding, rng)):
        lung = scene.anatomy.lungs[side]
        amount = 0.52 if finding.severity is None else 0.72 * load
        # from the bottom of the costophrenic angle upwards
        height = lung.dome_top - 69.0 + 70.0 * amount + 14.0 * (draws[index] - 0.5)
        width = 6.0 + 11.0 * amount

        def share(y, height=height, width=width):
            return 1.0 - np.exp(-np.maximum(y - height, 0.0) / width) * 1.0

        scene.shells.append(Shell(side, share))


def _pneumothorax(finding, load, rng, scene) -> None:
    draws = rng.random(3)
    for side in sides_of(finding, rng):
        lung = scene.anatomy.lungs[side]
        least = float(np.clip(0.90 - 0.20 * load - 0.06 * draws[0], 0.42, 0.92))
        middle = 50.0 - 75.0 * load + 15.0 * draws[1]

        def share(y, least=least, middle=middle, apex=lung.apex):
            fall = 1.0 / (1.0 + np.exp(np.clip((y - middle) / 20.0, -30, 30)))
            top = np.clip((apex - 12.0 * load - 8.0 - y) / 14.0, 0.0, 1.0) ** 0.5
            return (least + (1.0 - least) * fall) * np.where(y > apex - 40, top, 1.0)

        scene.shells.append(Shell(side, share, air=True))


def _pleural_thick(finding, load, rng, scene) -> None:
    draws = rng.random(2)
    for side in sides_of(finding, rng):
        lung = scene.anatomy.lungs[side]
        if finding.place in ("apex", "upper lobe", ""):
            depth = (9.0 + 4.0 * draws[0]) * (0.7 + 0.3 * load)

            def share(y, depth=depth, apex=lung.apex):
                down = np.maximum(apex - y, 0.0)
                return np.clip(
                    1.0 - np.exp(-down / 16.0) * depth / 18.0 - (down < depth * 0.7), 0, 1
                )

        else:
            middle = lung.dome_top + 25.0 + 25.0 * draws[1]
            depth = (0.11 + 0.05 * draws[0]) * (0.7 + 0.3 * load)

            def share(y, depth=depth, middle=middle):
                return 1.0 - depth * np.exp(-(((y - middle) / 38.0) ** 4))

        scene.shells.append(Shell(side, share))


def _bulla(finding, load, rng, scene) -> None:
    for side, place in _places(finding, 1, 2, rng):
        centre = scene.anatomy.lung_point(rng, side, place or "upper lobe")
        radius = (19.0 + 9.0 * rng.random()) * (0.8 + 0.2 * load)
        semi = radius * np.array([0.9, 1.1, 1.0])
        scene.solids.append(Solid(Ellipsoid(centre, semi), -(MU_LUNG - 0.001) - 0.010))
        scene.solids.append(Solid(Ellipsoid(centre, semi - 1.6), 0.010))


def _hiatal_hernia(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.random(4)
    size = 26.0 * (0.75 + 0.28 * load) * (0.9 + 0.2 * draws[0])
    floor = (a.lungs["left"].dome_top + a.lungs["right"].dome_top) / 2
    centre = np.array(
        [12.0 + 10 * draws[1] + 0.5 * float(a.spine_x(floor)), floor + 0.55 * size, -26.0]
    )
    body = Ellipsoid(centre, (1.15 * size, size, 0.95 * size), rotation(0.2))
    scene.solids.append(Solid(body, 0.95 * _SOFT_IN_LUNG))
    level = centre[1] + 0.15 * size * (draws[2] - 0.2)
    bubble = Ellipsoid(centre, (1.0 * size, 0.85 * size, 0.8 * size), rotation(0.2))
    scene.solids.append(Solid(bubble, -0.0155, above=level))


def _hilar_mass(finding, load, rng, scene) -> None:
    for side in sides_of(finding, rng):
        x, y, z = HILUM[side]
        sign = SIDES[side]
        draws = rng.standard_normal((3, 3))
        for draw, radius in zip(draws, (14.0, 11.0, 10.0)):
            centre = np.array([x + sign * 8.0, y - 4.0, z]) + draw * np.array([4.0, 9.0, 5.0])
            semi = np.full(3, radius * (0.75 + 0.25 * load))
            scene.solids.append(Solid(Ellipsoid(centre, semi), 0.95 * _SOFT_IN_LUNG))


def _clips(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.random(3)
    side = sides_of(finding, rng)[0]
    sign = SIDES[side]
    sites = {
        "hilum": HILUM[side] + np.array([sign * 4.0, 0.0, 0.0]),
        "axilla": np.array([sign * 138.0, 78.0, -5.0]),
        "gallbladder": np.array([-62.0, a.lungs["right"].dome_top - 42.0, 25.0]),
        "mediastinum": np.array([sign * 18.0, 18.0, 30.0]),
    }
    if finding.place and finding.place != "hilum":
        site = a.lung_point(rng, side, finding.place)
    elif finding.place == "hilum":
        site = sites["hilum"]
    elif finding.side == "midline":
        site = sites["mediastinum" if draws[0] < 0.6 else "gallbladder"]
    else:
        site = sites["axilla" if draws[0] < 0.5 else "hilum"]
    count = int(rng.integers(4, 8)) + (3 if finding.multiple else 0)
    centres = site + rng.standard_normal((12, 3)) * np.array([9.0, 11.0, 9.0])
    ways = rng.standard_normal((12, 3))
    for centre, way in list(zip(centres, ways))[:count]:
        way = way / np.linalg.norm(way)
        path = centre + np.linspace(-4.2, 4.2, 9)[:, None] * way
        scene.points.append(tube(path, 1.5, 0.42))


def _catheter(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.standard_normal((8, 3))
    choice = rng.random(2)
    side = sides_of(finding, rng)[0]
    sign = SIDES[side]
    svc = np.array([-19.0, 88.0, 8.0])
    tip = np.array([-21.0 + 1.5 * draws[0, 0], 14.0 + 12.0 * draws[0, 1], 10.0])
    if choice[0] < 0.45:  # chest port
        port = np.array([sign * 92.0, 72.0, 66.0]) + draws[1] * [6, 8, 0]
        turn = [port, _by(port, [-sign * 4, 30, -8]), [sign * 66, 128, 30], [sign * 38, 122, 30]]
        scene.solids.append(Solid(Ellipsoid(port, (12.0, 12.0, 6.0)), 0.045))
        scene.solids.append(Solid(Ellipsoid(port, (8.0, 8.0, 4.5)), 0.035))
    elif choice[0] < 0.75:  # from the arm
        turn = [
            [sign * 175, 60, -8],
            [sign * 150, 100, 0],
            [sign * 100, 121, 18],
            [sign * 45, 118, 30],
        ]
    else:  # from the neck
        turn = [[sign * 34, 215, 0], [sign * 28, 165, 8], [sign * 24, 130, 20]]
    knots = np.array(
        [*turn, [-10.0 if sign > 0 else -22.0, 106, 18], svc, (svc + tip) / 2, tip], float
    )
    knots[: len(turn)] += draws[2 : 2 + len(turn)] * 2.0
    knots[:, 0] += 0.3 * a.spine_x(knots[:, 1])
    scene.points.append(tube(polyline(knots), 1.55, 0.15))


def _tube(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.standard_normal((6, 3))
    kind = rng.random()
    side = sides_of(finding, rng)[0]
    sign = SIDES[side]
    if finding.place or finding.side in SIDES:  # chest tube
        lung = a.lungs[side]
        knots = np.array(
            [
                [sign * 172, -46, 10],
                [sign * 128, -30, 0],
                [sign * 92, 10, -40],
                [sign * 66, 80, -44],
            ],
            float,
        )
        knots[1:] += draws[:3] * 4.0
        knots[-1, 1] = min(knots[-1, 1], lung.apex - 25)
        radius, mu = 3.4, 0.050
    elif kind < 0.5:  # endotracheal
        knots = np.array(
            [[0, 240, 18], [0, 160, 3], [0, 110, -6], [0, 82 + 5 * draws[0, 0], -9]], float
        )
        radius, mu = 3.6, 0.060
    else:  # feeding tube
        top = a.lungs["left"].dome_top
        knots = np.array(
            [
                [1, 240, 8],
                [0, 150, -20],
                [4, 60, -36],
                [9, -30, -34],
                [18, top - 5, -20],
                [58, top - 40, 8],
            ],
            float,
        )
        knots[1:] += draws[:5] * 1.5
        radius, mu = 2.2, 0.12
    knots[:, 0] += 0.45 * a.spine_x(knots[:, 1])
    path = polyline(knots)
    scene.points.append(tube(path, radius, mu))
    scene.points.append(tube(_by(path, [0.8 * radius, 0, 0]), 1.05, 0.22))


def _pacemaker(finding, load, rng, scene) -> None:
    draws = rng.standard_normal((4, 3))
    two_leads = rng.random() < 0.65
    side = sides_of(finding, rng)[0] if finding.side in SIDES else "left"
    sign = SIDES[side]
    box = np.array([sign * 104.0, 88.0, 68.0]) + draws[0] * [6, 7, 0]
    scene.solids.append(Solid(Ellipsoid(box, (25.0, 21.0, 7.0), rotation(sign * 0.3)), 0.10))
    scene.solids.append(
        Solid(Ellipsoid(_by(box, [0, 3, 0], -1.0), (17.0, 13.0, 6.0), rotation(sign * 0.3)), 0.05)
    )
    a = scene.anatomy
    entry = [_by(box, [-sign * 8, 20, -6]), [sign * 70, 126, 24], [sign * 34, 116, 26]]
    apex = a.heart[0].centre + np.array([34.0, -26.0, 14.0])
    ventricle = [*entry, [-14, 100, 16], [-20, 60, 10], [-22, 0, 12], [-8, -42, 20], apex]
    atrium = [*entry, [-12, 98, 18], [-17, 60, 14], [-24, 8, 22], [-34, 4, 30], [-36, 16, 34]]
    for knots in (ventricle, atrium)[: 2 if two_leads else 1]:
        knots = np.array([np.asarray(k, float) for k in knots])
        scene.points.append(tube(polyline(knots), 1.25, 0.20))
        scene.points.append(balls(knots[-1], 1.5, 0.5 * 14.0))


def _sternotomy(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.standard_normal((6, 3))
    yaw = a.habitus.numbers["yaw_frontal"]
    phi = np.linspace(0, 2 * np.pi, 44)
    for index, y in enumerate(np.linspace(98, -28, 6)):
        z = float(sternum_z(a, y))
        tilt = 0.25 * draws[index, 0]
        x, dy = 9.5 * np.cos(phi), 4.6 * np.sin(phi)
        path = np.stack(
            [x + yaw * z + draws[index, 1], y + dy + tilt * x, z + 6.0 * np.sin(phi)], axis=1
        )
        scene.points.append(tube(path, 1.15, 0.38))


def _spinal_fusion(finding, load, rng, scene) -> None:
    a = scene.anatomy
    draws = rng.random(3)
    first = int(3 + np.floor(5 * draws[0]))
    last = first + 4 + int(np.floor(3 * draws[1]))
    y = np.linspace(a.vertebra_y(first), a.vertebra_y(last), 100)
    yaw = a.habitus.numbers["yaw_frontal"]
    for sign in (-1, 1):
        z = a.spine_z(y) - 36.0
        x = a.spine_x(y) + yaw * z + sign * 12.5
        scene.points.append(tube(np.stack([x, y, z], 1), 2.4, 0.20))
        for level in range(first, last + 1):
            height = a.vertebra_y(level) + 2.0
            back = float(a.spine_z(height)) - 36.0
            s = np.linspace(0, 1, 26)
            screw = np.stack(
                [
                    float(a.spine_x(height)) + yaw * back + sign * (12.5 - 5.0 * s),
                    np.full_like(s, height),
                    back + 38.0 * s,
                ],
                axis=1,
            )
            scene.points.append(tube(screw, 2.0, 0.16))


def _leads(finding, load, rng, scene) -> None:
    draws = rng.standard_normal((5, 3))
    count = 3 + int(rng.integers(0, 3))
    sites = np.array([[-112, 104], [104, 100], [-96, -52], [108, -58], [30, 20]], float)
    for site, draw in list(zip(sites, draws))[:count]:
        x, y = site + 9.0 * draw[:2]
        front = float(np.interp(y, [-80, 20, 60, 105], [112.0, 100.0, 88.0, 68.0]))
        front *= float(np.sqrt(max(1 - (x / 172.0) ** 2, 0.1))) ** 0.7
        clip = np.array([x, y, front])
        scene.solids.append(Solid(Ellipsoid(clip, (4.5, 4.5, 2.0)), 0.16))
        away = np.sign(x) * 55.0
        wire = [
            clip,
            _by(clip, [0.35 * away, -22, 4]),
            _by(clip, [0.1 * away, -70, 8]),
            [0.3 * x + 10 * draw[2], -190, 118],
        ]
        scene.points.append(tube(polyline(np.array(wire, float)), 1.0, 0.13))


def _wedge_density(finding, load, rng, scene) -> None:
    """Impacted bone of a collapsed vertebra is denser."""
    a = scene.anatomy
    for level in np.flatnonzero(a.wedge):
        y = a.vertebra_y(int(level)) - 2.0
        half = float(vertebra_half_width(y))
        x = np.linspace(-0.8, 0.8, 9) * half
        z = float(a.spine_z(y)) + np.linspace(-0.6, 0.8, 7) * half * 0.86
        xx, zz = np.meshgrid(x, z)
        xyz = np.stack([xx.ravel() + float(a.spine_x(y)), np.full(xx.size, y), zz.ravel()], 1)
        scene.points.append(balls(xyz, 2.9, 0.0065 * PITCH * half))


def _callus(finding, load, rng, scene) -> None:
    a = scene.anatomy
    for side, rib, position, step in a.rib_steps:
        path = a.rib_path(side, rib)
        where = path[int(position * (len(path) - 1))]
        centre = _by(where, [0, step / 2, 0], -1.0)
        scene.solids.append(Solid(Ellipsoid(centre, (8.0, 7.0, 7.0)), 0.034))


_ADDERS: dict[str, Adder] = {
    "calc_granuloma": _calc_granuloma,
    "opacity": _opacity,
    "atelectasis": _atelectasis,
    "nodule": _nodule,
    "aortic_calc": _aortic_calc,
    "effusion": _effusion,
    "consolidation": _consolidation,
    "scar": _scar,
    "calc_node": _calc_node,
    "catheter": _catheter,
    "clips": _clips,
    "congestion": _congestion_haze,
    "pacemaker": _pacemaker,
    "rib_fracture": _callus,
    "wedge_fracture": _wedge_density,
    "pleural_thick": _pleural_thick,
    "hiatal_hernia": _hiatal_hernia,
    "hilar_prominence": _hilar_mass,
    "tube": _tube,
    "pneumothorax": _pneumothorax,
    "sternotomy": _sternotomy,
    "spinal_fusion": _spinal_fusion,
    "bulla": _bulla,
    "leads": _leads,
}

RENDERED_TYPES: tuple[str, ...] = tuple(
    name for name in FINDING_TYPES if name in _TRAITS or name in _ADDERS
)
"""Finding types the renderer draws, most frequent first. Osteopenia is left out: on a film whose
exposure is not calibrated, bone density cannot be told."""

OBJECT_TYPES = frozenset(_ADDERS) - {"congestion"}
"""Types whose mask is the object they add (congestion concerns the lungs as a whole)."""


def check_findings(study_id: str, findings: Sequence[PlacedFinding]) -> None:
    """Refuse findings that cannot be drawn.

    Raises:
        KitError: unknown type, side or severity.
    """
    for f in findings:
        if f.name not in RENDERED_TYPES:
            raise KitError(
                f"Study {study_id}: the phantom cannot draw {f.name!r}; "
                f"keep only types listed in r2genkit.phantom.RENDERED_TYPES."
            )
        if f.side not in ("left", "right", "bilateral", "midline"):
            raise KitError(
                f"Study {study_id}: {f.name} has side {f.side!r}; "
                f"use left, right, bilateral or midline."
            )
        if f.severity is not None and f.severity not in SHIFT:
            raise KitError(
                f"Study {study_id}: {f.name} has severity {f.severity!r}; "
                f"use one of {', '.join(SHIFT)} or None."
            )


def make_scene(
    study_id: str,
    seed: int,
    habitus: Habitus,
    findings: Sequence[PlacedFinding],
) -> tuple[Scene, list[Scene]]:
    """The patient with all findings in place.

    Returns:
        the scene, and for each finding a scene that holds nothing but what it added.
    """
    names = stream_names(study_id, findings)
    effects = Effects(habitus.traits)
    for finding, name in zip(findings, names):
        if finding.name in _TRAITS:
            rng = numpy_rng(seed, f"{name}/trait")
            jitter = 0.3 * float(np.clip(rng.standard_normal(), -2, 2))
            amount = max(severity_shift(finding.severity) + jitter, 0.5)
            _TRAITS[finding.name](finding, amount, rng, effects)
    anatomy = build(habitus, dict(effects.shifts), effects.wedge, effects.rib_steps)
    parts = []
    for finding, name in zip(findings, names):
        part = Scene(anatomy)
        if finding.name in _ADDERS:
            rng = numpy_rng(seed, f"{name}/object")
            _ADDERS[finding.name](finding, severity_load(finding.severity), rng, part)
        parts.append(part)
    whole = Scene(
        anatomy,
        points=[points for part in parts for points in part.points],
        solids=[solid for part in parts for solid in part.solids],
        shells=[shell for part in parts for shell in part.shells],
    )
    return whole, parts
