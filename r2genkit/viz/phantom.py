"""Pictures of phantom patients: two films each, with what was drawn and where."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.phantom import (
    PROJECTIONS,
    Patient,
    PlacedFinding,
    Population,
    finding_masks,
    render_patient,
)

TAG = "synthetic phantom"
COLOURS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#b388eb", "#ff8fab")


def caption(patient: Patient) -> str:
    """What is drawn, in a few words: one finding a line."""
    if not patient.findings:
        return "no finding"
    lines = []
    for f in patient.findings:
        side = "" if f.side == "midline" else f.side
        many = "multiple" if f.multiple else ""
        words = (f.severity, many, f.name.replace("_", " "), side, f.place)
        lines.append(" ".join(word for word in words if word))
    return "\n".join(lines)


def gallery(
    patients: Sequence[Patient],
    *,
    columns: int = 4,
    size: int = 224,
    masks: bool = False,
    width: float = 3.6,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Frontal and lateral film of each patient side by side.

    Args:
        patients: whom to show.
        columns: patients per row.
        size: pixels a side of each film.
        masks: draw the outline of every finding, one colour per finding.
        width: inches per patient.
        captions: texts above the pairs; default: what is drawn.

    Returns:
        A figure that carries a visible "synthetic phantom" tag on every film.

    Raises:
        KitError: no patients, or captions of another length.
    """
    if not patients:
        raise KitError("The gallery got no patients; give at least one.")
    if captions is not None and len(captions) != len(patients):
        raise KitError(f"The gallery got {len(captions)} captions for {len(patients)} patients.")
    columns = min(columns, len(patients))
    rows = -(-len(patients) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, (width / 2 + 0.34) * rows + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel():
        axis.axis("off")
    for index, patient in enumerate(patients):
        axis = axes.ravel()[index]
        films = render_patient(patient, size)
        axis.imshow(
            np.concatenate([films[p] for p in PROJECTIONS], axis=1), cmap="gray", vmin=0, vmax=255
        )
        text = captions[index] if captions is not None else caption(patient)
        axis.set_title(text, fontsize=8, loc="left")
        for half in range(2):
            axis.text(
                (half + 0.5) * size,
                size * 0.985,
                TAG,
                color="#ffd166",
                fontsize=5.5,
                ha="center",
                va="bottom",
                bbox={"facecolor": "black", "alpha": 0.65, "pad": 0.8, "linewidth": 0},
            )
        if masks:
            _outline(axis, patient, size)
    figure.suptitle(f"{TAG}: rendered, not real radiographs", fontsize=9)
    return figure


def _outline(axis, patient: Patient, size: int) -> None:
    for (index, projection), mask in finding_masks(patient, size).items():
        if not mask.any():
            continue
        left = size * PROJECTIONS.index(projection)
        axis.contour(
            np.arange(size) + left,
            np.arange(size),
            mask.astype(float),
            levels=[0.5],
            colors=[COLOURS[index % len(COLOURS)]],
            linewidths=0.8,
        )


_SHOWN: tuple[tuple[str, str, str, str | None], ...] = (
    ("cardiomegaly", "midline", "", "severe"),
    ("effusion", "right", "", "large"),
    ("effusion", "left", "costophrenic angle", "mild"),
    ("consolidation", "right", "lower lobe", None),
    ("opacity", "left", "upper lobe", None),
    ("atelectasis", "bilateral", "base", None),
    ("calc_granuloma", "left", "upper lobe", None),
    ("nodule", "right", "upper lobe", None),
    ("pneumothorax", "right", "apex", "large"),
    ("hyperinflation", "bilateral", "", "severe"),
    ("hypoinflation", "bilateral", "", "severe"),
    ("scoliosis", "right", "", "severe"),
    ("tortuous_aorta", "midline", "", "severe"),
    ("aortic_calc", "midline", "", None),
    ("interstitial", "bilateral", "", "severe"),
    ("congestion", "bilateral", "", "severe"),
    ("degen_spine", "midline", "", "severe"),
    ("elev_diaphragm", "right", "", None),
    ("hiatal_hernia", "midline", "", "large"),
    ("pacemaker", "left", "", None),
    ("catheter", "right", "", None),
    ("sternotomy", "midline", "", None),
)


def example_patients(seed: int = 0, population: Population | None = None) -> list[Patient]:
    """Two normals and 22 patients with one finding each, for a gallery."""
    population = population or Population()
    out = [Patient(f"example {i}", (), seed, population) for i in range(2)]
    for index, (name, side, place, severity) in enumerate(_SHOWN):
        finding = PlacedFinding(name, side, place, severity, False, name, "code", "code")
        out.append(Patient(f"example {index + 2}", (finding,), seed, population))
    return out


def same_patient(
    findings: Sequence[PlacedFinding], study_id: str = "example", seed: int = 0
) -> list[Patient]:
    """One body several times: healthy, then with each finding alone (same anatomy and film)."""
    return [Patient(study_id, (), seed), *(Patient(study_id, (f,), seed) for f in findings)]
