"""Distinct, copied, novel: by hand and at the edges."""

import math

import pytest

from r2genkit.metrics.diversity import NAMES, diversity, self_bleu


def test_by_hand():
    train = ["heart normal . lungs clear .", "no effusion ."]
    reports = ["heart normal . lungs clear .", "lungs clear .", "a mass . no effusion .", "a mass"]
    found = diversity(reports, train)
    assert found["distinct_percent"] == 100
    assert found["verbatim_in_train_percent"] == 25
    assert found["novel_sentences_percent"] == pytest.approx(100 * 2 / 6)
    assert found["mean_words"] == pytest.approx((4 + 2 + 4 + 2) / 4)


def test_a_constant():
    found = diversity(["lungs clear . no mass ."] * 50, ["lungs clear . no mass ."])
    assert found["distinct_percent"] == 2
    assert found["verbatim_in_train_percent"] == 100
    assert found["novel_sentences_percent"] == 0
    assert found["self_bleu"] == pytest.approx(1, abs=1e-6)


def test_self_bleu_never_pairs_a_report_with_itself():
    assert self_bleu(["a b c d e", "f g h i j"]) < 1e-6
    mixed = self_bleu(["a b c d e"] * 2 + ["f g h i j"] * 2, pairs=3000)
    assert 0.2 < mixed < 0.45  # one partner in three is the same text
    assert self_bleu(["a b c d", "a b c e", "x y z w"], seed=1) == self_bleu(
        ["a b c d", "a b c e", "x y z w"], seed=1
    )


def test_edges():
    assert set(diversity([])) == set(NAMES)
    assert all(math.isnan(value) for value in diversity([]).values())
    alone = diversity(["x"])
    assert math.isnan(alone["self_bleu"]) and math.isnan(alone["verbatim_in_train_percent"])
    empty = diversity(["", ""], ["x"])
    assert empty["mean_words"] == 0 and math.isnan(empty["novel_sentences_percent"])
    assert empty["distinct_percent"] == 50
