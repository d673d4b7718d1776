"""The plain records that every part of the kit speaks in.

A corpus yields studies; a study holds its views and its report; nothing here loads pixels or
knows a file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

Projection = Literal["frontal", "lateral", "unknown"]
Section = Literal["findings", "impression", "findings+impression", "impression+findings"]


@runtime_checkable
class Renderable(Protocol):
    """An image that is computed instead of read from a file."""

    def digest(self) -> str:
        """Hexadecimal content hash: equal digests mean equal pixels at equal size."""
        ...

    def render(self, size: int) -> np.ndarray:
        """Grey image ``[size, size]``, uint8."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One coded observation.

    Attributes:
        name: finding type of the kit (see ``r2genkit.corpora.mesh.FINDING_TYPES``) or "other".
        locations: anatomical places as coded, lower case ("lower lobe", "base", ...).
        sides: any of "left", "right"; both for bilateral; empty when the code gives none.
        severity: degree as coded ("borderline", "mild", "moderate", "large", ...) or None.
        raw: the code it came from, e.g. "Pulmonary Atelectasis/base/left/mild".
    """

    name: str
    locations: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    severity: str | None = None
    raw: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One radiograph of a study: a file, or something that renders itself."""

    id: str
    projection: Projection
    image: Path | Renderable | None


@dataclass(frozen=True, slots=True)
class Study:
    """One examination: its views and its report.

    Attributes:
        id: unique within the corpus.
        views: in the order in which models see them (frontal first where known).
        findings_text, impression_text, indication_text: report sections as written; "" if absent.
        findings: coded findings; empty for a normal study and where a corpus has no codes.
        normal: True/False as coded, None where the corpus does not say.
        corpus: name of the corpus the study came from.
        codes: every code string as shipped (for Open-i the MeSH major terms).
        automatic_codes: codes assigned by software instead of a reader.
    """

    id: str
    views: tuple[View, ...]
    findings_text: str
    impression_text: str
    findings: tuple[Finding, ...] = ()
    normal: bool | None = None
    corpus: str = ""
    indication_text: str = ""
    codes: tuple[str, ...] = ()
    automatic_codes: tuple[str, ...] = ()

    def text(self, section: Section = "findings") -> str:
        """The named section, or two of them joined by a space in the named order."""
        parts = {"findings": self.findings_text, "impression": self.impression_text}
        return " ".join(parts[name] for name in section.split("+") if parts[name])


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated report.

    Attributes:
        study_id: the study it was generated for.
        text: decoded report.
        tokens: token ids without begin and end marks.
        log_prob: sum of the log-probabilities of the tokens and of the end mark (natural log).
        trace: what figures need, by name (e.g. "attention": [T, V, S]); empty unless requested.
    """

    study_id: str
    text: str
    tokens: tuple[int, ...] = ()
    log_prob: float = 0.0
    trace: dict = field(default_factory=dict)


def by_id(studies: Sequence[Study]) -> dict[str, Study]:
    """Studies keyed by id, in order."""
    return {study.id: study for study in studies}
