"""The wall of a tiny trained run: who is drawn, who is found, what is written with whom."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from r2genkit.decoding import decode_all
from r2genkit.errors import KitError
from r2genkit.experiments import run
from r2genkit.experiments.base_shift import with_reports
from r2genkit.experiments.data import report_loader
from r2genkit.experiments.retrieving import finding_sets
from r2genkit.experiments.tagging import decoder_tags
from r2genkit.experiments.wall import (
    NeighbourWriter,
    draw_queries,
    stratum_of,
    truth_index,
    wall_data,
)
from r2genkit.metrics.findings.scores import finding_f1
from r2genkit.metrics.nlg import score_nlg
from r2genkit.viz.widgets.wall import EMPTY, copied, wall_figure, wall_html

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=26",
    "data.limit_validation=5",
    "data.limit_test=10",
    "encoder.image_size=64",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=1",
    "sampling.batch_size=8",
    "scoring.bootstrap=10",
    "scoring.meteor=false",
    "scoring.swap=1",
    "decoding.max_length=16",
    "retrieval.crossfit=0",
    "retrieval.k=3",
)

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("folders")
_KEPT: dict = {}


@pytest.fixture
def finished(folders):
    if "run" not in _KEPT:
        _KEPT["run"] = run("09_retrieval", profile="smoke", overrides=TINY, progress=False)
        _KEPT["writer"] = NeighbourWriter(_KEPT["run"])
        _KEPT["wall"] = wall_data(_KEPT["run"], count=4, tiles=4, writer=_KEPT["writer"])
    return _KEPT["run"]


@pytest.fixture
def writer(finished):
    return _KEPT["writer"]


@pytest.fixture
def wall(finished):
    return _KEPT["wall"]


def test_queries_are_drawn_in_turn_from_strata(finished):
    text = finished.text()
    found = finding_sets(text, text.split.test)
    sizes = Counter(stratum_of(len(found[study])) for study in text.split.test)
    drawn = draw_queries(text, 4, 0)
    assert drawn == draw_queries(text, 4, 0)
    assert all(stratum == stratum_of(len(found[study])) for study, stratum in drawn)
    taken = Counter(stratum for _, stratum in drawn)
    # No stratum is ahead of another that still has studies by more than one.
    for one, other in itertools.permutations(sizes, 2):
        assert taken[one] <= taken[other] + 1 or taken[other] == sizes[other]
    counts = [len(found[study]) for study, _ in drawn]
    assert [min(count, 3) for count in counts] == sorted(min(count, 3) for count in counts)
    every = draw_queries(text, len(text.split.test), 0)
    assert {study for study, _ in every} == set(text.split.test)
    assert any(draw_queries(text, 4, seed) != drawn for seed in range(1, 6))
    with pytest.raises(KitError, match="cannot draw 0 queries"):
        draw_queries(text, 0, 0)


def test_its_own_neighbours_give_the_report_of_the_run(finished, wall):
    for query in wall.queries:
        assert " ".join(query.report(query.given).words) == finished.hypotheses[query.id]
        own = query.walls["both"][: len(query.given)]
        assert query.given == tuple(hit.study for hit in own)


def test_every_subset_of_its_neighbours_is_written(finished, writer, wall):
    """One by one, as ``base_shift`` gives reports to a model."""
    text, system = finished.text(), writer.system
    told = decoder_tags(system.recipe.tags, system.tags, text, "test")
    loader = list(
        report_loader(
            system.recipe, text, finished.images(), "test", seed=0, training=False, tags=told
        )
    )
    tokens = system.retriever.tokens.numpy()
    for query in wall.queries[:2]:
        subsets = itertools.product(*((study, EMPTY) for study in query.given))
        for given in subsets:
            neighbours = np.zeros((1, 3, tokens.shape[1]), dtype=np.int64)
            for seat, study in enumerate(given):
                if study:
                    neighbours[0, seat] = tokens[writer.places[study]]
            (found,) = decode_all(
                system.model,
                with_reports(loader, [query.id], neighbours),
                system.recipe.decoding,
                vocabulary=system.vocabulary,
                seed=0,
            ).values()
            assert " ".join(query.report(given).words) == found.text
        for order in ("image", "findings", "truth"):
            query.report([hit.study for hit in query.walls[order][:3]])  # written, too


def test_walls_hold_training_studies_in_order(finished, wall):
    train = set(finished.text().split.train)
    assert [order.key for order in wall.orders] == ["image", "findings", "both", "truth"]
    assert set(wall.studies) <= train
    for query in wall.queries:
        for hits in query.walls.values():
            likeness = [hit.likeness for hit in hits]
            assert len(hits) == 4 and likeness == sorted(likeness, reverse=True)
            assert max(likeness) <= 1 + 1e-5


def test_likeness_by_image_and_truth_are_cosines(finished, wall):
    text, images = finished.text(), finished.images()
    features, ids = images.features, list(text.split.train)
    rows = np.array([features.row(study) for study in text.studies])
    pooled = features.gather(rows).mean(2).numpy().astype(float)  # [M, V, D]
    there = features.view_mask[rows]
    place = {study: row for row, study in enumerate(text.studies)}
    train = [place[study] for study in ids]
    vectors = np.zeros_like(pooled)
    for view in range(pooled.shape[1]):
        known = [row for row in train if there[row, view]]
        mean, deviation = pooled[known, view].mean(0), pooled[known, view].std(0)
        scaled = (pooled[:, view] - mean) / np.where(deviation > 1e-6, deviation, 1)
        vectors[:, view] = scaled * there[:, [view]]
    flat = vectors.reshape(len(vectors), -1)
    shows = finding_sets(text, tuple(text.studies))
    for query in wall.queries:
        asked = flat[place[query.id]]
        cosines = flat[train] @ asked / np.linalg.norm(flat[train], axis=1) / np.linalg.norm(asked)
        best = np.sort(cosines)[::-1][:4]
        assert [hit.likeness for hit in query.walls["image"]] == pytest.approx(best, abs=2e-3)
        own = shows[query.id]
        upper = [
            len(own & shows[one]) / np.sqrt(len(own) * len(shows[one]))
            if own and shows[one]
            else float(own == shows[one])
            for one in ids
        ]
        best = np.sort(upper)[::-1][:4]
        assert [hit.likeness for hit in query.walls["truth"]] == pytest.approx(best, abs=1e-6)


def test_of_equal_findings_typical_reports_come_first(finished):
    text = finished.text()
    index = truth_index(text, 60)
    assert sorted(index.study_ids) == sorted(text.split.train)
    shows = finding_sets(text, tuple(text.studies))
    for study, row in zip(index.study_ids, index.rows):
        assert (row > 0).sum() == max(1, len(shows[study]))


def test_findings_scores_and_copies_are_those_of_the_kit(finished, writer, wall):
    text, labeler = finished.text(), writer.labeler
    shows = finding_sets(text, tuple(text.studies))
    for query in wall.queries:
        assert set(query.findings) == {labeler.titles[one] for one in shows[query.id]}
        reference = {query.id: text.references[query.id]}
        shown = {study: text.references[study] for study in query.copies}
        for study, report in shown.items():
            f1, bleu = query.copies[study]
            kit = finding_f1({query.id: report}, reference).micro["f1"]
            assert (f1 is None and np.isnan(kit)) or f1 == pytest.approx(kit)
            scores = score_nlg({query.id: report}, reference, meteor=False)
            assert bleu == pytest.approx(scores.corpus["BLEU-4"], abs=1e-6)
        for study in (hit.study for hits in query.walls.values() for hit in hits):
            assert set(wall.studies[study].findings) == {
                labeler.titles[one] for one in shows[study]
            }


def test_a_training_report_is_known_to_hold_its_own_sentences(finished, writer, wall):
    text = finished.text()
    query = wall.queries[0]
    pool = [hit.study for hit in query.walls["both"]]
    report = writer.report(query.id, text.references[pool[0]], pool)
    assert all(pool[0] in sentence.holders for sentence in report.sentences)
    assert all(seats[0] == 0 for seats in copied(report, pool[:3]))
    for sentence in report.sentences:
        spoken = " ".join(report.words[sentence.first : sentence.end]).rstrip(" .")
        holding = [
            study
            for study in text.split.train
            if spoken in [part.strip() for part in text.references[study].split(" .")]
        ]
        assert sentence.reports == len(holding)
        assert [study for study in pool if study in holding] == list(sentence.holders)
    strange = writer.report(query.id, "zebra on the lawn .", pool)
    assert strange.sentences[0].holders == () and strange.sentences[0].reports == 0


def test_the_callback_writes_with_chosen_neighbours(finished, writer, wall):
    query = wall.queries[-1]
    pool = [hit.study for hits in query.walls.values() for hit in hits]
    asked = {"query": query.id, "pool": pool}
    got = writer.answer({**asked, "given": list(query.given)})["report"]
    assert " ".join(got["words"]) == finished.hypotheses[query.id]
    empty = writer.answer({**asked, "given": [None] * 3})["report"]
    assert tuple(empty["words"]) == query.report(query.empty).words
    other = query.walls["truth"][3].study
    given = (other, EMPTY, query.given[0])
    (text,) = writer.write(query.id, [given])
    assert writer.answer({**asked, "given": [other, None, given[2]]})["report"]["words"] == (
        text.split()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "nobody"}, "study nobody is not in the test part of the split"),
        ({"given": [None]}, "1 neighbours given and the model has 3 seats"),
        ({"given": ["nobody", None, None]}, "study nobody is not among the"),
        ({"given": None}, "the question lacks query, given or pool"),
        ({"pool": ["nobody"]}, "study nobody on the wall is no indexed training study"),
    ],
)
def test_the_callback_refuses_what_is_not_there(wall, writer, change, message):
    question = {"query": wall.queries[0].id, "given": [None] * 3, "pool": []}
    with pytest.raises(KitError, match=message):
        writer.answer({**question, **change})


def test_a_run_without_retrieval_has_no_wall(finished, writer):
    with pytest.raises(KitError, match="2 tiles are fewer than the 3 seats"):
        wall_data(finished, tiles=2, writer=writer)
    with pytest.raises(KitError, match="the writer is of part test, the wall of validation"):
        wall_data(finished, part="validation", writer=writer)


def test_page_and_figure_take_it(wall):
    page = wall_html(wall)
    assert wall.queries[0].id in page and wall.notes[0].split(" of ")[0] in page
    assert len(wall_figure(wall, 1, tiles=2).axes) == len(wall.queries[1].views) + 4 * 2
