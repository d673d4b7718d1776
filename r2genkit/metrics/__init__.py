"""Scores: BLEU, METEOR, ROUGE-L, CIDEr, clinical findings, diversity, intervals, baselines.

:func:`evaluate_reports` is the one door: texts in, an :class:`Evaluation` out, with a 95 %
interval on every metric, the same metrics on subsets, and paired comparison of two systems.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from r2genkit.errors import KitError
from r2genkit.metrics.diversity import diversity
from r2genkit.metrics.external import EXTERNAL_COLUMNS, score_external
from r2genkit.metrics.findings import (
    CATEGORIES,
    AttributeScores,
    FindingScores,
    Policy,
    attribute_f1,
    finding_f1,
)
from r2genkit.metrics.meteor import close_meteor
from r2genkit.metrics.nlg import (
    METRICS,
    NLGScores,
    check_pairs,
    score_nlg,
    truncated_references,
)
from r2genkit.metrics.uncertainty import (
    Additive,
    Difference,
    additives_of_attributes,
    additives_of_findings,
    additives_of_nlg,
    bootstrap,
    mean_additive,
    mean_of,
    paired_difference,
    percentile_interval,
    resample_weights,
)
from r2genkit.text.sentences import normalise

__all__ = [
    "ALL_METRICS",
    "CLINICAL_METRICS",
    "METRICS",
    "AttributeScores",
    "Difference",
    "Evaluation",
    "FindingScores",
    "NLGScores",
    "Scores",
    "additives_of_attributes",
    "attribute_f1",
    "close_meteor",
    "evaluate_reports",
    "finding_f1",
    "mean_scores",
    "score_nlg",
    "truncated_references",
]

ALL_METRICS = (*METRICS, "finding-F1", "finding-F1 macro")
"""Column names of every table, in order; finding-F1 by itself is the micro average."""

CLINICAL_METRICS = (
    "finding-precision",
    "finding-recall",
    "finding-F1 (coded)",
    "finding-F1 macro (coded)",
    "attribute-F1",
    *(f"attribute-F1 {category}" for category in CATEGORIES),
    *EXTERNAL_COLUMNS,
)
"""Further clinical scores of a row, in the order of the clinical table."""


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _describe(differences: Mapping[str, Difference]) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": d.value, "low": d.low, "high": d.high, "verdict": d.verdict}
        for name, d in differences.items()
    }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics of one system on one set of studies, with what it takes to compare it with another.

    Attributes:
        studies: ids, sorted; the order of all arrays.
        metrics: value by name: the seven of ``METRICS``, "finding-F1" (micro) with
            "finding-precision", "finding-recall", "finding-F1 macro"; the same with " (coded)"
            where codes were given; "attribute-F1" with its precision, recall and categories; the
            columns of :mod:`r2genkit.metrics.external` where asked for.
        intervals: (low, high) of the 95 % bootstrap interval by metric; empty without bootstrap.
        reasons: why a metric is NaN, by metric.
        references: SHA-256 of the reference texts; only scores with equal ones compare.
        resamples, seed: of the bootstrap.
    """

    studies: tuple[str, ...]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    reasons: dict[str, str]
    references: str
    resamples: int
    seed: int
    _additives: tuple[Additive, ...] = field(repr=False)

    def _check_comparable(self, other: Scores) -> None:
        if self.studies != other.studies:
            odd = sorted(set(self.studies) ^ set(other.studies))
            raise KitError(
                f"Cannot compare: {len(odd)} studies are in one evaluation only "
                f"({', '.join(odd[:3])}): evaluate both systems on the same studies."
            )
        if self.references != other.references:
            raise KitError(
                "Cannot compare: the reference texts differ (full against truncated?): "
                "evaluate both systems with the same references."
            )

    def compare(
        self, other: Scores, *, seed: int | None = None, level: float = 0.95
    ) -> dict[str, Difference]:
        """This system minus another, metric by metric, on shared resamples of the studies.

        Args:
            other: scores on the same studies and references, in any order of studies.
            seed: names the resamples; default: those of these scores.
            level: coverage of the intervals.

        Raises:
            KitError: studies or reference texts differ.
        """
        self._check_comparable(other)
        weights = resample_weights(
            len(self.studies),
            resamples=self.resamples or 1000,
            seed=self.seed if seed is None else seed,
        )
        return paired_difference(
            bootstrap(list(self._additives), weights),
            bootstrap(list(other._additives), weights),
            self.metrics,
            other.metrics,
            level=level,
        )


def mean_scores(several: Sequence[Scores]) -> Scores:
    """The mean of several scorings of the same studies, e.g. of repeated random exchanges.

    Every metric is averaged, on the studies and in each resample of them. The interval of the
    mean is therefore that of the average draw, not of one lucky or unlucky draw.

    Args:
        several: scores with the same studies, references and metrics.

    Raises:
        KitError: none given, or studies, references or metrics differ.
    """
    if not several:
        raise KitError("A mean of scores needs at least one.")
    first = several[0]
    for other in several[1:]:
        first._check_comparable(other)
        if set(other.metrics) != set(first.metrics):
            raise KitError("Cannot average: the metrics differ: score all with the same options.")
    additives = tuple(
        mean_additive(same) for same in zip(*(scores._additives for scores in several))
    )
    intervals = {}
    if first.resamples:
        weights = resample_weights(len(first.studies), resamples=first.resamples, seed=first.seed)
        intervals = {
            name: percentile_interval(values)
            for name, values in bootstrap(list(additives), weights).items()
        }
    return Scores(
        studies=first.studies,
        metrics={
            name: float(np.mean([scores.metrics[name] for scores in several]))
            for name in first.metrics
        },
        intervals=intervals,
        reasons=first.reasons,
        references=first.references,
        resamples=first.resamples,
        seed=first.seed,
        _additives=additives,
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation(Scores):
    """Everything measured about one system on one set of studies.

    Attributes (beyond those of ``Scores``):
        per_study: one row per study: the metrics of the single study, "finding-F1", "words",
            "normal" and, where training texts were given, "seen".
        subsets: by subset ("normal", "abnormal", "seen", "unseen"): number of studies, metrics and
            intervals. CIDEr keeps the document frequencies of the full set.
        diversity: see :func:`r2genkit.metrics.diversity.diversity`.
        findings: finding scores against the reference text.
        coded: finding scores against codes, or None.
        attributes: agreement on degree, location, feature and impression of the findings.
        versus_constant: paired differences to the constant, empty if none was given.
        signature: what stands behind the numbers.
        notes: one sentence for each thing to know.
        extra: further scalars by name, for result rows: finding rates, mean length in words.
    """

    per_study: pd.DataFrame
    subsets: dict[str, dict[str, Any]]
    diversity: dict[str, float]
    findings: FindingScores
    coded: FindingScores | None
    attributes: AttributeScores
    versus_constant: dict[str, Difference]
    signature: str
    notes: tuple[str, ...]
    extra: dict[str, float]

    def to_dict(self, *, per_study: bool = False) -> dict[str, Any]:
        """As plain JSON values; NaN becomes None.

        Args:
            per_study: include the table of single studies.
        """

        def findings(scores: FindingScores) -> dict[str, Any]:
            return {
                "policy": scores.policy,
                "micro": scores.micro,
                "macro_f1": scores.macro_f1,
                "mean_study_f1": scores.mean_study_f1,
                "negation_flip": scores.negation_flip,
                "hallucination": scores.hallucination,
                "omission": scores.omission,
                "sensitivity": scores.sensitivity,
                "specificity": scores.specificity,
                "classes": scores.classes.to_dict(orient="index"),
            }

        content = {
            "studies": len(self.studies),
            "metrics": self.metrics,
            "intervals": self.intervals,
            "subsets": self.subsets,
            "diversity": self.diversity,
            "findings": findings(self.findings),
            "coded": None if self.coded is None else findings(self.coded),
            "attributes": self.attributes.table.to_dict(orient="index"),
            "versus_constant": _describe(self.versus_constant),
            "signature": self.signature,
            "notes": list(self.notes),
            "reasons": self.reasons,
            "extra": self.extra,
            "references": self.references,
            "resamples": self.resamples,
            "seed": self.seed,
        }
        if per_study:
            rows = self.per_study.astype(object).where(self.per_study.notna(), None)
            content["per_study"] = rows.to_dict(orient="index")
        return _plain(content)


def _fingerprint(references: Mapping[str, str]) -> str:
    lines = sorted(f"{study}\t{' '.join(text.split())}" for study, text in references.items())
    return hashlib.sha256("\n".join(lines).encode(errors="replace")).hexdigest()


def _subset_masks(per_study: pd.DataFrame) -> dict[str, np.ndarray]:
    """Membership ``[N]`` of each subset that is not empty."""
    masks = {}
    for column, no in (("normal", "abnormal"), ("seen", "unseen")):
        if column in per_study:
            values = per_study[column].to_numpy(dtype=bool)
            masks |= {column: values, no: ~values}
    return {name: mask for name, mask in masks.items() if mask.any()}


def evaluate_reports(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    *,
    train_texts: Iterable[str] | None = None,
    normal: Mapping[str, bool | None] | None = None,
    coded: Mapping[str, Iterable[str]] | None = None,
    meteor: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    constant: str | Mapping[str, str] | None = None,
    label_texts: tuple[Mapping[str, str], Mapping[str, str]] | None = None,
    policy: Policy = "negative",
    reference_text: str = "full",
    timeout: float | None = None,
    external: bool = False,
) -> Evaluation:
    """Score generated reports with everything the kit has.

    Args:
        hypotheses: generated report by study id, tokenised
            (:func:`r2genkit.text.clean_report`); may be empty text.
        references: reference report by study id, tokenised; the same ids.
        train_texts: training reports after the same cleaning; gives memorisation and the subsets
            "seen" (reference text occurs in training) and "unseen".
        normal: whether a study is normal, by study id; None or a missing id leaves it to the
            reference text (normal: no abnormality stated). Gives the subsets "normal" and
            "abnormal" and the truth for abnormal sensitivity and specificity.
        coded: names of finding types of each study, from codes or a renderer; adds finding scores
            against them.
        meteor: False skips METEOR.
        bootstrap: resamples of the intervals; 0 for none.
        seed: names the resamples; equal seeds keep systems paired.
        constant: text (or texts by study) of the constant baseline; adds paired differences to it.
        label_texts: other texts of hypotheses and references for the finding labels. Give them
            where the scored text has no full stops (the 2018 kit's): negation cannot be kept to
            its sentence there, and labels agree with those of the full text at F1 .86 only.
        policy: what an uncertain finding counts as.
        reference_text: how references were cut, for the signature.
        timeout: seconds METEOR may take.
        external: also ask the metrics of other projects that are installed
            (:mod:`r2genkit.metrics.external`); the others are NaN with a reason.

    Raises:
        KitError: ids of hypotheses and references differ.
    """
    # Resamples and sampled pairs go by position: sorted, no score depends on the order given.
    studies = tuple(sorted(check_pairs(hypotheses, references)))
    hypotheses = {study: hypotheses[study] for study in studies}
    references = {study: references[study] for study in studies}
    scores = score_nlg(
        hypotheses, references, meteor=meteor, reference_text=reference_text, timeout=timeout
    )
    written, wanted = (hypotheses, references) if label_texts is None else label_texts
    if label_texts is not None:
        check_pairs(written, references)
        written = {study: written[study] for study in studies}
        wanted = {study: wanted[study] for study in studies if study in wanted}
    findings = finding_f1(written, wanted, policy=policy, normal=normal)
    against_codes = None
    additives = [*additives_of_nlg(scores), *additives_of_findings(findings.counts)]
    if coded is not None:
        against_codes = finding_f1(written, wanted, policy=policy, normal=normal, coded=coded)
        additives += additives_of_findings(against_codes.counts, " (coded)")
    attributes = attribute_f1(written, wanted, policy=policy)
    additives += additives_of_attributes(attributes.counts)
    others = score_external(written, wanted) if external else {}
    additives += [
        mean_of(name, score.per_study)
        for name, score in others.items()
        if score.per_study is not None
    ]
    ones = np.ones((1, len(studies)))
    metrics = dict(scores.corpus)
    for additive in additives:
        for name, values in additive.metrics(ones).items():
            metrics.setdefault(name, float(values[0]))
    metrics |= {name: score.value for name, score in others.items()}

    per_study = scores.per_study.copy()
    per_study["finding-F1"] = findings.per_study_f1
    per_study["words"] = [len(normalise(text).split()) for text in hypotheses.values()]
    per_study["normal"] = ~findings.abnormal
    train = None if train_texts is None else list(train_texts)
    if train is not None:
        known = {normalise(text) for text in train}
        per_study["seen"] = [normalise(references[study]) in known for study in studies]

    weights = resample_weights(len(studies), resamples=bootstrap, seed=seed) if bootstrap else None

    def intervals(mask: np.ndarray | None = None) -> dict[str, tuple[float, float]]:
        if weights is None:
            return {}
        used = weights if mask is None else weights * mask
        if mask is not None:  # a resample without any study of the subset says nothing about it
            used = used[used.sum(axis=1) > 0]
        return {
            name: percentile_interval(values)
            for additive in additives
            for name, values in additive.metrics(used).items()
        }

    subsets = {}
    for name, mask in _subset_masks(per_study).items():
        values = {
            metric: float(value[0])
            for additive in additives
            for metric, value in additive.metrics(mask[None].astype(np.float64)).items()
        }
        subsets[name] = {
            "studies": int(mask.sum()),
            "metrics": values,
            "intervals": {n: v for n, v in intervals(mask).items() if n in values},
        }
    notes = list(scores.notes)
    reasons = {}
    if math.isnan(metrics["METEOR"]):
        reasons["METEOR"] = next(note for note in notes if note.startswith("METEOR"))
    reasons |= {name: score.reason for name, score in others.items() if score.reason}
    for name in metrics:
        if name.startswith(("finding", "attribute")) and math.isnan(metrics[name]):
            reasons[name] = "No study has a positive finding to divide by."
    extra = {
        "finding-F1 mean of studies": findings.mean_study_f1,
        "negation flip": findings.negation_flip,
        "hallucination": findings.hallucination,
        "omission": findings.omission,
        "abnormal sensitivity": findings.sensitivity,
        "abnormal specificity": findings.specificity,
        "words": float(per_study["words"].mean()),
    }
    extra = {name: float(value) for name, value in extra.items() if math.isfinite(value)}
    if subsets:
        notes.append("CIDEr of subsets uses the document frequencies of the full set.")
    evaluation = Evaluation(
        studies=studies,
        metrics=metrics,
        intervals=intervals(),
        per_study=per_study,
        subsets=subsets,
        diversity=diversity(hypotheses.values(), train, seed=seed),
        findings=findings,
        coded=against_codes,
        attributes=attributes,
        versus_constant={},
        signature=f"{scores.signature}|finding-F1=micro,uncertain-{policy}",
        notes=tuple(notes),
        reasons=reasons,
        extra=extra,
        references=_fingerprint(references),
        resamples=bootstrap,
        seed=seed,
        _additives=tuple(additives),
    )
    if constant is None:
        return evaluation
    texts = dict.fromkeys(studies, constant) if isinstance(constant, str) else constant
    baseline = evaluate_reports(
        texts,
        references,
        normal=normal,
        coded=coded,
        meteor=meteor,
        bootstrap=0,
        seed=seed,
        label_texts=None if label_texts is None else (texts, wanted),
        policy=policy,
        reference_text=reference_text,
        timeout=timeout,
    )
    object.__setattr__(evaluation, "versus_constant", evaluation.compare(baseline))
    return evaluation
