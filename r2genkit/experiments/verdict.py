"""What a run's test reports are worth: the scores as they go into its result row.

Every row answers four questions beside its scores. Does it beat the constant report? Does it read
the image (scores with the images of other studies)? Does it find what is abnormal, or only describe
what is normal? Does it do well on texts that training never held?
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.recipe import Recipe
from r2genkit.metrics import (
    ALL_METRICS,
    CLINICAL_METRICS,
    Evaluation,
    Scores,
    evaluate_reports,
    mean_scores,
)
from r2genkit.seeds import numpy_rng


def evaluate_run(
    recipe: Recipe, text: PreparedText, hypotheses: Mapping[str, str], seed: int, **changes
) -> Evaluation:
    """Score test reports by the rules of a recipe.

    Args:
        recipe: gives text rules, reference kind and number of resamples.
        text: the prepared text of that recipe.
        hypotheses: report by study id, for all test studies.
        seed: names the resamples.
        changes: arguments of ``evaluate_reports`` to replace.
    """
    ids = text.split.test
    written = {key: hypotheses[key] for key in ids}
    wanted = {key: text.references[key] for key in ids}
    scored = (written, wanted)
    if recipe.text.drop_full_stops:
        scored = tuple({key: without_full_stops(side[key]) for key in ids} for side in scored)
    arguments = {
        "train_texts": text.train_texts,
        "normal": text.normal(ids),
        "coded": text.coded(ids),
        "label_texts": (written, wanted),
        "reference_text": recipe.text.references,
        "meteor": recipe.scoring.meteor,
        "bootstrap": recipe.scoring.bootstrap,
        "seed": seed,
        "external": True,
    }
    return evaluate_reports(*scored, **{**arguments, **changes})


def without_full_stops(report: str) -> str:
    """The words of a tokenised report, as the 2018 kit scores it."""
    return " ".join(word for word in report.split() if word != ".")


def swapped_reports(hypotheses: Mapping[str, str], seed: int, exchange: int) -> dict[str, str]:
    """Each study gets the report of another study's images.

    A report depends on nothing but its own study's images, therefore exchanging reports is the
    same as exchanging images and decoding again. An exchange is one seeded cycle through all
    studies, so that no study keeps its own.

    Args:
        hypotheses: report by study id.
        seed, exchange: name the cycle.
    """
    ids = sorted(hypotheses)
    order = numpy_rng(seed, f"swap/{exchange}").permutation(len(ids))
    donors = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return {ids[study]: hypotheses[ids[donor]] for study, donor in donors.items()}


def score_swapped(
    recipe: Recipe, text: PreparedText, hypotheses: Mapping[str, str], seed: int
) -> Scores:
    """Mean scores over ``scoring.swap`` exchanges of the test images.

    One exchange alone is noisy: at 410 studies its CIDEr varies by .03 from draw to draw. METEOR
    is left out, it would start the aligner once per exchange.
    """
    ids = {key: hypotheses[key] for key in text.split.test}
    return mean_scores(
        [
            evaluate_run(
                recipe,
                text,
                swapped_reports(ids, seed, exchange),
                seed,
                meteor=False,
                external=False,
                train_texts=None,
            )
            for exchange in range(recipe.scoring.swap)
        ]
    )


def row_scores(scores: Scores, names: tuple[str, ...] = ALL_METRICS) -> dict[str, dict]:
    """Value, interval and reason by metric, as a result row holds them."""
    return _scores(scores.metrics, scores.intervals, scores.reasons, names)


def row_clinical(evaluation: Evaluation) -> dict[str, dict]:
    """Further clinical scores: against codes, attributes, metrics of other projects."""
    codes = "the corpus has no codes"
    reasons = {name: codes for name in CLINICAL_METRICS if name.endswith("(coded)")}
    return _scores(
        evaluation.metrics,
        evaluation.intervals,
        reasons | evaluation.reasons,
        CLINICAL_METRICS,
    )


def row_subsets(evaluation: Evaluation) -> dict[str, dict]:
    """Number of studies and scores by subset, as a result row holds them."""
    return {
        name: {
            "studies": content["studies"],
            "metrics": _scores(
                content["metrics"],
                content["intervals"],
                dict.fromkeys(ALL_METRICS, f"no {name} study can show it") | evaluation.reasons,
                ALL_METRICS,
            ),
        }
        for name, content in evaluation.subsets.items()
    }


def row_findings(evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """Per finding type: studies that have it, reports that state it, and both; text labels."""
    table = evaluation.findings.classes
    return {
        finding: {
            "support": int(line.support),
            "predicted": int(line.predicted),
            "hit": int(line.tp),
        }
        for finding, line in table.iterrows()
    }


def row_differences(first: Scores, second: Scores, seed: int) -> dict[str, dict] | None:
    """Paired differences by metric; None where no metric has one."""
    compared = first.compare(second, seed=seed)
    return {
        name: {
            "value": float(difference.value),
            "low": float(difference.low),
            "high": float(difference.high),
            "verdict": difference.verdict,
        }
        for name, difference in compared.items()
        if name in ALL_METRICS and not np.isnan(difference.value)
    } or None


def _scores(
    metrics: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    reasons: Mapping[str, str],
    names: tuple[str, ...],
) -> dict[str, dict]:
    scores = {}
    for name in names:
        value = metrics.get(name, float("nan"))
        low, high = intervals.get(name, (float("nan"), float("nan")))
        missing = np.isnan(value)
        scores[name] = {
            "value": None if missing else float(value),
            "low": None if missing or np.isnan(low) else float(low),
            "high": None if missing or np.isnan(high) else float(high),
            "reason": reasons.get(name, "not computed") if missing else "",
        }
    return scores
