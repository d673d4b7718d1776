"""The playground: edits do what their names say, the callback scores what is typed."""

import math
import sys
from types import SimpleNamespace

import pytest
from matplotlib import pyplot as plt

from r2genkit.errors import KitError
from r2genkit.metrics import METRICS, score_nlg
from r2genkit.metrics.findings import default_labeler
from r2genkit.text import clean_report
from r2genkit.viz import playground as viz

REPORT = (
    "The heart is enlarged. There is a small right pleural effusion. No pneumothorax. "
    "The left lung is clear without focal opacity."
)
OTHERS = ("the lungs are clear .", "heart size is normal . no effusion .", "no pneumothorax .")


def positives(text):
    labels = default_labeler().label(text)
    return {name for name, polarity in labels.items() if polarity == "positive"}


def test_edits_change_meaning_as_their_names_say():
    texts = viz.edited(REPORT)
    assert list(texts) == list(viz.EDITS)  # this report is touched by every edit
    assert texts["copy"] == clean_report(REPORT)
    true = positives(REPORT)
    for name in ("sentences shuffled", "other wording", "left and right swapped"):
        assert positives(texts[name]) == true, name
        assert texts[name] != texts["copy"]
    assert sorted(texts["sentences shuffled"].split()) == sorted(texts["copy"].split())
    assert viz.swap_sides(texts["left and right swapped"]) == texts["copy"]
    assert positives(texts['"no" dropped']) > true
    assert positives(texts["findings left out"]) == set()
    assert positives(texts["constant normal report"]) == set()


def test_an_edit_that_changes_nothing_is_left_out():
    assert "left and right swapped" not in viz.edited("Lungs are clear.")
    with pytest.raises(KitError, match="report is empty"):
        viz.edited("  ")


def test_two_sentences_never_keep_their_order_when_shuffled():
    for seed in range(6):
        assert viz.shuffle_sentences("a one . b two .", seed) == "b two . a one ."


def test_scores_are_those_of_the_package():
    game = viz.Playground(REPORT, OTHERS, meteor=False)
    table = game.score(viz.edited(REPORT))
    texts = viz.edited(REPORT)
    wanted = dict.fromkeys(texts, clean_report(REPORT))
    package = score_nlg(texts, wanted, meteor=False).per_study
    for metric in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert table[metric].tolist() == pytest.approx(package[metric].tolist())
    assert table.loc["copy", "CIDEr"] == pytest.approx(10)
    assert table.loc["copy", "finding-F1"] == 1
    assert table.loc["constant normal report", "finding-F1"] == 0
    assert table["METEOR"].isna().all()


def test_without_background_cider_has_no_value():
    table = viz.Playground(REPORT, meteor=False).score({"copy": REPORT})
    assert math.isnan(table.loc["copy", "CIDEr"])
    with pytest.raises(KitError, match="reference is empty"):
        viz.Playground(" ")


def test_figure_shows_every_value_and_leaves_out_empty_columns():
    table, figure = viz.playground(REPORT, REPORT, background=OTHERS, meteor=False)
    (axis,) = figure.axes
    columns = [tick.get_text() for tick in axis.get_xticklabels()]
    assert columns == [name for name in (*METRICS, "finding-F1") if name != "METEOR"]
    shown = [text.get_text() for text in axis.texts]
    assert shown == [f"{value:.2f}" for value in table[columns].to_numpy().ravel()]
    assert table["report"].iloc[0] == clean_report(REPORT)
    assert not plt.get_fignums()
    with pytest.raises(KitError, match="table of edits is empty"):
        viz.playground_figure(table.iloc[:0])


def test_callback_scores_the_typed_text_and_escapes_it():
    game = viz.Playground(REPORT, OTHERS, meteor=False)
    shown = game.update(REPORT)
    assert game.last.loc["your text", "BLEU-4"] == pytest.approx(1)
    assert "1.000" in shown and "effusion" in shown
    assert "<script" not in game.update("<script>no effusion</script>")
    assert "0.000" in game.update("")  # an emptied box is no error


class _Widget:
    def __init__(self, value="", **options):
        self.value, self.options, self.callback = value, options, None

    def observe(self, callback, names):
        assert names == "value"
        self.callback = callback


@pytest.fixture
def widgets(monkeypatch):
    """Stands in for ipywidgets: the kit does not need it to be installed."""
    module = SimpleNamespace(
        Textarea=_Widget, HTML=_Widget, VBox=lambda children: children, Layout=dict
    )
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    return module


def test_text_box_follows_what_is_typed(widgets):
    shown = []
    viz.playground(
        REPORT, REPORT, background=OTHERS, meteor=False, interactive=True, show=shown.append
    )
    ((area, scores),) = shown
    assert area.value == REPORT and area.options["continuous_update"] is False
    before = scores.value
    area.callback({"new": "no pneumothorax ."})
    assert scores.value != before and "nothing" in scores.value


def test_nothing_is_built_in_batch_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    viz.playground(REPORT, REPORT, meteor=False)
    with pytest.raises(KitError, match="pip install ipywidgets"):
        viz.playground(REPORT, REPORT, meteor=False, interactive=True, show=print)
    with pytest.raises(KitError, match="show=display"):
        viz.playground(REPORT, REPORT, meteor=False, interactive=True)
