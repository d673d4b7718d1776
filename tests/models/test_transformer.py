"""R2Gen, R2GenCMN and their shared parts, beyond the contract and the released equations."""

import math

import pytest
import torch
from torch import nn

from r2genkit.decoding import DecodingConfig, decode, search
from r2genkit.errors import KitError
from r2genkit.models import build_model, cmn
from r2genkit.models.cmn import CMNConfig, CrossModalMemory, TopScores, chosen_sum
from r2genkit.models.r2gen import ConditionalLayerNorm, RelationalMemory
from r2genkit.models.transformer import MAX_POSITIONS, Dropout, LayerNorm, Positions, dropout
from tests.models.test_contract import PATCH, TAGS, WORDS, build, make_batch

torch.set_num_threads(1)

OURS = pytest.mark.parametrize("case", ["r2gen base", "r2gen rm", "r2gen rm_mcln", "cmn"])


# --- shared parts ---------------------------------------------------------------------------


def test_layer_norm_has_the_unbiased_deviation_and_epsilon_outside_the_root():
    norm, x = LayerNorm(5), torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]]) * 1e-6
    want = (x - x.mean()) / (x.std(unbiased=True) + 1e-6)
    torch.testing.assert_close(norm(x), want)
    assert (norm(x) - nn.LayerNorm(5)(x)).abs().max() > 0.1  # matters at this scale


@pytest.mark.parametrize("case", ["r2gen base", "cmn"])
def test_equal_numbers_do_not_turn_gradients_into_nan(case):
    """A dead projection of an absent view gives a vector of zeros to the first norm."""
    model, batch = build(case).train(), make_batch()
    with torch.no_grad():
        model.patches.bias.fill_(-9.0)
    batch.features[:, 1], batch.view_mask[:, 1] = 0.0, False
    model.loss(batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_at_its_rate_everywhere_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    x = torch.ones(1001, 203, requires_grad=True)
    y = dropout(x, rate)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    for part in ((y == 0).float().mean(0), (y == 0).float().mean(1)):  # columns, rows
        assert part.mean().item() == pytest.approx(rate, abs=0.003)
        assert (part - rate).abs().max() < 6 * (rate * (1 - rate) / 203) ** 0.5
    dropped = (y == 0).flatten().float() - rate
    for lag in (1, 2, 3, 4, 8):  # neighbours are cut from the same draw
        together = (dropped[lag:] * dropped[:-lag]).mean() / (rate * (1 - rate))
        assert together.abs() < 0.012
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(dropout(x, rate), y)
    assert dropout(x, 0.0) is x and Dropout(rate).eval()(x) is x


def test_positions_are_the_papers_and_end_somewhere():
    positions = Positions(6)
    moved = positions(torch.zeros(1, 2, 6), start=7)
    for row, p in enumerate((7, 8)):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            assert moved[0, row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert moved[0, row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    positions(torch.zeros(1, 1, 6), start=MAX_POSITIONS - 1)
    with pytest.raises(KitError, match="position 5001"):
        positions(torch.zeros(1, 1, 6), start=MAX_POSITIONS)


@OURS
@torch.no_grad()
def test_tracing_changes_no_number_and_attention_covers_present_patches(case):
    model, batch = build(case), make_batch()
    batch.view_mask[0, 0] = False
    log_probs, traces = model.unroll(batch, trace=True)
    assert torch.equal(log_probs, model.log_probs(batch))
    steps = batch.tokens.shape[1] - 1
    attention = traces["cross_attention"]
    assert attention.shape == (
        5,
        steps,
        2,
        2,
        2,
        4,
    )  # studies, tokens, layers, heads, views, patches
    torch.testing.assert_close(attention.sum((-2, -1)), torch.ones(5, steps, 2, 2))
    assert (attention[0, ..., 0, :] == 0).all() and (attention[0, ..., 1, :] > 0).all()
    torch.testing.assert_close(traces["attention"], attention[:, :, -1].mean(2))
    patches = model.patch_traces(batch)["patch_attention"]
    assert patches.shape == (5, 1, 2, 8, 8)
    torch.testing.assert_close(patches.sum(-1), torch.ones(5, 1, 2, 8))
    assert (patches[0, ..., :4] == 0).all()


@torch.no_grad()
def test_traced_attention_is_what_the_layer_used():
    """With values that name their patch, the output of the fused product is the weights."""
    model, batch = build("r2gen base"), make_batch()
    state = model.encode(batch)
    layer = model.decoder.layers[0].cross_attention
    keys = state["patch_keys0"]
    values = torch.eye(8).expand(*keys.shape[:2], 8, 8)
    layer.output = nn.Identity()
    seen, weights = layer(
        torch.randn(5, 3, 8), keys, values, mask=state["mask"][:, None, None], trace=True
    )
    torch.testing.assert_close(seen.unflatten(-1, (2, 8)).transpose(1, 2), weights)


@OURS
@torch.no_grad()
def test_hypotheses_carry_one_trace_row_per_word(case):
    model, batch = build(case), make_batch()
    for method in ("greedy", "beam"):
        config = DecodingConfig(method=method, max_length=6, min_length=2)
        for (found,) in decode(model, batch, config, trace=True):
            assert found.trace["attention"].shape == (len(found.tokens), 2, 4)
            assert found.trace["cross_attention"].shape == (len(found.tokens), 2, 2, 2, 4)
            if case == "cmn":
                assert found.trace["slots"].shape == (len(found.tokens), 2, 3)
            elif case != "r2gen base":
                assert found.trace["forget_gate"].shape == (len(found.tokens), 2, 8)


@OURS
@torch.no_grad()
def test_a_beam_of_one_is_greedy(case):
    model, batch = build(case), make_batch()
    greedy = search(model, batch, DecodingConfig(max_length=9))
    beam = search(model, batch, DecodingConfig(method="beam", beam_size=1, max_length=9))
    assert greedy.tokens.flatten().tolist() == beam.tokens.flatten().tolist()
    torch.testing.assert_close(greedy.log_probs, beam.log_probs)


@OURS
@torch.no_grad()
def test_decoding_projects_patches_once_and_each_word_once(case):
    model, batch, rows = build(case), make_batch(), []
    for layer in model.decoder.layers:
        layer.cross_attention.key.register_forward_hook(
            lambda module, args, out: rows.append(("patches", args[0].shape[1]))
        )
        layer.self_attention.key.register_forward_hook(
            lambda module, args, out: rows.append(("words", args[0].shape[1]))
        )
    config = DecodingConfig(method="beam", max_length=7, early_stop=False)
    search(model, batch, config)
    assert rows.count(("patches", 8)) == 2
    assert rows.count(("words", 1)) == 14
    assert len(rows) == 16


@pytest.mark.parametrize("case", ["r2gen base", "cmn"])
def test_without_tags_the_embedding_is_the_released_one(case):
    model = build(case, tags=False)
    words = torch.tensor([[1, 4]])
    want = model.embedding.words.weight[words] * math.sqrt(8)
    assert torch.equal(model.embedding(words, None), want)
    assert model.embedding.tags is None
    assert build(case).embedding.tags.weight.shape == (8, TAGS)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("r2gen", {"size": 30}, "multiple of heads 8"),
        ("r2gen", {"size": 21, "heads": 3, "memory_heads": 3}, "must be even"),
        ("r2gen", {"size": 20, "heads": 2}, "multiple of memory_heads 8"),
        ("r2gen", {"size": 8, "heads": 2, "slots": 9}, "slots 9"),
        ("r2gen", {"variant": "mcln"}, "variant"),
        ("cmn", {"slots": 20}, "read_slots 32"),
        ("cmn", {"variant": "base"}, "variant"),
    ],
)
def test_settings_that_do_not_agree_are_refused(name, settings, message):
    with pytest.raises(KitError, match=message):
        build_model(name, settings, vocabulary_size=WORDS, feature_dim=PATCH)


# --- relational memory ----------------------------------------------------------------------


def parts(case):
    """Names of the parts below decoder and memory, and the width of the output layer."""
    model = build(case, tags=False)
    kinds = {type(module).__name__ for module in model.modules()}
    return kinds, model.output.in_features, sum(p.numel() for p in model.parameters())


def test_the_switches_of_the_ablation_change_the_graph():
    (base, a, few), (rm, b, more), (full, c, most) = (
        parts(case) for case in ("r2gen base", "r2gen rm", "r2gen rm_mcln")
    )
    assert rm - base == {"RelationalMemory", "Sequential", "ReLU"}
    assert full - rm == {"ConditionalLayerNorm"}
    assert (a, b, c) == (8, 8 + 2 * 8, 8)
    memory = 4 * (8 * 8 + 8) + 2 * (8 * 8 + 8) + 2 * (8 * 16 + 16)
    assert more - few == memory + 16 * WORDS
    norms = 6 * 2 * ((16 * 8 + 8) + (8 * 8 + 8))  # two layers of three, scale and shift
    assert most - few == memory + norms


@pytest.mark.parametrize("case", ["r2gen rm", "r2gen rm_mcln"])
@torch.no_grad()
def test_the_memory_reads_words_and_reaches_them(case):
    model, batch = build(case), make_batch()
    before = model.log_probs(batch)
    model.memory.memory_to_gates.bias += 1.0
    assert (model.log_probs(batch) - before).abs().amax(-1).min() > 1e-5
    state = model.encode(batch)
    read = [model.step(torch.full((5,), token), state)[1]["memory"] for token in (1, 2)]
    assert (read[0] - read[1]).abs().amax(-1).min() > 1e-4


@torch.no_grad()
def test_memory_rows_follow_the_gates():
    """i and f of the trace rebuild the memory from the one before."""
    memory = RelationalMemory(8, 3, 4, dropout=0.0).eval()
    x, start = torch.randn(2, 6, 8), memory.initial(2)
    assert torch.equal(start[0], torch.eye(3, 8).flatten())
    rows, trace = memory(x, start, trace=True)
    assert {name: value.shape for name, value in trace.items()} == dict.fromkeys(
        ("memory", "input_gate", "forget_gate"), (2, 6, 3, 8)
    )
    torch.testing.assert_close(rows, trace["memory"].flatten(2))
    before = torch.cat([start.view(2, 1, 3, 8), trace["memory"][:, :-1]], 1)
    candidate = (trace["memory"] - trace["forget_gate"] * before) / trace["input_gate"]
    assert candidate.abs().max() <= 1.0 + 1e-5  # a tanh
    halves = [memory(x[:, :2], start)[0], memory(x[:, 2:], rows[:, 1])[0]]
    torch.testing.assert_close(torch.cat(halves, 1), rows)
    memory.input_to_gates.bias[:8] = -50.0  # i = 0, f = 1: nothing is ever written
    memory.input_to_gates.bias[8:] = 50.0
    torch.testing.assert_close(memory(x, start)[0], start.unsqueeze(1).expand(-1, 6, -1))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_through_the_memory_are_the_numerical_ones(dropout):
    torch.manual_seed(0)
    memory = RelationalMemory(4, 2, 2, dropout).double()
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    start = torch.randn(2, 8, dtype=torch.double, requires_grad=True)

    def run(x, start, *_):
        torch.manual_seed(1)  # the same dropout every time
        return memory(x, start)[0]

    assert torch.autograd.gradcheck(run, (x, start, *memory.parameters()))


@torch.no_grad()
def test_a_conditional_norm_with_silent_networks_is_the_plain_one():
    norm, plain = ConditionalLayerNorm(8, 16), LayerNorm(8)
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 3, 16)
    for network in (norm.memory_to_scale, norm.memory_to_shift):
        for part in (network[0], network[2]):
            assert (part.bias == 0.1).all()  # as the released code starts
        network[2].weight.zero_()
        network[2].bias.zero_()
    torch.testing.assert_close(norm(x, memory), plain(x))
    norm.memory_to_scale[2].bias.fill_(1.0)
    norm.memory_to_shift[2].bias.fill_(3.0)
    torch.testing.assert_close(norm(x, memory), 2 * plain(x) + 3)


# --- cross-modal memory ---------------------------------------------------------------------


def plain_read(memory, x):
    """The equations with every tensor in full."""
    heads = []
    size = x.shape[-1] // memory.heads
    for head in range(memory.heads):
        own = slice(head * size, (head + 1) * size)
        q, k, v = (
            layer(source)[..., own]
            for layer, source in (
                (memory.query, x),
                (memory.key, memory.matrix),
                (memory.value, memory.matrix),
            )
        )
        scores = q @ k.T / math.sqrt(size)
        least = scores.topk(memory.read_slots).values[..., -1:]
        heads.append(scores.masked_fill(scores < least, -math.inf).softmax(-1) @ v)
    return memory.output(torch.cat(heads, -1))


def make_memory(slots=50, chosen=7):
    torch.manual_seed(0)
    config = CMNConfig(size=16, heads=4, slots=slots, read_slots=chosen, dropout=0.0)
    memory = CrossModalMemory(config)
    nn.init.normal_(memory.matrix)
    return memory


@pytest.mark.parametrize("portion", [1, 3, 100])
@pytest.mark.parametrize("chosen", [1, 7, 50])
def test_the_memory_read_is_the_plain_one_with_its_gradients(portion, chosen, monkeypatch):
    memory = make_memory(chosen=chosen)
    monkeypatch.setattr(cmn, "CPU_SCORES", portion * 4 * 50)  # queries per portion
    x = torch.randn(3, 5, 16, requires_grad=True)
    weight = torch.randn(3, 5, 16)
    sources = [x, *memory.parameters()]
    got, _ = memory(x, memory.project())
    want = plain_read(memory, x)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), sources) for y in (got, want))):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_sparse_products_are_the_numerical_ones():
    torch.manual_seed(0)
    queries = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    keys = torch.randn(2, 9, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k: TopScores.apply(q, k, 3)[0], (queries, keys))
    rows = torch.randint(0, 9, (2, 4, 3))
    weights = torch.rand(2, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, w: chosen_sum(t, rows, w), (keys, weights))


@torch.no_grad()
def test_traces_name_the_slots_that_were_read():
    model, batch = build("cmn"), make_batch()
    _, traces = model.unroll(batch, trace=True)
    for slots, weights, shape in (
        (traces["slots"], traces["slot_weights"], (5, batch.tokens.shape[1] - 1, 2, 3)),
        (*(model.patch_traces(batch)[n] for n in ("slots", "slot_weights")), (5, 2, 4, 2, 3)),
    ):
        assert slots.shape == weights.shape == shape
        assert slots.min() >= 0 and slots.max() < 12
        assert (slots.sort(-1).values.diff(dim=-1) > 0).all()  # no slot twice
        assert (weights.diff(dim=-1) <= 0).all()  # best first
        torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:-1]))
    # Raising the value of the slot read most changes the answer, of one never read does not.
    memory, x = model.memory, torch.randn(1, 1, 8)
    projected = memory.project()
    before, trace = memory(x, projected)
    read = set(trace["slots"][0, 0, 0].tolist())
    for slot in range(12):
        values = projected["slot_values"].clone()
        values[0, slot] += 1.0
        after, _ = memory(x, {**projected, "slot_values": values})
        assert torch.equal(after, before) != (slot in read)


@torch.no_grad()
def test_without_slots_the_others_are_read_as_if_there_were_no_more():
    memory, x = make_memory(slots=12, chosen=4), torch.randn(2, 5, 16)
    gone = [0, 3, 4, 11]
    before, _ = memory(x, memory.project())
    keys, values = (
        layer(memory.matrix).unflatten(-1, (4, -1)).transpose(0, 1)
        for layer in (memory.key, memory.value)
    )
    queries = memory.query(x).unflatten(-1, (4, -1)).transpose(1, 2)
    scores = queries @ keys.transpose(1, 2) / 2.0  # [2, h, 5, 12]
    scores[..., gone] = -math.inf
    least = scores.topk(4).values[..., -1:]
    weights = scores.masked_fill(scores < least, -math.inf)
    want = memory.output((weights.softmax(-1) @ values).transpose(1, 2).flatten(2))
    with memory.without(gone):
        assert memory.project()["slot_keys"].shape == (4, 8, 4)
        got, trace = memory(x, memory.project())
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        assert torch.equal(trace["slots"].transpose(1, 2), scores.topk(4).indices)
        assert "left" not in memory.state_dict()
        with memory.without([]):  # inside, all are there
            assert torch.equal(memory(x, memory.project())[0], before)
        assert torch.equal(memory(x, memory.project())[0], got)
    assert torch.equal(memory(x, memory.project())[0], before)
    for slots, message in (([12], "12 to 12"), ([-1, 2], "-1 to 2"), (range(9), "fewer than 4")):
        with pytest.raises(KitError, match=message), memory.without(slots):
            pass


@torch.no_grad()
def test_a_text_is_written_without_the_slots():
    model, batch = build("cmn"), make_batch()
    config = DecodingConfig(method="beam", max_length=6, min_length=4)
    for gone in ([], [0, 5, 7], range(9)):
        with model.memory.without(gone):
            found = [one for (one,) in decode(model, batch, config, trace=True)]
        read = {int(slot) for one in found for slot in one.trace["slots"].flatten()}
        assert read and not read & set(gone)


@torch.no_grad()
def test_slots_are_projected_once_per_text_and_once_per_training_step():
    model, batch, calls = build("cmn"), make_batch(), []
    model.memory.key.register_forward_hook(lambda *_: calls.append("slots"))
    model.memory.query.register_forward_hook(lambda m, args, out: calls.append(args[0].shape[1]))
    search(model, batch, DecodingConfig(method="beam", max_length=4, early_stop=False))
    assert calls == ["slots", 8, 1, 1, 1, 1]
    calls.clear()
    model.loss(batch)
    assert calls == ["slots", 8, batch.tokens.shape[1] - 1]


@torch.no_grad()
def test_one_memory_serves_both_sides_and_patches_read_before_positions():
    model, batch = build("cmn"), make_batch()
    features = batch.features.flatten(1, 2)
    x = model.patches(features).relu()
    shared = model.memory.project()
    want = x + plain_read(model.memory, x) + model.positions.table[:8]
    torch.testing.assert_close(model.embed_patches(x, shared), want, atol=1e-5, rtol=1e-5)
    tokens = batch.tokens[:, :3]
    y = model.embedding(tokens, None) + model.positions.table[:3]
    got, *_ = model.embed_tokens(y, model.encode(batch))
    torch.testing.assert_close(got, y + plain_read(model.memory, y), atol=1e-5, rtol=1e-5)


def test_initial_weights_are_those_of_the_released_trainers():
    settings = {"size": 64, "feed_forward_size": 64, "slots": 512}
    model = build_model("cmn", settings, vocabulary_size=WORDS, feature_dim=PATCH, seed=0)
    assert model.memory.matrix.std().item() == pytest.approx(1 / 64, rel=0.02)
    xavier = math.sqrt(6 / 128)
    for layer in (model.memory.key, model.decoder.layers[0].self_attention.query):
        assert 0.98 * xavier < layer.weight.abs().max() <= xavier
    assert model.patches.weight.abs().max() <= PATCH**-0.5  # PyTorch's default
    assert model.output.weight.abs().max() <= 1 / 8
