"""Finding-F1: does a generated report state the findings of its reference?

Both reports are labelled by the same rules (:mod:`r2genkit.metrics.findings.labeler`) and the
labels compared. A report that says nothing abnormal scores 0 here however well it reads, which is
what n-gram scores cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.errors import KitError
from r2genkit.metrics.findings.labeler import (
    ABSENT,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    FindingLabeler,
    default_labeler,
)
from r2genkit.metrics.nlg import check_pairs

Policy = Literal["negative", "positive"]
POLICIES: tuple[Policy, ...] = ("negative", "positive")
"""What a doubted finding counts as (CheXpert's U-zeros and U-ones). The kit's default is
"negative": it agrees better with the codes that readers gave the Open-i reports."""


@dataclass(frozen=True)
class FindingScores:
    """Agreement of the findings of N hypotheses with those of their references.

    Attributes:
        policy: what an uncertain label counts as.
        studies: study ids, in the order of the arrays.
        micro: precision, recall and F1 of positives over all (study, type) pairs; NaN where
            neither side has a positive.
        macro_f1: mean F1 over the types that occur in the references; NaN if none does.
        per_study_f1: ``[N]`` F1 of each study; NaN where neither report has a positive.
        mean_study_f1: mean of these, NaN left out.
        classes: one row per type: support, predicted, tp, fp, fn, precision, recall, f1.
        negation_flip: of the findings that the reference denies and the hypothesis mentions, the
            share that the hypothesis affirms; NaN if there is none.
        hallucination: of the findings that the hypothesis affirms, the share that the reference
            denies or does not mention.
        omission: of the findings that the reference affirms, the share that the hypothesis denies
            or does not mention.
        sensitivity: share of abnormal studies whose hypothesis states an abnormality.
        specificity: share of normal studies whose hypothesis states none.
        abnormal: bool ``[N]``, the truth behind sensitivity and specificity.
        counts: int ``[N, F, 3]``: true positive, false positive, false negative per study and type.
    """

    policy: Policy
    studies: tuple[str, ...]
    micro: dict[str, float]
    macro_f1: float
    per_study_f1: np.ndarray
    mean_study_f1: float
    classes: pd.DataFrame
    negation_flip: float
    hallucination: float
    omission: float
    sensitivity: float
    specificity: float
    abnormal: np.ndarray
    counts: np.ndarray


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan


def f1_from_counts(counts: np.ndarray) -> np.ndarray:
    """F1 of ``[..., 3]`` sums of true positives, false positives, false negatives; NaN for none."""
    counts = np.asarray(counts, dtype=np.float64)
    below = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    full = np.full(below.shape, np.nan)
    return np.divide(2 * counts[..., 0], below, out=full, where=below > 0)


def coded_matrix(findings: Iterable[Iterable[str]]) -> np.ndarray:
    """Labels from names of finding types instead of text: named is positive, else not mentioned.

    Args:
        findings: per study the names of its types; names that are no finding type are ignored
            ("other").

    Returns:
        int8 ``[N, F]`` as :meth:`FindingLabeler.label_matrix` gives.
    """
    rows = [set(names) for names in findings]
    matrix = np.full((len(rows), len(FINDING_TYPES)), ABSENT, dtype=np.int8)
    for row, names in enumerate(rows):
        for column, name in enumerate(FINDING_TYPES):
            if name in names:
                matrix[row, column] = POSITIVE
    return matrix


def _positives(labels: np.ndarray, policy: Policy) -> np.ndarray:
    if policy not in POLICIES:
        raise KitError(f"Unknown policy {policy!r} for uncertain findings: use negative, positive.")
    return (labels == POSITIVE) | ((labels == UNCERTAIN) & (policy == "positive"))


def finding_f1(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    *,
    policy: Policy = "negative",
    normal: Mapping[str, bool | None] | None = None,
    coded: Mapping[str, Iterable[str]] | None = None,
    labeler: FindingLabeler | None = None,
) -> FindingScores:
    """Compare the findings of generated reports with those of their references.

    Args:
        hypotheses: generated report by study id.
        references: reference report by study id; the same ids.
        policy: what an uncertain label counts as, on both sides.
        normal: whether a study is normal, by study id; None or a missing id leaves it to the
            reference text (normal: no abnormality stated).
        coded: names of the finding types of each study, from codes or from a renderer; taken as
            the truth for positives instead of the reference text. Denials still come from the text.
        labeler: other rules than the kit's.

    Raises:
        KitError: ids differ, or the policy is unknown.
    """
    studies = check_pairs(hypotheses, references)
    labeler = labeler or default_labeler()
    found = labeler.label_matrix([hypotheses[study] for study in studies], other=True)
    labels, denied = labeler.label_matrix_and_denials([references[s] for s in studies], other=True)
    abnormal_found = _positives(found, policy).any(axis=1)
    abnormal = _positives(labels, policy).any(axis=1)
    for row, study in enumerate(studies):
        if normal is not None and normal.get(study) is not None:
            abnormal[row] = not normal[study]
    width = len(labeler.findings)
    found, labels, denied = found[:, :width], labels[:, :width], denied[:, :width]
    flips = _share((denied & (found == POSITIVE)).sum(), (denied & (found != ABSENT)).sum())
    if coded is not None:
        if missing := [study for study in studies if study not in coded]:
            raise KitError(f"Study {missing[0]} has no coded findings: give them for every study.")
        labels = coded_matrix(coded[study] for study in studies)
    predicted, truth = _positives(found, policy), _positives(labels, policy)
    counts = np.stack([predicted & truth, predicted & ~truth, ~predicted & truth], axis=-1)
    counts = counts.astype(np.int64)
    total, per_class = counts.sum(axis=(0, 1)), counts.sum(axis=0)
    class_f1 = f1_from_counts(per_class)
    support = per_class[:, 0] + per_class[:, 2]
    per_study = f1_from_counts(counts.sum(axis=1))
    affirmed, asserted = found == POSITIVE, labels == POSITIVE
    unsupported = (labels == NEGATIVE) | (labels == ABSENT)
    unsaid = (found == NEGATIVE) | (found == ABSENT)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = pd.DataFrame(
            {
                "support": support,
                "predicted": per_class[:, 0] + per_class[:, 1],
                "tp": per_class[:, 0],
                "fp": per_class[:, 1],
                "fn": per_class[:, 2],
                "precision": per_class[:, 0] / (per_class[:, 0] + per_class[:, 1]),
                "recall": per_class[:, 0] / support,
                "f1": class_f1,
            },
            index=pd.Index(labeler.findings, name="finding"),
        )
    return FindingScores(
        policy=policy,
        studies=studies,
        micro={
            "precision": _share(total[0], total[0] + total[1]),
            "recall": _share(total[0], total[0] + total[2]),
            "f1": float(f1_from_counts(total)),
        },
        macro_f1=float(class_f1[support > 0].mean()) if (support > 0).any() else math.nan,
        per_study_f1=per_study,
        mean_study_f1=float(np.nanmean(per_study)) if np.isfinite(per_study).any() else math.nan,
        classes=table,
        negation_flip=flips,
        hallucination=_share((affirmed & unsupported).sum(), affirmed.sum()),
        omission=_share((asserted & unsaid).sum(), asserted.sum()),
        sensitivity=_share((abnormal & abnormal_found).sum(), abnormal.sum()),
        specificity=_share((~abnormal & ~abnormal_found).sum(), (~abnormal).sum()),
        abnormal=abnormal,
        counts=counts,
    )
