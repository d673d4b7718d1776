"""Exact search, who must not find whom, queries, disk."""

import sys
import types

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from r2genkit.batches import collate
from r2genkit.errors import KitError
from r2genkit.retrieval import (
    ImageScale,
    ReportIndex,
    RetrievalConfig,
    Retriever,
    finding_vectors,
    overlap,
    query_vectors,
    search_rows,
    typical_first,
    unit_length,
)

torch.set_num_threads(1)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_search(queries, rows, k):
    """The textbook: all scores, sorted in full, equal ones by row."""
    return (queries @ rows.T).sort(dim=1, descending=True, stable=True)


# --- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries_at_a_time", "rows_at_a_time"), [(256, 2**16), (2, 7), (3, 1)])
def test_portions_find_what_a_full_sort_finds(queries_at_a_time, rows_at_a_time):
    queries, rows = draw(5, 4), draw(23, 4, seed=1)
    scores, found = search_rows(
        queries, rows, 6, queries_at_a_time=queries_at_a_time, rows_at_a_time=rows_at_a_time
    )
    values, order = plain_search(queries, rows, 6)
    assert torch.equal(found, order[:, :6])
    torch.testing.assert_close(scores, values[:, :6])


@pytest.mark.parametrize("rows_at_a_time", [2, 5, 100])
def test_of_equal_rows_the_first_are_found(rows_at_a_time):
    rows = torch.tensor([[0.0], [1.0], [1.0], [0.5], [1.0], [1.0], [0.5], [1.0]])
    _, found = search_rows(torch.ones(1, 1), rows, 3, rows_at_a_time=rows_at_a_time)
    assert found.tolist() == [[1, 2, 4]]
    _, found = search_rows(torch.ones(1, 1), rows, 6, rows_at_a_time=rows_at_a_time)
    assert found.tolist() == [[1, 2, 4, 5, 7, 3]]
    _, found = search_rows(-torch.ones(1, 1), rows, 2, rows_at_a_time=rows_at_a_time)
    assert found.tolist() == [[0, 3]]


@pytest.mark.parametrize("rows_at_a_time", [3, 100])
def test_rows_that_share_a_group_are_left_out(rows_at_a_time):
    queries, rows = draw(4, 3), draw(9, 3, seed=1)
    own = torch.tensor([[0, -1], [1, 5], [-1, 6], [-1, -1]])
    theirs = torch.stack([torch.arange(9), torch.tensor([5, 6, 5, 6, -1, 5, 5, 5, 5])], 1)
    scores, found = search_rows(
        queries, rows, 9, query_groups=own, row_groups=theirs, rows_at_a_time=rows_at_a_time
    )
    for row, gone in enumerate([{0}, {1, 0, 2, 5, 6, 7, 8}, {1, 3}, set()]):
        kept = [i for i in plain_search(queries, rows, 9)[1][row].tolist() if i not in gone]
        assert found[row].tolist() == kept + [-1] * len(gone)
        assert torch.isinf(scores[row, len(kept) :]).all()


def test_more_than_there_is_comes_as_absent():
    scores, found = search_rows(draw(2, 3), draw(2, 3), 4)
    assert found[:, 2:].tolist() == [[-1, -1]] * 2 and (scores[:, 2:] == -torch.inf).all()
    assert search_rows(draw(2, 3), draw(0, 3), 4)[1].tolist() == [[-1] * 4] * 2
    assert search_rows(draw(2, 3), draw(5, 3), 0)[1].shape == (2, 0)


def test_search_says_what_does_not_fit():
    with pytest.raises(KitError, match="do not fit"):
        search_rows(draw(2, 3), draw(2, 4), 1)
    with pytest.raises(KitError, match="k >= 0"):
        search_rows(draw(2, 3), draw(2, 3), -1)
    with pytest.raises(KitError, match="both or neither"):
        search_rows(draw(2, 3), draw(2, 3), 1, row_groups=torch.zeros(2, 1))


def test_faiss_is_asked_for_by_name_when_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(KitError, match="not installed: install faiss-cpu"):
        search_rows(draw(2, 3), draw(5, 3), 1, backend="faiss")


def test_faiss_gives_the_same(monkeypatch):
    """Against a stand-in with the interface of ``faiss.IndexFlatIP``."""

    class IndexFlatIP:
        def __init__(self, length):
            self.rows = np.empty((0, length), np.float32)

        def add(self, rows):
            assert rows.dtype == np.float32 and rows.flags["C_CONTIGUOUS"]
            self.rows = np.concatenate([self.rows, rows])

        def search(self, queries, k):
            scores = queries @ self.rows.T
            order = np.argsort(-scores, axis=1)[:, :k]
            return np.take_along_axis(scores, order, 1), order

    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=IndexFlatIP))
    queries, rows = draw(4, 3), draw(9, 3, seed=1)
    groups = {
        "query_groups": torch.tensor([[0], [1], [-1], [7]]),
        "row_groups": torch.tensor([[0], [1], [1], [1], [2], [7], [7], [1], [1]]),
    }
    for extra in ({}, groups):
        for k in (2, 9, 12):
            ours = search_rows(queries, rows, k, **extra)
            theirs = search_rows(queries, rows, k, backend="faiss", **extra)
            assert torch.equal(ours[1], theirs[1])
            torch.testing.assert_close(ours[0], theirs[0])


# --- the index --------------------------------------------------------------------------------

TRAIN = ("a", "b", "c", "d", "e")
TEXTS = {
    "a": "The lungs are clear.",
    "b": "the lungs are clear",  # the same text, written otherwise
    "c": "Small effusion.",
    "d": "Large heart.",
    "e": "Large heart and small effusion.",
}


def make_index(rows=None, **options):
    rows = unit_length(draw(5, 4)) if rows is None else rows
    return ReportIndex(TRAIN, rows, train=TRAIN, texts=TEXTS, **options)


@pytest.mark.parametrize("stranger", ["validation_1", "test_1"])
def test_only_training_studies_may_be_indexed(stranger):
    ids = (*TRAIN, stranger)
    with pytest.raises(KitError, match=rf"1 of 6 .* not of the training set \(first: {stranger}"):
        ReportIndex(ids, draw(6, 4), train=TRAIN, texts={**TEXTS, stranger: "x"})


def test_an_index_says_what_is_wrong():
    with pytest.raises(KitError, match="one vector each"):
        make_index(draw(4, 4))
    with pytest.raises(KitError, match="twice"):
        ReportIndex(("a", "a"), draw(2, 4), train=TRAIN, texts=TEXTS)
    with pytest.raises(KitError, match="a of the index has no report"):
        ReportIndex(("a",), draw(1, 4), train=TRAIN, texts={})


def names(index, places):
    return [[index.study_ids[p] for p in row if p >= 0] for row in places.tolist()]


def test_a_training_study_finds_neither_itself_nor_its_text():
    index = make_index()
    _, places = index.search(index.rows, 5, TRAIN)
    for study, found in zip(TRAIN, names(index, places)):
        twins = {"a", "b"} if study in "ab" else {study}
        assert set(found) == set(TRAIN) - twins
    assert (places[0] == -1).sum() == 2


def test_leaks_are_opened_one_by_one():
    index = make_index()
    for leak, gone in (("same_text", {"a"}), ("itself", set())):
        _, places = index.search(index.rows[:1], 5, ["a"], leak=leak)
        assert set(names(index, places)[0]) == set(TRAIN) - gone
    assert names(index, places)[0][0] == "a"  # nothing is more like a study than itself


def test_a_new_study_may_find_every_text():
    index = make_index()
    _, places = index.search(index.rows[:1], 5, ["new"])
    assert set(names(index, places)[0]) == set(TRAIN)


def test_nobody_finds_another_study_of_the_same_patient():
    index = make_index(patients={"a": "P", "d": "P", "c": "Q", "new": "P", "other": "R"})
    _, places = index.search(index.rows[[0, 0, 2, 0]], 5, ["a", "new", "c", "other"])
    found = [set(row) for row in names(index, places)]
    assert found == [{"c", "e"}, {"b", "c", "e"}, {"a", "b", "d", "e"}, set(TRAIN)]


def test_without_takes_studies_away_and_nothing_else():
    index = make_index(patients={"c": "P", "new": "P"})
    fewer = index.without({"a", "nobody"})
    assert fewer.study_ids == ("b", "c", "d", "e") and len(index) == 5
    assert torch.equal(fewer.rows, index.rows[1:])
    _, places = fewer.search(index.rows[:1], 5, ["new"])
    assert set(names(fewer, places)[0]) == {"b", "d", "e"}


def test_of_equal_findings_the_most_typical_text_comes_first():
    texts = ["rare words here", "lungs are clear", "heart large", "lungs are clear", "lungs clear"]
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    order = typical_first(texts, rows)
    assert [i for i in order if i != 2] == [1, 3, 4, 0]


# --- queries ----------------------------------------------------------------------------------


def test_an_absent_view_is_neither_black_nor_different():
    pooled, mask = draw(40, 2, 3), torch.ones(40, 2, dtype=torch.bool)
    mask[:9, 1] = False
    pooled[:9, 1] = 0.0
    scale = ImageScale.fit(pooled, mask)
    torch.testing.assert_close(scale.mean[1], pooled[9:, 1].mean(0))
    torch.testing.assert_close(scale.deviation[1], pooled[9:, 1].std(0, correction=0))
    vectors = scale.vectors(pooled, mask)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40))
    assert (vectors[:9, 3:] == 0).all() and (vectors[9:, 3:] != 0).all()
    kept = unit_length((pooled[0, 0] - scale.mean[0]) / scale.deviation[0])
    torch.testing.assert_close(vectors[0, :3], kept)


def test_a_constant_feature_does_not_divide_by_zero():
    pooled = torch.ones(4, 1, 2)
    vectors = ImageScale.fit(pooled, torch.ones(4, 1).bool()).vectors(
        pooled, torch.ones(4, 1).bool()
    )
    assert torch.equal(vectors, torch.zeros(4, 2))


def test_no_finding_is_a_direction_of_its_own():
    given = torch.tensor([[0.0, 0.0], [0.1, 0.1], [1.0, 0.0]])
    vectors = finding_vectors(given)
    torch.testing.assert_close(vectors[0], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(vectors[2], torch.tensor([1.0, 0.0, 0.0]))
    near = vectors @ vectors.T
    assert near[1, 0] > near[1, 2]


def test_both_is_the_weighted_mean_of_the_two_likenesses():
    config = RetrievalConfig(by="both", image_weight=0.3)
    image, findings = unit_length(draw(6, 5)), unit_length(draw(6, 4, seed=1))
    vectors = query_vectors(config, image, findings)
    want = 0.3 * image @ image.T + 0.7 * findings @ findings.T
    torch.testing.assert_close(vectors @ vectors.T, want)
    assert query_vectors(RetrievalConfig(by="image"), image) is image
    with pytest.raises(KitError, match="lacks tags"):
        query_vectors(config, image)
    with pytest.raises(KitError, match="lacks patch features"):
        query_vectors(RetrievalConfig(by="image"), None, findings)


@pytest.mark.parametrize(
    "wrong", [{"k": -1}, {"by": "text"}, {"image_weight": 1.0}, {"top": 3}, {"leak": "all"}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        RetrievalConfig.model_validate(wrong)


# --- retriever --------------------------------------------------------------------------------

TOKENS = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 0], [0, 3, 4, 5], [0, 6, 0, 0], [0, 7, 7, 0]])


def make_retriever(by="both", k=3, **options):
    config = RetrievalConfig(by=by, k=k, image_weight=0.4, **options)
    ids = (*TRAIN, "v", "t")
    pooled, mask = draw(7, 2, 3), torch.ones(7, 2, dtype=torch.bool)
    scale = ImageScale.fit(pooled[:5], mask[:5]) if by != "findings" else None
    told = torch.rand((7, 4), generator=torch.Generator().manual_seed(3))
    image = scale.vectors(pooled, mask) if scale else None
    queries = query_vectors(config, image, finding_vectors(told))
    true = query_vectors(config, image, finding_vectors(told.round()))[:5]
    retriever = Retriever(
        config, make_index(true), TOKENS, ids, queries, scale=scale, figures={"x": 1.0}
    )
    features = pooled[:, :, None].expand(-1, -1, 4, -1) + 0.0
    batch = collate(ids, mask, features=features, tags=told)
    return retriever, batch


@pytest.mark.parametrize("by", ["image", "findings", "both"])
def test_a_minibatch_of_new_studies_finds_what_the_split_finds(by):
    retriever, batch = make_retriever(by)
    torch.testing.assert_close(retriever.vectors_of(batch), retriever.queries)
    new = batch.select([5, 6])
    assert np.array_equal(retriever.of_batch(new).numpy(), retriever.neighbours(["v", "t"]))


def test_neighbours_are_the_token_ids_of_what_is_found():
    retriever, _ = make_retriever()
    for study, rows, found in zip(
        retriever.study_ids,
        retriever.neighbours(retriever.study_ids),
        retriever.found(retriever.study_ids),
    ):
        assert rows.shape == (3, 4) and rows.dtype == np.int64 and study not in found
        for name, row in zip(found, rows):
            assert row.tolist() == TOKENS[TRAIN.index(name)].tolist()
    few, _ = make_retriever(k=5)
    assert few.neighbours(["a"])[0, 3:].tolist() == [[0] * 4] * 2  # a and b say the same
    none, batch = make_retriever(k=0)
    assert none.neighbours(["v"]).shape == (1, 0, 4)
    assert none.of_batch(batch.select([5])).shape == (1, 0, 4)


def test_a_retriever_says_what_is_missing():
    retriever, batch = make_retriever()
    with pytest.raises(KitError, match="nobody was not there"):
        retriever.neighbours(["nobody"])
    batch.tags = None
    with pytest.raises(KitError, match="lacks tags"):
        retriever.of_batch(batch)
    with pytest.raises(KitError, match="4 reports for 5 studies"):
        Retriever(retriever.config, retriever.index, TOKENS[:4], ("v",), draw(1, 4))


def test_a_frozen_encoder_looks_where_the_models_own_is_trained():
    retriever, batch = make_retriever("image")

    class Frozen(torch.nn.Module):
        def encode_views(self, images, view_mask):
            return images[:, :, 0].flatten(2).unsqueeze(2)[..., :3]

    retriever.encoder = Frozen()
    pixels = batch.features[:, :, 0]  # [B, V, 3] as images of 1 x 3 pixels
    batch.images, batch.features = pixels[:, :, None, None].expand(-1, -1, 3, -1, -1), None
    torch.testing.assert_close(retriever.vectors_of(batch), retriever.queries)


@pytest.mark.parametrize("by", ["findings", "both"])
def test_a_saved_retriever_is_the_same(tmp_path, by):
    retriever, batch = make_retriever(by)
    retriever.index.patients = {"a": "P"}
    retriever.save(tmp_path / "retrieval")
    loaded = Retriever.load(tmp_path / "retrieval")
    assert loaded.config == retriever.config and loaded.figures() == {"x": 1.0}
    assert loaded.index.patients == {"a": "P"}
    ids = retriever.study_ids
    assert np.array_equal(loaded.neighbours(ids), retriever.neighbours(ids))
    assert torch.equal(loaded.of_batch(batch), retriever.of_batch(batch))
    (tmp_path / "retrieval" / "retrieval.json").write_text("{}")
    with pytest.raises(KitError, match="holds no retrieval index"):
        Retriever.load(tmp_path / "retrieval")


def test_a_shifted_data_base_gives_other_reports():
    retriever, _ = make_retriever()
    first = retriever.found(["v"])[0][0]
    shifted = retriever.without({first})
    assert shifted.found(["v"], 4)[0] == [n for n in retriever.found(["v"], 5)[0] if n != first]
    place = shifted.index.study_ids.index(shifted.found(["v"])[0][0])
    assert shifted.neighbours(["v"])[0, 0].tolist() == shifted.tokens[place].tolist()


# --- how good are neighbours? -----------------------------------------------------------------


def test_overlap_by_hand():
    findings = {"s": {"x", "y"}, "t": set(), "p": {"x"}, "q": {"y", "z"}, "r": set()}
    got = overlap([["p", "q"], ["r", "p"]], findings, ["s", "t"])
    # Pairs: (s,p) 1 hit of 1 shown, 2 wanted; (s,q) 1 of 2, 2; (t,r) 0 of 0, 0; (t,p) 0 of 1, 0.
    assert got == {"precision": 2 / 4, "recall": 2 / 4, "F1": 4 / 8, "any": 1.0}
    assert overlap([["r"]], findings, ["t"]) == dict.fromkeys(
        ("precision", "recall", "F1", "any"), 0.0
    )
