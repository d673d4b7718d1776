"""Figures of retrieval on numbers made by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from r2genkit.errors import KitError
from r2genkit.metrics.findings import default_labeler
from r2genkit.study import Hypothesis
from r2genkit.viz import retrieval as viz


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_quality_has_one_line_per_query():
    table = pd.DataFrame(
        [
            {"query": query, "K": k, "F1": 0.1 * k, "any": 0.15 * k}
            for query in ("image", "findings", "any report")
            for k in (1, 5)
        ]
    )
    figure = viz.quality_figure(table, synthetic=True)
    assert [len(axis.lines) for axis in figure.axes] == [3, 3]
    assert figure.axes[1].lines[0].get_ydata().tolist() == pytest.approx([0.15, 0.75])
    assert figure.texts[-1].get_text() == "synthetic phantom images"
    with pytest.raises(KitError, match="lacks K"):
        viz.quality_figure(table.drop(columns="K"), synthetic=True)
    plt.close("all")


def test_sentences_are_green_red_or_grey():
    labeler = default_labeler()
    report = (
        "there is a small pleural effusion . the heart is enlarged . bony structures are intact ."
    )
    own = {"effusion"}
    assert "effusion" in labeler.findings and "cardiomegaly" in labeler.findings
    colours = [colour for _, colour in viz.coloured_sentences(report, own, labeler)]
    assert colours == [viz.RIGHT, viz.WRONG, viz.NEUTRAL]
    assert viz.coloured_sentences("", own, labeler) == []


def test_the_gallery_shows_every_report_of_every_study():
    image = np.full((20, 20), 128, np.uint8)
    reports = [("reference", "the heart is enlarged ."), ("written", "lungs are clear .")]
    cards = [
        viz.Retrieved([image, image], "one", {"cardiomegaly"}, reports),
        viz.Retrieved([image], "two", set(), reports[:1]),
    ]
    figure = viz.gallery_figure(cards, default_labeler(), synthetic=False)
    shown = texts(figure)
    assert shown.count("reference") == 2 and shown.count("the heart is enlarged.") == 2
    colours = [t.get_color() for a in figure.axes for t in a.texts if "enlarged" in t.get_text()]
    assert colours == [viz.RIGHT, viz.WRONG]
    with pytest.raises(KitError, match="at least one"):
        viz.gallery_figure([], default_labeler(), synthetic=False)
    plt.close("all")


def written(words, share):
    """Two neighbours share ``share[t]`` evenly; the rest goes to three of four patches."""
    share = np.asarray(share)[:, None]
    attention = np.zeros((len(words), 2, 2))
    attention.reshape(len(words), 4)[:, :3] = (1 - share) / 3
    trace = {"neighbours": np.repeat(share / 2, 2, 1), "attention": attention}
    return Hypothesis("s", " ".join(words), tuple(range(1, len(words) + 1)), trace=trace)


def test_shares_by_rank_word_and_kind_of_sentence():
    words = ["heart", "is", "enlarged", ".", "lungs", "are", "clear", "."]
    hypothesis = written(words, [0.4] * 4 + [0.2] * 4)
    shares = viz.neighbour_shares([hypothesis], default_labeler(), least=1)
    np.testing.assert_allclose(shares.ranks, [0.15, 0.15])
    assert shares.chance == pytest.approx(1 / 5)  # three patches and two neighbours are read
    assert shares.stating == pytest.approx(0.4) and shares.others == pytest.approx(0.2)
    assert dict(shares.words)["."] == pytest.approx(0.3)
    assert shares.words[0][0] == "enlarged" and shares.words[-1][1] == pytest.approx(0.2)
    assert viz.neighbour_shares([hypothesis], default_labeler(), least=2).words == [
        (".", pytest.approx(0.3))
    ]
    figure = viz.share_figure(shares, synthetic=True)
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([15, 15])
    with pytest.raises(KitError, match="no report has a trace"):
        viz.neighbour_shares([Hypothesis("s", "clear", (1,))], default_labeler())
    plt.close("all")


def test_the_shift_has_a_panel_per_kind_and_a_point_per_index():
    values = {"studies": 9, "recall": 0.5, "low": 0.2, "high": 0.8}
    kinds = (("copied", ("full index", "finding taken out")), ("written", tuple(viz.INDEX)))
    lines = [
        {"finding": finding, "reports": kind, "index": index, **values}
        for finding in ("effusion", "scar")
        for kind, indices in kinds
        for index in indices
    ]
    figure = viz.shift_figure(pd.DataFrame(lines), synthetic=True)
    assert [len(axis.containers) for axis in figure.axes] == [2, 3]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["scar (9)", "effusion (9)"]
    with pytest.raises(KitError, match="holds no finding"):
        viz.shift_figure(pd.DataFrame(lines)[:0], synthetic=True)
    plt.close("all")
