"""BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them.

Texts are already tokenised: lower case, tokens separated by single spaces, as
:func:`r2genkit.text.clean_report` writes them. No PTB tokenizer runs, as in the released trainers.
Four facts to know before comparing numbers:

* BLEU is a corpus value: clipped counts are summed over studies before they are divided, so it is
  not the mean of the per-study values.
* METEOR is the aggregate line of the jar, again no mean.
* ROUGE-L (F with beta 1.2) and CIDEr are means over studies.
* "CIDEr" here is CIDEr-D (clipped, Gaussian length penalty of sigma 6, times 10) and takes its
  inverse document frequencies from the references that are scored: the same report scores
  differently in another subset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from r2genkit.errors import KitError
from r2genkit.metrics.meteor import MeteorUnavailable, score_meteor
from r2genkit.text.vocabulary import Vocabulary

BLEU_NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEU_NAMES, "METEOR", "ROUGE-L", "CIDEr")

# pycocoevalcap's guards against division by zero; part of its numbers, so part of ours.
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True)
class NLGScores:
    """Scores of one system on one set of studies.

    Attributes:
        corpus: the seven metrics by name; METEOR is NaN where it could not or should not run.
        per_study: one row per study (index: study id), one column per metric. The BLEU and METEOR
            columns are values of the single study; their means are not the corpus values.
        bleu_counts: ``[N, 10]`` statistics per study (:func:`bleu_counts`).
        meteor_statistics: ``[N, 23]`` statistics per study, or None without METEOR.
        signature: implementation, tokenisation and reference text behind the numbers.
        notes: one sentence for each thing that did not go as asked.
    """

    corpus: dict[str, float]
    per_study: pd.DataFrame
    bleu_counts: np.ndarray
    meteor_statistics: np.ndarray | None
    signature: str
    notes: tuple[str, ...] = ()


def check_pairs(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> tuple[str, ...]:
    """Study ids in the order of the references.

    Raises:
        KitError: the ids differ, there are none, or a value is no text.
    """
    if not references:
        raise KitError("There is nothing to score: no reference report was given.")
    if missing := [study for study in references if study not in hypotheses]:
        raise KitError(
            f"{len(missing)} of {len(references)} studies have no hypothesis "
            f"({', '.join(map(str, missing[:3]))}{', ...' if len(missing) > 3 else ''}): "
            "generate them or score the same studies."
        )
    if extra := [study for study in hypotheses if study not in references]:
        raise KitError(
            f"{len(extra)} hypotheses have no reference "
            f"({', '.join(map(str, extra[:3]))}{', ...' if len(extra) > 3 else ''}): "
            "drop them or add their references."
        )
    for name, texts in (("hypothesis", hypotheses), ("reference", references)):
        if wrong := [study for study, text in texts.items() if not isinstance(text, str)]:
            raise KitError(f"The {name} of study {wrong[0]} is no text: pass strings.")
    return tuple(references)


def _ngrams(tokens: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(tokens[start:] for start in range(order))))


def bleu_counts(hypothesis: str, reference: str) -> np.ndarray:
    """Sufficient statistics of BLEU for one study.

    Returns:
        ``[10]`` int64: hypothesis length, reference length, number of n-grams in the hypothesis
        for n = 1..4, of which clipped matches for n = 1..4. Sums over studies give corpus BLEU
        (Papineni et al. 2002, equation 2 and section 2.2.2).
    """
    words, target = hypothesis.split(), reference.split()
    counts = np.zeros(10, dtype=np.int64)
    counts[:2] = len(words), len(target)
    for order in range(1, 5):
        found = _ngrams(words, order)
        counts[1 + order] = max(0, len(words) - order + 1)
        counts[5 + order] = (found & _ngrams(target, order)).total()
    return counts


def bleu_from_counts(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 from summed statistics, with pycocoevalcap's guards and brevity penalty.

    Args:
        sums: ``[..., 10]`` as :func:`bleu_counts` gives, summed over studies.

    Returns:
        ``[..., 4]``.
    """
    sums = np.asarray(sums, dtype=np.float64)
    precisions = (sums[..., 6:10] + _TINY) / (sums[..., 2:6] + _SMALL)
    orders = np.arange(1, 5)
    means = np.exp(np.cumsum(np.log(precisions), axis=-1) / orders)
    ratio = (sums[..., 0] + _TINY) / (sums[..., 1] + _SMALL)
    with np.errstate(over="ignore"):
        penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return means * penalty[..., None]


def truncated_references(
    texts: Mapping[str, str], vocabulary: Vocabulary, max_length: int = 60
) -> dict[str, str]:
    """References as the released trainers score them.

    Args:
        texts: raw reports by study id.
        vocabulary: of the training set; its text rule cleans the reports.
        max_length: positions including both marks; R2Gen uses 60 on IU X-Ray, so at most 59 words.

    Returns:
        Reports cleaned, cut to ``max_length - 1`` words, rare words replaced by ``<unk>``.
    """
    return {study: vocabulary.truncated(text, max_length) for study, text in texts.items()}


def signature(*, meteor: bool = True, reference_text: str = "full") -> str:
    """One line that says what stands behind the numbers.

    Args:
        meteor: whether METEOR ran.
        reference_text: "full", or how the references were cut ("max60+unk").
    """
    try:
        release = version("pycocoevalcap")
    except PackageNotFoundError:
        release = "unknown"
    parts = [
        f"pycocoevalcap-{release}",
        "tokens=as-given",
        "ptb=no",
        f"references={reference_text}",
        "bleu=corpus,closest",
        "meteor=1.5-en-norm,aggregate" if meteor else "meteor=none",
        "rougeL=mean,beta1.2",
        "cider=D,sigma6,idf-from-references",
    ]
    return "|".join(parts)


def _cider(references: dict[str, list[str]], hypotheses: dict[str, list[str]]) -> np.ndarray:
    if not any(text.split() for (text,) in references.values()):
        return np.zeros(len(references))  # pycocoevalcap fails on a corpus without any n-gram
    return np.asarray(Cider().compute_score(references, hypotheses)[1], dtype=np.float64)


def score_nlg(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    *,
    meteor: bool = True,
    reference_text: str = "full",
    timeout: float | None = None,
) -> NLGScores:
    """All seven metrics of one system, corpus values and values per study.

    Args:
        hypotheses: tokenised generated report by study id; may be empty text.
        references: tokenised reference report by study id; the same ids.
        meteor: False skips METEOR (fast validation); its values are then NaN.
        reference_text: goes into the signature, e.g. "max60+unk" for
            :func:`truncated_references`.
        timeout: seconds METEOR may take, see :meth:`r2genkit.metrics.meteor.MeteorProcess.score`.

    Raises:
        KitError: the ids of hypotheses and references differ.
    """
    studies = check_pairs(hypotheses, references)
    # White space is normalised: ROUGE-L splits on single spaces, and a line break must not count
    # as part of a word.
    found = {study: [" ".join(hypotheses[study].split())] for study in studies}
    wanted = {study: [" ".join(references[study].split())] for study in studies}
    counts = np.stack([bleu_counts(found[study][0], wanted[study][0]) for study in studies])
    notes = []
    table: dict[str, np.ndarray] = {}
    corpus: dict[str, float] = {}
    bleu, bleu_each = Bleu(4).compute_score(wanted, found, verbose=0)
    for name, value, each in zip(BLEU_NAMES, bleu, bleu_each):
        corpus[name] = float(value)
        table[name] = np.asarray(each, dtype=np.float64)
    corpus["METEOR"], table["METEOR"] = math.nan, np.full(len(studies), math.nan)
    statistics = None
    if meteor:
        pairs = [(found[study][0], wanted[study][0]) for study in studies]
        try:
            corpus["METEOR"], table["METEOR"], statistics = score_meteor(pairs, timeout=timeout)
        except MeteorUnavailable as error:
            notes.append(f"METEOR could not run ({error}); its column is empty.")
    else:
        notes.append("METEOR was skipped on request; its column is empty.")
    rouge = np.asarray(Rouge().compute_score(wanted, found)[1], dtype=np.float64)
    cider = _cider(wanted, found)
    for name, values in (("ROUGE-L", rouge), ("CIDEr", cider)):
        corpus[name], table[name] = float(values.mean()), values
    if empty := sum(not text for (text,) in found.values()):
        notes.append(f"{empty} of {len(studies)} hypotheses are empty.")
    return NLGScores(
        corpus=corpus,
        per_study=pd.DataFrame(table, index=pd.Index(studies, name="study"), columns=METRICS),
        bleu_counts=counts,
        meteor_statistics=statistics,
        signature=signature(meteor=statistics is not None, reference_text=reference_text),
        notes=tuple(notes),
    )
