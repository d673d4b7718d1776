"""CIDEr-D and sentence BLEU on ids against the authority and against plain restatements."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from r2genkit.errors import KitError
from r2genkit.metrics.cider_d import CiderD, counts_at, pack, sentence_bleu

TEXT = st.lists(st.integers(1, 6), max_size=14)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=7)


def words(ids):
    return " ".join(map(str, ids))


def coco(hypotheses, references, documents=(), sigma=6.0):
    """pycocoevalcap's values; ``documents`` are further references that only count as such."""
    wanted = {i: [words(ids)] for i, ids in enumerate([*references, *documents])}
    found = {i: [words(ids)] for i, ids in enumerate([*hypotheses, *documents])}
    scores = Cider(sigma=sigma).compute_score(wanted, found)[1]
    return np.asarray(scores)[: len(hypotheses)]


def grams(ids, order):
    return Counter(zip(*(ids[start:] for start in range(order))))


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_equals_pycocoevalcap_where_the_scored_references_are_the_documents(pairs):
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    if not any(references):
        return  # pycocoevalcap fails without a single n-gram
    got = CiderD(references).score(hypotheses, references)
    np.testing.assert_allclose(got, coco(hypotheses, references), atol=1e-9)


def report_like(rng, count, kinds=40):
    return [rng.zipf(1.4, rng.integers(5, 70)).clip(1, kinds).tolist() for _ in range(count)]


def test_equals_pycocoevalcap_with_documents_that_are_not_scored():
    """A minibatch against the frequencies of a whole training set, long texts, unseen words."""
    rng = np.random.default_rng(0)
    documents, references = report_like(rng, 120), report_like(rng, 20)
    hypotheses = [[*ids[::-1], 99, 98] for ids in report_like(rng, 20)]
    hypotheses[:5] = references[:5]
    want = coco(hypotheses, references, documents)
    scorer = CiderD([*documents, *references])
    np.testing.assert_allclose(scorer.score(hypotheses, references), want, atol=1e-9)
    # Prepared once, in another order, as an array and as a tensor.
    prepared = scorer.prepare(references)
    order = rng.permutation(20)
    padded = np.zeros((20, 80), dtype=np.int64)
    for row, ids in enumerate(hypotheses):
        padded[row, : len(ids)] = ids
    got = scorer.score(padded[order], prepared[order])
    np.testing.assert_allclose(got, want[order], atol=1e-9)
    again = scorer.score(torch.from_numpy(padded), prepared)
    np.testing.assert_allclose(again, want, atol=1e-9)
    assert want[:5] == pytest.approx(10.0)


def test_portions_do_not_change_the_scores(monkeypatch):
    rng = np.random.default_rng(1)
    hypotheses, references = report_like(rng, 30), report_like(rng, 30)
    whole = CiderD(references).score(hypotheses, references)
    bleu = sentence_bleu(hypotheses, references)
    monkeypatch.setattr("r2genkit.metrics.cider_d._PORTION", 10_000)
    again = CiderD(references).score(hypotheses, references)
    np.testing.assert_allclose(again, whole, rtol=1e-12)
    np.testing.assert_array_equal(sentence_bleu(hypotheses, references), bleu)


def test_sigma():
    documents = [[1, 2, 3, 4], [1, 5, 6, 7], [8, 2, 6, 4]]
    found, wanted = [[1, 2, 3, 4, 1, 2, 3]], [[1, 2, 3, 4]]
    none = CiderD(documents, sigma=None).score(found, wanted)
    for sigma in (2.0, 6.0):
        got = CiderD(documents, sigma=sigma).score(found, wanted)
        assert got == pytest.approx(none * math.exp(-9 / (2 * sigma**2)))
    np.testing.assert_allclose(
        CiderD(documents, sigma=2.0).score(documents[::-1], documents),
        coco(documents[::-1], documents, sigma=2.0),
        atol=1e-9,
    )


def test_the_end_mark_as_a_word():
    """As pycocoevalcap sees it when it is written out, e.g. as the word 9."""
    rng = np.random.default_rng(2)
    documents, found = report_like(rng, 40, kinds=8), report_like(rng, 40, kinds=8)
    ended = [[*ids, 0, 5, 0] for ids in found]  # nothing behind the first 0 counts
    cut = [ended[i] if i % 2 else found[i] for i in range(40)]
    written = [[*ids, 9] if i % 2 else ids for i, ids in enumerate(found)]
    want = coco(written, [[*ids, 9] for ids in documents])
    marked = [[*ids, 0] for ids in documents]
    np.testing.assert_allclose(CiderD(marked, end=True).score(cut, marked), want, atol=1e-9)
    plain = CiderD(marked).score(cut, marked)
    np.testing.assert_allclose(plain, coco(found, documents), atol=1e-9)
    assert not np.allclose(plain, want, atol=1e-3)


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_counts_at_every_place(pairs):
    texts, others = (pack([pair[side] for pair in pairs]) for side in (0, 1))
    for order, found in enumerate(counts_at(texts, others), start=1):
        for row, (mine, theirs) in enumerate(pairs):
            there = grams(theirs, order)
            places = len(mine) - order + 1
            want = [there[tuple(mine[i : i + order])] if i < places else 0 for i in range(14)]
            assert found[row].tolist() == want[: found.shape[1]]


def test_long_texts_do_not_overflow_a_byte():
    long = [[1, 2] * 200]
    (counts, *_) = counts_at(pack(long), pack(long))
    assert counts[0].tolist() == [200] * 400
    documents = [*long, [3, 1, 2, 4]]
    want = coco([*long, [1, 2, 3]], documents)
    got = CiderD(documents).score([*long, [1, 2, 3]], documents)
    np.testing.assert_allclose(got, want, atol=1e-9)


def restated_bleu(found, wanted):
    """Lin and Och's add-one BLEU-4 in exact fractions."""
    product = Fraction(1)
    for order in range(1, 5):
        own = grams(found, order)
        hits = (own & grams(wanted, order)).total()
        smooth = int(order > 1)
        product *= Fraction(hits + smooth, max(own.total(), 1) + smooth)
    if not found or not product:
        return 0.0
    return float(product) ** 0.25 * min(1.0, math.exp(1 - len(wanted) / len(found)))


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_sentence_bleu_is_the_stated_formula(pairs):
    got = sentence_bleu([h for h, _ in pairs], [r for _, r in pairs])
    np.testing.assert_allclose(got, [restated_bleu(*pair) for pair in pairs], atol=1e-12)


def test_sentence_bleu_by_hand():
    found, wanted = [[1, 2, 3, 9, 5]], [[1, 2, 3, 4, 8, 5]]
    # 4 of 5 words; 2 of 4 pairs, 1 of 3 triples, 0 of 2 quadruples, one added to each of these.
    want = (4 / 5 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25 * math.exp(1 - 6 / 5)
    assert sentence_bleu(found, wanted) == pytest.approx(want)
    assert sentence_bleu(wanted, wanted) == pytest.approx(1.0)
    assert sentence_bleu([[7, 8], []], [[1, 2], [1]]).tolist() == [0.0, 0.0]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(KitError, match="give at least one"):
        CiderD([])
    with pytest.raises(KitError, match="sigma is 0"):
        CiderD([[1]], sigma=0)
    with pytest.raises(KitError, match="2 hypotheses and 1 references"):
        CiderD([[1]]).score([[1], [2]], [[1]])
    with pytest.raises(KitError, match="1 hypotheses and 2 references"):
        sentence_bleu([[1]], [[1], [2]])
    for ids in ([[1, -1]], np.array([[1, -1]])):
        with pytest.raises(KitError, match="negative token id"):
            pack(ids)
    with pytest.raises(KitError, match="55,107 fit"):
        CiderD([list(range(1, 55_200))])


def test_empty_texts_earn_nothing():
    scorer = CiderD([[1, 2], [3, 4]])
    assert scorer.score([[], [3]], [[1, 2], []]).tolist() == [0.0, 0.0]
    assert scorer.score([], []).shape == sentence_bleu([], []).shape == (0,)
