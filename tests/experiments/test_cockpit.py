"""The cockpit of two tiny runs: draws, rewards and gradients are those of training."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from r2genkit.decoding import DecodingConfig
from r2genkit.errors import KitError
from r2genkit.experiments import run
from r2genkit.experiments.cockpit import (
    MOST,
    Sampler,
    _Tempered,
    cockpit_data,
    sample_diversity,
    score_gradients,
    timeline_of,
)
from r2genkit.experiments.runner import read_run
from r2genkit.metrics.nlg import score_nlg
from r2genkit.paths import runs_dir
from r2genkit.training import scst
from r2genkit.training.rewards import Rewards
from r2genkit.training.scst import SelfCriticalConfig, leave_one_out, policy_loss, sampled_mask
from r2genkit.viz.widgets.cockpit import PARTS, baseline_of, cockpit_figure, cockpit_html, mixed

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("folders")

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=20",
    "data.limit_validation=8",
    "data.limit_test=4",
    "encoder.image_size=64",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=1",
    "training.log_every=1",
    "sampling.batch_size=8",
    "scoring.bootstrap=10",
    "scoring.meteor=false",
    "scoring.swap=1",
    "decoding.max_length=16",
)
_KEPT: dict = {}


@pytest.fixture
def sampler(folders):
    if "sampler" not in _KEPT:
        after = run("10_scst_cider", profile="smoke", overrides=TINY, progress=False)
        (base,) = (runs_dir() / "smoke" / "phantom").glob("07_cmn-seed0-*/row.json")
        _KEPT["sampler"] = Sampler({"before": read_run(base.parent), "after": after})
        _KEPT["data"] = cockpit_data(
            _KEPT["sampler"], names={"after": "CIDEr-D"}, count=3, samples=4
        )
    return _KEPT["sampler"]


@pytest.fixture
def data(sampler):
    return _KEPT["data"]


@pytest.fixture
def one(sampler):
    """A study and its minibatch."""
    study = sampler.text.split.validation[0]
    sampler.read([study])
    return study, sampler._batches[study, "after"]


def drawn_with(sampler, one, count=4, seed=3):
    model = sampler.systems["after"].model
    config = SelfCriticalConfig(samples=count, max_length=sampler.config.max_length)
    never = (sampler.text.vocabulary.unk,)
    return model, never, config, one[1], scst.draw(model, one[1], config, never, seed=seed)


def test_draws_are_those_of_training(sampler, one):
    model, never, config, batch, drawn = drawn_with(sampler, one)
    got = sampler.draw(one[0], "after", samples=4, seed=3)
    best = scst.draw(model, batch, config, never, seed=None)
    decode = sampler.text.vocabulary.decode
    texts = [
        decode(row[:length].tolist()) for row, length in zip(drawn.tokens[0], drawn.lengths[0])
    ]
    assert [" ".join(report.words) for report in got.samples] == texts
    for report, logs in zip(got.samples, drawn.token_log_probs[0]):
        kept = len(report.log_probs)
        assert kept - len(report.words) == (kept <= len(logs) and len(report.words) < len(logs))
        assert report.log_probs == pytest.approx(logs[:kept].tolist(), abs=1e-4)
        assert not logs[kept:].any()
    assert " ".join(got.greedy.words) == decode(best.tokens[0, 0, : best.lengths[0, 0]].tolist())
    kept = len(got.greedy.log_probs)
    assert got.greedy.log_probs == pytest.approx(
        best.token_log_probs[0, 0, :kept].tolist(), abs=1e-4
    )


def test_gradients_are_those_of_the_words_drawn(sampler, one):
    """The same by the graph of the drawing itself, and as training weighs them."""
    model, never, config, batch, _ = drawn_with(sampler, one)
    weights = list(model.parameters())
    with torch.enable_grad():
        drawn = scst.draw(model, batch, config, never, seed=3)  # keeps the graph
    log_probs, gradients = score_gradients(model, batch, drawn, never)
    torch.testing.assert_close(log_probs, drawn.token_log_probs[0].detach(), atol=1e-4, rtol=1e-4)

    def flat(value):
        found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        pairs = zip(weights, found)
        return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in pairs])

    for row in range(4):
        own = flat(drawn.token_log_probs[0, row].sum())
        torch.testing.assert_close(gradients[row], own, atol=2e-3, rtol=2e-3)
    reward = torch.tensor([[0.3, 1.2, 0.0, 0.7]])
    advantage, mask = reward - leave_one_out(reward), sampled_mask(drawn)
    loss = policy_loss(drawn.token_log_probs, advantage, mask)
    by_hand = -(advantage[0] @ gradients) / mask.sum()
    torch.testing.assert_close(by_hand, flat(loss), atol=2e-3, rtol=2e-3)


def test_rewards_of_training_studies_are_those_of_training(sampler, one):
    text = sampler.text
    weights = dict.fromkeys(PARTS, 1.0)
    references = {study: text.references[study] for study in text.split.train}
    kit = Rewards(weights, references, text.vocabulary, sigma=sampler.config.sigma)
    tokens = drawn_with(sampler, one)[-1].tokens[0]
    tokens = torch.cat([tokens, tokens.new_zeros(2, tokens.shape[1])])
    train = text.split.train[2]
    own = text.vocabulary.encode(references[train], tokens.shape[1] + 1)[1:]
    tokens[-1, : len(own)] = torch.tensor(own)  # its own report, as far as it fits
    wanted = kit(tokens, [train] * len(tokens))
    got = sampler.rewards(tokens.numpy(), train)
    for name in (*PARTS, "finding_counts"):
        assert got[name] == pytest.approx(wanted[name])
    assert got["bleu4"][-1] == got["bleu4"].max() and got["cider_d"][-1] > 0


def test_the_data_hold_every_study_and_model(sampler, data):
    assert len(data.studies) == 3 and [system.key for system in data.systems] == ["before", "after"]
    assert data.systems[1].name == "CIDEr-D" and data.systems[0].name == "before"
    assert (data.systems[0].weights, data.systems[1].weights) == ({}, {"cider_d": 1.0})
    assert data.group == sampler.results["after"].recipe.objective.settings["samples"]
    assert {study.id for study in data.studies} <= set(sampler.text.split.validation)
    for place, study in itertools.product(range(2), range(3)):
        got = data.draw(study, place)
        again = sampler.draw(data.studies[study].id, data.systems[place].key, samples=4, seed=0)
        assert got.samples == again.samples and np.allclose(got.gram, again.gram)
        assert np.linalg.eigvalsh(got.gram).min() > -1e-3 * np.trace(got.gram)
        reward = mixed(got.parts(), {"cider_d": 1.0, "finding_f1": 0.5})
        kit = leave_one_out(torch.from_numpy(reward)[None])[0]
        assert baseline_of(reward, "leave_one_out", 0.0) == pytest.approx(kit.numpy())
    assert data.studies[0].id in cockpit_html(data)
    assert len(cockpit_figure(data, 1, samples=2).axes) == 2 * 2 + 3


def test_the_timeline_is_what_was_logged(sampler):
    result = sampler.results["after"]
    lines = (result.folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    got = timeline_of(result)
    assert got["step"] == [row["step"] for row in rows] and len(rows) > 1
    assert got["reward"] == [row["reward"] for row in rows]
    assert got["distinct"] == pytest.approx([row["distinct %"] / 100 for row in rows])
    assert timeline_of(sampler.results["before"]) == {}
    assert timeline_of(dataclasses.replace(result, folder=result.folder / "checkpoints")) == {}


def test_a_temperature_flattens_what_is_drawn_and_not_what_is_told(sampler, one):
    model, batch = sampler.systems["after"].model, one[1]
    with torch.no_grad():
        state = model.encode(batch)
        tokens = torch.zeros(1, dtype=torch.long)
        plain, _ = model.step(tokens, state)
        for temperature in (0.5, 2.0):
            tempered = _Tempered(model, temperature)
            flat, _ = tempered.step(tokens, tempered.encode(batch))
            p = plain.exp() ** (1 / temperature)
            torch.testing.assert_close(flat.exp(), p / p.sum(), atol=1e-5, rtol=1e-3)
    cold = sampler.draw(one[0], "after", samples=6, temperature=0.05, seed=1)
    warm = sampler.draw(one[0], "after", samples=6, temperature=2.0, seed=1)
    # Nearly always the most probable word; beyond that, its own log-probabilities are told.
    same = sum(report.words == cold.greedy.words for report in cold.samples)
    assert same >= 4
    for report in cold.samples:
        if report.words == cold.greedy.words:
            assert report.log_probs == pytest.approx(cold.greedy.log_probs, abs=1e-4)
    mean = [np.mean([np.mean(one.log_probs) for one in got.samples]) for got in (cold, warm)]
    assert mean[1] < mean[0] and warm.temperature == 2.0


def test_diversity_by_hand():
    got = sample_diversity(["a b c d .", "a b c d .", "e f g h ."])
    assert got["distinct reports"] == pytest.approx(2 / 3)
    assert got["distinct 1-grams"] == pytest.approx(9 / 15)
    assert got["distinct 2-grams"] == pytest.approx(8 / 12)
    assert got["distinct 4-grams"] == pytest.approx(4 / 6)
    texts = ["a b c d .", "a b c d e", "a b x d ."]
    pairs = list(itertools.permutations(range(3), 2))
    kit = score_nlg(
        {str(pair): texts[pair[0]] for pair in pairs},
        {str(pair): texts[pair[1]] for pair in pairs},
        meteor=False,
    )
    assert sample_diversity(texts)["self-overlap"] == pytest.approx(kit.corpus["BLEU-4"])
    alike = sample_diversity(["a b c d e"] * 3)
    assert alike["self-overlap"] == pytest.approx(1) and alike["distinct reports"] == 1 / 3
    assert sample_diversity(["", ""])["distinct 1-grams"] == 0.0


def test_the_callback_draws_again(sampler, one):
    question = {"study": one[0], "system": "after", "samples": 3, "temperature": 1, "seed": 9}
    got = sampler.answer(question)["draw"]
    want = sampler.draw(one[0], "after", samples=3, seed=9)
    assert [tuple(report["words"]) for report in got["samples"]] == [r.words for r in want.samples]
    assert (got["seed"], got["temperature"]) == (9, 1.0)
    assert json.loads(json.dumps(got)) == got


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "nobody"}, "study nobody is not in the validation part"),
        ({"system": "other"}, "there is no run 'other' here: choose before, after"),
        ({"samples": 1}, "1 samples have no baseline"),
        ({"samples": MOST + 1}, f"ask for at most {MOST} samples"),
        ({"seed": -1}, "a seed of 0 or above"),
        ({"temperature": 0}, "a temperature of 0.0 draws nothing"),
        ({"temperature": "nan"}, "a temperature of nan draws nothing"),
        ({"temperature": "warm"}, "or one is no number"),
        ({"seed": None}, "or one is no number"),
    ],
)
def test_the_callback_refuses_what_is_not_there(sampler, one, change, message):
    question = {"study": one[0], "system": "after", "samples": 3, "temperature": 1, "seed": 9}
    with pytest.raises(KitError, match=message):
        sampler.answer({**question, **change})


def test_runs_that_cannot_be_compared(sampler, monkeypatch):
    with pytest.raises(KitError, match="no run to draw with"):
        Sampler({})
    before, after = sampler.results.values()
    text = after.text()
    split = dataclasses.replace(text.split, fingerprint="other")
    monkeypatch.setattr(type(after), "text", lambda self: (
        dataclasses.replace(text, split=split) if self is after else text))  # fmt: skip
    with pytest.raises(KitError, match="have different splits"):
        Sampler({"before": before, "after": after})


def test_the_draw_has_no_rule_that_training_has_not(sampler):
    """No blocked n-gram and no bias of the end mark, unlike the recipe's own decoding."""
    decoding = sampler.results["after"].recipe.decoding
    plain = DecodingConfig()
    assert (decoding.no_repeat_ngram, decoding.end_bias) != (plain.no_repeat_ngram, plain.end_bias)
    repeated = 0
    for study, key in itertools.product(sampler.text.split.validation[:4], sampler.results):
        for report in sampler.draw(study, key, samples=6, temperature=0.7).samples:
            grams = list(zip(report.words, report.words[1:], report.words[2:]))
            repeated += len(grams) > len(set(grams))
    assert repeated  # a tiny model repeats itself, and nobody hinders it
