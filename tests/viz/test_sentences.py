"""Figures on sentences: counts, stop decisions, attention per sentence."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from r2genkit.batches import SentenceLayout, collate
from r2genkit.decoding import DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.study import Hypothesis
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.viz.sentences import (
    repeated_percent,
    sentence_attention_figure,
    sentence_count_figure,
    sentence_counts,
    sentence_rows,
    stop_decisions,
    stop_figure,
    stop_table,
)

REPORTS = ["a b . c .", "a b . a b . a b . d", ""]


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def test_sentences_are_counted():
    assert sentence_counts(REPORTS).tolist() == [2, 4, 0]
    assert repeated_percent(REPORTS) == pytest.approx(100 * 2 / 6)
    assert np.isnan(repeated_percent([""]))


def test_bars_are_shares_of_reports():
    figure = sentence_count_figure(
        {"reference": ["a .", "a . b .", "a . b ."], "model": ["a ."]}, synthetic=True, limit=2
    )
    axis = figure.axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    np.testing.assert_allclose(heights, [[0, 100 / 3, 200 / 3], [0, 100, 0]])
    assert "synthetic" in texts(figure) and "reference (mean 1.7)" in texts(figure)
    assert "synthetic" not in texts(sentence_count_figure({"reference": ["a ."]}, synthetic=False))


def test_stop_table_by_hand():
    chances = np.array([[0.1, 0.9, np.nan], [0.3, 0.5, 0.8], [0.6, np.nan, np.nan]])
    stops = np.array([[0, 1, -1], [0, 0, 1], [1, -1, -1]])
    table = stop_table(chances, stops)
    assert table.index.tolist() == [1, 2, 3]
    assert table["reports"].tolist() == [3, 2, 1]
    np.testing.assert_allclose(table["share"], [1 / 3, 1 / 2, 1])
    np.testing.assert_allclose(table["mean"], [1 / 3, 0.7, 0.8])
    np.testing.assert_allclose(table["ending"], [0.6, 0.9, 0.8])
    np.testing.assert_allclose(table["going on"], [0.2, 0.5, np.nan])


def test_places_where_nothing_is_decided_are_left_out():
    table = stop_table(np.array([[0.2, np.nan]]), np.array([[0, -1]]))
    assert table.index.tolist() == [1]
    figure = stop_figure({"one": (np.array([[0.2, np.nan]]), np.array([[0, -1]]))}, synthetic=True)
    assert "one" in texts(figure) and "1\n(1)" in texts(figure) and "synthetic" in texts(figure)
    figure.canvas.draw()


def model_and_batch():
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 7, "feature_dim": 6, "full_stop": 1}
    settings = {"embedding_size": 5, "hidden_size": 6, "sentences": 4, "words": 5, "dropout": 0.5}
    model = build_model("hier_rnn", settings, **sizes, seed=0)
    batch = collate(
        ["a", "b"],
        torch.tensor([[True, True], [True, False]]),
        features=torch.randn(2, 2, 4, 6),
        tokens=[[0, 3, 1, 4, 5, 1, 0], [0, 3, 1, 0]],
        layout=SentenceLayout(1, 4, 5),
    )
    return model, batch


def test_decisions_are_the_models_own():
    model, batch = model_and_batch()
    chances, stops = stop_decisions(model, [batch, batch])
    assert chances.shape == stops.shape == (4, 4) and model.training
    assert stops[:2].tolist() == [[0, 1, -1, -1], [1, -1, -1, -1]]
    np.testing.assert_array_equal(np.isnan(chances), stops < 0)
    with torch.no_grad():
        want = model.eval().unroll(batch).stop.sigmoid()
    np.testing.assert_allclose(chances[0, :2], want[0, :2])
    np.testing.assert_allclose(chances[3, 0], want[1, 0])


def test_a_written_report_falls_into_its_sentences():
    model, batch = model_and_batch()
    vocabulary = Vocabulary((".", "<unk>", "big", "clear", "heart", "is"))
    config = DecodingConfig(max_length=20)
    for (hypothesis,) in decode(model, batch, config, vocabulary, trace=True):
        sentences, rows = sentence_rows(hypothesis)
        assert " . ".join(sentences) == hypothesis.text.removesuffix(" .")
        assert set(rows) == set(hypothesis.trace) - {"sentence"}
    with pytest.raises(KitError, match="no trace of sentences"):
        sentence_rows(Hypothesis("a", "heart .", (3, 1), 0.0, {}))


def test_rows_of_a_trace_are_taken_at_the_first_word():
    attention = np.arange(5 * 2).reshape(5, 1, 2)
    trace = {"sentence": np.array([0, 0, 0, 1, 1]), "attention": attention}
    hypothesis = Hypothesis("a", "heart big . clear .", (3, 5, 1, 6, 1), 0.0, trace)
    sentences, rows = sentence_rows(hypothesis)
    assert sentences == ["heart big", "clear"]
    np.testing.assert_array_equal(rows["attention"], attention[[0, 3]])


def test_heat_stands_where_attention_exceeds_the_uniform_weight():
    images = np.random.default_rng(0).random((2, 32, 32))
    uniform = np.full((2, 16), 1 / 32)
    pointed = np.zeros((2, 16))
    pointed[1, 6] = 1.0  # second view, second row, third column of a 4 x 4 grid
    figure = sentence_attention_figure(
        images,
        np.stack([uniform, pointed]),
        ["costs $5", "heart is big"],
        notes=["none", "cardiomegaly .90"],
        synthetic=True,
    )
    first, second = (figure.axes[i].images[1].get_alpha() for i in (1, 2))
    assert not first.any()
    assert np.unravel_index(second.argmax(), second.shape)[0] in range(8, 16)
    assert second[:, :32].max() == 0 and second[8:16, 32 + 16 : 32 + 24].max() > 0
    shown = texts(figure)
    assert "1. costs \\$5\nfrontal 50% | lateral 50%\nnone" in shown
    assert "2. heart is big\nfrontal 0% | lateral 100%\ncardiomegaly .90" in shown
    assert "synthetic" in shown
    figure.canvas.draw()


def test_one_view_is_shown_alone():
    attention = np.full((1, 2, 16), 0.0)
    attention[:, 0] = 1 / 16
    figure = sentence_attention_figure(np.zeros((1, 8, 8)), attention, ["heart"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["view 1", "1. heart"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": []}, "0 sentences"),
        ({"sentences": ["a", "b"]}, "2 sentences"),
        ({"notes": ["a", "b"]}, "2 notes"),
        ({"grid": (3, 3)}, "no 3 x 3 grid"),
        ({"images": np.zeros((1, 8, 8))}, "do not belong together"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        "images": np.zeros((2, 8, 8)),
        "attention": np.full((1, 2, 16), 1 / 32),
        "sentences": ["a"],
        **change,
    }
    with pytest.raises(KitError, match=message):
        sentence_attention_figure(**given)
