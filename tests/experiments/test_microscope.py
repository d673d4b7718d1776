"""What the microscope and the recorder show of a model, against plain statements of the same."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from r2genkit.decoding import DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.experiments import run
from r2genkit.experiments.faithfulness import Material, Unit
from r2genkit.experiments.microscope import (
    MemoryBench,
    Record,
    best_patches,
    compare_elsewhere,
    constant_norms,
    measure_meetings,
    microscope_data,
    read_report,
    read_training,
    record_memory,
    recorder_data,
)
from r2genkit.experiments.slots import (
    Reads,
    chance_overlap,
    other_slots,
    top_patches,
    top_words,
    usage,
)
from r2genkit.text.vocabulary import UNKNOWN, Vocabulary
from r2genkit.viz.transformer import memory_rows
from r2genkit.viz.widgets.microscope import (
    RARE,
    Readings,
    SlotUse,
    microscope_html,
    payload,
    shared,
    shuffled,
)
from r2genkit.viz.widgets.recorder import recorder_html, sentences
from tests.models.test_contract import WORDS, build, make_batch

VOCABULARY = Vocabulary(
    tuple(sorted([UNKNOWN, ".", *(f"word{i:02d}" for i in range(WORDS - 3))])), "default", 1
)
DECODING = DecodingConfig(max_length=9, min_length=4)
SLOTS, READ, HEADS = 12, 3, 2


def one_study(seed=0):
    return make_batch(count=1, seed=seed)


def bench(seed=0):
    return MemoryBench(build("cmn", seed=seed), one_study(), DECODING, VOCABULARY)


def made_reads(studies=30, views=2, per_view=4, seed=0):
    """Readings of all patches of all studies, in a shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    readers = studies * views * per_view
    best, slots = torch.randn(readers, HEADS, SLOTS, generator=generator).topk(READ)
    order = torch.randperm(readers, generator=generator)
    places = views * per_view
    return Reads(
        slots.int(), best.softmax(-1), SLOTS, order // places, order % places, None, per_view
    )


def test_best_patches_are_the_top_patches_of_every_slot():
    reads = made_reads()
    found = best_patches(reads, 4)
    for head, slot in np.ndindex(HEADS, SLOTS):
        rows = top_patches(reads, head, slot, 4)
        weights = (reads.weights[rows, head] * (reads.slots[rows, head] == slot)).sum(-1)
        ours = found.get((head, slot), [])
        assert [row for row, _ in ours] == rows.tolist()
        np.testing.assert_allclose([weight for _, weight in ours], weights, rtol=1e-6)


def test_other_studies_are_compared_place_by_place():
    """Against two loops over words and places that build every distribution."""
    reads = made_reads(studies=8)
    words = Readings(*(part[:5].numpy() for part in (reads.slots, reads.weights)))
    own_patches = reads.select(reads.study == 7)
    rows = own_patches.place.argsort()
    own = shared(
        words,
        Readings(
            own_patches.slots[rows].reshape(2, 4, HEADS, READ).numpy(),
            own_patches.weights[rows].reshape(2, 4, HEADS, READ).numpy(),
        ),
        SLOTS,
    )
    mean, reached, usual = compare_elsewhere(words, own, reads, range(7))
    dense = words.dense(SLOTS)
    counts = np.zeros((5, HEADS + 1, 7))
    for t, place in np.ndindex(5, 8):
        each = []
        for study in range(7):
            (row,) = ((reads.study == study) & (reads.place == place)).nonzero()[0]
            theirs = np.zeros((HEADS, SLOTS))
            for head in range(HEADS):
                theirs[head, reads.slots[row, head]] = reads.weights[row, head]
            heads = np.minimum(dense[t], theirs).sum(-1)
            each.append([heads.mean(), *heads])
        each = np.array(each)  # [7, h + 1]
        view, patch = divmod(place, 4)
        np.testing.assert_allclose(mean[t, :, view, patch], each.mean(0), atol=1e-6)
        here = own[t, :, view, patch]
        np.testing.assert_allclose(
            reached[t, :, view, patch], (each >= here - 1e-6).mean(0), atol=1e-6
        )
        for study in range(7):
            rest = np.delete(each, study, 0)
            counts[t, :, study] += (rest >= each[study] - 1e-6).mean(0) < RARE
    assert (usual[..., 0] == np.sort(counts, -1)[..., 0]).all()  # of seven: the ends themselves
    assert (usual[..., 1] == np.sort(counts, -1)[..., -1]).all()
    with pytest.raises(KitError, match="two or more"):
        compare_elsewhere(words, own, reads, [1])
    gap = reads.select(~((reads.study == 2) & (reads.place == 5)))
    with pytest.raises(KitError, match="6 of 7 other studies have patch 1 of view 2"):
        compare_elsewhere(words, own, gap, range(7))


def test_shuffled_slots_share_what_shuffling_gives():
    """The exact mean against draws of ``chance_overlap``, among the slots that are read."""
    reads = made_reads(studies=4)
    weight = usage(reads)[0]
    weight[:, -3:] = 0  # read by nobody
    shares = (weight / weight.sum(-1, keepdim=True)).numpy()
    usual = (reads.slots < SLOTS - 3).flatten(1).all(1).nonzero().flatten()
    first, second = (
        Readings(reads.slots[i : i + 1].numpy(), reads.weights[i : i + 1].numpy())
        for i in usual[:2]
    )
    patch = Readings(second.slots[None], second.weights[None])
    found = shuffled(first, patch, SlotUse(shares, shares, 4))[0, :, 0, 0]
    dense = [torch.from_numpy(one.dense(SLOTS)[0, :, :-3]) for one in (patch_of(patch), first)]
    drawn = chance_overlap(*dense, draws=20_000)
    np.testing.assert_allclose(found[1:], drawn.mean(0), atol=0.01)
    assert found[0] == pytest.approx(found[1:].mean())


def patch_of(readings):
    """The first patch as one reader."""
    return Readings(readings.slots[0], readings.weights[0])


def test_the_bench_reads_what_the_model_reads():
    subject = bench()
    model, batch = subject.model, one_study()
    ((best,),) = decode(model, batch, DECODING, vocabulary=VOCABULARY, seed=0, trace=True)
    assert " ".join(subject.words) == best.text and len(subject.words) >= 4
    read, looked = subject.reads
    # While writing, step t reads the word before: begin mark first.
    assert (read.slots[:-1] == best.trace["slots"]).all()
    np.testing.assert_allclose(read.weights[:-1], best.trace["slot_weights"], atol=1e-5)
    assert (looked.slots == model.patch_traces(batch)["slots"][0].numpy()).all()
    assert read.slots.shape == (len(subject.words) + 1, HEADS, READ)
    held = np.zeros((2, SLOTS))
    for side, reads in ((0, looked), (1, read)):
        np.add.at(held[side], reads.slots.ravel(), reads.weights.ravel())
    np.testing.assert_allclose(subject.held, held / held.sum(1, keepdims=True), atol=1e-6)


def test_an_absent_view_reads_nothing():
    batch = one_study()
    batch.view_mask[0, 1] = False
    subject = MemoryBench(build("cmn"), batch, DECODING, VOCABULARY)
    assert subject.reads[1].slots.shape[0] == 1


def test_without_slots_is_the_report_of_a_model_that_lacks_them():
    subject = bench()
    most = np.argsort(-subject.held.sum(0))[:4].tolist()
    found = subject.without(most, "the most read")
    with subject.model.memory.without(most):
        ((best,),) = decode(subject.model, one_study(), DECODING, vocabulary=VOCABULARY, seed=0)
    assert " ".join(found.words) == best.text
    assert found.slots == tuple(sorted(most)) and found.about == "the most read"
    np.testing.assert_allclose(found.held, subject.held[:, most].sum(1))
    # Nothing is left of it afterwards, and nothing was taken by an empty set.
    assert subject.model.memory.left is None
    nothing = subject.without([], "nothing")
    assert nothing.words == subject.words
    assert nothing.probability == pytest.approx(subject.probability, rel=1e-5)
    assert found.probability != pytest.approx(subject.probability, rel=1e-5)


def test_a_trial_stands_beside_as_many_others():
    subject = bench()
    trial = subject.trial([3, 3, 5])
    assert trial.rewriting.slots == (3, 5) and trial.rewriting.about == "2 slots"
    alike, *drawn = trial.others
    weight = torch.from_numpy(subject.held.sum(0))
    assert list(alike.slots) == other_slots([3, 5], weight, alike=True)
    assert [list(one.slots) for one in drawn] == [
        other_slots([3, 5], weight, alike=False, seed=seed) for seed in range(3)
    ]
    assert all(not {3, 5} & set(one.slots) and len(one.slots) == 2 for one in trial.others)
    many = subject.trial(range(9))
    assert not many.others and many.note.startswith("There is no comparison: 3 other slots")


def test_answers_and_refusals():
    subject = bench()
    content = subject.answer({"without": [1, 2]})
    assert json.loads(json.dumps(content)) == content
    assert content["rewriting"]["slots"] == [1, 2] and len(content["others"]) == 4
    assert content["rewriting"]["words"] == list(subject.without([1, 2], "").words)
    for question in ({}, {"without": "1"}, {"without": [1.5]}, {"without": [True]}):
        with pytest.raises(KitError, match="whole numbers"):
            subject.answer(question)
    with pytest.raises(KitError, match="no slot is chosen"):
        subject.answer({"without": []})
    with pytest.raises(KitError, match="memory has 0 to 11"):
        subject.answer({"without": [12]})
    with pytest.raises(KitError, match="fewer than 3 are left"):
        subject.answer({"without": list(range(10))})
    with pytest.raises(KitError, match="has no memory with slots"):
        MemoryBench(build("r2gen rm_mcln"), one_study(), DECODING, VOCABULARY)
    with pytest.raises(KitError, match="empty report"):
        silent = DecodingConfig(max_length=9, end_bias=100.0)
        MemoryBench(build("cmn"), one_study(), silent, VOCABULARY)


def test_meetings_are_counted_pair_by_pair():
    """Against loops over units, words, patches and studies, each reader's weights in a dict."""
    model, batch = build("cmn"), make_batch(count=3)
    material = Material(
        batch.study_ids, batch.features, batch.view_mask, batch.tags, None,
        [batch.tokens[i, : batch.lengths[i]].tolist() for i in range(3)], (), torch.zeros(1),
    )  # fmt: skip
    cover = np.zeros((3, 8))
    cover[0, [1, 6]], cover[1, 3], cover[2, 5] = 0.5, 0.05, 1.0  # a speck counts where it is most
    units = [
        Unit("s0", 0, "nodule", "", (0, 1), 0, (), cover[0]),
        Unit("s1", 1, "opacity", "", (2,), 0, (), cover[1]),
        Unit("s2", 2, "nodule", "", (1,), 0, (), cover[2]),
    ]
    reads = made_reads(studies=6)
    reads = reads.select(~((reads.study == 4) & (reads.place > 3)))  # one has no second view
    record = Record(reads, reads, tuple("abcdef"), None)
    found = measure_meetings(model, material, units, record, other_studies=9)
    assert found.other_studies == 5

    def weights(slots, values):
        return [dict(zip(s.tolist(), w.tolist())) for s, w in zip(slots, values)]  # by head

    def common(one, two):
        pairs = zip(one, two)
        return np.mean([sum(min(w, b.get(s, 0)) for s, w in a.items()) for a, b in pairs])

    with torch.no_grad():
        read, looked = model.unroll(batch, trace=True)[1], model.patch_traces(batch)
    said = [
        [weights(read["slots"][u.row, p + 1], read["slot_weights"][u.row, p + 1]) for p in u.places]
        for u in units
    ]
    flat = {name: looked[name].flatten(1, 2) for name in ("slots", "slot_weights")}
    seen = [
        [weights(flat["slots"][u.row, p], flat["slot_weights"][u.row, p]) for p in places]
        for u, places in zip(units, ([1, 6], [3], [5]))
    ]
    for i, places in enumerate(([1, 6], [3], [5])):
        own = np.mean([common(w, p) for w in said[i] for p in seen[i]])
        assert found.own[i] == pytest.approx(own, abs=1e-5)
        there = [
            weights(reads.slots[r], reads.weights[r])
            for r in range(len(reads))
            if int(reads.place[r]) in places and int(reads.study[r]) != 4
        ]
        elsewhere = np.mean([common(w, p) for w in said[i] for p in there])
        assert found.elsewhere[i] == pytest.approx(elsewhere, abs=1e-5)
        rest = [j for j, u in enumerate(units) if u.finding != units[i].finding]
        other = np.mean([np.mean([common(w, p) for w in said[j] for p in seen[i]]) for j in rest])
        assert found.other_words[i] == pytest.approx(other, abs=1e-5)
    gap = found.gap("elsewhere")
    assert gap.value == pytest.approx((found.own - found.elsewhere).mean())
    first, second = found.sentences()
    assert f"{found.own.mean():.1%} of their reading" in first and "5 other studies" in first
    assert "words of other findings" in second
    alone = dataclasses.replace(found, other_words=np.full(3, np.nan))
    assert len(alone.sentences()) == 1
    with pytest.raises(KitError, match="no finding word"):
        measure_meetings(model, material, [], record)


# --- the recorder ---------------------------------------------------------------------------------


def test_the_recorder_follows_the_memory_as_it_was_while_writing():
    model, batch = build("r2gen rm_mcln"), one_study()
    data = record_memory(model, batch, DECODING, VOCABULARY)
    ((best,),) = decode(model, batch, DECODING, vocabulary=VOCABULARY, seed=0, trace=True)
    assert " ".join(data.words) == best.text
    # Decoding has read the begin mark and all words but the last.
    for name, values in (
        ("memory", data.memory),
        ("input_gate", data.gates["input"]),
        ("forget_gate", data.gates["forget"]),
    ):
        np.testing.assert_allclose(values[:-1], best.trace[name], atol=1e-5)
    rows = memory_rows(best.trace)
    np.testing.assert_allclose(data.course["change"][:-1], rows["change"], atol=1e-4)
    np.testing.assert_allclose(data.cosine[:-1], rows["cosine"], atol=1e-4)
    # log p of the report is the sum of the words' and the end mark's.
    assert np.log(data.probability).sum() >= best.log_prob - 1e-4
    assert data.sublayers and data.held is not None
    norm = model.decoder.layers[0].norms[1]
    with torch.no_grad():
        change = norm.memory_to_scale(torch.from_numpy(data.memory).flatten(1)).numpy()
    mean = change.mean(0)
    assert data.constant["gain"][1] == pytest.approx(np.sqrt((mean**2).mean()), rel=1e-4)
    np.testing.assert_allclose(
        data.moving["gain"][:, 1], np.sqrt(((change - mean) ** 2).mean(-1)), rtol=1e-3, atol=1e-6
    )
    assert recorder_html(data).count("<script") == 2 and len(sentences(data)) == 5


def test_constant_norms_are_those_of_a_memory_that_never_moves():
    """Constants hold whatever the memory says, and are gone after the block."""
    model, batch = build("r2gen rm_mcln"), make_batch(count=2)
    count, size = 3 * model.config.decoder_layers, model.config.size
    generator = np.random.default_rng(0)
    changes = {name: generator.normal(size=(count, size)) for name in ("scale", "shift")}
    norms = [norm for layer in model.decoder.layers for norm in layer.norms]
    x, memory = torch.randn(2, 3, size), torch.randn(2, 3, model.config.slots * size)
    before = norms[1](x, memory)
    with constant_norms(model, changes), torch.no_grad():
        inside = norms[1](x, memory)
        unroll = model.unroll(batch)[0]
        torch.testing.assert_close(inside, norms[1](x, 0 * memory))
    centred = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    scale, shift = (torch.from_numpy(changes[name][1]).float() for name in ("scale", "shift"))
    wanted = (norms[1].scale + scale) * centred + norms[1].shift + shift
    torch.testing.assert_close(inside, wanted.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norms[1](x, memory), before)
    assert not torch.allclose(unroll, model.unroll(batch)[0].detach())


def test_a_memory_that_sets_no_norms_has_no_constants():
    data = record_memory(build("r2gen rm"), one_study(), DECODING, VOCABULARY)
    assert not data.sublayers and data.held is None and not data.moving
    assert recorder_html(data).count("<script") == 2


# --- a run ----------------------------------------------------------------------------------------

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=26",
    "data.limit_validation=9",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=1",
    "model.settings.slots=40",
    "model.settings.read_slots=4",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
    "scoring.swap=1",
    "decoding.max_length=12",
    "decoding.min_length=4",
)


@pytest.fixture
def finished(folders):
    return run("07_cmn", profile="smoke", overrides=TINY, progress=False)


def test_a_run_goes_under_the_microscope(finished):
    text, system = finished.text(), finished.system()
    record = read_training(finished, system, text=text)
    assert record.ids == text.split.train and record.use.studies == 26
    by_words = usage(record.words)[0]
    np.testing.assert_allclose(
        record.use.words, by_words / by_words.sum(-1, keepdim=True), atol=1e-9
    )
    counts = torch.bincount(record.words.token, minlength=len(text.vocabulary))
    by_word = usage(record.words, record.words.token, len(text.vocabulary))
    for (head, slot), card in list(record.use.cards.items())[::7]:
        told = top_words(by_word, counts, head, slot, 4)
        assert [lift for _, lift in card.words] == [lift for _, lift in told]
        rows = top_patches(record.patches, head, slot, 4)
        places = [
            (text.split.train[int(record.patches.study[r])], int(record.patches.place[r]))
            for r in rows
        ]
        keys = [crop.key.split("/") for crop, _ in card.crops]
        per_view = record.patches.per_view
        assert [(key[0], int(key[1]) * per_view + int(key[2])) for key in keys] == places
    study = max((text.studies[one] for one in text.split.test), key=lambda s: len(s.findings))
    data = microscope_data(system, study, record, name="R2GenCMN", other_studies=10)
    assert " ".join(data.words) == finished.hypotheses[study.id]
    assert data.other_studies == 10 and data.synthetic and len(data.views) == 2
    tokens = [text.vocabulary.id(word) for word in data.words]
    read, looked = read_report(system.model, system.batch(data.views), tokens)
    assert (read.slots == data.word_reads.slots).all()
    assert (looked.slots == data.patch_reads.slots).all()
    data = MemoryBench.of(system, study).with_trials(data, count=3)
    assert [len(trial.rewriting.slots) for trial in data.trials] == [3, 3]
    assert "this study reads most" in data.trials[1].rewriting.about
    page = microscope_html(data)
    (content,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    assert json.loads(content) == json.loads(json.dumps(payload(data)))
    # A study of the training set is never compared with itself.
    own = text.studies[text.split.train[0]]
    assert microscope_data(system, own, record, name="x", other_studies=99).other_studies == 25
    with pytest.raises(KitError, match="has no relational memory"):
        recorder_data(system, study, name="x")
