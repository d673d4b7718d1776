"""Rewards of single reports: the kit's own scores, computed from ids."""

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider import Cider

from r2genkit.corpora.openi import read_openi
from r2genkit.errors import KitError
from r2genkit.metrics.cider_d import pack, sentence_bleu
from r2genkit.metrics.findings import finding_f1
from r2genkit.text import Vocabulary, clean_report
from r2genkit.training.rewards import FindingReward, Rewards

REPORTS = {
    "normal": "the heart is normal . the lungs are clear .",
    "effusion": "there is a pleural effusion . the heart is normal .",
    "both": "there is a pleural effusion . there is cardiomegaly .",
}
VOCABULARY = Vocabulary.build(REPORTS.values(), min_count=1)


def ids(texts, width=24):
    tokens = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        found = VOCABULARY.encode(text, 10**6)[1:-1][:width]
        tokens[row, : len(found)] = torch.tensor(found)
    return tokens


def test_finding_f1_is_the_labelers_on_real_reports():
    texts = [clean_report(s.findings_text) for s in read_openi()[:400] if s.findings_text]
    words = Vocabulary.build(texts, min_count=1)
    half = len(texts) // 2
    found, wanted = texts[:half], texts[half : 2 * half]
    wanted[:20] = found[:20]
    reward = FindingReward(words)
    sides = [
        reward.positives(pack([words.encode(text, 10**6)[1:] for text in side]))
        for side in (found, wanted)
    ]
    got = reward.f1(reward.counts(*sides))
    scores = finding_f1(dict(enumerate(found)), dict(enumerate(wanted)))
    np.testing.assert_allclose(got, np.nan_to_num(scores.per_study_f1, nan=1.0))
    assert np.isnan(scores.per_study_f1).any() and (got == 1).any() and (got == 0).any()
    np.testing.assert_array_equal(reward.counts(*sides), scores.counts.sum(axis=1)[:, :3])


def test_a_sentence_is_labelled_once(monkeypatch):
    reward, asked = FindingReward(VOCABULARY), []
    real = reward.labeler.label_matrix
    monkeypatch.setattr(
        reward.labeler, "label_matrix", lambda texts: asked.extend(texts) or real(texts)
    )
    texts = pack(ids(REPORTS.values()))
    first, second = reward.positives(texts), reward.positives(texts)
    np.testing.assert_array_equal(first, second)
    assert len(asked) == len(set(asked)) == 4
    assert first.any(axis=1).tolist() == [False, True, True]


def test_the_reward_is_the_weighted_sum_of_its_parts():
    rewards = Rewards(
        {"cider_d": 1.0, "bleu4": 0.5, "finding_f1": 2.0}, REPORTS, VOCABULARY, end=False
    )
    texts = [REPORTS["effusion"], REPORTS["normal"], REPORTS["normal"], "the heart"]
    studies = ["effusion", "effusion", "normal", "both"]
    found = rewards(ids(texts), studies)
    documents = {name: [text] for name, text in REPORTS.items()}
    order = dict.fromkeys(studies)
    first = {"effusion": 0, "normal": 2, "both": 3}
    cider = Cider().compute_score(documents, {name: [texts[first[name]]] for name in documents})[1]
    by_name = dict(zip(documents, cider))
    assert [found["cider_d"][first[name]] for name in order] == pytest.approx(
        [by_name[name] for name in order]
    )
    want = sentence_bleu(ids(texts), ids([REPORTS[name] for name in studies]))
    np.testing.assert_allclose(found["bleu4"], want)
    assert found["finding_f1"].tolist() == [1.0, 0.0, 1.0, 0.0]
    total = found["cider_d"] + 0.5 * found["bleu4"] + 2.0 * found["finding_f1"]
    np.testing.assert_allclose(found["reward"], total)
    assert found["finding_counts"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 2]]


def test_only_what_has_a_weight_is_computed():
    found = Rewards({"bleu4": 1.0, "cider_d": 0.0}, REPORTS, VOCABULARY)(ids(["heart"]), ["both"])
    assert set(found) == {"reward", "bleu4", "finding_counts"}


def test_writing_on_to_the_largest_length_costs_the_end():
    """References always end; a report that fills all places does not."""
    (text,) = ids([REPORTS["normal"]], width=10).unbind()
    assert (text != 0).all()  # ten words, ten places
    ended = torch.nn.functional.pad(text, (0, 1))
    rewards = Rewards({"cider_d": 1.0}, REPORTS, VOCABULARY)
    cut, whole = (rewards(t[None], ["normal"])["reward"][0] for t in (text, ended))
    assert whole == pytest.approx(10.0) and 5 < cut < 9.9
    silent = Rewards({"cider_d": 1.0}, REPORTS, VOCABULARY, end=False)
    assert silent(text[None], ["normal"])["reward"][0] == pytest.approx(10.0)


def test_references_are_taken_word_by_word():
    """A cut reference holds no full stop at its end and may hold <unk>: neither is cleaned away."""
    cut = {"a": "the heart is <unk>", "b": "the lungs"}
    rewards = Rewards({"cider_d": 1.0}, cut, VOCABULARY, end=False)
    got = rewards._texts.ids[0, :4].tolist()
    assert got == [*map(VOCABULARY.id, ("the", "heart", "is")), VOCABULARY.unk]
    assert rewards._texts.lengths.tolist() == [4, 2]


def test_wrong_rewards_are_refused():
    with pytest.raises(KitError, match="no reward 'bleu'; choose among cider_d, bleu4"):
        Rewards({"bleu": 1.0}, REPORTS, VOCABULARY)
    with pytest.raises(KitError, match="no reward has a weight"):
        Rewards({"bleu4": 0.0}, REPORTS, VOCABULARY)
    with pytest.raises(KitError, match="none given"):
        Rewards({"bleu4": 1.0}, {}, VOCABULARY)
    with pytest.raises(KitError, match="study other has no reference"):
        Rewards({"bleu4": 1.0}, REPORTS, VOCABULARY)(ids(["heart"]), ["other"])
