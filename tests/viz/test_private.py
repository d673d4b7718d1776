"""The gallery page and the figures of private sets."""

import numpy as np
import pandas as pd
import pytest

from r2genkit.errors import KitError
from r2genkit.metrics.uncertainty import Difference
from r2genkit.viz.private import Card, distance_figure, gallery_figure, gallery_html, gap_figure

GREY = np.full((32, 32), 90, np.uint8)
CARDS = [
    Card("p1", ["frontal", "lateral"], [GREY, GREY], "heart enlarged .", "mild cardiomegaly ."),
    Card("p2", ["frontal"], [GREY], "no effusion .", None, "study p2 is unlike the others"),
]


def test_page_needs_nothing_and_runs_nothing():
    page = gallery_html(CARDS, title="A system")
    assert page.count("data:image/png;base64,") == 3
    for forbidden in ("<script", "http:", "https:", "url(", "@import", 'src="/'):
        assert forbidden not in page
    assert "default-src 'none'" in page
    assert page.count('class="card') == 2 and page.count("card far") == 1
    assert "study p2 is unlike the others" in page


def test_findings_are_marked_by_polarity_and_compared():
    page = gallery_html(CARDS, title="A system")
    assert 'class="m positive"' in page and 'class="m negative"' in page
    assert "Hits (1): enlarged heart" in page and "(none)" in page


def test_every_text_is_escaped():
    evil = "<script>alert(1)</script>"
    card = Card(evil, [evil], [GREY], evil, evil, evil)
    table = pd.DataFrame({evil: [evil]})
    page = gallery_html([card], title=evil, notes=[evil], tables={evil: table})
    assert "<script" not in page and "&lt;script" in page


def test_static_twin_shows_views_texts_and_findings():
    figure = gallery_figure(CARDS, synthetic=True)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert "+ enlarged heart" in texts and "(none)" in texts
    assert any("unlike" in text for text in texts) and "no second view" in texts
    assert sum(len(axis.images) for axis in figure.axes) == 3
    assert "synthetic" in figure._supxlabel.get_text()


def test_gap_figure_fills_what_differs():
    def d(value, low, high):
        return {"BLEU-4": Difference("BLEU-4", value, low, high)}

    changes = {"model": {"film": d(-0.05, -0.08, -0.02), "style": d(-0.01, -0.03, 0.01)}}
    (axis,) = gap_figure(changes, ("BLEU-4",), synthetic=False).axes
    points = [line for line in axis.lines if line.get_marker() == "o"]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["film", "style"]


def test_distance_figure_says_the_share_beyond_the_limit():
    groups = {"test": np.array([[1.0, 2.0], [9.0, np.nan]])}
    first, second = distance_figure(groups, np.array([5.0, 5.0]), synthetic=False).axes
    assert "50 %" in [text.get_text() for text in first.texts]
    assert "0 %" in [text.get_text() for text in second.texts]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: gallery_html([], title=""),
        lambda: gallery_figure([], synthetic=True),
        lambda: gap_figure({}, ("BLEU-4",), synthetic=True),
        lambda: distance_figure({}, np.ones(2), synthetic=True),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(KitError):
        draw()
