"""Where each finding is on each film.

A mask answers "where would one point to show this finding?". For objects it is where the finding
changes the line integrals; for changes of an organ it is the organ itself (the heart for
cardiomegaly, the lungs for inflation), because the change is a border that has moved.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_closing, binary_dilation

from r2genkit.phantom.anatomy import Anatomy
from r2genkit.phantom.placement import PlacedFinding
from r2genkit.phantom.projection import Frame, organs, spine_image

LEAST_CHANGE = 0.04
"""Change of the line integral below which nothing is visible on film."""


def change_mask(change: np.ndarray, share: float = 0.15, least: float = LEAST_CHANGE) -> np.ndarray:
    """Pixels whose absolute change exceeds ``least`` and ``share`` of the greatest change."""
    size = np.abs(change)
    return size > max(least, share * float(np.quantile(size, 0.999)))


def organ_mask(
    finding: PlacedFinding, anatomy: Anatomy, without: Anatomy, frame: Frame
) -> np.ndarray:
    """Mask of a finding that changes an organ instead of adding an object.

    Args:
        finding: what was found.
        anatomy: the patient.
        without: the same patient without the finding.
        frame: the view.

    Returns:
        The organ's silhouette (for a raised diaphragm the band it has risen through), or nothing
        where the organ's projection does not change.
    """
    name = finding.name
    nothing = np.zeros((frame.size, frame.size), bool)
    if name in ("degen_spine", "scoliosis", "kyphosis"):
        column, before = spine_image(anatomy, frame), spine_image(without, frame)
        if np.abs(column - before).max() < LEAST_CHANGE:
            return nothing
        mask = column > 0.05
        if name == "degen_spine":
            mask &= (frame.v < anatomy.vertebra_y(4)) & (frame.v > anatomy.vertebra_y(14))
        return binary_closing(mask, iterations=2)
    cut = organs(anatomy, frame)
    lungs = cut.lung["left"] + cut.lung["right"]
    if name in ("hyperinflation", "hypoinflation", "interstitial", "congestion"):
        return lungs > 25.0
    before = organs(without, frame)
    if name == "elev_diaphragm":
        sides = [finding.side] if finding.side in cut.lung else list(cut.lung)
        change = sum(cut.lung[side] - before.lung[side] for side in sides)
        near = frame.v < max(lung.dome_top for lung in anatomy.lungs.values()) + 4.0
        return (np.abs(change) > 15.0) & near
    if name == "cardiomegaly":
        changed = np.abs(cut.heart - before.heart).max() > 4.0
        return (cut.heart > 12.0) & (cut.above > 0.2) if changed else nothing
    if name == "tortuous_aorta":
        return _aorta_mask(anatomy, frame)
    changed = np.abs(cut.great - before.great).max() > 4.0  # wide mediastinum
    upper = (frame.v > anatomy.arch_y - 50.0) & (frame.v < 125.0)
    return (cut.great > 10.0) & upper if changed else nothing


def _aorta_mask(a: Anatomy, frame: Frame) -> np.ndarray:
    y = np.linspace(a.arch_y, a.arch_y - 130.0, 90)
    x, z, radius = a.aorta(y)
    out = np.zeros((frame.size, frame.size), bool)
    ray = 2 if frame.projection == "frontal" else 0
    across = x if ray == 2 else z
    for row, v in enumerate(frame.v[:, 0]):
        if y[-1] < v < y[0]:
            centre = float(np.interp(-v, -y, across))
            half = float(np.interp(-v, -y, radius))
            out[row] |= np.abs(frame.u[row] - centre) < half
    for solid in (a.pedicle[3], a.pedicle[2]):
        low, high = solid.interval(ray, frame.u, frame.v)
        out |= (high - low > 4.0) & (frame.v > a.arch_y - 40.0)
    return out


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask grown by a number of pixels."""
    return binary_dilation(mask, iterations=pixels) if pixels else mask
