"""Figures of notebook 02 show the numbers and texts they are given, all of them, nothing else."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import same_color

from r2genkit.corpora.r2gen import read_annotation
from r2genkit.errors import KitError
from r2genkit.metrics import score_nlg, truncated_references
from r2genkit.metrics.baselines import ConstantTemplate, MemorisationOracle, blind_baselines
from r2genkit.metrics.findings import Agreement, default_labeler, f1_from_counts
from r2genkit.metrics.nlg import METRICS, bleu_counts
from r2genkit.text import Vocabulary
from r2genkit.viz import metrics as viz

LINE = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


def _texts(axis):
    return [text.get_text() for text in axis.texts]


def _labels(ticks):
    return [tick.get_text() for tick in ticks]


@given(LINE, LINE)
def test_clipped_matches_add_up_to_bleu_counts(hypothesis, reference):
    counts = bleu_counts(hypothesis, reference)
    for order in range(1, 5):
        found = viz.clipped_matches(hypothesis, reference, order)
        assert len(found) == counts[1 + order]
        assert sum(found) == counts[5 + order]


def test_a_repeated_word_is_paid_as_often_as_the_reference_has_it():
    assert viz.clipped_matches("a b a a", "a c a", 1) == [True, False, True, False]


def test_match_figure_has_a_bar_per_ngram_and_blue_where_it_counts():
    hypothesis, reference = "no effusion . no effusion .", "no edema . no effusion ."
    (axis,) = viz.match_figure(hypothesis, reference).axes
    counts = bleu_counts(hypothesis, reference)
    assert len(axis.patches) == counts[2:6].sum()
    blue = [bar for bar in axis.patches if same_color(bar.get_facecolor(), viz.BLUE)]
    assert len(blue) == counts[6:10].sum()
    assert _labels(axis.get_xticklabels()) == hypothesis.split()
    assert reference in axis.get_title(loc="left")
    with pytest.raises(KitError, match="hypothesis is empty"):
        viz.match_figure(" ", reference)


def test_mentions_figure_marks_the_phrase_and_boxes_the_trigger():
    mentions = default_labeler().explain("No effusion. Possible mild edema. Heart is enlarged.")
    (axis,) = viz.mentions_figure(mentions).axes
    words = Counter(_texts(axis))
    for mention in mentions:
        assert words[f"{mention.finding}: {mention.polarity}"] == 1
    boxed = [text.get_text() for text in axis.texts if text.get_bbox_patch() is not None]
    assert boxed == ["no", "possible"]
    assert len(axis.lines) == len(mentions)
    bold = [text.get_text() for text in axis.texts if text.get_weight() == "bold"]
    assert bold == [word for mention in mentions for word in mention.phrase.split()]


def test_agreement_table_gives_precision_and_recall_of_each_named_class():
    counts = pd.DataFrame(
        {"coded": [4, 0, 9, 0], "labelled": [2, 1, 0, 0], "tp": [1, 0, 0, 0]},
        index=["nodule", "scar", "tube", "bulla"],
    )
    counts["fp"], counts["fn"] = counts["labelled"] - counts["tp"], counts["coded"] - counts["tp"]
    counts["f1"] = f1_from_counts(counts[["tp", "fp", "fn"]].to_numpy())
    table = viz.agreement_table(Agreement(20, 0.5, 0.5, 0.5, counts))
    assert list(table.index) == ["tube", "nodule", "scar"]  # commonest first, bulla never named
    assert table.loc["nodule", ["precision", "recall"]].tolist() == [0.5, 0.25]
    assert table.loc["nodule", "F1"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert np.isnan(table.loc["tube", "precision"]) and table.loc["tube", "recall"] == 0
    assert np.isnan(table.loc["scar", "recall"]) and table.loc["scar", "precision"] == 0


def test_mentions_figure_boxes_the_trigger_nearest_to_the_phrase():
    mentions = default_labeler().mentions_of_sentence("no pneumothorax and no effusion")
    (axis,) = viz.mentions_figure(mentions).axes
    boxed = [text for text in axis.texts if text.get_bbox_patch() is not None]
    assert len(boxed) == 2
    rows = {mention.finding: row for row, mention in enumerate(mentions)}
    place = {text.get_position()[1]: text.get_position()[0] for text in boxed}
    assert place[rows["pneumothorax"]] < place[rows["effusion"]]
    with pytest.raises(KitError, match="mentions no finding"):
        viz.mentions_figure([])


STEPS = pd.DataFrame({"sentence": ["a .", "b ."], "search": [0.1, 0.2], "test": [0.05, 0.15]})


def test_ladder_draws_every_score_and_the_full_search():
    figure = viz.ladder_figure(STEPS, full={"search": 0.3}, synthetic=True)
    (axis,) = figure.axes
    drawn = {line.get_label(): line for line in axis.lines}
    assert list(drawn["search"].get_xdata()) == [0.1, 0.2]
    assert list(drawn["test"].get_xdata()) == [0.05, 0.15]
    assert list(drawn["search, full search"].get_xdata()) == [0.3, 0.3]
    assert _labels(axis.get_yticklabels()) == ["1. a .", "2. b ."]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # first sentence on top
    assert "synthetic" in figure.get_supxlabel()
    real = viz.ladder_figure(STEPS, full={}, synthetic=False)
    assert real.get_supxlabel() == ""
    with pytest.raises(KitError, match="'sentence'"):
        viz.ladder_figure(STEPS.drop(columns="sentence"), full={}, synthetic=True)


def test_rules_figure_places_every_system_under_every_rule():
    table = pd.DataFrame({"x": [0.2, 0.1], "y": [0.3, 0.4]}, index=["with stops", "without"])
    (axis,) = viz.rules_figure(table, "BLEU-4", synthetic=False).axes
    for points, (name, values) in zip(axis.collections, table.items(), strict=True):
        assert points.get_label() == name
        np.testing.assert_array_equal(points.get_offsets(), [*zip(values, (0, 1))])
    assert _labels(axis.get_yticklabels()) == list(table.index)
    assert [line.get_xdata()[0] for line in axis.lines] == [0.2, 0.3]  # the first rule
    with pytest.raises(KitError, match="empty"):
        viz.rules_figure(table.iloc[:0], "BLEU-4", synthetic=False)


def test_width_figure_marks_sizes_and_the_gap():
    widths = pd.DataFrame({"one": [0.04, 0.01], "pair": [0.03, 0.008]}, index=[20, 500])
    figure = viz.width_figure(widths, sizes={"R2Gen": 590}, gap=("gap", 0.005), synthetic=False)
    (axis,) = figure.axes
    drawn = {line.get_label(): line for line in axis.lines}
    for name in widths:
        assert list(drawn[name].get_xdata()) == [20, 500]
        assert list(drawn[name].get_ydata()) == list(widths[name])
    assert axis.get_ylim()[0] < 0.005
    assert {"gap", "R2Gen (590)"} == set(_texts(axis))
    assert any(list(line.get_xdata()) == [590, 590] for line in axis.lines)
    assert any(list(line.get_ydata()) == [0.005, 0.005] for line in axis.lines)
    with pytest.raises(KitError, match="empty"):
        viz.width_figure(widths.iloc[:0], sizes={}, gap=("gap", 0.1), synthetic=False)


def test_published_figure_keeps_ours_and_published_apart():
    ours = pd.DataFrame({"BLEU-4": [0.2], "BLEU-4 low": [0.18], "BLEU-4 high": [0.22]}, ["blind"])
    published = pd.DataFrame({"system": ["A", "B"], "BLEU-4": [0.1, np.nan]})
    (axis,) = viz.published_figure(ours, published, ("BLEU-4",)).axes
    assert _labels(axis.get_yticklabels()) == ["blind", "A", "B"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    diamonds = [line for line in axis.lines if line.get_marker() == "D"]
    assert [list(line.get_xdata()) for line in dots] == [[0.2]]
    np.testing.assert_array_equal(diamonds[0].get_xdata(), [0.1, np.nan])
    assert list(diamonds[0].get_ydata()) == [1, 2]
    assert any(list(line.get_xdata()) == [0.18, 0.22] for line in axis.lines)
    with pytest.raises(KitError, match="lacks the column 'METEOR'"):
        viz.published_figure(ours, published)
    with pytest.raises(KitError, match="published scores is empty"):
        viz.published_figure(ours, published.iloc[:0], ("BLEU-4",))


def test_figures_stay_out_of_pyplot():
    before = plt.get_fignums()
    viz.match_figure("a b", "a")
    viz.ladder_figure(STEPS, full={}, synthetic=True)
    assert plt.get_fignums() == before


def test_recorded_baselines_hold_their_own_intervals():
    table = viz.RECORDED_BASELINES
    assert list(table.columns[::3]) == list(METRICS)
    for metric in METRICS:
        assert (table[f"{metric} low"] <= table[metric]).all()
        assert (table[metric] <= table[f"{metric} high"]).all()


@pytest.fixture(scope="module")
def r2gen():
    folder = os.environ.get("R2GENKIT_DATA")
    if not folder or not (Path(folder) / "annotation.json").is_file():
        pytest.skip("needs R2Gen's annotation.json in the folder named by R2GENKIT_DATA")
    entries = read_annotation(Path(folder) / "annotation.json")
    parts = [{e["id"]: e["report"] for e in entries[key]} for key in ("train", "val", "test")]
    vocabulary = Vocabulary.build(parts[0].values(), compat="r2gen")
    return [truncated_references(part, vocabulary) for part in parts]


def _compare(name, baseline, parts):
    train, validation, test = parts
    found = score_nlg(baseline.fit(train, validation).predict(test), test, meteor=False).corpus
    for metric in METRICS:
        if metric != "METEOR":
            recorded = viz.RECORDED_BASELINES.loc[name, metric]
            assert found[metric] == pytest.approx(recorded, abs=6e-5), (name, metric)


@pytest.mark.data
def test_recorded_baselines_are_what_the_kit_counts(r2gen):
    for baseline, name in zip(blind_baselines(0)[:3], viz.RECORDED_BASELINES.index):
        _compare(name, baseline, r2gen)


@pytest.mark.data
@pytest.mark.slow
def test_recorded_constant_is_what_the_kit_finds(r2gen):
    constant = ConstantTemplate(0)
    _compare("constant template", constant, r2gen)
    _compare("memorisation oracle", MemorisationOracle(r2gen[2], constant), r2gen)
