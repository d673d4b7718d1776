"""Does the system write different reports, and does it write or copy?

A constant has one distinct report; a retrieval system copies every report verbatim from training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from r2genkit.metrics.nlg import bleu_counts, bleu_from_counts
from r2genkit.seeds import numpy_rng
from r2genkit.text.sentences import normalise, split_sentences

NAMES = (
    "distinct_percent",
    "verbatim_in_train_percent",
    "novel_sentences_percent",
    "self_bleu",
    "mean_words",
)


def self_bleu(reports: Sequence[str], *, pairs: int = 1000, seed: int = 0) -> float:
    """Corpus BLEU-4 of random pairs of different studies' reports against each other.

    1 for a constant, low where reports differ. Zhu et al. 2018 (Texygen) score each text against
    all others; sampled pairs keep the cost linear and the value comparable between test sets of
    different size, because it does not grow with the number of references.

    Args:
        reports: tokenised, N >= 2.
        pairs: number of pairs drawn with replacement.
        seed: names the draw.

    Returns:
        A share in 0..1; NaN for fewer than two reports.
    """
    if len(reports) < 2:
        return math.nan
    rng = numpy_rng(seed, "self-BLEU")
    first = rng.integers(0, len(reports), pairs)
    second = (first + rng.integers(1, len(reports), pairs)) % len(reports)
    known: dict[tuple[str, str], np.ndarray] = {}
    total = np.zeros(10, dtype=np.int64)
    for i, j in zip(first, second):
        pair = (reports[i], reports[j])
        if pair not in known:
            known[pair] = bleu_counts(*pair)
        total += known[pair]
    return float(bleu_from_counts(total)[3]) if total[0] else math.nan


def diversity(
    reports: Iterable[str],
    train_texts: Iterable[str] | None = None,
    *,
    pairs: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Diversity and memorisation of generated reports.

    Args:
        reports: generated reports, tokenised.
        train_texts: training reports after the same cleaning; None leaves what needs them NaN.
        pairs, seed: see :func:`self_bleu`.

    Returns:
        "distinct_percent": different texts among 100 reports; "verbatim_in_train_percent": reports
        whose text (case, punctuation and spacing aside) is a training report's;
        "novel_sentences_percent": sentences that no training report contains; "self_bleu" in 0..1;
        "mean_words", full stops not counted. Empty input gives NaN throughout.
    """
    reports = list(reports)
    if not reports:
        return dict.fromkeys(NAMES, math.nan)
    forms = [normalise(report) for report in reports]
    result = dict.fromkeys(NAMES, math.nan)
    result["distinct_percent"] = 100 * len(set(forms)) / len(forms)
    result["mean_words"] = float(np.mean([len(form.split()) for form in forms]))
    result["self_bleu"] = self_bleu(reports, pairs=pairs, seed=seed)
    if train_texts is not None:
        texts = list(train_texts)
        known = {normalise(text) for text in texts}
        result["verbatim_in_train_percent"] = (
            100 * sum(form in known for form in forms) / len(forms)
        )
        seen = {normalise(s) for text in set(texts) for s in split_sentences(text)}
        written = [normalise(s) for report in reports for s in split_sentences(report)]
        if written:
            novel = sum(s not in seen for s in written)
            result["novel_sentences_percent"] = 100 * novel / len(written)
    return result
