"""The embedded default corpus: real Open-i reports with rendered radiographs.

Each Open-i study becomes a patient of the 3-D chest phantom: its MeSH codes are placed
(``r2genkit.phantom.placement``) and drawn, in a frontal and a lateral view of the same patient.
The text is the real report. So the images truly determine the coded findings, exact masks exist,
and everything runs offline.

It is a teaching instrument: **nothing trained on it says anything about real radiographs.** Codes
without a finding type ("other") and types that the renderer does not draw are invisible in the
images, although the report may mention them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.errors import KitError
from r2genkit.phantom.placement import PlacedFinding, place_findings
from r2genkit.study import Finding, Study, View

if TYPE_CHECKING:
    from r2genkit.phantom import Population


def finding_record(placed: PlacedFinding) -> Finding:
    """A drawn finding as the plain record of a study (side and place as drawn)."""
    sides = {"bilateral": ("left", "right"), "midline": ()}.get(placed.side, (placed.side,))
    locations = (placed.place,) if placed.place else ()
    return Finding(placed.name, locations, sides, placed.severity, placed.raw)


def drawn_findings(
    study: Study, seed: int = 0, types: Iterable[str] | None = None
) -> tuple[PlacedFinding, ...]:
    """Placed findings of a study that the renderer draws.

    Args:
        study: a study with coded findings.
        seed: seed of the placement draws.
        types: finding types that are drawn; default: the renderer's ``RENDERED_TYPES``.
    """
    if types is None:
        from r2genkit.phantom import RENDERED_TYPES

        types = RENDERED_TYPES
    wanted = frozenset(types)
    return tuple(placed for placed in place_findings(study, seed) if placed.name in wanted)


def read_phantom(
    seed: int = 0,
    with_findings: bool = True,
    population: Population | None = None,
    studies: Sequence[Study] | None = None,
) -> list[Study]:
    """Open-i reports with a rendered frontal and lateral view each.

    Args:
        seed: seed of anatomy, film and placement; another seed draws other patients.
        with_findings: False gives the NULL control: the same patients (anatomy, pose, film,
            noise) with nothing drawn. A model that still "sees" findings there has found a
            shortcut. Text, ``codes`` and ``normal`` stay those of the report.
        population: spread of bodies, exposure and film ("another hospital"); default: the
            renderer's own.
        studies: studies to turn into patients; default: all 3,955 of Open-i.

    Returns:
        Studies with ``corpus="phantom"``, views (frontal, lateral) that render themselves, and
        ``findings`` = what is drawn.

    Raises:
        KitError: two studies share an id.
    """
    from r2genkit.phantom import Patient, PhantomView

    if studies is None:
        studies = read_archive(reports_archive())
    ids = [study.id for study in studies]
    if len(set(ids)) < len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise KitError(f"phantom: two studies share the id {repeated}; patients need unique ids.")
    options = {} if population is None else {"population": population}
    rendered = []
    for study in studies:
        placed = drawn_findings(study, seed) if with_findings else ()
        patient = Patient(study.id, placed, seed, **options)
        rendered.append(
            Study(
                id=study.id,
                views=(
                    View(f"{study.id}_frontal", "frontal", PhantomView(patient, "frontal")),
                    View(f"{study.id}_lateral", "lateral", PhantomView(patient, "lateral")),
                ),
                findings_text=study.findings_text,
                impression_text=study.impression_text,
                indication_text=study.indication_text,
                findings=tuple(finding_record(one) for one in placed),
                normal=study.normal,
                corpus="phantom",
                codes=study.codes,
                automatic_codes=study.automatic_codes,
            )
        )
    return rendered
