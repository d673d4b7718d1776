"""The verdict on a run: exchanges of images, subsets, counts per finding."""

import math

import numpy as np
import pytest

from r2genkit.experiments.verdict import (
    row_differences,
    row_findings,
    row_scores,
    row_subsets,
    swapped_reports,
)
from r2genkit.metrics import ALL_METRICS, evaluate_reports

REFERENCES = {
    f"s{i}": text
    for i, text in enumerate(
        [
            "the heart is enlarged . there is a left pleural effusion .",
            "the lungs are clear . no pleural effusion .",
            "heart size is normal . the lungs are clear .",
            "there is a right lower lobe opacity . heart size is normal .",
        ]
        * 5
    )
}


def evaluation(hypotheses=REFERENCES, **options):
    return evaluate_reports(hypotheses, REFERENCES, meteor=False, bootstrap=100, **options)


def test_an_exchange_gives_every_study_another_ones_report():
    reports = {f"s{i}": f"report {i}" for i in range(9)}
    swapped = swapped_reports(reports, seed=0, exchange=0)
    assert sorted(swapped.values()) == sorted(reports.values())
    assert all(swapped[key] != reports[key] for key in reports)
    assert swapped == swapped_reports(reports, seed=0, exchange=0)
    assert swapped != swapped_reports(reports, seed=0, exchange=1)
    assert swapped != swapped_reports(reports, seed=1, exchange=0)


def test_scores_without_a_value_say_why():
    scores = row_scores(evaluation())
    assert set(scores) == set(ALL_METRICS)
    assert scores["METEOR"]["value"] is None and scores["METEOR"]["reason"]
    assert scores["BLEU-4"]["value"] == pytest.approx(1) and scores["BLEU-4"]["low"] is not None


def test_subsets_part_the_studies_and_a_metric_that_cannot_be_has_a_reason():
    subsets = row_subsets(evaluation(train_texts=["the lungs are clear . no pleural effusion ."]))
    assert subsets["normal"]["studies"] == subsets["abnormal"]["studies"] == 10
    assert subsets["seen"]["studies"] == 5 and subsets["unseen"]["studies"] == 15
    normal = subsets["normal"]["metrics"]["finding-F1"]
    assert normal["value"] is None and normal["reason"] == "no normal study can show it"
    assert subsets["abnormal"]["metrics"]["finding-F1"]["value"] == 1


def test_counts_per_finding_add_up_to_the_micro_scores():
    wrong = dict.fromkeys(REFERENCES, REFERENCES["s0"])
    scored = evaluation(wrong)
    counts = row_findings(scored)
    assert counts["effusion"] == {"support": 5, "predicted": 20, "hit": 5}
    hits, said, true = (sum(c[k] for c in counts.values()) for k in ("hit", "predicted", "support"))
    assert 2 * hits / (said + true) == pytest.approx(scored.metrics["finding-F1"])


def test_differences_hold_only_what_both_have():
    differences = row_differences(evaluation(), evaluation(dict.fromkeys(REFERENCES, "x")), seed=0)
    assert "METEOR" not in differences and differences["BLEU-1"]["verdict"] == "above"
    assert set(differences) <= set(ALL_METRICS)
    assert not any(math.isnan(d["value"]) for d in differences.values())
    assert np.isclose(differences["BLEU-1"]["value"], 1, atol=1e-6)
