"""Finding-F1: the properties it must have, values by hand, agreement with the readers' codes."""

import math

import numpy as np
import pytest

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.corpora.openi import read_openi
from r2genkit.errors import KitError
from r2genkit.metrics.findings import (
    POSITIVE,
    agreement_with_codes,
    coded_matrix,
    f1_from_counts,
    finding_f1,
)

REFERENCES = {
    "a": "The heart is enlarged. No effusion.",
    "b": "No pneumothorax. No focal consolidation. Lungs are clear.",
    "c": "Small left effusion and possible pneumonia.",
}


def test_a_report_against_itself():
    scores = finding_f1(REFERENCES, REFERENCES)
    assert scores.micro == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert scores.macro_f1 == scores.mean_study_f1 == 1.0
    assert (scores.negation_flip, scores.hallucination, scores.omission) == (0, 0, 0)
    assert (scores.sensitivity, scores.specificity) == (1, 1)
    assert math.isnan(scores.per_study_f1[1])  # neither side affirms anything


def test_a_constant_normal_report():
    constant = dict.fromkeys(REFERENCES, "Heart size normal. Lungs clear. No effusion.")
    scores = finding_f1(constant, REFERENCES)
    assert scores.micro["f1"] == scores.macro_f1 == scores.mean_study_f1 == 0
    assert scores.omission == 1 and math.isnan(scores.hallucination)
    assert (scores.sensitivity, scores.specificity) == (0, 1)


def test_an_inverted_report():
    reference = {"b": REFERENCES["b"]}
    inverted = {"b": REFERENCES["b"].replace("No ", "")}
    scores = finding_f1(inverted, reference)
    assert scores.micro["f1"] == 0
    assert scores.negation_flip == 1
    assert scores.hallucination == 1
    assert scores.specificity == 0


def test_counts_by_hand():
    hypotheses = {
        "a": "Small effusion. Cardiomegaly.",  # tp cardiomegaly, fp effusion (denied: a flip)
        "b": "No pneumothorax. A nodule.",  # fp nodule
        "c": "No effusion.",  # fn effusion
    }
    scores = finding_f1(hypotheses, REFERENCES)
    assert scores.counts.sum(axis=(0, 1)).tolist() == [1, 2, 1]
    assert scores.micro["precision"] == pytest.approx(1 / 3)
    assert scores.micro["recall"] == pytest.approx(1 / 2)
    assert scores.micro["f1"] == pytest.approx(2 / 5)
    assert scores.classes.loc["cardiomegaly", "f1"] == 1
    assert scores.classes.loc["effusion", ["tp", "fp", "fn"]].tolist() == [0, 1, 1]
    assert scores.macro_f1 == pytest.approx(1 / 2)  # cardiomegaly 1, effusion 0; nodule unsupported
    assert scores.per_study_f1.tolist() == pytest.approx([2 / 3, 0, 0])
    # denied in the references and mentioned in the hypotheses: effusion (a), pneumothorax (b)
    assert scores.negation_flip == pytest.approx(1 / 2)
    assert scores.hallucination == pytest.approx(2 / 3)
    assert scores.omission == pytest.approx(1 / 2)


def test_policy_decides_about_doubt():
    hypotheses = {"c": "Effusion and pneumonia."}
    reference = {"c": REFERENCES["c"]}
    assert finding_f1(hypotheses, reference).counts.sum(axis=(0, 1)).tolist() == [1, 1, 0]
    doubt = finding_f1(hypotheses, reference, policy="positive")
    assert doubt.counts.sum(axis=(0, 1)).tolist() == [2, 0, 0]
    # Affirming what the reference doubts is no hallucination under either policy.
    assert finding_f1(hypotheses, reference).hallucination == 0
    with pytest.raises(KitError, match="policy"):
        finding_f1(hypotheses, reference, policy="maybe")


def test_normality_and_codes_given_from_outside():
    constant = dict.fromkeys(REFERENCES, "Cardiomegaly.")
    scores = finding_f1(constant, REFERENCES, normal={"a": True, "b": None, "c": False})
    assert scores.sensitivity == 1 and scores.specificity == 0
    coded = {"a": {"cardiomegaly"}, "b": {"cardiomegaly", "other"}, "c": set()}
    against = finding_f1(constant, REFERENCES, coded=coded)
    assert against.counts.sum(axis=(0, 1)).tolist() == [2, 1, 0]
    with pytest.raises(KitError, match="Study c has no coded findings"):
        finding_f1(constant, REFERENCES, coded={"a": (), "b": ()})
    matrix = coded_matrix([{"cardiomegaly", "unheard of"}])
    assert np.argwhere(matrix == POSITIVE).tolist() == [[0, FINDING_TYPES.index("cardiomegaly")]]


def test_nothing_to_agree_on():
    scores = finding_f1({"a": "Clear lungs."}, {"a": "Heart normal."})
    assert math.isnan(scores.micro["f1"]) and math.isnan(scores.macro_f1)
    assert f1_from_counts(np.array([[0, 0, 0], [1, 0, 0]])).tolist()[1] == 1
    with pytest.raises(KitError, match="no hypothesis"):
        finding_f1({}, {"a": "x"})


@pytest.fixture(scope="module")
def openi():
    return read_openi()


@pytest.mark.parametrize(
    ("section", "micro", "macro", "normal"),
    [("findings+impression", 0.93, 0.90, 0.97), ("findings", 0.91, 0.88, 0.97)],
)
def test_agreement_with_readers_on_unseen_studies(openi, section, micro, macro, normal):
    studies = openi if section != "findings" else [s for s in openi if s.findings_text]
    found = agreement_with_codes(studies, parity="odd", section=section)
    assert found.micro_f1 >= micro
    assert found.macro_f1 >= macro
    assert found.normal_accuracy >= normal
    assert (found.table["f1"][found.table["coded"] >= 20] >= 0.6).all()


@pytest.mark.parametrize("parity", ["odd", "all"])
def test_agreement_keeps_its_floors(openi, parity):
    """What notebook 02 prints: on the unseen half, and on all 3,955 reports."""
    assert len(openi) == 3955
    found = agreement_with_codes(openi, parity=parity)
    assert found.micro_f1 >= 0.90
    assert found.macro_f1 >= 0.88
    assert found.normal_accuracy >= 0.92


def test_agreement_parts_add_up(openi):
    parts = [agreement_with_codes(openi, parity=parity) for parity in ("odd", "even", "all")]
    assert parts[0].studies + parts[1].studies == parts[2].studies
    columns = ["coded", "tp", "fp", "fn"]
    total = parts[0].table[columns] + parts[1].table[columns]
    assert total.equals(parts[2].table[columns])
    doubt = agreement_with_codes(openi, parity="all", policy="positive")
    assert doubt.table["labelled"].sum() > parts[2].table["labelled"].sum()
    with pytest.raises(KitError, match="No coded study"):
        agreement_with_codes([])


def test_inverting_real_normal_reports(openi):
    references = {
        s.id: s.findings_text for s in openi if s.normal and " no " in f" {s.findings_text.lower()}"
    }
    inverted = {
        study: " ".join(w for w in text.split() if w.lower() != "no")
        for study, text in references.items()
    }
    assert finding_f1(references, references).negation_flip == 0
    scores = finding_f1(inverted, references)
    assert scores.negation_flip > 0.8  # "without" and "free of" keep their negation
    assert scores.hallucination > 0.9
    assert scores.micro["f1"] < 0.2
