"""The reports that a model learns from: order of sentences and weights of tokens."""

import itertools

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText, training_reports
from r2genkit.experiments.recipe import DataConfig, SamplingConfig, TextConfig
from r2genkit.metrics.findings import FindingLabeler, label_matrix
from r2genkit.text.sentences import split_sentences
from r2genkit.text.vocabulary import Vocabulary

REPORTS = {
    "a": "The lungs are clear. There is mild cardiomegaly. No effusion. Scoliosis is present.",
    "b": "Heart size is normal. The lungs are clear.",
    "c": "No pneumothorax. Right pleural effusion and cardiomegaly. Stable pacemaker.",
}


def prepared(compat="default", max_length=60):
    vocabulary = Vocabulary.build(REPORTS.values(), min_count=1, compat=compat)
    rules = TextConfig(compat=compat, max_length=max_length, references="full", min_count=1)
    return PreparedText(DataConfig(), rules, {}, None, REPORTS, vocabulary, {})


def sentences_of(text, ids):
    return split_sentences(text.vocabulary.decode(ids[1:]))


def test_findings_come_first_in_the_order_of_their_types():
    text = prepared()
    sampling = SamplingConfig(sentence_order="findings_first", positive_weight=3.0)
    tokens, weights = training_reports(text, list(REPORTS), sampling)
    names = list(FindingLabeler().findings)
    for study_id, ids, own in zip(REPORTS, tokens, weights):
        written = split_sentences(text.cleaned[study_id])
        got = sentences_of(text, ids)
        assert sorted(got) == sorted(written)
        labels = label_matrix(got) == 1
        stated = labels.any(1)
        assert (np.diff(stated.astype(int)) <= 0).all(), "a finding after a sentence without one"
        first = [names.index(names[row.argmax()]) for row in labels[stated]]
        assert first == sorted(first)
        rest = [sentence for sentence, flag in zip(got, stated) if not flag]
        assert rest == [sentence for sentence in written if sentence in rest]
        # Each word and the full stop of a sentence weigh the same, the end mark 1.
        want = [
            w for s, flag in zip(got, stated) for w in [3.0 if flag else 1.0] * (len(s.split()) + 1)
        ]
        assert own.tolist() == [*want, 1.0]
    assert sentences_of(text, tokens[0])[0] == "there is mild cardiomegaly"
    assert sentences_of(text, tokens[1]) == split_sentences(text.cleaned["b"])


def test_written_order_is_left_alone():
    text = prepared()
    plain, none = training_reports(text, list(REPORTS), SamplingConfig())
    assert plain == text.token_ids(list(REPORTS)) and none is None
    same, weights = training_reports(text, list(REPORTS), SamplingConfig(positive_weight=2.0))
    assert same == plain
    assert [set(own.tolist()) for own in weights] == [{1.0, 2.0}, {1.0}, {1.0, 2.0}]


def test_a_cut_keeps_what_comes_first():
    text = prepared(max_length=7)
    sampling = SamplingConfig(sentence_order="findings_first")
    tokens, weights = training_reports(text, ["a"], sampling)
    assert len(tokens[0]) == 7 and len(weights[0]) == 6
    assert text.vocabulary.decode(tokens[0][1:]).startswith("there is mild cardiomegaly")


def test_texts_without_full_stops_have_no_sentences_to_order():
    text = prepared("kit2018")
    with pytest.raises(KitError, match="full stops"):
        training_reports(text, ["a"], SamplingConfig(sentence_order="findings_first"))
    _, weights = training_reports(text, ["b"], SamplingConfig(positive_weight=2.0))
    assert set(weights[0].tolist()) == {1.0}


def test_every_report_of_the_corpus_keeps_its_words():
    from r2genkit.corpora import load_corpus

    texts = [study.findings_text for study in itertools.islice(load_corpus("openi"), 400)]
    reports = {str(i): text for i, text in enumerate(texts) if text}
    vocabulary = Vocabulary.build(reports.values(), min_count=1)
    rules = TextConfig(compat="default", max_length=500, references="full", min_count=1)
    text = PreparedText(DataConfig(), rules, {}, None, reports, vocabulary, {})
    ordered, _ = training_reports(
        text, list(reports), SamplingConfig(sentence_order="findings_first")
    )
    for ids, own in zip(text.token_ids(list(reports)), ordered):
        # A last sentence without a full stop gets one.
        added = len(own) - len(ids)
        assert added in (0, 1)
        assert sorted(own) == sorted([*ids, *[vocabulary.full_stop] * added])
