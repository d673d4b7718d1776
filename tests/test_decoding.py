"""Search against exhaustive enumeration, a plain-Python beam, and exact probabilities."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import Batch
from r2genkit.decoding import DecodingConfig, constrain, decode, decode_all, draw, search
from r2genkit.errors import KitError
from r2genkit.models.base import FlatModel, ModelConfig, State
from r2genkit.text.vocabulary import Vocabulary

torch.set_num_threads(1)


class ToyModel(FlatModel):
    """A random recurrent model: the next word depends on the study and on the whole prefix."""

    def __init__(self, seed, words=4, sharpness=2.0, size=6):
        super().__init__(ModelConfig(), vocabulary_size=words, feature_dim=size)
        generator = torch.Generator().manual_seed(seed)
        self.recur = nn.Parameter(torch.randn(size, size, generator=generator))
        self.words = nn.Parameter(torch.randn(words, size, generator=generator))
        self.out = nn.Parameter(sharpness * torch.randn(size, words, generator=generator))

    def encode(self, batch):
        image = batch.features.mean((1, 2))
        return State({"image": image}, {"h": image.tanh()})

    def step(self, tokens, state):
        h = (state["h"] @ self.recur + self.words[tokens] + state["image"]).tanh()
        new = state.advance(h=h)
        if state.tracing:
            new.trace = {"h": h, "study": state["image"]}
        return (h @ self.out).log_softmax(-1), new


def make_batch(count, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        study_ids=tuple(f"s{i}" for i in range(count)),
        images=None,
        features=torch.randn(count, 1, 3, size, generator=generator),
        view_mask=torch.ones(count, 1, dtype=torch.bool),
    )


def all_texts(words, longest):
    """Every possible text: words then the end mark 0, or `longest` words without it."""
    for length in range(longest):
        for text in itertools.product(range(1, words), repeat=length):
            yield (*text, 0)
    yield from itertools.product(range(1, words), repeat=longest)


@torch.no_grad()
def text_log_prob(model, batch, row, text):
    """Teacher-forced log-probability of one text, token by token."""
    one = batch.select([row])
    one.tokens = torch.tensor([[0, *text]])
    log_probs = model.log_probs(one)[0].double()
    return sum(log_probs[i, token].item() for i, token in enumerate(text))


def as_text(hypothesis, longest):
    ended = len(hypothesis.tokens) < longest
    return (*hypothesis.tokens, 0) if ended else hypothesis.tokens


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5, -0.5])
def test_wide_beam_equals_exhaustive_search(penalty):
    model, batch, longest = ToyModel(1, sharpness=1.0), make_batch(4), 4
    found = decode(
        model,
        batch,
        DecodingConfig(
            method="beam", beam_size=128, samples=6, max_length=longest, length_penalty=penalty
        ),
    )
    for row, hypotheses in enumerate(found):
        scored = {text: text_log_prob(model, batch, row, text) for text in all_texts(4, longest)}
        best = sorted(scored, key=lambda t: -scored[t] / len(t) ** penalty)[:6]
        assert [as_text(h, longest) for h in hypotheses] == best
        assert [h.log_prob for h in hypotheses] == pytest.approx(
            [scored[t] for t in best], abs=1e-4
        )


def plain_beam(model, batch, row, width, longest, penalty):
    """Beam search for one study as the released code does it, written with lists."""
    live, ended = [((), 0.0)], []
    for _ in range(longest):
        options = []
        for text, score in live:
            for word in range(model.vocabulary_size):
                longer = (*text, word)
                options.append((longer, score + last_log_prob(model, batch, row, longer)))
        options.sort(key=lambda pair: -pair[1])
        live = []
        for text, score in options[:width]:
            finished = text[-1] == 0 or len(text) == longest
            (ended if finished else live).append((text, score))
    return max(ended, key=lambda pair: pair[1] / len(pair[0]) ** penalty)


@torch.no_grad()
def last_log_prob(model, batch, row, text):
    state = model.encode(batch.select([row]))
    for token in (0, *text[:-1]):
        log_probs, state = model.step(torch.tensor([token]), state)
    return log_probs[0, text[-1]].item()


@pytest.mark.parametrize(("width", "penalty"), [(2, 0.0), (3, 0.0), (3, 1.0)])
def test_beam_equals_a_plain_one(width, penalty):
    model, batch = ToyModel(3, words=7), make_batch(5, seed=2)
    config = DecodingConfig(method="beam", beam_size=width, max_length=6, length_penalty=penalty)
    for row, (hypothesis,) in enumerate(decode(model, batch, config)):
        text, score = plain_beam(model, batch, row, width, 6, penalty)
        assert as_text(hypothesis, 6) == text
        assert hypothesis.log_prob == pytest.approx(score, abs=1e-4)


RULES = [{}, {"no_repeat_ngram": 2}, {"min_length": 4}, {"end_bias": -1.5}, {"end_bias": 2.0}]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_beam_of_one_is_greedy(seed, rules):
    model, batch = ToyModel(seed, words=9), make_batch(6, seed)
    greedy = decode(model, batch, DecodingConfig(max_length=12, **rules))
    beam = decode(model, batch, DecodingConfig(method="beam", beam_size=1, max_length=12, **rules))
    assert [h.tokens for (h,) in beam] == [h.tokens for (h,) in greedy]
    np.testing.assert_allclose(
        [h.log_prob for (h,) in beam], [h.log_prob for (h,) in greedy], atol=1e-4
    )


def plain_greedy(model, batch, row, longest, rules, unk=None):
    """Greedy search for one study, the rules stated on word lists."""
    text = []
    while len(text) < longest:
        options = []
        for word in range(model.vocabulary_size):
            value = last_log_prob(model, batch, row, (*text, word))
            n = rules.get("no_repeat_ngram", 0)
            grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)] if n else []
            repeated = word != 0 and bool(n) and tuple([*text, word][-n:]) in grams
            early = word == 0 and len(text) < rules.get("min_length", 0)
            if repeated or early or word == unk:
                continue
            options.append((value + (rules.get("end_bias", 0.0) if word == 0 else 0.0), word))
        word = max(options)[1] if options else 0
        if word == 0:
            break
        text.append(word)
    return tuple(text)


@pytest.mark.parametrize(
    "rules", [*RULES, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 3}, {"min_length": 9}]
)
def test_greedy_equals_a_plain_one(rules):
    model, batch = ToyModel(11, words=6, sharpness=4.0), make_batch(8, seed=5)
    found = decode(model, batch, DecodingConfig(max_length=15, **rules))
    for row, (hypothesis,) in enumerate(found):
        assert hypothesis.tokens == plain_greedy(model, batch, row, 15, rules)


def test_rules_do_something_here():
    """The comparisons above would be empty if no rule ever changed a text."""
    model, batch = ToyModel(11, words=6, sharpness=4.0), make_batch(8, seed=5)
    plain = [h.tokens for (h,) in decode(model, batch, DecodingConfig(max_length=15))]
    assert len(set(plain)) > 2
    for rules in RULES[1:]:
        changed = decode(model, batch, DecodingConfig(max_length=15, **rules))
        assert [h.tokens for (h,) in changed] != plain, rules


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_occurs_twice(method, n):
    model, batch = ToyModel(21, words=12, sharpness=5.0), make_batch(10)
    config = DecodingConfig(method=method, max_length=30, no_repeat_ngram=n, end_bias=-3.0)
    repeated = 0
    for (hypothesis,) in decode(model, batch, config, seed=1):
        words = hypothesis.tokens
        grams = [words[i : i + n] for i in range(len(words) - n + 1)]
        assert len(grams) == len(set(grams))
        repeated += len(set(words)) < len(words)
    assert n == 1 or repeated, "no text repeats even a word: nothing was tested"


def test_blocking_everything_ends_the_text():
    """Three words, none may occur twice, at least eight wanted: the text ends after three."""
    model, batch = ToyModel(2, words=4), make_batch(3)
    for method in ("greedy", "beam"):
        config = DecodingConfig(method=method, no_repeat_ngram=1, min_length=8, max_length=20)
        for (hypothesis,) in decode(model, batch, config):
            assert sorted(hypothesis.tokens) == [1, 2, 3]


def test_constrain_leaves_its_input_alone():
    log_probs = torch.randn(3, 5).log_softmax(-1)
    before = log_probs.clone()
    config = DecodingConfig(no_repeat_ngram=1, end_bias=-1.0, min_length=3)
    constrain(log_probs, torch.tensor([[1, 2]] * 3), config, never=(3,))
    assert torch.equal(log_probs, before)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.75}],
)
def test_samples_follow_the_distribution(options):
    """Chi-square of whole texts against probabilities enumerated without the sampler."""
    model, batch, longest, draws = ToyModel(4, sharpness=0.7), make_batch(2), 3, 20_000

    def step_probabilities(row, prefix):
        logs = np.array([last_log_prob(model, batch, row, (*prefix, w)) for w in range(4)])
        probs = np.exp(logs / options.get("temperature", 1.0))
        probs /= probs.sum()
        order = np.argsort(-probs)
        kept = order[: options.get("top_k", 4)]
        cut = np.searchsorted(np.cumsum(probs[order]), options.get("top_p", 1.0)) + 1
        kept = kept[:cut] if options.get("top_p", 1.0) < 1 else kept
        result = np.zeros(4)
        result[kept] = probs[kept]
        return result / result.sum()

    config = DecodingConfig(method="sample", samples=draws, max_length=longest, **options)
    for row, hypotheses in enumerate(decode(model, batch, config, seed=3)):
        expected = {}
        for text in all_texts(4, longest):
            probability = 1.0
            for i, word in enumerate(text):
                probability *= step_probabilities(row, text[:i])[word]
            expected[text] = probability * draws
        assert sum(expected.values()) == pytest.approx(draws)
        counts = dict.fromkeys(expected, 0)
        for hypothesis in hypotheses:
            counts[as_text(hypothesis, longest)] += 1
        assert all(counts[text] == 0 for text in expected if expected[text] == 0.0)
        common = [text for text in expected if expected[text] >= 5]
        observed = [counts[t] for t in common] + [draws - sum(counts[t] for t in common)]
        wanted = [expected[t] for t in common] + [draws - sum(expected[t] for t in common)]
        if wanted[-1] < 1e-6:
            observed, wanted = observed[:-1], wanted[:-1]
        assert stats.chisquare(observed, wanted, sum_check=False).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-30, 3), min_size=2, max_size=8), st.floats(0, 1, exclude_max=True))
def test_draw_never_picks_the_impossible(logits, uniform):
    scores = torch.tensor([[*logits, -math.inf, -math.inf]])
    numbers = torch.tensor([uniform], dtype=torch.float64)
    for number in (numbers, torch.zeros_like(numbers), 1 - 1e-16 * torch.ones_like(numbers)):
        picked = draw(scores, DecodingConfig(method="sample"), number)
        assert 0 <= picked.item() < len(logits)


def test_draw_keeps_the_best_word_under_any_top_p():
    scores = torch.tensor([[0.9, 0.05, 0.05]]).log()
    config = DecodingConfig(method="sample", top_p=0.01)
    for uniform in (0.0, 0.5, 0.999):
        assert draw(scores, config, torch.tensor([uniform], dtype=torch.float64)).item() == 0


METHODS = [
    DecodingConfig(max_length=14),
    DecodingConfig(method="sample", samples=3, max_length=14),
    DecodingConfig(method="beam", beam_size=4, samples=3, max_length=14),
    DecodingConfig(method="beam", beam_size=3, max_length=14, length_penalty=0.8),
    DecodingConfig(method="beam", beam_size=3, max_length=14, end_bias=1.0),
]


@pytest.mark.parametrize("config", METHODS)
def test_log_probs_equal_teacher_forcing(config):
    model, batch = ToyModel(25, words=8, sharpness=1.5), make_batch(5)
    for row, hypotheses in enumerate(decode(model, batch, config, seed=0)):
        assert len(hypotheses) == config.samples
        for hypothesis in hypotheses:
            text = as_text(hypothesis, config.max_length)
            want = text_log_prob(model, batch, row, text)
            assert hypothesis.log_prob == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize("config", METHODS)
def test_a_study_does_not_depend_on_its_minibatch(config):
    model, batch = ToyModel(25, words=8, sharpness=1.5), make_batch(7)
    together = decode(model, batch, config, seed=9, trace=True)
    for row in range(len(batch)):
        (alone,) = decode(model, batch.select([row]), config, seed=9, trace=True)
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
        for one, other in zip(alone, together[row]):
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
            np.testing.assert_allclose(one.trace["h"], other.trace["h"], atol=1e-5)


@pytest.mark.parametrize("config", METHODS)
def test_stopping_early_changes_nothing(config):
    model, batch = ToyModel(25, words=8, sharpness=1.5), make_batch(9)
    full = config.model_copy(update={"early_stop": False})
    quick = decode(model, batch, config, seed=2, trace=True)
    slow = decode(model, batch, full, seed=2, trace=True)
    lengths = {len(h.tokens) for texts in slow for h in texts}
    assert len(lengths) > 2, "texts of one length: nothing was dropped early"
    for a, b in zip(itertools.chain(*quick), itertools.chain(*slow), strict=True):
        assert a.tokens == b.tokens
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
        np.testing.assert_allclose(a.trace["h"], b.trace["h"], atol=1e-5)


def test_early_stop_saves_steps():
    class Counting(ToyModel):
        rows = 0

        def step(self, tokens, state):
            Counting.rows += len(tokens)
            return super().step(tokens, state)

    model, batch = Counting(25, words=8, sharpness=1.5), make_batch(9)
    for method in ("greedy", "beam"):
        used = {}
        for early in (True, False):
            Counting.rows = 0
            decode(model, batch, DecodingConfig(method=method, early_stop=early))
            used[early] = Counting.rows
        assert used[True] < used[False] / 2


@pytest.mark.parametrize("config", METHODS)
def test_traces_belong_to_their_words(config):
    """The trace of word t is that of the step that chose it, whatever the beams went through."""
    model, batch = ToyModel(25, words=8, sharpness=1.5), make_batch(9)
    for row, hypotheses in enumerate(decode(model, batch, config, seed=4, trace=True)):
        for hypothesis in hypotheses:
            one = batch.select([row])
            one.tokens = torch.tensor([[0, *hypothesis.tokens, 0]])
            _, trace = model.unroll(one, trace=True)
            want = trace["h"][0, : len(hypothesis.tokens)].detach()
            np.testing.assert_allclose(hypothesis.trace["h"], want, atol=1e-5)


def test_no_trace_unless_asked():
    (texts,) = decode(ToyModel(8), make_batch(1))
    assert texts[0].trace == {}


def test_a_larger_length_penalty_never_shortens():
    """True of exact search, so it is tested on a beam wide enough to be exact."""
    batch = make_batch(8)
    for seed in range(3):
        model, before = ToyModel(seed, words=3, sharpness=1.0), np.zeros(len(batch))
        lengths = []
        for penalty in (0.0, 0.3, 0.7, 1.0, 1.5, 3.0):
            config = DecodingConfig(
                method="beam", beam_size=200, max_length=6, length_penalty=penalty
            )
            lengths.append(np.array([len(as_text(h, 6)) for (h,) in decode(model, batch, config)]))
            assert (lengths[-1] >= before).all()
            before = lengths[-1]
        assert (lengths[-1] > lengths[0]).any()


VOCABULARY = Vocabulary(("<unk>", "clear", "heart", "lungs", "normal"))


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
def test_unk_is_never_written_when_forbidden(method):
    model, batch = ToyModel(9, words=len(VOCABULARY)), make_batch(6)
    with torch.no_grad():  # make <unk> the favourite, so that forbidding it matters
        model.out[:, VOCABULARY.unk] *= 3
    free = DecodingConfig(method=method, max_length=8)
    strict = free.model_copy(update={"forbid_unk": True})
    loose = [h for (h,) in decode(model, batch, free, vocabulary=VOCABULARY, seed=1)]
    tight = [h for (h,) in decode(model, batch, strict, vocabulary=VOCABULARY, seed=1)]
    assert any(VOCABULARY.unk in h.tokens for h in loose)
    assert not any(VOCABULARY.unk in h.tokens for h in tight)
    assert all(h.text == VOCABULARY.decode(h.tokens) for h in tight)
    with pytest.raises(KitError, match="vocabulary"):
        decode(model, batch, strict)


def test_a_vocabulary_of_another_size_is_refused():
    with pytest.raises(KitError, match="saved with the checkpoint"):
        decode(ToyModel(1, words=9), make_batch(1), vocabulary=VOCABULARY)


def test_a_beam_may_find_fewer_texts_than_asked():
    """One word and one step: only two texts exist."""
    config = DecodingConfig(method="beam", beam_size=5, samples=5, max_length=1)
    for hypotheses in decode(ToyModel(1, words=2), make_batch(3), config):
        assert {h.tokens for h in hypotheses} == {(), (1,)}
        assert len(hypotheses) == 2


def test_modes_are_restored_and_nothing_is_recorded():
    model = ToyModel(1)
    model.inner = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model.train()
    model.inner.eval()  # a frozen part inside a model in training
    decode(model, make_batch(2))
    assert model.training
    assert not model.inner.training
    assert not model.inner[1].training
    assert model.out.grad is None


def test_sampled_log_probs_carry_the_gradient_of_teacher_forcing():
    model, batch = ToyModel(3, words=8, sharpness=1.0).double(), make_batch(4)
    batch.features = batch.features.double()
    config = DecodingConfig(method="sample", samples=2, max_length=7)
    found = search(model, batch, config, seed=5)
    weights = torch.linspace(-1, 1, 8).view(4, 2)
    (found.log_probs * weights).sum().backward()
    sampled = model.out.grad.clone()
    model.zero_grad()
    repeated = batch.repeat(2)
    tokens = found.tokens.flatten(0, 1)
    repeated.tokens = torch.cat([torch.zeros(8, 1, dtype=torch.long), tokens], 1)
    log_probs = model.log_probs(repeated).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    used = torch.arange(7) < (found.lengths.flatten() + 1).clamp_max(7).unsqueeze(1)
    ((log_probs * used).sum(1).view(4, 2) * weights).sum().backward()
    torch.testing.assert_close(sampled, model.out.grad, atol=1e-5, rtol=1e-4)


def test_a_generator_makes_samples_repeatable_and_moves_on():
    model, batch = ToyModel(3, words=8, sharpness=0.5), make_batch(4)
    config = DecodingConfig(method="sample", max_length=9)

    def run(generator):
        return [h.tokens for (h,) in decode(model, batch, config, generator=generator)]

    first = torch.Generator().manual_seed(1)
    one, two = run(first), run(first)
    assert one != two
    assert run(torch.Generator().manual_seed(1)) == one


def test_decode_all_covers_every_study():
    model, batch = ToyModel(9, words=len(VOCABULARY)), make_batch(5)
    loader = [batch.select([0, 1]), batch.select([2]), batch.select([3, 4])]
    found = decode_all(model, loader, vocabulary=VOCABULARY)
    whole = decode(model, batch, vocabulary=VOCABULARY)
    assert {name: h.tokens for name, h in found.items()} == {
        texts[0].study_id: texts[0].tokens for texts in whole
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam": 3},
        {"method": "viterbi"},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"samples": 2},
        {"method": "beam", "samples": 4},
        {"min_length": 60},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        DecodingConfig(**wrong)


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
def test_search_stays_on_one_device(method):
    """On fake CUDA tensors, where mixing devices raises."""
    config = DecodingConfig(
        method=method,
        max_length=6,
        no_repeat_ngram=2,
        early_stop=False,
        forbid_unk=True,
        top_k=3,
        top_p=0.9,
    )
    with FakeTensorMode():
        with torch.device("cuda"):
            model = ToyModel.__new__(ToyModel)
            FlatModel.__init__(model, ModelConfig(), vocabulary_size=6, feature_dim=6)
            model.recur = nn.Parameter(torch.randn(6, 6))
            model.words = nn.Parameter(torch.randn(6, 6))
            model.out = nn.Parameter(torch.randn(6, 6))
            batch = Batch(("a", "b"), None, torch.randn(2, 1, 3, 6), torch.ones(2, 1).bool())
        found = search(model, batch, config, vocabulary=VOCABULARY, trace=True)
        assert found.tokens.device.type == "cuda"
        assert found.traces["h"].shape[-1] == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("config", METHODS)
def test_search_on_a_gpu_equals_the_cpu(config):
    model, batch = ToyModel(25, words=8, sharpness=1.5), make_batch(9)
    here = decode(model, batch, config, seed=2)
    there = decode(model.cuda(), batch.to("cuda"), config, seed=2)
    assert [[h.tokens for h in texts] for texts in here] == [
        [h.tokens for h in texts] for texts in there
    ]


@pytest.mark.parametrize(
    "options", [{"length_penalty": 2.5}, {"length_penalty": -1.0}, {"end_bias": 4.0}]
)
def test_no_study_is_given_up_too_early(options):
    """Many random models, and rules under which a long or short text can win late."""
    batch, full = make_batch(16, seed=3), {"early_stop": False}
    for seed in range(12):
        model = ToyModel(seed, words=5, sharpness=0.8)
        config = DecodingConfig(method="beam", beam_size=3, max_length=8, **options)
        quick = decode(model, batch, config)
        slow = decode(model, batch, config.model_copy(update=full))
        assert [h.tokens for (h,) in quick] == [h.tokens for (h,) in slow]
