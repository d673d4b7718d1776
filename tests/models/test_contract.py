"""The contract that every flat report model keeps, whatever its insides.

A new model joins by a line in ``CASES``.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import Batch, collate
from r2genkit.decoding import DecodingConfig, decode, search
from r2genkit.errors import KitError
from r2genkit.models import MODELS, FlatModel, build_model
from r2genkit.models.embedding import Checklist

torch.set_num_threads(1)

WORDS, PATCH, TAGS = 11, 6, 5
SMALL = {"embedding_size": 7, "hidden_size": 9}
ATTEND = {**SMALL, "attention_size": 8}
LAYERS = {"size": 8, "feed_forward_size": 10, "heads": 2, "encoder_layers": 1, "decoder_layers": 2}
RETRIEVAL = {**LAYERS, "slots": 12, "read_slots": 3, "report_size": 8, "report_dropout": 0.0}
R2GEN = {**LAYERS, "memory_heads": 4, "slots": 2}

CASES = {
    "show_tell": ("show_tell", SMALL),
    "show_tell smoothed": ("show_tell", {**SMALL, "label_smoothing": 0.1}),
    "soft": ("show_attend_tell", ATTEND),
    "soft, no gate": ("show_attend_tell", {**ATTEND, "gate": False}),
    "soft, no regulariser": ("show_attend_tell", {**ATTEND, "doubly_stochastic": 0.0}),
    "post": ("show_attend_tell", {**ATTEND, "attention": "post"}),
    "cascade": ("cascade", SMALL),
    "post, no gate": ("show_attend_tell", {**ATTEND, "attention": "post", "gate": False}),
    "r2gen base": ("r2gen", {**R2GEN, "variant": "base"}),
    "r2gen rm": ("r2gen", {**R2GEN, "variant": "rm"}),
    "r2gen rm_mcln": ("r2gen", R2GEN),
    "r2gen smoothed, positions": (
        "r2gen",
        {**R2GEN, "variant": "base", "label_smoothing": 0.1, "patch_positions": True},
    ),
    "cmn": ("cmn", {**LAYERS, "slots": 12, "read_slots": 3}),
    "cmn, projected patches": (
        "cmn",
        {**LAYERS, "slots": 12, "read_slots": 3, "patch_projection": 5},
    ),
    "show_tell, checklist": ("show_tell", {**SMALL, "checklist": True}),
    "soft, checklist": ("show_attend_tell", {**ATTEND, "checklist": True}),
    "post, checklist": ("show_attend_tell", {**ATTEND, "attention": "post", "checklist": True}),
    "r2gen, checklist": ("r2gen", {**R2GEN, "checklist": True}),
    "cmn, checklist": ("cmn", {**LAYERS, "slots": 12, "read_slots": 3, "checklist": True}),
    "cmn, reports by mean": ("cmn_retrieval", RETRIEVAL),
    "cmn, reports by lstm": ("cmn_retrieval", {**RETRIEVAL, "report_encoder": "lstm"}),
    "cmn, reports by transformer": (
        "cmn_retrieval",
        {**RETRIEVAL, "report_encoder": "transformer"},
    ),
}
# Sizes with which eight studies can be learned by heart, quickly.
LARGER = {
    "show_tell": {"embedding_size": 32, "hidden_size": 64},
    "r2gen": {"size": 32, "feed_forward_size": 32, "patch_dropout": 0.0},
    "cmn": {"size": 32, "feed_forward_size": 32, "patch_dropout": 0.0, "slots": 64},
}
LARGER["cmn_retrieval"] = {**LARGER["cmn"], "report_size": 16}
LARGER |= dict.fromkeys(("show_attend_tell", "cascade"), LARGER["show_tell"])

NEED_TAGS = {"cascade"}  # models that cannot be built without


def build(case, *, tags=True, seed=0, **sizes):
    name, options = CASES[case]
    sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH, **sizes}
    model = build_model(name, options, tag_count=TAGS if tags else 0, seed=seed, **sizes)
    return strike_more(model).eval()


def strike_more(model, seed=0):
    """Let words strike off as much as after training: at first they hardly do."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, Checklist):
            nn.init.uniform_(part.strikes.weight, -0.7, 0.3, generator=generator)
    return model


def make_batch(count=5, seed=0, views=2, tags=True):
    generator = torch.Generator().manual_seed(seed)
    tokens = [
        [0, *torch.randint(1, WORDS, (2 + i,), generator=generator).tolist(), 0]
        for i in range(count)
    ]
    return collate(
        [f"s{i}" for i in range(count)],
        torch.ones(count, views, dtype=torch.bool),
        features=torch.randn(count, views, 4, PATCH, generator=generator),
        tokens=tokens,
        tags=torch.rand(count, TAGS, generator=generator) if tags else None,
        neighbours=make_neighbours(count, seed),
    )


def make_neighbours(count=5, seed=0, k=3, length=6):
    """Reports of 1 to 4 words; every second study lacks the last one."""
    generator = torch.Generator().manual_seed(seed + 100)
    tokens = torch.randint(1, WORDS, (count, k, length), generator=generator)
    words = torch.randint(1, 5, (count, k, 1), generator=generator)
    place = torch.arange(length)
    tokens = tokens * ((place > 0) & (place <= words))
    tokens[::2, -1] = 0
    return tokens


every_model = pytest.mark.parametrize("case", CASES)
with_and_without_tags = pytest.mark.parametrize(
    ("case", "tags"),
    [(c, t) for c in CASES for t in (True, False) if t or c not in NEED_TAGS],
)


def test_every_flat_model_is_tested():
    flat = {name for name, kind in MODELS.items() if issubclass(kind, FlatModel)}
    assert {name for name, _ in CASES.values()} == flat


@with_and_without_tags
@torch.no_grad()
def test_teacher_forcing_equals_stepping(case, tags):
    model, batch = build(case, tags=tags), make_batch(tags=tags)
    whole, traces = model.unroll(batch, trace=True)
    state = model.encode(batch)
    state.tracing = True
    for t in range(batch.tokens.shape[1] - 1):
        log_probs, state = model.step(batch.tokens[:, t], state)
        torch.testing.assert_close(log_probs, whole[:, t], atol=1e-5, rtol=1e-5)
        assert set(state.trace) == set(traces)
        for name, value in state.trace.items():
            torch.testing.assert_close(value, traces[name][:, t], atol=1e-5, rtol=1e-5)
    assert torch.equal(model.log_probs(batch), whole)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(whole.shape[:2]))


@every_model
@torch.no_grad()
def test_greedy_text_has_its_teacher_forced_log_prob(case):
    model, batch = build(case), make_batch()
    found = search(model, batch, DecodingConfig(max_length=8))
    batch.tokens = nn.functional.pad(found.tokens[:, 0], (1, 0))
    chosen = model.log_probs(batch).gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    used = torch.arange(8) < (found.lengths + 1).clamp_max(8)
    torch.testing.assert_close((chosen * used).sum(1), found.log_probs[:, 0])


@every_model
@torch.no_grad()
def test_state_rows_can_be_exchanged_and_repeated(case):
    model, batch = build(case), make_batch()
    _, state = model.step(batch.tokens[:, 0], model.encode(batch))
    index = torch.tensor([3, 0, 3, 1])
    moved, _ = model.step(batch.tokens[index, 1], state.reorder(index))
    plain, _ = model.step(batch.tokens[:, 1], state)
    torch.testing.assert_close(moved, plain[index])
    thrice = state.repeat(3)
    assert len(thrice) == 15
    many, _ = model.step(batch.tokens[:, 1].repeat_interleave(3), thrice)
    torch.testing.assert_close(many, plain.repeat_interleave(3, 0))
    # Inside a study the fixed tensors stay where they are, and the result is the same.
    inside = torch.tensor([1, 0, 2, 4, 4, 3, 8, 8, 8, 9, 10, 11, 14, 13, 12])
    for name, value in thrice.moving.items():
        thrice.moving[name] = value + 0.1 * torch.randn(value.shape)
    a, _ = model.step(batch.tokens[:, 1].repeat_interleave(3), thrice.reorder(inside))
    kept = thrice.reorder_within_study(inside)
    b, _ = model.step(batch.tokens[:, 1].repeat_interleave(3), kept)
    torch.testing.assert_close(a, b)
    assert all(kept.fixed[name] is value for name, value in thrice.fixed.items())


@every_model
@torch.no_grad()
def test_a_study_does_not_depend_on_its_minibatch(case):
    """Neither on its neighbours nor on the padding that they cause."""
    model, batch = build(case), make_batch()
    together = model.log_probs(batch)
    for row in range(len(batch)):
        one = batch.select([row])
        used = int(one.lengths)
        one.tokens = one.tokens[:, :used]
        torch.testing.assert_close(
            model.log_probs(one)[0], together[row, : used - 1], atol=1e-5, rtol=1e-5
        )


@every_model
@torch.no_grad()
def test_padding_does_not_change_the_loss(case):
    model, batch = build(case), make_batch()
    longer = batch.select(list(range(5)))
    longer.tokens = nn.functional.pad(batch.tokens, (0, 4))
    longer.token_weights = nn.functional.pad(batch.token_weights, (0, 4))
    for name, value in model.loss(batch).items():
        torch.testing.assert_close(model.loss(longer)[name], value)
    plain = batch.select(list(range(5)))
    plain.token_weights = None  # then lengths say what is padding
    torch.testing.assert_close(model.loss(plain)["loss"], model.loss(batch)["loss"])


@every_model
@torch.no_grad()
def test_cross_entropy_is_the_weighted_mean(case):
    model, batch = build(case), make_batch()
    batch.token_weights = batch.token_weights * torch.rand(batch.token_weights.shape)
    log_probs, smoothing = model.log_probs(batch), model.config.label_smoothing
    total = weight = 0.0
    for row in range(len(batch)):
        for t in range(int(batch.lengths[row]) - 1):
            target = torch.full((WORDS,), smoothing / WORDS)
            target[batch.tokens[row, t + 1]] += 1 - smoothing
            w = batch.token_weights[row, t].item()
            total -= w * (target * log_probs[row, t]).sum().item()
            weight += w
    parts = model.loss(batch)
    assert parts["token_ce"].item() == pytest.approx(total / weight, rel=1e-5)
    rest = sum(value for name, value in parts.items() if name != "loss")
    torch.testing.assert_close(parts["loss"], rest)


@every_model
def test_the_gradient_reaches_every_parameter(case):
    model = build(case).train()
    model.loss(make_batch())["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_model
@torch.no_grad()
def test_images_and_tags_are_used(case):
    model, batch = build(case), make_batch()
    before = model.log_probs(batch)
    for view in range(2):
        changed = batch.select(list(range(5)))
        changed.features[:, view] += torch.randn(changed.features[:, view].shape)
        assert (model.log_probs(changed) - before).abs().amax((1, 2)).min() > 1e-4
    changed = batch.select(list(range(5)))
    changed.tags = 1 - changed.tags
    assert (model.log_probs(changed) - before).abs().amax((1, 2)).min() > 1e-4


@every_model
@torch.no_grad()
def test_an_absent_view_counts_as_none(case):
    """Whatever lies in the slot of an absent view, and whether there is a slot at all."""
    model, batch = build(case), make_batch()
    only = batch.select(list(range(5)))
    only.features, only.view_mask = batch.features[:, :1], batch.view_mask[:, :1]
    batch.view_mask[:, 1] = False
    want = model.log_probs(only)
    torch.testing.assert_close(model.log_probs(batch), want)
    for part, value in model.loss(only).items():
        torch.testing.assert_close(model.loss(batch)[part], value)
    state, wanted = model.encode(batch), model.encode(only)
    a, _ = model.step(batch.tokens[:, 0], state)
    b, _ = model.step(batch.tokens[:, 0], wanted)
    torch.testing.assert_close(a, b)


class PixelEncoder(nn.Module):
    """Four patches per image: means of its quarters, projected."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3, PATCH)

    def forward(self, images):
        pooled = nn.functional.adaptive_avg_pool2d(images, 2)
        return self.project(pooled.flatten(2).transpose(1, 2))


@every_model
def test_end_to_end_equals_cached_features(case):
    encoder = PixelEncoder()
    model = build(case, encoder=encoder)
    batch = make_batch()
    batch.images = torch.randn(5, 2, 3, 8, 8)
    batch.view_mask[1, 1] = False
    cached = encoder(batch.images.flatten(0, 1)).view(5, 2, 4, PATCH).detach()
    with_pixels = batch.select(list(range(5)))
    with_pixels.features = None
    batch.features = cached
    torch.testing.assert_close(model.log_probs(with_pixels), model.log_probs(batch))
    model.loss(with_pixels)["loss"].backward()
    assert encoder.project.weight.grad.abs().sum() > 0
    assert any(name.startswith("encoder.") for name, _ in model.named_parameters())


def test_an_encoder_may_see_the_views_by_itself():
    class TwoViews(nn.Module):
        def encode_views(self, images, view_mask):
            return torch.ones(*view_mask.shape, 4, PATCH) * view_mask[:, :, None, None]

    model, batch = build("soft", encoder=TwoViews()), make_batch()
    batch.features, batch.images = None, torch.randn(5, 2, 3, 8, 8)
    assert torch.equal(model.patch_features(batch), torch.ones(5, 2, 4, PATCH))


@every_model
def test_remembers_eight_studies_word_for_word(case):
    """More than 95 % of the tokens, from the images alone where the model can do without tags."""
    name, options = CASES[case]
    options = {**options, "dropout": 0.0, **LARGER[name]}
    torch.manual_seed(0)
    sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH}
    sizes["tag_count"] = TAGS if case in NEED_TAGS else 0
    model = build_model(name, options, **sizes, seed=0)
    batch = make_batch(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
    model.eval()
    hits = model.log_probs(batch).argmax(-1) == batch.tokens[:, 1:]
    assert hits[batch.token_weights > 0].float().mean() > 0.95
    texts = decode(model, batch, DecodingConfig(max_length=15))
    words = [tuple(row[1 : n - 1].tolist()) for row, n in zip(batch.tokens, batch.lengths)]
    assert sum(h.tokens == want for (h,), want in zip(texts, words)) >= 7


@every_model
def test_stays_on_one_device(case):
    """On fake CUDA tensors, where mixing devices raises. cuDNN cannot be faked: switched off."""
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=False):
        with torch.device("cuda"):
            name, options = CASES[case]
            model = build_model(
                name, options, vocabulary_size=WORDS, feature_dim=PATCH, tag_count=TAGS
            )
            batch = Batch(
                ("a", "b"),
                None,
                torch.randn(2, 2, 4, PATCH),
                torch.ones(2, 2, dtype=torch.bool),
                tokens=torch.zeros(2, 6, dtype=torch.long),
                lengths=torch.full((2,), 6),
                tags=torch.rand(2, TAGS),
                neighbours=torch.ones(2, 3, 4, dtype=torch.long),
            )
        assert all(value.device.type == "cuda" for value in model.loss(batch).values())
        state = model.encode(batch)
        log_probs, state = model.step(batch.tokens[:, 0], state)
        assert log_probs.device.type == state.device.type == "cuda"
        model.eval()
        for method in ("greedy", "beam"):
            config = DecodingConfig(method=method, max_length=4, early_stop=False)
            with torch.no_grad():
                found = search(model, batch, config, trace=True)
            assert found.tokens.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_model
@torch.no_grad()
def test_a_gpu_gives_the_same(case):
    model, batch = build(case), make_batch()
    here, loss = model.log_probs(batch), model.loss(batch)["loss"]
    texts = decode(model, batch, DecodingConfig(max_length=10))
    model.cuda()
    there = batch.to("cuda")
    torch.testing.assert_close(model.log_probs(there).cpu(), here, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.loss(there)["loss"].cpu(), loss, atol=1e-4, rtol=1e-4)
    again = decode(model, there, DecodingConfig(max_length=10))
    assert [h.tokens for (h,) in again] == [h.tokens for (h,) in texts]


@every_model
def test_runs_in_bf16(case):
    model = build(case).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = model.loss(make_batch())
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])


@every_model
def test_initial_weights_follow_the_seed_and_leave_the_callers_alone(case):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, other = build(case, seed=1), build(case, seed=1), build(case, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.output.weight, other.output.weight)


def drop(batch, *names):
    for name in names:
        setattr(batch, name, None)
    return batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: drop(b, "features"), "no patch features"),
        (lambda b: drop(b, "tags"), "5 finding probabilities"),
        (lambda b: drop(b, "tokens"), "no token ids"),
        (lambda b: drop(b, "lengths"), "no token ids"),
        (lambda b: setattr(b, "features", torch.randn(5, 2, 4, 3)), "3 numbers"),
        (lambda b: setattr(b, "tags", torch.rand(5, 2)), "has 2"),
    ],
)
@every_model
def test_an_unusable_minibatch_is_explained(case, change, message):
    model, batch = build(case), make_batch()
    change(batch)
    with pytest.raises(KitError, match=message):
        model.loss(batch)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("show_and_tell", {}, "show_attend_tell, show_tell"),
        ("show_tell", {"hiden_size": 3}, "hiden_size"),
        ("show_tell", {"dropout": 1.5}, "dropout"),
        ("show_attend_tell", {"attention": "hard"}, "attention"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(KitError, match=message):
        build_model(name, options, vocabulary_size=WORDS, feature_dim=PATCH)


def test_tags_are_not_read_unless_the_model_was_built_for_them():
    model, batch = build("soft", tags=False), make_batch()
    without = model.log_probs(batch)
    batch.tags = torch.rand(5, TAGS)
    assert torch.equal(model.log_probs(batch), without)
