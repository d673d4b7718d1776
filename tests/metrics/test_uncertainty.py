"""The bootstrap against plain re-scoring of resampled studies."""

import time

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from r2genkit.errors import KitError
from r2genkit.metrics.findings import f1_from_counts, finding_f1
from r2genkit.metrics.nlg import score_nlg
from r2genkit.metrics.uncertainty import (
    ABOVE,
    BELOW,
    SAME,
    Difference,
    additives_of_findings,
    additives_of_nlg,
    bootstrap,
    mean_of,
    paired_difference,
    percentile_interval,
    point_values,
    resample_weights,
)

SENTENCES = [
    "the heart is normal in size .",
    "the lungs are clear .",
    "no pleural effusion or pneumothorax .",
    "there is a small left effusion .",
    "the heart is enlarged .",
    "mild degenerative changes of the spine .",
]


def reports(seed, number):
    rng = np.random.default_rng(seed)
    return {
        f"s{i}": " ".join(SENTENCES[j] for j in rng.choice(6, size=rng.integers(1, 5)))
        for i in range(number)
    }


@pytest.fixture(scope="module")
def scored():
    references, hypotheses = reports(0, 40), reports(1, 40)
    return references, hypotheses, score_nlg(hypotheses, references, meteor=False)


def test_point_values_are_the_corpus_values(scored):
    _, _, scores = scored
    for name, value in point_values(additives_of_nlg(scores)).items():
        assert value == pytest.approx(scores.corpus[name], rel=1e-9)


def test_each_resample_equals_scoring_the_drawn_studies(scored):
    references, hypotheses, scores = scored
    weights = resample_weights(40, resamples=5, seed=3)
    values = bootstrap(additives_of_nlg(scores), weights)
    for row, weight in enumerate(weights):
        drawn = [s for s, times in zip(references, weight) for _ in range(int(times))]
        assert len(drawn) == 40
        bleu, _ = Bleu(4).compute_score(
            {i: [references[s]] for i, s in enumerate(drawn)},
            {i: [hypotheses[s]] for i, s in enumerate(drawn)},
            verbose=0,
        )
        assert [values[f"BLEU-{n}"][row] for n in (1, 2, 3, 4)] == pytest.approx(bleu, rel=1e-9)
        for name in ("ROUGE-L", "CIDEr"):  # CIDEr with the full set's document frequencies
            mean = scores.per_study.loc[drawn, name].mean()
            assert values[name][row] == pytest.approx(mean, rel=1e-9)


def test_finding_f1_of_a_resample(scored):
    references, hypotheses, _ = scored
    counts = finding_f1(hypotheses, references).counts
    weights = resample_weights(40, resamples=4, seed=1)
    values = bootstrap(additives_of_findings(counts), weights)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(40), weight.astype(int))
        total = counts[drawn].sum(axis=(0, 1))
        assert values["finding-F1"][row] == pytest.approx(float(f1_from_counts(total)))
        classes = counts[drawn].sum(axis=0)
        present = classes[:, 0] + classes[:, 2] > 0
        macro = f1_from_counts(classes)[present].mean()
        assert values["finding-F1 macro"][row] == pytest.approx(macro)
        assert values["finding-precision"][row] == pytest.approx(total[0] / total[:2].sum())


def test_weights_are_seeded_and_count_studies():
    weights = resample_weights(7, resamples=50, seed=5)
    assert weights.shape == (50, 7) and (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, resample_weights(7, resamples=50, seed=5))
    assert not np.array_equal(weights, resample_weights(7, resamples=50, seed=6))
    with pytest.raises(KitError, match="at least one"):
        resample_weights(0)


def test_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(0).normal(size=400)
    weights = resample_weights(400, resamples=4000, seed=0)
    low, high = percentile_interval(bootstrap([mean_of("x", values)], weights)["x"])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_nan_studies_do_not_count_in_a_mean():
    additive = mean_of("x", np.array([1.0, np.nan, 3.0]))
    assert point_values([additive])["x"] == 2
    low, high = percentile_interval(np.array([np.nan, np.nan]))
    assert np.isnan(low) and np.isnan(high)
    assert percentile_interval(np.array([1.0, np.nan])) == (1, 1)


def test_verdicts():
    assert Difference("x", 0.1, 0.05, 0.2).verdict == ABOVE
    assert Difference("x", -0.1, -0.2, -0.01).verdict == BELOW
    assert Difference("x", 0.1, -0.01, 0.2).verdict == SAME
    assert Difference("x", float("nan"), float("nan"), float("nan")).verdict == SAME


def test_pairing_narrows_the_difference():
    rng = np.random.default_rng(1)
    theirs = rng.normal(size=300)
    ours = theirs + 0.05 + 0.01 * rng.normal(size=300)
    weights = resample_weights(300, resamples=1000, seed=0)
    first, second = (bootstrap([mean_of("x", v)], weights) for v in (ours, theirs))
    difference = paired_difference(first, second, {"x": ours.mean()}, {"x": theirs.mean()})["x"]
    assert difference.verdict == ABOVE and difference.value == pytest.approx(0.05, abs=0.005)
    alone = percentile_interval(first["x"])
    assert difference.high - difference.low < 0.1 * (alone[1] - alone[0])
    itself = paired_difference(first, first, {"x": 1.0}, {"x": 1.0})["x"]
    assert (itself.value, itself.low, itself.high, itself.verdict) == (0, 0, 0, SAME)


def test_two_systems_of_600_studies_take_less_than_a_second():
    references = reports(0, 600)
    prepared = []
    for seed in (1, 2):
        hypotheses = reports(seed, 600)
        nlg = score_nlg(hypotheses, references, meteor=False)
        counts = finding_f1(hypotheses, references).counts
        prepared.append([*additives_of_nlg(nlg), *additives_of_findings(counts)])
    start = time.process_time()
    weights = resample_weights(600, resamples=1000, seed=0)
    values = [bootstrap(additives, weights) for additives in prepared]
    paired_difference(*values, *(point_values(additives) for additives in prepared))
    assert time.process_time() - start < 1
