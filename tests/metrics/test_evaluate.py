"""The one door: everything measured, JSON-ready, comparable."""

import json
import math

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.metrics import ALL_METRICS, METRICS, evaluate_reports, mean_scores, score_nlg
from r2genkit.metrics.external import EXTERNAL_COLUMNS
from r2genkit.metrics.uncertainty import (
    ABOVE,
    BELOW,
    SAME,
    bootstrap,
    percentile_interval,
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


def reports(seed, number=80):
    rng = np.random.default_rng(seed)
    return {
        f"s{i}": " ".join(SENTENCES[j] for j in rng.choice(6, size=rng.integers(1, 5)))
        for i in range(number)
    }


REFERENCES = reports(0)
CONSTANT = " ".join(SENTENCES[:3])


@pytest.fixture(scope="module")
def evaluation():
    return evaluate_reports(
        reports(1),
        REFERENCES,
        train_texts=[REFERENCES["s0"], REFERENCES["s1"], "lungs clear ."],
        normal={study: i % 3 == 0 for i, study in enumerate(REFERENCES)},
        coded={study: ["effusion"] for study in REFERENCES},
        meteor=False,
        bootstrap=200,
        constant=CONSTANT,
    )


def test_everything_is_there(evaluation):
    assert set(ALL_METRICS) <= set(evaluation.metrics)
    assert set(evaluation.metrics) - {"METEOR"} == set(evaluation.intervals)
    for name, (low, high) in evaluation.intervals.items():
        if math.isnan(evaluation.metrics[name]):
            assert math.isnan(low) and math.isnan(high) and evaluation.reasons[name], name
            continue
        assert low <= evaluation.metrics[name] <= high, name
    assert math.isnan(evaluation.metrics["METEOR"])
    assert "skipped" in evaluation.reasons["METEOR"]
    assert list(evaluation.per_study.index) == sorted(REFERENCES)
    assert {*METRICS, "finding-F1", "words", "normal", "seen"} == set(evaluation.per_study)
    assert evaluation.extra["omission"] == evaluation.findings.omission
    assert evaluation.metrics["finding-recall (coded)"] == evaluation.coded.micro["recall"]
    assert "uncertain-negative" in evaluation.signature


def test_values_are_those_of_the_parts(evaluation):
    scores = score_nlg(reports(1), REFERENCES, meteor=False)
    for name in METRICS:
        if name != "METEOR":
            assert evaluation.metrics[name] == pytest.approx(scores.corpus[name], rel=1e-12)
    assert evaluation.metrics["finding-F1"] == pytest.approx(evaluation.findings.micro["f1"])
    assert evaluation.metrics["finding-F1 macro"] == pytest.approx(evaluation.findings.macro_f1)


def test_subsets_are_scored_on_their_own_studies(evaluation):
    chosen = [study for i, study in enumerate(REFERENCES) if i % 3 == 0]
    alone = score_nlg(
        {s: reports(1)[s] for s in chosen}, {s: REFERENCES[s] for s in chosen}, meteor=False
    ).corpus
    subset = evaluation.subsets["normal"]
    assert subset["studies"] == len(chosen)
    assert subset["metrics"]["BLEU-4"] == pytest.approx(alone["BLEU-4"], rel=1e-9)
    assert subset["metrics"]["ROUGE-L"] == pytest.approx(alone["ROUGE-L"], rel=1e-9)
    assert subset["metrics"]["CIDEr"] != pytest.approx(alone["CIDEr"], rel=1e-3)  # idf: full set
    low, high = subset["intervals"]["BLEU-4"]
    assert low <= subset["metrics"]["BLEU-4"] <= high
    assert evaluation.subsets["seen"]["studies"] + evaluation.subsets["unseen"]["studies"] == len(
        REFERENCES
    )


def test_json_ready(evaluation):
    text = json.dumps(evaluation.to_dict(per_study=True), allow_nan=False)
    content = json.loads(text)
    assert content["metrics"]["METEOR"] is None
    assert content["versus_constant"]["finding-F1"]["verdict"] == ABOVE
    assert content["per_study"]["s0"]["normal"] is True
    assert content["findings"]["classes"]["effusion"]["support"] > 0
    assert "per_study" not in evaluation.to_dict()


def test_comparison_is_paired_and_antisymmetric(evaluation):
    perfect = evaluate_reports(REFERENCES, REFERENCES, meteor=False, bootstrap=200)
    up, down = perfect.compare(evaluation, seed=0), evaluation.compare(perfect)
    for name, difference in up.items():
        assert difference.value == pytest.approx(-down[name].value, nan_ok=True)
        assert difference.low == pytest.approx(-down[name].high, nan_ok=True)
    assert up["BLEU-4"].verdict == ABOVE and down["BLEU-4"].verdict == BELOW
    same = evaluation.compare(evaluation)["BLEU-4"]
    assert (same.low, same.high, same.verdict) == (0, 0, SAME)


def test_order_of_studies_does_not_break_the_pairing(evaluation):
    backward = evaluate_reports(
        dict(reversed(reports(1).items())),
        dict(reversed(REFERENCES.items())),
        meteor=False,
        bootstrap=200,
    )
    difference = evaluation.compare(backward)["BLEU-4"]
    assert difference.low == pytest.approx(0, abs=1e-12)
    assert difference.high == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_compared(evaluation):
    fewer = evaluate_reports({"s0": "x"}, {"s0": "x"}, meteor=False, bootstrap=0)
    with pytest.raises(KitError, match="79 studies are in one evaluation only"):
        evaluation.compare(fewer)
    other = evaluate_reports(REFERENCES, reports(7), meteor=False, bootstrap=0)
    with pytest.raises(KitError, match="reference texts differ"):
        evaluation.compare(other)


def test_mean_of_scores_averages_values_and_every_resample():
    evaluation, other = (
        evaluate_reports(reports(draw), REFERENCES, meteor=False, bootstrap=200) for draw in (1, 3)
    )
    mean = mean_scores([evaluation, other])
    for name, value in mean.metrics.items():
        expected = (evaluation.metrics[name] + other.metrics[name]) / 2
        assert value == pytest.approx(expected, nan_ok=True)
    weights = resample_weights(len(mean.studies), resamples=200, seed=0)
    sides = [bootstrap(list(one._additives), weights) for one in (evaluation, other)]
    low, high = percentile_interval((sides[0]["BLEU-4"] + sides[1]["BLEU-4"]) / 2)
    assert mean.intervals["BLEU-4"] == pytest.approx((low, high))
    apart = [evaluation.compare(one)["CIDEr"].value for one in (evaluation, other)]
    assert evaluation.compare(mean)["CIDEr"].value == pytest.approx(np.mean(apart))
    alone = mean_scores([evaluation])
    assert alone.metrics == pytest.approx(evaluation.metrics, nan_ok=True)
    assert alone.compare(evaluation)["BLEU-4"].high == pytest.approx(0, abs=1e-12)


def test_means_of_what_does_not_belong_together_are_refused(evaluation):
    with pytest.raises(KitError, match="at least one"):
        mean_scores([])
    plain = evaluate_reports(reports(1), REFERENCES, meteor=False, bootstrap=200)
    with pytest.raises(KitError, match="the metrics differ"):
        mean_scores([evaluation, plain])  # one of them has scores against codes
    fewer = evaluate_reports({"s0": "x"}, {"s0": "x"}, meteor=False, bootstrap=0)
    with pytest.raises(KitError, match="one evaluation only"):
        mean_scores([evaluation, fewer])


def test_normality_comes_from_the_reference_where_no_code_is_given():
    texts = {"a": "the heart is enlarged .", "b": "the lungs are clear .", "c": "clear lungs ."}
    found = evaluate_reports(
        texts, texts, meteor=False, bootstrap=0, normal={"c": False, "b": None}
    )
    assert list(found.per_study["normal"]) == [False, True, False]


def test_metrics_of_other_projects_have_a_value_or_a_reason():
    texts = {"a": "small left effusion .", "b": "the lungs are clear ."}
    found = evaluate_reports(texts, texts, meteor=False, bootstrap=10, external=True)
    for name in EXTERNAL_COLUMNS:
        assert math.isnan(found.metrics[name]) == (name in found.reasons), name
    plain = evaluate_reports(texts, texts, meteor=False, bootstrap=10)
    assert not set(EXTERNAL_COLUMNS) & set(plain.metrics)
    assert plain.metrics["attribute-F1"] == plain.metrics["attribute-F1 location"] == 1


def test_constant_against_itself_is_not_distinguishable():
    constant = dict.fromkeys(REFERENCES, CONSTANT)
    found = evaluate_reports(
        constant, REFERENCES, meteor=False, bootstrap=50, constant=constant, train_texts=[CONSTANT]
    )
    assert found.versus_constant["BLEU-4"].verdict == SAME
    assert found.metrics["finding-F1"] == 0
    assert found.diversity["verbatim_in_train_percent"] == 100


def test_no_bootstrap_one_subset_no_positive_finding():
    found = evaluate_reports({"a": "clear ."}, {"a": "clear ."}, meteor=False, bootstrap=0)
    assert found.intervals == {} and found.coded is None
    assert set(found.subsets) == {"normal"} and found.subsets["normal"]["intervals"] == {}
    assert math.isnan(found.metrics["finding-F1"]) and "finding-F1" in found.reasons
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_ids_must_agree():
    with pytest.raises(KitError, match="no hypothesis \\(s0, s1, s2, \\.\\.\\.\\)"):
        evaluate_reports({}, REFERENCES)


def test_labels_may_come_from_texts_with_full_stops():
    scored = {"a": "no effusion scoliosis of the spine"}
    stops = {"a": "no effusion . scoliosis of the spine ."}
    plain = evaluate_reports(scored, scored, meteor=False, bootstrap=0)
    better = evaluate_reports(
        scored, scored, meteor=False, bootstrap=0, label_texts=(stops, stops), constant="no mass ."
    )
    assert math.isnan(plain.metrics["finding-F1"])  # the negation swallows the scoliosis
    assert better.metrics["finding-F1"] == 1
    assert better.versus_constant["finding-F1"].value == 1
    with pytest.raises(KitError, match="no hypothesis"):
        evaluate_reports(scored, scored, meteor=False, bootstrap=0, label_texts=({}, stops))
    with pytest.raises(KitError, match="no reference"):
        evaluate_reports(scored, scored, meteor=False, bootstrap=0, label_texts=(stops, {"b": "x"}))
