"""Self-critical training: what is drawn, what is trained, and what becomes of it."""

import itertools
import json

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import Batch, SentenceLayout, collate
from r2genkit.decoding import Decoded, DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.metrics.diversity import diversity
from r2genkit.models import build_model
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training import TrainingConfig, fit, scst
from r2genkit.training.scst import (
    SelfCritical,
    SelfCriticalConfig,
    draw,
    leave_one_out,
    next_words,
    policy_loss,
    sampled_mask,
    without,
)

torch.set_num_threads(1)

VOCABULARY = Vocabulary(("<unk>", "clear", "effusion", "heart", "lungs", "no", "normal"))
WORDS, UNK, PATCH, TAGS = len(VOCABULARY), VOCABULARY.unk, 6, 5
RECURRENT = {"embedding_size": 7, "hidden_size": 9, "dropout": 0.0}
LAYERS = {"size": 8, "feed_forward_size": 10, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
MODELS = {
    "show_tell": RECURRENT,
    "show_attend_tell": {**RECURRENT, "attention_size": 8},
    "cascade": RECURRENT,
    "r2gen": {**LAYERS, "memory_heads": 4, "slots": 2},
    "cmn": {**LAYERS, "slots": 12, "read_slots": 3},
}
REFERENCES = {
    "s0": "lungs clear heart normal",
    "s1": "no effusion",
    "s2": "effusion",
    "s3": "heart normal lungs clear no effusion",
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name, vocabulary=VOCABULARY, seed=0, **options):
    sizes = {"vocabulary_size": len(vocabulary), "feature_dim": PATCH, "tag_count": TAGS}
    return build_model(name, {**MODELS[name], **options}, seed=seed, **sizes).eval()


def make_batch(references=REFERENCES, vocabulary=VOCABULARY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = len(references)
    return collate(
        list(references),
        torch.ones(count, 2, dtype=torch.bool),
        features=torch.randn(count, 2, 4, PATCH, generator=generator),
        tokens=[vocabulary.encode(text) for text in references.values()],
        tags=torch.rand(count, TAGS, generator=generator),
    )


def objective(seed=0, **settings):
    return SelfCritical(settings, vocabulary=VOCABULARY, references=REFERENCES, seed=seed)


@every_model
@torch.no_grad()
def test_what_is_trained_is_the_probability_that_was_drawn_from(name):
    model, batch = build(name), make_batch()
    config = SelfCriticalConfig(samples=6, max_length=9)
    drawn = draw(model, batch, config, (UNK,), seed=3)
    assert drawn.tokens.shape == (4, 6, 9)
    assert not (drawn.tokens == UNK).any()
    log_probs = next_words(model, batch, drawn.tokens, (UNK,))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(24, 9))
    assert (log_probs[..., UNK] == -torch.inf).all()
    chosen = log_probs.gather(-1, drawn.tokens.flatten(0, 1)[..., None]).squeeze(-1)
    mask = sampled_mask(drawn)
    got = torch.where(mask > 0, chosen.unflatten(0, (4, 6)), 0.0)
    torch.testing.assert_close(got, drawn.token_log_probs, atol=1e-5, rtol=1e-5)
    # Some texts end early, and what stands behind their end is not trained.
    assert (drawn.lengths < 9).any() and (mask.sum(-1) == (drawn.lengths + 1).clamp_max(9)).all()


def test_the_mask_holds_the_end_mark_and_nothing_behind_it():
    tokens = torch.tensor([[[2, 3, 0, 0], [0, 0, 0, 0], [4, 4, 4, 4]]])
    lengths = (tokens != 0).sum(-1)
    zeros = torch.zeros(1, 3)
    drawn = Decoded(tokens, lengths, zeros, zeros, torch.zeros(1, 3, 4))
    assert sampled_mask(drawn)[0].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_renormalised_probabilities():
    log_probs = torch.randn(3, 5).log_softmax(-1)
    kept = without(log_probs, (1, 4))
    assert (kept[:, [1, 4]] == -torch.inf).all()
    share = log_probs.exp()[:, [0, 2, 3]].sum(-1, keepdim=True)
    torch.testing.assert_close(kept.exp()[:, [0, 2, 3]], log_probs.exp()[:, [0, 2, 3]] / share)
    assert torch.equal(without(log_probs, ()), log_probs)


def test_leave_one_out_by_hand():
    reward = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    want = torch.tensor([[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]])
    torch.testing.assert_close(leave_one_out(reward), want)


def test_the_loss_is_a_mean_over_tokens(monkeypatch):
    log_probs = torch.randn(2, 2, 3, requires_grad=True)
    mask = torch.tensor([[[1.0, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]])
    advantage = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    want = -sum(
        advantage[b, n].item() * log_probs[b, n, t].item()
        for b, n, t in itertools.product(range(2), range(2), range(3))
        if mask[b, n, t]
    )
    loss = policy_loss(log_probs, advantage, mask)
    assert loss.item() == pytest.approx(want / 8)
    loss.backward()
    assert advantage.grad is None and (log_probs.grad[mask == 0] == 0).all()
    # Of a minibatch that several processes share, each divides by the same number.
    monkeypatch.setattr(scst.processes, "total", lambda weights: weights.sum() * 2)
    assert policy_loss(log_probs, advantage, mask).item() == pytest.approx(want / 16)


# --- the gradient, against all texts that there are ------------------------------------------

TINY = Vocabulary(("<unk>", "clear", "heart"))
TINY_REFERENCES = {"a": "heart clear", "b": "clear"}
LONGEST = 3


def all_texts():
    """Every text of at most three words out of two, ``[15, 3]``: 1 + 2 + 4 + 8."""
    words = [TINY.id("clear"), TINY.id("heart")]
    texts = [t for n in range(LONGEST + 1) for t in itertools.product(words, repeat=n)]
    return torch.tensor([[*text, *[0] * (LONGEST - len(text))] for text in texts])


def tiny_model(seed=0, hidden_size=4):
    return build("show_tell", TINY, seed, embedding_size=3, hidden_size=hidden_size)


def tiny_objective(**settings):
    settings = {"max_length": LONGEST, "rewards": {"bleu4": 1.0}, **settings}
    return SelfCritical(settings, vocabulary=TINY, references=TINY_REFERENCES)


def expected_reward(model, batch, target):
    """``sum_w p(w) r(w)``, mean over studies, with gradient; and p, r ``[B, 15]`` of all texts."""
    texts = all_texts().expand(len(batch), -1, -1)
    mask = (torch.arange(LONGEST) <= (texts != 0).sum(-1, keepdim=True)).float()
    log_probs = next_words(model, batch, texts, (TINY.unk,))
    chosen = log_probs.gather(-1, texts.flatten(0, 1)[..., None]).squeeze(-1)
    log_probs = chosen.unflatten(0, (len(batch), -1))
    probs = (log_probs * mask).sum(-1).exp()
    reward = torch.from_numpy(target._earned(texts, batch)["reward"]).float()
    return (probs * reward).sum(1).mean(), probs, reward, log_probs, mask


def gradients(model, value):
    model.zero_grad()
    value.backward()
    # The tags of a study do not reach every weight here: no gradient is a gradient of 0.
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return torch.cat([grad.flatten() for grad in grads]).clone()


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_the_loss_of_all_texts_has_the_gradient_of_the_expected_reward(level):
    """Exactly, and whatever constant is taken off the reward."""
    model, batch, target = tiny_model(), make_batch(TINY_REFERENCES, TINY), tiny_objective()
    expected, probs, *_ = expected_reward(model, batch, target)
    torch.testing.assert_close(probs.sum(1), torch.ones(2))
    want = gradients(model, expected)
    _, probs, reward, log_probs, mask = expected_reward(model, batch, target)
    loss = policy_loss(log_probs, probs.detach() * (reward - level), mask)
    got = gradients(model, -loss * mask.sum() / len(batch))
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["greedy", "leave_one_out"])
def test_samples_estimate_the_gradient_of_the_expected_reward(baseline, monkeypatch):
    model, batch = tiny_model(), make_batch(TINY_REFERENCES, TINY)
    target = tiny_objective(samples=3000, baseline=baseline)
    want = gradients(model, expected_reward(model, batch, target)[0])
    masks, real = [], sampled_mask
    monkeypatch.setattr(scst, "sampled_mask", lambda drawn: masks.append(real(drawn)) or masks[-1])
    torch.manual_seed(0)
    parts = target(model.train(), batch)
    got = gradients(model, -parts["loss"] * masks[0].sum() / 6000)
    assert nn.functional.cosine_similarity(got, want, 0) > 0.99
    assert (got - want).norm() < 0.15 * want.norm()
    expected = expected_reward(model.eval(), batch, target)[0].item()
    assert parts["reward"].item() == pytest.approx(expected, abs=0.02)


def trained(loss_of, steps=80):
    """The tiny model after gradient steps on ``loss_of(model, batch, target)``."""
    model, batch = tiny_model(hidden_size=16), make_batch(TINY_REFERENCES, TINY)
    target = tiny_objective(samples=8)
    model.objective = target
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, batch, target).backward()
        optimizer.step()
    with torch.no_grad():
        return expected_reward(model.eval(), batch, target)[0].item()


def test_training_raises_the_expected_reward_as_far_as_its_exact_gradient_does():
    before = trained(None, steps=0)
    exact = trained(lambda model, batch, target: -expected_reward(model, batch, target)[0])
    sampled = trained(lambda model, batch, target: model.train()(batch)["loss"])
    assert exact > 1.5 * before
    assert sampled > 0.97 * exact


# --- the objective as the loop sees it -------------------------------------------------------


@every_model
@pytest.mark.parametrize("settings", [{}, {"baseline": "greedy"}, {"dropout": True}])
def test_every_flat_model_can_be_trained_by_it(name, settings):
    model = build(name).train()
    model.objective = objective(samples=3, max_length=8, **settings)
    parts = model(make_batch())
    parts["loss"].backward()
    assert all(value.dim() == 0 and torch.isfinite(value) for value in parts.values())
    want = {"loss", "self_critical", "reward", "baseline", "cider_d", "advantage_sd"}
    want |= {"distinct %", "finding-F1", "length"}
    assert set(parts) == want | (set() if "dropout" in settings else {"entropy"})
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("output" in n for n in moved) and len(moved) > 4
    assert all(module.training for module in model.modules())


def test_without_dropout_the_mode_of_the_model_does_not_matter():
    model, batch, target = build("cmn", dropout=0.5), make_batch(), objective(max_length=8)
    parts = []
    for training in (True, False):
        torch.manual_seed(5)
        parts.append(target(model.train(training), batch))
    assert parts[0].keys() == parts[1].keys()
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    # With it, the probability that is trained is that of the pass that drew.
    noisy = objective(max_length=8, dropout=True)
    torch.manual_seed(5)
    assert not torch.equal(noisy(model.train(), batch)["loss"], parts[0]["loss"])


def test_draws_follow_the_state_of_the_loop_and_the_seed():
    model, batch = build("show_tell"), make_batch()

    def loss(seed, state):
        torch.manual_seed(state)
        return objective(seed, max_length=8)(model, batch)["loss"].item()

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(1, 1), loss(0, 2)}) == 3


def test_a_study_drawn_twice_is_sampled_twice():
    model, batch = build("show_tell"), make_batch()
    twice = batch.select([0, 0])
    drawn = draw(model, twice, SelfCriticalConfig(max_length=9), (UNK,), seed=0)
    assert not torch.equal(drawn.tokens[0], drawn.tokens[1])


def test_rewards_come_from_the_references_and_not_from_the_minibatch():
    """Recipes reorder the sentences that a model learns; what it is paid for stays as written."""
    model, batch, target = build("show_tell"), make_batch(), objective(max_length=8)
    torch.manual_seed(2)
    want = target(model, batch)
    batch.tokens = batch.tokens.flip(1)
    torch.manual_seed(2)
    assert target(model, batch)["reward"] == want["reward"]


def test_cross_entropy_can_be_added():
    model, batch = build("show_tell"), make_batch()
    torch.manual_seed(3)
    plain = objective(max_length=8)(model, batch)
    torch.manual_seed(3)
    anchored = objective(max_length=8, cross_entropy=0.25)(model, batch)
    supervised = model.loss(batch)["loss"]
    torch.testing.assert_close(anchored["cross_entropy"], supervised.detach())
    torch.testing.assert_close(anchored["loss"], plain["loss"] + 0.25 * supervised)
    assert "cross_entropy" not in plain


def test_the_greedy_baseline_is_the_reward_of_the_greedy_report():
    model, batch = build("cmn"), make_batch()
    target = objective(samples=2, baseline="greedy", max_length=8)
    parts = target(model.train(), batch)
    rules = DecodingConfig(max_length=8, forbid_unk=True)
    texts = decode(model, batch, rules, vocabulary=VOCABULARY)
    tokens = torch.zeros(4, 8, dtype=torch.long)
    for row, (text,) in enumerate(texts):
        tokens[row, : len(text.tokens)] = torch.tensor(text.tokens)
    want = target.rewards(tokens, batch.study_ids)["reward"].mean()
    assert parts["baseline"].item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["show_tell", "r2gen", "cmn"])
def test_what_is_trained_stays_on_one_device(name):
    """On fake CUDA tensors, where mixing devices raises; rewards are computed on the CPU."""
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=False):
        with torch.device("cuda"):
            sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH, "tag_count": TAGS}
            model = build_model(name, MODELS[name], **sizes)
            batch = Batch(
                ("s0", "s1"),
                None,
                torch.randn(2, 2, 4, PATCH),
                torch.ones(2, 2, dtype=torch.bool),
                tags=torch.rand(2, TAGS),
            )
            tokens = torch.ones(2, 3, 5, dtype=torch.long)
        words = next_words(model, batch, tokens, (UNK,))
        chosen = words.gather(-1, tokens.flatten(0, 1)[..., None]).squeeze(-1)
        chosen = chosen.unflatten(0, (2, 3))
        zeros = torch.zeros(2, 3, device="cuda")
        drawn = Decoded(tokens, (tokens != 0).sum(-1), zeros, zeros, chosen)
        advantage = zeros - leave_one_out(zeros)
        loss = policy_loss(chosen, advantage, sampled_mask(drawn))
        assert loss.device.type == words.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_trains_by_it():
    model = build("cmn").cuda().train()
    model.objective = objective(max_length=8)
    parts = model(make_batch().to("cuda"))
    parts["loss"].backward()
    assert all(value.device.type == "cuda" for value in parts.values())


# --- collapse, and what is refused -----------------------------------------------------------


class Repeated:
    """The same minibatch, twelve times an epoch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 12

    def set_epoch(self, epoch):
        pass

    def skip(self, n):
        pass

    def __iter__(self):
        return iter([self.batch] * 12)


def test_a_run_that_collapses_is_stopped_and_says_so(tmp_path):
    """One text pays best for every study: soon it is the only one that is written."""
    references = dict.fromkeys(REFERENCES, "lungs clear heart normal")
    model, batch = build("show_tell", hidden_size=16), make_batch(references)
    # First learn to write a report of its own for each study ...
    supervised = make_batch(REFERENCES)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        model.train()(supervised)["loss"].backward()
        optimizer.step()

    def validate(model):
        texts = [group[0].text for group in decode(model, batch, vocabulary=VOCABULARY)]
        return {"distinct %": diversity(texts)["distinct_percent"], "BLEU-4": 1.0}

    assert validate(model)["distinct %"] == 100.0
    # ... then be paid for one and the same.
    model.objective = SelfCritical(
        {"max_length": 8, "rewards": {"bleu4": 1.0}}, vocabulary=VOCABULARY, references=references
    )
    result = fit(
        model,
        Repeated(batch),
        config=TrainingConfig(
            epochs=40,
            lr=0.02,
            select="BLEU-4",
            stop_below={"distinct %": 50.0},
            validate_first=True,
            log_every=4,
        ),
        validate=validate,
        folder=tmp_path,
        seed=0,
        progress=False,
    )
    assert len(result.history) < 41
    assert "validation distinct % is 25" in result.stopped and "below the floor" in result.stopped
    assert result.best_epoch == 0 and validate(model)["distinct %"] == 100.0
    first, last = result.history[1]["train"], result.history[-1]["train"]
    assert last["reward"] > first["reward"] and last["distinct %"] < first["distinct %"]
    lines = (tmp_path / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert "reward" in json.dumps(json.loads(lines[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampels": 3}, "sampels"),
        ({"samples": 1}, "at least 2"),
        ({"rewards": {"bleu": 1.0}}, "bleu"),
        ({"rewards": {"bleu4": 0.0}}, "weight to at least one"),
        ({"sigma": 0.0}, "sigma"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(KitError, match=message):
        objective(**settings)


def test_unusable_models_are_refused():
    model = build_model(
        "hier_rnn",
        {"hidden_size": 8},
        vocabulary_size=WORDS,
        feature_dim=PATCH,
        full_stop=1,
    )
    assert isinstance(model.layout, SentenceLayout)
    with pytest.raises(KitError, match="HierRNN writes sentence by sentence; choose a model"):
        objective()(model, make_batch())
    with pytest.raises(KitError, match="vocabulary has 8 ids and the model 4"):
        objective()(tiny_model(), make_batch())
    with pytest.raises(KitError, match="study other has no reference"):
        objective(max_length=4)(build("cmn"), make_batch({"other": "lungs clear"}))
