"""Intervals and comparisons: the paired bootstrap over studies.

Every score here is a function of sums over studies (clipped n-gram counts for BLEU, matcher
statistics for METEOR, values for the means, true and false positives for finding-F1). Resampling
studies therefore only reweights those sums: one matrix product per metric, exact corpus values, no
text touched again. Two systems share the same resamples, which removes from their difference the
variation that both have in common (Koehn 2004, "Statistical significance tests for machine
translation evaluation").

What the interval covers is the choice of test studies for these fixed outputs. Seed to seed
variation of training comes on top and is not in it.

CIDEr's inverse document frequencies stay those of the full evaluated set in all resamples; they
are part of the metric's definition on that set, not of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from r2genkit.errors import KitError
from r2genkit.metrics.findings.attributes import CATEGORIES
from r2genkit.metrics.findings.scores import f1_from_counts
from r2genkit.metrics.meteor import meteor_from_statistics
from r2genkit.metrics.nlg import BLEU_NAMES, NLGScores, bleu_from_counts
from r2genkit.seeds import numpy_rng

ABOVE, BELOW, SAME = "above", "below", "not distinguishable"


@dataclass(frozen=True)
class Additive:
    """Metrics that depend on sums over studies.

    Attributes:
        names: M metric names.
        values: ``[N, K]`` per study.
        reduce: ``[R, K]`` sums to ``[R, M]`` metric values (``[R]`` when M is 1).
    """

    names: tuple[str, ...]
    values: np.ndarray
    reduce: Callable[[np.ndarray], np.ndarray]

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Values ``[R]`` by name for weights ``[R, N]`` (how often each study was drawn)."""
        reduced = self.reduce(weights @ self.values)
        if len(self.names) == 1:
            return {self.names[0]: reduced.reshape(len(weights))}
        return {name: reduced[:, column] for column, name in enumerate(self.names)}


def mean_of(name: str, values: np.ndarray) -> Additive:
    """A metric that is the mean over studies; studies whose value is NaN do not count."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    columns = np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)

    def mean(sums: np.ndarray) -> np.ndarray:
        out = np.full(len(sums), np.nan)
        return np.divide(sums[:, 0], sums[:, 1], out=out, where=sums[:, 1] > 0)

    return Additive((name,), columns, mean)


def mean_additive(several: Sequence[Additive]) -> Additive:
    """The mean of n scorings by the same metrics, again as a function of sums over studies.

    Args:
        several: equal names, values ``[N, K]`` each.

    Returns:
        Values ``[N, n * K]``; each block is reduced by itself, then the metrics are averaged.
    """
    first, number = several[0], len(several)

    def mean(sums: np.ndarray) -> np.ndarray:
        blocks = np.split(sums, number, axis=1)
        return np.mean([one.reduce(block) for one, block in zip(several, blocks)], axis=0)

    return Additive(first.names, np.concatenate([one.values for one in several], axis=1), mean)


def additives_of_nlg(scores: NLGScores) -> list[Additive]:
    """The seven metrics of :func:`r2genkit.metrics.nlg.score_nlg` as functions of sums."""
    result = [Additive(BLEU_NAMES, scores.bleu_counts.astype(np.float64), bleu_from_counts)]
    if scores.meteor_statistics is not None:
        result.append(Additive(("METEOR",), scores.meteor_statistics, meteor_from_statistics))
    for name in ("ROUGE-L", "CIDEr"):
        result.append(mean_of(name, scores.per_study[name].to_numpy()))
    return result


def _micro(groups: int) -> Callable[[np.ndarray], np.ndarray]:
    """F1, precision, recall ``[R, 3]`` from sums ``[R, groups * 3]`` of hits, false, missed."""

    def micro(sums: np.ndarray) -> np.ndarray:
        totals = sums.reshape(len(sums), groups, 3).sum(axis=1)
        hit, false, missed = totals.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([f1_from_counts(totals), hit / (hit + false), hit / (hit + missed)], 1)

    return micro


def additives_of_findings(counts: np.ndarray, suffix: str = "") -> list[Additive]:
    """Micro finding-F1, its precision and recall, and macro F1 as functions of sums.

    Args:
        counts: ``[N, F, 3]`` of :class:`r2genkit.metrics.findings.FindingScores`.
        suffix: appended to the metric names.
    """
    counts = np.asarray(counts, dtype=np.float64)
    studies, types, _ = counts.shape

    def macro(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(len(sums), types, 3)
        present = table[..., 0] + table[..., 2] > 0
        scores = np.where(present, np.nan_to_num(f1_from_counts(table)), 0.0).sum(axis=1)
        number = present.sum(axis=1)
        return np.divide(scores, number, out=np.full(len(sums), np.nan), where=number > 0)

    flat = counts.reshape(studies, types * 3)
    names = ("finding-F1", "finding-precision", "finding-recall")
    return [
        Additive(tuple(name + suffix for name in names), flat, _micro(types)),
        Additive(("finding-F1 macro" + suffix,), flat, macro),
    ]


def additives_of_attributes(counts: np.ndarray, suffix: str = "") -> list[Additive]:
    """Micro attribute-F1 with precision and recall, and F1 per category, as functions of sums.

    Args:
        counts: ``[N, 4, 3]`` of :class:`r2genkit.metrics.findings.AttributeScores`.
        suffix: appended to the metric names.
    """
    counts = np.asarray(counts, dtype=np.float64)
    studies, categories, _ = counts.shape

    def by_category(sums: np.ndarray) -> np.ndarray:
        return f1_from_counts(sums.reshape(len(sums), categories, 3))

    flat = counts.reshape(studies, categories * 3)
    names = ("attribute-F1", "attribute-precision", "attribute-recall")
    return [
        Additive(tuple(name + suffix for name in names), flat, _micro(categories)),
        Additive(tuple(f"attribute-F1 {name}{suffix}" for name in CATEGORIES), flat, by_category),
    ]


def resample_weights(studies: int, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each study is drawn in each resample.

    Returns:
        float64 ``[R, N]``, rows summing to N. The same seed and number of studies give the same
        resamples, so systems scored apart stay paired.

    Raises:
        KitError: no study or no resample asked for.
    """
    if studies < 1 or resamples < 1:
        raise KitError("A bootstrap needs at least one study and one resample.")
    rng = numpy_rng(seed, "bootstrap")
    draws = rng.integers(0, studies, size=(resamples, studies))
    offsets = np.arange(resamples)[:, None] * studies
    counts = np.bincount((draws + offsets).ravel(), minlength=resamples * studies)
    return counts.reshape(resamples, studies).astype(np.float64)


def bootstrap(additives: list[Additive], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metric values ``[R]`` by name under each resample."""
    result: dict[str, np.ndarray] = {}
    for additive in additives:
        result.update(additive.metrics(weights))
    return result


def point_values(additives: list[Additive]) -> dict[str, float]:
    """Metric values on all studies, each counted once."""
    studies = len(additives[0].values)
    return {name: float(v[0]) for name, v in bootstrap(additives, np.ones((1, studies))).items()}


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN resamples are left out, all NaN gives (NaN, NaN)."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"), float("nan"))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """One system minus another on the same studies.

    Attributes:
        metric: name.
        value: difference on all studies.
        low, high: percentile interval of the paired bootstrap.
        verdict: "above" or "below" when the interval leaves out 0, else "not distinguishable".
    """

    metric: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say about the first system."""
        if self.low > 0:
            return ABOVE
        return BELOW if self.high < 0 else SAME


def paired_difference(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    our_values: Mapping[str, float],
    their_values: Mapping[str, float],
    *,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Differences for every metric that both have.

    Args:
        ours, theirs: resampled values ``[R]`` by metric, from the same weights.
        our_values, their_values: values on all studies.
        level: coverage of the interval.
    """
    result = {}
    for name in ours:
        if name not in theirs:
            continue
        low, high = percentile_interval(ours[name] - theirs[name], level)
        value = our_values[name] - their_values[name]
        result[name] = Difference(name, float(value), low, high)
    return result
