"""The two papers' equations, restated for one study with plain loops."""

import pytest
import torch
from torch import nn

from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.models.attention import AdditiveAttention, DotAttention
from tests.models.test_contract import PATCH, TAGS, WORDS, build, make_batch

torch.set_num_threads(1)


def lstm_cell(model, x, h, c):
    """Gates in the order of the model's matrices: input, forget, output, candidate."""
    words = model.from_word.in_features
    gates = (
        model.from_word.weight @ x[:words]
        + model.from_word.bias
        + model.from_context.weight @ x[words:]
        + model.from_hidden.weight @ h
    )
    i, f, o, g = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@torch.no_grad()
def test_soft_attention_follows_the_equations():
    model, batch = build("soft"), make_batch()
    got, traces = model.unroll(batch, trace=True)
    for row in range(2):
        patches = batch.features[row].reshape(-1, PATCH)  # a_i
        tag = model.embedding.tags.weight @ batch.tags[row]
        mean = patches.mean(0)
        h = (model.initial_h.weight @ mean + model.initial_h.bias).tanh()
        c = (model.initial_c.weight @ mean + model.initial_c.bias).tanh()
        for t in range(4):
            word = model.embedding.words.weight[batch.tokens[row, t]] + tag  # E w, + tags (ours)
            scores = []
            for patch in patches:
                hidden = (
                    model.attention.key.weight @ patch
                    + model.attention.key.bias
                    + model.attention.query.weight @ h
                )
                scores.append(model.attention.score @ hidden.tanh())
            alpha = torch.stack(scores).softmax(0)
            beta = (model.beta.weight @ h + model.beta.bias).sigmoid()
            z = beta * sum(a * patch for a, patch in zip(alpha, patches))
            h, c = lstm_cell(model, torch.cat([word, z]), h, c)
            mixed = word + model.hidden_to_output.weight @ h + model.context_to_output.weight @ z
            logits = model.output.weight @ mixed + model.output.bias
            torch.testing.assert_close(got[row, t], logits.log_softmax(0), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(traces["attention"][row, t].flatten(), alpha)
            torch.testing.assert_close(traces["gate"][row, t], beta[0])


def test_the_soft_cell_is_torchs_lstm_cell():
    """The three matrices, put in torch's gate order, are one nn.LSTMCell."""
    model = build("soft", tags=False)
    words, hidden = 7, 9
    cell = nn.LSTMCell(words + PATCH, hidden)

    def reorder(matrix):  # input, forget, output, candidate -> input, forget, candidate, output
        i, f, o, g = matrix.chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        inputs = torch.cat([model.from_word.weight, model.from_context.weight], 1)
        cell.weight_ih.copy_(reorder(inputs))
        cell.weight_hh.copy_(reorder(model.from_hidden.weight))
        cell.bias_ih.copy_(reorder(model.from_word.bias))
        cell.bias_hh.zero_()
        batch = make_batch(tags=False)
        state = model.encode(batch)
        word = model.embedding(batch.tokens[:, 0], None)
        h, c, z, *_ = model._attend_then_move(model.from_word(word), state["h"], state["c"], state)
        want_h, want_c = cell(torch.cat([word, z], 1), (state["h"], state["c"]))
    torch.testing.assert_close(h, want_h)
    torch.testing.assert_close(c, want_c)


@torch.no_grad()
def test_show_and_tell_reads_the_image_first():
    model, batch = build("show_tell"), make_batch()
    got = model.log_probs(batch)
    cell = nn.LSTMCell(7, 9)
    for name, value in model.lstm.state_dict().items():
        cell.get_parameter(name.removesuffix("_l0")).copy_(value)
    for row in range(2):
        tag = model.embedding.tags.weight @ batch.tags[row]
        views = torch.cat([batch.features[row, 0].mean(0), batch.features[row, 1].mean(0)])
        h, c = cell((model.image(views) + tag)[None])
        for t in range(4):
            x = model.embedding.words.weight[batch.tokens[row, t]] + tag
            h, c = cell(x[None], (h, c))
            want = model.output(h)[0].log_softmax(0)
            torch.testing.assert_close(got[row, t], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["soft", "post"])
@torch.no_grad()
def test_the_regulariser_is_equation_14_per_token(case):
    model, batch = build(case), make_batch()
    batch.view_mask[2, 1] = False
    _, traces = model.unroll(batch, trace=True)
    total, tokens = 0.0, 0
    for row in range(len(batch)):
        steps = int(batch.lengths[row]) - 1
        tokens += steps
        for view in range(2):
            for patch in range(4 if batch.view_mask[row, view] else 0):
                read = sum(traces["attention"][row, t, view, patch].item() for t in range(steps))
                total += (1.0 - read) ** 2
    assert model.loss(batch)["doubly_stochastic"].item() == pytest.approx(total / tokens, rel=1e-5)
    twice = model.config.model_copy(update={"doubly_stochastic": 2.0})
    once = model.loss(batch)["doubly_stochastic"]
    model.config = twice
    torch.testing.assert_close(model.loss(batch)["doubly_stochastic"], 2 * once)


@pytest.mark.parametrize("case", ["soft", "post", "soft, no gate"])
@torch.no_grad()
def test_attention_is_a_distribution_over_present_patches(case):
    model, batch = build(case), make_batch()
    batch.view_mask[0, 0] = False
    batch.features[0, 0] = 0
    attention = model.unroll(batch, trace=True)[1]["attention"]
    assert attention.shape == (5, batch.tokens.shape[1] - 1, 2, 4)
    torch.testing.assert_close(attention.sum((-2, -1)), torch.ones(attention.shape[:2]))
    assert (attention[0, :, 0] == 0).all()
    assert (attention[0, :, 1] > 0).all()


def test_both_attentions_read_where_the_key_fits():
    """With a key that matches one patch the context is that patch."""
    patches = torch.eye(4)[None] * 1.0
    mask = torch.ones(1, 4, dtype=torch.bool)
    dot = DotAttention(4, 4, 4)
    with torch.no_grad():
        for layer in (dot.key, dot.query):
            layer.weight.copy_(torch.eye(4) * 20)
            layer.bias.zero_()
        context, weights = dot(torch.eye(4)[None, 2:3], dot.keys(patches), patches, mask)
    torch.testing.assert_close(context[0, 0], torch.eye(4)[2])
    assert weights.argmax() == 2
    masked = mask.clone()
    masked[0, 2] = False
    _, weights = dot(torch.eye(4)[None, 2:3], dot.keys(patches), patches, masked)
    assert weights[0, 0, 2] == 0
    additive = AdditiveAttention(4, 4, 6)
    _, weights = additive(torch.randn(1, 4), additive.keys(patches), patches, masked)
    assert weights[0, 2] == 0
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_more_views_than_slots_are_refused():
    model = build("show_tell")
    batch = make_batch(views=3)
    with pytest.raises(KitError, match="views to 3"):
        model.log_probs(batch)
    wide = build_model(
        "show_tell",
        {"views": 3},
        vocabulary_size=WORDS,
        feature_dim=PATCH,
        tag_count=TAGS,
        seed=0,
    )
    assert wide.log_probs(batch).shape == (5, batch.tokens.shape[1] - 1, WORDS)


@torch.no_grad()
def test_a_strict_cascade_writes_from_its_findings_alone():
    options = {"embedding_size": 7, "hidden_size": 9, "image": False}
    sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH, "tag_count": TAGS}
    model, batch = build_model("cascade", options, **sizes, seed=0).eval(), make_batch()
    assert not any(name.startswith("image") for name, _ in model.named_parameters())
    before = model.log_probs(batch)
    batch.features = torch.randn_like(batch.features)
    assert torch.equal(model.log_probs(batch), before)
    batch.tags = batch.tags.flip(0)
    assert not torch.allclose(model.log_probs(batch), before)
