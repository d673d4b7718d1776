"""Clinical findings in report text: labels, their agreement, and finding-F1."""

from r2genkit.metrics.findings.agreement import Agreement, agreement_with_codes
from r2genkit.metrics.findings.labeler import (
    ABSENT,
    NEGATIVE,
    OTHER,
    POSITIVE,
    UNCERTAIN,
    FindingLabeler,
    Mention,
    default_labeler,
    label_matrix,
)
from r2genkit.metrics.findings.scores import (
    POLICIES,
    FindingScores,
    Policy,
    coded_matrix,
    f1_from_counts,
    finding_f1,
)

__all__ = [
    "ABSENT",
    "NEGATIVE",
    "OTHER",
    "POLICIES",
    "POSITIVE",
    "UNCERTAIN",
    "Agreement",
    "FindingLabeler",
    "FindingScores",
    "Mention",
    "Policy",
    "agreement_with_codes",
    "coded_matrix",
    "default_labeler",
    "f1_from_counts",
    "finding_f1",
    "label_matrix",
]
