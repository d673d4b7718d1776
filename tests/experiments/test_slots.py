"""Statistics of slots equal a plain count, one reading after the other."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from r2genkit.errors import KitError
from r2genkit.experiments import slots as module
from r2genkit.experiments.slots import (
    Reads,
    alignment,
    chance_alignment,
    chance_overlap,
    covered_patches,
    effective_slots,
    information,
    matched_usage,
    most_read,
    moved,
    other_slots,
    overlap,
    read_slots,
    slot_weights,
    telling_words,
    top_patches,
    top_words,
    usage,
)
from r2genkit.phantom import Patient, PhantomView, PlacedFinding, finding_masks
from r2genkit.study import Finding, Study, View
from tests.models.test_contract import build, make_batch

HEADS, CHOSEN, SLOTS = 2, 3, 11


def make_reads(readers=40, places=4, words=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(readers, HEADS, SLOTS, generator=generator)
    best, slots = score.topk(CHOSEN)
    number = torch.arange(readers)
    return Reads(
        slots.int(),
        best.softmax(-1),
        SLOTS,
        number // places,
        number % places,
        torch.randint(0, words, (readers,), generator=generator),
    )


def plain_usage(reads, groups_of):
    """{(group, head, slot): weight}, counted reading by reading."""
    total = defaultdict(float)
    for r in range(len(reads)):
        for group in groups_of(r):
            for head in range(HEADS):
                for slot, weight in zip(reads.slots[r, head], reads.weights[r, head]):
                    total[group, head, int(slot)] += float(weight)
    return total


def as_table(total, groups):
    table = torch.zeros(groups, HEADS, SLOTS, dtype=torch.float64)
    for place, weight in total.items():
        table[place] = weight
    return table


@pytest.mark.parametrize("portion", [3, 1000])
def test_usage_is_the_plain_count_in_any_portion(portion, monkeypatch):
    monkeypatch.setattr(module, "PORTION", portion)
    reads = make_reads()
    whole = as_table(plain_usage(reads, lambda r: [0]), 1)
    torch.testing.assert_close(usage(reads), whole)
    by_word = as_table(plain_usage(reads, lambda r: [int(reads.token[r])]), 6)
    torch.testing.assert_close(usage(reads, reads.token, 6), by_word)
    torch.testing.assert_close(by_word.sum((0, 2)), torch.full((2,), 40.0, dtype=torch.float64))


def test_what_is_collected_is_what_patches_and_words_read():
    """Against the traces of one study at a time; absent views and padding do not read."""
    model, batch = build("cmn"), make_batch()
    batch.view_mask[1, 1] = False
    patches, words = read_slots(model.train(), [batch.select([0, 1]), batch.select([2, 3, 4])])
    assert model.training
    model.eval()
    assert (len(patches), patches.count) == (5 * 8 - 4, 12)
    assert len(words) == int((batch.lengths - 1).sum())
    for study in range(5):
        one = batch.select([study])
        one.tokens = one.tokens[:, : one.lengths[0]]
        with torch.no_grad():
            looked = model.patch_traces(one)
            read = model.unroll(one, trace=True)[1]
        own = patches.study == study
        there = 4 if study == 1 else 8
        assert patches.place[own].tolist() == list(range(there))
        torch.testing.assert_close(
            patches.weights[own], looked["slot_weights"].flatten(0, 2)[:there]
        )
        assert torch.equal(patches.slots[own].long(), looked["slots"].flatten(0, 2)[:there])
        own = words.study == study
        assert words.token[own].tolist() == one.tokens[0, :-1].tolist()
        assert words.place[own].tolist() == list(range(one.tokens.shape[1] - 1))
        torch.testing.assert_close(words.weights[own], read["slot_weights"][0])
        assert torch.equal(words.slots[own].long(), read["slots"][0])
    assert patches.token is None and (patches.per_view, words.per_view) == (4, 0)
    with pytest.raises(KitError, match="R2Gen has no memory"):
        read_slots(build("r2gen base"), [batch])


def test_effective_slots_and_overlap_at_known_points():
    even, one = torch.ones(4), torch.tensor([3.0, 0, 0, 0])
    assert effective_slots(torch.stack([even, one])).tolist() == pytest.approx([4, 1])
    assert float(overlap(even, one)) == pytest.approx(0.25)
    assert float(overlap(one, one.flip(0))) == 0
    assert float(overlap(even, 7 * even)) == pytest.approx(1)


def test_chance_overlap_has_the_expectation_of_a_shuffle():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 9, generator=generator).mul(2).softmax(-1) for _ in range(2))
    drawn = chance_overlap(p, q, draws=4000)
    assert drawn.shape == (4000, 2)
    for head in range(2):
        exact = sum(min(a, b) for a in p[head].tolist() for b in q[head].tolist()) / 9
        assert drawn[:, head].mean().item() == pytest.approx(exact, rel=0.02)
    assert torch.equal(drawn, chance_overlap(p, q, draws=4000))
    assert not torch.equal(drawn, chance_overlap(p, q, draws=4000, seed=1))


def test_chance_among_slots_that_are_read_leaves_the_dead_where_they_are():
    p = torch.tensor([[0.7, 0, 0.3, 0, 0, 0]])
    q = torch.tensor([[0.2, 0.8, 0, 0, 0, 0]])
    drawn = chance_overlap(p, q, read_only=True, draws=3000)
    # Three slots are read by somebody: six equally likely places of 0.2 and 0.8 on 0.7, 0.3, 0.
    places = [(a, b) for a in (0.7, 0.3, 0) for b in (0.7, 0.3, 0) if a != b]
    want = [min(0.2, a) + min(0.8, b) for a, b in places]
    assert sorted(set(drawn.flatten().numpy().round(4).tolist())) == pytest.approx(
        sorted({round(value, 4) for value in want})
    )
    assert drawn.mean().item() == pytest.approx(sum(want) / 6, rel=0.02)
    assert chance_overlap(p, q, draws=3000).mean() < drawn.mean() - 0.1


def test_information_is_that_of_the_joint_table():
    reads = make_reads()
    got = information(reads, reads.token, 5)
    joint = usage(reads, reads.token, 5).numpy()
    for head in range(HEADS):
        p = joint[:, head] / joint[:, head].sum()
        want = sum(
            p[g, s] * math.log2(p[g, s] / (p[g].sum() * p[:, s].sum()))
            for g, s in zip(*np.nonzero(p))
        )
        assert float(got[head]) == pytest.approx(want)
    # Two groups with slots of their own: one bit.
    apart = Reads(
        torch.arange(4).view(4, 1, 1).int(), torch.ones(4, 1, 1), 4, *[torch.arange(4)] * 2
    )
    assert float(information(apart, torch.tensor([0, 0, 1, 1]), 2)[0]) == pytest.approx(1)


def test_matched_usage_compares_with_readers_of_the_same_places():
    reads = make_reads()
    member = torch.rand(len(reads), 3, generator=torch.Generator().manual_seed(2)) < 0.3
    member[:, 2] = False
    seen, wanted = matched_usage(reads, member)
    plain = as_table(plain_usage(reads, lambda r: member[r].nonzero().flatten().tolist()), 3)
    torch.testing.assert_close(seen, plain)
    by_place = plain_usage(reads, lambda r: [int(reads.place[r])])
    often = [int((reads.place == p).sum()) for p in range(4)]
    for f in range(3):
        expected = torch.zeros(HEADS, SLOTS, dtype=torch.float64)
        for r in member[:, f].nonzero().flatten():
            place = int(reads.place[r])
            for (group, head, slot), weight in by_place.items():
                if group == place:
                    expected[head, slot] += weight / often[place]
        torch.testing.assert_close(wanted[f], expected)
    assert moved(seen, wanted)[2] == 0  # nobody, moved nowhere


def test_a_group_that_only_its_place_distinguishes_has_not_moved():
    reads = make_reads()
    seen, wanted = matched_usage(reads, (reads.place == 1)[:, None])
    torch.testing.assert_close(seen, wanted)
    torch.testing.assert_close(moved(seen, wanted), torch.zeros(1, dtype=torch.float64))


def test_moved_is_the_total_variation_distance():
    seen = torch.tensor([[[1.0, 0, 0], [2, 2, 0]]])
    wanted = torch.tensor([[[0, 0, 5.0], [1, 0, 1]]])
    assert moved(seen, wanted).tolist() == pytest.approx([(1 + 0.5) / 2])


def test_alignment_finds_findings_that_meet_and_only_these():
    base = torch.full((4, 1, 8), 1.0)
    patches, words = (base + 3 * torch.eye(8)[k : k + 4, None] for k in (0, 0))
    cosines, gap = alignment((patches, base), (words, base))
    torch.testing.assert_close(cosines.diagonal(), torch.ones(4))
    # Moves towards slots i and j: (e_i - 1/8) . (e_j - 1/8) = -1/8 against 7/8.
    assert cosines[0, 1].item() == pytest.approx(-1 / 7)
    assert float(gap) == pytest.approx(1 + 1 / 7)
    _, apart = alignment((patches, base), (words.roll(1, 0), base))
    drawn = chance_alignment(cosines)
    assert drawn.max() == pytest.approx(float(gap)) and drawn.mean() == pytest.approx(0, abs=0.03)
    assert (drawn >= float(gap) - 1e-9).mean() == pytest.approx(1 / 24, abs=0.02)
    assert float(apart) < 0


def test_top_patches_are_the_best_of_different_studies():
    reads = make_reads(readers=60)
    for head, slot in ((0, 3), (1, 7)):
        weights = slot_weights(reads, head, slot)
        plain = {}
        for r in range(len(reads)):
            position = (reads.slots[r, head] == slot).nonzero().flatten().tolist()
            weight = float(reads.weights[r, head, position[0]]) if position else 0.0
            assert float(weights[r]) == pytest.approx(weight)
            study = int(reads.study[r])
            if weight > plain.get(study, (0, 0))[0]:
                plain[study] = (weight, r)
        want = [r for _, r in sorted(plain.values(), reverse=True)][:4]
        assert top_patches(reads, head, slot, 4).tolist() == want
    assert top_patches(reads, 0, SLOTS, 4).tolist() == []  # nobody reads it


def test_top_words_are_lifted_over_the_mean_word():
    by_word = torch.zeros(4, 1, 2)
    by_word[:, 0, 1] = torch.tensor([8.0, 6.0, 1.0, 5.0])
    counts = torch.tensor([10, 20, 50, 4])
    base = 20 / 84
    got = top_words(by_word, counts, 0, 1, 3, least=5)
    assert [token for token, _ in got] == [0, 1]  # word 3 is rare, word 2 below the mean
    assert [lift for _, lift in got] == pytest.approx([0.8 / base, 0.3 / base])
    assert [t for t, _ in top_words(by_word, counts, 0, 1, 3, least=1)] == [0, 3, 1]
    assert top_words(by_word, counts, 0, 0, 3) == []


def test_slots_to_take_away():
    weight = torch.tensor([5.0, 0, 1, 3, 1.1, 0, 2.9])
    assert most_read(weight, 1e-6) == [0]
    assert most_read(weight, 0.5) == [0, 3]
    assert sorted(most_read(weight, 1.0)) == [0, 2, 3, 4, 6]
    assert most_read(torch.zeros(3), 0.5) == []
    assert other_slots([3, 2], weight, alike=True) == [4, 6]
    drawn = {tuple(other_slots([0], weight, alike=False, seed=s)) for s in range(40)}
    assert drawn == {(2,), (3,), (4,), (6,)}  # read, and not the one itself
    with pytest.raises(KitError, match="2 other slots"):
        other_slots([0, 2, 3], weight, alike=True)


def test_covered_patches_follow_the_masks():
    placed = PlacedFinding("effusion", "right", "", "large", False, "raw", "code", "code")
    tiny = PlacedFinding("nodule", "left", "upper lobe", None, False, "raw", "code", "code")
    patient = Patient("c1", (placed, tiny), 0)
    views = tuple(View(p, p, PhantomView(patient, p)) for p in ("frontal", "lateral"))
    found = tuple(Finding(f.name) for f in patient.findings)
    study = Study("c1", views, "", "", findings=found)
    bare = Study("c2", views, "", "", findings=(Finding("other"),))
    cover = covered_patches([study, bare], ("effusion", "kyphosis", "nodule"), grid=7)
    assert cover.shape == (2, 98, 3) and not cover[1].any() and not cover[:, :, 1].any()
    masks = finding_masks(patient, 112)
    for column, index in ((0, 0), (2, 1)):
        for view, projection in enumerate(("frontal", "lateral")):
            mask = masks[index, projection]
            part = [
                mask[16 * (s // 7) : 16 * (s // 7) + 16, 16 * (s % 7) : 16 * (s % 7) + 16].mean()
                for s in range(49)
            ]
            want = [p >= 0.1 or p == max(part) > 0 for p in part]
            assert cover[0, 49 * view : 49 * view + 49, column].tolist() == want
    assert 1 <= cover[0, :49, 2].sum() <= 4  # the nodule is small and not lost
    # Where no mask is known, all patches of the study count.
    file = Study("c3", (View("f", "frontal", None),), "", "", findings=(Finding("effusion"),))
    assert covered_patches([file], ("effusion", "nodule"), grid=7)[0].sum(0).tolist() == [98, 0]


def test_telling_words_mark_reports_that_state_the_finding():
    heart, lung, both = [0, 1, 2, 3, 0], [0, 1, 4, 3, 0], [0, 1, 3, 0]
    tokens = [heart] * 5 + [lung] * 4 + [both] * 6
    positive = np.array([[True, False]] * 5 + [[False, True]] * 4 + [[False, False]] * 6)
    assert telling_words(tokens, positive, 6) == [[2], [4]]
    # Half of the reports with word 2 state it: less told, and word 4 speaks against it.
    positive = np.array([[n < 3] for n in range(15)])
    assert telling_words(tokens, positive, 6) == [[2]]
    assert telling_words(tokens, np.zeros((15, 1), dtype=bool), 6) == [[]]
