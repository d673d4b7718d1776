"""How well the labeler agrees with the codes that readers gave the Open-i reports.

Agreement, not accuracy: the codes were made from the same report texts by people, so they are a
second reading of the text and no truth about the patient. Phrases were written while looking at
even-numbered studies; quote the odd-numbered ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from r2genkit.corpora.mesh import FINDING_TYPES, parse_codes
from r2genkit.errors import KitError
from r2genkit.metrics.findings.labeler import FindingLabeler, default_labeler
from r2genkit.metrics.findings.scores import (
    Policy,
    _positives,
    coded_matrix,
    f1_from_counts,
)
from r2genkit.study import Study


@dataclass(frozen=True)
class Agreement:
    """Agreement of text labels with codes.

    Attributes:
        studies: number of studies compared.
        micro_f1: over all (study, type) pairs.
        macro_f1: mean over the finding types that occur.
        normal_accuracy: share of studies on whose normality both agree.
        table: one row per finding type: coded, labelled, tp, fp, fn, f1.
    """

    studies: int
    micro_f1: float
    macro_f1: float
    normal_accuracy: float
    table: pd.DataFrame


def agreement_with_codes(
    studies: Sequence[Study],
    *,
    parity: Literal["odd", "even", "all"] = "odd",
    section: str = "findings+impression",
    policy: Policy = "negative",
    labeler: FindingLabeler | None = None,
) -> Agreement:
    """Label the reports of coded studies and compare with their codes.

    Args:
        studies: Open-i studies; those without codes about the chest or without text are left out.
        parity: which study numbers; "odd" are those never looked at when phrases were written.
        section: report text to label. Codes were made from the whole report.
        policy: what an uncertain label counts as.
        labeler: other rules than the kit's.

    Raises:
        KitError: no study is left.
    """
    wanted = {"odd": (1,), "even": (0,), "all": (0, 1)}[parity]
    names = section.split("+")
    texts, kept = [], []
    for study in studies:
        number = int("".join(filter(str.isdigit, study.id.split("_")[0])) or 0)
        parts = {"findings": study.findings_text, "impression": study.impression_text}
        # A full stop between sections: many end without one.
        text = ". ".join(parts[name] for name in names if parts[name])
        if study.normal is not None and text and number % 2 in wanted:
            texts.append(text)
            kept.append(study)
    if not kept:
        raise KitError("No coded study with text is left to compare: pass Open-i studies.")
    labeler = labeler or default_labeler()
    labels = _positives(labeler.label_matrix(texts, other=True), policy)
    coded = coded_matrix({f.name for f in parse_codes(study.codes)} for study in kept) == 1
    found = labels[:, : len(FINDING_TYPES)]
    counts = np.stack([found & coded, found & ~coded, ~found & coded], axis=-1).sum(axis=0)
    f1 = f1_from_counts(counts)
    support = counts[:, 0] + counts[:, 2]
    agreed = labels.any(axis=1) == np.array([not study.normal for study in kept])
    table = pd.DataFrame(
        {
            "coded": support,
            "labelled": counts[:, 0] + counts[:, 1],
            "tp": counts[:, 0],
            "fp": counts[:, 1],
            "fn": counts[:, 2],
            "f1": f1,
        },
        index=pd.Index(FINDING_TYPES, name="finding"),
    )
    return Agreement(
        studies=len(kept),
        micro_f1=float(f1_from_counts(counts.sum(axis=0))),
        macro_f1=float(f1[support > 0].mean()),
        normal_accuracy=float(agreed.mean()),
        table=table,
    )
