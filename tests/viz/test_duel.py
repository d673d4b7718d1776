"""The report duel without a browser: sums against the metrics, votes of metrics, page, figures."""

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from r2genkit.errors import KitError
from r2genkit.metrics import evaluate_reports
from r2genkit.viz.widgets.duel import (
    FRONT,
    METRICS,
    DuelReport,
    corpus_scores,
    deck_intervals,
    duel_figure,
    duel_html,
    duel_scores_figure,
    duel_widget,
    favourites,
    metric_favourites,
    metric_votes_figure,
    payload,
)
from tests.duels import TITLES, WRITTEN, made_deck

HOSTILE = "</script><script>alert(1)</script><!--\"'&\u2028"


@pytest.fixture(scope="module")
def deck():
    return made_deck()


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list(WRITTEN))
def test_sums_over_any_judged_studies_are_the_scores_of_these_studies(deck, key):
    """Corpus BLEU, ROUGE-L and finding-F1 exactly; CIDEr keeps the rarities of the whole set."""
    reports = {study.id: study.reports[key] for study in deck.studies}
    cider = evaluate_reports(WRITTEN[key], WRITTEN["reference"], meteor=False, bootstrap=0)
    cider = cider.per_study["CIDEr"]
    for number in (1, 2, 5):
        for judged in itertools.combinations(reports, number):
            alone = evaluate_reports(
                {study: WRITTEN[key][study] for study in judged},
                {study: WRITTEN["reference"][study] for study in judged},
                meteor=False,
                bootstrap=0,
            ).metrics
            got = corpus_scores([reports[study] for study in judged])
            for name in ("BLEU-4", "ROUGE-L", "finding-F1"):
                assert got[name] == pytest.approx(alone[name], abs=1e-12, nan_ok=True), name
            assert got["CIDEr"] == pytest.approx(cider[list(judged)].mean(), abs=1e-12)
    with pytest.raises(KitError, match="no report to score"):
        corpus_scores([])


def test_a_subset_has_the_scores_that_an_evaluation_gives_its_subsets(deck):
    """Among them CIDEr, by the rule that all tables of the kit follow."""
    kinds = {study.id: not study.abnormal for study in deck.studies}
    whole = evaluate_reports(
        WRITTEN["model"], WRITTEN["reference"], normal=kinds, meteor=False, bootstrap=0
    )
    reports = [study.reports["model"] for study in deck.studies if study.abnormal]
    got = corpus_scores(reports)
    for name in METRICS:
        assert got[name] == pytest.approx(whole.subsets["abnormal"]["metrics"][name], abs=1e-12)


def test_intervals_of_a_deck_hold_the_score_and_repeat(deck):
    reports = [study.reports["model"] for study in deck.studies]
    ends, scores = deck_intervals(reports), corpus_scores(reports)
    assert all(ends[name][0] <= scores[name] <= ends[name][1] for name in METRICS)
    assert ends == deck_intervals(reports) and ends["BLEU-4"][0] < ends["BLEU-4"][1]
    # One study has no spread.
    alone = deck_intervals(reports[1:2])
    assert alone["BLEU-4"] == pytest.approx([corpus_scores(reports[1:2])["BLEU-4"]] * 2)


# --- votes of metrics ---------------------------------------------------------------------------


def test_a_metric_votes_for_the_highest_score_and_shares_ties():
    nan = math.nan
    assert favourites({"a": 0.2, "b": 0.3, "c": 0.1}) == {"a": 0, "b": 1, "c": 0}
    assert favourites({"a": 0.3, "b": 0.3, "c": 0.1}) == {"a": 0.5, "b": 0.5, "c": 0}
    # Both are shown as 0.000: no 4-gram of the reference in either.
    assert favourites({"a": 2e-5, "b": 1e-9, "c": 0.0}) == dict.fromkeys("abc", 1 / 3)
    assert favourites({"a": 0.3, "b": 0.301, "c": 0.1}) == {"a": 0, "b": 1, "c": 0}
    # Nothing to find and nothing made up is as good as a full score.
    assert favourites({"a": nan, "b": 0.0, "c": nan}) == {"a": 0.5, "b": 0, "c": 0.5}


def test_the_reference_does_not_stand(deck):
    found = metric_favourites(deck.studies[1], "reference")
    assert set(found) == set(METRICS)
    for shares in found.values():
        assert set(shares) == {"model", "constant", "copied"}
        assert sum(shares.values()) == pytest.approx(1)
    assert found["finding-F1"]["model"] == 1  # alone it states the effusion
    tied = metric_favourites(deck.studies[0], "reference")["BLEU-4"]
    assert tied["model"] == tied["constant"]  # the same words


def test_equal_words_stand_there_once(deck):
    assert deck.studies[0].cards == (("copied",), ("model", "constant"), ("reference",))
    assert all(len(study.cards) == 4 for study in deck.studies[1:])
    assert sorted(sum(deck.studies[0].cards, ())) == sorted(WRITTEN)


# --- content ------------------------------------------------------------------------------------


def test_data_that_do_not_belong_together(deck):
    study, report = deck.studies[0], deck.studies[0].reports["model"]
    cases = {
        "has no CIDEr": lambda: dataclasses.replace(
            report, scores={k: v for k, v in report.scores.items() if k != "CIDEr"}
        ),
        "no finite BLEU-4": lambda: dataclasses.replace(
            report, scores=report.scores | {"BLEU-4": math.nan}
        ),
        "needs 10 BLEU counts": lambda: dataclasses.replace(report, bleu=(1, 2)),
        "none negative": lambda: dataclasses.replace(report, hits=(1, -1, 0)),
        "does not fit the 1 words": lambda: dataclasses.replace(report, words=("heart",)),
        "view 1 of study s1 is no grey image": lambda: dataclasses.replace(
            study, views=(study.views[0] / 255,), view_names=("frontal",)
        ),
        "1 names for 2 views": lambda: dataclasses.replace(study, view_names=("frontal",)),
        "order of study s1": lambda: dataclasses.replace(study, order=("model", "constant")),
        "2 to 9 sources": lambda: dataclasses.replace(deck, sources=deck.sources[:1]),
        "reference 'nobody' is no source": lambda: dataclasses.replace(deck, reference="nobody"),
        "no study to judge": lambda: dataclasses.replace(deck, studies=()),
        "in the deck twice": lambda: dataclasses.replace(deck, studies=(study, study)),
        "differ in source 'copied'": lambda: dataclasses.replace(
            deck, sources=tuple(s for s in deck.sources if s.key != "copied")
        ),
    }
    for message, make in cases.items():
        with pytest.raises(KitError, match=message) as told:
            make()
        assert "\n" not in str(told.value)


def test_the_deck_is_named_by_what_is_judged(deck):
    assert re.fullmatch(r"[0-9a-f]{16}", deck.deck)
    assert dataclasses.replace(deck, notes=("another note",)).deck == deck.deck
    study = deck.studies[0]
    words = dataclasses.replace(study.reports["model"], words=("clear",), findings=())
    other = dataclasses.replace(study, reports={**study.reports, "model": words})
    assert dataclasses.replace(deck, studies=(other, *deck.studies[1:])).deck != deck.deck


def content_of(page):
    (found,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    return json.loads(found)


def test_the_page_holds_what_was_sent_and_nothing_can_be_loaded(deck):
    page = duel_html(deck)
    content = content_of(page)
    assert content == json.loads(json.dumps(payload(deck)))
    assert "synthetic" in content["synthetic"]
    assert "default-src 'none'" in page and "connect-src 'none'" in page
    first = content["studies"][0]
    assert [card["sources"] for card in first["cards"]] == [
        ["copied"],
        ["model", "constant"],
        ["reference"],
    ]
    assert first["cards"][0]["scores"]["finding-F1"] is None  # NaN is no JSON
    script = page[page.index('<script type="module">') :]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    real = content_of(duel_html(dataclasses.replace(deck, synthetic=False)))
    assert real["synthetic"] == ""


def test_readers_without_a_script_see_no_names(deck):
    page = duel_html(deck)
    plain = page[page.index("<noscript>") : page.index("</noscript>")]
    assert WRITTEN["model"]["s2"] in plain and "Study 2, report 4" in plain
    assert not any(title in plain for title in TITLES.values())


def test_rules_touch_no_other_figure():
    heads = [line.split("{")[0] for line in FRONT.rules.splitlines() if "{" in line]
    assert heads and all(".r2g-duel" in head or head.startswith("@") for head in heads)


def test_hostile_texts_stay_texts(deck):
    titles = dict.fromkeys(TITLES, HOSTILE)
    hostile = made_deck(titles=titles, title=HOSTILE, notes=(HOSTILE,))
    page = duel_html(hostile)
    assert "alert(1)</script>" not in page and page.count("<script") == 2
    assert content_of(page)["sources"][0]["title"] == HOSTILE


def test_a_page_needs_no_torch():
    code = "import sys, r2genkit.viz.widgets.duel; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_widget_tells_ballots(deck, monkeypatch):
    class AnyWidget:
        def __init__(self, **traits):
            self.traits = traits

    monkeypatch.setitem(sys.modules, "anywidget", SimpleNamespace(AnyWidget=AnyWidget))
    widget = duel_widget(deck)
    assert widget.traits == {"data": payload(deck), "answers": False}
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(KitError, match=r"pip install 'r2genkit\[widgets\]'"):
        duel_widget(deck)


# --- figures ------------------------------------------------------------------------------------


def texts_of(figure):
    inside = [text for axis in figure.axes for text in [axis.title, *axis.texts]]
    return [text.get_text() for text in [*inside, *figure.texts]]


def test_figure_shows_every_report_with_its_scores(tmp_path):
    titles = TITLES | {"model": "A model of $50"}  # no formula
    figure = duel_figure(made_deck(titles=titles), 2)
    told = texts_of(figure)
    assert "s1 (normal)" in told and "s2 (abnormal)" in told and "s3 (abnormal)" not in told
    for title in titles.values():
        assert told.count(title) == 2
    assert "effusion+" in told and "effusion\N{MINUS SIGN}" in told
    deck = made_deck()
    report = deck.studies[1].reports["model"]
    assert any(f"BLEU-4 {report.scores['BLEU-4']:.3f}" in text for text in told)
    assert any("states 1 of 1 findings, invents 0" in text for text in told)
    assert any("no finding to state" in text for text in told)
    assert "synthetic phantom images, real report text" in told
    assert len(figure.axes) == 4  # two views of two studies
    figure.savefig(tmp_path / "figure.png")
    assert not plt.get_fignums()
    with pytest.raises(KitError, match="limit is 0"):
        duel_figure(deck, 0)


@pytest.mark.parametrize("words", [0, 9, 40])
def test_no_word_leaves_the_figure(words):
    long = {key: " ".join([title, *["very"] * words]) for key, title in TITLES.items()}
    deck = made_deck(titles=long, title=" ".join(["long"] * 6 * words))
    shows = tuple(f"finding {number}, left, base, mild" for number in range(words))
    studies = [dataclasses.replace(study, shows=shows) for study in deck.studies]
    figure = duel_figure(dataclasses.replace(deck, studies=tuple(studies)), 5)
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1 and box.x1 <= width + 1, text.get_text()
        assert box.y0 >= -1 and box.y1 <= height + 1, text.get_text()


def test_scores_figure_has_the_deck_and_the_whole_set(deck):
    part = dataclasses.replace(deck, studies=deck.studies[1:4])
    figure = duel_scores_figure(part)
    assert [axis.get_title() for axis in figure.axes] == list(METRICS)
    reports = [study.reports["model"] for study in part.studies]
    for axis, name in zip(figure.axes, METRICS):
        drawn = [np.asarray(line.get_xdata()) for line in axis.lines]
        points = [values.item() for values in drawn if values.size == 1]
        assert corpus_scores(reports)[name] in points
        assert deck.source("model").whole[name] in points
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["A model", "The constant", "A copied report"]  # not the reference


def test_figure_of_the_votes_of_metrics():
    lines = [
        {"metric": metric, "report of": name, "share": share, "low": share - 0.1, "high": share}
        for metric in ("BLEU-4", "finding-F1")
        for name, share in (("A", 0.4), ("B", 0.6))
    ]
    ends = {"share": [0.7, 0.2], "low": [0.6, 0.1], "high": [0.8, 0.3]}
    blind = pd.DataFrame({"metric": ["BLEU-4", "finding-F1"], **ends})
    figure = metric_votes_figure(pd.DataFrame(lines), blind, synthetic=True)
    one, two = figure.axes
    assert [text.get_text() for text in one.get_yticklabels()] == [
        "BLEU-4 votes",
        "finding-F1 votes",
    ]
    assert np.allclose(two.lines[0].get_xdata(), [0.7, 0.2])
    assert {line.get_label() for line in one.lines} == {"A", "B"}
    assert any("synthetic" in text for text in texts_of(figure))
    with pytest.raises(KitError, match="no votes of metrics"):
        metric_votes_figure(pd.DataFrame(), blind, synthetic=False)


def test_an_empty_report_is_said_to_be_empty(deck):
    assert "(empty report)" in texts_of(duel_figure(deck, 3))
    assert isinstance(deck.studies[2].reports["copied"], DuelReport)
    assert deck.studies[2].reports["copied"].words == ()
