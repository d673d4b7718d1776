"""A contest of finished runs: the deck that is drawn, what metrics vote for, the command."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.experiments import duel as duels
from r2genkit.experiments import read_run, run
from r2genkit.experiments.duel import (
    REFERENCE,
    contest_of,
    describe,
    draw_studies,
    duel_data,
    metric_votes,
    metric_votes_table,
    run_beside,
)
from r2genkit.images import render_view
from r2genkit.metrics.nlg import bleu_from_counts, score_nlg
from r2genkit.study import Finding
from r2genkit.viz.widgets.duel import METRICS, corpus_scores
from r2genkit.viz.widgets.duel_votes import FORMAT
from tests.command import call

TINY = (
    "data.limit_train=40",
    "data.limit_validation=9",
    "data.limit_test=14",
    "scoring.bootstrap=20",
    "scoring.meteor=false",
)
AGAINST = ("02_constant", "02_most_frequent")

pytestmark = pytest.mark.usefixtures("folders")

_KEPT: dict = {}


@pytest.fixture
def contest(folders):
    if not _KEPT:
        # A baseline in the place of the model: nothing has to be trained.
        result = run("02_random", profile="smoke", overrides=TINY, progress=False)
        _KEPT["contest"] = contest_of(result, AGAINST, bootstrap=50)
    return _KEPT["contest"]


def test_all_systems_stand_on_the_studies_of_the_run(contest):
    assert contest.systems == ("02_random", *AGAINST) and list(contest.reports)[-1] == REFERENCE
    ids = set(contest.text.split.test)
    assert len(ids) == 14 and all(set(texts) == ids for texts in contest.reports.values())
    assert contest.reports["02_random"] == contest.result.hypotheses
    assert len(set(contest.reports["02_constant"].values())) == 1
    for key, found in contest.evaluations.items():
        assert found.studies == contest.studies == tuple(sorted(ids)), key
    assert contest.evaluations[REFERENCE].metrics["BLEU-4"] == pytest.approx(1)
    normal = contest.text.normal(contest.studies)
    for study, abnormal in zip(contest.studies, contest.abnormal):
        assert normal[study] in (None, not abnormal)


def test_a_baseline_is_run_on_the_same_studies_and_texts(contest):
    other = run_beside(contest.result, "02_constant")
    own = contest.result.recipe
    assert other.recipe.data == own.data and other.recipe.text == own.text
    assert other.row.split_fingerprint == contest.result.row.split_fingerprint
    assert other.row.seed == contest.result.row.seed
    # The run that made the row's difference to the constant is read, not another one trained.
    folders = list(contest.result.folder.parent.glob("02_constant*/row.json"))
    assert [path.parent for path in folders] == [other.folder]


def test_only_what_differs_is_set_for_a_baseline(contest, monkeypatch):
    asked = {}

    def fake(name, **options):
        asked[name] = options
        return contest.result

    monkeypatch.setattr(duels, "run", fake)
    recipe = contest.result.recipe
    text = recipe.text.model_copy(update={"max_length": 90, "min_count": 7})
    longer = dataclasses.replace(
        contest.result, recipe=recipe.model_copy(update={"text": text}), data_dir=None
    )
    run_beside(longer, "02_constant")
    changes = set(asked["02_constant"]["overrides"])
    # How far the model reads does not touch a constant that is scored against whole references.
    assert "text.min_count=7" in changes and not any("max_length" in one for one in changes)
    assert "data.limit_test=14" in changes and not any("corpus" in one for one in changes)
    cut = text.model_copy(update={"references": "truncated"})
    run_beside(
        dataclasses.replace(longer, recipe=recipe.model_copy(update={"text": cut})), "02_constant"
    )
    assert {"text.max_length=90", 'text.references="truncated"'} <= set(
        asked["02_constant"]["overrides"]
    )


def test_what_cannot_be_compared_is_refused(contest):
    result = contest.result
    with pytest.raises(KitError, match="a system stands in the duel twice"):
        contest_of(result, ("02_constant", "02_constant"))
    with pytest.raises(KitError, match="1 systems cannot be judged"):
        contest_of(result, ("02_random",))  # the run itself is left out
    some = contest.studies[0]
    short = dataclasses.replace(
        run_beside(result, "02_constant"),
        hypotheses={k: v for k, v in contest.reports["02_constant"].items() if k != some},
    )
    with pytest.raises(KitError, match=f"has no report for study {some}"):
        contest_of(result, (short,))


# --- the draw -----------------------------------------------------------------------------------


def test_half_of_the_studies_drawn_are_abnormal_and_nobody_chose_them(contest):
    kinds = dict(zip(contest.studies, contest.abnormal))
    few = min(contest.abnormal.sum(), (~contest.abnormal).sum())
    for number in range(1, 2 * few + 1):
        drawn = draw_studies(contest, number, 3)
        assert len(set(drawn)) == number
        assert sum(kinds[study] for study in drawn) == (number + 1) // 2
    everything = draw_studies(contest, len(kinds), 3)
    assert sorted(everything) == list(contest.studies)  # the larger kind fills up
    assert draw_studies(contest, 4, 3) == draw_studies(contest, 4, 3)
    assert len({draw_studies(contest, 4, seed) for seed in range(6)}) > 1
    for number in (0, 15):
        with pytest.raises(KitError, match=f"{number} studies cannot be drawn"):
            draw_studies(contest, number)


def test_where_one_kind_is_rare_the_other_fills_up(contest):
    only = {"normal": np.arange(14) != 3}  # one abnormal study
    first = contest.evaluations["02_random"]
    table = first.per_study.assign(**only)
    rare = dataclasses.replace(
        contest, evaluations={"02_random": dataclasses.replace(first, per_study=table)}
    )
    drawn = draw_studies(rare, 6, 0)
    assert len(set(drawn)) == 6 and contest.studies[3] in drawn


def test_a_deck_holds_the_reports_their_counts_and_what_was_drawn(contest):
    data = duel_data(contest, 6, seed=1, size=64)
    assert [study.id for study in data.studies] == list(draw_studies(contest, 6, 1))
    assert data.synthetic and data.whole_studies == 14 and data.reference == REFERENCE
    assert "6 of 14 test studies, drawn by seed 1, 3 of them abnormal." in data.notes
    labeler = contest.text.labeler
    for study in data.studies:
        source = contest.text.studies[study.id]
        assert study.view_names == ("frontal", "lateral")
        assert (study.views[1] == render_view(source.views[1], 64)).all()
        assert source.normal in (None, not study.abnormal)
        assert len(study.shows) == len({describe(f, labeler.titles) for f in source.findings})
        for key, report in study.reports.items():
            assert " ".join(report.words) == contest.reports[key][study.id]
            alone = score_nlg(
                {"x": contest.reports[key][study.id]},
                {"x": contest.reports[REFERENCE][study.id]},
                meteor=False,
            ).corpus
            assert bleu_from_counts(np.array(report.bleu))[3] == pytest.approx(alone["BLEU-4"])
            assert report.scores["BLEU-4"] == pytest.approx(alone["BLEU-4"], abs=1e-6)
        for line in study.lines:
            name = next(key for key, title in labeler.titles.items() if title == line.title)
            assert line.shown == (name in {finding.name for finding in source.findings})
            for key, polarity in line.said.items():
                told = labeler.label(contest.reports[key][study.id])
                assert polarity == told.get(name, "")
    everything = duel_data(contest, 14, size=64)
    for source in everything.sources:
        got = corpus_scores([study.reports[source.key] for study in everything.studies])
        for name in METRICS:
            assert got[name] == pytest.approx(source.whole[name], nan_ok=True), (source.key, name)


def test_reports_are_shown_in_an_order_of_each_study(contest):
    decks = [duel_data(contest, 14, seed=seed, size=64) for seed in (0, 0, 1)]
    orders = [{study.id: study.order for study in deck.studies} for deck in decks]
    assert orders[0] == orders[1] != orders[2]
    places = [order.index(REFERENCE) for order in orders[0].values()]
    assert len(set(places)) > 1  # not always the same place
    # The order of a study does not depend on what else is drawn.
    few = duel_data(contest, 4, seed=0, size=64)
    assert all(orders[0][study.id] == study.order for study in few.studies)


def test_a_finding_is_described_with_its_place():
    titles = {"effusion": "pleural effusion"}
    both = Finding("effusion", ("base",), ("left", "right"), "mild")
    assert describe(both, titles) == "pleural effusion, bilateral, base, mild"
    assert describe(Finding("effusion", sides=("left",)), titles) == "pleural effusion, left"


# --- metrics as judges --------------------------------------------------------------------------


def test_metrics_vote_study_by_study(contest):
    found = metric_votes(contest, resamples=50)
    assert found.studies == 14
    for metric in METRICS:
        tally, tied, silent, judged = dict.fromkeys(contest.systems, 0.0), 0, 0.0, 0
        for row, study in enumerate(contest.studies):
            scores = {
                key: contest.evaluations[key].per_study.loc[study, metric]
                for key in contest.systems
            }
            scores = {k: 1.0 if math.isnan(one) else round(one, 3) for k, one in scores.items()}
            best = [key for key, score in scores.items() if score == max(scores.values())]
            tied += len(best) > 1
            for key in best:
                tally[key] += 1 / len(best)
            truth = contest.evaluations["02_random"].findings.counts[row][:, [0, 2]].sum()
            if contest.abnormal[row] and truth:
                judged += 1
                misses = [not contest.evaluations[k].findings.counts[row][:, 0].any() for k in best]
                silent += sum(misses) / len(best)
        lines = found.shares[found.shares["metric"] == metric].set_index("report of")
        for key, votes in tally.items():
            line = lines.loc[contest.titles[key]]
            assert line["share"] == pytest.approx(votes / 14)
            assert line["low"] <= line["share"] + 1e-9 and line["share"] <= line["high"] + 1e-9
        assert lines["share"].sum() == pytest.approx(1)
        assert found.ties[metric] == pytest.approx(tied / 14)
        (share,) = found.blind.loc[found.blind["metric"] == metric, "share"]
        assert found.abnormal == judged and share == pytest.approx(silent / judged)
    table = metric_votes_table(found)
    assert list(table["judge"]) == list(METRICS)
    assert contest.titles["02_constant"] in table and "human reference" not in table


# --- command ------------------------------------------------------------------------------------


def options(folder, out, *more):
    against = [word for name in AGAINST for word in ("--against", name)]
    return ["duel", folder, "--out", out, *against, *more]


def test_the_command_writes_one_page_and_its_votes_are_counted(
    contest, monkeypatch, capsys, tmp_path
):
    out = tmp_path / "new" / "duel.html"
    words = options(contest.result.folder, out, "--studies", 4, "--seed", 2)
    code, printed, told = call(monkeypatch, capsys, *words)
    assert code == 0, told
    assert "4 of 14 test studies, drawn by seed 2" in told and str(out) in printed
    assert [path.name for path in out.parent.iterdir()] == ["duel.html"]  # nothing half-written
    page = out.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    content = json.loads(found)
    assert [study["id"] for study in content["studies"]] == list(draw_studies(contest, 4, 2))
    assert content["deck"] in printed and "synthetic" in content["synthetic"]
    ballot = {
        "format": FORMAT,
        "deck": content["deck"],
        "sources": [{"key": one["key"], "title": one["title"]} for one in content["sources"]],
        "reference": content["reference"],
        "votes": [{"study": content["studies"][0]["id"], "best": [REFERENCE], "dangerous": []}],
    }
    file = tmp_path / "reader.json"
    file.write_text(json.dumps(ballot), encoding="utf-8")
    code, printed, _ = call(monkeypatch, capsys, "duel-votes", file)
    assert code == 0 and "human reference" in printed and "1 of 1" in printed


def test_mistakes_are_told_in_one_sentence(contest, monkeypatch, capsys, tmp_path):
    out = tmp_path / "none.html"

    def told(*words):
        code, printed, error = call(monkeypatch, capsys, *words)
        assert code == 2 and printed == "" and error.count("\n") == 1 and not out.exists()
        return error

    folder = contest.result.folder
    assert "15 studies cannot be drawn" in told(*options(folder, out, "--studies", 15))
    assert "holds no finished run" in told(*options(tmp_path / "empty", out))
    wrong = told("duel", folder, "--out", out, "--against", "02_nobody")
    assert "no recipe '02_nobody'" in wrong
    assert read_run(folder).row.run == "02_random"
