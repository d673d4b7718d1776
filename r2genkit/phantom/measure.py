"""Measurements that a reader would take, from the geometry instead of the film."""

from __future__ import annotations

import numpy as np

from r2genkit.phantom.anatomy import Anatomy


def cardiothoracic_ratio(anatomy: Anatomy) -> float:
    """Greatest width of the heart over greatest inner width of the thorax (frontal view)."""
    left = max(part.centre[0] + part.reach[0] for part in anatomy.heart)
    right = min(part.centre[0] - part.reach[0] for part in anatomy.heart)
    y = np.linspace(100.0, -100.0, 81)
    walls = {}
    for side, lung in anatomy.lungs.items():
        centre, half, _, _ = lung.sections(y)
        walls[side] = float((lung.sign * centre + half).max())
    return float((left - right) / (walls["left"] + walls["right"]))


def lung_height(anatomy: Anatomy) -> float:
    """Mean distance from apex to the top of the diaphragm, in mm."""
    return float(np.mean([lung.apex - lung.dome_top for lung in anatomy.lungs.values()]))


def dome_difference(anatomy: Anatomy) -> float:
    """How much higher the right dome stands than the left, in mm."""
    return float(anatomy.lungs["right"].dome_top - anatomy.lungs["left"].dome_top)


def cobb_angle(anatomy: Anatomy) -> float:
    """Greatest difference of direction along the spine in the frontal plane, in degrees."""
    y = np.linspace(140.0, -110.0, 101)
    direction = np.degrees(np.arctan(np.gradient(anatomy.spine_x(y), y)))
    return float(direction.max() - direction.min())


def kyphosis_angle(anatomy: Anatomy) -> float:
    """Difference of direction of the thoracic spine in the lateral plane, in degrees."""
    y = np.linspace(140.0, -90.0, 101)
    direction = np.degrees(np.arctan(np.gradient(anatomy.spine_z(y), y)))
    return float(direction.max() - direction.min())


def aortic_bow(anatomy: Anatomy) -> float:
    """Greatest distance of the descending aorta's left border from the spine's axis, in mm."""
    y = np.linspace(anatomy.arch_y - 10.0, anatomy.arch_y - 140.0, 60)
    x, _, radius = anatomy.aorta(y)
    return float((x + radius - anatomy.spine_x(y)).max())


MEASURES = {
    "cardiomegaly": (cardiothoracic_ratio, 1),
    "hyperinflation": (lung_height, 1),
    "hypoinflation": (lung_height, -1),
    "scoliosis": (cobb_angle, 1),
    "kyphosis": (kyphosis_angle, 1),
    "tortuous_aorta": (aortic_bow, 1),
}
"""Finding type -> (measurement, direction in which severity moves it)."""
