"""The papers' equations of the hierarchical models and the cascade, restated for one study."""

import pytest
import torch
from torch import nn

from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.models.mrna import SentenceEncoder
from tests.models import test_contract as flat
from tests.models.test_hierarchical import PATCH, WORDS, build, make_batch

torch.set_num_threads(1)


def additive(attention, query, values):
    """Scores one value after the other; weighted sum and weights."""
    scores = []
    for value in values:
        hidden = attention.key.weight @ value + attention.key.bias + attention.query.weight @ query
        scores.append(attention.score @ hidden.tanh())
    alpha = torch.stack(scores).softmax(0)
    return sum(a * value for a, value in zip(alpha, values)), alpha


@torch.no_grad()
def test_hier_rnn_plans_as_the_kit_and_stops_as_the_paper():
    model = build("hier_rnn")
    batch = make_batch(model)
    state = model.encode(batch)
    for row in range(2):
        v = batch.features[row].mean(1).flatten()  # both pooled views
        h, c = (model.initial_h(v).tanh(), model.initial_c(v).tanh())
        state = model.encode(batch.select([row]))
        for _ in range(3):
            h, c = (
                x[0]
                for x in model.sentence(torch.cat([v, batch.tags[row]])[None], (h[None], c[None]))
            )
            topic, state = model.plan(state)
            torch.testing.assert_close(topic[0], h)
            stop, state = model.read(None, state)
            torch.testing.assert_close(stop, model.stop(h))


@torch.no_grad()
def test_co_attention_follows_the_equations():
    model = build("co_attention")
    batch = make_batch(model)
    for row in range(2):
        patches = batch.features[row].reshape(-1, PATCH)
        best = batch.tags[row].argsort(descending=True)[:3]
        findings = [model.findings.weight[f] * batch.tags[row, f] for f in best]
        h = c = torch.zeros(9)
        state = model.encode(batch.select([row]))
        state.tracing = True
        for _ in range(3):
            seen, alpha = additive(model.visual, h, patches)
            found, beta = additive(model.semantic, h, findings)
            context = model.context(torch.cat([seen, found]))  # W_fc [v; a]
            before, (h, c) = h, (x[0] for x in model.sentence(context[None], (h[None], c[None])))
            want = (
                model.topic_hidden.weight @ h
                + model.topic_hidden.bias
                + model.topic_context.weight @ context
            ).tanh()
            topic, state = model.plan(state)
            torch.testing.assert_close(topic[0], want)
            torch.testing.assert_close(state.trace["attention"].flatten(), alpha)
            torch.testing.assert_close(state.trace["tag_attention"][0], beta)
            assert state.trace["tags"][0].tolist() == best.tolist()
            odds, state = model.read(None, state)
            joined = model.stop_before(before) + model.stop_after.weight @ h
            torch.testing.assert_close(odds, model.stop(joined.tanh()))


def test_co_attention_regulariser_counts_each_patch_and_finding_once():
    model = build("co_attention")
    batch = make_batch(model)
    batch.view_mask[2, 1] = False
    traces = model.unroll(batch, trace=True).traces
    total, targets = 0.0, 0
    for row in range(5):
        used = int((batch.sentence_lengths[row] > 0).sum())
        targets += int((batch.sentence_lengths[row, :used] - 1).sum())
        for view in range(2 if batch.view_mask[row, 1] else 1):
            read = traces["attention"][row, :used, view].sum(0)
            total += ((1 - read) ** 2).sum().item()
        total += ((1 - traces["tag_attention"][row, :used].sum(0)) ** 2).sum().item()
    got = model.loss(batch)["doubly_stochastic"].item()
    assert got == pytest.approx(total / targets, rel=1e-5)


@torch.no_grad()
def test_the_sentence_encoder_convolves_and_pools_words_only():
    encoder = SentenceEncoder(5, 4)
    words = torch.randn(1, 6, 5)
    mask = torch.arange(6)[None] < 4
    got = encoder(words, mask)
    x, pooled = words[0, :4], []
    for convolution in encoder.convolutions:
        padded = nn.functional.pad(x, (0, 0, 1, 1))
        x = torch.stack(
            [
                sum(convolution.weight[:, :, k] @ padded[t + k] for k in range(3))
                + convolution.bias
                for t in range(4)
            ]
        )
        pooled.append(x.amax(0))
    torch.testing.assert_close(got[0], encoder.normalise(torch.cat(pooled)))
    torch.testing.assert_close(encoder(words[:, :4], mask[:, :4]), got)
    assert (encoder(words, torch.zeros(1, 6, dtype=torch.bool)) == 0).all()


@torch.no_grad()
def test_mrna_follows_the_sentence_before():
    model = build("mrna")
    batch = make_batch(model)
    row = 3  # a study of four sentences
    one = batch.select([row])
    v, patches = batch.features[row].mean(1).flatten(), batch.features[row].reshape(-1, PATCH)
    state = model.encode(one)
    state.tracing = True
    topic, state = model.plan(state)
    torch.testing.assert_close(topic[0], model.first(v).tanh())
    torch.testing.assert_close(state.trace["attention"], torch.full((1, 2, 4), 1 / 8))
    for place in range(3):
        words = batch.sentences[row, place, 1 : batch.sentence_lengths[row, place] - 1]
        vectors = model.words.embedding.words.weight[words]
        s = model.encoder_of_sentences(vectors[None], torch.ones(1, len(words)) > 0)[0]
        ids = batch.sentences[row, place, 1:][None]
        odds, state = model.read(model.sentence_vectors(ids), state)
        torch.testing.assert_close(odds, model.stop(model.judge(torch.cat([v, s])).tanh()))
        topic, state = model.plan(state)
        seen, alpha = additive(model.attention, s, patches)
        torch.testing.assert_close(topic[0], model.further(torch.cat([seen, s])).tanh())
        torch.testing.assert_close(state.trace["attention"].flatten(), alpha)


@torch.no_grad()
def test_the_improved_mrna_recalls_every_sentence_so_far():
    model = build("mrna, improved")
    batch = make_batch(model)
    row = 3
    one = batch.select([row])
    patches = batch.features[row].reshape(-1, PATCH)
    state = model.encode(one)
    state.tracing = True
    _, state = model.plan(state)
    assert (state.trace["memory"] == 0).all()
    told = []
    for place in range(3):
        told.append(model.sentence_vectors(batch.sentences[row, place, 1:][None])[0])
        _, state = model.read(told[-1][None], state)
        topic, state = model.plan(state)
        seen, _ = additive(model.attention, told[-1], patches)
        recalled, weights = additive(model.recall, told[-1], told)
        parts = torch.cat([seen, told[-1], recalled, batch.tags[row]])
        want = model.further(parts) + model.number.weight[place + 1]
        torch.testing.assert_close(topic[0], want.tanh())
        torch.testing.assert_close(state.trace["memory"][0, : place + 1], weights)
        assert (state.trace["memory"][0, place + 1 :] == 0).all()


def test_self_feeding_shows_the_sentence_level_the_models_own_words(monkeypatch):
    """All sentences at share 1, none in evaluation; the word level always reads the reference."""
    model = build("mrna, improved")
    model.config = model.config.model_copy(update={"self_feeding": 1.0})
    batch = make_batch(model)
    seen = []
    original = model.sentence_vectors
    monkeypatch.setattr(model, "sentence_vectors", lambda t: seen.append(t) or original(t))
    reference = batch.sentences[:, :, 1:].flatten(0, 1)
    model.eval().unroll(batch)
    assert len(seen) == 1 and torch.equal(seen[0], reference)
    model.train().unroll(batch)
    first, second = seen[1:]
    assert torch.equal(first, reference)
    present = (batch.sentence_lengths > 0).flatten()
    assert torch.equal(second[~present], reference[~present])
    assert not torch.equal(second, reference)
    for row in second[present].tolist():  # nothing behind the first end mark
        end = row.index(0) if 0 in row else len(row)
        assert not any(row[end:])
    model.config = model.config.model_copy(update={"self_feeding": 0.5})
    seen.clear()
    torch.manual_seed(0)
    for _ in range(20):
        model.unroll(batch)
    changed = torch.stack([(s != reference).any(-1)[present] for s in seen[1::2]]).float().mean()
    assert 0.3 < changed < 0.7


@torch.no_grad()
def test_the_cascade_starts_from_the_findings():
    model, batch = flat.build("cascade"), flat.make_batch()
    got = model.log_probs(batch)
    cell = nn.LSTMCell(7, 9)
    for name, value in model.lstm.state_dict().items():
        cell.get_parameter(name.removesuffix("_l0")).copy_(value)
    for row in range(2):
        p = batch.tags[row]
        h, c = (layer(p).tanh()[None] for layer in (model.initial_h, model.initial_c))
        views = torch.cat([batch.features[row, 0].mean(0), batch.features[row, 1].mean(0)])
        h, c = cell(model.image(views)[None], (h, c))
        for t in range(4):
            h, c = cell(model.embedding.words.weight[batch.tokens[row, t]][None], (h, c))
            want = model.output(h)[0].log_softmax(-1)
            torch.testing.assert_close(got[row, t], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["cascade", "co_attention"])
def test_models_that_live_on_findings_ask_for_them(name):
    with pytest.raises(KitError, match="tags block"):
        build_model(name, vocabulary_size=WORDS, feature_dim=PATCH, tag_count=0, full_stop=1)
