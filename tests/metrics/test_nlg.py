"""N-gram scores against the authority, and what happens at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from r2genkit.errors import KitError
from r2genkit.metrics.nlg import (
    BLEU_NAMES,
    METRICS,
    bleu_counts,
    bleu_from_counts,
    score_nlg,
    signature,
    truncated_references,
)
from r2genkit.text import Vocabulary

WORDS = ["the", "lungs", "are", "clear", ".", "no", "effusion"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_own_bleu_counts_equal_pycocoevalcap(pairs):
    hypotheses = {i: [h] for i, (h, _) in enumerate(pairs)}
    references = {i: [r] for i, (_, r) in enumerate(pairs)}
    expected, each = Bleu(4).compute_score(references, hypotheses, verbose=0)
    counts = np.stack([bleu_counts(h, r) for h, r in pairs])
    np.testing.assert_allclose(bleu_from_counts(counts.sum(axis=0)), expected, rtol=1e-9)
    np.testing.assert_allclose(bleu_from_counts(counts).T, each, rtol=1e-9)


def test_bleu_by_hand():
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, 0 of 2 quadruples; reference longer by one.
    counts = bleu_counts("the lungs are not clear", "the lungs are well and clear")
    assert counts.tolist() == [5, 6, 5, 4, 3, 2, 4, 2, 1, 0]
    values = bleu_from_counts(counts)
    assert values[0] == pytest.approx(4 / 5 * math.exp(1 - 6 / 5), rel=1e-6)
    assert values[1] == pytest.approx(math.sqrt(4 / 5 * 2 / 4) * math.exp(-1 / 5), rel=1e-6)
    assert values[3] < 1e-3


def test_bleu_is_a_corpus_value_and_no_mean():
    hypotheses = {"a": "the lungs are clear", "b": "no"}
    references = {"a": "the lungs are clear", "b": "no effusion in the lungs"}
    scores = score_nlg(hypotheses, references, meteor=False)
    assert scores.per_study.loc["a", "BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert scores.corpus["BLEU-1"] == pytest.approx(math.exp(1 - 9 / 5), rel=1e-6)
    assert scores.corpus["BLEU-1"] != pytest.approx(scores.per_study["BLEU-1"].mean(), rel=0.05)


def test_rouge_and_cider_by_hand():
    scores = score_nlg(
        {"a": "lungs clear now", "b": "no effusion here"},
        {"a": "lungs are clear", "b": "no effusion here"},
        meteor=False,
    )
    assert scores.per_study["ROUGE-L"].tolist() == pytest.approx([2 / 3, 1.0])
    # b: cosine 1 for orders 1..3, no 4-gram: 10 * (1 + 1 + 1 + 0) / 4.
    assert scores.per_study.loc["b", "CIDEr"] == pytest.approx(7.5)
    # a: idf log 2 for every n-gram, of three words two are shared: 10 * (2/3) / 4.
    assert scores.per_study.loc["a", "CIDEr"] == pytest.approx(10 * (2 / 3) / 4)


def test_empty_texts_score_zero_without_complaint():
    scores = score_nlg({"a": "", "b": "lungs clear"}, {"a": "lungs", "b": ""}, meteor=False)
    assert scores.corpus["BLEU-4"] < 1e-6
    assert scores.per_study[list(METRICS)].drop(columns="METEOR").to_numpy().max() < 1e-3
    assert any("1 of 2 hypotheses are empty" in note for note in scores.notes)
    nothing = score_nlg({"a": ""}, {"a": ""}, meteor=False)
    assert nothing.corpus["CIDEr"] == 0


def test_white_space_does_not_count():
    clean = score_nlg({"a": "no mass ."}, {"a": "no mass seen ."}, meteor=False)
    messy = score_nlg({"a": " no\n mass  ."}, {"a": "no mass\tseen ."}, meteor=False)
    assert clean.corpus["ROUGE-L"] == messy.corpus["ROUGE-L"]


def test_skipping_meteor_says_so():
    scores = score_nlg({"a": "x"}, {"a": "x"}, meteor=False)
    assert math.isnan(scores.corpus["METEOR"]) and scores.meteor_statistics is None
    assert scores.per_study["METEOR"].isna().all()
    assert any("skipped" in note for note in scores.notes)
    assert "meteor=none" in scores.signature


def test_ids_must_agree():
    with pytest.raises(KitError, match="2 of 2 studies have no hypothesis \\(a, b\\)"):
        score_nlg({}, {"a": "x", "b": "y"})
    with pytest.raises(KitError, match="no reference \\(c\\)"):
        score_nlg({"a": "x", "c": "z"}, {"a": "x"})
    with pytest.raises(KitError, match="nothing to score"):
        score_nlg({}, {})
    with pytest.raises(KitError, match="hypothesis of study a is no text"):
        score_nlg({"a": None}, {"a": "x"})


def test_order_of_hypotheses_is_that_of_references():
    references = {"a": "one two three four", "b": "five six seven eight"}
    forward = score_nlg(references, references, meteor=False)
    backward = score_nlg(dict(reversed(references.items())), references, meteor=False)
    assert forward.per_study.equals(backward.per_study)
    assert [*forward.corpus] == [*METRICS] and set(BLEU_NAMES) < set(METRICS)


def test_truncated_references_lose_rare_words_and_the_tail():
    vocabulary = Vocabulary.build(["a b .", "a b .", "a b c ."], min_count=2, compat="r2gen")
    cut = truncated_references({"s": "A C b b b b."}, vocabulary, max_length=5)
    assert cut == {"s": "a <unk> b b"}


def test_signature_names_the_choices():
    assert "references=max60+unk" in signature(reference_text="max60+unk")
    assert signature().startswith("pycocoevalcap-1.")
