"""Released checkpoints: keys, shapes, and the numbers of the equations written down plainly."""

import math

import pytest
import torch
from torch import nn

from benchmarks.bench_transformer import Textbook
from r2genkit.batches import Batch, collate
from r2genkit.decoding import DecodingConfig, decode, search
from r2genkit.encoders.networks import build_encoder
from r2genkit.errors import KitError
from r2genkit.models import build_model, transformer
from r2genkit.models.released import TEXT, export_released, load_released, released_tensors
from r2genkit.text.vocabulary import Vocabulary

torch.set_num_threads(1)

PATCH, WORDS = 12, 15
SYSTEMS = pytest.mark.parametrize("system", ["r2gencmn", "r2gen"])
NO_IMAGES = {"image_encoder": False}
HEADS = {"r2gencmn": {"heads": 4, "read_slots": 5}, "r2gen": {"heads": 4, "memory_heads": 4}}


def released_shapes(system, d=16, ff=16, layers=3, words=WORDS, slots=None, patch=PATCH):
    """Keys and shapes of a released file as documented, image side left out."""
    slots = slots or {"r2gencmn": 24, "r2gen": 3}[system]
    shapes = {}

    def linear(name, out, into):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name):
        for part in ("a_2", "b_2") if system == "r2gencmn" else ("gamma", "beta"):
            shapes[f"{name}.{part}"] = (d,)

    linear("att_embed.0", d, patch)
    linear("logit", words, d)
    shapes["model.tgt_embed.0.lut.weight"] = (words, d)
    shapes["model.tgt_embed.1.pe"] = (1, 5000, d)
    for side, readers in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "src_attn"])):
        norm(f"model.{side}.norm")
        for layer in range(layers):
            name = f"model.{side}.layers.{layer}"
            for reader in readers:
                for i in range(4):
                    linear(f"{name}.{reader}.linears.{i}", d, d)
            linear(f"{name}.feed_forward.w_1", ff, d)
            linear(f"{name}.feed_forward.w_2", d, ff)
            for sublayer in range(1 + len(readers)):
                norm(f"{name}.sublayer.{sublayer}.norm")
                if system == "r2gen" and side == "decoder":
                    for mlp in ("mlp_gamma", "mlp_beta"):
                        linear(f"{name}.sublayer.{sublayer}.norm.{mlp}.0", d, slots * d)
                        linear(f"{name}.sublayer.{sublayer}.norm.{mlp}.2", d, d)
    if system == "r2gencmn":
        shapes["memory_matrix"] = (slots, d)
        shapes["model.src_embed.0.pe"] = (1, 5000, d)
        for i in range(4):
            linear(f"cmn.linears.{i}", d, d)
            linear(f"model.cmn.linears.{i}", d, d)
    else:
        for i in range(4):
            linear(f"model.rm.attn.linears.{i}", d, d)
        linear("model.rm.mlp.0", d, d)
        linear("model.rm.mlp.2", d, d)
        linear("model.rm.W", 2 * d, d)
        linear("model.rm.U", 2 * d, d)
    return {TEXT + key: shape for key, shape in shapes.items()}


def released_state(system, seed=0, **sizes):
    """Random weights in the released layout; texts of varied length under beam search."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in released_shapes(system, **sizes).items():
        if key.endswith(".pe"):
            place = torch.arange(5000.0)[:, None]
            angles = place / 10000 ** (torch.arange(0, shape[2], 2) / shape[2])
            state[key] = torch.zeros(shape)
            state[key][0, :, 0::2], state[key][0, :, 1::2] = angles.sin(), angles.cos()
            continue
        state[key] = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
    state[f"{TEXT}logit.weight"] *= 3
    for key in state:
        if ".model.cmn." in key:
            state[key] = state[key.replace(".model.cmn.", ".cmn.")]
    return state


def save(state, path):
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}, "monitor_best": 0.1}, path)
    return path


def plain(state):
    return {key.removeprefix(TEXT): value for key, value in state.items()}


class TextbookR2Gen(Textbook):
    """R2Gen: no memory read, no patch positions; a relational memory and MCLN instead."""

    memory_heads = 4

    def norm(self, x, name, memory=None):
        scale, shift = self.weights[f"{name}.gamma"], self.weights[f"{name}.beta"]
        if memory is not None:
            change = {}
            for mlp in ("mlp_gamma", "mlp_beta"):
                hidden = self.linear(memory, f"{name}.{mlp}.0").relu()
                change[mlp] = self.linear(hidden, f"{name}.{mlp}.2")
            scale, shift = scale + change["mlp_gamma"], shift + change["mlp_beta"]
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return scale * (x - mean) / (std + 1e-6) + shift

    def embed_patches(self, x):
        return x

    def embed_tokens(self, tokens):
        x = self.embed(tokens)
        size = x.shape[-1]
        slots = self.weights["model.decoder.layers.0.sublayer.0.norm.mlp_gamma.0.weight"].shape[1]
        memory = torch.eye(slots // size, size).expand(len(tokens), -1, -1)
        rows = []
        for t in range(tokens.shape[1]):
            word = x[:, t : t + 1]
            own = torch.cat([memory, word], 1)
            new = memory + self.attention(memory, own, None, "model.rm.attn")
            hidden = self.linear(new, "model.rm.mlp.0").relu()
            new = new + self.linear(hidden, "model.rm.mlp.2").relu()
            gates = self.linear(word, "model.rm.W") + self.linear(memory.tanh(), "model.rm.U")
            take, keep = gates[..., :size].sigmoid(), gates[..., size:].sigmoid()
            memory = take * new.tanh() + keep * memory
            rows.append(memory.flatten(1))
        return self.embed(tokens), torch.stack(rows, 1)


def textbook(system, state):
    kind = Textbook if system == "r2gencmn" else TextbookR2Gen
    return kind(plain(state), heads=4, chosen=5)


def make_batch(count=6, seed=1, views=2):
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 9, 6, 11, 2, 8, 5][:count]
    words = [torch.randint(1, WORDS, (n,), generator=generator).tolist() for n in lengths]
    return collate(
        [f"s{i}" for i in range(count)],
        torch.ones(count, views, dtype=torch.bool),
        features=2 * torch.randn(count, views, 7, PATCH, generator=generator),
        tokens=[[0, *row, 0] for row in words],
    )


@SYSTEMS
@pytest.mark.parametrize("views", [1, 2])
@torch.no_grad()
def test_log_probs_are_those_of_the_released_equations(system, views, tmp_path):
    state, batch = released_state(system), make_batch(views=views)
    model = load_released(save(state, tmp_path / "a.pth"), system, **HEADS[system], **NO_IMAGES)
    book = textbook(system, state)
    want = book.decode(batch.tokens[:, :-1], book.encode(batch.features.flatten(1, 2)))
    used = batch.token_weights > 0  # at padding the released mask differs, and nothing reads it
    torch.testing.assert_close(model.log_probs(batch)[used], want[used], atol=1e-5, rtol=1e-5)
    assert want[used].std() > 1  # weights are large enough for every part to matter
    torch.testing.assert_close(model.loss(batch)["loss"], book.loss(batch))


# Weights and studies whose best texts end early, late, and not at all.
@pytest.mark.parametrize(
    ("system", "seed", "sharpness", "studies"),
    [("r2gencmn", 0, 1.0, [0, 1, 4]), ("r2gen", 2, 2.0, [0, 1])],
)
@torch.no_grad()
def test_beam_texts_are_those_of_the_released_rule(system, seed, sharpness, studies, tmp_path):
    """60 steps, finished texts at -1000, highest sum: what length_penalty 0 gives."""
    state, batch = released_state(system, seed, layers=1), make_batch(6, seed).select(studies)
    state[f"{TEXT}logit.weight"] *= sharpness
    model = load_released(save(state, tmp_path / "a.pth"), system, **HEADS[system], **NO_IMAGES)
    want = textbook(system, state).beam(batch.features.flatten(1, 2))
    config = DecodingConfig(method="beam", beam_size=3, length_penalty=0.0, max_length=60)
    for (found,), (text, score) in zip(decode(model, batch, config), want):
        assert list(found.tokens) == [word for word in text if word]
        assert found.log_prob == pytest.approx(score, abs=1e-3)
    lengths = {len(text) for text, _ in want}
    assert max(lengths) == 60 and min(lengths) < 10


@SYSTEMS
def test_gradients_are_those_of_the_released_equations(system, tmp_path):
    state, batch = released_state(system, layers=2), make_batch()
    model = load_released(save(state, tmp_path / "a.pth"), system, **HEADS[system], **NO_IMAGES)
    book = textbook(system, state)
    for key, value in book.weights.items():
        if not key.endswith(".pe"):
            book.weights[key] = value.clone().requires_grad_()
    for key in [key for key in book.weights if key.startswith("model.cmn.")]:
        book.weights[key] = book.weights[key.removeprefix("model.")]
    model.loss(batch)["loss"].backward()
    book.loss(batch).backward()
    for key, tensor in released_tensors(model).items():
        if not key.endswith(".pe"):
            want = book.weights[key.removeprefix(TEXT)].grad
            torch.testing.assert_close(tensor.grad, want, atol=1e-5, rtol=1e-4, msg=key)
            assert want.abs().max() > 0


def full_shapes(system):
    """The real sizes, ResNet-101 included."""
    from torchvision.models import resnet101

    shapes = released_shapes(
        system,
        d=512,
        ff=512,
        words=761,
        patch=2048,
        slots={"r2gencmn": 2048, "r2gen": 3}[system],
    )
    with torch.device("meta"):
        network = nn.Sequential(*list(resnet101(weights=None).children())[:-2])
    image = {f"visual_extractor.model.{k}": v.shape for k, v in network.state_dict().items()}
    return {**shapes, **image}


@SYSTEMS
def test_every_key_of_the_real_size_finds_its_place_and_comes_back(system, tmp_path):
    # One number per tensor, repeated without memory: 80 million parameters in a small file.
    state = {
        key: torch.tensor(float(number)).expand(shape)
        for number, (key, shape) in enumerate(full_shapes(system).items())
    }
    for key in state:
        if ".model.cmn." in key:
            state[key] = state[key.replace(".model.cmn.", ".cmn.")]
        if "src_embed" in key:
            state[key] = state[key.replace("src_embed.0", "tgt_embed.1")]
    path = save(state, tmp_path / "full.pth")
    model = load_released(path, system)
    counted = sum(p.numel() for name, p in model.named_parameters() if name[:8] != "encoder.")
    assert round(counted / 1e6, 2) == {"r2gencmn": 16.55, "r2gen": 35.97}[system]
    assert round(model.encoder.parameter_count / 1e6, 2) == 42.50
    export_released(model, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True, mmap=True)["state_dict"]
    assert back.keys() == state.keys()
    for key, value in back.items():
        assert value.shape == state[key].shape
        assert value.flatten()[0] == state[key].flatten()[0]


@SYSTEMS
@torch.no_grad()
def test_a_round_trip_is_exact(system, tmp_path):
    state = released_state(system)
    path = save(state, tmp_path / "a.pth")
    model = load_released(path, system, **HEADS[system], **NO_IMAGES)
    export_released(model, tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert set(back) == {"epoch", "state_dict", "optimizer", "monitor_best"}
    assert back["state_dict"].keys() == state.keys()
    for key, value in back["state_dict"].items():
        assert torch.equal(value, state[key]), key
    again = load_released(tmp_path / "b.pth", system, **HEADS[system], **NO_IMAGES)
    batch = make_batch()
    assert torch.equal(again.log_probs(batch), model.log_probs(batch))


def test_what_this_package_trains_can_be_exported_too(tmp_path):
    settings = {"size": 16, "feed_forward_size": 8, "heads": 4, "slots": 20, "read_slots": 5}
    model = build_model("cmn", settings, vocabulary_size=WORDS, feature_dim=PATCH, seed=0).eval()
    export_released(model, tmp_path / "new" / "cmn.pth")
    again = load_released(
        tmp_path / "new" / "cmn.pth", "r2gencmn", **HEADS["r2gencmn"], **NO_IMAGES
    )
    batch = make_batch()
    assert torch.equal(again.log_probs(batch), model.log_probs(batch))


def test_a_wrapped_model_and_a_bare_state_dict_are_read(tmp_path):
    state = released_state("r2gen", layers=1)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "bare.pth")
    model = load_released(tmp_path / "bare.pth", "r2gen", **HEADS["r2gen"], **NO_IMAGES)
    assert model.config.decoder_layers == 1
    assert torch.equal(model.output.weight, state[f"{TEXT}logit.weight"])


def without(state, key):
    return {name: value for name, value in state.items() if name != TEXT + key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "logit.bias"), r"misses encoder_decoder\.logit\.bias"),
        (lambda s: without(s, "memory_matrix"), r"no r2gencmn checkpoint.*memory_matrix"),
        (lambda s: {**s, f"{TEXT}extra": torch.ones(1)}, r"unexpected encoder_decoder\.extra"),
        (lambda s: {**s, f"{TEXT}logit.bias": torch.ones(3)}, r"shape \[3\] where \[15\]"),
        (lambda s: {**s, f"{TEXT}cmn.linears.0.bias": torch.ones(16)}, "same tensor"),
        (lambda s: released_state("r2gen"), "no r2gencmn checkpoint"),
        (lambda s: {}, "no state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_explained(change, message, tmp_path):
    path = save(change(released_state("r2gencmn")), tmp_path / "a.pth")
    with pytest.raises(KitError, match=message) as caught:
        load_released(path, "r2gencmn", **HEADS["r2gencmn"], **NO_IMAGES)
    assert "\n" not in str(caught.value)


class Dangerous:
    def __reduce__(self):
        return print, ("this must not run",)


def test_files_that_are_no_plain_checkpoint_are_refused(tmp_path, capsys):
    with pytest.raises(KitError, match="does not exist"):
        load_released(tmp_path / "none.pth", "r2gen")
    with pytest.raises(KitError, match="choose r2gencmn or r2gen"):
        load_released(tmp_path / "none.pth", "r2gen2")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"state_dict": {"a": Dangerous()}}, tmp_path / "code.pth")
    for name in ("text.pth", "code.pth"):
        with pytest.raises(KitError, match="weights only"):
            load_released(tmp_path / name, "r2gen")
    assert "this must not run" not in capsys.readouterr().out


def test_missing_images_wrong_options_and_other_vocabularies_are_told(tmp_path):
    path = save(released_state("r2gencmn", layers=1, patch=2048), tmp_path / "a.pth")
    with pytest.raises(KitError, match=r"misses visual_extractor\.model\.0\.weight"):
        load_released(path, "r2gencmn", **HEADS["r2gencmn"])
    with pytest.raises(KitError, match="heads"):
        load_released(path, "r2gencmn", heads=3, **NO_IMAGES)
    vocabulary = Vocabulary.build(["the heart is large ."], min_count=1)
    with pytest.raises(KitError, match=rf"15 ids and the vocabulary has {len(vocabulary)}"):
        load_released(path, "r2gencmn", vocabulary, **HEADS["r2gencmn"], **NO_IMAGES)


@pytest.mark.parametrize(
    ("name", "settings", "tags", "message"),
    [
        ("r2gen", {"variant": "rm"}, 0, "no variant 'rm'"),
        ("cmn", {}, 4, "no place for tags"),
        ("cmn", {"patch_projection": 12}, 0, "no place for a patch projection"),
        ("show_tell", {}, 0, "only R2Gen and R2GenCMN"),
    ],
)
def test_what_the_format_cannot_hold_is_not_exported(name, settings, tags, message, tmp_path):
    sizes = {} if name == "show_tell" else {"size": 16, "feed_forward_size": 8}
    model = build_model(
        name, {**sizes, **settings}, vocabulary_size=WORDS, feature_dim=PATCH, tag_count=tags
    )
    with pytest.raises(KitError, match=message):
        export_released(model, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


@SYSTEMS
@torch.no_grad()
def test_a_released_model_decodes_without_trained_views_too(system, tmp_path):
    """One view, as on MIMIC-CXR, and an absent second view give the same text."""
    path = save(released_state(system, layers=1), tmp_path / "a.pth")
    model = load_released(path, system, **HEADS[system], **NO_IMAGES)
    two = make_batch(3)
    two.view_mask[:, 1] = False
    one = Batch(two.study_ids, None, two.features[:, :1], two.view_mask[:, :1])
    config = DecodingConfig(method="beam", max_length=12)
    a, b = (search(model, batch, config) for batch in (one, two))
    assert torch.equal(a.tokens, b.tokens)
    torch.testing.assert_close(a.log_probs, b.log_probs)


@SYSTEMS
@torch.no_grad()
def test_dropout_stands_where_the_released_code_has_it(system, tmp_path, monkeypatch):
    """Every dropout becomes a multiplication by its keep rate; then training can be compared."""
    state, batch = released_state(system), make_batch()
    rates = {"dropout": 0.2, "patch_dropout": 0.4}
    model = load_released(
        save(state, tmp_path / "a.pth"), system, **HEADS[system], **NO_IMAGES, **rates
    )
    book = textbook(system, state)
    book.dropout, book.patch_dropout = rates.values()

    def scaled(x, p=0.5, training=True, inplace=False):
        return x * (1 - p) if training else x

    monkeypatch.setattr(nn.functional, "dropout", scaled)
    monkeypatch.setattr(transformer, "dropout", scaled)
    without = model.loss(batch)["loss"]
    model.train()
    torch.testing.assert_close(model.loss(batch)["loss"], book.loss(batch), atol=1e-5, rtol=1e-5)
    assert (model.loss(batch)["loss"] - without).abs() > 1e-3


@torch.no_grad()
def test_the_image_network_travels_with_the_model(tmp_path):
    """From pixels to the same words after export and load, batch statistics included."""
    settings = {"size": 16, "feed_forward_size": 16, "memory_heads": 4, "heads": 4}
    model = build_model(
        "r2gen",
        settings,
        vocabulary_size=WORDS,
        feature_dim=2048,
        encoder=build_encoder("resnet101", weights="none"),
        seed=0,
    ).eval()
    for name, buffer in model.encoder.body.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1
    export_released(model, tmp_path / "a.pth")
    again = load_released(tmp_path / "a.pth", "r2gen", **HEADS["r2gen"])
    images = torch.randn(2, 2, 3, 64, 64)
    batch = Batch(("a", "b"), images, None, torch.ones(2, 2, dtype=torch.bool))
    batch.tokens = make_batch(2).tokens
    assert torch.equal(again.log_probs(batch), model.log_probs(batch))
    # Without its network the same file serves cached features.
    blind = load_released(tmp_path / "a.pth", "r2gen", **HEADS["r2gen"], **NO_IMAGES)
    batch.features, batch.images = model.patch_features(batch), None
    torch.testing.assert_close(blind.log_probs(batch), again.log_probs(batch))
