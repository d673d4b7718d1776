"""The patient: nuisance draws, traits, and the geometry they give.

Three steps, in this order, so that findings never disturb anything but themselves:

1. :func:`draw_habitus` draws everything random about a patient from the study's nuisance stream.
   The number and order of draws are fixed.
2. Findings shift *traits*: one number per anatomical quantity, in units of its spread among
   normals. A mild finding moves its trait by two such units and a severe one by four, so normals
   and abnormals overlap as they do in people.
3. :func:`build` turns habitus and traits into geometry: tables of cross-sections, ellipsoids,
   paraboloid domes, spine curves, and point clouds for bones and vessels.

Frame: x towards the patient's left, y up, z forward, mm; the carina is near y = 60 and the domes
of the diaphragm near y = -80.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from r2genkit.phantom.population import Population
from r2genkit.phantom.shapes import Ellipsoid, rotation
from r2genkit.phantom.splat import Points, balls, gaussians, hollow_tube, polyline, tube

TRAITS = (
    "heart",
    "inflation",
    "dome_right",
    "dome_left",
    "aorta",
    "degeneration",
    "scoliosis",
    "kyphosis",
    "vascularity",
    "hila",
    "mediastinum",
    "reticulation",
)
"""Anatomical quantities, each standard normal in the healthy population (before truncation)."""

SIDES = {"right": -1, "left": 1}
APEX = 137.0
VERTEBRAE = 17  # C7, T1-T12, L1-L4
PITCH = 23.6
SPINE_TOP = 157.0 + PITCH
HILUM = {"right": np.array([-34.0, 38.0, -12.0]), "left": np.array([36.0, 46.0, -14.0])}

# Attenuation in 1/mm. Lung and bone are gentler than in nature: at 224 pixels and eight bits the
# physical values would leave lungs black and ribs invisible.
MU_SOFT = 0.0200
MU_LUNG = 0.0078
MU_AIR = 0.0008
MU_BLOOD = 0.0022  # on top of soft tissue
MU_FAT = -0.0022  # on top of soft tissue
MU_VESSEL = 0.026
MU_RIB = 0.050

# Lung cross-sections by depth d below the apex (mm): lateral and medial border (|x|), front and
# back (z). The medial border nearly meets the midline; spine and mediastinum are cut out later.
_DEPTH = np.array([0, 2, 5, 10, 18, 30, 50, 80, 120, 160, 200, 240, 330.0])
_LATERAL = np.array([40, 51, 59, 68, 79, 92, 106, 118, 127, 132, 135, 136, 134.0])
_MEDIAL = np.array([40, 30, 24, 19, 15, 12, 9, 7, 6, 6, 6, 6, 6.0])
_FRONT = np.array([-34, -22, -12, 0, 15, 34, 52, 66, 77, 84, 88, 90, 90.0])
_BACK = np.array([-34, -46, -53, -60, -68, -77, -86, -93, -96, -95, -91, -85, -74.0])


@dataclass
class Habitus:
    """Everything random about a patient that no finding may touch.

    Attributes:
        traits: normal value of every trait.
        numbers: named scalars (habitus, pose).
        arrays: named arrays of raw draws (vessel tree, bones, bowel gas, reticulation).
    """

    traits: dict[str, float]
    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


def draw_habitus(rng: np.random.Generator, population: Population) -> Habitus:
    """Draw a patient's nuisance variables; always the same number of draws in the same order."""
    normal = np.clip(rng.standard_normal(len(TRAITS)), -2.2, 2.2) * population.trait_spread
    traits = dict(zip(TRAITS, normal.tolist()))
    z = np.clip(rng.standard_normal(40), -2.5, 2.5)
    u = rng.random(24)
    p = population
    fat = p.fat_mm * float(np.exp(0.5 * z[2]))
    numbers = {
        "width": float(np.exp(p.body_width * z[0])),
        "depth": float(np.exp(p.body_width * 1.2 * z[1] + 0.08 * np.log(fat / p.fat_mm))),
        "size": float(np.exp(p.body_size * z[3])),
        "fat": fat,
        "female": float(u[0] < p.female),
        "breast": float(np.clip(0.9 + 0.35 * z[4] + 0.3 * np.log(fat / p.fat_mm), 0.25, 2.0)),
        "breast_drop": float(z[5]),
        "lean_x": p.lean * float(z[6]),
        "lean_z": p.lean * 1.6 * float(z[7]) + 0.03,
        "yaw_frontal": p.yaw * float(z[8]),
        "yaw_lateral": p.yaw * float(z[9]),
        "spine_phase": float(u[1]),
        "spine_shift": float(0.10 * z[10]),
        "bone": float(np.exp(0.14 * z[11])),
        "vessel": float(np.exp(0.10 * z[12])),
        "heart_turn": float(0.09 * z[13]),
        "heart_x": float(3.0 * z[14]),
        "heart_y": float(3.0 * z[15]),
        "arch_y": float(4.0 * z[16]),
        "carina_x": float(2.5 * z[17]),
        "arm": float(z[18]),
        "arm_spread": float(z[19]),
        "shoulder": float(z[20]),
        "scapula": float(z[21]),
        "clavicle": float(z[22]),
        "rib_drop": float(z[23]),
        "stomach": float(u[2]),
        "stomach_size": float(u[3]),
        "stomach_level": float(u[4]),
        "neck": float(z[25]),
        "dome_shape": float(z[26]),
        "lung_mu": float(np.exp(0.05 * z[27])),
        "front_slope": float(z[28]),
        "zoom_frontal": float(np.exp(p.zoom * z[29])),
        "zoom_lateral": float(np.exp(p.zoom * z[30])),
        "shift_frontal_u": p.shift_mm * float(z[31]),
        "shift_frontal_v": p.shift_mm * float(z[32]),
        "shift_lateral_u": p.shift_mm * float(z[33]),
        "shift_lateral_v": p.shift_mm * float(z[34]),
        "tilt_frontal": p.tilt * float(z[35]),
        "tilt_lateral": p.tilt * 1.5 * float(z[36]),
        "curve": float(z[37]),
        "abdomen": float(z[38]),
    }
    levels = 6
    arrays = {
        "rib": rng.standard_normal((2, 12, 4)),
        "spine": rng.standard_normal((VERTEBRAE, 6)),
        "vessel_root": rng.standard_normal((2, 15, 6)),
        "gas": rng.random((9, 6)),
        "gas_lobes": rng.standard_normal((9, 6, 3)),
        "net": rng.random((420, 4)),
        "net_direction": rng.standard_normal((420, 3)),
        "mottle": rng.random((260, 4)),
    }
    for level in range(levels):
        arrays[f"vessel_{level}"] = rng.standard_normal((2, 15 * 2**level, 10))
    return Habitus(traits, numbers, arrays)


def spine_x(y, bend: float, phase: float) -> np.ndarray:
    """Sideways course of the spine in mm: one long curve with a shorter counter-curve.

    Args:
        y: heights in mm.
        bend: amplitude in mm, positive towards the patient's left.
        phase: 0 to 1, where the main curve peaks (upper to lower thoracic).
    """
    middle = 60.0 - 75.0 * phase
    y = np.asarray(y, float)
    return bend * (
        np.exp(-(((y - middle) / 70.0) ** 2)) - 0.55 * np.exp(-(((y - middle + 130) / 55.0) ** 2))
    )


def spine_z(y, kyphosis: float) -> np.ndarray:
    """Forward-backward course of the vertebral bodies' centres in mm (thoracic kyphosis)."""
    y = np.asarray(y, float)
    rounding = 15.0 + 5.5 * kyphosis
    return -47.0 - rounding * (1 - ((np.clip(y, -190, 215) - 35.0) / 135.0) ** 2)


class Lung:
    """One lung's outer surface: a stack of superelliptic sections under a paraboloid dome.

    Attributes:
        side: "right" or "left".
        sign: -1 right, +1 left.
        dome_top: height of the top of the diaphragm (mm).
        dome_x, dome_z: where that top lies; dome_cx, dome_cz: curvatures in 1/mm.
    """

    exponent = 2.5

    def __init__(self, side: str, anatomy: Anatomy) -> None:
        self.side, self.sign, self.anatomy = side, SIDES[side], anatomy
        n, t = anatomy.habitus.numbers, anatomy.traits
        flat = 1.0 - 0.055 * float(np.clip(t["inflation"], -3.0, 6.0))
        rise = 6.5 * t[f"dome_{side}"]
        own = -72.0 if side == "right" else -84.0
        self.dome_top = own - 7.5 * t["inflation"] + rise
        self.dome_x = self.sign * (70.0 + (2.0 if side == "right" else 0.0))
        self.dome_z = 20.0 + 4.0 * n["dome_shape"]
        bulge = 1.0 + 0.012 * max(rise, 0.0)
        self.dome_cx = 0.0060 * flat * bulge
        self.dome_cz = 0.0045 * flat * bulge
        self.apex = APEX + 1.6 * t["inflation"] + (3.0 if side == "left" else 0.0)

    def sections(self, y) -> tuple[np.ndarray, ...]:
        """Centre x, half-width, centre z, half-depth of the section at heights y (0 above)."""
        a = self.anatomy
        y = np.asarray(y, float)
        depth = self.apex - y
        wide = 1.0 + 0.010 * a.traits["inflation"]
        deep = 1.0 + 0.022 * a.traits["inflation"]
        lateral = np.interp(depth, _DEPTH, _LATERAL) * wide
        medial = np.interp(depth, _DEPTH, _MEDIAL)
        front = np.interp(depth, _DEPTH, _FRONT) + a.front_shift(y)
        back = np.interp(depth, _DEPTH, _BACK) + a.back_shift(y)
        centre_z = (front + back) / 2
        half_z = (front - back) / 2 * deep
        half_x = (lateral - medial) / 2
        centre_x = self.sign * (lateral + medial) / 2
        bend = a.spine_x(y)
        centre_x = centre_x + 0.45 * bend
        half_x = half_x - 0.25 * self.sign * bend
        inside = depth > 0
        return centre_x, np.where(inside, half_x, 0.0), centre_z, np.where(inside, half_z, 0.0)

    def floor(self, x, z) -> np.ndarray:
        """Height of the diaphragm at (x, z)."""
        return (
            self.dome_top
            - self.dome_cx * (np.asarray(x) - self.dome_x) ** 2
            - self.dome_cz * (np.asarray(z) - self.dome_z) ** 2
        )

    def contains(self, xyz: np.ndarray, shrink: float = 1.0, clearance: float = 1.0) -> np.ndarray:
        """Whether points ``[N, 3]`` lie in the (shrunken) envelope, clear of the diaphragm."""
        x, y, z = np.asarray(xyz, float).T
        cx, hx, cz, hz = self.sections(y)
        q = (np.abs(x - cx) / np.maximum(hx * shrink, 1e-3)) ** self.exponent
        q = q + (np.abs(z - cz) / np.maximum(hz * shrink, 1e-3)) ** self.exponent
        return (q <= 1.0) & (y > self.floor(x, z) + clearance)


@dataclass
class Anatomy:
    """Geometry of one patient, ready for projection.

    Attributes:
        habitus, traits: what it was built from (traits include the findings' shifts).
        lungs: by side.
        heart: ellipsoids of the heart; vessels_core: ellipsoids of the vascular pedicle.
        hila: ellipsoids of the hilar vessels.
        wedge: loss of anterior height per vertebra (fraction of the pitch).
        rib_steps: displaced rib fractures: (side, rib, position along the rib, step in mm).
    """

    habitus: Habitus
    traits: dict[str, float]
    wedge: np.ndarray
    rib_steps: list[tuple[str, int, float, float]]
    lungs: dict[str, Lung] = field(default_factory=dict)
    heart: list[Ellipsoid] = field(default_factory=list)
    pedicle: list[Ellipsoid] = field(default_factory=list)
    hila: list[Ellipsoid] = field(default_factory=list)

    @cached_property
    def points(self) -> list[Points]:
        """Point clouds, drawn when first needed: bones, vessels, airways, bowel gas."""
        return [
            *_ribs(self),
            *_shoulder_girdle(self),
            *_vessels(self),
            *_airways(self),
            *_osteophytes(self),
            *_bowel(self),
        ]

    def spine_x(self, y) -> np.ndarray:
        """Sideways position of the vertebral bodies (mm)."""
        n, t = self.habitus.numbers, self.traits
        return spine_x(y, 4.4 * t["scoliosis"] + 0.8 * n["curve"], n["spine_phase"])

    def spine_z(self, y) -> np.ndarray:
        """Forward position of the vertebral bodies' centres (mm)."""
        return spine_z(y, self.traits["kyphosis"])

    def back_shift(self, y) -> np.ndarray:
        """How far the posterior chest wall moves with the kyphosis (mm)."""
        return spine_z(y, self.traits["kyphosis"]) - spine_z(y, 0.0)

    def front_shift(self, y) -> np.ndarray:
        """How far the anterior chest wall moves (slope of the sternum), mm."""
        return 3.0 * self.habitus.numbers["front_slope"] * (60.0 - np.asarray(y, float)) / 100.0

    def aorta(self, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Descending aorta at heights y: x, z of the centre and radius (mm)."""
        y = np.asarray(y, float)
        t = self.traits["aorta"]
        arch = self.arch_y
        down = np.clip((arch - y) / 170.0, 0.0, 1.0)
        bow = 1.5 + 8.5 * t
        x = 23.0 - 13.0 * down + bow * np.sin(np.pi * np.clip(down, 0, 1)) ** 1.5
        x = x + 0.6 * self.spine_x(y)
        z = self.spine_z(y) + 24.0 + (2.0 + 2.4 * t) * np.sin(np.pi * down)
        radius = (12.5 + 0.45 * t) * np.clip((arch + 6.0 - y) / 6.0, 0.0, 1.0) ** 0.5
        return x, z, radius

    @property
    def arch_y(self) -> float:
        """Height of the top of the descending aorta (mm)."""
        return 72.0 + self.habitus.numbers["arch_y"] + 1.5 * self.traits["aorta"]

    @property
    def pitch(self) -> float:
        """Height of one vertebra with its disc (mm)."""
        return PITCH

    def vertebra_y(self, level: float) -> float:
        """Height of the middle of a vertebra; level 1 = T1, 12 = T12, 0 = C7."""
        return SPINE_TOP - (level + 0.5) * PITCH + 6.0 * self.habitus.numbers["spine_shift"] * 10

    def rib_path(self, side: str, rib: int, count: int = 150) -> np.ndarray:
        """Course of a rib, from its head to its anterior end ``[count, 3]``; rib 1 to 12."""
        return _rib_paths(self, count)[0 if side == "right" else 1, rib - 1]

    def lung_point(
        self, rng: np.random.Generator, side: str, place: str, tries: int = 60
    ) -> np.ndarray:
        """A point of the aerated lung near a named place ``[3]``.

        Args:
            rng: the finding's stream; a fixed number of draws is made.
            side: "left" or "right".
            place: as in ``PlacedFinding.place``; "" is anywhere.
            tries: candidates drawn; the first that lies in the lung and not in the heart wins.
        """
        lung = self.lungs[side]
        low, high, x_range, z_range = _PLACES.get(place, _PLACES[""])
        draws = rng.random((tries, 3))
        level = low + (high - low) * draws[:, 0]
        y = lung.apex - level * (lung.apex - lung.dome_top)
        cx, hx, cz, hz = lung.sections(y)
        x = cx + lung.sign * hx * (x_range[0] + (x_range[1] - x_range[0]) * draws[:, 1])
        z = cz + hz * (z_range[0] + (z_range[1] - z_range[0]) * draws[:, 2])
        xyz = np.stack([x, y, z], axis=1)
        good = lung.contains(xyz, 0.92) & (np.abs(x) > 18)
        for solid in (*self.heart, *self.pedicle):
            good &= ~solid.contains(xyz, 1.05)
        best = int(np.argmax(good)) if good.any() else int(np.argmin(np.abs(draws[:, 1] - 0.5)))
        return xyz[best]


# place -> range of the level (0 apex, 1 dome), of x (-1 medial, +1 lateral) and of z (-1 back)
_PLACES: dict[str, tuple[float, float, tuple[float, float], tuple[float, float]]] = {
    "": (0.15, 0.95, (-0.5, 0.8), (-0.75, 0.7)),
    "apex": (0.08, 0.19, (-0.5, 0.6), (-0.5, 0.5)),
    "upper lobe": (0.17, 0.42, (-0.4, 0.75), (-0.5, 0.75)),
    "middle lobe": (0.62, 0.85, (-0.35, 0.7), (0.15, 0.75)),
    "lingula": (0.62, 0.88, (0.1, 0.75), (0.2, 0.75)),
    "lower lobe": (0.62, 0.95, (-0.45, 0.75), (-0.8, -0.2)),
    "base": (0.84, 0.99, (-0.3, 0.7), (-0.7, 0.3)),
    "hilum": (0.38, 0.52, (-0.62, -0.35), (-0.25, 0.2)),
    "retrocardiac": (0.70, 0.95, (-0.75, -0.25), (-0.75, -0.4)),
    "costophrenic angle": (0.98, 1.15, (0.55, 0.85), (-0.6, 0.0)),
}


def build(
    habitus: Habitus,
    shifts: dict[str, float] | None = None,
    wedge: np.ndarray | None = None,
    rib_steps: list[tuple[str, int, float, float]] | None = None,
) -> Anatomy:
    """Geometry of a patient.

    Args:
        habitus: nuisance draws.
        shifts: additions to the traits, in normal SDs (from findings).
        wedge: loss of anterior height per vertebra ``[VERTEBRAE]`` (fraction of the pitch).
        rib_steps: rib fractures.
    """
    traits = dict(habitus.traits)
    for name, shift in (shifts or {}).items():
        traits[name] = traits[name] + shift
    anatomy = Anatomy(
        habitus,
        traits,
        np.zeros(VERTEBRAE) if wedge is None else wedge,
        rib_steps or [],
    )
    anatomy.lungs = {side: Lung(side, anatomy) for side in SIDES}
    _heart(anatomy)
    return anatomy


def _heart(a: Anatomy) -> None:
    n, t = a.habitus.numbers, a.traits
    grow = float(np.exp(-0.03 + 0.058 * t["heart"]))
    left = float(np.exp(0.040 * t["heart"]))
    domes = (a.lungs["left"].dome_top + 84.0 + a.lungs["right"].dome_top + 72.0) / 2
    lift = 0.40 * float(np.clip(domes, -25.0, 60.0))
    turn = -0.56 + n["heart_turn"] + 0.006 * lift
    pivot = np.array([6.0 + n["heart_x"], -12.0 + n["heart_y"] + lift, 4.0])
    pivot[0] += 0.35 * float(a.spine_x(-20.0))
    yaw = n["yaw_frontal"]

    def part(centre, semi, matrix=None, stretch=(1.0, 1.0, 1.0)):
        offset = np.array(centre, float) * grow
        centre = pivot + offset
        centre[0] += yaw * centre[2]
        return Ellipsoid(centre, np.array(semi) * grow * np.array(stretch), matrix)

    main = rotation(turn, -0.50, 0.10)
    a.heart = [
        part((18, -26, 16), (58, 41, 44), main, (left, 1.0, 1.0)),
        part((-9, -14, 8), (42, 40, 38)),
        part((0, 8, -14), (37, 33, 33)),
        part((10, -20, 40), (40, 44, 34), rotation(-0.35)),
    ]
    wide = 1.0 + 0.055 * t["mediastinum"]
    aorta = t["aorta"]
    arch = a.arch_y
    hump = 1.0 + 0.10 * aorta
    spine = 0.4 * float(a.spine_x(60.0))
    a.pedicle = [
        Ellipsoid((2 + spine, 72 + 0.3 * lift, 2), (21 * wide, 66, 30)),
        Ellipsoid((-13 * wide + spine, 78, 6), (14 * wide, 62, 16)),  # superior vena cava
        Ellipsoid(
            (-8 + spine - 1.4 * aorta, 46 + 0.4 * lift, 20), (21 * wide + 0.9 * aorta, 56, 24)
        ),
        Ellipsoid(
            (23 + spine + 0.8 * aorta + n["yaw_frontal"] * -15, arch - 3, -16),
            (15.5 * hump, 16.5 * hump, 33 * hump),
        ),
        Ellipsoid(
            (12 + spine, 24 + 0.4 * lift, 16), (29, 36, 26), rotation(0.12)
        ),  # pulmonary trunk
    ]
    hila = 1.0 + 0.10 * float(np.clip(t["hila"] + 0.5 * max(t["vascularity"], 0), -2.5, 7))
    a.hila = []
    for side, sign in SIDES.items():
        x, y, z = HILUM[side]
        y = y + 0.45 * lift
        a.hila += [
            Ellipsoid((x, y, z), (9.0 * hila, 13.0 * hila, 9.0 * hila), rotation(sign * 0.2)),
            Ellipsoid(
                (x + sign * 5, y - 16, z - 4),
                (7 * hila, 14 * hila, 7 * hila),
                rotation(sign * 0.35),
            ),
        ]


def _rib_paths(a: Anatomy, count: int) -> np.ndarray:
    """All ribs ``[2, 12, count, 3]`` (right, left)."""
    n, noise = a.habitus.numbers, a.habitus.arrays["rib"]
    rib = np.arange(12)
    drop = np.array([34, 46, 58, 68, 77, 84, 88, 89, 84, 74, 44, 26.0])
    drop = drop * (1 + 0.05 * n["rib_drop"] - 0.035 * a.traits["inflation"])
    end = np.array([2.40, 2.62, 2.68, 2.68, 2.62, 2.52, 2.40, 2.22, 2.02, 1.82, 1.25, 0.85])
    phi = np.linspace(0.20, 1.0, count) * 0 + np.linspace(0, 1, count)
    phi = 0.20 + phi[None] * (end[:, None] - 0.20)
    head = np.array([a.vertebra_y(level + 1) for level in rib]) + 5.0
    out = np.empty((2, 12, count, 3))
    for index, (side, sign) in enumerate(SIDES.items()):
        own = noise[index]
        g = ((phi - 0.20) / 2.4) ** (1.12 + 0.05 * own[:, :1])
        y = head[:, None] + 1.2 * own[:, 1:2] - drop[:, None] * (1 + 0.05 * own[:, 2:3]) * g
        y = y + np.minimum(rib[:, None] * 2.0, 5.0) * np.exp(-(((phi - 0.45) / 0.25) ** 2))
        cx, hx, cz, hz = a.lungs[side].sections(np.minimum(y, a.lungs[side].apex - 4.0))
        lateral = np.abs(cx) + hx + 4.5
        s, c = np.sin(phi), np.cos(phi)
        power = 2.0 / 2.4
        x = sign * lateral * s**power
        x = x + 0.5 * a.spine_x(y) * (1 - s)
        z = cz - (hz + 4.0) * np.sign(c) * np.abs(c) ** power
        z = z + 20.0 * np.exp(-(((phi - 0.20) / 0.13) ** 2))
        out[index] = np.stack([x, y, z], axis=-1)
        for step_side, step_rib, position, step in a.rib_steps:
            if step_side == side:
                t = np.linspace(0, 1, count)
                ramp = 1.0 / (1.0 + np.exp(-(t - position) * 160.0))
                fade = np.exp(-np.maximum(t - position, 0.0) / 0.16)
                out[index, step_rib - 1, :, 1] += step * ramp * fade
    return out


def _ribs(a: Anatomy) -> list[Points]:
    paths = _rib_paths(a, 150)
    noise = a.habitus.arrays["rib"]
    bone = a.habitus.numbers["bone"]
    along = np.linspace(0, 1, 150)
    radius = np.array([5.4, 5.4, 5.6, 5.9, 6.1, 6.2, 6.3, 6.3, 6.1, 5.8, 5.0, 4.2])[None, :, None]
    radius = radius * (1 + 0.05 * noise[..., 3:4]) * (0.86 + 0.16 * np.sin(np.pi * along) ** 0.5)
    # a rib is a flat band: seen along the lateral wall it is thinner than a round tube
    flat = 1.0 - 0.58 * np.exp(-(((along - 0.5) / 0.18) ** 2))
    mu = MU_RIB * bone * (flat * (1.0 - 0.25 * along))[None, None]
    mu = np.broadcast_to(mu, radius.shape).copy()
    mu[:, 0] *= 0.6  # the first rib is broad and thin
    return [
        *hollow_tube(paths, radius, mu, marrow=0.94, lateral=False),
        *hollow_tube(paths, 0.92 * radius, 0.72 * mu, marrow=0.90, frontal=False),
    ]


_BOTH = np.array([-1.0, 1.0])[:, None, None]  # right, left


def _mirrored(path: np.ndarray) -> np.ndarray:
    """A left-sided path ``[N, 3]`` on both sides ``[2, N, 3]`` (right, left)."""
    return path[None] * np.concatenate([_BOTH, np.ones((2, 1, 2))], axis=-1)


def _shoulder_girdle(a: Anatomy) -> list[Points]:
    """Clavicles, scapulae, humeri and sternum; the arms hang in one view and rise in the other."""
    n = a.habitus.numbers
    bone, yaw = n["bone"], n["yaw_frontal"]
    sides = np.array([-1.0, 1.0])
    up = 3.0 * n["clavicle"] + sides * 1.5 * n["arm"]
    out: list[Points] = []

    knots = [[16, 116, 52], [38, 121, 54], [75, 131, 46], [112, 136, 18], [150, 139, -12]]
    path = _mirrored(polyline(knots))
    outward = np.clip((np.abs(path[..., 0]) - 38.0) / 37.0, 0.0, 1.4)
    path[..., 1] += up[:, None] * outward
    path[..., 0] += yaw * path[..., 2] * np.clip(1.3 - np.abs(path[..., 0]) / 115.0, 0.0, 1.0)
    radius = np.interp(np.linspace(0, 1, path.shape[1]), [0, 0.12, 0.5, 1], [8.0, 6.0, 5.2, 6.0])
    out += hollow_tube(path, radius, MU_RIB * 0.85 * bone, marrow=0.92, lateral=False)
    third = path.shape[1] // 3
    out += hollow_tube(path[:, :third], radius[:third], 0.012 * bone, frontal=False)

    turn = 2.5 * n["scapula"]
    border = [[104, 122, -88], [98, 80, -92], [106, 36, -88], [118, 8, -80]]
    axillary = [[118, 8, -80], [131, 50, -70], [146, 92, -50]]
    ridge = [[102, 106, -92], [128, 122, -84], [158, 138, -50]]
    for line, r, mu in ((border, 2.1, 0.022), (axillary, 3.2, 0.022), (ridge, 3.6, 0.020)):
        line = _mirrored(polyline(np.add(line, (turn, 0.0, 0.0)), 1.5))
        out.append(tube(line, r, mu * bone, lateral=False))
    s, t = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 12))
    inner = np.stack([104 + turn + 14 * t, 118 - 108 * t], -1)
    outer = np.stack([turn + np.interp(t, [0, 0.35, 1], [150, 138, 120]), 112 - 102 * t], -1)
    plate = (inner + (outer - inner) * s[..., None]).reshape(-1, 2)
    plate = _mirrored(np.concatenate([plate, np.full((len(plate), 1), -78.0)], axis=1))
    out.append(gaussians(plate, 5.2, 0.012 * 3.5 * 45 * bone, lateral=False))

    # humeral head and shaft of the hanging arm
    drop = 0.10 + 0.05 * n["arm_spread"]
    head = np.stack([170 + 2 * n["shoulder"] + 0 * up, 118 + up, -20 + 0 * up], axis=-1)
    head[:, 0] *= sides
    ball = np.concatenate([_sphere_points(150) * 20.0, _sphere_points(70) * 12.0])
    mass = 0.012 * 4 / 3 * np.pi * 21.0**3 / len(ball) * bone
    out.append(balls(head[:, None] + ball, 6.2, mass, lateral=False))
    reach = np.stack([sides * 380 * drop, np.full(2, -200.0), np.zeros(2)], axis=-1)
    steps = np.linspace(0, 1, 120)[:, None]
    out += hollow_tube(head[:, None] + steps * reach[:, None], 11.0, 0.030 * bone, lateral=False)

    # the raised arm, and the blade of the scapula seen on edge
    angle = 0.93 + 0.10 * n["arm"] + sides * 0.10 * (1 + 0.3 * n["arm_spread"])
    start = np.stack([sides * 118.0, np.full(2, 150.0), np.full(2, -22.0)], axis=-1)
    reach = 190 * np.stack([np.zeros(2), np.sin(angle), np.cos(angle)], axis=-1)
    out += hollow_tube(start[:, None] + steps * reach[:, None], 10.0, 0.026 * bone, frontal=False)
    blade = _mirrored(polyline([[110, 118, -62], [108, 70, -92], [114, 18, -100]], 1.5))
    blade[..., 2] += 5.0 * sides[:, None]
    out.append(tube(blade, 2.9, 0.022 * bone, frontal=False))

    y = np.linspace(112, -50, 110)
    x = np.linspace(-15, 15, 7)[:, None] + yaw * 80.0
    x, y, z = np.broadcast_arrays(x, y, sternum_z(a, y))
    sternum = np.stack([x, y, z], axis=-1)
    out.append(tube(sternum, 5.0, 0.0042 * bone))
    out.append(tube(sternum, 3.2, -0.0050 * bone, frontal=False))
    return out


def sternum_z(a: Anatomy, y) -> np.ndarray:
    """Forward position of the sternum at heights y (mm)."""
    at = np.interp(y, [-50, -20, 20, 60, 95, 115], [98, 94.5, 86, 73, 58, 48])
    return at + a.front_shift(y)


def _sphere_points(count: int) -> np.ndarray:
    index = np.arange(count) + 0.5
    polar = np.arccos(1 - 2 * index / count)
    angle = np.pi * (1 + 5**0.5) * index
    return np.stack(
        [np.cos(angle) * np.sin(polar), np.sin(angle) * np.sin(polar), np.cos(polar)], axis=1
    )


def _vessels(a: Anatomy) -> list[Points]:
    """Pulmonary vessels: grown in a nominal chest, then carried along with the patient's lungs."""
    h, t = a.habitus, a.traits
    out = []
    vascular = float(np.clip(t["vascularity"], -2.5, 7.0))
    for index, (side, sign) in enumerate(SIDES.items()):
        lung = a.lungs[side]
        hilum = HILUM[side]
        root = h.arrays["vessel_root"][index]
        count = len(root)
        polar = np.linspace(0.18, 2.95, count) + 0.13 * root[:, 0]  # from up to down
        azimuth = np.tile([-0.95, 0.15, 1.0], count // 3 + 1)[:count] + 0.22 * root[:, 1]
        direction = np.stack(
            [
                sign * np.sin(polar) * np.cos(azimuth),
                np.cos(polar),
                np.sin(polar) * np.sin(azimuth),
            ],
            axis=1,
        )
        start = hilum + 6.0 * direction + np.array([3.0, 8.0, 5.0]) * root[:, 2:5]
        radius = 2.5 * np.exp(0.18 * root[:, 5]) * (0.85 + 0.30 * (polar > 1.7))
        reach = np.where(polar > 1.7, 27.0, 22.0) + 5.0 * np.abs(direction[:, 2])
        paths, radii = [], []
        for level, count in enumerate((14, 12, 10, 8, 6, 5)):
            steps = np.linspace(0, 1, count)[None, :, None]
            noise = h.arrays[f"vessel_{level}"][index]
            bend = 0.55 * reach[:, None, None] * noise[:, None, :3] * steps * (1 - steps)
            path = start[:, None] + reach[:, None, None] * direction[:, None] * steps + bend
            paths.append(path)
            taper = np.linspace(1.0, 0.86, steps.shape[1])[None]
            radii.append(radius[:, None] * taper)
            tip = path[:, -1]
            outward = tip - hilum
            outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
            base = direction + 0.35 * outward
            side_step = noise[:, 3:6] - (noise[:, 3:6] * base).sum(1, keepdims=True) * base
            side_step /= np.linalg.norm(side_step, axis=1, keepdims=True) + 1e-6
            angle = 0.45 + 0.16 * noise[:, 6:7]
            one = base + angle * side_step
            two = base - 1.35 * angle * side_step
            direction = np.concatenate([one, two])
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            start = np.concatenate([tip, tip])
            radius = np.concatenate([radius * 0.84, radius * 0.66])
            reach = np.concatenate([reach * 0.88, reach * 0.74]) * np.exp(
                0.12 * np.concatenate([noise[:, 7], noise[:, 8]])
            )
        xyz = np.concatenate([p.reshape(-1, 3) for p in paths])
        r = np.concatenate([p.ravel() for p in radii])
        ds = np.concatenate(
            [
                np.repeat(np.linalg.norm(p[:, -1] - p[:, 0], axis=1) / (p.shape[1] - 1), p.shape[1])
                for p in paths
            ]
        )
        keep = r > 0.28
        xyz, r, ds = xyz[keep], r[keep], ds[keep]
        moved = carry(lung, xyz)
        inside = lung.contains(moved, 0.985)
        xyz, r, ds, moved = xyz[inside], r[inside], ds[inside], moved[inside]
        gain = 1.0 + 0.045 * vascular
        upper = np.clip((xyz[:, 1] - hilum[1]) / 60.0, 0.0, 1.0)
        gain = gain + 0.05 * max(vascular - 0.5, 0.0) * upper
        mu = MU_VESSEL * h.numbers["vessel"] * gain**2
        out.append(balls(moved, r * gain, mu * np.pi * r**2 * ds))
        # fine background markings; an interstitial process is more of the same
        net = h.arrays["net"]
        net_mask = (net[:, 3] < 0.5) if sign < 0 else (net[:, 3] >= 0.5)
        net, way = net[net_mask], h.arrays["net_direction"][net_mask]
        level = net[:, 0] ** 0.75
        y = lung.apex - (0.08 + 0.92 * level) * (lung.apex - lung.dome_top + 18.0)
        cx, hx, cz, hz = lung.sections(y)
        centre = np.stack(
            [cx + hx * 1.9 * (net[:, 1] - 0.5), y, cz + hz * 1.8 * (net[:, 2] - 0.5)], 1
        )
        way = way / (np.linalg.norm(way, axis=1, keepdims=True) + 1e-6)
        path = centre[:, None] + np.linspace(-7, 7, 10)[None, :, None] * way[:, None]
        strength = 0.66 * np.log1p(np.exp(0.75 * (t["reticulation"] - 0.4)))
        flat = path.reshape(-1, 3)
        inside = lung.contains(flat, 0.97)
        mass = MU_VESSEL * strength * np.pi * 1.1**2 * 14.0 / 9.0
        out.append(balls(flat[inside], 1.1, mass * (0.6 + 0.8 * np.repeat(net[:, 3], 10)[inside])))
    return out


def carry(lung: Lung, xyz: np.ndarray) -> np.ndarray:
    """Move points from the nominal chest into the patient's: stretch above and below the hilum."""
    hilum = HILUM[lung.side]
    nominal_floor = -72.0 if lung.side == "right" else -84.0
    lift = 0.4 * (lung.dome_top - nominal_floor)
    own_hilum = hilum[1] + lift
    above = (lung.apex - own_hilum) / (APEX - hilum[1])
    below = (own_hilum - lung.dome_top) / (hilum[1] - nominal_floor)
    offset = xyz[:, 1] - hilum[1]
    moved = xyz.copy()
    moved[:, 1] = own_hilum + offset * np.where(offset > 0, above, below)
    moved[:, 0] += 0.45 * lung.anatomy.spine_x(moved[:, 1])
    moved[:, 2] = hilum[2] + (xyz[:, 2] - hilum[2]) * (1 + 0.02 * lung.anatomy.traits["inflation"])
    return moved


def _airways(a: Anatomy) -> list[Points]:
    n = a.habitus.numbers
    lift = 0.45 * ((a.lungs["left"].dome_top + a.lungs["right"].dome_top) / 2 + 78.0) * 0.9
    x0 = n["carina_x"] + 0.35 * float(a.spine_x(70.0)) - 0.5 * max(a.traits["aorta"], 0.0) - 1.5
    carina = np.array([x0, 60 + lift, -14.0])
    trachea = polyline(
        [[0.3 * x0, 235, 14], [0.6 * x0, 160, 2], [x0, 100 + lift / 2, -8], carina], 1.4
    )
    out = [
        tube(trachea, 8.3, -0.0165, lateral=False),
        tube(trachea, 8.3, -0.0150, frontal=False),
    ]
    for sign, end in ((-1, (-30, 36, -18)), (1, (36, 44, -20))):
        end = np.add(end, (0.0, lift, 0.0))
        out.append(
            tube(polyline([carina, (carina + end) / 2 + [0, 1 * sign, 0], end], 1.4), 6.0, -0.010)
        )
        # lateral: the bronchi seen end-on are two dark rings
        out.append(balls((end + carina) / 2 + [0, 2, -2], 6.2, -0.009 * 905, frontal=False))
    return out


def spine_levels(a: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Degeneration per vertebra (SDs) and disc narrowing per disc (0 to .07 of the pitch)."""
    noise = a.habitus.arrays["spine"]
    level = np.arange(VERTEBRAE)
    site = np.exp(-(((level - 9.0) / 4.0) ** 2))  # mid and lower thoracic spine
    grade = a.traits["degeneration"] * (0.35 + 0.65 * site) + 0.5 * noise[:, 0]
    narrowing = 0.014 * np.log1p(np.exp(0.9 * (grade + 0.9 * noise[:, 1] - 0.8)))
    return grade, np.clip(narrowing, 0.0, 0.06)


def _osteophytes(a: Anatomy) -> list[Points]:
    grade, _ = spine_levels(a)
    noise = a.habitus.arrays["spine"]
    n = a.habitus.numbers
    level = np.arange(5, 15)
    y = np.array([a.vertebra_y(one) for one in level]) - 0.5 * PITCH
    half, x0, z0 = vertebra_half_width(y), a.spine_x(y), a.spine_z(y)
    size = 0.8 * np.log1p(np.exp(1.2 * (grade[level] - 1.2)))
    way = np.array([[-1, 0], [1, 0], [0, 1]])  # right, left, forward
    own = size[:, None] * (0.7 + 0.6 * np.abs(noise[level, 2:5]))
    reach = np.minimum(2.4 * own, 9.0)
    part, lip = np.linspace(0.0, 1.0, 9), np.array([-1.0, 1.0])
    # [level, direction, part, lip]
    start = half[:, None] * np.where(way[:, 1] > 0, 0.85, 1.0)
    out = start[..., None, None] + part[:, None] * reach[..., None, None]
    out = np.broadcast_to(out, (*out.shape[:3], 2))
    x = (x0 + n["yaw_frontal"] * z0)[:, None, None, None] + way[:, 0, None, None] * out
    z = z0[:, None, None, None] + way[:, 1, None, None] * out
    # a spur is a rim, not a spike: spread it along the edge of the vertebral body
    rim = (18.0 * (part - 0.5))[:, None]
    x = x + rim * way[:, 1, None, None]
    z = z + rim * np.abs(way[:, 0, None, None])
    height = y[:, None, None, None] + lip * (3.4 - 2.0 * part)[:, None]
    height = np.broadcast_to(height, out.shape)
    weight = np.minimum(own, 3.4) * np.where(way[:, 1] > 0, 0.75, 0.9)
    mass = np.broadcast_to(weight[..., None, None], out.shape) * n["bone"]
    radius = np.broadcast_to(2.5 - 0.9 * part[:, None], out.shape)
    xyz = np.stack([x, height, z], axis=-1).reshape(-1, 3)
    return [balls(xyz, radius.ravel(), mass.ravel())]


def vertebra_half_width(y) -> np.ndarray:
    """Half-width of the vertebral bodies in mm, growing downwards."""
    return np.interp(y, [-190, -100, 150, 220], [22.0, 19.5, 15.0, 13.0])


def _bowel(a: Anatomy) -> list[Points]:
    """Gas and faeces below the diaphragm."""
    h = a.habitus
    gas, lobes = h.arrays["gas"], h.arrays["gas_lobes"]
    xyz, mass, kind = [], [], []
    for loop, offsets in zip(gas, lobes):
        if loop[5] > 0.72:
            continue
        x = -95 + 200 * loop[0]
        floor = min(a.lungs["left"].dome_top, a.lungs["right"].dome_top)
        y = floor - 42 - 75 * loop[1] - (18 if x < 0 else 0)
        z = 8 + 62 * loop[2]
        for offset in offsets[: 3 + int(3 * loop[3])]:
            xyz.append((x + 11 * offset[0], y + 6 * offset[1], z + 9 * offset[2]))
            kind.append(8.0)
            mass.append(-0.011 * (4 / 3 * np.pi * 9.0**3) * (0.35 + 0.65 * loop[4]))
    points = []
    if xyz:
        points.append(balls(np.array(xyz), 8.0, np.array(mass)))
    mottle = h.arrays["mottle"]
    spots = np.stack(
        [-110 + 220 * mottle[:, 0], -118 - 75 * mottle[:, 1], -10 + 85 * mottle[:, 2]], axis=1
    )
    points.append(gaussians(spots, 3.6 + 4.0 * mottle[:, 3], 55.0 * (mottle[::-1, 3] - 0.5)))
    return points
