"""Figures of faithfulness show the numbers that they are given."""

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.experiments.faithfulness import WHERE, WHOLE, FaithfulnessRow
from r2genkit.viz.faithfulness import curves_figure, depends_figure, maps_figure


def row(kind, value, title="A model with a rather long name", **changes):
    names = WHOLE if kind == "model" else WHERE
    scores = {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name in names}
    content = {
        "run": "07_cmn",
        "title": title,
        "order": 1,
        "map": kind,
        "place": 0,
        "corpus": "phantom",
        "synthetic": True,
        "protocol": "grouped",
        "profile": "lab",
        "seed": 0,
        "units": 3,
        "studies": 2,
        "recipe_hash": "-",
        "code_hash": "-",
        "split_fingerprint": "-",
        "digest": "0" * 16,
        "scores": scores,
        "command": "-",
        "git_revision": "-",
        "date": "-",
    }
    return FaithfulnessRow.model_validate(content | changes)


def test_every_map_has_a_mark_with_its_interval_in_every_panel():
    figure = maps_figure([row("attention", 0.4), row("random", 0.2), row("model", 0.9)])
    assert len(figure.axes) == 4
    for axis in figure.axes:
        drawn = [np.asarray(line.get_xdata(), float) for line in axis.lines]
        assert any(np.allclose(x, [0.35, 0.45]) for x in drawn)
        assert any(x.shape == (1,) and np.isclose(x[0], 0.2) for x in drawn)
        assert not any(np.isclose(x, 0.9).any() for x in drawn)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["attention", "random"]


def test_bars_of_what_words_depend_on():
    missing = {**row("model", 0.3).scores, "without tag": {"value": None, "reason": "no tags"}}
    figure = depends_figure([row("model", 0.7), row("model", 0.3, title="B", scores=missing)])
    widths = sorted(round(bar.get_width(), 3) for bar in figure.axes[0].patches)
    assert widths == [0.3, 0.3, 0.7, 0.7, 0.7]


def test_curves_are_means_over_words():
    values = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    figure = curves_figure(
        {"deletion": {"attention": values}, "insertion": {"attention": values[:1]}}, synthetic=True
    )
    first, second = (axis.lines[0].get_ydata() for axis in figure.axes)
    assert np.allclose(first, 0.5) and np.allclose(second, [1, 0.5, 0])


def test_nothing_to_draw():
    for draw, given in ((maps_figure, [row("model", 0.5)]), (depends_figure, [])):
        with pytest.raises(KitError, match="to draw"):
            draw(given)
    with pytest.raises(KitError, match="no curve"):
        curves_figure({"deletion": {}}, synthetic=True)
