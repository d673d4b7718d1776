"""A 3-D chest phantom: real reports, rendered radiographs.

A patient is a set of three-dimensional primitives; the frontal and the lateral film are line
integrals of the same patient. Coded findings become objects or deformations, so the image truly
determines them, and each has an exact mask in each view. Everything follows from the study id and
a seed: nuisance (body, pose, film) from streams of its own, findings from others.

It is a teaching instrument. **Nothing trained on it says anything about real radiographs.**
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import numpy as np

from r2genkit.errors import KitError
from r2genkit.phantom.anatomy import draw_habitus
from r2genkit.phantom.film import COARSE, develop, draw_film
from r2genkit.phantom.findings import (
    OBJECT_TYPES,
    RENDERED_TYPES,
    check_findings,
    make_scene,
)
from r2genkit.phantom.masks import change_mask, organ_mask
from r2genkit.phantom.placement import PlacedFinding
from r2genkit.phantom.population import Population
from r2genkit.phantom.projection import (
    PROJECTIONS,
    Frame,
    Scene,
    line_integral,
    line_integral_and_body,
    make_frame,
    own_integral,
)
from r2genkit.seeds import numpy_rng

__all__ = [
    "PROJECTIONS",
    "RENDERED_TYPES",
    "RENDERER_VERSION",
    "Patient",
    "PhantomView",
    "PlacedFinding",
    "Population",
    "Prepared",
    "finding_masks",
    "prepare",
    "render_patient",
]

RENDERER_VERSION = "2"
"""Part of every content hash: raise it when a change of the renderer changes pixels."""


@dataclass(frozen=True)
class Patient:
    """Everything a film follows from.

    Attributes:
        study_id: names the random streams.
        findings: what is drawn, in any order of the report.
        seed: the corpus seed.
        population: whom and with what machine.
    """

    study_id: str
    findings: tuple[PlacedFinding, ...] = ()
    seed: int = 0
    population: Population = field(default_factory=Population)

    def without(self, *indices: int) -> Patient:
        """The same patient without some findings (all of them when no index is given)."""
        kept = tuple(f for index, f in enumerate(self.findings) if indices and index not in indices)
        return Patient(self.study_id, kept, self.seed, self.population)


@dataclass
class Prepared:
    """A patient ready for projection.

    Attributes:
        patient: who.
        scene: anatomy with findings.
        parts: for each finding, the same anatomy with nothing but what that finding adds.
    """

    patient: Patient
    scene: Scene
    parts: list[Scene]

    def frame(self, projection: str, size: int) -> Frame:
        """Pixel grid of a view."""
        return make_frame(self.scene.anatomy, projection, size)

    def attenuation(self, projection: str, size: int) -> np.ndarray:
        """Noise-free line integrals ``[size, size]``."""
        return line_integral(self.scene, self.frame(projection, size))

    def film(self, projection: str, size: int) -> np.ndarray:
        """The film ``[size, size]`` uint8."""
        p = self.patient
        rng = numpy_rng(p.seed, f"phantom/{p.study_id}/film/{projection}")
        draws = draw_film(rng, p.population, projection)
        noise = rng.standard_normal((size, size), dtype=np.float32)
        # exposure and tone curve see the patient's build, not what is focally wrong
        coarse = self.frame(projection, COARSE)
        base, body = line_integral_and_body(Scene(self.scene.anatomy), coarse)
        return develop(self.attenuation(projection, size), base, body, draws, noise, projection)


def prepare(patient: Patient) -> Prepared:
    """Build the patient's anatomy and findings.

    Raises:
        KitError: a finding cannot be drawn.
    """
    check_findings(patient.study_id, patient.findings)
    habitus = draw_habitus(
        numpy_rng(patient.seed, f"phantom/{patient.study_id}"), patient.population
    )
    scene, parts = make_scene(patient.study_id, patient.seed, habitus, patient.findings)
    return Prepared(patient, scene, parts)


def render_patient(patient: Patient, size: int = 224) -> dict[str, np.ndarray]:
    """Both films of a patient.

    Args:
        patient: who.
        size: rows and columns, 64 to 1024.

    Returns:
        "frontal" and "lateral": ``[size, size]`` uint8, bright = dense; the patient's left is on
        the right of the frontal film, the front on the left of the lateral one.

    Raises:
        KitError: unusable size or finding.
    """
    _check_size(size)
    prepared = prepare(patient)
    return {projection: prepared.film(projection, size) for projection in PROJECTIONS}


def finding_masks(patient: Patient, size: int = 224) -> dict[tuple[int, str], np.ndarray]:
    """Mask of every finding in both views.

    Args:
        patient: who.
        size: rows and columns.

    Returns:
        (index of the finding, projection) -> bool ``[size, size]``; all False where the finding
        cannot be seen.
    """
    _check_size(size)
    full = prepare(patient)
    masks = {}
    for index, finding in enumerate(patient.findings):
        others = None
        for projection in PROJECTIONS:
            frame = full.frame(projection, size)
            if finding.name in OBJECT_TYPES:
                masks[index, projection] = change_mask(own_integral(full.parts[index], frame))
                continue
            if others is None:
                kept = tuple(f for i, f in enumerate(patient.findings) if i != index)
                others = prepare(replace(patient, findings=kept))
            masks[index, projection] = organ_mask(
                finding, full.scene.anatomy, others.scene.anatomy, frame
            )
    return masks


@dataclass(frozen=True)
class PhantomView:
    """One film of a patient, rendered when asked for (``r2genkit.study.Renderable``)."""

    patient: Patient
    projection: str

    def __post_init__(self) -> None:
        if self.projection not in PROJECTIONS:
            raise KitError(
                f"Study {self.patient.study_id}: the phantom has no {self.projection!r} view; "
                f"use one of {', '.join(PROJECTIONS)}."
            )

    def digest(self) -> str:
        """Hash of everything the pixels follow from."""
        p = self.patient
        content = [
            RENDERER_VERSION,
            p.seed,
            p.study_id,
            [(f.name, f.side, f.place, f.severity, f.multiple, f.raw) for f in p.findings],
            asdict(p.population),
            self.projection,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def render(self, size: int) -> np.ndarray:
        """Grey image ``[size, size]`` uint8; the other view of the same patient comes for free."""
        return _render_cached(self.patient, size)[self.projection].copy()


@lru_cache(maxsize=4)
def _render_cached(patient: Patient, size: int) -> dict[str, np.ndarray]:
    return render_patient(patient, size)


def _check_size(size: int) -> None:
    if not 64 <= size <= 1024:
        raise KitError(f"The phantom renders 64 to 1024 pixels a side, not {size}.")
