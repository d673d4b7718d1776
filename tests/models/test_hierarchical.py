"""The contract that every model keeps which writes sentence by sentence.

A new model joins by a line in ``CASES``.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import Batch, collate
from r2genkit.decoding import DecodingConfig, decode, search
from r2genkit.errors import KitError
from r2genkit.metrics.nlg import bleu_counts, bleu_from_counts
from r2genkit.models import MODELS, HierarchicalModel, build_model
from r2genkit.models.hierarchical import short_and_long
from r2genkit.text.vocabulary import Vocabulary
from tests.models.test_contract import PATCH, TAGS, WORDS, PixelEncoder, strike_more

torch.set_num_threads(1)

STOP = 1  # id of the full stop
SMALL = {"embedding_size": 7, "hidden_size": 9, "sentences": 4, "words": 5}
ATTEND = {**SMALL, "attention_size": 8}
RECURRENT = {**ATTEND, "channels": 4}

CASES = {
    "hier_rnn": ("hier_rnn", SMALL),
    "hier_rnn smoothed": ("hier_rnn", {**SMALL, "label_smoothing": 0.1}),
    "hier_rnn, topic everywhere": ("hier_rnn", {**SMALL, "topic_everywhere": True}),
    "co_attention": ("co_attention", {**ATTEND, "top_tags": 3, "topic_everywhere": True}),
    "co_attention, as published": (
        "co_attention",
        {**ATTEND, "tags_in_words": False, "doubly_stochastic": 0.0},
    ),
    "mrna": ("mrna", RECURRENT),
    "mrna, improved": (
        "mrna",
        {**RECURRENT, "memory": "all", "tag_topic": True, "self_feeding": 0.5},
    ),
    "hier_rnn, checklist": ("hier_rnn", {**SMALL, "checklist": True}),
    "co_attention, checklist": ("co_attention", {**ATTEND, "top_tags": 3, "checklist": True}),
    "mrna, checklist": ("mrna", {**RECURRENT, "checklist": True, "topic_everywhere": True}),
}


def build(case, *, seed=0, **sizes):
    name, options = CASES[case]
    sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH, "tag_count": TAGS, **sizes}
    model = build_model(name, options, full_stop=STOP, seed=seed, **sizes)
    return strike_more(model).eval()


def make_batch(model, count=5, seed=0, ids=None):
    """Reports of one to four sentences with one to four words."""
    generator = torch.Generator().manual_seed(seed)
    reports = []
    for i in range(count):
        report = [0]
        for k in range(1 + i % 4):
            length = 1 + (i + k) % 4
            words = torch.randint(2, WORDS, (length,), generator=generator).tolist()
            report += [*words, STOP]
        reports.append([*report, 0])
    return collate(
        [f"s{i}" for i in range(count)],
        torch.ones(count, 2, dtype=torch.bool),
        features=torch.randn(count, 2, 4, PATCH, generator=generator),
        tokens=ids or reports,
        tags=torch.rand(count, TAGS, generator=generator),
        layout=model.layout,
    )


def rewritten(model, batch, found, place, longest):
    """The minibatch with the texts ``found`` as its reports."""
    ids = []
    for tokens, length in zip(found.tokens[:, place].tolist(), found.lengths[:, place].tolist()):
        ids.append([0, *tokens[:length], *([0] if length < longest else [])])
    new = collate(
        batch.study_ids,
        batch.view_mask,
        features=batch.features,
        tokens=ids,
        tags=batch.tags,
        layout=model.layout,
    )
    return new


every_model = pytest.mark.parametrize("case", CASES)


def test_every_hierarchical_model_is_tested():
    named = {name for name, kind in MODELS.items() if issubclass(kind, HierarchicalModel)}
    assert {name for name, _ in CASES.values()} == named


@every_model
@torch.no_grad()
def test_a_score_is_the_sum_over_steps(case):
    """Teacher forcing at once = one study, one sentence, one word after the other."""
    model, batch = build(case), make_batch(build(case))
    want = []
    for row in range(5):
        state, total = model.encode(batch.select([row])), 0.0
        for place in range(int((batch.sentence_lengths[row] > 0).sum())):
            topic, state = model.plan(state)
            word_state = model.begin(topic, state)
            ids = batch.sentences[row, place, : batch.sentence_lengths[row, place]]
            for before, after in pairwise(ids):
                log_probs, word_state = model.step(before[None], word_state)
                total += log_probs[0, after]
            state = model.tell(ids[None, 1:], state)
            odds, state = model.read(model.sentence_vectors(ids[None, 1:]), state)
            stop = int(batch.stops[row, place])
            if stop >= 0:
                total += nn.functional.logsigmoid(odds[0] if stop else -odds[0])
        want.append(total)
    torch.testing.assert_close(model.score(batch), torch.stack(want), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("longest", [30, 9])
@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
@every_model
@torch.no_grad()
def test_a_written_report_has_the_score_it_was_given(case, method, longest):
    model = build(case)
    batch = make_batch(model)
    samples = 3 if method == "sample" else 1
    config = DecodingConfig(method=method, max_length=longest, samples=samples)
    found = search(model, batch, config, seed=3)
    assert found.tokens.shape == (5, samples, longest)
    for place in range(samples):
        again = rewritten(model, batch, found, place, longest)
        torch.testing.assert_close(model.score(again), found.log_probs[:, place])
    torch.testing.assert_close(found.token_log_probs.sum(-1), found.log_probs)


@every_model
@torch.no_grad()
def test_the_loss_is_what_the_score_counts(case):
    model = build(case)
    batch = make_batch(model)
    parts = model.loss(batch)
    rest = sum(value for name, value in parts.items() if name != "loss")
    torch.testing.assert_close(parts["loss"], rest)
    if model.config.label_smoothing:
        return
    targets, decisions = batch.sentence_weights.sum(), (batch.stops >= 0).sum()
    total = parts["word_ce"] * targets + parts["stop_ce"] / model.config.stop_weight * decisions
    torch.testing.assert_close(total, -model.score(batch).sum())


@given(st.lists(st.integers(0, 12), max_size=12))
def test_rows_are_grouped_with_the_least_padding(lengths):
    groups = short_and_long(torch.tensor(lengths, dtype=torch.long))
    rows = [row for group, _ in groups for row in group.tolist()]
    assert sorted(rows) == [row for row, length in enumerate(lengths) if length]
    for group, width in groups:
        assert width == max(lengths[row] for row in group)
    kept = sorted(length for length in lengths if length)
    cuts = [(kept[:n], kept[n:]) for n in range(len(kept) + 1)]
    least = min(sum(len(part) * max(part, default=0) for part in cut) for cut in cuts)
    assert sum(len(group) * width for group, width in groups) == least


@every_model
@torch.no_grad()
def test_weights_and_smoothing_enter_the_word_loss(case):
    model = build(case)
    batch = make_batch(model)
    batch.sentence_weights = batch.sentence_weights * torch.rand(batch.sentence_weights.shape)
    log_probs, smoothing = model.unroll(batch).log_probs(), model.config.label_smoothing
    total = weight = 0.0
    for place in (batch.sentence_weights > 0).nonzero().tolist():
        w = batch.sentence_weights[tuple(place)].item()
        own = log_probs[tuple(place)]
        target = batch.sentences[place[0], place[1], place[2] + 1]
        total -= w * ((1 - smoothing) * own[target] + smoothing * own.mean()).item()
        weight += w
    assert model.loss(batch)["word_ce"].item() == pytest.approx(total / weight, rel=1e-5)
    plain = make_batch(model)
    want = model.loss(plain)["word_ce"]
    plain.sentence_weights = None
    torch.testing.assert_close(model.loss(plain)["word_ce"], want)


@every_model
@torch.no_grad()
def test_padding_changes_nothing(case):
    model = build(case)
    batch = make_batch(model, 3)  # three sentences at most: there is room for one more
    longer = batch.select(range(3))
    longer.sentences = nn.functional.pad(batch.sentences, (0, 3, 0, 1))
    longer.sentence_weights = nn.functional.pad(batch.sentence_weights, (0, 3, 0, 1))
    longer.sentence_lengths = nn.functional.pad(batch.sentence_lengths, (0, 1))
    longer.stops = nn.functional.pad(batch.stops, (0, 1), value=-1)
    torch.testing.assert_close(model.score(longer), model.score(batch))
    for name, value in model.loss(batch).items():
        torch.testing.assert_close(model.loss(longer)[name], value)


@every_model
@torch.no_grad()
def test_a_study_does_not_depend_on_its_minibatch(case):
    model = build(case)
    batch = make_batch(model)
    batch.view_mask[3, 1] = False
    together = model.score(batch)
    configs = [
        DecodingConfig(max_length=25),
        DecodingConfig(method="beam", max_length=25, no_repeat_ngram=2),
        DecodingConfig(method="sample", max_length=25, samples=2),
    ]
    whole = [decode(model, batch, config, seed=1, trace=True) for config in configs]
    for row in range(5):
        one = batch.select([row])
        torch.testing.assert_close(model.score(one)[0], together[row], atol=1e-5, rtol=1e-5)
        for config, texts in zip(configs, whole):
            (alone,) = decode(model, one, config, seed=1, trace=True)
            assert [h.tokens for h in alone] == [h.tokens for h in texts[row]]
            for mine, other in zip(alone, texts[row]):
                assert mine.log_prob == pytest.approx(other.log_prob, abs=1e-4)
                assert set(mine.trace) == set(other.trace)
                for name, value in mine.trace.items():
                    torch.testing.assert_close(value, other.trace[name], atol=1e-5, rtol=1e-5)


@every_model
@torch.no_grad()
def test_beam_of_one_is_greedy_and_a_wider_one_writes_likelier_first_sentences(case):
    model = build(case)
    batch = make_batch(model)
    for rules in ({}, {"no_repeat_ngram": 2}, {"min_length": 9}, {"end_bias": -2.0}):
        greedy = search(model, batch, DecodingConfig(max_length=25, **rules))
        beam = DecodingConfig(method="beam", beam_size=1, max_length=25, **rules)
        assert torch.equal(search(model, batch, beam).tokens, greedy.tokens)

    def first(found):
        ends = (found.tokens[:, 0] == STOP).int().argmax(1)
        upto = torch.arange(found.tokens.shape[-1]) <= ends.unsqueeze(1)
        return (found.token_log_probs[:, 0] * upto).sum(1)

    wide = search(model, batch, DecodingConfig(method="beam", beam_size=12, max_length=25))
    narrow = search(model, batch, DecodingConfig(max_length=25))
    assert (first(wide) >= first(narrow) - 1e-5).all()


@every_model
@torch.no_grad()
def test_waiting_for_no_one_gives_the_same(case):
    model = build(case)
    batch = make_batch(model)
    for method in ("greedy", "beam", "sample"):
        config = DecodingConfig(method=method, max_length=25)
        found = search(model, batch, config, seed=2, trace=True)
        steady = config.model_copy(update={"early_stop": False})
        other = search(model, batch, steady, seed=2, trace=True)
        assert torch.equal(found.tokens, other.tokens)
        torch.testing.assert_close(found.log_probs, other.log_probs)
        for name, value in found.traces.items():
            torch.testing.assert_close(value, other.traces[name])


def force(model, odds):
    """Make the stop control give these log-odds always."""
    with torch.no_grad():
        model.stop.weight.zero_()
        model.stop.bias.fill_(odds)


def count_sentences(found):
    return (found.tokens[:, 0] == STOP).sum(1).tolist()


@every_model
@torch.no_grad()
def test_the_stop_control_decides_how_many_sentences(case):
    model = build(case)
    batch = make_batch(model)
    plain = DecodingConfig(max_length=40)
    force(model, 0.5)
    assert count_sentences(search(model, batch, plain)) == [1] * 5
    found = search(model, batch, plain.model_copy(update={"end_bias": -1.0}))
    assert count_sentences(found) == [4] * 5  # the bias outweighs it: as many as allowed
    found = search(model, batch, plain.model_copy(update={"min_length": 7}))
    before_last = [row[: int((row == STOP).nonzero()[-2]) + 1] for row in found.tokens[:, 0]]
    assert (found.lengths[:, 0] >= 7).all() and all(len(row) < 7 for row in before_last)
    force(model, -0.5)
    found = search(model, batch, plain)
    assert count_sentences(found) == [4] * 5
    # The last sentence allowed is followed by no decision; three times the report went on.
    words = search(model, batch, plain).token_log_probs.sum(-1)[:, 0]
    force(model, -50.0)
    sure = search(model, batch, plain).token_log_probs.sum(-1)[:, 0]
    going_on = nn.functional.logsigmoid(torch.tensor(0.5))
    torch.testing.assert_close(words - sure, (3 * going_on).expand(5))
    # Sampling stops as often as the odds say.
    force(model, 0.0)
    drawn = search(
        model, batch, DecodingConfig(method="sample", samples=200, max_length=40), seed=0
    )
    single = ((drawn.tokens == STOP).sum(-1) == 1).float().mean()
    assert 0.45 < single < 0.55


@every_model
@torch.no_grad()
def test_no_sequence_of_words_is_repeated_anywhere_in_the_report(case):
    model = build(case)
    force(model, -50.0)
    batch = make_batch(model)

    def repeated(found, n):
        hits = 0
        for row in found.tokens[:, 0].tolist():
            seen = set()
            for sentence in " ".join(map(str, row)).split(f" {STOP} "):
                words = [word for word in sentence.split() if word not in ("0", str(STOP))]
                grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
                hits += len([g for g in grams if g in seen]) + len(grams) - len(set(grams))
                seen |= set(grams)
        return hits

    for method in ("greedy", "beam"):
        free = search(model, batch, DecodingConfig(method=method, max_length=40))
        assert repeated(free, 2) > 0  # an untrained model repeats itself
        for n in (1, 2, 3):
            config = DecodingConfig(method=method, max_length=40, no_repeat_ngram=n)
            if n > 1 or len(batch.tokens[0]) * 4 <= WORDS:
                assert repeated(search(model, batch, config), n) == 0


@every_model
@torch.no_grad()
def test_sentences_have_words_and_no_full_stop_inside(case):
    model = build(case)
    batch = make_batch(model)
    with torch.no_grad():
        model.words.output.bias[0] = model.words.output.bias[STOP] = 20.0
    tokens = search(model, batch, DecodingConfig(max_length=40)).tokens[:, 0]
    for row in tokens.tolist():
        for word, after in zip([STOP, *row], row):
            assert not (word == STOP and after == STOP)
    force(model, -50.0)
    with torch.no_grad():
        model.words.output.bias[0] = -20.0
    longest = search(model, batch, DecodingConfig(max_length=40))
    assert longest.lengths.tolist() == [[24]] * 5  # 4 sentences of 5 words, each with its stop


@every_model
@torch.no_grad()
def test_traces_have_a_row_per_token_and_one_map_per_sentence(case):
    model = build(case)
    batch = make_batch(model)
    batch.view_mask[1, 1] = False
    force(model, -50.0)
    texts = decode(model, batch, DecodingConfig(max_length=40), trace=True)
    for (hypothesis,), mask in zip(texts, batch.view_mask):
        number = hypothesis.trace["sentence"]
        assert len(number) == len(hypothesis.tokens)
        stops = torch.tensor([token == STOP for token in hypothesis.tokens]).int()
        assert number.tolist() == (stops.cumsum(0) - stops).tolist()
        if "attention" not in hypothesis.trace:
            assert case.startswith("hier_rnn")
            continue
        attention = torch.as_tensor(hypothesis.trace["attention"])  # [T, V, S]
        torch.testing.assert_close(attention.sum((1, 2)), torch.ones(len(number)))
        assert (attention[:, ~mask] == 0).all()
        for place in range(4):
            rows = attention[torch.as_tensor(number) == place]
            assert (rows == rows[0]).all()


@every_model
@torch.no_grad()
def test_traces_of_teacher_forcing_are_those_of_writing(case):
    model = build(case)
    batch = make_batch(model)
    found = search(model, batch, DecodingConfig(max_length=40), trace=True)
    again = rewritten(model, batch, found, 0, 40)
    unrolled = model.unroll(again, trace=True).traces
    assert set(unrolled) == set(found.traces) - {"sentence"}
    for name, value in unrolled.items():
        for row in range(5):
            for place in found.traces["sentence"][row, 0].unique().tolist():
                if place >= 0:
                    at = (found.traces["sentence"][row, 0] == place).int().argmax()
                    torch.testing.assert_close(found.traces[name][row, 0, at], value[row, place])


@every_model
def test_the_gradient_reaches_every_parameter(case):
    model = build(case).train()
    model.loss(make_batch(model))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_model
@torch.no_grad()
def test_images_and_tags_are_used(case):
    model = build(case).double()
    batch = make_batch(model)
    batch.features, batch.tags = batch.features.double(), batch.tags.double()
    before = model.score(batch)
    for view in range(2):
        changed = batch.select(range(5))
        changed.features[:, view] += torch.randn(changed.features[:, view].shape)
        assert (model.score(changed) - before).abs().min() > 1e-7
    changed = batch.select(range(5))
    changed.tags = 1 - changed.tags
    assert (model.score(changed) - before).abs().min() > 1e-7


@every_model
@torch.no_grad()
def test_an_absent_view_counts_as_none(case):
    model = build(case)
    batch = make_batch(model)
    only = batch.select(range(5))
    only.features, only.view_mask = batch.features[:, :1], batch.view_mask[:, :1]
    batch.view_mask[:, 1] = False
    torch.testing.assert_close(model.score(batch), model.score(only))
    config = DecodingConfig(max_length=25)
    assert torch.equal(search(model, batch, config).tokens, search(model, only, config).tokens)


@every_model
def test_end_to_end_equals_cached_features(case):
    encoder = PixelEncoder()
    model = build(case, encoder=encoder)
    batch = make_batch(model)
    pixels = batch.select(range(5))
    pixels.images, pixels.features = torch.randn(5, 2, 3, 8, 8), None
    batch.features = encoder(pixels.images.flatten(0, 1)).view(5, 2, 4, PATCH).detach()
    torch.testing.assert_close(model.score(pixels), model.score(batch))
    model.loss(pixels)["loss"].backward()
    assert encoder.project.weight.grad.abs().sum() > 0


REPORTS = (
    "the heart is normal in size . the lungs are clear . no pleural effusion .",
    "heart size is enlarged . there is a small left pleural effusion . no pneumothorax is seen .",
    "the lungs are hyperinflated . no focal consolidation .",
    "stable calcified granuloma in the right upper lobe . the heart is normal in size .",
    "low lung volumes . there is bibasilar atelectasis . heart size is normal . no effusion .",
    "the aorta is tortuous . the lungs are clear . degenerative changes of the spine are noted .",
    "no acute cardiopulmonary abnormality is identified .",
    "there is a nodule in the left lung . no pleural effusion . the heart is normal in size .",
)


@every_model
def test_learns_eight_reports_by_heart(case):
    """Above .95 BLEU-4 on themselves, written from image and tags alone."""
    name, options = CASES[case]
    options = {**options, "embedding_size": 48, "hidden_size": 64, "words": 20}
    options |= {"dropout": 0.0, "doubly_stochastic": 0.0} if "co_" in name else {"dropout": 0.0}
    options |= {"channels": 16} if name == "mrna" else {}
    vocabulary = Vocabulary.build(REPORTS, min_count=1)
    model = build_model(
        name,
        options,
        vocabulary_size=len(vocabulary),
        feature_dim=PATCH,
        tag_count=TAGS,
        full_stop=vocabulary.full_stop,
        seed=0,
    )
    ids = [vocabulary.encode(text) for text in REPORTS]
    batch = make_batch(model, 8, ids=ids)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(220):
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
    for config in (DecodingConfig(), DecodingConfig(method="beam")):
        texts = [h.text for (h,) in decode(model, batch, config, vocabulary=vocabulary)]
        counts = sum(bleu_counts(text, report) for text, report in zip(texts, REPORTS))
        assert bleu_from_counts(counts)[3] > 0.95, texts


@every_model
def test_stays_on_one_device(case):
    """On fake CUDA tensors, where mixing devices raises. cuDNN cannot be faked: switched off."""
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=False):
        with torch.device("cuda"):
            name, options = CASES[case]
            model = build_model(
                name,
                options,
                vocabulary_size=WORDS,
                feature_dim=PATCH,
                tag_count=TAGS,
                full_stop=STOP,
            )
            batch = Batch(
                ("a", "b"),
                None,
                torch.randn(2, 2, 4, PATCH),
                torch.ones(2, 2, dtype=torch.bool),
                tags=torch.rand(2, TAGS),
                sentences=torch.zeros(2, 3, 6, dtype=torch.long),
                sentence_lengths=torch.full((2, 3), 6),
                stops=torch.zeros(2, 3, dtype=torch.long),
            )
        assert all(value.device.type == "cuda" for value in model.loss(batch).values())
        assert model.score(batch).device.type == "cuda"
        model.eval()
        for method in ("greedy", "beam", "sample"):
            config = DecodingConfig(
                method=method, max_length=9, early_stop=False, no_repeat_ngram=2, beam_size=2
            )
            with torch.no_grad():
                found = search(model, batch, config, seed=0, trace=True)
            assert found.tokens.device.type == found.log_probs.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_model
@torch.no_grad()
def test_a_gpu_gives_the_same(case):
    model = build(case)
    batch = make_batch(model)
    here, loss = model.score(batch), model.loss(batch)["loss"]
    texts = decode(model, batch, DecodingConfig(max_length=25))
    model.cuda()
    there = batch.to("cuda")
    torch.testing.assert_close(model.score(there).cpu(), here, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.loss(there)["loss"].cpu(), loss, atol=1e-4, rtol=1e-4)
    again = decode(model, there, DecodingConfig(max_length=25))
    assert [h.tokens for (h,) in again] == [h.tokens for (h,) in texts]


@every_model
def test_runs_in_bf16(case):
    model = build(case).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = model.loss(make_batch(model))
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = search(model.eval(), make_batch(model), DecodingConfig(max_length=25), trace=True)
    assert torch.isfinite(found.log_probs).all()


@pytest.mark.parametrize("method", ["greedy", "sample"])
@every_model
def test_log_probs_of_written_words_carry_the_gradient(case, method):
    """Self-critical training needs it."""
    model = build(case)
    batch = make_batch(model)
    found = search(model, batch, DecodingConfig(method=method, max_length=25), seed=0)
    found.log_probs.sum().backward()
    written = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.score(rewritten(model, batch, found, 0, 25)).sum().backward()
    assert written
    for name, value in written.items():
        torch.testing.assert_close(value, model.get_parameter(name).grad, atol=1e-4, rtol=1e-4)


def drop(batch, *names):
    for name in names:
        setattr(batch, name, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: drop(b, "features"), "no patch features"),
        (lambda b: drop(b, "tags"), "5 finding probabilities"),
        (lambda b: drop(b, "sentences"), "no sentences"),
        (lambda b: drop(b, "stops"), "no sentences"),
        (lambda b: setattr(b, "features", torch.randn(5, 2, 4, 3)), "3 numbers"),
    ],
)
@every_model
def test_an_unusable_minibatch_is_explained(case, change, message):
    model = build(case)
    batch = make_batch(model)
    change(batch)
    with pytest.raises(KitError, match=message):
        model.loss(batch)


@every_model
def test_what_cannot_be_built_or_written_is_explained(case):
    name, options = CASES[case]
    sizes = {"vocabulary_size": WORDS, "feature_dim": PATCH, "tag_count": TAGS}
    with pytest.raises(KitError, match="needs the full stop"):
        build_model(name, options, **sizes)
    model = build(case)
    with pytest.raises(KitError, match="one report per study"):
        decode(model, make_batch(model), DecodingConfig(method="beam", samples=2))


def test_no_study_may_have_more_views_than_slots():
    for case in ("hier_rnn", "mrna"):
        model = build(case)
        batch = make_batch(model)
        batch.features, batch.view_mask = torch.randn(5, 3, 4, PATCH), torch.ones(5, 3) > 0
        with pytest.raises(KitError, match="views to 3"):
            model.score(batch)
