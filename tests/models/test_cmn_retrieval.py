"""R2GenCMN with retrieved reports, beyond the contract of all flat models."""

import pytest
import torch

from r2genkit.decoding import DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.models.cmn_retrieval import CMNRetrievalConfig, ReportEncoder
from tests.models.test_contract import (
    CASES,
    PATCH,
    RETRIEVAL,
    TAGS,
    WORDS,
    build,
    make_batch,
    make_neighbours,
)

torch.set_num_threads(1)

KINDS = ("mean", "lstm", "transformer")
every_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind="mean", **options):
    settings = {**RETRIEVAL, "report_encoder": kind, **options}
    return build_model(
        "cmn_retrieval", settings, vocabulary_size=WORDS, feature_dim=PATCH, tag_count=TAGS, seed=0
    ).eval()


def none(count=5):
    return torch.zeros(count, 0, 6, dtype=torch.long)


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_without_reports_it_is_r2gencmn_bit_for_bit(kind, training):
    """Same seed: same weights, same dropout, same output, same text, same gradients."""
    plain, ours = build("cmn"), model_of(kind)
    shared = plain.state_dict()
    assert {n for n in ours.state_dict() if not n.startswith("reports.")} == set(shared)
    for name, value in shared.items():
        assert torch.equal(ours.state_dict()[name], value), name
    batch = make_batch()
    batch.neighbours = none()
    batch.view_mask[1, 1] = False
    losses = []
    for model in (plain, ours):
        model.train(training)
        torch.manual_seed(5)
        losses.append(model.loss(batch)["loss"])
        losses[-1].backward()
    assert torch.equal(*losses)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, ours.get_parameter(name).grad), name
    texts = [
        decode(
            m.eval(), batch, DecodingConfig(method="beam", beam_size=3, max_length=7), trace=True
        )
        for m in (plain, ours)
    ]
    for (a,), (b,) in zip(*texts):
        assert a.tokens == b.tokens and a.log_prob == b.log_prob
        assert set(a.trace) == set(b.trace)
        for name in a.trace:
            assert torch.equal(torch.as_tensor(a.trace[name]), torch.as_tensor(b.trace[name]))


@torch.no_grad()
def test_reports_stand_behind_the_patches():
    model, batch = model_of(), make_batch()
    sources, mask = model.visual_tokens(batch)
    assert sources.shape == (5, 2 * 4 + 3, PATCH) and mask.shape == (5, 11)
    assert torch.equal(sources[:, :8], batch.features.flatten(1, 2))
    assert mask[:, :8].all()
    assert mask[:, 8:].tolist() == [[True, True, n % 2 == 1] for n in range(5)]
    vectors, _ = model.reports(batch.neighbours)
    assert torch.equal(sources[:, 8:], vectors)


@every_kind
@torch.no_grad()
def test_reports_are_read(kind):
    model, batch = model_of(kind), make_batch()
    before = model.log_probs(batch)
    batch.neighbours = make_neighbours(seed=1)
    assert (model.log_probs(batch) - before).abs().amax((1, 2)).min() > 1e-5
    batch.neighbours = none()
    assert (model.log_probs(batch) - before).abs().amax((1, 2)).min() > 1e-5


@every_kind
@torch.no_grad()
def test_what_is_not_there_counts_as_nothing(kind):
    """An absent neighbour, padding behind a report, and slots of absent neighbours."""
    model, batch = model_of(kind), make_batch()
    want = model.log_probs(batch)
    longer = batch.select(range(5))
    longer.neighbours = torch.nn.functional.pad(batch.neighbours, (0, 3, 0, 2))
    torch.testing.assert_close(model.log_probs(longer), want)
    first = batch.select([0])
    first.neighbours = first.neighbours[:, :2]  # its third one is absent
    torch.testing.assert_close(model.log_probs(first), want[:1])
    nothing = batch.select(range(5))
    nothing.neighbours = torch.zeros_like(batch.neighbours)
    empty = batch.select(range(5))
    empty.neighbours = none()
    torch.testing.assert_close(model.log_probs(nothing), model.log_probs(empty))


@torch.no_grad()
def test_the_rank_of_a_report_matters_and_only_with_positions():
    batch = make_batch().select([1, 3])  # these have all three
    turned = batch.select([0, 1])
    turned.neighbours = batch.neighbours.flip(1)
    ranked, plain = model_of(), model_of(patch_positions=False)
    assert (ranked.log_probs(batch) - ranked.log_probs(turned)).abs().max() > 1e-5
    torch.testing.assert_close(plain.log_probs(batch), plain.log_probs(turned))


@torch.no_grad()
def test_a_report_is_the_mean_of_its_words_at_patch_scale():
    encoder = ReportEncoder(CMNRetrievalConfig(**RETRIEVAL), WORDS, PATCH).eval()
    vectors, present = encoder(torch.tensor([[[0, 3, 5, 5, 0], [0, 0, 0, 0, 0]]]))
    assert present.tolist() == [[True, False]] and (vectors[0, 1] == 0).all()
    mean = (encoder.words.weight[3] + 2 * encoder.words.weight[5]) / 3
    projected = encoder.project(mean)
    normed = (projected - projected.mean()) / (projected.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(vectors[0, 0], normed * encoder.norm.weight + encoder.type_embedding)


@torch.no_grad()
def test_an_lstm_reads_in_order_and_a_mean_does_not():
    one, other = torch.tensor([[[0, 3, 5, 0]]]), torch.tensor([[[0, 5, 3, 0]]])
    for kind, same in (("mean", True), ("lstm", False)):
        reports = model_of(kind).reports
        assert torch.allclose(reports(one)[0], reports(other)[0], atol=1e-6) == same


@every_kind
@torch.no_grad()
def test_attention_to_neighbours_is_kept_apart(kind):
    model, batch = model_of(kind), make_batch()
    batch.view_mask[0, 0] = False
    log_probs, traces = model.unroll(batch, trace=True)
    assert torch.equal(log_probs, model.log_probs(batch))
    steps = batch.tokens.shape[1] - 1
    assert traces["attention"].shape == (5, steps, 2, 4)
    assert traces["cross_attention"].shape == (5, steps, 2, 2, 2, 4)
    assert traces["neighbours"].shape == (5, steps, 3)
    assert traces["further_attention"].shape == (5, steps, 2, 2, 3)
    total = traces["attention"].sum((-1, -2)) + traces["neighbours"].sum(-1)
    torch.testing.assert_close(total, torch.ones(5, steps))
    torch.testing.assert_close(traces["neighbours"], traces["further_attention"][:, :, -1].mean(2))
    assert (traces["attention"][0, :, 0] == 0).all()
    assert (traces["neighbours"][::2, :, 2] == 0).all()
    assert (traces["neighbours"][:, :, 0] > 0).all()
    for method in ("greedy", "beam"):
        config = DecodingConfig(method=method, max_length=6, min_length=2)
        for (found,) in decode(model, batch, config, trace=True):
            assert found.trace["neighbours"].shape == (len(found.tokens), 3)
            assert found.trace["attention"].shape == (len(found.tokens), 2, 4)


@torch.no_grad()
def test_patch_traces_are_over_patches():
    model, batch = model_of(), make_batch()
    traces = model.patch_traces(batch)
    assert traces["patch_attention"].shape == (5, 1, 2, 8, 8)
    assert traces["patch_neighbours"].shape == (5, 1, 2, 8, 3)
    assert traces["slots"].shape == (5, 2, 4, 2, 3)
    total = traces["patch_attention"].sum(-1) + traces["patch_neighbours"].sum(-1)
    torch.testing.assert_close(total, torch.ones(5, 1, 2, 8))
    one = batch.select(range(5))
    one.features, one.view_mask = batch.features[:, :1], batch.view_mask[:, :1]
    assert model.patch_traces(one)["patch_neighbours"].shape == (5, 1, 2, 4, 3)


def test_missing_neighbours_are_not_passed_over():
    model, batch = model_of(), make_batch()
    batch.neighbours = None
    with pytest.raises(KitError, match="reads retrieved reports"):
        model.loss(batch)
    batch = make_batch(views=3)
    with pytest.raises(KitError, match="built for 2; set its option views to 3"):
        model.loss(batch)


def test_options_are_checked():
    with pytest.raises(KitError, match="multiple of heads"):
        model_of("transformer", report_size=7)
    assert CASES["cmn, reports by lstm"][0] == "cmn_retrieval"
