"""Batches, loaders and the weights of studies and tokens."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import (
    Batch,
    ReportDataset,
    SentenceLayout,
    balance_weights,
    collate,
    duplicate_weights,
    make_loader,
    token_weights,
)
from r2genkit.errors import KitError


class Features:
    """Patch features whose values say which study and view they belong to."""

    def __init__(self, n: int, views: int = 2) -> None:
        self.study_ids = tuple(f"s{i}" for i in range(n))
        self.view_mask = np.ones((n, views), dtype=bool)
        self.view_mask[1::3, 1] = False
        self.values = torch.arange(n).float()[:, None, None, None].expand(n, views, 4, 3)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        return self.values[torch.from_numpy(rows)]


class Pixels:
    """Images of different shapes, so that a transform is needed."""

    def __init__(self, n: int) -> None:
        self.study_ids = tuple(f"s{i}" for i in range(n))
        self.view_mask = np.ones((n, 2), dtype=bool)
        self.view_mask[::2, 1] = False

    def pixels(self, row: int) -> list[np.ndarray | None]:
        first = np.full((8 + row % 3, 8), row, dtype=np.uint8)
        return [first, first if self.view_mask[row, 1] else None]


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Six by six crop whose first pixel records the draw."""
    out = image[:6, :6].copy()
    out[0, 0] = rng.integers(256)
    return out


def to_rgb(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float()[:, None].expand(-1, 3, -1, -1)


def dataset(n: int = 23, **extra) -> ReportDataset:
    ids = [f"s{i}" for i in range(n)]
    rng = np.random.default_rng(0)
    tokens = [[0, *rng.integers(1, 9, rng.integers(2, 20)).tolist(), 0] for _ in ids]
    return ReportDataset(ids, features=Features(n), tokens=tokens, **extra)


def test_collate_pads_and_counts():
    batch = collate(["a", "b"], torch.ones(2, 1, dtype=torch.bool), tokens=[[0, 5, 6, 0], [0, 7]])
    assert batch.tokens.tolist() == [[0, 5, 6, 0], [0, 7, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]
    assert batch.token_weights.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert len(batch) == 2


@pytest.mark.parametrize("ids", [[0], [3, 4], []])
def test_collate_refuses_bad_tokens(ids):
    with pytest.raises(KitError, match="study a"):
        collate(["a"], torch.ones(1, 1, dtype=torch.bool), tokens=[ids])


def test_collate_refuses_weights_that_do_not_fit():
    with pytest.raises(KitError, match="2 token weights for 3 target"):
        collate(
            ["a"],
            torch.ones(1, 1, dtype=torch.bool),
            tokens=[[0, 1, 2, 0]],
            token_weights=[np.ones(2)],
        )


def test_repeat_and_select_move_all_fields_alike():
    batch = dataset(6, tags=np.arange(12).reshape(6, 2)).batch([4, 1, 3], np.random.default_rng(0))
    double = batch.repeat(2)
    assert double.study_ids == ("s4", "s4", "s1", "s1", "s3", "s3")
    assert double.features[:, 0, 0, 0].tolist() == [4, 4, 1, 1, 3, 3]
    assert double.tags[:, 0].tolist() == [8, 8, 2, 2, 6, 6]
    for index in ([2, 0], torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(0, 3, 2)):
        part = batch.select(index)
        numbers = [int(study_id[1:]) for study_id in part.study_ids]
        assert sorted(numbers) == [3, 4]
        assert part.features[:, 0, 0, 0].tolist() == numbers
        assert part.tags[:, 0].tolist() == [2 * n for n in numbers]
        for row, study_id in enumerate(part.study_ids):
            source = batch.study_ids.index(study_id)
            assert torch.equal(part.tokens[row], batch.tokens[source])
    assert len(batch.select([])) == 0
    assert batch.select([-1]).study_ids == ("s3",)


def test_batch_places_every_tensor():
    with FakeTensorMode():
        batch = Batch(
            study_ids=("a",),
            images=torch.zeros(1, 2, 3, 8, 8),
            features=torch.zeros(1, 2, 4, 5),
            view_mask=torch.ones(1, 2, dtype=torch.bool),
            tokens=torch.zeros(1, 4, dtype=torch.long),
            lengths=torch.tensor([4]),
            token_weights=torch.ones(1, 3),
            tags=torch.zeros(1, 2),
            labels=torch.zeros(1, 2),
        ).to("cuda")
        values = [v for v in vars(batch).values() if isinstance(v, torch.Tensor)]
        assert len(values) == 8
        assert {value.device.type for value in values} == {"cuda"}
        assert batch.repeat(3).select([1, 2]).tokens.device.type == "cuda"


def test_every_study_once_an_epoch_and_padding_small():
    data = dataset(203)
    loader = make_loader(data, 8, seed=3, bucket=25)
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == math.ceil(203 / 8)
        seen = Counter(study_id for batch in batches for study_id in batch.study_ids)
        assert seen == Counter(data.study_ids)
    sorted_padding = sum(int((b.lengths.max() - b.lengths).sum()) for b in batches)
    flat = make_loader(data, 8, seed=3, bucket=1)
    unsorted_padding = sum(int((b.lengths.max() - b.lengths).sum()) for b in flat)
    assert sorted_padding < unsorted_padding / 3


def test_order_depends_on_seed_and_epoch_only_and_resumes_anywhere():
    data = dataset(40)

    def ids(loader, epoch, skip=0):
        loader.set_epoch(epoch)
        loader.skip(skip)
        return [batch.study_ids for batch in loader]

    weights = np.linspace(1, 4, 40)
    one = make_loader(data, 6, seed=5, sample_weights=weights)
    full = ids(one, 2)
    other = make_loader(data, 6, seed=5, sample_weights=weights)
    assert ids(other, 2, skip=3) == full[3:]
    assert ids(other, 2) == full  # skipping is for one iteration only
    assert ids(other, 1) != full
    assert ids(make_loader(data, 6, seed=6, sample_weights=weights), 2) != full
    with pytest.raises(KitError, match="cannot skip 99"):
        one.skip(99)


def test_changing_epoch_does_not_disturb_a_running_iterator():
    pixels = Pixels(12)
    data = ReportDataset(pixels.study_ids, images=pixels, transform=random_crop, preprocess=to_rgb)
    loader = make_loader(data, 4, seed=1)
    whole = [batch.images for batch in loader]
    running = iter(loader)
    first = next(running).images
    loader.set_epoch(9)
    assert all(torch.equal(a, b) for a, b in zip(whole, [first, *[b.images for b in running]]))


def test_images_missing_views_augmentation_and_workers():
    pixels = Pixels(10)
    data = ReportDataset(
        pixels.study_ids[::-1], images=pixels, transform=random_crop, preprocess=to_rgb
    )
    here = list(make_loader(data, 4, seed=1))
    there = list(make_loader(data, 4, seed=1, num_workers=1))
    assert [b.study_ids for b in here] == [b.study_ids for b in there]
    for a, b in zip(here, there):
        assert torch.equal(a.images, b.images)
        assert a.images.shape[1:] == (2, 3, 6, 6)
        for row, study_id in enumerate(a.study_ids):
            number = int(study_id[1:])
            assert a.view_mask[row].tolist() == [True, number % 2 == 1]
            assert a.images[row, 0, 0, 5, 5] == number
            assert a.images[row, 1].abs().sum() > 0 if number % 2 else not a.images[row, 1].any()
    draws = torch.cat([b.images[:, 0, 0, 0, 0] for b in here])
    assert len(set(draws.tolist())) > 5  # each view draws for itself
    with pytest.raises(KitError, match="different sizes"):
        ReportDataset(pixels.study_ids, images=pixels, preprocess=to_rgb).batch(
            np.arange(6), np.random.default_rng(0)
        )


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 60), seed=st.integers(0, 99), spread=st.floats(0.1, 3), size=st.integers(1, 9)
)
def test_weighted_sampling_hits_its_expectation(n, seed, spread, size):
    weights = np.exp(np.random.default_rng(seed).normal(0, spread, n))
    loader = make_loader(dataset(n), size, seed=seed, sample_weights=weights)
    counts = np.bincount(np.concatenate(loader.plan(0)), minlength=n)
    expected = n * weights / weights.sum()
    assert counts.sum() == n
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()


def test_weighted_sampling_is_unbiased_over_epochs():
    weights = np.array([1.0] * 15 + [4.0] * 5)
    loader = make_loader(dataset(20), 4, sample_weights=weights)
    mean = np.mean([np.bincount(loader.order(e), minlength=20) for e in range(600)], axis=0)
    np.testing.assert_allclose(mean, 20 * weights / weights.sum(), atol=0.08)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [48, 49, 50, 51])
def test_shards_share_every_minibatch(count, weighted):
    """Also the last one, which here has 4, 1, 2 or 3 studies for three processes."""
    data = dataset(count)
    options = {"seed": 2, "sample_weights": np.arange(1.0, count + 1) if weighted else None}
    whole = make_loader(data, 4, **options)
    parts = [make_loader(data, 4, **options).shard(rank, 3) for rank in range(3)]
    assert {len(part) for part in parts} == {len(whole)} == {math.ceil(count / 4)}
    for loader in (whole, *parts):
        loader.set_epoch(1)
    for minibatch, *shares in zip(whole, *parts, strict=True):
        served = [() if share.spare else share.study_ids for share in shares]
        assert tuple(minibatch.study_ids[rank::3] for rank in range(3)) == tuple(served)
        assert all(len(share) for share in shares)  # a spare one has a study to work on
    assert not whole.build(0, np.arange(2)).spare
    skipped = parts[1]
    skipped.skip(3)
    assert len(list(skipped)) == len(whole) - 3


def test_more_processes_than_studies_in_a_minibatch_are_refused():
    with pytest.raises(KitError, match="5 processes cannot share minibatches of 4"):
        make_loader(dataset(20), 4).shard(0, 5)


def test_evaluation_order_and_drop_last():
    data = dataset(10)
    ids = [i for b in make_loader(data, 4, shuffle=False) for i in b.study_ids]
    assert tuple(ids) == data.study_ids
    loader = make_loader(data, 4, drop_last=True)
    assert [len(b) for b in loader] == [4, 4]
    assert len(loader) == 2


@pytest.mark.parametrize("weighted", [False, True])
def test_short_epochs_draw_other_studies_each_time(weighted):
    data = dataset(20)
    weights = np.linspace(1, 2, 20) if weighted else None
    loader = make_loader(data, 4, seed=3, sample_weights=weights, epoch_studies=10)
    epochs = []
    for epoch in range(12):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        epochs.append([study_id for batch in batches for study_id in batch.study_ids])
    assert all(len(ids) == 10 for ids in epochs)
    assert epochs[0] != epochs[1] and {i for ids in epochs for i in ids} == set(data.study_ids)
    # Enough studies for an epoch of all, or none asked for: as without the option.
    whole = make_loader(data, 4, seed=3, sample_weights=weights)
    for size in (20, 50, None):
        same = make_loader(data, 4, seed=3, sample_weights=weights, epoch_studies=size)
        assert [i.tolist() for i in same.plan(2)] == [i.tolist() for i in whole.plan(2)]
    assert len(make_loader(data, 4, shuffle=False, epoch_studies=10)) == 5
    with pytest.raises(KitError, match="3 studies does not fill one minibatch of 4"):
        make_loader(data, 4, epoch_studies=3)


def test_loader_and_dataset_refuse_bad_input():
    data = dataset(5)
    with pytest.raises(KitError, match="4 sample weights for 5"):
        make_loader(data, 2, sample_weights=np.ones(4))
    with pytest.raises(KitError, match="positive finite"):
        make_loader(data, 2, sample_weights=[1, 1, 0, 1, 1])
    with pytest.raises(KitError, match="1 or more"):
        make_loader(data, 0)
    with pytest.raises(KitError, match="leaves nothing"):
        make_loader(data, 6, drop_last=True)
    with pytest.raises(KitError, match="first: nowhere"):
        ReportDataset(["s0", "nowhere"], features=Features(3))
    with pytest.raises(KitError, match="neither was given"):
        ReportDataset(["s0"])
    with pytest.raises(KitError, match="tags has 3 rows for 2"):
        ReportDataset(["s0", "s1"], features=Features(2), tags=np.zeros((3, 2)))
    empty = ReportDataset([], features=Features(2))
    with pytest.raises(KitError, match="empty set"):
        make_loader(empty, 2)


def test_duplicate_weights():
    got = duplicate_weights(["a", "b", "a", "a", "a"])
    np.testing.assert_allclose(got, [0.5, 1, 0.5, 0.5, 0.5])


def test_balance_weights_follow_the_rarest_finding():
    labels = np.zeros((100, 3), dtype=bool)
    labels[:25, 0] = True  # sqrt(100 / 25) = 2
    labels[:1, 1] = True  # sqrt(100 / 1) = 10 -> cap
    labels[20:30, 2] = True  # sqrt(10)
    got = balance_weights(labels, cap=4.0)
    assert got[0] == 4
    assert got[5] == 2
    np.testing.assert_allclose(got[20:30], math.sqrt(10))
    assert (got[30:] == 1).all()


def test_token_weights_follow_sentences():
    period = 9
    ids = [0, 1, 2, period, 3, period, 4, 5, period, 0]
    got = token_weights(ids, period, [False, True, False], 3.0)
    assert got.tolist() == [1, 1, 1, 3, 3, 1, 1, 1, 1]
    assert token_weights(ids[:5], period, [False, True, False], 3.0).tolist() == [1, 1, 1, 3]
    assert token_weights([0, 1, 2, 0], None, [True], 2.0).tolist() == [2, 2, 1]
    with pytest.raises(KitError, match="more sentences than the 2"):
        token_weights(ids, period, [False, True], 3.0)


def test_dataset_hands_token_weights_and_labels_on():
    ids = [[0, 1, 2, 0], [0, 3, 0]]
    data = ReportDataset(
        ["s0", "s1"],
        features=Features(2),
        tokens=ids,
        token_weights=[np.array([1, 3, 1]), np.array([2, 1])],
        labels=np.array([[True, False], [False, True]]),
    )
    batch = data.batch([1, 0], SimpleNamespace())
    assert batch.token_weights.tolist() == [[2, 1, 0], [1, 3, 1]]
    assert batch.labels.tolist() == [[0, 1], [1, 0]]
    assert batch.labels.dtype == torch.float32


LAYOUT = SentenceLayout(full_stop=9, sentences=3, words=4)


def cut(ids, weights=None, layout=LAYOUT):
    """Sentences of one report without padding, and its stops."""
    batch = collate(
        ["a", "b"],
        torch.ones(2, 1, dtype=torch.bool),
        features=torch.zeros(2, 1, 1, 1),
        tokens=[ids, [0, 1, 9, 0]],
        token_weights=None if weights is None else [np.array(weights, float), np.ones(3)],
        layout=layout,
    )
    rows = zip(batch.sentences[0], batch.sentence_lengths[0])
    used = [sentence[: int(n)].tolist() for sentence, n in rows]
    shape = (*batch.sentences.shape[:2], batch.sentences.shape[2] - 1)
    assert batch.sentence_weights.shape == shape
    return [s for s in used if s], batch.stops[0].tolist(), batch


def test_full_stops_become_end_marks_of_sentences():
    sentences, stops, batch = cut([0, 1, 2, 9, 3, 9, 0])
    assert sentences == [[0, 1, 2, 0], [0, 3, 0]] and stops == [0, 1]
    assert batch.sentences[1].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert batch.sentence_lengths.tolist() == [[4, 3], [3, 0]]
    assert batch.stops[1].tolist() == [1, -1]
    assert batch.select([1]).sentences.shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("ids", "sentences", "stops"),
    [
        # A report without its last full stop still ends its sentence.
        ([0, 1, 9, 2, 0], [[0, 1, 0], [0, 2, 0]], [0, 1]),
        # Cut off within a sentence, or behind one: nobody knows whether it would have ended.
        ([0, 1, 9, 2], [[0, 1, 0], [0, 2]], [0, -1]),
        ([0, 1, 9, 2, 9], [[0, 1, 0], [0, 2, 0]], [0, -1]),
        # A sentence without words is none.
        ([0, 9, 1, 9, 9, 2, 9, 0], [[0, 1, 0], [0, 2, 0]], [0, 1]),
        # As many words as allowed, or more: the sentence ends by itself.
        ([0, 1, 2, 3, 9, 0], [[0, 1, 2, 3, 0]], [1]),
        ([0, 1, 2, 3, 4, 9, 0], [[0, 1, 2, 3, 4]], [1]),
        ([0, 1, 2, 3, 4, 5, 9, 6, 9, 0], [[0, 1, 2, 3, 4], [0, 6, 0]], [0, 1]),
        # As many sentences as allowed, or more: the report ends by itself.
        ([0, 1, 9, 2, 9, 3, 9, 0], [[0, 1, 0], [0, 2, 0], [0, 3, 0]], [0, 0, -1]),
        ([0, 1, 9, 2, 9, 3, 9, 4, 9, 0], [[0, 1, 0], [0, 2, 0], [0, 3, 0]], [0, 0, -1]),
        # An empty report has nothing to learn from.
        ([0, 0], [], [-1]),
    ],
)
def test_limits_of_the_layout_and_of_the_text(ids, sentences, stops):
    assert cut(ids)[:2] == (sentences, stops)


def test_each_token_keeps_its_weight_in_its_sentence():
    _, _, batch = cut([0, 1, 2, 9, 3, 4, 5, 6, 7, 9, 0], [3, 3, 3, 1, 1, 1, 1, 1, 1, 2])
    assert batch.sentence_weights[0].tolist() == [[3, 3, 3, 0], [1, 1, 1, 1]]


def test_a_data_set_cuts_its_reports():
    features = torch.zeros(2, 1, 1, 1)

    class Store:
        study_ids = ("a", "b")
        view_mask = np.ones((2, 1), dtype=bool)

        def gather(self, rows):
            return features[rows]

    tokens = [[0, 1, 9, 0], [0, 1, 9, 2, 9, 0]]
    dataset = ReportDataset(["a", "b"], features=Store(), tokens=tokens, layout=LAYOUT)
    batch = dataset.batch([1, 0], np.random.default_rng(0))
    assert batch.stops.tolist() == [[0, 1], [1, -1]]
    plain = ReportDataset(["a", "b"], features=Store(), tokens=tokens)
    assert plain.batch([1], np.random.default_rng(0)).sentences is None
