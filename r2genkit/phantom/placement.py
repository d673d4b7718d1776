"""Where in the chest a coded finding sits: the record that the renderer draws from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """One finding, ready to be drawn.

    Attributes:
        name: finding type, one of ``r2genkit.corpora.mesh.FINDING_TYPES``.
        side: "left", "right" (the patient's), "bilateral" or "midline".
        place: "apex", "upper lobe", "middle lobe", "lingula", "lower lobe", "base", "hilum",
            "retrocardiac", "costophrenic angle", or "" where the type needs no place.
        severity: "borderline", "mild", "moderate", "large", "severe", or None.
        multiple: several objects instead of one.
        raw: the code(s) it came from, joined by "; ".
        side_from: what decided the side: "code", "sentence", "random", or "none" for midline
            types that have no side to choose.
        place_from: what decided the place, same values.
    """

    name: str
    side: str
    place: str
    severity: str | None
    multiple: bool
    raw: str
    side_from: str
    place_from: str
