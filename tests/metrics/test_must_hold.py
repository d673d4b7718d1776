"""What every score must do, on real reports and through the one door.

Extreme hypotheses: the reference itself, a constant normal report, the inversion. Order of studies
does not matter. Scores of two sets of studies put together follow from those of the sets.
"""

import math

import numpy as np
import pandas as pd
import pytest

from r2genkit.corpora.openi import read_openi, study_number
from r2genkit.metrics import evaluate_reports, finding_f1, score_nlg
from r2genkit.metrics.findings import invert_report
from r2genkit.text import clean_report

NORMAL = "heart size is normal . lungs are clear . no effusion or pneumothorax ."


@pytest.fixture(scope="module")
def references():
    return {
        s.id: clean_report(s.findings_text)
        for s in read_openi()
        if s.findings_text and study_number(s.id) % 10 == 3
    }


@pytest.fixture(scope="module")
def hypotheses(references):
    """The reports of other studies: neither perfect nor worthless."""
    ids = list(references)
    return {study: references[ids[(i + 11) % len(ids)]] for i, study in enumerate(ids)}


def test_a_report_against_itself_has_finding_f1_of_one(references):
    scores = finding_f1(references, references)
    assert scores.micro == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert scores.macro_f1 == 1 and scores.negation_flip == 0
    supported = scores.classes[scores.classes["support"] > 0]
    assert len(supported) > 20 and (supported["f1"] == 1).all()


def test_a_constant_normal_report_finds_nothing(references):
    scores = finding_f1(dict.fromkeys(references, NORMAL), references)
    assert scores.micro["f1"] == scores.macro_f1 == 0
    assert scores.sensitivity == 0 and scores.omission == 1
    assert scores.negation_flip == 0


@pytest.mark.parametrize(
    "report",
    [
        "Heart size is normal. No effusion or pneumothorax.",
        "There is no nodule. Cardiomegaly. Lungs are clear without effusion.",
        "Mild scoliosis. No rib fracture. The mediastinum is within normal limits.",
        "Calcified granuloma in the left base. No evidence of pneumonia or edema.",
    ],
)
def test_an_inverted_report_has_finding_f1_of_zero_and_flips_all(report):
    scores = finding_f1({"x": invert_report(report)}, {"x": report})
    assert scores.micro["f1"] == 0
    assert scores.negation_flip == 1
    assert scores.hallucination == 1
    assert scores.omission == 1 or math.isnan(scores.omission)  # nothing affirmed, nothing omitted


def everything(hypotheses, references, order):
    return evaluate_reports(
        {study: hypotheses[study] for study in order},
        {study: references[study] for study in order},
        train_texts=[references[study] for study in sorted(references)[:40]],
        normal={study: i % 3 == 0 for i, study in enumerate(sorted(references))},
        coded={s: ["effusion"] if "effusion" in t else [] for s, t in references.items()},
        meteor=False,
        bootstrap=20,
        constant=NORMAL,
    )


def test_order_of_studies_changes_no_score(hypotheses, references):
    ids = list(references)
    order = [ids[i] for i in np.random.default_rng(2).permutation(len(ids))]
    first, second = (everything(hypotheses, references, studies) for studies in (ids, order))
    assert first.studies == second.studies == tuple(sorted(ids))
    assert set(first.metrics) == set(second.metrics) and len(first.metrics) >= 15
    for name, value in first.metrics.items():
        assert second.metrics[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert second.extra.keys() == first.extra.keys()
    for name, value in first.extra.items():
        assert second.extra[name] == pytest.approx(value, rel=1e-12), name
    for name, content in first.subsets.items():
        assert second.subsets[name]["studies"] == content["studies"]
    for name, difference in first.versus_constant.items():
        assert second.versus_constant[name].low == pytest.approx(
            difference.low, rel=1e-12, nan_ok=True
        )
        value = second.versus_constant[name].value
        assert value == pytest.approx(difference.value, rel=1e-12, nan_ok=True), name
    pd.testing.assert_frame_equal(second.per_study, first.per_study)
    pd.testing.assert_frame_equal(second.findings.classes, first.findings.classes)
    assert second.diversity == pytest.approx(first.diversity, nan_ok=True)
    assert second.intervals.keys() == first.intervals.keys()
    for name, interval in first.intervals.items():
        assert second.intervals[name] == pytest.approx(interval, rel=1e-12, nan_ok=True), name
    assert first.references == second.references


def test_scores_of_a_concatenation_follow_from_its_parts(hypotheses, references):
    ids = list(references)
    halves = ids[:120], ids[120:]

    def part(texts, studies):
        return {study: texts[study] for study in studies}

    whole = score_nlg(hypotheses, references, meteor=False)
    parts = [
        score_nlg(part(hypotheses, half), part(references, half), meteor=False) for half in halves
    ]
    assert np.array_equal(np.concatenate([p.bleu_counts for p in parts]), whole.bleu_counts)
    joined = pd.concat([p.per_study for p in parts])
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert joined[name].equals(whole.per_study[name]), name
    # Not so for CIDEr: its weights are document frequencies over the set that is scored, so the
    # same pair of texts has another value in another company.
    assert not np.allclose(joined["CIDEr"], whole.per_study["CIDEr"])

    findings = finding_f1(hypotheses, references)
    split = [finding_f1(part(hypotheses, half), part(references, half)) for half in halves]
    assert np.array_equal(np.concatenate([s.counts for s in split]), findings.counts)
    each = np.concatenate([s.per_study_f1 for s in split])
    assert np.array_equal(each, findings.per_study_f1, equal_nan=True)
    columns = ["support", "predicted", "tp", "fp", "fn"]
    added = split[0].classes[columns] + split[1].classes[columns]
    assert added.equals(findings.classes[columns])
