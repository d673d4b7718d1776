"""Clinical findings in report text: labels, their agreement, finding-F1, and attributes."""

from r2genkit.metrics.findings.agreement import Agreement, agreement_with_codes
from r2genkit.metrics.findings.attributes import (
    CATEGORIES,
    Attribute,
    AttributeFinder,
    AttributeMention,
    AttributeScores,
    attribute_f1,
    default_attribute_finder,
    keyword_f1,
)
from r2genkit.metrics.findings.inversion import inversion_table, invert_report
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
    "CATEGORIES",
    "NEGATIVE",
    "OTHER",
    "POLICIES",
    "POSITIVE",
    "UNCERTAIN",
    "Agreement",
    "Attribute",
    "AttributeFinder",
    "AttributeMention",
    "AttributeScores",
    "FindingLabeler",
    "FindingScores",
    "Mention",
    "Policy",
    "agreement_with_codes",
    "attribute_f1",
    "coded_matrix",
    "default_attribute_finder",
    "default_labeler",
    "f1_from_counts",
    "finding_f1",
    "inversion_table",
    "invert_report",
    "keyword_f1",
    "label_matrix",
]
