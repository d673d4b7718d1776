"""Figures of training by rewards show what they are given."""

import json

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from r2genkit.errors import KitError
from r2genkit.metrics.uncertainty import Difference
from r2genkit.viz.scst import (
    moved_by_reward_figure,
    phases_figure,
    read_steps,
    smoothed,
    spread_figure,
)


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_spread_figure_has_a_histogram_per_estimator_around_the_exact_value():
    estimates = {"plain": np.array([-1.0, 1.0]), "with baseline": np.array([0.4, 0.6])}
    figure = spread_figure(estimates, 0.5, "gradient")
    shown = texts(figure)
    assert {"plain: SD 1", "with baseline: SD 0.1", "gradient"} <= set(shown)
    for axis in figure.axes:
        assert sum(patch.get_height() for patch in axis.patches) == 2
        assert axis.lines[0].get_xdata() == [0.5, 0.5]
    with pytest.raises(KitError, match="no estimates"):
        spread_figure({}, 0.0, "x")


def test_smoothed_is_a_running_mean():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_phases_meet_where_the_second_began():
    first = [
        {
            "epoch": e,
            "step": 10 * e,
            "train": {"token_ce": 3.0 - e},
            "validation": {"CIDEr": e / 10},
        }
        for e in (1, 2, 3)
    ]
    second = {
        "CIDEr-D": [
            {"epoch": 0, "step": 0, "train": {}, "validation": {"CIDEr": 0.2}},
            {"epoch": 1, "step": 5, "train": {"loss": 0.0}, "validation": {"CIDEr": 0.4}},
        ]
    }
    steps = {"CIDEr-D": [{"step": s, "reward": 2.0 * s} for s in (1, 2, 3)]}
    figure = phases_figure(
        first, second, steps, loss="token_ce", scores=["CIDEr"], start=2, synthetic=True
    )
    losses, rewards, score = figure.axes
    assert losses.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.0]
    assert rewards.lines[1].get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert score.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert score.lines[1].get_xdata().tolist() == [20, 25]
    assert score.lines[1].get_ydata().tolist() == [0.2, 0.4]
    assert {"synthetic phantom images", "cross-entropy", "CIDEr-D"} <= set(texts(figure))
    with pytest.raises(KitError, match="no epoch 7"):
        phases_figure(first, {}, {}, loss="token_ce", scores=[], start=7, synthetic=False)


def test_what_a_reward_moved_is_coloured_by_its_verdict():
    found = {
        "up": Difference("CIDEr", 0.2, 0.1, 0.3),
        "down": Difference("CIDEr", -0.2, -0.3, -0.1),
        "neither": Difference("CIDEr", 0.0, -0.1, 0.1),
    }
    differences = {title: {"CIDEr": d} for title, d in found.items()}
    figure = moved_by_reward_figure(
        differences, ["CIDEr"], against="the first phase", synthetic=False
    )
    (axis,) = figure.axes
    points = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in points] == [0.2, -0.2, 0.0]
    assert [to_hex(line.get_color()) for line in points] == ["#1a9850", "#d73027", "#8c8c8c"]
    assert "minus the first phase, with 95 % interval" in texts(figure)
    with pytest.raises(KitError, match="up has no difference in BLEU-4"):
        moved_by_reward_figure(differences, ["BLEU-4"], against="x", synthetic=False)
    with pytest.raises(KitError, match="at least one run"):
        moved_by_reward_figure({}, ["CIDEr"], against="x", synthetic=False)


def test_steps_are_read_from_the_run(tmp_path):
    with pytest.raises(KitError, match="log_every"):
        read_steps(tmp_path)
    rows = [{"step": 5, "reward": 0.5}, {"step": 10, "reward": 0.75}]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_steps(tmp_path) == rows
